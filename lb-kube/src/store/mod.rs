//! The objects as they are now, whatever their source.
//!
//! Invariant: `changes` names everything that changed since it was last taken, so that only what
//! depends on it is compiled again. Managed fields, and what of a Pod nobody reads, are not kept.
//! Read next: `changes.rs` (what depends on what), `compile.rs` (which takes the changes).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Namespace, Node, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};

pub(crate) use self::changes::Changes;
use self::changes::Selectors;
use crate::object::{Kind, Name, Object, ObjectRef, Origin};
use crate::problem::{Problem, Severity};

mod changes;

/// The label of an EndpointSlice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Largest sum of a Secret's or ConfigMap's values, in bytes (`MaxSecretSize` of the API).
const DATA_BYTES_MAX: usize = 1 << 20;

/// All objects of a source.
#[derive(Debug, Default)]
pub struct Store {
    config_maps: Table<ConfigMap>,
    endpoints: Table<Endpoints>,
    ingresses: Table<Ingress>,
    ingress_classes: Table<IngressClass>,
    namespaces: Table<Namespace>,
    nodes: Table<Node>,
    pods: Table<Pod>,
    secrets: Table<Secret>,
    services: Table<Service>,
    /// By Service, then by their own name. Those that name no Service are under an empty name.
    slices: BTreeMap<Name, BTreeMap<Arc<str>, Kept<EndpointSlice>>>,
    slice_services: HashMap<Name, Name>,
    /// Which Pods and Services belong together.
    selectors: Selectors,
    /// Addresses of the names that Services of type ExternalName have.
    resolved: HashMap<String, Vec<IpAddr>>,
    /// Objects that are refused as a whole.
    refused: BTreeMap<ObjectRef, Problem>,
    changes: Changes,
}

type Table<T> = BTreeMap<Name, Kept<T>>;

/// An object and where it came from.
#[derive(Debug)]
pub(crate) struct Kept<T> {
    pub(crate) object: Arc<T>,
    pub(crate) origin: Option<Origin>,
}

impl Store {
    /// Without objects.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes an object in, in the place of one with the same kind and name; says whether that is a
    /// change.
    pub fn apply(&mut self, mut object: Object, origin: Option<Origin>) -> bool {
        slim(&mut object);
        let reference = object.reference();
        let was_refused = self.refused.remove(&reference).is_some();
        if let Some(problem) = refusal(&object, origin.as_ref()) {
            let was_there = self.remove(&reference);
            self.changes.refused = true;
            self.refused.insert(reference, problem);
            return was_there || !was_refused;
        }
        self.changes.refused |= was_refused;
        let name = reference.name;
        match object {
            Object::ConfigMap(it) => put(
                &mut self.config_maps,
                &mut self.changes.config_maps,
                name,
                it,
                origin,
            ),
            Object::Endpoints(it) => put(
                &mut self.endpoints,
                &mut self.changes.endpoints,
                name,
                it,
                origin,
            ),
            Object::EndpointSlice(it) => self.put_slice(name, it, origin),
            Object::Ingress(it) => put(
                &mut self.ingresses,
                &mut self.changes.ingresses,
                name,
                it,
                origin,
            ),
            Object::IngressClass(it) => put(
                &mut self.ingress_classes,
                &mut self.changes.ingress_classes,
                name,
                it,
                origin,
            ),
            Object::Namespace(it) => put(
                &mut self.namespaces,
                &mut self.changes.namespaces,
                name,
                it,
                origin,
            ),
            Object::Node(it) => put(&mut self.nodes, &mut self.changes.nodes, name, it, origin),
            Object::Pod(it) => self.put_pod(name, it, origin),
            Object::Secret(it) => put(
                &mut self.secrets,
                &mut self.changes.secrets,
                name,
                it,
                origin,
            ),
            Object::Service(it) => {
                self.selectors.service(&name, selector(&it));
                put(
                    &mut self.services,
                    &mut self.changes.services,
                    name,
                    it,
                    origin,
                )
            }
        }
    }

