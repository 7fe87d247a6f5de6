//! WebSockets through the built program, between a client and a server of the package `websockets`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use rustix::process::Signal;

use crate::client;
use crate::harness::{DEADLINE, Folder, Lb, on_both_engines, skip, wait_until};
use crate::origin::HttpOrigin;
use crate::python::python;

on_both_engines!(
    messages_go_both_ways_and_survive_a_change,
    the_drain_deadline_cuts_them,
    one_outlives_the_replacement_of_its_endpoint,
    streams_and_connections_meet,
    a_backend_without_websockets_is_named,
    what_a_backend_says_to_a_handshake_is_passed_on,
    silence_ends_a_tunnel,
);

/// A script with its output; killed on drop.
pub(crate) struct Script {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Script {
    fn start(text: &str, argument: &str) -> Option<Self> {
        let python = match python() {
            Ok(python) => python,
            Err(reason) => {
                skip(reason);
                return None;
            }
        };
        let mut child = Command::new(python)
            .args(["-c", text, argument])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Some(Self { child, lines })
    }

    /// An echo server, and where it listens.
    pub(crate) fn server() -> Option<(Self, SocketAddr)> {
        Self::server_of(include_str!("websocket_server.py"))
    }

    fn server_of(text: &str) -> Option<(Self, SocketAddr)> {
        let mut server = Self::start(text, "")?;
        let port: u16 = server.line().parse().unwrap();
        Some((server, SocketAddr::from(([127, 0, 0, 1], port))))
    }

    fn client(address: SocketAddr) -> Option<Self> {
        let uri = format!("ws://{address}/chat?a=b");
        Self::start(include_str!("websocket_client.py"), &uri)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Tells the client to go on to its end.
    fn go_on(&mut self) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(b"\n").unwrap();
        stdin.flush().unwrap();
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn config(backend: SocketAddr) -> String {
    format!(
        "listeners:\n  - {{name: web, address: '127.0.0.1:0', http: {{cluster: web}}}}\n\
         clusters:\n  web: {{backends: ['{backend}']}}\n"
    )
}

fn messages_go_both_ways_and_survive_a_change(engine: &str) {
    let Some((_server, backend)) = Script::server() else {
        return;
    };
    let folder = Folder::new();
    let path = folder.write("lb.yaml", &config(backend));
    let lb = Lb::start(engine, &["--config", &path]);
    let Some(mut client) = Script::client(lb.listener("web")) else {
        return;
    };
    assert_eq!(client.line(), "talked");
    assert_eq!(lb.metric("lb_upgrades_active{listener=\"web\"}"), 1.0);

    let other = HttpOrigin::start("other");
    folder.write("lb.yaml", &config(other.address));
    lb.wait_for_generation(2);
    client.go_on();
    assert_eq!(
        client.line(),
        "closed",
        "it goes on with the backend that it began with"
    );
    assert_eq!(lb.metric("lb_upgrades_total{listener=\"web\"}"), 1.0);
}

fn the_drain_deadline_cuts_them(engine: &str) {
    let Some((_server, backend)) = Script::server() else {
        return;
    };
    let http = format!("web@127.0.0.1:0={backend}");
    let lb = Lb::start(engine, &["--http", &http, "--drain-timeout", "300ms"]);
    let Some(mut client) = Script::client(lb.listener("web")) else {
        return;
    };
    assert_eq!(client.line(), "talked");
    lb.signal(Signal::TERM);
    let cut = lb.event("connections are cut");
    assert_eq!(cut["connections"], "1");
    assert_eq!(lb.wait().0.code(), Some(0));
}

/// Service and Ingress, with endpoints at these ports and what is said of them.
fn objects(endpoints: &[(SocketAddr, &str)]) -> String {
    let mut text = String::from(
        "apiVersion: v1\nkind: Service\nmetadata: {name: chat}\nspec: {ports: [{port: 80}]}\n---\n\
         apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: chat}\nspec: \
         {defaultBackend: {service: {name: chat, port: {number: 80}}}}\n",
    );
    for (index, (address, conditions)) in endpoints.iter().enumerate() {
        text += &format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: chat-{index}, \
             labels: {{kubernetes.io/service-name: chat}}}}\naddressType: IPv4\nports: [{{port: \
             {}}}]\nendpoints: [{{addresses: [127.0.0.1], conditions: {{{conditions}}}}}]\n",
            address.port()
        );
    }
    text
}

