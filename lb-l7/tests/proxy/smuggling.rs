//! More ways to be read in two ways, by clients and by backends; and the property that what reaches
//! a backend is what we understood.
//!
//! Rows are pieces of a message, so that each shows only what is wrong with it.

use std::io::Write;
use std::sync::{Arc, Mutex};

use crate::support::{Backend, Proxy, cluster_plan, http_plan, ok, on_each_engine};

/// What follows `POST / HTTP/1.1\r\nHost: a\r\n`, head and body.
const FIELDS: &[(u16, &str)] = &[
    // Transfer-Encoding by other names, in other writings, more than once.
    (
        400,
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
    ),
    (
        501,
        "Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\nTransfer-encoding: cow\r\n\r\n0\r\n\r\n",
    ),
    (400, "Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n"),
    (400, "Transfer-Encoding\u{b}: chunked\r\n\r\n0\r\n\r\n"),
    (400, "Transfer-Encoding\0: chunked\r\n\r\n0\r\n\r\n"),
    (400, " Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (400, "X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (400, "X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (400, "X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (
        400,
        "Transfer-Encoding: chunked\r\rContent-Length: 5\r\n\r\n0\r\n\r\n",
    ),
    (400, "Transfer-Encoding: \0chunked\r\n\r\n0\r\n\r\n"),
    (400, "Transfer-Encoding: chunked\0\r\n\r\n0\r\n\r\n"),
    (400, "Transfer-Encoding: \u{c}chunked\r\n\r\n0\r\n\r\n"),
    (400, "Transfer-Encoding: \u{7f}chunked\r\n\r\n0\r\n\r\n"),
    (400, "Transfer-Encoding: chunked x\r\n\r\n0\r\n\r\n"),
    (501, "Transfer-Encoding: 'chunked'\r\n\r\n0\r\n\r\n"),
    (400, "Transfer-Encoding: chunked;\r\n\r\n0\r\n\r\n"),
    (400, "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    (400, "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
    (501, "Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n"),
    (501, "Transfer-Encoding: chunk\r\n\r\n0\r\n\r\n"),
    (501, "Transfer-Encoding: deflate\r\n\r\n0\r\n\r\n"),
    (
        400,
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "Content-Length: 4\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "content-length: 4\r\nTRANSFER-ENCODING: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        501,
        "Content-Length: 4\r\nTransfer-Encoding: gzip\r\n\r\nabcd",
    ),
    (400, "Content-Length: 4\r\nTransfer-Encoding:\r\n\r\nabcd"),
    // Content-Length.
    (400, "Content-Length : 4\r\n\r\nabcd"),
    (400, "Content-Length\t: 4\r\n\r\nabcd"),
    (400, "\tContent-Length: 4\r\n\r\nabcd"),
    (400, "Content-Length: \u{b}4\r\n\r\nabcd"),
    (400, "Content-Length: 4\0\r\n\r\nabcd"),
    (400, "Content-Length: 4\r\n 2\r\n\r\nabcd"),
    (400, "Content-Length: 4,\r\n\r\nabcd"),
    (400, "Content-Length: ,4\r\n\r\nabcd"),
    (400, "Content-Length: 4,4\r\n\r\nabcd"),
    (400, "Content-Length: 4, 5\r\n\r\nabcd"),
    (400, "Content-Length: 4e0\r\n\r\nabcd"),
    (400, "Content-Length: 4_0\r\n\r\nabcd"),
    (400, "Content-Length: 4l\r\n\r\nabcd"),
    (400, "Content-Length: 0b100\r\n\r\nabcd"),
    (400, "Content-Length: 0o4\r\n\r\nabcd"),
    (400, "Content-Length: \u{664}\r\n\r\nabcd"),
    (400, "Content-Length: four\r\n\r\nabcd"),
    (400, "Content-Length: 4 \u{b}\r\n\r\nabcd"),
    (400, "Content-Length: -0\r\n\r\n"),
    (400, "Content-Length: +0\r\n\r\n"),
    (400, "Content-Length: 18446744073709551616\r\n\r\n"),
    (
        400,
        "Content-Length: 340282366920938463463374607431768211456\r\n\r\n",
    ),
    (400, "Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcd"),
    (400, "Content-Length: 4\r\nContent-Length: \r\n\r\nabcd"),
    (
        400,
        "Content-Length: 4\r\nX: y\r\nContent-Length: 4\r\n\r\nabcd",
    ),
    (400, "Content-Length: 0\r\nContent-Length: 4\r\n\r\nabcd"),
    // Chunks.
    (400, "Transfer-Encoding: chunked\r\n\r\n\r\n0\r\n\r\n"),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n 4\r\nabcd\r\n0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n\t4\r\nabcd\r\n0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n4 ;x\r\nabcd\r\n0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n0x4\r\nabcd\r\n0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n+4\r\nabcd\r\n0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n4_\r\nabcd\r\n0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n4h\r\nabcd\r\n0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n4,\r\nabcd\r\n0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n;x\r\nabcd\r\n0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n4\r\r\nabcd\r\n0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n4\rabcd\r\n0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n4\0\r\nabcd\r\n0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n4;x\0y\r\nabcd\r\n0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n4;x\ry\r\nabcd\r\n0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n4;x\ny\r\nabcd\r\n0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\n0\r\n\r\n",
    ),
    (400, "Transfer-Encoding: chunked\r\n\r\n4\r\nabcd0\r\n\r\n"),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n4\r\nabcde\r\n0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n4\r\nabc\r\n0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n4\r\nabcdXX0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\rX0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n00000000000000004\r\nabcd\r\n0\r\n\r\n",
    ),
    (400, "Transfer-Encoding: chunked\r\n\r\n0\n\r\n"),
    (400, "Transfer-Encoding: chunked\r\n\r\n0\r\n\n"),
    (400, "Transfer-Encoding: chunked\r\n\r\n0\r\nX : y\r\n\r\n"),
    (400, "Transfer-Encoding: chunked\r\n\r\n0\r\nX\r\n\r\n"),
    (400, "Transfer-Encoding: chunked\r\n\r\n0\r\n: y\r\n\r\n"),
    (400, "Transfer-Encoding: chunked\r\n\r\n0\r\nX: \0\r\n\r\n"),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n z\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\rGET / HTTP/1.1\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n0\r\nGET / HTTP/1.1\r\n\r\n",
    ),
    // Fields.
    (400, "Host: b\r\n\r\n"),
    (400, "X-\u{0}: y\r\n\r\n"),
    (400, "X[0]: y\r\n\r\n"),
    (400, "X/Y: y\r\n\r\n"),
    (400, "X\"Y: y\r\n\r\n"),
    (400, "X@Y: y\r\n\r\n"),
    (400, "X\\Y: y\r\n\r\n"),
    (400, "X: \u{8}\r\n\r\n"),
    (400, "X: \u{1b}[0m\r\n\r\n"),
    (400, "X: y\r\n\u{b}Z: a\r\n\r\n"),
    (400, "X: y\r\nGET /admin HTTP/1.1\r\n\r\n"),
];