    /// Takes an object out; says whether it was there.
    pub fn delete(&mut self, object: &ObjectRef) -> bool {
        let was_refused = self.refused.remove(object).is_some();
        self.changes.refused |= was_refused;
        self.remove(object) || was_refused
    }

    /// Which objects there are, refused ones too.
    pub fn references(&self) -> impl Iterator<Item = ObjectRef> {
        fn of<T>(kind: Kind, table: &Table<T>) -> impl Iterator<Item = ObjectRef> {
            table.keys().map(move |name| ObjectRef {
                kind,
                name: name.clone(),
            })
        }
        let slices = self.slice_services.keys().map(|name| ObjectRef {
            kind: Kind::EndpointSlice,
            name: name.clone(),
        });
        of(Kind::ConfigMap, &self.config_maps)
            .chain(of(Kind::Endpoints, &self.endpoints))
            .chain(slices)
            .chain(of(Kind::Ingress, &self.ingresses))
            .chain(of(Kind::IngressClass, &self.ingress_classes))
            .chain(of(Kind::Namespace, &self.namespaces))
            .chain(of(Kind::Node, &self.nodes))
            .chain(of(Kind::Pod, &self.pods))
            .chain(of(Kind::Secret, &self.secrets))
            .chain(of(Kind::Service, &self.services))
            .chain(self.refused.keys().cloned())
    }

    /// Says which addresses a host name has; a Service of type ExternalName leads to them. See
    /// [`Compiled::host_names`](crate::Compiled::host_names).
    pub fn resolve(&mut self, host: &str, addresses: Vec<IpAddr>) {
        if self.resolved.get(host) != Some(&addresses) {
            self.resolved.insert(host.to_owned(), addresses);
            let leads_there = |service: &&Name| {
                let service = self.services.get(service).map(|it| &*it.object);
                let spec = service.and_then(|it| it.spec.as_ref());
                spec.and_then(|it| it.external_name.as_deref()) == Some(host)
            };
            let services = self.services.keys().filter(leads_there).cloned();
            self.changes.endpoints.extend(services);
        }
    }

    fn put_slice(&mut self, name: Name, slice: Box<EndpointSlice>, origin: Option<Origin>) -> bool {
        let labels = slice.metadata.labels.as_ref();
        let service = labels.and_then(|labels| labels.get(SERVICE_NAME));
        let service = service.map(String::as_str).unwrap_or_default();
        let service = Name::new(Arc::clone(&name.namespace), service);
        if self
            .slice_services
            .get(&name)
            .is_some_and(|it| *it != service)
        {
            let kind = Kind::EndpointSlice;
            let name = name.clone();
            self.remove(&ObjectRef { kind, name });
        }
        let of_service = self.slices.entry(service.clone()).or_default();
        let own = Arc::clone(&name.name);
        if of_service
            .get(&own)
            .is_some_and(|it| *it.object == *slice && it.origin == origin)
        {
            return false;
        }
        let object = Arc::from(slice);
        of_service.insert(own, Kept { object, origin });
        self.slice_services.insert(name, service.clone());
        self.changes.endpoints.insert(service);
        true
    }

    fn put_pod(&mut self, name: Name, pod: Box<Pod>, origin: Option<Origin>) -> bool {
        let before = self.pods.get(&name).map(|it| Arc::clone(&it.object));
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        let mut changed = BTreeSet::new();
        if !put(&mut self.pods, &mut changed, name.clone(), pod, origin) {
            return false;
        }
        let before = before.and_then(|pod| pod.metadata.labels.clone());
        self.selectors.pod(
            &name,
            before.as_ref(),
            Some(&labels),
            &mut self.changes.endpoints,
        );
        true
    }

