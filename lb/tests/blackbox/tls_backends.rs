//! TLS to backends: nginx, which says what it was asked for, and servers that misbehave.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, date_time_ymd};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion,
};

use crate::client;
use crate::harness::{DEADLINE, Folder, Lb, on_both_engines};
use crate::others::Other;
use crate::tls::{Authority, Signed, der};

on_both_engines!(
    nginx_sees_names_certificates_and_protocols,
    what_is_wrong_with_a_backend_is_said,
    a_body_without_its_end_is_not_passed_on_as_whole,
);

/// A configuration with a listener in the clear, `web`, and backends over TLS.
fn config(backend: SocketAddr, protocol: &str, tls: &str) -> String {
    format!(
        "listeners: [{{name: web, address: '127.0.0.1:0', http: {{cluster: c}}}}]\n\
         clusters: {{c: {{backends: ['{backend}'], protocol: {protocol}, tls: {tls}}}}}\n"
    )
}

/// nginx with this certificate, that answers what it knows of the connection.
fn nginx(server: &Signed, authority: &Authority, http: &str) -> Option<Other> {
    Other::nginx(1, |folder, ports| {
        let (certificate, key) = (
            folder.write("it.pem", &server.certificate),
            folder.write("it.key", &server.key),
        );
        let ca = folder.write("ca.pem", &authority.pem);
        format!(
            "server {{ listen 127.0.0.1:{} ssl {http}; ssl_certificate {certificate}; \
             ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3; ssl_client_certificate {ca}; ssl_verify_client optional; \
             location / {{ return 200 \"$ssl_server_name|$ssl_client_verify|$server_protocol|\
             $ssl_protocol\"; }} }}\n",
            ports[0]
        )
    })
}

fn nginx_sees_names_certificates_and_protocols(engine: &str) {
    let (folder, authority) = (Folder::new(), Authority::new());
    let server = authority.server(&["shop.example", "127.0.0.1"]);
    let own = authority.sign(&["front"], ExtendedKeyUsagePurpose::ClientAuth);
    let Some(backend) = nginx(&server, &authority, "http2") else {
        return;
    };
    let ca = folder.write("ca.pem", &authority.pem);
    let own = folder.write("own.pem", &(own.certificate + &own.key));
    let full = format!("{{verify: '{ca}', server_name: shop.example, certificate: '{own}'}}");
    let cases = [
        ("http1", &*full, "shop.example|SUCCESS|HTTP/1.1|TLSv1.3"),
        ("http2", &*full, "shop.example|SUCCESS|HTTP/2.0|TLSv1.3"),
        ("http1", "true", "|NONE|HTTP/1.1|TLSv1.3"),
        // No name is sent, and the certificate must bear the address.
        (
            "http2",
            &*format!("{{verify: '{ca}'}}"),
            "|NONE|HTTP/2.0|TLSv1.3",
        ),
    ];
    for (protocol, tls, expected) in cases {
        let text = config(backend.addresses[0], protocol, tls);
        let lb = Lb::start(engine, &["--config", &folder.write("lb.yaml", &text)]);
        for _ in 0..3 {
            let answer = client::get(lb.listener("web"), "/");
            assert_eq!((answer.status, &*answer.body), (200, expected));
        }
    }
}

/// A certificate of the authority's that ended to be valid long ago.
fn expired(authority: &Authority) -> Signed {
    let mut params = CertificateParams::new(vec!["shop.example".to_owned()]).unwrap();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2021, 1, 1);
    let key = KeyPair::generate().unwrap();
    Signed {
        certificate: params.signed_by(&key, &authority.issuer).unwrap().pem(),
        key: key.serialize_pem(),
    }
}

/// A TLS server that treats each connection as `serve` does.
fn server(signed: &Signed, serve: fn(&mut Tls)) -> SocketAddr {
    let key = PrivateKeyDer::from_pem_slice(signed.key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![der(&signed.certificate)], key);
    serving(config.unwrap(), serve)
}

fn serving(config: ServerConfig, serve: fn(&mut Tls)) -> SocketAddr {
    let config = Arc::new(config);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            serve(&mut Tls::new(connection, stream.unwrap()));
        }
    });
    address
}

type Tls = StreamOwned<ServerConnection, TcpStream>;

/// A server that accepts connections, and says nothing.
fn silent() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || listener.incoming().collect::<Vec<_>>());
    address
}

/// A server that says something else than TLS.
fn speaking(what: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 10_000]);
            let _ = stream.write_all(what);
        }
    });
    address
}

