//! Random clients and backends with the real exchange between them, on a simulated network with
//! faults and virtual time: every request is answered by its own response, whole and in order, what
//! must not be repeated is not, nobody waits for ever, and nothing is left behind.
//!
//! `LB_SIM_SEEDS=N` runs N seeds instead of 256, `LB_SIM_SEED=S` the one that failed.
//! Read next: `client.rs`, `backend.rs` (what they do and look at), `wire.rs`.

mod backend;
mod client;
mod http2;
#[path = "../../../lb-core/tests/simulation/seeds.rs"]
mod seeds;
mod wire;

use client::Request;
use lb_core::balance::{Cluster, Context};
use lb_core::metrics::ListenerCounters;
use lb_core::plan::{self, BackendProtocol, Balance};
use lb_core::rt::sim;
use lb_core::rt::{self, Config, EngineKind, ListenOptions, Runtime, TcpListener};
use lb_core::snapshot::Current;
use lb_core::worker::Worker;
use lb_l7::{HttpService, HttpWorker};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use seeds::{Random, Weather};

/// Virtual time in which everything is over, whatever the weather.
const LIMIT: Duration = Duration::from_secs(24 * 3600);

#[test]
fn random_exchanges_are_answered() {
    run_all(|seed, weather| Story::new(seed, weather, Speech::Http1));
}

#[test]
fn random_streams_are_answered() {
    run_all(|seed, weather| {
        let is_rude = seed / 8 % 2 == 1;
        match seed / 4 % 2 {
            0 => Story::new(seed, weather, Speech::Http2),
            _ => Story {
                backends_are_new: true,
                is_rude,
                ..Story::new(seed, weather, Speech::Http2)
            },
        }
    });
}

/// Runs the stories of all seeds.
fn run_all(story: impl Fn(u64, Weather) -> Story + Sync) {
    let seeds = AtomicU64::new(0);
    let answered = seeds::run_each(|seed| {
        seeds.fetch_add(1, Ordering::Relaxed);
        run(story(seed, Weather::of(seed)))
    });
    let seeds = seeds.into_inner();
    assert!(
        answered > 5 * seeds || seeds < 4,
        "hardly any request was answered: {answered} of {seeds} seeds"
    );
}

/// What clients speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speech {
    Http1,
    /// Most of them.
    Http2,
}

/// What everyone in a seed's story knows.
pub(crate) struct Story {
    pub(crate) seed: u64,
    pub(crate) weather: Weather,
    /// Requests answered with 200.
    pub(crate) answered: Cell<u64>,
    seen: RefCell<BTreeSet<u64>>,
    clients: Speech,
    /// Backends speak HTTP/2.
    pub(crate) backends_are_new: bool,
    /// Backends refuse, break off and die, whatever the weather.
    pub(crate) is_rude: bool,
    /// The proxy ends, and tells its clients.
    pub(crate) is_drained: Cell<bool>,
}

impl Story {
    fn new(seed: u64, weather: Weather, clients: Speech) -> Self {
        Self {
            seed,
            weather,
            answered: Cell::default(),
            seen: RefCell::default(),
            clients,
            backends_are_new: false,
            is_rude: false,
            is_drained: Cell::default(),
        }
    }

    /// Whether anything may fail at any time.
    pub(crate) fn fails(&self) -> bool {
        self.weather.fails() || self.is_rude
    }

    /// Whether a status may be for a backend that takes a byte at a time.
    pub(crate) fn may_be_late(&self, status: u16) -> bool {
        status == 504 && self.backends_are_new
    }

    /// Whether a client's connection may end with `requests` not all answered: also when the body
    /// of one was not waited for, or could not be delivered, since what follows it is then lost.
    pub(crate) fn may_break(&self, requests: &[Request]) -> bool {
        self.fails() || self.is_drained.get() || requests.iter().any(Request::has_body)
    }

    /// A backend got the head of `request`.
    pub(crate) fn seen(&self, request: &Request) {
        let first = self.seen.borrow_mut().insert(request.id);
        assert!(first || request.may_be_repeated(), "{request:?} came twice");
    }
}

/// Runs one seed. The number of requests answered with 200.
fn run(story: Story) -> u64 {
    let config = Config {
        engine: EngineKind::Sim,
        sim: sim::Settings {
            seed: story.seed,
            faults: story.weather.faults(),
        },
        ..Config::default()
    };
    let story = Rc::new(story);
    let mut runtime = Runtime::new(&config).expect("a simulated runtime");
    runtime.block_on(async {
        let over = rt::timeout(LIMIT, tell(Rc::clone(&story))).await;
        assert!(over.is_ok(), "not over after {LIMIT:?}");
        assert_eq!(
            rt::stats().panics,
            0,
            "a client or a backend saw something wrong"
        );
        story.answered.get()
    })
}