    fn remove(&mut self, object: &ObjectRef) -> bool {
        let name = &object.name;
        let changes = &mut self.changes;
        match object.kind {
            Kind::ConfigMap => take(&mut self.config_maps, &mut changes.config_maps, name),
            Kind::Endpoints => take(&mut self.endpoints, &mut changes.endpoints, name),
            Kind::EndpointSlice => {
                let Some(service) = self.slice_services.remove(name) else {
                    return false;
                };
                if let Some(slices) = self.slices.get_mut(&service) {
                    slices.remove(&name.name);
                    if slices.is_empty() {
                        self.slices.remove(&service);
                    }
                }
                changes.endpoints.insert(service);
                true
            }
            Kind::Ingress => take(&mut self.ingresses, &mut changes.ingresses, name),
            Kind::IngressClass => take(
                &mut self.ingress_classes,
                &mut changes.ingress_classes,
                name,
            ),
            Kind::Namespace => take(&mut self.namespaces, &mut changes.namespaces, name),
            Kind::Node => take(&mut self.nodes, &mut changes.nodes, name),
            Kind::Pod => {
                let Some(pod) = self.pods.remove(name) else {
                    return false;
                };
                let labels = pod.object.metadata.labels.as_ref();
                self.selectors
                    .pod(name, labels, None, &mut changes.endpoints);
                true
            }
            Kind::Secret => take(&mut self.secrets, &mut changes.secrets, name),
            Kind::Service => {
                self.selectors.service(name, None);
                take(&mut self.services, &mut changes.services, name)
            }
        }
    }
}

/// What the compiler asks.
impl Store {
    pub(crate) fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    pub(crate) fn refused(&self) -> impl Iterator<Item = &Problem> {
        self.refused.values()
    }

    pub(crate) const fn services(&self) -> &BTreeMap<Name, Kept<Service>> {
        &self.services
    }

    pub(crate) const fn nodes(&self) -> &BTreeMap<Name, Kept<Node>> {
        &self.nodes
    }

    pub(crate) const fn ingresses(&self) -> &BTreeMap<Name, Kept<Ingress>> {
        &self.ingresses
    }

    pub(crate) const fn ingress_classes(&self) -> &BTreeMap<Name, Kept<IngressClass>> {
        &self.ingress_classes
    }

    pub(crate) fn service(&self, name: &Name) -> Option<&Service> {
        self.services.get(name).map(|it| &*it.object)
    }

    pub(crate) fn secret_shared(&self, name: &Name) -> Option<Arc<Secret>> {
        self.secrets.get(name).map(|it| Arc::clone(&it.object))
    }

    pub(crate) fn node(&self, name: &str) -> Option<&Node> {
        let name = Name::new("", name);
        self.nodes.get(&name).map(|it| &*it.object)
    }

    /// Those that name `service`, by name.
    pub(crate) fn slices(
        &self,
        service: &Name,
    ) -> impl Iterator<Item = (&Arc<str>, &Kept<EndpointSlice>)> {
        self.slices.get(service).into_iter().flatten()
    }

    /// Those that name no Service.
    pub(crate) fn stray_slices(&self) -> impl Iterator<Item = (Name, &Kept<EndpointSlice>)> {
        let stray = self
            .slices
            .iter()
            .filter(|(service, _)| service.name.is_empty());
        stray.flat_map(|(service, slices)| {
            let named =
                move |name: &Arc<str>| Name::new(Arc::clone(&service.namespace), Arc::clone(name));
            slices.iter().map(move |(name, kept)| (named(name), kept))
        })
    }

    pub(crate) fn endpoints(&self, service: &Name) -> Option<&Kept<Endpoints>> {
        self.endpoints.get(service)
    }

    /// The Pods of a namespace that a selector matches, by name.
    pub(crate) fn pods(
        &self,
        namespace: &Arc<str>,
        selector: &BTreeMap<String, String>,
    ) -> impl Iterator<Item = &Kept<Pod>> {
        let names = self.selectors.pods(namespace, selector);
        names
            .filter_map(|name| self.pods.get(name))
            .filter(move |pod| {
                let labels = pod.object.metadata.labels.as_ref();
                labels.is_some_and(|labels| changes::matches(selector, labels))
            })
    }

    /// Addresses of a host name; `None` while it was not looked up.
    pub(crate) fn addresses(&self, host: &str) -> Option<&[IpAddr]> {
        self.resolved.get(host).map(Vec::as_slice)
    }
}

