//! Choosing a backend, and what a change of the backends costs the workers.
//!
//! Guards the budget of 10 ns for a Maglev look-up, and that a worker's look for a new snapshot,
//! once a turn of its loop, costs next to nothing. Read next: `runtime.rs`.
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use criterion::Criterion;
use lb_core::balance::{Cluster, Tried};
use lb_core::plan::{self, Balance};
use lb_core::snapshot::{Current, Publisher};

const SEED: u64 = 7;
const WORKERS: usize = 2;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    pick(&mut criterion);
    build(&mut criterion);
    snapshot(&mut criterion);
    criterion.final_summary();
}

/// A look-up for a client, another one each time, so that the table's lines are not all warm in
/// the first-level cache.
fn pick(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick");
    for (name, balance) in [
        ("maglev", Balance::Maglev),
        ("round robin", Balance::RoundRobin),
    ] {
        for backend_count in [2, 100] {
            let cluster = Cluster::build(&plan(balance, backend_count), SEED, WORKERS, None);
            let mut client = 0_u32;
            group.bench_function(format!("{name}, {backend_count} backends"), |bencher| {
                bencher.iter(|| {
                    client = client.wrapping_add(0x9E37_79B9);
                    let client = IpAddr::V4(Ipv4Addr::from_bits(client));
                    cluster
                        .pick(0, client, &Tried::default())
                        .map(|backend| backend.index)
                });
            });
        }
    }
    group.finish();
}

/// On the control thread; the plan behind it may change every second.
fn build(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("build");
    for backend_count in [2, 100, 1000] {
        let plan = plan(Balance::Maglev, backend_count);
        group.bench_function(format!("maglev, {backend_count} backends"), |bencher| {
            bencher.iter(|| Cluster::build(black_box(&plan), SEED, WORKERS, None));
        });
    }
    let plan = plan(Balance::Maglev, 100);
    let previous = Cluster::build(&plan, SEED, WORKERS, None);
    group.bench_function("maglev, 100 backends, none changed", |bencher| {
        bencher.iter(|| Cluster::build(black_box(&plan), SEED, WORKERS, Some(&previous)));
    });
    group.finish();
}

fn snapshot(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("snapshot");
    let mut publisher = Publisher::new([0_u64; 8]);
    let mut subscriber = publisher.subscribe();
    group.bench_function("refresh, nothing new", |bencher| {
        bencher.iter(|| subscriber.refresh().is_some());
    });
    group.bench_function("publish and refresh", |bencher| {
        bencher.iter(|| {
            publisher.publish(black_box([1; 8]));
            subscriber.refresh().is_some()
        });
    });
    let current = Current::new(Arc::new([0_u64; 8]));
    group.bench_function("take and release the current value", |bencher| {
        bencher.iter(|| current.get()[0]);
    });
    group.finish();
}

fn plan(balance: Balance, backend_count: u32) -> plan::Cluster {
    let backend = |number: u32| {
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 1).to_bits() + number);
        plan::Backend {
            address: SocketAddr::from((address, 80)),
            name: format!("{address}:80"),
            weight: 1,
        }
    };
    plan::Cluster {
        name: "bench".to_owned(),
        backends: (0..backend_count).map(backend).collect(),
        balance,
        health: None,
        connect_timeout: Duration::from_secs(1),
        tries_max: 3,
        pool_idle_max: 16,
        pool_idle_timeout: Duration::from_secs(60),
    }
}
