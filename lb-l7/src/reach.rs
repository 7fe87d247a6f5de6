//! Finding a backend for an exchange: one after the other is chosen, connected to and asked, until
//! one answers.
//!
//! Invariant: at most `tries_max` backends are tried, each at most twice (a pooled connection that
//! turned out to be closed, then a new one), and every wait is bounded. A request is sent again
//! only where `exchange.rs` says that it may be. Read next: `exchange.rs`.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use lb_core::balance::{Backend, Choice, Cluster, Fault, Lease, Tried};
use lb_core::plan::BackendProtocol;
use lb_core::rt::{self, TcpStream};

use crate::exchange::{After, Exchange, Waiting};
use crate::failure::Failure;
use crate::http2::client::{Connecting, Turn, poll_connected};
use crate::link::BackendLink;
use crate::pool::BackendConnection;
use crate::stream::Stream;
use crate::worker::HttpWorker;

impl Exchange<'_> {
    /// Has the request answered by a backend of its cluster.
    pub(crate) async fn proxy(&mut self) -> Result<(), Failure> {
        let service = self.service.clone();
        let cluster = &service.served(self.request.cluster?).cluster;
        let mut tried = Tried::default();
        let mut failure = Failure::Unavailable;
        while let Some(lease) = self.next_backend(cluster, &tried) {
            tried.insert(lease.backend().index);
            match self.ask(cluster, &lease).await {
                Err(error) if self.may_try_again(error) => {
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

    /// Whether another backend may be asked after this failure.
    fn may_try_again(&self, failure: Failure) -> bool {
        match failure {
            Failure::BackendUnreachable => true,
            Failure::BackendClosed => self.may_send_again(),
            Failure::BackendRefused => self.has_request(),
            _ => false,
        }
    }

    /// The backend to try next, `None` when enough have been tried.
    fn next_backend<'a>(&self, cluster: &'a Cluster, tried: &Tried) -> Option<Lease<'a>> {
        if tried.len() >= cluster.tries_max {
            return None;
        }
        let lease = self.pick(cluster, tried)?;
        if !tried.is_empty() {
            self.count_retry(cluster);
        }
        Some(lease)
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
    async fn ask(&mut self, cluster: &Cluster, lease: &Lease<'_>) -> Result<(), Failure> {
        let pooled = self.pooled(cluster, lease);
        let mut is_pooled = pooled.is_some();
        let mut connection = match pooled {
            Some(connection) => connection,
            None => self.connect(cluster, lease).await?,
        };
        let after = loop {
            match self.exchange_with(&connection, lease, is_pooled).await {
                Err(failure) if self.is_stale(failure, is_pooled) => {
                    self.count_retry(cluster);
                    connection = self.connect(cluster, lease).await?;
                    is_pooled = false;
                }
                Err(failure) => {
                    self.report(lease, failure);
                    return Err(failure);
                }
                Ok(after) => break after,
            }
        };
        match after {
            After::Reuse if !connection.link.is_http2() => {
                let pool = &self.connection.http.pool;
                pool.put(connection, cluster, rt::now());
            }
            After::Switch => self.switched = Some(connection),
            After::Close | After::Reuse => {}
        }
        Ok(())
    }

    /// A connection that is there, or a stream of one.
    fn pooled(&self, cluster: &Cluster, lease: &Lease<'_>) -> Option<BackendConnection> {
        let (http, backend) = (&self.connection.http, lease.backend());
        match cluster.protocol {
            BackendProtocol::Http1 => http.pool.take(backend.id()),
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
    ) -> Result<Result<BackendConnection, Connecting<'h>>, Failure> {
        loop {
            let theirs = match http.backends.turn(lease.backend().id()) {
                Turn::Ours(connecting) => return Ok(Err(connecting)),
                Turn::Theirs(theirs) => theirs,
            };
            let mut poll = poll_connected(&theirs);
            self.wait(Waiting::Connect, None, |_, cx| poll(cx)).await?;
            if let Some(joined) = self.pooled(cluster, lease) {
                return Ok(Ok(joined));
            }
        }
    }

    /// Tells outlier detection what was the backend's fault.
    fn report(&self, lease: &Lease<'_>, failure: Failure) {
        if self.has_response() {
            return; // reported by its status
        }
        match failure {
            Failure::BackendClosed => lease.failed(Fault::Closed),
            Failure::BackendTimeout => lease.failed(Fault::Timeout),
            Failure::BackendHead(_) | Failure::BackendSwitched => lease.failed(Fault::Answer),
            _ => {}
        }
    }

    fn count_retry(&self, cluster: &Cluster) {
        let worker = self.connection.http.worker.index;
        cluster.counters().of(worker).retries.increment();
    }

    /// A new connection to the backend; `BackendUnreachable` if it does not accept one in time.
    async fn connect(
        &mut self,
        cluster: &Cluster,
        lease: &Lease<'_>,
    ) -> Result<BackendConnection, Failure> {
        let worker = self.connection.http.worker.index;
        let backend: &Arc<Backend> = lease.backend();
        let started = rt::now();
        let http = Rc::clone(&self.connection.http);
        let turn = match cluster.protocol {
            BackendProtocol::Http1 => None,
            BackendProtocol::Http2 => match self.join_http2(&http, cluster, lease).await? {
                Ok(joined) => return Ok(joined),
                Err(turn) => Some(turn),
            },
        };
        let mut connecting = pin!(TcpStream::connect(backend.address));
        let connected = self
            .wait(Waiting::Connect, None, |_, cx| connecting.as_mut().poll(cx))
            .await;
        match connected {
            Ok(Ok(stream)) => {
                let elapsed = rt::now().saturating_duration_since(started);
                cluster.counters().of(worker).connect_time.observe(elapsed);
                let stream = Stream::Plain(stream);
                let link = match turn {
                    None => BackendLink::Http1(stream),
                    Some(turn) => {
                        let mut begun = pin!(turn.begin(stream, cluster, backend, worker));
                        let begun = self
                            .wait(Waiting::Connect, None, |_, cx| begun.as_mut().poll(cx))
                            .await?;
                        let begun = begun.map_err(|_| Failure::BackendUnreachable)?;
                        BackendLink::Http2(Box::new(begun))
                    }
                };
                Ok(BackendConnection::new(link, Arc::clone(backend), worker))
            }
            // Another backend may have a connection in the pool.
            Ok(Err(error)) if rt::is_own_shortage(&error) => Err(Failure::BackendUnreachable),
            Ok(Err(_)) | Err(Failure::BackendTimeout) => {
                backend.counters(worker).connect_failures.increment();
                lease.failed(Fault::Connect);
                Err(Failure::BackendUnreachable)
            }
            Err(failure) => Err(failure),
        }
    }
}
