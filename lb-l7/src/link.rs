//! What an exchange has at its two ends: a connection of HTTP/1, or one stream of HTTP/2.
//!
//! Invariant: heads are HTTP/1.1 text on either kind of link, so that the rules for them are
//! written once; how a body is delimited is the link's own business. HTTP/1.1 on both sides costs
//! one branch more than without this file.
//! Read next: `exchange.rs` (who uses them), `passage.rs` (bodies from link to link).

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};

use lb_core::balance::Cluster;
use lb_core::rt::Chunk;

use crate::http2::websocket::Accept;
use crate::passage::Parts;
use crate::stream::Stream;

/// The client's end of an exchange.
#[derive(Debug)]
pub(crate) enum ClientLink {
    /// Its connection.
    Http1(Stream),
    /// One stream of its connection.
    Http2(Box<dyn Http2Stream>),
}

/// The backend's end of an exchange.
#[derive(Debug)]
pub(crate) enum BackendLink {
    /// A connection, used for one exchange after the other.
    Http1(Stream),
    /// One stream of a connection.
    Http2(Box<dyn BackendStream>),
}

/// One stream of an HTTP/2 connection, of either side. Dropping it before both sides are done
/// resets it with CANCEL.
pub(crate) trait Http2Stream: fmt::Debug {
    /// The next data of the body; an empty chunk at the end of the stream, as often as asked.
    ///
    /// # Errors
    /// When the peer has reset the stream, or the connection broke.
    fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>>;

    /// Whether the peer has ended the stream and all of its data has been taken.
    fn is_received(&self) -> bool;

    /// Whether a WebSocket is asked for (RFC 8441): what follows the head is no body.
    fn is_websocket(&self) -> bool {
        false
    }

    /// The names of the fields of the received head that must not be put into any table on their
    /// way (RFC 7541 section 6.2.3), in lower case, each with a line feed behind it; once.
    fn take_secrets(&self) -> Option<Chunk>;

    /// Has fields of these names marked so in the head that is sent next.
    fn keep_secret(&self, names: Chunk);

    /// The field lines that came behind the body, each with its CRLF; once, after the end.
    fn take_trailers(&self) -> Option<Chunk>;

    /// Takes `head`, HTTP/1.1 text with its blank line, when it is ready; what ends at a
    /// connection of HTTP/1 (Connection, Transfer-Encoding, …) is left out. `ends` ends our side
    /// with it.
    ///
    /// # Errors
    /// As `poll_recv`.
    fn poll_send_head(
        &self,
        cx: &mut Context<'_>,
        head: &mut Chunk,
        ends: bool,
    ) -> Poll<io::Result<()>>;

    /// Takes data of the body when there is room for it: all of it, or its start, `data` being
    /// left with the rest. `ends` ends our side with the last of it; then `data` may be empty.
    ///
    /// # Errors
    /// As `poll_recv`.
    fn poll_send_data(
        &self,
        cx: &mut Context<'_>,
        data: &mut Chunk,
        ends: bool,
    ) -> Poll<io::Result<()>>;

    /// How many bytes of data would be taken at once now, as far as one stream alone decides.
    fn room(&self) -> usize {
        0
    }

    /// Ends our side with trailers: field lines, each with its CRLF.
    ///
    /// # Errors
    /// As `poll_recv`.
    fn poll_send_trailers(
        &self,
        cx: &mut Context<'_>,
        trailers: &mut Chunk,
    ) -> Poll<io::Result<()>>;

