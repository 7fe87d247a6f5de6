//! Affinity and hashing: a client, or a key of its requests, stays where it is.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};

use crate::client::{Connection, Response};
use crate::fleet::Fleet;
use crate::harness::{Folder, Lb, on_both_engines, wait_until};

on_both_engines!(
    a_client_stays_over_connections_workers_and_layers,
    a_network_is_one_client,
    a_header_keeps_its_backend,
    a_cookie_keeps_its_backend,
    a_cookie_outlasts_a_reload_and_a_restart,
    a_balanced_cookie_keeps_a_session,
    a_drained_backend_keeps_its_clients_only,
    requests_are_hashed_by_what_the_key_names,
    bounded_load_spreads_a_popular_key,
);

fn client(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 2, number)
}

/// An HTTP listener `web` and, if wanted, a TCP listener `raw` on one cluster.
fn config(tcp: bool, cluster: &str) -> String {
    let raw = if tcp {
        "  - {name: raw, address: '127.0.0.1:0', tcp: {cluster: c}}\n"
    } else {
        ""
    };
    format!(
        "listeners:\n  - {{name: web, address: '127.0.0.1:0', http: {{cluster: c}}}}\n{raw}\
         clusters:\n  c: {{{cluster}}}\n"
    )
}

fn start(engine: &str, tcp: bool, cluster: &str) -> (Lb, Folder) {
    let folder = Folder::new();
    let path = folder.write("lb.yaml", &config(tcp, cluster));
    (Lb::start(engine, &["--config", &path]), folder)
}

/// The origin that answers on a connection of its own.
fn ask(client: Ipv4Addr, listener: SocketAddr) -> String {
    Connection::open_from(client, listener).get("/").body
}

fn ask_with(listener: SocketAddr, path: &str, fields: &[&str]) -> Response {
    Connection::open_from(client(1), listener).get_with(path, fields)
}

fn a_client_stays_over_connections_workers_and_layers(engine: &str) {
    let fleet = Fleet::start(10);
    let backends = fleet.yaml(|_| 1);
    let cluster = format!("backends: {backends}, balance: rr, affinity: client-ip");
    let (lb, folder) = start(engine, true, &cluster);
    let (web, raw) = (lb.listener("web"), lb.listener("raw"));
    let mut homes = HashMap::new();
    for number in 1..=8 {
        let home = ask(client(number), [web, raw][usize::from(number % 2)]);
        homes.insert(number, home);
    }
    let distinct: HashSet<_> = homes.values().collect();
    assert!(distinct.len() >= 4, "in turn, by worker: {homes:?}");
    let all_stay = || {
        for (&number, home) in &homes {
            for listener in [web, raw, web, raw] {
                assert_eq!(ask(client(number), listener), *home, "client {number}");
            }
        }
    };
    // So many connections that both workers have some of each client.
    (0..4).for_each(|_| all_stay());
    let status = lb.status();
    let counted = &status["clusters"][0]["affinity"];
    assert_eq!(counted["misses"], 8, "{counted}");
    assert_eq!(counted["hits"], 8 * 16, "{counted}");

    // Another order and one more: everybody stays.
    let one_more = Fleet::start(1);
    let addresses = fleet.origins.iter().rev().chain(&one_more.origins);
    let list: Vec<_> = addresses.map(|it| format!("'{}'", it.address)).collect();
    let cluster = format!(
        "backends: [{}], balance: lc, affinity: client-ip",
        list.join(", ")
    );
    folder.write("lb.yaml", &config(true, &cluster));
    lb.wait_for_generation(2);
    all_stay();
}

fn a_network_is_one_client(engine: &str) {
    let fleet = Fleet::start(10);
    let backends = fleet.yaml(|_| 1);
    let affinity = "affinity: {client_ip: {timeout: 60s, ipv4_prefix: 24}}";
    let (lb, _folder) = start(engine, false, &format!("backends: {backends}, {affinity}"));
    let web = lb.listener("web");
    let home = ask(client(1), web);
    for number in 2..10 {
        assert_eq!(ask(client(number), web), home);
    }
    let others = (3..30).map(|net| ask(Ipv4Addr::new(127, 0, net, 1), web));
    assert!(others.collect::<HashSet<_>>().len() > 1);
}

fn a_header_keeps_its_backend(engine: &str) {
    let fleet = Fleet::start(10);
    let backends = fleet.yaml(|_| 1);
    let cluster = format!("backends: {backends}, balance: rr, affinity: 'header:X-User'");
    let (lb, _folder) = start(engine, false, &cluster);
    let web = lb.listener("web");
    let users: Vec<_> = (0..10).map(|user| format!("x-user: user-{user}")).collect();
    let homes: Vec<_> = users
        .iter()
        .map(|user| ask_with(web, "/", &[user]).body)
        .collect();
    assert!(homes.iter().collect::<HashSet<_>>().len() >= 5, "{homes:?}");
    for _ in 0..4 {
        for (user, home) in users.iter().zip(&homes) {
            assert_eq!(ask_with(web, "/", &[user]).body, *home, "{user}");
        }
    }
    // Without the header nobody is recognised.
    let seen: HashSet<_> = (0..20).map(|_| ask(client(1), web)).collect();
    assert!(seen.len() >= 5, "{seen:?}");
}

