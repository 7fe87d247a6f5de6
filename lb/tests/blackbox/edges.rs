//! The same requests to `lb`, nginx and HAProxy as the edge: nothing passes us that neither of them
//! lets through, and what we alone refuse has its reason.
//!
//! Read next: `tricky.rs` (requests that are right), `compared.rs` (what reaches a backend).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use socket2::{Domain, Socket, Type};

use crate::ends::{Backend, Client};
use crate::harness::{DEADLINE, Folder, Lb, on_both_engines};
use crate::others::Other;
use crate::requests::{ACCEPTED, FIELDS, REFUSED, RESPONSES};
use crate::tricky::{BROKEN, ROWS};

on_both_engines!(
    nothing_passes_that_both_peers_refuse,
    what_is_wrong_is_told_and_the_connection_closed,
    what_no_backend_may_answer_is_502,
);

/// Why we refuse what both peers let through: what we answer, and the rule. Each of them is a place
/// where two readers of one message may come to differ.
const STRICTER: &[(&str, &str)] = &[
    (
        "a line of the head does not end in CRLF",
        "RFC 9112 section 2.2: CRLF ends a line, a lone LF only may; one empty line before a request \
         is passed over, and no more need be",
    ),
    (
        "the request line is malformed",
        "RFC 9112 section 3: one space between its parts, and a warning of other readings",
    ),
    (
        "the HTTP version is not supported",
        "RFC 9110 section 2.5 has a 1.2 taken for 1.1, but there is none and will be none",
    ),
    (
        "the request target is malformed",
        "RFC 9110 section 7.4: of the absolute form, only http and https are ours to serve",
    ),
    (
        "the path has a '.' or '..' element",
        "RFC 3986 section 5.2.4: clients take them out; a backend that does leaves its route",
    ),
    (
        "Host is not a valid name or address",
        "RFC 9110 section 7.2: a host and a port, without user information, within their ranges",
    ),
    (
        "a header field is malformed",
        "RFC 9110 section 5.5: no control characters in values",
    ),
    (
        "the chunked body is malformed",
        "RFC 9112 section 7.1: no white space that senders must not send, CRLF at every line's end, \
         sizes that fit; RFC 9110 sections 5.5 and 6.5.1 for trailers",
    ),
];

fn nothing_passes_that_both_peers_refuse(engine: &str) {
    let backend = origin();
    let folder = Folder::new();
    let path = folder.write(
        "lb.yaml",
        &format!(
            "listeners:\n- name: web\n  address: '127.0.0.1:0'\n  \
             http: {{cluster: c, ignore_client_abort: true}}\n\
             clusters:\n  c: {{backends: ['{backend}']}}\n"
        ),
    );
    let lb = Lb::start(engine, &["--config", &path]);
    let Some([nginx, haproxy]) = peers(backend) else {
        return;
    };
    let mut wrong = Vec::new();
    for request in requests() {
        let ours = ask(lb.listener("web"), &request);
        let [nginx, haproxy] = [&nginx, &haproxy].map(|it| ask(it.addresses[0], &request));
        let theirs = [&nginx, &haproxy].map(|it| passes(it));
        let is_stricter = || STRICTER.iter().any(|(said, _)| ours.contains(said));
        let said = ours.lines().last().unwrap_or_default();
        match (passes(&ours), theirs) {
            (true, [false, false]) => wrong.push(format!("we alone let through {request:?}")),
            (false, [true, true]) if !is_stricter() => {
                wrong.push(format!("we alone refuse {request:?}: {said}"));
            }
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), wrong.len());
}

fn what_is_wrong_is_told_and_the_connection_closed(engine: &str) {
    let backend = Backend::named("reached");
    let lb = Lb::start(
        engine,
        &["--http", &format!("web@127.0.0.1:0={}", backend.address)],
    );
    let (long, many) = ("x".repeat(20_000), "A: b\r\n".repeat(101));
    let refused = REFUSED
        .iter()
        .map(|(status, it)| (*status, (*it).to_owned()));
    let fields = FIELDS.iter();
    let fields =
        fields.map(|(status, it)| (*status, format!("POST / HTTP/1.1\r\nHost: a\r\n{it}")));
    let long = [
        (414, format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n")),
        (
            431,
            format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"),
        ),
        (431, format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n")),
        (400, "GET /\r\n".to_owned()),
    ];
    let mut count = 0;
    for (status, request) in refused.chain(fields).chain(long) {
        let answer = ask(lb.listener("web"), &request);
        let start = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&start), "{request:.80?}: {answer}");
        assert!(
            answer.contains("\r\nConnection: close\r\n"),
            "{request:.80?}: {answer}"
        );
        count += 1;
    }
    assert!(count >= 200, "{count}");
    assert_eq!(backend.connections(), 0, "nothing of it reaches a backend");
}

