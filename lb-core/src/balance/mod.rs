//! Choosing a backend: built cold from the plan, picked hot by every worker.
//!
//! Invariant: a `Cluster` does not change; what does change (health, counters, positions) is
//! atomic and passes from one snapshot to the next. `pick` neither allocates nor locks.
//! Read next: `turns.rs` (weights), `maglev.rs`, `health.rs`.

pub mod affinity;
mod backend;
mod choice;
mod health;
mod lease;
mod maglev;
mod turns;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use backend::BackendState;
pub use backend::{Backend, BackendId};
pub use choice::{Choice, Tried};
pub use health::{HealthState, Transition};
pub use lease::{Fault, Held, Lease};
use maglev::Maglev;

use crate::metrics::{ClusterCounters, PerWorker};
use crate::plan::{self, Balance, CookieKey};
use crate::rt::Instant;

/// What every cluster of a snapshot is built with.
#[derive(Debug, Clone)]
pub struct Context {
    /// Seed of the hash tables.
    pub seed: u64,
    /// Number of workers.
    pub workers: usize,
    /// What affinity cookies are keyed with.
    pub cookie_key: CookieKey,
    /// The time.
    pub now: Instant,
}

impl Context {
    /// A context at the beginning of time, with a key that everyone knows: for tests and
    /// benchmarks.
    pub const fn new(seed: u64, workers: usize) -> Self {
        Self {
            seed,
            workers,
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
    pub fn build(plan: &plan::Cluster, context: &Context, previous: Option<&Self>) -> Self {
        let backends = build_backends(plan, context.workers, previous);
        let scheduler = Scheduler::build(plan, context.seed, previous);
        let state = previous.map_or_else(
            || Arc::new(ClusterState::new(context.workers, scheduler.slots().len())),
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

    /// The backend for a new session or exchange, none of those tried.
    ///
    /// A backend of weight 0 is never picked, an unhealthy one only while all are unhealthy:
    /// checks that fail everywhere say more about the checks than about the backends. `None` when
    /// nothing is left to try.
    #[inline]
    pub fn pick<'a>(&'a self, choice: &Choice<'_>) -> Option<Lease<'a>> {
        let backend = match &self.scheduler {
            Scheduler::Maglev(maglev) => {
                let slot = maglev.slot_of(choice.client.ip());
                self.walk(maglev.slots(), slot, choice.tried)?.1
            }
            Scheduler::RoundRobin(slots) => {
                let position = self.state.positions.of(choice.worker);
                let (slot, backend) = self.walk(slots, position.turn(slots.len()), choice.tried)?;
                position.set(slot + 1);
                backend
            }
        };
        Some(Lease::new(self, backend, Held::Without))
    }

    /// Whether a choice depends on [`Choice::local`], which takes a system call to find out.
    pub const fn asks_local(&self) -> bool {
        false
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::plan::TRIES_LIMIT;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn plan(balance: Balance, weights: &[u16]) -> plan::Cluster {
        let backend = |(index, &weight): (usize, &u16)| {
            let address = SocketAddr::from(([127, 0, 0, 1], 9000 + index as u16));
            plan::Backend {
                weight,
                ..address.into()
            }
        };
        let backends = weights.iter().enumerate().map(backend).collect();
        plan::Cluster {
            balance,
            ..plan::Cluster::new("test", backends)
        }
    }

    fn cluster(balance: Balance, weights: &[u16]) -> Cluster {
        Cluster::build(&plan(balance, weights), &Context::new(1, 2), None)
    }

    fn pick<'a>(
        cluster: &'a Cluster,
        worker: usize,
        client: IpAddr,
        tried: &Tried,
    ) -> Option<&'a Arc<Backend>> {
        let client = SocketAddr::new(client, 40_000);
        let choice = Choice::new(worker, Instant::START, client, tried);
        cluster.pick(&choice).map(|lease| lease.backend())
    }

    fn picks(cluster: &Cluster, worker: usize, count: usize) -> Vec<u16> {
        let next = || {
            pick(cluster, worker, CLIENT, &Tried::default())
                .unwrap()
                .index
        };
        std::iter::repeat_with(next).take(count).collect()
    }

    fn clients(count: u32) -> impl Iterator<Item = IpAddr> {
        (0..count).map(|client| IpAddr::from((0x0a00_0000 + client).to_be_bytes()))
    }

    #[test]
    fn round_robin_takes_turns_and_skips_the_unhealthy() {
        let cluster = cluster(Balance::RoundRobin, &[1, 1, 1]);
        assert_eq!(picks(&cluster, 0, 5), [0, 1, 2, 0, 1]);
        cluster.backends()[0].set_healthy(false);
        assert_eq!(picks(&cluster, 0, 4), [2, 1, 2, 1]);
        cluster.backends()[0].set_healthy(true);
        assert_eq!(picks(&cluster, 0, 3), [2, 0, 1]);
    }

    #[test]
    fn workers_start_apart_and_keep_their_own_turn() {
        let cluster = cluster(Balance::RoundRobin, &[1, 1, 1, 1]);
        assert_eq!(picks(&cluster, 0, 2), [0, 1]);
        assert_eq!(picks(&cluster, 1, 3), [2, 3, 0]);
        assert_eq!(picks(&cluster, 0, 1), [2]);
    }

    #[test]
    fn round_robin_keeps_weights_exactly_over_a_cycle() {
        let cluster = cluster(Balance::RoundRobin, &[30, 0, 20, 10]);
        let picks = picks(&cluster, 0, 600);
        let count = |index| picks.iter().filter(|&&it| it == index).count();
        assert_eq!([0, 1, 2, 3].map(count), [300, 0, 200, 100]);
    }

    #[test]
    fn maglev_gives_a_client_the_same_backend_on_every_worker() {
        let cluster = cluster(Balance::Maglev, &[1; 5]);
        for client in clients(100) {
            let picked =
                [0, 1].map(|it| pick(&cluster, it, client, &Tried::default()).unwrap().id());
            assert_eq!(picked[0], picked[1]);
        }
    }

    #[test]
    fn maglev_moves_the_clients_of_an_unhealthy_backend_only_and_spreads_them() {
        let cluster = cluster(Balance::Maglev, &[1; 5]);
        let all: Vec<IpAddr> = clients(10_000).collect();
        let picked = |&client: &IpAddr| pick(&cluster, 0, client, &Tried::default()).unwrap().index;
        let before: Vec<u16> = all.iter().map(picked).collect();
        cluster.backends()[2].set_healthy(false);
        let after: Vec<u16> = all.iter().map(picked).collect();
        let mut moved_to = [0_u32; 5];
        for (&before, &after) in before.iter().zip(&after) {
            if before == 2 {
                moved_to[usize::from(after)] += 1;
            } else {
                assert_eq!(before, after);
            }
        }
        assert_eq!(moved_to[2], 0);
        let total: u32 = moved_to.iter().sum();
        for moved in [0, 1, 3, 4].map(|index: usize| moved_to[index]) {
            assert!(moved.abs_diff(total / 4) < total / 20, "{moved_to:?}");
        }
    }

    #[test]
    fn when_all_are_unhealthy_all_are_picked() {
        let cluster = cluster(Balance::RoundRobin, &[1, 1]);
        for backend in cluster.backends() {
            backend.set_healthy(false);
        }
        assert_eq!(picks(&cluster, 0, 4), [0, 1, 0, 1]);
    }

    #[test]
    fn nothing_is_picked_from_nothing() {
        for balance in [Balance::RoundRobin, Balance::Maglev] {
            for weights in [&[][..], &[0, 0]] {
                let cluster = cluster(balance, weights);
                assert!(pick(&cluster, 0, CLIENT, &Tried::default()).is_none());
            }
        }
    }

    /// One healthy backend among so many that the walk along the slots gives up.
    #[test]
    fn the_last_healthy_backend_is_found_however_many_are_down() {
        for balance in [Balance::RoundRobin, Balance::Maglev] {
            let mut weights = vec![1; 2_000];
            weights[1_235] = 0;
            let cluster = cluster(balance, &weights);
            for backend in cluster.backends() {
                backend.set_healthy([1_234, 1_235].contains(&backend.index));
            }
            assert_eq!(picks(&cluster, 0, 3), [1_234; 3]);
            let mut tried = Tried::default();
            tried.insert(1_234);
            assert!(
                pick(&cluster, 0, CLIENT, &tried).is_none(),
                "a healthy one was tried already"
            );
        }
    }

    #[test]
    fn a_backend_is_the_same_as_long_as_its_address_stays() {
        let mut plan = plan(Balance::RoundRobin, &[1, 1, 1]);
        plan.health = Some(plan::Health::default());
        let before = Cluster::build(&plan, &Context::new(1, 2), None);
        before.backends()[1].set_healthy(false);
        before.backends()[1].counters(0).connections.add(3);
        before.counters().of(1).retries.increment();
        plan.backends.remove(0);
        plan.backends[0].weight = 9;
        let after = Cluster::build(&plan, &Context::new(1, 2), Some(&before));
        let (old, new) = (&before.backends()[1], &after.backends()[0]);
        assert_eq!((new.id(), new.index, new.weight), (old.id(), 0, 9));
        assert!(!new.is_healthy());
        assert_eq!(new.sum(|it| it.connections.get()), 3);
        assert_eq!(after.counters().of(1).retries.get(), 1);
        new.set_healthy(true);
        assert!(old.is_healthy(), "one state, whatever the snapshot");
    }

    #[test]
    fn an_address_that_comes_back_is_a_new_backend() {
        let full = plan(Balance::RoundRobin, &[1, 1]);
        let mut fewer = full.clone();
        fewer.backends.pop();
        let first = Cluster::build(&full, &Context::new(1, 1), None);
        let second = Cluster::build(&fewer, &Context::new(1, 1), Some(&first));
        let third = Cluster::build(&full, &Context::new(1, 1), Some(&second));
        assert_eq!(third.backends()[0].id(), first.backends()[0].id());
        assert_ne!(third.backends()[1].id(), first.backends()[1].id());
    }

    #[test]
    fn without_checks_every_backend_is_healthy_again() {
        let mut plan = plan(Balance::RoundRobin, &[1]);
        plan.health = Some(plan::Health::default());
        let checked = Cluster::build(&plan, &Context::new(1, 1), None);
        checked.backends()[0].set_healthy(false);
        plan.health = None;
        assert!(
            Cluster::build(&plan, &Context::new(1, 1), Some(&checked)).backends()[0].is_healthy()
        );
    }

    #[test]
    fn round_robin_goes_on_where_it_was_when_the_backends_change() {
        let before = cluster(Balance::RoundRobin, &[1, 1, 1, 1]);
        assert_eq!(picks(&before, 0, 3), [0, 1, 2]);
        let after = Cluster::build(
            &plan(Balance::RoundRobin, &[1; 5]),
            &Context::new(1, 2),
            Some(&before),
        );
        assert_eq!(picks(&after, 0, 3), [3, 4, 0]);
        let fewer = Cluster::build(
            &plan(Balance::RoundRobin, &[1; 2]),
            &Context::new(1, 2),
            Some(&after),
        );
        assert!(picks(&fewer, 1, 4).iter().all(|&index| index < 2));
    }

    #[test]
    fn an_unchanged_maglev_table_is_taken_over() {
        let plan = plan(Balance::Maglev, &[1, 2]);
        let tables = |cluster: &Cluster| match &cluster.scheduler {
            Scheduler::Maglev(maglev) => Arc::clone(maglev),
            Scheduler::RoundRobin(_) => unreachable!(),
        };
        let first = Cluster::build(&plan, &Context::new(1, 1), None);
        let same = Cluster::build(&plan, &Context::new(1, 1), Some(&first));
        let reseeded = Cluster::build(&plan, &Context::new(2, 1), Some(&first));
        assert!(Arc::ptr_eq(&tables(&first), &tables(&same)));
        assert!(!Arc::ptr_eq(&tables(&first), &tables(&reseeded)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Retries until nothing is left, against sets: each try is a new backend of the right
        /// kind, and all of that kind are tried.
        #[test]
        fn tries_agree_with_a_model(
            backends in proptest::collection::vec((0_u16..3, any::<bool>()), 0..100),
            maglev: bool,
            client: u32,
            tries in 0..TRIES_LIMIT,
        ) {
            let balance = if maglev { Balance::Maglev } else { Balance::RoundRobin };
            let weights: Vec<u16> = backends.iter().map(|&(weight, _)| weight).collect();
            let cluster = cluster(balance, &weights);
            for (backend, &(_, healthy)) in cluster.backends().iter().zip(&backends) {
                backend.set_healthy(healthy);
            }
            let of_health = |healthy| -> HashSet<u16> {
                let matching = backends.iter().enumerate().filter(|(_, it)| it.0 > 0 && it.1 == healthy);
                matching.map(|(index, _)| index as u16).collect()
            };
            let (healthy, unhealthy) = (of_health(true), of_health(false));
            let mut usable = if healthy.is_empty() { unhealthy } else { healthy };
            let mut tried = Tried::default();
            for _ in 0..tries {
                let client = IpAddr::from(client.to_be_bytes());
                let Some(picked) = pick(&cluster, 0, client, &tried) else {
                    prop_assert!(usable.is_empty());
                    break;
                };
                prop_assert!(usable.remove(&picked.index), "{}", picked.index);
                tried.insert(picked.index);
            }
        }
    }
}
