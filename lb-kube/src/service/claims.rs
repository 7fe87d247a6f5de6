//! Who gets an address or a port that several may want.
//!
//! Invariant: what is granted follows from the Services and the options alone, so that all nodes
//! agree and a restart changes nothing: what is named goes before what is chosen, the older Service
//! before the younger, then by name. A choice begins where a hash of the name leads, so that
//! Services that come and go seldom move others.
//! Read next: `part.rs` (what is made of it).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_core::prefixes::Prefix;
use siphasher::sip::SipHasher13;

use super::node::NodeView;
use super::wish::{Family, NodePortWish, Transport, Wish};
use crate::object::{Kind, Name, ObjectRef};
use crate::options::{NodePortAddresses, Options};
use crate::problem::{Problem, Severity};

/// What a Service was granted.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Grant {
    pub(crate) fronts: Vec<Front>,
    /// Where its health is asked.
    pub(crate) health_port: Option<u16>,
    /// Its addresses as a load balancer.
    pub(crate) balancer: Vec<IpAddr>,
    pub(crate) problems: Vec<Problem>,
}

/// An address that a port of a Service is served on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Front {
    /// Position in [`Wish::ports`].
    pub(crate) port: usize,
    pub(crate) kind: FrontKind,
    pub(crate) address: SocketAddr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrontKind {
    Balancer,
    ClusterIp,
    ExternalIp,
    NodePort,
}

/// What can be had once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Good {
    Address(Transport, SocketAddr),
    NodePort(Transport, u16),
}

/// Grants all wishes at once.
pub(crate) struct Claims<'a> {
    options: &'a Options,
    node: &'a NodeView,
    /// Who has it, as a reader is told.
    taken: HashMap<Good, Holder<'a>>,
    /// Addresses that load balancers have.
    balancers: HashSet<IpAddr>,
    grants: BTreeMap<Name, Grant>,
}

#[derive(Clone, Copy)]
enum Holder<'a> {
    Ingress,
    Service(&'a Name),
}

impl<'a> Claims<'a> {
    /// `listening` is what Ingresses have.
    pub(crate) fn new(
        options: &'a Options,
        node: &'a NodeView,
        listening: impl Iterator<Item = SocketAddr>,
    ) -> Self {
        let taken = listening.map(|it| (Good::Address(Transport::Tcp, it), Holder::Ingress));
        Self {
            options,
            node,
            taken: taken.collect(),
            balancers: HashSet::new(),
            grants: BTreeMap::new(),
        }
    }

    pub(crate) fn grant(mut self, wishes: &'a BTreeMap<Name, Wish>) -> BTreeMap<Name, Grant> {
        let mut ordered: Vec<_> = wishes.iter().collect();
        ordered.sort_by_key(|(name, wish)| (wish.created, *name));
        for (name, wish) in &ordered {
            self.grant_named(name, wish);
        }
        for (name, wish) in &ordered {
            self.grant_chosen(name, wish);
        }
        self.grants
    }

    fn grant_named(&mut self, name: &'a Name, wish: &Wish) {
        let mut grant = Grant::default();
        for (index, port) in wish.ports.iter().enumerate() {
            if let NodePortWish::This(number) = port.node_port {
                let field = port.field("nodePort");
                if self.take_node_port(name, port.transport, number, &field, &mut grant) {
                    self.add_node_port(wish, index, number, &mut grant);
                }
            }
        }
        for (addresses, kind, field) in [
            (&wish.cluster_ips, FrontKind::ClusterIp, "spec.clusterIP"),
            (
                &wish.external_ips,
                FrontKind::ExternalIp,
                "spec.externalIPs",
            ),
        ] {
            for address in addresses {
                self.take_address(name, wish, *address, kind, field, &mut grant);
            }
        }
        if let Some(balancer) = &wish.balancer {
            for address in &balancer.fixed {
                self.balancers.insert(*address);
                grant.balancer.push(*address);
                let (kind, field) = (FrontKind::Balancer, "spec.loadBalancerIP");
                self.take_address(name, wish, *address, kind, field, &mut grant);
            }
            if let NodePortWish::This(number) = balancer.health_port {
                let field = "spec.healthCheckNodePort";
                if self.take_node_port(name, Transport::Tcp, number, field, &mut grant) {
                    grant.health_port = Some(number);
                }
            }
        }
        self.grants.insert(name.clone(), grant);
    }

