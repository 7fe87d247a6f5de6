//! Changes of the configuration while it runs.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use rustix::process::Signal;

use crate::client::{self, Connection};
use crate::harness::{Folder, Lb, on_both_engines, wait_until};
use crate::origin::{self, HttpOrigin, Session};

on_both_engines!(
    a_written_file_is_taken_up_without_losing_a_connection,
    a_bad_file_changes_nothing,
    listeners_come_and_go,
    a_removed_backends_sessions_may_end_until_the_drain_deadline,
    a_removed_listener_stops_accepting_and_its_sessions_go_on,
    a_config_map_swap_and_a_rename_are_noticed,
    no_request_is_lost_under_load,
    a_port_in_use_refuses_the_whole_change,
    a_new_host_name_is_resolved_first,
);

fn config(web: SocketAddr, db: SocketAddr) -> String {
    format!(
        "listeners:\n  - {{name: web, address: '127.0.0.1:0', http: {{cluster: web}}}}\n  \
         - {{name: db, address: '127.0.0.1:0', tcp: {{cluster: db}}}}\n\
         clusters:\n  web: {{backends: ['{web}']}}\n  db: {{backends: ['{db}']}}\n"
    )
}

fn a_written_file_is_taken_up_without_losing_a_connection(engine: &str) {
    let (one, two) = (HttpOrigin::start("one"), HttpOrigin::start("two"));
    let folder = Folder::new();
    let path = folder.write("lb.yaml", &config(one.address, origin::tcp("one")));
    let lb = Lb::start(engine, &["--config", &path]);
    let mut kept = Connection::open(lb.listener("web"));
    assert_eq!(kept.get("/").body, "one");
    let mut session = Session::open(lb.listener("db"));

    folder.write("lb.yaml", &config(two.address, origin::tcp("two")));
    lb.wait_for_generation(2);
    assert_eq!(
        kept.get("/").body,
        "two",
        "the next exchange of a connection is on the new plan"
    );
    assert!(
        session.echoes() && session.origin == "one",
        "a session ends where it began"
    );
    assert_eq!(Session::open(lb.listener("db")).origin, "two");

    lb.signal(Signal::HUP);
    lb.event("the configuration is as before");
    assert_eq!(kept.get("/").body, "two");
    assert!(session.echoes());
    assert_eq!(lb.metric("lb_config_generation"), 2.0);
}

fn a_bad_file_changes_nothing(engine: &str) {
    let (one, two) = (HttpOrigin::start("one"), HttpOrigin::start("two"));
    let db = origin::tcp("db");
    let folder = Folder::new();
    let path = folder.write("lb.yaml", &config(one.address, db));
    let lb = Lb::start(engine, &["--config", &path]);
    let bad = format!("{}lisners: []\n", config(two.address, db));
    folder.write("lb.yaml", &bad);
    let refused = lb.event("the configuration is refused; the one before goes on");
    let problem = refused["problem"].as_str().unwrap();
    assert!(
        problem.starts_with(&format!("{path}:7:1: lisners: ")),
        "{problem}"
    );
    assert_eq!(client::get(lb.listener("web"), "/").body, "one");
    assert_eq!(lb.metric("lb_config_last_reload_successful"), 0.0);
    assert_eq!(
        lb.metric("lb_config_reloads_total{result=\"failure\"}"),
        1.0
    );
    let config_page = lb.config();
    assert_eq!(config_page["generation"], 1);
    assert_eq!(config_page["refused"][0]["line"], 7);
    assert_eq!(config_page["refused"][0]["meant"], "listeners");

    folder.write("lb.yaml", &config(two.address, db));
    lb.wait_for_generation(2);
    assert_eq!(client::get(lb.listener("web"), "/").body, "two");
    assert_eq!(lb.metric("lb_config_last_reload_successful"), 1.0);
    assert_eq!(lb.config()["refused"].as_array().unwrap().len(), 0);
}

