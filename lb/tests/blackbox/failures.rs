//! Backends that fail and come back: outliers, backups, panic, slow start.

use std::net::SocketAddr;

use crate::client::{self, Connection};
use crate::fleet::Fleet;
use crate::harness::{Folder, Lb, on_both_engines, wait_until};

on_both_engines!(
    one_that_answers_errors_is_ejected_for_a_time,
    one_that_resets_is_ejected,
    a_share_of_failures_ejects,
    a_dead_one_is_ejected_by_sessions_too,
    backups_are_used_when_no_primary_is_left,
    below_the_panic_threshold_health_is_ignored,
    a_new_backend_starts_slowly,
);

const HEALTH: &str = "health: {check: http, path: /health, interval: 50ms, timeout: 5s, rise: 2, \
                      fall: 2}";

fn start(engine: &str, fleet: &Fleet, cluster: &str) -> (Lb, Folder) {
    let folder = Folder::new();
    let text = config(&fleet.yaml(|_| 1), cluster);
    let path = folder.write("lb.yaml", &text);
    (Lb::start(engine, &["--config", &path]), folder)
}

/// An HTTP listener `web` and a TCP listener `raw` on one cluster.
fn config(backends: &str, cluster: &str) -> String {
    format!(
        "listeners:\n  - {{name: web, address: '127.0.0.1:0', http: {{cluster: c}}}}\n  \
         - {{name: raw, address: '127.0.0.1:0', tcp: {{cluster: c}}}}\n\
         clusters:\n  c:\n    backends: {backends}\n    {cluster}\n"
    )
}

/// How often each of `count` origins answers.
fn shares(fleet: &Fleet, listener: SocketAddr, count: usize) -> Vec<u64> {
    let before = fleet.served();
    let mut connection = Connection::open(listener);
    for _ in 0..count {
        connection.get("/");
    }
    let after = fleet.served();
    before
        .iter()
        .zip(after)
        .map(|(before, after)| after - before)
        .collect()
}

fn ejections(lb: &Lb, address: SocketAddr) -> u64 {
    lb.backend("c", address)["ejections"].as_u64().unwrap()
}

fn one_that_answers_errors_is_ejected_for_a_time(engine: &str) {
    let fleet = Fleet::start(4);
    let outlier = "outlier: {failures: 3, ejection: 300ms, ejection_max: 2s}";
    let (lb, _folder) = start(engine, &fleet, outlier);
    let (web, bad) = (lb.listener("web"), fleet.origins[2].address);
    fleet.origins[2].set_status(500);
    wait_until("the ejection", || {
        client::get(web, "/");
        ejections(&lb, bad) > 0
    });
    // It fails as soon as it is back, and is out again, for longer each time.
    wait_until("a second ejection", || {
        client::get(web, "/");
        ejections(&lb, bad) > 1
    });
    wait_until("it to be out, with nothing sent to it", || {
        lb.backend("c", bad)["state"] == "ejected" && shares(&fleet, web, 8)[2] == 0
    });
    fleet.origins[2].set_status(200);
    lb.wait_for_state("c", bad, "ready");
    wait_until("load for the one that is back", || {
        shares(&fleet, web, 8)[2] > 0
    });
    assert_eq!(lb.backend("c", fleet.origins[0].address)["ejections"], 0);
    let series =
        format!("lb_backend_ejections_total{{cluster=\"c\",backend=\"{bad}\",address=\"{bad}\"}}");
    assert!(lb.metric(&series) >= 2.0);
}

/// The requests are asked of another, so clients notice nothing.
fn one_that_resets_is_ejected(engine: &str) {
    let fleet = Fleet::start(4);
    let outlier = "outlier: {failures: 3, ejection: 30s}";
    let (lb, _folder) = start(engine, &fleet, outlier);
    let (web, bad) = (lb.listener("web"), fleet.origins[1].address);
    fleet.origins[1].set_resets(true);
    wait_until("the ejection", || {
        assert_eq!(client::get(web, "/").status, 200);
        lb.backend("c", bad)["state"] == "ejected"
    });
    assert_eq!(shares(&fleet, web, 12)[1], 0);
    let state = format!(
        "lb_backend_state{{cluster=\"c\",backend=\"{bad}\",address=\"{bad}\",state=\"ejected\"}}"
    );
    assert_eq!(lb.metric(&state), 1.0);
}

fn a_share_of_failures_ejects(engine: &str) {
    let fleet = Fleet::start(3);
    let outlier = "outlier: {failures: none, ratio: 50%, requests: 20, window: 60s}";
    let (lb, _folder) = start(engine, &fleet, outlier);
    let (web, bad) = (lb.listener("web"), fleet.origins[0].address);
    fleet.origins[0].set_status(503);
    wait_until("the ejection", || {
        shares(&fleet, web, 3);
        lb.backend("c", bad)["state"] == "ejected"
    });
    let asked = fleet.origins[0].served();
    assert!(
        asked >= 10,
        "half of the requests needed at least, not {asked}"
    );
    assert_eq!(shares(&fleet, web, 9)[0], 0);
}

