//! What TLS says on the wire: records, alerts, odd server names, sessions, and what an authority
//! says of a certificate; with `rustls`, `openssl s_client` and bytes of our own.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::thread;

use rcgen::{CertificateParams, KeyPair, SerialNumber};
use rustls::client::ClientConnection;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, StreamOwned};

use crate::harness::{DEADLINE, Folder, Lb, on_both_engines, output, wait_until};
use crate::tls::{Authority, Signed, ask, client, connect, der, get, origin, shown};
use crate::tls_clients::{pair, s_client, start, text};

on_both_engines!(
    long_bodies_begin_with_short_records,
    what_the_authority_says_is_shown,
    odd_server_names_are_no_names,
    the_end_is_said_and_what_is_forged_is_noticed,
    a_request_that_is_cut_short_is_not_passed_on_as_whole,
    sessions_go_on_by_tickets_only,
    no_data_comes_early,
    a_secret_swapped_behind_its_link_is_taken_up,
);

/// A connection that notes what records come.
struct Tap {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Read for Tap {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let count = self.stream.read(bytes)?;
        self.received.extend_from_slice(&bytes[..count]);
        Ok(count)
    }
}

impl Write for Tap {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

impl Tap {
    /// The lengths of the whole records of data since the last call.
    fn records(&mut self) -> Vec<usize> {
        let mut lengths = Vec::new();
        while let [kind, _, _, high, low, rest @ ..] = &self.received[..] {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            if rest.len() < length {
                break;
            }
            if *kind == 23 {
                lengths.push(length);
            }
            self.received.drain(..5 + length);
        }
        lengths
    }
}

fn long_bodies_begin_with_short_records(engine: &str) {
    /// With its tag, its kind and a nonce.
    const SHORT: usize = 1369 + 24;
    let (folder, authority) = (Folder::new(), Authority::new());
    let origin = origin(|head| {
        let path = head.split(' ').nth(1).unwrap();
        "x".repeat(path[1..].parse().unwrap())
    });
    let server = pair(&folder, &authority.server(&["shop.example"]));
    for (records, version) in [("dynamic", &TLS13), ("dynamic", &TLS12), ("full", &TLS13)] {
        let yaml = format!(
            "listeners: [{{name: web, address: '127.0.0.1:0', http: {{cluster: c, tls: {{{server}, \
             records: {records}}}}}}}]\nclusters: {{c: {{backends: ['{origin}']}}}}\n"
        );
        let lb = Lb::start(engine, &["--config", &folder.write("lb.yaml", &yaml)]);
        let name = ServerName::try_from("shop.example").unwrap();
        let config = client(&authority, None, &[version]);
        let connection = ClientConnection::new(config, name).unwrap();
        let tap = Tap {
            stream: TcpStream::connect(lb.listener("web")).unwrap(),
            received: Vec::new(),
        };
        let mut stream = StreamOwned::new(connection, tap);
        let mut lengths = |len: usize| {
            let request = format!("GET /{len} HTTP/1.1\r\nHost: shop.example\r\n\r\n");
            stream.write_all(request.as_bytes()).unwrap();
            let (mut body, mut head) = (vec![0; len], Vec::new());
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.extend(byte);
            }
            stream.read_exact(&mut body).unwrap();
            stream.sock.records()
        };
        // Small answers are one record whatever is set; the first has tickets with it.
        lengths(64);
        let small = lengths(2000);
        assert_eq!(small.len(), 1, "{records}: {small:?}");
        let first = lengths(200_000);
        let short: usize = first.iter().take_while(|it| **it <= SHORT).sum();
        let is_full = first.iter().any(|it| *it > 16_000);
        assert!(is_full, "{records}: {first:?}");
        let again = lengths(200_000);
        let most = *again.iter().max().unwrap();
        let count = again.iter().filter(|it| **it <= SHORT).count();
        if records == "dynamic" {
            assert!((54_000..60_000).contains(&short), "{short}: {first:?}");
        } else {
            assert!(short < 2 * SHORT, "{short}: {first:?}");
        }
        assert!(most > 16_000 && count < 20, "{records}: {again:?}");
    }
}

