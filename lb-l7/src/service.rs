//! What an HTTP listener serves: its part of the plan, compiled.
//!
//! Invariant: a service that was built can serve: its clusters exist and its limits are ones that
//! the code keeps. Read next: `connection.rs` (who serves it).

use std::sync::Arc;

use lb_core::balance::Cluster;
use lb_core::plan::{self, Affinity, HttpLimits, HttpTimeouts};
use lb_core::rt::Buffer;

use crate::http1::head::HEADERS_MAX;
use crate::http1::request::RequestRules;
use crate::keys::WantedKeys;
use crate::route::{ClusterIndex, DuplicateRoute, RouteTable};
use crate::set_cookie::SetCookie;
use crate::tls::{TlsClient, TlsConfigError};

/// Room that a rewritten head has for the fields that we add.
pub const HEAD_ROOM_BYTES: usize = 1024;

/// Longest head, of a request or a response.
pub const HEAD_BYTES_MAX: usize = Buffer::CAPACITY - HEAD_ROOM_BYTES;

/// What an HTTP listener serves.
#[derive(Debug)]
pub struct HttpService {
    /// Deadlines.
    pub timeouts: HttpTimeouts,
    pub(crate) limits: HttpLimits,
    pub(crate) exchanges: plan::Exchanges,
    pub(crate) rules: RequestRules,
    routes: RouteTable,
    clusters: Vec<Served>,
    default_cluster: Option<ClusterIndex>,
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
        let tls = cluster.tls.as_ref();
        let tls = tls.map(|tls| TlsClient::for_backends(tls, &[b"http/1.1"]));
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
    /// Two routes are the same.
    #[error("two routes have the host {} and the path {:?}",
        .0.host.as_deref().unwrap_or("(any)"), .0.path_prefix)]
    DuplicateRoute(DuplicateRoute),
    /// `head_bytes_max` is more than a buffer holds.
    #[error("head_bytes_max is {0}; at most {HEAD_BYTES_MAX} is supported")]
    HeadBytesMax(u32),
    /// `headers_max` is more than is supported.
    #[error("headers_max is {0}; at most {HEADERS_MAX} is supported")]
    HeadersMax(u16),
    /// A kind of route that is not served yet.
    #[error("routes of this kind are not served yet: {0}")]
    NotServed(String),
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
        };
        for route in &plan.routes {
            let plan::RouteAction::Cluster {
                name,
                rewrite: None,
            } = &route.action
            else {
                return Err(BuildError::NotServed(format!("{:?}", route.action)));
            };
            if !matches!(route.path, plan::PathMatch::Prefix(_)) {
                return Err(BuildError::NotServed(format!("{:?}", route.path)));
            }
            clusters.index(name)?;
        }
        let default_cluster = plan
            .default_cluster
            .as_deref()
            .map(|name| clusters.index(name))
            .transpose()?;
        let index = |route: &plan::Route| {
            let name = route.action.cluster().unwrap_or_default();
            clusters.position(name).unwrap_or_default()
        };
        Ok(Self {
            timeouts: plan.timeouts,
            limits,
            exchanges: plan.exchanges,
            rules: RequestRules {
                head_bytes_max: limits.head_bytes_max as usize,
                headers_max: usize::from(limits.headers_max),
                forwarded: plan.forwarded,
            },
            routes: RouteTable::build(&plan.routes, index).map_err(BuildError::DuplicateRoute)?,
            clusters: clusters
                .list
                .into_iter()
                .map(|cluster| Served::new(cluster, plan.tls.is_some()))
                .collect::<Result<_, _>>()?,
            default_cluster,
        })
    }

    /// The cluster that a request for `host` and `path` goes to.
    pub(crate) fn route(&self, host: &[u8], path: &[u8]) -> Option<ClusterIndex> {
        self.routes.find(host, path).or(self.default_cluster)
    }

    pub(crate) fn served(&self, index: ClusterIndex) -> &Served {
        &self.clusters[index as usize]
    }
}

/// The clusters that a plan names, each once.
struct Clusters<'a> {
    by_name: &'a dyn Fn(&str) -> Option<Arc<Cluster>>,
    list: Vec<Arc<Cluster>>,
}

impl Clusters<'_> {
    fn position(&self, name: &str) -> Option<ClusterIndex> {
        let position = self.list.iter().position(|cluster| cluster.name == name)?;
        u32::try_from(position).ok()
    }

    fn index(&mut self, name: &str) -> Result<ClusterIndex, BuildError> {
        if let Some(index) = self.position(name) {
            return Ok(index);
        }
        let unknown = || BuildError::UnknownCluster(name.to_owned());
        self.list.push((self.by_name)(name).ok_or_else(unknown)?);
        self.position(name).ok_or_else(unknown)
    }
}
