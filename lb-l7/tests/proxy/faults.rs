//! Backends that refuse, hang, reset, close early or talk nonsense: the right answer, in bounded
//! time, and the client's connection kept where it can be.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lb_core::rt::{EngineKind, Instant, now_precise};

use crate::support::{
    Backend, PATIENCE, Proxy, cluster_plan, http_plan, ok, on_each_engine, refusing, reset,
};

fn elapsed(since: Instant) -> Duration {
    now_precise().saturating_duration_since(since)
}

/// A proxy whose deadlines for backends are 100 ms.
fn impatient(engine: EngineKind, backends: &[std::net::SocketAddr]) -> Proxy {
    let mut http = http_plan();
    http.timeouts.response_head = Duration::from_millis(100);
    http.timeouts.body_idle = Duration::from_millis(100);
    let mut cluster = cluster_plan("main", backends);
    cluster.connect_timeout = Duration::from_millis(100);
    Proxy::start(engine, http, &[cluster])
}

/// The same client is answered with `status` twice: its connection is kept.
fn assert_answers(proxy: &Proxy, status: u16) {
    let mut client = proxy.connect();
    let since = now_precise();
    for _ in 0..2 {
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab");
        let response = client.response();
        assert_eq!(response.status, status, "{}", response.text());
        assert_eq!(response.field("connection"), None);
        assert!(response.field("date").is_some());
    }
    assert!(elapsed(since) < PATIENCE / 2);
}

#[test]
fn a_backend_that_refuses_is_503() {
    on_each_engine(|engine| {
        let proxy = Proxy::to(engine, &[refusing(), refusing()]);
        assert_answers(&proxy, 503);
        let counters = proxy.clusters[0].counters().of(0);
        assert_eq!(counters.unavailable.get(), 2);
    });
}

#[test]
fn a_cluster_without_backends_is_503() {
    on_each_engine(|engine| assert_answers(&Proxy::to(engine, &[]), 503));
}

#[test]
fn connecting_goes_on_to_the_next_backend() {
    on_each_engine(|engine| {
        let backend = Backend::echo();
        let proxy = Proxy::to(engine, &[refusing(), refusing(), backend.address]);
        let mut client = proxy.connect();
        for _ in 0..6 {
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab");
            let response = client.response();
            assert_eq!(response.status, 200);
            assert!(response.text().ends_with("\r\n\r\nab"));
        }
    });
}

#[test]
fn a_backend_that_does_not_accept_is_503_in_time() {
    on_each_engine(|engine| {
        // A listener with a full queue drops the SYN of whoever comes next.
        let listener =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener
            .bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let fill = |_| {
            let socket =
                socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            drop(socket.connect(&address.into()));
            socket
        };
        let queued: Vec<_> = (0..4).map(fill).collect();
        std::thread::sleep(Duration::from_millis(20));
        assert_answers(&impatient(engine, &[address]), 503);
        drop(queued);
    });
}

#[test]
fn a_backend_that_hangs_is_504() {
    on_each_engine(|engine| {
        let backend = Backend::scripted(|mut connection, _| drop(connection.rest()));
        assert_answers(&impatient(engine, &[backend.address]), 504);
    });
}

