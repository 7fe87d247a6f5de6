//! Out of file descriptors.

use std::process::Command;

use crate::client::Connection;
use crate::harness::{Lb, on_both_engines, wait_until};
use crate::origin::{self, Session};

on_both_engines!(accepting_pauses_and_resumes);

fn accepting_pauses_and_resumes(engine: &str) {
    let mut command = Command::new("sh");
    let origin = origin::tcp("a");
    let tcp = format!("db@127.0.0.1:0={origin}");
    let script = "ulimit -n 64 && exec \"$0\" \"$@\"";
    command.args(["-c", script, env!("CARGO_BIN_EXE_lb"), "--tcp", &tcp]);
    let lb = Lb::spawn(command, engine);
    let db = lb.listener("db");
    let mut admin = Connection::open(lb.admin()); // while there are descriptors
    assert_eq!(admin.get("/readyz").status, 200);
    let mut first = Session::open(db);

    // Each session takes two descriptors of lb; the kernel goes on queueing what lb cannot take.
    let crowd: Vec<_> = (0..60)
        .map(|_| std::net::TcpStream::connect(db).unwrap())
        .collect();
    let pauses = "lb_accept_pauses_total{listener=\"db\"}";
    wait_until("accepting to pause", || {
        let page = admin.get("/metrics").body;
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(pauses))
            .unwrap();
        line.trim().parse::<f64>().unwrap() > 0.0
    });
    assert!(first.echoes(), "sessions go on");
    lb.event("accepting pauses");
    drop(crowd);
    let mut again = None;
    wait_until("accepting to resume", || {
        again = Session::try_open(db);
        again.is_some()
    });
    assert!(again.unwrap().echoes());
    assert!(first.echoes());
}