/// What a backend answers, head and body.
const RESPONSES: &[&str] = &[
    "\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 0\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
    "HTTP/1.1 200 OK\r\n Content-Length: 0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n folded\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: a\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\nx",
    "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
    "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
    "HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
    "HTTP/1.1 200 OK\r\nX\r\n\r\n",
    "HTTP/1.1 200 OK\r\nX y: z\r\n\r\n",
    "HTTP/1.1 200 OK\r\n: z\r\n\r\n",
    "HTTP/1.1 20 OK\r\n\r\n",
    "HTTP/1.1 2000 OK\r\n\r\n",
    "HTTP/1.1 099 OK\r\n\r\n",
    "HTTP/1.1 abc OK\r\n\r\n",
    "HTTP/1.1  200 OK\r\n\r\n",
    "HTTP/1.1\t200 OK\r\n\r\n",
    "HTTP/2.0 200 OK\r\n\r\n",
    "HTTP/1.2 200 OK\r\n\r\n",
    "HTTP/0.9 200 OK\r\n\r\n",
    "http/1.1 200 OK\r\n\r\n",
    "ICY 200 OK\r\n\r\n",
    "<html>hello</html>\r\n\r\n",
    "SSH-2.0-OpenSSH_9.9\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\n",
];

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    on_each_engine(|engine| {
        let backend = Backend::named("reached");
        let proxy = Proxy::to(engine, &[backend.address]);
        let mut wrong = Vec::new();
        for (status, fields) in FIELDS {
            let mut client = proxy.connect();
            client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}").as_bytes());
            let response = client.response();
            if response.status != *status {
                wrong.push((*fields, response.status));
            }
            assert_eq!(response.field("connection"), Some("close"), "{fields:?}");
            assert!(client.is_closed(), "{fields:?}");
        }
        assert_eq!(wrong, [], "answered with another status");
        assert_eq!(backend.connections(), 0, "nothing of it reaches a backend");
        assert!(FIELDS.len() >= 90);
    });
}

