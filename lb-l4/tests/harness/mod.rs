//! A listener that serves sessions with `lb_l4::serve`, on each engine.
//!
//! Invariant: everything is on loopback, on ports that the kernel chose.

use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lb_core::balance::Cluster;
use lb_core::metrics::ListenerCounters;
use lb_core::plan;
use lb_core::rt::{Config, EngineKind, ListenOptions, Runtime, TcpListener, TcpStream, spawn};
use lb_core::snapshot::Held;
use lb_core::worker::Worker;
use lb_l4::TcpService;

/// Runs `body` on each engine that this machine offers.
pub(crate) fn on_each_engine<F: Future<Output = ()>>(body: impl Fn() -> F) {
    for engine in [EngineKind::Epoll, EngineKind::Uring] {
        match Runtime::new(&Config {
            engine,
            ..Config::default()
        }) {
            Ok(mut runtime) => runtime.block_on(body()),
            Err(error) => eprintln!("skipped on {}: {error}", engine.name()),
        }
    }
}

/// Runs `body` on the `sim` engine, where time passes only when nothing else can happen.
pub(crate) fn in_virtual_time<F: Future<Output = ()>>(body: impl FnOnce() -> F) {
    let config = Config {
        engine: EngineKind::Sim,
        ..Config::default()
    };
    Runtime::new(&config)
        .expect("a simulated network")
        .block_on(body());
}

pub(crate) fn listen() -> (TcpListener, SocketAddr) {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = TcpListener::bind(any, &ListenOptions::default()).expect("bind");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

/// An address that refuses connections, since its listener is closed again.
pub(crate) fn refusing() -> SocketAddr {
    listen().1
}

/// A balancer in front of `backends`: where it listens, and its counters.
pub(crate) fn balance(
    backends: &[SocketAddr],
    idle_timeout: Duration,
) -> (SocketAddr, Arc<ListenerCounters>) {
    let backend = |address: &SocketAddr| plan::Backend {
        address: *address,
        name: address.to_string(),
        weight: 1,
    };
    let cluster = plan::Cluster {
        name: "c".to_owned(),
        backends: backends.iter().map(backend).collect(),
        balance: plan::Balance::RoundRobin,
        health: None,
        connect_timeout: Duration::from_secs(5),
        tries_max: 3,
        pool_idle_max: 0,
        pool_idle_timeout: Duration::ZERO,
    };
    let plan = plan::Tcp {
        cluster: "c".to_owned(),
        idle_timeout,
    };
    let cluster = Arc::new(Cluster::build(&cluster, 1, 1, None));
    let service = Held::new(Arc::new(TcpService::build(&plan, cluster)));
    let worker = Rc::new(Worker::new(0, Arc::default()));
    let counters = Arc::<ListenerCounters>::default();
    let (listener, address) = listen();
    let own = Arc::clone(&counters);
    spawn(async move {
        while let Ok(client) = listener.accept().await {
            let (service, of) = (service.clone(), Rc::clone(&worker));
            worker.connections.spawn(Arc::clone(&own), |registration| {
                lb_l4::serve(client, service, of, registration)
            });
        }
    });
    (address, counters)
}

/// Receives exactly `count` bytes.
pub(crate) async fn receive(stream: &TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(count);
    while bytes.len() < count {
        let chunk = stream.recv().await.expect("receive");
        assert!(
            !chunk.is_empty(),
            "ended after {} bytes of {count}",
            bytes.len()
        );
        bytes.extend_from_slice(&chunk);
    }
    bytes
}
