//! Connections that stay, over the workers.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::client::Connection;
use crate::harness::{Lb, on_both_engines, wait_until};
use crate::origin::HttpOrigin;

on_both_engines!(a_thousand_connections_are_shared_evenly);

const CONNECTIONS: usize = 1000;

fn a_thousand_connections_are_shared_evenly(engine: &str) {
    let hard = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: hard,
        maximum: hard,
    };
    setrlimit(Resource::Nofile, limit).unwrap();
    let origin = HttpOrigin::start("a");
    let lb = Lb::start(
        engine,
        &["--http", &format!("web@127.0.0.1:0={}", origin.address)],
    );
    let address = lb.listener("web");
    let open = || {
        let open = [0, 1]
            .map(|worker| lb.metric(&format!("lb_worker_connections{{worker=\"{worker}\"}}")));
        (open[0] + open[1], open[0].max(open[1]))
    };
    let mut connections: Vec<_> = (0..CONNECTIONS)
        .map(|_| Connection::open(address))
        .collect();
    wait_until("all connections", || open().0 == CONNECTIONS as f64);
    let most = open().1;
    let mean = CONNECTIONS as f64 / 2.0;
    assert!(most / mean <= 1.05, "{most} of {CONNECTIONS}");
    for connection in &mut connections {
        assert_eq!(connection.get("/").body, "a", "wherever it is served");
    }
    // Long-lived ones end unevenly: those that come make it even again.
    connections.truncate(CONNECTIONS / 10);
    wait_until("the others to end", || {
        open().0 == (CONNECTIONS / 10) as f64
    });
    connections.extend((0..CONNECTIONS).map(|_| Connection::open(address)));
    wait_until("the new ones", || {
        open().0 == (CONNECTIONS * 11 / 10) as f64
    });
    let (all, most) = open();
    assert!(most / (all / 2.0) <= 1.05, "{most} of {all}");
}
