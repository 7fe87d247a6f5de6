//! The published form of a plan: what every worker reads, and what the admin API shows.
//!
//! Invariant: a snapshot is complete; whatever a listener refers to is in it, built. What was in
//! the snapshot before keeps its counters, health and identity, and is the same object if nothing
//! of it has changed. Read next: `change.rs` (how it gets to the workers).

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use lb_core::balance::affinity::{AffinityTable, random_key};
use lb_core::balance::{Backend, BackendId, Cluster, Context};
use lb_core::metrics::ListenerStats;
use lb_core::plan::{self, CookieKey, ListenSocket, Plan};
use lb_l4::limits::Gate;
use lb_l4::{TcpService, UdpService};
use lb_l7::HttpService;
use lb_l7::tls::{TlsAcceptor, TlsContext};

use crate::access_log::{AccessLogs, DefaultLogs};
use crate::checker::{Checker, LastError};

/// What runs.
pub(crate) struct Snapshot {
    pub(crate) plan: Plan,
    /// Of listeners that have no say of their own.
    pub(crate) log: DefaultLogs,
    /// In the order of the plan, as the clusters are.
    pub(crate) listeners: Vec<Arc<Listener>>,
    pub(crate) clusters: Vec<Arc<Cluster>>,
    /// How backends are checked, by the names of the clusters that have checks.
    checks: HashMap<String, Arc<ClusterChecks>>,
}

/// How the backends of a cluster are checked, and what came of it.
pub(crate) struct ClusterChecks {
    /// What the plan says of them.
    health: plan::Health,
    pub(crate) checker: Arc<Checker>,
    last_errors: HashMap<BackendId, Arc<LastError>>,
}

/// What all snapshots of a process stand on.
pub(crate) struct Ground {
    pub(crate) workers: usize,
    /// What remembers clients.
    pub(crate) affinity: Arc<AffinityTable>,
    /// The key of affinity cookies when none is configured.
    cookie_key: CookieKey,
    /// What TLS listeners share.
    tls: TlsContext,
}

