//! HTTP/2 with other people's clients: by `Upgrade: h2c`, and by itself.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::process::Signal;

use crate::client;
use crate::harness::{DEADLINE, Folder, Lb, free_ports, on_both_engines, skip, wait_until};

on_both_engines!(
    curl_upgrades_to_http2,
    nghttp_upgrades_to_http2,
    an_offer_of_http2_never_reaches_a_backend,
    load_does_not_notice_a_reload,
    no_request_is_lost_by_a_drain,
);

/// Runs a client of others; `None` if it is not here.
fn client_of_others(program: &str, arguments: &[&str]) -> Option<Output> {
    let output = Command::new(program).args(arguments).output();
    if output.is_err() {
        skip(&format!("no {program}"));
    }
    output.ok()
}

/// Answers with the request as it came, head and body.
pub(crate) fn mirror() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || mirror_one(BufReader::new(stream.unwrap())));
        }
    });
    address
}

fn mirror_one(mut reader: BufReader<TcpStream>) {
    loop {
        let mut whole = String::new();
        while !whole.ends_with("\r\n\r\n") {
            if reader.read_line(&mut whole).unwrap_or(0) == 0 {
                return;
            }
        }
        let lower = whole.to_ascii_lowercase();
        let length = lower.split("\r\ncontent-length: ").nth(1);
        let length = length.and_then(|it| it.split("\r\n").next()?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body).unwrap();
        whole += &String::from_utf8(body).unwrap();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{whole}",
            whole.len()
        );
        if reader.get_mut().write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn assert_is_unoffered(head: &str) {
    let head = head.to_ascii_lowercase();
    for word in ["upgrade", "http2-settings", "h2c"] {
        assert!(!head.contains(word), "{word} in {head}");
    }
}

fn curl_upgrades_to_http2(engine: &str) {
    let http = format!("web@127.0.0.1:0={}", mirror());
    let lb = Lb::start(engine, &["--http", &http]);
    let url = format!("http://{}/a?b", lb.listener("web"));
    let again = format!("http://{}/again", lb.listener("web"));
    let version = [
        "-sS",
        "--max-time",
        "20",
        "--http2",
        "-w",
        "%{http_version}\n",
    ];
    let run = |more: &[&str]| {
        let output = client_of_others("curl", &[&version[..], more].concat())?;
        assert!(output.status.success(), "{output:?}");
        Some(String::from_utf8(output.stdout).unwrap())
    };
    let Some(text) = run(&[&url, &again]) else {
        return;
    };
    let (first, second) = text.split_once("\r\n\r\n2\n").expect("HTTP/2, twice");
    assert!(first.starts_with("GET /a?b HTTP/1.1\r\n"), "{first}");
    assert_is_unoffered(first);
    assert!(
        second.starts_with("GET /again ") && second.ends_with("\r\n\r\n2\n"),
        "{second}"
    );
    assert_eq!(
        lb.metric("lb_http2_connections_total{listener=\"web\"}"),
        1.0
    );
    assert_eq!(lb.metric("lb_http2_streams_total{listener=\"web\"}"), 2.0);

    let body = "x".repeat(5000);
    let text = run(&["-d", &body, &url]).unwrap();
    let (head, rest) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /a?b HTTP/1.1\r\n"), "{head}");
    assert_is_unoffered(head);
    assert_eq!(rest, format!("{body}2\n"));
    // Too long a body to be waited for: it is served as it came.
    let body = "x".repeat(50_000);
    let text = run(&["-d", &body, &url]).unwrap();
    assert!(
        text.ends_with(&format!("\r\n\r\n{body}1.1\n")),
        "{}",
        text.len()
    );
    let head = run(&["-I", &url]).unwrap();
    assert!(head.contains("HTTP/2 200"), "{head}");
}

fn nghttp_upgrades_to_http2(engine: &str) {
    let http = format!("web@127.0.0.1:0={}", mirror());
    let lb = Lb::start(engine, &["--http", &http]);
    let urls = ["/a", "/b", "/c"].map(|path| format!("http://{}{path}", lb.listener("web")));
    let folder = Folder::new();
    let body = folder.write("body", &"x".repeat(100_000));
    // With a body it asks for OPTIONS * first, and sends the body on a stream of its own.
    for more in [&["-u"][..], &["-u", "-d", &body]] {
        let urls = urls.each_ref().map(String::as_str);
        let arguments = [more, &["-v"], &urls].concat();
        let Some(output) = client_of_others("nghttp", &arguments) else {
            return;
        };
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("HTTP Upgrade success"),
            "{text}"
        );
        for path in ["/a", "/b", "/c"] {
            let method = if more.len() > 1 { "POST" } else { "GET" };
            assert!(
                text.contains(&format!("{method} {path} HTTP/1.1")),
                "{path} in {text}"
            );
        }
    }
}

