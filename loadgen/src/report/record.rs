//! What a comparison measured, as it stands in `raw.json`: everything a report is drawn from.
//!
//! Invariant: nothing in a report comes from elsewhere, so `loadgen report DIR` can redraw it
//! on any machine at any time. Units are in the names. `compare` fills it, `summary` tells it.

use std::fs;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Error;
use super::forwarders::Forwarders;
use super::repeat::Before;
use crate::run::GeneratorHealth;

/// The name of the record in a report's folder.
pub const FILE_NAME: &str = "raw.json";

/// The version of the format, to be raised when old records can no longer be read.
const FORMAT: u32 = 1;

/// One comparison: a machine, some peers, some scenarios.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Version of this format.
    pub format: u32,
    /// When the comparison began, UTC, as `2026-01-31T12:00:00Z`.
    pub started: String,
    /// The command line that was typed.
    pub command: String,
    /// The scenarios that were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asked: Vec<String>,
    /// When it was resumed after an interruption, UTC.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resumed: Vec<String>,
    /// Where it ran.
    pub machine: Machine,
    /// How long and how often.
    pub settings: Settings,
    /// Those compared, the subject first.
    pub peers: Vec<Peer>,
    /// Those asked for and not found.
    pub absent: Vec<Absent>,
    /// What was measured.
    pub scenarios: Vec<Scenario>,
    /// Whether it was interrupted: what had been measured by then is here, the rest is not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_partial: bool,
    /// The A/B between runtimes, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarders: Option<Forwarders>,
    /// What an earlier comparison on the same machine gave, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Before>,
}

/// The machine, without its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's model.
    pub cpu: String,
    /// Cores the system has.
    pub cores: usize,
    /// Memory the system has, in MiB.
    pub memory_mib: u64,
    /// The kernel's release.
    pub kernel: String,
    /// The distribution.
    pub system: String,
    /// Whether a hypervisor lies below.
    pub virtual_machine: bool,
}

/// How the comparison was run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Rounds of each peer in each scenario.
    pub rounds: usize,
    /// The measured part of a round, in seconds.
    pub duration_s: f64,
    /// The load before it that is not measured, in seconds.
    pub warmup_s: f64,
    /// The core of the balancer.
    pub balancer_cpu: usize,
    /// The core of the generator and the origins.
    pub generator_cpu: usize,
    /// The version of `loadgen`.
    pub generator_version: String,
}

/// A program that was compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name in this report.
    pub name: String,
    /// What it says of its version.
    pub version: String,
}

/// A program that was not compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absent {
    /// Its name.
    pub name: String,
    /// Why not.
    pub reason: String,
}

/// One scenario with all its rounds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Scenario {
    /// As on the command line.
    pub name: String,
    /// One sentence on what happens in it.
    pub description: String,
    /// What a unit of work is.
    pub work: Work,
    /// How each peer was started.
    pub setups: Vec<Setup>,
    /// How the origins were started.
    pub origins_command: String,
    /// How the load was made; empty for idle connections.
    pub load_command: String,
    /// Rounds under load, interleaved, in the order of their running.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub load: Vec<Round<Load>>,
    /// Rounds at a fixed rate below saturation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fixed_rate: Option<FixedRate>,
    /// Rounds of idle connections.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub idle: Vec<Round<Idle>>,
    /// Rounds of connections over several workers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spread: Vec<Round<Workers>>,
    /// Peers that cannot do what this scenario asks for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<Absent>,
}

/// The unit of work that costs are given for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// A connection: opened, used and closed, or open with nothing happening on it.
    Connection,
    /// A datagram forwarded; of an echo there and back.
    Datagram,
    /// A connection opened by a TLS handshake, with one request on it.
    Handshake,
    /// A mebibyte relayed to the client.
    Mebibyte,
    /// A message echoed: there and back.
    Message,
    /// An HTTP request answered.
    Request,
}

/// How one peer was started in a scenario.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// The peer's name.
    pub peer: String,
    /// The command line.
    pub command: String,
    /// The file in `configs/`, for those who need one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<String>,
}

/// The latency part of a scenario.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FixedRate {
    /// Units of work offered a second.
    pub per_s: f64,
    /// How the load was made.
    pub load_command: String,
    /// The rounds, interleaved.
    pub rounds: Vec<Round<Load>>,
}

