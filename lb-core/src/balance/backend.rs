//! One backend at work: its identity, health, load and counters.
//!
//! Invariant: what passes on to the next snapshot is in [`BackendState`], all of it atomic; the
//! rest is as the plan says.
//! Read next: `health.rs` and `outlier.rs` (what sets the health), `lease.rs` (what counts the
//! load), `slow_start.rs`, `sharing.rs`.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

use super::outlier::Record;
use super::sharing::Sharing;
use super::slow_start::SHARE_FULL;
use super::state::ClusterState;
use crate::metrics::{BackendCounters, PerWorker};
use crate::plan::{self, Condition, Tier};
use crate::rt::{self, Instant};

/// One address to send to, at work.
#[derive(Debug)]
pub struct Backend {
    /// Where it listens.
    pub address: SocketAddr,
    /// As the user wrote it.
    pub name: String,
    /// Share of the load relative to the others; 0 takes no new load.
    pub weight: u16,
    /// Whether it is used from the start, or when the others are gone.
    pub tier: Tier,
    /// Whether its source says that it takes load.
    pub condition: Condition,
    /// Position in the cluster of this snapshot, for [`Tried`](super::Tried); what stays is
    /// [`Backend::id`].
    pub index: u16,
    pub(super) state: Arc<BackendState>,
}

impl Backend {
    /// Its identity in this process.
    pub fn id(&self) -> BackendId {
        self.state.id
    }

    /// Whether its checks find it working. A new backend is thought to, until they say otherwise.
    #[inline]
    pub fn is_healthy(&self) -> bool {
        self.state.hot.status() & UNHEALTHY == 0
    }

    /// Whether outlier detection has ejected it for now.
    pub fn is_ejected(&self) -> bool {
        self.state.hot.status() & EJECTED != 0
    }

    /// Sets what [`Backend::is_healthy`] answers, in every snapshot that has the backend. One that
    /// becomes healthy starts slowly, if its cluster says so.
    pub fn set_healthy(&self, healthy: bool) {
        self.set_healthy_at(healthy, rt::now());
    }

    pub(super) fn set_healthy_at(&self, healthy: bool, now: Instant) {
        if healthy == self.is_healthy() {
            return;
        }
        if healthy {
            self.state.begin_slowly(now);
            self.state.hot.clear(UNHEALTHY);
        } else {
            self.state.hot.set(UNHEALTHY);
        }
        self.state.cluster.has_changed();
    }

    /// What becomes of new sessions and exchanges that might go to it, for display.
    pub fn state(&self) -> State {
        match self.condition {
            Condition::Terminating => State::Terminating,
            Condition::Draining => State::Draining,
            _ if self.weight == 0 => State::Draining,
            _ if !self.is_healthy() => State::Unhealthy,
            _ if self.is_ejected() => State::Ejected,
            Condition::Serving => State::Serving,
            Condition::Ready => State::Ready,
        }
    }

    /// The counters that `worker` writes.
    #[inline]
    pub fn counters(&self, worker: usize) -> &BackendCounters {
        self.state.counters.of(worker)
    }

    /// Number of workers.
    pub fn workers(&self) -> usize {
        self.state.counters.workers()
    }

    /// Whether it has left the plan for good.
    pub fn is_gone(&self) -> bool {
        self.state.hot.status() & GONE != 0
    }

    /// Says that it has left the plan: connections to it are not kept any more.
    pub fn set_gone(&self) {
        self.state.hot.set(GONE);
    }

    /// Sessions and exchanges under way, of all workers.
    #[inline]
    pub fn in_flight(&self) -> u32 {
        self.state.hot.in_flight()
    }

    /// How often it was ejected.
    pub fn ejections(&self) -> u64 {
        self.state.record.ejections()
    }

    /// Adds up one number over the workers.
    pub fn sum(&self, number: impl Fn(&BackendCounters) -> u64) -> u64 {
        self.state.counters.iter().map(number).sum()
    }
}