/// What `openssl` says to these arguments.
fn openssl(arguments: &[&str]) -> String {
    let output = Command::new("openssl").args(arguments).output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{arguments:?}: {said}");
    said
}

/// Has the authority, in `ca.pem` and `ca.key`, say that certificate 07 in `it.pem` is as `status`
/// says, into the file `name`.
fn respond(folder: &Folder, name: &str, status: &str) {
    let index = folder.write("index.txt", &format!("{status}\t07\tunknown\t/CN=it\n"));
    let ca = folder.path("ca.pem");
    let arguments = [
        "ocsp",
        "-index",
        &index,
        "-CA",
        &ca,
        "-rsigner",
        &ca,
        "-rkey",
        &folder.path("ca.key"),
        "-issuer",
        &ca,
        "-cert",
        &folder.path("it.pem"),
        "-ndays",
        "7",
        "-respout",
        &folder.path(name),
    ];
    openssl(&arguments);
}

fn what_the_authority_says_is_shown(engine: &str) {
    let (folder, authority) = (Folder::new(), Authority::new());
    let mut params = CertificateParams::new(vec!["shop.example".to_owned()]).unwrap();
    params.serial_number = Some(SerialNumber::from(7));
    let key = KeyPair::generate().unwrap();
    let signed = Signed {
        certificate: params.signed_by(&key, &authority.issuer).unwrap().pem(),
        key: key.serialize_pem(),
    };
    let ca = folder.write("ca.pem", &authority.pem);
    folder.write("ca.key", &authority.issuer.key().serialize_pem());
    let server = pair(&folder, &signed);
    respond(&folder, "it.ocsp", "V\t491231235959Z\t");
    let ocsp = folder.path("it.ocsp");
    let (lb, address) = start(engine, &folder, &format!("{server}, ocsp: '{ocsp}'"));
    let status = |version: &str| {
        let asks = [
            version,
            "-status",
            "-servername",
            "shop.example",
            "-CAfile",
            &ca,
        ];
        text(&s_client(address, &asks))
    };
    for version in ["-tls1_2", "-tls1_3"] {
        let said = status(version);
        assert!(said.contains("Cert Status: good"), "{version}: {said}");
    }
    // It is watched; what would hurt is not shown, and said.
    respond(&folder, "new.ocsp", "R\t491231235959Z\t240101000000Z");
    std::fs::rename(folder.path("new.ocsp"), &ocsp).unwrap();
    wait_until("the other response", || {
        status("-tls1_3").contains("OCSP response: no response sent")
    });
    drop(lb);
    let checked = |ocsp: &str| {
        let yaml = format!(
            "listeners: [{{name: web, address: '127.0.0.1:0', http: {{cluster: c, tls: {{{server}, \
             ocsp: '{ocsp}'}}}}}}]\nclusters: {{c: {{backends: ['127.0.0.1:1']}}}}\n"
        );
        let output = output(&["check", "--config", &folder.write("checked.yaml", &yaml)]);
        (output.status.success(), text(&output))
    };
    let (is_good, said) = checked(&ocsp);
    assert!(is_good && said.contains("was revoked"), "{said}");
    let (is_good, said) = checked(&folder.path("it.pem"));
    assert!(!is_good && said.contains("openssl ocsp"), "{said}");
    let other = folder.write("it.pem", &authority.server(&["a.example"]).certificate);
    assert!(other.ends_with("it.pem"));
    let (is_good, said) = checked(&ocsp);
    assert!(!is_good, "{said}");
}

