//! The keys that say what is asked of connections before they are served, and those of sockets:
//! written in YAML, straight to the plan's form.
//!
//! Invariant: as in `read.rs`, a key that is read takes effect, and every mistake is reported.
//! Read next: `lb_core::plan::Edge` (what they mean).

use std::time::Duration;

use lb_core::plan::{
    Access, BackendLimit, BackendSocket, ConnectionLimits, Edge, KeepAlive, ListenSocket, ProxyIn,
    Rate, Source, TcpSocket,
};
use lb_core::prefixes::Prefix;

use super::decode::{self, Fields, Problems};
use super::notation;
use super::problem::Located;
use super::yaml::Node;

/// Takes the keys out of a listener's mapping.
pub(super) fn read(fields: &mut Fields<'_, '_>) -> Edge {
    let allow = fields.optional("allow", prefixes).unwrap_or_default();
    let deny = fields.optional("deny", prefixes).unwrap_or_default();
    if let Some(both) = allow.iter().find(|prefix| deny.contains(prefix)) {
        fields.problem(format!("{both} is both in \"allow\" and in \"deny\""));
    }
    Edge {
        proxy_in: fields.optional("proxy_in", proxy_in),
        access: Access { allow, deny },
        limits: fields.optional("limits", limits).unwrap_or_default(),
        socket: fields.optional("socket", listen_socket).unwrap_or_default(),
    }
}

/// Why a listener's kind of socket does not have one of these settings.
pub(super) fn misplaced(
    socket: &ListenSocket,
    is_udp: bool,
    is_unix: bool,
) -> Option<&'static str> {
    let default = ListenSocket::default();
    let of_tcp =
        socket.defer_accept.is_some() || socket.fast_open.is_some() || socket.tcp != default.tcp;
    if of_tcp && (is_udp || is_unix) {
        return Some(
            "only TCP has \"defer_accept\", \"fast_open\", \"keep_alive\", \"user_timeout\" and \
             \"congestion\"",
        );
    }
    if is_udp && socket.backlog != default.backlog {
        return Some("a UDP socket has no queue of connections, so no \"backlog\"");
    }
    if is_unix && socket.free_bind {
        return Some("\"free_bind\" is for IP addresses, not for Unix sockets");
    }
    (socket.mode.is_some() && !is_unix)
        .then_some("\"mode\" is of the file of a Unix socket, as unix:/run/lb.sock")
}

/// Proxies that are believed, with the default timeout.
pub(super) fn proxies(trusted: Vec<Prefix>) -> ProxyIn {
    ProxyIn {
        trusted,
        timeout: ProxyIn::TIMEOUT_DEFAULT,
    }
}

fn proxy_in(node: &Node, problems: &mut Problems) -> Option<ProxyIn> {
    let mut fields = Fields::of(node, problems)?;
    let trusted = fields.required("trusted", prefixes).unwrap_or_default();
    if fields.has("trusted") && trusted.is_empty() {
        fields.problem("without a trusted proxy every connection would be refused");
    }
    let timeout = fields.optional("timeout", duration);
    fields.finish();
    Some(ProxyIn {
        timeout: timeout.unwrap_or(ProxyIn::TIMEOUT_DEFAULT),
        ..proxies(trusted)
    })
}

fn limits(node: &Node, problems: &mut Problems) -> Option<ConnectionLimits> {
    let mut fields = Fields::of(node, problems)?;
    let mut number = |key, most: u32| {
        let number = fields.optional(key, decode::number(1..=most.into()));
        number.map(|Located { value, .. }| value as u32)
    };
    let connections_max = number("connections", u32::MAX);
    let per_source_max = number("per_source", ConnectionLimits::PER_SOURCE_LIMIT);
    let per_second = number("rate", Rate::PER_SECOND_LIMIT);
    let burst = number("burst", Rate::PER_SECOND_LIMIT);
    if burst.is_some() && per_second.is_none() {
        fields.problem("a \"burst\" is of a \"rate\", which is missing");
    }
    fields.finish();
    Some(ConnectionLimits {
        connections_max,
        per_source_max,
        rate: per_second.map(|per_second| Rate {
            per_second,
            burst: burst.unwrap_or(per_second),
        }),
    })
}

fn prefixes(node: &Node, problems: &mut Problems) -> Option<Vec<Prefix>> {
    let prefix = |node: &Node, problems: &mut Problems| {
        let prefix = decode::parsed(notation::prefix)(node, problems);
        prefix.map(|Located { value, .. }| value)
    };
    decode::list(prefix)(node, problems)
}

