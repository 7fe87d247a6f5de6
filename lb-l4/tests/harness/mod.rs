//! A listener that serves sessions with `lb_l4::serve`, on each engine.
//!
//! Invariant: everything is on loopback, on ports that the kernel chose.

use std::cell::Cell;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lb_core::balance::{Cluster, Context};
use lb_core::metrics::ListenerCounters;
use lb_core::plan;
use lb_core::rt::sim::{Faults, Settings};
use lb_core::rt::{
    Config, EngineKind, ListenOptions, Runtime, Stats, TcpListener, TcpStream, now, sleep, spawn,
    stats, timeout,
};
use lb_core::snapshot::Held;
use lb_core::worker::Worker;
use lb_l4::limits::Gate;
use lb_l4::{SessionLog, TcpService};

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

/// Runs `body` on a simulated network without latency whose windows take 8 MiB.
pub(crate) fn on_a_wide_network<F: Future<Output = ()>>(seed: u64, body: impl FnOnce() -> F) {
    let window = 8 << 20;
    let faults = Faults {
        latency: Duration::ZERO..=Duration::ZERO,
        window: window..=window,
        segment: window..=window,
        ..Faults::default()
    };
    let config = Config {
        engine: EngineKind::Sim,
        sim: Settings { seed, faults },
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

/// An address that neither accepts nor refuses: its listener's queue is full.
pub(crate) struct Hanging {
    pub(crate) address: SocketAddr,
    _listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl Hanging {
    pub(crate) async fn new() -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let options = ListenOptions {
            backlog: 1,
            ..ListenOptions::default()
        };
        let listener = TcpListener::bind(any, &options).expect("bind");
        let address = listener.local_addr().expect("an address");
        let mut queued = Vec::new();
        // What the kernel completes on loopback it completes at once.
        let connect = || timeout(Duration::from_millis(500), TcpStream::connect(address));
        while let Ok(stream) = connect().await {
            queued.push(stream.expect("connect"));
        }
        Self {
            address,
            _listener: listener,
            _queued: queued,
        }
    }
}

/// A balancer in front of `backends`: where it listens, and its counters.
pub(crate) fn balance(
    backends: &[SocketAddr],
    idle_timeout: Duration,
) -> (SocketAddr, Arc<ListenerCounters>) {
    let mut front = Front::of(backends);
    front.idle_timeout(idle_timeout);
    let serving = front.serve();
    (serving.address, serving.counters)
}

/// A balancer to be.
pub(crate) struct Front {
    cluster: plan::Cluster,
    pub(crate) tcp: plan::Tcp,
    pub(crate) edge: plan::Edge,
    log: Cell<Option<SessionLog>>,
}

impl Front {
    pub(crate) fn of(backends: &[SocketAddr]) -> Self {
        let backends = backends.iter().map(|&address| address.into()).collect();
        Self {
            cluster: plan::Cluster::new("c", backends),
            tcp: plan::Tcp::to("c"),
            edge: plan::Edge::default(),
            log: Cell::default(),
        }
    }

    pub(crate) fn log(self, log: Option<SessionLog>) -> Self {
        self.log.set(log);
        self
    }

    pub(crate) fn relay(mut self, relay: plan::Relay) -> Self {
        self.tcp.relay = relay;
        self
    }

    pub(crate) fn idle_timeout(&mut self, timeout: Duration) {
        self.tcp.idle_timeout = timeout;
    }

    pub(crate) fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.cluster.connect_timeout = timeout;
        self
    }

    pub(crate) fn tries_max(mut self, tries: u8) -> Self {
        self.cluster.tries_max = tries;
        self
    }

    pub(crate) fn serve(&self) -> Serving {
        let cluster = Arc::new(Cluster::build(&self.cluster, &Context::new(1, 1), None));
        let service = TcpService::build(&self.tcp, &|_| Some(Arc::clone(&cluster)), None);
        let service = service.expect("the cluster is there");
        let service = Held::new(Arc::new(service.logged(self.log.take())));
        let worker = Rc::new(Worker::new(0, Arc::default()));
        let counters = Arc::<ListenerCounters>::default();
        let (listener, address) = listen();
        let gate = Gate::build(&self.edge, None).map(Arc::new);
        let own = Arc::clone(&counters);
        spawn(async move {
            while let Ok(client) = listener.accept().await {
                let (service, of) = (service.clone(), Rc::clone(&worker));
                let Some(gate) = gate.clone() else {
                    worker.connections.spawn(Arc::clone(&own), |registration| {
                        lb_l4::serve(client, service, of, registration)
                    });
                    continue;
                };
                let peer = client.peer_addr().expect("a peer");
                match gate.admit(peer.ip(), now()) {
                    Ok(permit) => worker.connections.spawn(Arc::clone(&own), |registration| {
                        lb_l4::serve_admitted(client, peer, gate, permit, service, of, registration)
                    }),
                    Err(refusal) => {
                        own.refused(refusal);
                        client.reset();
                    }
                }
            }
        });
        Serving {
            address,
            counters,
            cluster,
        }
    }
}

/// A balancer at work.
pub(crate) struct Serving {
    pub(crate) address: SocketAddr,
    pub(crate) counters: Arc<ListenerCounters>,
    pub(crate) cluster: Arc<Cluster>,
}

impl Serving {
    /// What the runtime holds once there is no session any more.
    pub(crate) async fn rest(&self) -> Stats {
        let mut last = stats();
        loop {
            sleep(Duration::from_millis(30)).await;
            // Completions of what was cancelled may take a turn or two more.
            let now = stats();
            if self.counters.active.get() == 0 && held(now) == held(last) {
                return held(now);
            }
            last = now;
        }
    }
}

/// Without the numbers that only grow.
fn held(stats: Stats) -> Stats {
    Stats {
        turns: 0,
        starvations: 0,
        splices: 0,
        ..stats
    }
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
