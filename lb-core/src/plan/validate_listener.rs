//! What valid rules of a listener, and valid settings of TCP sessions, are.
//!
//! Invariant: as in `validate.rs`, every mistake is found in one pass.
//! Read next: `edge.rs`, `tcp.rs` (the types).

use std::collections::HashSet;
use std::time::Duration;

use super::validate::{Place, Validation, host_problem};
use super::{
    Access, BackendSocket, ConnectionLimits, Edge, KeepAlive, ListenSocket, Listener, Protocol,
    ProxyVersion, Rate, ServerNames, Tcp, TcpSocket,
};
use crate::rt;

/// Longest time that TCP_KEEPIDLE, TCP_KEEPINTVL and TCP_DEFER_ACCEPT take.
const SECONDS_MAX: u64 = 32_767;

impl<'p> Validation<'p> {
    pub(super) fn edge(&mut self, place: &Place, edge: &Edge) {
        if let Some(proxy) = &edge.proxy_in {
            self.timeout(place, "proxy_in.timeout", proxy.timeout);
            if proxy.trusted.is_empty() {
                let reason = "without a trusted proxy every connection would be refused";
                self.malformed(place, "proxy_in.trusted", "", reason);
            }
        }
        self.access(place, &edge.access);
        self.connection_limits(place, &edge.limits);
        self.listen_socket(place, &edge.socket);
    }

    /// Settings that a listener's kind of socket does not have.
    pub(super) fn socket_kind(&mut self, place: &Place, listener: &Listener) {
        let is_unix = rt::is_unix(listener.address.ip());
        let is_udp = matches!(listener.protocol, Protocol::Udp(_));
        let default = ListenSocket::default();
        let socket = &listener.edge.socket;
        let mut refuse = |field: &'static str, value: String, reason: &'static str| {
            self.malformed(place, field, &value, reason);
        };
        if is_udp || is_unix {
            let reason = "only TCP has this setting";
            if let Some(time) = socket.defer_accept {
                refuse("socket.defer_accept", format!("{time:?}"), reason);
            }
            if let Some(queue) = socket.fast_open {
                refuse("socket.fast_open", queue.to_string(), reason);
            }
            if socket.tcp != default.tcp {
                let reason = "only TCP has keep_alive, user_timeout and congestion";
                refuse("socket", "keep_alive".to_owned(), reason);
            }
        }
        if is_udp && socket.backlog != default.backlog {
            let reason = "a UDP socket has no queue of connections";
            refuse("socket.backlog", socket.backlog.to_string(), reason);
        }
        if is_unix && socket.free_bind {
            let reason = "a Unix socket has no address";
            refuse("socket.free_bind", "true".to_owned(), reason);
        }
        if let Some(mode) = socket.mode.filter(|_| !is_unix) {
            let reason = "only the file of a Unix socket has permissions";
            refuse("socket.mode", format!("{mode:o}"), reason);
        }
        let Protocol::Udp(udp) = &listener.protocol else {
            return;
        };
        let cluster = self.plan.clusters.iter().find(|it| it.name == udp.cluster);
        let mut backends = cluster.iter().flat_map(|cluster| &cluster.backends);
        let leads_to_unix = backends.any(|backend| rt::is_unix(backend.address.ip()));
        if is_unix || leads_to_unix {
            let address = rt::shown(listener.address).to_string();
            let reason = "datagrams are not relayed from or to Unix sockets";
            self.malformed(place, "address", &address, reason);
        }
    }

    fn access(&mut self, place: &Place, access: &Access) {
        let allowed: HashSet<_> = access.allow.iter().collect();
        for prefix in access.deny.iter().filter(|prefix| allowed.contains(prefix)) {
            let reason = "it is in allow, too";
            self.malformed(place, "deny", &prefix.to_string(), reason);
        }
    }

    fn connection_limits(&mut self, place: &Place, limits: &ConnectionLimits) {
        if let Some(connections) = limits.connections_max {
            self.range(place, "connections_max", connections, (1, u32::MAX));
        }
        if let Some(per_source) = limits.per_source_max {
            let range = (1, ConnectionLimits::PER_SOURCE_LIMIT);
            self.range(place, "per_source_max", per_source, range);
        }
        if let Some(Rate { per_second, burst }) = limits.rate {
            let range = (1, Rate::PER_SECOND_LIMIT);
            self.range(place, "rate.per_second", per_second, range);
            self.range(place, "rate.burst", burst, range);
        }
    }

    fn listen_socket(&mut self, place: &Place, socket: &ListenSocket) {
        let range = (1, i32::MAX as u32);
        self.range(place, "socket.backlog", socket.backlog, range);
        if let Some(queue) = socket.fast_open {
            self.range(place, "socket.fast_open", queue, range);
        }
        if let Some(time) = socket.defer_accept {
            self.whole_seconds(place, "socket.defer_accept", time);
        }
        self.tcp_socket(place, &socket.tcp);
    }

