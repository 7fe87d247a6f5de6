//! Attacks by HTTP/2, byte by byte, on the built program: each ends its own connection with a
//! GOAWAY, is counted, holds no memory, and leaves everybody else alone.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use crate::client::Connection;
use crate::harness::{DEADLINE, Folder, Lb, on_both_engines, wait_until};
use crate::http2_frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, GET, GOAWAY, HEADERS, PING,
    POST, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame, open, receive,
};
use crate::origin::HttpOrigin;

on_both_engines!(
    floods_end_their_own_connection_only,
    who_reads_nothing_holds_little,
    who_reads_by_the_byte_holds_little,
    a_flood_of_a_backend_ends_its_own_connection_only,
);

/// A client that keeps its connection, and to the rules.
struct Bystander {
    stream: TcpStream,
    next: u32,
}

impl Bystander {
    fn ask(&mut self) {
        let request = frame(HEADERS, END_STREAM | END_HEADERS, self.next, GET);
        self.stream.write_all(&request).unwrap();
        loop {
            let (kind, flags, stream, payload) = receive(&mut self.stream).expect("an answer");
            assert_ne!(kind, GOAWAY, "{payload:?}");
            assert_ne!(kind, RST_STREAM, "{payload:?}");
            if kind == DATA && stream == self.next && flags & END_STREAM != 0 {
                assert_eq!(payload, b"a");
                break;
            }
        }
        self.next += 2;
    }
}

type Flood = (&'static str, Box<dyn Fn(u32) -> Vec<u8> + Send + Sync>);

/// What is sent for each number, from 0.
fn floods() -> Vec<Flood> {
    let upload = |nth: u32| frame(HEADERS, END_HEADERS, 2 * nth + 1, POST);
    let broken = move |nth: u32, offence: Vec<u8>| [upload(nth), offence].concat();
    let continued = |nth: u32| match nth {
        0 => frame(HEADERS, END_STREAM, 1, GET),
        _ => frame(CONTINUATION, 0, 1, b"\0\x01a\x01b"),
    };
    let continued_empty = |nth: u32| match nth {
        0 => frame(HEADERS, END_STREAM, 1, GET),
        _ => frame(CONTINUATION, 0, 1, b""),
    };
    let empty = move |nth: u32| match nth {
        0 => upload(0),
        _ => frame(DATA, 0, 1, b""),
    };
    vec![
        (
            "rapid reset",
            Box::new(move |nth| broken(nth, frame(RST_STREAM, 0, 2 * nth + 1, b"\0\0\0\x08"))),
        ),
        (
            "MadeYouReset by a window of nothing",
            Box::new(move |nth| broken(nth, frame(WINDOW_UPDATE, 0, 2 * nth + 1, b"\0\0\0\0"))),
        ),
        (
            "MadeYouReset by a window too large",
            Box::new(move |nth| {
                broken(
                    nth,
                    frame(WINDOW_UPDATE, 0, 2 * nth + 1, b"\x7f\xff\xff\xff"),
                )
            }),
        ),
        (
            "MadeYouReset by DATA behind the end",
            Box::new(move |nth| {
                let request = frame(HEADERS, END_STREAM | END_HEADERS, 2 * nth + 1, POST);
                [request, frame(DATA, 0, 2 * nth + 1, b"x")].concat()
            }),
        ),
        ("CONTINUATION", Box::new(continued)),
        ("empty CONTINUATION", Box::new(continued_empty)),
        (
            "SETTINGS",
            Box::new(|_| frame(SETTINGS, 0, 0, b"\0\x01\0\0\x10\0")),
        ),
        ("PING", Box::new(|_| frame(PING, 0, 0, b"12345678"))),
        (
            "PRIORITY",
            Box::new(|_| frame(PRIORITY, 0, 1, b"\0\0\0\0\x10")),
        ),
        ("empty DATA", Box::new(empty)),
        ("HPACK bomb", Box::new(bomb)),
        ("unknown frames", Box::new(|_| frame(0xBE, 0, 0, b""))),
        (
            "SETTINGS, acknowledged",
            Box::new(|_| frame(SETTINGS, 1, 0, b"")),
        ),
        (
            "PING, acknowledged",
            Box::new(|_| frame(PING, 1, 0, b"12345678")),
        ),
        (
            "windows that nobody waits for",
            Box::new(|_| frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\x01")),
        ),
        ("heads of 60 KB of names", Box::new(many_names)),
    ]
}

/// A field of 4000 bytes goes into the table, and is meant a thousand times by each request.
fn bomb(nth: u32) -> Vec<u8> {
    let mut block = GET.to_vec();
    if nth == 0 {
        block.extend_from_slice(b"\x40\x01a\x7f\xa1\x1e");
        block.extend_from_slice(&[b'x'; 4000]);
    }
    block.extend_from_slice(&[0xBE; 1000]);
    frame(HEADERS, END_STREAM | END_HEADERS, 2 * nth + 1, &block)
}

/// A request with thousands of fields, no two of the same name.
fn many_names(nth: u32) -> Vec<u8> {
    let mut block = GET.to_vec();
    for field in 0..6000 {
        let name = format!("\0\x05x{field:04}\x01a");
        block.extend_from_slice(name.as_bytes());
    }
    let mut out = Vec::new();
    let pieces = block.chunks(16_384).count();
    for (at, piece) in block.chunks(16_384).enumerate() {
        let kind = if at == 0 { HEADERS } else { CONTINUATION };
        let ends_stream = if at == 0 { END_STREAM } else { 0 };
        let ends_head = if at + 1 == pieces { END_HEADERS } else { 0 };
        out.extend(frame(kind, ends_stream | ends_head, 2 * nth + 1, piece));
    }
    out
}

/// The code of the GOAWAY that a flood ends in.
fn ends_in(address: SocketAddr, frames: &(dyn Fn(u32) -> Vec<u8> + Sync)) -> Option<u32> {
    let mut stream = open(address);
    let mut sender = stream.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            for first in (0..30_000).step_by(100) {
                let some: Vec<u8> = (first..first + 100).flat_map(frames).collect();
                if sender.write_all(&some).is_err() {
                    return;
                }
            }
        });
        loop {
            match receive(&mut stream) {
                Some((GOAWAY, _, _, payload)) => {
                    return Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
                }
                Some(_) => {}
                None => return None,
            }
        }
    })
}

