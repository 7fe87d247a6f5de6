//! The request's body on its way from the client to the backend, beside everything else that the
//! exchange does.
//!
//! Invariant: of the client's bytes none behind the body is taken, and no more than one piece is
//! on the way: who sends faster than the backend reads, waits.
//! Read next: `exchange.rs` (which polls it), `passage.rs` (how bytes are passed on).

use std::task::{Context, Poll, ready};

use lb_core::rt::{self, Chunk, Instant};

use crate::failure::Failure;
use crate::http1::body::Body;
use crate::http1::head::Framing;
use crate::http1::response::Transfer;
use crate::link::{BackendLink, ClientLink, Outgoing};
use crate::passage::Passage;
use crate::slow::Patience;

/// The rest of a request's body.
#[derive(Debug)]
pub(crate) struct Upload {
    passage: Passage,
    /// Received and not yet sent.
    pending: Outgoing,
    /// The backend takes no more. It may have answered already.
    is_broken: bool,
    patience: Patience,
}

impl Upload {
    /// The body comes at `rate` bytes a second at least, if there is one.
    pub(crate) fn new(body: Body, rate: Option<u32>) -> Self {
        Self {
            passage: Passage::new(body, Transfer::AsIs),
            pending: Outgoing::default(),
            is_broken: false,
            patience: Patience::new(rate),
        }
    }

    /// Until when the client is waited for; `None` if it is not, or may take its time.
    pub(crate) fn due(&mut self) -> Option<Instant> {
        if self.waits_for_client() {
            self.patience.wait(rt::now())
        } else {
            None
        }
    }

    /// Sets how the body goes to `backend`, of which nothing has been sent yet.
    pub(crate) fn begin(&mut self, backend: &BackendLink, framing: Framing) {
        let transfer = match (backend.is_http2(), self.passage.is_chunked()) {
            (true, true) => Transfer::Dechunk,
            // A stream without a declared length.
            (false, false) if framing == Framing::Chunked => Transfer::Chunk,
            _ => Transfer::AsIs,
        };
        self.passage.set_transfer(transfer);
    }

    /// Whether the body can be received before a backend is asked: it is framed as HTTP/1 has it,
    /// and not known to be longer than `bytes_max`.
    pub(crate) const fn may_gather(&self, bytes_max: usize) -> bool {
        !self.passage.is_done()
            && !self.passage.ends_by_close()
            && self.passage.plain_left() <= bytes_max as u64
    }

    /// Receives the next piece of the body into `gathered`, as it comes; ready with its length.
    pub(crate) fn poll_gather(
        &mut self,
        client: &ClientLink,
        gathered: &mut Vec<u8>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, Failure>> {
        let chunk = ready!(client.poll_recv(cx));
        let Ok(mut chunk) = chunk.map_err(|_| Failure::ClientGone) else {
            return Poll::Ready(Err(Failure::ClientGone));
        };
        if chunk.is_empty() {
            return Poll::Ready(Err(Failure::ClientGone));
        }
        let taken = self.passage.take_plain(&chunk).map_err(Failure::Body)?;
        gathered.extend_from_slice(&chunk[..taken]);
        chunk.advance(taken);
        client.unread(chunk);
        self.patience.moved(taken, rt::now);
        Poll::Ready(Ok(taken))
    }

    /// Takes the chunks off the body bytes at hand, which are behind a head.
    pub(crate) fn take_off_chunks(&mut self, outgoing: &mut Outgoing) {
        let [first, second] = std::mem::take(&mut outgoing.parts);
        let Some(mut head) = first else { return };
        let chunks = head[usize::from(outgoing.head_len)..].to_vec();
        head.truncate(usize::from(outgoing.head_len));
        let mut passage = Passage::new(Body::new(Framing::Chunked, u64::MAX), Transfer::Dechunk);
        let mut data = Vec::new();
        for mut raw in [Some(Chunk::from_vec(chunks)), second]
            .into_iter()
            .flatten()
        {
            while !raw.is_empty() {
                // Checked already: they were taken.
                match passage.next(&mut raw) {
                    Ok(parts) => parts
                        .iter()
                        .flatten()
                        .for_each(|it| data.extend_from_slice(it)),
                    Err(_) => raw = Chunk::empty(),
                }
            }
        }
        if passage.is_done() {
            outgoing.trailers = passage.take_trailers();
        } else {
            self.passage.continue_trailers(passage);
        }
        let data = (!data.is_empty()).then(|| Chunk::from_vec(data));
        outgoing.parts = [Some(head), data];
    }

    /// Whether there is something to do.
    pub(crate) const fn is_active(&self) -> bool {
        !self.is_broken && (!self.pending.is_empty() || !self.passage.is_done())
    }

    /// Whether the client has nothing more to send of this request.
    pub(crate) const fn is_received(&self) -> bool {
        self.passage.is_done()
    }

    /// Whether the backend has got all of this request.
    pub(crate) const fn is_sent(&self) -> bool {
        !self.is_active() && !self.is_broken
    }

    /// Whether it is the client that is waited for.
    pub(crate) const fn waits_for_client(&self) -> bool {
        self.is_active() && self.pending.is_empty()
    }

    /// Receives or sends one piece; ready with the number of bytes received.
    pub(crate) fn poll(
        &mut self,
        client: &ClientLink,
        backend: &BackendLink,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, Failure>> {
        if !self.pending.is_empty() {
            let sent = ready!(backend.poll_send(cx, &mut self.pending));
            self.pending = Outgoing::default();
            self.is_broken = sent.is_err();
            return Poll::Ready(Ok(0));
        }
        let Ok(mut chunk) = ready!(client.poll_recv(cx)) else {
            return Poll::Ready(Err(Failure::ClientGone));
        };
        if chunk.is_empty() {
            return Poll::Ready(self.end(client));
        }
        let before = chunk.len();
        self.pending.parts = self.passage.next(&mut chunk).map_err(Failure::Body)?;
        let taken = before - chunk.len();
        self.patience.moved(taken, rt::now);
        client.unread(chunk);
        if self.passage.is_done() {
            self.pending.ends = true;
            self.pending.trailers = self.passage.take_trailers();
        }
        Poll::Ready(Ok(taken))
    }

    /// The client has sent all that it will.
    fn end(&mut self, client: &ClientLink) -> Result<usize, Failure> {
        if !self.passage.ends_by_close() {
            return Err(Failure::ClientGone);
        }
        let trailers = client.take_trailers();
        let end = self.passage.end(trailers.as_ref());
        self.pending = Outgoing {
            parts: end.map_err(Failure::Body)?,
            ends: true,
            trailers,
            ..Outgoing::default()
        };
        Ok(0)
    }
}
