//! One seed's weather: a simulated network with its faults, some clients, some backends, a relay
//! between them, and at the end a look at everything that could have been lost or left behind.
//!
//! Invariant: everything, the order of events included, follows from the seed.
//! Read next: `talk.rs` (what clients and backends do), `main.rs` (the relay and the seeds).

use crate::seeds::{self, Random, Weather};
use crate::talk::{self, HEADER, Heard, Leaves, Ledger, Script};
use lb_core::rt::sim;
use lb_core::rt::{
    self, Buffer, Chunk, Config, EngineKind, ListenOptions, Runtime, TaskId, TcpListener, TcpStream,
};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// Virtual time in which everything is over, whatever the weather.
const LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Puts something in front of the backends that relays. Returns where it listens, and the task
/// that is to be aborted for it to end.
pub(crate) type Start = fn(&[SocketAddr]) -> (SocketAddr, TaskId);

/// Runs all seeds, and names those that fail. How many splices there were.
pub(crate) fn run_seeds(start: Start) -> u64 {
    seeds::run_each(|seed| run(seed, start).splices)
}

/// The same seed twice is the same history, another seed another.
pub(crate) fn check_determinism(start: Start) {
    let histories: Vec<_> = (0..8).map(|seed| run(seed, start)).collect();
    for (seed, history) in (0..8).zip(&histories) {
        assert_eq!(*history, run(seed, start), "seed {seed} has two histories");
    }
    let traces: std::collections::BTreeSet<u64> =
        histories.iter().map(|history| history.trace).collect();
    assert_eq!(traces.len(), histories.len(), "two seeds have one history");
}

/// What came of a seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct History {
    /// A hash of all that the network did.
    trace: u64,
    turns: u64,
    splices: u64,
}

/// One talk's two sides. Without a backend's when the relay never reached one.
#[derive(Debug, Default)]
struct Talk {
    client: Option<Rc<Ledger>>,
    backend: Option<Rc<Ledger>>,
}

type Talks = Rc<RefCell<BTreeMap<u64, Talk>>>;

/// Runs one seed.
fn run(seed: u64, start: Start) -> History {
    let mut random = Random::new(seed);
    let weather = Weather::of(seed);
    // Of one seed in two all buffers are now and then in other hands.
    let buffers_max = if random.one_in(2) { 512 } else { usize::MAX };
    let config = Config {
        engine: EngineKind::Sim,
        sim: sim::Settings {
            seed,
            faults: weather.faults(),
        },
        buffers_max,
        ..Config::default()
    };
    let mut runtime = Runtime::new(&config).expect("a simulated runtime");
    let (history, problems) = runtime.block_on(async {
        let talks = Talks::default();
        let weathered = weather_talks(&mut random, weather, buffers_max, &talks, start);
        let over = rt::timeout(LIMIT, weathered).await;
        assert!(
            over.is_ok(),
            "seed {seed}: not over after {LIMIT:?}: {talks:#?}"
        );
        let mut problems = judge(&talks.borrow(), weather);
        drop(talks);
        problems.extend(look_for_leaks().await);
        let stats = rt::stats();
        let history = History {
            trace: sim::trace(),
            turns: stats.turns,
            splices: stats.splices,
        };
        (history, problems)
    });
    assert!(
        problems.is_empty(),
        "seed {seed} ({weather:?}):\n{}",
        problems.join("\n")
    );
    history
}

async fn weather_talks(
    random: &mut Random,
    weather: Weather,
    buffers_max: usize,
    talks: &Talks,
    start: Start,
) {
    let seed = random.next();
    let mut servers = Vec::new();
    let mut addresses = Vec::new();
    for _ in 0..random.within(1..4) {
        let (listener, address) = listen();
        servers.push(rt::spawn(serve(listener, Rc::clone(talks), seed, weather)));
        addresses.push(address);
    }
    let (front, relay) = start(&addresses);
    let hoarder = rt::spawn(hoard(random.next(), buffers_max));
    for id in 0..random.within(1..12) {
        let ledger = Ledger::new(script_of_client(seed, id, weather));
        talks.borrow_mut().entry(id).or_default().client = Some(Rc::clone(&ledger));
        rt::spawn(visit(
            front,
            id,
            ledger,
            script_of_backend(seed, id, weather),
        ));
        rt::sleep(Duration::from_millis(random.within(0..30))).await;
    }
    // The acceptors of the backends, of the relay, and the hoarder go on for ever.
    let for_ever = servers.len() + 2;
    while rt::stats().tasks > for_ever {
        rt::sleep(Duration::from_millis(100)).await;
    }
    for task in servers.into_iter().chain([relay, hoarder]) {
        rt::abort(task);
    }
}

fn script_of_client(seed: u64, id: u64, weather: Weather) -> Script {
    Script::new(seed ^ (2 * id), !weather.fails() && id.is_multiple_of(2))
}

