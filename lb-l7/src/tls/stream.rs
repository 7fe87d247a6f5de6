//! A TLS connection with the shape of the runtime's `TcpStream`: chunks in, chunks out.
//!
//! Invariant: plaintext is opened only when the reader asks for it, so that back-pressure reaches
//! the peer; what `send` took is sealed and on its way when it returns. An idle connection holds
//! two keys and no buffer.
//! Read next: `duplex/` (the bytes), `../stream.rs` (plain or TLS, as one type).

use std::cell::RefCell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use lb_core::plan::BackendTls;
use lb_core::rt::{Chunk, Detached, TcpStream};
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, ServerConfig};

use super::duplex::{Duplex, Resting};
use super::facts::TlsFacts;
use super::handshake::{Finished, Handshaking};

/// A TLS connection after its handshake. As with a `TcpStream`, one part of a task may receive
/// while another sends, and a drop closes at once.
pub struct TlsStream {
    stream: TcpStream,
    inner: Box<Inner>,
}

/// On the heap: most streams are not of this kind, and should not be as large.
struct Inner {
    duplex: RefCell<Duplex>,
    /// Plaintext that was given back.
    unread: RefCell<Option<Chunk>>,
    facts: Rc<TlsFacts>,
    alpn: Option<Box<[u8]>>,
    /// Of a connection to a backend: the settings it was made by.
    plan: Option<Arc<BackendTls>>,
}

/// A connection that belongs to no runtime, as [`Detached`] is one.
pub(crate) struct DetachedTls {
    stream: Detached,
    resting: Resting,
    facts: TlsFacts,
    alpn: Option<Box<[u8]>>,
    plan: Option<Arc<BackendTls>>,
}

impl DetachedTls {
    /// As [`Detached::attach`].
    pub(crate) fn attach(self) -> Option<TlsStream> {
        let inner = Inner {
            duplex: RefCell::new(self.resting.resume()),
            unread: RefCell::default(),
            facts: Rc::new(self.facts),
            alpn: self.alpn,
            plan: self.plan,
        };
        Some(TlsStream {
            stream: self.stream.attach()?,
            inner: Box::new(inner),
        })
    }
}

impl TlsStream {
    /// As [`TcpStream::detach`]; `None` also in the middle of a record, or of anything else.
    pub(crate) async fn detach(self) -> Option<DetachedTls> {
        let Self { stream, inner } = self;
        if inner.unread.borrow().is_some() {
            return None;
        }
        Some(DetachedTls {
            resting: inner.duplex.into_inner().rest_elsewhere()?,
            facts: Rc::try_unwrap(inner.facts).ok()?,
            alpn: inner.alpn,
            plan: inner.plan,
            stream: stream.detach().await?,
        })
    }

    /// Makes the handshake of either side; `name` takes the server name that a client asks for,
    /// also where that comes to nothing.
    pub(super) async fn handshake(
        stream: TcpStream,
        side: Handshaking,
        name: &mut Option<Box<str>>,
    ) -> io::Result<Self> {
        let Finished {
            duplex,
            facts,
            alpn,
            plain,
        } = side.run(&stream, name).await?;
        let inner = Inner {
            duplex: RefCell::new(duplex),
            unread: RefCell::new(plain),
            facts: Rc::new(facts),
            alpn,
            plan: None,
        };
        Ok(Self {
            stream,
            inner: Box::new(inner),
        })
    }

    /// Makes the handshake of a client; `config` allows that its secrets are extracted.
    ///
    /// # Errors
    /// As [`accept`](Self::accept), with the server in the client's place.
    pub async fn connect(
        stream: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        debug_assert!(config.enable_secret_extraction);
        let connection = UnbufferedClientConnection::new(config, name).map_err(io::Error::other)?;
        let side = Handshaking::Client(Box::new(connection));
        Self::handshake(stream, side, &mut None).await
    }

    /// Makes the handshake of a server; `config` allows that its secrets are extracted.
    ///
    /// # Errors
    /// `UnexpectedEof` when the client closes, what broke the connection, or `InvalidData` with a
    /// `rustls::Error` in it.
    pub async fn accept(
        stream: TcpStream,
        config: Arc<ServerConfig>,
        name: &mut Option<Box<str>>,
    ) -> io::Result<Self> {
        debug_assert!(config.enable_secret_extraction);
        let connection = UnbufferedServerConnection::new(config).map_err(io::Error::other)?;
        let side = Handshaking::Server(Box::new(connection));
        Self::handshake(stream, side, name).await
    }

    /// What is known of it by its handshake.
    pub const fn facts(&self) -> &Rc<TlsFacts> {
        &self.inner.facts
    }

    /// The protocol that was agreed on by ALPN.
    pub fn alpn_protocol(&self) -> Option<&[u8]> {
        self.inner.alpn.as_deref()
    }

    /// What is known of it, until somebody else knows, too.
    pub(super) fn facts_mut(&mut self) -> Option<&mut TlsFacts> {
        Rc::get_mut(&mut self.inner.facts)
    }

    /// Makes the first records of long bodies short, also after a pause.
    pub(super) fn begin_short(&mut self) {
        self.inner.duplex.get_mut().begin_short();
    }

    pub(super) fn made_by(mut self, plan: Option<&Arc<BackendTls>>) -> Self {
        self.inner.plan = plan.cloned();
        self
    }

    /// Whether a connection to a backend was made by these settings.
    #[must_use]
    pub fn is_of(&self, plan: &Arc<BackendTls>) -> bool {
        let own = self.inner.plan.as_ref();
        own.is_some_and(|own| Arc::ptr_eq(own, plan))
    }

