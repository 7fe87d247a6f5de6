//! Clients over TLS: their certificates, tickets, limits, and what is agreed on with them; with
//! `rustls`, `openssl s_client` and `curl`.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::client::ClientConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, RootCertStore};

use crate::harness::{Folder, Lb, on_both_engines, wait_until};
use crate::tls::{Authority, Signed, Tls, ask, client, connect, der, echo, get, shown};

on_both_engines!(
    revoked_clients_are_refused,
    chains_of_clients_may_be_so_long,
    handshakes_are_limited,
    tickets_open_on_every_node,
    suites_versions_and_groups_are_settings,
    secrets_are_logged_on_request_only,
    each_client_gets_a_key_that_it_can_verify,
    a_proxy_header_comes_before_tls,
    protocols_are_agreed_on,
    unknown_names_get_the_first_certificate,
    no_request_fails_while_certificates_change,
    openssl_changes_keys_and_does_not_renegotiate,
    a_host_is_reached_under_its_own_policy_only,
    curl_is_told_that_a_host_is_not_for_its_connection,
);

/// A configuration with one TLS listener, `web`, whose `tls` is `tls`.
fn config(tls: &str, more: &str) -> String {
    format!(
        "listeners:\n- name: web\n  address: 127.0.0.1:0\n{more}  http: {{cluster: c, tls: \
         {{{tls}}}}}\nclusters: {{c: {{backends: ['{}']}}}}\n",
        echo()
    )
}

pub(crate) fn start(engine: &str, folder: &Folder, tls: &str) -> (Lb, SocketAddr) {
    static SERIAL: AtomicUsize = AtomicUsize::new(0); // a file of its own, which it watches
    let name = format!("{}.yaml", SERIAL.fetch_add(1, Ordering::Relaxed));
    let path = folder.write(&name, &config(tls, ""));
    let lb = Lb::start(engine, &["--config", &path]);
    let address = lb.listener("web");
    (lb, address)
}

/// `certificate: …, key: …` of a listener.
pub(crate) fn pair(folder: &Folder, signed: &Signed) -> String {
    format!(
        "certificate: '{}', key: '{}'",
        folder.write("it.pem", &signed.certificate),
        folder.write("it.key", &signed.key)
    )
}

/// Waits until so many handshakes have failed for this reason: a client may know first.
pub(crate) fn wait_for_failures(lb: &Lb, reason: &str, count: f64) {
    let labels = format!("{{listener=\"web\",reason=\"{reason}\"}}");
    let series = format!("lb_tls_handshake_failures_total{labels}");
    wait_until(&format!("{count} failures: {reason}"), || {
        lb.metric(&series) == count
    });
}

/// A certificate of a client with this number.
pub(crate) fn numbered(authority: &Authority, number: u64) -> Signed {
    let mut params = CertificateParams::new(vec!["client".to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.serial_number = Some(SerialNumber::from(number));
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &authority.issuer).unwrap();
    Signed {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    }
}

/// What the authority has revoked.
fn revoked(authority: &Authority, numbers: &[u64]) -> String {
    revoked_until(authority, numbers, Duration::from_secs(2_335_219_200))
}

/// Likewise, of a list that is overdue so long after the beginning of 1970.
pub(crate) fn revoked_until(authority: &Authority, numbers: &[u64], end: Duration) -> String {
    let revoked = numbers.iter().map(|number| RevokedCertParams {
        serial_number: SerialNumber::from(*number),
        revocation_time: date_time_ymd(2024, 1, 1),
        reason_code: None,
        invalidity_date: None,
    });
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2024, 1, 1),
        next_update: date_time_ymd(1970, 1, 1) + end,
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(&authority.issuer).unwrap().pem().unwrap()
}