    /// Waits until the peer resets the stream or the connection breaks.
    fn poll_broken(&self, cx: &mut Context<'_>) -> Poll<io::Error>;

    /// Ends the stream at once: what was sent on it is not a whole message.
    fn reset(&self);

    /// Our end's address.
    ///
    /// # Errors
    /// Those of `getsockname(2)`.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// A stream to a backend.
pub(crate) trait BackendStream: Http2Stream {
    /// The next head, as HTTP/1.1 text with its blank line: of an interim response or of the final
    /// one; an empty chunk when the stream ended without.
    ///
    /// # Errors
    /// As `poll_recv`.
    fn poll_recv_head(&self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>>;

    /// Has the head that is sent next ask for a WebSocket (RFC 8441), which it does as HTTP/1.1
    /// would; success is told as a switch of protocols with `accept` as the proof. False if the
    /// backend does not take that.
    fn ask_websocket(&self, accept: Accept) -> bool;

    /// Whether the backend has said that it did not process the request (REFUSED_STREAM, or
    /// GOAWAY with a lower stream): it may be sent again whatever its method.
    fn is_refused(&self) -> bool;
}

/// What is sent to a link at once.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    /// As HTTP/1 has it: what is sent is in here, the first first. For HTTP/2, a head and data.
    pub(crate) parts: Parts,
    /// So many bytes of the first part are a head.
    pub(crate) head_len: u16,
    /// The message is complete with this. HTTP/1 is told by the parts.
    pub(crate) ends: bool,
    /// Field lines behind the body, for HTTP/2; HTTP/1 has them in the parts.
    pub(crate) trailers: Option<Chunk>,
}

impl Outgoing {
    /// Whether there is nothing to send to a link of either kind.
    pub(crate) const fn is_empty(&self) -> bool {
        self.parts[0].is_none() && !self.ends
    }

    /// Bytes in all parts.
    pub(crate) fn len(&self) -> usize {
        self.parts.iter().flatten().map(|part| part.len()).sum()
    }

    /// Sends all of it by `stream`.
    fn poll_send_http2(
        &mut self,
        cx: &mut Context<'_>,
        stream: &(impl Http2Stream + ?Sized),
    ) -> Poll<io::Result<()>> {
        if self.head_len > 0
            && let Some(first) = &mut self.parts[0]
        {
            let mut head = first.share();
            head.truncate(usize::from(self.head_len));
            let is_all = first.len() == head.len() && self.parts[1].is_none();
            let ends = self.ends && is_all && self.trailers.is_none();
            ready!(stream.poll_send_head(cx, &mut head, ends))?;
            if let Some(first) = &mut self.parts[0] {
                first.advance(usize::from(self.head_len));
            }
            self.head_len = 0;
            self.ends &= !ends;
        }
        for index in 0..self.parts.len() {
            let is_last = self.parts[index + 1..].iter().all(Option::is_none);
            let ends = self.ends && is_last && self.trailers.is_none();
            while let Some(data) = self.parts[index].as_mut().filter(|data| !data.is_empty()) {
                ready!(stream.poll_send_data(cx, data, ends))?;
                self.ends &= !(ends && data.is_empty());
            }
            self.parts[index] = None;
        }
        if self.ends {
            match &mut self.trailers {
                Some(trailers) => ready!(stream.poll_send_trailers(cx, trailers))?,
                None => ready!(stream.poll_send_data(cx, &mut Chunk::empty(), true))?,
            }
        }
        *self = Self::default();
        Poll::Ready(Ok(()))
    }
}

impl ClientLink {
    /// The next bytes of the connection, or of the stream's body; an empty chunk at the end.
    pub(crate) fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        match self {
            Self::Http1(stream) => stream.poll_recv(cx),
            Self::Http2(stream) => stream.poll_recv(cx),
        }
    }

    /// Whether the client has ended the message that it sends, and all of it was taken. Nobody can
    /// tell that of HTTP/1.
    pub(crate) fn is_received(&self) -> bool {
        match self {
            Self::Http1(_) => false,
            Self::Http2(stream) => stream.is_received(),
        }
    }

    /// The names of the request's fields that must stay out of tables.
    pub(crate) fn take_secrets(&self) -> Option<Chunk> {
        match self {
            Self::Http1(_) => None,
            Self::Http2(stream) => stream.take_secrets(),
        }
    }

    /// Gives back what is not part of this message.
    pub(crate) fn unread(&self, chunk: Chunk) {
        if let Self::Http1(stream) = self {
            stream.unread(chunk);
        }
    }

    /// Sends what is outgoing; when it is ready, all has been taken.
    pub(crate) fn poll_send(
        &self,
        cx: &mut Context<'_>,
        outgoing: &mut Outgoing,
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Http1(stream) => poll_send_http1(cx, stream, outgoing),
            Self::Http2(stream) => outgoing.poll_send_http2(cx, &**stream),
        }
    }

    /// Waits until the client is gone: the connection has failed, or the client has ended its side
    /// and sent nothing before that is not taken. A stream must be reset for that.
    pub(crate) fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Http1(stream) => stream.poll_gone(cx),
            Self::Http2(stream) => stream.poll_broken(cx).map(drop),
        }
    }

    /// Waits until the client takes nothing any more.
    pub(crate) fn poll_broken(&self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match self {
            Self::Http1(stream) => stream.tcp().poll_broken(cx),
            Self::Http2(stream) => stream.poll_broken(cx),
        }
    }

    /// Waits until the kernel has taken everything sent; streams leave that to their connection.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Http1(stream) => stream.poll_flush(cx),
            Self::Http2(_) => Poll::Ready(Ok(())),
        }
    }

    /// Has the last of what is sent from here on leave with the end of our side, which follows.
    pub(crate) fn hold_last(&self) {
        if let Self::Http1(stream) = self {
            stream.tcp().hold_last();
        }
    }

    /// Ends our side.
    pub(crate) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Http1(stream) => stream.poll_shutdown(cx),
            Self::Http2(_) => Poll::Ready(Ok(())),
        }
    }

    /// Makes the drop that follows tell the client that the message is not whole.
    pub(crate) fn reset_on_drop(&self) {
        match self {
            Self::Http1(stream) => stream.tcp().reset_on_drop(),
            Self::Http2(stream) => stream.reset(),
        }
    }

    /// Our end's address.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Http1(stream) => stream.tcp().local_addr(),
            Self::Http2(stream) => stream.local_addr(),
        }
    }

    /// Whether messages are streams of HTTP/2.
    pub(crate) const fn is_http2(&self) -> bool {
        matches!(self, Self::Http2(_))
    }

    /// The field lines behind the body, where the body itself does not bring them.
    pub(crate) fn take_trailers(&self) -> Option<Chunk> {
        match self {
            Self::Http1(_) => None,
            Self::Http2(stream) => stream.take_trailers(),
        }
    }
}

