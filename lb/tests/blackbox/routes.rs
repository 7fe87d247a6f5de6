//! Routes of every kind, asked for by a real client; redirects are followed by curl.

use std::net::SocketAddr;
use std::process::Command;

use crate::client::{self, Response};
use crate::harness::{Folder, Lb, on_both_engines, output, skip};
use crate::origin;

on_both_engines!(
    every_kind_of_route_is_served,
    curl_follows_redirects,
    as_nginx_has_it_hosts_hide_and_paths_are_decoded,
);

const ROUTES: &str = "
    - {exact: /gone, answer: 410}
    - {exact: /nothing, answer: 204}
    - {regex: '/something(/|$)(.*)', ignore_case: true, cluster: a, rewrite: '/$2'}
    - {path: /old, cluster: a, rewrite_prefix: /new}
    - {start: /im, cluster: a}
    - {regex: '/climb/(.*)', cluster: a, rewrite: '/./$1'}
    - {path: /go, redirect: {scheme: https, host: new.example, prefix: /here, status: 301}}
";

fn start(engine: &str, http: &str, routes: &str) -> (Lb, Folder) {
    let folder = Folder::new();
    let file = format!(
        "listeners:\n- name: web\n  address: 127.0.0.1:0\n  http:\n{http}    routes:{routes}\
         clusters:\n  a: {{backends: [\"{}\"]}}\n",
        origin::echo()
    );
    let path = folder.write("lb.yaml", &file);
    (Lb::start(engine, &["--config", &path]), folder)
}

/// The target that the origin was asked for.
fn seen(response: &Response) -> Option<&str> {
    let (_, rest) = response.body.split_once("GET ")?;
    rest.split_once(" HTTP/1.1\r\n").map(|(target, _)| target)
}

fn every_kind_of_route_is_served(engine: &str) {
    let (lb, _folder) = start(engine, "", ROUTES);
    let web: SocketAddr = lb.listener("web");
    for (target, status, expected) in [
        ("/gone", 410, None),
        ("/nothing", 204, None),
        ("/gone/", 404, None),
        ("/SomeThing/new?q=/x", 200, Some("/new?q=/x")),
        ("/something", 200, Some("/")),
        ("/old/x?y", 200, Some("/new/x?y")),
        ("/older", 404, None),
        ("/images", 200, Some("/images")),
        ("/climb/x", 400, None),
        ("/go/x?y", 301, None),
    ] {
        let response = client::get(web, target);
        assert_eq!(response.status, status, "{target}");
        assert_eq!(seen(&response), expected, "{target}");
        let location = (status == 301).then_some("https://new.example/here/x?y");
        assert_eq!(response.header("location"), location, "{target}");
    }
}

fn curl_follows_redirects(engine: &str) {
    if Command::new("curl").arg("--version").output().is_err() {
        return skip("curl");
    }
    let routes = "
    - {path: /a, redirect: {prefix: /b, status: 307}}
    - {regex: '/b/(.*)', redirect: {path: '/c/$1?d', status: 308}}
    - {path: /c, cluster: a}
";
    let (lb, _folder) = start(engine, "", routes);
    let url = format!("http://{}/a/x?y", lb.listener("web"));
    let curl = Command::new("curl")
        .args(["--silent", "--location", "--data", "body", &url])
        .output()
        .unwrap();
    let head = String::from_utf8(curl.stdout).unwrap();
    assert!(head.starts_with("POST /c/x?d&y HTTP/1.1\r\n"), "{head}");
}

fn as_nginx_has_it_hosts_hide_and_paths_are_decoded(engine: &str) {
    let routes = "
    - {host: test.example, path: /mine, cluster: a}
    - {path: /admin, answer: 403}
    - {path: /, cluster: a}
";
    let (lb, _folder) = start(engine, "", routes);
    let status = |lb: &Lb, target| client::get(lb.listener("web"), target).status;
    for (target, expected) in [("/mine", 200), ("/admin", 403), ("/%61dmin", 200)] {
        assert_eq!(status(&lb, target), expected, "{target}");
    }
    let matching = "    matching: {hosts: closest}\n";
    let (lb, _folder) = start(engine, matching, routes);
    for (target, expected) in [("/mine", 200), ("/admin", 404), ("/", 404)] {
        assert_eq!(status(&lb, target), expected, "{target}");
    }
    let matching = "    matching: {paths: normalized}\n";
    let (lb, _folder) = start(engine, matching, routes);
    for (target, expected) in [
        ("/%61dmin", 403),
        ("//admin//x", 403),
        ("/x/..%2fadmin", 400),
        ("/m%69ne", 200),
    ] {
        assert_eq!(status(&lb, target), expected, "{target}");
    }
    let decoded = client::get(lb.listener("web"), "/m%69ne");
    assert_eq!(seen(&decoded), Some("/m%69ne"), "forwarded as it came");
}

#[test]
fn check_shows_routes() {
    let folder = Folder::new();
    let file = format!(
        "listeners:\n- name: web\n  address: 127.0.0.1:0\n  http:\n    routes:{ROUTES}\
         clusters:\n  a: {{backends: [127.0.0.1:9]}}\n"
    );
    let path = folder.write("lb.yaml", &file);
    let check = output(&["check", "--config", &path]);
    let text = String::from_utf8(check.stdout).unwrap();
    let shown = "  *=/gone is answered 410
  *=/nothing is answered 204
  *~*^/something(/|$)(.*) to cluster a as /$2
  */old to cluster a as /new/…
  */im… to cluster a
  *~^/climb/(.*) to cluster a as /./$1
  */go is sent to https://new.example/here/… (301)
";
    assert!(text.contains(shown), "{text}");
}
