//! Bytes both ways between two connections, until both directions have ended.
//!
//! Invariant: what one side sent reaches the other complete and in order, then its end. Nothing is
//! allocated and no timer touched for a chunk.
//! Read next: `direction.rs`.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use lb_core::metrics::{ListenerCounters, SessionEnd};
use lb_core::plan::Relay;
use lb_core::rt::{Instant, Sleep, TcpStream, now, sleep};

use super::direction::{Direction, Progress};
use super::pace::Pace;

/// How a session is relayed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    /// A session that moves nothing for so long is over.
    pub(super) idle_timeout: Duration,
    /// How bytes are moved.
    pub(super) relay: Relay,
    /// For tests: change between the ways as often as can be.
    pub(super) fickle: bool,
}

/// Relays until both directions have ended, one side fails, or nothing moves for the idle timeout.
pub(super) async fn relay(
    client: &TcpStream,
    backend: &TcpStream,
    settings: Settings,
    counters: &ListenerCounters,
) -> SessionEnd {
    let idle_timeout = settings.idle_timeout;
    let end = {
        let pace = Pace::new(settings.relay, settings.fickle);
        let moved_at = Cell::new(now());
        let mut request = Direction::new(pace);
        let mut response = Direction::new(pace);
        let mut idle = pin!(sleep(idle_timeout));
        poll_fn(|cx| {
            // The response first: what it frees may let the client send more.
            let response = response.poll(cx, backend, client, |bytes| {
                counters.sent_bytes.add(bytes as u64);
                moved_at.set(now());
            });
            let request = request.poll(cx, client, backend, |bytes| {
                counters.received_bytes.add(bytes as u64);
                moved_at.set(now());
            });
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
