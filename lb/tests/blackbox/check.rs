//! `lb check`, and that `lb run` says the same of a bad file.

use serde_json::Value;

use crate::harness::{Folder, output};

const BAD: &str = "listeners:
  - address: 127.0.0.1:0
    http:
      cluster: wbe
      limitz: {}
clusters:
  web:
    backends: [127.0.0.1:80, nonsense]
    balance: wllc
    slow_start: 30
    health: {check: htpp}
    affinity: {client_ip: {timeout: 48h}}
";

const BAD_LINES: [&str; 7] = [
    "4:16: listeners[0].http.cluster: there is no cluster \"wbe\"; did you mean \"web\"?",
    "5:7: listeners[0].http.limitz: there is no key \"limitz\" here; there are cluster, routes, \
     matching, limits, timeouts, forwarded, http2, tls, request_id, upgrades, body_rate, \
     request_buffer, ignore_client_abort; did you mean \"limits\"?",
    "8:30: clusters.web.backends[1]: \"nonsense\" has no port; a backend is HOST:PORT[/WEIGHT], \
     as 10.0.0.7:8080 or web.internal:80/3",
    "9:14: clusters.web.balance: \"wllc\" is not one of dh, ewma, fo, lblc, lblcr, lc, mh, nq, ovf, \
     p2c, random, ring, rr, sed, sh, twos, wlc, wrr; did you mean \"wlc\"?",
    "10:17: clusters.web.slow_start: \"30\" has no unit; a duration is 500ms, 30s, 5m or 1h; or none",
    "11:21: clusters.web.health.check: \"htpp\" is not one of grpc, http, https, tcp, udp; did you \
     mean \"http\"?",
    "12:37: clusters.web.affinity.client_ip.timeout: 172800s is not from 1s to 24h, for which \
     affinity can last",
];

#[test]
fn a_bad_file_is_told_line_by_line() {
    let folder = Folder::new();
    let path = folder.write("lb.yaml", BAD);
    let golden = |prefix: &str| {
        BAD_LINES
            .map(|line| format!("{prefix}: {path}:{line}\n"))
            .concat()
    };

    let check = output(&["check", "--config", &path]);
    assert_eq!(check.status.code(), Some(1));
    assert_eq!(String::from_utf8(check.stdout).unwrap(), golden("problem"));

    let run = output(&["--config", &path, "--admin", "off"]);
    assert_eq!(run.status.code(), Some(1));
    assert_eq!(String::from_utf8(run.stderr).unwrap(), golden("error"));

    let json = output(&["check", "--config", &path, "--format", "json"]);
    assert_eq!(json.status.code(), Some(1));
    let value: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(value["plan"], Value::Null);
    assert_eq!(value["problems"].as_array().unwrap().len(), BAD_LINES.len());
    assert_eq!(value["problems"][0]["line"], 4);
    assert_eq!(value["problems"][0]["key"], "listeners[0].http.cluster");
    assert_eq!(value["problems"][0]["meant"], "web");
}

#[test]
fn a_good_source_is_shown_as_it_is_understood() {
    let arguments = [
        "check",
        "--tcp",
        "db@5432=10.0.0.1:5432/2",
        "--http",
        "8080",
        "--route",
        "shop.example/cart=10.0.0.2:80",
        "--health",
        "tcp",
        "--balance",
        "mh",
    ];
    let text = output(&arguments);
    assert_eq!(text.status.code(), Some(0));
    assert_eq!(
        String::from_utf8(text.stdout).unwrap(),
        "listener db: tcp on 0.0.0.0:5432 to cluster db
listener 0.0.0.0:8080: http on 0.0.0.0:8080
  shop.example/cart to cluster shop.example/cart
  everything else is answered 404
cluster db: mh, tcp checks every 2s
  10.0.0.1:5432 weight 2
cluster shop.example/cart: mh, tcp checks every 2s
  10.0.0.2:80 weight 1
"
    );
    let json = output(&[&arguments[..], &["--format", "json"]].concat());
    let value: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(value["plan"]["listeners"][0]["tcp"]["cluster"], "db");
    assert_eq!(value["plan"]["clusters"][0]["backends"][0]["weight"], 2);
    assert_eq!(value["problems"], Value::Array(Vec::new()));
}

