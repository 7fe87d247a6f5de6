//! What an HTTP listener serves: its part of the plan, compiled.
//!
//! Invariant: a service that was built can serve: its clusters exist and its limits are ones that
//! the code keeps. Read next: `connection.rs` (who serves it).

use std::collections::HashMap;
use std::sync::Arc;

use lb_core::balance::Cluster;
use lb_core::plan::{self, Affinity, Http2, HttpLimits, HttpTimeouts, PathForm};
use lb_core::rt::Buffer;

use crate::action::{Action, Asked, Routed};
use crate::http1::head::{HEADERS_MAX, HeadError};
use crate::http1::request::RequestRules;
use crate::keys::WantedKeys;
use crate::log::Log;
use crate::route::{ClusterIndex, RouteError, RouteTable};
use crate::set_cookie::SetCookie;
use crate::tls::{TlsClient, TlsConfigError};

/// Room that a rewritten head has for the fields that we add.
pub const HEAD_ROOM_BYTES: usize = 1024;

/// Longest head, of a request or a response.
pub const HEAD_BYTES_MAX: usize = Buffer::CAPACITY - HEAD_ROOM_BYTES;

/// What an HTTP listener serves.
#[derive(Debug, Clone)]
pub struct HttpService {
    /// Deadlines.
    pub timeouts: HttpTimeouts,
    pub(crate) limits: HttpLimits,
    pub(crate) exchanges: plan::Exchanges,
    pub(crate) rules: RequestRules,
    pub(crate) http2: Http2,
    routes: Arc<RouteTable>,
    paths: PathForm,
    /// By route.
    actions: Arc<[Action]>,
    clusters: Arc<[Arc<Served>]>,
    /// Where each cluster is in that list.
    positions: Arc<HashMap<String, ClusterIndex>>,
    over_tls: bool,
    default_cluster: Option<ClusterIndex>,
    pub(crate) log: Option<Arc<Log>>,
}

/// A cluster, and what it takes to choose in it.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) keys: WantedKeys,
    pub(crate) set_cookie: Option<SetCookie>,
    /// How connections to its backends are encrypted, if they are.
    pub(crate) tls: Option<TlsClient>,
}

impl Served {
    fn new(cluster: Arc<Cluster>, over_tls: bool) -> Result<Self, BuildError> {
        let set_cookie = match cluster.affinity() {
            Some(Affinity::Cookie(cookie)) => Some(SetCookie::new(cookie, over_tls)),
            _ => None,
        };
        let alpn: &[u8] = match cluster.protocol {
            plan::BackendProtocol::Http1 => b"http/1.1",
            plan::BackendProtocol::Http2 => b"h2",
        };
        let tls = cluster.tls.as_ref();
        let tls = tls.map(|tls| TlsClient::for_backends(tls, &[alpn]));
        let failed =
            |error: TlsConfigError| BuildError::Tls(cluster.name.clone(), error.to_string());
        Ok(Self {
            tls: tls.transpose().map_err(failed)?,
            keys: WantedKeys::of(cluster.hash_key(), cluster.affinity()),
            set_cookie,
            cluster,
        })
    }
}

/// Why a plan cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// `head_bytes_max` is more than a buffer holds.
    #[error("head_bytes_max is {0}; at most {HEAD_BYTES_MAX} is supported")]
    HeadBytesMax(u32),
    /// `headers_max` is more than is supported.
    #[error("headers_max is {0}; at most {HEADERS_MAX} is supported")]
    HeadersMax(u16),
    /// The routes do not make a table.
    #[error(transparent)]
    Route(RouteError),
    /// The TLS of a cluster cannot be used.
    #[error("the TLS of cluster {0:?} cannot be used: {1}")]
    Tls(String, String),
    /// A route or the default names a cluster that does not exist.
    #[error("there is no cluster named {0:?}")]
    UnknownCluster(String),
}

