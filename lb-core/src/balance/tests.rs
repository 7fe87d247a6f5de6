//! Tests of the choice as a whole: tiers, health, tries, and what a new snapshot takes over.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::*;
use crate::plan::{Condition, TRIES_LIMIT, Tier};

pub(super) const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

pub(super) fn plan(balance: Balance, weights: &[u16]) -> plan::Cluster {
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

pub(super) fn cluster(balance: Balance, weights: &[u16]) -> Cluster {
    Cluster::build(&plan(balance, weights), &Context::new(1, 2), None)
}

pub(super) fn pick<'a>(
    cluster: &'a Cluster,
    worker: usize,
    client: IpAddr,
    tried: &Tried,
) -> Option<&'a Arc<Backend>> {
    let client = SocketAddr::new(client, 40_000);
    let choice = Choice::new(worker, Instant::START, client, tried);
    cluster.pick(&choice).map(|lease| lease.backend())
}

pub(super) fn picks(cluster: &Cluster, worker: usize, count: usize) -> Vec<u16> {
    let next = || {
        pick(cluster, worker, CLIENT, &Tried::default())
            .unwrap()
            .index
    };
    std::iter::repeat_with(next).take(count).collect()
}

pub(super) fn clients(count: u32) -> impl Iterator<Item = IpAddr> {
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
fn a_retry_takes_no_turn_of_another() {
    for balance in [Balance::RoundRobin, Balance::WeightedRoundRobin] {
        let cluster = cluster(balance, &[1, 1]);
        let mut firsts = [0_u32; 2];
        for _ in 0..100 {
            let first = pick(&cluster, 0, CLIENT, &Tried::default()).unwrap().index;
            firsts[usize::from(first)] += 1;
            if first == 0 {
                let mut tried = Tried::default();
                tried.insert(first);
                assert_eq!(pick(&cluster, 0, CLIENT, &tried).unwrap().index, 1);
            }
        }
        assert_eq!(firsts, [50, 50], "{balance}");
    }
}

#[test]
fn round_robin_keeps_weights_exactly_over_a_cycle() {
    let cluster = cluster(Balance::WeightedRoundRobin, &[30, 0, 20, 10]);
    let picks = picks(&cluster, 0, 600);
    let count = |index| picks.iter().filter(|&&it| it == index).count();
    assert_eq!([0, 1, 2, 3].map(count), [300, 0, 200, 100]);
}

#[test]
fn maglev_gives_a_client_the_same_backend_on_every_worker() {
    let cluster = cluster(Balance::Maglev, &[1; 5]);
    for client in clients(100) {
        let picked = [0, 1].map(|it| pick(&cluster, it, client, &Tried::default()).unwrap().id());
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
    for (_, balance) in Balance::NAMES {
        for weights in [&[][..], &[0, 0]] {
            let cluster = cluster(balance, weights);
            assert!(pick(&cluster, 0, CLIENT, &Tried::default()).is_none());
        }
    }
}

/// One healthy backend among so many that the walk along the slots gives up.
#[test]
fn the_last_healthy_backend_is_found_however_many_are_down() {
    for (_, balance) in Balance::NAMES {
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
    assert!(Cluster::build(&plan, &Context::new(1, 1), Some(&checked)).backends()[0].is_healthy());
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
    let tables = |cluster: &Cluster| Arc::clone(cluster.tiers[0].scheduler.maglev().unwrap());
    let first = Cluster::build(&plan, &Context::new(1, 1), None);
    let same = Cluster::build(&plan, &Context::new(1, 1), Some(&first));
    let reseeded = Cluster::build(&plan, &Context::new(2, 1), Some(&first));
    assert!(Arc::ptr_eq(&tables(&first), &tables(&same)));
    assert!(!Arc::ptr_eq(&tables(&first), &tables(&reseeded)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Retries until nothing is left, against sets: each try is a new backend of the right
    /// kind, and all of that kind are tried.
    #[test]
    fn tries_agree_with_a_model(
        backends in proptest::collection::vec((0_u16..3, any::<bool>()), 0..100),
        scheduler in 0..Balance::NAMES.len(),
        client: u32,
        tries in 0..TRIES_LIMIT,
    ) {
        let (_, balance) = Balance::NAMES[scheduler];
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

/// A plan of backends that differ in tier and condition.
fn tiered(backends: &[(Tier, Condition, u16)]) -> plan::Cluster {
    let weights: Vec<u16> = backends.iter().map(|it| it.2).collect();
    let mut plan = plan(Balance::RoundRobin, &weights);
    for (backend, &(tier, condition, _)) in plan.backends.iter_mut().zip(backends) {
        (backend.tier, backend.condition) = (tier, condition);
    }
    plan
}

fn build(plan: &plan::Cluster) -> Cluster {
    Cluster::build(plan, &Context::new(1, 2), None)
}

fn picked(cluster: &Cluster) -> HashSet<u16> {
    picks(cluster, 0, 20).into_iter().collect()
}

fn at(seconds: u64) -> Instant {
    Instant::START + Duration::from_secs(seconds)
}

const PRIMARY: (Tier, Condition, u16) = (Tier::Primary, Condition::Ready, 1);
const BACKUP: (Tier, Condition, u16) = (Tier::Backup, Condition::Ready, 1);
const SERVING: (Tier, Condition, u16) = (Tier::Primary, Condition::Serving, 1);

#[test]
fn tiers_are_used_in_order() {
    let cluster = build(&tiered(&[
        SERVING,
        BACKUP,
        PRIMARY,
        (Tier::Primary, Condition::Terminating, 1),
        (Tier::Primary, Condition::Draining, 1),
        (Tier::Primary, Condition::Ready, 0),
        PRIMARY,
    ]));
    assert_eq!(picked(&cluster), HashSet::from([2, 6]));
    for (down, expected) in [(2, 6), (6, 1), (1, 0)] {
        cluster.backends()[down].set_healthy(false);
        assert_eq!(picked(&cluster), HashSet::from([expected]));
        assert!(!cluster.is_panicking());
    }
    cluster.backends()[0].set_healthy(false);
    assert!(cluster.is_panicking());
    assert_eq!(picked(&cluster), HashSet::from([2, 6]));
    cluster.backends()[1].set_healthy(true);
    assert_eq!(picked(&cluster), HashSet::from([1]));
}

#[test]
fn a_retry_goes_on_in_the_next_tier() {
    let cluster = build(&tiered(&[PRIMARY, BACKUP, SERVING, PRIMARY]));
    let mut tried = Tried::default();
    let mut order = vec![];
    while let Some(backend) = pick(&cluster, 0, CLIENT, &tried) {
        tried.insert(backend.index);
        order.push(backend.index);
    }
    assert_eq!(order, [0, 3, 1, 2]);
}

#[test]
fn below_the_panic_threshold_health_is_ignored() {
    let mut plan = tiered(&[PRIMARY; 4]);
    plan.panic_threshold = 50;
    let cluster = build(&plan);
    for down in [0, 1] {
        cluster.backends()[down].set_healthy(false);
    }
    assert_eq!(
        (picked(&cluster), cluster.is_panicking()),
        (HashSet::from([2, 3]), false)
    );
    cluster.backends()[2].set_healthy(false);
    assert_eq!((picked(&cluster).len(), cluster.is_panicking()), (4, true));
}

#[test]
fn a_state_says_what_becomes_of_new_load() {
    let cluster = build(&tiered(&[
        PRIMARY,
        SERVING,
        (Tier::Backup, Condition::Terminating, 1),
        (Tier::Primary, Condition::Draining, 1),
        (Tier::Primary, Condition::Ready, 0),
        PRIMARY,
    ]));
    cluster.backends()[5].set_healthy(false);
    let states: Vec<String> = cluster
        .backends()
        .iter()
        .map(|it| it.state().to_string())
        .collect();
    let expected = [
        "ready",
        "serving",
        "terminating",
        "draining",
        "draining",
        "unhealthy",
    ];
    assert_eq!(states, expected);
    assert!(State::ALL.iter().is_sorted_by_key(|state| state.name()));
}

#[test]
fn the_hash_key_decides_what_is_hashed() {
    let mut plan = plan(Balance::Maglev, &[1; 50]);
    let of = |plan: &plan::Cluster, change: fn(&mut Choice<'_>)| {
        let cluster = build(plan);
        let tried = Tried::default();
        let mut choice = Choice::new(0, Instant::START, SocketAddr::new(CLIENT, 40_000), &tried);
        let before = cluster.pick(&choice).unwrap().backend().index;
        change(&mut choice);
        cluster.pick(&choice).unwrap().backend().index != before
    };
    let client = |it: &mut Choice<'_>| it.client.set_ip(IpAddr::from([192, 0, 2, 9]));
    let port = |it: &mut Choice<'_>| it.client.set_port(1);
    let local = |it: &mut Choice<'_>| it.local = IpAddr::from([192, 0, 2, 7]);
    let hash = |it: &mut Choice<'_>| it.hash = Some(1 << 60);
    let moved = |plan: &plan::Cluster| [client, port, local, hash].map(|it| of(plan, it));
    assert_eq!(moved(&plan), [true, false, false, false]);
    plan.hash_key = Some(HashKey::ClientAddressPort);
    assert_eq!(moved(&plan), [true, true, false, false]);
    plan.hash_key = Some(HashKey::Destination);
    assert_eq!(moved(&plan), [false, false, true, false]);
    plan.hash_key = Some(HashKey::Uri);
    assert_eq!(moved(&plan), [true, false, false, true]);
}

#[test]
fn a_cluster_says_what_it_needs_of_a_choice() {
    let needs = |balance| {
        let cluster = cluster(balance, &[1]);
        (cluster.hash_key().cloned(), cluster.asks_local())
    };
    assert_eq!(needs(Balance::RoundRobin), (None, false));
    assert_eq!(
        needs(Balance::Maglev),
        (Some(HashKey::ClientAddress), false)
    );
    assert_eq!(
        needs(Balance::DestinationHash),
        (Some(HashKey::Destination), true)
    );
}

#[test]
fn a_new_backend_starts_slowly_and_the_first_ones_do_not() {
    // With `sed`, a small weight among idle backends means nothing at all.
    let tested = |it: &Balance| it.can_start_slowly() && *it != Balance::ShortestExpectedDelay;
    for balance in Balance::NAMES.map(|it| it.1).into_iter().filter(tested) {
        let mut plan = plan(balance, &[1; 3]);
        plan.slow_start = Some(Duration::from_secs(10));
        let context = |seconds| Context {
            now: at(seconds),
            ..Context::new(1, 1)
        };
        let first = Cluster::build(&plan, &context(0), None);
        plan.backends
            .push(SocketAddr::from(([127, 0, 0, 1], 9100)).into());
        let cluster = Cluster::build(&plan, &context(1), Some(&first));
        assert!(cluster.needs_tick());
        // Each pick ends before the next: among idle backends.
        let of_new = |cluster: &Cluster| {
            picks(cluster, 0, 10_000)
                .into_iter()
                .filter(|&it| it == 3)
                .count()
        };
        let shares = [1, 6, 11].map(|seconds| {
            cluster.tick(at(seconds));
            of_new(&cluster)
        });
        assert!((100..600).contains(&shares[0]), "{balance} {shares:?}");
        assert!(
            (shares[0] * 2..shares[2]).contains(&shares[1]),
            "{balance} {shares:?}"
        );
        assert!((2200..2800).contains(&shares[2]), "{balance} {shares:?}");
    }
}

#[test]
fn a_backend_that_becomes_healthy_starts_slowly() {
    let mut plan = plan(Balance::WeightedLeastConnections, &[1, 1]);
    plan.slow_start = Some(Duration::from_secs(10));
    plan.health = Some(plan::Health::default());
    let cluster = build(&plan);
    let backend = &cluster.backends()[1];
    backend.set_healthy_at(false, at(0));
    backend.set_healthy_at(true, at(5));
    let leases: Vec<Lease<'_>> = (0..1100)
        .map(|_| {
            let tried = Tried::default();
            let client = SocketAddr::new(CLIENT, 1);
            cluster
                .pick(&Choice::new(0, at(5), client, &tried))
                .unwrap()
        })
        .collect();
    // A tenth of what the other has.
    assert!(
        (80..120).contains(&backend.in_flight()),
        "{}",
        backend.in_flight()
    );
    drop(leases);
    plan.slow_start = None;
    let after = Cluster::build(&plan, &Context::new(1, 2), Some(&cluster));
    assert!(!after.needs_tick());
    let ones = picks(&after, 0, 100)
        .into_iter()
        .filter(|&it| it == 1)
        .count();
    assert_eq!(ones, 50, "without slow start, all of the weight at once");
}

/// A cluster with outlier detection.
fn watched(count: usize, outlier: Outlier) -> Cluster {
    let mut plan = plan(Balance::RoundRobin, &vec![1; count]);
    plan.outlier = Some(outlier);
    build(&plan)
}

fn report(cluster: &Cluster, index: u16, ok: bool, now: Instant) {
    let lease = Lease::new(cluster, index, 0, Held::Without);
    if ok {
        lease.answered_at(Duration::ZERO, now);
    } else {
        lease.failed_at(Fault::Answer, now);
    }
}

#[test]
fn failures_in_a_row_eject_for_a_time() {
    let cluster = watched(
        3,
        Outlier {
            failures: Some(3),
            ..Outlier::default()
        },
    );
    for ok in [false, false, true, false, false] {
        report(&cluster, 1, ok, at(0));
    }
    assert_eq!(cluster.ejected(), 0);
    report(&cluster, 1, false, at(0));
    assert_eq!((cluster.ejected(), cluster.ejections()), (1, 1));
    assert_eq!(cluster.backends()[1].state(), State::Ejected);
    assert_eq!(picked(&cluster), HashSet::from([0, 2]));
    cluster.tick(at(29));
    assert_eq!(cluster.ejected(), 1);
    cluster.tick(at(30));
    assert_eq!((cluster.ejected(), cluster.ejections()), (0, 1));
    assert_eq!(picked(&cluster), HashSet::from([0, 1, 2]));
}

#[test]
fn ejections_grow_and_calm_makes_them_shorter() {
    let second = Duration::from_secs(1);
    let cluster = watched(
        2,
        Outlier {
            failures: Some(1),
            ejection: 10 * second,
            ejection_max: 25 * second,
            ..Outlier::default()
        },
    );
    let ejected_for = |now: u64| {
        report(&cluster, 0, false, at(now));
        assert_eq!(cluster.ejected(), 1);
        let over = (1..100).find(|&it| {
            cluster.tick(at(now + it));
            cluster.ejected() == 0
        });
        over.unwrap()
    };
    assert_eq!(ejected_for(100), 10);
    assert_eq!(ejected_for(111), 20);
    assert_eq!(ejected_for(132), 25);
    // Twenty seconds of calm take two off.
    assert_eq!(ejected_for(157 + 20), 20);
    assert_eq!(ejected_for(1000), 10);
}

#[test]
fn a_share_of_failures_within_a_window_ejects() {
    let cluster = watched(
        2,
        Outlier {
            failures: None,
            ratio: Some(50),
            requests_least: 10,
            window: Duration::from_secs(10),
            ..Outlier::default()
        },
    );
    for count in 0..9 {
        report(&cluster, 0, count % 2 == 0, at(20));
    }
    // Those of the window before do not count.
    for count in 0..9 {
        report(&cluster, 0, count % 2 == 0, at(40));
    }
    assert_eq!(cluster.ejected(), 0, "4 of 9");
    report(&cluster, 0, false, at(41));
    assert_eq!(cluster.ejected(), 1, "5 of 10");
}

#[test]
fn no_more_are_ejected_than_allowed() {
    let outlier = |ejected_max| Outlier {
        failures: Some(1),
        ejected_max,
        ..Outlier::default()
    };
    for (count, ejected_max, expected) in [(10, 30, 3), (10, 1, 1), (1, 100, 0), (4, 100, 4)] {
        let cluster = watched(count, outlier(ejected_max));
        for index in 0..count as u16 {
            report(&cluster, index, false, at(0));
        }
        assert_eq!(cluster.ejected(), expected, "{count} {ejected_max}");
    }
}

#[test]
fn without_outlier_detection_nobody_stays_ejected() {
    let cluster = watched(
        2,
        Outlier {
            failures: Some(1),
            ..Outlier::default()
        },
    );
    report(&cluster, 0, false, at(0));
    let plan = plan(Balance::RoundRobin, &[1, 1]);
    let after = Cluster::build(&plan, &Context::new(1, 1), Some(&cluster));
    assert_eq!(after.ejected(), 0);
    assert_eq!(picked(&after), HashSet::from([0, 1]));
    report(&after, 0, false, at(1));
    assert_eq!(after.ejected(), 0);
}

/// Workers choose while backends come and go: whatever is chosen is a backend, and in the end
/// nothing is in flight.
#[test]
fn choices_and_changes_at_the_same_time_leave_nothing_behind() {
    const WORKERS: usize = 3;
    for (_, balance) in Balance::NAMES {
        let mut plan = plan(balance, &[3; 8]);
        plan.affinity = Some(Affinity::client_address(Affinity::TIMEOUT_DEFAULT));
        plan.outlier = Some(Outlier::default());
        plan.slow_start = balance.can_start_slowly().then_some(Duration::from_secs(1));
        plan.bounded_load = balance.can_bound_load().then_some(150);
        plan.health = Some(plan::Health::default());
        let context = Context::new(1, WORKERS);
        let first = Cluster::build(&plan, &context, None);
        plan.backends.rotate_left(3);
        plan.backends.pop();
        let second = Cluster::build(&plan, &context, Some(&first));
        std::thread::scope(|scope| {
            for worker in 0..WORKERS {
                let clusters = [&first, &second];
                scope.spawn(move || {
                    for number in 0..300_u32 {
                        let cluster = clusters[number as usize % 2];
                        let tried = Tried::default();
                        let client =
                            SocketAddr::from(((0x0a00_0000 + number % 70).to_be_bytes(), 1));
                        let choice = Choice::new(worker, at(u64::from(number)), client, &tried);
                        let Some(lease) = cluster.pick(&choice) else {
                            continue;
                        };
                        match number % 5 {
                            0 => lease.failed_at(Fault::Connect, at(u64::from(number))),
                            _ => lease.answered_at(Duration::from_millis(3), at(u64::from(number))),
                        }
                        if number % 7 == 0 {
                            let backend = lease.backend();
                            backend.set_healthy(!backend.is_healthy());
                            cluster.tick(at(u64::from(number)));
                        }
                    }
                });
            }
        });
        for cluster in [&first, &second] {
            assert!(cluster.backends().iter().all(|it| it.in_flight() == 0));
            assert_eq!(cluster.state.in_flight(), 0);
        }
    }
}

/// A status changes before the epoch that tells of it: who chooses between the two still finds
/// somebody.
#[test]
fn a_choice_in_the_middle_of_a_change_is_not_lost() {
    for (_, balance) in Balance::NAMES {
        let cluster = cluster(balance, &[1, 1]);
        assert!(pick(&cluster, 0, CLIENT, &Tried::default()).is_some());
        for backend in cluster.backends() {
            backend.state.hot.set(backend::UNHEALTHY);
        }
        assert!(pick(&cluster, 0, CLIENT, &Tried::default()).is_some());
    }
}
