//! Backends that do not keep to HTTP/2, frame by frame: what they are told, and what becomes of the
//! client's request.
//!
//! Read next: `conformance.rs` (the same of clients).

use std::io::{Read, Write};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;

use lb_core::rt::EngineKind;

use crate::conformance::literal;
use crate::peers::proxy_to_http2;
use crate::support::{Backend, on_each_engine};
use crate::wire::{
    COMPRESSION, FLOW_CONTROL, Frame, PROTOCOL, SETTINGS, SIZE, Told, bytes, connect, told,
};

const OK: &[u8] = b"\x88";

/// A backend that says SETTINGS, or `first`, answers the first request with `frames`, and then tells
/// what it is told.
fn backend(first: Option<Vec<u8>>, frames: Vec<u8>) -> (Backend, Receiver<Told>) {
    let (send, receive) = mpsc::channel();
    let send = Arc::new(Mutex::new(send));
    let backend = Backend::scripted(move |connection, _| {
        let mut stream = connection.stream;
        let first = first.clone().unwrap_or_else(|| bytes(SETTINGS));
        let _ = stream.write_all(&first);
        if stream.read_exact(&mut [0; 24]).is_err() {
            return;
        }
        let mut head = [0; 9];
        let mut pending = None;
        while stream.read_exact(&mut head).is_ok() {
            let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; len];
            stream.read_exact(&mut payload).unwrap();
            if head[3] == 7 {
                let code = u32::from_be_bytes(payload[4..8].try_into().unwrap());
                pending = Some(Told::GoAway(code));
                break;
            }
            if head[3] == 1 {
                let _ = stream.write_all(&frames);
                break;
            }
        }
        let told = pending.unwrap_or_else(|| told(&mut stream));
        let _ = send.lock().unwrap().send(told);
    });
    (backend, receive)
}

