//! What a TCP listener does with its sessions: its part of the plan, compiled.
//!
//! Invariant: every cluster that a session may go to is there.
//! Read next: `../client_hello/mod.rs`, `../proxy_protocol/mod.rs`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lb_core::balance::Cluster;
use lb_core::lines::Lines;
use lb_core::metrics::{Refusal, SessionEnd};
use lb_core::plan::{self, BackendSocket, Otherwise, ProxyOut, ProxyVersion, Source};
use lb_core::rt::{Chunk, TcpStream, is_unix, now};

use super::Failure;
use crate::client::Client;
use crate::client_hello::{self, ClientHello, NameRoutes, ReceiveError};
use crate::limits::queue::Queue;
use crate::log::{self, Ended, Record, SessionLog};
use crate::proxy_protocol::{Addresses, Origin, Tlv, Transport, write_v1, write_v2};

/// What a TCP listener does with its connections; part of a snapshot.
#[derive(Debug)]
pub struct TcpService {
    pub(super) relay: super::relay::Settings,
    pub(super) lifetime: Option<Duration>,
    pub(super) socket: BackendSocket,
    pub(super) limit: Option<BackendLimit>,
    proxy_out: Option<ProxyOut>,
    log: Option<SessionLog>,
    destination: Destination,
}

/// How many sessions a backend gets, and how many wait for that.
#[derive(Debug)]
pub(super) struct BackendLimit {
    pub(super) connections: u32,
    pub(super) queue_max: usize,
    pub(super) queue_timeout: Duration,
    /// Passes from one snapshot to the next, and with it who came first.
    pub(super) queue: Arc<Queue>,
}

impl BackendLimit {
    const fn build(plan: plan::BackendLimit, queue: Arc<Queue>) -> Self {
        Self {
            connections: plan.connections_max,
            queue_max: plan.queue_max as usize,
            queue_timeout: plan.queue_timeout,
            queue,
        }
    }
}

/// Where sessions go.
#[derive(Debug)]
enum Destination {
    /// All to one cluster.
    Cluster(Arc<Cluster>),
    /// By their ClientHello.
    Names(Names),
}

#[derive(Debug)]
struct Names {
    routes: NameRoutes<usize>,
    clusters: Vec<Arc<Cluster>>,
    hello_timeout: Duration,
    otherwise: Otherwise,
}

/// Where one session goes.
pub(super) struct Route<'s> {
    pub(super) cluster: &'s Cluster,
    /// What it asked for, if that was looked at.
    pub(super) hello: Option<ClientHello>,
}

impl<'s> Route<'s> {
    pub(super) const fn to(cluster: &'s Cluster) -> Self {
        Self {
            cluster,
            hello: None,
        }
    }
}

impl TcpService {
    /// Builds the service of a valid plan's listener; `cluster_by_name` finds the clusters that
    /// it names. `None` if one of them is missing, which a validated plan does not cause.
    ///
    /// With `previous`, it goes on where that is: those who wait in its queue keep their places.
    #[must_use]
    pub fn build(
        plan: &plan::Tcp,
        cluster_by_name: &dyn Fn(&str) -> Option<Arc<Cluster>>,
        previous: Option<&Self>,
    ) -> Option<Self> {
        let queue = previous.and_then(|previous| previous.limit.as_ref());
        let queue = queue
            .map(|limit| Arc::clone(&limit.queue))
            .unwrap_or_default();
        let destination = match &plan.server_names {
            Some(names) => Destination::Names(Names::build(plan, names, cluster_by_name)?),
            None => Destination::Cluster(cluster_by_name(plan.cluster.as_deref()?)?),
        };
        Some(Self {
            relay: super::relay::Settings {
                idle_timeout: plan.idle_timeout,
                relay: plan.relay,
                fickle: false,
            },
            lifetime: plan.lifetime,
            socket: plan.backend_socket.clone(),
            limit: plan
                .backend_limit
                .map(|limit| BackendLimit::build(limit, queue)),
            proxy_out: plan.proxy_out,
            log: None,
            destination,
        })
    }

    /// Writes a line to `log` for each session.
    #[must_use]
    pub fn logged(self, log: Option<SessionLog>) -> Self {
        Self { log, ..self }
    }

    pub(super) const fn log(&self) -> Option<&SessionLog> {
        self.log.as_ref()
    }

    /// Logs a connection from `peer` that the listener's gate did not admit.
    pub fn log_refused(&self, peer: SocketAddr, why: Refusal, lines: &Lines) {
        if let Some(log) = &self.log {
            let record = Record::begin(log::Transport::Tcp, peer, None);
            record.refused(why);
            record.finish(log, lines, Ended::of(SessionEnd::Refused));
        }
    }

