//! A large cluster: how long files take to become a plan, how much memory, and what one changed
//! EndpointSlice costs. Prints; `cargo bench -p lb-kube`.
//!
//! Invariant: 5,000 Services, 50,000 endpoints, 5,000 Ingresses, as files would have them.
//! Read next: `../src/compile.rs`.
#![expect(
    clippy::disallowed_methods,
    reason = "a measurement outside of any runtime"
)]

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lb_kube::{Compiler, Object, Options, Store, files};

const SERVICES: usize = 5_000;
const ENDPOINTS: usize = 10;
const CHANGES: usize = 1_000;

fn main() {
    let texts: Vec<String> = (0..SERVICES).map(manifest).collect();
    let bytes: usize = texts.iter().map(String::len).sum();
    let before = resident_kib();
    let begin = Instant::now();
    let mut store = Store::new();
    for (index, text) in texts.iter().enumerate() {
        let file: Arc<str> = format!("{index}.yaml").into();
        let contents = files::read(&file, text).expect("the manifests are valid");
        for found in contents.objects {
            store.apply(found.object, Some(found.origin));
        }
    }
    let read = begin.elapsed();
    let options = Options {
        cluster_ips: true,
        node_name: Some("node-1".to_owned()),
        ..Options::default()
    };
    let mut compiler = Compiler::new(options);
    let begin = Instant::now();
    let compiled = compiler.compile(&mut store);
    let first = begin.elapsed();
    let plan = &compiled.plan;
    println!(
        "{bytes} bytes of YAML read in {read:?}, compiled in {first:?}; {} KiB; {} listeners, {} \
         clusters, {} problems",
        resident_kib() - before,
        plan.listeners.len(),
        plan.clusters.len(),
        compiled.problems.len()
    );
    let mut times: Vec<Duration> = (0..CHANGES)
        .map(|it| change(it, &mut compiler, &mut store))
        .collect();
    times.sort();
    println!(
        "one changed EndpointSlice: median {:?}, 99 % {:?}, most {:?}",
        times[CHANGES / 2],
        times[CHANGES * 99 / 100],
        times[CHANGES - 1]
    );
}

/// Takes in a slice of which the first endpoint is not ready, and compiles.
fn change(number: usize, compiler: &mut Compiler, store: &mut Store) -> Duration {
    let text = manifest(number * 7 % SERVICES).replacen("{ready: true}", "{ready: false}", 1);
    let contents = files::read(&"changed.yaml".into(), &text).expect("the manifests are valid");
    let slice = contents
        .objects
        .into_iter()
        .find(|it| matches!(it.object, Object::EndpointSlice(_)));
    let found = slice.expect("each has a slice");
    let begin = Instant::now();
    store.apply(found.object, Some(found.origin));
    let compiled = compiler.compile(store);
    let elapsed = begin.elapsed();
    assert!(!compiled.plan.clusters.is_empty());
    elapsed
}

fn manifest(index: usize) -> String {
    let (high, low) = (index / 250, index % 250 + 1);
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: service-{index}\n  namespace: \
         namespace-{high}\nspec:\n  clusterIP: 10.96.{high}.{low}\n  selector: {{app: \
         app-{index}}}\n  ports:\n  - name: http\n    port: 80\n    targetPort: 8080\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: \
         service-{index}-abcde\n  namespace: namespace-{high}\n  labels:\n    \
         kubernetes.io/service-name: service-{index}\naddressType: IPv4\nports:\n- name: http\n  \
         port: 8080\n  protocol: TCP\nendpoints:\n"
    );
    for endpoint in 0..ENDPOINTS {
        let number = index * ENDPOINTS + endpoint;
        let (a, b, c) = (number / 62_500, number / 250 % 250, number % 250 + 1);
        writeln!(
            text,
            "- addresses:\n  - 10.{a}.{b}.{c}\n  conditions: {{ready: true}}\n  nodeName: \
             node-{}\n  targetRef:\n    kind: Pod\n    name: app-{index}-{endpoint}\n    \
             namespace: namespace-{high}\n  zone: zone-{}",
            number % 100,
            number % 3
        )
        .expect("writing to a String does not fail");
    }
    write!(
        text,
        "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: \
         service-{index}\n  namespace: namespace-{high}\nspec:\n  rules:\n  - host: \
         host-{index}.example\n    http:\n      paths:\n      - path: /\n        pathType: \
         Prefix\n        backend: {{service: {{name: service-{index}, port: {{number: 80}}}}}}\n"
    )
    .expect("writing to a String does not fail");
    text
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|it| it.trim().split(' ').next()?.parse().ok());
    number.unwrap_or_default()
}