fn revoked_clients_are_refused(engine: &str) {
    let (folder, authority) = (Folder::new(), Authority::new());
    let tls = format!(
        "{}, client_auth: {{ca: '{}', crl: '{}'}}",
        pair(&folder, &authority.server(&["shop.example"])),
        folder.write("ca.pem", &authority.pem),
        folder.write("crl.pem", &revoked(&authority, &[7, 8]))
    );
    let (lb, address) = start(engine, &folder, &tls);
    let (good, bad) = (numbered(&authority, 6), numbered(&authority, 7));
    let versions = [&TLS12, &TLS13];
    let good = versions.map(|version| client(&authority, Some(&good), &[version]));
    for version in versions {
        let bad = client(&authority, Some(&bad), &[version]);
        get(&mut connect(&bad, address, "shop.example")).unwrap_err();
    }
    for good in &good {
        let mut stream = connect(good, address, "shop.example");
        assert_eq!(get(&mut stream).unwrap().0, 200);
        let mut stream = connect(good, address, "shop.example");
        assert_eq!(get(&mut stream).unwrap().0, 200);
        assert_eq!(stream.conn.handshake_kind(), Some(HandshakeKind::Resumed));
    }
    let event = lb.event("a TLS handshake failed");
    let reason = event["reason"].as_str().unwrap();
    assert!(reason.contains("was revoked"), "{reason}");
    wait_for_failures(&lb, "client_certificate", 2.0);

    // A session that was begun before is not gone on with.
    folder.replace("crl.pem", &revoked(&authority, &[6]));
    lb.wait_for_generation(2);
    for good in &good {
        get(&mut connect(good, address, "shop.example")).unwrap_err();
    }
}

/// An authority below another one.
fn below(authority: &Authority, name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let kind = rcgen::DnType::CommonName;
    params.distinguished_name.push(kind, name);
    let key = KeyPair::generate().unwrap();
    let pem = params.signed_by(&key, &authority.issuer).unwrap().pem();
    Authority {
        pem,
        issuer: Issuer::new(params, key),
    }
}

fn chains_of_clients_may_be_so_long(engine: &str) {
    let (folder, authority) = (Folder::new(), Authority::new());
    let first = below(&authority, "first");
    let second = below(&first, "second");
    let sign = |by: &Authority, chain: &[&Authority]| {
        let mut own = by.sign(&["client"], ExtendedKeyUsagePurpose::ClientAuth);
        own.certificate.extend(chain.iter().map(|it| &*it.pem));
        own
    };
    let own = [
        sign(&authority, &[]),
        sign(&first, &[&first]),
        sign(&second, &[&second, &first]),
    ];
    let certificate = pair(&folder, &authority.server(&["shop.example"]));
    let ca = folder.write("ca.pem", &authority.pem);
    for depth in [Some(0), None, Some(2)] {
        let setting = depth.map_or(String::new(), |depth| format!(", depth: {depth}"));
        let tls = format!("{certificate}, client_auth: {{ca: '{ca}'{setting}}}");
        let (lb, address) = start(engine, &folder, &tls);
        for (intermediates, own) in own.iter().enumerate() {
            let config = client(&authority, Some(own), &[&TLS13]);
            let answer = get(&mut connect(&config, address, "shop.example"));
            let is_within = intermediates <= depth.unwrap_or(1);
            assert_eq!(answer.is_ok(), is_within, "{depth:?} {intermediates}");
        }
        drop(lb);
    }
}

fn handshakes_are_limited(engine: &str) {
    let (folder, authority) = (Folder::new(), Authority::new());
    let server = authority.server(&["shop.example"]);
    let tls = format!("{}, handshake_rate: 1", pair(&folder, &server));
    let (lb, address) = start(engine, &folder, &tls);
    let answers: Vec<_> = thread::scope(|scope| {
        let ask = || {
            let config = client(&authority, None, &[&TLS13]);
            get(&mut connect(&config, address, "shop.example")).is_ok()
        };
        let threads: Vec<_> = (0..16).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|it| it.join().unwrap()).collect()
    });
    let refused = answers.iter().filter(|it| !**it).count();
    assert!((1..16).contains(&refused), "{refused} refused");
    wait_for_failures(&lb, "rate", refused as f64);
}

/// How a session begins: a request is answered, so that tickets have come.
fn kind(config: &Arc<ClientConfig>, lb: &Lb) -> Option<HandshakeKind> {
    let mut stream = connect(config, lb.listener("web"), "shop.example");
    assert_eq!(get(&mut stream).unwrap().0, 200);
    stream.conn.handshake_kind()
}

