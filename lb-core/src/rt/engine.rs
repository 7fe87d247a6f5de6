//! What a runtime asks of an engine, and the three that there are.
//!
//! Invariant: an engine changes slots only through `Slot::on_*`, and whatever it was asked to
//! begin ends with one of these, whether or not the socket's owner is still there.
//! Read next: `epoll.rs` (the plainest), `uring.rs`, `sim/`.

use std::io;
use std::net::SocketAddr;
use std::str::FromStr;

use super::epoll::Epoll;
use super::options::ConnectFrom;
use super::pipe::{self, Pipe};
use super::raw_addr::canonical;
use super::sim::Sim;
use super::socket::{Key, Slots};
use super::sys::{self, ListenOptions};
use super::uring::Uring;

/// Which engine a runtime runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineKind {
    /// Readiness by `epoll(7)`: works wherever Linux does.
    Epoll,
    /// A seeded network in memory, with virtual time: for tests. See [`sim`](super::sim).
    Sim,
    /// Completions by `io_uring(7)`, Linux 6.0 or newer.
    Uring,
}

impl EngineKind {
    /// Its name on the command line and in log lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Epoll => "epoll",
            Self::Sim => "sim",
            Self::Uring => "uring",
        }
    }
}

impl FromStr for EngineKind {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        [Self::Epoll, Self::Uring]
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or(())
    }
}

pub(crate) enum Engine {
    Epoll(Epoll),
    Sim(Box<Sim>),
    Uring(Box<Uring>),
}

/// Calls the engine's own method: a jump, predicted as it never changes.
macro_rules! each {
    ($engine:expr, $own:ident => $call:expr) => {
        match $engine {
            Engine::Epoll($own) => $call,
            Engine::Sim($own) => $call,
            Engine::Uring($own) => $call,
        }
    };
}

impl Engine {
    /// Opens a listening socket.
    pub(crate) fn listen(
        &mut self,
        address: SocketAddr,
        options: &ListenOptions,
    ) -> io::Result<i32> {
        match self {
            Self::Epoll(_) | Self::Uring(_) => sys::listen(address, options),
            Self::Sim(sim) => sim.listen(address, options),
        }
    }

    /// Takes a descriptor's slot into service.
    pub(crate) fn attach(&mut self, slots: &mut Slots, key: Key) -> io::Result<()> {
        match self {
            Self::Epoll(epoll) => epoll.attach(slots, key),
            Self::Sim(sim) => {
                sim.attach(slots, key);
                Ok(())
            }
            Self::Uring(_) => Ok(()),
        }
    }

    /// Opens a socket and begins to connect it; `on_connected` or `on_error` follows.
    pub(crate) fn connect(
        &mut self,
        slots: &mut Slots,
        from: ConnectFrom<'_>,
        address: SocketAddr,
    ) -> io::Result<Key> {
        each!(self, engine => engine.connect(slots, from, address))
    }

    /// Someone waits for input, or for a connection of a listener.
    pub(crate) fn want_input(&mut self, slots: &mut Slots, key: Key) {
        each!(self, engine => engine.want_input(slots, key));
    }

    /// Someone waits for the connection to fail, whether or not input waits.
    pub(crate) fn watch(&mut self, slots: &mut Slots, key: Key) {
        slots.get(key).direct = false;
        match self {
            // Errors are always reported.
            Self::Epoll(epoll) => epoll.want_input(slots, key),
            Self::Sim(sim) => sim.want_input(slots, key),
            Self::Uring(uring) => uring.watch(slots, key),
        }
    }

    /// `Slot::sending` has been filled.
    pub(crate) fn start_send(&mut self, slots: &mut Slots, key: Key) {
        each!(self, engine => engine.start_send(slots, key));
    }

    /// Someone waits for input but takes it from the socket: the engine's own receive is to stop,
    /// and `on_readable` to follow. epoll always reports both.
    pub(crate) fn want_readiness(&mut self, slots: &mut Slots, key: Key) {
        match self {
            Self::Epoll(_) => {}
            Self::Sim(sim) => sim.want_readiness(slots, key),
            Self::Uring(uring) => uring.want_readiness(slots, key),
        }
    }

    /// A splice found no room; `on_writable` is to follow.
    pub(crate) fn want_room(&mut self, slots: &mut Slots, key: Key) {
        match self {
            Self::Epoll(_) | Self::Sim(_) => {}
            Self::Uring(uring) => uring.want_room(slots, key),
        }
    }

    /// What a new pipe is made of.
    pub(crate) fn open_pipe(&mut self) -> io::Result<pipe::Kind> {
        match self {
            Self::Epoll(_) | Self::Uring(_) => pipe::open(),
            Self::Sim(sim) => sim.open_pipe(),
        }
    }

    /// Moves what waits in the socket into an empty pipe; 0 at the end of the stream.
    pub(crate) fn splice_in(
        &mut self,
        slots: &mut Slots,
        key: Key,
        pipe: &mut Pipe,
        max: usize,
    ) -> io::Result<usize> {
        match self {
            Self::Epoll(_) | Self::Uring(_) => pipe.fill(slots.get(key).fd, max),
            Self::Sim(sim) => sim.splice_in(slots, key, pipe, max),
        }
    }

