//! The published form of a plan: what every worker reads, and what the admin API shows.
//!
//! Invariant: a snapshot is complete; whatever a listener refers to is in it, built. What was in
//! the snapshot before keeps its counters, health and identity.
//! Read next: `worker/mod.rs` (who runs it), `lb_core::snapshot` (how it gets there).

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use lb_core::balance::affinity::{AffinityTable, random_key};
use lb_core::balance::{Backend, BackendId, Cluster, Context};
use lb_core::metrics::ListenerStats;
use lb_core::plan::{self, AccessLog, CookieKey, ListenSocket, Plan};
use lb_l4::limits::Gate;
use lb_l4::{TcpService, UdpService};
use lb_l7::HttpService;

use crate::access_log::AccessLogs;
use crate::checker::{Checker, LastError};

/// What runs.
pub(crate) struct Snapshot {
    pub(crate) plan: Plan,
    /// Of listeners that have no say of their own.
    pub(crate) log: Option<AccessLog>,
    pub(crate) listeners: Vec<Arc<Listener>>,
    pub(crate) clusters: Vec<Arc<Cluster>>,
    /// How the backends of the clusters that have checks are checked, by the clusters' names.
    checkers: HashMap<String, Arc<Checker>>,
    last_errors: HashMap<BackendId, Arc<LastError>>,
}

/// What all snapshots of a process stand on.
pub(crate) struct Ground {
    pub(crate) workers: usize,
    /// What remembers clients.
    pub(crate) affinity: Arc<AffinityTable>,
    /// The key of affinity cookies when none is configured.
    cookie_key: CookieKey,
}

impl Ground {
    /// For that many workers, and affinity for that many clients.
    pub(crate) fn new(workers: usize, affinity_entries: usize) -> io::Result<Self> {
        Ok(Self {
            workers,
            affinity: Arc::new(AffinityTable::new(affinity_entries, random_key()?)),
            cookie_key: CookieKey(random_key()?),
        })
    }
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
    Udp(Arc<UdpService>),
}

/// What lies below a listener's protocol; the ports of one are not those of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    pub(crate) const fn of(protocol: &plan::Protocol) -> Self {
        match protocol {
            plan::Protocol::Http(_) | plan::Protocol::Tcp(_) => Self::Tcp,
            plan::Protocol::Udp(_) => Self::Udp,
        }
    }
}

/// What makes a listener of the next plan the same as one that runs: it keeps its sockets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ListenerKey {
    pub(crate) transport: Transport,
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
            transport: Transport::of(&listener.protocol),
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
        ground: &Ground,
        bound: &HashMap<ListenerKey, SocketAddr>,
        (logs, log): (&AccessLogs, Option<AccessLog>),
        previous: Option<&Self>,
    ) -> Result<Self, String> {
        let workers = ground.workers;
        let cookie_key = plan.cookie_key.as_ref();
        let context = Context {
            seed: plan.hash_seed,
            workers,
            affinity: Arc::clone(&ground.affinity),
            cookie_key: cookie_key.unwrap_or(&ground.cookie_key).clone(),
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
        let checkers = build_checkers(&plan, previous)?;
        let backends = clusters.iter().flat_map(|cluster| cluster.backends());
        let last_error = |backend: &Arc<Backend>| {
            let before = previous.and_then(|it| it.last_errors.get(&backend.id()));
            (backend.id(), before.cloned().unwrap_or_default())
        };
        let last_errors = backends.map(last_error).collect();
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
                service: Service::build(listener, &by_name, (logs, log.as_ref()))?,
            }));
        }
        Ok(Self {
            plan,
            log,
            listeners,
            clusters,
            checkers,
            last_errors,
        })
    }

    /// How the backends of a cluster are checked; `None` if they are not.
    pub(crate) fn checker(&self, cluster: &str) -> Option<&Arc<Checker>> {
        self.checkers.get(cluster)
    }

    /// Where the results of a backend's checks go.
    pub(crate) fn last_error(&self, backend: &Backend) -> Arc<LastError> {
        let found = self.last_errors.get(&backend.id());
        found.cloned().unwrap_or_default()
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

/// A cluster whose checks are as before keeps its checker, and the backends keep their rhythm.
fn build_checkers(
    plan: &Plan,
    previous: Option<&Snapshot>,
) -> Result<HashMap<String, Arc<Checker>>, String> {
    let mut checkers = HashMap::new();
    for cluster in &plan.clusters {
        let Some(health) = &cluster.health else {
            continue;
        };
        let before = previous.filter(|previous| {
            let mut clusters = previous.plan.clusters.iter();
            let same = clusters.find(|it| it.name == cluster.name);
            same.is_some_and(|it| it.health.as_ref() == Some(health))
        });
        let checker = match before.and_then(|previous| previous.checker(&cluster.name)) {
            Some(checker) => Arc::clone(checker),
            None => Arc::new(Checker::new(&health.check)?),
        };
        checkers.insert(cluster.name.clone(), checker);
    }
    Ok(checkers)
}

impl Service {
    fn build(
        listener: &plan::Listener,
        cluster_by_name: &dyn Fn(&str) -> Option<Arc<Cluster>>,
        (logs, log): (&AccessLogs, Option<&AccessLog>),
    ) -> Result<Self, String> {
        let known = |name: &str| {
            cluster_by_name(name).ok_or_else(|| format!("there is no cluster \"{name}\""))
        };
        match &listener.protocol {
            plan::Protocol::Http(http) => {
                let service = HttpService::build(http, cluster_by_name);
                let service = service.map_err(|error| error.to_string())?;
                let service = match logs.log(listener, log)? {
                    Some(log) => service.logged(log),
                    None => service,
                };
                Ok(Self::Http(Arc::new(service)))
            }
            plan::Protocol::Tcp(tcp) => TcpService::build(tcp, cluster_by_name)
                .map(|service| Self::Tcp(Arc::new(service)))
                .ok_or_else(|| "a cluster is missing".to_owned()),
            plan::Protocol::Udp(udp) => {
                let service = UdpService::build(udp.clone(), known(&udp.cluster)?);
                Ok(Self::Udp(Arc::new(service)))
            }
        }
    }
}
