//! Clients that send early data (0-RTT), by a ticket of a server that takes it, or of ours: it is
//! skipped, and never a request.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use rustls::client::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConnection, ServerConfig, ServerConnection, StreamOwned};

use crate::harness::{Folder, Lb, on_both_engines};
use crate::tls::{Authority, Signed, Tls, ask, client, connect, der, get};
use crate::tls_clients::{pair, start, wait_for_failures};

on_both_engines!(
    early_data_is_skipped,
    too_much_early_data_ends_the_handshake,
    openssl_is_not_asked_for_early_data,
);

const ANSWERED: &str = "lb_exchanges_total{listener=\"web\",status=\"2xx\"}";

/// A server that takes early data, and a client's configuration with its tickets.
fn with_tickets_of_another(authority: &Authority, signed: &Signed) -> Arc<ClientConfig> {
    let key = PrivateKeyDer::from_pem_slice(signed.key.as_bytes()).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![der(&signed.certificate)], key)
        .unwrap();
    config.max_early_data_size = 100_000;
    config.send_tls13_tickets = 8;
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let stream = listener.accept().unwrap().0;
        let connection = ServerConnection::new(config).unwrap();
        let mut stream = StreamOwned::new(connection, stream);
        stream.read_exact(&mut [0]).unwrap();
        stream.write_all(b"x").unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
    });
    let mut own = ClientConfig::clone(&client(authority, None, &[&TLS13]));
    own.enable_early_data = true;
    let own = Arc::new(own);
    let mut stream = connect(&own, address, "shop.example");
    stream.write_all(b"x").unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
    server.join().unwrap();
    own
}

/// A connection that has sent early data in writes of these lengths.
fn early(config: &Arc<ClientConfig>, address: SocketAddr, lengths: &[usize]) -> Tls {
    let name = ServerName::try_from("shop.example").unwrap();
    let mut connection = ClientConnection::new(Arc::clone(config), name).unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    for length in lengths {
        let mut data = b"GET /early HTTP/1.1\r\nHost: shop.example\r\n\r\n".repeat(400);
        data.truncate(*length);
        let mut early = connection.early_data().expect("a ticket that allows it");
        early.write_all(&data).unwrap();
        // Each a record of its own; a server that has had enough takes no more.
        while connection.wants_write() && connection.write_tls(&mut stream).is_ok() {}
    }
    StreamOwned::new(connection, stream)
}

fn late(stream: &mut Tls) -> std::io::Result<(u16, String)> {
    ask(stream, "GET /late HTTP/1.1\r\nHost: shop.example\r\n\r\n")
}

fn listening(engine: &str, folder: &Folder) -> (Lb, SocketAddr, Authority, Signed) {
    let authority = Authority::new();
    let signed = authority.server(&["shop.example"]);
    let (lb, address) = start(engine, folder, &pair(folder, &signed));
    (lb, address, authority, signed)
}

fn early_data_is_skipped(engine: &str) {
    let folder = Folder::new();
    let (lb, address, authority, signed) = listening(engine, &folder);
    let cases: [&[usize]; 6] = [
        &[41],
        &[1, 1, 1, 1, 1, 1, 1, 1],
        &[16_000],
        &[100; 100],
        &[5000, 5000, 5000],
        &[8000, 1, 8000],
    ];
    for lengths in cases {
        let config = with_tickets_of_another(&authority, &signed);
        let mut stream = early(&config, address, lengths);
        let (status, body) = late(&mut stream).unwrap();
        assert_eq!(status, 200, "{lengths:?}");
        assert!(!body.contains("/early"), "{body}");
        assert!(!stream.conn.is_early_data_accepted());
        assert_eq!(late(&mut stream).unwrap().0, 200, "{lengths:?}");
    }
    assert_eq!(lb.metric(ANSWERED), 2.0 * cases.len() as f64);
    assert_eq!(lb.metric("lb_worker_task_panics_total{worker=\"0\"}"), 0.0);
}

fn too_much_early_data_ends_the_handshake(engine: &str) {
    let folder = Folder::new();
    let (lb, address, authority, signed) = listening(engine, &folder);
    let cases: [&[usize]; 3] = [&[16_384], &[6000, 6000, 6000], &[1; 2000]];
    for (count, lengths) in (1..).zip(cases) {
        let config = with_tickets_of_another(&authority, &signed);
        let mut stream = early(&config, address, lengths);
        late(&mut stream).unwrap_err();
        wait_for_failures(&lb, "protocol", f64::from(count));
    }
    assert_eq!(lb.metric(ANSWERED), 0.0);
    // Garbage in its place is skipped likewise.
    let config = with_tickets_of_another(&authority, &signed);
    let mut stream = early(&config, address, &[41]);
    stream.sock.write_all(&[23, 3, 3, 0, 200]).unwrap();
    stream.sock.write_all(&[0; 200]).unwrap();
    stream.sock.write_all(&[23, 3, 3, 0, 0]).unwrap();
    stream.sock.write_all(&[23, 3, 3, 0, 17]).unwrap();
    stream.sock.write_all(&[255; 17]).unwrap();
    assert!(!late(&mut stream).unwrap().1.contains("/early"));
    assert_eq!(lb.metric("lb_worker_task_panics_total{worker=\"0\"}"), 0.0);
    let config = client(&authority, None, &[&TLS13]);
    assert_eq!(
        get(&mut connect(&config, address, "shop.example"))
            .unwrap()
            .0,
        200
    );
}

fn openssl_is_not_asked_for_early_data(engine: &str) {
    let folder = Folder::new();
    let (_lb, address, _, _) = listening(engine, &folder);
    let session = folder.path("session.pem");
    let early = folder.write("early", "GET /early HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    let run = |more: &[&str]| {
        let mut openssl = Command::new("openssl");
        openssl.args([
            "s_client",
            "-tls1_3",
            "-servername",
            "shop.example",
            "-connect",
        ]);
        openssl.arg(address.to_string()).args(more);
        let piped = openssl.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = piped.stderr(Stdio::null()).spawn().unwrap();
        let request = b"GET /late HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n";
        child.stdin.as_mut().unwrap().write_all(request).unwrap();
        // It ends when we close, with its input still open.
        let input = child.stdin.take();
        let mut said = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut said).unwrap();
        drop(input);
        child.wait().unwrap();
        String::from_utf8_lossy(&said).into_owned()
    };
    let said = run(&["-sess_out", &session]);
    assert!(said.contains("HTTP/1.1 200"), "{said}");
    assert!(said.contains("Max Early Data: 0"), "{said}");
    let said = run(&["-sess_in", &session, "-early_data", &early]);
    assert!(said.contains("Reused, TLSv1.3"), "{said}");
    assert!(said.contains("Early data was not sent"), "{said}");
    assert!(said.contains("HTTP/1.1 200"), "{said}");
}
