//! Slow clients, and bodies that are received before a backend is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use lb_core::plan;
use lb_core::rt::EngineKind;

use crate::support::{Backend, Client, Proxy, cluster_plan, http_plan, ok, on_each_engine};

fn proxy(engine: EngineKind, backends: &[&Backend], set: impl FnOnce(&mut plan::Http)) -> Proxy {
    let addresses: Vec<_> = backends.iter().map(|it| it.address).collect();
    let mut http = http_plan();
    set(&mut http);
    Proxy::start(engine, http, &[cluster_plan("main", &addresses)])
}

/// Reads one request whole, and closes without an answer; counts.
fn closing(requests: &Arc<AtomicUsize>) -> Backend {
    let requests = Arc::clone(requests);
    Backend::scripted(move |mut connection: Client, _| {
        if connection.request().is_some() {
            requests.fetch_add(1, Ordering::Relaxed);
        }
    })
}

#[test]
fn a_body_that_was_gathered_can_be_sent_to_another_backend() {
    on_each_engine(|engine| {
        let requests = Arc::<AtomicUsize>::default();
        let backends = [closing(&requests), Backend::echo()];
        let proxy = proxy(engine, &backends.each_ref(), |http| {
            http.exchanges.request_buffer = 100_000;
        });
        let body = "0123456789".repeat(6_000);
        let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        for (fields, body) in [
            (format!("Content-Length: {}", body.len()), &body),
            ("Transfer-Encoding: chunked".to_owned(), &chunks),
        ] {
            for _ in 0..2 {
                let mut client = proxy.connect();
                client.send(format!("PUT / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n").as_bytes());
                for piece in body.as_bytes().chunks(25_000) {
                    thread::sleep(Duration::from_millis(5));
                    client.send(piece);
                }
                let response = client.response();
                assert_eq!(response.status, 200, "{fields}");
                assert!(response.body.ends_with(body.as_bytes()));
            }
        }
        assert_eq!(requests.load(Ordering::Relaxed), 2, "tried, and given up");
    });
}

#[test]
fn a_body_longer_than_the_buffer_is_passed_on() {
    on_each_engine(|engine| {
        let backend = Backend::echo();
        let proxy = proxy(engine, &[&backend], |http| {
            http.exchanges.request_buffer = 20_000
        });
        let body = "0123456789".repeat(10_000);
        let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        let mut client = proxy.connect();
        client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.send(chunks.as_bytes());
        assert!(client.response().body.ends_with(chunks.as_bytes()));
        let length = format!(
            "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        client.send(length.as_bytes());
        client.send(body.as_bytes());
        assert!(client.response().body.ends_with(body.as_bytes()));
    });
}

#[test]
fn who_is_to_be_told_to_continue_is_told_by_the_backend() {
    on_each_engine(|engine| {
        let backend = Backend::scripted(|mut connection, _| {
            connection.head().unwrap();
            connection.send(b"HTTP/1.1 100 Continue\r\n\r\n");
            connection.take(3).unwrap();
            connection.send(&ok(b"got it"));
        });
        let proxy = proxy(engine, &[&backend], |http| {
            http.exchanges.request_buffer = 20_000
        });
        let mut client = proxy.connect();
        client.send(
            b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n",
        );
        assert!(client.head().unwrap().starts_with("HTTP/1.1 100 "));
        client.send(b"abc");
        assert_eq!(client.response().text(), "got it");
    });
}

#[test]
fn a_client_that_never_sends_its_body_is_408_while_it_is_gathered() {
    on_each_engine(|engine| {
        let backend = Backend::echo();
        let proxy = proxy(engine, &[&backend], |http| {
            http.exchanges.request_buffer = 20_000;
            http.timeouts.body_idle = Duration::from_millis(50);
        });
        let mut client = proxy.connect();
        client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n");
        let response = client.response();
        assert_eq!(response.status, 408);
        assert_eq!(backend.connections(), 0, "no backend is bothered");
    });
}
