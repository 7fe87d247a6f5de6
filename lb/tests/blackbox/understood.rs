//! nginx and HAProxy as backends: they understand of what we pass on what we understood, no more
//! requests and no fewer, and find nothing wrong with it.
//!
//! Each row comes from an address of its own, by which the lines of all logs are told apart.
//! Read next: `tricky.rs` (the rows), `others.rs` (the backends).

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::client;
use crate::edges::connect_from;
use crate::harness::{Folder, Lb, on_both_engines, wait_until};
use crate::others::Other;
use crate::requests::{FIELDS, REFUSED};
use crate::tricky::{BROKEN, ROWS};

on_both_engines!(
    nginx_understands_what_we_did,
    haproxy_understands_what_we_did,
);

/// What a backend answers another status to than 200: the start of the request as it was sent, the
/// status, and why.
type Exception = (&'static str, u16, &'static str);

const NGINX: &[Exception] = &[
    ("get /", 400, "takes methods of capital letters only"),
    ("!#$%", 400, "takes methods of capital letters only"),
    ("TRACE /", 405, "answers no TRACE"),
    ("OPTIONS * ", 400, "knows no asterisk-form"),
    ("OPTIONS http://a ", 400, "knows no asterisk-form"),
    ("GET /%00 ", 400, "decodes the path, and refuses NUL in it"),
    (
        "GET /100% ",
        400,
        "decodes the path, and refuses what it cannot",
    ),
    (
        "GET /%zz ",
        400,
        "decodes the path, and refuses what it cannot",
    ),
];

const HAPROXY: &[Exception] = &[];

/// A request as a backend has logged it.
#[derive(Debug)]
struct Seen {
    status: u16,
    from: String,
    /// As in [`tricky`](crate::tricky), the body in hexadecimal digits.
    what: String,
}

fn nginx_understands_what_we_did(engine: &str) {
    let folder = Folder::new();
    let log = folder.path("nginx.log");
    let nginx = Other::nginx(2, |_, ports| {
        let [front, end] = [ports[0], ports[1]];
        format!(
            "log_format seen escape=json '{{\"status\":\"$status\",\"from\":\"$http_x_forwarded_for\",\
             \"method\":\"$request_method\",\"target\":\"$request_uri\",\"host\":\"$http_host\",\
             \"body\":\"$request_body\"}}';\n\
             server {{ listen 127.0.0.1:{front}; access_log {log} seen;\n\
             client_body_buffer_size 64k; client_body_in_single_buffer on;\n\
             location / {{ proxy_pass http://127.0.0.1:{end}/; proxy_method GET;\n\
             proxy_pass_request_body off; proxy_pass_request_headers off; }} }}\n\
             server {{ listen 127.0.0.1:{end}; return 200 ok; }}"
        )
    });
    let Some(nginx) = nginx else { return };
    let read = || -> Vec<Seen> {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.lines().map(seen_by_nginx).collect()
    };
    let broken = check(engine, nginx.addresses[0], NGINX, read);
    for seen in broken {
        assert_ne!(seen.status, 200, "taken for a whole request: {seen:?}");
    }
}

fn seen_by_nginx(line: &str) -> Seen {
    let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
    let text = |key: &str| line[key].as_str().unwrap();
    let [method, target, host] = ["method", "target", "host"].map(text);
    Seen {
        status: text("status").parse().unwrap(),
        from: text("from").rsplit(", ").next().unwrap().to_owned(),
        what: format!("{method} {target} {host}|{}", hex(text("body"))),
    }
}

fn haproxy_understands_what_we_did(engine: &str) {
    let log = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let to = log.local_addr().unwrap();
    let haproxy = Other::haproxy(1, |ports| {
        format!(
            "frontend f\n  bind 127.0.0.1:{}\n  log {to} len 8192 format raw local0\n\
             \x20 option http-buffer-request\n\
             \x20 http-request set-var(txn.target) url\n\
             \x20 http-request set-var(txn.host) req.hdr(host)\n\
             \x20 http-request set-var(txn.from) req.hdr(x-forwarded-for)\n\
             \x20 http-request set-var(txn.body) req.body,hex,lower\n\
             \x20 log-format \"%ST %[var(txn.from)] %HM %[var(txn.target)] \
             %[var(txn.host)] %[var(txn.body)]\"\n\
             \x20 http-request return status 200 content-type text/plain lf-string \"%[method]\"\n",
            ports[0]
        )
    });
    let Some(haproxy) = haproxy else { return };
    let lines = Arc::<Mutex<Vec<String>>>::default();
    let received = Arc::clone(&lines);
    thread::spawn(move || {
        let mut datagram = [0; 16 * 1024];
        while let Ok(len) = log.recv(&mut datagram) {
            let text = String::from_utf8_lossy(&datagram[..len]).into_owned();
            received.lock().unwrap().push(text);
        }
    });
    let read = || -> Vec<Seen> {
        let lines = lines.lock().unwrap();
        lines.iter().map(|line| seen_by_haproxy(line)).collect()
    };
    // Its rule answers what has broken off, too, with what there was of it.
    for seen in check(engine, haproxy.addresses[0], HAPROXY, read) {
        let (_, body) = seen.what.rsplit_once('|').unwrap();
        assert!("616263".starts_with(body), "{seen:?}");
    }
}

