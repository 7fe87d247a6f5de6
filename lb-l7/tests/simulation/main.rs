//! Random clients and backends with the real exchange between them, on a simulated network with
//! faults and virtual time: every request is answered by its own response, whole and in order, what
//! must not be repeated is not, nobody waits for ever, and nothing is left behind.
//!
//! `LB_SIM_SEEDS=N` runs N seeds instead of 256, `LB_SIM_SEED=S` the one that failed.
//! Read next: `client.rs`, `backend.rs` (what they do and look at), `wire.rs`.

mod backend;
mod client;
mod http2;
mod operations;
mod proxy;
#[path = "../../../lb-core/tests/simulation/seeds.rs"]
mod seeds;
mod tunnel;
mod wire;

use client::Request;
use lb_core::plan::{self, BackendProtocol, Balance};
use lb_core::rt::sim;
use lb_core::rt::{self, Config, EngineKind, Runtime};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proxy::{Proxy, listen};
use seeds::{Random, Weather};

/// Virtual time in which everything is over, whatever the weather.
const LIMIT: Duration = Duration::from_secs(24 * 3600);

/// What a story is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The usual settings.
    Plain,
    /// Bodies are held until they are answered, so that another backend can be asked.
    Buffered,
    /// Few connections to each backend, and a queue that is long enough for all.
    Queued,
    /// A queue with a deadline, which is met.
    Late,
    /// Connections to backends are old soon, or used up.
    Aged,
    /// Clients wait to be told to send their bodies.
    Expecting,
    /// Clients go on in another protocol.
    Upgrading,
}

#[test]
fn random_exchanges_are_answered() {
    are_answered(Kind::Plain);
}

#[test]
fn held_bodies_reach_another_backend() {
    are_answered(Kind::Buffered);
}

#[test]
fn all_who_queue_are_answered() {
    are_answered(Kind::Queued);
}

#[test]
fn who_queues_for_too_long_is_told() {
    are_answered(Kind::Late);
}

#[test]
fn old_connections_are_replaced() {
    are_answered(Kind::Aged);
}

#[test]
fn bodies_wait_for_100() {
    are_answered(Kind::Expecting);
}

#[test]
fn tunnels_are_whole() {
    are_answered(Kind::Upgrading);
}

#[test]
fn random_streams_are_answered() {
    run_all(|seed| {
        let is_rude = seed / 8 % 2 == 1;
        match seed / 4 % 2 {
            0 => Story::new(Kind::Plain, seed, Speech::Http2),
            _ => Story {
                backends_are_new: true,
                is_rude,
                ..Story::new(Kind::Plain, seed, Speech::Http2)
            },
        }
    });
}

fn are_answered(kind: Kind) {
    run_all(|seed| Story::new(kind, seed, Speech::Http1));
}

/// Runs the stories of all seeds.
fn run_all(story: impl Fn(u64) -> Story + Sync) {
    let seeds = AtomicU64::new(0);
    let answered = seeds::run_each(|seed| {
        seeds.fetch_add(1, Ordering::Relaxed);
        run(story(seed))
    });
    let seeds = seeds.into_inner();
    assert!(
        answered > 5 * seeds || seeds < 4,
        "hardly any request was answered: {answered} of {seeds} seeds"
    );
}

/// Any operations at all; `fuzz/targets/exchange.rs` looks for such as lead to new places.
#[test]
fn random_operations_leave_nothing_behind() {
    seeds::run_each(|seed| {
        let mut random = Random::new(seed);
        let len = 4 + random.within(0..400);
        let input: Vec<u8> = (0..len).map(|_| random.next().to_le_bytes()[0]).collect();
        operations::run(&input);
        1
    });
}

/// What the fuzz target has found, each with what was wrong.
#[test]
fn operations_that_failed_once_pass() {
    // A client that has ended its side and waits kept the simulation busy.
    operations::run(
        b"\x04\x7d\x1a\x0a\xce\x00\xd2\x0a\x0a\x0a\x67\x0a\x0a\x0a\x0a\xbb\xff\xff\xff\xff",
    );
    // Ends that played on a connection gone silent were not over.
    operations::run(b"\xff\x07\xdf\x0e@1\xee\xde\xfb\xff\x07\xdf\x0e@\xffkr\x00");
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
    pub(crate) kind: Kind,
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
    fn new(kind: Kind, seed: u64, clients: Speech) -> Self {
        Self {
            kind,
            seed,
            weather: Weather::of(seed),
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
    let proxy = start(&story, &mut random, &addresses);
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
    proxy.settle().await;
    for task in for_ever {
        rt::abort(task);
    }
    proxy.end().await;
}

fn start(story: &Story, random: &mut Random, backends: &[SocketAddr]) -> Proxy {
    let backends = backends.iter().map(|&address| address.into()).collect();
    let mut cluster = plan::Cluster {
        balance: Balance::RoundRobin,
        protocol: match story.backends_are_new {
            true => BackendProtocol::Http2,
            false => BackendProtocol::Http1,
        },
        ..plan::Cluster::new("c", backends)
    };
    let mut http = plan::Http {
        default_cluster: Some("c".to_owned()),
        ..plan::Http::default()
    };
    let limits = &mut cluster.exchanges;
    match story.kind {
        Kind::Plain | Kind::Expecting | Kind::Upgrading => {}
        Kind::Buffered => {
            http.exchanges.request_buffer = 1 << 17;
            limits.retry_budget = None;
        }
        Kind::Queued | Kind::Late => {
            limits.connections_max = Some(random.within(1..3) as u16);
            limits.queue_timeout = match story.kind {
                Kind::Queued => Duration::from_secs(3600),
                _ => Duration::from_millis(random.within(1..40)),
            };
        }
        Kind::Aged => {
            limits.connection_age_max = Some(Duration::from_millis(random.within(1..100)));
            limits.connection_exchanges_max = Some(random.within(1..5) as u32);
        }
    }
    Proxy::start(&http, &cluster)
}
