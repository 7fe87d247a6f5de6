//! What becomes of a connection whose backend has switched protocols: bytes both ways, by the relay
//! of layer 4 where both ends are in the clear.
//!
//! Invariant: what one side sent reaches the other complete and in order, what came behind the heads
//! included. The backend is in flight as long as the connection lives, and the service that it began
//! with stays. Read next: `lb_l4::tcp`, `response.rs` (who may switch).

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use lb_core::metrics::{ListenerCounters, SessionEnd};
use lb_core::rt::{self, Chunk, Instant, Sleep};
use lb_core::snapshot::Held;

use crate::connection::Connection;
use crate::link::{BackendLink, ClientLink, Outgoing};
use crate::pool::BackendConnection;
use crate::route::ClusterIndex;
use crate::service::HttpService;
use crate::stream::Stream;

/// The backend's side of a connection that goes on in another protocol.
#[derive(Debug)]
pub(crate) struct Switched {
    pub(crate) backend: BackendConnection,
    /// Of the backend in `cluster`: the connection may be older than the cluster, and its backend have
    /// been at another place then.
    pub(crate) place: u16,
    pub(crate) service: Held<HttpService>,
    pub(crate) cluster: ClusterIndex,
}

/// A connection that goes on in another protocol.
#[derive(Debug)]
pub(crate) struct Upgrade {
    pub(crate) connection: Connection,
    pub(crate) switched: Switched,
}

impl Upgrade {
    /// Relays until either side is done.
    pub(crate) async fn run(self) {
        let Self {
            connection,
            switched,
        } = self;
        let Switched {
            backend,
            place,
            service,
            cluster,
        } = &switched;
        let worker = connection.http.worker.index;
        let cluster = &service.served(*cluster).cluster;
        let lease = cluster.hold(*place, worker);
        if !connection.client.is_http2() {
            // Else it would end with the backend, and other streams with it.
            connection.registration.set_backend(lease.backend().id());
        }
        let counters = connection.registration.listener();
        counters.upgrades.increment();
        let _active = counters.upgrades_active.hold();
        let idle = service.exchanges.upgrade_idle;
        match (&connection.client, &backend.link) {
            (
                ClientLink::Http1(Stream::Plain(client)),
                BackendLink::Http1(Stream::Plain(backend)),
            ) => drop(lb_l4::tcp::relay(client, backend, idle, counters).await),
            (client, backend) => drop(Relay::new(client, backend, idle, counters).run().await),
        }
    }
}

/// Bytes both ways between links of any kind.
struct Relay<'a> {
    client: &'a ClientLink,
    backend: &'a BackendLink,
    counters: &'a ListenerCounters,
    idle_timeout: Duration,
    moved_at: Instant,
    idle: Sleep,
}

/// One direction.
#[derive(Default)]
struct Direction {
    held: Outgoing,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    #[default]
    Moving,
    /// The source has ended; the sink is to be told.
    Ending,
    Ended,
}

impl Direction {
    /// Moves what can be moved: how many bytes, before it waits or is over.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut receive: impl FnMut(&mut Context<'_>) -> Poll<io::Result<Chunk>>,
        mut send: impl FnMut(&mut Context<'_>, &mut Outgoing) -> Poll<io::Result<()>>,
        mut shut: impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>>,
    ) -> Poll<io::Result<usize>> {
        if !self.held.is_empty() {
            let bytes = self.held.len();
            ready!(send(cx, &mut self.held))?;
            self.held = Outgoing::default();
            return Poll::Ready(Ok(bytes));
        }
        match self.phase {
            Phase::Moving => {
                let chunk = ready!(receive(cx))?;
                if chunk.is_empty() {
                    self.phase = Phase::Ending;
                    self.held.ends = true;
                } else {
                    self.held.parts[0] = Some(chunk);
                }
                Poll::Ready(Ok(0))
            }
            Phase::Ending => {
                ready!(shut(cx))?;
                self.phase = Phase::Ended;
                Poll::Ready(Ok(0))
            }
            Phase::Ended => Poll::Pending,
        }
    }
}

impl<'a> Relay<'a> {
    /// Steps of one poll, so that a flood leaves the thread to other tasks.
    const STEPS_PER_POLL: u32 = 32;

    fn new(
        client: &'a ClientLink,
        backend: &'a BackendLink,
        idle_timeout: Duration,
        counters: &'a ListenerCounters,
    ) -> Self {
        Self {
            client,
            backend,
            counters,
            idle_timeout,
            moved_at: rt::now(),
            idle: rt::sleep(idle_timeout),
        }
    }

    async fn run(mut self) -> SessionEnd {
        let (mut request, mut response) = (Direction::default(), Direction::default());
        let end = poll_fn(|cx| self.poll(cx, &mut request, &mut response)).await;
        if end != SessionEnd::Finished {
            self.client.reset_on_drop();
            self.backend.reset_on_drop();
        }
        end
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        request: &mut Direction,
        response: &mut Direction,
    ) -> Poll<SessionEnd> {
        let (client, backend) = (self.client, self.backend);
        for _ in 0..Self::STEPS_PER_POLL {
            let sent = response.poll(
                cx,
                |cx| backend.poll_recv(cx),
                |cx, it| client.poll_send(cx, it),
                |cx| client.poll_shutdown(cx),
            );
            let received = request.poll(
                cx,
                |cx| client.poll_recv(cx),
                |cx, it| backend.poll_send(cx, it),
                |cx| backend.poll_shutdown(cx),
            );
            let mut count = |moved: Poll<io::Result<usize>>| match moved {
                Poll::Ready(Ok(bytes)) => {
                    self.moved_at = rt::now();
                    Ok(Some(bytes as u64))
                }
                Poll::Ready(Err(error)) => Err(error),
                Poll::Pending => Ok(None),
            };
            let (Ok(sent), Ok(received)) = (count(sent), count(received)) else {
                return Poll::Ready(SessionEnd::Reset);
            };
            if request.phase == Phase::Ended && response.phase == Phase::Ended {
                return Poll::Ready(SessionEnd::Finished);
            }
            self.counters.sent_bytes.add(sent.unwrap_or(0));
            self.counters.received_bytes.add(received.unwrap_or(0));
            if sent.is_none() && received.is_none() {
                return self.poll_idle(cx);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<SessionEnd> {
        loop {
            ready!(pin!(&mut self.idle).poll(cx));
            let due = self.moved_at + self.idle_timeout;
            if due <= rt::now() {
                return Poll::Ready(SessionEnd::Idle);
            }
            self.idle.set_deadline(due);
        }
    }
}
