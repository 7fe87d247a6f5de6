//! The figures that `lb` promises, and whether a record keeps them.
//!
//! Invariant: a promise that the record does not cover is said to be unmeasured, and one that
//! is missed is said to be missed, by how much. `summary` and `index` print the verdicts.

use super::forwarders::{Forwarder, Forwarders};
use super::record::{Load, Record, Round, Scenario};
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
    /// The scenario that decides it; empty for those of our runtime's forwarder.
    pub scenario: &'static str,
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
    /// For CPU time: our time in the kernel alone divided by all of the rival's. The figure if
    /// our own code took no time, with the system calls that it makes.
    pub floor: Option<f64>,
}

impl Verdict {
    /// Whether the promise is kept; `None` when it was not measured.
    pub fn kept(&self) -> Option<bool> {
        self.measured
            .as_ref()
            .map(|measured| measured.figure <= self.limit)
    }
}

/// A promise that one scenario decides.
struct Promise {
    text: &'static str,
    scenario: &'static str,
    limit: f64,
    unit: Unit,
    measure: fn(&Scenario) -> Option<Measured>,
}

const PROMISES: [Promise; 23] = [
    Promise {
        text: "HTTP/1.1 keep-alive: CPU per request against the better of nginx and HAProxy",
        scenario: "l7-keepalive",
        limit: 0.65,
        unit: Unit::Ratio,
        measure: against_rivals,
    },
    Promise {
        text: "TCP small messages: CPU per message against the better of nginx and HAProxy",
        scenario: "l4-small",
        limit: 0.95,
        unit: Unit::Ratio,
        measure: against_rivals,
    },
    Promise {
        text: "User memory for an idle HTTP connection",
        scenario: "idle-memory-http",
        limit: 512.0,
        unit: Unit::Bytes,
        measure: idle,
    },
    Promise {
        text: "User memory for an idle TCP session",
        scenario: "idle-memory-tcp",
        limit: 1024.0,
        unit: Unit::Bytes,
        measure: idle,
    },
    Promise {
        text: "TCP bulk data: CPU per MiB against the better of nginx and HAProxy",
        scenario: "l4-bulk",
        limit: THIRD,
        unit: Unit::Ratio,
        measure: against_rivals,
    },
    Promise {
        text: "TCP connect, message, close: CPU per connection against the better of nginx and \
               HAProxy",
        scenario: "l4-connect",
        limit: 0.85,
        unit: Unit::Ratio,
        measure: against_rivals,
    },
    Promise {
        text: "TCP open loop at half of saturation: p99.9 against the better of nginx and HAProxy",
        scenario: "l4-small",
        limit: 1.0,
        unit: Unit::Ratio,
        measure: tail_against_rivals,
    },
    Promise {
        text: "UDP echo of 64 bytes: CPU per datagram against nginx",
        scenario: "udp-echo",
        limit: THIRD,
        unit: Unit::Ratio,
        measure: against_rivals,
    },
    Promise {
        text: "UDP one-way stream of 1,200 bytes: CPU per datagram against nginx",
        scenario: "udp-oneway",
        limit: THIRD,
        unit: Unit::Ratio,
        measure: against_rivals,
    },
    Promise {
        text: "The same, sent eight at a time (UDP_SEGMENT): CPU per datagram against nginx",
        scenario: "udp-oneway-gso",
        limit: THIRD,
        unit: Unit::Ratio,
        measure: against_rivals,
    },
    Promise {
        text: "1,000 connections over two workers: max/mean",
        scenario: "workers",
        limit: 1.05,
        unit: Unit::Ratio,
        measure: spread,
    },
    Promise {
        text: "HTTP/1.1 keep-alive with an access log on for all: CPU per request",
        scenario: "l7-access-log",
        limit: 0.65,
        unit: Unit::Ratio,
        measure: against_rivals,
    },
    Promise {
        text: "HTTP/1.1 open loop at half of saturation: p99.9 against the better of nginx and \
               HAProxy",
        scenario: "l7-keepalive",
        limit: 1.0,
        unit: Unit::Ratio,
        measure: tail_against_rivals,
    },
    Promise {
        text: "HTTP/1.1 new connections: CPU per request against the better of nginx and HAProxy",
        scenario: "l7-new-connections",
        limit: 0.8,
        unit: Unit::Ratio,
        measure: against_rivals,
    },
    Promise {
        text: "HTTP/1.1 bodies of 1 MiB: CPU per MiB against the better of nginx and HAProxy",
        scenario: "l7-body-1mib",
        limit: 0.5,
        unit: Unit::Ratio,
        measure: against_rivals,
    },
    Promise {
        text: "HTTP/1.1 bodies of 64 MiB: CPU per MiB against the better of nginx and HAProxy",
        scenario: "l7-body-64mib",
        limit: 0.5,
        unit: Unit::Ratio,
        measure: against_rivals,
    },
    Promise {
        text: "TLS 1.3 keep-alive: CPU per request against the better of nginx and HAProxy",
        scenario: "tls-keepalive-small",
        limit: 0.5,
        unit: Unit::Ratio,
        measure: against_rivals,
    },
    Promise {
        text: "Whole TLS 1.3 handshakes: CPU each against the better of nginx and HAProxy",
        scenario: "tls-handshake-full",
        limit: 0.7,
        unit: Unit::Ratio,
        measure: against_rivals,
    },
    Promise {
        text: "Resumed TLS 1.3 handshakes: CPU each against the better of nginx and HAProxy",
        scenario: "tls-handshake-resumed",
        limit: 0.7,
        unit: Unit::Ratio,
        measure: against_rivals,
    },
    Promise {
        text: "TLS bulk data: CPU per MiB against the better of nginx and HAProxy",
        scenario: "tls-bulk",
        limit: 1.0 / 1.3,
        unit: Unit::Ratio,
        measure: against_rivals,
    },
    Promise {
        text: "User memory for an idle HTTPS connection",
        scenario: "idle-memory-tls",
        limit: 12.0 * 1024.0,
        unit: Unit::Bytes,
        measure: idle,
    },
    Promise {
        text: "HTTP/2 to HTTP/1.1, 16 × 16 streams: CPU per request against HAProxy",
        scenario: "h2c-to-http1",
        limit: 0.65,
        unit: Unit::Ratio,
        measure: against_haproxy,
    },
    Promise {
        text: "HTTP/2 to HTTP/2, 16 × 16 streams: CPU per request against HAProxy",
        scenario: "h2c-to-h2c",
        limit: 0.6,
        unit: Unit::Ratio,
        measure: against_haproxy,
    },
];

