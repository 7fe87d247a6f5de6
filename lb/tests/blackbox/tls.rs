//! Clients over TLS, and backends: with a client made of `rustls`, and with `lb` before `lb`.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::client::{ClientConfig, ClientConnection, Resumption};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{
    HandshakeKind, ProtocolVersion, RootCertStore, StreamOwned, SupportedProtocolVersion,
};

use crate::harness::{DEADLINE, Folder, Lb, on_both_engines, output, wait_until};

on_both_engines!(
    certificates_are_chosen_by_name_and_sessions_are_resumed,
    certificates_are_swapped_under_load,
    clients_show_certificates,
    handshakes_that_come_to_nothing_are_cut_and_counted,
    long_bodies_arrive_whole,
    backends_are_asked_over_tls,
);

/// An authority: its certificate as PEM, and what it signs with.
pub(crate) struct Authority {
    pub(crate) pem: String,
    pub(crate) issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM.
pub(crate) struct Signed {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        static SERIAL: AtomicUsize = AtomicUsize::new(0);
        let name = format!("authority {}", SERIAL.fetch_add(1, Ordering::Relaxed));
        let kind = rcgen::DnType::CommonName;
        params.distinguished_name.push(kind, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { pem, issuer }
    }

    pub(crate) fn sign(&self, names: &[&str], usage: ExtendedKeyUsagePurpose) -> Signed {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Signed {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    pub(crate) fn server(&self, names: &[&str]) -> Signed {
        self.sign(names, ExtendedKeyUsagePurpose::ServerAuth)
    }
}

pub(crate) fn der(pem: &str) -> CertificateDer<'static> {
    use rustls::pki_types::pem::PemObject;
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// A client that trusts `authority` and shows `own`.
pub(crate) fn client(
    authority: &Authority,
    own: Option<&Signed>,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    use rustls::pki_types::pem::PemObject;
    let mut roots = RootCertStore::empty();
    roots.add(der(&authority.pem)).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match own {
        Some(own) => {
            let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
            let chain = CertificateDer::pem_slice_iter(own.certificate.as_bytes());
            let chain = chain.collect::<Result<_, _>>().unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::in_memory_sessions(8);
    Arc::new(config)
}

pub(crate) type Tls = StreamOwned<ClientConnection, TcpStream>;

pub(crate) fn connect(config: &Arc<ClientConfig>, address: SocketAddr, name: &str) -> Tls {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connection = ClientConnection::new(Arc::clone(config), name).unwrap();
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    StreamOwned::new(connection, stream)
}

/// Sends a request and reads the response, which has a Content-Length: its status and its body.
pub(crate) fn ask(stream: &mut Tls, head: &str) -> std::io::Result<(u16, String)> {
    stream.write_all(head.as_bytes())?;
    let mut reader = BufReader::new(stream);
    let (mut status, mut length, mut line) = (0, 0, String::new());
    while line != "\r\n" {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let lower = line.to_ascii_lowercase();
        if let Some(rest) = lower.strip_prefix("http/1.1 ") {
            status = rest[..3].parse().unwrap();
        }
        if let Some(rest) = lower.strip_prefix("content-length:") {
            length = rest.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

pub(crate) fn get(stream: &mut Tls) -> std::io::Result<(u16, String)> {
    ask(stream, "GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n")
}

/// An origin whose answers are the heads that it gets.
pub(crate) fn echo() -> SocketAddr {
    origin(|head| head.to_owned())
}

/// An origin whose answers are what `answer` makes of the heads that it gets.
pub(crate) fn origin(answer: fn(&str) -> String) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || answer_heads(stream.unwrap(), answer));
        }
    });
    address
}

fn answer_heads(stream: TcpStream, answer: fn(&str) -> String) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if !matches!(reader.read_line(&mut head), Ok(1..)) {
                return;
            }
        }
        let body = answer(&head);
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        if reader.get_mut().write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// The certificate that a connection was shown.
pub(crate) fn shown(stream: &Tls) -> CertificateDer<'static> {
    stream.conn.peer_certificates().unwrap()[0]
        .clone()
        .into_owned()
}

fn certificates_are_chosen_by_name_and_sessions_are_resumed(engine: &str) {
    let (folder, authority) = (Folder::new(), Authority::new());
    let shop = authority.server(&["shop.example"]);
    let wild = authority.server(&["*.wild.example"]);
    let origin = echo();
    let files = [
        folder.write("shop.pem", &shop.certificate),
        folder.write("shop.key", &shop.key),
        // A chain and its key in one file each.
        folder.write(
            "wild.pem",
            &format!("{}{}", wild.certificate, authority.pem),
        ),
        folder.write("wild.key", &wild.key),
    ];
    let listen = format!("web@127.0.0.1:0={origin}");
    let flags = [
        "--https",
        &listen,
        "--tls-cert",
        &files[0],
        "--tls-key",
        &files[1],
        "--tls-cert",
        &files[2],
        "--tls-key",
        &files[3],
    ];
    let lb = Lb::start(engine, &flags);
    let address = lb.listener("web");
    for version in [&TLS12, &TLS13] {
        let config = client(&authority, None, &[version]);
        let mut first = connect(&config, address, "shop.example");
        let (status, head) = get(&mut first).unwrap();
        assert_eq!(status, 200);
        assert!(head.contains("X-Forwarded-Proto: https\r\n"), "{head}");
        assert_eq!(shown(&first), der(&shop.certificate));
        assert_eq!(first.conn.protocol_version(), Some(version.version));
        assert_eq!(get(&mut first).unwrap().0, 200, "the same connection again");

        let mut again = connect(&config, address, "shop.example");
        assert_eq!(get(&mut again).unwrap().0, 200);
        assert_eq!(again.conn.handshake_kind(), Some(HandshakeKind::Resumed));

        let mut other = connect(&config, address, "a.wild.example");
        assert_eq!(get(&mut other).unwrap().0, 200);
        assert_eq!(shown(&other), der(&wild.certificate));

        let name = if version.version == ProtocolVersion::TLSv1_2 {
            "1.2"
        } else {
            "1.3"
        };
        let count = |resumed| {
            let labels = format!("{{listener=\"web\",version=\"{name}\",resumed=\"{resumed}\"}}");
            lb.metric(&format!("lb_tls_handshakes_total{labels}"))
        };
        assert_eq!((count("false"), count("true")), (2.0, 1.0));
    }
    let not_after = format!("{{listener=\"web\",certificate=\"{}\"}}", files[0]);
    assert!(lb.metric(&format!("lb_tls_certificate_not_after_seconds{not_after}")) > 0.0);
    let checked = output(&[&["check"], &flags[..]].concat());
    let text = String::from_utf8(checked.stdout).unwrap();
    assert!(text.contains("for *.wild.example until "), "{text}");
}

fn certificates_are_swapped_under_load(engine: &str) {
    let (folder, authority) = (Folder::new(), Authority::new());
    let (old, new) = (
        authority.server(&["shop.example"]),
        authority.server(&["shop.example"]),
    );
    let origin = echo();
    let yaml = format!(
        "listeners:\n- name: web\n  address: 127.0.0.1:0\n  http:\n    cluster: c\n    tls: \
         {{certificate: '{}'}}\nclusters: {{c: {{backends: ['{origin}']}}}}\n",
        folder.write("it.pem", &format!("{}{}", old.key, old.certificate))
    );
    let lb = Lb::start(engine, &["--config", &folder.write("lb.yaml", &yaml)]);
    let address = lb.listener("web");
    let (is_over, requests) = (AtomicBool::new(false), AtomicUsize::new(0));
    let config = client(&authority, None, &[&TLS13]);
    let current = |config: &Arc<ClientConfig>| {
        let mut stream = connect(config, address, "shop.example");
        assert_eq!(get(&mut stream).unwrap().0, 200);
        requests.fetch_add(1, Ordering::Relaxed);
        shown(&stream)
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut kept = connect(&config, address, "shop.example");
            while !is_over.load(Ordering::Relaxed) {
                current(&client(&authority, None, &[&TLS13, &TLS12]));
                assert_eq!(get(&mut kept).unwrap().0, 200);
            }
        });
        // Half a file: what runs stays.
        folder.replace("it.pem", &new.certificate);
        let refused = lb.event("the configuration is refused; the one before goes on");
        let problem = refused["problem"].as_str().unwrap().to_owned();
        assert!(
            problem.contains("there is no private key in it"),
            "{problem}"
        );
        assert_eq!(
            current(&client(&authority, None, &[&TLS13])),
            der(&old.certificate)
        );
        folder.replace("it.pem", &format!("{}{}", new.certificate, new.key));
        wait_until("the new certificate", || {
            current(&client(&authority, None, &[&TLS13])) == der(&new.certificate)
        });
        is_over.store(true, Ordering::Relaxed);
    });
    assert!(requests.into_inner() > 2);
}

