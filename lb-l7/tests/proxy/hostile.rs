//! What no client may send, and what it is answered.
//!
//! Each row stands for a way to make two readers of one message disagree (request smuggling,
//! RFC 9112 section 11.2), or to make one of them work for nothing.

use std::time::Duration;

use crate::support::{Backend, Proxy, cluster_plan, http_plan, ok, on_each_engine};

/// Heads that are refused, by the status that they get.
const REFUSED: &[(u16, &str)] = &[
    // The request line (RFC 9112 section 3).
    (400, "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, " GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "\0GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET /  HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET / HTTP/1.1 \r\nHost: a\r\n\r\n"),
    (400, "GET / HTTP/1.1\t\r\nHost: a\r\n\r\n"),
    (400, "GET /\r\nHost: a\r\n\r\n"),
    (400, "GET / \r\nHost: a\r\n\r\n"),
    (400, "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "G@T / HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GE\u{e9}T / HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET /\u{1} HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET /\u{7f} HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET / http/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET / HTTP/1\r\nHost: a\r\n\r\n"),
    (400, "GET / HTTP/1.1.1\r\nHost: a\r\n\r\n"),
    (400, "GET / HTTP/01.1\r\nHost: a\r\n\r\n"),
    (400, "GET / HTTP/1,1\r\nHost: a\r\n\r\n"),
    (400, "GET / HTTPS/1.1\r\nHost: a\r\n\r\n"),
    (400, "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}"),
    (400, "{\"json\":true}\r\n\r\n"),
    (505, "GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
    (505, "GET / HTTP/0.9\r\nHost: a\r\n\r\n"),
    (505, "GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
    (505, "GET / HTTP/9.9\r\nHost: a\r\n\r\n"),
    (505, "PRI / HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    (501, "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"),
    (501, "CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n"),
    // The target (RFC 9112 section 3.2).
    (400, "GET a HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n"),
    (400, "GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "OPTIONS ** HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET /#a HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET /\u{fc} HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET ?a HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET http:/a HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET http:// HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET http:///a HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET http://u:p@a/ HTTP/1.1\r\nHost: u\r\n\r\n"),
    (400, "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET https://a:80/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET http://a\\b/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET http://a/ HTTP/1.1\r\n\r\n"),
    (400, "GET /.. HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET /a/../b HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET /a/%2e%2E/b HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET http://a/../b HTTP/1.1\r\nHost: a\r\n\r\n"),
    // Host (RFC 9112 section 3.2).
    (400, "GET / HTTP/1.1\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: \r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nhOsT: b\r\n\r\n"),
    (400, "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a?b\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: [x]\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: ::1\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\"b\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: http://a\r\n\r\n"),
    // Field lines (RFC 9112 section 5).
    (400, "GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost\t: a\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX y: z\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\n: z\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\tz\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX:\r\n z\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX: y\0z\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX: y\u{b}z\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX: \u{7f}\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX\u{e9}: y\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX\0: y\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\n(X): y\r\n\r\n"),
    // Line ends (RFC 9112 section 2.2).
    (400, "GET / HTTP/1.1\nHost: a\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX: y\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\n\n"),
    (400, "GET / HTTP/1.1\nHost: a\n\n"),
    (400, "GET / HTTP/1.1\rHost: a\r\r"),
    (400, "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX: y\rz\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX: y\nZ: a\r\n\r\n"),
    // Content-Length (RFC 9110 section 8.6).
    (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n"),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: a\r\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\na",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 1\r\n\r\na",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1,1\r\n\r\na",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 2\r\n\r\na",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1.0\r\n\r\na",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \"1\"\r\n\r\na",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1;a\r\n\r\na",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\ncontent-length: 2\r\n\r\na",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551617\r\n\r\n",
    ),
    // Transfer-Encoding (RFC 9112 section 6.1).
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ch\u{b}unked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\nX: y\r\n\r\n0\r\n\r\n",
    ),
    (
        501,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
    ),
    (
        501,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        501,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    ),
    (
        501,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: cow\r\n\r\n0\r\n\r\n",
    ),
    // Chunks that are at hand with the head (RFC 9112 section 7.1).
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1 \r\na",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a\nb\r\na",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n11111111111111111\r\na",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n A: b\r\n\r\n",
    ),
];

/// Heads that look strange and are right.
const ACCEPTED: &[&str] = &[
    "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET / HTTP/1.0\r\n\r\n",
    "GET /a|b{c}\"<>^`?|{}[] HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET //a/.../b HTTP/1.1\r\nHost: a\r\n\r\n",
    "M-SEARCH / HTTP/1.1\r\nHost: a\r\n\r\n",
    "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET http://A:80/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET https://a/ HTTP/1.1\r\nHost: a:443\r\n\r\n",
    "GET / HTTP/1.1\r\nHost:a.\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: [2001:db8::1]:8080\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nX:\t \u{e9}\t \r\nY:\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nConnection: ,, close ,,\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 000\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
];

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
