//! Finding a backend for an exchange: one after the other is chosen, connected to and asked, until
//! one answers.
//!
//! Invariant: at most `tries_max` backends are tried, each at most twice (a pooled connection that
//! turned out to be closed, then a new one), and every wait is bounded. A request is sent again
//! only where `exchange.rs` says that it may be. Read next: `exchange.rs`.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use lb_core::balance::{Backend, Choice, Cluster, Fault, Lease, Tried};
use lb_core::plan::{BackendProtocol, TRIES_LIMIT};
use lb_core::rt::{self, TcpStream};

use crate::exchange::{After, Exchange};
use crate::failure::Failure;
use crate::http2::client::{Connecting, Turn, poll_connected};
use crate::http2::websocket;
use crate::link::BackendLink;
use crate::pool::BackendConnection;
use crate::queue::Place;
use crate::stream::Stream;
use crate::tls::{self, HandshakeEnd, TlsClient};
use crate::waiting::Waiting;
use crate::worker::HttpWorker;

/// Streams of shared connections that may refuse a request before it gets a connection of its own.
const REFUSALS_MAX: u32 = 4;

/// Where a request may be sent next.
enum Room<'a> {
    In(Lease<'a>),
    /// All connections to these are busy.
    Full(Vec<Arc<Backend>>),
    /// There is no backend left to try.
    Nowhere,
}

