//! Long bodies: whole, in order, with nothing behind them, however they are moved.

use std::io::Read;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use lb_core::plan::Outlier;

use crate::support::{Backend, Proxy, cluster_plan, http_plan, ok, on_each_engine};

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
