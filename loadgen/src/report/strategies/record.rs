//! What `loadgen strategies` measured, as it stands in `raw.json`.
//!
//! Invariant: nothing in the report comes from elsewhere. `summary` tells it, `charts` draws it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::super::Error;
use super::super::record::{self, Absent, Kind, Latency, Machine, Outcome, Settings};
use super::super::statistics::Spread;
use crate::run::{Affinity, GeneratorHealth};

/// The version of the format.
const FORMAT: u32 = 1;

/// Some schedulers under some workloads.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Strategies {
    /// Version of this format.
    pub format: u32,
    /// Always [`Kind::Strategies`].
    pub kind: Kind,
    /// When it began, UTC, as `2026-01-31T12:00:00Z`.
    pub started: String,
    /// The command line that was typed.
    pub command: String,
    /// Where it ran.
    pub machine: Machine,
    /// How long, and on which cores.
    pub settings: Settings,
    /// What `lb` says of its version.
    pub balancer_version: String,
    /// Origins that a workload begins with.
    pub origins: usize,
    /// Workers of the balancer.
    pub workers: usize,
    /// The workloads, in the order of the report.
    pub workloads: Vec<Workload>,
    /// Schedulers that `lb` does not have, with what it said.
    pub refused: Vec<Absent>,
    /// Whether it was interrupted: what had been measured by then is here, the rest is not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_partial: bool,
    /// One scheduler under one workload each.
    pub cells: Vec<Cell>,
    /// What becomes of clients when backends change.
    pub keys: Vec<KeysCell>,
}

/// One workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// As on the command line.
    pub name: String,
    /// What happens in it.
    pub description: String,
    /// The origin that is unlike the others, if one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub odd_origin: Option<String>,
}

/// A scheduler, and where it was measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Where.
    #[serde(flatten)]
    pub ground: Ground,
    /// The scheduler.
    pub balance: String,
}

/// How the balancer worked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ground {
    /// `http` or `tcp`.
    pub mode: String,
    /// The balancer's engine.
    pub engine: String,
    /// How it relays TCP, where that was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<String>,
}

impl fmt::Display for Ground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.mode, self.engine)?;
        match &self.relay {
            Some(relay) => write!(f, ", {relay}"),
            None => Ok(()),
        }
    }
}

/// One scheduler under one workload.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cell {
    /// The workload's name.
    pub workload: String,
    /// Who was measured.
    #[serde(flatten)]
    pub place: Place,
    /// How the load was made.
    pub load_command: String,
    /// What came out: the medians of its rounds.
    #[serde(flatten)]
    pub outcome: Outcome<Figures>,
    /// The rounds, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rounds: Vec<Outcome<Figures>>,
}

/// What a scheduler did under a workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Requests answered correctly.
    pub completed: u64,
    /// The same for each second of the window.
    pub per_s: f64,
    /// Requests that were due.
    pub due: u64,
    /// Failed requests by kind; kinds that did not occur are left out.
    pub errors: BTreeMap<String, u64>,
    /// Requests that were due and never sent or answered.
    pub unanswered: u64,
    /// CPU time of the balancer for each completed request, in microseconds.
    pub cpu_us: f64,
    /// From the moment at which a request was due, in microseconds.
    pub latency: Latency,
    /// Correct answers by origin; those that gave none too.
    pub shares: BTreeMap<String, u64>,
    /// The busiest origin against the mean.
    pub max_over_mean: f64,
    /// Pearson's χ² against an even spread.
    pub chi_square: f64,
    /// Whether clients stayed with their origins.
    pub affinity: Option<Affinity>,
    /// Whether the generator was the bottleneck.
    pub generator: GeneratorHealth,
}

/// What becomes of clients with one scheduler.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeysCell {
    /// Who was measured.
    #[serde(flatten)]
    pub place: Place,
    /// What came out.
    #[serde(flatten)]
    pub outcome: Outcome<Keys>,
}

/// Clients (each an address of its own, one request at a time) whose origin changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    /// Clients asked.
    pub clients: usize,
    /// Origins at first.
    pub origins: usize,
    /// Of them changed though nothing had happened in between.
    pub moved_by_nothing: usize,
    /// Changed when one origin was removed.
    pub moved_by_removal: usize,
    /// Of these, those that had to: they were on the removed one.
    pub had_to_move: usize,
    /// Changed when another origin was added.
    pub moved_by_addition: usize,
    /// Of these, those that went to the new one.
    pub moved_to_the_new_one: usize,
}

impl Strategies {
    /// A record to be filled, with so many origins and workers.
    pub fn new(
        started: String,
        command: String,
        machine: Machine,
        settings: Settings,
        balancer_version: String,
        [origins, workers]: [usize; 2],
    ) -> Self {
        Self {
            format: FORMAT,
            kind: Kind::Strategies,
            started,
            command,
            machine,
            settings,
            balancer_version,
            origins,
            workers,
            workloads: Vec::new(),
            refused: Vec::new(),
            is_partial: false,
            cells: Vec::new(),
            keys: Vec::new(),
        }
    }

