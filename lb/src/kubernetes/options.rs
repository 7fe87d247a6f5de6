//! The flags about Kubernetes objects, to what `lb_kube` takes.
//!
//! Invariant: without `--manifests` none of them means anything, and each is refused by name.
//! Read next: `lb_kube::Options`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use lb_core::prefixes::Prefix;
use lb_kube::ingress::IngressOptions;
use lb_kube::{NodePortAddresses, Options};

use super::fallback;
use crate::config::{parse_listen, parse_prefixes};

/// What the flags say.
#[derive(Debug, Clone, Default)]
pub(crate) struct KubernetesFlags {
    pub(crate) manifests: Option<PathBuf>,
    pub(crate) node_name: Option<String>,
    pub(crate) nodeport_addresses: Option<NodePortFlag>,
    pub(crate) lb_pool: Vec<Prefix>,
    pub(crate) lb_class: Option<String>,
    pub(crate) cluster_ips: bool,
    pub(crate) external_ips: bool,
    pub(crate) external_names: bool,
    pub(crate) ingress_class: Option<String>,
    pub(crate) ingress_http: Option<IngressListen>,
    pub(crate) ingress_https: Option<IngressListen>,
    pub(crate) healthz: Option<HealthzAddress>,
}

/// `--nodeport-addresses`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodePortFlag(pub(crate) NodePortAddresses);

/// `--ingress-http` and `--ingress-https`; `None` is the word `off`.
pub(crate) type IngressListen = HealthzAddress;

/// `--healthz`: an address, or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HealthzAddress {
    Off,
    Listen(SocketAddr),
}

impl HealthzAddress {
    /// As kube-proxy's `--healthz-bind-address`.
    pub(crate) const DEFAULT: SocketAddr =
        SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 10256);

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            text => parse_listen(text)
                .map(Self::Listen)
                .map_err(|reason| format!("{reason}, or off")),
        }
    }

    const fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::Listen(address) => Some(address),
        }
    }
}

impl NodePortFlag {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        Ok(Self(match text {
            "all" => NodePortAddresses::All,
            "primary" => NodePortAddresses::Primary,
            prefixes => {
                NodePortAddresses::Prefixes(parse_prefixes(prefixes).map_err(|reason| {
                    format!("{reason}; or all, or primary for the Node's own addresses")
                })?)
            }
        }))
    }
}

impl KubernetesFlags {
    /// The first flag that is given and says nothing without objects.
    pub(crate) fn without_objects(&self) -> Option<&'static str> {
        if self.manifests.is_some() {
            return None;
        }
        let given = [
            (self.node_name.is_some(), "--node-name"),
            (self.nodeport_addresses.is_some(), "--nodeport-addresses"),
            (!self.lb_pool.is_empty(), "--lb-pool"),
            (self.lb_class.is_some(), "--lb-class"),
            (self.cluster_ips, "--cluster-ips"),
            (self.external_ips, "--external-ips"),
            (self.external_names, "--external-names"),
            (self.ingress_class.is_some(), "--ingress-class"),
            (self.ingress_http.is_some(), "--ingress-http"),
            (self.ingress_https.is_some(), "--ingress-https"),
            (self.healthz.is_some(), "--healthz"),
        ];
        given
            .iter()
            .find(|(given, _)| *given)
            .map(|(_, flag)| *flag)
    }

    /// What `lb_kube` takes.
    pub(super) fn options(&self) -> Result<Options, String> {
        let default = IngressOptions::default();
        let listen = |flag: Option<IngressListen>, default| match flag {
            Some(flag) => flag.address(),
            None => default,
        };
        let fallback = fallback::certificate()
            .map_err(|error| format!("cannot make a certificate: {error}"))?;
        Ok(Options {
            node_name: self.node_name.clone(),
            machine_addresses: machine_addresses(),
            nodeport_addresses: match &self.nodeport_addresses {
                Some(flag) => flag.0.clone(),
                None => NodePortAddresses::default(),
            },
            lb_pool: self.lb_pool.clone(),
            load_balancer_class: self.lb_class.clone(),
            cluster_ips: self.cluster_ips,
            external_ips: self.external_ips,
            external_names: self.external_names,
            ingress: IngressOptions {
                class: self.ingress_class.clone(),
                http: listen(self.ingress_http, default.http),
                https: listen(self.ingress_https, default.https),
                fallback: Some(fallback),
            },
            ..Options::default()
        })
    }
}

/// Addresses of this machine's interfaces.
pub(crate) fn machine_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return Vec::new();
    };
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        if let Some(v4) = address.as_sockaddr_in() {
            return Some(IpAddr::V4(v4.ip()));
        }
        address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()))
    });
    let mut addresses: Vec<_> = addresses.collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}
