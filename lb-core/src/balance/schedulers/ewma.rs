//! Peak EWMA: a backend's latency, up at once and down slowly (Finagle's PeakEwma, which
//! ingress-nginx's `ewma` comes from).
//!
//! Invariant: it is one word, the average in seconds (f32) and when it was updated (units of
//! 16.4 µs, 32 bits), so a reader never sees one without the other.
//! Read next: `draws.rs`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::rt::Instant;

/// A latency average and its time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in super::super) struct Latency {
    seconds: f32,
    at: u32,
}

impl Latency {
    /// After this time an old latency counts 1/e, as in Finagle and ingress-nginx.
    const DECAY: Duration = Duration::from_secs(10);

    /// What a failure counts as: much, so that a backend that fails at once does not look fast.
    pub(in super::super) const OF_FAILURE: Duration = Duration::from_secs(1);

    /// Latency of one that has not answered yet, or long ago: not 0, so that its load counts.
    const LEAST_SECONDS: f32 = 1e-9;

    /// What sending one more to a backend costs: its latency times what would be in flight.
    #[inline]
    pub(super) fn cost(word: &AtomicU64, in_flight: u32, now: Instant) -> f32 {
        let latency = Self::unpack(word.load(Ordering::Relaxed)).decayed(units(now), 0.0);
        latency.max(Self::LEAST_SECONDS) * (in_flight as f32 + 1.0)
    }

    /// Takes in a latency observed at `now`.
    #[inline]
    pub(in super::super) fn observe(word: &AtomicU64, latency: Duration, now: Instant) {
        let before = word.load(Ordering::Relaxed);
        let average = Self::unpack(before);
        let (at, observed) = (average.later(units(now)), latency.as_secs_f32());
        let seconds = if observed > average.seconds {
            observed // the peak
        } else {
            average.decayed(at, observed)
        };
        if at == average.at && seconds == average.seconds {
            return;
        }
        // When another worker was faster, its observation stands and this one is lost.
        let after = Self { seconds, at }.pack();
        let _ = word.compare_exchange(before, after, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The mean of those that have answered: what a new backend starts with, so that it is not
    /// taken for the fastest of all. `None` if none has.
    pub(in super::super) fn mean<'a>(
        words: impl Iterator<Item = &'a AtomicU64>,
        now: Instant,
    ) -> Option<Self> {
        let at = units(now);
        let known: Vec<f32> = words
            .map(|word| Self::unpack(word.load(Ordering::Relaxed)))
            .filter(|latency| latency.seconds > 0.0)
            .map(|latency| latency.decayed(at, 0.0))
            .collect();
        let seconds = known.iter().sum::<f32>() / known.len() as f32;
        (!known.is_empty()).then_some(Self { seconds, at })
    }

    pub(in super::super) fn store(self, word: &AtomicU64) {
        word.store(self.pack(), Ordering::Relaxed);
    }

    /// The average at `at`, moved towards `observed`.
    #[inline]
    fn decayed(self, at: u32, observed: f32) -> f32 {
        let age = self.later(at).wrapping_sub(self.at);
        let weight = (-(age as f32) * (UNIT_SECONDS / Self::DECAY.as_secs_f32())).exp();
        observed + (self.seconds - observed) * weight
    }

    /// Workers' clocks may differ by a turn: what seems to be the past is the present.
    #[inline]
    const fn later(self, at: u32) -> u32 {
        if at.wrapping_sub(self.at) > u32::MAX / 2 {
            self.at
        } else {
            at
        }
    }

    const fn pack(self) -> u64 {
        (self.seconds.to_bits() as u64) << 32 | self.at as u64
    }

    const fn unpack(word: u64) -> Self {
        Self {
            seconds: f32::from_bits((word >> 32) as u32),
            at: word as u32,
        }
    }
}

const UNIT_SHIFT: u32 = 14;
const UNIT_SECONDS: f32 = (1 << UNIT_SHIFT) as f32 / 1e9;

/// Goes round after 19.5 hours; a backend that nobody used for so long may look as it did then.
#[inline]
const fn units(now: Instant) -> u32 {
    (now.as_nanos() >> UNIT_SHIFT) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::START + Duration::from_millis(millis)
    }

    fn cost(word: &AtomicU64, in_flight: u32, millis: u64) -> f32 {
        Latency::cost(word, in_flight, at(millis))
    }

    fn is_near(one: f32, other: f32) -> bool {
        (one - other).abs() <= other.abs() * 1e-3
    }

    #[test]
    fn goes_up_at_once_and_down_within_ten_seconds() {
        let word = AtomicU64::new(0);
        Latency::observe(&word, Duration::from_millis(10), at(1000));
        assert!(is_near(cost(&word, 0, 1000), 0.010));
        Latency::observe(&word, Duration::from_millis(100), at(2000));
        assert!(is_near(cost(&word, 0, 2000), 0.100));
        Latency::observe(&word, Duration::from_millis(10), at(12_000));
        assert!(is_near(
            cost(&word, 0, 12_000),
            0.010 + 0.090 / std::f32::consts::E
        ));
        // Without an observation, too.
        assert!(is_near(
            cost(&word, 0, 22_000),
            0.043_109 / std::f32::consts::E
        ));
    }

    #[test]
    fn load_multiplies_the_cost_even_before_the_first_answer() {
        let word = AtomicU64::new(0);
        assert!(cost(&word, 3, 0) > cost(&word, 2, 0));
        Latency::observe(&word, Duration::from_millis(10), at(0));
        assert!(is_near(cost(&word, 3, 0), 0.040));
    }

    #[test]
    fn a_new_backend_starts_at_the_mean_of_the_others() {
        let others: Vec<AtomicU64> = (0..3).map(|_| AtomicU64::new(0)).collect();
        assert_eq!(Latency::mean(others.iter(), at(0)), None);
        Latency::observe(&others[0], Duration::from_millis(10), at(0));
        Latency::observe(&others[1], Duration::from_millis(30), at(0));
        let word = AtomicU64::new(0);
        Latency::mean(others.iter(), at(0)).unwrap().store(&word);
        assert!(is_near(cost(&word, 0, 0), 0.020));
    }

    #[test]
    fn an_observation_from_a_clock_behind_does_no_harm() {
        let word = AtomicU64::new(0);
        Latency::observe(&word, Duration::from_millis(10), at(1000));
        Latency::observe(&word, Duration::from_millis(5), at(990));
        assert!(is_near(cost(&word, 0, 1000), 0.010));
    }

    proptest! {
        /// Against the formula in double precision.
        #[test]
        fn agrees_with_a_plain_model(
            observations in proptest::collection::vec((1_u64..60_000, 1_u64..5_000_000), 1..50),
        ) {
            let word = AtomicU64::new(0);
            let (mut model, mut before, mut now) = (0.0_f64, 0, 0);
            for (pause_millis, micros) in observations {
                now += pause_millis;
                let observed = micros as f64 / 1e6;
                let weight = (-((now - before) as f64) / 10_000.0).exp();
                model = if observed > model {
                    observed
                } else {
                    observed + (model - observed) * weight
                };
                before = now;
                Latency::observe(&word, Duration::from_micros(micros), at(now));
                let cost = f64::from(cost(&word, 0, now));
                prop_assert!((cost - model).abs() <= model * 0.01, "{} {}", cost, model);
            }
        }
    }
}