fn listeners_come_and_go(engine: &str) {
    let one = HttpOrigin::start("one");
    let folder = Folder::new();
    let with = |name: &str| {
        format!(
            "listeners:\n  - {{name: {name}, address: '127.0.0.1:0', http: {{cluster: web}}}}\n\
             clusters:\n  web: {{backends: ['{}']}}\n",
            one.address
        )
    };
    let path = folder.write("lb.yaml", &with("first"));
    let lb = Lb::start(engine, &["--config", &path]);
    let first = lb.listener("first");
    let mut kept = Connection::open(first);
    assert_eq!(kept.get("/").body, "one");
    folder.write("lb.yaml", &with("second"));
    lb.wait_for_generation(2);
    assert_eq!(client::get(lb.listener("second"), "/").body, "one");
    wait_until("the first listener to close", || {
        TcpStream::connect(first).is_err()
    });
    assert_eq!(kept.get("/").body, "one", "its connections go on");
}

/// A TCP listener with these backends.
fn relay(backends: &[SocketAddr], drain_timeout: &str) -> String {
    let backends: Vec<_> = backends.iter().map(SocketAddr::to_string).collect();
    format!(
        "drain_timeout: {drain_timeout}\nlisteners:\n  - {{name: db, address: '127.0.0.1:0', tcp: \
         {{cluster: db}}}}\nclusters:\n  db: {{backends: {backends:?}}}\n"
    )
}

fn a_removed_backends_sessions_may_end_until_the_drain_deadline(engine: &str) {
    let (one, two) = (origin::tcp("one"), origin::tcp("two"));
    let folder = Folder::new();
    let path = folder.write("lb.yaml", &relay(&[one, two], "1h"));
    let lb = Lb::start(engine, &["--config", &path]);
    let address = lb.listener("db");
    let mut sessions: Vec<_> = (0..6).map(|_| Session::open(address)).collect();
    folder.replace("lb.yaml", &relay(&[two], "1h"));
    lb.wait_for_generation(2);
    assert!(sessions.iter_mut().all(Session::echoes), "they go on");
    sessions.extend((0..4).map(|_| Session::open(address)));
    assert!(sessions[6..].iter().all(|session| session.origin == "two"));
    // The one that leaves now has less time.
    folder.replace("lb.yaml", &relay(&[one], "100ms"));
    lb.wait_for_generation(3);
    sessions.extend((0..4).map(|_| Session::open(address)));
    wait_until("the removed backend's sessions to be cut", || {
        sessions
            .iter_mut()
            .all(|session| session.echoes() == (session.origin == "one"))
    });
}

fn a_removed_listener_stops_accepting_and_its_sessions_go_on(engine: &str) {
    let one = origin::tcp("one");
    let folder = Folder::new();
    let text = relay(&[one], "100ms");
    let lb = Lb::start(engine, &["--config", &folder.write("lb.yaml", &text)]);
    let address = lb.listener("db");
    let mut session = Session::open(address);
    folder.replace("lb.yaml", &text.replace("name: db", "name: other"));
    lb.wait_for_generation(2);
    wait_until("the listener to close", || {
        TcpStream::connect(address).is_err()
    });
    assert!(session.echoes(), "its backend is still there");
    assert_eq!(Session::open(lb.listener("other")).origin, "one");
}

fn a_config_map_swap_and_a_rename_are_noticed(engine: &str) {
    let origins = ["one", "two", "three"].map(HttpOrigin::start);
    let db = origin::tcp("db");
    let folder = Folder::new();
    for (version, origin) in ["..1", "..2"].iter().zip(&origins) {
        std::fs::create_dir(folder.path(version)).unwrap();
        folder.write(&format!("{version}/lb.yaml"), &config(origin.address, db));
    }
    symlink("..1", folder.path("..data")).unwrap();
    symlink("..data/lb.yaml", folder.path("lb.yaml")).unwrap();
    let lb = Lb::start(engine, &["--config", &folder.path("lb.yaml")]);
    assert_eq!(client::get(lb.listener("web"), "/").body, "one");

    symlink("..2", folder.path("..data_tmp")).unwrap();
    std::fs::rename(folder.path("..data_tmp"), folder.path("..data")).unwrap();
    lb.wait_for_generation(2);
    assert_eq!(client::get(lb.listener("web"), "/").body, "two");

    folder.replace("lb.yaml", &config(origins[2].address, db));
    lb.wait_for_generation(3);
    assert_eq!(client::get(lb.listener("web"), "/").body, "three");
}

