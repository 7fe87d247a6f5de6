//! TCP as protocol code sees it: listeners and streams, the same on every engine.
//!
//! Invariant: every future here may be dropped at any point; what was received stays in the slot,
//! what was handed to `send` goes on being sent.
//! Read next: `socket.rs` (the slot behind a stream).

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, IntoRawFd, RawFd};
use std::task::{Context, Poll, Waker};

use super::buffer::Chunk;
use super::engine::Engine;
use super::options::ConnectFrom;
use super::runtime::Io;
use super::socket::{Key, Kind, Slot};
use super::{ListenOptions, context, sys};
use crate::plan::BackendSocket;

pub(super) fn with_io<R>(f: impl FnOnce(&mut Io) -> R) -> R {
    context::with(|core| f(&mut core.io.borrow_mut()))
}

/// A socket's slot, closed on drop.
pub(super) struct Owned {
    pub(super) key: Key,
    not_send: PhantomData<*const ()>,
}

impl Owned {
    const fn new(key: Key) -> Self {
        Self {
            key,
            not_send: PhantomData,
        }
    }

    fn with<R>(&self, f: impl FnOnce(&mut Slot) -> R) -> R {
        with_io(|io| f(io.slots.get(self.key)))
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        context::try_with(|core| {
            let Io { slots, engine, .. } = &mut *core.io.borrow_mut();
            if slots.find(self.key).is_some_and(|slot| !slot.closing) {
                engine.close(slots, self.key);
            }
        });
    }
}

pub(crate) fn store(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}

/// A listening TCP socket. Dropping it closes it, and the connections that nobody has taken.
pub struct TcpListener {
    socket: Owned,
}

impl TcpListener {
    /// Binds and listens. Accepted connections have TCP_NODELAY.
    ///
    /// # Errors
    /// Those of `socket(2)`, `bind(2)` and `listen(2)`.
    pub fn bind(address: SocketAddr, options: &ListenOptions) -> io::Result<Self> {
        with_io(|io| {
            let fd = io.engine.listen(address, options)?;
            Self::attach(io, fd)
        })
    }

    /// Takes over a socket that listens already. Connections accepted from here on have
    /// TCP_NODELAY.
    ///
    /// # Errors
    /// When it cannot be made non-blocking or watched. Unsupported on the `sim` engine.
    pub fn from_std(listener: std::net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        match sys::set_no_delay(listener.as_raw_fd()) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {} // a Unix socket
            set => set?,
        }
        with_io(|io| {
            if matches!(io.engine, Engine::Sim(_)) {
                return Err(io::ErrorKind::Unsupported.into());
            }
            Self::attach(io, listener.into_raw_fd())
        })
    }

    fn attach(io: &mut Io, fd: i32) -> io::Result<Self> {
        let socket = Owned::new(io.slots.insert(fd, Kind::Listener));
        match io.engine.attach(&mut io.slots, socket.key) {
            Ok(()) => Ok(Self { socket }),
            Err(error) => {
                io.engine.close(&mut io.slots, socket.key);
                Err(error)
            }
        }
    }

    /// The bound address, with the port that the kernel chose for 0.
    ///
    /// # Errors
    /// Those of `getsockname(2)`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        with_io(|io| io.engine.local_addr(&mut io.slots, self.socket.key))
    }

    /// The next connection.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOBUFS and ENOMEM: out of descriptors or memory; wait, then call again.
    pub async fn accept(&self) -> io::Result<TcpStream> {
        poll_fn(|cx| with_io(|io| self.poll_accept(io, cx)))
            .await
            .and_then(|fd| with_io(|io| TcpStream::attach(io, fd)))
    }

    /// The next connection, not yet this runtime's: it may be sent to another thread.
    ///
    /// # Errors
    /// As `accept`. Unsupported on the `sim` engine.
    pub async fn accept_detached(&self) -> io::Result<Accepted> {
        if with_io(|io| matches!(io.engine, Engine::Sim(_))) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let fd = poll_fn(|cx| with_io(|io| self.poll_accept(io, cx))).await?;
        Ok(Accepted { fd })
    }

    fn poll_accept(&self, io: &mut Io, cx: &Context<'_>) -> Poll<io::Result<RawFd>> {
        let Io { slots, engine, .. } = io;
        let key = self.socket.key;
        if slots.get(key).accepted() == 0 {
            let errno = std::mem::take(&mut slots.get(key).error);
            if errno != 0 {
                return Poll::Ready(Err(io::Error::from_raw_os_error(errno)));
            }
            store(&mut slots.get(key).recv_waker, cx);
            engine.want_input(slots, key);
        }
        let slot = slots.get(key);
        let errno = slot.error;
        let Some(fd) = slot.rare().accepted.pop_front() else {
            slot.error = 0;
            return match errno {
                0 => Poll::Pending,
                errno => Poll::Ready(Err(io::Error::from_raw_os_error(errno))),
            };
        };
        Poll::Ready(Ok(fd))
    }
}

