//! The simulated engine: a seeded network in memory, and time that passes only when nothing else
//! can.
//!
//! Invariant: with no other thread at play, a program's history follows from its seed alone.
//! Read next: `faults.rs` (what can go wrong), `network/` (TCP), `stream.rs`,
//! `splice.rs`.

mod datagram;
mod faults;
mod network;
mod splice;
mod stream;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;

use datagram::Post;
pub use faults::{Faults, Settings};
use network::{Fd, Happening, Network, Read};

use super::buffer::pool;
use super::engine::Engine;
use super::options::ConnectFrom;
use super::socket::{Key, Kind, QUEUE_MAX, SMALL, Slots};
use super::{ListenOptions, context, sys};

/// How long a turn takes in which tasks ran: time must pass for those who only yield, too.
const TURN_NS: u64 = 5_000;
/// Chance that a socket completes its receives and sends with the next turn, as io_uring does,
/// and not at once, as epoll does.
const COMPLETES_LATER_PER_MILLE: u32 = 500;

/// A hash of everything that the calling thread's simulated network has done: equal for equal
/// histories. 0 outside of the `sim` engine.
#[must_use]
pub fn trace() -> u64 {
    with_sim(|sim| sim.network.trace() ^ sim.post.trace()).unwrap_or(0)
}

/// Open ends of connections and listeners on the calling thread's simulated network, those
/// included that linger since only the other end has closed.
#[must_use]
pub fn live_sockets() -> usize {
    with_sim(|sim| sim.network.live() + sim.post.live()).unwrap_or(0)
}

/// Changes what the calling thread's simulated network does, from now on. Nothing happens outside
/// of the `sim` engine.
pub fn set_faults(faults: Faults) {
    with_sim(|sim| {
        sim.post.faults = faults.clone();
        sim.network.set_faults(faults);
    });
}

fn with_sim<R>(f: impl FnOnce(&mut Sim) -> R) -> Option<R> {
    context::try_with(|core| match &mut core.io.borrow_mut().engine {
        Engine::Sim(sim) => Some(f(sim)),
        Engine::Epoll(_) | Engine::Uring(_) => None,
    })
    .flatten()
}

/// What a socket was asked for and does with the next turn.
#[derive(Debug, Clone, Copy)]
enum Request {
    Receive,
    Send,
    StopReceive,
    TellReadiness,
}

pub(crate) struct Sim {
    network: Network,
    post: Post,
    /// By descriptor: whose it is, and whether it completes later.
    owners: Vec<Option<(Key, bool)>>,
    requests: VecDeque<(Key, Request)>,
    mailbox: RawFd,
}

impl Sim {
    pub(crate) fn new(mailbox: RawFd, settings: &Settings) -> Self {
        Self {
            network: Network::new(settings),
            post: Post::new(settings),
            owners: Vec::new(),
            requests: VecDeque::new(),
            mailbox,
        }
    }

    pub(crate) const fn now_ns(&self) -> u64 {
        self.network.now()
    }

    pub(crate) fn listen(
        &mut self,
        address: SocketAddr,
        options: &ListenOptions,
    ) -> io::Result<RawFd> {
        self.network.listen(address, options).map(raw)
    }

    pub(crate) fn attach(&mut self, slots: &mut Slots, key: Key) {
        let fd = fd_of(slots, key);
        let later = self.network.chance(COMPLETES_LATER_PER_MILLE);
        if self.owners.len() <= fd {
            self.owners.resize(fd + 1, None);
        }
        self.owners[fd] = Some((key, later));
        if slots.get(key).kind == Kind::Stream && self.network.is_reset(fd) {
            self.fail(slots, key, libc::ECONNRESET); // while it waited to be accepted
        }
    }

    pub(crate) fn connect(
        &mut self,
        slots: &mut Slots,
        from: ConnectFrom<'_>,
        address: SocketAddr,
    ) -> io::Result<Key> {
        let fd = self.network.connect(from.source, address)?;
        let key = slots.insert(raw(fd), Kind::Connecting);
        self.attach(slots, key);
        Ok(key)
    }

