//! A backend that was chosen, counted as in flight until the session or exchange is over.
//!
//! Invariant: every lease is counted once, from the choice to its drop, however it ends.
//! Read next: `mod.rs` (`Cluster::pick`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Backend, Cluster};

/// The use of a backend by one session or exchange.
#[derive(Debug)]
pub struct Lease<'a> {
    #[expect(dead_code, reason = "what is reported concerns the cluster too")]
    cluster: &'a Cluster,
    backend: &'a Arc<Backend>,
    affinity: Held,
}

/// What affinity had to do with a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// It made the choice.
    Kept,
    /// The scheduler made it, and the client is to be told or is remembered from now on.
    Chosen,
    /// The cluster has none.
    Without,
}

/// What was wrong with a backend, for outlier detection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It refused the connection, or did not take it in time.
    Connect,
    /// It ended the connection before it answered.
    Closed,
    /// It did not answer in time.
    Timeout,
    /// It answered with a status of 500 to 599, or with what is no valid answer.
    Answer,
}

impl<'a> Lease<'a> {
    pub(super) fn new(cluster: &'a Cluster, backend: &'a Arc<Backend>, affinity: Held) -> Self {
        backend.state.in_flight.fetch_add(1, Ordering::Relaxed);
        Self {
            cluster,
            backend,
            affinity,
        }
    }

    /// The backend.
    #[inline]
    pub const fn backend(&self) -> &'a Arc<Backend> {
        self.backend
    }

    /// What affinity had to do with it.
    pub const fn affinity(&self) -> Held {
        self.affinity
    }

    /// The affinity cookie that the client is to be given; `None` if it has a good one.
    pub const fn cookie(&self) -> Option<&[u8]> {
        None
    }

    /// The backend answered `latency` after it was asked: by accepting a session, or by the head
    /// of a response.
    pub fn answered(&self, latency: Duration) {
        let _ = latency;
    }

    /// The backend failed.
    pub fn failed(&self, fault: Fault) {
        let _ = fault;
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.backend.state.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
