//! What an answer takes and whether it is one: service times, servers, failures.
//!
//! Invariant: with so many servers, requests are served in the order in which they came, each by
//! the server that is free first; nobody waits beside an idle server.
//! Read next: `delay.rs` (the distribution).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lb_core::rt::Instant;

use super::Delay;
use crate::tcp::SplitMix64;

/// How an origin treats requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Service {
    /// Time taken for each.
    pub delay: Delay,
    /// Requests served at a time; the others wait. 0: any number.
    pub servers: usize,
    /// Part of all requests that fail, from 0 to 1: HTTP 503, TCP closed without an answer.
    pub error_rate: f64,
    /// Part of all requests that are answered by a reset of their connection (HTTP/2: stream).
    pub reset_rate: f64,
    /// How answers begin; they take their usual time after that.
    pub slow_start: SlowStart,
}

/// A server that has just begun: its caches are cold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SlowStart {
    /// Extra time of the first answer.
    pub extra: Duration,
    /// After this nothing is left of it; it goes down evenly.
    pub lasts: Duration,
}

impl Service {
    /// Everything is answered at once.
    pub const AT_ONCE: Self = Self {
        delay: Delay::None,
        servers: 0,
        error_rate: 0.0,
        reset_rate: 0.0,
        slow_start: SlowStart {
            extra: Duration::ZERO,
            lasts: Duration::ZERO,
        },
    };
}

impl SlowStart {
    /// What is left of the extra time after `age`.
    fn left(self, age: Duration) -> Option<Duration> {
        let left = self.lasts.checked_sub(age).filter(|left| !left.is_zero())?;
        Some(
            self.extra
                .mul_f64(left.as_secs_f64() / self.lasts.as_secs_f64()),
        )
    }
}

/// Time that every answer takes longer for now; shared by all that serve.
#[derive(Debug, Clone, Default)]
pub(super) struct Slowness(Arc<AtomicU64>);

impl Slowness {
    pub(super) fn set(&self, extra: Duration) {
        let nanos = u64::try_from(extra.as_nanos()).unwrap_or(u64::MAX);
        self.0.store(nanos, Ordering::Relaxed);
    }

    fn extra(&self) -> Option<Duration> {
        let nanos = self.0.load(Ordering::Relaxed);
        (nanos > 0).then(|| Duration::from_nanos(nanos))
    }
}

/// A service at work.
#[derive(Debug)]
pub(super) struct Counter {
    service: Service,
    slowness: Slowness,
    random: SplitMix64,
    began: Instant,
    /// The slow start is over, or there is none.
    is_warm: bool,
    /// When each server will be free.
    free_at: Vec<Instant>,
}

/// What becomes of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    /// When it is to be answered; `None`: at once.
    pub(super) at: Option<Instant>,
    /// How it ends.
    pub(super) fate: Fate,
}

/// How a request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// With an answer.
    Answered,
    /// With an error.
    Failed,
    /// With a reset.
    Reset,
}

impl Counter {
    pub(super) fn new(service: Service, slowness: Slowness, seed: u64, began: Instant) -> Self {
        Self {
            service,
            began,
            is_warm: service.slow_start.lasts.is_zero(),
            slowness,
            random: SplitMix64::new(seed),
            free_at: vec![Instant::default(); service.servers],
        }
    }

    /// Whether all requests are answered at once and well, so that none needs a turn.
    pub(super) fn is_idle(&self) -> bool {
        self.service.delay == Delay::None
            && self.service.error_rate == 0.0
            && self.service.reset_rate == 0.0
            && self.is_warm
            && self.slowness.extra().is_none()
    }

