//! What a run reports: the JSON that `loadgen run --json` writes and other parts read back.
//!
//! Invariant: every figure covers the measured window only (never the warm-up), and the latency
//! percentiles can be recomputed from `histogram`.
//! Read next: `recorder.rs` (where the figures come from).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The result of one run, as written to JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// What was asked, as given on the command line.
    pub url: String,
    /// Closed loop, or open loop with its rate.
    pub mode: LoadMode,
    /// Connections held, over all threads.
    pub connections: usize,
    /// Generator threads.
    pub threads: usize,
    /// The runtime engine that the generator ran on: `uring` or `epoll`.
    pub engine: String,
    /// True if every request had a connection of its own.
    pub new_connections: bool,
    /// True if the run was interrupted: the figures cover what was measured until then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_partial: bool,
    /// Length of the measured window in seconds. Shorter than asked if the run was interrupted.
    pub duration_s: f64,
    /// Requests answered correctly. Open loop: of those due within the window, also the ones
    /// answered after its end. Closed loop: of those begun and answered within the window.
    pub completed: u64,
    /// Correct answers that arrived within the window, per second of it.
    pub rate_per_s: f64,
    /// Bytes received with correct answers, heads included.
    pub bytes_received: u64,
    /// Failed requests by kind.
    pub errors: Errors,
    /// Open loop: requests that were due within the window but had neither an answer nor an error
    /// when the run gave up, one time limit after the window's end. Far too few connections, or a
    /// server far too slow; the percentiles flatter it then.
    pub unanswered: u64,
    /// Connections opened within the window beyond those that the run began with: after a
    /// failure, after an answer that closed the connection, or one for each request.
    pub reconnects: u64,
    /// Connections on which nothing was to happen; `None` if there were to be none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<Idle>,
    /// The handshakes of these; `None` without TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handshakes: Option<Handshakes>,
    /// Latency of the requests that completed, from the intended send time.
    pub latency_us: LatencyMicros,
    /// `[latency in µs, requests]` in ascending order; each latency is accurate to three digits.
    pub histogram: Vec<(f64, u64)>,
    /// Correct answers by the origin that gave them, where the origins name themselves.
    pub per_origin: BTreeMap<String, u64>,
    /// How evenly `per_origin` is spread; `None` with fewer than two origins.
    pub balance: Option<Balance>,
    /// `tcp://` with bulk answers, `http://`, `https://`: bytes of them (of bodies) that arrived within the window, whether or not
    /// the answer they belong to began and ended in it.
    #[serde(default)]
    pub streamed_bytes: u64,
    /// `udp://`: what became of the datagrams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datagrams: Option<Datagrams>,
    /// Whether clients stayed with their origins; `None` where clients have no addresses of
    /// their own or origins no names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Answers and failures by the kind of request, where there are several.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub per_kind: BTreeMap<String, OfKind>,
    /// Whether the generator itself was the bottleneck.
    pub generator: GeneratorHealth,
    /// One entry for each second of the measured window.
    pub timeline: Vec<Second>,
}

impl Summary {
    /// True if every request that was due got its correct answer (of bulk answers, if data came).
    pub fn is_clean(&self) -> bool {
        (self.completed > 0 || self.streamed_bytes > 0)
            && self.errors.total() == 0
            && self.unanswered == 0
    }
}

/// When the next request is sent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadMode {
    /// Each connection sends its next request when the answer to the last is complete.
    Closed,
    /// Requests are due at a fixed rate, whatever the answers do.
    Open {
        /// Requests per second, over all connections.
        rate_per_s: f64,
    },
    /// Requests are due at random, whatever the answers do: a Poisson process.
    Poisson {
        /// Requests per second, on average.
        rate_per_s: f64,
    },
    /// The rate changes evenly from the start of the warm-up to the end of the window.
    Ramp {
        /// Requests per second at the start.
        from_per_s: f64,
        /// Requests per second at the end.
        to_per_s: f64,
    },
    /// The same in equal steps.
    Steps {
        /// Requests per second of the first.
        from_per_s: f64,
        /// Requests per second of the last.
        to_per_s: f64,
        /// How many, at least 2.
        steps: u32,
    },
    /// Requests of a log are due as they were, or faster.
    Replay {
        /// How much faster.
        speed: f64,
    },
}

