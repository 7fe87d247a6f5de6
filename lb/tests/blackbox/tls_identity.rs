//! Who a client is said to be: bundles of authorities, certificates that are not good, and what
//! backends are told, which no client can say itself.

use std::net::SocketAddr;
use std::process::Command;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, SerialNumber};
use rcgen::{DistinguishedName, date_time_ymd};
use rustls::version::{TLS12, TLS13};

use crate::harness::{Folder, on_both_engines};
use crate::tls::{Authority, Signed, ask, client, connect, get};
use crate::tls_clients::{pair, start, text, wait_for_failures};

on_both_engines!(
    authorities_of_a_bundle_are_trusted_alike,
    certificates_that_are_not_good_are_refused,
    backends_are_told_all_of_it,
    no_client_tells_backends_who_it_is,
);

fn signed(authority: &Authority, params: &CertificateParams) -> Signed {
    let key = KeyPair::generate().unwrap();
    Signed {
        certificate: params.signed_by(&key, &authority.issuer).unwrap().pem(),
        key: key.serialize_pem(),
    }
}

fn of_client() -> CertificateParams {
    let mut params = CertificateParams::new(vec!["client".to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn authorities_of_a_bundle_are_trusted_alike(engine: &str) {
    let (folder, authority) = (Folder::new(), Authority::new());
    let others = [Authority::new(), Authority::new(), Authority::new()];
    let ca = format!("# two of them\n{}{}", others[0].pem, others[1].pem);
    let tls = format!(
        "{}, client_auth: {{ca: '{}'}}",
        pair(&folder, &authority.server(&["shop.example"])),
        folder.write("ca.pem", &ca)
    );
    let (_lb, address) = start(engine, &folder, &tls);
    for version in [&TLS12, &TLS13] {
        for (other, is_good) in others.iter().zip([true, true, false]) {
            let own = signed(other, &of_client());
            let config = client(&authority, Some(&own), &[version]);
            let answer = get(&mut connect(&config, address, "shop.example"));
            assert_eq!(answer.is_ok(), is_good);
        }
    }
}

fn certificates_that_are_not_good_are_refused(engine: &str) {
    let (folder, authority) = (Folder::new(), Authority::new());
    let tls = format!(
        "{}, client_auth: {{ca: '{}', mode: optional}}",
        pair(&folder, &authority.server(&["shop.example"])),
        folder.write("ca.pem", &authority.pem)
    );
    let (lb, address) = start(engine, &folder, &tls);
    let mut expired = of_client();
    expired.not_before = date_time_ymd(2020, 1, 1);
    expired.not_after = date_time_ymd(2021, 1, 1);
    let mut early = of_client();
    early.not_before = date_time_ymd(2090, 1, 1);
    early.not_after = date_time_ymd(2091, 1, 1);
    let mut for_servers = of_client();
    for_servers.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let mut own_issuer = signed(&authority, &of_client());
    let key = KeyPair::generate().unwrap();
    own_issuer.certificate = of_client().self_signed(&key).unwrap().pem();
    own_issuer.key = key.serialize_pem();
    let bad = [
        signed(&authority, &expired),
        signed(&authority, &early),
        signed(&authority, &for_servers),
        own_issuer,
    ];
    // Without one it may come, with a bad one it may not.
    for version in [&TLS12, &TLS13] {
        let config = client(&authority, None, &[version]);
        assert_eq!(
            get(&mut connect(&config, address, "shop.example"))
                .unwrap()
                .0,
            200
        );
        for own in &bad {
            let config = client(&authority, Some(own), &[version]);
            get(&mut connect(&config, address, "shop.example")).unwrap_err();
        }
    }
    wait_for_failures(&lb, "client_certificate", 8.0);
}

fn backends_are_told_all_of_it(engine: &str) {
    let (folder, authority) = (Folder::new(), Authority::new());
    let tls = format!(
        "{}, client_auth: {{ca: '{}'}}",
        pair(&folder, &authority.server(&["shop.example"])),
        folder.write("ca.pem", &authority.pem)
    );
    let (_lb, address) = start(engine, &folder, &tls);
    let mut params = of_client();
    params.serial_number = Some(SerialNumber::from(0x1234_abcd));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(
        DnType::OrganizationName,
        "Schuhe\r\nssl-client-verify: NONE",
    );
    params
        .distinguished_name
        .push(DnType::CommonName, "it, too");
    let own = signed(&authority, &params);
    let expected = fingerprint(&folder, &own);
    for version in [&TLS12, &TLS13] {
        let config = client(&authority, Some(&own), &[version]);
        // Also when the session goes on.
        for _ in 0..2 {
            let mut stream = connect(&config, address, "shop.example");
            let (status, head) = get(&mut stream).unwrap();
            assert_eq!(status, 200);
            let field = |name: &str| {
                let found: Vec<_> = head
                    .lines()
                    .filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                    .collect();
                assert_eq!(found.len(), 1, "{name}: {head}");
                found[0].to_owned()
            };
            assert_eq!(field("ssl-client-verify"), "SUCCESS");
            let subject = "CN=it\\, too,O=Schuhe\\0D\\0Assl-client-verify: NONE";
            assert_eq!(field("ssl-client-subject-dn"), subject);
            assert!(field("ssl-client-issuer-dn").contains("CN=authority "));
            assert_eq!(field("ssl-client-serial"), "1234ABCD");
            assert_eq!(field("ssl-client-fingerprint"), expected);
        }
    }
}

/// The fingerprint as `openssl` has it, without its colons.
fn fingerprint(folder: &Folder, signed: &Signed) -> String {
    let path = folder.write("own.pem", &signed.certificate);
    let output = Command::new("openssl")
        .args(["x509", "-noout", "-fingerprint", "-sha1", "-in", &path])
        .output();
    let said = text(&output.unwrap());
    let digits = said.trim().rsplit('=').next().unwrap();
    digits.replace(':', "").to_ascii_lowercase()
}

fn no_client_tells_backends_who_it_is(engine: &str) {
    const CLAIMS: [&str; 8] = [
        "ssl-client-verify: SUCCESS",
        "SSL-Client-Subject-DN: CN=boss",
        "ssl_client_issuer_dn: CN=boss",
        "Ssl_Client-Serial: 1",
        "ssl-client-fingerprint: 1",
        "ssl-client-cert: x",
        "SSL_CLIENT_VERIFY: SUCCESS",
        "ssl-client_subject-dn: CN=boss",
    ];
    let (folder, authority) = (Folder::new(), Authority::new());
    let server = pair(&folder, &authority.server(&["shop.example"]));
    let ca = folder.write("ca.pem", &authority.pem);
    let auth = format!("{server}, client_auth: {{ca: '{ca}', mode: optional}}");
    for (tls, verify) in [(server, 0), (auth, 1)] {
        let (_lb, address) = start(engine, &folder, &tls);
        let check = |how: &str, head: &str| {
            let lower = head.to_ascii_lowercase().replace('_', "-");
            assert!(lower.contains("host: "), "{how}: {head}");
            assert!(!lower.contains("boss"), "{how}: {head}");
            assert_eq!(
                lower.matches("ssl-client-").count(),
                verify,
                "{how}: {head}"
            );
            assert_eq!(lower.matches("ssl-client-verify: none").count(), verify);
        };
        let config = client(&authority, None, &[&TLS13]);
        let mut stream = connect(&config, address, "shop.example");
        let request = format!(
            "GET / HTTP/1.1\r\nHost: shop.example\r\n{}\r\n\r\n",
            CLAIMS.join("\r\n")
        );
        check("HTTP/1.1", &ask(&mut stream, &request).unwrap().1);
        check("HTTP/2", &curl_http2(address, &ca, &CLAIMS));
    }
}

/// What the origin got of a request by HTTP/2 with these fields.
fn curl_http2(address: SocketAddr, ca: &str, fields: &[&str]) -> String {
    let to = format!("shop.example:443:{address}");
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "30", "--http2"]);
    command.args(["--noproxy", "*", "--cacert", ca, "--connect-to", &to]);
    for field in fields {
        command.args(["--header", field]);
    }
    let said = text(&command.arg("https://shop.example/").output().unwrap());
    assert!(said.contains("GET / HTTP/1.1"), "{said}");
    said
}
