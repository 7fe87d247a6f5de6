//! Every scheduler with ten origins, for HTTP and TCP: who gets how much, and what the death of
//! an origin costs.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use lb_core::plan::Balance;

use crate::client::Connection;
use crate::fleet::Fleet;
use crate::harness::{Folder, Lb, on_both_engines, wait_until};

on_both_engines!(
    each_divides_as_its_rule_says,
    the_death_of_an_origin_costs_no_request
);

const ORIGINS: usize = 10;
/// Of workers; each takes turns by itself.
const WORKERS: usize = 2;
const CLIENTS: usize = 6;

fn names() -> [&'static str; Balance::NAMES.len()] {
    Balance::NAMES.map(|(name, _)| name)
}

/// In `fo` and `ovf` the weights are an order; else half of the origins have twice the weight,
/// where weights count.
fn weight(balance: &str, origin: usize) -> u16 {
    let ignored = |balance: Balance| balance.weighted_instead().is_some();
    match balance {
        "fo" | "ovf" => origin as u16 + 1,
        _ if balance.parse().is_ok_and(ignored) => 1,
        _ => [2, 4][origin % 2],
    }
}

/// An HTTP and a TCP listener for each scheduler, all with the same origins.
fn start(engine: &str, fleet: &Fleet, folder: &Folder, health: &str) -> Lb {
    let mut config = String::from("listeners:\n");
    for name in names() {
        for protocol in ["http", "tcp"] {
            config += &format!(
                "  - {{name: {name}-{protocol}, address: '127.0.0.1:0', {protocol}: {{cluster: \
                 {name}}}}}\n"
            );
        }
    }
    config += "clusters:\n";
    for name in names() {
        let backends = fleet.yaml(|origin| weight(name, origin));
        config += &format!(
            "  {name}:\n    balance: {name}\n    backends: {backends}\n    pool: {{idle: 4}}\n\
             {health}"
        );
    }
    Lb::start(engine, &["--config", &folder.write("lb.yaml", &config)])
}

fn client(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, number as u8 + 1)
}

/// How often each origin answered.
type Counts = [usize; ORIGINS];

fn count(counts: &mut Counts, connection: &mut Connection) {
    let answer = connection.get("/");
    assert_eq!(answer.status, 200);
    counts[answer.body.parse::<usize>().unwrap()] += 1;
}

fn each_divides_as_its_rule_says(engine: &str) {
    let (fleet, folder) = (Fleet::start(ORIGINS), Folder::new());
    let lb = start(engine, &fleet, &folder, "");
    for name in names() {
        for protocol in ["http", "tcp"] {
            let listener = lb.listener(&format!("{name}-{protocol}"));
            let what = format!("{name} over {protocol}");
            let settle = || {
                wait_until(&format!("{what} to be idle"), || in_flight(&lb, name) == 0);
            };
            let by_client = in_turn(name, protocol, listener, settle);
            check_in_turn(name, &by_client, &what);
            settle();
            let counts = match protocol {
                "http" => at_once_by_http(&fleet, listener),
                _ => at_once_by_tcp(listener),
            };
            check_at_once(name, &counts, &what);
            settle();
        }
    }
}

fn in_flight(lb: &Lb, cluster: &str) -> u64 {
    let status = lb.status();
    let clusters = status["clusters"].as_array().unwrap();
    let cluster = clusters.iter().find(|it| it["name"] == cluster).unwrap();
    let backends = cluster["backends"].as_array().unwrap().iter();
    backends.map(|it| it["in_flight"].as_u64().unwrap()).sum()
}

/// One after the other: what each client's were answered by.
fn in_turn(name: &str, protocol: &str, listener: SocketAddr, settle: impl Fn()) -> Vec<Counts> {
    // For these a session counts that has not quite ended, so each is waited for.
    let sensitive = protocol == "tcp" && matches!(name, "lblc" | "lblcr" | "ovf");
    let one_client = |number: usize| {
        let mut counts = Counts::default();
        let open = || Connection::open_from(client(number), listener);
        let mut kept = (protocol == "http").then(open);
        for _ in 0..if sensitive { 4 } else { 20 } {
            match &mut kept {
                Some(kept) => count(&mut counts, kept),
                None => count(&mut counts, &mut open()),
            }
            if sensitive {
                settle();
            }
        }
        counts
    };
    (0..CLIENTS).map(one_client).collect()
}