/// A connection that was accepted and belongs to no runtime yet. Dropping it closes it.
#[derive(Debug)]
pub struct Accepted {
    fd: RawFd,
}

impl Accepted {
    /// Takes it into service on the calling thread's runtime.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub fn attach(self) -> io::Result<TcpStream> {
        let fd = std::mem::ManuallyDrop::new(self).fd; // the slot's from here on
        with_io(|io| TcpStream::attach(io, fd))
    }
}

impl Drop for Accepted {
    fn drop(&mut self) {
        sys::close(self.fd);
    }
}

impl fmt::Debug for TcpListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TcpListener")
            .field(&self.socket.key)
            .finish()
    }
}

/// A TCP connection. One part of a task may receive while another sends; at most one waits for
/// each at a time. Dropping it cancels what is under way and closes: bytes that `send` took but
/// the kernel has not are lost, so `flush` first where they matter.
pub struct TcpStream {
    pub(super) socket: Owned,
}

impl TcpStream {
    pub(super) fn attach(io: &mut Io, fd: RawFd) -> io::Result<Self> {
        let Io { slots, engine, .. } = io;
        let key = slots.insert(fd, Kind::Stream);
        if let Err(error) = engine.attach(slots, key) {
            engine.close(slots, key);
            return Err(error);
        }
        Ok(Self {
            socket: Owned::new(key),
        })
    }