/// Written, read, shown, and written again, it is the same.
#[test]
fn everything_about_balancing_is_shown() {
    let folder = Folder::new();
    let text = "listeners:
  - {name: web, address: '127.0.0.1:80', http: {cluster: web}}
  - {name: raw, address: '127.0.0.1:81', tcp: {cluster: web}}
clusters:
  web:
    backends: [10.0.0.1:80, {address: 10.0.0.2:80, backup: true}, {address: 10.0.0.3:80, drain: true}]
    balance: ring
    hash_key: header:X-User
    bounded_load: 1.5
    panic_threshold: 50%
    affinity: {cookie: {name: sid, max_age: 1h, same_site: strict, mode: balanced}}
    outlier: {ratio: 20%, window: 30s}
    health: {check: grpc, service: shop.Cart, port: 81, jitter: 20%}
cookie_key: a secret that is not shown
";
    let path = folder.write("lb.yaml", text);
    let shown = output(&["check", "--config", &path]);
    assert_eq!(shown.status.code(), Some(0));
    assert_eq!(
        String::from_utf8(shown.stdout).unwrap(),
        format!(
            "listener web: http on 127.0.0.1:80
  everything else to cluster web
listener raw: tcp on 127.0.0.1:81 to cluster web
cluster web: ring by header:x-user, bounded load 1.50, affinity by cookie sid, outliers ejected, \
             grpc checks every 2s
  10.0.0.1:80 weight 1
  10.0.0.2:80 weight 1, backup
  10.0.0.3:80 weight 1, draining
warning: {path}:8:15: clusters.web.hash_key: TCP or UDP listeners use this cluster too; they know no \
             requests, and their sessions are balanced by the client's address
warning: {path}:11:15: clusters.web.affinity: TCP or UDP listeners use this cluster too; they know no \
             requests, and their sessions are balanced without affinity
"
        )
    );
    let json = output(&["check", "--config", &path, "--format", "json"]);
    assert_eq!(json.status.code(), Some(0));
    let json = String::from_utf8(json.stdout).unwrap();
    assert!(!json.contains("not shown"), "{json}");
    let value: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["warnings"][1]["key"], "clusters.web.affinity");
    let cluster = &value["plan"]["clusters"][0];
    for (key, expected) in [
        ("/hash_key", "header:x-user".into()),
        ("/bounded_load", "1.50".into()),
        ("/panic_threshold", 50.into()),
        ("/affinity/cookie/max_age", "1h".into()),
        ("/affinity/cookie/same_site", "strict".into()),
        ("/affinity/cookie/mode", "balanced".into()),
        ("/outlier/ratio", 20.into()),
        ("/outlier/failures", 5.into()),
        ("/outlier/window", "30s".into()),
        ("/health/check", "grpc".into()),
        ("/health/service", "shop.Cart".into()),
        ("/health/port", 81.into()),
        ("/backends/1/backup", true.into()),
        ("/backends/2/drain", true.into()),
        ("/slow_start", Value::Null),
    ] {
        assert_eq!(cluster.pointer(key), Some(&expected), "{key}");
    }
}

#[test]
fn a_name_that_does_not_exist_is_a_problem_but_not_a_reason_not_to_start() {
    let check = output(&["check", "--tcp", "5432=no-such-name.invalid:5432"]);
    assert_eq!(check.status.code(), Some(1));
    let text = String::from_utf8(check.stdout).unwrap();
    assert!(
        text.contains("no backend; every request is answered 503"),
        "{text}"
    );
    assert!(
        text.contains("\"no-such-name.invalid\" cannot be resolved"),
        "{text}"
    );
}
