//! Choosing a backend, and what a change of the backends costs the workers.
//!
//! Guards the budget of 10 ns for a Maglev look-up, and that a worker's look for a new snapshot,
//! once a turn of its loop, costs next to nothing. Read next: `runtime.rs`.
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use criterion::Criterion;
use lb_core::balance::{Choice, Cluster, Context, Tried};
use lb_core::plan::{self, Balance};
use lb_core::rt::Instant;
use lb_core::snapshot::Current;

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
            let cluster = Cluster::build(
                &plan(balance, backend_count),
                &Context::new(SEED, WORKERS),
                None,
            );
            let mut client = 0_u32;
            group.bench_function(format!("{name}, {backend_count} backends"), |bencher| {
                bencher.iter(|| {
                    client = client.wrapping_add(0x9E37_79B9);
                    let client = SocketAddr::from((Ipv4Addr::from_bits(client), 40_000));
                    let tried = Tried::default();
                    let choice = Choice::new(0, Instant::START, client, &tried);
                    cluster.pick(&choice).map(|lease| lease.backend().index)
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
            bencher.iter(|| Cluster::build(black_box(&plan), &Context::new(SEED, WORKERS), None));
        });
    }
    let plan = plan(Balance::Maglev, 100);
    let previous = Cluster::build(&plan, &Context::new(SEED, WORKERS), None);
    group.bench_function("maglev, 100 backends, none changed", |bencher| {
        bencher.iter(|| {
            Cluster::build(
                black_box(&plan),
                &Context::new(SEED, WORKERS),
                Some(&previous),
            )
        });
    });
    group.finish();
}

fn snapshot(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("snapshot");
    let current = Current::new(Arc::new([0_u64; 8]));
    group.bench_function("take and release the current value", |bencher| {
        bencher.iter(|| current.get()[0]);
    });
    group.finish();
}

fn plan(balance: Balance, backend_count: u32) -> plan::Cluster {
    let backend = |number: u32| {
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 1).to_bits() + number);
        plan::Backend::from(SocketAddr::from((address, 80)))
    };
    plan::Cluster {
        balance,
        ..plan::Cluster::new("bench", (0..backend_count).map(backend).collect())
    }
}
