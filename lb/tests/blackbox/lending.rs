//! Workers that help each other out with idle connections to backends.
//!
//! Read next: `pools.rs` (what one worker does).

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::ends::{Client, ok};
use crate::harness::{Folder, Lb, on_both_engines, wait_until};
use crate::tls::{Authority, der};

on_both_engines!(
    a_worker_that_is_short_takes_idle_connections_of_another,
    one_over_tls_goes_on_elsewhere_without_a_handshake,
    a_connection_that_becomes_free_goes_to_whoever_waits,
    who_gave_up_finds_it_in_the_pool,
    none_is_kept_to_a_backend_that_has_left,
    keeping_some_ready_opens_no_more_than_there_may_be,
);

/// A backend that answers with the number of the connection, when that is let through.
struct Gated {
    address: SocketAddr,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    /// A bit for each connection that is held.
    held: AtomicU64,
    /// Requests that are not answered.
    busy: AtomicUsize,
    connections: AtomicUsize,
    ended: AtomicUsize,
}

impl Gate {
    /// Serves a connection to its end.
    fn serve(&self, mut stream: impl Read + Write) {
        let number = self.connections.fetch_add(1, Ordering::SeqCst);
        let mut head = Vec::new();
        let mut byte = [0];
        while let Ok(1) = stream.read(&mut byte) {
            head.push(byte[0]);
            if !head.ends_with(b"\r\n\r\n") {
                continue;
            }
            head.clear();
            self.busy.fetch_add(1, Ordering::SeqCst);
            while self.held.load(Ordering::SeqCst) & 1 << number != 0 {
                thread::sleep(Duration::from_millis(1));
            }
            self.busy.fetch_sub(1, Ordering::SeqCst);
            let answer = ok(number.to_string().as_bytes());
            if stream.write_all(&answer).is_err() {
                break;
            }
        }
        self.ended.fetch_add(1, Ordering::SeqCst);
    }
}

impl Gated {
    /// In the clear, or over TLS.
    fn start(tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let gate = Arc::<Gate>::default();
        let shared = Arc::clone(&gate);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                stream.set_nodelay(true).unwrap();
                let (gate, tls) = (Arc::clone(&shared), tls.clone());
                thread::spawn(move || match tls {
                    None => gate.serve(stream),
                    Some(tls) => {
                        let connection = ServerConnection::new(tls).unwrap();
                        gate.serve(StreamOwned::new(connection, stream));
                    }
                });
            }
        });
        Self { address, gate }
    }

    fn hold_all(&self) {
        self.gate.held.store(u64::MAX, Ordering::SeqCst);
    }

    fn let_through(&self, numbers: u64) {
        self.gate.held.fetch_and(!numbers, Ordering::SeqCst);
    }

    fn busy(&self) -> usize {
        self.gate.busy.load(Ordering::SeqCst)
    }

    fn connections(&self) -> usize {
        self.gate.connections.load(Ordering::SeqCst)
    }
}

/// `lb` with this backend, of which each worker may have two connections; and its clients.
struct Scene {
    backend: Gated,
    lb: Lb,
    folder: Folder,
    /// By worker.
    clients: [Vec<Client>; 2],
}

/// The connections that each worker opened, a bit for each.
const OWN: [u64; 2] = [0b0011, 0b1100];

const ASK: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

impl Scene {
    /// With two idle connections of each worker, and six clients on each.
    fn start(engine: &str, backend: Gated, pool: &str, tls: &str) -> Self {
        let folder = Folder::new();
        let path = folder.write("lb.yaml", &config(backend.address, pool, tls));
        let mut scene = Self {
            lb: Lb::start(engine, &["--config", &path]),
            backend,
            folder,
            clients: [Vec::new(), Vec::new()],
        };
        while scene.clients.iter().any(|it| it.len() < 6) {
            scene.connect();
        }
        scene.backend.hold_all();
        for worker in [0, 1] {
            scene.ask(worker, 0..2);
            wait_until("two", || scene.backend.busy() == 2 * (worker + 1));
        }
        scene.backend.let_through(u64::MAX);
        assert_eq!(scene.answers(0, 0..2), OWN[0]);
        assert_eq!(scene.answers(1, 0..2), OWN[1]);
        scene.wait_idle(4);
        scene
    }

    /// One more client, on whatever worker.
    fn connect(&mut self) {
        let client = Client::to(self.lb.listener("web"));
        let count = |worker: usize| {
            let series = format!("lb_worker_connections{{worker=\"{worker}\"}}");
            self.lb.metric(&series) as usize
        };
        let had = [0, 1].map(|worker| self.clients[worker].len());
        wait_until("it to be accepted", || {
            count(0) + count(1) > had[0] + had[1]
        });
        self.clients[usize::from(count(0) == had[0])].push(client);
    }

    fn metric(&self, name: &str) -> f64 {
        let address = self.backend.address;
        self.lb.metric(&format!(
            "lb_backend_{name}{{cluster=\"c\",backend=\"{address}\",address=\"{address}\"}}"
        ))
    }

    fn wait_idle(&self, count: usize) {
        wait_until("idle connections", || {
            self.metric("connections_idle") == count as f64
        });
    }

    fn ask(&mut self, worker: usize, clients: std::ops::Range<usize>) {
        for client in &mut self.clients[worker][clients] {
            client.send(ASK);
        }
    }

    /// The numbers of the connections by which these clients are answered.
    fn answers(&mut self, worker: usize, clients: std::ops::Range<usize>) -> u64 {
        let mut numbers = 0;
        for client in &mut self.clients[worker][clients] {
            let response = client.response();
            assert_eq!(response.status, 200, "{}", response.head);
            numbers |= 1 << response.text().parse::<u64>().unwrap();
        }
        numbers
    }
}

