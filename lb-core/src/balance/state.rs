//! What of a cluster passes on to the next snapshot, and what each worker has of it for its own.
//!
//! Invariant: a worker's part has one writing thread; the rest is written rarely.
//! Read next: `tiers.rs` (what a new epoch leads to).

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_utils::CachePadded;

use super::hash;
use crate::metrics::{ClusterCounters, PerWorker};
use crate::rt::Instant;

/// What of a cluster passes on to the next snapshot.
#[derive(Debug)]
pub(super) struct ClusterState {
    pub(super) counters: PerWorker<ClusterCounters>,
    pub(super) own: PerWorker<Own>,
    /// Moves when a backend becomes usable or unusable. On a line that is written only then.
    epoch: CachePadded<AtomicU32>,
    /// Nanoseconds; 0 is without.
    slow_start: AtomicU64,
    /// Held while one is being ejected, so that the limit on their number is kept.
    pub(super) ejecting: AtomicBool,
}

impl ClusterState {
    pub(super) fn new(workers: usize, seed: u64, now: Instant) -> Self {
        let own: PerWorker<Own> = PerWorker::new(workers);
        for (worker, own) in own.iter().enumerate() {
            let number = (worker as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            own.random
                .store(seed ^ now.as_nanos() ^ number, Ordering::Relaxed);
        }
        Self {
            counters: PerWorker::new(workers),
            own,
            epoch: CachePadded::default(),
            slow_start: AtomicU64::new(0),
            ejecting: AtomicBool::new(false),
        }
    }

    /// Lets the workers start at different places of a cycle of `turns`, so that the first
    /// connections of many workers do not all go to the first backend.
    pub(super) fn spread_turns(&self, turns: usize) {
        let workers = self.own.workers();
        for (worker, own) in self.own.iter().enumerate() {
            own.set_turn(worker * turns / workers);
        }
    }

    #[inline]
    pub(super) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    /// To be called after a backend's status was changed.
    pub(super) fn has_changed(&self) {
        self.epoch.fetch_add(1, Ordering::Release);
    }

    /// Zero is without.
    pub(super) fn slow_start(&self) -> Duration {
        Duration::from_nanos(self.slow_start.load(Ordering::Relaxed))
    }

    pub(super) fn set_slow_start(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.slow_start.store(nanos, Ordering::Relaxed);
    }

    /// Sessions and exchanges in flight; counted only while [`Own::in_flight`] is.
    pub(super) fn in_flight(&self) -> u64 {
        let each = self
            .own
            .iter()
            .map(|own| own.in_flight.load(Ordering::Relaxed));
        each.fold(0, u64::wrapping_add)
    }
}

/// What one worker has of a cluster.
#[derive(Debug, Default)]
pub(super) struct Own {
    /// Where it stands in a cycle of turns.
    turn: AtomicU32,
    random: AtomicU64,
    /// Leases taken less leases dropped; may wrap, as one may be dropped by another worker.
    pub(super) in_flight: AtomicU64,
}

impl Own {
    /// Whose turn it is, in a cycle of `turns`.
    #[inline]
    pub(super) fn turn(&self, turns: usize) -> usize {
        let turn = self.turn.load(Ordering::Relaxed) as usize;
        // At the end of a cycle, or after a snapshot with fewer turns.
        if turn < turns {
            turn
        } else {
            turn % turns.max(1)
        }
    }

    #[inline]
    pub(super) fn set_turn(&self, turn: usize) {
        self.turn.store(turn as u32, Ordering::Relaxed);
    }

    /// A random number (splitmix64).
    #[inline]
    pub(super) fn random(&self) -> u64 {
        let state = self
            .random
            .load(Ordering::Relaxed)
            .wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.random.store(state, Ordering::Relaxed);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A random number below `bound`; 0 if that is 0.
    #[inline]
    pub(super) fn random_below(&self, bound: usize) -> usize {
        hash::place(self.random(), bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_numbers_are_even_and_differ_between_workers() {
        let state = ClusterState::new(2, 7, Instant::START);
        let mut counts = [0_u32; 10];
        for _ in 0..100_000 {
            counts[state.own.of(0).random_below(10)] += 1;
        }
        assert!(
            counts.iter().all(|it| it.abs_diff(10_000) < 475),
            "{counts:?}"
        );
        assert_ne!(state.own.of(0).random(), state.own.of(1).random());
        assert_eq!(state.own.of(0).random_below(0), 0);
    }
}
