//! A JSON value to a typed object.
//!
//! Invariant: nothing is guessed; what does not fit its type is refused with the path of the field.
//! Read next: `object.rs`.

use k8s_openapi::api::core::v1::{Endpoints, Service};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::object::{Kind, Object, ObjectRef};

/// What a value is.
#[derive(Debug, Clone, PartialEq)]
pub enum Decoded {
    /// An object that configures something.
    Object(Object),
    /// An object of another kind.
    Other {
        /// As `apps/v1`.
        api_version: String,
        /// As `Deployment`.
        kind: String,
        /// As `default/web`.
        name: String,
    },
}

/// Why a value is no object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Malformed {
    /// The object, if it says so much of itself.
    pub object: Option<ObjectRef>,
    /// The field, as `spec.ports[0].port`; empty for all of it.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Decoded {
    /// Reads one object, not a List. Old versions of Ingress are none of these kinds.
    ///
    /// # Errors
    /// No object, or a field of the wrong type.
    pub fn from_value(value: Value) -> Result<Self, Malformed> {
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
        let (api_version, kind) = (text("/apiVersion"), text("/kind"));
        let (Some(api_version), Some(kind)) = (api_version, kind) else {
            let field = if kind.is_none() { "kind" } else { "apiVersion" };
            return Err(Malformed {
                object: None,
                field: field.to_owned(),
                reason: "it is missing, so this is no Kubernetes object".to_owned(),
            });
        };
        let Some(known) = known(api_version, kind) else {
            let namespace = text("/metadata/namespace").map(|it| format!("{it}/"));
            let name = text("/metadata/name").unwrap_or_default();
            return Ok(Self::Other {
                api_version: api_version.to_owned(),
                kind: kind.to_owned(),
                name: namespace.unwrap_or_default() + name,
            });
        };
        read(known, value).map(Self::Object)
    }
}

fn known(api_version: &str, kind: &str) -> Option<Kind> {
    Some(match (api_version, kind) {
        ("v1", "ConfigMap") => Kind::ConfigMap,
        ("v1", "Endpoints") => Kind::Endpoints,
        ("v1", "Namespace") => Kind::Namespace,
        ("v1", "Node") => Kind::Node,
        ("v1", "Pod") => Kind::Pod,
        ("v1", "Secret") => Kind::Secret,
        ("v1", "Service") => Kind::Service,
        ("discovery.k8s.io/v1", "EndpointSlice") => Kind::EndpointSlice,
        ("networking.k8s.io/v1", "Ingress") => Kind::Ingress,
        ("networking.k8s.io/v1", "IngressClass") => Kind::IngressClass,
        _ => return None,
    })
}

fn read(kind: Kind, value: Value) -> Result<Object, Malformed> {
    let namespace = value.pointer("/metadata/namespace").and_then(Value::as_str);
    let name = value.pointer("/metadata/name").and_then(Value::as_str);
    let metadata = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
        namespace: namespace.map(str::to_owned),
        name: name.map(str::to_owned),
        ..Default::default()
    };
    let object = ObjectRef::of(kind, &metadata);
    if object.name.name.is_empty() {
        return Err(Malformed {
            object: None,
            field: "metadata.name".to_owned(),
            reason: format!("it is missing: a {kind} has a name"),
        });
    }
    match kind {
        Kind::ConfigMap => typed(value).map(Object::ConfigMap),
        Kind::Endpoints => typed::<Endpoints>(value).map(Object::Endpoints),
        Kind::EndpointSlice => typed(value).map(Object::EndpointSlice),
        Kind::Ingress => typed(value).map(Object::Ingress),
        Kind::IngressClass => typed(value).map(Object::IngressClass),
        Kind::Namespace => typed(value).map(Object::Namespace),
        Kind::Node => typed(value).map(Object::Node),
        Kind::Pod => typed(value).map(Object::Pod),
        Kind::Secret => typed(value).map(Object::Secret),
        Kind::Service => typed::<Service>(value).map(Object::Service),
    }
    .map_err(|(field, reason)| Malformed {
        object: Some(object),
        field,
        reason,
    })
}

fn typed<T: DeserializeOwned>(value: Value) -> Result<Box<T>, (String, String)> {
    serde_path_to_error::deserialize(value)
        .map(Box::new)
        .map_err(|error| {
            let path = error.path().to_string();
            let path = if path == "." { String::new() } else { path };
            (path, error.into_inner().to_string())
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_of_the_wrong_type_is_named() {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"ports": [{"port": 80}, {"port": "http"}]}
        });
        let error = Decoded::from_value(service).unwrap_err();
        assert_eq!(error.field, "spec.ports[1].port");
        assert!(error.reason.contains("i32"), "{}", error.reason);
        assert_eq!(error.object.unwrap().to_string(), "Service default/web");
    }

    #[test]
    fn other_kinds_are_passed_on_by_name() {
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "namespace": "shop"}
        });
        let Ok(Decoded::Other { kind, name, .. }) = Decoded::from_value(deployment) else {
            panic!()
        };
        assert_eq!((&*kind, &*name), ("Deployment", "shop/web"));
        let nameless = json!({"apiVersion": "v1", "kind": "Service"});
        assert_eq!(
            Decoded::from_value(nameless).unwrap_err().field,
            "metadata.name"
        );
        assert_eq!(Decoded::from_value(json!([])).unwrap_err().field, "kind");
    }
}
