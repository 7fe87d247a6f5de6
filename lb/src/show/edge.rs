//! What a listener asks of connections, and what it does with TCP sessions, as JSON.
//!
//! Invariant: as `mod.rs`: nothing of a plan is left out, and the words are those of the YAML
//! form; what was not written and has no default is left out.
//! Read next: `mod.rs`.

use std::fmt::{self, Write as _};

use lb_core::plan::{
    Access, BackendSocket, ConnectionLimits, Edge, ListenSocket, Otherwise, ProxyOut, ProxyVersion,
    Rate, ServerNames, Source, Tcp, TcpSocket,
};
use lb_core::prefixes::Prefix;
use serde_json::{Map, Value, json};

use super::duration;

/// Adds an edge's keys to those of its listener.
pub(crate) fn add_edge(edge: &Edge, listener: &mut Value) {
    let Edge {
        proxy_in,
        access: Access { allow, deny },
        limits,
        socket,
    } = edge;
    if let Some(proxy) = proxy_in {
        let (trusted, timeout) = (prefixes(&proxy.trusted), duration(proxy.timeout));
        listener["proxy_in"] = json!({ "trusted": trusted, "timeout": timeout });
    }
    for (key, list) in [("allow", allow), ("deny", deny)] {
        if !list.is_empty() {
            listener[key] = prefixes(list);
        }
    }
    if *limits != ConnectionLimits::default() {
        listener["limits"] = limits_json(limits);
    }
    if *socket != ListenSocket::default() {
        listener["socket"] = listen_socket_json(socket);
    }
}

/// What is asked of connections, as text: a line for each kind of rule that there is.
pub(crate) fn write_edge(text: &mut String, edge: &Edge) -> fmt::Result {
    let Edge {
        proxy_in,
        access: Access { allow, deny },
        limits,
        socket: _,
    } = edge;
    let list = |prefixes: &[Prefix]| {
        let shown: Vec<_> = prefixes
            .iter()
            .take(SHOWN_MAX)
            .map(Prefix::to_string)
            .collect();
        let more = prefixes.len().saturating_sub(SHOWN_MAX);
        let more = (more > 0).then(|| format!(" and {more} more"));
        shown.join(", ") + &more.unwrap_or_default()
    };
    if let Some(proxy) = proxy_in {
        let trusted = list(&proxy.trusted);
        writeln!(text, "  behind a PROXY header, from {trusted} only")?;
    }
    for (word, prefixes) in [("allows", allow), ("denies", deny)] {
        if !prefixes.is_empty() {
            writeln!(text, "  {word} {}", list(prefixes))?;
        }
    }
    if let Some(most) = limits.connections_max {
        writeln!(text, "  at most {most} at a time")?;
    }
    if let Some(most) = limits.per_source_max {
        writeln!(text, "  at most {most} at a time from one source")?;
    }
    if let Some(Rate { per_second, burst }) = limits.rate {
        writeln!(text, "  at most {per_second} a second, {burst} at once")?;
    }
    Ok(())
}

/// Prefixes of a list that are shown as text.
const SHOWN_MAX: usize = 5;

fn listen_socket_json(socket: &ListenSocket) -> Value {
    let ListenSocket {
        backlog,
        defer_accept,
        fast_open,
        v6_only,
        drops_all,
        free_bind,
        mode,
        tcp,
    } = socket;
    let mut value = json!({ "backlog": backlog });
    if let Some(time) = defer_accept {
        value["defer_accept"] = json!(duration(*time));
    }
    if let Some(queue) = fast_open {
        value["fast_open"] = json!(queue);
    }
    if *v6_only {
        value["v6_only"] = json!(true);
    }
    if *drops_all {
        value["drops_all"] = json!(true);
    }
    if *free_bind {
        value["free_bind"] = json!(true);
    }
    if let Some(mode) = mode {
        value["mode"] = json!(format!("{mode:03o}"));
    }
    add_tcp_socket(tcp, &mut value);
    value
}

