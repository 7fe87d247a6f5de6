//! The admin API.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::net::TcpStream;

use crate::client::{self, Connection};
use crate::harness::{Lb, on_both_engines, wait_until};
use crate::origin::HttpOrigin;

on_both_engines!(pages, metrics_are_valid, stalled_clients_hurt_nobody);

fn start(engine: &str, origin: &HttpOrigin) -> Lb {
    let http = format!("web@127.0.0.1:0={}", origin.address);
    Lb::start(
        engine,
        &["--http", &http, "--tcp", "db@127.0.0.1:0=127.0.0.1:1"],
    )
}

fn pages(engine: &str) {
    let origin = HttpOrigin::start("a");
    let lb = start(engine, &origin);
    let admin = lb.admin();
    for (path, status, word) in [
        ("/", 200, "/metrics"),
        ("/readyz", 200, "ready"),
        ("/livez", 200, "live"),
        ("/config", 200, "\"generation\": 1"),
        ("/nothing", 404, "not found"),
    ] {
        let response = client::get(admin, path);
        assert_eq!(response.status, status, "{path}");
        assert!(response.body.contains(word), "{path}: {}", response.body);
    }
    let mut connection = Connection::open(admin);
    connection.send("POST /config HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(connection.receive().status, 405);

    let config = lb.config();
    assert_eq!(config["engine"]["name"], engine);
    assert_eq!(config["workers"], 2);
    assert_eq!(
        config["plan"]["listeners"][1]["bound"],
        lb.listener("web").to_string()
    );
}

fn metrics_are_valid(engine: &str) {
    let origin = HttpOrigin::start("a");
    let lb = start(engine, &origin);
    let mut connection = Connection::open(lb.listener("web"));
    for _ in 0..5 {
        assert_eq!(connection.get("/").status, 200);
    }
    let response = client::get(lb.admin(), "/metrics");
    let content_type = response.header("content-type");
    assert_eq!(
        content_type,
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    validate(&response.body);
    // Counted once the last byte of the response is sent, so a moment after it is read.
    let exchanges = "lb_exchanges_total{listener=\"web\",status=\"2xx\"}";
    wait_until("five exchanges", || lb.metric(exchanges) == 5.0);
    assert_eq!(
        lb.metric("lb_client_connections_active{listener=\"web\"}"),
        1.0
    );
    assert_eq!(lb.metric("lb_config_last_reload_successful"), 1.0);
}

/// What a Prometheus server would not take: a family without its type or in two pieces, a series
/// twice, a name or value that does not parse, a histogram that is not cumulative.
fn validate(page: &str) {
    let mut types = HashMap::new();
    let mut series = HashSet::new();
    let mut family = "";
    let mut last_bucket = (String::new(), 0.0);
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            family = rest.split_once(' ').expect("a help text").0;
            assert!(!types.contains_key(family), "{family} is there twice");
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, family);
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            types.insert(name, kind);
            continue;
        }
        let (id, value) = line.rsplit_once(' ').expect("a value");
        let value: f64 = value.parse().expect("a number");
        assert!(series.insert(id), "{id} is there twice");
        let (name, labels) = id.split_once('{').unwrap_or((id, "}"));
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        assert!(
            name.starts_with("lb_") && name.chars().all(is_plain),
            "{name}"
        );
        assert!(labels.ends_with('}'), "{line}");
        if types[family] != "histogram" {
            assert_eq!(name, family);
        } else if name == format!("{family}_bucket") {
            let (others, bound) = labels.split_once("le=").expect("a bound");
            if last_bucket.0 == others && !bound.is_empty() {
                assert!(value >= last_bucket.1, "{line}");
            }
            last_bucket = (others.to_owned(), value);
        } else if name == format!("{family}_count") {
            assert_eq!(value, last_bucket.1, "the last bucket counts all: {line}");
        } else {
            assert_eq!(name, format!("{family}_sum"));
        }
    }
    assert!(series.len() > 30, "{page}");
}

fn stalled_clients_hurt_nobody(engine: &str) {
    let origin = HttpOrigin::start("a");
    let lb = start(engine, &origin);
    let admin = lb.admin();
    let stalled: Vec<_> = (0..40)
        .map(|_| {
            let mut stream = TcpStream::connect(admin).unwrap();
            stream.write_all(b"GET /metrics HTT").unwrap();
            stream
        })
        .collect();
    assert_eq!(client::get(admin, "/readyz").status, 200);
    assert_eq!(client::get(lb.listener("web"), "/").body, "a");
    drop(stalled);
}