fn tickets_open_on_every_node(engine: &str) {
    let (folder, authority) = (Folder::new(), Authority::new());
    let secret = |byte: char| byte.to_string().repeat(48);
    let keys = [
        folder.write("1.key", &secret('1')),
        folder.write("2.key", &secret('2')),
    ];
    let server = pair(&folder, &authority.server(&["shop.example"]));
    let text = |keys: &str| config(&format!("{server}, ticket_keys: [{keys}]"), "");
    let start = |name: &str, keys: &str| {
        let path = folder.write(name, &text(keys));
        Lb::start(engine, &["--config", &path])
    };
    let (one, other) = (start("one.yaml", &keys[0]), start("other.yaml", &keys[0]));
    let resumed = Some(HandshakeKind::Resumed);
    let clients = [&TLS12, &TLS13].map(|version| client(&authority, None, &[version]));
    for config in &clients {
        assert_ne!(kind(config, &one), resumed);
        assert_eq!(kind(config, &other), resumed, "on the other node");
        assert_eq!(kind(config, &one), resumed, "and back");
    }
    drop(one);
    let one = start("one.yaml", &keys[0]);
    for config in &clients {
        assert_eq!(kind(config, &one), resumed, "after a restart");
    }
    // The keys are rotated: the new one first, the old one still there.
    folder.replace("other.yaml", &text(&format!("{}, {}", keys[1], keys[0])));
    other.wait_for_generation(2);
    for config in &clients {
        assert_eq!(kind(config, &other), resumed, "by the old key");
    }
    // What was made by the old key may be in the client's hands; it is asked until it has new ones.
    for config in &clients {
        (0..8).for_each(|_| assert_eq!(kind(config, &other), resumed));
    }
    folder.replace("other.yaml", &text(&keys[1]));
    other.wait_for_generation(3);
    for config in &clients {
        assert_eq!(kind(config, &other), resumed, "by the new key");
        assert_ne!(kind(config, &one), resumed, "who does not have it");
    }
    // A key that is replaced in its file is a rotation, too.
    let before = client(&authority, None, &[&TLS13]);
    assert_ne!(kind(&before, &one), resumed);
    folder.replace("1.key", &secret('3'));
    one.wait_for_generation(2);
    assert_ne!(kind(&before, &one), resumed);
}

/// A client of TLS 1.2 and 1.3 with some of the cryptography only.
fn narrow(authority: &Authority, narrow: impl FnOnce(&mut CryptoProvider)) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(der(&authority.pem)).unwrap();
    let mut provider = aws_lc_rs::default_provider();
    narrow(&mut provider);
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS12, &TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

