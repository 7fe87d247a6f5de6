//! What was measured, as a table for people and as JSON for `loadgen report`.
//!
//! Invariant: a ratio compares two forwarders within one round, never across rounds, and the
//! median is taken over those ratios. A forwarder that failed is named, not left out.

use std::error::Error;
use std::fmt;
use std::fs;
use std::io;
use std::time::Duration;

use serde_json::{Value, json};

use crate::forwarders::Forwarder;

/// The forwarder to which all others are compared.
const OURS: Forwarder = Forwarder::LbUring;

/// One measured window.
#[derive(Debug, Clone, Copy)]
pub(super) struct Round {
    pub(super) messages: u64,
    /// CPU time of the forwarder's process.
    pub(super) cpu: Duration,
    pub(super) elapsed: Duration,
}

impl Round {
    fn cpu_us_per_message(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.messages as f64
    }

    fn messages_per_s(&self) -> f64 {
        self.messages as f64 / self.elapsed.as_secs_f64()
    }

    /// Share of its core that the forwarder used. Below about 0.97 the load was the limit.
    fn busy(&self) -> f64 {
        self.cpu.as_secs_f64() / self.elapsed.as_secs_f64()
    }
}

/// All figures of a run.
#[derive(Debug)]
pub(super) struct Report {
    connections: u32,
    message_bytes: usize,
    forwarders: Vec<Figures>,
}

#[derive(Debug)]
struct Figures {
    forwarder: Forwarder,
    /// `None` for a round that failed, so that rounds of different forwarders stay aligned.
    rounds: Vec<Option<Round>>,
    idle_bytes: Option<f64>,
    failures: Vec<String>,
}

impl Report {
    pub(super) fn new(forwarders: &[Forwarder], connections: u32, message_bytes: usize) -> Self {
        let figures = |&forwarder| Figures {
            forwarder,
            rounds: Vec::new(),
            idle_bytes: None,
            failures: Vec::new(),
        };
        let forwarders = forwarders.iter().map(figures).collect();
        Self {
            connections,
            message_bytes,
            forwarders,
        }
    }

    pub(super) fn add_round(&mut self, forwarder: Forwarder, round: io::Result<Round>) {
        let figures = self.figures(forwarder);
        let number = figures.rounds.len() + 1;
        let failure = round
            .as_ref()
            .err()
            .map(|error| format!("round {number}: {error}"));
        figures.failures.extend(failure);
        figures.rounds.push(round.ok());
    }

    pub(super) fn add_idle_bytes(&mut self, forwarder: Forwarder, bytes: io::Result<f64>) {
        let figures = self.figures(forwarder);
        let failure = bytes
            .as_ref()
            .err()
            .map(|error| format!("idle connections: {error}"));
        figures.failures.extend(failure);
        figures.idle_bytes = bytes.ok();
    }

    pub(super) fn to_json(&self) -> Value {
        let round_count = self
            .forwarders
            .iter()
            .map(|figures| figures.rounds.len())
            .max();
        json!({
            "rounds": round_count.unwrap_or(0),
            "connections": self.connections,
            "message_bytes": self.message_bytes,
            "machine": machine(),
            "forwarders": self.forwarders.iter().map(Figures::to_json).collect::<Vec<_>>(),
        })
    }

    /// An error that counts what failed, if anything did.
    pub(super) fn into_result(self) -> Result<(), Box<dyn Error>> {
        match self
            .forwarders
            .iter()
            .map(|figures| figures.failures.len())
            .sum()
        {
            0 => Ok(()),
            failures @ 1.. => Err(format!("{failures} measurements failed, see above").into()),
        }
    }

    fn figures(&mut self, forwarder: Forwarder) -> &mut Figures {
        let known = self
            .forwarders
            .iter_mut()
            .find(|figures| figures.forwarder == forwarder);
        known.expect("the report was made for all forwarders that are measured")
    }

    /// Per round, `figures` divided by ours.
    fn ratios(&self, figures: &Figures) -> Vec<f64> {
        let Some(ours) = self.forwarders.iter().find(|ours| ours.forwarder == OURS) else {
            return Vec::new();
        };
        let pairs = figures.rounds.iter().zip(&ours.rounds);
        pairs
            .filter_map(|(theirs, ours)| {
                Some(theirs.as_ref()?.cpu_us_per_message() / ours.as_ref()?.cpu_us_per_message())
            })
            .collect()
    }
}

impl Figures {
    fn per_round(&self, figure: fn(&Round) -> f64) -> Vec<f64> {
        self.rounds.iter().flatten().map(figure).collect()
    }