impl Ground {
    /// For that many workers, and affinity for that many clients.
    pub(crate) fn new(workers: usize, affinity_entries: usize) -> io::Result<Self> {
        Ok(Self {
            workers,
            affinity: Arc::new(AffinityTable::new(affinity_entries, random_key()?)),
            cookie_key: CookieKey(random_key()?),
            tls: TlsContext::new().ok_or(io::ErrorKind::Unsupported)?,
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
    /// How connections are encrypted, if they are.
    pub(crate) tls: Option<Arc<TlsAcceptor>>,
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
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

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
    ///
    /// What is in the plan as it was in the `previous` one is taken over as it is: a change costs
    /// what it changes, and of the rest a comparison of pointers.
    pub(crate) fn build(
        plan: Plan,
        ground: &Ground,
        bound: &HashMap<ListenerKey, SocketAddr>,
        (logs, log): (&AccessLogs, DefaultLogs),
        previous: Option<&Self>,
    ) -> Result<Self, String> {
        let (clusters, changed) = build_clusters(&plan, ground, previous);
        let checks = build_checks(&plan, &clusters, &changed, previous)?;
        let different = changed.values().map(|at| Arc::clone(&clusters[*at]));
        let different: Vec<_> = different.collect();
        let planned = ByName::new(&plan.clusters, |it| &it.name);
        let by_name = |name: &str| {
            let likely = changed.get(name).copied().unwrap_or_default();
            let at = planned.find(likely, name);
            at.map(|at| Arc::clone(&clusters[at]))
        };
        let before = previous.map(|it| ByName::new(&it.plan.listeners, |it| &it.name));
        let mut listeners = Vec::with_capacity(plan.listeners.len());
        for (at, listener) in plan.listeners.iter().enumerate() {
            let found = before.as_ref().and_then(|it| it.find_part(at, listener));
            let before = previous.zip(found);
            let key = ListenerKey::of(listener);
            let bound = bound.get(&key).copied().unwrap_or(listener.address);
            let is_planned_as_before = before.is_some_and(|(previous, at)| {
                previous.plan.listeners[at] == *listener && previous.log == log
            });
            if let Some((previous, at)) = before
                && is_planned_as_before
                && previous.listeners[at].bound == bound
                && !previous.listeners[at].service.names_any(&changed, listener)
            {
                listeners.push(Arc::clone(&previous.listeners[at]));
                continue;
            }
            let before = before.map(|(previous, at)| &previous.listeners[at]);
            let stats = before.map(|it| &*it.stats);
            let gate = before.and_then(|it| it.gate.as_deref());
            let acceptor = before.and_then(|it| it.tls.as_ref());
            let gate = Gate::build(&listener.edge, gate).map(Arc::new);
            let before = before.map(|it| &it.service);
            let before = before.map(|service| (service, is_planned_as_before));
            listeners.push(Arc::new(Listener {
                key,
                bound,
                stats: Arc::new(ListenerStats::build(listener, ground.workers, stats)),
                tls: build_acceptor(&listener.protocol, &ground.tls, acceptor)?,
                service: Service::build(
                    listener,
                    before,
                    (&by_name, &different),
                    (logs, &log),
                    gate.as_ref(),
                )?,
                gate,
            }));
        }
        drop((planned, before, changed));
        Ok(Self {
            plan,
            log,
            listeners,
            clusters,
            checks,
        })
    }

    /// How the backends of a cluster are checked; `None` if they are not.
    pub(crate) fn checks(&self, cluster: &str) -> Option<&Arc<ClusterChecks>> {
        self.checks.get(cluster)
    }
}

impl ClusterChecks {
    /// Where the results of a backend's checks go.
    pub(crate) fn last_error(&self, backend: &Backend) -> Arc<LastError> {
        let found = self.last_errors.get(&backend.id());
        found.cloned().unwrap_or_default()
    }
}

/// The clusters of a plan, and where those are that were not there before as they are now.
fn build_clusters<'p>(
    plan: &'p Plan,
    ground: &Ground,
    previous: Option<&Snapshot>,
) -> (Vec<Arc<Cluster>>, Changed<'p>) {
    let cookie_key = plan.cookie_key.as_ref().unwrap_or(&ground.cookie_key);
    let context = Context {
        seed: plan.hash_seed,
        workers: ground.workers,
        affinity: Arc::clone(&ground.affinity),
        cookie_key: cookie_key.clone(),
        now: lb_core::rt::now(),
    };
    let keeps_keys = previous.is_some_and(|previous| {
        previous.plan.hash_seed == plan.hash_seed && previous.plan.cookie_key == plan.cookie_key
    });
    let by_name = previous.map(|it| ByName::new(&it.plan.clusters, |it| &it.name));
    let mut changed = Changed::new();
    let build = |(at, cluster): (usize, &'p Arc<plan::Cluster>)| {
        let found = by_name.as_ref().and_then(|it| it.find_part(at, cluster));
        let before = previous.zip(found);
        if let Some((previous, at)) = before
            && keeps_keys
            && previous.plan.clusters[at] == *cluster
        {
            return Arc::clone(&previous.clusters[at]);
        }
        changed.insert(&*cluster.name, at);
        let before = before.map(|(previous, at)| &*previous.clusters[at]);
        Arc::new(Cluster::build(cluster, &context, before))
    };
    let clusters = plan.clusters.iter().enumerate().map(build).collect();
    (clusters, changed)
}

/// One that is as before stays.
fn build_acceptor(
    protocol: &plan::Protocol,
    context: &TlsContext,
    previous: Option<&Arc<TlsAcceptor>>,
) -> Result<Option<Arc<TlsAcceptor>>, String> {
    let plan::Protocol::Http(plan::Http {
        tls: Some(tls),
        http2,
        ..
    }) = protocol
    else {
        return Ok(None);
    };
    let tls = &plan::TlsServer {
        alpn_http2: tls.alpn_http2 && http2.enabled,
        ..tls.clone()
    };
    match previous {
        Some(previous) if previous.is_of(tls) => Ok(Some(Arc::clone(previous))),
        previous => TlsAcceptor::build(tls, context, previous.map(|it| &**it))
            .map(|acceptor| Some(Arc::new(acceptor)))
            .map_err(|error| error.to_string()),
    }
}

/// A cluster whose checks are as before keeps its checker, and the backends keep their rhythm.
fn build_checks(
    plan: &Plan,
    clusters: &[Arc<Cluster>],
    changed: &Changed<'_>,
    previous: Option<&Snapshot>,
) -> Result<HashMap<String, Arc<ClusterChecks>>, String> {
    let (mut checks, before) = match previous {
        Some(previous) => (previous.checks.clone(), Some(&previous.plan)),
        None => (HashMap::new(), None),
    };
    // As many clusters as before, and each different one in its place: none is gone.
    let is_in_place = |(name, at): (&&str, &usize)| {
        let then = before.and_then(|it| it.clusters.get(*at));
        then.is_some_and(|then| then.name == **name)
    };
    let before_count = before.map_or(0, |it| it.clusters.len());
    if plan.clusters.len() != before_count || !changed.iter().all(is_in_place) {
        let names: HashSet<&str> = plan.clusters.iter().map(|it| &*it.name).collect();
        checks.retain(|name, _| names.contains(&**name));
    }
    for (name, at) in changed {
        let planned = &plan.clusters[*at];
        let before = checks.remove(*name);
        let Some(health) = &planned.health else {
            continue;
        };
        let checker = match &before {
            Some(before) if before.health == *health => Arc::clone(&before.checker),
            _ => Arc::new(Checker::new(&health.check)?),
        };
        let last_error = |backend: &Arc<Backend>| {
            let error = before.as_ref().map(|before| before.last_error(backend));
            (backend.id(), error.unwrap_or_default())
        };
        let last_errors = clusters[*at].backends().iter().map(last_error).collect();
        let built = ClusterChecks {
            health: health.clone(),
            checker,
            last_errors,
        };
        checks.insert((*name).to_owned(), Arc::new(built));
    }
    Ok(checks)
}

/// Positions in the plan of clusters that are new or different, by name.
type Changed<'p> = HashMap<&'p str, usize>;

type ClusterByName<'a> = dyn Fn(&str) -> Option<Arc<Cluster>> + 'a;

/// Finds the parts of a plan by name: mostly they are where they were.
struct ByName<'p, T> {
    list: &'p [Arc<T>],
    name: fn(&T) -> &str,
    positions: OnceCell<HashMap<&'p str, usize>>,
}

impl<'p, T> ByName<'p, T> {
    fn new(list: &'p [Arc<T>], name: fn(&T) -> &str) -> Self {
        Self {
            list,
            name,
            positions: OnceCell::new(),
        }
    }

