//! Connections to backends, and who waits for one, as settings of the built program.
//!
//! Read next: `exchanges.rs` (what happens on them).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::ends::{Backend, Client, ok};
use crate::harness::{Folder, Lb, on_both_engines, wait_until};

on_both_engines!(
    a_connection_is_used_so_often,
    a_connection_grows_only_so_old,
    so_many_are_kept_idle_and_for_so_long,
    the_one_used_last_is_used_next,
    idle_ones_are_kept_ready,
    who_finds_no_connection_waits_or_is_told,
);

/// `lb` with one cluster of these backends, and these settings of it; with its folder.
pub(crate) fn start(
    engine: &str,
    backends: &[&Backend],
    settings: &str,
    http: &str,
) -> (Lb, Folder) {
    let folder = Folder::new();
    let backends: Vec<String> = backends
        .iter()
        .map(|it| format!("\"{}\"", it.address))
        .collect();
    let file = format!(
        "listeners:\n- {{name: web, address: '127.0.0.1:0', http: {{cluster: c{http}}}}}\n\
         clusters:\n  c: {{balance: rr, backends: [{}]{settings}}}\n",
        backends.join(", ")
    );
    let path = folder.write("lb.yaml", &file);
    (Lb::start(engine, &["--config", &path]), folder)
}

/// Answers each request with the number of the connection that it came on.
fn numbering() -> Backend {
    Backend::scripted(|mut connection, number| {
        while connection.request().is_some() {
            connection.send(&ok(number.to_string().as_bytes()));
        }
    })
}

fn a_connection_is_used_so_often(engine: &str) {
    let backend = numbering();
    let (lb, _folder) = start(engine, &[&backend], ", pool: {exchanges: 3}", "");
    let mut client = Client::to(lb.listener("web"));
    let numbers: Vec<String> = (0..8).map(|_| client.get("/").text().to_owned()).collect();
    assert_eq!(numbers, ["0", "0", "0", "1", "1", "1", "2", "2"]);
}

fn a_connection_grows_only_so_old(engine: &str) {
    let backend = numbering();
    let (lb, _folder) = start(engine, &[&backend], ", pool: {age: 100ms}", "");
    let mut client = Client::to(lb.listener("web"));
    let first = client.get("/").text().to_owned();
    thread::sleep(Duration::from_millis(110));
    assert_ne!(client.get("/").text(), first);
}

fn so_many_are_kept_idle_and_for_so_long(engine: &str) {
    let (backend, release) = held();
    let settings = ", pool: {idle: 1, idle_timeout: 300ms}";
    let (lb, _folder) = start(engine, &[&backend], settings, "");
    let mut clients = asking(&lb, 8);
    wait_until("eight connections", || backend.connections() == 8);
    release.store(true, Ordering::Relaxed);
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    let idle = format!(
        "lb_backend_connections_idle{{cluster=\"c\",backend=\"{0}\",address=\"{0}\"}}",
        backend.address
    );
    wait_until("few of them to be kept", || lb.metric(&idle) <= 2.0); // one of each worker
    wait_until("none of them to be kept", || lb.metric(&idle) == 0.0);
}

fn the_one_used_last_is_used_next(engine: &str) {
    let backend = numbering();
    let (lb, _folder) = start(engine, &[&backend], ", pool: {ready: 3}", "");
    wait_until("ready ones", || backend.connections() == 6);
    let mut client = Client::to(lb.listener("web"));
    let first = client.get("/").text().to_owned();
    for _ in 0..6 {
        assert_eq!(client.get("/").text(), first);
    }
}

fn idle_ones_are_kept_ready(engine: &str) {
    let backend = numbering();
    let (lb, _folder) = start(engine, &[&backend], ", pool: {ready: 2}", "");
    wait_until("two of each worker", || backend.connections() == 4);
    let mut client = Client::to(lb.listener("web"));
    for _ in 0..3 {
        let number: usize = client.get("/").text().parse().unwrap();
        assert!(number < 4, "one that was ready");
    }
}

fn who_finds_no_connection_waits_or_is_told(engine: &str) {
    let (backend, release) = held();
    let settings = ", pool: {connections: 1}, queue: {max: 1, timeout: 20s}";
    let (lb, _folder) = start(engine, &[&backend], settings, "");
    let mut clients = Vec::new();
    let [queued, failed] = ["lb_cluster_queued", "lb_cluster_queue_failed_total"]
        .map(|it| format!("{it}{{cluster=\"c\"}}"));
    wait_until("both workers to be busy", || {
        clients.extend(asking(&lb, 1));
        clients.len() > 100 || lb.metric(&queued) == 2.0 && lb.metric(&failed) >= 1.0
    });
    assert_eq!(backend.connections(), 2, "one of each worker");
    release.store(true, Ordering::Relaxed);
    let answered = clients.into_iter().map(|mut it| it.response().status);
    let (good, busy): (Vec<u16>, Vec<u16>) = answered.partition(|it| *it == 200);
    // Who came last may have found that there was room again.
    assert!(good.len() >= 4, "{good:?}");
    assert!(!busy.is_empty() && busy.iter().all(|it| *it == 503));

    let (backend, release) = held();
    let settings = ", pool: {connections: 1}, queue: {timeout: 100ms}";
    let (lb, _folder) = start(engine, &[&backend], settings, "");
    let mut clients = asking(&lb, 2);
    wait_until("both workers to be busy", || {
        clients.extend(asking(&lb, 1));
        backend.connections() == 2
    });
    let late = clients.len() - 2;
    wait_until("the deadline", || lb.metric(&failed) == late as f64);
    release.store(true, Ordering::Relaxed);
    let statuses = clients.into_iter().map(|mut it| it.response().status);
    assert_eq!(statuses.filter(|it| *it == 503).count(), late);
}

/// A backend that answers nothing until it is told to.
fn held() -> (Backend, Arc<AtomicBool>) {
    let release = Arc::<AtomicBool>::default();
    let is_released = Arc::clone(&release);
    let served = Arc::new(AtomicUsize::new(0));
    let backend = Backend::scripted(move |mut connection, _| {
        while connection.request().is_some() {
            while !is_released.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(2));
            }
            served.fetch_add(1, Ordering::Relaxed);
            connection.send(&ok(b"late"));
        }
    });
    (backend, release)
}

fn asking(lb: &Lb, count: usize) -> Vec<Client> {
    let ask = |_| {
        let mut client = Client::to(lb.listener("web"));
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        client
    };
    (0..count).map(ask).collect()
}