    /// Reads `raw.json` of `folder`.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let strategies: Self = record::read(folder)?;
        record::check_format(folder, strategies.format, FORMAT)?;
        Ok(strategies)
    }

    /// Writes `raw.json` into `folder`.
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        record::write(self, folder)
    }

    /// The cells of a workload on one ground.
    pub fn cells_of<'a>(
        &'a self,
        workload: &'a str,
        ground: &'a Ground,
    ) -> impl Iterator<Item = &'a Cell> {
        let own = move |cell: &&Cell| cell.workload == workload && cell.place.ground == *ground;
        self.cells.iter().filter(own)
    }

    /// What becomes of clients on one ground.
    pub fn keys_of<'a>(&'a self, ground: &'a Ground) -> impl Iterator<Item = &'a KeysCell> {
        let own = move |cell: &&KeysCell| cell.place.ground == *ground;
        self.keys.iter().filter(own)
    }

    /// Grounds that were measured on, in the order of their measuring.
    pub fn grounds(&self) -> Vec<&Ground> {
        let mut grounds: Vec<&Ground> = Vec::new();
        let places = self.cells.iter().map(|cell| &cell.place);
        for place in places.chain(self.keys.iter().map(|cell| &cell.place)) {
            if !grounds.contains(&&place.ground) {
                grounds.push(&place.ground);
            }
        }
        grounds
    }
}

impl Figures {
    /// Several rounds as one: counts are added up, measured figures are medians. `None` without
    /// rounds.
    pub fn of_rounds(rounds: &[Self]) -> Option<Self> {
        let middle = |figure: &dyn Fn(&Self) -> f64| {
            Spread::of(rounds.iter().map(figure)).map(|spread| spread.median)
        };
        let mut all = rounds.first()?.clone();
        for round in &rounds[1..] {
            all.completed += round.completed;
            all.due += round.due;
            all.unanswered += round.unanswered;
            add_counts(&mut all.errors, &round.errors);
            add_counts(&mut all.shares, &round.shares);
            if let (Some(sum), Some(one)) = (&mut all.affinity, &round.affinity) {
                sum.add(one);
            }
            if round.generator.saturated && !all.generator.saturated {
                all.generator = round.generator.clone();
            }
        }
        all.per_s = middle(&|it| it.per_s)?;
        all.cpu_us = middle(&|it| it.cpu_us)?;
        all.max_over_mean = middle(&|it| it.max_over_mean)?;
        all.chi_square = middle(&|it| it.chi_square)?;
        all.latency = Latency {
            p50_us: middle(&|it| it.latency.p50_us)?,
            p99_us: middle(&|it| it.latency.p99_us)?,
            p999_us: middle(&|it| it.latency.p999_us)?,
            max_us: middle(&|it| it.latency.max_us)?,
        };
        Some(all)
    }

    /// Failed and unanswered requests.
    pub fn failed(&self) -> u64 {
        self.errors.values().sum::<u64>() + self.unanswered
    }

    /// The part of all correct answers that `origin` gave.
    pub fn share_of(&self, origin: &str) -> f64 {
        let all: u64 = self.shares.values().sum();
        let own = self.shares.get(origin).copied().unwrap_or(0);
        own as f64 / (all as f64).max(1.0)
    }
}

fn add_counts(sum: &mut BTreeMap<String, u64>, counts: &BTreeMap<String, u64>) {
    for (name, count) in counts {
        *sum.entry(name.clone()).or_default() += count;
    }
}

/// The busiest against the mean, and χ² against an even spread.
pub fn evenness(shares: &BTreeMap<String, u64>) -> (f64, f64) {
    let all: u64 = shares.values().sum();
    if all == 0 {
        return (0.0, 0.0);
    }
    let mean = all as f64 / shares.len() as f64;
    let most = shares.values().max().copied().unwrap_or(0);
    let square = |count: &u64| (*count as f64 - mean).powi(2) / mean;
    (most as f64 / mean, shares.values().map(square).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_added_up_where_they_count_and_else_the_middle_one() {
        let round = |count: u64, p99_us: f64| Figures {
            completed: count,
            per_s: count as f64,
            due: count + 1,
            errors: BTreeMap::from([("reset".to_owned(), 1)]),
            unanswered: 0,
            cpu_us: p99_us / 10.0,
            latency: Latency {
                p50_us: 1.0,
                p99_us,
                p999_us: p99_us,
                max_us: p99_us,
            },
            shares: BTreeMap::from([("o-1".to_owned(), count)]),
            max_over_mean: 1.0,
            chi_square: 0.0,
            affinity: Some(Affinity::default()),
            generator: GeneratorHealth::default(),
        };
        let rounds = [round(10, 500.0), round(20, 90.0), round(30, 100.0)];
        let all = Figures::of_rounds(&rounds).unwrap();
        assert_eq!((all.completed, all.due, all.failed()), (60, 63, 3));
        assert_eq!(
            (all.per_s, all.latency.p99_us, all.cpu_us),
            (20.0, 100.0, 10.0)
        );
        assert_eq!(all.shares["o-1"], 60);
        assert_eq!(Figures::of_rounds(&[]), None);
    }

    #[test]
    fn origins_that_answered_nothing_count() {
        let shares = |counts: &[u64]| {
            let named = counts.iter().enumerate();
            named.map(|(n, count)| (n.to_string(), *count)).collect()
        };
        assert_eq!(evenness(&shares(&[10, 10])), (1.0, 0.0));
        assert_eq!(evenness(&shares(&[30, 0, 0])), (3.0, 60.0));
        assert_eq!(evenness(&shares(&[0, 0])), (0.0, 0.0));
        assert_eq!(evenness(&shares(&[])), (0.0, 0.0));
    }
}
