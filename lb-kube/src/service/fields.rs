//! Single fields of a Service.
//!
//! Invariant: each says what it found wrong, by the name that the field has in the object.
//! Read next: `read.rs` (which asks for them).

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use lb_core::plan::Affinity;
use lb_core::prefixes::{Prefix, PrefixError};

use super::wish::{Distribution, Family, NodePortWish, Policy};
use crate::object::ObjectRef;
use crate::options::Options;
use crate::problem::{Problem, Severity};

/// Collects what is wrong with one object.
pub(super) struct Report {
    pub(super) object: ObjectRef,
    pub(super) problems: Vec<Problem>,
}

impl Report {
    pub(super) fn add(
        &mut self,
        severity: Severity,
        field: impl Into<String>,
        reason: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let problem = Problem::new(severity, &self.object, field, reason, hint);
        self.problems.push(problem);
    }

    pub(super) fn error(
        &mut self,
        field: impl Into<String>,
        reason: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.add(Severity::Error, field, reason, hint);
    }
}
pub(super) fn read_node_port(
    field: &str,
    port: Option<i32>,
    options: &Options,
    report: &mut Report,
) -> NodePortWish {
    let Some(port) = port.filter(|port| *port != 0) else {
        return NodePortWish::Any;
    };
    let range = &options.nodeport_range;
    match u16::try_from(port) {
        Ok(port) if range.contains(&port) => NodePortWish::This(port),
        _ => {
            let (first, last) = (range.start(), range.end());
            let reason = format!("{port} is outside of the range {first} to {last}");
            report.error(field, reason, "leave it out to get one that is free");
            NodePortWish::None
        }
    }
}

pub(super) fn policy(field: &str, given: Option<&str>, report: &mut Report) -> Policy {
    match given {
        None | Some("Cluster" | "") => Policy::Cluster,
        Some("Local") => Policy::Local,
        Some(other) => {
            let reason = format!("there is no policy {other:?}");
            report.error(field, reason, "Cluster or Local");
            Policy::Unknown
        }
    }
}

pub(super) fn affinity(spec: &ServiceSpec, report: &mut Report) -> Option<Duration> {
    match spec.session_affinity.as_deref() {
        None | Some("None" | "") => return None,
        Some("ClientIP") => {}
        Some(other) => {
            let reason = format!("there is no affinity {other:?}, so there is none");
            report.add(
                Severity::Warning,
                "spec.sessionAffinity",
                reason,
                "None or ClientIP",
            );
            return None;
        }
    }
    let config = spec.session_affinity_config.as_ref();
    let seconds = config.and_then(|it| it.client_ip.as_ref()?.timeout_seconds);
    let timeout = seconds.map_or(Affinity::TIMEOUT_DEFAULT, |seconds| {
        Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
    });
    if timeout >= Affinity::TIMEOUT_LEAST && timeout <= Affinity::TIMEOUT_LIMIT {
        return Some(timeout);
    }
    let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
    let reason = format!(
        "{} is not 1 to 86400, so it is 10800",
        seconds.unwrap_or_default()
    );
    report.add(Severity::Warning, field, reason, "");
    Some(Affinity::TIMEOUT_DEFAULT)
}

/// The families, as the API server would fill them in for a cluster of both.
pub(super) fn families(spec: &ServiceSpec, report: &mut Report) -> Vec<Family> {
    let mut families = Vec::new();
    for (index, name) in spec.ip_families.iter().flatten().enumerate() {
        let family = match name.as_str() {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            other => {
                let reason = format!("there is no family {other:?}");
                report.error(format!("spec.ipFamilies[{index}]"), reason, "IPv4 or IPv6");
                continue;
            }
        };
        if !families.contains(&family) {
            families.push(family);
        }
    }
    let given = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    for address in given.filter_map(|it| it.parse::<IpAddr>().ok()) {
        let family = Family::of(address);
        if !families.contains(&family) && spec.ip_families.is_none() {
            families.push(family);
        }
    }
    if families.is_empty() {
        families.push(Family::V4);
    }
    match spec.ip_family_policy.as_deref() {
        Some("PreferDualStack" | "RequireDualStack") if families.len() == 1 => {
            families.push(match families[0] {
                Family::V4 => Family::V6,
                Family::V6 => Family::V4,
            });
        }
        None | Some("SingleStack" | "PreferDualStack" | "RequireDualStack") => {}
        Some(other) => {
            let reason = format!("there is no policy {other:?}");
            let hint = "SingleStack, PreferDualStack or RequireDualStack";
            report.add(Severity::Warning, "spec.ipFamilyPolicy", reason, hint);
        }
    }
    families
}

