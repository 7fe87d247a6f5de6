//! What a client may rely on: framing, persistence, pipelining, forwarded fields, routing.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use lb_core::plan::Route;
use lb_core::rt::now_precise;

use crate::support::{Backend, Proxy, cluster_plan, http_plan, ok, on_each_engine};

#[test]
fn requests_share_a_connection_on_both_sides() {
    on_each_engine(|engine| {
        let backend = Backend::echo();
        let proxy = Proxy::to(engine, &[backend.address]);
        let mut client = proxy.connect();
        for number in 0..10 {
            let response = client.get(&format!("/{number}"));
            assert_eq!(response.status, 200);
            assert!(
                response
                    .text()
                    .starts_with(&format!("GET /{number} HTTP/1.1\r\n"))
            );
            assert_eq!(response.field("connection"), None);
        }
        assert_eq!(backend.connections(), 1);
    });
}

#[test]
fn the_backend_learns_who_asks() {
    on_each_engine(|engine| {
        let backend = Backend::echo();
        let proxy = Proxy::to(engine, &[backend.address]);
        let response = proxy.ask("GET /a HTTP/1.1\r\nHost: Shop:80\r\nConnection: close\r\n\r\n");
        assert_eq!(
            response.text(),
            "GET /a HTTP/1.1\r\nHost: Shop:80\r\nX-Forwarded-For: 127.0.0.1\r\n\
             X-Forwarded-Proto: http\r\nX-Forwarded-Host: Shop:80\r\n\r\n"
        );
        assert_eq!(response.field("connection"), Some("close"));
    });
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    on_each_engine(|engine| {
        let backend = Backend::echo();
        let proxy = Proxy::to(engine, &[backend.address]);
        let mut client = proxy.connect();
        let request = |number: usize| {
            format!("POST /{number} HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody")
        };
        let all: String = (0..50).map(request).collect();
        client.send(all.as_bytes());
        for number in 0..50 {
            let response = client.response();
            let text = response.text();
            assert!(text.starts_with(&format!("POST /{number} ")) && text.ends_with("\r\nbody"));
        }
    });
}

#[test]
fn a_request_may_come_byte_by_byte() {
    on_each_engine(|engine| {
        let backend = Backend::echo();
        let proxy = Proxy::to(engine, &[backend.address]);
        let mut client = proxy.connect();
        let request = b"\r\nPOST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
            3\r\nabc\r\n0\r\n\r\n";
        for _ in 0..2 {
            for byte in request {
                client.send(&[*byte]);
            }
            let response = client.response();
            assert_eq!(response.status, 200);
            assert!(response.text().ends_with("\r\n\r\n3\r\nabc\r\n0\r\n\r\n"));
        }
    });
}

#[test]
fn a_response_may_come_byte_by_byte() {
    on_each_engine(|engine| {
        let backend = Backend::scripted(|mut connection, _| {
            while connection.request().is_some() {
                for byte in
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
                {
                    connection.send(&[*byte]);
                }
            }
        });
        let proxy = Proxy::to(engine, &[backend.address]);
        let mut client = proxy.connect();
        for _ in 0..3 {
            let response = client.get("/");
            assert_eq!((response.status, response.text()), (200, "ab"));
        }
        assert_eq!(backend.connections(), 1);
    });
}

#[test]
fn large_bodies_pass_both_ways_whatever_their_framing() {
    const LEN: usize = 3_000_000;
    on_each_engine(|engine| {
        let backend = Backend::responding(|request| {
            let chunked = request.head.contains("chunked");
            let body = &request.body;
            if chunked {
                let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".as_slice();
                [head, body].concat()
            } else {
                ok(body)
            }
        });
        let proxy = Proxy::to(engine, &[backend.address]);
        let mut client = proxy.connect();
        let body: Vec<u8> = (0..LEN).map(|index| (index * 7 % 251) as u8).collect();
        let head = format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {LEN}\r\n\r\n");
        client.send(&[head.as_bytes(), &body].concat());
        assert_same(&client.response().body, &body);

        client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        for piece in body.chunks(100_000) {
            client.send(format!("{:x}\r\n", piece.len()).as_bytes());
            client.send(piece);
            client.send(b"\r\n");
        }
        client.send(b"0\r\n\r\n");
        assert_same(&client.response().body, &body);
        assert_eq!(client.get("/").status, 200);
    });
}

/// As `assert_eq!`, without printing megabytes.
fn assert_same(got: &[u8], expected: &[u8]) {
    let differing = got
        .iter()
        .zip(expected)
        .position(|(got, expected)| got != expected);
    assert_eq!((got.len(), differing), (expected.len(), None));
}

#[test]
fn head_and_bodiless_statuses_have_no_body() {
    on_each_engine(|engine| {
        let backend = Backend::responding(|request| {
            if request.head.starts_with("HEAD") {
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".to_vec()
            } else if request.head.starts_with("GET /304") {
                b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n".to_vec()
            } else {
                b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()
            }
        });
        let proxy = Proxy::to(engine, &[backend.address]);
        let mut client = proxy.connect();
        for _ in 0..2 {
            client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(
                client.response_to("HEAD").field("content-length"),
                Some("5")
            );
            assert_eq!(client.get("/304").field("content-length"), Some("5"));
            assert_eq!(client.get("/").status, 204);
        }
        assert_eq!(backend.connections(), 1);
    });
}