fn suites_versions_and_groups_are_settings(engine: &str) {
    use aws_lc_rs::{cipher_suite as suites, kx_group as groups};
    let (folder, authority) = (Folder::new(), Authority::new());
    let server = pair(&folder, &authority.server(&["shop.example"]));
    let agreed = |config: Arc<ClientConfig>, address: SocketAddr| {
        let mut stream = connect(&config, address, "shop.example");
        get(&mut stream).map(|_| {
            let suite = stream.conn.negotiated_cipher_suite().unwrap().suite();
            let group = stream.conn.negotiated_key_exchange_group().unwrap().name();
            (suite.as_str().unwrap(), group)
        })
    };
    // What is in force by itself: the hybrid group, whoever has it.
    let (lb, address) = start(engine, &folder, &server);
    let hybrid = |provider: &mut CryptoProvider| provider.kx_groups = vec![groups::X25519MLKEM768];
    let (_, group) = agreed(narrow(&authority, hybrid), address).unwrap();
    assert_eq!(format!("{group:?}"), "X25519MLKEM768");
    drop(lb);

    let tls = format!(
        "{server}, suites: [TLS_AES_256_GCM_SHA384, ECDHE-ECDSA-CHACHA20-POLY1305], groups: \
         [secp384r1, x25519]"
    );
    let (lb, address) = start(engine, &folder, &tls);
    let (suite, group) = agreed(narrow(&authority, |_| ()), address).unwrap();
    assert_eq!(suite, "TLS13_AES_256_GCM_SHA384");
    assert_eq!(format!("{group:?}"), "X25519");
    let third = |provider: &mut CryptoProvider| provider.kx_groups = vec![groups::SECP384R1];
    let (_, group) = agreed(narrow(&authority, third), address).unwrap();
    assert_eq!(format!("{group:?}"), "secp384r1");
    let older = |provider: &mut CryptoProvider| {
        let of = |version| move |it: &rustls::SupportedCipherSuite| it.version() == version;
        provider.cipher_suites.retain(of(&TLS12));
    };
    let (suite, _) = agreed(narrow(&authority, older), address).unwrap();
    assert_eq!(suite, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256");
    let other = |provider: &mut CryptoProvider| {
        provider.cipher_suites = vec![suites::TLS13_AES_128_GCM_SHA256];
    };
    agreed(narrow(&authority, other), address).unwrap_err();
    agreed(narrow(&authority, hybrid), address).unwrap_err();
    wait_for_failures(&lb, "incompatible", 2.0);
    drop(lb);

    let (_lb, address) = start(engine, &folder, &format!("{server}, min_version: '1.3'"));
    agreed(narrow(&authority, older), address).unwrap_err();
    agreed(narrow(&authority, |_| ()), address).unwrap();
    for version in ["-tls1", "-tls1_1"] {
        let said = text(&s_client(address, &[version, "-cipher", "ALL:@SECLEVEL=0"]));
        assert!(said.contains("alert protocol version"), "{said}");
    }
}

fn secrets_are_logged_on_request_only(engine: &str) {
    let (folder, authority) = (Folder::new(), Authority::new());
    let server = authority.server(&["shop.example"]);
    let log = folder.path("secrets");
    let files = [
        folder.write("it.pem", &server.certificate),
        folder.write("it.key", &server.key),
    ];
    let listen = format!("web@127.0.0.1:0={}", echo());
    for is_asked in [false, true] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lb"));
        command.args(["--https", &listen, "--tls-cert", &files[0]]);
        command.args(["--tls-key", &files[1]]);
        command.args(is_asked.then_some("--tls-key-log"));
        command.env("SSLKEYLOGFILE", &log);
        let lb = Lb::spawn(command, engine);
        let config = client(&authority, None, &[&TLS13]);
        let mut stream = connect(&config, lb.listener("web"), "shop.example");
        assert_eq!(get(&mut stream).unwrap().0, 200);
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        assert_eq!(
            said.contains("CLIENT_TRAFFIC_SECRET_0 "),
            is_asked,
            "{said}"
        );
    }
}

/// Runs `openssl s_client`, which makes a handshake and ends.
pub(crate) fn s_client(address: SocketAddr, arguments: &[&str]) -> Output {
    let output = Command::new("openssl")
        .args(["s_client", "-connect", &address.to_string()])
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    output.unwrap()
}

pub(crate) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn each_client_gets_a_key_that_it_can_verify(engine: &str) {
    let (folder, authority) = (Folder::new(), Authority::new());
    let params = CertificateParams::new(vec!["shop.example".to_owned()]).unwrap();
    let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let rsa = params.signed_by(&key, &authority.issuer).unwrap();
    let ecdsa = authority.server(&["shop.example"]);
    let tls = format!(
        "certificates: [{{certificate: '{}'}}, {{certificate: '{}'}}]",
        folder.write("rsa.pem", &(rsa.pem() + &key.serialize_pem())),
        folder.write("ecdsa.pem", &(ecdsa.certificate.clone() + &ecdsa.key))
    );
    let (_lb, address) = start(engine, &folder, &tls);
    for version in ["-tls1_2", "-tls1_3"] {
        let cases = [
            ("RSA-PSS+SHA256", "RSA"),
            ("ECDSA+SHA256", "ECDSA"),
            ("RSA-PSS+SHA256:ECDSA+SHA256", "ECDSA"),
        ];
        for (offered, shown) in cases {
            let said = text(&s_client(address, &[version, "-sigalgs", offered]));
            let line = format!("Peer signature type: {shown}");
            assert!(said.contains(&line), "{version} {offered}: {said}");
        }
        let said = s_client(address, &[version, "-sigalgs", "ed25519"]);
        assert!(!said.status.success(), "{said:?}");
    }
}

fn a_proxy_header_comes_before_tls(engine: &str) {
    let (folder, authority) = (Folder::new(), Authority::new());
    let server = authority.server(&["shop.example"]);
    let text = config(
        &pair(&folder, &server),
        "  proxy_in: {trusted: [127.0.0.0/8]}\n",
    );
    let lb = Lb::start(engine, &["--config", &folder.write("lb.yaml", &text)]);
    let address = lb.listener("web");
    let config = client(&authority, None, &[&TLS13]);
    let name = rustls::pki_types::ServerName::try_from("shop.example").unwrap();
    let mut tcp = TcpStream::connect(address).unwrap();
    let connection = rustls::ClientConnection::new(Arc::clone(&config), name).unwrap();
    tcp.write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 1234 443\r\n")
        .unwrap();
    let mut stream = Tls::new(connection, tcp);
    let (status, head) = get(&mut stream).unwrap();
    assert_eq!(status, 200);
    assert!(head.contains("X-Forwarded-For: 192.0.2.7\r\n"), "{head}");
    get(&mut connect(&config, address, "shop.example")).unwrap_err();
}