/// What became of one kind of requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfKind {
    /// Answered correctly.
    pub completed: u64,
    /// Failed.
    pub failed: u64,
}

/// Failed requests by kind. A request fails at most once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errors {
    /// The connection could not be opened.
    pub connect: u64,
    /// The connection was reset, before or within the answer.
    pub reset: u64,
    /// No complete answer within the time limit.
    pub timeout: u64,
    /// The connection ended before the answer was complete.
    pub short: u64,
    /// A complete HTTP answer with a status outside 200–299.
    pub status_non_2xx: u64,
    /// An answer that is not well-formed, or bytes beyond its end.
    pub bad_body: u64,
    /// A complete answer whose body is not the one that the origin it names sends.
    #[serde(default)]
    pub body: u64,
    /// Not the bytes that were to come back (`tcp://`).
    pub mismatch: u64,
}

impl Errors {
    /// All kinds together.
    pub fn total(&self) -> u64 {
        self.by_kind().iter().map(|(_, count)| count).sum()
    }

    /// Each kind with its name in JSON.
    pub fn by_kind(&self) -> [(&'static str, u64); 8] {
        [
            ("connect", self.connect),
            ("reset", self.reset),
            ("timeout", self.timeout),
            ("short", self.short),
            ("status_non_2xx", self.status_non_2xx),
            ("bad_body", self.bad_body),
            ("body", self.body),
            ("mismatch", self.mismatch),
        ]
    }

    /// The kinds that occurred, with their names in JSON.
    pub fn occurred(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.by_kind().into_iter().filter(|(_, count)| *count > 0)
    }

    /// Adds the counts of `other`.
    pub fn add(&mut self, other: &Self) {
        self.connect += other.connect;
        self.reset += other.reset;
        self.timeout += other.timeout;
        self.short += other.short;
        self.status_non_2xx += other.status_non_2xx;
        self.bad_body += other.bad_body;
        self.body += other.body;
        self.mismatch += other.mismatch;
    }
}

/// Latency figures in microseconds; all zero when nothing completed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencyMicros {
    /// The fastest answer.
    pub min: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// The slowest answer.
    pub max: f64,
    /// Arithmetic mean.
    pub mean: f64,
}

impl LatencyMicros {
    /// Fastest, p50, p90, p99, p99.9, slowest and mean.
    pub const fn all(&self) -> [f64; 7] {
        [
            self.min, self.p50, self.p90, self.p99, self.p999, self.max, self.mean,
        ]
    }
}

/// How evenly the answers are spread over the origins that were seen. An origin that answered
/// nothing is not seen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Balance {
    /// Busiest origin against the mean: 1 is perfectly even.
    pub max_over_mean: f64,
    /// Pearson's χ² against an even spread. For independent random choices it is about
    /// `degrees_of_freedom`; round robin gives much less.
    pub chi_square: f64,
    /// Origins less one.
    pub degrees_of_freedom: u64,
}

/// What became of all datagrams of a run, warm-up included, so that the sums add up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Datagrams {
    /// Sent.
    pub sent: u64,
    /// Echo: answered, late ones included. One-way: that the sinks have got. Copies left out.
    pub received: u64,
    /// The others.
    pub lost: u64,
    /// Copies of what had come before.
    pub duplicated: u64,
    /// Those that came after one of the same flow that was sent later.
    pub reordered: u64,
    /// Answers that came after their time limit.
    pub late: u64,
    /// What came and was not what had to come: damaged, cut, or somebody else's.
    pub corrupted: u64,
}

impl Datagrams {
    /// Adds the counts of `other`.
    pub fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.received += other.received;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.late += other.late;
        self.corrupted += other.corrupted;
    }
}

/// Handshakes within the window, by what they were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handshakes {
    /// Whole ones.
    pub full: u64,
    /// Those that resumed a session.
    pub resumed: u64,
}

