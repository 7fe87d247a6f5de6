//! Objects of API versions that are no longer served, as manifests of long ago have them, to
//! those of today.
//!
//! Invariant: what is of today, or of no kind known here, stays as it is.
//! Sources: the deprecation guide of Kubernetes 1.22 (Ingress) and 1.25 (EndpointSlice).
//! Read next: `../decode.rs` (what reads them then).

use serde_json::{Map, Value, json};

/// Makes an old object one of today, and says so.
pub(super) fn upgrade(value: &mut Value) -> Option<String> {
    let kind = value.get("kind")?.as_str()?.to_owned();
    let version = value.get("apiVersion")?.as_str()?.to_owned();
    let today = match (version.as_str(), kind.as_str()) {
        ("extensions/v1beta1" | "networking.k8s.io/v1beta1", "Ingress") => {
            upgrade_ingress(value.get_mut("spec"));
            "networking.k8s.io/v1"
        }
        ("networking.k8s.io/v1beta1", "IngressClass") => "networking.k8s.io/v1",
        ("discovery.k8s.io/v1beta1", "EndpointSlice") => {
            upgrade_endpoints(value.get_mut("endpoints"));
            "discovery.k8s.io/v1"
        }
        _ => return None,
    };
    value["apiVersion"] = json!(today);
    Some(format!(
        "{version} is an old version of {kind}, which Kubernetes no longer serves; it is read as \
         {today}"
    ))
}

fn upgrade_ingress(spec: Option<&mut Value>) {
    let Some(Value::Object(spec)) = spec else {
        return;
    };
    if let Some(mut backend) = spec.remove("backend") {
        upgrade_backend(&mut backend);
        spec.entry("defaultBackend").or_insert(backend);
    }
    for rule in items(spec.get_mut("rules")) {
        for path in items(rule.pointer_mut("/http/paths")) {
            if let Some(backend) = path.get_mut("backend") {
                upgrade_backend(backend);
            }
            // What v1beta1 took for granted, v1 asks for.
            if let Value::Object(path) = path {
                path.entry("pathType")
                    .or_insert_with(|| json!("ImplementationSpecific"));
            }
        }
    }
}

fn upgrade_backend(backend: &mut Value) {
    let Value::Object(backend) = backend else {
        return;
    };
    let (name, port) = (backend.remove("serviceName"), backend.remove("servicePort"));
    let Some(name) = name else { return };
    let port = match port {
        Some(Value::String(port)) => match port.parse::<u16>() {
            Ok(number) => json!({ "number": number }),
            Err(_) => json!({ "name": port }),
        },
        Some(Value::Number(number)) => json!({ "number": number }),
        Some(other) => json!({ "number": other }),
        None => Value::Null,
    };
    backend.insert("service".to_owned(), json!({ "name": name, "port": port }));
}

fn upgrade_endpoints(endpoints: Option<&mut Value>) {
    for endpoint in items(endpoints) {
        let Value::Object(endpoint) = endpoint else {
            continue;
        };
        let Some(Value::Object(mut topology)) = endpoint.remove("topology") else {
            continue;
        };
        take(
            &mut topology,
            "kubernetes.io/hostname",
            endpoint,
            "nodeName",
        );
        take(
            &mut topology,
            "topology.kubernetes.io/zone",
            endpoint,
            "zone",
        );
    }
}

fn take(from: &mut Map<String, Value>, key: &str, to: &mut Map<String, Value>, field: &str) {
    if let Some(value) = from.remove(key) {
        to.entry(field).or_insert(value);
    }
}

fn items(list: Option<&mut Value>) -> impl Iterator<Item = &mut Value> {
    list.and_then(Value::as_array_mut).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ingress_of_long_ago() {
        let mut ingress = json!({
            "apiVersion": "networking.k8s.io/v1beta1", "kind": "Ingress",
            "spec": {
                "backend": {"serviceName": "d", "servicePort": "http"},
                "rules": [{"http": {"paths": [
                    {"path": "/a", "backend": {"serviceName": "s", "servicePort": 80}},
                    {"path": "/b", "pathType": "Exact", "backend": {"serviceName": "s", "servicePort": "81"}},
                ]}}]
            }
        });
        let warning = upgrade(&mut ingress).unwrap();
        assert!(
            warning.starts_with("networking.k8s.io/v1beta1 is an old"),
            "{warning}"
        );
        let expected = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "spec": {
                "defaultBackend": {"service": {"name": "d", "port": {"name": "http"}}},
                "rules": [{"http": {"paths": [
                    {"path": "/a", "pathType": "ImplementationSpecific",
                     "backend": {"service": {"name": "s", "port": {"number": 80}}}},
                    {"path": "/b", "pathType": "Exact",
                     "backend": {"service": {"name": "s", "port": {"number": 81}}}},
                ]}}]
            }
        });
        assert_eq!(ingress, expected);
        assert_eq!(upgrade(&mut ingress), None, "what is of today stays");
        assert_eq!(ingress, expected);
    }

    #[test]
    fn an_endpoint_slice_of_long_ago() {
        let mut slice = json!({
            "apiVersion": "discovery.k8s.io/v1beta1", "kind": "EndpointSlice",
            "endpoints": [{"topology": {
                "kubernetes.io/hostname": "n1", "topology.kubernetes.io/zone": "z"}}]
        });
        upgrade(&mut slice).unwrap();
        assert_eq!(
            slice["endpoints"][0],
            json!({"nodeName": "n1", "zone": "z"})
        );
    }
}
