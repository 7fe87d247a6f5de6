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
    balance: mhh
";

const BAD_LINES: [&str; 4] = [
    "4:16: listeners[0].http.cluster: there is no cluster \"wbe\"; did you mean \"web\"?",
    "5:7: listeners[0].http.limitz: there is no key \"limitz\" here; there are cluster, routes, \
     limits, timeouts, forwarded; did you mean \"limits\"?",
    "8:30: clusters.web.backends[1]: \"nonsense\" has no port; a backend is HOST:PORT[/WEIGHT], \
     as 10.0.0.7:8080 or web.internal:80/3",
    "9:14: clusters.web.balance: \"mhh\" is not one of mh, rr; did you mean \"mh\"?",
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
