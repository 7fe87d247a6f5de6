//! Choosing a backend: built cold from the plan, picked hot by every worker.
//!
//! Invariant: a `Cluster` does not change; what does change (health, load, positions) is atomic
//! and passes from one snapshot to the next. `pick` neither allocates nor locks.
//! Read next: `schedulers/mod.rs` (the rules), `tiers.rs` (among whom), `sticky.rs` (affinity),
//! `build.rs`, `lease.rs`.

pub mod affinity;
mod backend;
mod build;
mod choice;
mod hash;
mod health;
mod lease;
mod outlier;
mod schedulers;
mod sharing;
mod slow_start;
mod state;
mod sticky;
#[cfg(test)]
mod sticky_tests;
#[cfg(test)]
mod tests;
mod tiers;

use std::sync::Arc;
use std::time::Duration;

use affinity::AffinityTable;
pub use backend::{Backend, BackendId, State};
pub use choice::{Choice, Tried};
use hash::Hashing;
pub use health::{HealthState, Transition};
pub use lease::{Fault, Held, Lease};
use schedulers::{Ask, Bound};
pub use sharing::Room;
use state::ClusterState;
use sticky::Sticky;
use tiers::{Tier, View, ViewWord};

use crate::metrics::{ClusterCounters, PerWorker};
use crate::plan::{self, Affinity, Balance, CookieKey, HashKey, Outlier};
use crate::rt::Instant;

/// What every cluster of a snapshot is built with.
#[derive(Debug, Clone)]
pub struct Context {
    /// Seed of the hash tables.
    pub seed: u64,
    /// Number of workers.
    pub workers: usize,
    /// What remembers clients by address and header; the same for all snapshots of a process, or
    /// else they are forgotten.
    pub affinity: Arc<AffinityTable>,
    /// What affinity cookies are keyed with.
    pub cookie_key: CookieKey,
    /// The time.
    pub now: Instant,
}

impl Context {
    /// A context at the beginning of time, with a small table and with keys that everyone knows:
    /// for tests and benchmarks.
    pub fn new(seed: u64, workers: usize) -> Self {
        Self {
            seed,
            workers,
            affinity: Arc::new(AffinityTable::new(4096, [0; 16])),
            cookie_key: CookieKey([0; 16]),
            now: Instant::START,
        }
    }
}

/// A named set of backends at work, shared by all workers.
#[derive(Debug)]
pub struct Cluster {
    /// Name in logs and metrics.
    pub name: String,
    /// How a backend is chosen.
    pub balance: Balance,
    /// Deadline for one connection attempt.
    pub connect_timeout: Duration,
    /// Number of backends tried for one connection or request, 1 to [`TRIES_LIMIT`].
    ///
    /// [`TRIES_LIMIT`]: plan::TRIES_LIMIT
    pub tries_max: u8,
    /// Idle HTTP connections that each worker keeps to each backend.
    pub pool_idle_max: u16,
    /// How long an idle HTTP connection is kept.
    pub pool_idle_timeout: Duration,
    /// The version of HTTP that the backends are spoken to in.
    pub protocol: plan::BackendProtocol,
    /// How HTTP exchanges reach the backends.
    pub exchanges: plan::ClusterExchanges,
    /// How HTTP connections are encrypted. The same as long as the plan says the same, so that a
    /// connection can be told from one that was made before a change.
    pub tls: Option<Arc<plan::BackendTls>>,
    /// Active health checks; `None` leaves every backend healthy.
    pub health: Option<plan::Health>,
    backends: Box<[Arc<Backend>]>,
    /// In the order in which they are used; none when no backend takes new load.
    tiers: Box<[Tier]>,
    view: ViewWord,
    panic_threshold: u8,
    hashing: Hashing,
    hash_key: Option<HashKey>,
    bounded_load: Option<u16>,
    affinity: Option<Affinity>,
    sticky: Option<Sticky>,
    slow_start: bool,
    outlier: Option<Outlier>,
    state: Arc<ClusterState>,
}

impl Cluster {
    /// The backend for a new session or exchange, none of those tried.
    ///
    /// With affinity, the one that the client had, if that may still be used. Otherwise, and for a
    /// new client, one that the scheduler chooses among the usable primaries; when none of these
    /// is left, among the backups, and then among those that are about to end. An unhealthy or
    /// ejected one is chosen only when none is usable, or fewer than the panic threshold. `None`
    /// when nothing is left to try, and from `ovf` when all have more in flight than their weight.
    #[inline]
    pub fn pick<'a>(&'a self, choice: &Choice<'_>) -> Option<Lease<'a>> {
        let view = self.view();
        if let Some(sticky) = &self.sticky {
            return self.pick_sticky(sticky, view, choice);
        }
        let index = self.schedule(view, choice)?;
        Some(Lease::new(self, index, choice.worker, Held::Without))
    }

    /// The backend that the scheduler chooses, without affinity and without counting it as in
    /// flight: for whoever only asks.
    #[inline]
    pub fn look_up(&self, choice: &Choice<'_>) -> Option<&Arc<Backend>> {
        let index = self.schedule(self.view(), choice)?;
        Some(&self.backends[usize::from(index)])
    }

