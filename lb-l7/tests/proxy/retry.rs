//! Backends that die under load: what is asked again of another, and what must not be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lb_core::rt::now_precise;

use crate::support::{Backend, Client, PATIENCE, Proxy, ok, on_each_engine, refusing, reset};

/// A backend that answers with `name` until it is dead; then it resets whoever asks.
fn mortal(name: &'static str, is_dead: &Arc<AtomicBool>) -> Backend {
    let is_dead = Arc::clone(is_dead);
    Backend::scripted(move |mut connection, _| {
        while connection.request().is_some() {
            if is_dead.load(Ordering::Relaxed) {
                return reset(connection);
            }
            connection.send(&ok(name.as_bytes()));
        }
    })
}

fn retries(proxy: &Proxy) -> u64 {
    proxy.clusters[0].counters().of(0).retries.get()
}

/// Waits until nothing is in flight any more.
fn assert_nothing_in_flight(proxy: &Proxy) {
    let since = now_precise();
    let in_flight = || {
        let backends = proxy.clusters[0].backends().iter();
        backends.map(|backend| backend.in_flight()).sum::<u32>()
    };
    while in_flight() > 0 {
        let waited = now_precise().saturating_duration_since(since);
        assert!(waited < PATIENCE, "{} in flight", in_flight());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn what_a_dying_backend_did_not_answer_another_does() {
    on_each_engine(|engine| {
        let is_dead = Arc::default();
        let (dying, living) = (mortal("dying", &is_dead), Backend::named("living"));
        let proxy = Proxy::to(engine, &[dying.address, living.address]);
        // Each client has had an answer of each, so that connections to both are pooled.
        let mut clients: Vec<Client> = (0..8).map(|_| proxy.connect()).collect();
        for client in &mut clients {
            let mut names = [client.get("/"), client.get("/")].map(|it| it.text().to_owned());
            names.sort();
            assert_eq!(names, ["dying", "living"]);
        }
        is_dead.store(true, Ordering::Relaxed);
        for round in 0..4 {
            for client in &mut clients {
                client.send(if round % 2 == 0 {
                    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".as_slice()
                } else {
                    b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab"
                });
            }
            for client in &mut clients {
                let response = client.response();
                assert_eq!((response.status, response.text()), (200, "living"));
            }
        }
        assert!(retries(&proxy) > 0);
        assert_nothing_in_flight(&proxy);
    });
}

#[test]
fn what_may_have_been_processed_is_not_asked_of_another() {
    on_each_engine(|engine| {
        let is_dead = Arc::new(AtomicBool::new(true));
        let (dead, living) = (mortal("dead", &is_dead), Backend::named("living"));
        let proxy = Proxy::to(engine, &[dead.address, living.address]);
        let mut statuses = [0, 0];
        for _ in 0..6 {
            let mut client = proxy.connect();
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab");
            match client.response().status {
                200 => statuses[0] += 1,
                502 => statuses[1] += 1,
                other => panic!("{other}"),
            }
        }
        assert_eq!(statuses, [3, 3], "in turns");
        assert_eq!(retries(&proxy), 0);
        assert_nothing_in_flight(&proxy);
    });
}

#[test]
fn a_request_whose_body_is_gone_is_not_asked_of_another() {
    on_each_engine(|engine| {
        let (got_head, has_head) = std::sync::mpsc::channel();
        let backend = |is_dying: bool| {
            let got_head = got_head.clone();
            Backend::scripted(move |mut connection, _| {
                if connection.head().is_err() {
                    return;
                }
                got_head.send(()).unwrap();
                connection.take(4).unwrap();
                if is_dying {
                    return reset(connection);
                }
                connection.send(&ok(b"living"));
            })
        };
        let backends = [backend(true), backend(false)];
        let proxy = Proxy::to(engine, &backends.each_ref().map(|it| it.address));
        let mut statuses = Vec::new();
        for _ in 0..2 {
            let mut client = proxy.connect();
            client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n");
            has_head.recv_timeout(PATIENCE).unwrap();
            client.send(b"abcd"); // which the head did not bring along
            statuses.push(client.response().status);
        }
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 502]);
        assert_eq!(retries(&proxy), 0);
    });
}

#[test]
fn no_more_backends_are_asked_than_may_be_tried() {
    on_each_engine(|engine| {
        let is_dead = Arc::new(AtomicBool::new(true));
        let dead: Vec<Backend> = (0..5).map(|_| mortal("dead", &is_dead)).collect();
        let addresses: Vec<_> = dead.iter().map(|backend| backend.address).collect();
        let proxy = Proxy::to(engine, &addresses);
        let response = proxy.ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert_eq!(response.status, 502, "{}", response.text());
        let asked: usize = dead.iter().map(Backend::connections).sum();
        assert_eq!((asked, retries(&proxy)), (3, 2));
        assert_nothing_in_flight(&proxy);
    });
}

#[test]
fn the_next_backend_is_asked_by_a_pooled_connection() {
    on_each_engine(|engine| {
        let living = Backend::named("living");
        let proxy = Proxy::to(engine, &[refusing(), living.address]);
        let mut client = proxy.connect();
        for _ in 0..6 {
            assert_eq!(client.get("/").text(), "living");
        }
        assert_eq!(living.connections(), 1);
    });
}

#[test]
fn an_exchange_is_in_flight_until_its_response_has_ended_or_its_client_has_left() {
    on_each_engine(|engine| {
        let (begun, is_begun) = std::sync::mpsc::channel();
        let (go_on, may_go_on) = std::sync::mpsc::channel();
        let may_go_on = std::sync::Mutex::new(may_go_on);
        let backend = Backend::scripted(move |mut connection, _| {
            while connection.request().is_some() {
                connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na");
                begun.send(()).unwrap();
                if may_go_on.lock().unwrap().recv_timeout(PATIENCE).is_err() {
                    return;
                }
                connection.send(b"b");
            }
        });
        let proxy = Proxy::to(engine, &[backend.address]);
        let in_flight = || proxy.clusters[0].backends()[0].in_flight();
        let mut client = proxy.connect();
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        is_begun.recv_timeout(PATIENCE).unwrap();
        assert_eq!(in_flight(), 1);
        go_on.send(()).unwrap();
        assert_eq!(client.response().text(), "ab");
        assert_nothing_in_flight(&proxy);
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        is_begun.recv_timeout(PATIENCE).unwrap();
        assert_eq!(in_flight(), 1);
        reset(client);
        assert_nothing_in_flight(&proxy);
        go_on.send(()).unwrap();
    });
}
