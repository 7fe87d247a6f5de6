//! A Service, read and checked once.
//!
//! Invariant: what the API server would fill in is filled in here (type, target port, families), as
//! far as it follows from the object; what it would refuse is reported and left out.
//! Read next: `fields.rs` (single fields), `claims.rs` (which of it is granted).

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::fields::{
    Report, address, affinity, cluster_ips, distribution, families, policy, read_node_port,
    source_ranges, status_addresses,
};
use super::wish::{
    BalancerWish, Distribution, Family, NodePortWish, Policy, TargetPort, Transport, Wish,
    WishedPort,
};
use crate::object::{Kind, ObjectRef};
use crate::options::Options;
use crate::problem::Severity;

/// Who a Service leaves it to, if not to every proxy.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";

impl Wish {
    /// Reads a Service.
    pub(crate) fn read(service: &Service, options: &Options) -> Self {
        let mut report = Report {
            object: ObjectRef::of(Kind::Service, &service.metadata),
            problems: Vec::new(),
        };
        let created = service.metadata.creation_timestamp.as_ref();
        let mut wish = Self {
            created: created.map_or(i128::MAX, |it| it.0.as_nanosecond()),
            ports: Vec::new(),
            families: vec![Family::V4],
            external_name: None,
            cluster_ips: Vec::new(),
            external_ips: Vec::new(),
            balancer: None,
            external_policy: Policy::Cluster,
            internal_policy: Policy::Cluster,
            affinity: None,
            publish_not_ready: false,
            distribution: Distribution::Anywhere,
            problems: Vec::new(),
        };
        match &service.spec {
            Some(spec) => wish.read_spec(service, spec, options, &mut report),
            None => report.error(
                "spec",
                "it is missing",
                "say at least which ports there are",
            ),
        }
        wish.problems = report.problems;
        wish
    }

    fn read_spec(
        &mut self,
        service: &Service,
        spec: &ServiceSpec,
        options: &Options,
        report: &mut Report,
    ) {
        let type_ = spec.type_.as_deref().unwrap_or("ClusterIP");
        let is_headless = spec.cluster_ip.as_deref() == Some("None");
        self.families = families(spec, report);
        self.publish_not_ready = spec.publish_not_ready_addresses.unwrap_or_default();
        self.read_policies(spec, report);
        match type_ {
            "ClusterIP" => {}
            "ExternalName" => {
                self.external_name = spec.external_name.clone().filter(|it| !it.is_empty());
                if self.external_name.is_none() {
                    report.error("spec.externalName", "it is missing", "");
                }
            }
            "LoadBalancer" | "NodePort" if is_headless => {
                let reason = format!("a Service of type {type_} cannot be headless");
                report.error("spec.clusterIP", reason, "leave clusterIP out");
            }
            "LoadBalancer" => self.read_balancer(service, spec, options, report),
            "NodePort" => {}
            other => {
                let reason = format!("there is no type {other:?}");
                report.error("spec.type", reason, "ClusterIP, NodePort or LoadBalancer");
                return;
            }
        }
        let has_node_ports = matches!(type_, "NodePort" | "LoadBalancer") && !is_headless;
        let allocates =
            type_ != "LoadBalancer" || spec.allocate_load_balancer_node_ports != Some(false);
        self.read_ports(spec, has_node_ports, allocates, options, report);
        if let Some(proxy) = service
            .metadata
            .labels
            .as_ref()
            .and_then(|it| it.get(PROXY_NAME))
        {
            let reason = format!("it is left to the proxy {proxy:?}");
            let field = format!("metadata.labels[{PROXY_NAME}]");
            report.add(Severity::Note, field, reason, "");
            self.balancer = None;
            for port in &mut self.ports {
                port.node_port = NodePortWish::None;
            }
            return;
        }
        self.read_addresses(spec, is_headless, options, report);
    }

    fn read_policies(&mut self, spec: &ServiceSpec, report: &mut Report) {
        let external = spec.external_traffic_policy.as_deref();
        self.external_policy = policy("spec.externalTrafficPolicy", external, report);
        let internal = spec.internal_traffic_policy.as_deref();
        self.internal_policy = policy("spec.internalTrafficPolicy", internal, report);
        self.affinity = affinity(spec, report);
        self.distribution = distribution(spec, report);
    }