    /// The connection below.
    pub const fn tcp(&self) -> &TcpStream {
        &self.stream
    }

    /// The next bytes; an empty chunk when the peer has said that it is done (close_notify).
    ///
    /// # Errors
    /// What ended the connection; `UnexpectedEof` when it was closed without a word, which may be
    /// somebody's attempt to cut a message short.
    pub fn poll_recv(&self, cx: &Context<'_>) -> Poll<io::Result<Chunk>> {
        if let Some(unread) = self.inner.unread.take() {
            return Poll::Ready(Ok(unread));
        }
        loop {
            let opened = self.inner.duplex.borrow_mut().open();
            if self.inner.duplex.borrow().has_control() {
                // If it cannot be sent, the receive will tell.
                let _ = self.poll_control(cx);
            }
            if let Some(plain) = opened? {
                return Poll::Ready(Ok(plain));
            }
            let mut duplex = self.inner.duplex.borrow_mut();
            if duplex.is_ended {
                return Poll::Ready(Ok(Chunk::empty()));
            }
            let Poll::Ready(received) = self.stream.poll_recv(cx) else {
                duplex.rest();
                return Poll::Pending;
            };
            let received = received?;
            if received.is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            duplex.receive(received);
        }
    }

    /// Gives back bytes that were received but not used; the next receive returns them first.
    ///
    /// # Panics
    /// With bytes given back already.
    pub fn unread(&self, chunk: Chunk) {
        if !chunk.is_empty() {
            let before = self.inner.unread.replace(Some(chunk));
            assert!(before.is_none(), "unread twice");
        }
    }

    /// Takes `parts` when it is ready, as `TcpStream::poll_send` does.
    ///
    /// # Errors
    /// What ended the connection, in this or an earlier send.
    pub fn poll_send(
        &self,
        cx: &Context<'_>,
        parts: &mut [Option<Chunk>; 2],
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_written(cx))?; // what is sealed must be taken
        let mut sealed = self.inner.duplex.borrow_mut().seal(parts)?;
        *parts = [None, None];
        let sent = self.stream.poll_send(cx, &mut sealed);
        debug_assert!(sent.is_ready(), "nothing else was being sent");
        sent
    }

    /// Waits until the kernel has taken everything sent.
    ///
    /// # Errors
    /// As `poll_send`.
    pub fn poll_flush(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_control(cx))?;
        self.poll_written(cx)
    }

    /// Says that we are done (close_notify), and ends our side.
    ///
    /// # Errors
    /// As `poll_send`.
    pub fn poll_shutdown(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.inner.duplex.borrow_mut().end(); // once, however often it is called
        ready!(self.poll_control(cx))?;
        self.stream.poll_shutdown(cx)
    }

    /// Waits until the connection fails; a plain end of stream is no failure. It takes the place
    /// of a waiting receive.
    pub fn poll_broken(&self, cx: &Context<'_>) -> Poll<io::Error> {
        self.stream.poll_broken(cx)
    }

    /// As [`poll_broken`](Self::poll_broken), or until the peer has ended its side and nothing of
    /// what it sent before waits to be taken.
    pub fn poll_gone(&self, cx: &Context<'_>) -> Poll<()> {
        if self.stream.poll_broken(cx).is_ready() {
            return Poll::Ready(());
        }
        // What watching has received is to be opened, as nobody will be woken for it again.
        let has_sealed = self.inner.duplex.borrow().has_input() || self.stream.has_received();
        if has_sealed && self.inner.unread.borrow().is_none() {
            match self.poll_recv(cx) {
                Poll::Ready(Ok(plain)) if !plain.is_empty() => self.unread(plain),
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => {}
            }
        }
        Poll::Pending
    }

    /// True if an idle connection must not be used again: the peer has ended it, or sent what
    /// nobody asked for. Tickets come unasked, and are no reason.
    pub fn is_stale(&self) -> bool {
        if self.inner.unread.borrow().is_some() {
            return true;
        }
        let mut duplex = self.inner.duplex.borrow_mut();
        while let Some(received) = self.stream.try_recv() {
            match received {
                Ok(received) if !received.is_empty() => duplex.receive(received),
                _ => return true,
            }
            if !matches!(duplex.open(), Ok(None)) || duplex.is_ended {
                return true;
            }
        }
        duplex.is_within() || self.stream.is_stale()
    }

    /// The alert by which the peer has ended the connection.
    pub(crate) fn alert_of_peer(&self) -> Option<u8> {
        self.inner.duplex.borrow().alert_of_peer()
    }

    /// Makes the drop that follows send a reset instead of a FIN.
    pub fn reset_on_drop(&self) {
        self.stream.reset_on_drop();
    }

    /// Our end's address.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// The other end's address.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }

    /// Sends what the protocol itself has to say.
    fn poll_control(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let mut duplex = self.inner.duplex.borrow_mut();
        if duplex.has_control() {
            ready!(self.poll_written(cx))?;
            let mut parts = [duplex.take_control(), None];
            ready!(self.stream.poll_send(cx, &mut parts))?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_written(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        pin!(self.stream.flush()).poll(&mut Context::from_waker(cx.waker()))
    }

    /// The next bytes as a future.
    ///
    /// # Errors
    /// As `poll_recv`.
    pub async fn recv(&self) -> io::Result<Chunk> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream")
            .field("stream", &self.stream)
            .field("facts", &self.inner.facts)
            .finish_non_exhaustive()
    }
}
