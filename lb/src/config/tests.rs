//! What a user is told about every kind of mistake, and what a correct source becomes.

use super::*;

/// Reads one YAML text as if it were the file `lb.yaml`.
fn load(text: &str) -> Result<Draft, Vec<String>> {
    let mut problems = Vec::new();
    let file = match Node::parse(&"lb.yaml".into(), text) {
        Ok(root) => read::file(&root, &mut problems),
        Err(problem) => {
            problems.push(problem);
            None
        }
    };
    let draft = compile::compile(file.as_ref().as_slice(), &mut problems);
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
      routes, clusters, hash_seed, workers, engine, admin, access_log, drain_timeout, log_format; \
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
        "lb.yaml:2:5: listeners[0]: a listener has either \"http\" or \"tcp\"",
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
      clusters: {a: {backends: []}}",
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
      - {host: A.example, path: /, cluster: a}\nclusters: {a: {backends: []}}",
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
        "listeners: [{address: 80, http: {}, limits: {conections: 5}}]",
        "lb.yaml:1:46: listeners[0].limits.conections: there is no key \"conections\" here; there \
      are connections, per_source, rate, burst; did you mean \"connections\"?",
    ),
    (
        "listeners: [{address: 80, tcp: {}}]",
        "lb.yaml:1:32: listeners[0].tcp: the key \"cluster\" is missing",
    ),
    (
        "listeners: [{address: 80, tcp: {cluster: a, otherwise: alert}}]\nclusters: {a: {backends: []}}",
        "lb.yaml:1:32: listeners[0].tcp: \"hello_timeout\" and \"otherwise\" are for \"server_names\"",
    ),
    (
        "listeners: [{address: 80, tcp: {cluster: a, proxy_out: v3}}]\nclusters: {a: {backends: []}}",
        "lb.yaml:1:56: listeners[0].tcp.proxy_out: \"v3\" is not one of v1, v2; did you mean \
      \"v1\"?",
    ),
    (
        "listeners: [{address: 80, tcp: {cluster: a, proxy_out: {version: v1, checksum: true}}}]\n\
      clusters: {a: {backends: []}}",
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
      protocols: [h2]}, {name: b, cluster: a, protocols: [h2]}]}}]\nclusters: {a: {backends: []}}",
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
        "clusters: {a: {balance: rr}}",
        "lb.yaml:1:15: clusters.a: the key \"backends\" is missing",
    ),
    (
        "clusters: {a: {backends: [], balance: lc}}",
        "lb.yaml:1:39: clusters.a.balance: \"lc\" is not one of mh, rr",
    ),
    (
        "clusters: {a: {backends: [], health: {interval: 1s}}}",
        "lb.yaml:1:38: clusters.a.health: the key \"check\" is missing",
    ),
    (
        "clusters: {a: {backends: [], health: {check: http}}}",
        "lb.yaml:1:46: clusters.a.health.check: \"http\" is not one of tcp",
    ),
    (
        "clusters: {a: {backends: [], tries: 0}}",
        "lb.yaml:1:37: clusters.a.tries: \"0\" is not a whole number from 1 to 8",
    ),
    (
        "workers: many",
        "lb.yaml:1:10: workers: \"many\" is not auto or a number of workers (1 to \
      1024), as 4",
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
        assert_eq!(problems, [*expected], "{text}");
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
fn flags_are_a_source_like_a_file() {
    let flags = Flags {
        tcp: vec![ListenFlag::tcp("db@5432=10.0.0.1:5432").unwrap()],
        http: vec![ListenFlag::http("127.0.0.1:80").unwrap()],
        routes: vec![RouteFlag::parse("shop.example/cart=10.0.0.2:80").unwrap()],
        health: Some(HealthFlag::Tcp),
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
    assert!(plan.clusters.iter().all(|cluster| cluster.health.is_some()));
    assert_eq!(plan.clusters[1].name, "shop.example/cart");
    assert_eq!(plan.listeners[1].name, "127.0.0.1:80");
}

#[test]
fn flags_without_effect_are_refused() {
    let flags = Flags {
        health: Some(HealthFlag::Tcp),
        ..Flags::default()
    };
    let problems = Sources {
        flags,
        ..Sources::default()
    }
    .load()
    .unwrap_err();
    assert!(
        problems
            .iter()
            .any(|problem| problem.to_string().starts_with("--health: has an effect"))
    );

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
fn the_annotated_example_loads() {
    let guide = include_str!("../../CONFIG.md");
    let example = guide
        .split("```yaml\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next());
    let draft = load(example.expect("CONFIG.md opens with an example")).unwrap();
    assert!(draft.plan(&Names::new()).listeners.len() >= 2);
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
