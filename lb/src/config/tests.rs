//! What a user is told about every kind of mistake, and what a correct source becomes.

use lb_core::plan::{Affinity, Balance, Check, HashKey, Relay};

use super::*;

/// Reads one YAML text as if it were the file `lb.yaml`.
pub(super) fn load(text: &str) -> Result<Draft, Vec<String>> {
    let mut problems = Vec::new();
    let file = match Node::parse(&"lb.yaml".into(), text) {
        Ok(root) => read::file(&root, &mut problems),
        Err(problem) => {
            problems.push(problem);
            None
        }
    };
    let draft = compile::compile(file.as_ref().as_slice(), &mut problems);
    if problems.is_empty() {
        let overlooked = draft.last_word();
        assert!(overlooked.is_empty(), "{text}: {overlooked:?}");
    }
    let lines = problems.iter().map(Problem::to_string).collect();
    if problems.is_empty() {
        Ok(draft)
    } else {
        Err(lines)
    }
}

/// A mistake's text, which one problem must be about, and what that problem says.
const MISTAKES: &[(&str, &str)] = &[
    (
        "listners: []",
        "lb.yaml:1:1: listners: there is no key \"listners\" here; there are listeners, \
      routes, clusters, hash_seed, cookie_key, workers, engine, admin, access_log, session_log, drain_timeout, \
      log_format, affinity_entries; \
      did you mean \"listeners\"?",
    ),
    (
        "listeners: 8080",
        "lb.yaml:1:12: listeners: expected a list (lines that begin with \"- \"), \
      found \"8080\"",
    ),
    (
        "- a",
        "lb.yaml:1:1: expected a mapping (key: value), found a list",
    ),
    (
        "listeners:\n  - address: 80\n",
        "lb.yaml:2:5: listeners[0]: a listener has either \"http\", \"tcp\" or \"udp\"",
    ),
    (
        "listeners:\n  - http: {}\n",
        "lb.yaml:2:5: listeners[0]: the key \"address\" is missing",
    ),
    (
        "listeners:\n  - address: eighty\n    http: {}\n",
        "lb.yaml:2:14: listeners[0].address: \"eighty\" is not a port (0 to 65535); an address to \
      listen on is [ADDRESS:]PORT, as 8080, 127.0.0.1:8080 or [::]:8080",
    ),
    (
        "listeners:\n  - address: 80\n    http: {cluster: wbe}\nclusters: {web: {backends: [a:1]}}",
        "lb.yaml:3:21: listeners[0].http.cluster: there is no cluster \"wbe\"; did you mean \"web\"?",
    ),
    (
        "listeners:\n  - address: 80\n    tcp: {cluster: a}\n  - address: 80\n    tcp: {cluster: a}\n\
      clusters: {a: {backends: ['b:1']}}",
        "lb.yaml:4:14: listeners[1].address: the listener \"0.0.0.0:80\" is here a second time; the \
      first is at lb.yaml:2",
    ),
    (
        "listeners:\n  - {address: 80, http: {}}\n  - {address: '[::]:80', http: {}}\n",
        "lb.yaml:3:15: listeners[1].address: the address \"[::]:80\" is here a second time; the \
      first is at lb.yaml:2",
    ),
    (
        "listeners:\n  - address: 80\n    http:\n      routes:\n        - {host: a.example, cluster: a}\n        \
      - {host: A.example, path: /, cluster: a}\nclusters: {a: {backends: ['b:1']}}",
        "lb.yaml:6:11: listeners[0].http.routes[1]: the route \"a.example/\" is here a second time; \
      the first is at lb.yaml:5",
    ),
    (
        "listeners: [{address: 80, http: {limits: {head: 1MiB}}}]",
        "lb.yaml:1:49: listeners[0].http.limits.head: \"1MiB\" is not between 256 and 15KiB",
    ),
    (
        "listeners: [{address: 80, http: {limits: {body: 10MB}}}]",
        "lb.yaml:1:49: listeners[0].http.limits.body: \"10MB\" is not a size; a size is 4096, 16KiB, \
      1MiB or 2GiB; or none",
    ),
    (
        "listeners: [{address: 80, http: {timeouts: {keep_alive: 75}}}]",
        "lb.yaml:1:57: listeners[0].http.timeouts.keep_alive: \"75\" has no unit; a duration is \
      500ms, 30s, 5m or 1h",
    ),
    (
        "listeners: [{address: 80, http: {forwarded: apend}}]",
        "lb.yaml:1:45: listeners[0].http.forwarded: \"apend\" is not one of append, off, replace; \
      did you mean \"append\"?",
    ),
    (
        "listeners: [{address: 80, tcp: {cluster: a, idle: 1s}}]\nclusters: {a: {backends: ['b:1']}}",
        "lb.yaml:1:45: listeners[0].tcp.idle: there is no key \"idle\" here; there are cluster, \
      server_names, hello_timeout, otherwise, idle_timeout, lifetime, relay, proxy_out, backend_limit, \
      backend_socket; did you mean \
      \"idle_timeout\"?",
    ),
    (
        "listeners: [{address: 80, udp: {cluster: a}, socket: {backlog: 5}}]\nclusters: {a: {backends: ['b:1']}}",
        "lb.yaml:1:13: listeners[0]: a UDP socket has no queue of connections, so no \"backlog\"",
    ),
    (
        "listeners: [{address: 80, tcp: {cluster: a}, socket: {mode: 600}}]\nclusters: {a: {backends: ['b:1']}}",
        "lb.yaml:1:13: listeners[0]: \"mode\" is of the file of a Unix socket, as unix:/run/lb.sock",
    ),
    (
        "listeners: [{address: 'unix:/a', udp: {cluster: a}}]\nclusters: {a: {backends: ['b:1']}}",
        "lb.yaml:1:13: listeners[0]: datagrams are not relayed from Unix sockets",
    ),
    (
        "listeners: [{address: 80, tcp: {cluster: a}}]\nclusters: {a: {backends: ['unix:run/a']}}",
        "lb.yaml:2:27: clusters.a.backends[0]: \"run/a\" is not the path of a Unix socket, which begins \
      with / (or @, for an abstract name)",
    ),
    (
        "listeners: [{address: 80, http: {}, limits: {conections: 5}}]",
        "lb.yaml:1:46: listeners[0].limits.conections: there is no key \"conections\" here; there \
      are connections, per_source, rate, burst; did you mean \"connections\"?",
    ),
    (
        "listeners: [{address: 80, tcp: {}}]",
        "lb.yaml:1:32: listeners[0].tcp: the key \"cluster\" is missing",
    ),
    (
        "listeners: [{address: 80, tcp: {cluster: a, otherwise: alert}}]\nclusters: {a: {backends: ['b:1']}}",
        "lb.yaml:1:32: listeners[0].tcp: \"hello_timeout\" and \"otherwise\" are for \"server_names\"",
    ),
    (
        "listeners: [{address: 80, tcp: {cluster: a, proxy_out: v3}}]\nclusters: {a: {backends: ['b:1']}}",
        "lb.yaml:1:56: listeners[0].tcp.proxy_out: \"v3\" is not one of v1, v2; did you mean \
      \"v1\"?",
    ),
    (
        "listeners: [{address: 80, tcp: {cluster: a, proxy_out: {version: v1, checksum: true}}}]\n\
      clusters: {a: {backends: ['b:1']}}",
        "lb.yaml:1:56: listeners[0].tcp.proxy_out: version v1 has no checksum",
    ),
    (
        "listeners: [{address: 80, http: {}, proxy_in: {timeout: 5s}}]",
        "lb.yaml:1:47: listeners[0].proxy_in: the key \"trusted\" is missing",
    ),
    (
        "listeners: [{address: 80, http: {}, proxy_in: {trusted: []}}]",
        "lb.yaml:1:47: listeners[0].proxy_in: without a trusted proxy every connection would be \
      refused",
    ),
    (
        "listeners: [{address: 80, http: {}, deny: [10.0.0.1/8]}]",
        "lb.yaml:1:44: listeners[0].deny[0]: 10.0.0.1/8 has bits set after the first 8; the prefix \
      is 10.0.0.0/8",
    ),
    (
        "listeners: [{address: 80, http: {}, allow: ['::/0'], deny: ['::/0']}]",
        "lb.yaml:1:13: listeners[0]: ::/0 is both in \"allow\" and in \"deny\"",
    ),
    (
        "listeners: [{address: 80, http: {}, limits: {burst: 5}}]",
        "lb.yaml:1:45: listeners[0].limits: a \"burst\" is of a \"rate\", which is missing",
    ),
    (
        "listeners: [{address: 80, tcp: {server_names: [{name: 'a.*', cluster: a}]}}]",
        "lb.yaml:1:55: listeners[0].tcp.server_names[0].name: \"a.*\" is not a host to match; one is \
      shop.example, *.example, or * for any; without a port",
    ),
    (
        "listeners: [{address: 80, tcp: {server_names: [{name: b, cluster: a}, {name: B, cluster: a, \
      protocols: [h2]}, {name: b, cluster: a, protocols: [h2]}]}}]\nclusters: {a: {backends: ['b:1']}}",
        "lb.yaml:1:111: listeners[0].tcp.server_names[2]: the server name \"b\" is here a second \
      time; the first is at lb.yaml:1",
    ),
    (
        "clusters: {a: {backends: [web]}}",
        "lb.yaml:1:27: clusters.a.backends[0]: \"web\" has no port; a backend is HOST:PORT[/WEIGHT], \
      as 10.0.0.7:8080 or web.internal:80/3",
    ),
    (
        "clusters: {a: {backends: ['b:1', 'B:1']}}",
        "lb.yaml:1:34: clusters.a.backends[1]: the backend \"b:1\" is here a second time; the first \
      is at lb.yaml:1",
    ),
    (
        "listeners: [{address: 80, tcp: {cluster: c, relay: splce}}]\nclusters: {c: {backends: ['b:1']}}",
        "lb.yaml:1:52: listeners[0].tcp.relay: \"splce\" is not one of auto, copy, splice; did you \
      mean \"splice\"?",
    ),
    (
        "clusters: {a: {balance: rr}}",
        "lb.yaml:1:15: clusters.a: the key \"backends\" is missing",
    ),
    (
        "clusters: {a: {backends: ['b:1'], health: {interval: 1s}}}",
        "lb.yaml:1:43: clusters.a.health: the key \"check\" is missing",
    ),
    (
        "clusters: {a: {backends: ['b:1'], health: {check: htp}}}",
        "lb.yaml:1:51: clusters.a.health.check: \"htp\" is not one of grpc, http, https, tcp, udp; \
      did you mean \"http\"?",
    ),
    (
        "clusters: {a: {backends: ['b:1'], health: {check: tcp, path: /}}}",
        "lb.yaml:1:56: clusters.a.health.path: \"path\" has no effect here; it is for http and https \
      checks",
    ),
    (
        "clusters: {a: {backends: ['b:1'], health: {check: https, verify: no-such.pem}}}",
        "lb.yaml:1:66: clusters.a.health.verify: \"no-such.pem\" is not off, system, or a PEM \
      file of certificates that can be read: No such file or directory (os error 2)",
    ),
    (
        "clusters: {a: {backends: []}}",
        "lb.yaml:1:26: clusters.a.backends: there is no backend; a cluster has at least one, as \
      10.0.0.7:8080",
    ),
    (
        "clusters: {a: {backends: ['b:1/0', {address: 'c:1', drain: true}]}}",
        "lb.yaml:1:12: clusters.a: no backend takes new load: all have weight 0 or drain: true",
    ),
    (
        "clusters: {a: {backends: [{address: 'c:1', backup: true}]}}",
        "lb.yaml:1:12: clusters.a: all backends have backup: true; at least one must not",
    ),
    (
        "clusters: {a: {backends: ['b:1', {address: 'b:1', name: c}]}}",
        "lb.yaml:1:44: clusters.a.backends[1].address: the address \"b:1\" is here a second time; \
      the first is at lb.yaml:1",
    ),
    (
        "clusters: {a: {backends: ['[::ffff:10.0.0.1]:80']}}",
        "lb.yaml:1:27: clusters.a.backends[0]: \"::ffff:10.0.0.1\" is an IPv4 address in IPv6 form; \
      write 10.0.0.1",
    ),
    (
        "clusters: {a: {backends: ['0.0.0.0:80']}}",
        "lb.yaml:1:27: clusters.a.backends[0]: \"0.0.0.0\" is not the address of one machine",
    ),
    (
        "clusters: {a: {backends: ['b:1'], balance: mh, hash_key: hedder:x}}",
        "lb.yaml:1:58: clusters.a.hash_key: \"hedder:x\" is not one of client, client-port, \
      destination, uri, header:NAME, cookie:NAME, query:NAME; did you mean \"header\"?",
    ),
    (
        "clusters: {a: {backends: ['b:1'], affinity: client}}",
        "lb.yaml:1:45: clusters.a.affinity: \"client\" is not one of none, client-ip[:SECONDS], \
      cookie[:NAME], header:NAME; did you mean \"client-ip\"?",
    ),
    (
        "clusters: {a: {backends: ['b:1'], affinity: {client_ip: {timeout: 25h}}}}",
        "lb.yaml:1:67: clusters.a.affinity.client_ip.timeout: 90000s is not from 1s to 24h, for \
      which affinity can last",
    ),
    (
        "clusters: {a: {backends: ['b:1'], affinity: {client_ip: {ipv4_prefix: 33}}}}",
        "lb.yaml:1:71: clusters.a.affinity.client_ip.ipv4_prefix: \"33\" is not a whole number \
      from 1 to 32",
    ),
    (
        "clusters: {a: {backends: ['b:1'], affinity: {cookie: {}, client_ip: {}}}}",
        "lb.yaml:1:45: clusters.a.affinity: affinity is by one of \"client_ip\", \"header\" and \
      \"cookie\"",
    ),
    (
        "clusters: {a: {backends: ['b:1'], panic_threshold: 50%}}",
        "lb.yaml:1:52: clusters.a.panic_threshold: panic_threshold has no effect without health or \
      outlier: no backend is ever thought to be down",
    ),
    (
        "clusters: {a: {backends: ['b:1'], outlier: {failures: none}}}",
        "lb.yaml:1:44: clusters.a.outlier: nothing would ever eject a backend: there is neither \
      failures nor ratio",
    ),
    (
        "clusters: {a: {backends: ['b:1'], outlier: {window: 5s}}}",
        "lb.yaml:1:53: clusters.a.outlier.window: window has no effect without ratio",
    ),
    (
        "clusters: {a: {backends: ['b:1'], outlier: {ejection: 6m}}}",
        "lb.yaml:1:55: clusters.a.outlier.ejection: the first ejection is longer than ejection_max \
      (default: 5m)",
    ),
    (
        "clusters: {a: {backends: ['b:1'], balance: rr, hash_key: client}}",
        "lb.yaml:1:58: clusters.a.hash_key: hash_key has no effect with balance rr; it is for HASHING",
    ),
    (
        "clusters: {a: {backends: ['b:1'], balance: rr, bounded_load: on}}",
        "lb.yaml:1:62: clusters.a.bounded_load: bounded_load has no effect with balance rr; it is \
      for BOUNDING",
    ),
    (
        "clusters: {a: {backends: ['b:1'], balance: mh, slow_start: 30s}}",
        "lb.yaml:1:60: clusters.a.slow_start: slow_start has no effect with balance mh; it is for \
      SLOW",
    ),
    (
        "clusters: {a: {backends: ['b:1', 'c:1/2'], balance: rr}}",
        "lb.yaml:1:53: clusters.a.balance: balance rr ignores weights; wrr heeds them",
    ),
    (
        "listeners: [{address: 80, tcp: {cluster: a}}]\n\
      clusters: {a: {backends: ['b:1'], affinity: cookie}}",
        "lb.yaml:2:45: clusters.a.affinity: affinity of requests has no effect on a cluster that \
      no HTTP listener uses; by the client's address it has",
    ),
    (
        "cookie_key: short",
        "lb.yaml:1:13: cookie_key: the secret has fewer than 16 bytes; openssl rand -hex 16 makes one",
    ),
    (
        "cookie_key: {file: /nowhere/key}",
        "lb.yaml:1:13: cookie_key: \"/nowhere/key\" cannot be read: No such file or directory (os \
      error 2)",
    ),
    (
        "clusters: {a: {backends: ['b:1'], tries: 0}}",
        "lb.yaml:1:42: clusters.a.tries: \"0\" is not a whole number from 1 to 8",
    ),
    (
        "workers: many",
        "lb.yaml:1:10: workers: \"many\" is not auto or a number of workers (1 to \
      1024), as 4",
    ),
    (
        "listeners: [{address: 53, udp: {cluster: c, replies: 0}}]\nclusters: {c: {backends: ['b:1']}}",
        "lb.yaml:1:54: listeners[0].udp.replies: \"0\" is not a whole number from 1 to 4294967295; \
      or none",
    ),
    (
        "engine: uringg",
        "lb.yaml:1:9: engine: \"uringg\" is not one of auto, epoll, uring; did you \
      mean \"uring\"?",
    ),
];

