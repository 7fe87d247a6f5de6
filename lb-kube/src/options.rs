//! What a node adds to the objects.
//!
//! Invariant: plain data; two nodes with the same objects and options differ in `node_name`,
//! `machine_addresses` and what follows from them only.
//! Read next: `service/` (Services), `ingress/` (Ingresses).

use std::net::IpAddr;
use std::ops::RangeInclusive;

use lb_core::plan::CookieKey;
use lb_core::prefixes::Prefix;

use crate::ingress::IngressOptions;

/// The settings of a source of objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The Node that this process runs on; without it nothing is local, and no zone known.
    pub node_name: Option<String>,
    /// Addresses of this machine's interfaces, for `nodeport_addresses`.
    pub machine_addresses: Vec<IpAddr>,
    /// Where NodePorts are answered.
    pub nodeport_addresses: NodePortAddresses,
    /// Ports that are NodePorts; others are refused.
    pub nodeport_range: RangeInclusive<u16>,
    /// Addresses for Services of type LoadBalancer that name none.
    pub lb_pool: Vec<Prefix>,
    /// The `loadBalancerClass` that is ours. `None`: Services without one are.
    pub load_balancer_class: Option<String>,
    /// Whether cluster IPs are answered.
    pub cluster_ips: bool,
    /// Whether `externalIPs` are answered. Anybody who may write a Service can take any address by
    /// them (CVE-2020-8554).
    pub external_ips: bool,
    /// Whether an Ingress may lead to a Service of type ExternalName.
    pub external_names: bool,
    /// As of a plan.
    pub hash_seed: u64,
    /// As of a plan.
    pub cookie_key: Option<CookieKey>,
    /// What concerns Ingresses only.
    pub ingress: IngressOptions,
}

impl Options {
    /// As kube-apiserver's `--service-node-port-range`.
    pub const NODEPORT_RANGE_DEFAULT: RangeInclusive<u16> = 30_000..=32_767;
}

impl Default for Options {
    fn default() -> Self {
        Self {
            node_name: None,
            machine_addresses: Vec::new(),
            nodeport_addresses: NodePortAddresses::All,
            nodeport_range: Self::NODEPORT_RANGE_DEFAULT,
            lb_pool: Vec::new(),
            load_balancer_class: None,
            cluster_ips: false,
            external_ips: false,
            external_names: false,
            hash_seed: 0,
            cookie_key: None,
            ingress: IngressOptions::default(),
        }
    }
}

/// Where NodePorts are answered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum NodePortAddresses {
    /// On every address of the machine.
    #[default]
    All,
    /// On the InternalIPs of the Node (kube-proxy's `primary`, its default with nftables); on all
    /// while the Node is not known.
    Primary,
    /// On the machine's addresses in these; a family without a prefix is answered on all.
    Prefixes(Vec<Prefix>),
}