fn protocols_are_agreed_on(engine: &str) {
    let (folder, authority) = (Folder::new(), Authority::new());
    let server = pair(&folder, &authority.server(&["shop.example"]));
    let ca = folder.write("ca.pem", &authority.pem);
    let (_lb, address) = start(engine, &folder, &server);
    let (_older, older) = start(engine, &folder, &format!("{server}, http2: false"));
    let agreed = |address: SocketAddr, offered: &[&str]| {
        let mut config = (*client(&authority, None, &[&TLS13])).clone();
        config.alpn_protocols = offered.iter().map(|it| it.as_bytes().to_vec()).collect();
        let mut stream = connect(&Arc::new(config), address, "shop.example");
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        let agreed = stream.conn.alpn_protocol();
        std::io::Result::Ok(agreed.map(|it| String::from_utf8(it.to_vec()).unwrap()))
    };
    let both = ["h2", "http/1.1"];
    assert_eq!(agreed(address, &both).unwrap().as_deref(), Some("h2"));
    assert_eq!(agreed(older, &both).unwrap().as_deref(), Some("http/1.1"));
    assert_eq!(agreed(address, &[]).unwrap(), None);
    agreed(address, &["spdy/3"]).unwrap_err();
    let curl = |address: SocketAddr, http: &str| {
        let to = format!("shop.example:443:{address}");
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "30", http])
            .args(["--noproxy", "*", "--cacert", &ca])
            .args(["--connect-to", &to, "https://shop.example/"])
            .args(["--write-out", "\nHTTP/%{http_version} %{http_code}"])
            .output()
            .unwrap();
        text(&output)
    };
    for (address, http, agreed) in [
        (address, "--http2", "HTTP/2 200"),
        (address, "--http1.1", "HTTP/1.1 200"),
        (older, "--http2", "HTTP/1.1 200"),
    ] {
        let said = curl(address, http);
        assert!(said.ends_with(agreed), "{said}");
    }
}

fn unknown_names_get_the_first_certificate(engine: &str) {
    let (folder, authority) = (Folder::new(), Authority::new());
    let made = [&["a.example"], &["*.b.example"], &["b.example"]].map(|it| authority.server(it));
    let files = made.iter().enumerate().map(|(at, it)| {
        let both = it.certificate.clone() + &it.key;
        let path = folder.write(&format!("{at}.pem"), &both);
        format!("{{certificate: '{path}'}}")
    });
    let files: Vec<_> = files.collect();
    let tls = |unknown: &str| {
        format!(
            "certificates: [{}], unknown_names: {unknown}",
            files.join(", ")
        )
    };
    let (lb, address) = start(engine, &folder, &tls("default"));
    // Names are checked by the test: the client takes what it is shown.
    let shown = |address: SocketAddr, name: &str| {
        let said = text(&s_client(address, &["-servername", name, "-showcerts"]));
        made.iter().position(|it| {
            let lines = it.certificate.replace("\r\n", "\n");
            said.contains(lines.trim())
        })
    };
    let cases = [
        ("a.example", Some(0)),
        ("A.EXAMPLE", Some(0)),
        ("x.b.example", Some(1)),
        ("b.example", Some(2)),
        ("x.y.b.example", None),
        ("c.example", None),
    ];
    for (name, expected) in cases {
        assert_eq!(shown(address, name), expected.or(Some(0)), "{name}");
    }
    let said = text(&s_client(address, &["-noservername", "-showcerts"]));
    assert!(said.contains("BEGIN CERTIFICATE"), "{said}");
    drop(lb);
    let (_lb, address) = start(engine, &folder, &tls("refuse"));
    for (name, expected) in cases {
        assert_eq!(shown(address, name), expected, "{name}");
    }
    let said = s_client(address, &["-noservername"]);
    assert!(text(&said).contains("unrecognized name"), "{}", text(&said));
}

