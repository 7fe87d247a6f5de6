//! The figures that `lb` promises, and whether a record keeps them.
//!
//! Invariant: a promise that the record does not cover is said to be unmeasured, and one that
//! is missed is said to be missed, by how much. `summary` and `index` print the verdicts.

use super::forwarders::{Forwarder, Forwarders};
use super::record::{Record, Scenario};
use super::statistics::{self, Spread};

/// The balancer the promises are about.
const SUBJECT: &str = "lb";
/// Those the promises compare it with.
const RIVALS: [&str; 2] = ["nginx", "haproxy"];

/// The prefix of our own runtime's forwarder on io_uring.
const OWN_FORWARDER: &str = "lb-uring";
/// The prefixes of the runtimes that our own must not fall behind.
const RIVAL_FORWARDERS: [&str; 2] = ["monoio", "tokio-uring"];

/// One promise, measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// What was promised.
    pub promise: &'static str,
    /// The most it may be.
    pub limit: f64,
    /// What the limit and the figure are in.
    pub unit: Unit,
    /// What was measured, and against whom; `None` when the record does not say.
    pub measured: Option<Measured>,
}

/// What a limit is given in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Ours divided by theirs.
    Ratio,
    /// Bytes of user memory.
    Bytes,
}

/// A figure to hold against the limit.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// The figure.
    pub figure: f64,
    /// The rival that came closest, where there is one.
    pub against: Option<String>,
}

impl Verdict {
    /// Whether the promise is kept; `None` when it was not measured.
    pub fn kept(&self) -> Option<bool> {
        self.measured
            .as_ref()
            .map(|measured| measured.figure <= self.limit)
    }
}

/// Every promise, in the order of their weight.
pub fn all(record: &Record) -> Vec<Verdict> {
    vec![
        Verdict {
            promise: "HTTP/1.1 keep-alive: CPU per request against the better of nginx and HAProxy",
            limit: 0.75,
            unit: Unit::Ratio,
            measured: record.scenario("l7-keepalive").and_then(against_rivals),
        },
        Verdict {
            promise: "TCP small messages: CPU per message against the better of nginx and HAProxy",
            limit: 1.0,
            unit: Unit::Ratio,
            measured: record.scenario("l4-small").and_then(against_rivals),
        },
        Verdict {
            promise: "User memory for an idle HTTP connection",
            limit: 1024.0,
            unit: Unit::Bytes,
            measured: record.scenario("idle-memory-http").and_then(idle),
        },
        Verdict {
            promise: "User memory for an idle TCP session",
            limit: 2048.0,
            unit: Unit::Bytes,
            measured: record.scenario("idle-memory-tcp").and_then(idle),
        },
        Verdict {
            promise: "Our runtime's forwarder against the best of monoio and tokio-uring: CPU per message",
            limit: 1.0,
            unit: Unit::Ratio,
            measured: record
                .forwarders
                .as_ref()
                .and_then(forwarder_against_rivals),
        },
        Verdict {
            promise: "User memory for an idle connection of our runtime's forwarder",
            limit: 2048.0,
            unit: Unit::Bytes,
            measured: record.forwarders.as_ref().and_then(forwarder_idle),
        },
    ]
}

/// The ratio to the rival that is hardest to beat.
fn against_rivals(scenario: &Scenario) -> Option<Measured> {
    let ratios = RIVALS.iter().filter_map(|rival| {
        let ratio = statistics::ratio(&scenario.load, SUBJECT, rival, |load| load.cpu_us)?;
        Some(Measured {
            figure: ratio.median,
            against: Some((*rival).to_owned()),
        })
    });
    worst(ratios)
}

fn idle(scenario: &Scenario) -> Option<Measured> {
    let spread = statistics::of_peer(&scenario.idle, SUBJECT, |idle| idle.bytes_per_connection)?;
    Some(Measured {
        figure: spread.median,
        against: None,
    })
}

fn forwarder_against_rivals(forwarders: &Forwarders) -> Option<Measured> {
    let own = own_forwarder(forwarders)?;
    let rivals = RIVAL_FORWARDERS
        .iter()
        .flat_map(|prefix| forwarders.named(prefix));
    worst(rivals.filter_map(|rival| {
        let ratio = forwarder_ratio(own, rival)?;
        Some(Measured {
            figure: ratio.median,
            against: Some(rival.name.clone()),
        })
    }))
}

fn forwarder_idle(forwarders: &Forwarders) -> Option<Measured> {
    let figure = own_forwarder(forwarders)?.idle_bytes_per_connection?;
    Some(Measured {
        figure,
        against: None,
    })
}

/// Our own runtime on io_uring.
pub fn own_forwarder(forwarders: &Forwarders) -> Option<&Forwarder> {
    forwarders.named(OWN_FORWARDER).next()
}

/// CPU per message of one against that of another.
pub fn forwarder_ratio(own: &Forwarder, rival: &Forwarder) -> Option<Spread> {
    statistics::ratio_of_lists(&own.cpu_us_per_message, &rival.cpu_us_per_message)
}

fn worst(ratios: impl Iterator<Item = Measured>) -> Option<Measured> {
    ratios.max_by(|a, b| a.figure.total_cmp(&b.figure))
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn the_harder_rival_decides() {
        // In the sample lb takes 10 µs, nginx 20, HAProxy 12.5.
        let verdicts = all(&sample::record());
        let keepalive = &verdicts[0];
        let measured = keepalive.measured.as_ref().unwrap();
        assert_eq!(measured.against.as_deref(), Some("haproxy"));
        assert!((measured.figure - 0.8).abs() < 1e-9);
        assert_eq!(keepalive.kept(), Some(false));
    }

    #[test]
    fn what_was_not_measured_is_neither_kept_nor_missed() {
        let verdicts = all(&sample::record());
        assert_eq!(verdicts[1].kept(), None);
    }

    #[test]
    fn the_best_rival_forwarder_decides() {
        let forwarder = |name: &str, cpu: f64| Forwarder {
            name: name.to_owned(),
            version: String::new(),
            flags: String::new(),
            cpu_us_per_message: vec![cpu],
            messages_per_s: vec![1.0],
            idle_bytes_per_connection: Some(700.0),
        };
        let forwarders = Forwarders {
            rounds: 1,
            connections: 64,
            message_bytes: 64,
            machine: serde_json::Value::Null,
            forwarders: vec![
                forwarder("lb-uring", 9.0),
                forwarder("monoio", 12.0),
                forwarder("monoio-tuned", 10.0),
                forwarder("tokio", 3.0),
            ],
        };
        let measured = forwarder_against_rivals(&forwarders).unwrap();
        assert_eq!(measured.against.as_deref(), Some("monoio-tuned"));
        assert!((measured.figure - 0.9).abs() < 1e-9);
        assert_eq!(forwarder_idle(&forwarders).unwrap().figure, 700.0);
    }
}
