//! Outlier detection: a backend whose sessions and exchanges fail is ejected for a time.
//!
//! Invariant: a success writes shared memory only if it has something to end (a row of failures)
//! or a ratio is looked at. No more backends are ejected at a time than the plan allows.
//! Read next: `lease.rs` (who reports), `mod.rs` (`Cluster::tick`, which ends ejections).

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::backend::{Backend, BackendState, EJECTED};
use super::state::ClusterState;
use crate::plan::Outlier;
use crate::rt::Instant;

/// What is known of a backend's failures.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// In a row.
    failures: AtomicU32,
    /// When the window began that the next two count in.
    window_from: AtomicU64,
    window_all: AtomicU32,
    window_failed: AtomicU32,
    /// When the latest failure was, or the latest ejection ended.
    calm_since: AtomicU64,
    /// How much longer than the first an ejection lasts: grows with each, shrinks with calm.
    times: AtomicU32,
    ejected_until: AtomicU64,
    ejections: AtomicU64,
}

impl Record {
    pub(super) fn ejections(&self) -> u64 {
        self.ejections.load(Ordering::Relaxed)
    }

    /// A session or exchange went well.
    #[inline]
    pub(super) fn answered(&self, outlier: &Outlier, now: Instant) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        if outlier.ratio.is_some() {
            self.count(outlier, false, now);
        }
    }

    /// One failed; whether that is one too many.
    fn failed(&self, outlier: &Outlier, now: Instant) -> bool {
        let failures = self
            .failures
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        let in_a_row = outlier
            .failures
            .is_some_and(|most| failures >= u32::from(most));
        let too_often = outlier.ratio.is_some_and(|ratio| {
            let (all, failed) = self.count(outlier, true, now);
            let enough = all >= u64::from(outlier.requests_least);
            enough && failed * 100 >= all * u64::from(ratio)
        });
        self.calm_down(outlier, now);
        in_a_row || too_often
    }

    /// Counts in the window, and returns what it has. Counts of two workers that begin a window
    /// at once may be lost, which a ratio can bear.
    fn count(&self, outlier: &Outlier, failed: bool, now: Instant) -> (u64, u64) {
        let (from, now) = (self.window_from.load(Ordering::Relaxed), now.as_nanos());
        let is_over = u128::from(now.saturating_sub(from)) >= outlier.window.as_nanos();
        if is_over
            && self
                .window_from
                .compare_exchange(from, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            self.window_all.store(0, Ordering::Relaxed);
            self.window_failed.store(0, Ordering::Relaxed);
        }
        let all = self.window_all.fetch_add(1, Ordering::Relaxed) + 1;
        let failed = self
            .window_failed
            .fetch_add(u32::from(failed), Ordering::Relaxed)
            + u32::from(failed);
        (u64::from(all), u64::from(failed))
    }

    /// Each time of calm as long as the first ejection takes one off what makes them longer.
    fn calm_down(&self, outlier: &Outlier, now: Instant) {
        let since = self.calm_since.swap(now.as_nanos(), Ordering::Relaxed);
        let calm = u128::from(now.as_nanos().saturating_sub(since));
        let less = calm / outlier.ejection.as_nanos().max(1);
        let times = self.times.load(Ordering::Relaxed);
        let less = u32::try_from(less).unwrap_or(u32::MAX);
        self.times
            .store(times.saturating_sub(less), Ordering::Relaxed);
    }

    /// How long the ejection lasts that begins now.
    fn next_ejection(&self, outlier: &Outlier) -> Duration {
        let times = self.times.load(Ordering::Relaxed).saturating_add(1);
        self.times.store(times, Ordering::Relaxed);
        outlier
            .ejection
            .saturating_mul(times)
            .min(outlier.ejection_max)
    }
}

/// Takes in a failure of `state`'s, one of `backends`.
pub(super) fn failed(
    outlier: &Outlier,
    state: &BackendState,
    backends: &[std::sync::Arc<Backend>],
    now: Instant,
) {
    if state.record.failed(outlier, now) && state.hot.status() & EJECTED == 0 {
        eject(outlier, state, backends, now);
    }
}

#[cold]
fn eject(
    outlier: &Outlier,
    state: &BackendState,
    backends: &[std::sync::Arc<Backend>],
    now: Instant,
) {
    let cluster: &ClusterState = &state.cluster;
    // One at a time, so that the limit is kept. Who comes second leaves it to the next failure.
    if cluster.ejecting.swap(true, Ordering::Acquire) {
        return;
    }
    let ejected = backends.iter().filter(|it| it.is_ejected()).count();
    if ejected < ejected_most(outlier, backends.len()) && state.hot.status() & EJECTED == 0 {
        let until = now + state.record.next_ejection(outlier);
        state
            .record
            .ejected_until
            .store(until.as_nanos(), Ordering::Relaxed);
        state.record.ejections.fetch_add(1, Ordering::Relaxed);
        state.hot.set(EJECTED);
        cluster.has_changed();
    }
    cluster.ejecting.store(false, Ordering::Release);
}

/// How many of `count` backends may be ejected at a time.
fn ejected_most(outlier: &Outlier, count: usize) -> usize {
    let share = count * usize::from(outlier.ejected_max) / 100;
    if count < 2 { 0 } else { share.max(1) }
}

impl BackendState {
    /// Ends an ejection that is over; the backend then starts slowly.
    pub(super) fn end_ejection(&self, now: Instant) {
        let until = self.record.ejected_until.load(Ordering::Relaxed);
        if self.hot.status() & EJECTED != 0 && now.as_nanos() >= until {
            self.forgive(now);
        }
    }

    /// Ends an ejection, whether it is over or not.
    pub(super) fn forgive(&self, now: Instant) {
        if self.hot.status() & EJECTED == 0 {
            return;
        }
        self.record.failures.store(0, Ordering::Relaxed);
        self.record.window_all.store(0, Ordering::Relaxed);
        self.record.window_failed.store(0, Ordering::Relaxed);
        self.record
            .calm_since
            .store(now.as_nanos(), Ordering::Relaxed);
        self.begin_slowly(now);
        self.hot.clear(EJECTED);
        self.cluster.has_changed();
    }
}
