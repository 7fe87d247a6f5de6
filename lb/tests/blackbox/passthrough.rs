//! TLS routed by server name and protocol, between curl and nginx.

use std::net::SocketAddr;
use std::process::{Command, Output};

use crate::harness::{Folder, Lb, on_both_engines, skip};
use crate::others::Other;

on_both_engines!(names_and_protocols_lead_to_their_servers);

/// Three TLS servers that answer with their names.
fn servers() -> Option<Other> {
    Other::nginx(3, |folder, ports| {
        let (key, certificate) = (folder.path("key.pem"), folder.path("certificate.pem"));
        let openssl = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ])
            .args([
                "-nodes",
                "-subj",
                "/CN=test",
                "-keyout",
                &key,
                "-out",
                &certificate,
            ])
            .output();
        assert!(openssl.unwrap().status.success(), "a certificate");
        let server = |(port, name): (&u16, &str)| {
            format!(
                "server {{ listen 127.0.0.1:{port} ssl http2; ssl_certificate {certificate}; \
                 ssl_certificate_key {key}; location / {{ return 200 \"{name}\"; }} }}\n"
            )
        };
        ports
            .iter()
            .zip(["shop", "wild", "rest"])
            .map(server)
            .collect()
    })
}

/// Asks for `name` at `address`, by HTTP/1.1 or HTTP/2.
fn curl(address: SocketAddr, name: &str, http: &str) -> Output {
    let port = address.port();
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--insecure",
        "--max-time",
        "30",
        "--noproxy",
        "*",
    ]);
    curl.args(["--resolve", &format!("{name}:{port}:127.0.0.1"), http]);
    curl.arg(format!("https://{name}:{port}/"))
        .output()
        .unwrap()
}

fn names_and_protocols_lead_to_their_servers(engine: &str) {
    if Command::new("curl").arg("--version").output().is_err()
        || Command::new("openssl").arg("version").output().is_err()
    {
        return skip("curl or openssl not installed");
    }
    let Some(servers) = servers() else { return };
    let [shop, wild, rest] = servers.addresses[..] else {
        unreachable!("three were asked for")
    };
    let text = |output: Output| String::from_utf8(output.stdout).unwrap();

    let sni = [format!("shop.example={shop}"), format!("*.example={wild}")];
    let flags = [
        "--tls-passthrough",
        "tls@127.0.0.1:0",
        "--sni",
        &sni[0],
        "--sni",
        &sni[1],
    ];
    let lb = Lb::start(engine, &flags);
    let address = lb.listener("tls");
    assert_eq!(text(curl(address, "shop.example", "--http1.1")), "shop");
    assert_eq!(text(curl(address, "SHOP.example", "--http2")), "shop");
    assert_eq!(text(curl(address, "cart.example", "--http2")), "wild");
    let refused = curl(address, "other.test", "--http1.1");
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("unrecognized name"), "{said}");
    let series = "lb_client_connections_refused_total{listener=\"tls\",reason=\"no_route\"}";
    assert_eq!(lb.metric(series), 1.0);

    let yaml = format!(
        "listeners:\n- name: tls\n  address: 127.0.0.1:0\n  tcp:\n    cluster: rest\n    \
         server_names:\n    - {{name: shop.example, protocols: [h2], cluster: shop}}\n\
         clusters: {{shop: {{backends: ['{shop}']}}, rest: {{backends: ['{rest}']}}}}\n"
    );
    let folder = Folder::new();
    let lb = Lb::start(engine, &["--config", &folder.write("lb.yaml", &yaml)]);
    let address = lb.listener("tls");
    assert_eq!(text(curl(address, "shop.example", "--http2")), "shop");
    assert_eq!(text(curl(address, "shop.example", "--http1.1")), "rest");
    assert_eq!(text(curl(address, "other.test", "--http2")), "rest");
}
