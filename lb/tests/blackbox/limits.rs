//! Out of file descriptors.

use std::collections::HashSet;
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, prlimit};

use crate::client::{self, Connection};
use crate::harness::{Folder, Lb, on_both_engines, wait_until};
use crate::origin::{self, HttpOrigin, Session};

on_both_engines!(
    accepting_pauses_and_resumes,
    a_session_waits_for_a_descriptor,
    a_session_without_a_descriptor_ends_as_such,
);

/// Leaves `lb` room for `count` more descriptors; `None` for as many as it had at first.
fn leave_descriptors(lb: &Lb, count: Option<usize>) {
    let folder = format!("/proc/{}/fd", lb.pid().as_raw_nonzero());
    let open = std::fs::read_dir(folder).unwrap();
    let open: HashSet<u64> = open
        .filter_map(|it| it.unwrap().file_name().to_str()?.parse().ok())
        .collect();
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = count.map(|count| (0..).filter(|it| !open.contains(it)).nth(count).unwrap());
    let limit = Rlimit {
        current: limit.or(maximum),
        maximum,
    };
    prlimit(Some(lb.pid()), Resource::Nofile, limit).unwrap();
}

fn start(engine: &str, connect_timeout: &str) -> (Lb, Folder) {
    let folder = Folder::new();
    let text = format!(
        "listeners: [{{name: db, address: '127.0.0.1:0', tcp: {{cluster: c}}}}]\nclusters: {{c: \
         {{connect_timeout: {connect_timeout}, backends: ['{}']}}}}\n",
        origin::tcp("a")
    );
    let path = folder.write("lb.yaml", &text);
    (Lb::start(engine, &["--config", &path]), folder)
}

fn a_session_waits_for_a_descriptor(engine: &str) {
    let (lb, _folder) = start(engine, "1h");
    let front = lb.listener("db");
    let mut admin = Connection::open(lb.admin()); // while there are descriptors
    assert_eq!(admin.get("/readyz").status, 200);
    leave_descriptors(&lb, Some(1));
    let waiting = thread::spawn(move || Session::open(front).echoes());
    wait_until("the client to be in", || {
        let page = admin.get("/metrics").body;
        page.contains("lb_client_connections_active{listener=\"db\"} 1\n")
    });
    // Some tries later it is neither gone nor served.
    thread::sleep(Duration::from_millis(200));
    assert!(!waiting.is_finished());
    leave_descriptors(&lb, None);
    assert!(waiting.join().unwrap(), "served, once there is one");
}

fn a_session_without_a_descriptor_ends_as_such(engine: &str) {
    let (lb, _folder) = start(engine, "100ms");
    let front = lb.listener("db");
    leave_descriptors(&lb, Some(1));
    assert!(Session::try_open(front).is_none());
    leave_descriptors(&lb, None);
    let ended = "lb_sessions_total{listener=\"db\",end=\"resources\"}";
    wait_until("its end to be counted", || lb.metric(ended) == 1.0);
    assert!(Session::open(front).echoes());
}

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