fn one_outlives_the_replacement_of_its_endpoint(engine: &str) {
    let (Some((_old, old)), Some((_new, new))) = (Script::server(), Script::server()) else {
        return;
    };
    let folder = Folder::new();
    let path = folder.write("objects.yaml", &objects(&[(old, "ready: true")]));
    let folder_path = path.trim_end_matches("objects.yaml");
    let lb = Lb::start(
        engine,
        &[
            "--manifests",
            folder_path,
            "--ingress-http",
            "127.0.0.1:0",
            "--ingress-https",
            "off",
            "--healthz",
            "off",
        ],
    );
    let front = lb.listener("ingress-http");
    let Some(mut early) = Script::client(front) else {
        return;
    };
    assert_eq!(early.line(), "talked");
    let ending = "ready: false, serving: true, terminating: true";
    folder.write(
        "objects.yaml",
        &objects(&[(old, ending), (new, "ready: true")]),
    );
    lb.wait_for_generation(2);
    folder.write("objects.yaml", &objects(&[(new, "ready: true")]));
    lb.wait_for_generation(3);
    let mut late = Script::client(front).unwrap();
    assert_eq!(late.line(), "talked");
    for client in [&mut early, &mut late] {
        client.go_on();
        assert_eq!(client.line(), "closed");
    }
}

/// A listener to each backend, by the protocol that it speaks.
fn config_of(backends: &[(&str, &str, SocketAddr)]) -> String {
    let (mut listeners, mut clusters) = (String::new(), String::new());
    for (name, protocol, backend) in backends {
        listeners +=
            &format!("  - {{name: {name}, address: '127.0.0.1:0', http: {{cluster: {name}}}}}\n");
        clusters += &format!("  {name}: {{protocol: {protocol}, backends: ['{backend}']}}\n");
    }
    format!("listeners:\n{listeners}clusters:\n{clusters}")
}

fn streams_and_connections_meet(engine: &str) {
    const OLD: &str = include_str!("websocket_client.py");
    const NEW: &str = include_str!("websocket_http2_client.py");
    // One for each client: hypercorn ends the whole connection when the end of a stream comes behind
    // its own.
    let new_server = || Script::server_of(include_str!("websocket_http2_server.py"));
    let (Some((_old, old)), Some((_new, new)), Some((_newer, newer))) =
        (Script::server(), new_server(), new_server())
    else {
        return;
    };
    let folder = Folder::new();
    let config = config_of(&[
        ("old", "http1", old),
        ("new", "http2", new),
        ("newer", "http2", newer),
    ]);
    let path = folder.write("lb.yaml", &config);
    let lb = Lb::start(engine, &["--config", &path]);
    for (script, listener) in [(NEW, "old"), (OLD, "new"), (NEW, "newer")] {
        let uri = format!("ws://{}/chat?a=b", lb.listener(listener));
        let mut client = Script::start(script, &uri).unwrap();
        assert_eq!(client.line(), "talked", "to {listener}");
        let active = format!("lb_upgrades_active{{listener=\"{listener}\"}}");
        assert_eq!(lb.metric(&active), 1.0);
        client.go_on();
        assert_eq!(client.line(), "closed", "to {listener}");
        wait_until("the upgrade to end", || lb.metric(&active) == 0.0);
    }
}

fn a_backend_without_websockets_is_named(engine: &str) {
    // It says what it allows, which is nothing, and waits.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let backend = listener.local_addr().unwrap();
    thread::spawn(move || {
        let streams: Vec<_> = listener
            .incoming()
            .map(|stream| {
                let mut stream = stream.unwrap();
                stream.write_all(b"\0\0\0\x04\0\0\0\0\0").unwrap();
                stream
            })
            .collect();
        drop(streams);
    });
    let folder = Folder::new();
    let path = folder.write("lb.yaml", &config_of(&[("new", "http2", backend)]));
    let lb = Lb::start(engine, &["--config", &path]);
    let mut client = client::Connection::open(lb.listener("new"));
    let fields = [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ];
    let answer = client.get_with("/", &fields);
    assert_eq!(answer.status, 502, "{answer:?}");
    let logged = lb.event("a backend takes no WebSockets");
    assert_eq!(
        (&logged["cluster"], &logged["level"]),
        (&"new".into(), &"warn".into()),
        "{logged}"
    );
}