/// One round of one peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Round<Figures> {
    /// From 1; equal numbers ran next to each other and are compared as a pair.
    pub round: usize,
    /// Who ran.
    pub peer: String,
    /// What came out.
    #[serde(flatten)]
    pub outcome: Outcome<Figures>,
}

/// A round's figures, or why it counts for nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome<Figures> {
    /// It went through without a single error.
    Measured(Figures),
    /// It did not, for this reason.
    Failed(String),
}

/// What a round under load gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Units of work completed.
    pub completed: f64,
    /// Units of work completed a second.
    pub per_s: f64,
    /// CPU time of all the balancer's processes and threads for a unit of work, in microseconds.
    pub cpu_us: f64,
    /// CPU time of the balancer in the window, in seconds: what `cpu_us` comes from.
    pub cpu_s: f64,
    /// The same from `utime` in `/proc/PID/stat`, which counts in ticks of 10 ms.
    pub user_s: f64,
    /// The same from `stime`.
    pub system_s: f64,
    /// Seconds that the balancer's core was busy with whatever, by `/proc/stat`.
    pub core_busy_s: f64,
    /// Seconds that the hypervisor took from both cores.
    pub stolen_s: f64,
    /// The window's length in seconds.
    pub window_s: f64,
    /// Connections that had to be opened again, or one for each request.
    pub reconnects: u64,
    /// Latency in microseconds.
    pub latency: Latency,
    /// Whether the generator was the bottleneck.
    pub generator: GeneratorHealth,
}

/// Latency percentiles in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Half were faster.
    pub p50_us: f64,
    /// 99 of 100 were faster.
    pub p99_us: f64,
    /// 999 of 1,000 were faster.
    pub p999_us: f64,
    /// The slowest.
    pub max_us: f64,
}

/// What a round of idle connections gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Idle {
    /// Connections open when `base` was read.
    pub base_connections: usize,
    /// Connections open when `full` was read.
    pub full_connections: usize,
    /// With few connections.
    pub base: Memory,
    /// With all of them.
    pub full: Memory,
    /// Growth of user memory for each connection between the two, in bytes.
    pub bytes_per_connection: f64,
}

/// How connections were spread over the workers of a balancer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Workers {
    /// Open connections by worker, as the balancer says.
    pub connections: Vec<u64>,
    /// The busiest worker's against the mean: 1 is perfectly even.
    pub max_over_mean: f64,
}

/// Memory of all the balancer's processes, in KiB, from `/proc/PID/smaps_rollup`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Resident, shared pages in proportion.
    pub pss_kib: u64,
    /// Of it, anonymous: heap, stacks, buffers.
    pub anonymous_kib: u64,
    /// Of it, shared memory that no file backs.
    pub shared_kib: u64,
}

impl Load {
    /// CPU time in the balancer's own code for a unit of work, in microseconds: its share of the
    /// ticks of `cpu_us`.
    pub fn user_us(&self) -> f64 {
        self.cpu_us - self.kernel_us()
    }

    /// CPU time in the kernel on the balancer's behalf for a unit of work, in microseconds.
    pub fn kernel_us(&self) -> f64 {
        let ticks = self.user_s + self.system_s;
        if ticks > 0.0 {
            self.cpu_us * self.system_s / ticks
        } else {
            0.0
        }
    }
}

impl Memory {
    /// Memory that the program allocated, as opposed to pages of its binary, in bytes.
    pub fn user_bytes(self) -> u64 {
        (self.anonymous_kib + self.shared_kib) * 1024
    }
}

impl Record {
    /// A record to be filled.
    pub fn new(started: String, command: String, machine: Machine, settings: Settings) -> Self {
        Self {
            format: FORMAT,
            started,
            command,
            asked: Vec::new(),
            resumed: Vec::new(),
            machine,
            settings,
            peers: Vec::new(),
            absent: Vec::new(),
            scenarios: Vec::new(),
            is_partial: false,
            forwarders: None,
            before: None,
        }
    }

