//! One Service's part of the plan.
//!
//! Invariant: valid whatever the objects say. A front without any endpoint is no listener, so that
//! the kernel refuses what comes; one that has endpoints elsewhere only, with a policy of `Local`,
//! is a listener that drops what comes, as kube-proxy has it.
//! Read next: `choose.rs`, `claims.rs`.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use lb_core::plan::{
    self, Access, Affinity, BACKENDS_MAX, Cluster, Edge, ListenSocket, Listener, ListenerLog, Plan,
    Protocol, Tcp, Udp,
};
use lb_core::prefixes::Prefix;

use super::Services;
use super::choose::{Endpoint, Scope, choose};
use super::claims::{Front, FrontKind, Grant, node_port_addresses};
use super::endpoints::Source;
use super::node::NodeView;
use super::wish::{Family, NodePortWish, Policy, TargetPort, Transport, Wish, WishedPort};
use crate::health::HealthCheckNodePort;
use crate::ingress::ClusterRequest;
use crate::object::{Kind, Name, ObjectRef};
use crate::problem::{Problem, Severity};
use crate::store::selector;

/// As long as the kernel tracks a connection for kube-proxy
/// (`--conntrack-tcp-timeout-established`).
const IDLE_TIMEOUT: Duration = Duration::from_hours(24);

/// What a Service brings to the plan.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Part {
    pub(crate) listeners: Vec<Arc<Listener>>,
    pub(crate) clusters: Vec<Arc<Cluster>>,
    pub(crate) health_check: Option<HealthCheckNodePort>,
    pub(crate) local_addresses: BTreeSet<IpAddr>,
    pub(crate) balancer: Option<Vec<IpAddr>>,
    pub(crate) host_name: Option<String>,
    pub(crate) problems: Vec<Problem>,
}

/// Makes the part of one Service.
pub(crate) struct Builder<'a> {
    pub(crate) services: Services<'a>,
    pub(crate) node: &'a NodeView,
    pub(crate) name: &'a Name,
    pub(crate) wish: &'a Wish,
    pub(crate) grant: &'a Grant,
    /// What Ingresses want of it.
    pub(crate) requests: &'a [ClusterRequest],
}