fn an_offer_of_http2_never_reaches_a_backend(engine: &str) {
    let folder = Folder::new();
    let config = format!(
        "listeners:\n\
         - {{name: on, address: '127.0.0.1:0', http: {{cluster: web}}}}\n\
         - {{name: off, address: '127.0.0.1:0', http: {{cluster: web, http2: off}}}}\n\
         clusters: {{web: {{backends: ['{}']}}}}\n",
        mirror()
    );
    let path = folder.write("lb.yaml", &config);
    let lb = Lb::start(engine, &["--config", &path]);
    let offers = [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
        "Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n",
        "HTTP2-Settings: AAMAAABk\r\n",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: H2C\r\nHTTP2-Settings: AAMAAABk!\r\n",
    ];
    for (nth, offer) in offers.iter().enumerate() {
        for listener in ["on", "off"] {
            if nth == 0 && listener == "on" {
                continue; // accepted
            }
            let mut connection = client::Connection::open(lb.listener(listener));
            connection.send(&format!("GET / HTTP/1.1\r\nHost: a\r\n{offer}\r\n"));
            let answer = connection.receive();
            assert_eq!(answer.status, 200, "{offer}");
            assert_is_unoffered(&answer.body);
        }
    }
    // What follows an offer that is accepted is HTTP/2 or nothing.
    let mut stream = TcpStream::connect(lb.listener("on")).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let smuggled = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", offers[0]);
    let sent = format!("{smuggled}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
    stream.write_all(sent.as_bytes()).unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    let got = String::from_utf8_lossy(&got);
    assert!(got.starts_with("HTTP/1.1 101 "), "{got}");
    assert!(!got.contains("smuggled"), "{got}");
    assert_eq!(lb.metric("lb_http2_offences_total{listener=\"on\"}"), 1.0);
}

/// `lb.yaml` with one listener that keeps its port.
fn config(port: u16, backend: SocketAddr, generation: usize) -> String {
    format!(
        "listeners:\n  - {{name: web, address: '127.0.0.1:{port}', http: {{cluster: web{generation}}}}}\n\
         clusters:\n  web{generation}: {{backends: ['{backend}']}}\n"
    )
}

fn load_does_not_notice_a_reload(engine: &str) {
    let (folder, port) = (Folder::new(), free_ports(1)[0]);
    let path = folder.write("lb.yaml", &config(port, mirror(), 1));
    let lb = Lb::start(engine, &["--config", &path]);
    let url = format!("http://127.0.0.1:{port}/");
    let load = Command::new("h2load")
        .args(["-n", "6000", "-c", "4", "-m", "8", &url])
        .stdout(Stdio::piped())
        .spawn();
    let Ok(load) = load else {
        return skip("no h2load");
    };
    let streams = "lb_http2_streams_total{listener=\"web\"}";
    for generation in 2..6 {
        let before = lb.metric(streams);
        wait_until("some load", || {
            lb.metric(streams) > before + 200.0 || lb.metric(streams) == 6000.0
        });
        folder.replace("lb.yaml", &config(port, mirror(), generation));
        lb.wait_for_generation(generation as u64);
    }
    let output = load.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let all = "6000 succeeded, 0 failed, 0 errored, 0 timeout";
    assert!(text.contains(all), "{text}");
}

/// Clients that ask one thing after the other, and connect again when they are told to go.
fn clients_that_go_on(address: SocketAddr, stop: &AtomicBool) -> (u64, u64) {
    let (mut answered, mut told_to_go) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut stream) = TcpStream::connect(address) else {
            thread::yield_now();
            continue;
        };
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        // Preface, SETTINGS, and a window that is never used up.
        let start = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\
            \0\0\x04\x08\0\0\0\0\0\x3f\xff\xff\xff";
        if stream.write_all(start).is_err() {
            continue; // it was never accepted
        }
        let (mut next, mut under_way, mut goes) = (1_u32, 0, false);
        let mut last = u32::MAX;
        while !(goes && under_way == 0) {
            // Four streams at once.
            while under_way < 4 && !goes && !stop.load(Ordering::Relaxed) {
                let block = b"\x82\x86\x84\x41\x04test";
                let head = [&[0, 0, 9, 1, 5], &next.to_be_bytes()[..], block].concat();
                stream.write_all(&head).unwrap();
                (next, under_way) = (next + 2, under_way + 1);
            }
            if under_way == 0 {
                break;
            }
            let mut head = [0; 9];
            match stream.read_exact(&mut head) {
                Ok(()) => {}
                // In the queue of a socket that was closed: nothing was begun.
                Err(_) if next == 9 && under_way == 4 => break,
                Err(error) => panic!("{under_way} requests are lost: {error}"),
            }
            let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
            stream.read_exact(&mut payload).unwrap();
            match head[3] {
                0 if head[4] & 1 != 0 => {
                    (answered, under_way) = (answered + 1, under_way - 1);
                }
                3 => panic!("a reset: {payload:?}"),
                6 if head[4] & 1 == 0 => {
                    let pong = [&[0, 0, 8, 6, 1, 0, 0, 0, 0], &payload[..]].concat();
                    stream.write_all(&pong).unwrap();
                }
                7 => {
                    assert_eq!(payload[4..8], [0; 4], "GOAWAY for no fault of anybody's");
                    let allowed = u32::from_be_bytes(payload[..4].try_into().unwrap());
                    assert!(
                        allowed <= last && (allowed >= next - 2),
                        "a request is refused"
                    );
                    (last, goes) = (allowed, true);
                }
                _ => {}
            }
        }
        told_to_go += u64::from(goes);
    }
    (answered, told_to_go)
}

/// Clients under load are told to go, and lose nothing; they go on with the next process.
fn no_request_is_lost_by_a_drain(engine: &str) {
    let (folder, port) = (Folder::new(), free_ports(1)[0]);
    let path = folder.write("lb.yaml", &config(port, mirror(), 1));
    let first = Lb::start(engine, &["--config", &path]);
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| clients_that_go_on(address, &stop)))
            .collect();
        let streams = "lb_http2_streams_total{listener=\"web\"}";
        wait_until("load", || first.metric(streams) > 200.0);
        first.signal(Signal::TERM);
        first.event("drained");
        assert_eq!(first.wait().0.code(), Some(0));
        let second = Lb::start(engine, &["--config", &path]);
        wait_until("load", || second.metric(streams) > 200.0);
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            let (answered, told_to_go) = client.join().unwrap();
            assert!(answered > 0);
            assert!(told_to_go >= 1);
        }
    });
}
