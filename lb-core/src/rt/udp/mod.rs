//! UDP as protocol code sees it: sockets that receive and send many datagrams at once, the same
//! on every engine.
//!
//! Invariant: every future here may be dropped at any point; what was received stays in the slot.
//! What is sent leaves with the next turn of the runtime, before the thread waits.
//! Read next: `socket.rs` (the slot behind a socket), `send.rs`, `engine.rs`.

pub(crate) mod buffer;
mod engine;
mod epoll;
mod send;
pub(crate) mod socket;
mod sys;
mod uring;
mod wire;

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::task::{Context, Poll};

pub use buffer::{Datagrams, Received};
pub(crate) use epoll::EVENT as EPOLL_EVENT;
use socket::Slot;
pub(crate) use uring::Receiver;

use super::context;
use super::engine::Engine;
use super::runtime::Io;
use super::socket::Key;

/// Settings of a bound datagram socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpOptions {
    /// SO_REUSEPORT, so that each worker has a socket of its own: a peer's datagrams all come to
    /// one of them as long as the set of sockets stays.
    pub reuse_port: bool,
    /// IPV6_V6ONLY: false lets `[::]` take IPv4 peers too.
    pub v6_only: bool,
    /// IP_FREEBIND: the address may be none of this machine's.
    pub free_bind: bool,
    /// Has the kernel join datagrams of one sender for a receive, and part them after a send,
    /// where it can (UDP_GRO, Linux 5.0; UDP_SEGMENT, Linux 4.18).
    pub offload: bool,
}

impl Default for UdpOptions {
    fn default() -> Self {
        Self {
            reuse_port: true,
            v6_only: false,
            free_bind: false,
            offload: true,
        }
    }
}

impl UdpOptions {
    /// A bound socket that a runtime, perhaps another thread's, takes over with
    /// [`UdpSocket::from_std`]. No runtime is needed here.
    ///
    /// # Errors
    /// Those of `socket(2)` and `bind(2)`.
    pub fn bind(&self, address: SocketAddr) -> io::Result<std::net::UdpSocket> {
        sys::bind(address, self).map(sys::into_std)
    }
}

/// All datagram sockets of a runtime, and the memory for their calls, taken at first use.
pub(crate) struct Sockets {
    pub(crate) slots: socket::Slots,
    inbox: Option<Box<sys::Inbox>>,
    outbox: Option<Box<sys::Outbox>>,
    batch: send::Batch,
}

impl Sockets {
    pub(crate) fn new(first_generation: u32) -> Self {
        Self {
            slots: socket::Slots::new(first_generation),
            inbox: None,
            outbox: None,
            batch: send::Batch::default(),
        }
    }
}

/// A UDP socket, bound or connected. One task at a time waits to receive.
///
/// Datagrams get lost: on the way, in full queues, and when a send finds the kernel's buffer full.
/// [`Stats`](super::Stats) counts those that were lost here.
pub struct UdpSocket {
    key: Key,
    not_send: PhantomData<*const ()>,
}

fn with_io<R>(f: impl FnOnce(&mut Io) -> R) -> R {
    context::with(|core| f(&mut core.io.borrow_mut()))
}

impl UdpSocket {
    /// Binds. On a wildcard address (`0.0.0.0`, `[::]`) each receive says which of our addresses
    /// it came to, and [`reply`](Self::reply) leaves from there.
    ///
    /// # Errors
    /// Those of `socket(2)` and `bind(2)`.
    pub fn bind(address: SocketAddr, options: &UdpOptions) -> io::Result<Self> {
        Self::open(|io| io.engine.bind_datagrams(&mut io.slots, address, options))
    }

    /// Takes over a socket that is bound already.
    ///
    /// # Errors
    /// When it cannot be made non-blocking or watched. Unsupported on the `sim` engine.
    pub fn from_std(socket: std::net::UdpSocket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let local = socket.local_addr()?;
        let options = UdpOptions::default();
        Self::open(|io| {
            if matches!(io.engine, Engine::Sim(_)) {
                return Err(io::ErrorKind::Unsupported.into());
            }
            let slot = engine::bound(socket.as_raw_fd(), local, &options)?;
            let key = io.engine.attach_datagrams(&mut io.slots, slot)?;
            let _ = socket.into_raw_fd(); // the slot's from here on
            Ok(key)
        })
    }