/// Sixty requests that are under way at a time.
fn at_once_by_http(fleet: &Fleet, listener: SocketAddr) -> Counts {
    let mut connections = Vec::new();
    for number in 0..60 {
        let mut connection = Connection::open_from(client(number % CLIENTS), listener);
        connection.send("GET /hold HTTP/1.1\r\nHost: test.example\r\n\r\n");
        fleet.wait_for_held(number + 1);
        connections.push(connection);
    }
    let counts = fleet.holding().try_into().unwrap();
    fleet.release();
    for mut connection in connections {
        assert_eq!(connection.receive().status, 200);
    }
    counts
}

/// Sixty sessions that are open at a time.
fn at_once_by_tcp(listener: SocketAddr) -> Counts {
    let mut counts = Counts::default();
    let open = |number| {
        let mut connection = Connection::open_from(client(number % CLIENTS), listener);
        count(&mut counts, &mut connection);
        connection
    };
    let open: Vec<_> = (0..60).map(open).collect();
    drop(open);
    counts
}

/// Of `total`, by weight.
fn share(name: &str, origin: usize, total: usize) -> usize {
    let sum: u16 = (0..ORIGINS).map(|it| weight(name, it)).sum();
    total * usize::from(weight(name, origin)) / usize::from(sum)
}

/// Without load on any of them.
fn check_in_turn(name: &str, by_client: &[Counts], what: &str) {
    let mut counts = Counts::default();
    for (origin, client) in (0..ORIGINS).flat_map(|it| by_client.iter().map(move |c| (it, c))) {
        counts[origin] += client[origin];
    }
    let total: usize = counts.iter().sum();
    let reached = counts.iter().filter(|count| **count > 0).count();
    let told = format!("{what}, in turn: {counts:?} of {total}");
    let near = |expected: fn(&str, usize, usize) -> usize| {
        (0..ORIGINS).all(|it| counts[it].abs_diff(expected(name, it, total)) <= 2 * WORKERS)
    };
    let stays = by_client
        .iter()
        .all(|counts| counts.iter().filter(|count| **count > 0).count() == 1);
    match name {
        "rr" => assert!(near(|_, _, total| total / ORIGINS), "{told}"),
        "wrr" => assert!(near(share), "{told}"),
        "mh" | "ring" | "sh" => assert!(stays && reached > 1, "{told}"),
        // All came to one address; and the origin was never overloaded.
        "dh" | "lblc" | "lblcr" => assert_eq!(reached, 1, "{told}"),
        "fo" | "ovf" => assert_eq!(counts[ORIGINS - 1], total, "{told}"),
        "random" | "p2c" | "twos" | "ewma" => assert!(reached >= 5, "{told}"),
        // Which of those without load is a matter of taste.
        "lc" | "wlc" | "sed" | "nq" => assert!(reached >= 1, "{told}"),
        _ => panic!("{name} has no rule here"),
    }
}