    fn read_ports(
        &mut self,
        spec: &ServiceSpec,
        has_node_ports: bool,
        allocates: bool,
        options: &Options,
        report: &mut Report,
    ) {
        let ports = spec.ports.as_deref().unwrap_or_default();
        if ports.is_empty() && self.external_name.is_none() {
            report.add(Severity::Warning, "spec.ports", "there is none", "");
        }
        let mut names = HashSet::new();
        let mut numbers = HashSet::new();
        for (index, port) in ports.iter().enumerate() {
            let field = |name: &str| format!("spec.ports[{index}].{name}");
            let Some(mut wished) = read_port(index, port, report) else {
                continue;
            };
            if wished.name.is_empty() && ports.len() > 1 {
                let reason = "it is missing, and a Service with several ports names each";
                report.error(field("name"), reason, "");
                continue;
            }
            if !names.insert(wished.name.clone()) {
                let reason = format!("an earlier port is named {:?} too", wished.name);
                report.error(field("name"), reason, "");
                continue;
            }
            if !numbers.insert((wished.transport, wished.number)) {
                let transport = wished.transport.name();
                let reason = format!("an earlier port is {} {transport} too", wished.number);
                report.error(field("port"), reason, "");
                continue;
            }
            if has_node_ports {
                wished.node_port =
                    read_node_port(&field("nodePort"), port.node_port, options, report);
                if wished.node_port == NodePortWish::Any && !allocates {
                    wished.node_port = NodePortWish::None;
                }
            }
            self.ports.push(wished);
        }
    }

    fn read_balancer(
        &mut self,
        service: &Service,
        spec: &ServiceSpec,
        options: &Options,
        report: &mut Report,
    ) {
        if spec.load_balancer_class != options.load_balancer_class {
            let (reason, hint) = match (&spec.load_balancer_class, &options.load_balancer_class) {
                (Some(class), _) => (
                    format!("the class {class:?} is another load balancer's"),
                    "",
                ),
                (None, _) => (
                    "it is missing, so this is another load balancer's".to_owned(),
                    "",
                ),
            };
            report.add(Severity::Note, "spec.loadBalancerClass", reason, hint);
            return;
        }
        let mut fixed = status_addresses(service, options);
        if fixed.is_empty()
            && let Some(given) = spec.load_balancer_ip.as_deref().filter(|it| !it.is_empty())
        {
            match address(given) {
                Ok(address) => fixed.push(address),
                Err(reason) => {
                    report.error("spec.loadBalancerIP", reason, "");
                    return;
                }
            }
        }
        let Some(allow) = source_ranges(spec, report) else {
            return;
        };
        let health_port = match self.external_policy {
            Policy::Local => {
                let port = spec.health_check_node_port;
                read_node_port("spec.healthCheckNodePort", port, options, report)
            }
            _ => NodePortWish::None,
        };
        self.balancer = Some(BalancerWish {
            fixed,
            allow,
            health_port,
        });
    }

    fn read_addresses(
        &mut self,
        spec: &ServiceSpec,
        is_headless: bool,
        options: &Options,
        report: &mut Report,
    ) {
        let external = spec.external_ips.as_deref().unwrap_or_default();
        if options.external_ips {
            for (index, text) in external.iter().enumerate() {
                match address(text) {
                    Ok(address) => self.external_ips.push(address),
                    Err(reason) => report.error(format!("spec.externalIPs[{index}]"), reason, ""),
                }
            }
        } else if !external.is_empty() {
            let reason = "they are not served: whoever may write a Service could take any address \
                          (CVE-2020-8554)";
            let hint = "use type LoadBalancer, or --external-ips where all who may are trusted";
            report.add(Severity::Warning, "spec.externalIPs", reason, hint);
        }
        if options.cluster_ips && !is_headless && self.external_name.is_none() {
            self.cluster_ips = cluster_ips(spec, report);
        }
    }
}
fn read_port(index: usize, port: &ServicePort, report: &mut Report) -> Option<WishedPort> {
    let field = |name: &str| format!("spec.ports[{index}].{name}");
    let number = match u16::try_from(port.port) {
        Ok(number) if number > 0 => number,
        _ => {
            let reason = format!("{} is no port, which is 1 to 65535", port.port);
            report.error(field("port"), reason, "");
            return None;
        }
    };
    let transport = match port.protocol.as_deref() {
        None | Some("TCP" | "") => Transport::Tcp,
        Some("UDP") => Transport::Udp,
        Some("SCTP") => {
            report.error(field("protocol"), "SCTP is not relayed", "TCP or UDP");
            return None;
        }
        Some(other) => {
            report.error(
                field("protocol"),
                format!("there is no protocol {other:?}"),
                "TCP or UDP",
            );
            return None;
        }
    };
    let target = match &port.target_port {
        None | Some(IntOrString::Int(0)) => TargetPort::Number(number),
        Some(IntOrString::String(name)) if name.is_empty() => TargetPort::Number(number),
        Some(IntOrString::String(name)) => TargetPort::Name(name.clone()),
        Some(IntOrString::Int(target)) => match u16::try_from(*target) {
            Ok(target) => TargetPort::Number(target),
            Err(_) => {
                let reason = format!("{target} is no port, which is 1 to 65535");
                report.error(field("targetPort"), reason, "");
                return None;
            }
        },
    };
    Some(WishedPort {
        index,
        name: port.name.clone().unwrap_or_default(),
        number,
        transport,
        target,
        node_port: NodePortWish::None,
    })
}
