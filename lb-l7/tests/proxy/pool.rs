//! Connections to backends: how many, how old, who waits for one; and how often a request is tried.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use lb_core::plan::{self, RetryBudget};
use lb_core::rt::EngineKind;

use crate::support::{Backend, PATIENCE, Proxy, cluster_plan, http_plan, ok, on_each_engine};

fn proxy(
    engine: EngineKind,
    backends: &[&Backend],
    set: impl FnOnce(&mut plan::ClusterExchanges),
) -> Proxy {
    let addresses: Vec<_> = backends.iter().map(|it| it.address).collect();
    let mut cluster = cluster_plan("main", &addresses);
    set(&mut cluster.exchanges);
    Proxy::start(engine, http_plan(), &[cluster])
}

/// Answers requests when it is told to.
fn held() -> (Backend, Arc<AtomicBool>) {
    let go = Arc::<AtomicBool>::default();
    let told = Arc::clone(&go);
    let backend = Backend::responding(move |_| {
        while !told.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(5));
        }
        ok(b"late")
    });
    (backend, go)
}

#[test]
fn exchanges_beyond_the_connections_wait_for_one() {
    on_each_engine(|engine| {
        let (backend, go) = held();
        let proxy = proxy(engine, &[&backend], |it| it.connections_max = Some(1));
        let clients: Vec<_> = (0..5)
            .map(|_| {
                let mut client = proxy.connect();
                client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                client
            })
            .collect();
        let counters = proxy.clusters[0].counters().of(0);
        while counters.queued.get() < 4 {
            thread::sleep(Duration::from_millis(5));
        }
        go.store(true, Ordering::Relaxed);
        for mut client in clients {
            assert_eq!(client.response().text(), "late");
        }
        assert_eq!((counters.queued.get(), counters.queue_failed.get()), (0, 0));
        assert_eq!(counters.queue_entered.get(), 4);
        assert_eq!(backend.connections(), 1);
    });
}

#[test]
fn a_connection_that_breaks_makes_room_too() {
    on_each_engine(|engine| {
        let backend = Backend::scripted(|mut connection, _| {
            connection.request();
            thread::sleep(Duration::from_millis(20));
            connection.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx");
        });
        let proxy = proxy(engine, &[&backend], |it| it.connections_max = Some(1));
        let mut clients: Vec<_> = (0..4).map(|_| proxy.connect()).collect();
        for client in &mut clients {
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        }
        for client in &mut clients {
            assert_eq!(client.response().status, 200);
        }
        assert_eq!(backend.connections(), 4);
    });
}

#[test]
fn who_waits_too_long_or_finds_too_many_is_503() {
    on_each_engine(|engine| {
        let (backend, go) = held();
        let proxy = proxy(engine, &[&backend], |it| {
            it.connections_max = Some(1);
            it.queue_max = 1;
            it.queue_timeout = Duration::from_millis(150);
        });
        let mut first = proxy.connect();
        first.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let counters = proxy.clusters[0].counters().of(0);
        while backend.connections() == 0 {
            thread::sleep(Duration::from_millis(5));
        }
        let mut second = proxy.connect();
        second.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        while counters.queue_entered.get() == 0 {
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(proxy.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").status, 503);
        assert_eq!(second.response().status, 503);
        assert_eq!(counters.queue_failed.get(), 2);
        go.store(true, Ordering::Relaxed);
        assert_eq!(first.response().status, 200);
        assert_eq!(second.get("/").status, 200);
    });
}

#[test]
fn a_connection_serves_so_many_exchanges() {
    on_each_engine(|engine| {
        let backend = Backend::named("a");
        let proxy = proxy(engine, &[&backend], |it| {
            it.connection_exchanges_max = Some(3)
        });
        let mut client = proxy.connect();
        for _ in 0..9 {
            assert_eq!(client.get("/").status, 200);
        }
        assert_eq!(backend.connections(), 3);
    });
}

#[test]
fn a_connection_grows_only_so_old() {
    on_each_engine(|engine| {
        let backend = Backend::named("a");
        let age = Duration::from_millis(100);
        let proxy = proxy(engine, &[&backend], |it| it.connection_age_max = Some(age));
        let mut client = proxy.connect();
        client.get("/");
        thread::sleep(age * 2);
        client.get("/");
        assert_eq!(backend.connections(), 2);
        let idle = &proxy.clusters[0].backends()[0].counters(0).connections_idle;
        while idle.get() == 0 {
            thread::sleep(Duration::from_millis(5)); // it is kept after the client has its answer
        }
        assert_eq!(idle.get(), 1);
    });
}

/// Hangs on every request.
fn silent() -> Backend {
    Backend::scripted(|mut connection, _| {
        connection.request();
        thread::sleep(PATIENCE);
    })
}

#[test]
fn a_slow_try_is_followed_by_another() {
    on_each_engine(|engine| {
        let (slow, fast) = (silent(), Backend::named("fast"));
        let proxy = proxy(engine, &[&slow, &fast], |it| {
            it.try_timeout = Some(Duration::from_millis(100));
        });
        for _ in 0..2 {
            let response = proxy.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(response.text(), "fast");
        }
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
        let mut statuses = [0, 1].map(|_| proxy.ask(post).status);
        statuses.sort_unstable();
        assert_eq!(
            statuses,
            [200, 504],
            "what is not idempotent is not repeated"
        );
    });
}

#[test]
fn all_tries_together_are_bounded() {
    on_each_engine(|engine| {
        let backends = [silent(), silent(), silent()];
        let proxy = proxy(engine, &backends.each_ref(), |it| {
            it.try_timeout = Some(Duration::from_millis(150));
            it.total_timeout = Some(Duration::from_millis(200));
        });
        let response = proxy.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(response.status, 504);
        assert_eq!(proxy.clusters[0].counters().of(0).retries.get(), 1);
    });
}

#[test]
fn retries_have_a_budget() {
    on_each_engine(|engine| {
        let requests = Arc::<AtomicUsize>::default();
        let seen = Arc::clone(&requests);
        let close = move |mut connection: crate::support::Client, _| {
            connection.request();
            seen.fetch_add(1, Ordering::Relaxed);
        };
        let backends = [Backend::scripted(close.clone()), Backend::scripted(close)];
        let proxy = proxy(engine, &backends.each_ref(), |it| {
            it.retry_budget = Some(RetryBudget {
                percent: 50,
                per_second: 0,
            });
        });
        let mut client = proxy.connect();
        for _ in 0..20 {
            assert_eq!(client.get("/").status, 502);
        }
        assert_eq!(requests.load(Ordering::Relaxed), 30);
        let counters = proxy.clusters[0].counters().of(0);
        assert_eq!(
            (counters.retries.get(), counters.retries_denied.get()),
            (10, 10)
        );
    });
}
