//! Manifests in, plan and problems out, as text: `tests/golden/*.yaml` beside `*.txt`. The first
//! lines of a manifest may say options, as `#! node-name: a`.
//!
//! Invariant: each manifest has its text. `LB_GOLDEN=write` writes what comes out; read the
//! difference before it is committed.
//! Read next: `../src/compile.rs`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use lb_core::plan::{Affinity, Cluster, Condition, Listener, Protocol};
use lb_kube::{Compiled, Compiler, NodePortAddresses, Options, Store, files};

#[test]
fn plans_are_as_written_down() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let writes = std::env::var("LB_GOLDEN").is_ok_and(|value| value == "write");
    let mut wrong = Vec::new();
    let mut names: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|it| it.unwrap().path())
        .collect();
    names.retain(|path| path.extension().is_some_and(|it| it == "yaml"));
    names.sort();
    assert!(names.len() > 10);
    for manifest in names {
        let text = compiled_text(&manifest);
        let expected = manifest.with_extension("txt");
        if writes {
            fs::write(&expected, &text).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != text {
            wrong.push(format!("{}:\n{text}", manifest.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

fn compiled_text(manifest: &Path) -> String {
    let text = fs::read_to_string(manifest).unwrap();
    let file: Arc<str> = manifest.file_name().unwrap().to_string_lossy().into();
    let contents = files::read(&file, &text).unwrap();
    let mut store = Store::new();
    for found in contents.objects {
        store.apply(found.object, Some(found.origin));
    }
    let mut shown = String::new();
    for report in contents.reports {
        writeln!(shown, "unread: {report}").unwrap();
    }
    let compiled = Compiler::new(options(&text)).compile(&mut store);
    assert_eq!(compiled.plan.validate(), Ok(()));
    show(&compiled, &mut shown);
    shown
}

fn options(text: &str) -> Options {
    let mut options = Options::default();
    for line in text.lines().filter_map(|line| line.strip_prefix("#! ")) {
        let (key, value) = line.split_once(": ").unwrap();
        let list = || value.split(", ");
        let prefixes = || list().map(|it| it.parse().unwrap()).collect();
        match key {
            "node-name" => options.node_name = Some(value.to_owned()),
            "machine" => options.machine_addresses = list().map(|it| it.parse().unwrap()).collect(),
            "nodeport-addresses" if value == "primary" => {
                options.nodeport_addresses = NodePortAddresses::Primary;
            }
            "nodeport-addresses" => {
                options.nodeport_addresses = NodePortAddresses::Prefixes(prefixes());
            }
            "lb-pool" => options.lb_pool = prefixes(),
            "lb-class" => options.load_balancer_class = Some(value.to_owned()),
            "cluster-ips" => options.cluster_ips = value == "yes",
            "external-ips" => options.external_ips = value == "yes",
            other => panic!("no option {other}"),
        }
    }
    options
}

fn show(compiled: &Compiled, out: &mut String) {
    for listener in &compiled.plan.listeners {
        show_listener(listener, out);
    }
    for cluster in &compiled.plan.clusters {
        show_cluster(cluster, out);
    }
    for check in &compiled.health_checks {
        let (service, port, count) = (&check.service, check.port, check.local_endpoints);
        writeln!(
            out,
            "health check of {service} on {:?} port {port}: {count}",
            check.addresses
        )
        .unwrap();
    }
    for (service, addresses) in &compiled.load_balancers {
        writeln!(out, "load balancer {service}: {addresses:?}").unwrap();
    }
    if !compiled.local_addresses.is_empty() {
        writeln!(out, "local: {:?}", compiled.local_addresses).unwrap();
    }
    for problem in &compiled.problems {
        writeln!(out, "{}: {problem}", problem.severity.name()).unwrap();
    }
}

fn show_listener(listener: &Listener, out: &mut String) {
    let (protocol, cluster) = match &listener.protocol {
        Protocol::Tcp(tcp) => ("tcp", tcp.cluster.as_deref().unwrap_or_default()),
        Protocol::Udp(udp) => ("udp", &*udp.cluster),
        Protocol::Http(_) => ("http", ""),
    };
    write!(out, "{protocol} {} -> {cluster}", listener.address).unwrap();
    for prefix in &listener.edge.access.allow {
        write!(out, ", allows {prefix}").unwrap();
    }
    if listener.edge.socket.drops_all {
        write!(out, ", drops all").unwrap();
    }
    writeln!(out, " ({})", listener.name).unwrap();
}

fn show_cluster(cluster: &Cluster, out: &mut String) {
    write!(out, "cluster {}", cluster.name).unwrap();
    if let Some(Affinity::ClientAddress { timeout, .. }) = &cluster.affinity {
        write!(out, ", affinity {timeout:?}").unwrap();
    }
    writeln!(out).unwrap();
    for backend in &cluster.backends {
        let condition = match backend.condition {
            Condition::Ready => "",
            Condition::Serving => " if there is no other",
            _ => " no new load",
        };
        writeln!(out, "  {}{condition}", backend.address).unwrap();
    }
}