    fn grant_chosen(&mut self, name: &'a Name, wish: &Wish) {
        let any_port = |port: NodePortWish| port == NodePortWish::Any;
        let needs_port = wish.ports.iter().any(|it| any_port(it.node_port));
        let balancer = wish.balancer.as_ref();
        if !needs_port && balancer.is_none() {
            return;
        }
        let mut grant = self.grants.remove(name).unwrap_or_default();
        for (index, port) in wish.ports.iter().enumerate() {
            if any_port(port.node_port) {
                let field = port.field("nodePort");
                let id = format!("{name}:{}/{}", port.id(), port.transport.name());
                if let Some(number) =
                    self.choose_port(name, port.transport, &id, &field, &mut grant)
                {
                    self.add_node_port(wish, index, number, &mut grant);
                }
            }
        }
        if let Some(balancer) = balancer {
            if any_port(balancer.health_port) {
                let (id, field) = (format!("{name}:health"), "spec.healthCheckNodePort");
                grant.health_port = self.choose_port(name, Transport::Tcp, &id, field, &mut grant);
            }
            if balancer.fixed.is_empty() {
                self.choose_addresses(name, wish, &mut grant);
            }
        }
        self.grants.insert(name.clone(), grant);
    }

    fn take_node_port(
        &mut self,
        name: &'a Name,
        transport: Transport,
        number: u16,
        field: &str,
        grant: &mut Grant,
    ) -> bool {
        if let Some(holder) = self.take(Good::NodePort(transport, number), name) {
            let reason = format!("{} port {number} belongs to {holder}", transport.name());
            let hint = "leave it out to get one that is free";
            grant
                .problems
                .push(problem(Severity::Error, name, field, reason, hint));
            return false;
        }
        true
    }

    fn take_address(
        &mut self,
        name: &'a Name,
        wish: &Wish,
        address: IpAddr,
        kind: FrontKind,
        field: &str,
        grant: &mut Grant,
    ) {
        if !wish.families.contains(&Family::of(address)) {
            let family = Family::of(address).name();
            let reason =
                format!("{address} is {family}, which is not among the Service's families");
            let hint = "add it to spec.ipFamilies";
            grant
                .problems
                .push(problem(Severity::Error, name, field, reason, hint));
            return;
        }
        for (index, port) in wish.ports.iter().enumerate() {
            let address = SocketAddr::new(address, port.number);
            if let Some(holder) = self.take(Good::Address(port.transport, address), name) {
                let reason = format!("{} {address} belongs to {holder}", port.transport.name());
                grant
                    .problems
                    .push(problem(Severity::Error, name, field, reason, ""));
                continue;
            }
            grant.fronts.push(Front {
                port: index,
                kind,
                address,
            });
        }
    }

    /// Takes it, or says who has it.
    fn take(&mut self, good: Good, name: &'a Name) -> Option<String> {
        use std::collections::hash_map::Entry;
        match self.taken.entry(good) {
            Entry::Vacant(free) => {
                free.insert(Holder::Service(name));
                None
            }
            Entry::Occupied(taken) => Some(match taken.get() {
                Holder::Ingress => "the Ingresses' listener".to_owned(),
                Holder::Service(other) if *other == name => "this Service already".to_owned(),
                Holder::Service(other) => {
                    format!("Service {other}, which is older or first by name")
                }
            }),
        }
    }

    fn add_node_port(&self, wish: &Wish, port: usize, number: u16, grant: &mut Grant) {
        let addresses = node_port_addresses(self.options, self.node, &wish.families);
        grant
            .fronts
            .extend(addresses.into_iter().map(|address| Front {
                port,
                kind: FrontKind::NodePort,
                address: SocketAddr::new(address, number),
            }));
    }

    /// A port of the upper part of the range, as the API server chooses (KEP-3668).
    fn choose_port(
        &mut self,
        name: &'a Name,
        transport: Transport,
        id: &str,
        field: &str,
        grant: &mut Grant,
    ) -> Option<u16> {
        let range = &self.options.nodeport_range;
        let size = u64::from(range.end() - range.start()) + 1;
        let fixed = (size / 32).clamp(16, 128).min(size - 1);
        let begin = self.hash(id) % (size - fixed);
        let offsets = (0..size - fixed).map(|step| fixed + (begin + step) % (size - fixed));
        for offset in offsets.chain(0..fixed) {
            let number = range.start() + offset as u16;
            let good = Good::NodePort(transport, number);
            if let std::collections::hash_map::Entry::Vacant(free) = self.taken.entry(good) {
                free.insert(Holder::Service(name));
                let reason = format!("it is missing; {number} was chosen");
                grant
                    .problems
                    .push(problem(Severity::Note, name, field, reason, ""));
                return Some(number);
            }
        }
        let reason = "it is missing, and no port of the range is free";
        grant
            .problems
            .push(problem(Severity::Error, name, field, reason, ""));
        None
    }

