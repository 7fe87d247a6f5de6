//! Traffic of every kind while backends are stopped in order and started again, one after the other:
//! no request fails.
//!
//! For some seconds in an ordinary run; `LB_MIXED_SECONDS=600 cargo test -p lb --test blackbox
//! restarts -- --nocapture` runs it for ten minutes and prints what was done.
//! Read next: `fleet.rs` (backends that die without a word), `failures.rs`.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rcgen::CertifiedKey;
use rustls::client::{ClientConfig, ClientConnection};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{RootCertStore, StreamOwned};

use crate::harness::{DEADLINE, Folder, Lb, on_both_engines, skip, wait_until};

on_both_engines!(
    no_request_fails_while_backends_restart,
    a_tunnel_takes_a_connection_of_before_a_change,
);

/// What a body is made of; long enough for several receives.
const BODY_BYTES: usize = 20_000;

fn no_request_fails_while_backends_restart(engine: &str) {
    let seconds = std::env::var("LB_MIXED_SECONDS").ok();
    let seconds = seconds.map_or(4, |text| text.parse().expect("a number of seconds"));
    let mut backends: Vec<Backend> = ["a", "b", "c"].map(Backend::start).into();
    let folder = Folder::new();
    let (config, roots) = configuration(&folder, &backends);
    let lb = Lb::start(engine, &["--config", &config]);
    let front = Arc::new(Front {
        plain: lb.listener("plain"),
        tls: lb.listener("tls"),
        roots,
        until: now() + Duration::from_secs(seconds),
        done: Mutex::default(),
    });
    let kinds: [fn(&Front); 6] = [
        keep_alive,
        new_connections,
        posts,
        over_tls,
        tunnels,
        over_http2,
    ];
    let clients = kinds.map(|kind| {
        let front = Arc::clone(&front);
        thread::spawn(move || kind(&front))
    });
    let mut restarts = 0;
    while now() < front.until {
        let backend = &mut backends[restarts % 3];
        backend.leave();
        lb.wait_for_state("c", backend.address, "unhealthy");
        // A server that ends asks nobody whether a request is on its way to it: who stops it waits.
        wait_until("nothing to be in flight", || {
            lb.backend("c", backend.address)["in_flight"] == 0
        });
        backend.stop();
        thread::sleep(Duration::from_millis(50));
        backend.come_back();
        lb.wait_for_state("c", backend.address, "ready");
        restarts += 1;
    }
    for client in clients {
        client.join().expect("a client that got all its answers");
    }
    let mut done: Vec<_> = front.done.lock().unwrap().drain().collect();
    done.sort_unstable();
    println!("{engine}: {restarts} restarts, requests that succeeded: {done:?}, that failed: 0");
    assert!(restarts >= 3, "each was restarted");
}

/// The connection is older than the cluster as it is now, in which its backend has another place.
fn a_tunnel_takes_a_connection_of_before_a_change(engine: &str) {
    let backends = ["a", "b"].map(Backend::start);
    let [first, second] = [0, 1].map(|place: usize| backends[place].address);
    let config = |list: &str| {
        format!(
            "listeners: [{{name: plain, address: '127.0.0.1:0', http: {{cluster: c}}}}]\n\
             clusters: {{c: {{backends: [{list}]}}}}\nworkers: 1\n"
        )
    };
    let folder = Folder::new();
    let path = folder.write("lb.yaml", &config(&format!("'{first}', '{second}'")));
    let lb = Lb::start(engine, &["--config", &path]);
    let plain = lb.listener("plain");
    let mut stream = open(plain);
    let answers = [(); 2].map(|()| ask(&mut stream, GET, b""));
    assert_ne!(answers[0], answers[1], "there is a connection to each");
    folder.write("lb.yaml", &config(&format!("'{second}'")));
    lb.wait_for_generation(2);

    let mut stream = open_tunnel(plain);
    stream.get_mut().write_all(b"there").unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).expect("all of it back");
    assert_eq!(&back, b"there");
    assert_eq!(lb.metric("lb_upgrades_active{listener=\"plain\"}"), 1.0);
    let own = lb.backend("c", second);
    assert_eq!(own["in_flight"], 1, "{own}");
}

/// The tests' own clock: it measures nothing that is asserted.
fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "how long a test goes on")]
    Instant::now()
}

