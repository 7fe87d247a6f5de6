//! Ingresses in, listeners, routes and problems out, as text: `tests/ingress/*.yaml` beside `*.txt`.
//! The first lines of a manifest may say options, as `#! class: shop`.
//!
//! Invariant: each manifest has its text. `LB_GOLDEN=write` writes what comes out; read the
//! difference before it is committed.
//! Read next: `../src/ingress/mod.rs`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use lb_core::plan::{
    Certificate, Http, KeyForm, PathMatch, PrivateKey, Protocol, Redirect, Rewrite, RouteAction,
};
use lb_kube::{Compiler, Options, Store, files};

#[test]
fn routes_are_as_written_down() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ingress");
    let writes = std::env::var("LB_GOLDEN").is_ok_and(|value| value == "write");
    let mut manifests: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|it| it == "yaml"))
        .collect();
    manifests.sort();
    assert!(manifests.len() > 5);
    let mut wrong = Vec::new();
    for manifest in manifests {
        let text = compiled(&manifest);
        let expected = manifest.with_extension("txt");
        if writes {
            fs::write(&expected, &text).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != text {
            wrong.push(format!("{}:\n{text}", manifest.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

fn compiled(manifest: &Path) -> String {
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
    for listener in &compiled.plan.listeners {
        if let Protocol::Http(http) = &listener.protocol {
            writeln!(shown, "{} on {}", listener.name, listener.address).unwrap();
            show(http, &mut shown);
        }
    }
    for cluster in &compiled.plan.clusters {
        let addresses: Vec<_> = cluster
            .backends
            .iter()
            .map(|it| it.address.to_string())
            .collect();
        let tls = if cluster.tls.is_some() {
            " over TLS"
        } else {
            ""
        };
        writeln!(
            shown,
            "cluster {}{tls}: {}",
            cluster.name,
            addresses.join(" ")
        )
        .unwrap();
    }
    for problem in &compiled.problems {
        writeln!(shown, "{}: {problem}", problem.severity.name()).unwrap();
    }
    shown
}

fn options(text: &str) -> Options {
    let mut options = Options::default();
    options.ingress.fallback = Some(Arc::new(Certificate {
        name: "fallback".into(),
        server_names: Vec::new(),
        chain: vec![vec![1]],
        key: PrivateKey {
            form: KeyForm::Pkcs8,
            der: vec![1],
        },
        ocsp: None,
    }));
    for line in text.lines().filter_map(|line| line.strip_prefix("#! ")) {
        match line.split_once(": ").unwrap() {
            ("class", class) => options.ingress.class = Some(class.to_owned()),
            ("external-names", value) => options.external_names = value == "yes",
            other => panic!("no option {other:?}"),
        }
    }
    options
}

fn show(http: &Http, text: &mut String) {
    for certificate in http.tls.iter().flat_map(|tls| tls.certificates.iter()) {
        let names = certificate.server_names.join(" ");
        writeln!(text, "  certificate {} for [{names}]", certificate.name).unwrap();
    }
    for route in &http.routes {
        let host = route.host.as_deref().unwrap_or("*");
        let path = match &route.path {
            PathMatch::Exact(path) => format!("= {path}"),
            PathMatch::Prefix(path) => path.clone(),
            PathMatch::Start(path) => format!("^~ {path}"),
            PathMatch::Regex { pattern, .. } => format!("~* {pattern}"),
        };
        let action = match &route.action {
            RouteAction::Answer { status } => format!("answer {status}"),
            RouteAction::Redirect(redirect) => show_redirect(redirect),
            RouteAction::Cluster { name, rewrite } => match rewrite {
                Some(Rewrite::Path(path)) => format!("{name}, path {path}"),
                Some(other) => format!("{name}, {other:?}"),
                None => name.clone(),
            },
        };
        writeln!(text, "  {host} {path} -> {action}").unwrap();
    }
    let default = http.default_cluster.as_deref().unwrap_or("answer 404");
    writeln!(text, "  otherwise -> {default}").unwrap();
}

fn show_redirect(redirect: &Redirect) -> String {
    let scheme = redirect.scheme.map_or("", |it| it.name());
    match &redirect.path {
        Some(path) => format!("{} {scheme}{path:?}", redirect.status),
        None => format!("{} {scheme}", redirect.status),
    }
}