    /// Connects, with TCP_NODELAY. Dropping the future cancels the attempt.
    ///
    /// # Errors
    /// Those of `socket(2)` and `connect(2)`.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::connect_by(ConnectFrom::default(), address).await
    }

    /// As `connect`, from `source`; with its port 0 the kernel chooses one.
    ///
    /// # Errors
    /// Those of `bind(2)` too.
    pub async fn connect_from(source: SocketAddr, address: SocketAddr) -> io::Result<Self> {
        let from = ConnectFrom {
            source: Some(source),
            settings: None,
        };
        Self::connect_by(from, address).await
    }

    /// As `connect`, from `source` if there is one, by a socket with these settings.
    ///
    /// The kernel keeps back the last packet of the handshake, as the first bytes that are sent
    /// bring it along. Who has nothing to send at once calls [`acknowledge`](Self::acknowledge):
    /// a peer that speaks first would wait for it, up to 40 ms.
    ///
    /// # Errors
    /// Those of `setsockopt(2)` and `bind(2)` too.
    pub async fn connect_with(
        source: Option<SocketAddr>,
        settings: &BackendSocket,
        address: SocketAddr,
    ) -> io::Result<Self> {
        let settings = Some(settings);
        Self::connect_by(ConnectFrom { source, settings }, address).await
    }

    /// Sends what [`connect_with`](Self::connect_with) kept back.
    pub fn acknowledge(&self) {
        with_io(|io| io.engine.acknowledge(&mut io.slots, self.socket.key));
    }

    /// True if bytes have been received, or the end or an error, that nobody has taken.
    #[must_use]
    pub fn has_received(&self) -> bool {
        self.socket.with(|slot| slot.has_input())
    }

    async fn connect_by(from: ConnectFrom<'_>, address: SocketAddr) -> io::Result<Self> {
        let key = with_io(|io| io.engine.connect(&mut io.slots, from, address))?;
        let stream = Self {
            socket: Owned::new(key),
        };
        poll_fn(|cx| {
            stream.socket.with(|slot| match (slot.kind, slot.error) {
                (_, errno @ 1..) => Poll::Ready(Err(io::Error::from_raw_os_error(errno))),
                (Kind::Connecting, _) => {
                    store(&mut slot.send_waker, cx);
                    Poll::Pending
                }
                _ => Poll::Ready(Ok(())),
            })
        })
        .await?;
        Ok(stream)
    }

    /// The next bytes; an empty chunk at the end of the stream, as often as asked.
    ///
    /// # Errors
    /// What ended the connection, ECONNRESET mostly, after all that was received before.
    pub async fn recv(&self) -> io::Result<Chunk> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// [`recv`](Self::recv) as a poll, for hand-written futures.
    pub fn poll_recv(&self, cx: &Context<'_>) -> Poll<io::Result<Chunk>> {
        with_io(|io| {
            let Io { slots, engine, .. } = io;
            let slot = slots.get(self.socket.key);
            if let Some(input) = slot.take_input() {
                return Poll::Ready(input);
            }
            slot.direct = false;
            engine.want_input(slots, self.socket.key);
            let slot = slots.get(self.socket.key);
            slot.take_input().map_or_else(
                || {
                    store(&mut slot.recv_waker, cx);
                    Poll::Pending
                },
                Poll::Ready,
            )
        })
    }

    /// What has been received already; `None` if nothing has.
    pub fn try_recv(&self) -> Option<io::Result<Chunk>> {
        with_io(|io| {
            let Io { slots, engine, .. } = io;
            let slot = slots.get(self.socket.key);
            if !slot.has_input() {
                slot.direct = false;
                engine.want_input(slots, self.socket.key);
            }
            slots.get(self.socket.key).take_input()
        })
    }

    /// Gives back bytes that were received but not used; the next receive returns them first.
    ///
    /// # Panics
    /// With bytes given back already.
    pub fn unread(&self, chunk: Chunk) {
        if !chunk.is_empty() {
            self.socket.with(|slot| {
                assert!(slot.unread.is_none(), "unread twice");
                slot.unread = Some(chunk);
            });
        }
    }

    /// Starts to send all of `chunk` once the send before it is done, and returns: one send goes
    /// on while the caller does.
    ///
    /// # Errors
    /// What ended the connection, EPIPE or ECONNRESET mostly, in this or an earlier send.
    pub async fn send(&self, chunk: Chunk) -> io::Result<()> {
        self.send_parts([Some(chunk), None]).await
    }

    /// As `send`, two chunks by one operation: a head and the first of its body.
    ///
    /// # Errors
    /// As `send`.
    pub async fn send_two(&self, head: Chunk, body: Chunk) -> io::Result<()> {
        self.send_parts([Some(head), Some(body)]).await
    }

    async fn send_parts(&self, mut parts: [Option<Chunk>; 2]) -> io::Result<()> {
        for part in &mut parts {
            part.take_if(|chunk| chunk.is_empty());
        }
        if parts[0].is_none() {
            parts.swap(0, 1);
        }
        poll_fn(|cx| self.poll_send(cx, &mut parts)).await
    }

    /// [`send_two`](Self::send_two) as a poll, for hand-written futures: `parts` are taken when it
    /// is ready. The first is there, none is empty.
    pub fn poll_send(
        &self,
        cx: &Context<'_>,
        parts: &mut [Option<Chunk>; 2],
    ) -> Poll<io::Result<()>> {
        with_io(|io| {
            let Io { slots, engine, .. } = io;
            let slot = slots.get(self.socket.key);
            if let Some(error) = slot.send_failure() {
                return Poll::Ready(Err(error));
            }
            if slot.is_sending() {
                store(&mut slot.send_waker, cx);
                return Poll::Pending;
            }
            slot.sending = std::mem::take(parts);
            if slot.is_sending() {
                engine.start_send(slots, self.socket.key);
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Waits until the kernel has taken everything sent.
    ///
    /// # Errors
    /// As `send`.
    pub async fn flush(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// [`flush`](Self::flush) as a poll, for hand-written futures.
    ///
    /// # Errors
    /// As `send`.
    pub fn poll_flush(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.socket.with(|slot| {
            if let Some(error) = slot.send_failure() {
                return Poll::Ready(Err(error));
            }
            if slot.is_sending() {
                store(&mut slot.send_waker, cx);
                return Poll::Pending;
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Flushes, then ends our side (FIN); the peer's goes on.
    ///
    /// # Errors
    /// As `send`, and ENOTCONN when the connection is gone.
    pub async fn shutdown(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_shutdown(cx)).await
    }

    /// [`shutdown`](Self::shutdown) as a poll, for hand-written futures.
    ///
    /// # Errors
    /// As `shutdown`.
    pub fn poll_shutdown(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_flush(cx))?;
        Poll::Ready(with_io(|io| {
            io.engine.shutdown(&mut io.slots, self.socket.key)
        }))
    }

    /// Closes with a reset instead of a FIN.
    pub fn reset(self) {
        self.reset_on_drop();
    }

    /// Makes the drop that follows send a reset instead of a FIN.
    pub fn reset_on_drop(&self) {
        with_io(|io| io.engine.set_reset(&mut io.slots, self.socket.key));
    }

    /// True if an idle connection must not be used again: the peer has ended or reset it, or sent
    /// what nobody asked for. Mostly without a system call.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        with_io(|io| {
            let Io { slots, engine, .. } = io;
            engine.is_stale(slots, self.socket.key)
        })
    }

    /// Waits until the connection fails; a plain end of stream is no failure. It takes the place
    /// of a waiting receive.
    pub async fn broken(&self) -> io::Error {
        poll_fn(|cx| self.poll_broken(cx)).await
    }

    /// [`broken`](Self::broken) as a poll, for hand-written futures.
    pub fn poll_broken(&self, cx: &Context<'_>) -> Poll<io::Error> {
        self.poll_watched(cx, Slot::send_failure)
    }

    /// As [`poll_broken`](Self::poll_broken), or until the peer has ended its side and nothing of
    /// what it sent before waits to be taken. Costs no more: a receive is under way in either.
    pub fn poll_gone(&self, cx: &Context<'_>) -> Poll<()> {
        self.poll_watched(cx, |slot| {
            (slot.is_at_end() || slot.send_failure().is_some()).then_some(())
        })
    }

    fn poll_watched<T>(&self, cx: &Context<'_>, find: impl FnOnce(&Slot) -> Option<T>) -> Poll<T> {
        with_io(|io| {
            let Io { slots, engine, .. } = io;
            engine.watch(slots, self.socket.key);
            let slot = slots.get(self.socket.key);
            if let Some(found) = find(slot) {
                return Poll::Ready(found);
            }
            store(&mut slot.recv_waker, cx);
            Poll::Pending
        })
    }

    /// The other end's address; an IPv4 client of a dual-stack listener shows as IPv4.
    ///
    /// # Errors
    /// ENOTCONN when the connection is gone.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        with_io(|io| io.engine.peer_addr(&mut io.slots, self.socket.key))
    }

    /// Our end's address.
    ///
    /// # Errors
    /// Those of `getsockname(2)`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        with_io(|io| io.engine.local_addr(&mut io.slots, self.socket.key))
    }
}

#[cfg(test)]
impl TcpStream {
    /// The descriptor, to look at its options.
    pub(crate) fn fd(&self) -> i32 {
        self.socket.with(|slot| slot.fd)
    }
}

impl fmt::Debug for TcpStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TcpStream").field(&self.socket.key).finish()
    }
}