impl Exchange<'_> {
    /// Has the request answered by a backend of its cluster.
    pub(crate) async fn proxy(&mut self) -> Result<(), Failure> {
        let service = self.service.clone();
        let cluster = &service.served(self.request.cluster?).cluster;
        let counters = cluster.counters().of(self.connection.http.worker.index);
        counters.exchanges.increment();
        let settings = &cluster.exchanges;
        let total = [settings.total_timeout, self.request.deadline];
        let total = total.into_iter().flatten().min();
        self.total_due = total.map(|it| rt::now() + it);
        let mut tried = Tried::default();
        let mut failure = Failure::Unavailable;
        loop {
            let lease = match self.next_backend(cluster, &tried) {
                Room::In(lease) => lease,
                Room::Full(full) => Box::pin(self.queue(cluster, &tried, full)).await?,
                Room::Nowhere => break,
            };
            if !tried.is_empty() {
                self.count_retry(cluster);
            }
            self.try_due = settings.try_timeout.map(|it| rt::now() + it);
            tried.insert(lease.backend().index);
            match self.ask(cluster, &lease).await {
                Err(error) if self.may_try_again(error, cluster, &tried) => {
                    // That a request was lost says more than that another backend is down.
                    if failure == Failure::Unavailable && error != Failure::BackendUnreachable {
                        failure = error;
                    }
                }
                result => return result,
            }
        }
        if failure == Failure::Unavailable {
            let worker = self.connection.http.worker.index;
            cluster.counters().of(worker).unavailable.increment();
        }
        Err(failure)
    }

    /// Whether another backend may be asked after this failure: the request may be sent again, and
    /// does not add to a load under which backends fail.
    fn may_try_again(&self, failure: Failure, cluster: &Cluster, tried: &Tried) -> bool {
        let most = usize::from(cluster.tries_max).min(cluster.backends().len());
        let is_safe = match failure {
            Failure::BackendUnreachable => return true, // nothing was sent
            Failure::BackendClosed | Failure::TryTimeout => self.may_send_again(),
            Failure::BackendRefused => self.has_request(),
            _ => false,
        };
        let is_left = usize::from(tried.len()) < most;
        is_safe && is_left && self.connection.http.may_retry(cluster)
    }

    /// The backend to try next, unless enough have been tried.
    fn next_backend<'a>(&self, cluster: &'a Cluster, tried: &Tried) -> Room<'a> {
        if tried.len() >= cluster.tries_max {
            return Room::Nowhere;
        }
        match self.pick(cluster, tried) {
            None => Room::Nowhere,
            Some(lease) if cluster.exchanges.connections_max.is_none() => Room::In(lease),
            Some(lease) => self.room(cluster, tried, lease, None),
        }
    }

    /// The backend of `lease` or the next one that has room for one more exchange. Who comes while
    /// others wait for a backend lets them go first.
    fn room<'a>(
        &self,
        cluster: &'a Cluster,
        tried: &Tried,
        lease: Lease<'a>,
        place: Option<&Place<'_>>,
    ) -> Room<'a> {
        let queue = &self.connection.http.queue;
        let mut passed = *tried;
        let mut full = Vec::new();
        let mut next = Some(lease);
        while let Some(lease) = next {
            let id = lease.backend().id();
            let is_next = place.map_or_else(|| !queue.is_wanted(id), |it| it.is_first(id));
            if is_next && self.has_room(cluster, &lease) {
                return Room::In(lease);
            }
            full.push(Arc::clone(lease.backend()));
            if passed.len() == TRIES_LIMIT {
                break;
            }
            passed.insert(lease.backend().index);
            next = self.pick(cluster, &passed);
        }
        Room::Full(full)
    }

    fn has_room(&self, cluster: &Cluster, lease: &Lease<'_>) -> bool {
        let http = &self.connection.http;
        http.room(cluster, lease.backend()) > 0 || http.pool.idle(lease.backend().id()) > 0
    }

    /// Waits until one of the backends that are `full` has room.
    async fn queue<'a>(
        &mut self,
        cluster: &'a Arc<Cluster>,
        tried: &Tried,
        full: Vec<Arc<Backend>>,
    ) -> Result<Lease<'a>, Failure> {
        let http = Rc::clone(&self.connection.http);
        let counters = cluster.counters().of(http.worker.index);
        if counters.queued.get() >= u64::from(cluster.exchanges.queue_max) {
            counters.queue_failed.increment();
            return Err(Failure::Busy);
        }
        counters.queue_entered.increment();
        let _queued = counters.queued.hold();
        let wish = http.wish(cluster, full); // dropped after the place
        let place = http.queue.join(wish.backends());
        let due = rt::now() + cluster.exchanges.queue_timeout;
        self.queue_due = Some(due);
        loop {
            wish.ask();
            // Room may come without a call, as when a backend is added, or healthy again.
            let waited = self
                .wait(Waiting::Queue, None, |_, cx| place.poll_called(cx))
                .await;
            if let Err(failure) = waited
                && failure != Failure::Busy
            {
                return Err(failure);
            }
            if let Some(lease) = self.pick(cluster, tried)
                && let Room::In(lease) = self.room(cluster, tried, lease, Some(&place))
            {
                return Ok(lease);
            }
            if rt::now() >= due {
                counters.queue_failed.increment();
                return Err(Failure::Busy);
            }
            place.rejoin();
        }
    }

    fn pick<'a>(&self, cluster: &'a Cluster, tried: &Tried) -> Option<Lease<'a>> {
        let connection = &*self.connection;
        let client = connection.peer.socket_address();
        let keys = &self.request.keys;
        let mut choice = Choice {
            hash: keys.hash,
            affinity: keys.affinity,
            cookie: keys.cookie.as_ref().map(<[u8; _]>::as_slice),
            ..Choice::new(connection.http.worker.index, rt::now(), client, tried)
        };
        if cluster.asks_local()
            && let Ok(local) = connection.client.local_addr()
        {
            choice.local = local.ip();
        }
        cluster.pick(&choice)
    }

    /// Asks one backend, by a pooled connection if there is one.
    async fn ask(&mut self, cluster: &Arc<Cluster>, lease: &Lease<'_>) -> Result<(), Failure> {
        let (mut connection, mut is_pooled) = match self.pooled(cluster, lease) {
            Some(connection) => (connection, true),
            None => self.connect(cluster, lease, true).await?,
        };
        let mut refusals = 0;
        let after = loop {
            connection.begin();
            match self.exchange_with(&connection, lease, is_pooled).await {
                Err(failure) if self.is_stale(failure, is_pooled) => {
                    self.count_retry(cluster);
                    drop(connection); // room for the next one
                    // It is known not to have been processed.
                    self.request.is_committed &= failure != Failure::BackendRefused;
                    refusals += 1;
                    let joins = refusals < REFUSALS_MAX;
                    (connection, is_pooled) = self.connect(cluster, lease, joins).await?;
                }
                Err(failure) => {
                    if failure == Failure::BackendNoWebSocket {
                        websocket::no_websocket(&cluster.name, &lease.backend().name);
                    }
                    if let Some(alert) = connection.link.tls_alert().filter(|_| !is_pooled) {
                        let worker = self.connection.http.worker.index;
                        let end = HandshakeEnd::Alerted(alert);
                        tls::backend_failed(cluster, lease.backend(), worker, end);
                    }
                    self.report(lease, failure);
                    return Err(failure);
                }
                Ok(after) => break after,
            }
        };
        match after {
            After::Reuse if !connection.link.is_http2() => {
                self.connection.http.keep(connection, cluster);
            }
            After::Switch => self.switched = Some((connection, lease.backend().index)),
            After::Close | After::Reuse => {}
        }
        Ok(())
    }

    /// A connection that is there, or a stream of one.
    fn pooled(&self, cluster: &Cluster, lease: &Lease<'_>) -> Option<BackendConnection> {
        let (http, backend) = (&self.connection.http, lease.backend());
        match cluster.protocol {
            BackendProtocol::Http1 => http.pool.take(backend.id(), cluster),
            BackendProtocol::Http2 => {
                let link = BackendLink::Http2(Box::new(http.backends.take(backend.id())?));
                let worker = http.worker.index;
                Some(BackendConnection::new(link, Arc::clone(backend), worker))
            }
        }
    }

    /// Whether the connection that was there took nothing any more, and another will.
    fn is_stale(&self, failure: Failure, is_pooled: bool) -> bool {
        let was_refused = failure == Failure::BackendRefused && is_pooled && self.has_request();
        failure == Failure::BackendStale || was_refused
    }

    /// A stream of the connection that somebody else opens, or the turn to open one.
    async fn join_http2<'h>(
        &mut self,
        http: &'h HttpWorker,
        cluster: &Cluster,
        lease: &Lease<'_>,
        joins: bool,
    ) -> Result<Result<BackendConnection, Connecting<'h>>, Failure> {
        loop {
            let theirs = match http.backends.turn(lease.backend().id()) {
                Turn::Ours(connecting) => return Ok(Err(connecting)),
                Turn::Theirs(theirs) => theirs,
            };
            let mut poll = poll_connected(&theirs);
            self.wait(Waiting::Connect, None, |_, cx| poll(cx)).await?;
            if joins && let Some(joined) = self.pooled(cluster, lease) {
                return Ok(Ok(joined));
            }
        }
    }

    /// Tells outlier detection what was the backend's fault.
    fn report(&self, lease: &Lease<'_>, failure: Failure) {
        if self.status >= 500 {
            return; // reported by its status
        }
        match failure {
            Failure::BackendBody(_) | Failure::BackendClosed => lease.failed(Fault::Closed),
            Failure::BackendTimeout | Failure::TryTimeout => lease.failed(Fault::Timeout),
            Failure::BackendHead(_) | Failure::BackendSwitched => lease.failed(Fault::Answer),
            _ => {}
        }
    }

    fn count_retry(&self, cluster: &Cluster) {
        let worker = self.connection.http.worker.index;
        cluster.counters().of(worker).retries.increment();
        if let Some(record) = &self.request.log {
            record.retries.set(record.retries.get() + 1);
        }
    }

    /// A new connection to the backend, or with `joins` a stream of one that another has opened
    /// meanwhile, and whether it is that; `BackendUnreachable` if it does not accept one in time.
    async fn connect(
        &mut self,
        cluster: &Cluster,
        lease: &Lease<'_>,
        joins: bool,
    ) -> Result<(BackendConnection, bool), Failure> {
        let worker = self.connection.http.worker.index;
        let backend: &Arc<Backend> = lease.backend();
        let _connecting = backend.counters(worker).connecting.hold();
        let started = rt::now();
        let http = Rc::clone(&self.connection.http);
        let turn = match cluster.protocol {
            BackendProtocol::Http1 => None,
            BackendProtocol::Http2 => match self.join_http2(&http, cluster, lease, joins).await? {
                Ok(joined) => return Ok((joined, true)),
                Err(turn) => Some(turn),
            },
        };
        let served = self.request.cluster.ok().map(|it| self.service.served(it));
        let client = served.and_then(|served| served.tls.clone());
        let is_handshaking = Cell::new(false);
        let mut connecting = pin!(connect(backend.address, client, &is_handshaking));
        let connected = self
            .wait(Waiting::Connect, None, |_, cx| connecting.as_mut().poll(cx))
            .await;
        match connected {
            Ok(Ok(stream)) => {
                let elapsed = rt::now().saturating_duration_since(started);
                cluster.counters().of(worker).connect_time.observe(elapsed);
                if let Some(record) = &mut self.request.log {
                    record.connect_time = Some(elapsed);
                }
                let link = match turn {
                    None => BackendLink::Http1(stream),
                    Some(turn) => self.begin_http2(turn, stream, cluster, lease).await?,
                };
                let connection = BackendConnection::new(link, Arc::clone(backend), worker);
                let connection = match cluster.exchanges.connections_max {
                    Some(_) => connection.of_few(&self.connection.http.queue),
                    None => connection,
                };
                Ok((connection, false))
            }
            // Another backend may have a connection in the pool.
            Ok(Err(error)) if rt::is_own_shortage(&error) => Err(Failure::BackendUnreachable),
            failed @ (Ok(Err(_)) | Err(Failure::BackendTimeout | Failure::TryTimeout)) => {
                if is_handshaking.get() {
                    let end = match &failed {
                        Ok(Err(error)) => HandshakeEnd::Failed(error),
                        _ => HandshakeEnd::Overdue,
                    };
                    tls::backend_failed(cluster, backend, worker, end);
                }
                Err(not_reached(lease, worker))
            }
            Err(failure) => Err(failure),
        }
    }

    /// A connection on which HTTP/2 has begun, and the stream of this exchange on it.
    async fn begin_http2(
        &mut self,
        turn: Connecting<'_>,
        stream: Stream,
        cluster: &Cluster,
        lease: &Lease<'_>,
    ) -> Result<BackendLink, Failure> {
        let worker = self.connection.http.worker.index;
        let backend: &Arc<Backend> = lease.backend();
        let mut begun = pin!(turn.begin(stream, cluster, backend, worker));
        let begun = self
            .wait(Waiting::Connect, None, |_, cx| begun.as_mut().poll(cx))
            .await;
        match begun {
            Ok(Ok(begun)) => Ok(BackendLink::Http2(Box::new(begun))),
            // It does not speak HTTP/2, or takes no streams.
            Ok(Err(error)) => {
                let end = match error.kind() {
                    io::ErrorKind::Unsupported => Some(HandshakeEnd::NoHttp2),
                    io::ErrorKind::InvalidData => Some(HandshakeEnd::Failed(&error)),
                    _ => None,
                };
                if let Some(end) = end {
                    tls::backend_failed(cluster, backend, worker, end);
                }
                Err(not_reached(lease, worker))
            }
            Err(Failure::BackendTimeout | Failure::TryTimeout) => Err(not_reached(lease, worker)),
            Err(failure) => Err(failure),
        }
    }
}

/// Counts that the backend of `lease` did not take a connection.
fn not_reached(lease: &Lease<'_>, worker: usize) -> Failure {
    let counters = lease.backend().counters(worker);
    counters.connect_failures.increment();
    lease.failed(Fault::Connect);
    Failure::BackendUnreachable
}

/// A new connection, with a handshake where there is to be one; `is_handshaking` says how far it is.
async fn connect(
    address: SocketAddr,
    tls: Option<TlsClient>,
    is_handshaking: &Cell<bool>,
) -> io::Result<Stream> {
    let stream = TcpStream::connect(address).await?;
    match tls {
        None => Ok(Stream::Plain(stream)),
        Some(tls) => {
            is_handshaking.set(true);
            let handshake = Box::pin(tls.connect(stream, address.ip())); // it is large, and rare
            handshake.await.map(Stream::Tls)
        }
    }
}