    /// Reads `raw.json` of `folder`.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let record: Self = read(folder)?;
        check_format(folder, record.format, FORMAT)?;
        Ok(record)
    }

    /// Writes `raw.json` into `folder`.
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        write(self, folder)
    }

    /// The day it began, `2026-01-31`.
    pub fn date(&self) -> &str {
        self.started.split('T').next().unwrap_or(&self.started)
    }

    /// The peer that the others are compared with: the first.
    pub fn subject(&self) -> Option<&str> {
        self.peers.first().map(|peer| peer.name.as_str())
    }

    /// The scenario of that name.
    pub fn scenario(&self, name: &str) -> Option<&Scenario> {
        self.scenarios.iter().find(|scenario| scenario.name == name)
    }
}

/// What a page says of a record that is not whole.
pub(super) const PARTIAL: &str =
    "**Partial**: it was interrupted, and holds what had been measured by then.\n\n";

/// What a folder holds, by the record in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Balancers side by side: a [`Record`], which does not say so.
    #[default]
    Comparison,
    /// Schedulers side by side.
    Strategies,
    /// Faults under load, one after the other.
    Faults,
    /// Traffic of every kind while origins restart.
    Mixed,
    /// One load on one server.
    Run,
}

impl Kind {
    /// The kind of the record in `folder`.
    pub fn of(folder: &Path) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Peek {
            #[serde(default)]
            kind: Kind,
        }
        read::<Peek>(folder).map(|peek| peek.kind)
    }
}

/// Reads a record of whatever kind from `folder`.
pub(super) fn read<R: DeserializeOwned>(folder: &Path) -> Result<R, Error> {
    let path = folder.join(FILE_NAME);
    let text = fs::read_to_string(&path).map_err(|e| Error::file(&path, e))?;
    serde_json::from_str(&text).map_err(|e| Error::json(&path, e))
}

/// Writes a record of whatever kind into `folder`.
pub(super) fn write<R: Serialize>(record: &R, folder: &Path) -> Result<(), Error> {
    let path = folder.join(FILE_NAME);
    let mut text = serde_json::to_string_pretty(record).map_err(|e| Error::json(&path, e))?;
    text.push('\n');
    fs::write(&path, text).map_err(|e| Error::file(&path, e))
}

/// Refuses a record of another version.
pub(super) fn check_format(folder: &Path, found: u32, read: u32) -> Result<(), Error> {
    let path = folder.join(FILE_NAME);
    (found == read)
        .then_some(())
        .ok_or(Error::Format { path, found, read })
}

impl<Figures> Round<Figures> {
    /// The figures of a round that went through.
    pub fn figures(&self) -> Option<&Figures> {
        match &self.outcome {
            Outcome::Measured(figures) => Some(figures),
            Outcome::Failed(_) => None,
        }
    }

    /// Why it failed, if it did.
    pub fn failure(&self) -> Option<&str> {
        match &self.outcome {
            Outcome::Measured(_) => None,
            Outcome::Failed(reason) => Some(reason),
        }
    }
}

impl Work {
    /// One of it.
    pub fn singular(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Datagram => "datagram",
            Self::Handshake => "handshake",
            Self::Mebibyte => "MiB",
            Self::Message => "message",
            Self::Request => "request",
        }
    }

    /// Many of it.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Connection => "connections",
            Self::Datagram => "datagrams",
            Self::Handshake => "handshakes",
            Self::Mebibyte => "MiB",
            Self::Message => "messages",
            Self::Request => "requests",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_read_back_as_written() {
        let idle = Idle {
            base_connections: 64,
            full_connections: 1_000,
            base: Memory::default(),
            full: Memory {
                pss_kib: 9,
                anonymous_kib: 4,
                shared_kib: 1,
            },
            bytes_per_connection: 5.5,
        };
        let rounds = [
            Round {
                round: 1,
                peer: "a".to_owned(),
                outcome: Outcome::Measured(idle),
            },
            Round {
                round: 2,
                peer: "b".to_owned(),
                outcome: Outcome::Failed("refused".to_owned()),
            },
        ];
        let text = serde_json::to_string(&rounds).unwrap();
        let back: Vec<Round<Idle>> = serde_json::from_str(&text).unwrap();
        assert_eq!(back[0].figures().unwrap().full.user_bytes(), 5 * 1024);
        assert_eq!(back[1].failure(), Some("refused"));
        assert_eq!(back[1].figures(), None);
    }
}
