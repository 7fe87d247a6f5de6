//! What finding a route costs: by host, by prefix, by regular expression.
//!
//! Guards the promise that a look-up does not grow with the number of hosts.
//! Read next: `http1.rs` (the rest of an exchange).
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot begin ends with a panic"
)]

use std::hint::black_box;

use criterion::Criterion;
use lb_core::plan::{HostMatching, PathMatch, Route};
use lb_l7::route::RouteTable;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    prefixes(&mut criterion);
    expressions(&mut criterion);
    criterion.final_summary();
}

fn table(routes: &[Route]) -> RouteTable {
    RouteTable::build(routes, HostMatching::FallThrough).unwrap()
}

fn host(number: usize) -> String {
    format!("shop-{number}.example")
}

fn prefixes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("find by prefix");
    for host_count in [10, 1000, 5000] {
        let mut routes = vec![Route::to(None, "/", "a")];
        for number in 0..host_count {
            let paths = ["/", "/api", "/api/orders", "/static"];
            routes.extend(paths.map(|path| Route::to(Some(&host(number)), path, "a")));
        }
        let table = table(&routes);
        // Another host each time, as the caches would have it.
        let hosts: Vec<String> = (0..host_count).map(host).collect();
        let mut next = hosts.iter().cycle();
        group.bench_function(format!("{host_count} hosts of 4 paths"), |bencher| {
            bencher.iter(|| {
                let host = next.next().unwrap().as_bytes();
                table.find(black_box(host), black_box(b"/api/orders/7"))
            });
        });
    }
    group.bench_function("any host, one path", |bencher| {
        let table = table(&[Route::to(None, "/", "a")]);
        bencher.iter(|| table.find(black_box(b"shop.example"), black_box(b"/api/orders/7")));
    });
    group.finish();
}

fn expressions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("find by expression");
    for count in [1, 10, 100] {
        let routes: Vec<Route> = (0..count)
            .map(|number| Route {
                path: PathMatch::Regex {
                    pattern: format!("/service-{number}(/|$)(.*)"),
                    ignore_case: true,
                },
                ..Route::to(Some("shop.example"), "/", "a")
            })
            .collect();
        let table = table(&routes);
        let path = format!("/Service-{}/orders/7", count - 1);
        group.bench_function(format!("the last of {count}"), |bencher| {
            bencher.iter(|| table.find(black_box(b"shop.example"), black_box(path.as_bytes())));
        });
    }
    group.finish();
}
