//! A backend that was chosen, counted as in flight until the session or exchange is over.
//!
//! Invariant: every lease is counted once, from the choice to its drop, however it ends.
//! Read next: `mod.rs` (`Cluster::pick`), `outlier.rs` and `schedulers/ewma.rs` (what reports lead
//! to).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::affinity::CookieValue;
use super::schedulers::Latency;
use super::{Backend, Cluster, outlier};
use crate::plan::Balance;
use crate::rt::{self, Instant};

/// The use of a backend by one session or exchange.
#[derive(Debug)]
pub struct Lease<'a> {
    cluster: &'a Cluster,
    backend: &'a Arc<Backend>,
    /// The number of its session, with balanced cookies.
    session: u64,
    worker: u32,
    affinity: Held,
}

/// What affinity had to do with a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// It made the choice.
    Kept,
    /// The scheduler made it, and the client is to be told or is remembered from now on.
    Chosen,
    /// The cluster has none, or the client lacks what it would be recognised by.
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
    #[inline]
    pub(super) fn new(cluster: &'a Cluster, index: u16, worker: usize, affinity: Held) -> Self {
        let backend = &cluster.backends[usize::from(index)];
        backend.state.hot.in_flight.fetch_add(1, Ordering::Relaxed);
        if cluster.bounded_load.is_some() {
            let own = cluster.state.own.of(worker);
            own.in_flight.fetch_add(1, Ordering::Relaxed);
        }
        Self {
            cluster,
            backend,
            session: 0,
            worker: worker as u32,
            affinity,
        }
    }

    pub(super) const fn of_session(mut self, session: u64) -> Self {
        self.session = session;
        self
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

    /// The value of the affinity cookie that leads back to this backend; inline, not allocated.
    /// To be set when [`Lease::affinity`] is [`Held::Chosen`]. `None` without cookie affinity.
    pub fn cookie_value(&self) -> Option<CookieValue> {
        self.cluster.cookie_of(self.backend.index, self.session)
    }

    /// The backend answered `latency` after it was asked: by accepting a session, or by the head
    /// of a response.
    #[inline]
    pub fn answered(&self, latency: Duration) {
        let is_ewma = self.cluster.balance == Balance::Ewma;
        if is_ewma || self.cluster.outlier.is_some() {
            self.answered_at(latency, rt::now());
        }
    }

    pub(super) fn answered_at(&self, latency: Duration, now: Instant) {
        let state = &self.backend.state;
        if self.cluster.balance == Balance::Ewma {
            Latency::observe(&state.hot.latency, latency, now);
        }
        if let Some(outlier) = &self.cluster.outlier {
            state.record.answered(outlier, now);
        }
    }

    /// The backend failed. All faults count alike.
    pub fn failed(&self, fault: Fault) {
        self.failed_at(fault, rt::now());
    }

    pub(super) fn failed_at(&self, _: Fault, now: Instant) {
        let state = &self.backend.state;
        if self.cluster.balance == Balance::Ewma {
            Latency::observe(&state.hot.latency, Latency::OF_FAILURE, now);
        }
        if let Some(outlier) = &self.cluster.outlier {
            outlier::failed(outlier, state, &self.cluster.backends, now);
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.backend
            .state
            .hot
            .in_flight
            .fetch_sub(1, Ordering::Relaxed);
        if self.cluster.bounded_load.is_some() {
            let own = self.cluster.state.own.of(self.worker as usize);
            own.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