/// Every promise, in the order of their weight.
pub fn all(record: &Record) -> Vec<Verdict> {
    let of_scenarios = PROMISES.iter().map(|promise| Verdict {
        promise: promise.text,
        scenario: promise.scenario,
        limit: promise.limit,
        unit: promise.unit,
        measured: record.scenario(promise.scenario).and_then(promise.measure),
    });
    let forwarders = record.forwarders.as_ref();
    let of_forwarders = [
        Verdict {
            promise: "Our runtime's forwarder against the best of monoio and tokio-uring: CPU per message",
            scenario: "",
            limit: 1.0,
            unit: Unit::Ratio,
            measured: forwarders.and_then(forwarder_against_rivals),
        },
        Verdict {
            promise: "User memory for an idle connection of our runtime's forwarder",
            scenario: "",
            limit: 2048.0,
            unit: Unit::Bytes,
            measured: forwarders.and_then(forwarder_idle),
        },
    ];
    of_scenarios.chain(of_forwarders).collect()
}

/// Three times as much work for a second of CPU.
const THIRD: f64 = 1.0 / 3.0;

/// The ratio of costs to the rival that is hardest to beat.
fn against_rivals(scenario: &Scenario) -> Option<Measured> {
    worst(RIVALS.iter().filter_map(|rival| cost(scenario, rival)))
}

/// The same to HAProxy alone.
fn against_haproxy(scenario: &Scenario) -> Option<Measured> {
    cost(scenario, "haproxy")
}

/// The ratio of costs to `rival`.
fn cost(scenario: &Scenario, rival: &str) -> Option<Measured> {
    let whole: fn(&Load) -> f64 = |load| load.cpu_us;
    let ratio = statistics::ratio(&scenario.load, SUBJECT, rival, whole)?;
    let kernel = (SUBJECT, Load::kernel_us as fn(&Load) -> f64);
    let floor = statistics::ratio_of_part(&scenario.load, kernel, (rival, whole));
    Some(Measured {
        figure: ratio.median,
        against: Some(rival.to_owned()),
        floor: floor.map(|spread| spread.median),
    })
}

/// The same of p99.9 at a fixed rate.
fn tail_against_rivals(scenario: &Scenario) -> Option<Measured> {
    let fixed = scenario.fixed_rate.as_ref()?;
    hardest(&fixed.rounds, |load| load.latency.p999_us)
}

fn hardest(rounds: &[Round<Load>], figure: fn(&Load) -> f64) -> Option<Measured> {
    let ratios = RIVALS.iter().filter_map(|rival| {
        let ratio = statistics::ratio(rounds, SUBJECT, rival, figure)?;
        Some(Measured {
            figure: ratio.median,
            against: Some((*rival).to_owned()),
            floor: None,
        })
    });
    worst(ratios)
}

fn spread(scenario: &Scenario) -> Option<Measured> {
    let spread = statistics::of_peer(&scenario.spread, SUBJECT, |w| w.max_over_mean)?;
    Some(Measured {
        figure: spread.median,
        against: None,
        floor: None,
    })
}

fn idle(scenario: &Scenario) -> Option<Measured> {
    let spread = statistics::of_peer(&scenario.idle, SUBJECT, |idle| idle.bytes_per_connection)?;
    Some(Measured {
        figure: spread.median,
        against: None,
        floor: None,
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
            floor: None,
        })
    }))
}

fn forwarder_idle(forwarders: &Forwarders) -> Option<Measured> {
    let figure = own_forwarder(forwarders)?.idle_bytes_per_connection?;
    Some(Measured {
        figure,
        against: None,
        floor: None,
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
        // Nine tenths of it in the kernel.
        assert!((measured.floor.unwrap() - 0.72).abs() < 1e-9);
        assert_eq!(keepalive.kept(), Some(false));
    }

    #[test]
    fn what_was_not_measured_is_neither_kept_nor_missed() {
        let verdicts = all(&sample::record());
        assert_eq!(verdicts[1].kept(), None);
        let measured = verdicts.iter().filter(|v| v.measured.is_some()).count();
        assert_eq!(measured, 2, "CPU and tail");
    }

    #[test]
    fn the_tail_is_taken_at_the_fixed_rate() {
        let mut record = sample::record();
        "l4-small".clone_into(&mut record.scenarios[0].name);
        let verdicts = all(&record);
        let is_it = |v: &&Verdict| v.promise.starts_with("TCP open loop");
        let tail = verdicts.iter().find(is_it);
        assert_eq!(tail.and_then(Verdict::kept), Some(true), "all are the same");
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
