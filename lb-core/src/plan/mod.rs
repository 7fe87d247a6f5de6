//! The plan: what to run, complete and valid. Sources (flags, YAML, later Kubernetes objects)
//! compile into it; nothing below it reads user input.
//!
//! Invariant: names are resolved. Every cluster that a listener or route mentions exists in
//! `clusters`, every address is a socket address; `Plan::validate` checks it.
//! Read next: `validate.rs` and `cluster_rules.rs` (what a valid plan is), `balance/mod.rs` (a cluster at work),
//! `snapshot.rs` (how it reaches the workers).

mod affinity;
mod balance;
mod cluster;
mod cluster_rules;
mod edge;
mod exchange;
mod exchange_rules;
mod health;
mod http;
mod http2;
mod http_rules;
mod log;
mod tcp;
mod tls;
mod tls_rules;
mod udp;
mod validate;
mod validate_listener;

use std::net::SocketAddr;
use std::sync::Arc;

pub use affinity::{Affinity, CookieAffinity, CookieKey, CookieMode, SameSite, Secure};
pub use balance::{Balance, HashKey, UnknownBalance};
pub use cluster::{Backend, Cluster, Condition, Outlier, Tier};
pub use edge::{Access, ConnectionLimits, Edge, KeepAlive, ListenSocket, ProxyIn, Rate, TcpSocket};
pub use exchange::{ClusterExchanges, Exchanges, RetryBudget};
pub use health::{
    Check, GrpcCheck, Health, HttpCheck, MalformedStatusRange, StatusRange, TlsCheck, UdpCheck,
    Verify,
};
pub use http::{
    Forwarded, HostMatching, Http, HttpLimits, HttpTimeouts, Matching, PathForm, PathMatch,
    Redirect, RequestId, Rewrite, Route, RouteAction, Scheme,
};
pub use http_rules::{
    PATTERN_BYTES_MAX, PATTERN_PROGRAM_BYTES_MAX, group_count, parse_pattern, pattern_problem,
    rewrite_problem,
};
pub use http2::{BackendProtocol, Http2};
pub use log::{AccessLog, ListenerLog, LogFormat, LogTarget};
pub use tcp::{
    BackendLimit, BackendSocket, Otherwise, ProxyOut, ProxyVersion, Relay, ServerName, ServerNames,
    Source, Tcp,
};
pub use tls::{
    BackendTls, Certificate, ClientAuth, KeyForm, NamedClientAuth, OverdueCrl, PrivateKey,
    TicketKey, TlsGroup, TlsRecords, TlsServer, TlsSuite, TlsVersion, UnknownNames, UnknownTlsWord,
};
pub use udp::Udp;
pub use validate::{BACKENDS_MAX, Place, PlanError, TIMEOUT_MAX, TRIES_LIMIT};

/// Everything that the workers are to serve.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Addresses to accept on. Names are unique, and so are addresses, but that UDP has its own.
    pub listeners: Vec<Arc<Listener>>,
    /// Named sets of backends. Names are unique. Shared, as the listeners are, with
    /// the plan before where nothing has changed: what is the same by address is not looked at again.
    pub clusters: Vec<Arc<Cluster>>,
    /// Seed of the hash tables; nodes that share it agree on every choice.
    pub hash_seed: u64,
    /// What affinity cookies are keyed with; nodes that share it accept each other's. `None`
    /// leaves it to a random key that lasts as long as the process.
    pub cookie_key: Option<CookieKey>,
}

/// One address to accept on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Name in logs and metrics; from the user, or made from the address.
    pub name: String,
    /// Address to bind; a Unix socket by the address that stands for it, see
    /// [`unix_address`](crate::rt::unix_address).
    pub address: SocketAddr,
    /// What is asked of connections before they are served.
    pub edge: Edge,
    /// Whether and how what it serves is logged.
    pub access_log: ListenerLog,
    /// What is spoken there.
    pub protocol: Protocol,
}

impl Listener {
    /// The names of the clusters that it sends to, some of them more than once.
    pub fn clusters(&self) -> impl Iterator<Item = &str> {
        let (http, tcp, udp) = match &self.protocol {
            Protocol::Http(http) => (Some(http), None, None),
            Protocol::Tcp(tcp) => (None, Some(tcp), None),
            Protocol::Udp(udp) => (None, None, Some(udp)),
        };
        let of_http = http.into_iter().flat_map(|http| {
            let routes = http.routes.iter().filter_map(|it| it.action.cluster());
            routes.chain(http.default_cluster.as_deref())
        });
        let of_tcp = tcp.into_iter().flat_map(Tcp::clusters);
        let of_udp = udp.map(|udp| &*udp.cluster);
        of_http.chain(of_tcp).chain(of_udp)
    }
}

/// What a listener does with a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, routed by host and path.
    Http(Http),
    /// Bytes relayed to one cluster.
    Tcp(Tcp),
    /// Datagrams relayed to one cluster.
    Udp(Udp),
}
