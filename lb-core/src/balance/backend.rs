//! One backend at work: its identity, health, load and counters.
//!
//! Invariant: what passes on to the next snapshot is in [`BackendState`], all of it atomic; the
//! rest is as the plan says.
//! Read next: `health.rs` (what sets the health), `lease.rs` (what counts the load).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crossbeam_utils::CachePadded;

use crate::metrics::{BackendCounters, PerWorker};

/// One address to send to, at work.
#[derive(Debug)]
pub struct Backend {
    /// Where it listens.
    pub address: SocketAddr,
    /// As the user wrote it.
    pub name: String,
    /// Share of the load relative to the others; 0 takes no new load.
    pub weight: u16,
    /// Position in the cluster of this snapshot, for [`Tried`]; what stays is [`Backend::id`].
    pub index: u16,
    pub(super) state: Arc<BackendState>,
}

impl Backend {
    /// Its identity in this process.
    pub fn id(&self) -> BackendId {
        self.state.id
    }

    /// Whether it is thought to work. A new backend is, until its checks say otherwise.
    #[inline]
    pub fn is_healthy(&self) -> bool {
        self.state.healthy.load(Ordering::Relaxed)
    }

    /// Sets what [`Backend::is_healthy`] answers, in every snapshot that has the backend.
    pub fn set_healthy(&self, healthy: bool) {
        self.state.healthy.store(healthy, Ordering::Relaxed);
    }

    /// The counters that `worker` writes.
    #[inline]
    pub fn counters(&self, worker: usize) -> &BackendCounters {
        self.state.counters.of(worker)
    }

    /// Sessions and exchanges under way, of all workers.
    #[inline]
    pub fn in_flight(&self) -> u32 {
        self.state.in_flight.load(Ordering::Relaxed)
    }

    /// Adds up one number over the workers.
    pub fn sum(&self, number: impl Fn(&BackendCounters) -> u64) -> u64 {
        self.state.counters.iter().map(number).sum()
    }

    pub(super) fn takes_load(&self) -> bool {
        self.weight > 0 && self.is_healthy()
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
    pub(super) healthy: AtomicBool,
    /// On a cache line of its own: every worker writes it, while the rest is mostly read.
    pub(super) in_flight: CachePadded<AtomicU32>,
    counters: PerWorker<BackendCounters>,
}

impl BackendState {
    pub(super) fn new(workers: usize) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self {
            id: BackendId(NEXT.fetch_add(1, Ordering::Relaxed)),
            healthy: AtomicBool::new(true),
            in_flight: CachePadded::default(),
            counters: PerWorker::new(workers),
        }
    }
}