fn no_request_fails_while_certificates_change(engine: &str) {
    let (folder, authority) = (Folder::new(), Authority::new());
    let both = |it: &Signed| it.certificate.clone() + &it.key;
    let made: Vec<_> = (0..5)
        .map(|_| authority.server(&["shop.example"]))
        .collect();
    let path = folder.write("it.pem", &both(&made[0]));
    let (lb, address) = start(engine, &folder, &format!("certificate: '{path}'"));
    let (is_over, requests) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for version in [&TLS12, &TLS13, &TLS13] {
            let (config, is_over, requests) =
                (client(&authority, None, &[version]), &is_over, &requests);
            scope.spawn(move || {
                let mut kept = connect(&config, address, "shop.example");
                while !is_over.load(Ordering::Relaxed) {
                    let mut stream = connect(&config, address, "shop.example");
                    assert_eq!(get(&mut stream).unwrap().0, 200);
                    assert_eq!(get(&mut kept).unwrap().0, 200);
                    requests.fetch_add(2, Ordering::Relaxed);
                }
            });
        }
        for new in &made[1..] {
            let before = requests.load(Ordering::Relaxed);
            wait_until("some requests", || {
                requests.load(Ordering::Relaxed) > before + 12
            });
            folder.replace("it.pem", &both(new));
            wait_until("the new certificate", || {
                let config = client(&authority, None, &[&TLS13]);
                let mut stream = connect(&config, address, "shop.example");
                assert_eq!(get(&mut stream).unwrap().0, 200);
                shown(&stream) == der(&new.certificate)
            });
        }
        is_over.store(true, Ordering::Relaxed);
    });
    let page = crate::client::get(lb.admin(), "/metrics").body;
    let failed = page
        .lines()
        .filter(|line| line.starts_with("lb_tls_handshake_failures_total"));
    for line in failed {
        assert!(line.ends_with(" 0"), "{line}");
    }
}

fn openssl_changes_keys_and_does_not_renegotiate(engine: &str) {
    let (folder, authority) = (Folder::new(), Authority::new());
    let server = authority.server(&["shop.example"]);
    let (_lb, address) = start(engine, &folder, &pair(&folder, &server));
    let request = "GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n";
    // Its commands: k takes a new key, K asks for one of ours, too; R renegotiates.
    let cases = [
        ("-tls1_3", "k", true),
        ("-tls1_3", "K", true),
        ("-tls1_2", "R", false),
    ];
    for (version, command, goes_on) in cases {
        // It says what it does on either.
        let line = format!("exec openssl s_client -connect {address} {version} -crlf 2>&1");
        let mut child = Command::new("sh")
            .args(["-c", &line])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let mut said = String::new();
        // A command counts alone in what is read at once.
        let mut until = |mark: &str, said: &mut String| {
            let mut bytes = [0; 4096];
            while !said.contains(mark) {
                match stdout.read(&mut bytes) {
                    Ok(count @ 1..) => said.push_str(&String::from_utf8_lossy(&bytes[..count])),
                    _ => break,
                }
            }
        };
        until("Verify return code", &mut said);
        stdin.write_all(format!("{command}\n").as_bytes()).unwrap();
        until(
            if goes_on {
                "KEYUPDATE"
            } else {
                "RENEGOTIATING"
            },
            &mut said,
        );
        let _ = stdin.write_all(request.replace("\r\n", "\n").as_bytes());
        until("HTTP/1.1 200 OK", &mut said);
        let _ = child.kill();
        let _ = child.wait();
        assert_eq!(said.contains("HTTP/1.1 200 OK"), goes_on, "{said}");
    }
    let config = client(&authority, None, &[&TLS12]);
    let mut stream = connect(&config, address, "shop.example");
    let answer = ask(&mut stream, request).unwrap();
    assert_eq!(answer.0, 200);
}

/// A listener that asks for staff's certificates on some names, for the authority's on another.
fn by_name(folder: &Folder, authority: &Authority, staff: &Authority) -> String {
    let server = authority.server(&[
        "shop.example",
        "admin.example",
        "maybe.example",
        "a.in.example",
    ]);
    format!(
        "{}, client_auth_by_name: [{{names: [admin.example, '*.in.example'], ca: '{}'}}, {{names: \
         [maybe.example], ca: '{}', mode: optional}}]",
        pair(folder, &server),
        folder.write("staff.pem", &staff.pem),
        folder.write("ca.pem", &authority.pem)
    )
}

