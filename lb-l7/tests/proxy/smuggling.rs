//! More ways to be read in two ways, by clients and by backends; and the property that what reaches
//! a backend is what we understood.
//!
//! Rows are pieces of a message, so that each shows only what is wrong with it.

use std::io::Write;
use std::sync::{Arc, Mutex};

use crate::requests::{FIELDS, RESPONSES};
use crate::support::{Backend, Proxy, cluster_plan, http_plan, ok, on_each_engine};

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