#[test]
fn each_mistake_has_its_place_and_reason() {
    for (text, expected) in MISTAKES {
        let problems = load(text).expect_err(text);
        let schedulers = |takes: fn(Balance) -> bool| {
            let names = Balance::NAMES.iter().filter(|it| takes(it.1));
            names.map(|it| it.0).collect::<Vec<_>>().join(", ")
        };
        let expected = expected
            .replace("HASHING", &schedulers(Balance::hashes))
            .replace("BOUNDING", &schedulers(Balance::can_bound_load))
            .replace("SLOW", &schedulers(Balance::can_start_slowly));
        assert_eq!(problems, [expected], "{text}");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = "listeners: [{address: x, http: {cluster: nope}}, {address: 80, tcp: {cluster: c}}]\n\
                clusters: {c: 5, d: {backend: []}}\nworkers: 0\n";
    let problems = load(text).unwrap_err();
    let keys = [
        "listeners[0].address",
        "clusters.c",
        "clusters.d",
        "clusters.d.backend",
        "workers",
    ];
    for key in keys {
        assert!(
            problems
                .iter()
                .any(|problem| problem.contains(&format!(": {key}: "))),
            "{key}"
        );
    }
    assert_eq!(problems.len(), keys.len(), "{problems:#?}");
}

#[test]
fn what_is_not_written_is_filled_in() {
    let text = "listeners: [{name: web, address: 80, http: {}}, {address: 81, tcp: {cluster: c}}]\n\
                clusters: {c: {backends: [10.0.0.1:1/2, {address: 'h:2', name: x, weight: 0}]}}\n";
    let draft = load(text).unwrap();
    assert_eq!(draft.settings, Settings::default());
    assert_eq!(draft.host_names().into_iter().collect::<Vec<_>>(), ["h"]);

    let unresolved = draft.plan(&Names::new());
    assert_eq!(unresolved.clusters[0].backends.len(), 1);

    let addresses = ["10.0.0.8", "10.0.0.9"].map(|address| address.parse().unwrap());
    let plan = draft.plan(&Names::from([("h".to_owned(), addresses.to_vec())]));
    assert_eq!(plan.listeners[0].name, "web");
    assert_eq!(plan.listeners[1].name, "0.0.0.0:81");
    let backends = &plan.clusters[0].backends;
    let shown: Vec<_> = backends
        .iter()
        .map(|b| (b.name.as_str(), b.weight))
        .collect();
    assert_eq!(shown, [("10.0.0.1:1", 2), ("x", 0), ("x", 0)]);
}

#[test]
fn udp_has_ports_and_names_of_its_own() {
    let text = "listeners: [{address: 53, tcp: {cluster: c}}, {address: 53, udp: {cluster: c}}]\n\
                clusters: {c: {backends: ['b:1']}}\n";
    let plan = load(text).unwrap().plan(&Names::new());
    let names: Vec<_> = plan.listeners.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["0.0.0.0:53", "0.0.0.0:53/udp"]);
    let lb_core::plan::Protocol::Udp(udp) = &plan.listeners[1].protocol else {
        panic!("a UDP listener");
    };
    assert_eq!(*udp, lb_core::plan::Udp::to("c"), "defaults");

    let text = "listeners: [{address: 53, udp: {cluster: c, idle_timeout: 5s, replies: 1, \
                requests: 2, flows_max: 3, flows_per_source_max: 4}}]\n\
                clusters: {c: {backends: ['b:1']}}\n";
    let plan = load(text).unwrap().plan(&Names::new());
    let expected = lb_core::plan::Udp {
        idle_timeout: std::time::Duration::from_secs(5),
        replies: Some(1),
        requests: Some(2),
        flows_max: 3,
        flows_per_source_max: Some(4),
        ..lb_core::plan::Udp::to("c")
    };
    assert_eq!(
        plan.listeners[0].protocol,
        lb_core::plan::Protocol::Udp(expected)
    );

    let flags = Flags {
        tcp: vec![ListenFlag::tcp("53=10.0.0.1:53").unwrap()],
        udp: vec![ListenFlag::udp("53=10.0.0.1:53").unwrap()],
        ..Flags::default()
    };
    let sources = Sources {
        flags,
        ..Sources::default()
    };
    let plan = sources.load().unwrap().plan(&Names::new());
    assert_eq!(plan.clusters[1].name, "0.0.0.0:53/udp");
}