    /// Holds the backend at position `index`, for what goes on with it after an exchange.
    pub fn hold(&self, index: u16, worker: usize) -> Lease<'_> {
        Lease::new(self, index, worker, Held::Without)
    }

    /// The backends, in the order of the plan.
    pub fn backends(&self) -> &[Arc<Backend>] {
        &self.backends
    }

    /// Counters of the cluster as a whole.
    pub fn counters(&self) -> &PerWorker<ClusterCounters> {
        &self.state.counters
    }

    /// What the scheduler hashes, `None` if it does not hash. What it names of a request is to be
    /// passed as [`Choice::hash`].
    pub const fn hash_key(&self) -> Option<&HashKey> {
        self.hash_key.as_ref()
    }

    /// What a client is recognised by. What it names of a request is to be passed as
    /// [`Choice::affinity`] (header) or [`Choice::cookie`].
    pub const fn affinity(&self) -> Option<&Affinity> {
        self.affinity.as_ref()
    }

    /// The hash of what the hash key, or the affinity header, has in a request. Nodes with one
    /// seed agree.
    pub fn hash_of(&self, bytes: &[u8]) -> u64 {
        self.hashing.bytes(bytes)
    }

    /// Whether a choice depends on [`Choice::local`], which takes a system call to find out.
    pub const fn asks_local(&self) -> bool {
        matches!(self.hash_key, Some(HashKey::Destination))
    }

    /// Sets whether checks find a backend working: [`Backend::set_healthy`].
    pub fn set_healthy(&self, backend: &Backend, healthy: bool) {
        backend.set_healthy(healthy);
    }

    /// Whether health is ignored, as too few backends are healthy.
    pub fn is_panicking(&self) -> bool {
        self.view().is_panicking
    }

    /// Number of backends ejected now by outlier detection.
    pub fn ejected(&self) -> usize {
        self.backends.iter().filter(|it| it.is_ejected()).count()
    }

    /// Number of ejections of the backends that the cluster has.
    pub fn ejections(&self) -> u64 {
        self.backends.iter().map(|it| it.ejections()).sum()
    }

    /// Whether [`Cluster::tick`] has anything to do, ever.
    pub const fn needs_tick(&self) -> bool {
        self.slow_start || self.outlier.is_some()
    }

    /// Lets the shares of slow starts grow, and ends ejections that are over. One thread calls it,
    /// about every 100 ms.
    pub fn tick(&self, now: Instant) {
        for backend in &self.backends {
            backend.state.end_ejection(now);
            backend.state.warm(now);
        }
    }

    /// What the backends come to now; looked for again when one has changed.
    #[inline]
    fn view(&self) -> View {
        let epoch = self.state.epoch();
        self.view
            .at(epoch)
            .unwrap_or_else(|| self.look_again(epoch))
    }

    #[cold]
    fn look_again(&self, epoch: u32) -> View {
        let view = View::of(&self.tiers, self.panic_threshold);
        self.view.set(epoch, view);
        view
    }

    /// The index of the backend that the scheduler chooses.
    #[inline]
    fn schedule(&self, view: View, choice: &Choice<'_>) -> Option<u16> {
        let key = if self.hash_key.is_some() {
            self.key_of(choice)
        } else {
            0
        };
        self.in_tiers(view, |tier, ignore_health| {
            tier.scheduler
                .pick(&self.ask(tier, ignore_health, choice, key))
        })
    }

    /// Asks for a member of the tier in use, then of those after it: `pick` of the tier and
    /// whether health is ignored there.
    #[inline]
    fn in_tiers(&self, view: View, pick: impl Fn(&Tier, bool) -> Option<usize>) -> Option<u16> {
        self.in_view(view, &pick)
            .or_else(|| self.in_fresh_view(view, &pick))
    }

    #[inline]
    fn in_view(&self, view: View, pick: impl Fn(&Tier, bool) -> Option<usize>) -> Option<u16> {
        let tier = self.tiers.get(view.tier)?;
        let found = pick(tier, view.is_panicking).map(|position| (tier, position));
        let (tier, position) = found.or_else(|| {
            let mut after = self.tiers[view.tier + 1..].iter();
            after.find_map(|tier| pick(tier, false).map(|position| (tier, position)))
        })?;
        Some(tier.members[position].index)
    }

    /// Nothing was found in `view`, perhaps because it is out of date: the last usable backend may
    /// have become unusable since, and then health is to be ignored.
    #[cold]
    fn in_fresh_view(
        &self,
        view: View,
        pick: impl Fn(&Tier, bool) -> Option<usize>,
    ) -> Option<u16> {
        let fresh = self.look_again(self.state.epoch());
        (fresh != view).then(|| self.in_view(fresh, pick))?
    }

    #[inline]
    fn ask<'a>(
        &'a self,
        tier: &'a Tier,
        ignore_health: bool,
        choice: &'a Choice<'a>,
        key: u64,
    ) -> Ask<'a> {
        Ask {
            members: &tier.members,
            choice,
            own: self.state.own.of(choice.worker),
            ignore_health,
            key,
            bound: self.bounded_load.map(|percent| Bound {
                percent,
                load: self.state.in_flight() + 1,
                weight: tier.usable_weight(),
            }),
        }
    }

    #[inline]
    fn key_of(&self, choice: &Choice<'_>) -> u64 {
        match &self.hash_key {
            Some(HashKey::ClientAddressPort) => self.hashing.address_port(choice.client),
            Some(HashKey::Destination) => self.hashing.address(choice.local),
            Some(HashKey::ClientAddress) | None => self.hashing.address(choice.client.ip()),
            Some(HashKey::Cookie(_) | HashKey::Header(_) | HashKey::Query(_) | HashKey::Uri) => {
                match choice.hash {
                    Some(hash) => hash,
                    None => self.hashing.address(choice.client.ip()),
                }
            }
        }
    }
}
