//! The objects that configure something, and how they are named.
//!
//! Invariant: an object without a namespace, of a kind that has one, is in `default`.
//! Read next: `decode.rs` (where objects come from), `store.rs` (where they are kept).

use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Namespace, Node, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// One object, typed.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the variants are named after the kinds")]
pub enum Object {
    ConfigMap(Box<ConfigMap>),
    Endpoints(Box<Endpoints>),
    EndpointSlice(Box<EndpointSlice>),
    Ingress(Box<Ingress>),
    IngressClass(Box<IngressClass>),
    Namespace(Box<Namespace>),
    Node(Box<Node>),
    Pod(Box<Pod>),
    Secret(Box<Secret>),
    Service(Box<Service>),
}

impl Object {
    /// Its kind.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::ConfigMap(_) => Kind::ConfigMap,
            Self::Endpoints(_) => Kind::Endpoints,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::Ingress(_) => Kind::Ingress,
            Self::IngressClass(_) => Kind::IngressClass,
            Self::Namespace(_) => Kind::Namespace,
            Self::Node(_) => Kind::Node,
            Self::Pod(_) => Kind::Pod,
            Self::Secret(_) => Kind::Secret,
            Self::Service(_) => Kind::Service,
        }
    }

    /// Its metadata.
    pub const fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::ConfigMap(it) => &it.metadata,
            Self::Endpoints(it) => &it.metadata,
            Self::EndpointSlice(it) => &it.metadata,
            Self::Ingress(it) => &it.metadata,
            Self::IngressClass(it) => &it.metadata,
            Self::Namespace(it) => &it.metadata,
            Self::Node(it) => &it.metadata,
            Self::Pod(it) => &it.metadata,
            Self::Secret(it) => &it.metadata,
            Self::Service(it) => &it.metadata,
        }
    }

    /// How it is named.
    pub fn reference(&self) -> ObjectRef {
        ObjectRef::of(self.kind(), self.metadata())
    }
}

/// Kinds of objects that configure something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the variants are named after the kinds")]
pub enum Kind {
    ConfigMap,
    Endpoints,
    EndpointSlice,
    Ingress,
    IngressClass,
    Namespace,
    Node,
    Pod,
    Secret,
    Service,
}

impl Kind {
    /// Its name, as `kind:` has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Endpoints => "Endpoints",
            Self::EndpointSlice => "EndpointSlice",
            Self::Ingress => "Ingress",
            Self::IngressClass => "IngressClass",
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::Secret => "Secret",
            Self::Service => "Service",
        }
    }

    /// Whether objects of the kind are in a namespace.
    #[must_use]
    pub const fn has_namespace(self) -> bool {
        !matches!(self, Self::IngressClass | Self::Namespace | Self::Node)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name within a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    /// The namespace; empty for kinds without.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl Name {
    /// `name` in `namespace`.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// Which object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    /// Its kind.
    pub kind: Kind,
    /// Its name; without a namespace where the kind has none.
    pub name: Name,
}

impl ObjectRef {
    /// The namespace of objects that name none.
    pub const NAMESPACE_DEFAULT: &str = "default";

    /// The object of that kind with this metadata.
    pub fn of(kind: Kind, metadata: &ObjectMeta) -> Self {
        let given = metadata.namespace.as_deref().filter(|it| !it.is_empty());
        let namespace = match kind.has_namespace() {
            true => given.unwrap_or(Self::NAMESPACE_DEFAULT),
            false => "",
        };
        Self {
            kind,
            name: Name::new(namespace, metadata.name.as_deref().unwrap_or_default()),
        }
    }
}

impl fmt::Display for ObjectRef {
    /// As `Service default/web`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// Where an object was read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// The file, as the user named its folder.
    pub file: Arc<str>,
    /// Which document of it, from 1.
    pub document: u32,
    /// The line that the document begins on, from 1.
    pub line: u32,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}
