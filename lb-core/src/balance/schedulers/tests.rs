//! Each scheduler against a plain model of its rule, and against its weights.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::time::Duration;

use proptest::prelude::*;

use super::super::hash::{KeyHash, place};
use super::super::tests::{cluster, plan};
use super::super::{Choice, Cluster, Context, Fault, Held, Lease, Tried};
use super::*;
use crate::rt::Instant;

fn address(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0a00_0000 + number).into()
}

/// The choice for a client that connects to `destination` at `now`.
fn lease_for(cluster: &Cluster, client: u32, destination: u32, now: Instant) -> Option<Lease<'_>> {
    let tried = Tried::default();
    let client = SocketAddr::new(address(client), 40_000);
    let mut choice = Choice::new(0, now, client, &tried);
    choice.local = address(destination);
    cluster.pick(&choice)
}

fn lease(cluster: &Cluster, number: u32) -> Option<Lease<'_>> {
    lease_for(cluster, number, number, Instant::START)
}

fn pick(cluster: &Cluster, number: u32) -> Option<usize> {
    lease(cluster, number).map(|lease| usize::from(lease.backend().index))
}

/// How many of `picks` choices each backend gets.
fn shares(cluster: &Cluster, picks: u32) -> Vec<u32> {
    let mut counts = vec![0; cluster.backends().len()];
    for number in 0..picks {
        counts[pick(cluster, number).unwrap()] += 1;
    }
    counts
}

/// Whether the counts are in the proportions of the weights, within 1 % of all.
fn assert_shares(counts: &[u32], weights: &[u16], what: &str) {
    let (all, weight): (u32, u32) = (
        counts.iter().sum(),
        weights.iter().map(|&it| u32::from(it)).sum(),
    );
    for (&count, &own) in counts.iter().zip(weights) {
        let expected = f64::from(all) * f64::from(own) / f64::from(weight);
        let off = (f64::from(count) - expected).abs();
        assert!(
            off <= f64::from(all) * 0.01,
            "{what}: {counts:?} for {weights:?}"
        );
    }
}

const PICKS: u32 = 100_000;
const WEIGHTS: [u16; 6] = [1, 2, 3, 0, 4, 10];

fn load(cluster: &Cluster, loads: &[u32]) {
    for (backend, &load) in cluster.backends().iter().zip(loads) {
        backend.state.hot.in_flight.store(load, Ordering::Relaxed);
    }
}

#[test]
fn weights_are_kept_by_those_that_do_not_look_at_loads() {
    let balances = [
        Balance::WeightedRoundRobin,
        Balance::Random,
        Balance::SourceHash,
        Balance::Maglev,
        Balance::Ring,
    ];
    for balance in balances {
        let cluster = cluster(balance, &WEIGHTS);
        let counts = shares(&cluster, PICKS);
        if balance == Balance::Ring {
            // The points of a ring are where they are; their number is in proportion.
            assert!(
                counts
                    .iter()
                    .zip(WEIGHTS)
                    .all(|(&it, weight)| (it > 0) == (weight > 0))
            );
        } else {
            assert_shares(&counts, &WEIGHTS, balance.name());
        }
    }
}

/// Sessions that stay: the loads themselves come to be in proportion.
#[test]
fn weights_are_kept_by_those_that_look_at_loads() {
    let balances = [
        Balance::WeightedLeastConnections,
        Balance::ShortestExpectedDelay,
        Balance::NeverQueue,
        Balance::TwoChoices,
        Balance::PowerOfTwo,
        Balance::LocalityLeastConnections,
        Balance::LocalityLeastConnectionsReplicated,
    ];
    for balance in balances {
        let cluster = cluster(balance, &WEIGHTS);
        let leases: Vec<Lease<'_>> = (0..PICKS)
            .map(|number| lease(&cluster, number).unwrap())
            .collect();
        let counts: Vec<u32> = cluster.backends().iter().map(|it| it.in_flight()).collect();
        assert_shares(&counts, &WEIGHTS, balance.name());
        drop(leases);
        assert!(cluster.backends().iter().all(|it| it.in_flight() == 0));
    }
}

/// And of sessions that end at once, too, because the turns break ties.
#[test]
fn weights_are_kept_among_idle_backends() {
    let balances = [
        Balance::WeightedLeastConnections,
        Balance::NeverQueue,
        Balance::TwoChoices,
        Balance::PowerOfTwo,
    ];
    for balance in balances {
        let cluster = cluster(balance, &WEIGHTS);
        assert_shares(&shares(&cluster, PICKS), &WEIGHTS, balance.name());
    }
}

