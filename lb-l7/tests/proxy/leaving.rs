//! Clients that leave before they have their response: what is under way for them ends, and nobody
//! is blamed for it.

use std::net::Shutdown;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use lb_core::plan::{self, Outlier};
use lb_core::rt::EngineKind;

use crate::support::{
    Backend, Client, PATIENCE, Proxy, cluster_plan, http_plan, ok, on_each_engine,
};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Answers a request with `start`, tells that it has begun, and when its connection has ended.
fn waiting(start: &'static [u8]) -> (Backend, Receiver<()>, Receiver<()>) {
    let (begin, begun) = mpsc::channel();
    let (end, ended) = mpsc::channel();
    let backend = Backend::scripted(move |mut connection, _| {
        if connection.request().is_none() {
            return;
        }
        connection.send(start);
        let _ = begin.send(());
        drop(connection.rest());
        let _ = end.send(());
    });
    (backend, begun, ended)
}

/// One that would be ejected for a single failure, and not asked again.
fn strict(engine: EngineKind, http: plan::Http, backends: &[&Backend]) -> Proxy {
    let addresses: Vec<_> = backends.iter().map(|it| it.address).collect();
    let mut cluster = cluster_plan("main", &addresses);
    cluster.outlier = Some(Outlier {
        failures: Some(1),
        ..Outlier::default()
    });
    Proxy::start(engine, http, &[cluster])
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..PATIENCE.as_millis() / 5 {
        if is_so() {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("{what}");
}

fn assert_cancelled(proxy: &Proxy, count: u64, status: u16) {
    let shard = proxy.stats.shard(0);
    until("it is counted", || shard.exchanges_aborted.get() == count);
    assert_eq!(shard.exchanges_active.get(), 0);
    let counters = proxy.clusters[0].counters().of(0);
    assert_eq!((counters.retries.get(), counters.unavailable.get()), (0, 0));
    assert_eq!(proxy.clusters[0].ejected(), 0, "it is no fault of theirs");
    for backend in proxy.clusters[0].backends() {
        assert_eq!(backend.in_flight(), 0);
        assert_eq!(backend.counters(0).connections_active.get(), 0);
    }
    let status = format!("\"status\":{status},");
    until("it is logged", || {
        String::from_utf8_lossy(&proxy.log.lock().unwrap()).contains(&status)
    });
}

#[test]
fn a_client_that_closes_cancels_what_the_backend_does() {
    on_each_engine(|engine| {
        let (backend, begun, ended) = waiting(b"");
        let proxy = strict(engine, http_plan(), &[&backend]);
        for count in 1..=2 {
            let mut client = proxy.connect();
            client.send(GET);
            begun.recv_timeout(PATIENCE).unwrap();
            drop(client);
            ended
                .recv_timeout(PATIENCE)
                .expect("an end for the backend");
            assert_cancelled(&proxy, count, 499);
        }
    });
}

#[test]
fn a_client_that_closes_amid_a_response_cancels_its_rest() {
    on_each_engine(|engine| {
        for start in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nstart"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: 900000000\r\n\r\nstart",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nstart\r\n",
            b"HTTP/1.1 200 OK\r\n\r\nstart",
        ] {
            let (backend, _begun, ended) = waiting(start);
            let proxy = strict(engine, http_plan(), &[&backend]);
            let mut client = proxy.connect();
            client.send(GET);
            client.line_end(b"start").unwrap();
            drop(client);
            ended
                .recv_timeout(PATIENCE)
                .expect("an end for the backend");
            assert_cancelled(&proxy, 1, 200);
        }
    });
}

#[test]
fn a_client_that_closes_leaves_the_queue() {
    on_each_engine(|engine| {
        let (backend, begun, ended) = waiting(b"");
        let mut cluster = cluster_plan("main", &[backend.address]);
        cluster.exchanges.connections_max = Some(1);
        let proxy = Proxy::start(engine, http_plan(), &[cluster]);
        let mut first = proxy.connect();
        first.send(GET);
        begun.recv_timeout(PATIENCE).unwrap();
        let mut second = proxy.connect();
        second.send(GET);
        let counters = proxy.clusters[0].counters().of(0);
        until("it waits", || counters.queued.get() == 1);
        drop(second);
        until("it waits no more", || counters.queued.get() == 0);
        let shard = proxy.stats.shard(0);
        until("it is counted", || shard.exchanges_aborted.get() == 1);
        assert_eq!(counters.queue_failed.get(), 0);
        drop(first);
        ended.recv_timeout(PATIENCE).unwrap();
    });
}

#[test]
fn a_client_that_closes_ends_the_attempt_to_connect() {
    on_each_engine(|engine| {
        // A listener with a full queue drops the SYN of whoever comes next.
        let stream =
            || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let listener = stream();
        let any: std::net::SocketAddr = ([127, 0, 0, 1], 0).into();
        listener.bind(&any.into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let queued: Vec<_> = (0..4)
            .map(|_| {
                let socket = stream();
                socket.set_nonblocking(true).unwrap();
                drop(socket.connect(&address.into()));
                socket
            })
            .collect();
        thread::sleep(Duration::from_millis(20));
        let proxy = Proxy::to(engine, &[address]);
        let mut client = proxy.connect();
        client.send(GET);
        let counters = proxy.clusters[0].backends()[0].counters(0);
        until("it connects", || counters.connecting.get() == 1);
        drop(client);
        until("it connects no more", || counters.connecting.get() == 0);
        assert_eq!(counters.connect_failures.get(), 0);
        assert_cancelled(&proxy, 1, 499);
        drop(queued);
    });
}

#[test]
fn what_was_sent_ahead_is_answered_before_the_end_counts() {
    on_each_engine(|engine| {
        let (end, ended) = mpsc::channel();
        let backend = Backend::scripted(move |mut connection, _| {
            for answer in ["first", "second"] {
                connection.request();
                // Long enough for the client's end to be there.
                thread::sleep(Duration::from_millis(50));
                connection.send(&ok(answer.as_bytes()));
            }
            connection.request();
            drop(connection.rest());
            let _ = end.send(());
        });
        let proxy = strict(engine, http_plan(), &[&backend]);
        let mut client = proxy.connect();
        client.send(&[GET, GET, GET].concat());
        client.stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.response().text(), "first");
        assert_eq!(client.response().text(), "second");
        assert!(client.is_closed(), "the last one was cancelled");
        ended.recv_timeout(PATIENCE).unwrap();
        assert_cancelled(&proxy, 1, 499);
    });
}

#[test]
fn a_response_that_is_all_here_is_sent_to_a_client_that_has_ended_its_side() {
    on_each_engine(|engine| {
        let len = 200_000;
        let backend = Backend::responding(move |_| ok(&vec![b'x'; len]));
        let mut http = http_plan();
        http.limits.requests_per_connection_max = Some(1);
        let proxy = strict(engine, http, &[&backend]);
        let client = proxy.connect();
        socket2::SockRef::from(&client.stream)
            .set_recv_buffer_size(4096)
            .unwrap();
        let mut client = client;
        client.send(GET);
        until("it was taken from the backend", || {
            proxy.stats.shard(0).sent_bytes.get() > len as u64
        });
        client.stream.shutdown(Shutdown::Write).unwrap();
        thread::sleep(Duration::from_millis(50));
        assert_eq!(client.response().body.len(), len);
        assert!(client.is_closed());
        assert_eq!(proxy.stats.shard(0).exchanges_aborted.get(), 0);
    });
}

#[test]
fn a_client_that_ends_its_side_and_reads_gets_its_response_where_that_is_set() {
    on_each_engine(|engine| {
        let backend = Backend::responding(|_| {
            thread::sleep(Duration::from_millis(50));
            ok(b"late")
        });
        let mut http = http_plan();
        http.exchanges.ignore_client_abort = true;
        let proxy = Proxy::start(engine, http, &[cluster_plan("main", &[backend.address])]);
        let mut client = proxy.connect();
        client.send(GET);
        client.stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.response().text(), "late");
        assert!(client.is_closed());
        assert_eq!(proxy.stats.shard(0).exchanges_aborted.get(), 0);
    });
}

#[test]
fn what_a_backend_does_goes_on_where_that_is_set() {
    on_each_engine(|engine| {
        let (done, is_done) = mpsc::channel();
        let backend = Backend::scripted(move |mut connection: Client, _| {
            while connection.request().is_some() {
                thread::sleep(Duration::from_millis(100));
                let is_open = connection.stream.take_error().unwrap().is_none()
                    && would_block(&connection.stream);
                connection.send(&ok(b"x"));
                let _ = done.send(is_open);
            }
        });
        let mut http = http_plan();
        http.exchanges.ignore_client_abort = true;
        let proxy = Proxy::start(engine, http, &[cluster_plan("main", &[backend.address])]);
        for leave in [drop::<Client>, crate::support::reset] {
            let mut client = proxy.connect();
            client.send(GET);
            leave(client);
            assert!(is_done.recv_timeout(PATIENCE).unwrap(), "it went on");
        }
    });
}

/// Whether the other end of the connection is open, and has said nothing.
fn would_block(stream: &std::net::TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let peeked = stream.peek(&mut [0]);
    stream.set_nonblocking(false).unwrap();
    peeked.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}
