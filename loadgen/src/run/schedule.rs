//! When requests are due: the schedule is data, and there is one send loop whatever it says.
//!
//! Invariant: an open loop's schedule never waits for an answer. A request that no connection was
//! free for keeps its due time, so its wait is part of its latency (no coordinated omission).
//! Read next: `connection.rs`, the send loop.

use std::time::Duration;

use lb_core::rt::Instant;

/// The requests that one thread is to send.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    pace: Pace,
    /// Requests handed out so far.
    claimed: u64,
    start: Instant,
    measure_from: Instant,
    end: Instant,
}

/// How requests follow each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Pace {
    /// As fast as answers come.
    Closed,
    /// Evenly, whatever the answers do.
    Open {
        /// Time between two requests, in nanoseconds.
        interval_ns: f64,
        /// Time from the start to the first one, in nanoseconds.
        first_ns: f64,
    },
}

impl Pace {
    /// This thread's share of `rate_per_s`: every `threads`th request, beginning with its own.
    pub(super) fn open(rate_per_s: f64, thread: usize, threads: usize) -> Self {
        let interval_ns = 1e9 / rate_per_s;
        Self::Open {
            interval_ns: interval_ns * threads as f64,
            first_ns: interval_ns * thread as f64,
        }
    }
}

impl Schedule {
    pub(super) fn new(pace: Pace, start: Instant, warm_up: Duration, duration: Duration) -> Self {
        let measure_from = start + warm_up;
        Self {
            pace,
            claimed: 0,
            start,
            measure_from,
            end: measure_from + duration,
        }
    }

    /// Hands out the next request: when it is due, which may be in the past; `None` when there is
    /// no further one before the end.
    pub(super) fn claim(&mut self, now: Instant) -> Option<Instant> {
        let due = match self.pace {
            Pace::Closed => now,
            Pace::Open { .. } => self.due(self.claimed),
        };
        if due >= self.end {
            return None;
        }
        self.claimed += 1;
        Some(due)
    }

    /// Open loop: all requests that are due before the end, claimed or not.
    pub(super) fn due_in_all(&self) -> u64 {
        let Pace::Open {
            interval_ns,
            first_ns,
        } = self.pace
        else {
            return 0;
        };
        let length_ns = self.end.saturating_duration_since(self.start).as_nanos() as f64;
        ((length_ns - first_ns) / interval_ns).ceil().max(0.0) as u64
    }

    pub(super) const fn is_open_loop(&self) -> bool {
        matches!(self.pace, Pace::Open { .. })
    }

    pub(super) const fn measure_from(&self) -> Instant {
        self.measure_from
    }

    pub(super) const fn end(&self) -> Instant {
        self.end
    }

    /// True if a request that was due then, and had its answer (or failed) at `now`, counts.
    pub(super) fn counts(&self, due: Instant, now: Instant) -> bool {
        due >= self.measure_from && (self.is_open_loop() || now <= self.end)
    }

    fn due(&self, number: u64) -> Instant {
        match self.pace {
            Pace::Closed => self.start,
            Pace::Open {
                interval_ns,
                first_ns,
            } => self.start + Duration::from_nanos((first_ns + interval_ns * number as f64) as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(millis: u64) -> Instant {
        Instant::default() + Duration::from_millis(1_000_000 + millis)
    }

    fn millis(instant: Instant) -> u64 {
        instant.saturating_duration_since(at(0)).as_millis() as u64
    }

    #[test]
    fn an_open_loop_keeps_its_due_times_however_late_they_are_claimed() {
        let mut schedule = Schedule::new(Pace::open(10.0, 0, 1), at(0), Duration::ZERO, SECOND);
        assert_eq!(schedule.claim(at(0)).map(millis), Some(0));
        assert_eq!(schedule.claim(at(750)).map(millis), Some(100));
        let rest: Vec<u64> = std::iter::from_fn(|| schedule.claim(at(5000)))
            .map(millis)
            .collect();
        assert_eq!(rest, [200, 300, 400, 500, 600, 700, 800, 900]);
        assert_eq!(schedule.due_in_all(), 10);
    }

    #[test]
    fn threads_take_turns() {
        let claim_all = |thread| {
            let mut schedule =
                Schedule::new(Pace::open(10.0, thread, 3), at(0), Duration::ZERO, SECOND);
            std::iter::from_fn(move || schedule.claim(at(0)))
                .map(millis)
                .collect::<Vec<_>>()
        };
        assert_eq!(claim_all(0), [0, 300, 600, 900]);
        assert_eq!(claim_all(1), [100, 400, 700]);
        assert_eq!(claim_all(2), [200, 500, 800]);
    }

    #[test]
    fn a_closed_loop_is_due_whenever_it_asks_until_the_end() {
        let mut schedule = Schedule::new(Pace::Closed, at(0), SECOND, SECOND);
        assert_eq!(schedule.claim(at(3)).map(millis), Some(3));
        assert_eq!(schedule.claim(at(1999)).map(millis), Some(1999));
        assert_eq!(schedule.claim(at(2000)), None);
        assert_eq!(schedule.due_in_all(), 0);
    }

    #[test]
    fn the_warm_up_never_counts_and_what_is_late_counts_in_an_open_loop_only() {
        let open = Schedule::new(Pace::open(10.0, 0, 1), at(0), SECOND, SECOND);
        let closed = Schedule::new(Pace::Closed, at(0), SECOND, SECOND);
        for (due, now, in_open, in_closed) in [
            (999, 1500, false, false),
            (1000, 1500, true, true),
            (1999, 2001, true, false),
        ] {
            assert_eq!(open.counts(at(due), at(now)), in_open, "{due} {now}");
            assert_eq!(closed.counts(at(due), at(now)), in_closed, "{due} {now}");
        }
    }
}
