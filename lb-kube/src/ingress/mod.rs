//! Ingresses to routes.
//!
//! Invariant: what an Ingress says changes only when it, its class, its Secrets or a Service
//! itself changes; endpoints come and go below it.
//! Read next: `../service/mod.rs` (the Services that routes lead to).

use std::net::SocketAddr;
use std::sync::Arc;

use lb_core::plan;

use crate::object::Name;
use crate::options::Options;
use crate::problem::Problem;
use crate::service::Services;
use crate::store::{Changes, Store};

/// Settings of Ingresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngressOptions {
    /// The only class that is served. `None`: every class whose controller is ours or nginx's.
    pub class: Option<String>,
    /// Where requests in the clear are answered.
    pub http: Option<SocketAddr>,
    /// Where requests over TLS are answered.
    pub https: Option<SocketAddr>,
    /// The certificate of hosts without a usable one of their own; without it there is no TLS.
    pub fallback: Option<Arc<plan::Certificate>>,
}

impl Default for IngressOptions {
    /// The ports of HTTP and HTTPS on all IPv4 addresses.
    fn default() -> Self {
        let all = |port| Some(SocketAddr::from(([0, 0, 0, 0], port)));
        Self {
            class: None,
            http: all(80),
            https: all(443),
            fallback: None,
        }
    }
}

/// All Ingresses, compiled.
#[derive(Debug, Default)]
pub(crate) struct Ingresses {
    output: Output,
}

/// What Ingresses bring to the plan.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// In any order; what is as before is the same `Arc` as before.
    pub(crate) listeners: Vec<Arc<plan::Listener>>,
    /// The clusters that the routes of `listeners` name; one may be asked for more than once.
    pub(crate) clusters: Vec<ClusterRequest>,
    /// Origins are filled in by the compiler.
    pub(crate) problems: Vec<Problem>,
}

/// A cluster that a route needs; the compiler fills in the endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClusterRequest {
    /// The Service; it exists.
    pub(crate) service: Name,
    /// The number of the Service's port, as [`Services::port`] found it.
    pub(crate) port: u16,
    /// The name of the cluster, and all settings but the backends. `None` shares the cluster of
    /// that port with all that ask for no settings of their own; its name is
    /// [`Services::cluster_name`].
    pub(crate) template: Option<Arc<plan::Cluster>>,
}

impl Ingresses {
    /// Compiles what `changes` touch; says whether anything is different now.
    pub(crate) fn update(
        &mut self,
        _store: &Store,
        _services: &Services<'_>,
        _options: &Options,
        _changes: &Changes,
    ) -> bool {
        false
    }

    pub(crate) const fn output(&self) -> &Output {
        &self.output
    }
}