    fn choose_addresses(&mut self, name: &'a Name, wish: &Wish, grant: &mut Grant) {
        let mut missing = Vec::new();
        for family in &wish.families {
            match self.choose_address(name, *family) {
                Some(address) => {
                    self.balancers.insert(address);
                    grant.balancer.push(address);
                    let (kind, field) = (FrontKind::Balancer, "spec.loadBalancerIP");
                    self.take_address(name, wish, address, kind, field, grant);
                }
                None => missing.push(family.name()),
            }
        }
        if !missing.is_empty() && grant.balancer.is_empty() {
            let missing = missing.join(" or ");
            let reason =
                format!("no {missing} address is free for it, so only NodePorts are served");
            let hint = "give a pool by --lb-pool, or an address by spec.loadBalancerIP";
            let field = "spec.type";
            grant
                .problems
                .push(problem(Severity::Warning, name, field, reason, hint));
        }
    }

    /// An address of the pool that no other Service has.
    fn choose_address(&self, name: &Name, family: Family) -> Option<IpAddr> {
        let prefixes: Vec<Prefix> = {
            let pool = self.options.lb_pool.iter();
            pool.filter(|it| Family::of(it.address()) == family)
                .copied()
                .collect()
        };
        let size: u64 = prefixes
            .iter()
            .map(|it| usable(*it).1)
            .fold(0, u64::saturating_add);
        if size == 0 {
            return None;
        }
        let begin = self.hash(&format!("{name}@{}", family.name())) % size;
        // There cannot be more taken than there are.
        let tries = size.min(self.balancers.len() as u64 + 1);
        let mut candidates = (0..tries).map(|step| nth(&prefixes, (begin + step) % size));
        candidates.find(|address| !self.balancers.contains(address))
    }

    fn hash(&self, text: &str) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.options.hash_seed, 0);
        hasher.write(text.as_bytes());
        hasher.finish()
    }
}

/// The addresses that NodePorts of these families are answered on.
pub(crate) fn node_port_addresses(
    options: &Options,
    node: &NodeView,
    families: &[Family],
) -> Vec<IpAddr> {
    let of_family = |family: &Family| -> Vec<IpAddr> {
        let all = match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let is_of = |address: &&IpAddr| Family::of(**address) == *family;
        match &options.nodeport_addresses {
            NodePortAddresses::All => vec![all],
            NodePortAddresses::Primary if node.addresses.is_empty() => vec![all],
            NodePortAddresses::Primary => node.addresses.iter().filter(is_of).copied().collect(),
            NodePortAddresses::Prefixes(prefixes) => {
                let prefixes = || {
                    prefixes
                        .iter()
                        .filter(|it| Family::of(it.address()) == *family)
                };
                if prefixes().any(|it| it.bits() == 0) || prefixes().next().is_none() {
                    return vec![all];
                }
                let machine = options.machine_addresses.iter().filter(is_of);
                let chosen = machine.filter(|it| prefixes().any(|prefix| prefix.contains(**it)));
                chosen.copied().collect()
            }
        }
    };
    let mut addresses: Vec<IpAddr> = families.iter().flat_map(of_family).collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

/// The first address of a prefix that is given out, as an offset, and how many are: not the
/// network's own address and its broadcast address.
fn usable(prefix: Prefix) -> (u64, u64) {
    let width = match prefix.address() {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    };
    match width - prefix.bits() {
        0 => (0, 1),
        1 => (0, 2),
        bits if bits >= 63 => (1, 1 << 62),
        bits => (1, (1 << bits) - 2),
    }
}

fn nth(prefixes: &[Prefix], mut index: u64) -> IpAddr {
    for prefix in prefixes {
        let (first, count) = usable(*prefix);
        if index < count {
            return add(prefix.address(), first + index);
        }
        index -= count;
    }
    prefixes[0].address() // not reached: the index is below the sum of the counts
}

fn add(address: IpAddr, offset: u64) -> IpAddr {
    match address {
        IpAddr::V4(it) => Ipv4Addr::from_bits(it.to_bits().wrapping_add(offset as u32)).into(),
        IpAddr::V6(it) => Ipv6Addr::from_bits(it.to_bits().wrapping_add(offset.into())).into(),
    }
}

fn problem(
    severity: Severity,
    name: &Name,
    field: &str,
    reason: impl Into<String>,
    hint: &str,
) -> Problem {
    let object = ObjectRef {
        kind: Kind::Service,
        name: name.clone(),
    };
    Problem::new(severity, &object, field, reason, hint)
}
