//! The published form of a plan: what every worker reads, and what the admin API shows.
//!
//! Invariant: a snapshot is complete; whatever a listener refers to is in it, built. What was in
//! the snapshot before keeps its counters, health and identity.
//! Read next: `worker/mod.rs` (who runs it), `lb_core::snapshot` (how it gets there).

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use lb_core::balance::{Cluster, Context};
use lb_core::metrics::ListenerStats;
use lb_core::plan::{self, CookieKey, ListenSocket, Plan};
use lb_l4::TcpService;
use lb_l4::limits::Gate;
use lb_l7::HttpService;

/// What runs.
pub(crate) struct Snapshot {
    pub(crate) plan: Plan,
    pub(crate) listeners: Vec<Arc<Listener>>,
    pub(crate) clusters: Vec<Arc<Cluster>>,
}

/// A listener at work.
pub(crate) struct Listener {
    pub(crate) key: ListenerKey,
    /// Where it is bound: with the port that the kernel chose, if the plan says 0.
    pub(crate) bound: SocketAddr,
    pub(crate) stats: Arc<ListenerStats>,
    /// What connections must pass, if anything.
    pub(crate) gate: Option<Arc<Gate>>,
    pub(crate) service: Service,
}

/// What a listener does with connections.
#[derive(Clone)]
pub(crate) enum Service {
    Http(Arc<HttpService>),
    Tcp(Arc<TcpService>),
}

/// What makes a listener of the next plan the same as one that runs: it keeps its sockets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ListenerKey {
    address: SocketAddr,
    /// Tells listeners on port 0 apart; else a listener may change its name.
    name: Option<String>,
    /// Other settings need other sockets.
    socket: ListenSocket,
}

impl ListenerKey {
    pub(crate) fn of(listener: &plan::Listener) -> Self {
        let any_port = listener.address.port() == 0;
        Self {
            address: listener.address,
            name: any_port.then(|| listener.name.clone()),
            socket: listener.edge.socket.clone(),
        }
    }
}

impl Snapshot {
    /// Builds what a valid plan says. `bound` has the address of every listener of the plan.
    pub(crate) fn build(
        plan: Plan,
        workers: usize,
        bound: &HashMap<ListenerKey, SocketAddr>,
        previous: Option<&Self>,
    ) -> Result<Self, String> {
        let context = Context {
            seed: plan.hash_seed,
            workers,
            cookie_key: plan.cookie_key.clone().unwrap_or_else(process_key),
            now: lb_core::rt::now(),
        };
        let clusters: Vec<_> = plan
            .clusters
            .iter()
            .map(|cluster| {
                let previous = previous.and_then(|previous| previous.cluster(&cluster.name));
                let previous = previous.map(|previous| &**previous);
                Arc::new(Cluster::build(cluster, &context, previous))
            })
            .collect();
        let by_name = |name: &str| {
            clusters
                .iter()
                .find(|cluster| cluster.name == name)
                .cloned()
        };
        let mut listeners = Vec::with_capacity(plan.listeners.len());
        for listener in &plan.listeners {
            let key = ListenerKey::of(listener);
            let previous = previous.and_then(|previous| previous.listener(&listener.name));
            let stats = previous.map(|previous| &*previous.stats);
            let gate = previous.and_then(|previous| previous.gate.as_deref());
            listeners.push(Arc::new(Listener {
                bound: bound.get(&key).copied().unwrap_or(listener.address),
                key,
                stats: Arc::new(ListenerStats::build(listener, workers, stats)),
                gate: Gate::build(&listener.edge, gate).map(Arc::new),
                service: Service::build(&listener.protocol, &by_name)?,
            }));
        }
        Ok(Self {
            plan,
            listeners,
            clusters,
        })
    }

    fn cluster(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.clusters.iter().find(|cluster| cluster.name == name)
    }

    fn listener(&self, name: &str) -> Option<&Arc<Listener>> {
        self.listeners
            .iter()
            .find(|listener| listener.stats.name() == name)
    }
}

/// The key of affinity cookies when none is configured: as long-lived as the process.
fn process_key() -> CookieKey {
    static KEY: OnceLock<CookieKey> = OnceLock::new();
    let random = || {
        // Each has its own random keys, 128 bits from the kernel for the first of a thread.
        let half = || RandomState::new().build_hasher().finish().to_ne_bytes();
        let mut key = [0; 16];
        key[..8].copy_from_slice(&half());
        key[8..].copy_from_slice(&half());
        CookieKey(key)
    };
    KEY.get_or_init(random).clone()
}

impl Service {
    fn build(
        protocol: &plan::Protocol,
        cluster_by_name: &dyn Fn(&str) -> Option<Arc<Cluster>>,
    ) -> Result<Self, String> {
        match protocol {
            plan::Protocol::Http(http) => HttpService::build(http, cluster_by_name)
                .map(|service| Self::Http(Arc::new(service)))
                .map_err(|error| error.to_string()),
            plan::Protocol::Tcp(tcp) => TcpService::build(tcp, cluster_by_name)
                .map(|service| Self::Tcp(Arc::new(service)))
                .ok_or_else(|| "a cluster is missing".to_owned()),
        }
    }
}