/// What a client of HTTP/1.1 gets; `None` for a response that is not whole.
fn asked(engine: EngineKind, first: Option<Vec<u8>>, frames: &[Frame<'_>]) -> (Option<u16>, Told) {
    let frames = frames.iter().flat_map(|it| bytes(*it)).collect();
    let (backend, receive) = backend(first, frames);
    let proxy = proxy_to_http2(engine, &[backend.address]);
    let mut client = connect(&proxy);
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    client.write_all(request).unwrap();
    let mut got = Vec::new();
    let is_ended = client.read_to_end(&mut got).is_ok();
    let text = String::from_utf8_lossy(&got).to_ascii_lowercase();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
    let declared = head.split("content-length: ").nth(1);
    let declared: Option<usize> = declared.map(|it| it.lines().next().unwrap().parse().unwrap());
    let is_whole = is_ended && declared.is_none_or(|it| it == body.len());
    let status = text.lines().rfind(|it| it.starts_with("http/1.1 "));
    let status = status.map(|it| it[9..12].parse().unwrap());
    let told = thread::spawn(move || receive.recv().unwrap_or(Told::End));
    drop(client);
    drop(proxy);
    (status.filter(|_| is_whole), told.join().unwrap())
}

fn check(frames: &[Frame<'_>], status: Option<u16>, expected: &Told, what: &str) {
    on_each_engine(|engine| {
        let (got, told) = asked(engine, None, frames);
        assert_eq!(told, *expected, "{what}");
        // A head that was fine may have been passed on before the rest came.
        let is_cut = got.is_none() && status == Some(502);
        assert!(got == status || is_cut, "{what}: {got:?}");
    });
}

fn is_fine(frames: &[Frame<'_>], what: &str) {
    check(frames, Some(200), &Told::End, what);
}

#[test]
fn what_is_allowed_is_understood() {
    let hints = literal(&[(":status", "103"), ("link", "</a>")]);
    is_fine(&[(1, 5, 1, OK)], "a response");
    is_fine(&[(1, 4, 1, &hints), (1, 5, 1, OK)], "hints before it");
    is_fine(&[(1, 4, 1, OK), (0, 0, 1, b"ab"), (0, 1, 1, b"")], "a body");
    is_fine(&[(1, 4, 1, OK), (0, 9, 1, b"\x02abcc")], "a padded one");
    is_fine(&[(1, 1, 1, b""), (9, 4, 1, OK)], "a head in two frames");
    is_fine(
        &[
            (0xBE, 0, 0, b"x"),
            (2, 0, 1, b"\0\0\0\0\x01"),
            (1, 5, 1, OK),
        ],
        "others between",
    );
    is_fine(&[(4, 0, 0, b"\0\x04\0\0\0\0"), (1, 5, 1, OK)], "SETTINGS");
    is_fine(
        &[(1, 5, 1, OK), (3, 0, 1, b"\0\0\0\0")],
        "RST_STREAM behind the end",
    );
    is_fine(
        &[(1, 5, 1, OK), (8, 0, 1, b"\0\0\0\x01")],
        "WINDOW_UPDATE behind the end",
    );
    is_fine(
        &[(7, 0, 0, b"\0\0\0\x01\0\0\0\0"), (1, 5, 1, OK)],
        "GOAWAY, the request included",
    );
    is_fine(
        &[(1, 4, 1, OK), (1, 5, 1, &literal(&[("x-sum", "1")]))],
        "trailers",
    );
}

#[test]
fn malformed_responses_are_reset() {
    let status = |status: &'static str| literal(&[(":status", status)]);
    let with =
        |name: &'static str, value: &'static str| literal(&[(":status", "200"), (name, value)]);
    for head in [
        literal(&[("a", "b")]),
        status(""),
        status("20"),
        status("2000"),
        status("abc"),
        status("020"),
        status("101"),
        status("200 OK"),
        with(":status", "200"),
        with(":path", "/"),
        with(":unknown", "x"),
        literal(&[("a", "b"), (":status", "200")]),
        with("A", "b"),
        with("a b", "c"),
        with("a", "b\r\nc: d"),
        with("a", "b\0"),
        with("a", " b"),
        with("connection", "close"),
        with("keep-alive", "x"),
        with("transfer-encoding", "chunked"),
        with("upgrade", "x"),
        with("proxy-connection", "x"),
        with("content-length", "5"),
        with("content-length", "a"),
        literal(&[
            (":status", "200"),
            ("content-length", "0"),
            ("content-length", "0"),
        ]),
        literal(&[(":status", "103")]), // which ends the stream
    ] {
        let what = String::from_utf8_lossy(&head);
        check(
            &[(1, 5, 1, &head)],
            Some(502),
            &Told::Reset(PROTOCOL),
            &what,
        );
    }
    let three = with("content-length", "3");
    let three: Frame<'_> = (1, 4, 1, &three);
    let pseudo = literal(&[(":status", "200")]);
    let field = literal(&[("a", "b")]);
    for (what, frames) in [
        ("DATA before a head", &[(0, 1, 1, &b"x"[..])][..]),
        ("too little", &[three, (0, 1, 1, b"ab")]),
        ("too much", &[three, (0, 1, 1, b"abcd")]),
        (
            "pseudo-fields in trailers",
            &[(1, 4, 1, OK), (1, 5, 1, &pseudo)],
        ),
        (
            "trailers that do not end",
            &[(1, 4, 1, OK), (1, 4, 1, &field)],
        ),
        ("a window of nothing", &[(8, 0, 1, b"\0\0\0\0")]),
    ] {
        check(frames, Some(502), &Told::Reset(PROTOCOL), what);
    }
    let most = &[(8, 0, 1, &b"\x7f\xff\xff\xff"[..])];
    check(
        most,
        Some(502),
        &Told::Reset(FLOW_CONTROL),
        "a window too large",
    );
}

#[test]
fn offences_end_the_connection() {
    for (what, frames, code) in OFFENCES {
        check(frames, Some(502), &Told::GoAway(*code), what);
    }
}

const TOO_LONG: &[u8] = &[0; 16_385];

const OFFENCES: &[(&str, &[Frame<'_>], u32)] = &[
    ("DATA on stream 0", &[(0, 1, 0, b"x")], PROTOCOL),
    ("HEADERS on stream 0", &[(1, 5, 0, OK)], PROTOCOL),
    ("HEADERS on a stream of its own", &[(1, 5, 2, OK)], PROTOCOL),
    ("HEADERS on an idle stream", &[(1, 5, 3, OK)], PROTOCOL),
    ("DATA on an idle stream", &[(0, 1, 3, b"x")], PROTOCOL),
    (
        "RST_STREAM on an idle one",
        &[(3, 0, 3, b"\0\0\0\0")],
        PROTOCOL,
    ),
    (
        "WINDOW_UPDATE on an idle one",
        &[(8, 0, 3, b"\0\0\0\x01")],
        PROTOCOL,
    ),
    (
        "RST_STREAM on stream 0",
        &[(3, 0, 0, b"\0\0\0\0")],
        PROTOCOL,
    ),
    ("a push", &[(5, 4, 1, b"\0\0\0\x02\x88")], PROTOCOL),
    ("SETTINGS on a stream", &[(4, 0, 1, b"")], PROTOCOL),
    (
        "SETTINGS that allow pushes",
        &[(4, 0, 0, b"\0\x02\0\0\0\x01")],
        PROTOCOL,
    ),
    (
        "SETTINGS, frames too short",
        &[(4, 0, 0, b"\0\x05\0\0\0\x01")],
        PROTOCOL,
    ),
    ("SETTINGS, broken", &[(4, 0, 0, b"\0\x05\0")], SIZE),
    (
        "SETTINGS, a window too large",
        &[(4, 0, 0, b"\0\x04\x80\0\0\0")],
        FLOW_CONTROL,
    ),
    ("PING on a stream", &[(6, 0, 1, b"12345678")], PROTOCOL),
    ("a short PING", &[(6, 0, 0, b"1234")], SIZE),
    ("a short GOAWAY", &[(7, 0, 0, b"1234")], SIZE),
    ("GOAWAY on a stream", &[(7, 0, 1, b"12345678")], PROTOCOL),
    ("a short RST_STREAM", &[(3, 0, 1, b"\0")], SIZE),
    ("a short WINDOW_UPDATE", &[(8, 0, 0, b"\0")], SIZE),
    ("a window of nothing", &[(8, 0, 0, b"\0\0\0\0")], PROTOCOL),
    (
        "a window too large",
        &[(8, 0, 0, b"\x7f\xff\xff\xff")],
        FLOW_CONTROL,
    ),
    ("a frame too long", &[(1, 5, 1, TOO_LONG)], SIZE),
    (
        "a head interrupted",
        &[(1, 1, 1, OK), (6, 0, 0, b"12345678")],
        PROTOCOL,
    ),
    ("CONTINUATION of nothing", &[(9, 4, 1, b"")], PROTOCOL),
    ("too much padding", &[(1, 0xD, 1, b"\x05\x88")], PROTOCOL),
    ("an index nowhere", &[(1, 5, 1, b"\xff\x7f")], COMPRESSION),
    ("a broken block", &[(1, 5, 1, b"\x88\x40")], COMPRESSION),
    (
        "DATA that is padded too much",
        &[(1, 4, 1, OK), (0, 8, 1, b"\x05ab")],
        PROTOCOL,
    ),
];

#[test]
fn more_than_the_window_ends_it() {
    let data = vec![0; 16_384];
    // The client reads nothing: it never gets its windows back.
    let frames: Vec<Frame<'_>> = std::iter::once((1, 4, 1, OK))
        .chain((0..4096).map(|_| (0, 0, 1, &data[..])))
        .collect();
    on_each_engine(|engine| {
        let (backend, receive) = backend(None, frames.iter().flat_map(|it| bytes(*it)).collect());
        let proxy = proxy_to_http2(engine, &[backend.address]);
        let mut client = connect(&proxy);
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        let told = receive.recv().unwrap();
        let is_flow = matches!(told, Told::GoAway(FLOW_CONTROL) | Told::Reset(FLOW_CONTROL));
        assert!(is_flow, "{told:?}");
    });
}

#[test]
fn a_connection_begins_with_settings() {
    on_each_engine(|engine| {
        for (first, code) in [
            (bytes((6, 0, 0, b"12345678")), PROTOCOL),
            (bytes((4, 1, 0, b"")), PROTOCOL),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), SIZE),
        ] {
            let (status, told) = asked(engine, Some(first), &[]);
            assert_eq!((status, told), (Some(503), Told::GoAway(code)));
        }
    });
}

/// A stream that is over takes nothing more, and its connection goes on.
#[test]
fn what_follows_the_end_costs_no_other_stream() {
    is_fine(&[(1, 5, 1, OK), (0, 1, 1, b"x")], "DATA");
    is_fine(&[(1, 5, 1, OK), (1, 5, 1, OK)], "HEADERS");
}
