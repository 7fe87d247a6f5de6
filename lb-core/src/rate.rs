//! A token bucket that all workers take from.
//!
//! Invariant: one number is the whole state: when the bucket will be full again if nobody takes
//! (the generic cell rate algorithm). Taking is one compare-and-swap; time comes from the caller.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::plan::Rate;
use crate::rt::Instant;

/// Full at first.
#[derive(Debug, Default)]
pub struct TokenBucket {
    full_at_nanos: AtomicU64,
}

impl TokenBucket {
    /// Takes one token, if there is one.
    pub fn take(&self, rate: Rate, now: Instant) -> bool {
        let period = 1_000_000_000 / u64::from(rate.per_second);
        let capacity = period * u64::from(rate.burst);
        let now = now.as_nanos();
        let take = |full_at: u64| {
            let full_at = full_at.max(now) + period;
            (full_at <= now + capacity).then_some(full_at)
        };
        self.full_at_nanos
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_then_the_rate_then_a_burst_again() {
        let bucket = TokenBucket::default();
        let rate = Rate {
            per_second: 10,
            burst: 3,
        };
        let start = Instant::START + Duration::from_secs(7);
        let takes =
            |at: Instant, tries: usize| (0..tries).filter(|_| bucket.take(rate, at)).count();
        assert_eq!(takes(start, 9), 3);
        assert_eq!(takes(start + Duration::from_millis(99), 9), 0);
        assert_eq!(takes(start + Duration::from_millis(100), 9), 1);
        assert_eq!(takes(start + Duration::from_millis(250), 9), 1);
        assert_eq!(takes(start + Duration::from_secs(60), 9), 3);
        let steady = (1..=100)
            .map(|step| start + Duration::from_secs(60) + Duration::from_millis(step * 50));
        assert_eq!(steady.filter(|at| bucket.take(rate, *at)).count(), 50);
    }
}