fn config(backend: SocketAddr, pool: &str, tls: &str) -> String {
    format!(
        "listeners:\n- {{name: web, address: '127.0.0.1:0', http: {{cluster: c}}}}\n\
         clusters:\n  c: {{balance: rr, backends: ['{backend}'], queue: {{timeout: 20s}}, \
         pool: {{connections: 2, {pool}idle_timeout: 600s}}{tls}}}\n"
    )
}

/// Four requests at once by one worker, then four by the other: all connections are used.
fn all_go_to_and_fro(scene: &mut Scene) {
    for (turn, worker) in [0, 1, 0].into_iter().enumerate() {
        scene.backend.hold_all();
        scene.ask(worker, 0..4);
        wait_until("all four to be used", || scene.backend.busy() == 4);
        scene.backend.let_through(u64::MAX);
        assert_eq!(scene.answers(worker, 0..4), 0b1111);
        scene.wait_idle(4);
        let taken = scene.metric("connections_taken_over_total");
        assert_eq!(taken, if turn == 0 { 2.0 } else { taken.max(6.0) });
    }
    assert_eq!(scene.backend.connections(), 4, "no more than there may be");
    assert_eq!(scene.metric("connections_active"), 4.0);
}

fn a_worker_that_is_short_takes_idle_connections_of_another(engine: &str) {
    let mut scene = Scene::start(engine, Gated::start(None), "", "");
    all_go_to_and_fro(&mut scene);
}

fn one_over_tls_goes_on_elsewhere_without_a_handshake(engine: &str) {
    let signed = Authority::new().server(&["127.0.0.1"]);
    let key = PrivateKeyDer::from_pem_slice(signed.key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![der(&signed.certificate)], key);
    let backend = Gated::start(Some(Arc::new(config.unwrap())));
    let mut scene = Scene::start(engine, backend, "", ", tls: true");
    all_go_to_and_fro(&mut scene);
}

fn a_connection_that_becomes_free_goes_to_whoever_waits(engine: &str) {
    let mut scene = Scene::start(engine, Gated::start(None), "", "");
    scene.backend.hold_all();
    scene.ask(0, 0..3);
    scene.ask(1, 0..2);
    wait_until("all to be used", || scene.backend.busy() == 4);
    scene.backend.let_through(OWN[1]);
    scene.answers(1, 0..2);
    // Of the three, the one that waits is answered by what was the other worker's.
    let queued = "lb_cluster_queued{cluster=\"c\"}";
    wait_until("none to wait", || scene.lb.metric(queued) == 0.0);
    wait_until("one to be answered", || scene.backend.busy() == 2);
    scene.backend.let_through(u64::MAX);
    let served_by = scene.answers(0, 0..3);
    assert_ne!(served_by & OWN[1], 0, "{served_by:b}");
    assert_eq!(scene.backend.connections(), 4);
}

fn who_gave_up_finds_it_in_the_pool(engine: &str) {
    let mut scene = Scene::start(engine, Gated::start(None), "", "");
    for _ in 0..20 {
        scene.backend.hold_all();
        let mut leaving: HashMap<usize, Vec<Client>> = HashMap::new();
        for worker in [0, 1] {
            let web = scene.lb.listener("web");
            let others = (0..2).map(|_| Client::to(web)).collect();
            leaving.insert(worker, others);
            scene.ask(worker, 0..2);
        }
        for client in leaving.values_mut().flatten() {
            client.send(ASK);
        }
        drop(leaving); // some wait, some are about to, some are on their way
        scene.backend.let_through(u64::MAX);
        scene.answers(0, 0..2);
        scene.answers(1, 0..2);
    }
    wait_until("all to be idle or closed", || {
        scene.metric("connections_idle") == scene.metric("connections_active")
    });
    // Nothing of their room was lost.
    scene.backend.hold_all();
    scene.ask(0, 0..4);
    scene.ask(1, 0..4);
    wait_until("four to be used", || scene.backend.busy() == 4);
    assert_eq!(scene.metric("connections_active"), 4.0);
    scene.backend.let_through(u64::MAX);
    scene.answers(0, 0..4);
    scene.answers(1, 0..4);
}

fn none_is_kept_to_a_backend_that_has_left(engine: &str) {
    let mut scene = Scene::start(engine, Gated::start(None), "", "");
    scene.backend.hold_all();
    scene.ask(0, 0..4);
    wait_until("all four to be used", || scene.backend.busy() == 4);
    let other = Gated::start(None);
    let text = config(other.address, "", "");
    scene.folder.write("lb.yaml", &text);
    scene.lb.wait_for_generation(2);
    scene.backend.let_through(u64::MAX);
    scene.answers(0, 0..4);
    wait_until("their end", || {
        scene.backend.gate.ended.load(Ordering::SeqCst) == 4
    });
}

fn keeping_some_ready_opens_no_more_than_there_may_be(engine: &str) {
    let backend = Gated::start(None);
    backend.hold_all();
    let folder = Folder::new();
    let text = config(backend.address, "ready: 2, ", "");
    let path = folder.write("lb.yaml", &text);
    let lb = Lb::start(engine, &["--config", &path]);
    let mut clients: Vec<Client> = Vec::new();
    wait_until("both workers to be busy", || {
        if clients.len() < 100 {
            let mut client = Client::to(lb.listener("web"));
            client.send(ASK);
            clients.push(client);
        }
        backend.busy() == 4
    });
    thread::sleep(Duration::from_millis(2500)); // it looks each second
    assert_eq!(backend.connections(), 4);
    backend.let_through(u64::MAX);
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
}
