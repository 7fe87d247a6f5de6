//! Which Ingresses are served, and by whose rules.
//!
//! Invariant: an Ingress of a class that has another controller is left to it.
//! Source: Kubernetes documentation, "Ingress", sections "Ingress class" and "Default class".
//! Read next: `part.rs`.

use std::cmp::Reverse;

use k8s_openapi::api::networking::v1::{Ingress, IngressClass};

use super::CONTROLLER;
use crate::object::Name;
use crate::store::{Kept, Store};

/// The controller whose annotations and habits are followed.
const CONTROLLER_NGINX: &str = "k8s.io/ingress-nginx";

/// The name that goes with it where there is no IngressClass.
const NAME_NGINX: &str = "nginx";

const DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";

/// How classes were named before there was a field.
const LEGACY: &str = "kubernetes.io/ingress.class";

/// By whose rules an Ingress is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// By the words of the API.
    Strict,
    /// As ingress-nginx does.
    Nginx,
}

/// What becomes of an Ingress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Served(Mode),
    /// Served, though there is no such IngressClass.
    Assumed(Mode, String),
    /// Somebody else's, and why.
    Left(String),
}

/// All classes.
pub(super) struct Classes<'a> {
    store: &'a Store,
    /// The only one that is served.
    only: Option<&'a str>,
    default: Option<&'a str>,
}

impl<'a> Classes<'a> {
    pub(super) fn new(store: &'a Store, only: Option<&'a str>) -> Self {
        let defaults = store.ingress_classes().iter().filter(|(_, kept)| {
            let annotations = kept.object.metadata.annotations.as_ref();
            annotations
                .and_then(|it| it.get(DEFAULT))
                .map(String::as_str)
                == Some("true")
        });
        // Of several the newest, as the API server chooses.
        let age = |(name, kept): &(&'a Name, &'a Kept<IngressClass>)| {
            let created = kept.object.metadata.creation_timestamp.clone();
            (Reverse(created), &*name.name)
        };
        let default = defaults.min_by_key(age).map(|(name, _)| &*name.name);
        Self {
            store,
            only,
            default,
        }
    }

    pub(super) fn of(&self, ingress: &Ingress) -> Verdict {
        let field = ingress.spec.as_ref();
        let field = field.and_then(|spec| spec.ingress_class_name.as_deref());
        let annotations = ingress.metadata.annotations.as_ref();
        let legacy = annotations
            .and_then(|it| it.get(LEGACY))
            .map(String::as_str);
        let named = field.or(legacy).filter(|name| !name.is_empty());
        let Some(name) = named.or(self.default) else {
            return match (self.only, self.store.ingress_classes().is_empty()) {
                (Some(only), _) => Verdict::Left(format!(
                    "it names no class, none is the default, and only \"{only}\" is served"
                )),
                (None, true) => Verdict::Served(Mode::Strict),
                (None, false) => {
                    Verdict::Left("it names no class, and none is the default".to_owned())
                }
            };
        };
        if let Some(only) = self.only.filter(|only| *only != name) {
            return Verdict::Left(format!(
                "its class is \"{name}\", and only \"{only}\" is served"
            ));
        }
        let class = self.store.ingress_classes().get(&Name::new("", name));
        let spec = class.and_then(|kept| kept.object.spec.as_ref());
        match (class, spec.and_then(|spec| spec.controller.as_deref())) {
            (Some(_), Some(CONTROLLER)) => Verdict::Served(Mode::Strict),
            (Some(_), Some(CONTROLLER_NGINX)) => Verdict::Served(Mode::Nginx),
            (Some(_), controller) => Verdict::Left(format!(
                "its class \"{name}\" has the controller \"{}\"",
                controller.unwrap_or_default()
            )),
            (None, _) if name == NAME_NGINX => Verdict::Assumed(Mode::Nginx, name.to_owned()),
            (None, _) => Verdict::Assumed(Mode::Strict, name.to_owned()),
        }
    }
}
