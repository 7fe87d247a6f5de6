//! Ingresses to routes.
//!
//! Invariant: what an Ingress says changes only when it, its class, its Secrets or a Service
//! itself changes; endpoints come and go below it.
//! Read next: `../service/mod.rs` (the Services that routes lead to).

mod annotations;
mod certificates;
mod class;
mod part;
mod routes;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use lb_core::plan;

use self::class::{Classes, Verdict};
use self::part::Part;
use self::routes::Certificates;
use crate::object::{Kind, Name, ObjectRef};
use crate::options::Options;
use crate::problem::{Problem, Severity};
use crate::service::Services;
use crate::store::{Changes, Store};

/// The controller of an IngressClass whose Ingresses are ours.
pub const CONTROLLER: &str = "lb.internal/ingress-controller";

/// Settings of Ingresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngressOptions {
    /// The only class that is served. `None`: every class whose controller is ours or nginx's.
    pub class: Option<String>,
    /// Where requests in the clear are answered.
    pub http: Option<SocketAddr>,
    /// Where requests over TLS are answered.
    pub https: Option<SocketAddr>,
    /// The certificate of hosts without a usable one of their own; without it there is no TLS.
    pub fallback: Option<Arc<plan::Certificate>>,
}

impl Default for IngressOptions {
    /// The ports of HTTP and HTTPS on all IPv4 addresses.
    fn default() -> Self {
        let all = |port| Some(SocketAddr::from(([0, 0, 0, 0], port)));
        Self {
            class: None,
            http: all(80),
            https: all(443),
            fallback: None,
        }
    }
}

/// All Ingresses, compiled.
#[derive(Debug, Default)]
pub(crate) struct Ingresses {
    parts: BTreeMap<Name, Part>,
    /// What is said of an Ingress because of its class.
    notes: BTreeMap<Name, Problem>,
    /// The Ingresses that name a Service.
    by_service: HashMap<Name, BTreeSet<Name>>,
    certificates: Certificates,
    output: Output,
}

/// What Ingresses bring to the plan.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// In any order; what is as before is the same `Arc` as before.
    pub(crate) listeners: Vec<Arc<plan::Listener>>,
    /// The clusters that the routes of `listeners` name; one may be asked for more than once.
    pub(crate) clusters: Vec<ClusterRequest>,
    pub(crate) problems: Vec<Problem>,
}

/// A cluster that a route needs; the compiler fills in the endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClusterRequest {
    /// The Service; it exists.
    pub(crate) service: Name,
    /// The number of the Service's port, as [`Services::port`] found it.
    pub(crate) port: u16,
    /// The name of the cluster, and all settings but the backends. `None` shares the cluster of
    /// that port with all that ask for no settings of their own; its name is
    /// [`Services::cluster_name`].
    pub(crate) template: Option<Arc<plan::Cluster>>,
}

impl Ingresses {
    /// Compiles what `changes` touch; says whether anything is different now.
    pub(crate) fn update(
        &mut self,
        store: &Store,
        services: &Services<'_>,
        options: &Options,
        changes: &Changes,
    ) -> bool {
        let mut dirty = changes.ingresses.clone();
        if !changes.ingress_classes.is_empty() {
            dirty.extend(store.ingresses().keys().cloned());
        }
        let named = changes
            .services
            .iter()
            .filter_map(|it| self.by_service.get(it));
        dirty.extend(named.flatten().cloned());
        // Secrets that no Ingress names come and go without notice.
        let secrets = changes
            .secrets
            .iter()
            .any(|secret| self.names_secret(secret));
        if dirty.is_empty() && !secrets {
            return false;
        }
        let classes = Classes::new(store, options.ingress.class.as_deref());
        for name in dirty {
            self.compile(&name, store, services, &classes);
        }
        let before = std::mem::take(&mut self.output);
        self.output = routes::join(&self.parts, store, &options.ingress, &mut self.certificates);
        self.output.problems.extend(self.notes.values().cloned());
        for problem in &mut self.output.problems {
            let ingress = store.ingresses().get(&problem.object.name);
            problem.origin = ingress.and_then(|kept| kept.origin.clone());
        }
        self.output.keep(&before);
        true
    }

    pub(crate) const fn output(&self) -> &Output {
        &self.output
    }

    fn names_secret(&self, secret: &Name) -> bool {
        let mut sections = self.parts.values().flat_map(|part| &part.tls);
        sections.any(|section| section.secret.as_ref() == Some(secret))
    }

    fn compile(
        &mut self,
        name: &Name,
        store: &Store,
        services: &Services<'_>,
        classes: &Classes<'_>,
    ) {
        if let Some(before) = self.parts.remove(name) {
            for service in &before.services {
                if let Some(named) = self.by_service.get_mut(service) {
                    named.remove(name);
                }
            }
        }
        self.notes.remove(name);
        let Some(ingress) = store.ingresses().get(name) else {
            return;
        };
        let ingress = &ingress.object;
        let object = ObjectRef::of(Kind::Ingress, &ingress.metadata);
        let field = "spec.ingressClassName";
        let mode = match classes.of(ingress) {
            Verdict::Served(mode) => mode,
            Verdict::Assumed(mode, class) => {
                let reason =
                    format!("there is no IngressClass \"{class}\"; it is served all the same");
                let hint = match mode {
                    class::Mode::Nginx => "as the controller k8s.io/ingress-nginx would",
                    class::Mode::Strict => "by the words of the API",
                };
                let note = Problem::new(Severity::Note, &object, field, reason, hint);
                self.notes.insert(name.clone(), note);
                mode
            }
            Verdict::Left(reason) => {
                let hint = "it is left to others";
                let note = Problem::new(Severity::Note, &object, field, reason, hint);
                self.notes.insert(name.clone(), note);
                return;
            }
        };
        let part = Part::new(name, ingress, mode, services);
        for service in &part.services {
            let named = self.by_service.entry(service.clone()).or_default();
            named.insert(name.clone());
        }
        self.parts.insert(name.clone(), part);
    }
}

impl Output {
    /// Listeners that are as before stay the same `Arc`.
    fn keep(&mut self, before: &Self) {
        for listener in &mut self.listeners {
            if let Some(same) = before.listeners.iter().find(|it| *it == listener) {
                *listener = Arc::clone(same);
            }
        }
    }
}
