//! Objects to a plan, in parts that are kept and made again only when what they follow from
//! changes.
//!
//! Invariant: the result is the same as if all were compiled from nothing, whatever came before.
//! Read next: `service/mod.rs`, `ingress/mod.rs` (the parts).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use lb_core::plan::Plan;

use crate::health::HealthCheckNodePort;
use crate::ingress::{ClusterRequest, Ingresses};
use crate::object::{Kind, Name, ObjectRef};
use crate::options::Options;
use crate::problem::{Problem, Severity};
use crate::service::{Builder, Claims, Grant, NodeView, Part, Services, Wish};
use crate::store::{Changes, Store};

/// What objects compile to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Compiled {
    /// What to run; valid. What is as before is the same `Arc` as in the plan before.
    pub plan: Plan,
    /// What is wrong, in the order of the objects.
    pub problems: Vec<Problem>,
    /// What load balancers outside ask.
    pub health_checks: Vec<HealthCheckNodePort>,
    /// Cluster IPs and load balancer addresses that are served: to be made local, even while
    /// nothing listens on them, so that what comes is refused.
    pub local_addresses: Arc<BTreeSet<IpAddr>>,
    /// The addresses of Services of type LoadBalancer.
    pub load_balancers: Vec<(Name, Vec<IpAddr>)>,
    /// Names of Services of type ExternalName that are led to, for [`Store::resolve`].
    pub host_names: BTreeSet<String>,
}

/// Compiles objects, again and again.
#[derive(Debug)]
pub struct Compiler {
    options: Options,
    node: NodeView,
    wishes: BTreeMap<Name, Wish>,
    grants: BTreeMap<Name, Grant>,
    parts: BTreeMap<Name, Part>,
    ingresses: Ingresses,
    /// What the Ingresses want, by Service.
    requests: BTreeMap<Name, Vec<ClusterRequest>>,
    /// Of all parts; they change with the grants only.
    local_addresses: Arc<BTreeSet<IpAddr>>,
}