fn a_dead_one_is_ejected_by_sessions_too(engine: &str) {
    let mut fleet = Fleet::start(3);
    let outlier = "outlier: {failures: 2, ejection: 30s}";
    let (lb, _folder) = start(engine, &fleet, outlier);
    let (raw, bad) = (lb.listener("raw"), fleet.origins[1].address);
    fleet.origins[1].kill();
    wait_until("the ejection", || {
        assert_eq!(client::get(raw, "/").status, 200);
        lb.backend("c", bad)["state"] == "ejected"
    });
    fleet.origins[1].revive();
    for _ in 0..6 {
        assert_ne!(client::get(raw, "/").body, "1", "it is still out");
    }
}

fn backups_are_used_when_no_primary_is_left(engine: &str) {
    let mut fleet = Fleet::start(4);
    let [a, b, c, d] = [0, 1, 2, 3].map(|it: usize| fleet.origins[it].address);
    let backends = format!(
        "['{a}', '{b}', {{address: '{c}', backup: true}}, {{address: '{d}', backup: true}}]"
    );
    let folder = Folder::new();
    let path = folder.write("lb.yaml", &config(&backends, HEALTH));
    let lb = Lb::start(engine, &["--config", &path]);
    let (web, raw) = (lb.listener("web"), lb.listener("raw"));
    let used = |fleet: &Fleet| {
        let http = shares(fleet, web, 8);
        let before = fleet.served();
        (0..8).for_each(|_| drop(client::get(raw, "/")));
        let after = fleet.served();
        let both = |at: usize| (http[at] > 0, after[at] > before[at]);
        [0, 1, 2, 3].map(|at| match both(at) {
            (true, true) => true,
            (false, false) => false,
            _ => panic!("origin {at} by one protocol only"),
        })
    };
    assert_eq!(used(&fleet), [true, true, false, false]);
    fleet.origins[0].kill();
    lb.wait_for_state("c", a, "unhealthy");
    assert_eq!(used(&fleet), [false, true, false, false]);
    fleet.origins[1].kill();
    // Before the checks notice: the primaries are tried, then the backups.
    assert_eq!(client::get(web, "/").status, 200);
    lb.wait_for_state("c", b, "unhealthy");
    assert_eq!(used(&fleet), [false, false, true, true]);
    fleet.origins[0].revive();
    lb.wait_for_state("c", a, "ready");
    assert_eq!(used(&fleet), [true, false, false, false]);
}

fn below_the_panic_threshold_health_is_ignored(engine: &str) {
    let fleet = Fleet::start(4);
    let cluster = format!("{HEALTH}\n    panic_threshold: 50%");
    let (lb, folder) = start(engine, &fleet, &cluster);
    let web = lb.listener("web");
    let panicking = || lb.status()["clusters"][0]["panicking"].as_bool().unwrap();
    let reached = || {
        shares(&fleet, web, 16)
            .iter()
            .filter(|count| **count > 0)
            .count()
    };
    let sicken = |at: usize| {
        fleet.origins[at].set_sick(true);
        lb.wait_for_state("c", fleet.origins[at].address, "unhealthy");
    };
    assert_eq!(reached(), 4);
    sicken(0);
    sicken(1);
    assert!(!panicking(), "half of them are healthy");
    assert_eq!(reached(), 2);
    sicken(2);
    assert!(panicking());
    assert_eq!(lb.metric("lb_cluster_panicking{cluster=\"c\"}"), 1.0);
    assert_eq!(reached(), 4);
    let error = lb.backend("c", fleet.origins[0].address)["check_error"].clone();
    assert!(error.as_str().unwrap().contains("503"), "{error}");

    folder.write("lb.yaml", &config(&fleet.yaml(|_| 1), HEALTH));
    lb.wait_for_generation(2);
    assert_eq!(
        reached(),
        1,
        "without a threshold, the healthy one takes all"
    );
    sicken(3);
    assert_eq!(reached(), 4, "while none is healthy, all are used");
    fleet.origins[3].set_sick(false);
    lb.wait_for_state("c", fleet.origins[3].address, "ready");
    assert_eq!(reached(), 1);
}

fn a_new_backend_starts_slowly(engine: &str) {
    let fleet = Fleet::start(2);
    let one = format!("['{}']", fleet.origins[0].address);
    let folder = Folder::new();
    // So long that the share has hardly grown however slow the machine is.
    let slowly = format!("{HEALTH}\n    slow_start: 1h");
    let path = folder.write("lb.yaml", &config(&one, &slowly));
    let lb = Lb::start(engine, &["--config", &path]);
    let web = lb.listener("web");
    folder.write("lb.yaml", &config(&fleet.yaml(|_| 1), &slowly));
    lb.wait_for_generation(2);
    let share = || shares(&fleet, web, 400)[1];
    let early = share();
    assert!(
        (1..=80).contains(&early),
        "{early} of 400, at a tenth of the weight"
    );

    // One that comes back starts slowly too.
    fleet.origins[1].set_sick(true);
    lb.wait_for_state("c", fleet.origins[1].address, "unhealthy");
    fleet.origins[1].set_sick(false);
    lb.wait_for_state("c", fleet.origins[1].address, "ready");
    let back = share();
    assert!(
        (1..=80).contains(&back),
        "{back} of 400, at a tenth of the weight"
    );

    folder.write(
        "lb.yaml",
        &config(&fleet.yaml(|_| 1), &format!("{HEALTH}\n    slow_start: 1s")),
    );
    lb.wait_for_generation(3);
    wait_until("its whole share", || share().abs_diff(200) <= 10);
}