/// A ClientHello of TLS 1.3 with this server_name extension.
fn hello(server_name: &[u8]) -> Vec<u8> {
    let with_len = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let extension = |kind: u16, body: &[u8]| [&kind.to_be_bytes()[..], &with_len(body)].concat();
    let mut share = vec![0, 29];
    share.extend(with_len(&[9; 32]));
    let extensions = [
        extension(0, server_name),
        extension(10, &with_len(&[0, 29])),
        extension(13, &with_len(&[4, 3, 8, 4])),
        extension(43, &[2, 3, 4]),
        extension(51, &with_len(&share)),
    ];
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(32);
    body.extend([8; 32]);
    body.extend(with_len(&[0x13, 1]));
    body.extend([1, 0]);
    body.extend(with_len(&extensions.concat()));
    let mut message = vec![1, 0];
    message.extend(with_len(&body));
    [&[22, 3, 1][..], &with_len(&message)].concat()
}

/// The server_name extension of these names, of this kind each.
fn server_names(names: &[(u8, &[u8])]) -> Vec<u8> {
    let mut list = Vec::new();
    for (kind, name) in names {
        list.push(*kind);
        list.extend((name.len() as u16).to_be_bytes());
        list.extend(*name);
    }
    [&(list.len() as u16).to_be_bytes()[..], &list].concat()
}

/// What comes first in answer to a ClientHello: a handshake, or the number of an alert.
fn answered(address: SocketAddr, hello: &[u8]) -> Option<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(hello).unwrap();
    let mut first = [0; 7];
    stream.read_exact(&mut first).unwrap();
    match first {
        [22, ..] => None,
        [21, .., alert] => Some(alert),
        other => panic!("{other:?}"),
    }
}

fn odd_server_names_are_no_names(engine: &str) {
    const UNRECOGNIZED: u8 = 112;
    let (folder, authority) = (Folder::new(), Authority::new());
    let server = pair(&folder, &authority.server(&["shop.example"]));
    let (_strict, strict) = start(engine, &folder, &format!("{server}, unknown_names: refuse"));
    let (_lax, lax) = start(engine, &folder, &server);
    let name = |name: &[u8]| hello(&server_names(&[(0, name)]));
    assert_eq!(answered(strict, &name(b"shop.example")), None);
    assert_eq!(answered(strict, &name(b"SHOP.Example")), None);
    // RFC 6066 section 3 has names without their dot, and some send it.
    assert_eq!(answered(strict, &name(b"shop.example.")), None);
    assert_eq!(
        answered(strict, &name(b"other.example")),
        Some(UNRECOGNIZED)
    );
    // Addresses are no names (likewise): they are as none.
    for address in [&b"127.0.0.1"[..], b"::1"] {
        assert_eq!(answered(strict, &name(address)), Some(UNRECOGNIZED));
        assert_eq!(answered(lax, &name(address)), None, "{address:?}");
    }
    let broken = [
        name(b""),
        name(b"a b"),
        name(b"shop.example\0.evil.example"),
        name(&[b'a'; 300]),
        hello(&server_names(&[])),
        hello(&server_names(&[(0, b"shop.example"), (0, b"b.example")])),
        hello(&[0, 5, 0, 0, 9]),
    ];
    for (at, hello) in broken.iter().enumerate() {
        assert!(answered(lax, hello).is_some(), "{at}");
        assert!(answered(strict, hello).is_some(), "{at}");
    }
    let mut stream = connect(&client(&authority, None, &[&TLS13]), strict, "shop.example");
    assert_eq!(get(&mut stream).unwrap().0, 200);
}