fn no_request_is_lost_under_load(engine: &str) {
    const CHANGES: u64 = 8;
    let origins = ["one", "two"].map(HttpOrigin::start);
    let db = origin::tcp("db");
    let folder = Folder::new();
    let path = folder.write("lb.yaml", &config(origins[0].address, db));
    let lb = Lb::start(engine, &["--config", &path]);
    let web = lb.listener("web");
    let (done, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    let count = |response: client::Response| {
        assert_eq!(response.status, 200);
        answered.fetch_add(1, Ordering::Relaxed);
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut kept = Connection::open(web);
            while !done.load(Ordering::Relaxed) {
                count(kept.get("/"));
            }
        });
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                count(client::get(web, "/"));
            }
        });
        for change in 1..=CHANGES {
            let before = answered.load(Ordering::Relaxed);
            wait_until("some traffic", || {
                answered.load(Ordering::Relaxed) >= before + 20
            });
            let origin = &origins[usize::from(change % 2 == 1)];
            folder.write("lb.yaml", &config(origin.address, db));
            lb.wait_for_generation(change + 1);
        }
        done.store(true, Ordering::Relaxed);
    });
    let errors = "lb_exchanges_total{listener=\"web\",status=\"5xx\"}";
    assert_eq!(lb.metric(errors), 0.0);
}

fn a_port_in_use_refuses_the_whole_change(engine: &str) {
    let (one, two) = (HttpOrigin::start("one"), HttpOrigin::start("two"));
    let db = origin::tcp("db");
    let folder = Folder::new();
    let path = folder.write("lb.yaml", &config(one.address, db));
    let lb = Lb::start(engine, &["--config", &path]);
    let taken = one.address;
    let wanted =
        format!("  - {{name: extra, address: '{taken}', http: {{cluster: web}}}}\nclusters:");
    folder.write(
        "lb.yaml",
        &config(two.address, db).replace("clusters:", &wanted),
    );
    let refused = lb.event("the configuration is refused; the one before goes on");
    let problem = refused["problem"].as_str().unwrap();
    assert!(
        problem.contains("lb.yaml:4:28: listeners[2].address: cannot listen on"),
        "{problem}"
    );
    assert!(problem.contains("ss -ltnp"), "{problem}");
    assert_eq!(client::get(lb.listener("web"), "/").body, "one");
}

fn a_new_host_name_is_resolved_first(engine: &str) {
    let (one, two) = (HttpOrigin::start("one"), HttpOrigin::start("two"));
    let db = origin::tcp("db");
    let folder = Folder::new();
    let path = folder.write("lb.yaml", &config(one.address, db));
    let lb = Lb::start(engine, &["--config", &path]);
    let (literal, named) = (
        two.address.to_string(),
        format!("localhost:{}", two.address.port()),
    );
    let unknown = "  none: {backends: ['no-such-name.invalid:80']}\n";
    folder.write(
        "lb.yaml",
        &(config(two.address, db).replace(&literal, &named) + unknown),
    );
    lb.wait_for_generation(2);
    assert_eq!(client::get(lb.listener("web"), "/").body, "two");
    assert_eq!(
        lb.event("cannot resolve a backend")["host"],
        "no-such-name.invalid"
    );
    let clusters = &lb.config()["plan"]["clusters"];
    assert_eq!(clusters[0]["backends"][0]["name"], named);
    assert_eq!(clusters[0]["backends"][0]["address"], literal);
    assert_eq!(clusters[2]["backends"].as_array().unwrap().len(), 0);
}
