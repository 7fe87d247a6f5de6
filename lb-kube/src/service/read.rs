//! What a Service asks for, read and checked once.
//!
//! Invariant: what the API server would fill in is filled in here (type, target port, families), as
//! far as it follows from the object; what it would refuse is reported and left out.
//! Read next: `claims.rs` (which of it is granted), `part.rs` (what is made of it).

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use lb_core::plan::Affinity;
use lb_core::prefixes::Prefix;

use crate::object::{Kind, ObjectRef};
use crate::options::Options;
use crate::problem::{Problem, Severity};

/// Who a Service leaves it to, if not to every proxy.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";

/// A Service as it is served.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wish {
    /// Creation in nanoseconds; the oldest wins. What does not say it is the youngest.
    pub(crate) created: i128,
    pub(crate) ports: Vec<WishedPort>,
    /// The first is the primary one.
    pub(crate) families: Vec<Family>,
    /// The name outside that it stands for.
    pub(crate) external_name: Option<String>,
    pub(crate) cluster_ips: Vec<IpAddr>,
    pub(crate) external_ips: Vec<IpAddr>,
    pub(crate) balancer: Option<BalancerWish>,
    pub(crate) external_policy: Policy,
    pub(crate) internal_policy: Policy,
    pub(crate) affinity: Option<Duration>,
    pub(crate) publish_not_ready: bool,
    pub(crate) distribution: Distribution,
    pub(crate) problems: Vec<Problem>,
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WishedPort {
    /// Its position in `spec.ports`.
    pub(crate) index: usize,
    /// Its name; empty if it has none.
    pub(crate) name: String,
    pub(crate) number: u16,
    pub(crate) transport: Transport,
    pub(crate) target: TargetPort,
    pub(crate) node_port: NodePortWish,
}

impl WishedPort {
    /// What tells it from the others of its Service.
    pub(crate) fn id(&self) -> String {
        if self.name.is_empty() {
            self.number.to_string()
        } else {
            self.name.clone()
        }
    }

    pub(crate) fn field(&self, field: &str) -> String {
        format!("spec.ports[{}].{field}", self.index)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TargetPort {
    Number(u16),
    Name(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodePortWish {
    None,
    /// Any that is free.
    Any,
    This(u16),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Policy {
    Cluster,
    Local,
    /// It says something else: what it governs is not served.
    Unknown,
}

/// What is asked of a load balancer that is us.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BalancerWish {
    /// The addresses it has, or asks for; none leaves it to the pool.
    pub(crate) fixed: Vec<IpAddr>,
    /// Who may connect; empty is everybody.
    pub(crate) allow: Vec<Prefix>,
    /// Where its health is asked, with `externalTrafficPolicy: Local`.
    pub(crate) health_port: NodePortWish,
}

/// `trafficDistribution`, of which the controller makes hints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Distribution {
    Anywhere,
    SameNode,
    SameZone,
}

/// Collects what is wrong with one object.
struct Report {
    object: ObjectRef,
    problems: Vec<Problem>,
}

impl Report {
    fn add(
        &mut self,
        severity: Severity,
        field: impl Into<String>,
        reason: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let problem = Problem::new(severity, &self.object, field, reason, hint);
        self.problems.push(problem);
    }

    fn error(
        &mut self,
        field: impl Into<String>,
        reason: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.add(Severity::Error, field, reason, hint);
    }
}

impl Wish {
    /// Reads a Service; `families` are those of the Node.
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
        let has_node_ports = match type_ {
            "NodePort" => !is_headless,
            "LoadBalancer" => !is_headless,
            _ => false,
        };
        let allocates = match type_ {
            "LoadBalancer" => spec.allocate_load_balancer_node_ports != Some(false),
            _ => true,
        };
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
        let has_local = |policy: Policy| policy == Policy::Local;
        let external = spec.external_traffic_policy.as_deref();
        self.external_policy = policy("spec.externalTrafficPolicy", external, report);
        let internal = spec.internal_traffic_policy.as_deref();
        self.internal_policy = policy("spec.internalTrafficPolicy", internal, report);
        let _ = has_local;
        self.affinity = affinity(spec, report);
        self.distribution = match spec.traffic_distribution.as_deref() {
            None | Some("") => Distribution::Anywhere,
            Some("PreferClose" | "PreferSameZone") => Distribution::SameZone,
            Some("PreferSameNode") => Distribution::SameNode,
            Some(other) => {
                let reason = format!("{other:?} is not known, so traffic goes anywhere");
                let hint = "PreferSameZone, PreferSameNode or PreferClose";
                report.add(Severity::Warning, "spec.trafficDistribution", reason, hint);
                Distribution::Anywhere
            }
        };
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

fn read_node_port(
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

fn policy(field: &str, given: Option<&str>, report: &mut Report) -> Policy {
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

fn affinity(spec: &ServiceSpec, report: &mut Report) -> Option<Duration> {
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
fn families(spec: &ServiceSpec, report: &mut Report) -> Vec<Family> {
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

fn cluster_ips(spec: &ServiceSpec, report: &mut Report) -> Vec<IpAddr> {
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
fn status_addresses(service: &Service, options: &Options) -> Vec<IpAddr> {
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
fn source_ranges(spec: &ServiceSpec, report: &mut Report) -> Option<Vec<Prefix>> {
    let given = spec
        .load_balancer_source_ranges
        .as_deref()
        .unwrap_or_default();
    let mut allow: Vec<Prefix> = Vec::new();
    for (index, text) in given.iter().enumerate() {
        let parsed = match text.trim().parse::<Prefix>() {
            Err(lb_core::prefixes::PrefixError::HostBits { meant, .. }) => Ok(meant),
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
fn address(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text
        .parse()
        .map_err(|_| format!("{text:?} is no IP address"))?;
    if address.is_unspecified() || address.is_multicast() || address.to_canonical() != address {
        return Err(format!("{address} cannot be an address of a Service"));
    }
    Ok(address)
}