#[test]
fn the_relay_is_chosen_by_file_and_by_flag() {
    let relays = |plan: lb_core::plan::Plan| -> Vec<Relay> {
        let listeners = plan.listeners.iter();
        let relay = |listener: &Arc<lb_core::plan::Listener>| match &listener.protocol {
            lb_core::plan::Protocol::Tcp(tcp) => tcp.relay,
            other => panic!("{other:?}"),
        };
        listeners.map(relay).collect()
    };
    let text = "listeners: [{address: 80, tcp: {cluster: c, relay: splice}}, \
                {address: 81, tcp: {cluster: c}}]\n\
                clusters: {c: {backends: [10.0.0.1:1]}}\n";
    let plan = load(text).unwrap().plan(&Names::new());
    assert_eq!(relays(plan), [Relay::Splice, Relay::Auto]);

    let flags = Flags {
        tcp: vec![ListenFlag::tcp("5432=10.0.0.1:5432").unwrap()],
        relay: Some(Relay::Copy),
        ..Flags::default()
    };
    let sources = Sources {
        flags,
        ..Sources::default()
    };
    let plan = sources.load().unwrap().plan(&Names::new());
    assert_eq!(relays(plan), [Relay::Copy]);

    let flags = Flags {
        http: vec![ListenFlag::http("80=10.0.0.1:80").unwrap()],
        relay: Some(Relay::Copy),
        ..Flags::default()
    };
    let sources = Sources {
        flags,
        ..Sources::default()
    };
    let problems = sources.load().unwrap_err();
    let told = |problem: &Problem| problem.to_string().starts_with("--relay copy: no --tcp");
    assert!(problems.iter().any(told), "{problems:?}");
}