fn script_of_backend(seed: u64, id: u64, weather: Weather) -> Script {
    Script::new(
        seed ^ (2 * id + 1),
        !weather.fails() && id.is_multiple_of(2),
    )
}

fn listen() -> (TcpListener, SocketAddr) {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = TcpListener::bind(any, &ListenOptions::default()).expect("bind");
    let address = listener.local_addr().expect("address");
    (listener, address)
}

/// A backend: accepts, learns which talk it is, and talks.
async fn serve(listener: TcpListener, talks: Talks, seed: u64, weather: Weather) {
    loop {
        match listener.accept().await {
            Ok(stream) => {
                rt::spawn(answer(stream, Rc::clone(&talks), seed, weather));
            }
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
                rt::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, talks: Talks, seed: u64, weather: Weather) {
    let mut header = Vec::new();
    while header.len() < HEADER {
        let chunk = rt::timeout(Duration::from_secs(200), stream.recv()).await;
        let Ok(Ok(mut chunk)) = chunk else {
            return stream.reset();
        };
        if chunk.is_empty() {
            return stream.reset();
        }
        let taken = chunk.split_to(chunk.len().min(HEADER - header.len()));
        header.extend_from_slice(&taken);
        stream.unread(chunk);
    }
    let id = u64::from_le_bytes(header.try_into().expect("eight bytes"));
    let ledger = Ledger::new(script_of_backend(seed, id, weather));
    {
        let mut talks = talks.borrow_mut();
        let talk = talks.get_mut(&id).expect("a client's header, unharmed");
        assert!(talk.backend.is_none(), "talk {id} reached two backends");
        talk.backend = Some(Rc::clone(&ledger));
    }
    talk::talk(stream, ledger, script_of_client(seed, id, weather)).await;
}

/// A client. A refused or hanging attempt, and one without a descriptor, is repeated.
async fn visit(front: SocketAddr, id: u64, ledger: Rc<Ledger>, backend: Script) {
    for _ in 0..20 {
        let connect = TcpStream::connect(front);
        let Ok(Ok(stream)) = rt::timeout(Duration::from_secs(3), connect).await else {
            rt::sleep(Duration::from_millis(50)).await;
            continue;
        };
        if stream
            .send(Chunk::from_vec(id.to_le_bytes().to_vec()))
            .await
            .is_ok()
        {
            talk::talk(stream, ledger, backend).await;
        }
        return;
    }
}

/// Takes all buffers there are, now and then, for a while.
async fn hoard(seed: u64, buffers_max: usize) {
    let mut random = Random::new(seed);
    if buffers_max == usize::MAX {
        return std::future::pending().await;
    }
    loop {
        let hoard: Vec<Buffer> = (0..buffers_max).map(|_| Buffer::new()).collect();
        rt::sleep(Duration::from_millis(random.within(0..200))).await;
        drop(hoard);
        rt::sleep(Duration::from_millis(random.within(0..500))).await;
    }
}

fn judge(talks: &BTreeMap<u64, Talk>, weather: Weather) -> Vec<String> {
    let mut problems = Vec::new();
    for (id, talk) in talks {
        let Some(client) = &talk.client else { continue };
        let stays = |side: &Ledger| side.script.leaves == Leaves::AtTheEnd;
        let Some(backend) = &talk.backend else {
            if client.heard.get() > 0 {
                problems.push(format!("talk {id}: heard something without a backend"));
            }
            if !weather.fails() && stays(client) {
                problems.push(format!("talk {id}: never reached its backend"));
            }
            continue;
        };
        let calm = !weather.fails() && stays(client) && stays(backend);
        let verdicts = [
            ("client", talk::verdict(client, backend, calm)),
            ("backend", talk::verdict(backend, client, calm)),
        ];
        for (side, verdict) in verdicts {
            if let Err(problem) = verdict {
                problems.push(format!(
                    "talk {id}, {side}: {problem}\n  {client:?}\n  {backend:?}"
                ));
            }
        }
        if client.heard_last.get() == Heard::Silence && weather != Weather::Silent {
            problems.push(format!("talk {id}: the client was left waiting"));
        }
    }
    problems
}

/// Everything was given up: in a moment nothing may be left.
async fn look_for_leaks() -> Vec<String> {
    rt::sleep(Duration::from_secs(1)).await;
    let stats = rt::stats();
    let counts = [
        ("tasks", stats.tasks),
        ("sockets", stats.sockets),
        ("pipes", stats.pipes),
        ("sockets of the network", sim::live_sockets()),
        ("timers", stats.timers),
        ("buffers", stats.buffers),
        ("chunks on the heap", stats.heap_chunks),
        ("panics", usize::try_from(stats.panics).expect("few")),
    ];
    let left = counts.iter().filter(|(_, count)| *count > 0);
    left.map(|(what, count)| format!("{count} {what} left"))
        .collect()
}