impl Compiler {
    /// With nothing compiled yet.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            node: NodeView {
                name: options.node_name.clone(),
                ..NodeView::default()
            },
            options,
            wishes: BTreeMap::new(),
            grants: BTreeMap::new(),
            parts: BTreeMap::new(),
            ingresses: Ingresses::default(),
            requests: BTreeMap::new(),
            local_addresses: Arc::default(),
        }
    }

    /// Compiles what has changed in `store` since the last time, which must be the same store.
    pub fn compile(&mut self, store: &mut Store) -> Compiled {
        let changes = store.take_changes();
        let mut dirty = self.update_wishes(store, &changes);
        let node_changed = self.update_node(store, &changes, &mut dirty);
        let ingress_changed = self.update_ingresses(store, &changes, &mut dirty);
        let regrants = node_changed || ingress_changed || !changes.services.is_empty();
        if regrants {
            self.update_grants(&mut dirty);
        }
        dirty.extend(changes.endpoints);
        self.update_parts(store, &dirty);
        if regrants {
            let addresses = self.parts.values().flat_map(|it| &it.local_addresses);
            self.local_addresses = Arc::new(addresses.copied().collect());
        }
        self.assemble(store)
    }

    fn update_wishes(&mut self, store: &Store, changes: &Changes) -> BTreeSet<Name> {
        for name in &changes.services {
            match store.service(name) {
                Some(service) => {
                    let wish = Wish::read(service, &self.options);
                    self.wishes.insert(name.clone(), wish);
                }
                None => drop(self.wishes.remove(name)),
            }
        }
        changes.services.clone()
    }

    fn update_node(
        &mut self,
        store: &Store,
        changes: &Changes,
        dirty: &mut BTreeSet<Name>,
    ) -> bool {
        if changes.nodes.is_empty() {
            return false;
        }
        let node = NodeView::of(store, &self.options);
        let has_changed = node != self.node;
        if has_changed {
            self.node = node;
            dirty.extend(self.wishes.keys().cloned());
        }
        has_changed
    }

    fn update_ingresses(
        &mut self,
        store: &Store,
        changes: &Changes,
        dirty: &mut BTreeSet<Name>,
    ) -> bool {
        let services = Services {
            store,
            options: &self.options,
        };
        if !self
            .ingresses
            .update(store, &services, &self.options, changes)
        {
            return false;
        }
        let mut requests: BTreeMap<Name, Vec<ClusterRequest>> = BTreeMap::new();
        for request in &self.ingresses.output().clusters {
            let of_service = requests.entry(request.service.clone()).or_default();
            if !of_service.contains(request) {
                of_service.push(request.clone());
            }
        }
        dirty.extend(differing(&self.requests, &requests));
        self.requests = requests;
        true
    }

    fn update_grants(&mut self, dirty: &mut BTreeSet<Name>) {
        let listeners = self.ingresses.output().listeners.iter();
        let listening = listeners.map(|it| it.address);
        let claims = Claims::new(&self.options, &self.node, listening);
        let grants = claims.grant(&self.wishes);
        dirty.extend(differing(&self.grants, &grants));
        self.grants = grants;
    }

    fn update_parts(&mut self, store: &Store, dirty: &BTreeSet<Name>) {
        for name in dirty {
            let before = self.parts.remove(name);
            let (Some(wish), Some(grant)) = (self.wishes.get(name), self.grants.get(name)) else {
                continue;
            };
            let builder = Builder {
                services: Services {
                    store,
                    options: &self.options,
                },
                node: &self.node,
                name,
                wish,
                grant,
                requests: self
                    .requests
                    .get(name)
                    .map(Vec::as_slice)
                    .unwrap_or_default(),
            };
            self.parts
                .insert(name.clone(), builder.build(before.as_ref()));
        }
    }

    fn assemble(&self, store: &Store) -> Compiled {
        let ingress = self.ingresses.output();
        let mut compiled = Compiled {
            plan: Plan {
                listeners: ingress.listeners.clone(),
                clusters: Vec::with_capacity(self.parts.len()),
                hash_seed: self.options.hash_seed,
                cookie_key: self.options.cookie_key.clone(),
            },
            local_addresses: Arc::clone(&self.local_addresses),
            ..Compiled::default()
        };
        for (name, part) in &self.parts {
            compiled
                .plan
                .listeners
                .extend(part.listeners.iter().cloned());
            compiled.plan.clusters.extend(part.clusters.iter().cloned());
            compiled.health_checks.extend(part.health_check.clone());
            let balancer = part.balancer.clone();
            compiled
                .load_balancers
                .extend(balancer.map(|it| (name.clone(), it)));
            compiled.host_names.extend(part.host_name.clone());
            compiled.problems.extend(part.problems.iter().cloned());
        }
        compiled.problems.extend(ingress.problems.iter().cloned());
        compiled.problems.extend(store.refused().cloned());
        compiled.problems.extend(strays(store));
        compiled.problems.sort();
        compiled
    }
}

/// EndpointSlices that lead nowhere.
fn strays(store: &Store) -> Vec<Problem> {
    let reason = "it has no such label, so it belongs to no Service";
    let field = "metadata.labels[kubernetes.io/service-name]";
    let stray = store.stray_slices().map(|(name, kept)| {
        let kind = Kind::EndpointSlice;
        let object = ObjectRef { kind, name };
        let mut problem = Problem::new(Severity::Warning, &object, field, reason, "");
        problem.origin.clone_from(&kept.origin);
        problem
    });
    stray.collect()
}

/// The keys under which the two differ.
fn differing<'a, T: PartialEq>(
    before: &'a BTreeMap<Name, T>,
    after: &'a BTreeMap<Name, T>,
) -> impl Iterator<Item = Name> + 'a {
    let gone = before.keys().filter(|name| !after.contains_key(*name));
    let new = after
        .iter()
        .filter(|(name, it)| before.get(*name) != Some(*it));
    gone.chain(new.map(|(name, _)| name)).cloned()
}
