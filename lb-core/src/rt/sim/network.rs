//! TCP in memory: a pure state machine over virtual time, told what its users do, telling what
//! happens to their sockets.
//!
//! Invariant: what `write` took arrives at the other end once and in order, or that end is told of
//! a reset; a direction never holds more than its window.
//! Read next: `stream.rs` (one end of a connection), `mod.rs` (the engine around it).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::faults::{Faults, Random, Settings, mix};
use super::stream::{Segment, Stream};
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

// === Opening ===

impl Network {
    pub(crate) fn listen(
        &mut self,
        mut address: SocketAddr,
        options: &ListenOptions,
    ) -> io::Result<Fd> {
        if address.port() == 0 {
            address.set_port(self.any_port()?);
        }
        let taken = self.listeners().any(|(_, other)| {
            other.overlaps(address, options) && !(other.options.reuse_port && options.reuse_port)
        });
        if taken {
            return Err(io::Error::from_raw_os_error(libc::EADDRINUSE));
        }
        let (options, queue) = (*options, VecDeque::new());
        Ok(self.insert(Socket::Listener(Listener {
            address,
            options,
            queue,
        })))
    }

    /// Begins to connect; `Connected` or `Failed` follows.
    pub(crate) fn connect(
        &mut self,
        source: Option<SocketAddr>,
        remote: SocketAddr,
    ) -> io::Result<Fd> {
        if self.random.chance(self.faults.descriptor_per_mille) {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        let mut local = source.unwrap_or_else(|| match remote.ip() {
            IpAddr::V4(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            IpAddr::V6(_) => SocketAddr::from((Ipv6Addr::LOCALHOST, 0)),
        });
        if local.port() == 0 {
            local.set_port(self.any_port()?);
        }
        let window = self.random.size(&self.faults.window).max(1);
        let fd = self.insert(Socket::Stream(Box::new(Stream::new(local, remote, window))));
        let latency = self.latency();
        if self.random.chance(self.faults.hang_per_mille) {
            self.plan(
                self.now + CONNECT_TIMEOUT_NS,
                fd,
                Event::Answer(libc::ETIMEDOUT),
            );
        } else if self.random.chance(self.faults.refuse_per_mille) {
            self.plan(
                self.now + 2 * latency,
                fd,
                Event::Answer(libc::ECONNREFUSED),
            );
        } else {
            self.plan(self.now + latency, fd, Event::Knock(0));
        }
        Ok(fd)
    }

    /// The next connection of a listener; none when none waits.
    pub(crate) fn accept(&mut self, fd: Fd) -> Result<Option<Fd>, i32> {
        let fails = self.faults.accept_per_mille;
        let Socket::Listener(listener) = &mut self.sockets[fd] else {
            unreachable!("{fd} is no listener")
        };
        if listener.queue.is_empty() {
            return Ok(None);
        }
        if self.random.chance(fails) {
            return Err(libc::EMFILE);
        }
        Ok(listener.queue.pop_front())
    }

    pub(crate) fn local_addr(&self, fd: Fd) -> SocketAddr {
        match &self.sockets[fd] {
            Socket::Listener(listener) => listener.address,
            Socket::Stream(stream) => stream.local,
            Socket::Vacant => unreachable!("{fd} is closed"),
        }
    }

    pub(crate) fn peer_addr(&self, fd: Fd) -> io::Result<SocketAddr> {
        match &self.sockets[fd] {
            Socket::Stream(stream) if stream.is_open() => Ok(stream.remote),
            _ => Err(io::Error::from_raw_os_error(libc::ENOTCONN)),
        }
    }

    fn listeners(&self) -> impl Iterator<Item = (Fd, &Listener)> {
        self.sockets
            .iter()
            .enumerate()
            .filter_map(|(fd, socket)| match socket {
                Socket::Listener(listener) => Some((fd, listener)),
                Socket::Stream(_) | Socket::Vacant => None,
            })
    }

    fn any_port(&mut self) -> io::Result<u16> {
        for _ in PORTS {
            let port = self.port;
            self.port = if port + 1 < PORTS.end {
                port + 1
            } else {
                PORTS.start
            };
            let taken = self.sockets.iter().any(|socket| match socket {
                Socket::Listener(listener) => listener.address.port() == port,
                Socket::Stream(stream) => stream.local.port() == port,
                Socket::Vacant => false,
            });
            if !taken {
                return Ok(port);
            }
        }
        Err(io::Error::from_raw_os_error(libc::EADDRNOTAVAIL))
    }

    fn on_knock(&mut self, client: Fd, attempt: u32) -> Option<Happening> {
        let remote = self.stream(client).remote;
        let latency = self.latency();
        let found: Vec<Fd> = self
            .listeners()
            .filter(|(_, listener)| listener.answers(remote))
            .map(|(fd, _)| fd)
            .collect();
        if found.is_empty() {
            self.plan(
                self.now + latency,
                client,
                Event::Answer(libc::ECONNREFUSED),
            );
            return None;
        }
        let fd = found[self.random.size(&(0..=found.len() - 1))];
        let Socket::Listener(listener) = &mut self.sockets[fd] else {
            return None;
        };
        if listener.queue.len() > listener.options.backlog as usize {
            let pause = RETRY_NS << attempt;
            if attempt < RETRIES_MAX {
                self.plan(self.now + pause, client, Event::Knock(attempt + 1));
            } else {
                self.plan(self.now + pause, client, Event::Answer(libc::ETIMEDOUT));
            }
            return None;
        }
        let server = self.establish(client, self.now + latency);
        let Socket::Listener(listener) = &mut self.sockets[fd] else {
            return None;
        };
        listener.queue.push_back(server);
        self.plan(self.now + latency, client, Event::Answer(0));
        Some(Happening::Acceptable(fd))
    }

    /// Makes the accepting end. Nothing reaches the client before it knows that it is connected.
    fn establish(&mut self, client: Fd, known_at: u64) -> Fd {
        let window = self.random.size(&self.faults.window).max(1);
        let silent = self.random.chance(self.faults.silence_per_mille);
        let ending = silent.then(|| self.now + self.random.next() % RETRY_NS);
        let stream = self.stream(client);
        let mut accepted = Stream::new(stream.remote, stream.local, window);
        accepted.peer = Some(client);
        accepted.silent_from = ending;
        let server = self.insert(Socket::Stream(Box::new(accepted)));
        let stream = self.stream(client);
        stream.peer = Some(server);
        stream.last_arrival = known_at;
        stream.silent_from = ending;
        server
    }

    fn on_answer(&mut self, fd: Fd, errno: i32) -> Option<Happening> {
        let stream = self.stream(fd);
        if stream.reset || stream.closed {
            return None; // told already, or nobody is left to be told
        }
        if errno == 0 {
            return Some(Happening::Connected(fd));
        }
        stream.reset = true;
        Some(Happening::Failed(fd, errno))
    }
}

impl Listener {
    /// True if a connection attempt to `remote` comes here.
    fn answers(&self, remote: SocketAddr) -> bool {
        let (own, other) = (self.address, remote);
        let any = match own.ip() {
            IpAddr::V4(ip) => ip.is_unspecified() && other.is_ipv4(),
            IpAddr::V6(ip) => ip.is_unspecified() && (other.is_ipv6() || !self.options.v6_only),
        };
        own.port() == other.port() && (any || own.ip() == other.ip())
    }

    fn overlaps(&self, address: SocketAddr, options: &ListenOptions) -> bool {
        let other = Self {
            address,
            options: *options,
            queue: VecDeque::new(),
        };
        self.answers(address) || other.answers(self.address)
    }
}

// === Moving bytes ===

/// What a read gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Read {
    Bytes(usize),
    End,
    Nothing,
    Reset,
}

impl Network {
    pub(crate) fn read(&mut self, fd: Fd, room: &mut [u8]) -> Read {
        let short = self.random.chance(self.faults.short_per_mille);
        let (now, latency) = (self.now, self.latency());
        let Socket::Stream(stream) = &mut self.sockets[fd] else {
            unreachable!("no stream")
        };
        let mut count = stream.arrived.len().min(room.len());
        if count == 0 {
            return match (stream.reset, stream.peer_ended) {
                (true, _) => Read::Reset,
                (false, true) => Read::End,
                (false, false) => Read::Nothing,
            };
        }
        if short {
            count = self.random.size(&(1..=count));
        }
        let (front, back) = stream.arrived.as_slices();
        let from_front = count.min(front.len());
        room[..from_front].copy_from_slice(&front[..from_front]);
        room[from_front..count].copy_from_slice(&back[..count - from_front]);
        stream.arrived.drain(..count);
        if let Some(peer) = stream.peer
            && std::mem::take(&mut self.stream(peer).blocked)
        {
            self.plan(now + latency, peer, Event::Room);
        }
        self.note(count as u64);
        Read::Bytes(count)
    }