fn clients_show_certificates(engine: &str) {
    let (folder, authority, other) = (Folder::new(), Authority::new(), Authority::new());
    let server = authority.server(&["shop.example"]);
    let good = authority.sign(&["client"], ExtendedKeyUsagePurpose::ClientAuth);
    let bad = other.sign(&["client"], ExtendedKeyUsagePurpose::ClientAuth);
    let origin = echo();
    let pair = format!(
        "certificate: '{}', key: '{}'",
        folder.write("it.pem", &server.certificate),
        folder.write("it.key", &server.key)
    );
    let ca = folder.write("ca.pem", &authority.pem);
    let listener = |mode: &str| {
        format!(
            "- name: {mode}\n  address: 127.0.0.1:0\n  http: {{cluster: c, tls: {{{pair}, \
             client_auth: {{ca: '{ca}', mode: {mode}}}}}}}\n"
        )
    };
    let (required, optional) = (listener("required"), listener("optional"));
    let yaml = format!(
        "listeners:\n{required}{optional}\
         - name: none\n  address: 127.0.0.1:0\n  http: {{cluster: c, tls: {{{pair}}}}}\n\
         clusters: {{c: {{backends: ['{origin}']}}}}\n"
    );
    let lb = Lb::start(engine, &["--config", &folder.write("lb.yaml", &yaml)]);
    let claim = "GET / HTTP/1.1\r\nHost: a\r\nSSL_Client-Verify: SUCCESS\r\n\r\n";
    let ask_as = |own: Option<&Signed>, mode: &str| {
        let config = client(&authority, own, &[&TLS13]);
        let mut stream = connect(&config, lb.listener(mode), "shop.example");
        ask(&mut stream, claim).map(|(_, head)| head.to_ascii_lowercase())
    };
    for mode in ["required", "optional"] {
        let head = ask_as(Some(&good), mode).unwrap();
        assert!(head.contains("ssl-client-verify: success\r\n"), "{head}");
        assert!(
            head.contains("ssl-client-subject-dn: cn=rcgen self signed cert\r\n"),
            "{head}"
        );
        assert!(
            !head.contains("ssl_client"),
            "what the client claims is gone: {head}"
        );
        assert!(ask_as(Some(&bad), mode).is_err());
    }
    assert!(ask_as(None, "required").is_err());
    let head = ask_as(None, "optional").unwrap();
    assert!(head.contains("ssl-client-verify: none\r\n"), "{head}");
    assert!(
        !ask_as(Some(&good), "none")
            .unwrap()
            .contains("client-verify")
    );

    // A session without a certificate is not resumed where one is required.
    let config = client(&authority, None, &[&TLS13]);
    let mut stream = connect(&config, lb.listener("none"), "shop.example");
    ask(&mut stream, claim).unwrap();
    let mut stream = connect(&config, lb.listener("required"), "shop.example");
    assert!(ask(&mut stream, claim).is_err());
    let labels = "{listener=\"required\",reason=\"client_certificate\"}";
    assert_eq!(
        lb.metric(&format!("lb_tls_handshake_failures_total{labels}")),
        3.0
    );
}