#[test]
fn those_without_weights_share_evenly() {
    let balances = [
        Balance::RoundRobin,
        Balance::LeastConnections,
        Balance::DestinationHash,
        Balance::Ewma,
    ];
    for balance in balances {
        let cluster = cluster(balance, &[7; 8]);
        assert_shares(&shares(&cluster, PICKS), &[7; 8], balance.name());
    }
}

#[test]
fn ewma_prefers_the_fast_and_leaves_nobody_out_for_good() {
    let cluster = cluster(Balance::Ewma, &[1, 1, 1]);
    let second = Instant::START + Duration::from_secs(1);
    for number in 0..300 {
        let lease = lease_for(&cluster, number, 0, second).unwrap();
        let slow = lease.backend().index == 2;
        lease.answered_at(Duration::from_millis(if slow { 80 } else { 8 }), second);
    }
    let counts = |now| {
        let mut counts = [0; 3];
        for number in 0..3000 {
            counts[usize::from(lease_for(&cluster, number, 0, now).unwrap().backend().index)] += 1;
        }
        counts
    };
    let [fast, also_fast, slow] = counts(second);
    assert!(
        slow == 0 && fast > 1000 && also_fast > 1000,
        "{fast} {also_fast} {slow}"
    );
    // A failure makes the fastest the slowest.
    let failing = Instant::START + Duration::from_secs(2);
    Lease::new(&cluster, 0, 0, Held::Without).failed_at(Fault::Connect, failing);
    assert_eq!(counts(failing)[0], 0);
    // What is slow gets its turn when it was not asked for long, and so does what failed.
    let later = Instant::START + Duration::from_hours(1);
    assert!(
        counts(later).iter().all(|&it| it > 500),
        "{:?}",
        counts(later)
    );
}

#[test]
fn overflow_fills_the_heaviest_first_and_then_refuses() {
    let cluster = cluster(Balance::Overflow, &[2, 0, 3, 3]);
    let leases: Vec<Lease<'_>> = (0..11).map(|it| lease(&cluster, it).unwrap()).collect();
    let order: Vec<u16> = leases.iter().map(|it| it.backend().index).collect();
    assert_eq!(order, [2, 2, 2, 2, 3, 3, 3, 3, 0, 0, 0]);
    assert!(lease(&cluster, 0).is_none());
    drop(leases);
    assert_eq!(pick(&cluster, 0), Some(2));
}

#[test]
fn failover_takes_the_next_when_the_heaviest_is_down() {
    let cluster = cluster(Balance::Failover, &[1, 5, 5, 2]);
    let mut order = vec![];
    for _ in 0..4 {
        let index = pick(&cluster, 0).unwrap();
        cluster.backends()[index].set_healthy(false);
        order.push(index);
    }
    assert_eq!(order, [1, 2, 3, 0]);
}

#[test]
fn a_destination_stays_until_its_backend_is_overloaded() {
    let cluster = cluster(Balance::LocalityLeastConnections, &[4, 4, 4]);
    let first = pick(&cluster, 7).unwrap();
    assert!((0..9).all(|_| pick(&cluster, 7) == Some(first)));
    let mut loads = [2; 3];
    loads[first] = 5;
    load(&cluster, &loads);
    assert_eq!(
        pick(&cluster, 7),
        Some(first),
        "nobody else is below half of its weight"
    );
    loads[(first + 1) % 3] = 1;
    load(&cluster, &loads);
    let second = (first + 1) % 3;
    assert_eq!(pick(&cluster, 7), Some(second));
    load(&cluster, &[0; 3]);
    assert_eq!(pick(&cluster, 7), Some(second), "it has moved for good");
}

#[test]
fn a_destination_is_forgotten_after_a_day_without_use() {
    let cluster = cluster(Balance::LocalityLeastConnections, &[4; 16]);
    let at = |hours| Instant::START + Duration::from_hours(hours);
    let index = |hours| {
        lease_for(&cluster, 0, 7, at(hours))
            .unwrap()
            .backend()
            .index
    };
    let first = index(1);
    let mut loads = [0; 16];
    loads[usize::from(first)] = 4;
    load(&cluster, &loads);
    assert_eq!([index(2), index(25)], [first; 2]);
    assert_ne!(index(50), first);
}

