//! Choosing a backend: built cold from the plan, picked hot by every worker.
//!
//! Invariant: a `Cluster` does not change; what does change (health, counters, positions) is
//! atomic and passes from one snapshot to the next. `pick` neither allocates nor locks.
//! Read next: `turns.rs` (weights), `maglev.rs`, `health.rs`.

mod health;
mod maglev;
mod turns;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

pub use health::{HealthState, Transition};
use maglev::Maglev;

use crate::metrics::{BackendCounters, ClusterCounters, PerWorker};
use crate::plan::{self, Balance, TRIES_LIMIT};

/// A named set of backends at work, shared by all workers.
#[derive(Debug)]
pub struct Cluster {
    /// Name in logs and metrics.
    pub name: String,
    /// Deadline for one connection attempt.
    pub connect_timeout: Duration,
    /// Number of backends tried for one connection or request, 1 to [`TRIES_LIMIT`].
    pub tries_max: u8,
    /// Idle HTTP connections that each worker keeps to each backend.
    pub pool_idle_max: u16,
    /// How long an idle HTTP connection is kept.
    pub pool_idle_timeout: Duration,
    /// Active health checks; `None` leaves every backend healthy.
    pub health: Option<plan::Health>,
    backends: Box<[Arc<Backend>]>,
    scheduler: Scheduler,
    state: Arc<ClusterState>,
}

impl Cluster {
    /// Builds the cluster of a valid plan. `previous` is the cluster of the same name in the
    /// snapshot before: a backend whose address it had keeps its identity, health and counters.
    /// Without health checks every backend is made healthy.
    ///
    /// A Maglev table takes a few milliseconds, and is taken over when the backends are the same.
    pub fn build(plan: &plan::Cluster, seed: u64, workers: usize, previous: Option<&Self>) -> Self {
        let backends = build_backends(plan, workers, previous);
        let scheduler = Scheduler::build(plan, seed, previous);
        let state = previous.map_or_else(
            || Arc::new(ClusterState::new(workers, scheduler.slots().len())),
            |previous| Arc::clone(&previous.state),
        );
        Self {
            name: plan.name.clone(),
            connect_timeout: plan.connect_timeout,
            tries_max: plan.tries_max,
            pool_idle_max: plan.pool_idle_max,
            pool_idle_timeout: plan.pool_idle_timeout,
            health: plan.health.clone(),
            backends,
            scheduler,
            state,
        }
    }

    /// The backend for a new session or exchange of `client`, none of those in `tried`.
    ///
    /// A backend of weight 0 is never picked, an unhealthy one only while all are unhealthy:
    /// checks that fail everywhere say more about the checks than about the backends. `None` when
    /// nothing is left to try.
    #[inline]
    pub fn pick(&self, worker: usize, client: IpAddr, tried: &Tried) -> Option<&Arc<Backend>> {
        match &self.scheduler {
            Scheduler::Maglev(maglev) => self
                .walk(maglev.slots(), maglev.slot_of(client), tried)
                .map(|(_, backend)| backend),
            Scheduler::RoundRobin(slots) => {
                let position = self.state.positions.of(worker);
                let (slot, backend) = self.walk(slots, position.turn(slots.len()), tried)?;
                position.set(slot + 1);
                Some(backend)
            }
        }
    }

    /// The backends, in the order of the plan.
    pub fn backends(&self) -> &[Arc<Backend>] {
        &self.backends
    }

    /// Counters of the cluster as a whole.
    pub fn counters(&self) -> &PerWorker<ClusterCounters> {
        &self.state.counters
    }

    /// The first backend from slot `start` on that may be used, and its slot.
    #[inline]
    fn walk(&self, slots: &[u16], start: usize, tried: &Tried) -> Option<(usize, &Arc<Backend>)> {
        let first = &self.backends[usize::from(*slots.get(start)?)];
        if first.is_healthy() && !tried.contains(first.index) {
            return Some((start, first));
        }
        self.walk_on(slots, start, tried)
    }

    #[cold]
    fn walk_on(
        &self,
        slots: &[u16],
        start: usize,
        tried: &Tried,
    ) -> Option<(usize, &Arc<Backend>)> {
        let any_healthy = self.backends.iter().any(|backend| backend.takes_load());
        let usable = |backend: &Backend| {
            !tried.contains(backend.index) && (backend.is_healthy() || !any_healthy)
        };
        // Along the slots first, because the slots after an unusable one belong to all others in
        // proportion to their weights: so its share is spread evenly.
        let near = (start..slots.len()).chain(0..start).take(SLOTS_WALKED_MAX);
        for slot in near {
            let backend = &self.backends[usize::from(slots[slot])];
            if usable(backend) {
                return Some((slot, backend));
            }
        }
        // Hardly any is usable: look at each backend once.
        let first = usize::from(slots[start]);
        let (before, from) = self.backends.split_at(first);
        let found = from
            .iter()
            .chain(before)
            .find(|it| it.weight > 0 && usable(it))?;
        Some((start, found))
    }
}

/// Slots looked at before the backends are looked at one by one. With half of the backends
/// usable, a walk of 64 slots misses them all about once in 2^64.
const SLOTS_WALKED_MAX: usize = 64;

