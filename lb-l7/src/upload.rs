//! The request's body on its way from the client to the backend, beside everything else that the
//! exchange does.
//!
//! Invariant: of the client's bytes none behind the body is taken, and no more than one piece is
//! on the way: who sends faster than the backend reads, waits.
//! Read next: `exchange.rs` (which polls it), `passage.rs` (how bytes are passed on).

use std::task::{Context, Poll, ready};

use lb_core::rt::{self, Chunk, Input, Instant, Pipe};

use crate::bulk::{self, BULK_BYTES, Taken};
use crate::failure::Failure;
use crate::http1::body::Body;
use crate::http1::head::Framing;
use crate::http1::response::Transfer;
use crate::link::{BackendLink, ClientLink, Outgoing};
use crate::passage::Passage;
use crate::slow::Patience;
use crate::stream::Stream;

/// So many pieces in a row that are smaller than [`SMALL_BYTES`] show a sender that is slow: its
/// pieces are cheaper to receive.
const SMALL_PIECES_MAX: u8 = 4;
const SMALL_BYTES: u64 = 8 * 1024;

/// The rest of a request's body.
#[derive(Debug)]
pub(crate) struct Upload {
    passage: Passage,
    /// Received and not yet sent.
    pending: Outgoing,
    /// The backend takes no more. It may have answered already.
    is_broken: bool,
    patience: Patience,
    /// Of a stream that was gathered to its end.
    gathered_trailers: Option<Chunk>,
    /// Taken from the client inside of the kernel, and not yet sent.
    pipe: Option<Pipe>,
    /// What must be left of the body for that.
    bulk_bytes: u64,
    small_pieces: u8,
}

impl Upload {
    /// The body comes at `rate` bytes a second at least, if there is one.
    pub(crate) fn new(body: Body, rate: Option<u32>) -> Self {
        Self {
            passage: Passage::new(body, Transfer::AsIs),
            pending: Outgoing::default(),
            is_broken: false,
            patience: Patience::new(rate),
            gathered_trailers: None,
            pipe: None,
            bulk_bytes: BULK_BYTES,
            small_pieces: 0,
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

    /// Whether the body can be received before a backend is asked: it is not known to be longer
    /// than `bytes_max`.
    pub(crate) const fn may_gather(&self, bytes_max: usize) -> bool {
        !self.passage.is_done() && self.passage.least_left() <= bytes_max as u64
    }

    /// The body is to be gathered, as it would go to a backend of HTTP/1.
    pub(crate) fn begin_gathering(&mut self, framing: Framing) {
        if self.passage.ends_by_close() && framing == Framing::Chunked {
            self.passage.set_transfer(Transfer::Chunk);
        }
    }

    /// Receives the next piece of the body into `gathered`; ready with the bytes that came.
    pub(crate) fn poll_gather(
        &mut self,
        client: &ClientLink,
        gathered: &mut Vec<u8>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, Failure>> {
        let Ok(mut chunk) = ready!(client.poll_recv(cx)) else {
            return Poll::Ready(Err(Failure::ClientGone));
        };
        let before = chunk.len();
        let parts = if chunk.is_empty() {
            self.end(client)?;
            self.gathered_trailers = self.pending.trailers.take();
            std::mem::take(&mut self.pending).parts
        } else {
            self.passage.next(&mut chunk).map_err(Failure::Body)?
        };
        for part in parts.iter().flatten() {
            gathered.extend_from_slice(part);
        }
        let taken = before - chunk.len();
        client.unread(chunk);
        self.patience.moved(taken, rt::now);
        Poll::Ready(Ok(taken))
    }

    /// The field lines behind a body that was gathered, for a stream whose length was declared.
    pub(crate) fn gathered_trailers(&self) -> Option<Chunk> {
        self.gathered_trailers.as_ref().map(Chunk::share)
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
        !self.is_broken && (self.is_sending() || !self.passage.is_done())
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
        self.is_active() && !self.is_sending()
    }

    const fn is_sending(&self) -> bool {
        !self.pending.is_empty() || self.pipe.is_some()
    }

    /// Receives or sends one piece; ready with the number of bytes received.
    pub(crate) fn poll(
        &mut self,
        client: &ClientLink,
        backend: &BackendLink,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, Failure>> {
        if self.is_sending() {
            return self.poll_send(backend, cx).map(|()| Ok(0));
        }
        if let Some(taken) = ready!(self.poll_bulk(client, backend, cx)) {
            self.patience.moved(taken, rt::now);
            return Poll::Ready(Ok(taken));
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
        } else if self.passage.may_end_with_data() && client.is_received() {
            self.pending.trailers = client.take_trailers();
            let end = self.passage.end(self.pending.trailers.as_ref());
            end.map_err(Failure::Body)?;
            self.pending.ends = true;
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_send(&mut self, backend: &BackendLink, cx: &mut Context<'_>) -> Poll<()> {
        if let (Some(pipe), BackendLink::Http1(stream)) = (&mut self.pipe, backend) {
            let moved = ready!(stream.tcp().poll_splice_from(cx, pipe));
            self.is_broken = moved.is_err();
            if self.is_broken || pipe.is_empty() {
                self.pipe = None;
            }
            return Poll::Ready(());
        }
        let sent = ready!(backend.poll_send(cx, &mut self.pending));
        self.pending = Outgoing::default();
        self.is_broken = sent.is_err();
        Poll::Ready(())
    }

    /// Takes a piece of a long body, if neither side needs its bytes to be seen; ready with their
    /// number, or `None` if the next ones are to be received.
    fn poll_bulk(
        &mut self,
        client: &ClientLink,
        backend: &BackendLink,
        cx: &Context<'_>,
    ) -> Poll<Option<usize>> {
        let (ClientLink::Http1(Stream::Plain(source)), BackendLink::Http1(Stream::Plain(_))) =
            (client, backend)
        else {
            return Poll::Ready(None);
        };
        let left = self.passage.plain_left();
        if left < self.bulk_bytes || ready!(source.poll_readable(cx)) == Input::Received {
            return Poll::Ready(None);
        }
        let taken = match bulk::splice(source, left) {
            Taken::Again => 0,
            Taken::Usual => return Poll::Ready(None),
            Taken::Pipe(pipe, bytes) => {
                self.pipe = Some(pipe);
                bytes
            }
            Taken::Chunk(chunk) => {
                let bytes = chunk.len() as u64;
                self.pending.parts = [Some(chunk), None];
                bytes
            }
        };
        self.passage.skip(taken);
        self.on_bulk(taken);
        Poll::Ready(usize::try_from(taken).ok())
    }

    /// What has begun so ends so, as a receive of its own would cost more; unless it is no bulk.
    const fn on_bulk(&mut self, taken: u64) {
        self.small_pieces = match taken {
            0 => self.small_pieces,
            1..SMALL_BYTES => self.small_pieces + 1,
            _ => 0,
        };
        self.bulk_bytes = if self.small_pieces < SMALL_PIECES_MAX {
            1
        } else {
            u64::MAX
        };
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