fn add_tcp_socket(socket: &TcpSocket, value: &mut Value) {
    let TcpSocket {
        keep_alive,
        user_timeout,
        congestion,
    } = socket;
    if let Some(keep_alive) = keep_alive {
        let (idle, interval) = (duration(keep_alive.idle), duration(keep_alive.interval));
        let count = keep_alive.count;
        value["keep_alive"] = json!({ "idle": idle, "interval": interval, "count": count });
    }
    if let Some(timeout) = user_timeout {
        value["user_timeout"] = json!(duration(*timeout));
    }
    if let Some(name) = congestion {
        value["congestion"] = json!(name);
    }
}

fn backend_socket_json(socket: &BackendSocket) -> Value {
    let BackendSocket {
        tcp,
        source,
        ports,
        device,
        mark,
    } = socket;
    let mut value = json!({});
    match source {
        Source::Address(address) => value["source"] = json!(address.to_string()),
        Source::Any => {}
        Source::Client => value["source"] = json!("client"),
    }
    if let Some((first, last)) = ports {
        value["ports"] = json!(format!("{first}-{last}"));
    }
    if let Some(device) = device {
        value["device"] = json!(device);
    }
    if let Some(mark) = mark {
        value["mark"] = json!(mark);
    }
    add_tcp_socket(tcp, &mut value);
    value
}

fn prefixes(list: &[Prefix]) -> Value {
    list.iter().map(Prefix::to_string).collect()
}

fn limits_json(limits: &ConnectionLimits) -> Value {
    let ConnectionLimits {
        connections_max,
        per_source_max,
        rate,
    } = limits;
    let mut value = Map::new();
    let mut add = |key: &str, number: Option<u32>| {
        value.extend(number.map(|number| (key.to_owned(), json!(number))));
    };
    add("connections", *connections_max);
    add("per_source", *per_source_max);
    add("rate", rate.map(|Rate { per_second, .. }| per_second));
    add("burst", rate.map(|Rate { burst, .. }| burst));
    Value::Object(value)
}

/// What backends are told.
pub(crate) fn proxy_out_json(ProxyOut { version, checksum }: ProxyOut) -> Value {
    let version = match version {
        ProxyVersion::V1 => "v1",
        ProxyVersion::V2 => "v2",
    };
    json!({ "version": version, "checksum": checksum })
}

/// What a TCP listener does.
pub(crate) fn tcp_json(tcp: &Tcp) -> Value {
    let Tcp {
        cluster,
        idle_timeout,
        lifetime,
        relay,
        proxy_out,
        backend_limit,
        backend_socket,
        server_names,
    } = tcp;
    let mut value = json!({ "idle_timeout": duration(*idle_timeout), "relay": relay.name() });
    if let Some(cluster) = cluster {
        value["cluster"] = json!(cluster);
    }
    if let Some(lifetime) = lifetime {
        value["lifetime"] = json!(duration(*lifetime));
    }
    if let Some(proxy) = proxy_out {
        value["proxy_out"] = proxy_out_json(*proxy);
    }
    if let Some(limit) = backend_limit {
        value["backend_limit"] = json!({
            "connections": limit.connections_max,
            "queue": limit.queue_max,
            "queue_timeout": duration(limit.queue_timeout),
        });
    }
    if *backend_socket != BackendSocket::default() {
        value["backend_socket"] = backend_socket_json(backend_socket);
    }
    if let Some(names) = server_names {
        add_server_names(names, &mut value);
    }
    value
}

fn add_server_names(names: &ServerNames, tcp: &mut Value) {
    let routes = names.routes.iter().map(|route| {
        json!({ "name": route.name, "protocols": route.protocols, "cluster": route.cluster })
    });
    tcp["server_names"] = routes.collect();
    tcp["hello_timeout"] = json!(duration(names.hello_timeout));
    tcp["otherwise"] = json!(match names.otherwise {
        Otherwise::Alert => "alert",
        Otherwise::Reset => "reset",
    });
}
