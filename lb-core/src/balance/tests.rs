//! Tests of the choice as a whole: tiers, health, tries, and what a new snapshot takes over.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::*;
use crate::plan::TRIES_LIMIT;

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