/// While all of them are under way.
fn check_at_once(name: &str, counts: &Counts, what: &str) {
    let total: usize = counts.iter().sum();
    let reached = counts.iter().filter(|count| **count > 0).count();
    let told = format!("{what}, at once: {counts:?} of {total}");
    let at_most = |factor: usize, more: usize| {
        (0..ORIGINS).all(|it| counts[it] <= factor * share(name, it, total) + more)
    };
    match name {
        "rr" | "lc" => {
            let least = if name == "lc" { 0 } else { 2 * WORKERS };
            let even = counts
                .iter()
                .all(|it| it.abs_diff(total / ORIGINS) <= least);
            assert!(even, "{told}");
        }
        "wrr" | "wlc" | "sed" | "nq" => {
            let most = if name == "wrr" { 2 * WORKERS } else { 0 };
            let fair = |it: usize| counts[it].abs_diff(share(name, it, total)) <= most;
            assert!((0..ORIGINS).all(fair), "{told}");
        }
        "p2c" | "twos" => assert!(reached == ORIGINS && at_most(2, 2), "{told}"),
        "random" | "ewma" => assert!(reached >= 5 && at_most(4, 6), "{told}"),
        "mh" | "ring" | "sh" => assert!((2..=CLIENTS).contains(&reached), "{told}"),
        "dh" => assert_eq!(reached, 1, "{told}"),
        // One that is overloaded, and others idle: the destination moves, or gets more.
        "lblc" | "lblcr" => assert!(reached > 1, "{told}"),
        "fo" => assert_eq!(counts[ORIGINS - 1], total, "{told}"),
        // As many as their weights, or one more, from the first on: 10, 9, 8, …
        "ovf" => {
            let mut left = total;
            for origin in (0..ORIGINS).rev() {
                let most = usize::from(weight(name, origin)) + 1;
                assert!(counts[origin] <= most, "{told}");
                assert!(counts[origin] >= left.min(most - 1), "{told}");
                left -= counts[origin];
            }
        }
        _ => panic!("{name} has no rule here"),
    }
}

/// Requests can be sent again, sessions cannot: of these, the one that is under way may fail.
fn the_death_of_an_origin_costs_no_request(engine: &str) {
    const VICTIM: usize = ORIGINS - 1;
    let (mut fleet, folder) = (Fleet::start(ORIGINS), Folder::new());
    let health = "    health: {check: tcp, interval: 250ms, timeout: 5s, rise: 2, fall: 2}\n";
    let lb = start(engine, &fleet, &folder, health);
    let listeners = |protocol: &str| names().map(|name| lb.listener(&format!("{name}-{protocol}")));
    let (http, tcp) = (listeners("http"), listeners("tcp"));
    let (done, requests, failed) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let address = fleet.origins[VICTIM].address;
    thread::scope(|scope| {
        let (done, requests, failed) = (&done, &requests, &failed);
        // Also when something fails here: the threads must end.
        let _end = Finally(done);
        for thread in 0..3 {
            scope.spawn(move || {
                let open = |listener| Connection::open_from(client(thread), listener);
                let mut connections = http.map(open);
                while !done.load(Ordering::Relaxed) {
                    for (connection, name) in connections.iter_mut().zip(names()) {
                        assert_eq!(connection.get("/").status, 200, "{name}");
                        requests.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        scope.spawn(move || {
            for (number, listener) in tcp.iter().cycle().enumerate() {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                let mut session = Connection::open_from(client(number % CLIENTS), *listener);
                session.send("GET / HTTP/1.1\r\nHost: test.example\r\n\r\n");
                match session.try_receive() {
                    Some(answer) => assert_eq!(answer.status, 200),
                    None => drop(failed.fetch_add(1, Ordering::Relaxed)),
                }
            }
        });
        let some_more = || {
            let before = requests.load(Ordering::Relaxed);
            wait_until("some traffic", || {
                requests.load(Ordering::Relaxed) >= before + 10 * names().len() as u64
            });
        };
        some_more();
        fleet.origins[VICTIM].kill();
        for name in names() {
            lb.wait_for_state(name, address, "unhealthy");
        }
        some_more();
        fleet.origins[VICTIM].revive();
        for name in names() {
            lb.wait_for_state(name, address, "ready");
        }
        let before = fleet.origins[VICTIM].served();
        some_more();
        wait_until("load for the one that is back", || {
            fleet.origins[VICTIM].served() > before
        });
    });
    let failed = failed.into_inner();
    assert!(failed <= 1, "{failed} sessions failed, one was under way");
    for name in names() {
        let errors = format!("lb_exchanges_total{{listener=\"{name}-http\",status=\"5xx\"}}");
        assert_eq!(lb.metric(&errors), 0.0);
    }
}

struct Finally<'a>(&'a AtomicBool);

impl Drop for Finally<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