const HANDSHAKE: &str = "GET /chat?a=b HTTP/1.1\r\nHost: test.example\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nOrigin: http://test.example\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Protocol: chat, superchat\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";

/// Answers each request with the next of these, and tells what it was asked.
fn answering(answers: &'static [&'static str]) -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let backend = listener.local_addr().unwrap();
    let (send, asked) = mpsc::channel();
    let next = Arc::new(AtomicUsize::new(0));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (send, next) = (send.clone(), Arc::clone(&next));
            thread::spawn(move || {
                let mut stream = BufReader::new(stream.unwrap());
                while let Some(head) = read_head(&mut stream) {
                    let answer = answers[next.fetch_add(1, Ordering::SeqCst)];
                    send.send(head).unwrap();
                    stream.get_mut().write_all(answer.as_bytes()).unwrap();
                }
            });
        }
    });
    (backend, asked)
}

/// Up to the blank line; `None` if the connection ends before.
fn read_head(stream: &mut impl BufRead) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        (stream.read_line(&mut head).ok()? > 0).then_some(())?;
    }
    Some(head)
}

fn what_a_backend_says_to_a_handshake_is_passed_on(engine: &str) {
    const ANSWERS: &[&str] = &[
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npage",
        "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
        "HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 13\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\
         Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
    ];
    let (backend, asked) = answering(ANSWERS);
    let http = format!("web@127.0.0.1:0={backend}");
    let lb = Lb::start(engine, &["--http", &http]);
    let mut client = client::Connection::open(lb.listener("web"));
    for (status, body) in [(200, "page"), (401, ""), (403, "no"), (426, "")] {
        client.send(HANDSHAKE);
        let answer = client.receive();
        assert_eq!((answer.status, &*answer.body), (status, body));
        let field = match status {
            401 => answer.header("www-authenticate") == Some("Basic"),
            426 => answer.header("sec-websocket-version") == Some("13"),
            _ => true,
        };
        assert!(field, "{answer:?}");
        let head = asked.recv().unwrap();
        for line in HANDSHAKE
            .lines()
            .filter(|it| it.starts_with("Sec-") || it.starts_with("Origin"))
        {
            assert!(head.contains(line), "{line} of {head}");
        }
    }
    let mut stream = TcpStream::connect(lb.listener("web")).unwrap();
    stream.write_all(HANDSHAKE.as_bytes()).unwrap();
    let head = read_head(&mut BufReader::new(stream)).expect("an answer");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    for line in ANSWERS[4].lines().filter(|it| it.starts_with("Sec-")) {
        assert!(head.contains(line), "{line} of {head}");
    }
}

/// Its idle time is its own: the one between requests is shorter here.
fn silence_ends_a_tunnel(engine: &str) {
    let Some((_server, backend)) = Script::server() else {
        return;
    };
    let folder = Folder::new();
    let config = format!(
        "listeners:\n- name: web\n  address: '127.0.0.1:0'\n  http: {{cluster: web, timeouts: \
         {{keep_alive: 50ms, body_idle: 50ms, upgrade_idle: 3s}}}}\n\
         clusters: {{web: {{backends: ['{backend}']}}}}\n"
    );
    let lb = Lb::start(engine, &["--config", &folder.write("lb.yaml", &config)]);
    let stream = TcpStream::connect(lb.listener("web")).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut stream = BufReader::new(stream);
    stream.get_mut().write_all(HANDSHAKE.as_bytes()).unwrap();
    read_head(&mut stream).expect("an answer");
    // A ping, answered, after a pause that is longer than the other times.
    for _ in 0..3 {
        thread::sleep(std::time::Duration::from_millis(100));
        stream.get_mut().write_all(b"\x89\x80\0\0\0\0").unwrap();
        let mut pong = [0; 2];
        stream.read_exact(&mut pong).unwrap();
        assert_eq!(pong, *b"\x8a\x00");
    }
    let ended = stream.read(&mut [0]);
    assert!(!matches!(ended, Ok(1..)), "{ended:?}");
    let active = "lb_upgrades_active{listener=\"web\"}";
    wait_until("it to end", || lb.metric(active) == 0.0);
}