fn a_host_is_reached_under_its_own_policy_only(engine: &str) {
    let (folder, authority, staff) = (Folder::new(), Authority::new(), Authority::new());
    let tls = by_name(&folder, &authority, &staff);
    let (lb, address) = start(engine, &folder, &tls);
    let client_of = |by: &Authority| by.sign(&["client"], ExtendedKeyUsagePurpose::ClientAuth);
    let (member, other) = (client_of(&staff), client_of(&authority));
    let request = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    for version in [&TLS12, &TLS13] {
        let open = |own: Option<&Signed>, name: &str| {
            connect(&client(&authority, own, &[version]), address, name)
        };
        let status = |stream: &mut Tls, host: &str| ask(stream, &request(host)).map(|it| it.0);
        // Without a certificate, and a connection that goes on after a refusal.
        let mut stream = open(None, "shop.example");
        assert_eq!(status(&mut stream, "shop.example").unwrap(), 200);
        for host in [
            "admin.example",
            "Admin.Example.:443",
            "a.in.example",
            "maybe.example",
        ] {
            assert_eq!(status(&mut stream, host).unwrap(), 421, "{host}");
        }
        assert_eq!(status(&mut stream, "blog.example").unwrap(), 200);
        // The name asks for one.
        assert!(status(&mut open(None, "admin.example"), "admin.example").is_err());
        assert!(status(&mut open(Some(&other), "a.in.example"), "a.in.example").is_err());
        let mut stream = open(Some(&member), "admin.example");
        let (_, head) = ask(&mut stream, &request("admin.example")).unwrap();
        assert!(head.contains("ssl-client-verify: SUCCESS\r\n"), "{head}");
        assert_eq!(
            status(&mut stream, "a.in.example").unwrap(),
            200,
            "of the same policy"
        );
        assert_eq!(status(&mut stream, "maybe.example").unwrap(), 421);
        assert_eq!(status(&mut stream, "shop.example").unwrap(), 200);
        let mut stream = open(None, "maybe.example");
        let (_, head) = ask(&mut stream, &request("maybe.example")).unwrap();
        assert!(head.contains("ssl-client-verify: NONE\r\n"), "{head}");
        assert_eq!(status(&mut stream, "admin.example").unwrap(), 421);
    }
    wait_for_failures(&lb, "client_certificate", 4.0);
}

fn curl_is_told_that_a_host_is_not_for_its_connection(engine: &str) {
    let (folder, authority, staff) = (Folder::new(), Authority::new(), Authority::new());
    let tls = by_name(&folder, &authority, &staff);
    let (_lb, address) = start(engine, &folder, &tls);
    let member = staff.sign(&["client"], ExtendedKeyUsagePurpose::ClientAuth);
    // HTTP/2, where one connection for several names is usual: the authority is the Host.
    let ca = folder.write("roots.pem", &authority.pem);
    let own = folder.write("member.pem", &(member.certificate + &member.key));
    let curl = |http: &str, name: &str, host: &str, own: Option<&str>| {
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "30", http])
            .args(["--noproxy", "*", "--cacert", &ca, "--output", "/dev/null"])
            .args(own.map_or_else(Vec::new, |own| vec!["--cert", own]))
            .args(["--connect-to", &format!("{name}:443:{address}")])
            .args(["--header", &format!("Host: {host}")])
            .args(["--write-out", "%{http_version} %{http_code}"])
            .arg(format!("https://{name}/"))
            .output();
        text(&output.unwrap())
    };
    for (http, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let cases = [
            ("shop.example", "shop.example", None, "200"),
            ("shop.example", "admin.example", None, "421"),
            ("shop.example", "admin.example", Some(&*own), "421"),
            ("admin.example", "admin.example", Some(&*own), "200"),
            ("admin.example", "shop.example", Some(&*own), "200"),
        ];
        for (name, host, own, status) in cases {
            let said = curl(http, name, host, own);
            assert_eq!(said, format!("{version} {status}"), "{name} {host}");
        }
        let said = curl(http, "admin.example", "admin.example", None);
        assert!(said.contains("curl: ("), "{said}");
    }
}