#[test]
fn a_replicated_destination_gets_help_and_gives_it_up_after_a_day() {
    let cluster = cluster(Balance::LocalityLeastConnectionsReplicated, &[4, 4]);
    let at = |hours| Instant::START + Duration::from_hours(hours);
    let index = |hours| {
        usize::from(
            lease_for(&cluster, 0, 7, at(hours))
                .unwrap()
                .backend()
                .index,
        )
    };
    let first = index(1);
    let other = 1 - first;
    let set = |own, others| {
        let mut loads = [others; 2];
        loads[first] = own;
        load(&cluster, &loads);
    };
    set(5, 1);
    assert_eq!(index(2), other, "it joins the set");
    set(1, 3);
    assert_eq!(index(3), first, "the less loaded of the set");
    set(3, 1);
    assert_eq!(index(4), other);
    // A day after the set has changed, the most loaded leaves it.
    for hours in 5..27 {
        index(hours);
    }
    set(1, 0);
    assert_eq!(index(28), other);
    set(0, 4);
    assert_eq!(index(29), other, "the only one left");
}

/// A new snapshot with other members leaves known destinations where they are.
#[test]
fn destinations_stay_when_the_backends_change() {
    let mut plan = plan(Balance::LocalityLeastConnections, &[1; 4]);
    let before = Cluster::build(&plan, &Context::new(1, 1), None);
    let id = |cluster: &Cluster, it| lease(cluster, it).unwrap().backend().id();
    let ids: Vec<_> = (0..50).map(|it| id(&before, it)).collect();
    let gone = before.backends()[1].id();
    plan.backends.remove(1);
    let after = Cluster::build(&plan, &Context::new(1, 1), Some(&before));
    for (number, &before) in (0..).zip(&ids) {
        assert!(before == gone || id(&after, number) == before);
    }
}

#[test]
fn bounded_load_keeps_a_hot_key_from_flooding_its_backend() {
    for balance in [
        Balance::Maglev,
        Balance::Ring,
        Balance::SourceHash,
        Balance::DestinationHash,
    ] {
        let mut plan = plan(balance, &[1; 10]);
        plan.bounded_load = Some(125);
        let cluster = Cluster::build(&plan, &Context::new(1, 1), None);
        let leases: Vec<Lease<'_>> = (0..1000).map(|_| lease(&cluster, 7).unwrap()).collect();
        let most = cluster
            .backends()
            .iter()
            .map(|it| it.in_flight())
            .max()
            .unwrap();
        assert_eq!(most, 125, "{balance}");
        drop(leases);
        let first = pick(&cluster, 7);
        assert!((0..10).all(|_| pick(&cluster, 7) == first), "{balance}");
    }
}

#[test]
fn bounded_load_is_in_proportion_to_the_usable_weights() {
    let mut plan = plan(Balance::Maglev, &[1, 3, 4]);
    plan.bounded_load = Some(110);
    let cluster = Cluster::build(&plan, &Context::new(1, 1), None);
    cluster.backends()[2].set_healthy(false);
    let _leases: Vec<Lease<'_>> = (0..1000).map(|_| lease(&cluster, 7).unwrap()).collect();
    let loads: Vec<u32> = cluster.backends().iter().map(|it| it.in_flight()).collect();
    assert!(
        loads[0] <= 275 && loads[1] <= 825 && loads[2] == 0,
        "{loads:?}"
    );
}

/// A cluster of random weights, loads and health.
#[derive(Debug)]
struct Scene {
    weights: Vec<u16>,
    loads: Vec<u32>,
    healthy: Vec<bool>,
}

impl Scene {
    fn any() -> impl Strategy<Value = Self> {
        proptest::collection::vec((0_u16..6, 0_u32..8, proptest::bool::weighted(0.8)), 1..12)
            .prop_map(|each| Self {
                weights: each.iter().map(|it| it.0).collect(),
                loads: each.iter().map(|it| it.1).collect(),
                healthy: each.iter().map(|it| it.2).collect(),
            })
    }

    fn evenly(mut self) -> Self {
        self.weights
            .iter_mut()
            .for_each(|weight| *weight = (*weight).min(1));
        self
    }

    fn cluster(&self, balance: Balance) -> Cluster {
        let cluster = cluster(balance, &self.weights);
        load(&cluster, &self.loads);
        for (backend, &healthy) in cluster.backends().iter().zip(&self.healthy) {
            backend.set_healthy(healthy);
        }
        cluster
    }

    /// Those that may be chosen.
    fn usable(&self) -> Vec<usize> {
        let weighty = || (0..self.weights.len()).filter(|&it| self.weights[it] > 0);
        let healthy: Vec<usize> = weighty().filter(|&it| self.healthy[it]).collect();
        if healthy.is_empty() {
            weighty().collect()
        } else {
            healthy
        }
    }