    pub(crate) fn want_input(&mut self, slots: &mut Slots, key: Key) {
        let slot = slots.get(key);
        match slot.kind {
            Kind::Listener => self.accept(slots, key),
            // Behind the end there is nothing: who watches for a failure is not to be woken by it
            // again and again.
            Kind::Stream if !slot.armed && !slot.direct && !slot.has_spare() && !slot.ended => {
                slot.armed = true;
                self.ask(slots, key, Request::Receive);
            }
            Kind::Connecting | Kind::Stream | Kind::Vacant => {}
        }
    }

    pub(crate) fn start_send(&mut self, slots: &mut Slots, key: Key) {
        self.ask(slots, key, Request::Send);
    }

    fn ask(&mut self, slots: &mut Slots, key: Key, request: Request) {
        if self.completes_later(slots, key) {
            self.requests.push_back((key, request));
        } else {
            self.serve(slots, key, request);
        }
    }

    fn completes_later(&self, slots: &mut Slots, key: Key) -> bool {
        self.owners[fd_of(slots, key)].is_some_and(|(_, later)| later)
    }

    fn serve(&mut self, slots: &mut Slots, key: Key, request: Request) {
        match request {
            Request::Receive => self.receive(slots, key),
            Request::Send => self.send(slots, key),
            Request::StopReceive => self.stop_receive(slots, key),
            Request::TellReadiness => self.tell_readiness(slots, key),
        }
    }

    fn accept(&mut self, slots: &mut Slots, key: Key) {
        match self.network.accept(fd_of(slots, key)) {
            Ok(Some(accepted)) => drop(slots.get(key).on_accepted(raw(accepted))),
            Ok(None) => {}
            Err(errno) => slots.get(key).on_accept_error(errno),
        }
    }

    /// Fills the slot's queue: once on a socket of one kind, as long as there is input on one of
    /// the other, which is how multishot receives behave.
    fn receive(&mut self, slots: &mut Slots, key: Key) {
        let fd = fd_of(slots, key);
        let multishot = self.owners[fd].is_some_and(|(_, later)| later);
        while slots.get(key).armed && slots.get(key).queue.len() < QUEUE_MAX {
            if !self.network.is_readable(fd) {
                return;
            }
            let Some(buffer) = pool().acquire() else {
                self.receive_small(slots, key);
                break;
            };
            let slot = slots.get(key);
            match self.network.read(fd, pool().room(buffer)) {
                Read::Bytes(len) => {
                    slot.armed = multishot;
                    slot.on_received(buffer, len);
                }
                Read::End | Read::Nothing => {
                    pool().release(buffer);
                    slot.armed = false;
                    slot.on_end();
                }
                Read::Reset => {
                    pool().release(buffer);
                    slot.armed = false;
                    slot.on_error(libc::ECONNRESET);
                }
            }
        }
        slots.get(key).armed = false;
    }

    fn receive_small(&mut self, slots: &mut Slots, key: Key) {
        slots.starvations += 1;
        let slot = slots.get(key);
        if slot.queue.len() > 0 {
            return; // the reader comes again when it has taken that
        }
        let mut room = [0; SMALL];
        match self.network.read(slot.fd as Fd, &mut room) {
            Read::Bytes(len) => slot.on_received_small(&room[..len]),
            Read::End | Read::Nothing => slot.on_end(),
            Read::Reset => slot.on_error(libc::ECONNRESET),
        }
    }

    fn send(&mut self, slots: &mut Slots, key: Key) {
        let slot = slots.get(key);
        if !slot.is_sending() {
            return;
        }
        let (first, second) = slot.unsent();
        match self.network.write(slot.fd as Fd, first, second) {
            Ok(count) => drop(slot.on_sent(count)), // what is left goes when there is room
            Err(errno) => slot.on_send_error(errno),
        }
    }

    pub(crate) fn shutdown(&mut self, slots: &mut Slots, key: Key) -> io::Result<()> {
        self.network.shutdown(fd_of(slots, key))
    }

    pub(crate) fn set_reset(&mut self, slots: &mut Slots, key: Key) {
        self.network.set_reset_on_close(fd_of(slots, key));
    }

