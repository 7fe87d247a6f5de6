//! Requests and responses on their way, seen from both ends: bodies, deadlines, retries, interim
//! responses, old versions, as the built program has them.
//!
//! Read next: `pools.rs` (the connections below), `ends.rs` (backends and clients).

use std::io::Write;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::ends::{Backend, Client, ok};
use crate::harness::{Folder, Lb, on_both_engines, skip};
use crate::pools::start;

on_both_engines!(
    a_very_long_upload_arrives_byte_by_byte_as_it_was,
    a_slow_try_is_followed_by_another_and_all_are_bounded,
    what_may_be_repeated_is_and_within_the_budget,
    a_gathered_body_is_sent_to_another_backend,
    slow_clients_are_cut_off,
    a_body_over_the_limit_is_413,
    interim_responses_pass_both_ways,
    old_versions_are_spoken_on_both_sides,
    what_has_no_body_has_none,
    trailers_pass_both_ways,
    an_answer_may_come_before_the_request_is_over,
    a_client_that_leaves_ends_the_exchange,
    a_switched_connection_ends_after_silence,
    a_status_line_has_a_phrase_whatever_the_backend_speaks,
);

const LONG: usize = 64 << 20;

/// The bytes at `at` of a long body.
fn fill(piece: &mut [u8], at: usize) {
    for (index, byte) in piece.iter_mut().enumerate() {
        let place = (at + index) as u64;
        *byte = (place.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8;
    }
}

fn a_very_long_upload_arrives_byte_by_byte_as_it_was(engine: &str) {
    let backend = Backend::scripted(|mut connection, _| {
        while connection.head().is_ok() {
            let (mut at, mut same) = (0, true);
            let (mut piece, mut expected) = (vec![0; 1 << 18], vec![0; 1 << 18]);
            while at < LONG {
                let most = piece.len().min(LONG - at);
                let len = connection.read_some(&mut piece[..most]);
                if len == 0 {
                    return;
                }
                fill(&mut expected[..len], at);
                same &= piece[..len] == expected[..len];
                at += len;
            }
            connection.send(&ok(if same { b"as it was" } else { b"changed" }));
        }
    });
    let (lb, _folder) = start(engine, &[&backend], "", "");
    let mut client = Client::to(lb.listener("web"));
    for _ in 0..2 {
        client.send(
            format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {LONG}\r\n\r\n").as_bytes(),
        );
        let mut piece = vec![0; 1 << 18];
        for at in (0..LONG).step_by(1 << 18) {
            fill(&mut piece, at);
            client.send(&piece);
        }
        assert_eq!(client.response().text(), "as it was");
    }
    assert_eq!(backend.connections(), 1);
}

/// Reads requests and answers none.
fn silent() -> Backend {
    Backend::scripted(|mut connection, _| drop(connection.rest()))
}

fn a_slow_try_is_followed_by_another_and_all_are_bounded(engine: &str) {
    let backends = [silent(), Backend::named("quick")];
    let settings = ", timeouts: {try: 500ms}, retry_budget: none";
    let (lb, _folder) = start(engine, &backends.each_ref(), settings, "");
    let mut client = Client::to(lb.listener("web"));
    for _ in 0..4 {
        assert_eq!(client.get("/").text(), "quick");
    }
    let statuses = [(); 2].map(|()| {
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\n\r\n");
        client.response().status
    });
    assert!(
        statuses.contains(&504),
        "it must not be repeated: {statuses:?}"
    );

    let backends = [silent(), silent()];
    let settings = ", timeouts: {try: 20s, total: 200ms}";
    let (lb, _folder) = start(engine, &backends.each_ref(), settings, "");
    assert_eq!(Client::to(lb.listener("web")).get("/").status, 504);
    let timeouts = ", timeouts: {response_head: 200ms}";
    let (lb, _folder) = start(engine, &backends.each_ref(), "", timeouts);
    assert_eq!(Client::to(lb.listener("web")).get("/").status, 504);
}

/// Ends the connection after each request, and counts them.
fn ending() -> (Backend, Arc<AtomicUsize>) {
    let asked = Arc::<AtomicUsize>::default();
    let counter = Arc::clone(&asked);
    let backend = Backend::scripted(move |mut connection, _| {
        if connection.request().is_some() {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    (backend, asked)
}

fn what_may_be_repeated_is_and_within_the_budget(engine: &str) {
    let ((first, one), (second, two)) = (ending(), ending());
    let asked = || one.load(Ordering::Relaxed) + two.load(Ordering::Relaxed);
    let (lb, _folder) = start(engine, &[&first, &second], ", retry_budget: none", "");
    let mut client = Client::to(lb.listener("web"));
    assert_eq!(client.get("/").status, 502);
    assert_eq!(asked(), 2, "both were asked");
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
    assert_eq!(client.response().status, 502);
    assert_eq!(asked(), 3, "it may have been processed");

    let budget = ", retry_budget: {percent: 50%, per_second: 0}";
    let (lb, _folder) = start(engine, &[&first, &second], budget, "");
    let mut client = Client::to(lb.listener("web"));
    for _ in 0..20 {
        assert_eq!(client.get("/").status, 502);
    }
    assert_eq!(asked(), 3 + 30);
    assert_eq!(
        lb.metric("lb_cluster_retries_denied_total{cluster=\"c\"}"),
        10.0
    );
}

fn a_gathered_body_is_sent_to_another_backend(engine: &str) {
    let (first, _) = ending();
    let second = Backend::responding(|request| ok(&request.body));
    let http = ", request_buffer: 64KiB";
    let settings = ", retry_budget: none";
    let (lb, _folder) = start(engine, &[&first, &second], settings, http);
    let mut client = Client::to(lb.listener("web"));
    for _ in 0..4 {
        client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4000\r\n\r\n");
        thread::sleep(Duration::from_millis(10));
        client.send(&[b'x'; 4000]);
        assert_eq!(client.response().body, [b'x'; 4000]);
    }
}

fn slow_clients_are_cut_off(engine: &str) {
    let backend = Backend::echo();
    let http = ", timeouts: {request_head: 200ms, body_idle: 200ms}, body_rate: 1MiB";
    let (lb, _folder) = start(engine, &[&backend], "", http);
    let mut begun = Client::to(lb.listener("web"));
    begun.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 90000\r\n\r\n");
    let mut dripping = begun.stream.try_clone().unwrap();
    // Never idle for long, and far below the rate.
    thread::spawn(move || {
        while dripping.write_all(b"x").is_ok() {
            thread::sleep(Duration::from_millis(50));
        }
    });
    for text in [
        "GET / HTTP/1.1\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx",
    ] {
        let mut client = Client::to(lb.listener("web"));
        client.send(text.as_bytes());
        assert_eq!(client.response().status, 408, "{text:?}");
        assert!(client.is_closed());
    }
    assert_eq!(begun.response().status, 408, "after its grace");
}

fn a_body_over_the_limit_is_413(engine: &str) {
    let backend = Backend::echo();
    let (lb, _folder) = start(engine, &[&backend], "", ", limits: {body: 1KiB}");
    for framing in [
        "Content-Length: 1025\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n401\r\n",
    ] {
        let mut client = Client::to(lb.listener("web"));
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}").as_bytes());
        assert_eq!(client.response().status, 413, "{framing:?}");
    }
}

fn interim_responses_pass_both_ways(engine: &str) {
    let backend = Backend::scripted(|mut connection, _| {
        while let Ok(head) = connection.head() {
            if head.contains("100-continue") {
                connection.send(b"HTTP/1.1 100 Continue\r\n\r\n");
                connection.take(3).unwrap();
            }
            connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
            connection.send(&ok(b"done"));
        }
    });
    let (lb, _folder) = start(engine, &[&backend], "", "");
    let mut client = Client::to(lb.listener("web"));
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    assert_eq!(client.response().status, 100);
    client.send(b"abc");
    let hints = client.response();
    assert_eq!((hints.status, hints.field("link")), (103, Some("</a>")));
    assert_eq!(client.response().text(), "done");
    client.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    let response = client.response();
    assert_eq!(response.status, 200, "HTTP/1.0 knows no interim responses");
    // Who is not told to go on keeps the body to itself, and the connection ends.
    let refusing = Backend::scripted(|mut connection, _| {
        let _ = connection.head();
        connection.send(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n");
        let _ = connection.rest();
    });
    let (lb, _folder) = start(engine, &[&refusing], "", "");
    let mut client = Client::to(lb.listener("web"));
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    let response = client.response();
    assert_eq!(
        (response.status, response.field("connection")),
        (417, Some("close"))
    );
}

fn old_versions_are_spoken_on_both_sides(engine: &str) {
    let backend = Backend::scripted(|mut connection, _| {
        while let Some(request) = connection.request() {
            if request.head.starts_with("GET /close ") {
                connection.send(b"HTTP/1.0 200 OK\r\n\r\nuntil close");
                return;
            }
            let chunked =
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
            connection.send(chunked);
        }
    });
    let (lb, _folder) = start(engine, &[&backend], "", "");
    let mut client = Client::to(lb.listener("web"));
    for _ in 0..2 {
        let response = client.get("/close");
        assert_eq!(response.text(), "until close");
        assert_eq!(response.field("transfer-encoding"), Some("chunked"));
    }
    let mut client = Client::to(lb.listener("web"));
    client.send(b"GET / HTTP/1.0\r\n\r\n");
    let response = client.response();
    assert_eq!(response.text(), "abc");
    assert_eq!(response.field("transfer-encoding"), None);
    assert!(client.is_closed());
    let mut client = Client::to(lb.listener("web"));
    let sized = Backend::named("sized");
    let (lb, _folder) = start(engine, &[&sized], "", "");
    client.send(b"");
    client = Client::to(lb.listener("web"));
    for _ in 0..2 {
        client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let response = client.response();
        assert_eq!(response.text(), "sized");
        assert_eq!(response.field("connection"), Some("keep-alive"));
    }
}

fn what_has_no_body_has_none(engine: &str) {
    let backend = Backend::responding(|request| {
        let status = match request.head.split(' ').nth(1).unwrap() {
            "/204" => "204 No Content",
            "/304" => "304 Not Modified",
            _ => "200 OK",
        };
        let length = if status.starts_with("204") {
            ""
        } else {
            "Content-Length: 5\r\n"
        };
        format!("HTTP/1.1 {status}\r\n{length}\r\n").into_bytes()
    });
    let (lb, _folder) = start(engine, &[&backend], "", "");
    let mut client = Client::to(lb.listener("web"));
    for _ in 0..2 {
        client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
        let response = client.response_to("HEAD");
        assert_eq!(
            (response.status, response.field("content-length")),
            (200, Some("5"))
        );
        assert_eq!(client.get("/304").field("content-length"), Some("5"));
        assert_eq!(client.get("/204").field("content-length"), None);
    }
    assert_eq!(backend.connections(), 1);
}

fn trailers_pass_both_ways(engine: &str) {
    let backend = Backend::scripted(|mut connection, _| {
        let _ = connection.head();
        let body = connection.line_end(b"\r\n\r\n").unwrap();
        assert_eq!(body, "3\r\nabc\r\n0\r\nX-Up: 1\r\n\r\n");
        connection.send(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n0\r\nX-Down: 2\r\n\r\n",
        );
        let _ = connection.rest();
    });
    let (lb, _folder) = start(engine, &[&backend], "", "");
    let mut client = Client::to(lb.listener("web"));
    client.send(
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Up: 1\r\n\r\n",
    );
    client.head().unwrap();
    let body = client.line_end(b"\r\n\r\n").unwrap();
    assert_eq!(body, "2\r\nde\r\n0\r\nX-Down: 2\r\n\r\n");
}

fn an_answer_may_come_before_the_request_is_over(engine: &str) {
    let backend = Backend::scripted(|mut connection, _| {
        connection.head().unwrap();
        connection.send(&ok(b"early"));
        let _ = connection.rest();
    });
    let (lb, _folder) = start(engine, &[&backend], "", "");
    let mut client = Client::to(lb.listener("web"));
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n");
    client.send(&[b'x'; 300_000]);
    let response = client.response();
    assert_eq!(
        (response.text(), response.field("connection")),
        ("early", Some("close"))
    );
}

fn a_client_that_leaves_ends_the_exchange(engine: &str) {
    let (ended, has_ended) = std::sync::mpsc::channel();
    let backend = Backend::scripted(move |mut connection, _| {
        let _ = connection.head();
        let _ = connection.rest();
        let _ = ended.send(());
    });
    let (lb, _folder) = start(engine, &[&backend], "", "");
    let wait = Duration::from_secs(20);
    let mut client = Client::to(lb.listener("web"));
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\nabc");
    drop(client);
    has_ended.recv_timeout(wait).expect("amid a body");
    let mut client = Client::to(lb.listener("web"));
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    crate::ends::reset(client);
    has_ended.recv_timeout(wait).expect("waiting for an answer");
}

fn a_switched_connection_ends_after_silence(engine: &str) {
    let backend = Backend::scripted(|mut connection, _| {
        let _ = connection.head();
        connection
            .send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
        while let Ok(bytes) = connection.take(4) {
            connection.send(&bytes);
        }
    });
    let (lb, _folder) = start(engine, &[&backend], "", ", timeouts: {upgrade_idle: 500ms}");
    let mut client = Client::to(lb.listener("web"));
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    assert!(client.head().unwrap().starts_with("HTTP/1.1 101 "));
    client.send(b"ping");
    assert_eq!(client.take(4).unwrap(), b"ping");
    assert!(client.rest().is_err(), "reset: neither side had ended it");
}

/// HTTP/2 has no phrases, and h2load takes a line without one for no status at all, as it comes from
/// an HAProxy whose server speaks HTTP/2.
fn a_status_line_has_a_phrase_whatever_the_backend_speaks(engine: &str) {
    let bare = Backend::responding(|_| b"HTTP/1.1 404 \r\nContent-Length: 0\r\n\r\n".to_vec());
    let (lb, _folder) = start(engine, &[&bare], "", "");
    let mut client = Client::to(lb.listener("web"));
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.head().unwrap();
    assert!(head.starts_with("HTTP/1.1 404 Not Found\r\n"), "{head}");

    let backend = Backend::named("behind two");
    let (inner, _folder) = start(engine, &[&backend], "", "");
    let folder = Folder::new();
    let path = folder.write(
        "outer.yaml",
        &format!(
            "listeners:\n- {{name: web, address: '127.0.0.1:0', http: {{cluster: c}}}}\n\
             clusters:\n  c: {{protocol: http2, backends: ['{}']}}\n",
            inner.listener("web")
        ),
    );
    let outer = Lb::start(engine, &["--config", &path]);
    let mut client = Client::to(outer.listener("web"));
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.head().unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let url = format!("http://{}/", outer.listener("web"));
    let load = Command::new("h2load")
        .args(["--h1", "-n", "40", "-c", "4", &url])
        .output();
    let Ok(output) = load else {
        return skip("no h2load");
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("40 succeeded, 0 failed"), "{text}");
}