impl HttpService {
    /// Compiles the settings of a listener; `cluster_by_name` finds the clusters that it names.
    ///
    /// # Errors
    /// [`BuildError`], which a validated plan does not cause.
    pub fn build(
        plan: &plan::Http,
        cluster_by_name: &dyn Fn(&str) -> Option<Arc<Cluster>>,
    ) -> Result<Self, BuildError> {
        let limits = plan.limits;
        if limits.head_bytes_max as usize > HEAD_BYTES_MAX {
            return Err(BuildError::HeadBytesMax(limits.head_bytes_max));
        }
        if usize::from(limits.headers_max) > HEADERS_MAX {
            return Err(BuildError::HeadersMax(limits.headers_max));
        }
        let mut clusters = Clusters {
            by_name: cluster_by_name,
            list: Vec::new(),
            positions: HashMap::new(),
        };
        let mut actions = Vec::with_capacity(plan.routes.len());
        for route in &plan.routes {
            let cluster = route.action.cluster();
            let cluster = cluster.map(|name| clusters.index(name)).transpose()?;
            let action = Action::build(route, cluster.unwrap_or_default());
            actions.push(action.map_err(|reason| {
                let route = Box::new(route.clone());
                BuildError::Route(RouteError::Pattern { route, reason })
            })?);
        }
        let default_cluster = plan
            .default_cluster
            .as_deref()
            .map(|name| clusters.index(name))
            .transpose()?;
        Ok(Self {
            timeouts: plan.timeouts,
            limits,
            exchanges: plan.exchanges,
            http2: plan.http2,
            rules: RequestRules {
                head_bytes_max: limits.head_bytes_max as usize,
                headers_max: usize::from(limits.headers_max),
                forwarded: plan.forwarded,
                request_id: plan.request_id,
            },
            routes: RouteTable::build(&plan.routes, plan.matching.hosts)
                .map(Arc::new)
                .map_err(BuildError::Route)?,
            paths: plan.matching.paths,
            actions: actions.into(),
            clusters: clusters
                .list
                .into_iter()
                .map(|cluster| Served::new(cluster, plan.tls.is_some()).map(Arc::new))
                .collect::<Result<_, _>>()?,
            positions: Arc::new(clusters.positions),
            default_cluster,
            over_tls: plan.tls.is_some(),
            log: None,
        })
    }

    /// The same listener with other `clusters` of the same names: neither its routes nor its other
    /// clusters are looked at. `None` if one cannot be served; [`HttpService::build`] says why.
    #[must_use]
    pub fn with_clusters(&self, clusters: &[Arc<Cluster>]) -> Option<Self> {
        let mut list = self.clusters.to_vec();
        for cluster in clusters {
            if let Some(index) = self.positions.get(&*cluster.name) {
                let served = Served::new(Arc::clone(cluster), self.over_tls).ok()?;
                list[*index as usize] = Arc::new(served);
            }
        }
        Some(Self {
            clusters: list.into(),
            ..self.clone()
        })
    }

    /// Whether a route or the default names the cluster.
    #[must_use]
    pub fn names(&self, cluster: &str) -> bool {
        self.positions.contains_key(cluster)
    }

    /// The same with an access log.
    #[must_use]
    pub fn logged(self, log: Log) -> Self {
        Self {
            log: Some(Arc::new(log)),
            ..self
        }
    }

    /// What the routes say of a request.
    pub(crate) fn route(&self, asked: &Asked<'_>) -> Result<Routed, HeadError> {
        let normalized = asked.routed_path(self.paths)?;
        let as_sent = asked.head.path(asked.bytes);
        let path = normalized.as_ref().map_or(as_sent, Buffer::as_slice);
        let found = self.routes.find(asked.head.host(asked.bytes), path);
        let action = found.and_then(|it| Some((it, self.actions.get(it as usize)?)));
        match action {
            Some((route, action)) => asked.take(action, route, path),
            None => Ok(Routed::default_of(self.default_cluster)),
        }
    }

    pub(crate) fn served(&self, index: ClusterIndex) -> &Served {
        &self.clusters[index as usize]
    }
}

/// The clusters that a plan names, each once.
struct Clusters<'a> {
    by_name: &'a dyn Fn(&str) -> Option<Arc<Cluster>>,
    list: Vec<Arc<Cluster>>,
    positions: HashMap<String, ClusterIndex>,
}

impl Clusters<'_> {
    fn index(&mut self, name: &str) -> Result<ClusterIndex, BuildError> {
        if let Some(index) = self.positions.get(name) {
            return Ok(*index);
        }
        let unknown = || BuildError::UnknownCluster(name.to_owned());
        let index = ClusterIndex::try_from(self.list.len()).map_err(|_| unknown())?;
        self.list.push((self.by_name)(name).ok_or_else(unknown)?);
        self.positions.insert(name.to_owned(), index);
        Ok(index)
    }
}