fn seen_by_haproxy(line: &str) -> Seen {
    let line = line.replace("#23", "#"); // as its log escapes it
    let fields: Vec<&str> = line.trim_end().split(' ').collect();
    let [status, from, method, target, host, body] = fields[..] else {
        panic!("{line:?}");
    };
    let body = body.trim_start_matches('-');
    Seen {
        status: status.parse().unwrap(),
        from: from.to_owned(),
        what: format!("{method} {target} {host}|{body}"),
    }
}

/// Compares all rows; what the backend has seen of the requests that broke off.
fn check(
    engine: &str,
    backend: SocketAddr,
    exceptions: &[Exception],
    read: impl Fn() -> Vec<Seen>,
) -> Vec<Seen> {
    let folder = Folder::new();
    let log = folder.path("access.log");
    let format = r#"{"from":"$remote_addr","method":"$method","target":"$target",
        "status":$status,"backend":$backend_status,"asked":"$backend_address"}"#;
    let lb = Lb::start(
        engine,
        &[
            "--http",
            &format!("web@127.0.0.1:0={backend}"),
            "--access-log",
            &log,
            "--access-log-format",
            &format.replace('\n', ""),
        ],
    );
    let web = lb.listener("web");
    let before = read().len();
    let _clients = send_all(web);
    let passed = passed(&log);
    wait_until("the backend to have seen as many", || {
        read().len() - before >= passed.values().map(Vec::len).sum()
    });
    client::get(backend, "/end");
    wait_until("the end", || {
        read().iter().any(|it| it.what.contains("/end"))
    });
    let mut seen = read();
    seen.drain(..before);
    let count: usize = passed.values().map(Vec::len).sum();
    assert_eq!(
        seen.len() - 1,
        count,
        "no more requests and no fewer: {seen:#?}"
    );
    compare_rows(web, &passed, &seen, exceptions);
    seen.retain(|it| it.what.starts_with("POST /b "));
    seen
}

/// Sends everything, each from its own address; the connections stay open.
fn send_all(web: SocketAddr) -> Vec<TcpStream> {
    let mut clients = Vec::new();
    let mut send = |text: &str| {
        let index = u8::try_from(clients.len() % 250).unwrap();
        let block = u8::try_from(clients.len() / 250).unwrap();
        let mut client = connect_from(Ipv4Addr::new(127, 0, 1 + block, 1 + index), web);
        client.write_all(text.as_bytes()).unwrap();
        clients.push(client);
    };
    for (request, _) in ROWS {
        send(request);
    }
    for (_, request) in REFUSED {
        send(request);
    }
    for (_, fields) in FIELDS {
        send(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}"));
    }
    for [first, _] in BROKEN {
        send(first);
    }
    thread::sleep(Duration::from_millis(50)); // most often the halves come one by one
    let first = clients.len() - BROKEN.len();
    for (client, [_, second]) in clients[first..].iter_mut().zip(BROKEN) {
        client.write_all(second.as_bytes()).unwrap();
    }
    clients
}

/// What we passed on to a backend, by client: method and target, and our and the backend's status.
type Passed = BTreeMap<String, Vec<(String, u64, Value)>>;

fn passed(log: &str) -> Passed {
    let understood: usize = ROWS.iter().map(|(_, seen)| seen.len()).sum();
    let refused = REFUSED.len() + FIELDS.len() + BROKEN.len();
    let read = || std::fs::read_to_string(log).unwrap_or_default();
    wait_until("our lines", || {
        read().lines().count() >= understood + refused
    });
    let mut passed = Passed::new();
    for line in read().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let text = |key: &str| line[key].as_str().unwrap().to_owned();
        if line["asked"] == "" {
            assert!(line["status"].as_u64() >= Some(400), "{line}");
            continue;
        }
        let what = format!("{} {}", text("method"), text("target"));
        let status = line["status"].as_u64().unwrap();
        let entry = passed.entry(text("from")).or_default();
        entry.push((what, status, line["backend"].clone()));
    }
    passed
}

fn compare_rows(web: SocketAddr, passed: &Passed, seen: &[Seen], exceptions: &[Exception]) {
    let mut differences = Vec::new();
    for (index, (request, expected)) in ROWS.iter().enumerate() {
        let from = Ipv4Addr::new(127, 0, 1, 1 + u8::try_from(index).unwrap()).to_string();
        let passed = passed.get(&from).map_or(&[][..], |it| it);
        let exception = exceptions
            .iter()
            .find(|(start, ..)| request.starts_with(start));
        let status = exception.map_or(200, |(_, status, _)| u64::from(*status));
        if passed.len() != expected.len() || passed.iter().any(|(_, it, _)| *it != status) {
            differences.push(format!(
                "{request:?}: we passed on {passed:?}, expected {status}"
            ));
        }
        if exception.is_some() {
            continue; // what it has of a request that it refuses is its own affair
        }
        let expected: Vec<String> = expected
            .iter()
            .map(|it| {
                let (head, body) = it.rsplit_once('|').unwrap();
                let head = head.replace("{lb}", &web.to_string());
                format!("{head}|{}", hex(body))
            })
            .collect();
        let seen: Vec<&str> = seen
            .iter()
            .filter(|it| it.from == from)
            .map(|it| &*it.what)
            .collect();
        if seen != expected {
            differences.push(format!("{request:?}: seen {seen:?}, expected {expected:?}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}