fn handshakes_that_come_to_nothing_are_cut_and_counted(engine: &str) {
    let (folder, authority) = (Folder::new(), Authority::new());
    let server = authority.server(&["shop.example"]);
    let yaml = format!(
        "listeners:\n- name: web\n  address: 127.0.0.1:0\n  http: {{cluster: c, tls: \
         {{certificate: '{}', key: '{}', handshake_timeout: 200ms, unknown_names: refuse, \
         min_version: '1.3'}}}}\nclusters: {{c: {{backends: ['{}']}}}}\n",
        folder.write("it.pem", &server.certificate),
        folder.write("it.key", &server.key),
        echo()
    );
    let lb = Lb::start(engine, &["--config", &folder.write("lb.yaml", &yaml)]);
    let address = lb.listener("web");
    let said = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    assert_eq!(said(b""), "");
    assert_eq!(said(b"\x16\x03\x01\x02\x00\x01"), "", "half a ClientHello");
    let plain = said(b"GET / HTTP/1.1\r\n");
    assert!(
        plain.starts_with("HTTP/1.1 400 ") && plain.contains("https://"),
        "{plain}"
    );
    said(b"what is this\r\n");
    let failed = |name: &str, version: &'static SupportedProtocolVersion| {
        let mut stream = connect(&client(&authority, None, &[version]), address, name);
        get(&mut stream).unwrap_err().to_string()
    };
    let error = failed("other.example", &TLS13);
    assert!(
        error.contains("UnrecognisedName") || error.contains("UnrecognizedName"),
        "{error}"
    );
    failed("shop.example", &TLS12);
    let event = lb.event_where("a TLS handshake failed", |it| it["kind"] == "unknown_name");
    assert_eq!(event["server_name"], "other.example");
    let counts = [
        ("timeout", 2.0),
        ("plain_http", 1.0),
        ("not_tls", 1.0),
        ("unknown_name", 1.0),
        ("incompatible", 1.0),
    ];
    for (reason, count) in counts {
        let labels = format!("{{listener=\"web\",reason=\"{reason}\"}}");
        let series = format!("lb_tls_handshake_failures_total{labels}");
        assert_eq!(lb.metric(&series), count, "{reason}");
    }
    let mut good = connect(
        &client(&authority, None, &[&TLS13]),
        address,
        "shop.example",
    );
    thread::sleep(Duration::from_millis(400)); // longer than the handshake timeout
    assert_eq!(
        get(&mut good).map(|it| it.0).ok(),
        None,
        "cut before it began"
    );
}