fn what_no_backend_may_answer_is_502(engine: &str) {
    let backend = Backend::responding(|request| {
        let path = request.head.split(' ').nth(1).unwrap();
        let index: usize = path[1..].parse().unwrap();
        RESPONSES[index].as_bytes().to_vec()
    });
    let lb = Lb::start(
        engine,
        &["--http", &format!("web@127.0.0.1:0={}", backend.address)],
    );
    for (index, response) in RESPONSES.iter().enumerate() {
        let mut client = Client::to(lb.listener("web"));
        assert_eq!(client.get(&format!("/{index}")).status, 502, "{response:?}");
    }
}

fn requests() -> Vec<String> {
    let whole = REFUSED.iter().map(|(_, it)| *it);
    let whole = whole.chain(ACCEPTED.iter().copied());
    let whole = whole
        .chain(ROWS.iter().map(|(it, _)| *it))
        .map(str::to_owned);
    let fields = FIELDS
        .iter()
        .map(|(_, it)| format!("POST / HTTP/1.1\r\nHost: a\r\n{it}"));
    whole
        .chain(fields)
        .chain(BROKEN.iter().map(|it| it.concat()))
        .collect()
}

fn peers(backend: SocketAddr) -> Option<[Other; 2]> {
    let nginx = Other::nginx(1, |_, ports| {
        format!(
            "server {{ listen 127.0.0.1:{}; location / {{ proxy_pass http://{backend}; \
             proxy_http_version 1.1; proxy_ignore_client_abort on; \
             proxy_set_header Host $http_host; \
             proxy_set_header Connection ''; }} }}",
            ports[0]
        )
    })?;
    let haproxy = Other::haproxy(1, |ports| {
        format!(
            "frontend f\n  bind 127.0.0.1:{}\n  default_backend b\nbackend b\n  server s {backend}\n",
            ports[0]
        )
    })?;
    Some([nginx, haproxy])
}

/// All that is answered to a client that says no more than this.
fn ask(edge: SocketAddr, request: &str) -> String {
    let mut client = TcpStream::connect(edge).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    // It may have been refused before all of it was sent.
    let _ = client.write_all(request.as_bytes());
    let _ = client.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// Whether a backend was asked: it answers 200; to a request of HTTP/0.9, without a head.
fn passes(answer: &str) -> bool {
    answer.contains(" 200 OK\r\n") || !answer.is_empty() && !answer.starts_with("HTTP/")
}

/// A connection from an address of this machine's own network.
pub(crate) fn connect_from(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.connect(&to.into()).expect("a connection");
    TcpStream::from(socket)
}

/// Answers whole requests, by the simple rules that are enough for what proxies send.
fn origin() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || {
                let mut stream = BufReader::new(stream.unwrap());
                while take_request(&mut stream).is_some() {
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                    if stream.get_mut().write_all(answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn take_request(stream: &mut BufReader<TcpStream>) -> Option<()> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        read_line(stream, &mut head)?;
    }
    let head = head.to_ascii_lowercase();
    if head.lines().any(|it| it.starts_with("transfer-encoding:")) {
        return take_chunks(stream);
    }
    let length = head
        .lines()
        .find_map(|it| it.strip_prefix("content-length:"));
    let length = length.map_or(Some(0), |it| it.trim().parse().ok())?;
    stream
        .take(length)
        .read_to_end(&mut Vec::new())
        .ok()
        .map(drop)
}

fn take_chunks(stream: &mut impl BufRead) -> Option<()> {
    loop {
        let mut line = String::new();
        read_line(stream, &mut line)?;
        let size = line.split([';', '\r']).next()?;
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            break;
        }
        stream.read_exact(&mut vec![0; size + 2]).ok()?;
    }
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        read_line(stream, &mut line)?;
    }
    Some(())
}

fn read_line(stream: &mut impl BufRead, text: &mut String) -> Option<()> {
    let mut line = Vec::new();
    let read = stream.read_until(b'\n', &mut line).ok()?;
    text.push_str(&String::from_utf8_lossy(&line));
    (read > 0).then_some(())
}
