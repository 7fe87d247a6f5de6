//! A connection, in the clear or over TLS, as one type; and as `tokio`'s traits, for libraries
//! that want these.
//!
//! Invariant: nothing is read ahead of what was asked for, nothing is held back on its way out.
//! Read next: `tls/stream.rs`.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use lb_core::rt::{Buffer, Chunk, Detached, TcpStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::tls::{DetachedTls, TlsStream};

/// A connection, in the clear or over TLS; used as a `TcpStream` is.
#[derive(Debug)]
pub enum Stream {
    /// In the clear.
    Plain(TcpStream),
    /// Over TLS.
    Tls(TlsStream),
}

/// An idle connection on its way to another thread.
pub(crate) enum DetachedStream {
    /// In the clear.
    Plain(Detached),
    /// Over TLS.
    Tls(Box<DetachedTls>),
}

impl DetachedStream {
    /// As [`Detached::attach`].
    pub(crate) fn attach(self) -> Option<Stream> {
        match self {
            Self::Plain(stream) => stream.attach().map(Stream::Plain),
            Self::Tls(stream) => stream.attach().map(Stream::Tls),
        }
    }
}

impl Stream {
    /// As [`TcpStream::detach`].
    pub(crate) async fn detach(self) -> Option<DetachedStream> {
        match self {
            Self::Plain(stream) => stream.detach().await.map(DetachedStream::Plain),
            Self::Tls(stream) => {
                let detached = stream.detach().await?;
                Some(DetachedStream::Tls(Box::new(detached)))
            }
        }
    }

    /// The connection below.
    #[must_use]
    pub const fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.tcp(),
        }
    }

    /// The alert by which the peer has ended TLS.
    pub(crate) fn tls_alert(&self) -> Option<u8> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => stream.alert_of_peer(),
        }
    }

    /// True if an idle connection must not be used again.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_stale(),
            Self::Tls(stream) => stream.is_stale(),
        }
    }

    /// Gives back bytes that were received but not used; the next receive returns them first.
    ///
    /// # Panics
    /// With bytes given back already.
    pub fn unread(&self, chunk: Chunk) {
        match self {
            Self::Plain(stream) => stream.unread(chunk),
            Self::Tls(stream) => stream.unread(chunk),
        }
    }

    /// The next bytes; an empty chunk at the end of the stream.
    ///
    /// # Errors
    /// What ended the connection.
    pub fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        match self {
            Self::Plain(stream) => stream.poll_recv(cx),
            Self::Tls(stream) => stream.poll_recv(cx),
        }
    }

    /// Takes `parts` when it is ready; the first is there, none is empty.
    ///
    /// # Errors
    /// What ended the connection, in this or an earlier send.
    pub fn poll_send(
        &self,
        cx: &mut Context<'_>,
        parts: &mut [Option<Chunk>; 2],
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => stream.poll_send(cx, parts),
            Self::Tls(stream) => stream.poll_send(cx, parts),
        }
    }

    /// Waits until the kernel has taken everything sent.
    ///
    /// # Errors
    /// As `poll_send`.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => pin!(stream.flush()).poll(cx),
            Self::Tls(stream) => stream.poll_flush(cx),
        }
    }

    /// Waits until the connection fails, or the peer has ended its side and nothing of what it sent
    /// before waits to be taken.
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Plain(stream) => stream.poll_gone(cx),
            Self::Tls(stream) => stream.poll_gone(cx),
        }
    }

    /// Ends our side.
    ///
    /// # Errors
    /// As `poll_send`.
    pub fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => stream.poll_shutdown(cx),
            Self::Tls(stream) => stream.poll_shutdown(cx),
        }
    }

    /// [`poll_recv`](Self::poll_recv) as a future.
    ///
    /// # Errors
    /// What ended the connection.
    pub async fn recv(&self) -> io::Result<Chunk> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Starts to send all of `chunk`, which is not empty.
    ///
    /// # Errors
    /// What ended the connection, in this or an earlier send.
    pub async fn send(&self, chunk: Chunk) -> io::Result<()> {
        let mut parts = [Some(chunk), None];
        poll_fn(|cx| self.poll_send(cx, &mut parts)).await
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::Plain(stream)
    }
}

impl From<TlsStream> for Stream {
    fn from(stream: TlsStream) -> Self {
        Self::Tls(stream)
    }
}

/// A [`Stream`] with `tokio`'s traits, and without its runtime. It copies: for what is rare.
#[derive(Debug)]
pub struct TokioStream {
    stream: Stream,
    /// Received and not yet read.
    received: Chunk,
}

impl TokioStream {
    /// `stream`, behind other traits.
    #[must_use]
    pub const fn new(stream: Stream) -> Self {
        Self {
            stream,
            received: Chunk::empty(),
        }
    }

    /// Sends as much of `slices` as one buffer takes.
    fn poll_write_slices<'a>(
        &self,
        cx: &mut Context<'_>,
        slices: impl Iterator<Item = &'a [u8]>,
    ) -> Poll<io::Result<usize>> {
        ready!(self.stream.poll_flush(cx))?; // before anything is copied
        let mut out = Buffer::new();
        for slice in slices {
            let fits = out.push(&slice[..slice.len().min(out.remaining())]);
            debug_assert!(fits, "no more than what remains");
        }
        if out.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let taken = out.len();
        let sent = self.stream.poll_send(cx, &mut [Some(out.freeze()), None]);
        sent.map_ok(|()| taken)
    }
}

impl AsyncRead for TokioStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.received.is_empty() {
            self.received = ready!(self.stream.poll_recv(cx))?;
        }
        let taken = self.received.len().min(out.remaining());
        out.put_slice(&self.received.split_to(taken));
        if self.received.is_empty() {
            self.received = Chunk::empty(); // the buffer goes back
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TokioStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_slices(cx, std::iter::once(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_slices(cx, slices.iter().map(|slice| &**slice))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_shutdown(cx)
    }
}
