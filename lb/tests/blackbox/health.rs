//! Health checks.

use std::net::TcpListener;

use crate::harness::{Folder, Lb, on_both_engines, wait_until};
use crate::origin::{self, Session};

on_both_engines!(a_backend_falls_and_rises);

fn a_backend_falls_and_rises(engine: &str) {
    let folder = Folder::new();
    let down = origin::nowhere();
    let config = folder.write(
        "lb.yaml",
        &format!(
            "listeners: [{{name: db, address: '127.0.0.1:0', tcp: {{cluster: db}}}}]\n\
             clusters:\n  db:\n    backends: [{}, '{down}']\n    \
             health: {{check: tcp, interval: 20ms, timeout: 5s, rise: 2, fall: 2}}\n",
            origin::tcp("a")
        ),
    );
    let lb = Lb::start(engine, &["--config", &config]);
    let fallen = lb.event("backend is down");
    assert_eq!(fallen["address"], down.to_string());
    assert!(
        fallen["reason"].as_str().unwrap().contains("refused"),
        "{fallen}"
    );
    let healthy = |index: usize| {
        lb.config()["plan"]["clusters"][0]["backends"][index]["healthy"]
            .as_bool()
            .unwrap()
    };
    assert!(healthy(0) && !healthy(1));
    for _ in 0..6 {
        assert_eq!(Session::open(lb.listener("db")).origin, "a");
    }
    let failures = format!(
        "lb_backend_connect_failures_total{{cluster=\"db\",backend=\"{down}\",address=\"{down}\"}}"
    );
    let failed_before = lb.metric(&failures);
    Session::open(lb.listener("db"));
    assert_eq!(
        lb.metric(&failures),
        failed_before,
        "an unhealthy backend is not tried"
    );

    let _back = TcpListener::bind(down).unwrap();
    lb.event("backend is up");
    wait_until("the backend to be healthy", || healthy(1));
}
