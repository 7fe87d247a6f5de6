//! What an HTTP listener serves: its part of the plan, compiled.
//!
//! Invariant: a service that was built can serve: its clusters exist and its limits are ones that
//! the code keeps. Read next: `connection.rs` (who serves it).

use std::sync::Arc;

use lb_core::balance::Cluster;
use lb_core::plan::{self, Affinity, HttpLimits, HttpTimeouts, PathForm};
use lb_core::rt::Buffer;

use crate::action::{Action, Asked, Routed};
use crate::http1::head::{HEADERS_MAX, HeadError};
use crate::http1::request::RequestRules;
use crate::keys::WantedKeys;
use crate::log::Log;
use crate::route::{ClusterIndex, RouteError, RouteTable};
use crate::set_cookie::SetCookie;

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
    paths: PathForm,
    /// By route.
    actions: Vec<Action>,
    clusters: Vec<Served>,
    default_cluster: Option<ClusterIndex>,
    pub(crate) log: Option<Log>,
}

/// A cluster, and what it takes to choose in it.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) keys: WantedKeys,
    pub(crate) set_cookie: Option<SetCookie>,
}

impl Served {
    fn new(cluster: Arc<Cluster>) -> Self {
        let set_cookie = match cluster.affinity() {
            // No listener of ours ends TLS, so clients come in the clear.
            Some(Affinity::Cookie(cookie)) => Some(SetCookie::new(cookie, false)),
            _ => None,
        };
        Self {
            keys: WantedKeys::of(cluster.hash_key(), cluster.affinity()),
            set_cookie,
            cluster,
        }
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
            rules: RequestRules {
                head_bytes_max: limits.head_bytes_max as usize,
                headers_max: usize::from(limits.headers_max),
                forwarded: plan.forwarded,
                request_id: plan.request_id,
            },
            routes: RouteTable::build(&plan.routes, plan.matching.hosts)
                .map_err(BuildError::Route)?,
            paths: plan.matching.paths,
            actions,
            clusters: clusters.list.into_iter().map(Served::new).collect(),
            default_cluster,
            log: None,
        })
    }

    /// The same with an access log.
    #[must_use]
    pub fn logged(self, log: Log) -> Self {
        Self {
            log: Some(log),
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