    pub(crate) fn close(&mut self, slots: &mut Slots, key: Key) {
        let fd = fd_of(slots, key);
        self.owners[fd] = None;
        self.network.close(fd);
        slots.get(key).sending = [None, None];
        slots.vacate_if_done(key);
    }

    pub(crate) fn is_readable(&mut self, slots: &mut Slots, key: Key) -> bool {
        self.network.is_readable(fd_of(slots, key))
    }

    pub(crate) fn peer_addr(&self, slots: &mut Slots, key: Key) -> io::Result<SocketAddr> {
        self.network.peer_addr(fd_of(slots, key))
    }

    pub(crate) fn local_addr(&self, slots: &mut Slots, key: Key) -> SocketAddr {
        self.network.local_addr(fd_of(slots, key))
    }

    /// Lets time pass, as much as `wait_ns` says at most, and reports what happens then.
    pub(crate) fn turn(&mut self, slots: &mut Slots, wait_ns: Option<u64>) -> io::Result<bool> {
        let idle = wait_ns != Some(0) && self.requests.is_empty();
        let now = self.network.now();
        let deadline = wait_ns.map(|wait| now.saturating_add(wait));
        let dues = [self.network.next_due(), self.post.next_due(), deadline];
        let due = dues.into_iter().flatten().min();
        // Nothing will ever happen by itself: only another thread can go on.
        let stuck = idle && due.is_none();
        let signalled = sys::poll_readable(self.mailbox, stuck)?;
        if idle && !signalled {
            self.network.set_now(due.unwrap_or(now).max(now));
        } else {
            self.network.set_now(now + TURN_NS);
        }
        for (key, request) in std::mem::take(&mut self.requests) {
            if slots.find(key).is_some() {
                self.serve(slots, key, request);
            }
        }
        self.bring_datagrams(slots);
        while let Some(happening) = self.network.next_happening() {
            self.on_happening(slots, happening);
        }
        Ok(signalled)
    }

    fn on_happening(&mut self, slots: &mut Slots, happening: Happening) {
        let (Happening::Acceptable(fd)
        | Happening::Connected(fd)
        | Happening::Failed(fd, _)
        | Happening::Readable(fd)
        | Happening::Writable(fd)) = happening;
        let Some((key, _)) = self.owners.get(fd).copied().flatten() else {
            return;
        };
        match happening {
            Happening::Acceptable(_) => slots.get(key).on_acceptable(),
            Happening::Connected(_) => slots.get(key).on_connected(),
            Happening::Failed(_, errno) => self.fail(slots, key, errno),
            Happening::Readable(_) if slots.get(key).armed => self.receive(slots, key),
            Happening::Readable(_) if slots.get(key).direct => slots.get(key).on_readable(),
            Happening::Readable(_) => {}
            Happening::Writable(_) => {
                self.send(slots, key);
                slots.get(key).on_writable();
            }
        }
    }

    /// What arrived before the error is received first, as far as there are buffers.
    fn fail(&mut self, slots: &mut Slots, key: Key, errno: i32) {
        let slot = slots.get(key);
        let fd = slot.fd as Fd;
        while !slot.has_spare()
            && self.network.is_readable(fd)
            && let Some(buffer) = pool().acquire()
        {
            match self.network.read(fd, pool().room(buffer)) {
                Read::Bytes(len) => slot.on_received(buffer, len),
                Read::End | Read::Nothing | Read::Reset => {
                    pool().release(buffer);
                    break;
                }
            }
        }
        slot.armed = false;
        slot.sending = [None, None];
        slot.on_error(errno);
    }

    pub(crate) fn finish(&mut self, slots: &mut Slots) {
        for key in slots.keys() {
            if !slots.get(key).closing {
                slots.abandon(key);
                self.close(slots, key);
            }
        }
    }
}

fn fd_of(slots: &mut Slots, key: Key) -> Fd {
    slots.get(key).fd as Fd
}

fn raw(fd: Fd) -> RawFd {
    RawFd::try_from(fd).expect("fewer sockets than descriptors there are")
}