    /// True if a read would give something.
    pub(crate) fn is_readable(&mut self, fd: Fd) -> bool {
        let stream = self.stream(fd);
        !stream.arrived.is_empty() || stream.peer_ended || stream.reset
    }

    pub(crate) fn is_reset(&mut self, fd: Fd) -> bool {
        self.stream(fd).reset
    }

    /// Takes as many bytes as there is room for, 0 for none: `Writable` follows then.
    pub(crate) fn write(&mut self, fd: Fd, first: &[u8], second: &[u8]) -> Result<usize, i32> {
        let short = self.random.chance(self.faults.short_per_mille);
        let stream = self.stream(fd);
        let (window, broken) = (stream.window, stream.broken);
        if stream.ended || stream.reset {
            return Err(libc::EPIPE);
        }
        let Some(peer) = stream.peer else {
            return Err(libc::ENOTCONN);
        };
        let wanted = first.len() + second.len();
        if broken || self.stream(peer).reset {
            return Ok(wanted); // lost; word of it is under way
        }
        let room = window.saturating_sub(self.stream(peer).held());
        let mut count = wanted.min(room);
        if short && count > 1 {
            count = self.random.size(&(1..=count));
        }
        if count < wanted {
            // A reader with nothing left to read frees no room; then the room there is will do.
            self.stream(fd).blocked = count == room;
            if count < room {
                let latency = self.latency();
                self.plan(self.now + latency, fd, Event::Room);
            }
        }
        let from_first = count.min(first.len());
        self.transmit(fd, peer, &first[..from_first]);
        self.transmit(fd, peer, &second[..count - from_first]);
        self.note(count as u64);
        Ok(count)
    }