#[test]
fn flags_are_a_source_like_a_file() {
    let flags = Flags {
        tcp: vec![ListenFlag::tcp("db@5432=10.0.0.1:5432").unwrap()],
        udp: Vec::new(),
        http: vec![ListenFlag::http("127.0.0.1:80").unwrap()],
        routes: vec![RouteFlag::parse("shop.example/cart=10.0.0.2:80").unwrap()],
        affinity: Some(AffinityFlag::parse("client-ip:60").unwrap()),
        health: Some(HealthFlag::parse("http:/healthz").unwrap()),
        ..Flags::default()
    };
    let draft = Sources {
        flags,
        ..Sources::default()
    }
    .load()
    .unwrap();
    let plan = draft.plan(&Names::new());
    assert_eq!(plan.clusters[0].name, "db");
    for cluster in &plan.clusters {
        let check = cluster.health.as_ref().map(|health| &health.check);
        assert!(matches!(check, Some(Check::Http(http)) if http.path == "/healthz"));
        let minute = std::time::Duration::from_secs(60);
        assert_eq!(cluster.affinity, Some(Affinity::client_address(minute)));
    }
    assert_eq!(plan.clusters[1].name, "shop.example/cart");
    assert_eq!(plan.listeners[1].name, "127.0.0.1:80");
}