    /// The turn of a request that came at `now`.
    pub(super) fn turn(&mut self, now: impl FnOnce() -> Instant) -> Turn {
        let fate = self.fate();
        let parts = [
            self.service.delay.draw(&mut self.random),
            self.slowness.extra(),
        ];
        let delay = parts.into_iter().flatten().reduce(|a, b| a + b);
        if self.is_warm {
            let at = delay.map(|delay| self.served(now(), delay));
            return Turn { at, fate };
        }
        let now = now();
        let age = now.saturating_duration_since(self.began);
        let cold = self.service.slow_start.left(age);
        self.is_warm = cold.is_none();
        let delay = delay.into_iter().chain(cold).reduce(|a, b| a + b);
        let at = delay.map(|delay| self.served(now, delay));
        Turn { at, fate }
    }

    fn fate(&mut self) -> Fate {
        let Service {
            error_rate,
            reset_rate,
            ..
        } = self.service;
        if error_rate == 0.0 && reset_rate == 0.0 {
            return Fate::Answered;
        }
        let drawn = self.random.next_unit();
        if drawn <= reset_rate {
            Fate::Reset
        } else if drawn <= reset_rate + error_rate {
            Fate::Failed
        } else {
            Fate::Answered
        }
    }

    fn served(&mut self, now: Instant, takes: Duration) -> Instant {
        let Some(free_at) = self.free_at.iter_mut().min() else {
            return now + takes;
        };
        *free_at = now.max(*free_at) + takes;
        *free_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::default() + Duration::from_millis(millis)
    }

    #[test]
    fn requests_wait_for_the_server_that_is_free_first() {
        let service = Service {
            delay: Delay::Fixed(Duration::from_millis(10)),
            servers: 2,
            ..Service::AT_ONCE
        };
        let mut counter = Counter::new(service, Slowness::default(), 1, at(0));
        let mut answered = |now| counter.turn(|| at(now)).at.unwrap();
        assert_eq!(answered(100), at(110));
        assert_eq!(answered(103), at(113));
        assert_eq!(answered(104), at(120), "after the first");
        assert_eq!(answered(105), at(123), "after the second");
        assert_eq!(answered(300), at(310), "nobody is waiting any more");
    }

    #[test]
    fn slowness_comes_and_goes() {
        let slowness = Slowness::default();
        let mut counter = Counter::new(Service::AT_ONCE, slowness.clone(), 1, at(0));
        assert!(counter.is_idle() && counter.turn(|| at(5)).at.is_none());
        slowness.set(Duration::from_millis(20));
        assert_eq!(
            (counter.is_idle(), counter.turn(|| at(5)).at),
            (false, Some(at(25)))
        );
        slowness.set(Duration::ZERO);
        assert!(counter.is_idle());
    }

    #[test]
    fn a_slow_start_gets_faster_and_ends() {
        let service = Service {
            slow_start: SlowStart {
                extra: Duration::from_millis(100),
                lasts: Duration::from_secs(1),
            },
            ..Service::AT_ONCE
        };
        let mut counter = Counter::new(service, Slowness::default(), 1, at(5_000));
        for (now, expected) in [
            (5_000, Some(5_100)),
            (5_500, Some(5_550)),
            (5_900, Some(5_910)),
        ] {
            assert_eq!(counter.turn(|| at(now)).at, expected.map(at));
            assert!(!counter.is_idle());
        }
        assert_eq!(counter.turn(|| at(6_000)).at, None);
        assert!(counter.is_idle());
    }

    #[test]
    fn as_many_fail_as_were_asked_for() {
        let service = Service {
            error_rate: 0.3,
            reset_rate: 0.1,
            ..Service::AT_ONCE
        };
        let mut counter = Counter::new(service, Slowness::default(), 1, at(0));
        assert!(!counter.is_idle());
        let fates: Vec<Fate> = (0..10_000).map(|_| counter.turn(|| at(0)).fate).collect();
        let count = |fate| fates.iter().filter(|drawn| **drawn == fate).count();
        let (failed, reset) = (count(Fate::Failed), count(Fate::Reset));
        assert!((2_800..3_200).contains(&failed), "{failed}");
        assert!((900..1_100).contains(&reset), "{reset}");
        assert!(Counter::new(Service::AT_ONCE, Slowness::default(), 1, at(0)).is_idle());
    }
}
