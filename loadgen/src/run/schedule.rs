//! When requests are due: the schedule is data, and there is one send loop whatever it says.
//!
//! Invariant: an open loop's schedule never waits for an answer. A request that no connection was
//! free for keeps its due time, so its wait is part of its latency (no coordinated omission).
//! Read next: `connection.rs`, the send loop.

use std::sync::Arc;
use std::time::Duration;

use lb_core::rt::Instant;

use crate::tcp::SplitMix64;

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
#[derive(Debug, Clone)]
pub(super) enum Pace {
    /// As fast as answers come.
    Closed,
    /// Whatever the answers do: every `threads`th request, beginning with number `thread`.
    Open {
        arrivals: Arrivals,
        thread: u64,
        threads: u64,
    },
}

/// When which request is due; times in seconds from the start.
#[derive(Debug, Clone)]
pub(super) enum Arrivals {
    /// Evenly.
    Even { per_s: f64 },
    /// As listed, in ascending order.
    Listed(Arc<[Duration]>),
    /// At random, each thread for itself: a Poisson process.
    Poisson {
        per_s: f64,
        random: SplitMix64,
        next_s: f64,
    },
    /// At a rate that changes evenly over so many seconds.
    Ramp { from: f64, to: f64, seconds: f64 },
    /// At rates that change by equal steps of so many seconds.
    Stairs {
        from: f64,
        to: f64,
        steps: u32,
        seconds: f64,
    },
}

impl Arrivals {
    /// Request `number` of all threads; `None` when there is no such one.
    fn due_s(&self, number: u64) -> Option<f64> {
        let at = number as f64;
        match self {
            Self::Even { per_s } => Some(at / per_s),
            Self::Listed(times) => {
                let time = times.get(usize::try_from(number).ok()?)?;
                Some(time.as_secs_f64())
            }
            Self::Poisson { next_s, .. } => Some(*next_s),
            Self::Ramp { from, to, seconds } => {
                // from · t + (to - from) · t² / (2 · seconds) requests are due until t.
                let slope = (to - from) / seconds;
                if slope == 0.0 {
                    return Some(at / from);
                }
                let root = 2.0_f64.mul_add(slope * at, from * from);
                (root >= 0.0).then(|| (root.sqrt() - from) / slope)
            }
            Self::Stairs {
                from,
                to,
                steps,
                seconds,
            } => {
                let (mut left, length) = (at, seconds / f64::from(*steps));
                for step in 0..*steps {
                    let part = f64::from(step) / f64::from((steps - 1).max(1));
                    let rate = (to - from).mul_add(part, *from);
                    if left < rate * length {
                        return Some(length.mul_add(f64::from(step), left / rate));
                    }
                    left -= rate * length;
                }
                None
            }
        }
    }

    /// One of them was claimed.
    fn advance(&mut self) {
        if let Self::Poisson {
            per_s,
            random,
            next_s,
        } = self
        {
            *next_s -= random.next_unit().ln() / *per_s;
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

    /// Hands out the next request: when it is due, which may be in the past, and its number;
    /// `None` when there is no further one before the end.
    pub(super) fn claim(&mut self, now: Instant) -> Option<(Instant, u64)> {
        let (due, number) = match &self.pace {
            Pace::Closed => (now, self.claimed),
            Pace::Open { .. } => self.due(self.claimed)?,
        };
        if due >= self.end {
            return None;
        }
        self.claimed += 1;
        if let Pace::Open { arrivals, .. } = &mut self.pace {
            arrivals.advance();
        }
        Some((due, number))
    }

    /// Open loop: all requests that are due before the end, claimed or not.
    pub(super) fn due_in_all(&self) -> u64 {
        if !self.is_open_loop() {
            return 0;
        }
        let mut rest = self.clone();
        while rest.claim(self.end).is_some() {}
        rest.claimed
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

    /// When this thread's request `own` is due, and its number among those of all threads.
    fn due(&self, own: u64) -> Option<(Instant, u64)> {
        let Pace::Open {
            arrivals,
            thread,
            threads,
        } = &self.pace
        else {
            return None;
        };
        let number = thread + own * threads;
        let due = arrivals.due_s(number)?;
        Some((self.start + Duration::from_secs_f64(due), number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(millis: u64) -> Instant {
        Instant::default() + Duration::from_millis(1_000_000 + millis)
    }

    fn even(per_s: f64, thread: u64, threads: u64) -> Pace {
        open(Arrivals::Even { per_s }, thread, threads)
    }

    fn open(arrivals: Arrivals, thread: u64, threads: u64) -> Pace {
        Pace::Open {
            arrivals,
            thread,
            threads,
        }
    }

    /// Milliseconds at which requests are due, of one thread.
    fn all(arrivals: Arrivals, duration: Duration) -> Vec<u64> {
        let pace = open(arrivals, 0, 1);
        let mut schedule = Schedule::new(pace, at(0), Duration::ZERO, duration);
        let expected = schedule.due_in_all();
        let due: Vec<u64> = std::iter::from_fn(|| schedule.claim(at(0)))
            .map(millis)
            .collect();
        assert_eq!(due.len() as u64, expected);
        due
    }

    #[test]
    fn rates_rise_evenly_or_by_steps() {
        let ramp = Arrivals::Ramp {
            from: 0.0,
            to: 200.0,
            seconds: 1.0,
        };
        let due = all(ramp, SECOND);
        assert_eq!(due.len(), 100);
        let early = due.iter().filter(|due| **due < 500).count();
        assert!((24..=26).contains(&early), "{due:?}");
        let falling = Arrivals::Ramp {
            from: 200.0,
            to: 0.0,
            seconds: 1.0,
        };
        let early = all(falling, SECOND)
            .iter()
            .filter(|due| **due < 500)
            .count();
        assert!((74..=76).contains(&early));
        let stairs = Arrivals::Stairs {
            from: 10.0,
            to: 30.0,
            steps: 3,
            seconds: 3.0,
        };
        let due = all(stairs, SECOND * 3);
        let in_second = |n: u64| due.iter().filter(|due| **due / 1000 == n).count();
        assert_eq!([0, 1, 2].map(in_second), [10, 20, 30]);
    }

    #[test]
    fn random_arrivals_keep_their_rate_and_vary_as_they_should() {
        let random = Arrivals::Poisson {
            per_s: 1000.0,
            random: SplitMix64::new(1),
            next_s: 0.0,
        };
        let due = all(random, SECOND * 10);
        assert!((9_700..10_300).contains(&due.len()), "{}", due.len());
        let gaps = due.windows(2).map(|pair| (pair[1] - pair[0]) as f64);
        let variance = gaps.map(|gap| (gap - 1.0).powi(2)).sum::<f64>() / due.len() as f64;
        assert!((0.8..1.4).contains(&variance), "{variance}");
    }

    #[test]
    fn a_list_is_kept_to_its_end() {
        let listed = [0, 5, 5, 990, 1500].map(Duration::from_millis);
        assert_eq!(all(Arrivals::Listed(listed.into()), SECOND), [0, 5, 5, 990]);
    }

    fn millis((instant, _): (Instant, u64)) -> u64 {
        instant.saturating_duration_since(at(0)).as_millis() as u64
    }

    #[test]
    fn an_open_loop_keeps_its_due_times_however_late_they_are_claimed() {
        let mut schedule = Schedule::new(even(10.0, 0, 1), at(0), Duration::ZERO, SECOND);
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
            let mut schedule = Schedule::new(even(10.0, thread, 3), at(0), Duration::ZERO, SECOND);
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
        let open = Schedule::new(even(10.0, 0, 1), at(0), SECOND, SECOND);
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