#[test]
fn a_backend_that_drips_its_head_is_504() {
    on_each_engine(|engine| {
        let backend = Backend::scripted(|mut connection, _| {
            while connection.stream.peer_addr().is_ok() && connection.head().is_ok() {
                for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: yyyyyyyyyyyyyyyyyyyyyy" {
                    connection.send(&[*byte]);
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        });
        assert_answers(&impatient(engine, &[backend.address]), 504);
    });
}

#[test]
fn a_backend_that_stops_reading_is_504() {
    on_each_engine(|engine| {
        let backend = Backend::scripted(|connection, _| {
            std::thread::sleep(PATIENCE);
            drop(connection);
        });
        let proxy = impatient(engine, &[backend.address]);
        let mut client = proxy.connect();
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n");
        client.stream.set_nonblocking(true).unwrap();
        // Until nothing more goes in: the proxy has stopped reading.
        let since = now_precise();
        while elapsed(since) < Duration::from_millis(500) {
            client.send(&[b'x'; 65_536]);
        }
        client.stream.set_nonblocking(false).unwrap();
        let response = client.response();
        assert_eq!(
            (response.status, response.field("connection")),
            (504, Some("close"))
        );
    });
}

#[test]
fn a_backend_that_closes_or_resets_is_502() {
    on_each_engine(|engine| {
        for cut in [0, 1, 10, 30] {
            let head = &b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"[..cut];
            let closing = Backend::scripted(move |mut connection, _| {
                connection.request();
                connection.send(head);
            });
            assert_answers(&Proxy::to(engine, &[closing.address]), 502);
            let resetting = Backend::scripted(move |mut connection, _| {
                connection.request();
                connection.send(head);
                reset(connection);
            });
            assert_answers(&Proxy::to(engine, &[resetting.address]), 502);
        }
        let at_once = Backend::scripted(|connection, _| reset(connection));
        let response = Proxy::to(engine, &[at_once.address]).ask("GET / HTTP/1.0\r\n\r\n");
        // The reset may come before the connection counts as established.
        assert!(matches!(response.status, 502 | 503), "{}", response.text());
    });
}

#[test]
fn a_backend_that_talks_nonsense_is_502() {
    on_each_engine(|engine| {
        for nonsense in [
            "SSH-2.0-OpenSSH_9.9\r\n",
            "\0\0\0\0",
            "HTTP/2 200\r\n\r\n",
            "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense",
            "HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
            "HTTP/1.1 099 Low\r\n\r\n",
            "\r\n\r\n",
            "\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "\r\nHTTP/1.1 200",
        ] {
            let backend = Backend::responding(|_| nonsense.as_bytes().to_vec());
            assert_answers(&Proxy::to(engine, &[backend.address]), 502);
        }
        let endless = Backend::responding(|_| {
            [b"HTTP/1.1 200 OK\r\nX: ", [b'y'; 50_000].as_slice()].concat()
        });
        assert_answers(&Proxy::to(engine, &[endless.address]), 502);
    });
}

#[test]
fn a_response_that_is_cut_short_breaks_the_connection() {
    on_each_engine(|engine| {
        for (head, end, is_reset) in [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
                "",
                false,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
                "",
                false,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
                "x",
                false,
            ),
            ("HTTP/1.1 200 OK\r\n\r\nabc", "", true),
        ] {
            let backend = Backend::scripted(move |mut connection, _| {
                connection.request();
                connection.send(head.as_bytes());
                std::thread::sleep(Duration::from_millis(50));
                connection.send(end.as_bytes());
                if is_reset {
                    reset(connection);
                }
            });
            let proxy = Proxy::to(engine, &[backend.address]);
            for version in ["1.0", "1.1"] {
                let mut client = proxy.connect();
                client.send(format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n").as_bytes());
                assert!(client.head().unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
                let error = client.rest().expect_err("a reset, not an end");
                assert_eq!(
                    error.kind(),
                    std::io::ErrorKind::ConnectionReset,
                    "{head} {version}"
                );
            }
        }
    });
}

#[test]
fn a_stalled_response_breaks_the_connection() {
    on_each_engine(|engine| {
        let backend = Backend::scripted(|mut connection, _| {
            connection.request();
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
            drop(connection.rest());
        });
        let proxy = impatient(engine, &[backend.address]);
        let mut client = proxy.connect();
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        client.head().unwrap();
        assert!(client.rest().is_err());
    });
}

#[test]
fn bytes_behind_a_response_are_not_taken_for_the_next() {
    on_each_engine(|engine| {
        let backend = Backend::scripted(|mut connection, _| {
            while connection.request().is_some() {
                connection.send(&[ok(b"right"), ok(b"wrong")].concat());
            }
        });
        let proxy = Proxy::to(engine, &[backend.address]);
        let mut client = proxy.connect();
        for _ in 0..3 {
            assert_eq!(client.get("/").text(), "right");
        }
        assert_eq!(backend.connections(), 3);
    });
}

/// Answers `answered` requests on each connection, then reads one more and closes.
fn stale_after(answered: usize, requests: &Arc<AtomicUsize>) -> Backend {
    let requests = Arc::clone(requests);
    Backend::scripted(move |mut connection, _| {
        for number in 0.. {
            if connection.request().is_none() {
                return;
            }
            requests.fetch_add(1, Ordering::Relaxed);
            if number == answered {
                return;
            }
            connection.send(&ok(b"x"));
        }
    })
}

#[test]
fn an_idempotent_request_is_sent_again_when_its_connection_was_stale() {
    on_each_engine(|engine| {
        let requests = Arc::default();
        let backend = stale_after(1, &requests);
        let proxy = Proxy::to(engine, &[backend.address]);
        let mut client = proxy.connect();
        for _ in 0..3 {
            assert_eq!(client.get("/").status, 200);
            client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab");
            assert_eq!(client.response().status, 200);
        }
        // Each connection but the first answers its first request, sent again from the one before.
        assert_eq!(backend.connections(), 6);
        assert_eq!(requests.load(Ordering::Relaxed), 11);
        assert_eq!(proxy.clusters[0].counters().of(0).retries.get(), 5);
    });
}

#[test]
fn a_request_that_may_have_been_processed_is_not_sent_again() {
    on_each_engine(|engine| {
        let requests = Arc::default();
        let backend = stale_after(1, &requests);
        let proxy = Proxy::to(engine, &[backend.address]);
        let mut client = proxy.connect();
        assert_eq!(client.get("/").status, 200);
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab");
        assert_eq!(client.response().status, 502);
        assert_eq!(requests.load(Ordering::Relaxed), 2);
        assert_eq!(client.get("/").status, 200);
    });
}

#[test]
fn a_connection_that_the_backend_has_closed_is_not_used() {
    on_each_engine(|engine| {
        let backend = Backend::scripted(|mut connection, _| {
            connection.request();
            connection.send(&ok(b"x"));
        });
        let proxy = Proxy::to(engine, &[backend.address]);
        let mut client = proxy.connect();
        for _ in 0..3 {
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab");
            assert_eq!(client.response().status, 200);
            // Long enough for the end of the stream to arrive.
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(proxy.clusters[0].counters().of(0).retries.get(), 0);
    });
}

#[test]
fn a_client_that_goes_takes_the_backend_connection_along() {
    on_each_engine(|engine| {
        let (gone, is_gone) = std::sync::mpsc::channel();
        let (begin, begun) = std::sync::mpsc::channel();
        let backend = Backend::scripted(move |mut connection, _| {
            connection.request();
            begin.send(()).unwrap();
            drop(connection.rest());
            gone.send(()).unwrap();
        });
        let proxy = Proxy::to(engine, &[backend.address]);
        let mut client = proxy.connect();
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        begun.recv_timeout(PATIENCE).unwrap();
        reset(client);
        is_gone
            .recv_timeout(PATIENCE)
            .expect("the backend's connection to end");
    });
}

#[test]
fn a_client_that_takes_nothing_is_cut_off() {
    on_each_engine(|engine| {
        let (sent, is_sent) = std::sync::mpsc::channel();
        let backend = Backend::scripted(move |mut connection, _| {
            connection.request();
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
            while std::io::Write::write_all(&mut connection.stream, &[0; 65_536]).is_ok() {}
            sent.send(()).unwrap();
        });
        let proxy = impatient(engine, &[backend.address]);
        let mut client = proxy.connect();
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        is_sent
            .recv_timeout(PATIENCE)
            .expect("the backend's connection to end");
        client.head().unwrap();
        assert!(client.rest().is_err());
    });
}