/// The cookie that a response sets, as a client sends it back.
fn cookie_of(response: &Response) -> Option<String> {
    let set = response.header("set-cookie")?;
    Some(format!("Cookie: a=b; {}", set.split(';').next().unwrap()))
}

fn a_cookie_keeps_its_backend(engine: &str) {
    let mut fleet = Fleet::start(10);
    let backends = fleet.yaml(|_| 1);
    let affinity = "affinity: {cookie: {name: sid, max_age: 1h, same_site: lax, path: /shop}}";
    let (lb, _folder) = start(
        engine,
        false,
        &format!("backends: {backends}, balance: rr, {affinity}"),
    );
    let web = lb.listener("web");
    let mut homes = Vec::new();
    for _ in 0..10 {
        let first = ask_with(web, "/", &[]);
        let set = first.header("set-cookie").expect("a cookie").to_owned();
        assert!(set.starts_with("sid="), "{set}");
        for attribute in ["Max-Age=3600", "Path=/shop", "SameSite=Lax", "HttpOnly"] {
            assert!(set.contains(attribute), "{set}");
        }
        assert!(!set.contains("Secure"), "not over TLS: {set}");
        assert!(!set.contains("127."), "no address in {set}");
        homes.push((cookie_of(&first).unwrap(), first.body));
    }
    let distinct: HashSet<_> = homes.iter().map(|(_, home)| home).collect();
    assert!(distinct.len() >= 5, "{homes:?}");
    for _ in 0..3 {
        for (cookie, home) in &homes {
            let answer = ask_with(web, "/", &[cookie]);
            assert_eq!(answer.body, *home);
            assert_eq!(answer.header("set-cookie"), None, "it has it already");
        }
    }
    let forged = ask_with(web, "/", &["Cookie: sid=AAAAAAAAAAAAAAAAAAAAAA"]);
    assert!(
        cookie_of(&forged).is_some(),
        "one that is not ours is replaced"
    );

    // Its backend is gone: another one, and another cookie.
    let (cookie, home) = &homes[0];
    fleet.origins[home.parse::<usize>().unwrap()].kill();
    let moved = ask_with(web, "/", &[cookie]);
    assert_eq!(moved.status, 200);
    assert_ne!(moved.body, *home);
    let cookie = cookie_of(&moved).expect("a new cookie");
    assert_eq!(ask_with(web, "/", &[&cookie]).body, moved.body);
}

fn a_cookie_outlasts_a_reload_and_a_restart(engine: &str) {
    let fleet = Fleet::start(10);
    let backends = fleet.yaml(|_| 1);
    let folder = Folder::new();
    let with = |key: &str, tries: u8| {
        let cluster = format!("backends: {backends}, affinity: cookie, tries: {tries}");
        format!("{}{key}", config(false, &cluster))
    };
    let key = "cookie_key: the quick brown fox\n";
    let path = folder.write("lb.yaml", &with(key, 3));
    let keeps = |lb: &Lb, homes: &[(String, String)]| {
        let web = lb.listener("web");
        let keeps = |(cookie, home): &(String, String)| {
            let answer = ask_with(web, "/", &[cookie]);
            answer.body == *home && answer.header("set-cookie").is_none()
        };
        homes.iter().filter(|it| keeps(it)).count()
    };
    let homes: Vec<_> = {
        let lb = Lb::start(engine, &["--config", &path]);
        let web = lb.listener("web");
        let first = |_| {
            let first = ask_with(web, "/", &[]);
            (cookie_of(&first).unwrap(), first.body)
        };
        let homes: Vec<_> = (0..10).map(first).collect();
        folder.write("lb.yaml", &with(key, 2));
        lb.wait_for_generation(2);
        assert_eq!(keeps(&lb, &homes), 10, "after a reload");
        assert!(
            !lb.config().to_string().contains("quick"),
            "a secret is not shown"
        );
        homes
    };
    let lb = Lb::start(engine, &["--config", &path]);
    assert_eq!(keeps(&lb, &homes), 10, "after a restart");
    drop(lb);
    // Without a key of its own, each process has another one.
    folder.write("lb.yaml", &with("", 2));
    let lb = Lb::start(engine, &["--config", &path]);
    assert_eq!(keeps(&lb, &homes), 0, "with another key");
}

