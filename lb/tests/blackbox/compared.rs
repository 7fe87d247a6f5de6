//! What of a request reaches a backend: through `lb`, and beside it through nginx and HAProxy. Each
//! row says in what we differ from them, and why.
//!
//! Read next: `others.rs` (the peers).

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use crate::harness::{DEADLINE, Lb, on_both_engines};
use crate::others::Other;

on_both_engines!(what_reaches_a_backend_differs_from_the_peers_as_said);

/// Request; then what reaches a backend through us, nginx and HAProxy: names in lower case and in
/// order, without the X-Forwarded fields that only we add.
type Row = (&'static str, [&'static str; 3]);

const ROWS: &[Row] = &[
    // Hop-by-hop fields end at each hop (RFC 9110 section 7.6.1); the peers let some through.
    (
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n\
         Proxy-Connection: keep-alive\r\nTE: trailers, gzip\r\n\r\n",
        [
            "GET / HTTP/1.1|host: a",
            "GET / HTTP/1.1|host: a|proxy-connection: keep-alive",
            "GET / HTTP/1.1|host: a|keep-alive: timeout=5|proxy-connection: keep-alive|te: trailers",
        ],
    ),
    // So do those that Connection names; the peers pass them on.
    (
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Own, close\r\nX-Own: 1\r\nX-Kept: 2\r\n\r\n",
        [
            "GET / HTTP/1.1|host: a|x-kept: 2",
            "GET / HTTP/1.1|host: a|x-kept: 2|x-own: 1",
            "GET / HTTP/1.1|connection: X-Own|host: a|x-kept: 2|x-own: 1",
        ],
    ),
    // We leave 100 to the backend, as HAProxy; nginx answers it by itself.
    (
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
        [
            "POST / HTTP/1.1|content-length: 3|expect: 100-continue|host: a||abc",
            "POST / HTTP/1.1|content-length: 3|host: a||abc",
            "POST / HTTP/1.1|content-length: 3|expect: 100-continue|host: a||abc",
        ],
    ),
    // Trailers reach the backend, as with HAProxy; nginx gathers the body and drops them.
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTrailer: X-T\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n\
         0\r\nX-T: 1\r\n\r\n",
        [
            "POST / HTTP/1.1|host: a|trailer: X-T|transfer-encoding: chunked||3|abc|0|X-T: 1||",
            "POST / HTTP/1.1|content-length: 3|host: a|trailer: X-T||abc",
            "POST / HTTP/1.1|host: a|trailer: X-T|transfer-encoding: chunked||3|abc|0|x-t: 1||",
        ],
    ),
    // A proxy speaks its own version (RFC 9110 section 2.5); HAProxy repeats the client's.
    (
        "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        [
            "GET / HTTP/1.1|host: a",
            "GET / HTTP/1.1|host: a",
            "GET / HTTP/1.0|connection: keep-alive|host: a",
        ],
    ),
    // An absolute target becomes the usual one; HAProxy passes it on.
    (
        "GET http://b.example/x?y HTTP/1.1\r\nHost: b.example\r\n\r\n",
        [
            "GET /x?y HTTP/1.1|host: b.example",
            "GET /x?y HTTP/1.1|host: b.example",
            "GET http://b.example/x?y HTTP/1.1|host: b.example",
        ],
    ),
    // End-to-end fields stay, repeated ones in their order: all alike.
    (
        "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nX-A: 2\r\nCookie: a=1\r\nCookie: b=2\r\nVia: 1.1 x\r\n\
         Forwarded: for=1.2.3.4\r\n\r\n",
        ["GET / HTTP/1.1|cookie: a=1|cookie: b=2|forwarded: for=1.2.3.4|host: a|via: 1.1 x|x-a: 1|x-a: 2";
            3],
    ),
    // An upgrade is passed on, as by HAProxy; nginx has to be told to.
    (
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
        [
            "GET / HTTP/1.1|connection: upgrade|host: a|upgrade: x",
            "GET / HTTP/1.1|host: a",
            "GET / HTTP/1.1|connection: Upgrade|host: a|upgrade: x",
        ],
    ),
    // But never one to h2c, which would leave us blind; HAProxy asks for it on the client's behalf.
    (
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: AAMAAABk\r\n\r\n",
        [
            "GET / HTTP/1.1|host: a",
            "GET / HTTP/1.1|host: a|http2-settings: AAMAAABk",
            "GET / HTTP/1.1|connection: Upgrade, HTTP2-Settings|host: a|http2-settings: AAMAAABk|upgrade: h2c",
        ],
    ),
];

fn what_reaches_a_backend_differs_from_the_peers_as_said(engine: &str) {
    let (backend, seen) = recorder();
    let lb = Lb::start(engine, &["--http", &format!("web@127.0.0.1:0={backend}")]);
    let nginx = Other::nginx(1, |_, ports| {
        format!(
            "server {{ listen 127.0.0.1:{}; location / {{ proxy_pass http://{backend}; \
             proxy_http_version 1.1; proxy_set_header Host $http_host; \
             proxy_set_header Connection ''; }} }}",
            ports[0]
        )
    });
    let haproxy = Other::haproxy(1, |ports| {
        format!(
            "frontend f\n  bind 127.0.0.1:{}\n  default_backend b\nbackend b\n  server s {backend}\n",
            ports[0]
        )
    });
    let fronts = [
        ("lb", Some(lb.listener("web"))),
        ("nginx", nginx.as_ref().map(|it| it.addresses[0])),
        ("haproxy", haproxy.as_ref().map(|it| it.addresses[0])),
    ];
    for (request, expected) in ROWS {
        for ((name, front), expected) in fronts.iter().zip(expected) {
            let Some(front) = front else { continue };
            let mut client = TcpStream::connect(front).unwrap();
            client.write_all(request.as_bytes()).unwrap();
            let received = seen.recv_timeout(DEADLINE).expect("a request");
            assert_eq!(received, *expected, "{name}, {request}");
        }
    }
}

/// A backend, and what it receives.
fn recorder() -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let sender = sender.clone();
            thread::spawn(move || {
                let mut stream = BufReader::new(stream.unwrap());
                if let Some(seen) = record(&mut stream) {
                    let answer =
                        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
                    let _ = stream.get_mut().write_all(answer);
                    let _ = sender.send(seen);
                }
            });
        }
    });
    (address, receiver)
}

/// A request: its line, its fields sorted, and its body as it came.
fn record(stream: &mut impl BufRead) -> Option<String> {
    let lines = lines(stream)?;
    let (first, fields) = lines.split_first()?;
    let lower = |line: &String| {
        let (name, value) = line.split_once(':').expect("a field");
        format!("{}:{value}", name.to_ascii_lowercase())
    };
    let mut fields: Vec<String> = fields.iter().map(lower).collect();
    fields.retain(|it| !it.starts_with("x-forwarded-"));
    fields.sort();
    let mut seen = [first.clone()]
        .into_iter()
        .chain(fields)
        .collect::<Vec<_>>()
        .join("|");
    if seen.contains("|content-length: 3") {
        let mut body = [0; 3];
        stream.read_exact(&mut body).ok()?;
        seen += &format!("||{}", String::from_utf8_lossy(&body));
    } else if seen.contains("|transfer-encoding: chunked") {
        seen += &format!("||{}||", self::lines(stream)?.join("|"));
    }
    Some(seen)
}

/// Lines up to an empty one.
fn lines(stream: &mut impl BufRead) -> Option<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => return Some(lines),
            line => lines.push(line.to_owned()),
        }
    }
}