    fn transmit(&mut self, fd: Fd, peer: Fd, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.stream(fd).broken {
            if self.random.chance(self.faults.reset_per_mille) {
                return self.break_both(fd, peer);
            }
            let size = self.random.size(&self.faults.segment).clamp(1, bytes.len());
            let (segment, rest) = bytes.split_at(size);
            bytes = rest;
            self.dispatch(peer, Segment::Bytes(segment.into()));
        }
    }

    /// Puts a segment on its way to `fd`, behind those that are under way.
    fn dispatch(&mut self, fd: Fd, segment: Segment) {
        let mut at = self.now + self.latency();
        if self.random.chance(self.faults.stall_per_mille) {
            at += self.random.nanos(&self.faults.stall);
        }
        let stream = self.stream(fd);
        at = at.max(stream.last_arrival);
        stream.last_arrival = at;
        stream.flight.push_back(segment);
        if stream.silent_from.is_none_or(|from| at < from) {
            self.plan(at, fd, Event::Arrive);
        }
    }

    fn on_arrive(&mut self, fd: Fd) -> Option<Happening> {
        let stream = self.stream(fd);
        // The events of segments that a reset has swept away find nothing.
        match stream.flight.pop_front()? {
            Segment::Reset => {
                stream.flight.clear();
                let told = std::mem::replace(&mut stream.reset, true) || stream.closed;
                (!told).then_some(Happening::Failed(fd, libc::ECONNRESET))
            }
            Segment::Bytes(_) if stream.closed => {
                // Nobody will read it. Linux answers with a reset, and drops what is unsent.
                self.break_towards_peer(fd);
                None
            }
            Segment::Bytes(bytes) => {
                stream.arrived.extend(bytes.iter());
                Some(Happening::Readable(fd))
            }
            Segment::End => {
                stream.peer_ended = true;
                (!stream.closed).then_some(Happening::Readable(fd))
            }
        }
    }

    pub(crate) fn shutdown(&mut self, fd: Fd) -> io::Result<()> {
        let stream = self.stream(fd);
        let Some(peer) = stream.peer.filter(|_| !stream.reset) else {
            return Err(io::Error::from_raw_os_error(libc::ENOTCONN));
        };
        if !std::mem::replace(&mut stream.ended, true) && !stream.broken {
            self.dispatch(peer, Segment::End);
        }
        Ok(())
    }
}

// === Ending ===

impl Network {
    pub(crate) fn set_reset_on_close(&mut self, fd: Fd) {
        self.stream(fd).reset_on_close = true;
    }

    pub(crate) fn close(&mut self, fd: Fd) {
        self.note(fd as u64);
        if let Socket::Listener(listener) = &mut self.sockets[fd] {
            let queue = std::mem::take(&mut listener.queue);
            self.vacate(fd);
            for waiting in queue {
                self.stream(waiting).reset_on_close = true;
                self.close_stream(waiting);
            }
            return;
        }
        self.close_stream(fd);
    }

    fn close_stream(&mut self, fd: Fd) {
        let stream = self.stream(fd);
        stream.closed = true;
        let Some(peer) = stream.peer else {
            return self.vacate(fd); // was still connecting
        };
        // Linux resets, too, when bytes were left unread.
        let resets = stream.reset_on_close || !stream.arrived.is_empty();
        let over = stream.reset || stream.broken;
        let ended = std::mem::replace(&mut stream.ended, true);
        stream.arrived.clear();
        match (over, resets) {
            (true, _) => {}
            (false, true) => self.break_towards_peer(fd),
            (false, false) if !ended => self.dispatch(peer, Segment::End),
            (false, false) => {}
        }
        if self.stream(peer).closed {
            self.vacate(fd);
            self.vacate(peer);
        }
    }

    /// `fd` sends a reset: some of what it sent before still arrives, nothing that it sends after.
    fn break_towards_peer(&mut self, fd: Fd) {
        let Some(peer) = self.stream(fd).peer else {
            return;
        };
        if std::mem::replace(&mut self.stream(fd).broken, true) {
            return;
        }
        let under_way = self.stream(peer).flight.len();
        let kept = self.random.size(&(0..=under_way));
        self.stream(peer).flight.truncate(kept);
        self.dispatch(peer, Segment::Reset);
    }

    fn break_both(&mut self, fd: Fd, peer: Fd) {
        self.break_towards_peer(fd);
        self.break_towards_peer(peer);
    }
}
