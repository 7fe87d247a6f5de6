//! Any routes and any request: a plan that passes its checks makes a table, the route that is found
//! is one that matches, and what a rewrite makes of a path is a request target that our own rules let
//! in, whatever groups of an expression bring.
#![no_main]

#[allow(dead_code)]
#[path = "../shared/alone.rs"]
mod alone;
#[allow(dead_code)]
#[path = "../../lb-l7/tests/simulation/proxy.rs"]
mod proxy;

use std::sync::Arc;

use lb_core::plan::{
    self, HostMatching, Matching, PathForm, PathMatch, Redirect, Rewrite, Route, RouteAction,
};
use lb_l7::route::RouteTable;
use libfuzzer_sys::fuzz_target;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx";

fuzz_target!(|input: &[u8]| {
    let Some((&settings, rest)) = input.split_first() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(rest) else {
        return;
    };
    let mut lines = text.split('\n');
    let (host, target) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
    let routes: Vec<Route> = lines.take(8).filter_map(route).collect();
    let matching = Matching {
        hosts: [HostMatching::FallThrough, HostMatching::Closest][usize::from(settings & 1)],
        paths: [PathForm::AsSent, PathForm::Normalized][usize::from(settings >> 1 & 1)],
    };
    let http = plan::Http {
        default_cluster: Some("c".to_owned()),
        routes,
        matching,
        ..plan::Http::default()
    };
    if !is_valid(&http) {
        return;
    }
    let table = RouteTable::build(&http.routes, matching.hosts).expect("a valid plan");
    let path = target.split('?').next().unwrap_or("");
    if let Some(found) = table.find(host.as_bytes(), path.as_bytes()) {
        let route = &http.routes[found as usize];
        assert!(is_for(route, path), "{:?} for {path:?}", route.path);
    }
    let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let seen = alone::ask(&http, |service| service, request.as_bytes(), ANSWER);
    check_target(&seen.by_backend);
    check_location(&seen.by_client);
});

/// `exact /a`, `prefix /a => /b`, `start …`, `regex …`, `redirect …`, perhaps with a host before.
fn route(line: &str) -> Option<Route> {
    let (place, action) = match line.split_once(" => ") {
        Some((place, rewrite)) => (place, Some(rewrite)),
        None => (line, None),
    };
    let mut words = place.splitn(3, ' ');
    let (kind, host, path) = (words.next()?, words.next()?, words.next()?.to_owned());
    let path = match kind.trim_end_matches('>') {
        "exact" => PathMatch::Exact(path),
        "prefix" => PathMatch::Prefix(path),
        "start" => PathMatch::Start(path),
        "regex" => PathMatch::Regex {
            pattern: path,
            ignore_case: false,
        },
        "iregex" => PathMatch::Regex {
            pattern: path,
            ignore_case: true,
        },
        _ => return None,
    };
    let rewrite = action.map(|text| match text.strip_prefix('^') {
        Some(text) => Rewrite::Prefix(text.to_owned()),
        None => Rewrite::Path(text.to_owned()),
    });
    let action = if kind.ends_with('>') {
        RouteAction::Redirect(Redirect {
            path: rewrite,
            host: Some("there.example".to_owned()),
            ..Redirect::by(302)
        })
    } else {
        RouteAction::Cluster {
            name: "c".to_owned(),
            rewrite,
        }
    };
    Some(Route {
        host: (host != "*").then(|| host.to_owned()),
        path,
        action,
    })
}

/// Whether the plan's own checks let it in.
fn is_valid(http: &plan::Http) -> bool {
    let backend = std::net::SocketAddr::from(([127, 0, 0, 1], 2));
    let plan = plan::Plan {
        listeners: vec![Arc::new(plan::Listener {
            name: "web".to_owned(),
            address: (std::net::Ipv4Addr::LOCALHOST, 1).into(),
            edge: plan::Edge::default(),
            access_log: plan::ListenerLog::default(),
            protocol: plan::Protocol::Http(http.clone()),
        })],
        clusters: vec![Arc::new(plan::Cluster::new("c", vec![backend.into()]))],
        ..plan::Plan::default()
    };
    plan.validate().is_ok()
}

fn is_for(route: &Route, path: &str) -> bool {
    match &route.path {
        PathMatch::Exact(own) => own == path,
        PathMatch::Start(own) => path.starts_with(own.as_str()),
        PathMatch::Prefix(own) => {
            let own = own.trim_end_matches('/');
            let rest = path.strip_prefix(own);
            rest.is_some_and(|it| own.is_empty() || it.is_empty() || it.starts_with('/'))
        }
        PathMatch::Regex { .. } => true,
    }
}

/// The target in the head that a backend has got.
fn check_target(received: &[u8]) {
    let Some(end) = received.windows(2).position(|it| it == b"\r\n") else {
        assert!(received.is_empty());
        return;
    };
    let line = std::str::from_utf8(&received[..end]).expect("visible ASCII");
    let words: Vec<&str> = line.split(' ').collect();
    let [method, target, version] = words.as_slice() else {
        panic!("a request line of {} words: {line:?}", words.len());
    };
    assert_eq!((*method, *version), ("GET", "HTTP/1.1"));
    assert!(target.starts_with('/') || *target == "*", "{target:?}");
    assert!(
        target.bytes().all(|it| it.is_ascii_graphic() && it != b'#'),
        "{target:?}"
    );
    let path = target.split('?').next().expect("a path");
    for segment in path.split('/') {
        let plain = segment.to_ascii_lowercase().replace("%2e", ".");
        assert!(plain != "." && plain != "..", "a dot segment in {target:?}");
    }
}

/// A Location of ours is one line, whose host is the one that was said.
fn check_location(received: &[u8]) {
    let text = String::from_utf8_lossy(received);
    for line in text.split("\r\n") {
        if let Some(location) = line.strip_prefix("Location: ") {
            let rest = location.strip_prefix("http://there.example");
            let rest = rest.unwrap_or_else(|| panic!("{location:?}"));
            assert!(rest.starts_with('/'), "another host in {location:?}");
            assert!(rest.bytes().all(|it| it.is_ascii_graphic()), "{location:?}");
        }
    }
}
