//! A YAML tree to a [`File`]: every key of the native form but those of a
//! cluster is named here, once.
//!
//! Invariant: a key that is read is one that takes effect; CONFIG.md lists the same keys.
//! Read next: `read_cluster.rs` (the keys of a cluster), `compile.rs`.

use std::rc::Rc;
use std::time::Duration;

use lb_core::plan::{self, Forwarded, Otherwise, ProxyOut, ProxyVersion, Relay, RequestId};
use lb_core::rt::is_unix;

use super::decode::{self, Fields, Problems};
use super::exchange::ListenerExchanges;
use super::file::{
    File, Http, Limits, Listener, Protocol, ServerName, ServerNames, Settings, Tcp, Timeouts, Udp,
};
use super::http2::http2;
use super::problem::Located;
use super::settings::{AFFINITY_ENTRIES, AdminAddress, Engine, LogFormat, Workers};
use super::yaml::{Node, Value};
use super::{edge, logs, notation, read_cluster, routes, secret, tls};

const FORWARDED_WORDS: [(&str, Forwarded); 3] = [
    ("append", Forwarded::Append),
    ("off", Forwarded::Off),
    ("replace", Forwarded::Replace),
];

const REQUEST_ID_WORDS: [(&str, RequestId); 3] = [
    ("accept", RequestId::Accept),
    ("off", RequestId::Off),
    ("replace", RequestId::Replace),
];

const OTHERWISE_WORDS: [(&str, Otherwise); 2] =
    [("alert", Otherwise::Alert), ("reset", Otherwise::Reset)];

/// The words for a version of the PROXY protocol, in flags too.
pub(crate) const PROXY_VERSION_WORDS: [(&str, ProxyVersion); 2] =
    [("v1", ProxyVersion::V1), ("v2", ProxyVersion::V2)];

/// Reads a whole document.
pub(crate) fn file(root: &Node, problems: &mut Problems) -> Option<File> {
    let mut fields = Fields::of(root, problems)?;
    let file = File {
        listeners: fields
            .optional("listeners", decode::list(listener))
            .unwrap_or_default(),
        routes: fields
            .optional("routes", decode::list(routes::route))
            .unwrap_or_default(),
        clusters: fields
            .optional("clusters", read_cluster::clusters)
            .unwrap_or_default(),
        hash_seed: fields.optional("hash_seed", decode::number(0..=u64::MAX)),
        cookie_key: fields.optional("cookie_key", secret::cookie_key),
        settings: settings(&mut fields),
    };
    fields.finish();
    Some(file)
}

fn settings(fields: &mut Fields<'_, '_>) -> Settings {
    let workers = fields.optional("workers", decode::parsed(Workers::parse));
    let engine = fields.optional("engine", decode::parsed(Engine::parse));
    let admin = fields.optional("admin", decode::parsed(AdminAddress::parse));
    let access_log = fields.optional("access_log", logs::log(logs::Kind::Exchanges));
    let access_log = access_log.unwrap_or_default();
    let session_log = fields.optional("session_log", logs::log(logs::Kind::Sessions));
    let session_log = session_log.unwrap_or_default();
    Settings {
        workers,
        engine,
        admin,
        access_log: access_log.to,
        access_log_format: access_log.format,
        session_log: session_log.to,
        session_log_format: session_log.format,
        session_log_starts: session_log.starts,
        drain_timeout: fields.optional("drain_timeout", duration),
        log_format: fields.optional("log_format", decode::parsed(LogFormat::parse)),
        affinity_entries: fields.optional("affinity_entries", decode::number(AFFINITY_ENTRIES)),
    }
}