fn long_bodies_arrive_whole(engine: &str) {
    fn text(len: usize) -> String {
        let letter = |at: usize| char::from(b'a' + ((at / 16_411 + at) % 26) as u8);
        (0..len).map(letter).collect()
    }
    let (folder, authority) = (Folder::new(), Authority::new());
    let shop = authority.server(&["shop.example"]);
    let origin = origin(|head| {
        let path = head.split(' ').nth(1).unwrap();
        text(path[1..].parse().unwrap())
    });
    let listen = format!("web@127.0.0.1:0={origin}");
    let (certificate, key) = (
        folder.write("shop.pem", &shop.certificate),
        folder.write("shop.key", &shop.key),
    );
    let flags = [
        "--https",
        &listen,
        "--tls-cert",
        &certificate,
        "--tls-key",
        &key,
    ];
    let lb = Lb::start(engine, &flags);
    for version in [&TLS12, &TLS13] {
        let config = client(&authority, None, &[version]);
        let mut stream = connect(&config, lb.listener("web"), "shop.example");
        for len in [3, 16_384, 65_536, 131_072, 1_048_577, 3, 3_000_000] {
            let head = format!("GET /{len} HTTP/1.1\r\nHost: shop.example\r\n\r\n");
            let (status, body) = ask(&mut stream, &head).unwrap();
            assert!((status, &body) == (200, &text(len)), "{len} bytes");
        }
    }
}

