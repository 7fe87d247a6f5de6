//! From a cluster to an established connection: pick, connect with a deadline, next on failure.
//!
//! Invariant: no backend is tried twice, none after `tries_max`, and a client that leaves ends the
//! search. Each backend's outcome is counted.
//! Read next: `relay.rs`.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;

use lb_core::balance::{Backend, Cluster, Tried};
use lb_core::metrics::SessionEnd;
use lb_core::rt::{Either, TcpStream, now, select, timeout};
use lb_core::worker::Worker;

/// A connection to one of the cluster's backends for `client`, which is at `address`.
///
/// # Errors
/// `Unavailable` when none could be connected to, `Abandoned` when the client was reset meanwhile.
pub(super) async fn any<'a>(
    client: &TcpStream,
    address: IpAddr,
    cluster: &'a Cluster,
    worker: &Worker,
) -> Result<(&'a Arc<Backend>, TcpStream), SessionEnd> {
    let counters = cluster.counters().of(worker.index);
    let mut tried = Tried::default();
    while tried.len() < cluster.tries_max {
        let Some(backend) = cluster.pick(worker.index, address, &tried) else {
            break;
        };
        if !tried.is_empty() {
            counters.retries.increment();
        }
        tried.insert(backend.index);
        let begun = now();
        let attempt = pin!(timeout(
            cluster.connect_timeout,
            TcpStream::connect(backend.address)
        ));
        let left = poll_fn(|cx| client.poll_broken(cx));
        let own = backend.counters(worker.index);
        match select(attempt, left).await {
            Either::First(Ok(Ok(stream))) => {
                own.connections.increment();
                counters
                    .connect_time
                    .observe(now().saturating_duration_since(begun));
                return Ok((backend, stream));
            }
            Either::First(_) => own.connect_failures.increment(),
            Either::Second(_) => return Err(SessionEnd::Abandoned),
        }
    }
    counters.unavailable.increment();
    Err(SessionEnd::Unavailable)
}