    fn tcp_socket(&mut self, place: &Place, socket: &TcpSocket) {
        if let Some(KeepAlive {
            idle,
            interval,
            count,
        }) = socket.keep_alive
        {
            self.whole_seconds(place, "keep_alive.idle", idle);
            self.whole_seconds(place, "keep_alive.interval", interval);
            self.range(place, "keep_alive.count", count, (1, 127));
        }
        if let Some(timeout) = socket.user_timeout {
            self.timeout(place, "user_timeout", timeout);
        }
        if let Some(name) = &socket.congestion
            && !(1..16).contains(&name.len())
        {
            let reason = "the name of a congestion control has 1 to 15 characters";
            self.malformed(place, "congestion", name, reason);
        }
    }

    fn whole_seconds(&mut self, place: &Place, field: &'static str, time: Duration) {
        if time.subsec_nanos() != 0 || !(1..=SECONDS_MAX).contains(&time.as_secs()) {
            let allowed = format!("whole seconds from 1 to {SECONDS_MAX}");
            self.out_of_range(place, field, format!("{time:?}"), allowed);
        }
    }

    pub(super) fn tcp(&mut self, place: &Place, tcp: &'p Tcp) {
        self.timeout(place, "idle_timeout", tcp.idle_timeout);
        if let Some(lifetime) = tcp.lifetime {
            self.timeout(place, "lifetime", lifetime);
        }
        for cluster in tcp.clusters() {
            self.cluster_exists(place, cluster);
        }
        if let Some(proxy) = tcp.proxy_out
            && proxy.version == ProxyVersion::V1
            && proxy.checksum
        {
            let reason = "version 1 of the PROXY protocol has no checksum";
            self.malformed(place, "proxy_out.checksum", "true", reason);
        }
        if let Some(limit) = tcp.backend_limit {
            let connections = limit.connections_max;
            self.range(
                place,
                "backend_limit.connections_max",
                connections,
                (1, u32::MAX),
            );
            self.timeout(place, "backend_limit.queue_timeout", limit.queue_timeout);
        }
        self.backend_socket(place, &tcp.backend_socket);
        match &tcp.server_names {
            Some(names) => self.server_names(place, names),
            None if tcp.cluster.is_none() => {
                self.malformed(place, "cluster", "", "sessions would lead nowhere");
            }
            None => {}
        }
    }

    fn backend_socket(&mut self, place: &Place, socket: &BackendSocket) {
        self.tcp_socket(place, &socket.tcp);
        if let Some((first, last)) = socket.ports {
            self.range(place, "backend_socket.ports", first, (1, last));
        }
        if let Some(device) = &socket.device
            && !(1..=BackendSocket::DEVICE_BYTES_MAX).contains(&device.len())
        {
            let reason = "the name of a device has 1 to 15 characters";
            self.malformed(place, "backend_socket.device", device, reason);
        }
    }