impl Handshakes {
    /// Adds the counts of `other`.
    pub const fn add(&mut self, other: &Self) {
        self.full += other.full;
        self.resumed += other.resumed;
    }
}

/// Connections that were opened before the start and said nothing, as they were at the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idle {
    /// Still open.
    pub held: u64,
    /// Not opened, or ended by the server.
    pub lost: u64,
}

/// Whether clients stayed with their origins. A client is a source address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affinity {
    /// Clients that were answered at all.
    pub clients: u64,
    /// Answers from the origin that had answered this client before.
    pub kept: u64,
    /// Answers from another one.
    pub broken: u64,
}

impl Affinity {
    /// Adds the counts of `other`, which are of other threads.
    pub fn add(&mut self, other: &Self) {
        self.clients += other.clients;
        self.kept += other.kept;
        self.broken += other.broken;
    }
}

/// Whether the generator was the bottleneck, and what says so.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GeneratorHealth {
    /// True if the figures of this run say more about the generator than about what it asked.
    pub saturated: bool,
    /// Why, in words; empty unless `saturated`.
    pub reason: String,
    /// CPU time of the busiest generator thread per second of the window (1 = a whole core).
    pub cpu_fraction: f64,
    /// CPU time of all generator threads within the window, in seconds.
    pub cpu_s: f64,
    /// Time that the busiest thread was ready to run but had no core, per second of the window.
    pub wait_fraction: f64,
    /// Busy part of the core that the generator is pinned to, whoever used it; of the busiest
    /// core if there are several, and of the whole machine if it is not pinned.
    pub core_busy_fraction: f64,
    /// Time that the hypervisor took from the machine, per second of its cores.
    pub steal_fraction: f64,
    /// Open loop: requests sent more than a millisecond late although a connection was free.
    pub late_sends: u64,
    /// Open loop: the largest such delay in µs, of any request that had a free connection.
    pub max_send_lag_us: f64,
    /// The most by which a timer of the generator, one a second, fired late, in µs.
    #[serde(default)]
    pub max_timer_lag_us: f64,
}

/// One second of the timeline.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// Seconds since the start of the window, at the beginning of this second.
    pub t: u64,
    /// Correct answers that arrived in it.
    pub completed: u64,
    /// Requests that failed in it.
    pub errors: u64,
    /// Correct answers in it that took longer than the run's limit for delayed ones.
    #[serde(default)]
    pub delayed: u64,
    /// Median latency of its answers, in µs.
    pub p50_us: f64,
    /// 99th percentile of the latency of its answers, in µs.
    pub p99_us: f64,
}

/// Where a run is, for those who watch it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadPhase {
    /// Connections are being opened.
    Connecting,
    /// Load runs, nothing is counted yet.
    WarmUp,
    /// The measured window has begun.
    Measuring,
    /// The measured window is over.
    Ended,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn json_names_the_mode_and_survives_a_round_trip() {
        let summary = Summary {
            errors: Errors::default(),
            ..sample::summary()
        };
        let text = serde_json::to_string(&summary).unwrap();
        assert!(
            text.contains(r#""mode":{"open":{"rate_per_s":1000.0}}"#),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Summary>(&text).unwrap(), summary);
        assert!(summary.is_clean());
        let without = Summary {
            idle: None,
            handshakes: None,
            datagrams: None,
            affinity: None,
            ..summary
        };
        let text = serde_json::to_string(&without).unwrap();
        let old = text.replace(r#""streamed_bytes":0,"#, "");
        assert!(!old.contains("affinity") && old.len() < text.len());
        assert_eq!(serde_json::from_str::<Summary>(&old).unwrap(), without);
    }

    #[test]
    fn every_kind_of_error_counts_once_in_the_total() {
        let mut errors = Errors {
            connect: 1,
            reset: 10,
            timeout: 100,
            short: 1_000,
            status_non_2xx: 10_000,
            bad_body: 100_000,
            mismatch: 1_000_000,
            body: 10_000_000,
        };
        assert_eq!(errors.total(), 11_111_111);
        let other = errors;
        errors.add(&other);
        assert_eq!(errors.total(), 22_222_222);
    }
}
