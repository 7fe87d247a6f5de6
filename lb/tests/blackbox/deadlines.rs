//! How long is waited, for whom: connecting, heads, bodies, idle connections. Deadlines of a try, of
//! all of them and of the queue are in `exchanges.rs` and `pools.rs`.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use socket2::{Domain, Socket, Type};

use crate::ends::{Backend, Client, ok};
use crate::harness::{Folder, Lb, on_both_engines, wait_until};
use crate::pools::start;

on_both_engines!(
    who_does_not_accept_in_time_is_left,
    the_time_of_a_try_includes_connecting,
    a_head_that_comes_too_slowly_is_504,
    a_body_that_stops_is_cut_off,
    a_client_that_takes_nothing_is_cut_off,
    a_client_that_asks_nothing_is_closed,
);

/// A listener whose queue is full: whoever connects gets no answer.
struct Deaf {
    address: SocketAddr,
    _sockets: Vec<Socket>,
}

impl Deaf {
    fn new() -> Self {
        let socket = || Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let listener = socket();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        listener.bind(&any.into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut sockets = vec![listener];
        for _ in 0..4 {
            let queued = socket();
            queued.set_nonblocking(true).unwrap();
            drop(queued.connect(&address.into()));
            sockets.push(queued);
        }
        wait_until("its queue to be full", || {
            let waits = std::time::Duration::from_millis(100);
            std::net::TcpStream::connect_timeout(&address, waits).is_err()
        });
        Self {
            address,
            _sockets: sockets,
        }
    }
}

fn to(engine: &str, backends: &[SocketAddr], settings: &str) -> (Lb, Folder) {
    let folder = Folder::new();
    let backends: Vec<_> = backends.iter().map(|it| format!("'{it}'")).collect();
    let file = format!(
        "listeners:\n- {{name: web, address: '127.0.0.1:0', http: {{cluster: c}}}}\n\
         clusters:\n  c: {{balance: rr, retry_budget: none, backends: [{}]{settings}}}\n",
        backends.join(", ")
    );
    let path = folder.write("lb.yaml", &file);
    (Lb::start(engine, &["--config", &path]), folder)
}

/// Requests go to the backend that answers; alone, the other one is `status`.
fn is_left(engine: &str, settings: &str, status: u16) -> Lb {
    let (deaf, quick) = (Deaf::new(), Backend::named("quick"));
    let both = [deaf.address, quick.address];
    let (lb, _folder) = to(engine, &both, settings);
    let mut client = Client::to(lb.listener("web"));
    for _ in 0..4 {
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab");
        assert_eq!(client.response().text(), "quick", "nothing was sent");
    }
    let failures = |lb: &Lb| {
        lb.metric(&format!(
            "lb_backend_connect_failures_total{{cluster=\"c\",backend=\"{0}\",address=\"{0}\"}}",
            deaf.address
        ))
    };
    assert!(failures(&lb) >= 1.0);
    let (lb, _folder) = to(engine, &[deaf.address], settings);
    let mut client = Client::to(lb.listener("web"));
    assert_eq!(client.get("/").status, status);
    assert_eq!(failures(&lb), 1.0);
    lb
}

fn who_does_not_accept_in_time_is_left(engine: &str) {
    is_left(engine, ", connect_timeout: 200ms", 503);
}

fn the_time_of_a_try_includes_connecting(engine: &str) {
    is_left(engine, ", connect_timeout: 1h, timeouts: {try: 200ms}", 503);
    // All tries together are bounded, too, and that is no word about the backend.
    let deaf = Deaf::new();
    let settings = ", connect_timeout: 1h, timeouts: {total: 200ms}";
    let (lb, _folder) = to(engine, &[deaf.address], settings);
    assert_eq!(Client::to(lb.listener("web")).get("/").status, 504);
}

fn a_head_that_comes_too_slowly_is_504(engine: &str) {
    let backend = Backend::scripted(|mut connection, _| {
        if connection.head().is_ok() {
            connection.send(b"HTTP/1.1 200 OK\r\nContent-");
            drop(connection.rest());
        }
    });
    let (lb, _folder) = start(
        engine,
        &[&backend],
        "",
        ", timeouts: {response_head: 200ms}",
    );
    let mut client = Client::to(lb.listener("web"));
    for _ in 0..2 {
        assert_eq!(
            client.get("/").status,
            504,
            "and the client's connection stays"
        );
    }
}

fn a_body_that_stops_is_cut_off(engine: &str) {
    let ended = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&ended);
    let backend = Backend::scripted(move |mut connection, _| {
        connection.stream.set_read_timeout(None).unwrap();
        drop(connection.head());
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\nsome of it");
        drop(connection.rest());
        count.fetch_add(1, Ordering::SeqCst);
    });
    let (lb, _folder) = start(engine, &[&backend], "", ", timeouts: {body_idle: 200ms}");
    let mut client = Client::to(lb.listener("web"));
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let end = client.stream.read_to_end(&mut Vec::new());
    let error = end.expect_err("it is not whole");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    wait_until("the backend's to end", || ended.load(Ordering::SeqCst) == 1);
}

fn a_client_that_takes_nothing_is_cut_off(engine: &str) {
    let ended = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&ended);
    let backend = Backend::scripted(move |mut connection, _| {
        connection.stream.set_write_timeout(None).unwrap();
        drop(connection.head());
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n");
        while connection.stream.write_all(&[b'x'; 1 << 16]).is_ok() {}
        count.fetch_add(1, Ordering::SeqCst);
    });
    let (lb, _folder) = start(engine, &[&backend], "", ", timeouts: {body_idle: 300ms}");
    let mut client = Client::to(lb.listener("web"));
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_until("both to be ended", || ended.load(Ordering::SeqCst) == 1);
    drop(client);
}

fn a_client_that_asks_nothing_is_closed(engine: &str) {
    let backend = Backend::responding(|_| ok(b"it"));
    let (lb, _folder) = start(engine, &[&backend], "", ", timeouts: {keep_alive: 300ms}");
    let mut client = Client::to(lb.listener("web"));
    for _ in 0..2 {
        assert_eq!(client.get("/").text(), "it");
    }
    assert!(client.is_closed());
    let active = "lb_client_connections_active{listener=\"web\"}";
    wait_until("it to be gone", || lb.metric(active) == 0.0);
}
