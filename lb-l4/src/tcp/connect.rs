//! From a cluster to an established connection: pick, connect with a deadline, next on failure.
//!
//! Invariant: no backend is tried twice, none after `tries_max`, none that is full, and a client
//! that leaves ends the search. Each backend's outcome is counted.
//! Read next: `../limits/queue.rs` (where sessions wait for room), `relay.rs`.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use lb_core::balance::{Choice, Cluster, Fault, Lease, Tried};
use lb_core::metrics::{Refusal, SessionEnd};
use lb_core::plan::TRIES_LIMIT;
use lb_core::rt::{Either, Instant, TcpStream, is_own_shortage, now, select, sleep, timeout};

use super::Failure;
use super::entry::Entry;
use super::service::BackendLimit;
use crate::client::Client;

/// How often the first in a queue looks for room without being called: room may come from
/// elsewhere, by a backend that is back, another listener, or sessions of an earlier snapshot.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How often a session that there is no descriptor for tries again: more often than accepting is
/// tried again, so that those who are in come before those who are not.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(50);

/// One session's search.
#[derive(Clone, Copy)]
pub(super) struct Search<'s, 'a> {
    pub(super) stream: &'s TcpStream,
    pub(super) client: &'s Client,
    pub(super) cluster: &'a Cluster,
    pub(super) entry: &'s Entry,
}