    /// A socket that sends to `peer` alone and receives from it alone. Nothing is sent by this.
    ///
    /// # Errors
    /// Those of `socket(2)` and `connect(2)`: EMFILE, ENETUNREACH.
    pub fn connect(peer: SocketAddr) -> io::Result<Self> {
        Self::open(|io| io.engine.connect_datagrams(&mut io.slots, None, peer))
    }

    /// As `connect`, from `source`; with its port 0 the kernel chooses one.
    ///
    /// # Errors
    /// Those of `bind(2)` too.
    pub fn connect_from(source: SocketAddr, peer: SocketAddr) -> io::Result<Self> {
        Self::open(|io| {
            io.engine
                .connect_datagrams(&mut io.slots, Some(source), peer)
        })
    }

    fn open(f: impl FnOnce(&mut Io) -> io::Result<Key>) -> io::Result<Self> {
        let key = with_io(f)?;
        Ok(Self {
            key,
            not_send: PhantomData,
        })
    }

    fn with<R>(&self, f: impl FnOnce(&mut Slot) -> R) -> R {
        with_io(|io| f(io.slots.udp.slots.get(self.key)))
    }

    /// What arrives next: one datagram, or many of one sender.
    ///
    /// # Errors
    /// On a connected socket what became of an earlier send: ECONNREFUSED when nobody listens at
    /// the peer's port (ICMP), EHOSTUNREACH and the like. The socket goes on.
    pub async fn recv(&self) -> io::Result<Received> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// [`recv`](Self::recv) as a poll, for hand-written futures.
    pub fn poll_recv(&self, cx: &Context<'_>) -> Poll<io::Result<Received>> {
        with_io(|io| {
            let Io { slots, engine, .. } = io;
            if let Some(input) = take(slots.udp.slots.get(self.key)) {
                return Poll::Ready(input);
            }
            engine.want_datagrams(slots, self.key);
            let slot = slots.udp.slots.get(self.key);
            take(slot).map_or_else(
                || {
                    super::net::store(&mut slot.waker, cx);
                    Poll::Pending
                },
                Poll::Ready,
            )
        })
    }

    /// What has been received already; `None` if nothing has.
    pub fn try_recv(&self) -> Option<io::Result<Received>> {
        with_io(|io| {
            let Io { slots, engine, .. } = io;
            if !slots.udp.slots.get(self.key).has_input() {
                engine.want_datagrams(slots, self.key);
            }
            take(slots.udp.slots.get(self.key))
        })
    }

    /// Sends on a connected socket. It leaves with the next turn, together with what else is sent
    /// until then; what the kernel has no room for is lost, and counted. Errors show in the next
    /// receive.
    pub fn send(&self, datagrams: Datagrams) {
        self.hand_over(datagrams, None, None);
    }

    /// As [`send`](Self::send), to `peer`, on a socket that is bound and not connected. Errors do
    /// not show: they concern one of many peers.
    pub fn send_to(&self, datagrams: Datagrams, peer: SocketAddr) {
        self.hand_over(datagrams, Some(peer), None);
    }

    /// As [`send_to`](Self::send_to), from `local`, an address of ours at which `peer` has
    /// reached us: it expects the answer from there.
    pub fn reply(&self, datagrams: Datagrams, peer: SocketAddr, local: IpAddr) {
        self.hand_over(datagrams, Some(peer), Some(local));
    }

    fn hand_over(&self, datagrams: Datagrams, to: Option<SocketAddr>, from: Option<IpAddr>) {
        with_io(|io| {
            let slots = &mut io.slots.udp.slots;
            let is_wildcard = slots.get(self.key).is_wildcard;
            slots.send(self.key, datagrams, to, from.filter(|_| is_wildcard));
        });
    }

    /// The address that it is bound to, with the port that the kernel chose for 0.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.with(|slot| slot.local)
    }
}

/// What has been received, or the error, in this order; `None` if nothing has.
fn take(slot: &mut Slot) -> Option<io::Result<Received>> {
    if let Some(received) = slot.queue.pop() {
        return Some(Ok(received));
    }
    match std::mem::take(&mut slot.error) {
        0 => None,
        errno => Some(Err(io::Error::from_raw_os_error(errno))),
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        context::try_with(|core| {
            let Io { slots, engine, .. } = &mut *core.io.borrow_mut();
            let slot = slots.udp.slots.find(self.key);
            if slot.is_some_and(|slot| !slot.closing) {
                engine.close_datagrams(slots, self.key);
            }
        });
    }
}

impl fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("UdpSocket").field(&self.key).finish()
    }
}