fn floods_end_their_own_connection_only(engine: &str) {
    let origin = HttpOrigin::start("a");
    let lb = Lb::start(
        engine,
        &["--http", &format!("web@127.0.0.1:0={}", origin.address)],
    );
    let web = lb.listener("web");
    // As many that each worker has some, probably.
    let mut others: Vec<_> = (0..6)
        .map(|_| Bystander {
            stream: open(web),
            next: 1,
        })
        .collect();
    let mut old = Connection::open(web);
    let floods = floods();
    let mut before = 0;
    for (nth, (what, frames)) in floods.iter().enumerate() {
        let code = ends_in(web, &**frames);
        assert_eq!(code, Some(ENHANCE_YOUR_CALM), "{what}");
        if nth == 0 {
            let line = lb.event("a client's connection of HTTP/2 was ended");
            assert_eq!(line["address"], web.to_string());
            assert_eq!(line["code"], "enhance_your_calm");
            assert!(line["reason"].as_str().unwrap().contains("reset"), "{line}");
        }
        wait_until("the flood to be counted", || {
            lb.metric("lb_http2_floods_total{listener=\"web\"}") == (nth + 1) as f64
        });
        others.iter_mut().for_each(Bystander::ask);
        assert_eq!(old.get("/").body, "a", "{what}");
        match nth {
            0 => before = lb.resident_bytes(), // buffers that are kept are there now
            _ => assert!(lb.resident_bytes() < before + (48 << 20), "{what}"),
        }
    }
    let active = "lb_http2_connections_active{listener=\"web\"}";
    wait_until("the floods to be over", || lb.metric(active) == 6.0);
    assert_eq!(lb.metric("lb_http2_offences_total{listener=\"web\"}"), 0.0);
    let cancelled = "lb_http2_resets_received_total{listener=\"web\",code=\"cancel\"}";
    assert!(lb.metric(cancelled) >= 100.0);
    let flow = "lb_http2_resets_sent_total{listener=\"web\",code=\"flow_control_error\"}";
    assert!(lb.metric(flow) >= 100.0);
}