#[test]
fn flags_without_effect_are_refused() {
    let flags = Flags {
        health: Some(HealthFlag::parse("tcp").unwrap()),
        hash_key: Some(HashKey::Uri),
        ..Flags::default()
    };
    let problems = Sources {
        flags,
        ..Sources::default()
    }
    .load()
    .unwrap_err();
    for flag in ["--health", "--hash-key"] {
        let start = format!("{flag}: has an effect");
        let told = |problem: &Problem| problem.to_string().starts_with(&start);
        assert!(problems.iter().any(told), "{flag}");
    }

    let flags = Flags {
        tcp: vec![ListenFlag::tcp("1=a:1").unwrap()],
        routes: vec![RouteFlag::parse("*=a:1").unwrap()],
        ..Flags::default()
    };
    let problems = Sources {
        flags,
        ..Sources::default()
    }
    .load()
    .unwrap_err();
    assert_eq!(
        problems[0].to_string(),
        "--route *=a:1: no --http listener takes this route; as --http 8080"
    );
}

#[test]
fn what_only_a_part_of_the_traffic_notices_is_a_warning() {
    let text = "listeners: [{address: 80, http: {cluster: a}}, {address: 81, tcp: {cluster: a}}]\n\
                clusters: {a: {backends: ['b:1', 'c:1'], balance: mh, hash_key: uri, affinity: \
                cookie}}\n";
    let warnings: Vec<_> = load(text).unwrap().warnings;
    let shown: Vec<_> = warnings.iter().map(Problem::to_string).collect();
    assert_eq!(
        shown,
        [
            "lb.yaml:2:65: clusters.a.hash_key: TCP or UDP listeners use this cluster too; they know no \
             requests, and their sessions are balanced by the client's address",
            "lb.yaml:2:80: clusters.a.affinity: TCP or UDP listeners use this cluster too; they know no \
             requests, and their sessions are balanced without affinity",
        ]
    );
}

