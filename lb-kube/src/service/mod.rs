//! Services to listeners and clusters.
//!
//! Invariant: a Service's part of the plan follows from the Service, its endpoints, the own Node,
//! and what it was granted of addresses and ports that others may want too.
//! Read next: in the order of the data, `wish.rs`, `read.rs`, `claims.rs`, `endpoints.rs`,
//! `choose.rs`, `part.rs`.

mod choose;
mod claims;
mod endpoints;
mod fields;
mod inspect;
mod node;
mod part;
mod read;
mod wish;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};

pub(crate) use self::claims::{Claims, Grant};
pub(crate) use self::node::NodeView;
pub(crate) use self::part::{Builder, Part};
pub(crate) use self::wish::Wish;
use crate::object::Name;
use crate::options::Options;
use crate::store::Store;

/// The Services, for those who lead to them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Services<'a> {
    pub(crate) store: &'a Store,
    pub(crate) options: &'a Options,
}

/// How an Ingress names a port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PortRef<'a> {
    Name(&'a str),
    Number(i32),
}

/// A port of a Service that takes TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoundPort {
    /// What [`ClusterRequest::port`](crate::ingress::ClusterRequest) wants.
    pub(crate) port: u16,
    /// As `kubernetes.io/h2c`.
    pub(crate) app_protocol: Option<String>,
    /// The name of the cluster that is shared.
    pub(crate) cluster: String,
}

/// Why a reference leads nowhere. What `Display` says is a reason of a [`Problem`](crate::Problem).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unknown {
    #[error("there is no Service {0}")]
    Service(Name),
    #[error("the Service {service} has no port {port}; it has {known}")]
    Port {
        service: Name,
        port: String,
        known: String,
    },
    #[error("the Service {0} is of type ExternalName, which is not served unless asked for")]
    ExternalName(Name),
    #[error("the port {port} of the Service {service} is {protocol}, not TCP")]
    Protocol {
        service: Name,
        port: String,
        protocol: String,
    },
}

impl Services<'_> {
    /// A port of a Service, by what an Ingress says of it.
    pub(crate) fn port(&self, name: &Name, port: &PortRef<'_>) -> Result<FoundPort, Unknown> {
        let service = self
            .store
            .service(name)
            .ok_or_else(|| Unknown::Service(name.clone()))?;
        let spec = service.spec.as_ref();
        let is_external = spec.is_some_and(is_external_name);
        if is_external && !self.options.external_names {
            return Err(Unknown::ExternalName(name.clone()));
        }
        let ports = spec
            .and_then(|spec| spec.ports.as_deref())
            .unwrap_or_default();
        let shown = match port {
            PortRef::Name(name) => format!("\"{name}\""),
            PortRef::Number(number) => number.to_string(),
        };
        let mut named = ports.iter().filter(|it| match port {
            PortRef::Name(name) => it.name.as_deref() == Some(name),
            PortRef::Number(number) => it.port == *number,
        });
        let first = named.clone().next();
        let found = named.find(|it| is_tcp(it.protocol.as_deref()));
        match (found, first, port) {
            (Some(found), ..) => {
                let number = u16::try_from(found.port).unwrap_or_default();
                Ok(FoundPort {
                    port: number,
                    app_protocol: found.app_protocol.clone(),
                    cluster: Self::cluster_name(name, service, number),
                })
            }
            (None, Some(other), _) => Err(Unknown::Protocol {
                service: name.clone(),
                port: shown,
                protocol: other.protocol.clone().unwrap_or_default(),
            }),
            // It need not name its ports: the name outside has them.
            (None, None, PortRef::Number(number @ 1..=0xFFFF)) if is_external => {
                let number = *number as u16;
                Ok(FoundPort {
                    port: number,
                    app_protocol: None,
                    cluster: Self::cluster_name(name, service, number),
                })
            }
            (None, None, _) => Err(Unknown::Port {
                service: name.clone(),
                port: shown,
                known: known_ports(ports),
            }),
        }
    }

    /// The name of the cluster of a Service's TCP port that all share.
    pub(crate) fn cluster_name(name: &Name, service: &Service, port: u16) -> String {
        let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref());
        let mut ports = ports.unwrap_or_default().iter();
        let is_it =
            |it: &&ServicePort| it.port == i32::from(port) && is_tcp(it.protocol.as_deref());
        let port_name = ports.find(is_it).and_then(|it| it.name.as_deref());
        match port_name.filter(|it| !it.is_empty()) {
            Some(port_name) => format!("{name}:{port_name}"),
            None => format!("{name}:{port}"),
        }
    }
}

fn is_tcp(protocol: Option<&str>) -> bool {
    matches!(protocol, None | Some("TCP" | ""))
}

pub(crate) fn is_external_name(spec: &ServiceSpec) -> bool {
    spec.type_.as_deref() == Some("ExternalName")
}

fn known_ports(ports: &[ServicePort]) -> String {
    if ports.is_empty() {
        return "none".to_owned();
    }
    let show = |it: &ServicePort| match &it.name {
        Some(name) => format!("{} ({name})", it.port),
        None => it.port.to_string(),
    };
    ports.iter().map(show).collect::<Vec<_>>().join(", ")
}