/// True if an attempt to connect failed for want of descriptors, memory or source ports of our own:
/// that says nothing of the other end.
#[must_use]
pub fn is_own_shortage(error: &io::Error) -> bool {
    use libc::{EADDRNOTAVAIL, EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM};
    let own = [EADDRNOTAVAIL, EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM];
    error.raw_os_error().is_some_and(|it| own.contains(&it))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::{Config, EngineKind, Runtime};

    #[test]
    fn a_detached_connection_is_served_by_another_thread_or_closed() {
        for engine in [EngineKind::Epoll, EngineKind::Uring] {
            let config = Config {
                engine,
                ..Config::default()
            };
            let Ok(mut runtime) = Runtime::new(&config) else {
                eprintln!("skipped on {}", engine.name());
                continue;
            };
            runtime.block_on(async {
                let any = "127.0.0.1:0".parse().expect("an address");
                let listener = TcpListener::bind(any, &ListenOptions::default()).expect("bind");
                let address = listener.local_addr().expect("an address");
                let client = TcpStream::connect(address).await.expect("connect");
                let accepted = listener.accept_detached().await.expect("accept");
                let config = config.clone();
                let other = std::thread::spawn(move || {
                    let mut runtime = Runtime::new(&config).expect("a runtime");
                    runtime.block_on(async {
                        let server = accepted.attach().expect("attach");
                        let chunk = server.recv().await.expect("receive");
                        server.send(chunk).await.expect("send");
                        server.flush().await.expect("flush");
                    });
                });
                client
                    .send(Chunk::from_static(b"echo"))
                    .await
                    .expect("send");
                assert_eq!(&*client.recv().await.expect("receive"), b"echo");
                assert!(client.recv().await.expect("the end").is_empty());
                other.join().expect("the other thread");

                let client = TcpStream::connect(address).await.expect("connect");
                drop(listener.accept_detached().await.expect("accept"));
                assert!(client.recv().await.expect("the end").is_empty());
            });
        }
    }

    /// Without it the last part of an answer waits some 40 ms for the client's delayed
    /// acknowledgement.
    #[test]
    fn what_a_taken_over_listener_accepts_does_not_delay() {
        let mut runtime = Runtime::new(&Config::default()).expect("a runtime");
        runtime.block_on(async {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
            let address = listener.local_addr().expect("an address");
            let listener = TcpListener::from_std(listener).expect("taken over");
            let client = TcpStream::connect(address).await.expect("connect");
            let server = listener.accept().await.expect("accept");
            for stream in [&client, &server] {
                let no_delay = stream
                    .socket
                    .with(|slot| sys::option(slot.fd, libc::IPPROTO_TCP, libc::TCP_NODELAY));
                assert_eq!(no_delay.expect("the option"), 1);
            }
        });
    }
}