/// The end of a head in one segment and its start in another: no way around a rule.
#[test]
fn what_is_refused_is_refused_byte_by_byte() {
    on_each_engine(|engine| {
        let backend = Backend::scripted(|mut connection, _| drop(connection.rest()));
        let proxy = Proxy::to(engine, &[backend.address]);
        for (status, fields) in FIELDS.iter().step_by(7) {
            let mut client = proxy.connect();
            for byte in format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}").bytes() {
                if client.stream.write_all(&[byte]).is_err() {
                    break; // it has read enough
                }
            }
            let response = client.response();
            assert_eq!(response.status, *status, "{fields:?}: {}", response.text());
        }
    });
}

#[test]
fn what_a_backend_must_not_answer_is_502() {
    on_each_engine(|engine| {
        for answer in RESPONSES {
            let backend = Backend::responding(|_| answer.as_bytes().to_vec());
            let proxy = Proxy::to(engine, &[backend.address]);
            let mut client = proxy.connect();
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            let response = client.response();
            assert_eq!(response.status, 502, "{answer:?}");
            let idle = &proxy.clusters[0].backends()[0].counters(0).connections_idle;
            assert_eq!(idle.get(), 0, "{answer:?}");
        }
        assert!(RESPONSES.len() >= 35);
    });
}

/// Requests in a row, some of them strange, as one stream: the backend, which takes them apart by
/// its own simple rules, must see as many, in order, each with the body that it was sent with.
#[test]
fn what_reaches_a_backend_is_what_was_understood() {
    on_each_engine(|engine| {
        let seen = Arc::<Mutex<Vec<(String, Vec<u8>)>>>::default();
        let backend = {
            let seen = Arc::clone(&seen);
            Backend::responding(move |request| {
                let target = request.head.split(' ').nth(1).unwrap().to_owned();
                assert_eq!(request.head.matches("\r\nHost: ").count(), 1);
                seen.lock().unwrap().push((target, request.body.clone()));
                ok(b"x")
            })
        };
        let proxy = Proxy::start(
            engine,
            http_plan(),
            &[cluster_plan("main", &[backend.address])],
        );
        let smuggled = "GET /admin HTTP/1.1\r\nHost: evil\r\n\r\n";
        let pieces: Vec<(&str, String)> = vec![
            ("", String::new()),
            ("Content-Length: 0\r\n", String::new()),
            ("Content-Length: 00004\r\n", "abcd".into()),
            ("X: y\r\n", String::new()),
            ("Content-Length: 35\r\n", smuggled.into()),
            ("Transfer-Encoding: chunked\r\n", "0\r\n\r\n".into()),
            (
                "Transfer-Encoding: Chunked\r\n",
                format!("23\r\n{smuggled}\r\n0\r\n\r\n"),
            ),
            (
                "transfer-encoding:chunked\r\n",
                "1\r\na\r\n0\r\n\r\n".into(),
            ),
            (
                "Connection: X-Trick, keep-alive\r\nX-Trick: z\r\n",
                String::new(),
            ),
            (
                "Connection: Content-Length\r\nContent-Length: 2\r\n",
                "ab".into(),
            ),
            (
                "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n",
                "0\r\n\r\n".into(),
            ),
        ];
        assert_eq!(smuggled.len(), 35);
        let (mut sent, mut stream) = (Vec::new(), String::new());
        for round in 0..40 {
            let (fields, body) = &pieces[(round * 7 + round / 11) % pieces.len()];
            stream += &format!("POST /{round} HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}");
            sent.push((format!("/{round}"), body.clone().into_bytes()));
        }
        for piece_len in [1 << 20, 97] {
            seen.lock().unwrap().clear();
            let mut client = proxy.connect();
            for piece in stream.as_bytes().chunks(piece_len) {
                client.send(piece);
            }
            for _ in 0..sent.len() {
                assert_eq!(client.response().status, 200);
            }
            assert!(*seen.lock().unwrap() == sent);
        }
    });
}
