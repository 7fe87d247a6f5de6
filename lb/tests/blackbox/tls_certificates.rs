//! What certificates can be wrong in, as `lb check` says it; very many certificates.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, IsCa, Issuer, KeyPair, date_time_ymd,
};
use rustls::version::TLS13;

use crate::harness::{Folder, Lb, output, wait_until};
use crate::tls::{Authority, Signed, client, connect, der, echo, get, shown};

/// Signs `params` by `authority`.
fn signed(authority: &Authority, params: &CertificateParams) -> Signed {
    let key = KeyPair::generate().unwrap();
    Signed {
        certificate: params.signed_by(&key, &authority.issuer).unwrap().pem(),
        key: key.serialize_pem(),
    }
}

fn named() -> CertificateParams {
    CertificateParams::new(vec!["shop.example".to_owned()]).unwrap()
}

/// What `lb check` says of a listener with this `tls`, and whether it is content.
fn checked(folder: &Folder, tls: &str) -> (bool, String) {
    let yaml = format!(
        "listeners:\n- name: web\n  address: 127.0.0.1:0\n  http:\n    cluster: c\n    tls: \
         {{{tls}}}\nclusters: {{c: {{backends: ['127.0.0.1:1']}}}}\n"
    );
    let path = folder.write("lb.yaml", &yaml);
    let output = output(&["check", "--config", &path]);
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

#[test]
fn what_clients_may_not_like_is_said() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let mut params = named();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2021, 1, 1);
    let expired = signed(&authority, &params);
    params.not_before = date_time_ymd(2090, 1, 1);
    params.not_after = date_time_ymd(2091, 1, 1);
    let early = signed(&authority, &params);

    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name = rcgen::DistinguishedName::new();
    let kind = rcgen::DnType::CommonName;
    params.distinguished_name.push(kind, "intermediate");
    let key = KeyPair::generate().unwrap();
    let pem = params.signed_by(&key, &authority.issuer).unwrap().pem();
    let intermediate = Authority {
        pem,
        issuer: Issuer::new(params, key),
    };
    // Its issuer's certificate is to be had at an URI, which public authorities say.
    let mut params = named();
    let access = [
        &[
            0x30, 24, 0x30, 22, 6, 8, 0x2b, 6, 1, 5, 5, 7, 0x30, 2, 0x86, 10,
        ],
        &b"http://a.b"[..],
    ];
    let access = CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], access.concat());
    params.custom_extensions = vec![access];
    let leaf = signed(&intermediate, &params);
    let chain = |parts: &[&str]| Signed {
        certificate: leaf.certificate.clone() + &parts.concat(),
        key: leaf.key.clone(),
    };
    let cases = [
        (&expired, "has expired"),
        (&early, "is not valid yet"),
        (
            &leaf,
            "comes alone: append the certificate of its issuer (CN=intermediate)",
        ),
        (
            &chain(&[&authority.pem, &intermediate.pem]),
            "has a chain that is not in order",
        ),
        (&chain(&[&intermediate.pem, &authority.pem]), ""),
        (&chain(&[&intermediate.pem]), ""),
    ];
    for (it, warning) in cases {
        let path = folder.write("it.pem", &(it.certificate.clone() + &it.key));
        let (is_good, said) = checked(&folder, &format!("certificate: '{path}'"));
        assert!(is_good, "{said}");
        assert!(said.contains(warning), "{warning}: {said}");
        assert_eq!(
            said.contains("the certificate /"),
            !warning.is_empty(),
            "{said}"
        );
        assert!(
            warning.is_empty() || said.contains("lb.yaml:"),
            "where: {said}"
        );
    }
}

#[test]
fn what_is_no_certificate_is_refused_with_what_to_do() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let (one, other) = (
        authority.server(&["shop.example"]),
        authority.server(&["shop.example"]),
    );
    let good = folder.write("good.pem", &one.certificate);
    let key = folder.write("good.key", &one.key);
    let file = |name: &str, bytes: &[u8]| {
        std::fs::write(folder.path(name), bytes).unwrap();
        folder.path(name)
    };
    let binary = file("it.der", &der(&one.certificate));
    let encrypted = one.key.replace("BEGIN PRIVATE", "BEGIN ENCRYPTED PRIVATE");
    let encrypted = file("encrypted.key", encrypted.as_bytes());
    let empty = file("empty.pem", b"");
    let blank = file("blank.pem", b"# certificates to come\n");
    let turned = file("turned.pem", (authority.pem + &one.certificate).as_bytes());
    let others = file("other.key", other.key.as_bytes());
    let pair = |certificate: &str, key: &str| format!("certificate: '{certificate}', key: '{key}'");
    let auth = |ca: &str| format!("{}, client_auth: {{ca: '{ca}'}}", pair(&good, &key));
    let cases = [
        (pair(&binary, &key), "it.der", "openssl x509 -inform der"),
        (pair(&good, &binary), "it.der", "openssl pkey -inform der"),
        (
            pair(&good, &encrypted),
            "encrypted.key",
            "openssl pkey -in FILE",
        ),
        (pair(&key, &good), "good.key", "but a private key"),
        (
            pair(&good, &others),
            "other.key",
            "is not the key of the certificate",
        ),
        (
            pair(&turned, &key),
            "turned.pem",
            "the server's own comes first",
        ),
        (pair(&good, &empty), "empty.pem", "is empty"),
        (auth(&empty), "empty.pem", "is empty"),
        (auth(&blank), "blank.pem", "has no certificate"),
        (auth(&binary), "it.der", "openssl x509 -inform der"),
        (
            auth(&folder.path("none")),
            "none",
            "is not there; check the path",
        ),
    ];
    for (tls, file, reason) in cases {
        let (is_good, said) = checked(&folder, &tls);
        assert!(!is_good, "{tls}");
        assert!(said.contains("lb.yaml:6"), "where: {said}");
        assert!(
            said.contains(file) && said.contains(reason),
            "{reason}: {said}"
        );
        assert!(!said.contains("KEY-----\n"), "no key is shown");
    }
}