async fn tell(story: Rc<Story>) {
    let mut random = Random::new(story.seed);
    let mut for_ever = Vec::new();
    let mut addresses = Vec::new();
    for number in 0..random.within(1..4) {
        let (listener, address) = listen();
        let story = Rc::clone(&story);
        for_ever.push(match story.backends_are_new {
            false => rt::spawn(backend::serve(story, listener, number)),
            true => rt::spawn(http2::serve(story, listener, number)),
        });
        addresses.push(address);
    }
    let proxy = Proxy::start(&addresses, story.backends_are_new);
    let mut drains = story.clients == Speech::Http2 && random.one_in(5);
    let clients = random.within(1..10);
    let mut id = 1;
    for _ in 0..clients {
        let count = random.within(1..8);
        let (story, ids) = (Rc::clone(&story), id..id + count);
        if story.clients == Speech::Http2 && !random.one_in(4) {
            rt::spawn(http2::visit(Rc::clone(&story), proxy.address, ids));
        } else {
            rt::spawn(client::visit(Rc::clone(&story), proxy.address, ids));
        }
        if drains && random.one_in(3) {
            drains = false;
            story.is_drained.set(true);
            proxy.worker.draining.set(true);
        }
        id += count;
        rt::sleep(Duration::from_millis(random.within(0..40))).await;
    }
    settle(&proxy).await;
    for task in for_ever {
        rt::abort(task);
    }
    proxy.end().await;
}

fn listen() -> (TcpListener, SocketAddr) {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = TcpListener::bind(any, &ListenOptions::default()).expect("bind");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

/// Waits until nobody is served any more and no connection is kept.
async fn settle(proxy: &Proxy) {
    loop {
        rt::sleep(Duration::from_secs(5)).await;
        let backends = proxy.cluster.backends().iter();
        let mut counters = backends.map(|it| it.counters(0).connections_active.get());
        let has_ended = counters.all(|it| it == 0);
        if proxy.worker.connections.is_empty() && proxy.http.pooled() == 0 && has_ended {
            return;
        }
    }
}

/// The exchange under test.
struct Proxy {
    address: SocketAddr,
    worker: Rc<Worker>,
    http: Rc<HttpWorker>,
    cluster: Arc<Cluster>,
    counters: Arc<ListenerCounters>,
    accepting: rt::TaskId,
}

impl Proxy {
    fn start(backends: &[SocketAddr], in_http2: bool) -> Self {
        let backends = backends.iter().map(|&address| address.into()).collect();
        let plan = plan::Cluster {
            balance: Balance::RoundRobin,
            protocol: match in_http2 {
                true => BackendProtocol::Http2,
                false => BackendProtocol::Http1,
            },
            ..plan::Cluster::new("c", backends)
        };
        let cluster = Arc::new(Cluster::build(&plan, &Context::new(1, 1), None));
        let http = plan::Http {
            default_cluster: Some("c".to_owned()),
            ..plan::Http::default()
        };
        let by_name = |_: &str| Some(Arc::clone(&cluster));
        let service = HttpService::build(&http, &by_name).expect("a service");
        let current = Rc::new(Current::new(Arc::new(service)));
        let worker = Rc::new(Worker::new(0, Arc::default()));
        let http = HttpWorker::new(Rc::clone(&worker));
        let counters = Arc::<ListenerCounters>::default();
        let (listener, address) = listen();
        let accepting = rt::spawn({
            let (worker, http) = (Rc::clone(&worker), Rc::clone(&http));
            let counters = Arc::clone(&counters);
            async move {
                loop {
                    let Ok(client) = listener.accept().await else {
                        rt::sleep(Duration::from_millis(10)).await;
                        continue;
                    };
                    let (current, http) = (Rc::clone(&current), Rc::clone(&http));
                    worker.connections.spawn(Arc::clone(&counters), |it| {
                        lb_l7::serve(client, current, http, it)
                    });
                }
            }
        });
        Self {
            address,
            worker,
            http,
            cluster,
            counters,
            accepting,
        }
    }

    /// Looks for what was left behind.
    async fn end(self) {
        rt::abort(self.accepting);
        assert_eq!(self.counters.exchanges_active.get(), 0);
        for backend in self.cluster.backends() {
            let counters = backend.counters(0);
            assert_eq!(backend.in_flight(), 0);
            assert_eq!(counters.exchanges_active.get(), 0);
            assert_eq!(counters.connections_active.get(), 0);
        }
        drop((self.http, self.worker));
        // Clients and backends that wait for a side that has gone silent.
        while rt::stats().tasks > 0 {
            rt::sleep(Duration::from_secs(10)).await;
        }
        rt::sleep(Duration::from_secs(1)).await;
        assert_eq!(sim::live_sockets(), 0, "sockets are left");
    }
}