#[test]
fn http_1_0_clients_get_what_they_understand() {
    on_each_engine(|engine| {
        let backend = Backend::responding(|_| {
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
              3\r\nabc\r\n2;x\r\nde\r\n0\r\nT: u\r\n\r\n"
                .to_vec()
        });
        let proxy = Proxy::to(engine, &[backend.address]);
        let mut client = proxy.connect();
        client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let response = client.response();
        assert_eq!((response.status, response.text()), (200, "abcde"));
        assert_eq!(response.field("connection"), Some("close"));
        assert_eq!(response.field("transfer-encoding"), None);
    });
}

#[test]
fn http_1_0_connections_persist_when_asked() {
    on_each_engine(|engine| {
        let backend = Backend::named("x");
        let proxy = Proxy::to(engine, &[backend.address]);
        let mut client = proxy.connect();
        for _ in 0..2 {
            client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
            assert_eq!(client.response().field("connection"), Some("keep-alive"));
        }
        client.send(b"GET / HTTP/1.0\r\n\r\n");
        assert_eq!(client.response().field("connection"), Some("close"));
        assert!(client.is_closed());
    });
}

#[test]
fn a_body_that_ends_by_close_keeps_an_http_1_1_client() {
    on_each_engine(|engine| {
        let backend = Backend::scripted(|mut connection, _| {
            let request = connection.request();
            connection.send(b"HTTP/1.1 200 OK\r\n\r\n");
            if request.is_some_and(|request| !request.head.contains("/empty")) {
                connection.send(b"first ");
                std::thread::sleep(Duration::from_millis(20));
                connection.send(b"second");
            }
        });
        let proxy = Proxy::to(engine, &[backend.address]);
        let mut client = proxy.connect();
        for _ in 0..2 {
            let response = client.get("/");
            assert_eq!(response.text(), "first second");
            assert_eq!(response.field("transfer-encoding"), Some("chunked"));
            assert_eq!(client.get("/empty").text(), "");
        }
        let response = proxy.ask("GET / HTTP/1.0\r\n\r\n");
        assert_eq!(
            (response.text(), response.field("transfer-encoding")),
            ("first second", None)
        );
    });
}

#[test]
fn interim_responses_pass() {
    on_each_engine(|engine| {
        let backend = Backend::scripted(|mut connection, _| {
            let head = connection.head().unwrap();
            assert!(head.contains("Expect: 100-continue"));
            connection.send(b"HTTP/1.1 100 Continue\r\n\r\n");
            let body = connection.take(5).unwrap();
            connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
            connection.send(&ok(&body));
            connection.rest().unwrap();
        });
        let proxy = Proxy::to(engine, &[backend.address]);
        let mut client = proxy.connect();
        client.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        );
        assert_eq!(client.head().unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
        client.send(b"hello");
        assert_eq!(
            client.head().unwrap(),
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        );
        let response = client.response();
        assert_eq!((response.status, response.text()), (200, "hello"));
    });
}

#[test]
fn an_early_response_ends_the_upload() {
    on_each_engine(|engine| {
        let backend = Backend::scripted(|mut connection, _| {
            connection.head().unwrap();
            connection.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
            let _ = connection.rest();
        });
        let proxy = Proxy::to(engine, &[backend.address]);
        let mut client = proxy.connect();
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n");
        client.send(&[b'x'; 100_000]);
        let response = client.response();
        assert_eq!((response.status, response.text()), (403, "no"));
        assert_eq!(response.field("connection"), Some("close"));
        assert!(client.is_closed());
    });
}

#[test]
fn responses_stream_while_the_request_does() {
    on_each_engine(|engine| {
        let backend = Backend::scripted(|mut connection, _| {
            connection.head().unwrap();
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n");
            for _ in 0..6 {
                let byte = connection.take(1).unwrap();
                connection.send(&byte);
            }
        });
        let proxy = Proxy::to(engine, &[backend.address]);
        let mut client = proxy.connect();
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n");
        assert!(client.head().unwrap().starts_with("HTTP/1.1 200 "));
        for byte in b"abcdef" {
            client.send(&[*byte]);
            assert_eq!(client.take(1).unwrap(), [*byte]);
        }
    });
}

