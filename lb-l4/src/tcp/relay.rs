//! Bytes both ways between two connections, until both directions have ended.
//!
//! Invariant: what one side sent reaches the other complete and in order, then its end. Nothing is
//! allocated and no timer touched for a chunk. A future written by hand: it is what an idle session
//! holds, and an `async fn` would hold its arguments twice.
//! Read next: `direction.rs`.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use lb_core::metrics::{ListenerCounters, SessionEnd};
use lb_core::plan;
use lb_core::rt::{Instant, Sleep, TcpStream, now, sleep};

use super::direction::{Direction, Progress};
use super::pace::Pace;
use crate::log::{Record, Side};

/// How a session is relayed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    /// A session that moves nothing for so long is over.
    pub(super) idle_timeout: Duration,
    /// How bytes are moved.
    pub(super) relay: plan::Relay,
    /// For tests: change between the ways as often as can be.
    pub(super) fickle: bool,
}

/// Relays until both directions have ended, one side fails, or nothing moves for the idle timeout.
/// For one task: it is polled with the same waker each time.
pub(super) struct Relay<'a> {
    client: &'a TcpStream,
    backend: &'a TcpStream,
    counters: &'a ListenerCounters,
    settings: &'a Settings,
    record: Option<&'a Record>,
    request: Direction,
    response: Direction,
    moved_at: Instant,
    idle: Sleep,
}

impl<'a> Relay<'a> {
    pub(super) fn new(
        client: &'a TcpStream,
        backend: &'a TcpStream,
        settings: &'a Settings,
        counters: &'a ListenerCounters,
        record: Option<&'a Record>,
    ) -> Self {
        let pace = Pace::new(settings.relay, settings.fickle);
        Self {
            client,
            backend,
            counters,
            settings,
            record,
            request: Direction::new(pace),
            response: Direction::new(pace),
            moved_at: now(),
            idle: sleep(settings.idle_timeout),
        }
    }

    fn poll_both(&mut self, cx: &mut Context<'_>) -> Poll<SessionEnd> {
        // The response first: what it frees may let the client send more.
        let last = self.request.has_ended();
        let (response, sent) = self.response.poll(cx, self.backend, self.client, last);
        let last = self.response.has_ended();
        let (request, received) = self.request.poll(cx, self.client, self.backend, last);
        if sent > 0 {
            self.counters.sent_bytes.add(sent);
        }
        if received > 0 {
            self.counters.received_bytes.add(received);
        }
        if sent + received > 0 {
            self.moved_at = now();
        }
        if let Some(record) = self.record {
            record.moved(received, sent);
            tell_sides(record, request, response);
        }
        match (request, response) {
            (Poll::Ready(Progress::SourceFailed), _) | (_, Poll::Ready(Progress::SourceFailed)) => {
                Poll::Ready(SessionEnd::Reset)
            }
            (Poll::Ready(Progress::Ended), Poll::Ready(Progress::Ended)) => {
                Poll::Ready(SessionEnd::Finished)
            }
            // A sink failed, and all that its side had to give has been passed on.
            (Poll::Ready(_), Poll::Ready(_)) => Poll::Ready(SessionEnd::Reset),
            _ => self.poll_idle(cx),
        }
    }

    /// The timer is armed once; when it fires it is moved to the idle time after the last movement.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<SessionEnd> {
        loop {
            ready!(Pin::new(&mut self.idle).poll(cx));
            let due = self.moved_at + self.settings.idle_timeout;
            if due <= now() {
                return Poll::Ready(SessionEnd::Idle);
            }
            self.idle.set_deadline(due);
        }
    }
}

/// Who ended what.
fn tell_sides(record: &Record, request: Poll<Progress>, response: Poll<Progress>) {
    let sides = [
        (request, Side::Client, Side::Backend),
        (response, Side::Backend, Side::Client),
    ];
    for (progress, source, sink) in sides {
        match progress {
            Poll::Pending => {}
            Poll::Ready(Progress::Ended) => record.ended_by(source, true),
            Poll::Ready(Progress::SourceFailed) => record.ended_by(source, false),
            Poll::Ready(Progress::SinkFailed) => record.ended_by(sink, false),
        }
    }
}

impl Future for Relay<'_> {
    type Output = SessionEnd;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<SessionEnd> {
        let this = self.get_mut();
        let end = ready!(this.poll_both(cx));
        // An end that is not clean must not look like one to either side: an idle connection may
        // have been cut off in the middle of a stream that ends with the connection.
        if end != SessionEnd::Finished {
            this.client.reset_on_drop();
            this.backend.reset_on_drop();
        }
        Poll::Ready(end)
    }
}