fn build_backends(
    plan: &plan::Cluster,
    workers: usize,
    previous: Option<&Cluster>,
) -> Box<[Arc<Backend>]> {
    let known: HashMap<SocketAddr, &Arc<BackendState>> = previous
        .into_iter()
        .flat_map(|previous| previous.backends.iter())
        .map(|backend| (backend.address, &backend.state))
        .collect();
    let build = |(index, backend): (usize, &plan::Backend)| {
        let state = known.get(&backend.address).map_or_else(
            || Arc::new(BackendState::new(workers)),
            |state| Arc::clone(state),
        );
        if plan.health.is_none() {
            state.healthy.store(true, Ordering::Relaxed);
        }
        Arc::new(Backend {
            address: backend.address,
            name: backend.name.clone(),
            weight: backend.weight,
            index: u16::try_from(index).expect("a valid plan has at most BACKENDS_MAX backends"),
            state,
        })
    };
    plan.backends.iter().enumerate().map(build).collect()
}

/// A table of slots, each the index of a backend; the kinds differ in where they start.
#[derive(Debug)]
enum Scheduler {
    Maglev(Arc<Maglev>),
    RoundRobin(Box<[u16]>),
}

impl Scheduler {
    fn build(plan: &plan::Cluster, seed: u64, previous: Option<&Cluster>) -> Self {
        match plan.balance {
            Balance::Maglev => {
                let previous = previous.and_then(|previous| match &previous.scheduler {
                    Self::Maglev(maglev) => Some(maglev),
                    Self::RoundRobin(_) => None,
                });
                Self::Maglev(match previous {
                    Some(maglev) if maglev.is_of(&plan.backends, seed) => Arc::clone(maglev),
                    _ => Arc::new(Maglev::build(&plan.backends, seed)),
                })
            }
            Balance::RoundRobin => {
                let weights: Vec<u16> = plan.backends.iter().map(|it| it.weight).collect();
                Self::RoundRobin(turns::turns(&weights))
            }
        }
    }

    fn slots(&self) -> &[u16] {
        match self {
            Self::Maglev(maglev) => maglev.slots(),
            Self::RoundRobin(slots) => slots,
        }
    }
}

/// What of a cluster passes on to the next snapshot.
#[derive(Debug)]
struct ClusterState {
    counters: PerWorker<ClusterCounters>,
    positions: PerWorker<Position>,
}

impl ClusterState {
    /// The workers start at different places of a cycle of `slots`, so that the first
    /// connections of many workers do not all go to the first backend.
    fn new(workers: usize, slots: usize) -> Self {
        let positions = PerWorker::new(workers);
        for (worker, position) in positions.iter().enumerate() {
            Position::set(position, worker * slots / workers);
        }
        Self {
            counters: PerWorker::new(workers),
            positions,
        }
    }
}

/// Where a worker stands in the cycle of a round robin. One thread writes it.
#[derive(Debug, Default)]
struct Position(AtomicU32);

impl Position {
    /// The slot whose turn it is, in a cycle of `slots`.
    #[inline]
    fn turn(&self, slots: usize) -> usize {
        let position = self.0.load(Ordering::Relaxed) as usize;
        // At the end of a cycle, or after a snapshot with fewer slots.
        if position < slots {
            position
        } else {
            position % slots.max(1)
        }
    }

    #[inline]
    fn set(&self, slot: usize) {
        self.0.store(slot as u32, Ordering::Relaxed);
    }
}

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
    state: Arc<BackendState>,
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

    /// Adds up one number over the workers.
    pub fn sum(&self, number: impl Fn(&BackendCounters) -> u64) -> u64 {
        self.state.counters.iter().map(number).sum()
    }

    fn takes_load(&self) -> bool {
        self.weight > 0 && self.is_healthy()
    }
}

/// Names a backend for as long as its address stays in its cluster, over all snapshots; never
/// used again in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId(u32);

/// What of a backend passes on to the next snapshot.
#[derive(Debug)]
struct BackendState {
    id: BackendId,
    healthy: AtomicBool,
    counters: PerWorker<BackendCounters>,
}

impl BackendState {
    fn new(workers: usize) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self {
            id: BackendId(NEXT.fetch_add(1, Ordering::Relaxed)),
            healthy: AtomicBool::new(true),
            counters: PerWorker::new(workers),
        }
    }
}

/// The backends that a session or exchange has tried, by [`Backend::index`]; 18 bytes, inline.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tried {
    indices: [u16; TRIES_LIMIT as usize],
    len: u8,
}

impl Tried {
    /// Remembers one more, up to [`TRIES_LIMIT`] of them.
    pub fn insert(&mut self, index: u16) {
        debug_assert!(
            self.len < TRIES_LIMIT,
            "a valid plan tries no more than TRIES_LIMIT"
        );
        if let Some(place) = self.indices.get_mut(usize::from(self.len)) {
            *place = index;
            self.len += 1;
        }
    }

    /// Whether the backend was tried.
    #[inline]
    pub fn contains(&self, index: u16) -> bool {
        self.indices[..usize::from(self.len)].contains(&index)
    }

    /// Number of backends tried.
    pub fn len(&self) -> u8 {
        self.len
    }

    /// True before the first try.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}