    /// As [`ByName::find`] by the name of `part`, which is not read if the part itself is there.
    fn find_part(&self, likely: usize, part: &Arc<T>) -> Option<usize> {
        match self.list.get(likely) {
            Some(known) if Arc::ptr_eq(known, part) => Some(likely),
            _ => self.find(likely, (self.name)(part)),
        }
    }

    /// The position of the part of that name; `likely` is looked at first.
    fn find(&self, likely: usize, name: &str) -> Option<usize> {
        let is_it = |part: &Arc<T>| (self.name)(part) == name;
        if self.list.get(likely).is_some_and(is_it) {
            return Some(likely);
        }
        let positions = self.positions.get_or_init(|| {
            let parts = self.list.iter().enumerate();
            parts.map(|(at, part)| ((self.name)(part), at)).collect()
        });
        positions.get(name).copied()
    }
}

impl Service {
    /// Whether any of the clusters is one of the listener's, whose service this is.
    fn names_any(&self, changed: &Changed<'_>, listener: &plan::Listener) -> bool {
        match self {
            Self::Http(http) => changed.keys().any(|it| http.names(it)),
            _ if changed.is_empty() => false,
            Self::Tcp(_) | Self::Udp(_) => listener.clusters().any(|it| changed.contains_key(it)),
        }
    }

    /// `before` is the listener's service until now, if there was one, and whether its settings
    /// are the same; `changed` are the clusters that are not as they were then.
    fn build(
        listener: &plan::Listener,
        before: Option<(&Self, bool)>,
        (cluster_by_name, changed): (&ClusterByName<'_>, &[Arc<Cluster>]),
        (logs, log): (&AccessLogs, &DefaultLogs),
        gate: Option<&Arc<Gate>>,
    ) -> Result<Self, String> {
        let known = |name: &str| {
            cluster_by_name(name).ok_or_else(|| format!("there is no cluster \"{name}\""))
        };
        if let Some((Self::Http(http), true)) = before
            && let Some(http) = http.with_clusters(changed)
        {
            return Ok(Self::Http(Arc::new(http)));
        }
        match &listener.protocol {
            plan::Protocol::Http(http) => {
                let service = HttpService::build(http, cluster_by_name);
                let service = service.map_err(|error| error.to_string())?;
                let service = match logs.log(listener, http, log)? {
                    Some(log) => service.logged(log),
                    None => service,
                };
                Ok(Self::Http(Arc::new(service)))
            }
            plan::Protocol::Tcp(tcp) => {
                let previous = match before {
                    Some((Self::Tcp(previous), _)) => Some(&**previous),
                    _ => None,
                };
                let log = logs.session_log(listener, log)?;
                TcpService::build(tcp, cluster_by_name, previous)
                    .map(|service| Self::Tcp(Arc::new(service.logged(log))))
                    .ok_or_else(|| "a cluster is missing".to_owned())
            }
            plan::Protocol::Udp(udp) => {
                let service = UdpService::build(udp.clone(), known(&udp.cluster)?);
                let service = service.logged(logs.session_log(listener, log)?);
                Ok(Self::Udp(Arc::new(service.guarded_by(gate.cloned()))))
            }
        }
    }
}
