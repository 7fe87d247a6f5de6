//! A plan for people and programs: as JSON in the words of the YAML form, and as text.
//!
//! Invariant: nothing of a plan is left out.
//! Read next: `cluster.rs`; `../check.rs` and `../admin/pages.rs` (who show it).

mod cluster;
mod edge;
mod exchange;
mod logs;
pub(crate) mod routes;
mod tls;

use std::fmt::Write as _;
use std::time::Duration;

use lb_core::plan::{Forwarded, Http, Listener, Plan, Protocol, RequestId, Udp};
use serde_json::{Value, json};

use self::edge::{add_edge, proxy_out_json, tcp_json, write_edge};
use crate::config::logs::format_text;
use crate::config::{AccessLog, Engine, LogFormat, Settings, Workers};

/// A plan as JSON.
pub(crate) fn plan_json(plan: &Plan) -> Value {
    json!({
        "listeners": plan.listeners.iter().map(|it| listener_json(it)).collect::<Vec<_>>(),
        "clusters": plan.clusters.iter().map(|it| cluster::json(it)).collect::<Vec<_>>(),
        "hash_seed": plan.hash_seed,
        "cookie_key": if plan.cookie_key.is_some() { "set" } else { "random" },
    })
}

fn listener_json(listener: &Listener) -> Value {
    let mut value = json!({ "name": listener.name, "address": lb_core::rt::shown(listener.address).to_string() });
    match &listener.protocol {
        Protocol::Http(http) => value["http"] = http_json(http),
        Protocol::Tcp(tcp) => value["tcp"] = tcp_json(tcp),
        Protocol::Udp(udp) => value["udp"] = udp_json(udp),
    }
    add_edge(&listener.edge, &mut value);
    logs::add(listener, &mut value);
    value
}

fn udp_json(udp: &Udp) -> Value {
    let mut value = json!({
        "cluster": udp.cluster,
        "idle_timeout": duration(udp.idle_timeout),
        "replies": udp.replies,
        "requests": udp.requests,
        "flows_max": udp.flows_max,
        "flows_per_source_max": udp.flows_per_source_max,
    });
    if let Some(proxy) = &udp.proxy_out {
        value["proxy_out"] = proxy_out_json(*proxy);
    }
    value
}

fn http_json(http: &Http) -> Value {
    let routes = http.routes.iter().map(routes::json);
    let (limits, timeouts) = (&http.limits, &http.timeouts);
    let mut value = json!({
        "cluster": http.default_cluster,
        "routes": routes.collect::<Vec<_>>(),
        "matching": routes::matching(http.matching),
        "limits": {
            "head": limits.head_bytes_max,
            "headers": limits.headers_max,
            "body": limits.body_bytes_max,
            "requests_per_connection": limits.requests_per_connection_max,
        },
        "timeouts": {
            "request_head": duration(timeouts.request_head),
            "keep_alive": duration(timeouts.keep_alive),
            "body_idle": duration(timeouts.body_idle),
            "response_head": duration(timeouts.response_head),
            "upgrade_idle": duration(http.exchanges.upgrade_idle),
        },
        "request_id": match http.request_id {
            RequestId::Accept => "accept",
            RequestId::Off => "off",
            RequestId::Replace => "replace",
        },
        "upgrades": http.exchanges.upgrades,
        "body_rate": http.exchanges.body_rate_min,
        "request_buffer": http.exchanges.request_buffer,
        "ignore_client_abort": http.exchanges.ignore_client_abort,
        "forwarded": match http.forwarded {
            Forwarded::Append => "append",
            Forwarded::Off => "off",
            Forwarded::Replace => "replace",
        },
        "http2": http.http2.enabled.then(|| json!({
            "streams": http.http2.streams_max,
            "window": http.http2.window_bytes,
            "ping_interval": duration(http.http2.ping_interval),
        })),
    });
    if let Some(tls) = &http.tls {
        value["tls"] = tls::server_json(tls);
    }
    value
}