fn duration(node: &Node, problems: &mut Problems) -> Option<Duration> {
    decode::parsed(notation::duration)(node, problems).map(|Located { value, .. }| value)
}

fn listen_socket(node: &Node, problems: &mut Problems) -> Option<ListenSocket> {
    let mut fields = Fields::of(node, problems)?;
    let backlog = fields.optional("backlog", decode::number(1..=i32::MAX as u64));
    let backlog = backlog.map(|backlog| backlog.value as u32);
    let fast_open = fields.optional("fast_open", decode::number(1..=i32::MAX as u64));
    let socket = ListenSocket {
        backlog: backlog.unwrap_or(ListenSocket::BACKLOG_DEFAULT),
        defer_accept: fields.optional("defer_accept", seconds),
        fast_open: fast_open.map(|queue| queue.value as u32),
        free_bind: fields
            .optional("free_bind", decode::boolean)
            .unwrap_or_default(),
        mode: fields
            .optional("mode", decode::parsed(notation::mode))
            .map(|mode| mode.value),
        tcp: tcp_socket(&mut fields),
        ..ListenSocket::default()
    };
    fields.finish();
    Some(socket)
}

/// The keys of sockets that listeners and backend connections share.
fn tcp_socket(fields: &mut Fields<'_, '_>) -> TcpSocket {
    let congestion = fields.optional("congestion", decode::parsed(notation::congestion));
    TcpSocket {
        keep_alive: fields.optional("keep_alive", keep_alive),
        user_timeout: fields.optional("user_timeout", duration),
        congestion: congestion.map(|name| name.value),
    }
}

fn keep_alive(node: &Node, problems: &mut Problems) -> Option<KeepAlive> {
    let mut fields = Fields::of(node, problems)?;
    let default = KeepAlive::default();
    let count = fields.optional("count", decode::number(1..=127));
    let keep_alive = KeepAlive {
        idle: fields.optional("idle", seconds).unwrap_or(default.idle),
        interval: fields
            .optional("interval", seconds)
            .unwrap_or(default.interval),
        count: count.map_or(default.count, |count| count.value as u8),
    };
    fields.finish();
    Some(keep_alive)
}

/// `backend_limit:` of a TCP listener.
pub(super) fn backend_limit(node: &Node, problems: &mut Problems) -> Option<BackendLimit> {
    let mut fields = Fields::of(node, problems)?;
    let connections = decode::number(1..=u32::MAX.into());
    let connections = fields.required("connections", connections);
    let queue = fields.optional("queue", decode::number(0..=u32::MAX.into()));
    let timeout = fields.optional("queue_timeout", duration);
    fields.finish();
    Some(BackendLimit {
        connections_max: connections?.value as u32,
        queue_max: queue.map_or(BackendLimit::QUEUE_DEFAULT, |queue| queue.value as u32),
        queue_timeout: timeout.unwrap_or(BackendLimit::QUEUE_TIMEOUT_DEFAULT),
    })
}

/// `backend_socket:` of a TCP listener.
pub(super) fn backend_socket(node: &Node, problems: &mut Problems) -> Option<BackendSocket> {
    let mut fields = Fields::of(node, problems)?;
    let source = decode::parsed(|text| match text {
        "client" => Ok(Source::Client),
        _ => notation::address(text).map(Source::Address),
    });
    let source = fields.optional("source", source);
    let ports = fields.optional("ports", decode::parsed(notation::ports));
    let device = fields.optional("device", decode::parsed(notation::device));
    let mark = fields.optional("mark", decode::number(0..=u32::MAX.into()));
    let socket = BackendSocket {
        tcp: tcp_socket(&mut fields),
        source: source.map_or(Source::Any, |source| source.value),
        ports: ports.map(|ports| ports.value),
        device: device.map(|device| device.value),
        mark: mark.map(|mark| mark.value as u32),
    };
    fields.finish();
    Some(socket)
}

fn seconds(node: &Node, problems: &mut Problems) -> Option<Duration> {
    let whole = |text: &str| match notation::duration(text)? {
        time if time.subsec_millis() == 0 && time.as_secs() <= 32_767 => Ok(time),
        _ => Err(format!(
            "\"{text}\" is not in whole seconds from 1s to 32767s"
        )),
    };
    decode::parsed(whole)(node, problems).map(|time| time.value)
}
