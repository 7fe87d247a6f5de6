//! Slow start: a backend that was added, or became usable again, gets its share bit by bit.
//!
//! Invariant: the share grows in a straight line from [`SHARE_LEAST`] to [`SHARE_FULL`] over the
//! cluster's duration. A scheduler counts a backend's weight as `weight * share / SHARE_FULL`, or
//! passes over it so often that it comes to the same (`schedulers/mod.rs`, `Ask::accepts`).
//! Read next: `mod.rs` (`Cluster::tick`).

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::backend::{BackendState, WARMING};
use crate::rt::Instant;

/// All of the weight.
pub(super) const SHARE_FULL: u32 = 1024;

/// A tenth, so that a backend without load begins to get some at once.
pub(super) const SHARE_LEAST: u32 = SHARE_FULL / 10;

impl BackendState {
    /// Starts slowly from `now` on, if the cluster does so.
    pub(super) fn begin_slowly(&self, now: Instant) {
        if self.cluster.slow_start().is_zero() {
            return;
        }
        self.warming_since.store(now.as_nanos(), Ordering::Relaxed);
        self.hot.share.store(SHARE_LEAST, Ordering::Relaxed);
        self.hot.set(WARMING);
    }

    /// Brings the share up to date.
    pub(super) fn warm(&self, now: Instant) {
        if self.hot.status() & WARMING == 0 {
            return;
        }
        let since = self.warming_since.load(Ordering::Relaxed);
        let elapsed = Duration::from_nanos(now.as_nanos().saturating_sub(since));
        let share = share(elapsed, self.cluster.slow_start());
        self.hot.share.store(share, Ordering::Relaxed);
        if share == SHARE_FULL {
            self.hot.clear(WARMING);
        }
    }
}

/// The share `elapsed` after the beginning of a slow start that takes `duration`.
fn share(elapsed: Duration, duration: Duration) -> u32 {
    if elapsed >= duration {
        return SHARE_FULL;
    }
    let grown = u128::from(SHARE_FULL - SHARE_LEAST) * elapsed.as_nanos() / duration.as_nanos();
    SHARE_LEAST + u32::try_from(grown).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_grows_in_a_straight_line() {
        let duration = Duration::from_secs(10);
        let at = |millis| share(Duration::from_millis(millis), duration);
        assert_eq!(
            [at(0), at(5000), at(10_000), at(90_000)],
            [102, 563, 1024, 1024]
        );
        assert_eq!(share(Duration::ZERO, Duration::ZERO), SHARE_FULL);
        assert!((0..10_000).all(|it| at(it) <= at(it + 1)));
    }
}