/// The selector of a Service, if it has one.
pub(crate) fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    let selector = service.spec.as_ref()?.selector.as_ref()?;
    (!selector.is_empty()).then_some(selector)
}

fn put<T: PartialEq>(
    table: &mut Table<T>,
    changed: &mut BTreeSet<Name>,
    name: Name,
    object: Box<T>,
    origin: Option<Origin>,
) -> bool {
    let same = |it: &Kept<T>| *it.object == *object && it.origin == origin;
    if table.get(&name).is_some_and(same) {
        return false;
    }
    changed.insert(name.clone());
    let object = Arc::from(object);
    table.insert(name, Kept { object, origin });
    true
}

fn take<T>(table: &mut Table<T>, changed: &mut BTreeSet<Name>, name: &Name) -> bool {
    let was_there = table.remove(name).is_some();
    if was_there {
        changed.insert(name.clone());
    }
    was_there
}

/// Why an object is not taken in at all.
fn refusal(object: &Object, origin: Option<&Origin>) -> Option<Problem> {
    let (bytes, field) = match object {
        Object::Secret(it) => {
            let data = it.data.iter().flatten().map(|(_, value)| value.0.len());
            let strings = it
                .string_data
                .iter()
                .flatten()
                .map(|(_, value)| value.len());
            (data.chain(strings).sum::<usize>(), "data")
        }
        Object::ConfigMap(it) => {
            let data = it.data.iter().flatten().map(|(_, value)| value.len());
            let binary = it
                .binary_data
                .iter()
                .flatten()
                .map(|(_, value)| value.0.len());
            (data.chain(binary).sum(), "data")
        }
        _ => return None,
    };
    if bytes <= DATA_BYTES_MAX {
        return None;
    }
    let reason = format!("it holds {bytes} bytes, and the API allows {DATA_BYTES_MAX}");
    let hint = "keep what is read from here in an object of its own";
    let mut problem = Problem::new(Severity::Error, &object.reference(), field, reason, hint);
    problem.origin = origin.cloned();
    Some(problem)
}

/// Forgets what nobody reads.
fn slim(object: &mut Object) {
    let metadata = match object {
        Object::ConfigMap(it) => &mut it.metadata,
        Object::Endpoints(it) => &mut it.metadata,
        Object::EndpointSlice(it) => &mut it.metadata,
        Object::Ingress(it) => &mut it.metadata,
        Object::IngressClass(it) => &mut it.metadata,
        Object::Namespace(it) => &mut it.metadata,
        Object::Node(it) => &mut it.metadata,
        Object::Pod(it) => &mut it.metadata,
        Object::Secret(it) => &mut it.metadata,
        Object::Service(it) => &mut it.metadata,
    };
    metadata.managed_fields = None;
    metadata.resource_version = None;
    metadata.generation = None;
    match object {
        Object::EndpointSlice(slice) => {
            slice.metadata.owner_references = None;
            for endpoint in slice.endpoints.iter_mut().flatten() {
                endpoint.target_ref = None;
                endpoint.deprecated_topology = None;
                endpoint.hostname = None;
            }
        }
        Object::Pod(pod) => slim_pod(pod),
        _ => {}
    }
}

fn slim_pod(pod: &mut Pod) {
    pod.metadata.annotations = None;
    pod.metadata.owner_references = None;
    if let Some(spec) = pod.spec.take() {
        let slim = |container: k8s_openapi::api::core::v1::Container| {
            k8s_openapi::api::core::v1::Container {
                name: container.name,
                ports: container.ports,
                restart_policy: container.restart_policy,
                ..Default::default()
            }
        };
        pod.spec = Some(k8s_openapi::api::core::v1::PodSpec {
            containers: spec.containers.into_iter().map(slim).collect(),
            init_containers: spec
                .init_containers
                .map(|it| it.into_iter().map(slim).collect()),
            node_name: spec.node_name,
            ..Default::default()
        });
    }
    if let Some(status) = &mut pod.status {
        status.container_statuses = None;
        status.init_container_statuses = None;
        status.ephemeral_container_statuses = None;
        status.resource_claim_statuses = None;
    }
}
