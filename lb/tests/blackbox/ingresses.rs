//! Ingresses as users have them: the tables of the documentation, and annotations with a peer that
//! says how it was spoken to.

use std::net::SocketAddr;

use crate::client::{Connection, Response};
use crate::harness::{Folder, Lb, on_both_engines};
use crate::origin::HttpOrigin;
use crate::others::Other;
use crate::tls::Authority;

on_both_engines!(
    paths_match_as_documented,
    hosts_match_as_documented,
    backends_are_spoken_to_as_annotated,
    clients_are_redirected_as_annotated,
);

const PREFIX: &str = "Prefix";
const EXACT: &str = "Exact";

/// A Service of this name with this endpoint.
fn service(name: &str, backend: SocketAddr, port: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: \
         80{port}}}]}}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: \
         {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\nports: \
         [{{port: {}}}]\nendpoints: [{{addresses: [{}]}}]\n---\n",
        backend.port(),
        backend.ip()
    )
}

fn to(service: &str) -> String {
    format!("{{service: {{name: {service}, port: {{number: 80}}}}}}")
}

/// An Ingress named after its host, with paths that lead to Services; `more` is put into its spec.
fn ingress(name: &str, annotations: &str, more: &str, paths: &[(&str, &str, &str)]) -> String {
    let path = |(kind, path, service): &(&str, &str, &str)| {
        format!(
            "{{pathType: {kind}, path: {path}, backend: {}}}",
            to(service)
        )
    };
    let paths: Vec<_> = paths.iter().map(path).collect();
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: {name}\n  annotations: \
         {{{annotations}}}\nspec:\n{more}  rules: [{{host: {name}.example, http: {{paths: \
         [{}]}}}}]\n---\n",
        paths.join(", ")
    )
}

fn start(engine: &str, folder: &Folder) -> Lb {
    let path = folder.as_ref().to_str().unwrap();
    let mut flags = vec!["--manifests", path, "--healthz", "off"];
    flags.extend(["--ingress-http", "127.0.0.1:0", "--ingress-https", "off"]);
    Lb::start(engine, &flags)
}

