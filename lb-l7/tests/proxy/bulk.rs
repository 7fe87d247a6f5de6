//! Long bodies: whole, in order, with nothing behind them, however they are moved.

use std::io::Read;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use lb_core::plan::Outlier;

use crate::support::{
    Backend, PATIENCE, Proxy, cluster_plan, http_plan, ok, on_each_engine, reset,
};

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 251 + at) as u8).collect()
}

#[test]
fn long_bodies_arrive_whole_and_the_connections_stay() {
    on_each_engine(|engine| {
        let backend = Backend::responding(|request| {
            let path = request.head.split(' ').nth(1).unwrap();
            ok(&pattern(path[1..].parse().unwrap()))
        });
        let proxy = Proxy::to(engine, &[backend.address]);
        let mut client = proxy.connect();
        for len in [65_536, 70_000, 131_072, 1 << 20, (1 << 20) + 1, 9_000_001] {
            let response = client.get(&format!("/{len}"));
            assert!(response.body == pattern(len), "{len} bytes");
            assert_eq!(client.get("/3").body, pattern(3));
        }
        assert_eq!(backend.connections(), 1);
        assert!(proxy.stats.shard(0).sent_bytes.get() > 10_000_000);
    });
}

#[test]
fn a_slow_reader_gets_all_of_it() {
    on_each_engine(|engine| {
        let body = Arc::new(pattern(12 << 20));
        let whole = ok(&body);
        let backend = Backend::responding(move |_| whole.clone());
        let proxy = Proxy::to(engine, &[backend.address]);
        let mut client = proxy.connect();
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        client.head().unwrap();
        let mut received = client.take(1).unwrap();
        received.extend(client.take(100_000).unwrap());
        for _ in 0..10 {
            thread::sleep(Duration::from_millis(20));
            received.extend(client.take(50_000).unwrap());
        }
        received.extend(client.rest().unwrap());
        assert!(received == *body);
    });
}

#[test]
fn a_body_that_breaks_off_resets_the_client_and_counts_against_the_backend() {
    on_each_engine(|engine| {
        let backends = [0, 1].map(|_| {
            Backend::scripted(|mut connection, _| {
                connection.request();
                connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n");
                connection.send(&[b'x'; 2_000_000]);
            })
        });
        let mut cluster = cluster_plan("main", &backends.each_ref().map(|it| it.address));
        cluster.outlier = Some(Outlier {
            failures: Some(2),
            ..Outlier::default()
        });
        let proxy = Proxy::start(engine, http_plan(), &[cluster]);
        for _ in 0..4 {
            let mut client = proxy.connect();
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            client.head().unwrap();
            let mut all = Vec::new();
            assert!(client.stream.read_to_end(&mut all).is_err(), "reset");
        }
        assert!(proxy.clusters[0].ejected() > 0);
    });
}

fn post(path: &str, len: usize) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n")
}

#[test]
fn long_uploads_arrive_whole_and_the_connections_stay() {
    on_each_engine(|engine| {
        let backend = Backend::responding(|request| {
            let is_whole = request.body == pattern(request.body.len());
            ok(format!("{} {is_whole}", request.body.len()).as_bytes())
        });
        let proxy = Proxy::to(engine, &[backend.address]);
        let mut client = proxy.connect();
        for len in [65_536, 70_000, 131_072, 1 << 20, (1 << 20) + 1, 9_000_001] {
            client.send(post("/", len).as_bytes());
            client.send(&pattern(len));
            assert_eq!(client.response().text(), format!("{len} true"));
            assert_eq!(client.get("/3").text(), "0 true");
        }
        assert_eq!(backend.connections(), 1);
        assert!(proxy.stats.shard(0).received_bytes.get() > 10_000_000);
    });
}

#[test]
fn what_is_behind_a_long_upload_is_the_next_request() {
    on_each_engine(|engine| {
        let backend = Backend::responding(|request| {
            let path = request.head.split(' ').nth(1).unwrap();
            ok(format!("{path} {}", request.body.len()).as_bytes())
        });
        let proxy = Proxy::to(engine, &[backend.address]);
        let mut client = proxy.connect();
        let mut sender = client.stream.try_clone().unwrap();
        let sending = thread::spawn(move || {
            for round in 0..4 {
                let len = 3_000_000 + round;
                let head = post(&format!("/{round}"), len);
                let body = vec![b'x'; len];
                let next = format!("GET /next{round} HTTP/1.1\r\nHost: a\r\n\r\n");
                let all = [head.as_bytes(), &body, next.as_bytes()];
                std::io::Write::write_all(&mut sender, &all.concat()).unwrap();
            }
        });
        for round in 0..4 {
            let expected = format!("/{round} {}", 3_000_000 + round);
            assert_eq!(client.response().text(), expected);
            assert_eq!(client.response().text(), format!("/next{round} 0"));
        }
        sending.join().unwrap();
    });
}

#[test]
fn an_upload_is_no_faster_than_the_backend_and_no_slower_than_the_client() {
    on_each_engine(|engine| {
        let backend = Backend::scripted(|mut connection, _| {
            connection.head().unwrap();
            let mut body = connection.take(1).unwrap();
            for _ in 0..10 {
                thread::sleep(Duration::from_millis(20));
                body.extend(connection.take(50_000).unwrap());
            }
            body.extend(connection.take((6 << 20) - body.len()).unwrap());
            connection.send(&ok(if body == pattern(6 << 20) {
                b"whole"
            } else {
                b"not"
            }));
        });
        let proxy = Proxy::to(engine, &[backend.address]);
        let mut client = proxy.connect();
        client.send(post("/", 6 << 20).as_bytes());
        let body = pattern(6 << 20);
        let (first, rest) = body.split_at(1 << 20);
        client.send(first);
        let (pieces, rest) = rest.split_at(10_000);
        for piece in pieces.chunks(1000) {
            client.send(piece);
            thread::sleep(Duration::from_millis(5));
        }
        client.send(rest);
        assert_eq!(client.response().text(), "whole");
    });
}

#[test]
fn a_client_that_leaves_amid_a_long_upload_takes_the_backend_along() {
    on_each_engine(|engine| {
        for resets in [false, true] {
            let (ended, has_ended) = std::sync::mpsc::channel();
            let backend = Backend::scripted(move |mut connection, _| {
                connection.head().unwrap();
                let rest = connection.rest().map(|it| it.len());
                ended.send(rest).unwrap();
            });
            let proxy = Proxy::to(engine, &[backend.address]);
            let mut client = proxy.connect();
            client.send(post("/", 8 << 20).as_bytes());
            client.send(&vec![b'x'; 5 << 20]);
            if resets {
                reset(client);
            } else {
                drop(client);
            }
            let rest = has_ended.recv_timeout(PATIENCE).expect("an end");
            assert!(rest.is_err() || rest.unwrap() <= 5 << 20);
        }
    });
}

#[test]
fn an_answer_amid_a_long_upload_reaches_the_client() {
    on_each_engine(|engine| {
        let backend = Backend::scripted(|mut connection, _| {
            connection.head().unwrap();
            connection.take(2_000_000).unwrap();
            connection.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\n\r\nlong");
            let _ = connection.stream.shutdown(std::net::Shutdown::Write);
            let _ = connection.rest();
        });
        let proxy = Proxy::to(engine, &[backend.address]);
        let mut client = proxy.connect();
        client.send(post("/", 64 << 20).as_bytes());
        client.send(&vec![b'x'; 3 << 20]);
        let response = client.response();
        assert_eq!((response.status, response.text()), (413, "long"));
        assert_eq!(response.field("connection"), Some("close"));
    });
}