/// The files that the annotated example names.
struct ExampleFiles(PathBuf);

impl ExampleFiles {
    const NAMES: [&str; 8] = [
        "shop.pem",
        "shop.key",
        "own.pem",
        "own.key",
        "clients.pem",
        "staff.pem",
        "revoked.pem",
        "ticket.key",
    ];

    fn make() -> Self {
        use rcgen::{
            BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer,
            KeyIdMethod, KeyPair, KeyUsagePurpose, SerialNumber, date_time_ymd,
        };
        let folder = std::env::temp_dir().join(format!("lb-example-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let write = |name: &str, text: &[u8]| std::fs::write(folder.join(name), text).unwrap();
        for name in ["shop", "own"] {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec!["shop.example".to_owned()]).unwrap();
            let certificate = params.self_signed(&key).unwrap();
            write(&format!("{name}.pem"), certificate.pem().as_bytes());
            write(&format!("{name}.key"), key.serialize_pem().as_bytes());
        }
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority = params.self_signed(&key).unwrap().pem();
        for name in ["clients.pem", "staff.pem"] {
            write(name, authority.as_bytes());
        }
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2124, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&Issuer::new(params, key)).unwrap();
        write("revoked.pem", list.pem().unwrap().as_bytes());
        write("ticket.key", &[7; 48]);
        Self(folder)
    }

