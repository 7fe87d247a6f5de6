//! What is wrong with the objects that endpoints are written in.
//!
//! Invariant: what is reported here is left out by `endpoints.rs`, and the rest of the object is
//! served.
//! Read next: `endpoints.rs`.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::endpoints::{From, Source, container_ports, is_reachable, pod_port};
use super::wish::{Family, TargetPort, Wish, WishedPort};
use crate::object::{Kind, Name, ObjectRef};
use crate::problem::{Problem, Severity};
use crate::store::Kept;

impl Source<'_> {
    /// All that is wrong.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        match &self.from {
            From::Slices(slices) => {
                for (name, kept) in slices {
                    let mut inspected = Slice {
                        object: ObjectRef {
                            kind: Kind::EndpointSlice,
                            name: Name::new(self.name.namespace.clone(), *name),
                        },
                        kept,
                        problems: &mut problems,
                    };
                    inspected.inspect(self.wish);
                }
            }
            From::Pods(pods) => {
                let has_address = |pod: &&Pod| {
                    let status = pod.status.as_ref();
                    status.is_some_and(|it| it.pod_ip.is_some() || it.pod_ips.is_some())
                };
                let pods: Vec<&Pod> = pods
                    .iter()
                    .map(|it| &*it.object)
                    .filter(has_address)
                    .collect();
                for port in &self.wish.ports {
                    problems.extend(self.unknown_name(port, &pods));
                }
            }
            From::Endpoints(_) | From::Outside(_) | From::Nowhere => {}
        }
        problems
    }

    /// A target port whose name no Pod has.
    fn unknown_name(&self, port: &WishedPort, pods: &[&Pod]) -> Option<Problem> {
        let TargetPort::Name(name) = &port.target else {
            return None;
        };
        if pods.is_empty() || pods.iter().any(|it| pod_port(it, port).is_some()) {
            return None;
        }
        let object = ObjectRef {
            kind: Kind::Service,
            name: self.name.clone(),
        };
        let ports = pods.iter().flat_map(|it| container_ports(it));
        let mut known: Vec<_> = ports.filter_map(|it| it.name.as_deref()).collect();
        known.sort_unstable();
        known.dedup();
        let transport = port.transport.name();
        let reason = format!("no container of the Pods has a {transport} port named {name:?}");
        let hint = match known.is_empty() {
            true => "they name none".to_owned(),
            false => format!("they have {}", known.join(", ")),
        };
        let field = port.field("targetPort");
        Some(Problem::new(Severity::Error, &object, field, reason, hint))
    }
}

/// A slice that is looked through.
struct Slice<'a> {
    object: ObjectRef,
    kept: &'a Kept<EndpointSlice>,
    problems: &'a mut Vec<Problem>,
}

impl Slice<'_> {
    fn inspect(&mut self, wish: &Wish) {
        let slice = &self.kept.object;
        let family = match slice.address_type.as_str() {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            other => {
                let reason = format!("addresses of type {other:?} are not served");
                return self.add(
                    Severity::Warning,
                    "addressType".into(),
                    reason,
                    "IPv4 or IPv6",
                );
            }
        };
        for (index, endpoint) in slice.endpoints.iter().flatten().enumerate() {
            if let Some(reason) = unreachable(endpoint, family) {
                self.add(
                    Severity::Error,
                    format!("endpoints[{index}].addresses"),
                    reason,
                    "",
                );
            }
        }
        for (index, port) in slice.ports.iter().flatten().enumerate() {
            if let Some(number) = port.port
                && !(1..=0xFFFF).contains(&number)
            {
                let field = format!("ports[{index}].port");
                self.add(Severity::Error, field, format!("{number} is no port"), "");
            }
        }
        self.inspect_names(wish);
    }

    /// Endpoints belong to a port of the Service by its name.
    fn inspect_names(&mut self, wish: &Wish) {
        let ports = self.kept.object.ports.iter().flatten();
        let names: Vec<_> = ports
            .map(|it| it.name.as_deref().unwrap_or_default())
            .collect();
        let is_known = |name: &&str| wish.ports.iter().any(|it| it.name == **name);
        if wish.ports.is_empty() || names.is_empty() || names.iter().any(is_known) {
            return;
        }
        let quoted = |names: Vec<&str>| -> String {
            names
                .iter()
                .map(|it| format!("{it:?}"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let wanted = quoted(wish.ports.iter().map(|it| &*it.name).collect());
        let reason = format!(
            "no port of the Service has such a name: it has {wanted}, and this {}",
            quoted(names)
        );
        let hint = "give both the same name";
        self.add(Severity::Warning, "ports".into(), reason, hint);
    }

    fn add(&mut self, severity: Severity, field: String, reason: String, hint: &str) {
        let mut problem = Problem::new(severity, &self.object, field, reason, hint);
        problem.origin.clone_from(&self.kept.origin);
        self.problems.push(problem);
    }
}

/// Why an endpoint has no address that can be used.
fn unreachable(endpoint: &Endpoint, family: Family) -> Option<String> {
    let Some(text) = endpoint.addresses.first() else {
        return Some("it is empty".to_owned());
    };
    match text.parse::<IpAddr>() {
        Err(_) => Some(format!("{text:?} is no IP address")),
        Ok(it) if Family::of(it) != family => Some(format!("{it} is no {} address", family.name())),
        Ok(it) if !is_reachable(it) => Some(format!("{it} cannot be reached")),
        Ok(_) => None,
    }
}