fn backends_are_asked_over_tls(engine: &str) {
    let (folder, authority, other) = (Folder::new(), Authority::new(), Authority::new());
    let server = authority.server(&["shop.example"]);
    let own = authority.sign(&["front"], ExtendedKeyUsagePurpose::ClientAuth);
    let path = |name: &str, text: &str| folder.write(name, text);
    let (ca, other) = (
        path("ca.pem", &authority.pem),
        path("other.pem", &other.pem),
    );
    let back = format!(
        "listeners:\n- name: back\n  address: 127.0.0.1:0\n  http: {{cluster: c, tls: \
         {{certificate: '{}', key: '{}', client_auth: {{ca: '{ca}', mode: optional}}}}}}\n\
         clusters: {{c: {{backends: ['{}']}}}}\n",
        path("it.pem", &server.certificate),
        path("it.key", &server.key),
        echo()
    );
    let back = Lb::start(engine, &["--config", &path("back.yaml", &back)]);
    let to = back.listener("back");
    let own = format!(
        "certificate: '{}', key: '{}'",
        path("own.pem", &own.certificate),
        path("own.key", &own.key)
    );
    let clusters = [
        ("unverified", String::from("true")),
        (
            "verified",
            format!("{{verify: '{ca}', server_name: shop.example, {own}}}"),
        ),
        (
            "mistrusted",
            format!("{{verify: '{other}', server_name: shop.example}}"),
        ),
        (
            "misnamed",
            format!("{{verify: '{ca}', server_name: other.example}}"),
        ),
    ];
    let mut yaml = String::from("listeners:\n");
    for (name, _) in &clusters {
        yaml += &format!("- {{name: {name}, address: '127.0.0.1:0', http: {{cluster: {name}}}}}\n");
    }
    yaml += "clusters:\n";
    for (name, tls) in &clusters {
        yaml += &format!("  {name}: {{backends: ['{to}'], tls: {tls}}}\n");
    }
    let front = Lb::start(engine, &["--config", &path("front.yaml", &yaml)]);
    let ask = |name: &str| crate::client::get(front.listener(name), "/");
    for _ in 0..5 {
        let answer = ask("verified");
        let head = answer.body.to_ascii_lowercase();
        assert_eq!(answer.status, 200);
        assert!(head.contains("ssl-client-verify: success\r\n"), "{head}");
        assert!(
            ask("unverified")
                .body
                .contains("ssl-client-verify: NONE\r\n")
        );
    }
    assert_eq!(
        (ask("mistrusted").status, ask("misnamed").status),
        (503, 503)
    );
    let said = front.event("a TLS handshake with a backend failed");
    assert_eq!(said["cluster"], "mistrusted");
}

#[test]
fn certificates_that_cannot_be_used_are_refused_with_their_reason() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let (one, two) = (
        authority.server(&["a.example"]),
        authority.server(&["b.example"]),
    );
    let certificate = folder.write("one.pem", &one.certificate);
    let key = folder.write("one.key", &one.key);
    let missing = folder.path("missing.pem");
    let home = folder.path("");
    let large = folder.write("large.pem", &"x".repeat(10 << 20));
    let empty = folder.write("empty.pem", "");
    let wrong = folder.write("two.key", &two.key);
    let broken = folder.write("broken.pem", &one.certificate[..100]);
    let odd = one.certificate.replace("MII", "MIIA");
    let odd = folder.write("odd.pem", &odd);
    let cases = [
        (&missing, &key, "is not there"),
        (&home, &key, "is a folder"),
        (&large, &key, "larger than 1 MiB"),
        (&empty, &key, "is empty"),
        (&broken, &key, "not valid PEM"),
        (&key, &key, "there is no certificate in it"),
        (&odd, &key, "cannot be used"),
        (&certificate, &missing, "is not there"),
        (&certificate, &certificate, "there is no private key in it"),
        (
            &certificate,
            &wrong,
            "the private key is not the key of the certificate",
        ),
    ];
    for (certificate, key, reason) in cases {
        let flags = [
            "--https",
            "127.0.0.1:0=127.0.0.1:1",
            "--tls-cert",
            certificate,
            "--tls-key",
            key,
        ];
        let refused = output(&[&["check"], &flags[..]].concat());
        let said = String::from_utf8_lossy(&refused.stderr).into_owned()
            + &String::from_utf8_lossy(&refused.stdout);
        assert!(
            !refused.status.success() && said.contains(reason),
            "{reason}: {said}"
        );
        assert!(!said.contains("PRIVATE KEY-----\nM"), "no key is shown");
    }
}
