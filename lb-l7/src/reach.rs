//! Finding a backend for an exchange: an idle connection from the pool, or a new one, on the next
//! backend when one cannot be connected to.
//!
//! Invariant: the search ends after the cluster's `tries_max` attempts, each bounded in time, or
//! when the client goes. Read next: `exchange.rs` (what then happens).

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use lb_core::balance::{Backend, Choice, Cluster, Tried};
use lb_core::rt::{self, TcpStream};

use crate::exchange::{Exchange, Waiting};
use crate::failure::Failure;
use crate::pool::BackendConnection;

impl Exchange<'_> {
    /// A connection to a backend of `cluster`, and whether it was used before.
    pub(crate) async fn reach(
        &mut self,
        cluster: &Cluster,
    ) -> Result<(BackendConnection, bool), Failure> {
        let backend = self.pick(cluster, &Tried::default());
        if let Some(connection) = backend.and_then(|it| self.connection.http.pool.take(it.id())) {
            return Ok((connection, true));
        }
        Ok((self.connect_any(cluster, backend).await?, false))
    }

    /// A new connection to some backend of `cluster`.
    pub(crate) async fn reach_anew(
        &mut self,
        cluster: &Cluster,
    ) -> Result<BackendConnection, Failure> {
        let backend = self.pick(cluster, &Tried::default());
        self.connect_any(cluster, backend).await
    }

    /// Connects to `first`, or to others when that fails.
    async fn connect_any(
        &mut self,
        cluster: &Cluster,
        first: Option<&Arc<Backend>>,
    ) -> Result<BackendConnection, Failure> {
        let worker = self.connection.http.worker.index;
        let mut tried = Tried::default();
        let mut next = first;
        while let Some(backend) = next.filter(|_| tried.len() < cluster.tries_max) {
            if !tried.is_empty() {
                cluster.counters().of(worker).retries.increment();
            }
            if let Some(stream) = self.connect(cluster, backend).await? {
                return Ok(BackendConnection::new(stream, Arc::clone(backend), worker));
            }
            tried.insert(backend.index);
            next = self.pick(cluster, &tried);
        }
        cluster.counters().of(worker).unavailable.increment();
        Err(Failure::Unavailable)
    }

    fn pick<'a>(&self, cluster: &'a Cluster, tried: &Tried) -> Option<&'a Arc<Backend>> {
        let client = SocketAddr::new(self.connection.address, 0);
        let worker = self.connection.http.worker.index;
        let choice = Choice::new(worker, rt::now(), client, tried);
        cluster.pick(&choice).map(|lease| lease.backend())
    }

    /// A connection to `backend`, `None` if it does not accept one in time.
    async fn connect(
        &mut self,
        cluster: &Cluster,
        backend: &Backend,
    ) -> Result<Option<TcpStream>, Failure> {
        let worker = self.connection.http.worker.index;
        let started = rt::now();
        let mut connecting = pin!(TcpStream::connect(backend.address));
        let connected = self
            .wait(Waiting::Connect, None, |_, cx| connecting.as_mut().poll(cx))
            .await;
        match connected {
            Ok(Ok(stream)) => {
                let elapsed = rt::now().saturating_duration_since(started);
                cluster.counters().of(worker).connect_time.observe(elapsed);
                Ok(Some(stream))
            }
            Ok(Err(_)) | Err(Failure::BackendTimeout) => {
                backend.counters(worker).connect_failures.increment();
                Ok(None)
            }
            Err(failure) => Err(failure),
        }
    }
}
