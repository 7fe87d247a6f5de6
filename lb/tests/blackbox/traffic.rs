//! Balancing as a user sees it.

use std::collections::HashMap;

use crate::client::{self, Connection};
use crate::harness::{Folder, Lb, on_both_engines, wait_until};
use crate::origin::{self, HttpOrigin, Session};

use rustix::process::Signal;

on_both_engines!(
    http_goes_round,
    routes_choose_the_cluster,
    tcp_goes_round_and_skips_the_dead,
    a_hash_keeps_a_client_where_it_is,
    the_access_log_is_written_and_reopened,
);

fn http_goes_round(engine: &str) {
    let origins = ["a", "b", "c"].map(HttpOrigin::start);
    let backends = origins
        .each_ref()
        .map(|origin| origin.address.to_string())
        .join(",");
    let lb = Lb::start(engine, &["--http", &format!("web@127.0.0.1:0={backends}")]);
    let mut answers: HashMap<String, usize> = HashMap::new();
    // One connection is one worker, so its turns are exact.
    let mut connection = Connection::open(lb.listener("web"));
    for _ in 0..30 {
        *answers.entry(connection.get("/").body).or_default() += 1;
    }
    assert_eq!(
        answers,
        HashMap::from(["a", "b", "c"].map(|name| (name.to_owned(), 10)))
    );
}

fn routes_choose_the_cluster(engine: &str) {
    let (shop, cart) = (HttpOrigin::start("shop"), HttpOrigin::start("cart"));
    let lb = Lb::start(
        engine,
        &[
            "--http",
            "web@127.0.0.1:0",
            "--route",
            &format!("test.example={}", shop.address),
            "--route",
            &format!("*/cart={}", cart.address),
        ],
    );
    let web = lb.listener("web");
    assert_eq!(client::get(web, "/").body, "shop");
    let mut connection = Connection::open(web);
    connection.send("GET /cart/1 HTTP/1.1\r\nHost: other.example\r\n\r\n");
    assert_eq!(connection.receive().body, "cart");
    connection.send("GET /cartoon HTTP/1.1\r\nHost: other.example\r\n\r\n");
    assert_eq!(connection.receive().status, 404);
}

fn tcp_goes_round_and_skips_the_dead(engine: &str) {
    let backends = format!(
        "{},{},{}",
        origin::tcp("a"),
        origin::nowhere(),
        origin::tcp("b")
    );
    let lb = Lb::start(engine, &["--tcp", &format!("db@127.0.0.1:0={backends}")]);
    let mut seen: Vec<String> = (0..12)
        .map(|_| {
            let mut session = Session::open(lb.listener("db"));
            assert!(session.echoes());
            session.origin
        })
        .collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen, ["a", "b"]);
}

fn a_hash_keeps_a_client_where_it_is(engine: &str) {
    let backends = format!(
        "{},{},{}",
        origin::tcp("a"),
        origin::tcp("b"),
        origin::tcp("c")
    );
    let tcp = format!("db@127.0.0.1:0={backends}");
    let lb = Lb::start(engine, &["--tcp", &tcp, "--balance", "mh"]);
    let first = Session::open(lb.listener("db")).origin;
    for _ in 0..10 {
        assert_eq!(Session::open(lb.listener("db")).origin, first);
    }
}

fn the_access_log_is_written_and_reopened(engine: &str) {
    let origin = HttpOrigin::start("a");
    let folder = Folder::new();
    let (log, moved) = (folder.path("access.log"), folder.path("access.log.1"));
    let http = format!("web@127.0.0.1:0={}", origin.address);
    let lb = Lb::start(engine, &["--http", &http, "--access-log", &log]);
    let has_line = |path: &str, target: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines = text.lines().map(serde_json::from_str::<serde_json::Value>);
        lines.into_iter().any(|line| {
            let line = line.expect("each line is JSON");
            line["target"] == target && line["status"] == 200
        })
    };
    assert_eq!(client::get(lb.listener("web"), "/one").status, 200);
    wait_until("the first line", || has_line(&log, "/one"));
    std::fs::rename(&log, &moved).unwrap();
    lb.signal(Signal::HUP);
    wait_until("the file to be opened anew", || {
        std::fs::exists(&log).unwrap()
    });
    assert_eq!(client::get(lb.listener("web"), "/two").status, 200);
    wait_until("the second line", || has_line(&log, "/two"));
    assert!(!has_line(&moved, "/two"));
}