fn who_reads_nothing_holds_little(engine: &str) {
    let origin = HttpOrigin::start("a");
    let lb = Lb::start(
        engine,
        &["--http", &format!("web@127.0.0.1:0={}", origin.address)],
    );
    let web = lb.listener("web");
    Connection::open(web).get("/");
    let before = lb.resident_bytes();
    // Requests and PINGs as long as they are taken, within the budgets; no answer is read.
    let silent: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = open(web);
            stream.set_nonblocking(true).unwrap();
            for nth in 0..5_000 {
                let request = frame(HEADERS, END_STREAM | END_HEADERS, 2 * nth + 1, GET);
                if stream.write_all(&request).is_err() {
                    break;
                }
            }
            stream
        })
        .collect();
    let mut other = Connection::open(web);
    for _ in 0..100 {
        assert_eq!(other.get("/").body, "a");
    }
    assert!(lb.resident_bytes() < before + (64 << 20));
    drop(silent);
    assert_eq!(other.get("/").body, "a");
}

/// Windows of a byte, opened byte by byte or never (CVE-2019-9511 and CVE-2019-9517).
fn who_reads_by_the_byte_holds_little(engine: &str) {
    let body: &'static str = Box::leak("a".repeat(200_000).into_boxed_str());
    let origin = HttpOrigin::start(body);
    let lb = Lb::start(
        engine,
        &["--http", &format!("web@127.0.0.1:0={}", origin.address)],
    );
    let web = lb.listener("web");
    Connection::open(web).get("/");
    let before = lb.resident_bytes();
    let window_of_one = frame(SETTINGS, 0, 0, b"\0\x04\0\0\0\x01");
    let streams = 100;
    let stalled: Vec<_> = (0..10)
        .map(|_| {
            let mut stream = open(web);
            let mut out = window_of_one.clone();
            for nth in 0..streams {
                out.extend(frame(HEADERS, END_STREAM | END_HEADERS, 2 * nth + 1, GET));
            }
            // One byte more for a few of them, within what is due.
            for nth in 0..streams {
                out.extend(frame(WINDOW_UPDATE, 0, 2 * nth + 1, b"\0\0\0\x01"));
            }
            stream.write_all(&out).unwrap();
            stream
        })
        .collect();
    let active = "lb_http2_connections_active{listener=\"web\"}";
    wait_until("all of them to be served", || lb.metric(active) == 10.0);
    let mut other = Connection::open(web);
    for _ in 0..20 {
        assert_eq!(other.get("/").body.len(), body.len());
    }
    // A thousand bodies are stalled, each with a few buffers at the most.
    let held = lb.resident_bytes().saturating_sub(before);
    assert!(held < 1000 * (96 << 10) + (32 << 20), "{held}");
    drop(stalled);
    wait_until("they are gone", || lb.metric(active) == 0.0);
    assert_eq!(other.get("/").body.len(), body.len());
}

