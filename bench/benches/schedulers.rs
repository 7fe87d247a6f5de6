//! A choice by every scheduler, and building a cluster for it.
//!
//! Guards the budget of 5 ms for a cluster of 1,000 backends, and shows which choices look at all
//! backends and which do not. Read next: `balance.rs`.
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use criterion::Criterion;
use lb_core::balance::{Choice, Cluster, Context, Tried};
use lb_core::plan::{self, Balance};
use lb_core::rt::Instant;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    pick(&mut criterion);
    build(&mut criterion);
    criterion.final_summary();
}

/// A choice for another client each time, and its end.
fn pick(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scheduler");
    for (name, balance) in Balance::NAMES {
        for backend_count in [10, 1000] {
            let cluster = cluster(balance, backend_count, false);
            let mut client = 0_u32;
            group.bench_function(format!("{name}, {backend_count} backends"), |bencher| {
                bencher.iter(|| {
                    client = client.wrapping_add(0x9E37_79B9);
                    choose(&cluster, client)
                });
            });
        }
    }
    let cluster = cluster(Balance::Maglev, 1000, true);
    let mut client = 0_u32;
    group.bench_function("mh, 1000 backends, bounded load", |bencher| {
        bencher.iter(|| {
            client = client.wrapping_add(0x9E37_79B9);
            choose(&cluster, client)
        });
    });
    group.finish();
}

fn build(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("build a scheduler");
    let context = Context::new(7, 2);
    for (name, balance) in Balance::NAMES {
        let plan = plan(balance, 1000);
        group.bench_function(format!("{name}, 1000 backends"), |bencher| {
            bencher.iter(|| Cluster::build(black_box(&plan), &context, None));
        });
    }
    // Weights whose cycle of turns is as long as it can get.
    let mut plan = plan(Balance::WeightedRoundRobin, 1000);
    for (number, backend) in (0_u16..).zip(&mut plan.backends) {
        backend.weight = 60_000 + number;
    }
    for balance in [Balance::WeightedRoundRobin, Balance::Maglev, Balance::Ring] {
        plan.balance = balance;
        group.bench_function(
            format!("{balance}, 1000 backends, odd weights"),
            |bencher| {
                bencher.iter(|| Cluster::build(black_box(&plan), &context, None));
            },
        );
    }
    group.finish();
}

fn choose(cluster: &Cluster, client: u32) -> Option<u16> {
    let client = SocketAddr::from((Ipv4Addr::from_bits(client), 40_000));
    let tried = Tried::default();
    let mut choice = Choice::new(0, Instant::START, client, &tried);
    choice.local = client.ip();
    cluster.pick(&choice).map(|lease| lease.backend().index)
}

fn cluster(balance: Balance, backend_count: u32, bounded: bool) -> Cluster {
    let mut plan = plan(balance, backend_count);
    plan.bounded_load = bounded.then_some(plan::Cluster::BOUNDED_LOAD_DEFAULT);
    Cluster::build(&plan, &Context::new(7, 2), None)
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