/// A TLS server of one version that requires certificates of this authority.
fn wanting(
    authority: &Authority,
    signed: &Signed,
    version: &'static SupportedProtocolVersion,
) -> SocketAddr {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(der(&authority.pem)).unwrap();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let key = PrivateKeyDer::from_pem_slice(signed.key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(vec![der(&signed.certificate)], key);
    let mut config = config.unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    serving(config, |stream| drop(stream.read(&mut [0; 1000])))
}

/// Asks a backend by HTTP/1.1 or HTTP/2, and holds that what fails is counted as `kind` and said
/// with these words.
fn fails(engine: &str, protocol: &str, backend: SocketAddr, tls: &str, [kind, words]: [&str; 2]) {
    let folder = Folder::new();
    // Only who says nothing is to be too slow.
    let patience = if kind == "timeout" { "300ms" } else { "30s" };
    let text = config(backend, protocol, tls)
        .replace("tls:", &format!("connect_timeout: {patience}, tls:"));
    let lb = Lb::start(engine, &["--config", &folder.write("lb.yaml", &text)]);
    let answer = client::get(lb.listener("web"), "/");
    assert!([502, 503].contains(&answer.status), "{}", answer.status);
    let said = lb.event("a TLS handshake with a backend failed");
    assert_eq!(said["backend"], backend.to_string());
    assert_eq!(said["kind"], kind, "{said}");
    assert!(said["reason"].as_str().unwrap().contains(words), "{said}");
    assert!(said["hint"].as_str().unwrap().len() > 20, "{said}");
    let labels = format!("{{cluster=\"c\",reason=\"{kind}\"}}");
    let series = format!("lb_cluster_tls_handshake_failures_total{labels}");
    assert_eq!(lb.metric(&series), 1.0, "{kind}");
}

fn what_is_wrong_with_a_backend_is_said(engine: &str) {
    let (folder, authority, other) = (Folder::new(), Authority::new(), Authority::new());
    let signed = authority.server(&["shop.example"]);
    let read = |stream: &mut Tls| drop(stream.read(&mut [0; 1000]));
    let (named, expired) = (server(&signed, read), server(&expired(&authority), read));
    let ca = folder.write("ca.pem", &authority.pem);
    let other = folder.write("other.pem", &other.pem);
    let by = |ca: &str, name: &str| format!("{{verify: '{ca}', server_name: {name}}}");
    let good = by(&ca, "shop.example");
    let http = speaking(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    let cases = [
        (expired, &good, ["expired", "expired"]),
        (
            named,
            &by(&other, "shop.example"),
            ["unknown_authority", "UnknownIssuer"],
        ),
        (
            named,
            &by(&ca, "other.example"),
            ["name_mismatch", "other.example"],
        ),
        (speaking(b""), &good, ["closed", ""]),
        (http, &good, ["not_tls", "InvalidContentType"]),
        (silent(), &good, ["timeout", "in time"]),
    ];
    for (backend, tls, said) in cases {
        fails(engine, "http1", backend, tls, said);
    }
    for (protocol, version) in [("http1", &TLS12), ("http1", &TLS13), ("http2", &TLS13)] {
        let backend = wanting(&authority, &signed, version);
        fails(engine, protocol, backend, &good, ["refused", "alert"]);
    }
    fails(engine, "http2", named, &good, ["incompatible", "HTTP/2"]);
    // It closes right behind the handshake, which is no failure of that.
    let text = config(server(&signed, |_| ()), "http1", &good);
    let lb = Lb::start(engine, &["--config", &folder.write("lb.yaml", &text)]);
    let answer = client::get(lb.listener("web"), "/");
    assert!([502, 503].contains(&answer.status), "{}", answer.status);
}

/// Answers with a body that ends with the connection.
fn partly(stream: &mut Tls) {
    let _ = stream.read(&mut [0; 1000]);
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nthe body");
    let _ = stream.flush();
}

fn wholly(stream: &mut Tls) {
    partly(stream);
    stream.conn.send_close_notify();
    let _ = stream.conn.complete_io(&mut stream.sock);
}

fn a_body_without_its_end_is_not_passed_on_as_whole(engine: &str) {
    let (folder, authority) = (Folder::new(), Authority::new());
    let signed = authority.server(&["shop.example"]);
    for (serve, is_whole) in [(wholly as fn(&mut Tls), true), (partly, false)] {
        let text = config(server(&signed, serve), "http1", "true");
        let lb = Lb::start(engine, &["--config", &folder.write("lb.yaml", &text)]);
        let mut stream = TcpStream::connect(lb.listener("web")).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        let (mut stream, mut said) = (BufReader::new(stream), Vec::new());
        let end = loop {
            match stream.read_until(b'\n', &mut said) {
                Ok(1..) if !said.ends_with(b"0\r\n\r\n") => {}
                end => break end,
            }
        };
        let said = String::from_utf8(said).unwrap();
        let has_end = said.ends_with("0\r\n\r\n");
        assert_eq!(has_end, is_whole, "{end:?} behind {said:?}");
    }
}