    /// True if the reader need not ask for readiness again after a splice that was given `max`
    /// bytes to move.
    pub(crate) fn may_have_more(&self, taken: &io::Result<usize>, max: usize) -> bool {
        match (self, taken) {
            (_, Err(_)) => false,
            // A poll finds what is there: a turn later, when there is more of it.
            (Self::Uring(_), Ok(count)) => *count == max,
            // Of what is there no edge tells. A short count says little: a pipe takes so many
            // pieces, whatever their size.
            (Self::Epoll(_) | Self::Sim(_), Ok(_)) => true,
        }
    }

    /// Receives what waits in the socket, for a direct reader; 0 at the end of the stream.
    pub(crate) fn recv_direct(
        &mut self,
        slots: &mut Slots,
        key: Key,
        room: &mut [u8],
    ) -> io::Result<usize> {
        match self {
            Self::Epoll(_) | Self::Uring(_) => loop {
                match sys::recv(slots.get(key).fd, room) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    received => return received,
                }
            },
            Self::Sim(sim) => sim.recv_direct(slots, key, room),
        }
    }

    /// Moves bytes of the pipe into the socket, as many as there is room for.
    pub(crate) fn splice_out(
        &mut self,
        slots: &mut Slots,
        key: Key,
        pipe: &mut Pipe,
    ) -> io::Result<usize> {
        match self {
            Self::Epoll(_) | Self::Uring(_) => pipe.drain(slots.get(key).fd),
            Self::Sim(sim) => sim.splice_out(slots, key, pipe),
        }
    }

    pub(crate) fn shutdown(&mut self, slots: &mut Slots, key: Key) -> io::Result<()> {
        match self {
            Self::Epoll(_) | Self::Uring(_) => sys::shutdown_write(slots.get(key).fd),
            Self::Sim(sim) => sim.shutdown(slots, key),
        }
    }

    /// Makes the close that follows a reset.
    pub(crate) fn set_reset(&mut self, slots: &mut Slots, key: Key) {
        match self {
            Self::Epoll(_) | Self::Uring(_) => sys::set_linger_zero(slots.get(key).fd),
            Self::Sim(sim) => sim.set_reset(slots, key),
        }
    }

    /// Ends whatever is under way of a connection that is to leave the runtime open; true once
    /// nothing is, and its descriptor may go.
    pub(crate) fn let_go(&mut self, slots: &mut Slots, key: Key) -> io::Result<bool> {
        match self {
            Self::Epoll(epoll) => {
                sys::epoll_remove(epoll.fd, slots.get(key).fd)?;
                Ok(true)
            }
            Self::Sim(_) => Err(io::ErrorKind::Unsupported.into()),
            Self::Uring(uring) => Ok(uring.let_go(slots, key)),
        }
    }

    /// The owner is gone: ends what is under way, closes, and vacates the slot in the end.
    pub(crate) fn close(&mut self, slots: &mut Slots, key: Key) {
        slots.abandon(key);
        each!(self, engine => engine.close(slots, key));
    }

    /// True if an idle connection must not be used: input waits, or it has ended or failed.
    pub(crate) fn is_stale(&mut self, slots: &mut Slots, key: Key) -> bool {
        let slot = slots.get(key);
        if slot.has_input() || slot.send_error != 0 {
            return true;
        }
        match self {
            Self::Epoll(_) => slot.readable && sys::peek_ready(slot.fd),
            Self::Sim(sim) => sim.is_readable(slots, key),
            Self::Uring(uring) => {
                slot.direct = false;
                uring.want_input(slots, key);
                false
            }
        }
    }

    /// Sends an acknowledgement that was kept back.
    pub(crate) fn acknowledge(&self, slots: &mut Slots, key: Key) {
        match self {
            Self::Epoll(_) | Self::Uring(_) => sys::set_quick_ack(slots.get(key).fd, true),
            Self::Sim(_) => {} // knows no packets
        }
    }

    pub(crate) fn peer_addr(&self, slots: &mut Slots, key: Key) -> io::Result<SocketAddr> {
        match self {
            Self::Epoll(_) | Self::Uring(_) => sys::peer_addr(slots.get(key).fd).map(canonical),
            Self::Sim(sim) => sim.peer_addr(slots, key),
        }
    }

    pub(crate) fn local_addr(&self, slots: &mut Slots, key: Key) -> io::Result<SocketAddr> {
        match self {
            Self::Epoll(_) | Self::Uring(_) => sys::local_addr(slots.get(key).fd).map(canonical),
            Self::Sim(sim) => Ok(sim.local_addr(slots, key)),
        }
    }

    /// The clock: virtual on the simulation.
    pub(crate) fn now_ns(&self) -> u64 {
        match self {
            Self::Epoll(_) | Self::Uring(_) => sys::monotonic_nanos(),
            Self::Sim(sim) => sim.now_ns(),
        }
    }

    /// Submits what was asked for and reports what happened; waits for something to happen, up to
    /// `wait_ns` (for ever without one). True if the mailbox was signalled.
    pub(crate) fn turn(&mut self, slots: &mut Slots, wait_ns: Option<u64>) -> io::Result<bool> {
        let wait_ns = self.begin_datagrams(slots, wait_ns);
        each!(self, engine => engine.turn(slots, wait_ns))
    }

    /// Ends everything under way: after it nothing writes to memory of this process.
    pub(crate) fn finish(&mut self, slots: &mut Slots) {
        self.finish_datagrams(slots);
        each!(self, engine => engine.finish(slots));
    }
}