    /// Of `among`, those whose `(load + more) / weight` is least.
    fn least(&self, among: &[usize], more: u32) -> BTreeSet<usize> {
        let cost = |it: usize| f64::from(self.loads[it] + more) / f64::from(self.weights[it]);
        let least = among
            .iter()
            .map(|&it| cost(it))
            .fold(f64::INFINITY, f64::min);
        among
            .iter()
            .copied()
            .filter(|&it| cost(it) <= least)
            .collect()
    }

    /// The one of `among` whose load for its weight is more than that of all others, if there are
    /// others.
    fn worst(&self, among: &[usize]) -> Option<usize> {
        let cost = |it: usize| f64::from(self.loads[it]) / f64::from(self.weights[it]);
        among.iter().copied().find(|&it| {
            among.len() > 1
                && among
                    .iter()
                    .all(|&other| other == it || cost(other) < cost(it))
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_least_loaded_is_chosen(scene in Scene::any()) {
        let rules = [
            (Balance::WeightedLeastConnections, 0),
            (Balance::ShortestExpectedDelay, 1),
        ];
        let usable = scene.usable();
        for (balance, more) in rules {
            let cluster = scene.cluster(balance);
            for _ in 0..20 {
                let picked = pick(&cluster, 0);
                let least = scene.least(&usable, more);
                prop_assert_eq!(picked.is_none(), usable.is_empty());
                prop_assert!(picked.is_none_or(|it| least.contains(&it)), "{} {:?}", balance, picked);
            }
        }
    }

    #[test]
    fn an_idle_one_never_queues(scene in Scene::any()) {
        let cluster = scene.cluster(Balance::NeverQueue);
        let usable = scene.usable();
        let idle: BTreeSet<usize> =
            usable.iter().copied().filter(|&it| scene.loads[it] == 0).collect();
        let expected = if idle.is_empty() { scene.least(&usable, 1) } else { idle };
        for _ in 0..20 {
            let picked = pick(&cluster, 0);
            prop_assert!(picked.map_or(usable.is_empty(), |it| expected.contains(&it)));
        }
    }

    #[test]
    fn least_connections_ignores_weights_and_shares_ties(scene in Scene::any()) {
        let scene = scene.evenly();
        let cluster = scene.cluster(Balance::LeastConnections);
        let least = scene.least(&scene.usable(), 0);
        let picked: BTreeSet<usize> = (0..24).filter_map(|it| pick(&cluster, it)).collect();
        // In 24 turns of at most 12 backends, each of the least has its turn.
        prop_assert_eq!(picked, least);
    }

    #[test]
    fn two_different_choices_never_end_at_the_worst(scene in Scene::any()) {
        let usable = scene.usable();
        let cluster = scene.cluster(Balance::PowerOfTwo);
        let either = scene.cluster(Balance::TwoChoices);
        for number in 0..50 {
            let picked = pick(&cluster, number);
            prop_assert_eq!(picked.is_none(), usable.is_empty());
            prop_assert!(picked.is_none() || picked != scene.worst(&usable));
            prop_assert!(pick(&either, number).is_none_or(|it| usable.contains(&it)));
        }
    }

    #[test]
    fn priorities_agree_with_a_search(scene in Scene::any()) {
        let heaviest = |among: Vec<usize>| {
            among.into_iter().max_by_key(|&it| (scene.weights[it], std::cmp::Reverse(it)))
        };
        prop_assert_eq!(pick(&scene.cluster(Balance::Failover), 0), heaviest(scene.usable()));
        let mut below = scene.usable();
        below.retain(|&it| scene.loads[it] <= u32::from(scene.weights[it]));
        prop_assert_eq!(pick(&scene.cluster(Balance::Overflow), 0), heaviest(below));
    }

    #[test]
    fn round_robin_takes_the_next_usable(scene in Scene::any()) {
        let scene = scene.evenly();
        let cluster = scene.cluster(Balance::RoundRobin);
        let usable = scene.usable();
        // From backend 0 on, whatever is not usable.
        let expected: Vec<usize> = usable.iter().copied().cycle().take(30).collect();
        let picked: Vec<usize> = (0..expected.len()).filter_map(|_| pick(&cluster, 0)).collect();
        prop_assert_eq!(picked, expected);
    }

    #[test]
    fn weighted_round_robin_is_exact_over_a_cycle(scene in Scene::any()) {
        let mut scene = scene;
        scene.healthy.iter_mut().for_each(|it| *it = true);
        let cluster = scene.cluster(Balance::WeightedRoundRobin);
        let cycle: u32 = scene.weights.iter().map(|&it| u32::from(it)).sum();
        if cycle > 0 {
            let weights: Vec<u32> = scene.weights.iter().map(|&it| u32::from(it)).collect();
            prop_assert_eq!(shares(&cluster, cycle), weights);
        }
    }

    #[test]
    fn random_and_ewma_choose_any_usable_and_none_else(scene in Scene::any()) {
        let usable: BTreeSet<usize> = scene.usable().into_iter().collect();
        for balance in [Balance::Random, Balance::Ewma] {
            let mut scene = Scene { loads: vec![0; scene.loads.len()], ..scene_of(&scene) };
            if balance == Balance::Ewma {
                scene = scene.evenly();
            }
            let cluster = scene.cluster(balance);
            let picked: BTreeSet<usize> = (0..1000).filter_map(|it| pick(&cluster, it)).collect();
            prop_assert_eq!(&picked, &usable, "{}", balance);
        }
    }

    #[test]
    fn source_hash_agrees_with_its_table(scene in Scene::any(), clients in any::<[u16; 20]>()) {
        let cluster = scene.cluster(Balance::SourceHash);
        let members: Vec<usize> =
            (0..scene.weights.len()).filter(|&it| scene.weights[it] > 0).collect();
        let round: Vec<usize> = members
            .iter()
            .flat_map(|&it| vec![it; usize::from(scene.weights[it] / common(&scene.weights))])
            .collect();
        let slots = (round.len() * 128).max(256).next_power_of_two();
        let usable = scene.usable();
        for client in clients {
            let hash = KeyHash::new(1).address(address(u32::from(client)));
            let owner = |slot: usize| round[slot % slots % round.len()];
            let expected = (!round.is_empty()).then(|| {
                let slot = place(hash, slots);
                let places = std::iter::once(slot).chain((2 * slot) % slots..).map(|it| it % slots);
                let mut owners = places.map(owner);
                owners.find(|it| usable.contains(it)).unwrap()
            });
            prop_assert_eq!(pick(&cluster, u32::from(client)), expected);
        }
    }

    /// A map of destinations to backends, and wlc.
    #[test]
    fn locality_agrees_with_a_map(
        weights in proptest::collection::vec(1_u16..5, 1..6),
        replicated: bool,
        steps in proptest::collection::vec((0_u32..12, proptest::collection::vec(0_u32..8, 6)), 1..60),
    ) {
        let balance = if replicated {
            Balance::LocalityLeastConnectionsReplicated
        } else {
            Balance::LocalityLeastConnections
        };
        let count = weights.len();
        let mut scene = Scene { weights, loads: vec![0; count], healthy: vec![true; count] };
        let cluster = cluster(balance, &scene.weights);
        let mut map: HashMap<u32, BTreeSet<usize>> = HashMap::new();
        let all: Vec<usize> = (0..count).collect();
        for (destination, loads) in steps {
            scene.loads = loads[..count].to_vec();
            load(&cluster, &scene.loads);
            let over = |it: usize| {
                scene.loads[it] > u32::from(scene.weights[it])
                    && all.iter().any(|&it| scene.loads[it] * 2 < u32::from(scene.weights[it]))
            };
            let set = map.entry(destination).or_default();
            let of_set = scene.least(&set.iter().copied().collect::<Vec<_>>(), 0);
            let picked = pick(&cluster, destination).unwrap();
            // Of equals in the set, any; they are overloaded together or not, unless their
            // weights differ.
            if of_set.contains(&picked) && !over(picked) {
                continue;
            }
            prop_assert!(of_set.is_empty() || of_set.iter().any(|&it| over(it)));
            prop_assert!(scene.least(&all, 0).contains(&picked));
            if !replicated {
                set.clear();
            }
            set.insert(picked);
        }
    }

    /// Whatever the scheduler, a hash key decides alone, on any worker.
    #[test]
    fn equal_keys_go_to_equal_backends(scene in Scene::any(), client: u16) {
        for (_, balance) in Balance::NAMES {
            if !balance.can_bound_load() {
                continue;
            }
            let cluster = scene.cluster(balance);
            let tried = Tried::default();
            let client = SocketAddr::new(address(u32::from(client)), 1);
            let on = |worker| {
                let choice = Choice::new(worker, Instant::START, client, &tried);
                cluster.pick(&choice).map(|it| it.backend().index)
            };
            prop_assert_eq!(on(0), on(1));
        }
    }
}

fn scene_of(scene: &Scene) -> Scene {
    Scene {
        weights: scene.weights.clone(),
        loads: scene.loads.clone(),
        healthy: scene.healthy.clone(),
    }
}

fn common(weights: &[u16]) -> u16 {
    fn of_two(a: u16, b: u16) -> u16 {
        if b == 0 { a } else { of_two(b, a % b) }
    }
    weights.iter().fold(0, |all, &weight| of_two(all, weight))
}
