//! Bytes both ways between two connections, until both directions have ended.
//!
//! Invariant: what one side sent reaches the other complete and in order, then its end; of a side
//! that is not read nothing more is received (one chunk waits, one is being sent). Nothing is
//! allocated and no timer touched for a chunk.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use lb_core::metrics::{Counter, ListenerCounters, SessionEnd};
use lb_core::rt::{Chunk, Instant, Sleep, TcpStream, now, sleep};

/// Relays until both directions have ended, one side fails, or nothing moves for `idle_timeout`.
pub(super) async fn relay(
    client: &TcpStream,
    backend: &TcpStream,
    idle_timeout: Duration,
    counters: &ListenerCounters,
) -> SessionEnd {
    let end = {
        let moved_at = Cell::new(now());
        let mut request = Direction::new(client, backend, &counters.received_bytes);
        let mut response = Direction::new(backend, client, &counters.sent_bytes);
        let mut idle = pin!(sleep(idle_timeout));
        poll_fn(|cx| {
            // The response first: what it frees may let the client send more.
            let response = response.poll(cx, &moved_at);
            let request = request.poll(cx, &moved_at);
            match (request, response) {
                (Poll::Ready(Progress::SourceFailed), _)
                | (_, Poll::Ready(Progress::SourceFailed)) => Poll::Ready(SessionEnd::Reset),
                (Poll::Ready(Progress::Ended), Poll::Ready(Progress::Ended)) => {
                    Poll::Ready(SessionEnd::Finished)
                }
                // A sink failed, and all that its side had to give has been passed on.
                (Poll::Ready(_), Poll::Ready(_)) => Poll::Ready(SessionEnd::Reset),
                _ => poll_idle(idle.as_mut(), cx, &moved_at, idle_timeout),
            }
        })
        .await
    };
    // An end that is not clean must not look like one to either side: an idle connection may have
    // been cut off in the middle of a stream that ends with the connection.
    if end != SessionEnd::Finished {
        client.reset_on_drop();
        backend.reset_on_drop();
    }
    end
}

/// The timer is armed once; when it fires it is moved to the idle time after the last movement.
fn poll_idle(
    mut idle: Pin<&mut Sleep>,
    cx: &mut Context<'_>,
    moved_at: &Cell<Instant>,
    idle_timeout: Duration,
) -> Poll<SessionEnd> {
    loop {
        ready!(idle.as_mut().poll(cx));
        let due = moved_at.get() + idle_timeout;
        if due <= now() {
            return Poll::Ready(SessionEnd::Idle);
        }
        idle.set_deadline(due);
    }
}

/// How a direction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// The source ended, and everything it sent was passed on, its end too.
    Ended,
    /// The sink takes nothing more; the other direction goes on.
    SinkFailed,
    /// The source was reset: the session is over.
    SourceFailed,
}

/// One direction of a session.
struct Direction<'a> {
    source: &'a TcpStream,
    sink: &'a TcpStream,
    moved_bytes: &'a Counter,
    /// The chunk that waits for the send before it.
    waiting: [Option<Chunk>; 2],
    phase: Phase,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Moving,
    /// The source has ended; the sink is to be told.
    Ending,
    Over(Progress),
}

impl<'a> Direction<'a> {
    const fn new(source: &'a TcpStream, sink: &'a TcpStream, moved_bytes: &'a Counter) -> Self {
        Self {
            source,
            sink,
            moved_bytes,
            waiting: [None, None],
            phase: Phase::Moving,
        }
    }

    fn poll(&mut self, cx: &Context<'_>, moved_at: &Cell<Instant>) -> Poll<Progress> {
        loop {
            self.phase = match self.phase {
                Phase::Moving => ready!(self.poll_move(cx, moved_at)),
                Phase::Ending => match ready!(self.sink.poll_shutdown(cx)) {
                    Ok(()) => Phase::Over(Progress::Ended),
                    Err(_) => Phase::Over(Progress::SinkFailed),
                },
                Phase::Over(progress) => return Poll::Ready(progress),
            };
        }
    }

    /// One chunk from the source to the sink.
    fn poll_move(&mut self, cx: &Context<'_>, moved_at: &Cell<Instant>) -> Poll<Phase> {
        if self.waiting[0].is_none() {
            match ready!(self.source.poll_recv(cx)) {
                Ok(chunk) if chunk.is_empty() => return Poll::Ready(Phase::Ending),
                Ok(chunk) => self.waiting[0] = Some(chunk),
                Err(_) => return Poll::Ready(Phase::Over(Progress::SourceFailed)),
            }
        }
        let count = self.waiting[0].as_ref().map_or(0, |chunk| chunk.len());
        match ready!(self.sink.poll_send(cx, &mut self.waiting)) {
            Ok(()) => {
                self.moved_bytes.add(count as u64);
                moved_at.set(now());
                Poll::Ready(Phase::Moving)
            }
            Err(_) => {
                self.waiting = [None, None];
                Poll::Ready(Phase::Over(Progress::SinkFailed))
            }
        }
    }
}