impl Builder<'_> {
    /// What is as in `before` is taken from there.
    pub(crate) fn build(&self, before: Option<&Part>) -> Part {
        let mut part = Part {
            problems: self.wish.problems.clone(),
            ..Part::default()
        };
        part.problems.extend(self.grant.problems.iter().cloned());
        if self.grant.fronts.is_empty() && self.requests.is_empty() {
            self.finish(&mut part, before);
            return part;
        }
        let service = self.services.store.service(self.name);
        let selector = service.and_then(selector);
        let source = Source::of(
            self.services.store,
            self.name,
            self.wish,
            selector,
            self.node,
        );
        part.problems.extend(source.problems());
        let mut clusters = BTreeMap::new();
        let mut sets = Sets {
            source: &source,
            known: BTreeMap::new(),
        };
        for front in &self.grant.fronts {
            self.add_front(front, &mut sets, &mut clusters, &mut part);
        }
        for request in self.requests {
            self.add_request(request, &mut sets, &mut clusters, &mut part);
        }
        part.health_check = self.health_check(&mut sets);
        part.clusters = clusters.into_values().collect();
        self.finish(&mut part, before);
        part
    }

    fn add_front(
        &self,
        front: &Front,
        sets: &mut Sets<'_, '_>,
        clusters: &mut BTreeMap<String, Arc<Cluster>>,
        part: &mut Part,
    ) {
        let port = &self.wish.ports[front.port];
        let family = Family::of(front.address.ip());
        let policy = match front.kind {
            FrontKind::ClusterIp => self.wish.internal_policy,
            _ => self.wish.external_policy,
        };
        let scope = match policy {
            Policy::Cluster => Scope::Cluster,
            Policy::Local => Scope::Local,
            Policy::Unknown => return,
        };
        if front.kind != FrontKind::NodePort {
            part.local_addresses.insert(front.address.ip());
        }
        let endpoints = sets.get(front.port, port, family);
        let chosen = choose(endpoints, scope, self.node);
        let is_anywhere = endpoints.iter().any(Endpoint::is_usable);
        let name = self.cluster_name(port, family, scope, self.wish.affinity.is_some());
        if !clusters.contains_key(&name) {
            let mut cluster = Cluster::new(&name, chosen.backends);
            cluster.affinity = self.wish.affinity.map(Affinity::client_address);
            self.limit(&mut cluster, part);
            clusters.insert(name.clone(), Arc::new(cluster));
        }
        if !chosen.is_usable {
            let action = match is_anywhere {
                true => "what comes is dropped",
                false => "connections are refused",
            };
            part.problems.push(self.nobody(port, endpoints, action));
        }
        if is_anywhere {
            let listener = self.listener(front, port, name, !chosen.is_usable);
            part.listeners.push(Arc::new(listener));
        }
    }

    fn listener(&self, front: &Front, port: &WishedPort, cluster: String, drops: bool) -> Listener {
        let access = match (front.kind, &self.wish.balancer) {
            (FrontKind::Balancer, Some(balancer)) => {
                self.access(front.address.ip(), &balancer.allow)
            }
            _ => Access::default(),
        };
        Listener {
            name: format!("{}:{}@{}", self.name, port.id(), front.address),
            address: front.address,
            edge: Edge {
                access,
                socket: ListenSocket {
                    drops_all: drops,
                    v6_only: front.address.is_ipv6(),
                    ..ListenSocket::default()
                },
                ..Edge::default()
            },
            access_log: ListenerLog::default(),
            protocol: match port.transport {
                Transport::Tcp => Protocol::Tcp(Tcp {
                    idle_timeout: IDLE_TIMEOUT,
                    ..Tcp::to(cluster)
                }),
                Transport::Udp => Protocol::Udp(Udp::to(cluster)),
            },
        }
    }

    /// Who may connect to a load balancer's address: this machine too, if its own address may.
    fn access(&self, address: IpAddr, ranges: &[Prefix]) -> Access {
        let family = Family::of(address);
        let of_family = |it: &&Prefix| Family::of(it.address()) == family;
        let mut allow: Vec<Prefix> = ranges.iter().filter(of_family).copied().collect();
        let is_allowed = |address: &IpAddr| allow.iter().any(|it| it.contains(*address));
        if self.node.addresses.iter().any(is_allowed) && !is_allowed(&address) {
            allow.push(address.into());
        }
        Access {
            allow,
            deny: Vec::new(),
        }
    }

    /// The cluster that a route leads to: of all endpoints, wherever a client's earlier requests
    /// went.
    fn add_request(
        &self,
        request: &ClusterRequest,
        sets: &mut Sets<'_, '_>,
        clusters: &mut BTreeMap<String, Arc<Cluster>>,
        part: &mut Part,
    ) {
        let outside;
        let is_it = |it: &&WishedPort| it.number == request.port && it.transport == Transport::Tcp;
        let (index, port) = match self.wish.ports.iter().position(|it| is_it(&it)) {
            Some(index) => (index, &self.wish.ports[index]),
            None => {
                outside = WishedPort {
                    index: 0,
                    name: String::new(),
                    number: request.port,
                    transport: Transport::Tcp,
                    target: TargetPort::Number(request.port),
                    node_port: NodePortWish::None,
                };
                (usize::from(request.port) + self.wish.ports.len(), &outside)
            }
        };
        part.host_name.clone_from(&self.wish.external_name);
        let family = self.wish.families[0];
        let name = match &request.template {
            Some(template) => template.name.clone(),
            None => match self.services.store.service(self.name) {
                Some(service) => Services::cluster_name(self.name, service, request.port),
                None => return,
            },
        };
        if clusters.contains_key(&name) {
            return;
        }
        let endpoints = sets.get(index, port, family);
        let chosen = choose(endpoints, Scope::Cluster, self.node);
        // A name that is not looked up yet is no news.
        if !chosen.is_usable && self.wish.external_name.is_none() {
            let action = "requests of Ingresses get a 503";
            part.problems.push(self.nobody(port, endpoints, action));
        }
        let mut cluster = match &request.template {
            Some(template) => Cluster {
                backends: chosen.backends,
                ..Cluster::clone(template)
            },
            None => Cluster::new(&name, chosen.backends),
        };
        self.limit(&mut cluster, part);
        clusters.insert(name, Arc::new(cluster));
    }

    /// There is no endpoint to use now: what somebody wants to know who finds nothing answering.
    fn nobody(&self, port: &WishedPort, endpoints: &[Endpoint<'_>], action: &str) -> Problem {
        let usable = endpoints.iter().filter(|it| it.is_usable()).count();
        let reason = match (endpoints.len(), usable) {
            (0, _) => "it has no endpoint".to_owned(),
            (count, 0) => format!("no endpoint is ready, of {count}"),
            (_, count) => format!("no endpoint is on this node, of {count} that are ready"),
        };
        let (number, transport) = (port.number, port.transport.name());
        let field = format!("spec.ports[{}]", port.index);
        let reason = format!("{transport} {number}: {reason}; {action}");
        let object = self.reference();
        Problem::new(Severity::Note, &object, field, reason, "")
    }

    fn cluster_name(
        &self,
        port: &WishedPort,
        family: Family,
        scope: Scope,
        has_affinity: bool,
    ) -> String {
        let mut name = format!("{}:{}", self.name, port.id());
        if scope == Scope::Local {
            name += "/local";
        }
        if family != self.wish.families[0] {
            name += match family {
                Family::V4 => "/ipv4",
                Family::V6 => "/ipv6",
            };
        }
        if has_affinity {
            name += "/sticky";
        }
        name
    }

    fn limit(&self, cluster: &mut Cluster, part: &mut Part) {
        let count = cluster.backends.len();
        if count > BACKENDS_MAX {
            cluster.backends.truncate(BACKENDS_MAX);
            let reason = format!("it has {count} endpoints, of which {BACKENDS_MAX} are used");
            let object = self.reference();
            part.problems
                .push(Problem::new(Severity::Warning, &object, "", reason, ""));
        }
    }

    fn health_check(&self, sets: &mut Sets<'_, '_>) -> Option<HealthCheckNodePort> {
        let port = self.grant.health_port?;
        let mut local: HashSet<IpAddr> = HashSet::new();
        for (index, wished) in self.wish.ports.iter().enumerate() {
            let endpoints = sets.get(index, wished, self.wish.families[0]);
            let ready = endpoints.iter().filter(|it| it.ready && it.local);
            local.extend(ready.map(|it| it.address.ip()));
        }
        Some(HealthCheckNodePort {
            service: self.name.clone(),
            port,
            addresses: node_port_addresses(self.services.options, self.node, &self.wish.families),
            local_endpoints: local.len(),
        })
    }

    /// Fills in where problems are, leaves out what would not be valid, and shares what is as
    /// before.
    fn finish(&self, part: &mut Part, before: Option<&Part>) {
        if self.wish.balancer.is_some() {
            part.balancer = Some(self.grant.balancer.clone());
        }
        self.note_locality(part);
        self.keep_valid(part);
        let origin = self.services.store.services().get(self.name);
        let origin = origin.and_then(|it| it.origin.clone());
        let reference = self.reference();
        for problem in &mut part.problems {
            if problem.object == reference {
                problem.origin.clone_from(&origin);
            }
        }
        part.problems.sort();
        part.problems.dedup();
        if let Some(before) = before {
            share(&mut part.listeners, &before.listeners);
            share(&mut part.clusters, &before.clusters);
        }
    }

    fn note_locality(&self, part: &mut Part) {
        let policies = [
            (
                self.wish.external_policy,
                false,
                "spec.externalTrafficPolicy",
            ),
            (
                self.wish.internal_policy,
                true,
                "spec.internalTrafficPolicy",
            ),
        ];
        for (policy, is_internal, field) in policies {
            let concerns = |front: &Front| (front.kind == FrontKind::ClusterIp) == is_internal;
            let is_asked = policy == Policy::Local && self.grant.fronts.iter().any(concerns);
            if is_asked && self.node.name.is_none() {
                let reason = "it is Local, and without the name of this Node nothing is";
                let hint = "give it by --node-name";
                let object = self.reference();
                part.problems
                    .push(Problem::new(Severity::Error, &object, field, reason, hint));
            }
        }
    }

    /// A last look with the eyes of those who run it.
    fn keep_valid(&self, part: &mut Part) {
        let plan = Plan {
            listeners: part.listeners.clone(),
            clusters: part.clusters.clone(),
            ..Plan::default()
        };
        let Err(errors) = plan.validate() else { return };
        part.listeners.clear();
        for error in errors {
            let object = self.reference();
            let reason = error.to_string();
            part.problems
                .push(Problem::new(Severity::Error, &object, "", reason, ""));
            if let plan::Place::Cluster { name, .. } | plan::Place::Backend { name, .. } =
                error.place()
            {
                for cluster in &mut part.clusters {
                    if cluster.name == *name {
                        *cluster = Arc::new(Cluster::new(name, Vec::new()));
                    }
                }
            }
        }
    }

    fn reference(&self) -> ObjectRef {
        ObjectRef {
            kind: Kind::Service,
            name: self.name.clone(),
        }
    }
}

/// The endpoints of each port and family, gathered once.
struct Sets<'s, 'a> {
    source: &'s Source<'a>,
    known: BTreeMap<(usize, Family), Vec<Endpoint<'a>>>,
}

impl<'a> Sets<'_, 'a> {
    fn get(&mut self, index: usize, port: &WishedPort, family: Family) -> &[Endpoint<'a>] {
        let gather = || self.source.endpoints(port, family);
        self.known.entry((index, family)).or_insert_with(gather)
    }
}

/// Puts what is equal to something in `before` in its place.
fn share<T: PartialEq>(new: &mut [Arc<T>], before: &[Arc<T>]) {
    for (index, item) in new.iter_mut().enumerate() {
        let same_place = before.get(index).filter(|it| *it == item);
        if let Some(same) = same_place.or_else(|| before.iter().find(|it| *it == item)) {
            *item = Arc::clone(same);
        }
    }
}
