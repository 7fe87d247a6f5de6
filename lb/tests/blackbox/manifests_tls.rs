//! Certificates of Ingresses: chosen by name, swapped, missing.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::client::Connection;
use crate::harness::{DEADLINE, Folder, Lb, on_both_engines, wait_until};
use crate::origin::HttpOrigin;

on_both_engines!(a_secret_is_served_by_name_and_swapped);

type Made = CertifiedKey<KeyPair>;
type Tls = StreamOwned<ClientConnection, TcpStream>;

fn made(name: &str) -> Made {
    generate_simple_self_signed(vec![name.to_owned()]).unwrap()
}

fn secret(made: &Made) -> String {
    let indent = |text: String| text.replace('\n', "\n    ");
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: shop-tls}}\ntype: \
         kubernetes.io/tls\nstringData:\n  tls.crt: |\n    {}\n  tls.key: |\n    {}\n",
        indent(made.cert.pem()),
        indent(made.signing_key.serialize_pem())
    )
}

/// A connection of a client that trusts this certificate and no other.
fn open(address: SocketAddr, trusted: &Made) -> Result<Tls, String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.cert.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("shop.example").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let stream = TcpStream::connect(address).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut tls = StreamOwned::new(connection, stream);
    match ask(&mut tls) {
        Ok(200) => Ok(tls),
        other => Err(format!("{other:?}")),
    }
}

/// The status of a request; the body is `answer`.
fn ask(tls: &mut Tls) -> Result<u16, String> {
    let request = b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n";
    tls.write_all(request).map_err(|error| error.to_string())?;
    let mut head = Vec::new();
    while !head.ends_with(b"answer") {
        let mut byte = [0];
        let count = tls.read(&mut byte).map_err(|error| error.to_string())?;
        if count == 0 {
            return Err("the end".to_owned());
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    Ok(head.split(' ').nth(1).unwrap().parse().unwrap())
}

fn a_secret_is_served_by_name_and_swapped(engine: &str) {
    let origin = HttpOrigin::start("answer");
    let (first, second) = (made("shop.example"), made("shop.example"));
    let folder = Folder::new();
    let objects = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{ports: [{{port: \
         80}}]}}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: web-1, \
         labels: {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\nports: [{{port: \
         {}}}]\nendpoints: [{{addresses: [127.0.0.1]}}]\n---\napiVersion: \
         networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: shop, annotations: \
         {{nginx.ingress.kubernetes.io/ssl-redirect: \"true\"}}}}\nspec:\n  tls: [{{hosts: \
         [shop.example], secretName: shop-tls}}]\n  rules: [{{host: shop.example, http: {{paths: \
         [{{path: /, pathType: Prefix, backend: {{service: {{name: web, port: {{number: \
         80}}}}}}}}]}}}}]\n",
        origin.address.port()
    );
    folder.write("objects.yaml", &objects);
    let path = folder.as_ref().to_str().unwrap().to_owned();
    let flags = [
        ["--manifests", &path],
        ["--ingress-http", "127.0.0.1:0"],
        ["--ingress-https", "127.0.0.1:0"],
        ["--healthz", "off"],
    ];
    let lb = Lb::start(engine, &flags.concat());
    let https = lb.listener("ingress-https");
    let problems = lb.config()["objects"]["problems"].to_string();
    assert!(
        problems.contains("there is no Secret default/shop-tls"),
        "{problems}"
    );
    assert!(
        open(https, &first).is_err(),
        "the fallback is trusted by nobody"
    );

    folder.write("secret.yaml", &secret(&first));
    wait_until("the certificate", || open(https, &first).is_ok());
    let mut kept = open(https, &first).unwrap();
    folder.replace("secret.yaml", &secret(&second));
    wait_until("the next certificate", || open(https, &second).is_ok());
    assert!(open(https, &first).is_err());
    assert_eq!(ask(&mut kept), Ok(200), "its connection goes on");
    assert_eq!(lb.config()["objects"]["problems"].to_string(), "[]");

    let mut plain = Connection::open(lb.listener("ingress-http"));
    plain.send("GET /a/?b HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    let answer = plain.receive();
    assert_eq!(answer.status, 308);
    assert_eq!(answer.header("location"), Some("https://shop.example/a/?b"));
}