fn a_balanced_cookie_keeps_a_session(engine: &str) {
    let fleet = Fleet::start(10);
    let list: Vec<_> = fleet
        .origins
        .iter()
        .map(|it| format!("'{}'", it.address))
        .collect();
    let with = |count: usize| {
        let list = list[..count].join(", ");
        format!("backends: [{list}], affinity: {{cookie: {{mode: balanced}}}}")
    };
    let (lb, folder) = start(engine, false, &with(5));
    let web = lb.listener("web");
    let sessions: Vec<_> = (0..40)
        .map(|_| {
            let first = ask_with(web, "/", &[]);
            (cookie_of(&first).unwrap(), first.body)
        })
        .collect();
    let homes: HashSet<_> = sessions.iter().map(|(_, home)| home).collect();
    assert!(homes.len() >= 3, "{homes:?}");
    for (cookie, home) in &sessions {
        assert_eq!(ask_with(web, "/", &[cookie]).body, *home);
    }
    // Twice the backends: about half of the sessions move, none gets another cookie.
    folder.write("lb.yaml", &config(false, &with(10)));
    lb.wait_for_generation(2);
    let mut moved = 0;
    for (cookie, home) in &sessions {
        let answer = ask_with(web, "/", &[cookie]);
        moved += usize::from(answer.body != *home);
        assert_eq!(answer.header("set-cookie"), None);
    }
    assert!((5..=35).contains(&moved), "{moved} of 40 moved");
}

fn a_drained_backend_keeps_its_clients_only(engine: &str) {
    let fleet = Fleet::start(3);
    let with = |drain: bool| {
        let [a, b, c] = [0, 1, 2].map(|it: usize| fleet.origins[it].address);
        let last = format!("{{address: '{c}', drain: {drain}}}");
        format!("backends: ['{a}', '{b}', {last}], balance: rr, affinity: client-ip")
    };
    let (lb, folder) = start(engine, true, &with(false));
    let (web, raw) = (lb.listener("web"), lb.listener("raw"));
    let held: Vec<_> = (1..=30).filter(|it| ask(client(*it), web) == "2").collect();
    assert!(!held.is_empty());
    folder.write("lb.yaml", &config(true, &with(true)));
    lb.wait_for_generation(2);
    lb.wait_for_state("c", fleet.origins[2].address, "draining");
    for &number in &held {
        assert_eq!(ask(client(number), raw), "2", "client {number} stays");
    }
    for number in 100..130 {
        assert_ne!(ask(client(number), raw), "2", "client {number} is new");
    }
}

fn requests_are_hashed_by_what_the_key_names(engine: &str) {
    let fleet = Fleet::start(10);
    let backends = fleet.yaml(|_| 1);
    for (balance, key) in [
        ("mh", "uri"),
        ("ring", "header:X-User"),
        ("sh", "query:user"),
        ("mh", "cookie:user"),
    ] {
        let cluster = format!("backends: {backends}, balance: {balance}, hash_key: '{key}'");
        let (lb, _folder) = start(engine, false, &cluster);
        let web = lb.listener("web");
        let ask = |user: usize, other: usize, from: u8| {
            let fields = [
                format!("X-User: user-{user}"),
                format!("Cookie: other={other}; user=user-{user}"),
            ];
            let path = match key {
                "uri" => format!("/{user}"),
                _ => format!("/{other}?other={other}&user=user-{user}"),
            };
            let fields = fields.each_ref().map(String::as_str);
            Connection::open_from(client(from), web)
                .get_with(&path, &fields)
                .body
        };
        let homes: Vec<_> = (0..30).map(|user| ask(user, user, 1)).collect();
        let distinct = homes.iter().collect::<HashSet<_>>().len();
        assert!(distinct >= 5, "{balance} by {key}: {homes:?}");
        for (user, home) in homes.iter().enumerate() {
            let again = ask(user, user + 1000, 2 + (user % 7) as u8);
            assert_eq!(again, *home, "{balance} by {key}, user {user}");
        }
    }
}

fn bounded_load_spreads_a_popular_key(engine: &str) {
    let fleet = Fleet::start(10);
    let backends = fleet.yaml(|_| 1);
    let cluster = format!("backends: {backends}, balance: mh, hash_key: uri, bounded_load: 1.5");
    let (lb, _folder) = start(engine, false, &cluster);
    let web = lb.listener("web");
    let mut connections = Vec::new();
    for count in 1..=40 {
        let mut connection = Connection::open(web);
        connection.send("GET /hold HTTP/1.1\r\nHost: test.example\r\n\r\n");
        fleet.wait_for_held(count);
        connections.push(connection);
    }
    // 1.5 times the mean of 4.
    let holding = fleet.holding();
    assert!(holding.iter().all(|count| *count <= 6), "{holding:?}");
    assert!(holding.contains(&6), "as many as it may: {holding:?}");
    fleet.release();
    for mut connection in connections {
        assert_eq!(connection.receive().status, 200);
    }
    // Without load the key is where it belongs.
    wait_until("no load", || {
        lb.status()["clusters"][0]["backends"]
            .as_array()
            .unwrap()
            .iter()
            .all(|it| it["in_flight"] == 0)
    });
    let homes: HashSet<_> = (0..10).map(|_| ask_with(web, "/hot", &[]).body).collect();
    assert_eq!(homes.len(), 1, "{homes:?}");
}