pub(super) fn cluster_ips(spec: &ServiceSpec, report: &mut Report) -> Vec<IpAddr> {
    let mut found = Vec::new();
    let given = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    for text in given.filter(|it| !it.is_empty()) {
        match address(text) {
            Ok(address) if !found.contains(&address) => found.push(address),
            Ok(_) => {}
            Err(reason) => report.error("spec.clusterIP", reason, ""),
        }
    }
    if found.is_empty() && report.problems.is_empty() {
        let reason = "it is missing, and there is no API server to choose one";
        report.add(Severity::Note, "spec.clusterIP", reason, "");
    }
    found
}

/// Addresses that the Service was given: ours, or such as every node answers on (ipMode VIP).
pub(super) fn status_addresses(service: &Service, options: &Options) -> Vec<IpAddr> {
    let status = service
        .status
        .as_ref()
        .and_then(|it| it.load_balancer.as_ref());
    let ingress = status
        .and_then(|it| it.ingress.as_deref())
        .unwrap_or_default();
    let mut addresses = Vec::new();
    for point in ingress {
        let Some(Ok(address)) = point.ip.as_deref().map(address) else {
            continue;
        };
        let is_vip = point.ip_mode.as_deref() != Some("Proxy");
        let is_ours = options.lb_pool.iter().any(|it| it.contains(address));
        if is_vip || is_ours {
            addresses.push(address);
        }
    }
    addresses
}

/// `None` if nothing of what is given can be understood: it would let everybody in.
pub(super) fn source_ranges(spec: &ServiceSpec, report: &mut Report) -> Option<Vec<Prefix>> {
    let given = spec
        .load_balancer_source_ranges
        .as_deref()
        .unwrap_or_default();
    let mut allow: Vec<Prefix> = Vec::new();
    for (index, text) in given.iter().enumerate() {
        let parsed = match text.trim().parse::<Prefix>() {
            Err(PrefixError::HostBits { meant, .. }) => Ok(meant),
            other => other,
        };
        match parsed {
            Ok(prefix) if !allow.contains(&prefix) => allow.push(prefix),
            Ok(_) => {}
            Err(error) => {
                let field = format!("spec.loadBalancerSourceRanges[{index}]");
                report.error(field, error.to_string(), "");
            }
        }
    }
    if allow.is_empty() && !given.is_empty() {
        let reason = "none of them can be read, so the load balancer's address is not served";
        report.error("spec.loadBalancerSourceRanges", reason, "");
        return None;
    }
    Some(allow)
}

/// An address that can be listened on.
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text
        .parse()
        .map_err(|_| format!("{text:?} is no IP address"))?;
    if address.is_unspecified() || address.is_multicast() || address.to_canonical() != address {
        return Err(format!("{address} cannot be an address of a Service"));
    }
    Ok(address)
}

/// `trafficDistribution`.
pub(super) fn distribution(spec: &ServiceSpec, report: &mut Report) -> Distribution {
    match spec.traffic_distribution.as_deref() {
        None | Some("") => Distribution::Anywhere,
        Some("PreferClose" | "PreferSameZone") => Distribution::SameZone,
        Some("PreferSameNode") => Distribution::SameNode,
        Some(other) => {
            let reason = format!("{other:?} is not known, so traffic goes anywhere");
            let hint = "PreferSameZone, PreferSameNode or PreferClose";
            report.add(Severity::Warning, "spec.trafficDistribution", reason, hint);
            Distribution::Anywhere
        }
    }
}