#[test]
fn routes_choose_the_cluster() {
    on_each_engine(|engine| {
        let (main, api, shop) = (
            Backend::named("main"),
            Backend::named("api"),
            Backend::named("shop"),
        );
        let route = Route::to;
        let mut http = http_plan();
        http.routes = vec![
            route(None, "/api", "api"),
            route(Some("*.shop"), "/", "shop"),
        ];
        http.default_cluster = None;
        let clusters = [
            cluster_plan("main", &[main.address]),
            cluster_plan("api", &[api.address]),
            cluster_plan("shop", &[shop.address]),
        ];
        let proxy = Proxy::start(engine, http.clone(), &clusters);
        let ask = |proxy: &Proxy, host: &str, path: &str| {
            proxy.ask(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
        };
        assert_eq!(ask(&proxy, "x", "/api/1").text(), "api");
        assert_eq!(ask(&proxy, "A.Shop:80", "/api/1").text(), "shop");
        let response = ask(&proxy, "x", "/apis");
        assert_eq!(response.status, 404);
        assert_eq!(
            response.text(),
            "404 Not Found: no route matches this host and path\n"
        );
        http.default_cluster = Some("main".to_owned());
        let proxy = Proxy::start(engine, http, &clusters);
        assert_eq!(ask(&proxy, "x", "/apis").text(), "main");
    });
}

#[test]
fn after_our_own_answer_the_connection_goes_on() {
    on_each_engine(|engine| {
        let mut http = http_plan();
        http.default_cluster = None;
        let proxy = Proxy::start(engine, http, &[]);
        let mut client = proxy.connect();
        for _ in 0..3 {
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab");
            assert_eq!(client.response().status, 404);
        }
        client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.response_to("HEAD").status, 404);
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\nab");
        let response = client.response();
        assert_eq!(
            (response.status, response.field("connection")),
            (404, Some("close"))
        );
    });
}

#[test]
fn a_connection_ends_after_its_last_request() {
    on_each_engine(|engine| {
        let backend = Backend::named("x");
        let mut http = http_plan();
        http.limits.requests_per_connection_max = Some(2);
        let proxy = Proxy::start(engine, http, &[cluster_plan("main", &[backend.address])]);
        let mut client = proxy.connect();
        assert_eq!(client.get("/").field("connection"), None);
        assert_eq!(client.get("/").field("connection"), Some("close"));
        assert!(client.is_closed());
    });
}

#[test]
fn idle_connections_are_closed_without_a_word() {
    on_each_engine(|engine| {
        let backend = Backend::named("x");
        let mut http = http_plan();
        http.timeouts.keep_alive = Duration::from_millis(100);
        let proxy = Proxy::start(engine, http, &[cluster_plan("main", &[backend.address])]);
        let mut client = proxy.connect();
        assert_eq!(client.get("/").status, 200);
        let since = now_precise();
        assert!(client.is_closed());
        assert!(now_precise().saturating_duration_since(since) >= Duration::from_millis(90));
        assert!(proxy.connect().is_closed());
    });
}

#[test]
fn draining_closes_what_is_idle_and_ends_what_is_not() {
    on_each_engine(|engine| {
        let (release, released) = mpsc::channel::<()>();
        let (begin, begun) = mpsc::channel::<()>();
        let released = Mutex::new(released);
        let backend = Backend::responding(move |request| {
            if request.head.starts_with("GET /slow") {
                begin.send(()).unwrap();
                released.lock().unwrap().recv().unwrap();
            }
            ok(b"x")
        });
        let proxy = Proxy::to(engine, &[backend.address]);
        let (mut idle, mut busy) = (proxy.connect(), proxy.connect());
        assert_eq!(idle.get("/").status, 200);
        busy.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
        begun.recv().unwrap();
        proxy.draining.store(true, Ordering::Relaxed);
        assert!(idle.is_closed());
        release.send(()).unwrap();
        let response = busy.response();
        assert_eq!(
            (response.status, response.field("connection")),
            (200, Some("close"))
        );
        assert!(busy.is_closed());
    });
}

#[test]
fn exchanges_are_counted_and_logged() {
    on_each_engine(|engine| {
        let backend = Backend::named("hello");
        let proxy = Proxy::to(engine, &[backend.address]);
        let mut client = proxy.connect();
        assert_eq!(client.get("/a\"b").status, 200);
        client.send(b"nonsense\r\n\r\n");
        assert_eq!(client.response().status, 400);
        assert!(client.is_closed());
        drop(client);
        let sum =
            |number: &dyn Fn(&lb_core::metrics::ListenerCounters) -> u64| proxy.stats.sum(number);
        let deadline = now_precise() + crate::support::PATIENCE;
        while proxy.log.lock().unwrap().is_empty() || sum(&|it| it.active.get()) > 0 {
            assert!(now_precise() < deadline);
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(
            sum(&|it| it.exchanges(lb_core::metrics::StatusClass::Successful)),
            1
        );
        assert_eq!(
            sum(&|it| it.exchanges(lb_core::metrics::StatusClass::ClientError)),
            1
        );
        assert_eq!(sum(&|it| it.exchanges_active.get()), 0);
        let counters = proxy.clusters[0].backends()[0].counters(0);
        assert_eq!(
            (counters.exchanges.get(), counters.exchanges_active.get()),
            (1, 0)
        );
        let log = String::from_utf8(proxy.log.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(lines.len(), 2, "{log}");
        let request = r#""method":"GET","scheme":"http","host":"test","target":"/a\"b","#;
        assert!(lines[0].contains(request), "{log}");
        assert!(
            lines[0].contains(r#""status":200,"backend_status":200,"#),
            "{log}"
        );
        assert!(lines[0].contains(&format!(r#""backend":"{}""#, backend.address)));
        assert!(lines[1].contains(r#""status":400"#));
    });
}