fn listener(node: &Node, problems: &mut Problems) -> Option<Listener> {
    let mut fields = Fields::of(node, problems)?;
    let name = fields.optional("name", name);
    let address = fields.required("address", decode::parsed(notation::listen_range));
    let http = fields.optional("http", http);
    let tcp = fields.optional("tcp", tcp);
    let udp = fields.optional("udp", udp);
    let edge = edge::read(&mut fields);
    let kind = if fields.has("http") {
        fields.refuse(
            "session_log",
            "what \"http\" listeners serve has an \"access_log\"",
        );
        logs::Kind::Exchanges
    } else {
        fields.refuse("access_log", "sessions and flows have a \"session_log\"");
        logs::Kind::Sessions
    };
    let access_log = match kind {
        logs::Kind::Exchanges => fields.optional("access_log", logs::listener_log(kind)),
        logs::Kind::Sessions => fields.optional("session_log", logs::listener_log(kind)),
    };
    if let Some(Located { value, .. }) = &address {
        let is_unix = is_unix(value.0.ip());
        if let Some(why) = edge::misplaced(&edge.socket, fields.has("udp"), is_unix) {
            fields.problem(why);
        }
        if is_unix && fields.has("udp") {
            fields.problem("datagrams are not relayed from Unix sockets");
        }
    }
    let written = ["http", "tcp", "udp"].into_iter();
    if written.filter(|key| fields.has(key)).count() != 1 {
        fields.problem("a listener has either \"http\", \"tcp\" or \"udp\"");
    }
    fields.finish();
    let protocol = http
        .map(Protocol::Http)
        .or_else(|| tcp.map(Protocol::Tcp))
        .or_else(|| udp.map(Protocol::Udp))?;
    let Located {
        value: (address, last_port),
        place,
    } = address?;
    Some(Listener {
        name,
        address: Located {
            value: address,
            place,
        },
        last_port,
        edge,
        access_log: access_log.unwrap_or_default(),
        protocol,
    })
}

fn tcp(node: &Node, problems: &mut Problems) -> Option<Tcp> {
    let mut fields = Fields::of(node, problems)?;
    let cluster = fields.optional("cluster", name);
    let names = fields.optional("server_names", decode::list(server_name));
    let hello_timeout = fields.optional("hello_timeout", duration);
    let otherwise = fields.optional("otherwise", decode::choice(&OTHERWISE_WORDS));
    if names.is_none() && !fields.has("server_names") {
        if !fields.has("cluster") {
            fields.problem("the key \"cluster\" is missing");
        }
        if hello_timeout.is_some() || otherwise.is_some() {
            let reason = "\"hello_timeout\" and \"otherwise\" are for \"server_names\"";
            fields.problem(reason);
        }
    }
    let tcp = Tcp {
        cluster,
        idle_timeout: fields.optional("idle_timeout", duration),
        lifetime: fields.optional("lifetime", duration),
        relay: fields.optional("relay", decode::choice(&Relay::NAMES)),
        proxy_out: fields.optional("proxy_out", proxy_out),
        backend_limit: fields.optional("backend_limit", edge::backend_limit),
        backend_socket: fields
            .optional("backend_socket", edge::backend_socket)
            .unwrap_or_default(),
        server_names: names.map(|routes| ServerNames {
            routes,
            hello_timeout,
            otherwise,
        }),
    };
    fields.finish();
    (tcp.cluster.is_some() || tcp.server_names.is_some()).then_some(tcp)
}

fn server_name(node: &Node, problems: &mut Problems) -> Option<ServerName> {
    let mut fields = Fields::of(node, problems)?;
    let name_of = fields.required("name", decode::parsed(notation::route_host));
    let protocols = fields.optional("protocols", decode::list(protocol));
    let cluster = fields.required("cluster", name);
    fields.finish();
    Some(ServerName {
        place: node.place.clone(),
        name: name_of?.value,
        protocols: protocols.unwrap_or_default(),
        cluster: cluster?,
    })
}

fn protocol(node: &Node, problems: &mut Problems) -> Option<String> {
    decode::parsed(notation::protocol)(node, problems).map(|protocol| protocol.value)
}