    fn server_names(&mut self, place: &Place, names: &ServerNames) {
        self.timeout(place, "hello_timeout", names.hello_timeout);
        let mut seen = HashSet::new();
        for route in &names.routes {
            if let Some(reason) = host_problem(&route.name) {
                self.malformed(place, "server_names.name", &route.name, reason);
            }
            let any = std::iter::once("").filter(|_| route.protocols.is_empty());
            for protocol in route.protocols.iter().map(String::as_str).chain(any) {
                if !seen.insert((&route.name, protocol)) {
                    let reason = "an earlier rule has the same name and protocol";
                    self.malformed(place, "server_names.name", &route.name, reason);
                }
            }
            for protocol in &route.protocols {
                if !(1..=255).contains(&protocol.len()) {
                    let reason = "a protocol has 1 to 255 bytes";
                    self.malformed(place, "server_names.protocols", protocol, reason);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        BackendLimit, Cluster, Listener, ListenerLog, Plan, PlanError, Protocol, ProxyIn, ProxyOut,
        ServerName,
    };
    use super::*;

    fn fields_of(edge: Edge, tcp: Tcp) -> Vec<&'static str> {
        let listener = Listener {
            name: "a".into(),
            address: "127.0.0.1:0".parse().unwrap(),
            edge,
            access_log: ListenerLog::default(),
            protocol: Protocol::Tcp(tcp),
        };
        let plan = Plan {
            listeners: vec![listener.into()],
            clusters: vec![Cluster::new("c", Vec::new()).into()],
            ..Plan::default()
        };
        let field = |error: &PlanError| match error {
            PlanError::Malformed { field, .. } | PlanError::OutOfRange { field, .. } => *field,
            PlanError::UnknownCluster { .. } => "unknown cluster",
            other => panic!("{other}"),
        };
        let errors = plan.validate().err().unwrap_or_default();
        errors.iter().map(field).collect()
    }

    #[test]
    fn everything_at_its_bounds_is_valid() {
        let edge = Edge {
            proxy_in: Some(ProxyIn {
                trusted: vec!["10.0.0.0/8".parse().unwrap()],
                timeout: ProxyIn::TIMEOUT_DEFAULT,
            }),
            access: Access {
                allow: vec!["10.0.0.0/8".parse().unwrap()],
                deny: vec!["10.0.0.0/9".parse().unwrap()],
            },
            limits: ConnectionLimits {
                connections_max: Some(1),
                per_source_max: Some(ConnectionLimits::PER_SOURCE_LIMIT),
                rate: Some(Rate {
                    per_second: Rate::PER_SECOND_LIMIT,
                    burst: 1,
                }),
            },
            socket: ListenSocket {
                defer_accept: Some(Duration::from_secs(SECONDS_MAX)),
                fast_open: Some(1),
                tcp: TcpSocket {
                    keep_alive: Some(KeepAlive::default()),
                    user_timeout: Some(Duration::from_millis(1)),
                    congestion: Some("reno".into()),
                },
                ..ListenSocket::default()
            },
        };
        assert_eq!(fields_of(edge, Tcp::to("c")), [""; 0]);
    }

    #[test]
    fn each_mistake_of_an_edge_is_named() {
        let edge = Edge {
            proxy_in: Some(ProxyIn {
                trusted: Vec::new(),
                timeout: Duration::ZERO,
            }),
            access: Access {
                allow: vec!["::/0".parse().unwrap()],
                deny: vec!["::/0".parse().unwrap()],
            },
            limits: ConnectionLimits {
                connections_max: Some(0),
                per_source_max: Some(ConnectionLimits::PER_SOURCE_LIMIT + 1),
                rate: Some(Rate {
                    per_second: 0,
                    burst: 0,
                }),
            },
            socket: ListenSocket {
                backlog: 0,
                defer_accept: Some(Duration::from_millis(1500)),
                fast_open: Some(0),
                free_bind: false,
                mode: None,
                tcp: TcpSocket {
                    keep_alive: Some(KeepAlive {
                        idle: Duration::ZERO,
                        interval: Duration::from_secs(SECONDS_MAX + 1),
                        count: 0,
                    }),
                    user_timeout: Some(Duration::ZERO),
                    congestion: Some(String::new()),
                },
                ..ListenSocket::default()
            },
        };
        let expected = [
            "proxy_in.timeout",
            "proxy_in.trusted",
            "deny",
            "connections_max",
            "per_source_max",
            "rate.per_second",
            "rate.burst",
            "socket.backlog",
            "socket.fast_open",
            "socket.defer_accept",
            "keep_alive.idle",
            "keep_alive.interval",
            "keep_alive.count",
            "user_timeout",
            "congestion",
        ];
        assert_eq!(fields_of(edge, Tcp::to("c")), expected);
    }

    #[test]
    fn each_mistake_of_a_session_is_named() {
        let route = |name: &str, protocols: &[&str], cluster: &str| ServerName {
            name: name.into(),
            protocols: protocols.iter().map(|&it| it.to_owned()).collect(),
            cluster: cluster.into(),
        };
        let tcp = Tcp {
            cluster: None,
            lifetime: Some(Duration::ZERO),
            proxy_out: Some(ProxyOut {
                version: ProxyVersion::V1,
                checksum: true,
            }),
            backend_limit: Some(BackendLimit {
                connections_max: 0,
                queue_max: 0,
                queue_timeout: Duration::ZERO,
            }),
            backend_socket: BackendSocket {
                ports: Some((3, 2)),
                device: Some(String::new()),
                ..BackendSocket::default()
            },
            ..Tcp::default()
        };
        let expected = [
            "lifetime",
            "proxy_out.checksum",
            "backend_limit.connections_max",
            "backend_limit.queue_timeout",
            "backend_socket.ports",
            "backend_socket.device",
            "cluster",
        ];
        assert_eq!(fields_of(Edge::default(), tcp), expected);
        let names = ServerNames {
            routes: vec![
                route("a.example", &[], "c"),
                route("a.example", &["h2", "h3"], "c"),
                route("a.example", &["h3"], "other"),
                route("A.*", &[""], "c"),
            ],
            hello_timeout: Duration::ZERO,
            otherwise: super::super::Otherwise::Alert,
        };
        let tcp = Tcp {
            server_names: Some(names),
            ..Tcp::default()
        };
        let expected = [
            "unknown cluster",
            "hello_timeout",
            "server_names.name",
            "server_names.name",
            "server_names.protocols",
        ];
        assert_eq!(fields_of(Edge::default(), tcp), expected);
    }
}
