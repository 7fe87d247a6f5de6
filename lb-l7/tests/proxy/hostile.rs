//! What no client may send, and what it is answered.
//!
//! Each row stands for a way to make two readers of one message disagree (request smuggling,
//! RFC 9112 section 11.2), or to make one of them work for nothing.

use std::time::Duration;

use crate::requests::{ACCEPTED, REFUSED};
use crate::support::{Backend, Proxy, cluster_plan, http_plan, ok, on_each_engine};

#[test]
fn what_is_ambiguous_is_refused_and_the_connection_closed() {
    on_each_engine(|engine| {
        let backend = Backend::named("reached");
        let proxy = Proxy::to(engine, &[backend.address]);
        for (status, request) in REFUSED {
            let mut client = proxy.connect();
            client.send(request.as_bytes());
            let response = client.response();
            assert_eq!(response.status, *status, "{request:?}: {}", response.text());
            assert_eq!(response.field("connection"), Some("close"), "{request:?}");
            assert!(client.is_closed(), "{request:?}");
        }
        assert_eq!(backend.connections(), 0, "nothing of it reaches a backend");
        assert!(REFUSED.len() >= 100);
    });
}

#[test]
fn what_is_strange_but_right_passes() {
    on_each_engine(|engine| {
        let backend = Backend::named("reached");
        let proxy = Proxy::to(engine, &[backend.address]);
        for request in ACCEPTED {
            let response = proxy.ask(request);
            assert_eq!(
                (response.status, response.text()),
                (200, "reached"),
                "{request:?}"
            );
        }
    });
}

#[test]
fn what_is_too_long_is_refused() {
    on_each_engine(|engine| {
        let backend = Backend::named("reached");
        let proxy = Proxy::to(engine, &[backend.address]);
        let (long, longer) = ("x".repeat(9_000), "x".repeat(60_000));
        let fields = "A: b\r\n".repeat(64);
        for (status, request) in [
            (414, format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n")),
            (414, format!("GET /{longer}")),
            (
                431,
                format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"),
            ),
            (431, format!("GET / HTTP/1.1\r\nHost: a\r\nX: {longer}")),
            (431, format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")),
            (
                431,
                format!(
                    "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
                    "TE: a\r\nA: b\r\n".repeat(30)
                ),
            ),
        ] {
            let mut client = proxy.connect();
            client.send(request.as_bytes());
            assert_eq!(client.response().status, status, "{:.60}", request);
            assert!(client.is_closed());
        }
        assert_eq!(backend.connections(), 0);
    });
}

#[test]
fn a_body_over_the_limit_is_refused_however_it_comes() {
    on_each_engine(|engine| {
        let backend = Backend::echo();
        let mut http = http_plan();
        http.limits.body_bytes_max = Some(1000);
        let proxy = Proxy::start(engine, http, &[cluster_plan("main", &[backend.address])]);
        let chunk = format!("3e8\r\n{}\r\n", "x".repeat(1000));
        let head = "POST / HTTP/1.1\r\nHost: a\r\n";
        let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunk}");

        let mut client = proxy.connect();
        client.send(format!("{chunked}0\r\n\r\n").as_bytes());
        assert_eq!(client.response().status, 200);
        client.send(format!("{head}Content-Length: 1001\r\n\r\n").as_bytes());
        assert_eq!(client.response().status, 413);
        assert!(client.is_closed());

        let mut client = proxy.connect();
        client.send(chunked.as_bytes());
        std::thread::sleep(Duration::from_millis(50));
        client.send(b"1\r\nx\r\n");
        assert_eq!(client.response().status, 413);
        assert!(client.is_closed());
    });
}

#[test]
fn malformed_chunks_in_mid_stream_are_refused() {
    on_each_engine(|engine| {
        let backend = Backend::scripted(|mut connection, _| drop(connection.rest()));
        let proxy = Proxy::to(engine, &[backend.address]);
        let mut client = proxy.connect();
        client
            .send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
        std::thread::sleep(Duration::from_millis(50));
        client.send(b"3\r\nabcGET /admin");
        let response = client.response();
        assert_eq!(
            (response.status, response.field("connection")),
            (400, Some("close"))
        );
        assert!(client.is_closed());
    });
}

#[test]
fn slow_heads_and_bodies_time_out() {
    on_each_engine(|engine| {
        let backend = Backend::echo();
        let mut http = http_plan();
        http.timeouts.request_head = Duration::from_millis(50);
        http.timeouts.body_idle = Duration::from_millis(50);
        let proxy = Proxy::start(engine, http, &[cluster_plan("main", &[backend.address])]);
        for request in [
            "G",
            "GET / HTTP/1.1\r\nHost: a\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        ] {
            let mut client = proxy.connect();
            client.send(request.as_bytes());
            let response = client.response();
            assert_eq!(
                (response.status, response.field("connection")),
                (408, Some("close"))
            );
            assert!(client.is_closed());
        }
    });
}

#[test]
fn the_bytes_behind_a_request_are_the_next_request() {
    on_each_engine(|engine| {
        let backend =
            Backend::responding(|request| ok(request.head.lines().next().unwrap().as_bytes()));
        let proxy = Proxy::to(engine, &[backend.address]);
        let mut client = proxy.connect();
        client.send(
            b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 22\r\n\r\nGET /no HTTP/1.1\r\nA: b\
              GET /2 HTTP/1.1\r\nHost: a\r\n\r\n\
              POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n\
              GET /4 HTTP/1.1\r\nHost: a\r\n\r\nnonsense",
        );
        for expected in ["POST /1", "GET /2", "POST /3", "GET /4"] {
            assert_eq!(client.response().text(), format!("{expected} HTTP/1.1"));
        }
        drop(client.stream.shutdown(std::net::Shutdown::Write));
        assert!(client.is_closed());
    });
}