impl<'a> Search<'_, 'a> {
    /// A connection to one of the cluster's backends.
    ///
    /// # Errors
    /// When none could be connected to, or had room, or the client was reset meanwhile, or there was
    /// nothing to make a socket of for as long as a connect may take.
    pub(super) async fn any(self) -> Result<(Lease<'a>, TcpStream), Failure> {
        let counters = self.cluster.counters().of(self.entry.worker.index);
        let mut tried = Tried::default();
        let mut short_since = None;
        while tried.len() < self.cluster.tries_max {
            let Some(lease) = self.lease(&tried).await? else {
                break;
            };
            let backend = lease.backend();
            if !tried.is_empty() {
                counters.retries.increment();
                if let Some(record) = self.entry.record() {
                    record.retried();
                }
            }
            let begun = now();
            let source = self.entry.service.source(self.client, backend.address);
            let attempt =
                TcpStream::connect_with(source, &self.entry.service.socket, backend.address);
            let attempt = pin!(timeout(self.cluster.connect_timeout, attempt));
            let left = poll_fn(|cx| self.stream.poll_broken(cx));
            let own = backend.counters(self.entry.worker.index);
            match select(attempt, left).await {
                Either::First(Ok(Ok(connected))) => {
                    own.connections.increment();
                    let latency = now().saturating_duration_since(begun);
                    counters.connect_time.observe(latency);
                    lease.answered(latency);
                    if let Some(record) = self.entry.record() {
                        record.connected(backend, Some(latency));
                    }
                    self.greet(&connected);
                    return Ok((lease, connected));
                }
                Either::First(Ok(Err(error))) if is_own_shortage(&error) => {
                    drop(lease);
                    self.entry.service.call_waiting();
                    let since = *short_since.get_or_insert(begun);
                    Box::pin(self.wait_for_resources(since)).await?;
                }
                Either::First(_) => {
                    tried.insert(backend.index);
                    own.connect_failures.increment();
                    lease.failed(Fault::Connect);
                    drop(lease);
                    self.entry.service.call_waiting();
                }
                Either::Second(_) => return Err(Failure::Ended(SessionEnd::Abandoned)),
            }
        }
        counters.unavailable.increment();
        Err(Failure::Ended(SessionEnd::Unavailable))
    }

    /// It would be no better with another backend, but sessions that end give back what they held.
    async fn wait_for_resources(self, since: Instant) -> Result<(), Failure> {
        if now() >= since + self.cluster.connect_timeout {
            let counters = self.cluster.counters();
            counters.of(self.entry.worker.index).unavailable.increment();
            return Err(Failure::Ended(SessionEnd::Resources));
        }
        let left = poll_fn(|cx| self.stream.poll_broken(cx));
        match select(sleep(SHORTAGE_PAUSE), left).await {
            Either::First(()) => Ok(()),
            Either::Second(_) => Err(Failure::Ended(SessionEnd::Abandoned)),
        }
    }

    /// The last packet of the handshake goes with the first bytes, if there are some.
    fn greet(self, backend: &TcpStream) {
        if !self.stream.has_received() && !self.entry.service.tells_client() {
            backend.acknowledge();
        }
    }

    /// A backend that was not tried, and has room; waits for room if there is a queue.
    async fn lease(self, tried: &Tried) -> Result<Option<Lease<'a>>, Failure> {
        let Some(limit) = &self.entry.service.limit else {
            return Ok(self.pick(tried));
        };
        if limit.queue.is_empty() {
            match self.pick_with_room(limit, tried) {
                Picked::Lease(lease) => return Ok(Some(lease)),
                Picked::Nothing => return Ok(None),
                Picked::Full => {}
            }
        }
        Box::pin(self.wait_for_room(limit, tried)).await
    }

    async fn wait_for_room(
        self,
        limit: &BackendLimit,
        tried: &Tried,
    ) -> Result<Option<Lease<'a>>, Failure> {
        let place = limit.queue.join(limit.queue_max);
        let place = place.ok_or(Failure::Refused(Refusal::QueueFull))?;
        let mut over = pin!(sleep(limit.queue_timeout));
        let mut again = pin!(sleep(LOOK_AGAIN));
        poll_fn(|cx| {
            if self.stream.poll_broken(cx).is_ready() {
                return Poll::Ready(Err(Failure::Ended(SessionEnd::Abandoned)));
            }
            let mut looks = place.poll_called(cx).is_ready();
            while again.as_mut().poll(cx).is_ready() {
                looks |= place.is_first();
                again.set_deadline(now() + LOOK_AGAIN);
            }
            while looks {
                match self.pick_with_room(limit, tried) {
                    Picked::Lease(lease) => return Poll::Ready(Ok(Some(lease))),
                    Picked::Nothing => return Poll::Ready(Ok(None)),
                    Picked::Full => looks = place.poll_called(cx).is_ready(),
                }
            }
            let over = Pin::new(&mut over).poll(cx);
            over.map(|()| Err(Failure::Refused(Refusal::QueueTimeout)))
        })
        .await
    }

    /// Passes over backends that are full, as many as can be remembered.
    fn pick_with_room(self, limit: &BackendLimit, tried: &Tried) -> Picked<'a> {
        let mut passed = *tried;
        loop {
            let Some(lease) = self.pick(&passed) else {
                let none_is_full = passed.len() == tried.len();
                return if none_is_full {
                    Picked::Nothing
                } else {
                    Picked::Full
                };
            };
            // The lease is counted already, so that two workers cannot both be the last.
            if lease.backend().in_flight() <= limit.connections {
                return Picked::Lease(lease);
            }
            if passed.len() == TRIES_LIMIT {
                return Picked::Full;
            }
            passed.insert(lease.backend().index);
        }
    }

    /// Apart from the futures above, which would hold the choice for as long as they live.
    fn pick(self, tried: &Tried) -> Option<Lease<'a>> {
        let mut choice = Choice::new(self.entry.worker.index, now(), self.client.address, tried);
        if self.cluster.asks_local() {
            let local = self.client.local();
            choice.local = local.or_else(|| self.stream.local_addr().ok())?.ip();
        }
        self.cluster.pick(&choice)
    }
}

/// What came of looking for a backend with room.
enum Picked<'a> {
    /// All that could be used are full.
    Full,
    Lease(Lease<'a>),
    /// There is none that could be used.
    Nothing,
}
