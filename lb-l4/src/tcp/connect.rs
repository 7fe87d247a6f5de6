//! From a cluster to an established connection: pick, connect with a deadline, next on failure.
//!
//! Invariant: no backend is tried twice, none after `tries_max`, and a client that leaves ends the
//! search. Each backend's outcome is counted.
//! Read next: `relay.rs`.

use std::future::poll_fn;
use std::pin::pin;

use lb_core::balance::{Choice, Cluster, Fault, Lease, Tried};
use lb_core::metrics::SessionEnd;
use lb_core::rt::{Either, TcpStream, now, select, timeout};
use lb_core::worker::Worker;

use super::TcpService;
use crate::client::Client;

/// A connection to one of the cluster's backends for `client`, whose own is `stream`.
///
/// # Errors
/// `Unavailable` when none could be connected to, `Abandoned` when the client was reset meanwhile.
pub(super) async fn any<'a>(
    stream: &TcpStream,
    client: &Client,
    service: &TcpService,
    cluster: &'a Cluster,
    worker: &Worker,
) -> Result<(Lease<'a>, TcpStream), SessionEnd> {
    let counters = cluster.counters().of(worker.index);
    let mut tried = Tried::default();
    while tried.len() < cluster.tries_max {
        let Some(lease) = pick(stream, client, cluster, worker, &tried) else {
            break;
        };
        let backend = lease.backend();
        if !tried.is_empty() {
            counters.retries.increment();
        }
        tried.insert(backend.index);
        let begun = now();
        let source = service.source(client, backend.address);
        let attempt = TcpStream::connect_with(source, &service.socket, backend.address);
        let attempt = pin!(timeout(cluster.connect_timeout, attempt));
        let left = poll_fn(|cx| stream.poll_broken(cx));
        let own = backend.counters(worker.index);
        match select(attempt, left).await {
            Either::First(Ok(Ok(connected))) => {
                own.connections.increment();
                let latency = now().saturating_duration_since(begun);
                counters.connect_time.observe(latency);
                lease.answered(latency);
                return Ok((lease, connected));
            }
            Either::First(_) => {
                own.connect_failures.increment();
                lease.failed(Fault::Connect);
            }
            Either::Second(_) => return Err(SessionEnd::Abandoned),
        }
    }
    counters.unavailable.increment();
    Err(SessionEnd::Unavailable)
}

/// Apart from the future above, which would hold the choice for as long as it lives.
fn pick<'a>(
    stream: &TcpStream,
    client: &Client,
    cluster: &'a Cluster,
    worker: &Worker,
    tried: &Tried,
) -> Option<Lease<'a>> {
    let mut choice = Choice::new(worker.index, now(), client.address, tried);
    if cluster.asks_local() {
        let local = client.local().or_else(|| stream.local_addr().ok());
        choice.local = local?.ip();
    }
    cluster.pick(&choice)
}