fn the_end_is_said_and_what_is_forged_is_noticed(engine: &str) {
    let (folder, authority) = (Folder::new(), Authority::new());
    let server = pair(&folder, &authority.server(&["shop.example"]));
    let (_lb, address) = start(engine, &folder, &server);
    for version in [&TLS12, &TLS13] {
        let open = || {
            connect(
                &client(&authority, None, &[version]),
                address,
                "shop.example",
            )
        };
        // By close_notify: without it, the client's library says UnexpectedEof.
        let mut stream = open();
        let request = "GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n";
        assert_eq!(ask(&mut stream, request).unwrap().0, 200);
        let mut rest = Vec::new();
        assert_eq!(stream.read_to_end(&mut rest).map_err(|it| it.kind()), Ok(0));
        // Also after an error of the client's.
        let mut stream = open();
        stream.write_all(b"GET /\x01 HTTP/1.1\r\n\r\n").unwrap();
        stream.read_to_end(&mut rest).unwrap();
        assert!(rest.starts_with(b"HTTP/1.1 400 "));
        // We answer a close_notify by ours.
        let mut stream = open();
        assert_eq!(get(&mut stream).unwrap().0, 200);
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        assert_eq!(stream.read(&mut [0]).map_err(|it| it.kind()), Ok(0));
        // Bytes that nobody has sealed.
        let mut stream = open();
        assert_eq!(get(&mut stream).unwrap().0, 200);
        stream.sock.write_all(&[23, 3, 3, 0, 20]).unwrap();
        stream.sock.write_all(&[5; 20]).unwrap();
        let error = stream.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(error.to_string().contains("BadRecordMac"), "{error}");
    }
}

/// An origin that takes what comes on one connection to its end, and never answers.
fn taker() -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, taken) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut said) = (stream.unwrap(), vec![0; 1000]);
            let first = stream.read(&mut said).unwrap_or_default();
            said.truncate(first);
            let _ = sender.send(String::from_utf8_lossy(&said).into_owned());
            let _ = stream.read_to_end(&mut said);
            let _ = sender.send(String::from_utf8_lossy(&said).into_owned());
        }
    });
    (address, taken)
}