/// `v1` or `v2`, or a mapping with `version` and `checksum`.
fn proxy_out(node: &Node, problems: &mut Problems) -> Option<ProxyOut> {
    if let Value::Scalar(_) = &node.value {
        let version = decode::choice(&PROXY_VERSION_WORDS)(node, problems)?;
        return Some(ProxyOut {
            version: version.value,
            checksum: false,
        });
    }
    let mut fields = Fields::of(node, problems)?;
    let version = fields.required("version", decode::choice(&PROXY_VERSION_WORDS));
    let words = [("false", false), ("true", true)];
    let checksum = fields.optional("checksum", decode::choice(&words));
    let version = version.map(|version| version.value);
    let checksum = checksum.is_some_and(|checksum| checksum.value);
    if checksum && version == Some(ProxyVersion::V1) {
        fields.problem("version v1 has no checksum");
    }
    fields.finish();
    Some(ProxyOut {
        version: version?,
        checksum,
    })
}

fn udp(node: &Node, problems: &mut Problems) -> Option<Udp> {
    let mut fields = Fields::of(node, problems)?;
    let cluster = fields.required("cluster", name);
    let count = || decode::limit(|text| notation::number(text, 1..=u32::MAX.into()));
    let flows_limit = u64::from(plan::Udp::FLOWS_LIMIT);
    let flows = decode::limit(move |text| notation::number(text, 1..=flows_limit));
    let idle_timeout = fields.optional("idle_timeout", duration);
    let replies = fields.optional("replies", count());
    let requests = fields.optional("requests", count());
    let flows_max = fields.optional("flows_max", decode::number(1..=flows_limit));
    let flows_per_source_max = fields.optional("flows_per_source_max", flows);
    let proxy_out = fields.optional("proxy_out", proxy_out);
    fields.finish();
    Some(Udp {
        cluster: cluster?,
        idle_timeout,
        replies,
        requests,
        flows_max,
        flows_per_source_max,
        proxy_out,
    })
}

fn http(node: &Node, problems: &mut Problems) -> Option<Http> {
    let mut fields = Fields::of(node, problems)?;
    let http = Http {
        cluster: fields.optional("cluster", name),
        routes: fields
            .optional("routes", decode::list(routes::route))
            .unwrap_or_default(),
        matching: fields
            .optional("matching", routes::matching)
            .unwrap_or_default(),
        limits: fields.optional("limits", limits).unwrap_or_default(),
        timeouts: fields.optional("timeouts", timeouts).unwrap_or_default(),
        forwarded: fields.optional("forwarded", decode::choice(&FORWARDED_WORDS)),
        http2: fields.optional("http2", http2).unwrap_or_default(),
        tls: fields.optional("tls", tls::server).map(Rc::new),
        request_id: fields.optional("request_id", decode::choice(&REQUEST_ID_WORDS)),
        exchanges: ListenerExchanges::read(&mut fields),
    };
    fields.finish();
    Some(http)
}

fn limits(node: &Node, problems: &mut Problems) -> Option<Limits> {
    let mut fields = Fields::of(node, problems)?;
    let head = decode::parsed(|text| match notation::size(text)? {
        bytes @ 256..=15_360 => Ok(bytes),
        _ => Err(format!("\"{text}\" is not between 256 and 15KiB")),
    });
    let requests = decode::limit(|text| notation::number(text, 1..=u32::MAX.into()));
    let limits = Limits {
        head: fields.optional("head", head),
        headers: fields.optional("headers", decode::number(1..=256)),
        body: fields.optional("body", decode::limit(notation::size)),
        requests_per_connection: fields.optional("requests_per_connection", requests),
    };
    fields.finish();
    Some(limits)
}

fn timeouts(node: &Node, problems: &mut Problems) -> Option<Timeouts> {
    let mut fields = Fields::of(node, problems)?;
    let timeouts = Timeouts {
        request_head: fields.optional("request_head", duration),
        keep_alive: fields.optional("keep_alive", duration),
        body_idle: fields.optional("body_idle", duration),
        response_head: fields.optional("response_head", duration),
        upgrade_idle: fields.optional("upgrade_idle", duration),
    };
    fields.finish();
    Some(timeouts)
}

pub(super) fn name(node: &Node, problems: &mut Problems) -> Option<Located<String>> {
    decode::parsed(notation::name)(node, problems)
}

pub(super) fn duration(node: &Node, problems: &mut Problems) -> Option<Located<Duration>> {
    decode::parsed(notation::duration)(node, problems)
}
