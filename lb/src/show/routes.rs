//! Routes as a user reads them: a line of text, or JSON in the words of CONFIG.md.
//!
//! Invariant: what is shown in JSON can be written into a file as it is.
//! Read next: `../config/routes.rs` (which reads it).

use lb_core::plan::{
    HostMatching, Matching, PathForm, PathMatch, Redirect, Rewrite, Route, RouteAction,
};
use serde_json::{Map, Value, json};

/// A path, in a notation that tells the kinds apart: `/a`, `=/a`, `/a…`, `~^/a`.
pub(crate) fn path(path: &PathMatch) -> String {
    match path {
        PathMatch::Exact(path) => format!("={path}"),
        PathMatch::Prefix(path) => path.clone(),
        PathMatch::Regex {
            pattern,
            ignore_case: false,
        } => format!("~^{pattern}"),
        PathMatch::Regex { pattern, .. } => format!("~*^{pattern}"),
        PathMatch::Start(path) => format!("{path}…"),
    }
}

/// A route as a line.
pub(super) fn text(route: &Route) -> String {
    let host = route.host.as_deref().unwrap_or("*");
    let path = path(&route.path);
    let does = match &route.action {
        RouteAction::Answer { status } => format!("is answered {status}"),
        RouteAction::Cluster { name, rewrite } => {
            let as_what = rewrite.as_ref().map(|it| match it {
                Rewrite::Path(path) => format!(" as {path}"),
                Rewrite::Prefix(path) => format!(" as {}", under(path)),
            });
            format!("to cluster {name}{}", as_what.unwrap_or_default())
        }
        RouteAction::Redirect(redirect) => {
            format!("is sent to {} ({})", location(redirect), redirect.status)
        }
    };
    format!("{host}{path} {does}")
}

fn under(prefix: &str) -> String {
    format!("{}/…", prefix.trim_end_matches('/'))
}

fn location(redirect: &Redirect) -> String {
    let scheme = redirect.scheme.map_or("scheme", |scheme| scheme.name());
    let host = redirect.host.as_deref().unwrap_or("host");
    let port = redirect.port.map(|port| format!(":{port}"));
    let path = match &redirect.path {
        None => "/path".to_owned(),
        Some(Rewrite::Path(path)) => path.clone(),
        Some(Rewrite::Prefix(path)) => under(path),
    };
    format!("{scheme}://{host}{}{path}", port.unwrap_or_default())
}

/// A route with the keys of a file.
pub(super) fn json(route: &Route) -> Value {
    let mut keys = Map::new();
    let mut put = |key: &str, value: Value| keys.insert(key.to_owned(), value);
    put("host", json!(route.host.as_deref().unwrap_or("*")));
    match &route.path {
        PathMatch::Exact(path) => put("exact", json!(path)),
        PathMatch::Prefix(path) => put("path", json!(path)),
        PathMatch::Start(path) => put("start", json!(path)),
        PathMatch::Regex {
            pattern,
            ignore_case,
        } => {
            put("regex", json!(pattern));
            put("ignore_case", json!(ignore_case))
        }
    };
    match &route.action {
        RouteAction::Answer { status } => put("answer", json!(status)),
        RouteAction::Cluster { name, rewrite } => {
            match rewrite {
                Some(Rewrite::Path(path)) => put("rewrite", json!(path)),
                Some(Rewrite::Prefix(path)) => put("rewrite_prefix", json!(path)),
                None => None,
            };
            put("cluster", json!(name))
        }
        RouteAction::Redirect(redirect) => put("redirect", redirect_json(redirect)),
    };
    Value::Object(keys)
}

fn redirect_json(redirect: &Redirect) -> Value {
    let (path, prefix) = match &redirect.path {
        None => (None, None),
        Some(Rewrite::Path(path)) => (Some(path), None),
        Some(Rewrite::Prefix(path)) => (None, Some(path)),
    };
    let all = json!({
        "scheme": redirect.scheme.map(|scheme| scheme.name()),
        "host": redirect.host,
        "port": redirect.port,
        "path": path,
        "prefix": prefix,
        "trim_slash": redirect.trims_slash.then_some(true),
        "status": redirect.status,
    });
    match all {
        Value::Object(keys) => keys.into_iter().filter(|(_, it)| !it.is_null()).collect(),
        other => other,
    }
}

/// `matching:` of a listener.
pub(super) fn matching(matching: Matching) -> Value {
    json!({
        "hosts": match matching.hosts {
            HostMatching::Closest => "closest",
            HostMatching::FallThrough => "fall_through",
        },
        "paths": match matching.paths {
            PathForm::AsSent => "as_sent",
            PathForm::Normalized => "normalized",
        },
    })
}
