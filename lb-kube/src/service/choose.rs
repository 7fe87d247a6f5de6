//! Which endpoints take traffic.
//!
//! Invariant: as kube-proxy's `CategorizeEndpoints` (pkg/proxy/topology.go): ready endpoints, as
//! near as every hint allows; if there are none, those that still serve while they terminate; for
//! `Local`, those of this node only. Endpoints that take none, but may have connections, stay in
//! the cluster, so that these are not cut.
//! Read next: `endpoints.rs` (where endpoints come from), `part.rs`.

use std::net::SocketAddr;

use k8s_openapi::api::discovery::v1::EndpointHints;
use lb_core::plan::{Backend, Condition};

use super::node::NodeView;

/// One address and port of an endpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Endpoint<'a> {
    pub(crate) address: SocketAddr,
    pub(crate) ready: bool,
    pub(crate) serving: bool,
    pub(crate) terminating: bool,
    pub(crate) local: bool,
    pub(crate) hints: Hints<'a>,
}

/// For which nodes and zones an endpoint is meant.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Hints<'a> {
    None,
    /// Of an EndpointSlice.
    Given(&'a EndpointHints),
    /// As the EndpointSlice controller would make them.
    Made {
        node: Option<&'a str>,
        zone: Option<&'a str>,
    },
}

impl Hints<'_> {
    /// Whether it has hints for nodes, and one for `node`.
    fn node(&self, node: Option<&str>) -> (bool, bool) {
        match self {
            Self::None => (false, false),
            Self::Made { node: own, .. } => (own.is_some(), own.is_some() && *own == node),
            Self::Given(hints) => {
                let nodes = hints.for_nodes.as_deref().unwrap_or_default();
                let ours = nodes.iter().any(|it| Some(&*it.name) == node);
                (!nodes.is_empty(), ours)
            }
        }
    }

    /// As `node`, for zones.
    fn zone(&self, zone: Option<&str>) -> (bool, bool) {
        match self {
            Self::None => (false, false),
            Self::Made { zone: own, .. } => (own.is_some(), own.is_some() && *own == zone),
            Self::Given(hints) => {
                let zones = hints.for_zones.as_deref().unwrap_or_default();
                let ours = zones.iter().any(|it| Some(&*it.name) == zone);
                (!zones.is_empty(), ours)
            }
        }
    }
}

/// Which endpoints a policy lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Scope {
    Cluster,
    Local,
}

/// The endpoints of a cluster.
#[derive(Debug, Default)]
pub(crate) struct Chosen {
    pub(crate) backends: Vec<Backend>,
    /// Whether any of them takes new load.
    pub(crate) is_usable: bool,
}

impl Endpoint<'_> {
    /// Whether it could take traffic: ready ones do, and those that serve while they terminate if
    /// there is no ready one.
    pub(crate) const fn is_usable(&self) -> bool {
        self.ready || self.serving && self.terminating
    }
}

/// The endpoints that `scope` has here.
pub(crate) fn choose(endpoints: &[Endpoint<'_>], scope: Scope, node: &NodeView) -> Chosen {
    let topology = match scope {
        Scope::Cluster => Topology::of(endpoints, node),
        Scope::Local => Topology::Anywhere,
    };
    let mut chosen = Chosen::default();
    for endpoint in endpoints {
        if scope == Scope::Local && !endpoint.local {
            continue;
        }
        let condition = match endpoint {
            // Out of the way, as long as there are others: which there are.
            Endpoint { ready: true, .. } if !topology.has(endpoint, node) => continue,
            Endpoint { ready: true, .. } => Condition::Ready,
            Endpoint {
                serving: true,
                terminating: true,
                ..
            } => Condition::Serving,
            _ => Condition::Terminating,
        };
        chosen.is_usable |= condition != Condition::Terminating;
        chosen.backends.push(Backend {
            condition,
            ..Backend::from(endpoint.address)
        });
    }
    chosen
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Topology {
    Anywhere,
    SameNode,
    SameZone,
}

impl Topology {
    /// Hints count only if every ready endpoint has them and one of them is for here.
    fn of(endpoints: &[Endpoint<'_>], node: &NodeView) -> Self {
        let (name, zone) = (node.name.as_deref(), node.zone.as_deref());
        let (mut all_nodes, mut any_node) = (true, false);
        let (mut all_zones, mut any_zone) = (true, false);
        for endpoint in endpoints.iter().filter(|it| it.ready) {
            let (has, ours) = endpoint.hints.node(name);
            all_nodes &= has;
            any_node |= ours;
            let (has, ours) = endpoint.hints.zone(zone);
            all_zones &= has;
            any_zone |= ours;
        }
        if all_nodes && any_node && name.is_some() {
            Self::SameNode
        } else if all_zones && any_zone && zone.is_some() {
            Self::SameZone
        } else {
            Self::Anywhere
        }
    }

    fn has(self, endpoint: &Endpoint<'_>, node: &NodeView) -> bool {
        match self {
            Self::Anywhere => true,
            Self::SameNode => endpoint.hints.node(node.name.as_deref()).1,
            Self::SameZone => endpoint.hints.zone(node.zone.as_deref()).1,
        }
    }
}