    fn to_json(&self) -> Value {
        json!({
            "name": self.forwarder.name(),
            "version": self.forwarder.version(),
            "flags": self.forwarder.flags(),
            "cpu_us_per_message": self.per_round(Round::cpu_us_per_message),
            "messages_per_s": self.per_round(Round::messages_per_s),
            "busy": self.per_round(Round::busy),
            "idle_bytes_per_connection": self.idle_bytes,
            "failures": self.failures,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} connections, one {}-byte message under way on each; medians (min–max) over rounds\n",
            self.connections, self.message_bytes
        )?;
        writeln!(
            f,
            "{:<18} {:>21} {:>19} {:>10} {:>5} {:>11}  runtime",
            "forwarder", "CPU µs/message", "× lb-uring", "messages/s", "busy", "bytes idle"
        )?;
        for figures in &self.forwarders {
            let forwarder = figures.forwarder;
            writeln!(
                f,
                "{:<18} {:>21} {:>19} {:>10} {:>5} {:>11}  {}, {}",
                forwarder,
                spread(&figures.per_round(Round::cpu_us_per_message)),
                spread(&self.ratios(figures)),
                number(median(&figures.per_round(Round::messages_per_s)), 0),
                number(median(&figures.per_round(Round::busy)), 2),
                number(figures.idle_bytes, 0),
                forwarder.version(),
                forwarder.flags(),
            )?;
        }
        writeln!(
            f,
            "\nCPU: user + kernel, all threads of the forwarder. × lb-uring: above 1 costs more than lb-uring.\n\
             bytes idle: private anonymous user memory per idle connection (two sockets); kernel memory not counted.\n\
             busy: share of its core the forwarder used; where it is below 1, the load was the limit."
        )?;
        for figures in &self.forwarders {
            for failure in &figures.failures {
                writeln!(f, "FAILED {}: {failure}", figures.forwarder)?;
            }
        }
        Ok(())
    }
}

/// Median and range, as in `10.52 (10.31–10.80)`.
fn spread(values: &[f64]) -> String {
    let Some(median) = median(values) else {
        return "–".to_owned();
    };
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    format!("{median:.2} ({least:.2}–{most:.2})")
}

fn number(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.decimals$}"))
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (upper, lower) = (sorted.len() / 2, sorted.len().saturating_sub(1) / 2);
    Some((sorted.get(lower)? + sorted.get(upper)?) / 2.0)
}

/// What a reader needs to place the figures.
fn machine() -> Value {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models = cpus
        .lines()
        .filter_map(|line| line.strip_prefix("model name"));
    let model = models
        .clone()
        .next()
        .map(|rest| rest.trim_start_matches([' ', '\t', ':']));
    json!({
        "kernel": kernel.trim(),
        "cpu": model,
        "cpus": models.count(),
        "allocator": "mimalloc",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(cpu_us: u64, messages: u64) -> Round {
        Round {
            messages,
            cpu: Duration::from_micros(cpu_us),
            elapsed: Duration::from_secs(1),
        }
    }

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn ratios_pair_rounds_and_skip_failed_ones() {
        let mut report = Report::new(&[Forwarder::LbUring, Forwarder::Tokio], 1, 64);
        for (ours, theirs) in [(Some(10), Some(20)), (None, Some(20)), (Some(20), Some(30))] {
            let result = |cpu: Option<u64>| {
                cpu.map(|cpu| round(cpu, 1))
                    .ok_or_else(|| io::Error::other("broke"))
            };
            report.add_round(Forwarder::LbUring, result(ours));
            report.add_round(Forwarder::Tokio, result(theirs));
        }
        assert_eq!(report.ratios(&report.forwarders[1]), [2.0, 1.5]);
        assert!(
            report
                .to_string()
                .contains("FAILED lb-uring: round 2: broke")
        );
        assert!(report.into_result().is_err());
    }

    #[test]
    fn json_holds_one_figure_per_round() {
        let mut report = Report::new(&[Forwarder::LbUring], 64, 64);
        report.add_round(Forwarder::LbUring, Ok(round(1000, 100)));
        report.add_idle_bytes(Forwarder::LbUring, Ok(512.0));
        let json = report.to_json();
        assert_eq!(json["rounds"], 1);
        assert_eq!(json["forwarders"][0]["cpu_us_per_message"], json!([10.0]));
        assert_eq!(json["forwarders"][0]["messages_per_s"], json!([100.0]));
        assert_eq!(
            json["forwarders"][0]["idle_bytes_per_connection"],
            json!(512.0)
        );
    }
}
