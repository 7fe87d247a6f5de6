//! What an exchange waits for: beside that, the body is uploaded, the client is watched and the time.
//!
//! Invariant: no wait is without a deadline, and none goes on for a client that is gone, unless the
//! listener is told to ignore that.
//! Read next: `exchange.rs` and `reach.rs` (who wait), `upload.rs`.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use lb_core::rt::{self, Instant};

use crate::bulk::SPLICE_MAX;
use crate::exchange::{Exchange, PIECES_PER_TURN};
use crate::failure::Failure;
use crate::link::BackendLink;

/// How often who waits in the queue looks for room without being called.
const QUEUE_LOOK: Duration = Duration::from_millis(100);

/// What an exchange waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// That the client takes what is sent.
    Client,
    /// That a backend accepts a connection.
    Connect,
    /// That a connection becomes free.
    Queue,
    /// More of the request's body, before a backend is asked.
    RequestBody,
    /// More of the response's body.
    ResponseBody,
    /// The response's head.
    ResponseHead,
}

impl Exchange<'_> {
    /// Polls `main` until it is ready. Beside it, the body is uploaded to `backend`, the client
    /// is watched and the time.
    pub(crate) fn wait<T>(
        &mut self,
        waiting: Waiting,
        backend: Option<&BackendLink>,
        mut main: impl FnMut(&mut Self, &mut Context<'_>) -> Poll<T>,
    ) -> impl Future<Output = Result<T, Failure>> {
        let mut is_armed = false;
        poll_fn(move |cx| {
            if let Poll::Ready(output) = main(self, cx) {
                return Poll::Ready(Ok(output));
            }
            if !is_armed {
                self.set_deadline(waiting);
                is_armed = true;
            }
            self.poll_beside(waiting, backend, cx).map(Err)
        })
    }

    fn poll_beside(
        &mut self,
        waiting: Waiting,
        backend: Option<&BackendLink>,
        cx: &mut Context<'_>,
    ) -> Poll<Failure> {
        if let Some(backend) = backend.filter(|_| self.request.upload.is_active()) {
            if let Poll::Ready(failure) = self.poll_upload(waiting, backend, cx) {
                return Poll::Ready(failure);
            }
        } else if self.poll_client_gone(waiting, cx).is_ready() {
            return Poll::Ready(Failure::ClientGone);
        }
        Pin::new(&mut self.connection.sleep)
            .poll(cx)
            .map(|()| self.overdue(waiting))
    }

    /// Waits until the client is taken for gone. A client of HTTP/1 that ends its side while it
    /// waits for a response has mostly closed its socket, and a socket shows no difference; nginx
    /// and Go's `net/http` take it so, too. One with further requests in the pipeline wants their
    /// answers (as Go has it), and one whose response is all here can be left to read it.
    fn poll_client_gone(&self, waiting: Waiting, cx: &mut Context<'_>) -> Poll<()> {
        let client = &self.connection.client;
        if self.service.exchanges.ignore_client_abort && !client.is_http2() {
            return Poll::Pending; // what is sent to it will fail
        }
        if waiting == Waiting::Client && self.download.is_done() {
            return client.poll_broken(cx).map(drop);
        }
        client.poll_gone(cx)
    }

    fn poll_upload(
        &mut self,
        waiting: Waiting,
        backend: &BackendLink,
        cx: &mut Context<'_>,
    ) -> Poll<Failure> {
        let mut taken = 0;
        for _ in 0..PIECES_PER_TURN {
            if !self.request.upload.is_active() {
                return Poll::Pending;
            }
            if taken >= SPLICE_MAX {
                break;
            }
            match self
                .request
                .upload
                .poll(&self.connection.client, backend, cx)
            {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(failure)) => return Poll::Ready(failure),
                Poll::Ready(Ok(bytes)) => {
                    if let Some(record) = &mut self.request.log {
                        record.received_bytes += bytes as u64;
                    }
                    if bytes > 0 {
                        self.request.forget(); // its body cannot be had again
                    }
                    let listener = self.connection.registration.listener();
                    listener.received_bytes.add(bytes as u64);
                    taken += bytes as u64;
                    self.set_deadline(waiting);
                }
            }
        }
        cx.waker().wake_by_ref(); // others have their turn, then this goes on
        Poll::Pending
    }

    fn set_deadline(&mut self, waiting: Waiting) {
        let (now, timeouts) = (rt::now(), &self.service.timeouts);
        let deadline = match waiting {
            Waiting::Connect => {
                let served = self.request.cluster.ok().map(|it| self.service.served(it));
                now + served.map_or(timeouts.response_head, |it| it.cluster.connect_timeout)
            }
            Waiting::ResponseHead if !self.request.upload.is_active() => {
                *self.head_due.get_or_insert(now + timeouts.response_head)
            }
            Waiting::Queue => {
                let again = now + QUEUE_LOOK;
                self.queue_due.map_or(again, |due| due.min(again))
            }
            Waiting::Client
            | Waiting::RequestBody
            | Waiting::ResponseBody
            | Waiting::ResponseHead => now + timeouts.body_idle,
        };
        let bounds = match waiting {
            Waiting::Connect | Waiting::ResponseHead => [self.try_due, self.total_due],
            Waiting::Queue => [None, self.total_due],
            Waiting::Client | Waiting::RequestBody | Waiting::ResponseBody => [None, None],
        };
        let slow = match waiting {
            Waiting::Client => self.patience.wait(now),
            _ => self.request.upload.due(),
        };
        let bounds = bounds.into_iter().chain([slow]);
        let deadline = bounds.flatten().fold(deadline, Instant::min);
        self.connection.sleep.set_deadline(deadline);
    }

    /// Who has let the deadline pass.
    fn overdue(&self, waiting: Waiting) -> Failure {
        let upload = &self.request.upload;
        let is_over = |due: Option<Instant>| due.is_some_and(|due| due <= rt::now());
        let is_bounded = matches!(
            waiting,
            Waiting::Connect | Waiting::Queue | Waiting::ResponseHead
        );
        if is_bounded && is_over(self.total_due) {
            return Failure::TotalTimeout;
        }
        if is_bounded && waiting != Waiting::Queue && is_over(self.try_due) {
            return Failure::TryTimeout;
        }
        match waiting {
            Waiting::Client => Failure::ClientStuck,
            Waiting::Queue => Failure::Busy,
            Waiting::RequestBody => Failure::BodyTimeout,
            Waiting::ResponseHead if upload.waits_for_client() => Failure::BodyTimeout,
            // The response has begun, and the client does not send what it is for.
            Waiting::ResponseBody if upload.waits_for_client() => Failure::ClientStuck,
            Waiting::Connect | Waiting::ResponseBody | Waiting::ResponseHead => {
                Failure::BackendTimeout
            }
        }
    }
}
