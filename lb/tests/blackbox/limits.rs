//! Out of file descriptors.

use std::net::TcpStream;
use std::process::Command;

use crate::client::{self, Connection};
use crate::harness::{Lb, on_both_engines, wait_until};
use crate::origin::{self, HttpOrigin, Session};

on_both_engines!(accepting_pauses_and_resumes);

fn accepting_pauses_and_resumes(engine: &str) {
    let origin = HttpOrigin::start("a");
    let http = format!("web@127.0.0.1:0={}", origin.address);
    let tcp = format!("db@127.0.0.1:0={}", origin::tcp("a"));
    let mut command = Command::new("sh");
    let script = "ulimit -n 64 && exec \"$0\" \"$@\"";
    command.args(["-c", script, env!("CARGO_BIN_EXE_lb")]);
    command.args(["--http", &http, "--tcp", &tcp]);
    let lb = Lb::spawn(command, engine);
    let web = lb.listener("web");
    let mut admin = Connection::open(lb.admin()); // while there are descriptors
    assert_eq!(admin.get("/readyz").status, 200);
    let mut session = Session::open(lb.listener("db"));

    // Silent clients, each a descriptor of lb; the kernel queues those that lb cannot take.
    let crowd: Vec<_> = (0..100).map(|_| TcpStream::connect(web).unwrap()).collect();
    let pauses = "lb_accept_pauses_total{listener=\"web\"}";
    wait_until("accepting to pause", || {
        let page = admin.get("/metrics").body;
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(pauses))
            .unwrap();
        line.trim().parse::<f64>().unwrap() > 0.0
    });
    lb.event("accepting pauses");
    assert!(session.echoes(), "sessions go on");
    drop(crowd);
    // A request needs two descriptors, and those of the crowd come back one by one.
    wait_until("accepting to resume", || client::get(web, "/").body == "a");
    assert!(session.echoes());
}