impl BackendLink {
    /// The alert by which the backend has ended TLS.
    pub(crate) fn tls_alert(&self) -> Option<u8> {
        match self {
            Self::Http1(stream) => stream.tls_alert(),
            Self::Http2(_) => None,
        }
    }

    /// The next bytes of the connection, or of the stream's body; an empty chunk at the end.
    pub(crate) fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        match self {
            Self::Http1(stream) => stream.poll_recv(cx),
            Self::Http2(stream) => stream.poll_recv(cx),
        }
    }

    /// The next bytes where a head is expected; more than a head with HTTP/1, or a part of it.
    pub(crate) fn poll_recv_head(&self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        match self {
            Self::Http1(stream) => stream.poll_recv(cx),
            Self::Http2(stream) => stream.poll_recv_head(cx),
        }
    }

    /// Gives back what is not looked at yet.
    pub(crate) fn unread(&self, chunk: Chunk) {
        if let Self::Http1(stream) = self {
            stream.unread(chunk);
        }
    }

    /// Sends what is outgoing; when it is ready, all has been taken.
    pub(crate) fn poll_send(
        &self,
        cx: &mut Context<'_>,
        outgoing: &mut Outgoing,
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Http1(stream) => poll_send_http1(cx, stream, outgoing),
            Self::Http2(stream) => outgoing.poll_send_http2(cx, &**stream),
        }
    }

    /// Ends our side.
    pub(crate) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Http1(stream) => stream.poll_shutdown(cx),
            Self::Http2(_) => Poll::Ready(Ok(())),
        }
    }

    /// Makes the drop that follows tell the backend that the message is not whole.
    pub(crate) fn reset_on_drop(&self) {
        match self {
            Self::Http1(stream) => stream.tcp().reset_on_drop(),
            Self::Http2(stream) => stream.reset(),
        }
    }

    /// Whether messages are streams of HTTP/2.
    pub(crate) const fn is_http2(&self) -> bool {
        matches!(self, Self::Http2(_))
    }

    /// Whether it was made as `cluster` says now: in the clear, or by its settings of TLS.
    pub(crate) fn is_for(&self, cluster: &Cluster) -> bool {
        match (self, &cluster.tls) {
            (Self::Http1(Stream::Plain(_)), tls) => tls.is_none(),
            (Self::Http1(Stream::Tls(stream)), Some(tls)) => stream.is_of(tls),
            (Self::Http1(Stream::Tls(_)), None) => false,
            (Self::Http2(_), _) => true,
        }
    }

    /// True if an idle connection must not be used again. A stream is used once.
    pub(crate) fn is_stale(&self) -> bool {
        match self {
            Self::Http1(stream) => stream.is_stale(),
            Self::Http2(_) => true,
        }
    }

    /// Whether the backend has ended the message that it sends, and all of it was taken. Nobody
    /// can tell that of HTTP/1.
    pub(crate) fn is_received(&self) -> bool {
        match self {
            Self::Http1(_) => false,
            Self::Http2(stream) => stream.is_received(),
        }
    }

    /// The field lines behind the body, where the body itself does not bring them.
    pub(crate) fn take_trailers(&self) -> Option<Chunk> {
        match self {
            Self::Http1(_) => None,
            Self::Http2(stream) => stream.take_trailers(),
        }
    }

    /// Whether the backend has said that it did not process the request.
    pub(crate) fn is_refused(&self) -> bool {
        match self {
            Self::Http1(_) => false,
            Self::Http2(stream) => stream.is_refused(),
        }
    }
}

#[inline]
fn poll_send_http1(
    cx: &mut Context<'_>,
    stream: &Stream,
    outgoing: &mut Outgoing,
) -> Poll<io::Result<()>> {
    if outgoing.parts[0].is_some() {
        ready!(stream.poll_send(cx, &mut outgoing.parts))?;
    }
    outgoing.ends = false; // what is sent next is another message's, maybe
    Poll::Ready(Ok(()))
}
