//! The request's body on its way from the client to the backend, beside everything else that the
//! exchange does.
//!
//! Invariant: of the client's bytes none behind the body is taken, and no more than one piece is
//! on the way: who sends faster than the backend reads, waits.
//! Read next: `exchange.rs` (which polls it), `download.rs` (the other direction).

use std::task::{Context, Poll, ready};

use lb_core::rt::{Chunk, TcpStream};

use crate::failure::Failure;
use crate::http1::body::Body;

/// The rest of a request's body.
#[derive(Debug)]
pub(crate) struct Upload {
    body: Body,
    /// Received and not yet sent.
    pending: Option<Chunk>,
    /// The backend takes no more. It may have answered already.
    is_broken: bool,
}

impl Upload {
    pub(crate) const fn new(body: Body) -> Self {
        Self {
            body,
            pending: None,
            is_broken: false,
        }
    }

    /// Whether there is something to do.
    pub(crate) const fn is_active(&self) -> bool {
        !self.is_broken && (self.pending.is_some() || !self.body.is_done())
    }

    /// Whether the client has nothing more to send of this request.
    pub(crate) const fn is_received(&self) -> bool {
        self.body.is_done()
    }

    /// Whether the backend has got all of this request.
    pub(crate) const fn is_sent(&self) -> bool {
        !self.is_active() && !self.is_broken
    }

    /// Whether it is the backend that is waited for.
    pub(crate) const fn waits_for_backend(&self) -> bool {
        self.pending.is_some()
    }

    /// Receives or sends one piece; ready with the number of bytes received.
    pub(crate) fn poll(
        &mut self,
        client: &TcpStream,
        backend: &TcpStream,
        cx: &Context<'_>,
    ) -> Poll<Result<usize, Failure>> {
        if self.pending.is_some() {
            let mut parts = [self.pending.take(), None];
            match backend.poll_send(cx, &mut parts) {
                Poll::Pending => {
                    self.pending = parts[0].take();
                    return Poll::Pending;
                }
                Poll::Ready(sent) => self.is_broken = sent.is_err(),
            }
            return Poll::Ready(Ok(0));
        }
        let mut chunk = match ready!(client.poll_recv(cx)) {
            Ok(chunk) if !chunk.is_empty() => chunk,
            _ => return Poll::Ready(Err(Failure::ClientGone)),
        };
        let taken = self.body.take(&chunk).map_err(Failure::Body)?;
        self.pending = Some(chunk.split_to(taken));
        client.unread(chunk);
        Poll::Ready(Ok(taken))
    }
}