/// By whoever is between client and us.
fn a_request_that_is_cut_short_is_not_passed_on_as_whole(engine: &str) {
    let (folder, authority) = (Folder::new(), Authority::new());
    let server = pair(&folder, &authority.server(&["shop.example"]));
    let (origin, taken) = taker();
    let yaml = format!(
        "listeners: [{{name: web, address: '127.0.0.1:0', http: {{cluster: c, tls: {{{server}}}}}}}]\n\
         clusters: {{c: {{backends: ['{origin}']}}}}\n"
    );
    let lb = Lb::start(engine, &["--config", &folder.write("lb.yaml", &yaml)]);
    for version in [&TLS12, &TLS13] {
        let config = client(&authority, None, &[version]);
        let mut stream = connect(&config, lb.listener("web"), "shop.example");
        let head = "POST / HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(b"4\r\nhalf\r\n").unwrap();
        stream.flush().unwrap();
        let begun = taken.recv_timeout(DEADLINE).unwrap();
        assert!(begun.starts_with("POST / HTTP/1.1\r\n"), "{begun}");
        stream.sock.shutdown(Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(!rest.starts_with(b"HTTP/1.1 200"));
        let said = taken.recv_timeout(DEADLINE).unwrap();
        assert!(said.starts_with("POST / HTTP/1.1\r\n"), "{said}");
        assert!(!said.ends_with("0\r\n\r\n"), "{said}");
    }
}

fn sessions_go_on_by_tickets_only(engine: &str) {
    let (folder, authority) = (Folder::new(), Authority::new());
    let server = pair(&folder, &authority.server(&["shop.example"]));
    let (_lb, address) = start(engine, &folder, &server);
    let (_none, none) = start(engine, &folder, &format!("{server}, resumption: false"));
    let (name, file) = (["-servername", "shop.example"], folder.path("session"));
    let kinds = |address: SocketAddr, more: &[&str]| {
        // It goes on where it was five times.
        let said = text(&s_client(
            address,
            &[&name[..], &["-reconnect"], more].concat(),
        ));
        let count = |what: &str| said.matches(&format!("\n{what}, TLSv1.2")).count();
        (count("New"), count("Reused"))
    };
    assert_eq!(kinds(address, &["-tls1_2"]), (1, 5));
    // Without tickets nothing is kept here, whatever session id the client comes with.
    assert_eq!(kinds(address, &["-tls1_2", "-no_ticket"]), (6, 0));
    assert_eq!(kinds(none, &["-tls1_2"]), (6, 0));
    // TLS 1.3 gives tickets behind the handshake: a request is answered, so that they have come.
    for (address, is_resumed) in [(address, true), (none, false)] {
        let config = client(&authority, None, &[&TLS13]);
        for round in 0..3 {
            let mut stream = connect(&config, address, "shop.example");
            assert_eq!(get(&mut stream).unwrap().0, 200);
            let resumed = stream.conn.handshake_kind() == Some(HandshakeKind::Resumed);
            assert_eq!(resumed, is_resumed && round > 0);
        }
    }
    let said = text(&s_client(address, &["-tls1_2", "-sess_out", &file]));
    assert!(said.contains("Secure Renegotiation IS supported"), "{said}");
    assert!(said.contains("Extended master secret: yes"), "{said}");
}

fn no_data_comes_early(engine: &str) {
    let (folder, authority) = (Folder::new(), Authority::new());
    let server = pair(&folder, &authority.server(&["shop.example"]));
    let (_lb, address) = start(engine, &folder, &server);
    let mut config = (*client(&authority, None, &[&TLS13])).clone();
    config.enable_early_data = true;
    let config = Arc::new(config);
    for round in 0..3 {
        let mut stream = connect(&config, address, "shop.example");
        // A ticket that allows none makes the library offer none.
        assert!(stream.conn.early_data().is_none(), "{round}");
        assert_eq!(get(&mut stream).unwrap().0, 200);
        assert!(!stream.conn.is_early_data_accepted());
        let resumed = stream.conn.handshake_kind() == Some(HandshakeKind::Resumed);
        assert_eq!(resumed, round > 0);
    }
}

fn a_secret_swapped_behind_its_link_is_taken_up(engine: &str) {
    let (folder, authority) = (Folder::new(), Authority::new());
    let made: Vec<_> = (0..3)
        .map(|_| authority.server(&["shop.example"]))
        .collect();
    // As the kubelet does it: a folder for each version, and one link that all others go by.
    let publish = |at: usize| {
        let version = folder.path(&format!("..{at}"));
        std::fs::create_dir(&version).unwrap();
        std::fs::write(format!("{version}/tls.crt"), &made[at].certificate).unwrap();
        std::fs::write(format!("{version}/tls.key"), &made[at].key).unwrap();
        symlink(format!("..{at}"), folder.path("..data_tmp")).unwrap();
        std::fs::rename(folder.path("..data_tmp"), folder.path("..data")).unwrap();
        if let Some(before) = at.checked_sub(1) {
            std::fs::remove_dir_all(folder.path(&format!("..{before}"))).unwrap();
        }
    };
    publish(0);
    for name in ["tls.crt", "tls.key"] {
        symlink(format!("..data/{name}"), folder.path(name)).unwrap();
    }
    let (certificate, key) = (folder.path("tls.crt"), folder.path("tls.key"));
    let tls = format!("certificate: '{certificate}', key: '{key}'");
    let (_lb, address) = start(engine, &folder, &tls);
    let config = client(&authority, None, &[&TLS13]);
    let mut kept = connect(&config, address, "shop.example");
    for (at, made) in made.iter().enumerate() {
        if at > 0 {
            publish(at);
        }
        wait_until("the new certificate", || {
            let config = client(&authority, None, &[&TLS13]);
            let mut stream = connect(&config, address, "shop.example");
            assert_eq!(get(&mut stream).unwrap().0, 200);
            shown(&stream) == der(&made.certificate)
        });
        assert_eq!(get(&mut kept).unwrap().0, 200);
    }
}
