//! What of the Nodes matters here: who we are, where we are, and where the others are.
//!
//! Invariant: equal views lead to equal plans, so heartbeats of Nodes cost nothing.
//! Read next: `choose.rs` (which asks what is near).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;

use crate::options::Options;
use crate::store::Store;

const ZONE: &str = "topology.kubernetes.io/zone";

/// The Nodes as a Service sees them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct NodeView {
    /// Our own.
    pub(crate) name: Option<String>,
    pub(crate) zone: Option<String>,
    /// Our InternalIPs.
    pub(crate) addresses: Vec<IpAddr>,
    /// The zones of all.
    pub(crate) zones: BTreeMap<Arc<str>, String>,
}

impl NodeView {
    pub(crate) fn of(store: &Store, options: &Options) -> Self {
        let own = options
            .node_name
            .as_deref()
            .and_then(|name| store.node(name));
        let zones = store.nodes().iter().filter_map(|(name, kept)| {
            Some((Arc::clone(&name.name), zone(&kept.object)?.to_owned()))
        });
        Self {
            name: options.node_name.clone(),
            zone: own.and_then(zone).map(str::to_owned),
            addresses: own.map(internal_addresses).unwrap_or_default(),
            zones: zones.collect(),
        }
    }

    /// Whether something on the Node `name` is here.
    pub(crate) fn is_local(&self, name: Option<&str>) -> bool {
        name.is_some() && name == self.name.as_deref()
    }
}

fn zone(node: &Node) -> Option<&str> {
    let labels = node.metadata.labels.as_ref()?;
    labels.get(ZONE).map(String::as_str)
}

fn internal_addresses(node: &Node) -> Vec<IpAddr> {
    let addresses = node.status.as_ref().and_then(|it| it.addresses.as_deref());
    let internal = addresses
        .unwrap_or_default()
        .iter()
        .filter(|it| it.type_ == "InternalIP");
    let mut found: Vec<IpAddr> = internal.filter_map(|it| it.address.parse().ok()).collect();
    found.sort();
    found
}