    /// For tests: `auto` changes between copying and splicing every few hundred bytes.
    #[must_use]
    pub const fn fickle(mut self) -> Self {
        self.relay.fickle = true;
        self
    }

    /// A backend may have room again.
    pub(super) fn call_waiting(&self) {
        if let Some(limit) = &self.limit {
            limit.queue.call();
        }
    }

    /// Where all sessions go, if they all go to one cluster.
    pub(super) const fn cluster(&self) -> Option<&Arc<Cluster>> {
        match &self.destination {
            Destination::Cluster(cluster) => Some(cluster),
            Destination::Names(_) => None,
        }
    }

    /// Where a connection for `client` comes from that goes to `backend`, if that was said: only
    /// within a family.
    pub(super) fn source(&self, client: &Client, backend: SocketAddr) -> Option<SocketAddr> {
        let source = match self.socket.source {
            Source::Address(address) => address,
            Source::Any => return None,
            Source::Client => client.address.ip(),
        };
        let is_same = source.is_ipv4() == backend.is_ipv4() && !is_unix(backend.ip());
        is_same.then(|| SocketAddr::new(source, 0))
    }

    /// Where the session goes; waits for a ClientHello where that decides.
    pub(super) async fn route(&self, stream: &TcpStream) -> Result<Route<'_>, Failure> {
        let names = match &self.destination {
            Destination::Cluster(cluster) => return Ok(Route::to(cluster)),
            Destination::Names(names) => names,
        };
        let hello = client_hello::receive(stream, now() + names.hello_timeout)
            .await
            .map_err(|error| match error {
                ReceiveError::Closed => Failure::Ended(SessionEnd::Abandoned),
                ReceiveError::Invalid(_) => Failure::Refused(Refusal::Hello),
                ReceiveError::Timeout => Failure::Refused(Refusal::HelloTimeout),
            })?;
        let index = names
            .routes
            .find(&hello)
            .map_err(|why| match names.otherwise {
                Otherwise::Alert => Failure::Unrouted(why),
                Otherwise::Reset => Failure::Refused(Refusal::NoRoute),
            })?;
        Ok(Route {
            cluster: &names.clusters[index],
            hello: Some(hello),
        })
    }

    /// True if backends get a header first.
    pub(super) const fn tells_client(&self) -> bool {
        self.proxy_out.is_some()
    }

    /// What a backend is told about `client` before anything else, if it is to be told.
    pub(super) fn proxy_header(
        &self,
        stream: &TcpStream,
        client: &Client,
        hello: Option<&ClientHello>,
    ) -> Option<Chunk> {
        let proxy = self.proxy_out?;
        let destination = client.local().or_else(|| stream.local_addr().ok());
        let origin = destination.map_or(Origin::Unknown, |destination| {
            Origin::Proxied(Addresses {
                source: client.address,
                destination,
                transport: Transport::Stream,
            })
        });
        let mut header = Vec::new();
        match proxy.version {
            ProxyVersion::V1 => write_v1(origin, &mut header),
            ProxyVersion::V2 => {
                let tlvs = passed_on(client, hello);
                write_v2(origin, &tlvs, proxy.checksum, &mut header);
            }
        }
        Some(Chunk::from_vec(header))
    }
}

/// What concerns the client itself: as a proxy before us told, or as its ClientHello does.
fn passed_on<'a>(client: &'a Client, hello: Option<&'a ClientHello>) -> Vec<Tlv<'a>> {
    let of_client = |tlv: &Tlv<'_>| {
        use Tlv::{Alpn, Authority, Ssl, UniqueId};
        matches!(tlv, Alpn(_) | Authority(_) | Ssl(_) | UniqueId(_))
    };
    let mut tlvs: Vec<_> = client.tlvs().filter(of_client).collect();
    let told = tlvs.iter().any(|tlv| matches!(tlv, Tlv::Authority(_)));
    let name = hello.and_then(|hello| hello.server_name.as_deref());
    tlvs.extend(name.filter(|_| !told).map(Tlv::Authority));
    tlvs
}

impl Names {
    fn build(
        plan: &plan::Tcp,
        names: &plan::ServerNames,
        cluster_by_name: &dyn Fn(&str) -> Option<Arc<Cluster>>,
    ) -> Option<Self> {
        let mut clusters = Vec::new();
        if let Some(default) = &plan.cluster {
            clusters.push(cluster_by_name(default)?);
        }
        let mut routes = NameRoutes::new(plan.cluster.as_ref().map(|_| 0));
        for route in &names.routes {
            routes.add(&route.name, &route.protocols, clusters.len());
            clusters.push(cluster_by_name(&route.cluster)?);
        }
        Some(Self {
            routes,
            clusters,
            hello_timeout: names.hello_timeout,
            otherwise: names.otherwise,
        })
    }
}