fn configuration(folder: &Folder, backends: &[Backend]) -> (String, RootCertStore) {
    let names = vec!["test.example".to_owned()];
    let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let pem = folder.write(
        "it.pem",
        &[signing_key.serialize_pem(), cert.pem()].concat(),
    );
    let list: Vec<String> = backends
        .iter()
        .map(|it| format!("'{}'", it.address))
        .collect();
    let text = format!(
        "listeners:\n\
         - {{name: plain, address: '127.0.0.1:0', http: {{cluster: c, request_buffer: 64KiB}}}}\n\
         - {{name: tls, address: '127.0.0.1:0', http: {{cluster: c, request_buffer: 64KiB, tls: \
         {{certificate: '{pem}'}}}}}}\n\
         clusters:\n  c:\n    backends: [{}]\n    \
         health: {{check: http, path: /health, interval: 20ms, timeout: 5s, rise: 1, fall: 1}}\n",
        list.join(", ")
    );
    (folder.write("lb.yaml", &text), roots)
}

/// Where clients go, for how long, and what they have done.
struct Front {
    plain: SocketAddr,
    tls: SocketAddr,
    roots: RootCertStore,
    until: Instant,
    done: Mutex<HashMap<&'static str, u64>>,
}

impl Front {
    /// Counts one more; false when it is time to end.
    fn goes_on(&self, kind: &'static str, count: u64) -> bool {
        *self.done.lock().unwrap().entry(kind).or_default() += count;
        thread::sleep(Duration::from_millis(1)); // the machine is not this test's alone
        now() < self.until
    }
}

/// Sends a request and reads its response, which has a Content-Length. The body.
fn ask<S: Read + Write>(stream: &mut BufReader<S>, head: &str, body: &[u8]) -> Vec<u8> {
    stream.get_mut().write_all(head.as_bytes()).unwrap();
    let (first, second) = body.split_at(body.len() / 2);
    stream.get_mut().write_all(first).unwrap();
    stream.get_mut().write_all(second).unwrap();
    stream.get_mut().flush().unwrap();
    let head = read_head(stream).expect("a response");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let mut body = vec![0; length(&head)];
    stream.read_exact(&mut body).expect("a whole response");
    body
}

fn read_head(stream: &mut impl BufRead) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    Some(head.to_ascii_lowercase().replace("http/1.1", "HTTP/1.1"))
}

fn length(head: &str) -> usize {
    let mut lines = head.lines();
    let value = lines.find_map(|line| line.strip_prefix("content-length:"));
    value.map_or(0, |it| it.trim().parse().unwrap())
}

fn open(address: SocketAddr) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    BufReader::new(stream)
}

const GET: &str = "GET / HTTP/1.1\r\nHost: test.example\r\n\r\n";

fn keep_alive(front: &Front) {
    let mut stream = open(front.plain);
    while front.goes_on("GET, keep-alive", 1) {
        assert_eq!(ask(&mut stream, GET, b"").len(), 1);
    }
}

fn new_connections(front: &Front) {
    let head = GET.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    while front.goes_on("GET, connection each", 1) {
        assert_eq!(ask(&mut open(front.plain), &head, b"").len(), 1);
    }
}

fn posts(front: &Front) {
    let head =
        format!("POST / HTTP/1.1\r\nHost: test.example\r\nContent-Length: {BODY_BYTES}\r\n\r\n");
    let mut stream = open(front.plain);
    let mut serial = 0_usize;
    while front.goes_on("POST, held", 1) {
        serial += 1;
        let body: Vec<u8> = (0..BODY_BYTES)
            .map(|at| (at * serial % 251) as u8)
            .collect();
        assert!(ask(&mut stream, &head, &body) == body, "another body");
    }
}

fn over_tls(front: &Front) {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(front.roots.clone())
        .with_no_client_auth();
    let config = Arc::new(config);
    let name = ServerName::try_from("test.example").unwrap();
    loop {
        let connection = ClientConnection::new(Arc::clone(&config), name.clone()).unwrap();
        let stream = TcpStream::connect(front.tls).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut stream = BufReader::new(StreamOwned::new(connection, stream));
        for _ in 0..20 {
            assert_eq!(ask(&mut stream, GET, b"").len(), 1);
            if !front.goes_on("GET, TLS", 1) {
                return;
            }
        }
    }
}

/// WebSockets, as far as `lb` can tell: a switch of protocols, and then bytes both ways.
fn tunnels(front: &Front) {
    while front.goes_on("WebSocket", 1) {
        let mut stream = open_tunnel(front.plain);
        for len in [1, 100, 70_000] {
            let message = vec![len as u8; len];
            let mut back = vec![0; len];
            stream.get_mut().write_all(&message).unwrap();
            stream.read_exact(&mut back).expect("all of it back");
            assert!(back == message, "other bytes");
        }
        stream.get_ref().shutdown(Shutdown::Write).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "an end in order");
    }
}

