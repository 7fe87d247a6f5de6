//! What the scripted server does, and what exactly follows from it.
//!
//! Invariant: a script is a pure function of arrival times; the exact latencies are those of
//! requests that arrive the moment they are due.
//! Read next: `server.rs`, which plays it.

use std::time::Duration;

/// A server's behaviour, and the load that it is shown to.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    pub(super) rate_per_s: f64,
    pub(super) duration: Duration,
    /// Enough that no request of the open loop waits for a connection.
    pub(super) connections: usize,
    /// Those of the closed loop.
    pub(super) closed_connections: usize,
    /// Service times in the order of arrival, again and again.
    pub(super) services: &'static [Duration],
    /// Whether a request waits until the one before is served.
    pub(super) one_at_a_time: bool,
    /// When nothing is served, from the first arrival: from, and how long.
    pub(super) stall: Option<(Duration, Duration)>,
    /// Percentiles to look at, with their names; 1 is the slowest.
    pub(super) quantiles: &'static [(&'static str, f64)],
}

/// Long beside what waking a thread takes, which is no server's time and part of every latency.
const USUAL: Duration = Duration::from_millis(20);
const SLOWER: Duration = Duration::from_millis(80);
const SLOWEST: Duration = Duration::from_millis(400);

pub(super) const STALL: Script = Script {
    name: "stall",
    what: "answers at once, but stalls for 1 s of 5 s; 200 requests a second",
    rate_per_s: 200.0,
    duration: Duration::from_secs(5),
    connections: 250,
    closed_connections: 4,
    services: &[Duration::ZERO],
    one_at_a_time: false,
    // Between two requests, so that no exact figure hangs on a microsecond.
    stall: Some((Duration::from_micros(1_002_500), Duration::from_secs(1))),
    quantiles: &[("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)],
};

pub(super) const QUEUE: Script = Script {
    name: "queue",
    what: "serves one request after the other, 20 ms each, and stalls for 1 s of 8 s, after \
           which it has to catch up; 25 requests a second",
    rate_per_s: 25.0,
    duration: Duration::from_secs(8),
    connections: 150,
    closed_connections: 1,
    services: &[USUAL],
    one_at_a_time: true,
    stall: Some((Duration::from_millis(2_030), Duration::from_secs(1))),
    quantiles: &[("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)],
};

pub(super) const SERVICES: Script = Script {
    name: "service times",
    what: "takes 20 ms for 16 of 20 requests, 80 ms for 3 and 400 ms for one, whatever else is \
           under way; 200 requests a second",
    rate_per_s: 200.0,
    duration: Duration::from_secs(5),
    connections: 150,
    closed_connections: 10,
    services: &[
        USUAL, USUAL, USUAL, USUAL, USUAL, SLOWER, USUAL, USUAL, USUAL, USUAL, SLOWEST, USUAL,
        USUAL, USUAL, SLOWER, USUAL, USUAL, USUAL, USUAL, SLOWER,
    ],
    one_at_a_time: false,
    stall: None,
    quantiles: &[("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)],
};

/// A script under way.
#[derive(Debug)]
pub(super) struct Played {
    script: &'static Script,
    arrived: usize,
    free_from: Duration,
}

impl Played {
    pub(super) const fn new(script: &'static Script) -> Self {
        Self {
            script,
            arrived: 0,
            free_from: Duration::ZERO,
        }
    }

    /// When the request that arrives `at` is answered; both from the first arrival on.
    pub(super) fn answered(&mut self, at: Duration) -> Duration {
        let script = self.script;
        let service = script.services[self.arrived % script.services.len()];
        self.arrived += 1;
        let mut begins = if script.one_at_a_time {
            at.max(self.free_from)
        } else {
            at
        };
        let mut interrupted = Duration::ZERO;
        if let Some((from, length)) = script.stall {
            if (from..from + length).contains(&begins) {
                begins = from + length;
            } else if begins < from && begins + service > from {
                interrupted = length;
            }
        }
        self.free_from = begins + service + interrupted;
        self.free_from
    }
}

impl Script {
    /// The latencies of all requests of the open loop, ascending.
    pub(super) fn latencies(&'static self) -> Vec<Duration> {
        let mut played = Played::new(self);
        let count = (self.rate_per_s * self.duration.as_secs_f64()).round() as u64;
        let of = |number: u64| {
            let due = Duration::from_secs_f64(number as f64 / self.rate_per_s);
            played.answered(due) - due
        };
        let mut latencies: Vec<Duration> = (0..count).map(of).collect();
        latencies.sort_unstable();
        latencies
    }

    /// Mean of the service times.
    pub(super) fn mean_service(&self) -> Duration {
        self.services.iter().sum::<Duration>() / self.services.len() as u32
    }
}

/// The smallest of the ascending `latencies` that so many of them do not exceed, in microseconds.
pub(super) fn quantile_us(latencies: &[Duration], quantile: f64) -> f64 {
    let place = (quantile * latencies.len() as f64 - 1e-9).ceil().max(1.0) as usize;
    let latency = latencies.get(place - 1).copied().unwrap_or_default();
    latency.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn exact_ms(script: &'static Script) -> Vec<f64> {
        let latencies = script.latencies();
        let quantiles = script.quantiles.iter();
        quantiles
            .map(|(_, quantile)| (quantile_us(&latencies, *quantile) / 10.0).round() / 100.0)
            .collect()
    }

    #[test]
    fn a_stall_delays_each_request_by_what_is_left_of_it() {
        // 200 of 1,000 requests, from 997.5 ms down in steps of 5 ms.
        assert_eq!(exact_ms(&STALL), [497.5, 947.5, 992.5, 997.5]);
    }

    #[test]
    fn a_queue_has_to_be_worked_off() {
        let latencies = QUEUE.latencies();
        let delayed = latencies.iter().filter(|l| **l > USUAL).count();
        // 25 wait for the end of the stall, and as many for these, at half of its capacity.
        assert!((48..=52).contains(&delayed), "{delayed}");
        assert_eq!(exact_ms(&QUEUE)[0], 20.0);
    }

    #[test]
    fn service_times_are_latencies_where_nothing_waits() {
        assert_eq!(exact_ms(&SERVICES), [20.0, 80.0, 400.0, 400.0]);
        assert_eq!(SERVICES.mean_service(), MS(48));
    }

    #[test]
    fn what_is_being_served_waits_for_the_end_of_the_stall() {
        let mut played = Played::new(&QUEUE);
        assert_eq!(played.answered(MS(2_020)), MS(3_040));
        assert_eq!(played.answered(MS(2_030)), MS(3_060));
    }
}
