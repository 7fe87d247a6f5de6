//! What `loadgen faults` measured, as it stands in `raw.json`.
//!
//! Invariant: nothing in the report comes from elsewhere; what an event cost is computed from the
//! timeline, second by second.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::super::Error;
use super::super::record::{self, Kind, Latency, Machine, Outcome, Settings};
use crate::run::{GeneratorHealth, Second};

/// The version of the format.
const FORMAT: u32 = 1;

/// One script, carried out with several settings of `lb`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Faults {
    /// Version of this format.
    pub format: u32,
    /// Always [`Kind::Faults`].
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
    /// Origins at the beginning.
    pub origins: usize,
    /// What happened, each with the second from the beginning of the window.
    pub events: Vec<Event>,
    /// How the load was made.
    pub load_command: String,
    /// Answers that took longer count as delayed; in milliseconds.
    pub delayed_after_ms: f64,
    /// One for each setting.
    pub runs: Vec<Run>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Seconds from the beginning of the window.
    pub at_s: u64,
    /// As in the script: `kill o-1`.
    pub what: String,
}

/// One setting of `lb`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    /// `http` or `tcp`.
    pub mode: String,
    /// The balancer's engine.
    pub engine: String,
    /// The scheduler.
    pub balance: String,
    /// The configuration at the beginning.
    pub configuration: String,
    /// What came out.
    #[serde(flatten)]
    pub outcome: Outcome<Figures>,
}

/// What clients felt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Requests answered correctly.
    pub completed: u64,
    /// Failed requests by kind; kinds that did not occur are left out.
    pub errors: BTreeMap<String, u64>,
    /// Requests that were due and never sent or answered.
    pub unanswered: u64,
    /// From the moment at which a request was due.
    pub latency: Latency,
    /// CPU time of the balancer for each completed request, in microseconds.
    pub cpu_us: f64,
    /// Second by second.
    pub timeline: Vec<Second>,
    /// Whether the generator was the bottleneck.
    pub generator: GeneratorHealth,
}

/// What one event cost: the seconds from it to the next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// Requests answered correctly.
    pub completed: u64,
    /// Failed.
    pub failed: u64,
    /// Answered late.
    pub delayed: u64,
    /// The worst second's 99th percentile, in microseconds.
    pub p99_us: f64,
    /// Seconds until the last in which anything failed or was late was over; 0 if nothing was.
    pub disturbed_s: u64,
}

impl Faults {
    /// A record to be filled.
    pub fn new(
        started: String,
        command: String,
        machine: Machine,
        settings: Settings,
        balancer_version: String,
        origins: usize,
    ) -> Self {
        Self {
            format: FORMAT,
            kind: Kind::Faults,
            started,
            command,
            machine,
            settings,
            balancer_version,
            origins,
            events: Vec::new(),
            load_command: String::new(),
            delayed_after_ms: 0.0,
            runs: Vec::new(),
        }
    }

    /// Reads `raw.json` of `folder`.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let faults: Self = record::read(folder)?;
        record::check_format(folder, faults.format, FORMAT)?;
        Ok(faults)
    }

    /// Writes `raw.json` into `folder`.
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        record::write(self, folder)
    }

    /// What each event cost in `timeline`; the first is the time before any.
    pub fn costs(&self, timeline: &[Second]) -> Vec<(String, Cost)> {
        let before = std::iter::once((0, "nothing yet".to_owned()));
        let events = self.events.iter().map(|e| (e.at_s, e.what.clone()));
        let all: Vec<(u64, String)> = before.chain(events).collect();
        let ends = all.iter().skip(1).map(|(at, _)| *at).chain([u64::MAX]);
        let cost = |((from, what), until): (&(u64, String), u64)| {
            let own = timeline.iter().filter(|s| (*from..until).contains(&s.t));
            (what.clone(), Cost::of(*from, own))
        };
        all.iter().zip(ends).map(cost).collect()
    }
}

impl Cost {
    fn of<'a>(from: u64, seconds: impl Iterator<Item = &'a Second>) -> Self {
        let mut cost = Self {
            completed: 0,
            failed: 0,
            delayed: 0,
            p99_us: 0.0,
            disturbed_s: 0,
        };
        for second in seconds {
            cost.completed += second.completed;
            cost.failed += second.errors;
            cost.delayed += second.delayed;
            cost.p99_us = cost.p99_us.max(second.p99_us);
            if second.errors + second.delayed > 0 {
                cost.disturbed_s = second.t + 1 - from;
            }
        }
        cost
    }
}

impl Figures {
    /// Failed and unanswered requests.
    pub fn failed(&self) -> u64 {
        self.errors.values().sum::<u64>() + self.unanswered
    }
}
