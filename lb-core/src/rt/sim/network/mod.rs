//! TCP in memory: a pure state machine over virtual time, told what its users do, telling what
//! happens to their sockets.
//!
//! Invariant: what `write` took arrives at the other end once and in order, or that end is told of
//! a reset; a direction never holds more than its window.
//! Read next: `opening.rs`, `moving.rs`, `ending.rs` (a connection's life), `../stream.rs` (one end
//! of one), `../mod.rs` (the engine around all).

mod ending;
mod moving;
mod opening;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::SocketAddr;

pub(crate) use moving::Read;

use super::faults::{Faults, Random, Settings, mix};
use super::stream::Stream;
use crate::rt::ListenOptions;

/// A first attempt that finds a full queue is repeated after a second, then after twice as long.
const RETRY_NS: u64 = 1_000_000_000;
/// Six repetitions: Linux's `tcp_syn_retries`.
const RETRIES_MAX: u32 = 6;
/// When a connection attempt without any answer fails.
const CONNECT_TIMEOUT_NS: u64 = 127 * RETRY_NS;
/// Ports for those who ask for any: Linux's `ip_local_port_range`.
const PORTS: std::ops::Range<u16> = 32_768..60_999;

/// Names a socket: its place in the table. What a runtime calls a descriptor.
pub(crate) type Fd = usize;

/// What happened to a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Happening {
    /// A connection waits in a listener's queue.
    Acceptable(Fd),
    /// A connection attempt has succeeded.
    Connected(Fd),
    /// A connection attempt has failed, or an established connection was reset.
    Failed(Fd, i32),
    /// Bytes or the end have arrived.
    Readable(Fd),
    /// There is room for bytes again.
    Writable(Fd),
}

enum Socket {
    Vacant,
    Listener(Listener),
    Stream(Box<Stream>),
}

struct Listener {
    address: SocketAddr,
    options: ListenOptions,
    /// Accepting ends of established connections.
    queue: VecDeque<Fd>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A connection attempt reaches the other side, for the n-th time.
    Knock(u32),
    /// The answer to it arrives, with an error or 0.
    Answer(i32),
    /// The next segment arrives.
    Arrive,
    /// Word of freed room arrives.
    Room,
}

/// An event to come. Compared by time, then by the order in which it was planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Planned {
    at: u64,
    order: u64,
    fd: Fd,
    /// Of the socket when it was planned: a later one of the same name is not concerned.
    generation: u64,
    event: Event,
}

pub(crate) struct Network {
    now: u64,
    faults: Faults,
    random: Random,
    sockets: Vec<Socket>,
    generations: Vec<u64>,
    vacant: Vec<Fd>,
    events: BinaryHeap<Reverse<Planned>>,
    planned: u64,
    port: u16,
    trace: u64,
}

impl Network {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            now: RETRY_NS,
            faults: settings.faults.clone(),
            random: Random::new(settings.seed),
            sockets: Vec::new(),
            generations: Vec::new(),
            vacant: Vec::new(),
            events: BinaryHeap::new(),
            planned: 0,
            port: PORTS.start,
            trace: mix(settings.seed),
        }
    }

    pub(crate) const fn now(&self) -> u64 {
        self.now
    }

    pub(crate) fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// A throw of the network's own dice.
    pub(crate) const fn chance(&mut self, per_mille: u32) -> bool {
        self.random.chance(per_mille)
    }

    /// True if a descriptor that is asked for now is refused.
    pub(crate) const fn lacks_descriptor(&mut self) -> bool {
        self.random.chance(self.faults.descriptor_per_mille)
    }

    /// A hash of all that has happened so far.
    pub(crate) const fn trace(&self) -> u64 {
        self.trace
    }

    /// Open sockets, those included that linger until their other end has closed, too.
    pub(crate) fn live(&self) -> usize {
        self.sockets.len() - self.vacant.len()
    }

    /// When the next event is due.
    pub(crate) fn next_due(&self) -> Option<u64> {
        self.events.peek().map(|Reverse(planned)| planned.at)
    }

    /// Moves time. Events that are due then are taken by `next_happening`.
    pub(crate) fn set_now(&mut self, now: u64) {
        debug_assert!(now >= self.now, "time runs forwards");
        self.now = now;
    }

    /// The next thing that has happened by now.
    pub(crate) fn next_happening(&mut self) -> Option<Happening> {
        while self.next_due().is_some_and(|at| at <= self.now) {
            let Reverse(Planned {
                at,
                fd,
                generation,
                event,
                ..
            }) = self.events.pop()?;
            if self.generations[fd] != generation {
                continue;
            }
            let dice = self.random.next();
            self.note(mix(at) ^ mix(fd as u64 + 1) ^ dice);
            let happening = match event {
                Event::Knock(attempt) => self.on_knock(fd, attempt),
                Event::Answer(errno) => self.on_answer(fd, errno),
                Event::Arrive => self.on_arrive(fd),
                Event::Room => Some(Happening::Writable(fd)),
            };
            if happening.is_some() {
                return happening;
            }
        }
        None
    }

    fn note(&mut self, fact: u64) {
        self.trace = mix(self.trace.wrapping_add(fact));
    }

    fn plan(&mut self, at: u64, fd: Fd, event: Event) {
        self.planned += 1;
        let (at, order, generation) = (at.max(self.now), self.planned, self.generations[fd]);
        self.events.push(Reverse(Planned {
            at,
            order,
            fd,
            generation,
            event,
        }));
    }

    fn insert(&mut self, socket: Socket) -> Fd {
        if let Some(fd) = self.vacant.pop() {
            self.sockets[fd] = socket;
            return fd;
        }
        self.sockets.push(socket);
        self.generations.push(0);
        self.sockets.len() - 1
    }

    fn vacate(&mut self, fd: Fd) {
        self.sockets[fd] = Socket::Vacant;
        self.generations[fd] += 1;
        self.vacant.push(fd);
    }

    fn stream(&mut self, fd: Fd) -> &mut Stream {
        match &mut self.sockets[fd] {
            Socket::Stream(stream) => stream,
            Socket::Listener(_) | Socket::Vacant => unreachable!("{fd} is no stream"),
        }
    }

    fn latency(&mut self) -> u64 {
        self.random.nanos(&self.faults.latency)
    }
}