fn ask(lb: &Lb, host: &str, path: &str) -> Response {
    let mut connection = Connection::open(lb.listener("ingress-http"));
    connection.send(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    connection.receive()
}

/// The table of <https://kubernetes.io/docs/concepts/services-networking/ingress/#examples>.
fn paths_match_as_documented(engine: &str) {
    /// Paths that lead to `one`, `two` and `three`; who answers each request, in order.
    type Row = (
        &'static [(&'static str, &'static str)],
        &'static [(&'static str, &'static str)],
    );
    const ROWS: &[Row] = &[
        (&[(PREFIX, "/")], &[("/", "one"), ("/any/thing", "one")]),
        (
            &[(EXACT, "/foo")],
            &[("/foo", "one"), ("/bar", "else"), ("/foo/", "else")],
        ),
        (&[(EXACT, "/foo/")], &[("/foo", "else"), ("/foo/", "one")]),
        (
            &[(PREFIX, "/foo")],
            &[("/foo", "one"), ("/foo/", "one"), ("/foo?q", "one")],
        ),
        (&[(PREFIX, "/foo/")], &[("/foo", "one"), ("/foo/", "one")]),
        (&[(PREFIX, "/aaa/bb")], &[("/aaa/bbb", "else")]),
        (
            &[(PREFIX, "/aaa/bbb")],
            &[
                ("/aaa/bbb", "one"),
                ("/aaa/bbb/", "one"),
                ("/aaa/bbb/ccc", "one"),
                ("/aaa/bbbxyz", "else"),
            ],
        ),
        (&[(PREFIX, "/aaa/bbb/")], &[("/aaa/bbb", "one")]),
        (
            &[(PREFIX, "/"), (PREFIX, "/aaa")],
            &[("/aaa/ccc", "two"), ("/ccc", "one")],
        ),
        (
            &[(PREFIX, "/"), (PREFIX, "/aaa"), (PREFIX, "/aaa/bbb")],
            &[("/aaa/bbb", "three"), ("/ccc", "one")],
        ),
        (&[(PREFIX, "/aaa")], &[("/ccc", "else")]),
        (
            &[(PREFIX, "/foo"), (EXACT, "/foo")],
            &[("/foo", "two"), ("/foo/", "one")],
        ),
    ];
    const NAMES: [&str; 3] = ["one", "two", "three"];
    let (folder, other) = (Folder::new(), HttpOrigin::start("else"));
    let origins = NAMES.map(HttpOrigin::start);
    let mut text = service("else", other.address, "");
    for origin in NAMES.iter().zip(&origins) {
        text += &service(origin.0, origin.1.address, "");
    }
    let default = format!("  defaultBackend: {}\n", to("else"));
    for (number, (paths, _)) in ROWS.iter().enumerate() {
        let paths = paths.iter().zip(NAMES);
        let paths: Vec<_> = paths.map(|((kind, path), to)| (*kind, *path, to)).collect();
        text += &ingress(&format!("row{number}"), "", &default, &paths);
    }
    folder.write("objects.yaml", &text);
    let lb = start(engine, &folder);
    for (number, (_, requests)) in ROWS.iter().enumerate() {
        for (path, expected) in *requests {
            let answer = ask(&lb, &format!("row{number}.example"), path);
            assert_eq!(answer.body, *expected, "row {number}, {path}");
        }
    }
}

/// The table of <https://kubernetes.io/docs/concepts/services-networking/ingress/#hostname-wildcards>.
fn hosts_match_as_documented(engine: &str) {
    let (folder, web) = (Folder::new(), HttpOrigin::start("web"));
    let wild = ingress("wild", "", "", &[(PREFIX, "/", "web")]);
    let wild = wild.replace("wild.example", "\"*.foo.com\"");
    folder.write("objects.yaml", &(service("web", web.address, "") + &wild));
    let lb = start(engine, &folder);
    for (host, status) in [
        ("bar.foo.com", 200),
        ("baz.bar.foo.com", 404),
        ("foo.com", 404),
    ] {
        assert_eq!(ask(&lb, host, "/").status, status, "{host}");
    }
}

/// nginx says over which protocol it was asked.
fn backends_are_spoken_to_as_annotated(engine: &str) {
    let server = Authority::new().server(&["other.example"]);
    let nginx = Other::nginx(3, |folder, ports| {
        let certificate = folder.write("it.pem", &server.certificate);
        let key = folder.write("it.key", &server.key);
        let says = "location / { return 200 \"$server_protocol|$scheme|$request_uri\"; }";
        let tls = format!("ssl_certificate {certificate}; ssl_certificate_key {key};");
        format!(
            "server {{ listen 127.0.0.1:{}; {says} }}\nserver {{ listen 127.0.0.1:{} http2; {says} \
             }}\nserver {{ listen 127.0.0.1:{} ssl http2; {tls} {says} }}\n",
            ports[0], ports[1], ports[2]
        )
    });
    let Some(nginx) = nginx else { return };
    let (folder, at) = (Folder::new(), &nginx.addresses);
    let mut text = service("plain", at[0], "") + &service("h2c", at[1], "");
    text += &service("tls", at[2], "");
    text += &service("said", at[1], ", appProtocol: kubernetes.io/h2c");
    let cases = [
        ("none", "", "plain", "HTTP/1.1|http|/"),
        ("http", "HTTP", "plain", "HTTP/1.1|http|/"),
        ("grpc", "GRPC", "h2c", "HTTP/2.0|http|/"),
        ("https", "HTTPS", "tls", "HTTP/1.1|https|/"),
        ("grpcs", "GRPCS", "tls", "HTTP/2.0|https|/"),
        ("said", "", "said", "HTTP/2.0|http|/"),
    ];
    for (name, protocol, service, _) in cases {
        let annotation = match protocol {
            "" => String::new(),
            name => format!("nginx.ingress.kubernetes.io/backend-protocol: {name}"),
        };
        text += &ingress(name, &annotation, "", &[(PREFIX, "/", service)]);
    }
    let annotation = "nginx.ingress.kubernetes.io/backend-protocol: FCGI";
    text += &ingress("fcgi", annotation, "", &[(PREFIX, "/", "plain")]);
    folder.write("objects.yaml", &text);
    let lb = start(engine, &folder);
    for (name, _, _, expected) in cases {
        let answer = ask(&lb, &format!("{name}.example"), "/");
        assert_eq!((answer.status, &*answer.body), (200, expected), "{name}");
    }
    assert_eq!(ask(&lb, "fcgi.example", "/").status, 503);
    let problems = lb.config()["objects"]["problems"].to_string();
    assert!(problems.contains("FCGI"), "{problems}");
}

fn clients_are_redirected_as_annotated(engine: &str) {
    let (folder, web) = (Folder::new(), HttpOrigin::start("web"));
    let tls = |name: &str| format!("  tls: [{{hosts: [{name}.example], secretName: absent}}]\n");
    let annotation = |name: &str| format!("nginx.ingress.kubernetes.io/{name}-redirect: \"true\"");
    let (ssl, force) = (annotation("ssl"), annotation("force-ssl"));
    let paths = [(PREFIX, "/", "web")];
    let text = service("web", web.address, "")
        + &ingress("plain", "", "", &paths)
        + &ingress("strict-tls", "", &tls("strict-tls"), &paths)
        + &ingress("ssl", &ssl, &tls("ssl"), &paths)
        + &ingress("ssl-without-tls", &ssl, "", &paths)
        + &ingress("forced", &force, "", &paths)
        + &ingress("nginx-tls", "", &tls("nginx-tls"), &paths)
            .replace("spec:\n", "spec:\n  ingressClassName: nginx\n");
    folder.write("objects.yaml", &text);
    let lb = start(engine, &folder);
    for (name, is_redirected) in [
        ("plain", false),
        ("strict-tls", false),
        ("ssl", true),
        ("ssl-without-tls", false),
        ("forced", true),
        ("nginx-tls", true),
    ] {
        let host = format!("{name}.example");
        let answer = ask(&lb, &host, "/a?b=c");
        let location = answer.header("location").map(str::to_owned);
        let expected = is_redirected.then(|| format!("https://{host}/a?b=c"));
        let status = if is_redirected { 308 } else { 200 };
        assert_eq!((answer.status, location), (status, expected), "{name}");
        let challenge = ask(&lb, &host, "/.well-known/acme-challenge/token");
        assert_eq!(
            challenge.status, 200,
            "{name}: certificates come by HTTP-01"
        );
    }
}