#[test]
fn what_is_asked_of_clients_by_name_is_checked() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let own = authority.server(&["shop.example"]);
    let path = folder.write("it.pem", &(own.certificate + &own.key));
    let named = |what: &str| format!("certificate: '{path}', client_auth_by_name: [{what}]");
    let cases = [
        ("{ca: 'x.pem'}", "names"),
        (
            "{names: [a.example], mode: 'off', ca: 'x.pem'}",
            "no certificate is asked for",
        ),
        ("{names: [a.example], mode: maybe}", "maybe"),
        ("{names: [a.example, a.example], mode: 'off'}", "twice"),
        ("{names: [a.example]}", "ca"),
        ("{names: [a.example], mode: 'off', color: red}", "color"),
    ];
    for (what, reason) in cases {
        let (is_good, said) = checked(&folder, &named(what));
        assert!(!is_good && said.contains(reason), "{what}: {said}");
    }
}

/// Not a figure but a bound: what it prints is for whoever wants to know.
#[test]
fn ten_thousand_certificates_are_loaded_and_found() {
    const COUNT: usize = 10_000;
    let (folder, authority) = (Folder::new(), Authority::new());
    let made: Vec<_> = (0..COUNT)
        .map(|at| authority.server(&[&*format!("{at}.example"), &*format!("*.{at}.example")]))
        .collect();
    let mut yaml = format!(
        "clusters: {{c: {{backends: ['{}']}}}}\nlisteners:\n- name: web\n  address: \
         127.0.0.1:0\n  http:\n    cluster: c\n    tls:\n      certificates:\n",
        echo()
    );
    for (at, it) in made.iter().enumerate() {
        let path = folder.write(&format!("{at}.pem"), &(it.certificate.clone() + &it.key));
        yaml += &format!("      - {{certificate: '{path}'}}\n");
    }
    let path = folder.write("lb.yaml", &yaml);
    let start = lb_core::rt::now();
    let lb = Lb::start("epoll", &["--config", &path]);
    let took = lb_core::rt::now().saturating_duration_since(start);
    let memory = lb.resident_kib();
    eprintln!("{COUNT} certificates: ready after {took:?}, {memory} KiB resident");
    assert!(memory < 400 * 1024, "{memory} KiB");
    let address = lb.listener("web");
    for at in [0, 1, COUNT / 2, COUNT - 1] {
        for name in [format!("{at}.example"), format!("a.{at}.example")] {
            let mut stream = connect(&client(&authority, None, &[&TLS13]), address, &name);
            assert_eq!(get(&mut stream).unwrap().0, 200);
            assert_eq!(shown(&stream), der(&made[at].certificate), "{name}");
        }
    }
    // One of them is renewed; a connection that had the old one goes on.
    let mut before = connect(&client(&authority, None, &[&TLS13]), address, "7.example");
    assert_eq!(get(&mut before).unwrap().0, 200);
    let new = authority.server(&["7.example"]);
    let start = lb_core::rt::now();
    folder.replace("7.pem", &(new.certificate.clone() + &new.key));
    wait_until("the new certificate", || {
        let mut stream = connect(&client(&authority, None, &[&TLS13]), address, "7.example");
        assert_eq!(get(&mut stream).unwrap().0, 200);
        shown(&stream) == der(&new.certificate)
    });
    let took = lb_core::rt::now().saturating_duration_since(start);
    assert_eq!(get(&mut before).unwrap().0, 200);
    assert_eq!(shown(&before), der(&made[7].certificate));
    let mut stream = connect(&client(&authority, None, &[&TLS13]), address, "8.example");
    assert_eq!(get(&mut stream).unwrap().0, 200);
    assert_eq!(shown(&stream), der(&made[8].certificate));
    eprintln!(
        "one renewed: shown after {took:?}, {} KiB resident",
        lb.resident_kib()
    );
}