fn open_tunnel(address: SocketAddr) -> BufReader<TcpStream> {
    let head = "GET /tunnel HTTP/1.1\r\nHost: test.example\r\nConnection: Upgrade\r\n\
                Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    let mut stream = open(address);
    stream.get_mut().write_all(head.as_bytes()).unwrap();
    let answer = read_head(&mut stream).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    stream
}

fn over_http2(front: &Front) {
    let folder = Folder::new();
    let body = folder.write("body", &"b".repeat(BODY_BYTES));
    let urls = [
        format!("http://{}/", front.plain),
        format!("https://{}/", front.tls),
    ];
    let mut turn = 0;
    while front.goes_on("HTTP/2", if turn == 0 { 0 } else { 60 }) {
        let mut command = Command::new("h2load");
        command.args(["-n", "60", "-c", "2", "-m", "5", &urls[turn % 2]]);
        if turn % 3 == 2 {
            command.args(["-d", &body]);
        }
        let Ok(output) = command.output() else {
            return skip("h2load not installed");
        };
        let said = String::from_utf8_lossy(&output.stdout);
        let is_fine = said.contains("60 succeeded, 0 failed, 0 errored")
            && said.contains("status codes: 60 2xx");
        assert!(is_fine, "{said}");
        turn += 1;
    }
}

/// A backend that ends as servers do that are told to: it fails its checks, and when nothing is sent
/// to it any more it closes what is idle and listens no longer.
struct Backend {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<thread::JoinHandle<()>>,
}

struct Shared {
    name: &'static str,
    is_leaving: AtomicBool,
    is_over: AtomicBool,
    /// Requests and tunnels under way.
    active: AtomicU64,
    streams: Mutex<Vec<TcpStream>>,
}

impl Backend {
    fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let shared = Arc::new(Shared {
            name,
            is_leaving: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            active: AtomicU64::new(0),
            streams: Mutex::default(),
        });
        Self {
            address: listener.local_addr().unwrap(),
            accepting: Some(Shared::accept(&shared, listener)),
            shared,
        }
    }

    /// Fails its checks from now on.
    fn leave(&self) {
        self.shared.is_leaving.store(true, Ordering::SeqCst);
    }

    /// Ends, once nothing is under way.
    fn stop(&mut self) {
        wait_until("requests under way to end", || {
            self.shared.active.load(Ordering::SeqCst) == 0
        });
        self.shared.is_over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address); // wakes it up
        self.accepting.take().unwrap().join().unwrap();
        for stream in self.shared.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Listens again where it was.
    fn come_back(&mut self) {
        let listener = TcpListener::bind(self.address).unwrap();
        self.shared.is_leaving.store(false, Ordering::SeqCst);
        self.shared.is_over.store(false, Ordering::SeqCst);
        self.accepting = Some(Shared::accept(&self.shared, listener));
    }
}

impl Shared {
    fn accept(shared: &Arc<Self>, listener: TcpListener) -> thread::JoinHandle<()> {
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.is_over.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let mut streams = shared.streams.lock().unwrap();
                streams.retain(|it| it.peer_addr().is_ok());
                streams.push(stream.try_clone().unwrap());
                drop(streams);
                let shared = Arc::clone(&shared);
                thread::spawn(move || shared.serve(BufReader::new(stream)));
            }
        })
    }

    fn serve(&self, mut stream: BufReader<TcpStream>) {
        while let Some(head) = read_head(&mut stream) {
            self.active.fetch_add(1, Ordering::SeqCst);
            let goes_on = self.answer(&mut stream, &head);
            self.active.fetch_sub(1, Ordering::SeqCst);
            if goes_on.is_none() {
                let _ = stream.get_ref().shutdown(Shutdown::Both);
                return;
            }
        }
        let _ = stream.get_ref().shutdown(Shutdown::Both);
    }

    /// `None` when the connection is over.
    fn answer(&self, stream: &mut BufReader<TcpStream>, head: &str) -> Option<()> {
        if head.contains(" /tunnel ") {
            let switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                             Upgrade: websocket\r\n\r\n";
            stream.get_mut().write_all(switched).ok()?;
            let mut room = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut room) {
                stream.get_mut().write_all(&room[..count]).ok()?;
            }
            return None;
        }
        let mut body = self.name.as_bytes().to_vec();
        if head.starts_with("post ") {
            body = vec![0; length(head)];
            stream.read_exact(&mut body).ok()?;
        }
        let is_check = head.starts_with("get /health ");
        let status = match is_check && self.is_leaving.load(Ordering::SeqCst) {
            true => "503 Leaving",
            false => "200 OK",
        };
        let mut response = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        response.extend(body);
        stream.get_mut().write_all(&response).ok()
    }
}
