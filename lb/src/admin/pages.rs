//! The pages of the admin API.
//!
//! Invariant: a page is made from one snapshot, so it never mixes two configurations.
//! Read next: `../control/status.rs` (what is shown), `../show.rs` (a plan as JSON).

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use hyper::{Method, Response, StatusCode};
use lb_core::balance::Cluster;
use lb_core::metrics::{ClusterCounters, ListenerStats, Refusal, Text};
use serde_json::{Map, Value, json};

use crate::config::Problem;
use crate::control::Status;
use crate::show;
use crate::snapshot::Snapshot;

const PLAIN: &str = "text/plain; charset=utf-8";

const INDEX: &str = "<!doctype html><meta charset=utf-8><title>lb</title><h1>lb</h1><ul>\
    <li><a href=/readyz>/readyz</a> every listener accepts\
    <li><a href=/livez>/livez</a> every worker's loop turns\
    <li><a href=/metrics>/metrics</a> Prometheus text\
    <li><a href=/status>/status</a> the state and the load of every backend\
    <li><a href=/config>/config</a> what runs, and why a change was refused</ul>\n";

/// The answer to a request.
pub(super) fn answer(method: &Method, path: &str, status: &Status) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        let mut response = page(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET and HEAD\n");
        response
            .headers_mut()
            .insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/" => page(StatusCode::OK, "text/html; charset=utf-8", INDEX),
        "/config" => page(StatusCode::OK, "application/json", config(status)),
        "/livez" => verdict(status.live(), "live"),
        "/metrics" => page(StatusCode::OK, Text::CONTENT_TYPE, status.metrics_page()),
        "/status" => page(StatusCode::OK, "application/json", state(status)),
        "/readyz" => verdict(status.ready(), "ready"),
        _ => page(
            StatusCode::NOT_FOUND,
            PLAIN,
            "not found; / lists what there is\n",
        ),
    }
}

fn verdict(result: Result<(), String>, good: &str) -> Response<Full<Bytes>> {
    match result {
        Ok(()) => page(StatusCode::OK, PLAIN, format!("{good}\n")),
        Err(reason) => page(
            StatusCode::SERVICE_UNAVAILABLE,
            PLAIN,
            format!("{reason}\n"),
        ),
    }
}

fn page(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        hyper::header::HeaderValue::from_static(content_type),
    );
    headers.insert(
        CACHE_CONTROL,
        hyper::header::HeaderValue::from_static("no-store"),
    );
    response
}

fn config(status: &Status) -> String {
    let snapshot = status.snapshot();
    let mut plan = show::plan_json(&snapshot.plan);
    for (shown, listener) in elements(&mut plan["listeners"]).zip(&snapshot.listeners) {
        shown["bound"] = json!(lb_core::rt::shown(listener.bound).to_string());
    }
    for (shown, cluster) in elements(&mut plan["clusters"]).zip(&snapshot.clusters) {
        for (shown, backend) in elements(&mut shown["backends"]).zip(cluster.backends()) {
            shown["healthy"] = json!(backend.is_healthy());
        }
    }
    let problems = status.problems.borrow();
    let page = json!({
        "generation": status.generation(),
        "refused": problems.iter().map(Problem::to_json).collect::<Vec<_>>(),
        "objects": status.objects.as_ref().map(|it| it.to_json()),
        "engine": { "name": status.engine.engine.name(), "reason": status.engine.reason },
        "workers": status.workers.len(),
        "settings": show::settings_json(&status.settings.borrow()),
        "plan": plan,
    });
    format!("{page:#}\n")
}

fn state(status: &Status) -> String {
    let snapshot = status.snapshot();
    let generation = status.generation();
    let workers = status.workers.iter().map(|worker| {
        let taken_up = worker.metrics.config_generation.get();
        json!({ "generation": taken_up, "lag": generation.saturating_sub(taken_up) })
    });
    let listeners = snapshot
        .listeners
        .iter()
        .map(|it| listener_state(&it.stats));
    let clusters = snapshot.clusters.iter();
    let table = &status.ground.affinity;
    let page = json!({
        "generation": generation,
        "workers": workers.collect::<Vec<_>>(),
        "affinity": {
            "entries": table.len(),
            "entries_max": table.capacity(),
            "evictions": table.evictions(),
        },
        "listeners": listeners.collect::<Vec<_>>(),
        "clusters": clusters.map(|it| cluster_state(&snapshot, it)).collect::<Vec<_>>(),
    });
    format!("{page:#}\n")
}

fn listener_state(stats: &ListenerStats) -> Value {
    let refused = Refusal::ALL.iter().map(|reason| {
        let count = stats.sum(|shard| shard.refusals(*reason));
        (reason.name().to_owned(), json!(count))
    });
    json!({
        "name": stats.name(),
        "accepted": stats.sum(|shard| shard.accepted.get()),
        "active": stats.sum(|shard| shard.active.get()),
        "refused": refused.collect::<Map<_, _>>(),
    })
}

fn cluster_state(snapshot: &Snapshot, cluster: &Cluster) -> Value {
    let sum = |number: fn(&ClusterCounters) -> u64| -> u64 {
        cluster.counters().iter().map(number).sum()
    };
    let checks = snapshot.checks(&cluster.name);
    let backends = cluster.backends().iter().map(|backend| {
        json!({
            "name": backend.name,
            "address": lb_core::rt::shown(backend.address).to_string(),
            "state": backend.state().name(),
            "weight": backend.weight,
            "in_flight": backend.in_flight(),
            "healthy": backend.is_healthy(),
            "ejected": backend.is_ejected(),
            "ejections": backend.ejections(),
            "check_error": checks.and_then(|it| it.last_error(backend).get()),
        })
    });
    json!({
        "name": cluster.name,
        "balance": cluster.balance.to_string(),
        "panicking": cluster.is_panicking(),
        "affinity": {
            "hits": sum(|shard| shard.affinity_kept.get()),
            "misses": sum(|shard| shard.affinity_chosen.get()),
        },
        "unavailable": sum(|shard| shard.unavailable.get()),
        "retries": sum(|shard| shard.retries.get()),
        "backends": backends.collect::<Vec<_>>(),
    })
}

fn elements(list: &mut Value) -> impl Iterator<Item = &mut Value> {
    list.as_array_mut().into_iter().flatten()
}