    /// `text` with these files in the place of those that it names.
    fn in_place(&self, text: &str) -> String {
        let folder = self.0.display();
        let put = |text: String, name: &str| {
            let text = text.replace(&format!(": {name}"), &format!(": {folder}/{name}"));
            text.replace(&format!("[{name}"), &format!("[{folder}/{name}"))
        };
        Self::NAMES.into_iter().fold(text.to_owned(), put)
    }
}

impl Drop for ExampleFiles {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_annotated_example_loads() {
    let guide = include_str!("../../CONFIG.md");
    let example = guide
        .split("```yaml\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next());
    let folder = ExampleFiles::make();
    let example = folder.in_place(example.expect("CONFIG.md opens with an example"));
    let draft = load(&example).unwrap();
    assert!(draft.plan(&Names::new()).listeners.len() >= 2);

    let edge = guide.split("```yaml\n").nth(2).unwrap();
    let edge = edge.split("```").next().unwrap();
    let clusters = "clusters: {web: {backends: ['b:1']}, web2: {backends: ['b:2']}}\n";
    let plan = load(&format!("{edge}{clusters}"))
        .unwrap()
        .plan(&Names::new());
    assert!(plan.listeners[0].edge.proxy_in.is_some());

    let others = guide.split("```yaml\n").nth(3).unwrap();
    for example in others.split("```").next().unwrap().split("---\n") {
        let indented = example.replace('\n', "\n    ");
        let text = format!("clusters:\n  a:\n    backends: ['b:1']\n    {indented}");
        let plan = load(&text).unwrap().plan(&Names::new());
        assert!(plan.clusters[0].affinity.is_some(), "{text}");
    }

    let (_, routes) = guide.split_once("## Routes").unwrap();
    let routes = routes.split("```").nth(1).unwrap();
    let routes = routes.strip_prefix("yaml").unwrap();
    let clusters =
        "clusters: {users: {}, shop: {}, images: {}}".replace("{}", "{backends: ['b:1']}");
    let text = format!("listeners:\n  - address: 80\n    http:\n{routes}{clusters}\n");
    load(&text).unwrap();

    let (_, logs) = guide.split_once("## Access logs").unwrap();
    let log = logs
        .split("```")
        .nth(1)
        .unwrap()
        .strip_prefix("yaml")
        .unwrap();
    load(log).unwrap();
    // Every variable of the table is one, and every one is in the table.
    let table = logs.split("| --- | --- |").nth(1).unwrap();
    let named: Vec<&str> = table
        .split('`')
        .filter_map(|it| it.strip_prefix('$'))
        .collect();
    for name in &named {
        let name = name.replace("NAME", "x");
        assert!(logs::parse_format(&format!("${name}")).is_ok(), "{name}");
    }
    for name in lb_l7::Template::variable_names() {
        let shown = |it: &&str| it.trim_end_matches("NAME") == name;
        assert!(named.iter().any(shown), "CONFIG.md lacks ${name}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "[a-z0-9:{}\\[\\],&*!|>'\"% \n/.-]{0,200}") {
        let _ = load(&text);
    }

    #[test]
    fn no_flag_panics(text in "\\PC{0,60}") {
        let _ = (ListenFlag::tcp(&text), RouteFlag::parse(&text), parse_duration(&text));
    }
}