/// What becomes of new sessions and exchanges that might go to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// It takes those that affinity holds only.
    Draining,
    /// It takes none until its ejection is over: too many failed.
    Ejected,
    /// It takes them.
    Ready,
    /// It takes them while no ready one is left.
    Serving,
    /// It takes none.
    Terminating,
    /// It takes none until its checks succeed.
    Unhealthy,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 6] = [
        Self::Draining,
        Self::Ejected,
        Self::Ready,
        Self::Serving,
        Self::Terminating,
        Self::Unhealthy,
    ];

    /// The name, in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::Ejected => "ejected",
            Self::Ready => "ready",
            Self::Serving => "serving",
            Self::Terminating => "terminating",
            Self::Unhealthy => "unhealthy",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Names a backend for as long as its address stays in its cluster, over all snapshots; never
/// used again in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId(u32);

/// What of a backend passes on to the next snapshot.
#[derive(Debug)]
pub(super) struct BackendState {
    id: BackendId,
    pub(super) cluster: Arc<ClusterState>,
    pub(super) hot: CachePadded<Hot>,
    /// When it began to start slowly, nanoseconds of [`Instant`]; means nothing without
    /// [`WARMING`].
    pub(super) warming_since: AtomicU64,
    pub(super) record: Record,
    pub(super) sharing: Sharing,
    counters: PerWorker<BackendCounters>,
}

impl BackendState {
    pub(super) fn new(cluster: Arc<ClusterState>, workers: usize) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self {
            id: BackendId(NEXT.fetch_add(1, Ordering::Relaxed)),
            cluster,
            hot: CachePadded::default(),
            warming_since: AtomicU64::new(0),
            record: Record::default(),
            sharing: Sharing::default(),
            counters: PerWorker::new(workers),
        }
    }

    /// Drops what a plan leaves no place for.
    pub(super) fn adapt(&self, plan: &plan::Cluster, now: Instant) {
        if plan.outlier.is_none() {
            self.forgive(now);
        }
        if plan.health.is_none() && self.hot.clear(UNHEALTHY) {
            self.cluster.has_changed();
        }
        self.warm(now);
    }
}

/// A bit of [`Hot::status`]: the checks fail.
pub(super) const UNHEALTHY: u32 = 1;
/// A bit of [`Hot::status`]: ejected by outlier detection.
pub(super) const EJECTED: u32 = 2;
/// A bit of [`Hot::status`]: starts slowly.
pub(super) const WARMING: u32 = 4;
/// A bit of [`Hot::status`]: in no cluster any more.
const GONE: u32 = 8;

/// All that a choice reads of a backend, on a cache line of its own. Most of it hardly changes;
/// but whoever is about to choose a backend is also about to write its load, and so takes the line
/// anyway.
#[derive(Debug)]
pub(super) struct Hot {
    pub(super) in_flight: AtomicU32,
    status: AtomicU32,
    /// Of [`SHARE_FULL`], while it starts slowly.
    pub(super) share: AtomicU32,
    /// See `schedulers/ewma.rs`.
    pub(super) latency: AtomicU64,
}

impl Default for Hot {
    fn default() -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            status: AtomicU32::new(0),
            share: AtomicU32::new(SHARE_FULL),
            latency: AtomicU64::new(0),
        }
    }
}

impl Hot {
    #[inline]
    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn status(&self) -> u32 {
        self.status.load(Ordering::Relaxed)
    }

    /// Sets a bit; true if it was not set.
    pub(super) fn set(&self, bit: u32) -> bool {
        self.status.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }

    /// Clears a bit; true if it was set.
    pub(super) fn clear(&self, bit: u32) -> bool {
        self.status.fetch_and(!bit, Ordering::Relaxed) & bit != 0
    }

    /// Healthy, not ejected; perhaps starting slowly.
    #[inline]
    pub(super) fn is_usable(&self) -> bool {
        self.status() & (UNHEALTHY | EJECTED) == 0
    }
}
