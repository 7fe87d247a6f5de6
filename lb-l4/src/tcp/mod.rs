//! A TCP session: find out who the client is and what it wants, choose a backend, connect, relay
//! both ways, count how it ended.
//!
//! Invariant: the client sees what it would see of the backend itself: bytes in order, a half-close
//! as a half-close, a reset as a reset; a session without a backend is reset.
//! Read next: `service.rs` (what is said about sessions), `connect.rs`, then `relay.rs`,
//! `direction.rs`, `pace.rs`.

mod connect;
mod direction;
mod pace;
mod relay;
mod service;

use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use lb_core::balance::Lease;
use lb_core::connections::Registration;
use lb_core::metrics::{Refusal, SessionEnd};
use lb_core::rt::{TcpStream, timeout};
use lb_core::snapshot::Held;
use lb_core::worker::Worker;

use connect::Search;
use relay::Relay;
use service::Route;
pub use service::TcpService;

use crate::client::Client;
use crate::client_hello::{self, Unrouted};
use crate::limits::{Gate, Permit};

/// Runs one session from the accepted connection to its end.
pub fn serve(
    stream: TcpStream,
    service: Held<TcpService>,
    worker: Rc<Worker>,
    registration: Registration,
) -> impl Future<Output = ()> {
    // A client that is gone already has no address.
    let client = stream.peer_addr().map(Client::peer).ok();
    async move {
        match client {
            Some(client) => session(&stream, &client, &service, &worker, &registration).await,
            None => registration.listener().session_ended(SessionEnd::Abandoned),
        }
    }
}

/// As [`serve`], of a connection from `peer` that `gate` has admitted.
pub async fn serve_admitted(
    stream: TcpStream,
    peer: SocketAddr,
    gate: Arc<Gate>,
    mut permit: Permit,
    service: Held<TcpService>,
    worker: Rc<Worker>,
    registration: Registration,
) {
    registration.set_idle(true); // nothing is lost when we drain
    let identified = gate.identify(&stream, Client::peer(peer), &mut permit);
    let client = Box::pin(identified).await;
    registration.set_idle(false);
    match client {
        Ok(client) => session(&stream, &client, &service, &worker, &registration).await,
        Err(refusal) => {
            stream.reset_on_drop();
            registration.listener().refused(refusal);
            registration.listener().session_ended(SessionEnd::Refused);
        }
    }
}

/// Why there is no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// Counted as a refusal, too, and reset.
    Refused(Refusal),
    /// Reset.
    Ended(SessionEnd),
    /// Told so by an alert.
    Unrouted(Unrouted),
}

/// What is rare in it, or over soon, is boxed: an idle session has no room for that.
async fn session(
    stream: &TcpStream,
    client: &Client,
    service: &TcpService,
    worker: &Worker,
    registration: &Registration,
) {
    let counters = registration.listener();
    let established = Box::pin(establish(stream, client, service, worker, registration));
    match established.await {
        Ok((lease, backend)) => {
            registration.set_backend(lease.backend().id());
            let own = lease.backend().counters(worker.index);
            let _active = own.connections_active.hold();
            let end = match service.lifetime {
                None => Relay::new(stream, &backend, &service.relay, counters).await,
                Some(lifetime) => {
                    let relayed = Relay::new(stream, &backend, &service.relay, counters);
                    let relayed = Box::pin(timeout(lifetime, relayed));
                    relayed.await.unwrap_or_else(|_| {
                        stream.reset_on_drop();
                        backend.reset_on_drop();
                        SessionEnd::Expired
                    })
                }
            };
            counters.session_ended(end);
            drop(lease);
            service.call_waiting();
        }
        Err(Failure::Ended(end)) => {
            stream.reset_on_drop();
            counters.session_ended(end);
        }
        Err(Failure::Refused(refusal)) => {
            stream.reset_on_drop();
            counters.refused(refusal);
            counters.session_ended(SessionEnd::Refused);
        }
        Err(Failure::Unrouted(why)) => {
            counters.refused(Refusal::NoRoute);
            counters.session_ended(SessionEnd::Refused);
            Box::pin(client_hello::refuse(stream, why)).await;
        }
    }
}

/// A connection to a backend that knows who the client is, if it is to.
async fn establish<'s>(
    stream: &'s TcpStream,
    client: &'s Client,
    service: &'s TcpService,
    worker: &'s Worker,
    registration: &Registration,
) -> Result<(Lease<'s>, TcpStream), Failure> {
    let route = match service.cluster() {
        Some(cluster) => Route::to(cluster),
        None => {
            registration.set_idle(true); // nothing is lost when we drain
            let route = Box::pin(service.route(stream)).await?;
            registration.set_idle(false);
            route
        }
    };
    let search = Search {
        stream,
        client,
        service,
        cluster: route.cluster,
        worker,
    };
    let (lease, backend) = search.any().await?;
    if let Some(header) = service.proxy_header(stream, client, route.hello.as_ref()) {
        let sent = backend.send(header).await;
        sent.map_err(|_| Failure::Ended(SessionEnd::Reset))?;
    }
    Ok((lease, backend))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_core::balance::{Cluster, Context};
    use lb_core::plan;
    use lb_core::rt::{Config, ListenOptions, Runtime, TcpListener};

    /// What an idle session holds besides its two sockets; they are about 200 bytes each.
    #[test]
    fn a_sessions_task_is_small() {
        let mut runtime = Runtime::new(&Config::default()).expect("a runtime");
        let size = runtime.block_on(async {
            let any = "127.0.0.1:0".parse().expect("an address");
            let listener = TcpListener::bind(any, &ListenOptions::default()).expect("bind");
            let address = listener.local_addr().expect("an address");
            let client = TcpStream::connect(address).await.expect("connect");
            let plan = plan::Tcp::to("c");
            let cluster = plan::Cluster::new("c", Vec::new());
            let cluster = Arc::new(Cluster::build(&cluster, &Context::new(0, 1), None));
            let service = TcpService::build(&plan, &|_| Some(Arc::clone(&cluster)));
            let service = Held::new(Arc::new(service.expect("the cluster is there")));
            let worker = Rc::new(Worker::new(0, Arc::default()));
            let (sender, size) = std::sync::mpsc::channel();
            worker.connections.spawn(Arc::default(), |registration| {
                let future = serve(client, service, Rc::clone(&worker), registration);
                sender
                    .send(size_of_val(&future))
                    .expect("the receiver is there");
                future
            });
            size.recv().expect("a size")
        });
        assert!(size <= 576, "{size} bytes");
    }
}
