//! What is compiled change by change is what is compiled at once, whatever the changes.
//!
//! Invariant: checked after each step of a random sequence of objects that come, change and go.
//! Read next: `../src/compile.rs`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;

use lb_kube::{Compiled, Compiler, Decoded, Object, ObjectRef, Options, Store};
use proptest::prelude::*;
use serde_json::{Value, json};

/// One change.
#[derive(Debug, Clone)]
enum Step {
    Apply(Value),
    Delete(&'static str, String),
    Compile,
}

fn options() -> Options {
    Options {
        node_name: Some("node-0".to_owned()),
        lb_pool: vec!["192.0.2.0/29".parse().unwrap()],
        cluster_ips: true,
        external_ips: true,
        ..Options::default()
    }
}

fn object(value: &Value) -> Object {
    match Decoded::from_value(value.clone()) {
        Ok(Decoded::Object(object)) => object,
        other => panic!("{value}: {other:?}"),
    }
}

fn name() -> impl Strategy<Value = String> {
    (0..4).prop_map(|it| format!("s{it}"))
}

fn service() -> impl Strategy<Value = Value> {
    let kinds = prop::sample::select(vec!["ClusterIP", "NodePort", "LoadBalancer", "Nonsense"]);
    let policies = || prop::sample::select(vec!["Cluster", "Local", "Other"]);
    let ports = prop::collection::vec((80..84, prop::option::of(30_000..30_004)), 1..3);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), 0..3);
    (name(), kinds, policies(), policies(), ports, flags).prop_map(
        |(name, kind, external, internal, ports, (selects, sticky, dual, age))| {
            let port = |(index, (port, node)): (usize, &(i32, Option<i32>))| {
                json!({"name": format!("p{index}"), "port": port, "nodePort": node,
                       "targetPort": if index == 0 { json!("web") } else { json!(9000) }})
            };
            let mut spec = json!({
                "type": kind, "externalTrafficPolicy": external,
                "internalTrafficPolicy": internal,
                "clusterIP": format!("10.96.0.{}", ports.len()),
                "ports": ports.iter().enumerate().map(port).collect::<Vec<_>>(),
            });
            if selects {
                spec["selector"] = json!({"app": "a"});
            }
            if sticky {
                spec["sessionAffinity"] = json!("ClientIP");
            }
            if dual {
                spec["ipFamilyPolicy"] = json!("RequireDualStack");
            }
            let mut metadata = json!({"name": name});
            if age > 0 {
                metadata["creationTimestamp"] = json!(format!("2026-01-0{age}T00:00:00Z"));
            }
            json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
        },
    )
}

fn slice() -> impl Strategy<Value = Value> {
    let endpoint = (
        1..6,
        0..3,
        prop::option::of(any::<bool>()),
        any::<bool>(),
        any::<bool>(),
    );
    let endpoints = prop::collection::vec(endpoint, 0..4);
    (name(), name(), endpoints).prop_map(|(name, service, endpoints)| {
        let endpoint = |(address, node, ready, terminating, hinted): &(_, _, _, _, bool)| {
            let (ready, terminating): (&Option<bool>, &bool) = (ready, terminating);
            let mut endpoint = json!({
                "addresses": [format!("10.0.0.{address}")], "nodeName": format!("node-{node}"),
                "conditions": {"ready": ready, "terminating": terminating},
            });
            if *hinted {
                endpoint["hints"] = json!({"forZones": [{"name": format!("zone-{node}")}]});
            }
            endpoint
        };
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "ports": [{"name": "p0", "port": 8080}, {"name": "p1", "port": 1}],
            "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        })
    })
}

fn pod() -> impl Strategy<Value = Value> {
    let label = prop::sample::select(vec!["a", "b"]);
    (name(), label, 1..4, any::<bool>()).prop_map(|(name, label, address, ready)| {
        let ready = if ready { "True" } else { "False" };
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": label}},
            "spec": {"nodeName": "node-0", "containers": [
                {"name": "a", "ports": [{"name": "web", "containerPort": 8080 + address}]}]},
            "status": {"podIP": format!("10.0.1.{address}"),
                       "conditions": [{"type": "Ready", "status": ready}]},
        })
    })
}

fn node() -> impl Strategy<Value = Value> {
    (0..2, 0..2).prop_map(|(node, zone)| {
        json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("node-{node}"),
            "labels": {"topology.kubernetes.io/zone": format!("zone-{zone}")}},
        })
    })
}

fn step() -> impl Strategy<Value = Step> {
    let kinds = vec!["Service", "EndpointSlice", "Pod"];
    prop_oneof![
        4 => service().prop_map(Step::Apply),
        6 => slice().prop_map(Step::Apply),
        3 => pod().prop_map(Step::Apply),
        1 => node().prop_map(Step::Apply),
        4 => (prop::sample::select(kinds), name()).prop_map(|(kind, name)| Step::Delete(kind, name)),
        6 => Just(Step::Compile),
    ]
}

fn from_nothing(objects: &BTreeMap<ObjectRef, Object>) -> Compiled {
    let mut store = Store::new();
    for object in objects.values() {
        store.apply(object.clone(), None);
    }
    Compiler::new(options()).compile(&mut store)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn step_by_step_is_as_at_once(steps in prop::collection::vec(step(), 1..40)) {
        let mut objects = BTreeMap::new();
        let mut store = Store::new();
        let mut compiler = Compiler::new(options());
        let mut before = Compiled::default();
        for step in steps.into_iter().chain([Step::Compile]) {
            match step {
                Step::Apply(value) => {
                    let object = object(&value);
                    objects.insert(object.reference(), object.clone());
                    store.apply(object, None);
                }
                Step::Delete(kind, name) => {
                    let found = objects.keys().find(|it| {
                        it.kind.name() == kind && *it.name.name == *name
                    });
                    if let Some(reference) = found.cloned() {
                        objects.remove(&reference);
                        prop_assert!(store.delete(&reference));
                    }
                }
                Step::Compile => {
                    let compiled = compiler.compile(&mut store);
                    prop_assert_eq!(compiled.plan.validate(), Ok(()));
                    prop_assert_eq!(&compiled, &from_nothing(&objects));
                    for cluster in &compiled.plan.clusters {
                        let same = before.plan.clusters.iter().find(|it| *it == cluster);
                        prop_assert!(same.is_none_or(|it| Arc::ptr_eq(it, cluster)));
                    }
                    before = compiled;
                }
            }
        }
    }
}