/// Settings as JSON.
pub(crate) fn settings_json(settings: &Settings) -> Value {
    json!({
        "workers": match settings.workers {
            Workers::Auto => json!("auto"),
            Workers::Count(count) => json!(count),
        },
        "engine": match settings.engine {
            Engine::Auto => "auto",
            Engine::Epoll => "epoll",
            Engine::Uring => "uring",
        },
        "admin": settings.admin.to_string(),
        "access_log": log_target(&settings.access_log),
        "access_log_format": format_text(&settings.access_log_format),
        "session_log": log_target(&settings.session_log),
        "session_log_format": format_text(&settings.session_log_format),
        "session_log_starts": settings.session_log_starts,
        "drain_timeout": duration(settings.drain_timeout),
        "log_format": match settings.log_format {
            LogFormat::Json => "json",
            LogFormat::Text => "text",
        },
        "affinity_entries": settings.affinity_entries,
    })
}

fn log_target(log: &AccessLog) -> Value {
    match log {
        AccessLog::File(path) => json!(path.display().to_string()),
        AccessLog::Off => json!("off"),
        AccessLog::Stdout => json!("stdout"),
    }
}

/// A plan as text, a few words a line.
pub(crate) fn plan_text(plan: &Plan) -> String {
    let mut text = String::new();
    for listener in &plan.listeners {
        write_listener(&mut text, listener).expect("writing to a String does not fail");
    }
    for cluster in &plan.clusters {
        cluster::write(&mut text, cluster).expect("writing to a String does not fail");
    }
    text
}

fn write_listener(text: &mut String, listener: &Listener) -> std::fmt::Result {
    let Listener {
        name,
        address,
        protocol,
        edge,
        ..
    } = listener;
    let address = lb_core::rt::shown(*address);
    match protocol {
        Protocol::Tcp(tcp) => {
            write!(text, "listener {name}: tcp on {address}")?;
            match (&tcp.cluster, &tcp.server_names) {
                (Some(cluster), None) => writeln!(text, " to cluster {cluster}"),
                (cluster, names) => {
                    writeln!(text, " by server name")?;
                    for route in names.iter().flat_map(|names| &names.routes) {
                        writeln!(text, "  {} to cluster {}", route.name, route.cluster)?;
                    }
                    match cluster {
                        Some(cluster) => writeln!(text, "  everything else to cluster {cluster}"),
                        None => writeln!(text, "  everything else is refused"),
                    }
                }
            }
        }
        Protocol::Udp(udp) => {
            writeln!(
                text,
                "listener {name}: udp on {address} to cluster {}",
                udp.cluster
            )
        }
        Protocol::Http(http) => {
            match &http.tls {
                None => writeln!(text, "listener {name}: http on {address}")?,
                Some(tls) => {
                    writeln!(text, "listener {name}: https on {address}")?;
                    tls::write_server(text, tls)?;
                }
            }
            for route in &http.routes {
                writeln!(text, "  {}", routes::text(route))?;
            }
            match &http.default_cluster {
                Some(cluster) => writeln!(text, "  everything else to cluster {cluster}"),
                None => writeln!(text, "  everything else is answered 404"),
            }
        }
    }?;
    write_edge(text, edge)?;
    logs::write(text, listener)
}

/// In the notation of the YAML form, with the largest unit that keeps it whole.
pub(crate) fn duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [(3_600_000, "h"), (60_000, "m"), (1000, "s")];
    let whole = units
        .iter()
        .find(|(unit, _)| millis >= *unit && millis.is_multiple_of(*unit));
    match whole {
        Some((unit, name)) => format!("{}{name}", millis / unit),
        None => format!("{millis}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_shown_as_they_are_written() {
        for text in ["500ms", "1s", "90s", "2m", "1h", "1001ms"] {
            assert_eq!(duration(crate::config::parse_duration(text).unwrap()), text);
        }
    }
}