/// What a hostile backend sends for each number, once it was asked.
fn floods_of_backends() -> Vec<Flood> {
    let empty = |nth: u32| match nth {
        0 => frame(HEADERS, END_HEADERS, 1, b"\x88"),
        _ => frame(DATA, 0, 1, b""),
    };
    let continued = |nth: u32| match nth {
        0 => frame(HEADERS, 0, 1, b"\x88"),
        _ => frame(CONTINUATION, 0, 1, b"\0\x01a\x01b"),
    };
    let behind = |nth: u32| match nth {
        0 => frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x88"),
        _ => frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x88"),
    };
    let resets = |nth: u32| match nth {
        0 => frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x88"),
        _ => frame(RST_STREAM, 0, 1, b"\0\0\0\0"),
    };
    vec![
        (
            "SETTINGS",
            Box::new(|_| frame(SETTINGS, 0, 0, b"\0\x01\0\0\x10\0")),
        ),
        ("PING", Box::new(|_| frame(PING, 0, 0, b"12345678"))),
        (
            "PRIORITY",
            Box::new(|_| frame(PRIORITY, 0, 1, b"\0\0\0\0\x10")),
        ),
        (
            "windows that nobody waits for",
            Box::new(|_| frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\x01")),
        ),
        ("unknown frames", Box::new(|_| frame(0xBE, 0, 0, b""))),
        ("empty DATA", Box::new(empty)),
        ("CONTINUATION", Box::new(continued)),
        ("heads behind the end", Box::new(behind)),
        ("resets behind the end", Box::new(resets)),
        (
            "GOAWAY",
            Box::new(|_| frame(GOAWAY, 0, 0, b"\x7f\xff\xff\xff\0\0\0\0")),
        ),
    ]
}

fn a_flood_of_a_backend_ends_its_own_connection_only(engine: &str) {
    let folder = Folder::new();
    let origin = HttpOrigin::start("a");
    for (what, frames) in floods_of_backends() {
        let (told, ends) = channel();
        let hostile = hostile(frames, told);
        let config = format!(
            "listeners:\n\
             - {{name: web, address: '127.0.0.1:0', http: {{cluster: web}}}}\n\
             - {{name: good, address: '127.0.0.1:0', http: {{cluster: good}}}}\n\
             clusters:\n  web: {{protocol: http2, backends: ['{hostile}']}}\n  \
             good: {{backends: ['{}']}}\n",
            origin.address
        );
        let lb = Lb::start(engine, &["--config", &folder.write("lb.yaml", &config)]);
        // Whether the answer came first, and whole, depends.
        let mut client = TcpStream::connect(lb.listener("web")).unwrap();
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            .unwrap();
        let code = ends.recv_timeout(DEADLINE).unwrap();
        assert_eq!(code, Some(ENHANCE_YOUR_CALM), "{what}");
        let floods = format!(
            "lb_backend_http2_floods_total{{cluster=\"web\",backend=\"{hostile}\",address=\"{hostile}\"}}"
        );
        wait_until("the flood to be counted", || lb.metric(&floods) >= 1.0);
        let line = lb.event("a backend's connection of HTTP/2 was ended");
        assert_eq!(line["code"], "enhance_your_calm", "{what}: {line}");
        assert_eq!(Connection::open(lb.listener("good")).get("/").body, "a");
        assert!(lb.resident_bytes() < 256 << 20, "{what}");
        drop(client);
    }
}

/// A backend that floods each connection behind its first request, and says what it is told.
fn hostile(
    frames: Box<dyn Fn(u32) -> Vec<u8> + Send + Sync>,
    told: Sender<Option<u32>>,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let frames = Arc::new(frames);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (frames, told) = (Arc::clone(&frames), told.clone());
            thread::spawn(move || {
                let mut stream = stream.unwrap();
                stream.set_read_timeout(Some(DEADLINE)).unwrap();
                stream.read_exact(&mut [0; 24]).unwrap();
                stream.write_all(&frame(SETTINGS, 0, 0, b"")).unwrap();
                while receive(&mut stream)?.0 != HEADERS {}
                let mut sender = stream.try_clone().unwrap();
                thread::spawn(move || {
                    for first in (0..30_000).step_by(100) {
                        let some: Vec<u8> =
                            (first..first + 100).flat_map(|it| frames(it)).collect();
                        if sender.write_all(&some).is_err() {
                            return;
                        }
                    }
                });
                loop {
                    match receive(&mut stream) {
                        Some((GOAWAY, _, _, payload)) => {
                            let code = u32::from_be_bytes(payload[4..8].try_into().unwrap());
                            let _ = told.send(Some(code));
                            return Some(());
                        }
                        Some(_) => {}
                        None => {
                            let _ = told.send(None);
                            return None;
                        }
                    }
                }
            });
        }
    });
    address
}
