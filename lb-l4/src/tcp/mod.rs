//! A TCP session: find out who the client is and what it wants, choose a backend, connect, relay
//! both ways, count how it ended.
//!
//! Invariant: the client sees what it would see of the backend itself: bytes in order, a half-close
//! as a half-close, a reset as a reset; a session without a backend is reset.
//! Read next: `service.rs` (what is said about sessions), `connect.rs`, then `relay.rs`,
//! `direction.rs`, `pace.rs`.

mod connect;
mod direction;
mod entry;
mod pace;
mod relay;
mod service;

use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lb_core::balance::Lease;
use lb_core::connections::Registration;
use lb_core::metrics::{ListenerCounters, Refusal, SessionEnd};
use lb_core::plan;
use lb_core::rt::{TcpStream, timeout};
use lb_core::snapshot::Held;
use lb_core::worker::Worker;

use connect::Search;
use entry::Entry;
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
    let entry = Entry::new(service, worker, registration);
    async move {
        // A client that is gone already has no address.
        let Ok(peer) = stream.peer_addr() else {
            return entry.ends(SessionEnd::Abandoned);
        };
        entry.begins(peer, &stream);
        let established = establish(&stream, Client::peer(peer), &entry);
        let established = Box::pin(established).await;
        session(&stream, &established, &entry).await;
        leave(established, &entry.service);
    }
}

/// As [`serve`], of a connection from `peer` that `gate` has admitted.
pub fn serve_admitted(
    stream: TcpStream,
    peer: SocketAddr,
    gate: Arc<Gate>,
    mut permit: Permit,
    service: Held<TcpService>,
    worker: Rc<Worker>,
    registration: Registration,
) -> impl Future<Output = ()> {
    let entry = Entry::new(service, worker, registration);
    async move {
        entry.begins(peer, &stream);
        let established = Box::pin(async {
            entry.registration.set_idle(true); // nothing is lost when we drain
            let identified = gate
                .identify(&stream, Client::peer(peer), &mut permit)
                .await;
            entry.registration.set_idle(false);
            let client = identified.map_err(Failure::Refused)?;
            entry.identified(&client);
            establish(&stream, client, &entry).await
        });
        let established = established.await;
        session(&stream, &established, &entry).await;
        leave(established, &entry.service);
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

/// A backend with a connection to it, or why there is none.
type Established<'s> = Result<(Lease<'s>, TcpStream), Failure>;

/// The session from there on. What is rare in it, or over soon, is boxed, and the rest held by
/// reference: an idle session has no room for it.
#[expect(
    clippy::manual_async_fn,
    reason = "an async fn holds its arguments twice, and idle sessions are many"
)]
fn session<'s>(
    stream: &'s TcpStream,
    established: &'s Established<'s>,
    entry: &'s Entry,
) -> impl Future<Output = ()> + 's {
    async move {
        let end = match established {
            Ok((lease, backend)) => {
                entry.registration.set_backend(lease.backend().id());
                let own = lease.backend().counters(entry.worker.index);
                let _active = own.connections_active.hold();
                let (settings, counters) = (&entry.service.relay, entry.counters());
                let relay = Relay::new(stream, backend, settings, counters, entry.record());
                match entry.service.lifetime {
                    None => relay.await,
                    Some(lifetime) => {
                        let relayed = Box::pin(timeout(lifetime, relay)).await;
                        relayed.unwrap_or_else(|_| {
                            stream.reset_on_drop();
                            backend.reset_on_drop();
                            SessionEnd::Expired
                        })
                    }
                }
            }
            Err(failure) => Box::pin(refuse(stream, *failure, entry)).await,
        };
        entry.ends(end);
    }
}

/// Relays between a client and a backend that have agreed on what follows, until both directions
/// have ended, one side fails, or nothing moves for `idle_timeout`.
pub async fn relay(
    client: &TcpStream,
    backend: &TcpStream,
    idle_timeout: Duration,
    counters: &ListenerCounters,
) -> SessionEnd {
    let settings = relay::Settings {
        idle_timeout,
        relay: plan::Relay::Auto,
        fickle: false,
    };
    Relay::new(client, backend, &settings, counters, None).await
}

/// Gives a backend up, and calls those who wait for room in it.
fn leave(established: Established<'_>, service: &TcpService) {
    if established.is_ok() {
        drop(established);
        service.call_waiting();
    }
}

/// Tells a client that there is no session.
async fn refuse(stream: &TcpStream, failure: Failure, entry: &Entry) -> SessionEnd {
    match failure {
        Failure::Ended(end) => {
            stream.reset_on_drop();
            end
        }
        Failure::Refused(refusal) => {
            stream.reset_on_drop();
            entry.refused(refusal);
            SessionEnd::Refused
        }
        Failure::Unrouted(why) => {
            entry.refused(Refusal::NoRoute);
            client_hello::refuse(stream, why).await;
            SessionEnd::Refused
        }
    }
}

/// A connection to a backend that knows who the client is, if it is to.
async fn establish<'s>(stream: &TcpStream, client: Client, entry: &'s Entry) -> Established<'s> {
    let Entry {
        service,
        registration,
        ..
    } = entry;
    let route = match service.cluster() {
        Some(cluster) => Route::to(cluster),
        None => {
            registration.set_idle(true); // nothing is lost when we drain
            let route = Box::pin(service.route(stream)).await?;
            registration.set_idle(false);
            route
        }
    };
    if let Some(record) = entry.record() {
        record.routed(&route.cluster.name, route.hello.as_ref());
    }
    let search = Search {
        stream,
        client: &client,
        cluster: route.cluster,
        entry,
    };
    let (lease, backend) = search.any().await?;
    entry.started();
    if let Some(header) = service.proxy_header(stream, &client, route.hello.as_ref()) {
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

    /// What an idle session holds besides its two sockets; they are about 140 bytes each.
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
            let service = TcpService::build(&plan, &|_| Some(Arc::clone(&cluster)), None);
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
        assert!(size <= 320, "{size} bytes");
    }
}
