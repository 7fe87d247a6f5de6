//! What was written: one source (a YAML file, or the flags) in the user's own terms.
//!
//! Invariant: no name is looked up here, and a `None` was not written. Each value that can be
//! wrong later carries its place.
//! Read next: `read.rs` (YAML to [`File`]), `flags.rs` (flags to [`File`]), `compile.rs` (files
//! to a plan).

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use lb_core::plan::{
    self, Affinity, BackendLimit, BackendProtocol, BackendSocket, BackendTls, Balance,
    ClusterExchanges, CookieKey, Edge, Forwarded, HashKey, Http2, ListenerLog, Matching, Otherwise,
    PathMatch, ProxyOut, Redirect, Relay, RequestId, Rewrite,
};
use lb_core::rt::shown;

use super::exchange::ListenerExchanges;
use super::notation::BackendText;
use super::problem::{Located, Place};
use super::settings::{AccessLog, AdminAddress, Engine, LogFormat, Workers};
use super::tls::Tls;

/// One source.
#[derive(Debug, Default)]
pub(crate) struct File {
    pub(crate) listeners: Vec<Listener>,
    pub(crate) clusters: Vec<Cluster>,
    /// Routes of every HTTP listener of this source.
    pub(crate) routes: Vec<Route>,
    pub(crate) hash_seed: Option<Located<u64>>,
    pub(crate) cookie_key: Option<Located<CookieKey>>,
    pub(crate) settings: Settings,
}

/// How the process runs, as far as it was written.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    pub(crate) workers: Option<Located<Workers>>,
    pub(crate) engine: Option<Located<Engine>>,
    pub(crate) admin: Option<Located<AdminAddress>>,
    pub(crate) access_log: Option<Located<AccessLog>>,
    pub(crate) access_log_format: Option<Located<plan::LogFormat>>,
    pub(crate) session_log: Option<Located<AccessLog>>,
    pub(crate) session_log_format: Option<Located<plan::LogFormat>>,
    pub(crate) session_log_starts: Option<bool>,
    pub(crate) drain_timeout: Option<Located<Duration>>,
    pub(crate) log_format: Option<Located<LogFormat>>,
    pub(crate) affinity_entries: Option<Located<u64>>,
}

/// A listener.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) name: Option<Located<String>>,
    pub(crate) address: Located<SocketAddr>,
    /// The last of several ports, which begin with the address's.
    pub(crate) last_port: Option<u16>,
    /// Filled in already: nothing of it depends on other parts of the source.
    pub(crate) edge: Edge,
    pub(crate) access_log: ListenerLog,
    pub(crate) protocol: Protocol,
}

/// What a listener speaks.
#[expect(
    clippy::large_enum_variant,
    reason = "there are as many as are written"
)]
#[derive(Debug)]
pub(crate) enum Protocol {
    Http(Http),
    Tcp(Tcp),
    Udp(Udp),
}

/// A TCP listener's part.
#[derive(Debug, Default)]
pub(crate) struct Tcp {
    pub(crate) cluster: Option<Located<String>>,
    pub(crate) idle_timeout: Option<Located<Duration>>,
    pub(crate) lifetime: Option<Located<Duration>>,
    pub(crate) relay: Option<Located<Relay>>,
    pub(crate) proxy_out: Option<ProxyOut>,
    pub(crate) backend_limit: Option<BackendLimit>,
    pub(crate) backend_socket: BackendSocket,
    pub(crate) server_names: Option<ServerNames>,
}

impl Tcp {
    /// All sessions to one cluster.
    pub(crate) fn to(cluster: Located<String>) -> Self {
        Self {
            cluster: Some(cluster),
            ..Self::default()
        }
    }
}

/// `server_names:` of a TCP listener, and what belongs to it.
#[derive(Debug, Default)]
pub(crate) struct ServerNames {
    pub(crate) routes: Vec<ServerName>,
    pub(crate) hello_timeout: Option<Located<Duration>>,
    pub(crate) otherwise: Option<Located<Otherwise>>,
}

/// A name that TLS clients ask for.
#[derive(Debug, Clone)]
pub(crate) struct ServerName {
    pub(crate) place: Place,
    pub(crate) name: String,
    /// Empty for any.
    pub(crate) protocols: Vec<String>,
    pub(crate) cluster: Located<String>,
}

/// A UDP listener's part. The inner `None` is the word `none`.
#[derive(Debug)]
pub(crate) struct Udp {
    pub(crate) cluster: Located<String>,
    pub(crate) idle_timeout: Option<Located<Duration>>,
    pub(crate) replies: Option<Located<Option<u64>>>,
    pub(crate) requests: Option<Located<Option<u64>>>,
    pub(crate) flows_max: Option<Located<u64>>,
    pub(crate) flows_per_source_max: Option<Located<Option<u64>>>,
    pub(crate) proxy_out: Option<ProxyOut>,
}

impl Udp {
    /// A listener of which only the cluster was written.
    pub(crate) const fn to(cluster: Located<String>) -> Self {
        Self {
            cluster,
            idle_timeout: None,
            replies: None,
            requests: None,
            flows_max: None,
            flows_per_source_max: None,
            proxy_out: None,
        }
    }
}

/// An HTTP listener's part.
#[derive(Debug, Default)]
pub(crate) struct Http {
    /// Where requests go that no route matches.
    pub(crate) cluster: Option<Located<String>>,
    pub(crate) routes: Vec<Route>,
    pub(crate) matching: Matching,
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
    pub(crate) forwarded: Option<Located<Forwarded>>,
    pub(crate) http2: Http2,
    /// Shared by all `--https` of the flags.
    pub(crate) tls: Option<Rc<Tls>>,
    pub(crate) request_id: Option<Located<RequestId>>,
    pub(crate) exchanges: ListenerExchanges,
}

/// `limits:` of an HTTP listener. The inner `None` is the word `none`.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    pub(crate) head: Option<Located<u64>>,
    pub(crate) headers: Option<Located<u64>>,
    pub(crate) body: Option<Located<Option<u64>>>,
    pub(crate) requests_per_connection: Option<Located<Option<u64>>>,
}

/// `timeouts:` of an HTTP listener.
#[derive(Debug, Default)]
pub(crate) struct Timeouts {
    pub(crate) request_head: Option<Located<Duration>>,
    pub(crate) keep_alive: Option<Located<Duration>>,
    pub(crate) body_idle: Option<Located<Duration>>,
    pub(crate) response_head: Option<Located<Duration>>,
    pub(crate) upgrade_idle: Option<Located<Duration>>,
}

/// A route.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) place: Place,
    /// `None` matches any host.
    pub(crate) host: Option<String>,
    pub(crate) path: PathMatch,
    pub(crate) action: Action,
}

impl Route {
    /// To a cluster by a path prefix.
    pub(crate) fn to(
        place: Place,
        host: Option<String>,
        prefix: String,
        cluster: Located<String>,
    ) -> Self {
        Self {
            place,
            host,
            path: PathMatch::Prefix(prefix),
            action: Action::Cluster {
                cluster,
                rewrite: None,
            },
        }
    }

    /// The cluster that it leads to, if there is one.
    pub(crate) fn cluster(&self) -> Option<&Located<String>> {
        match &self.action {
            Action::Cluster { cluster, .. } => Some(cluster),
            Action::Answer(_) | Action::Redirect(_) => None,
        }
    }
}

/// What a route does.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    Answer(u16),
    Cluster {
        cluster: Located<String>,
        rewrite: Option<Rewrite>,
    },
    Redirect(Redirect),
}

/// A cluster. The inner `None` is the word `none` or `off`.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) name: Located<String>,
    pub(crate) backends: Vec<Backend>,
    pub(crate) balance: Option<Located<Balance>>,
    pub(crate) hash_key: Option<Located<HashKey>>,
    pub(crate) bounded_load: Option<Located<Option<u16>>>,
    pub(crate) affinity: Option<Located<Option<Affinity>>>,
    pub(crate) slow_start: Option<Located<Option<Duration>>>,
    /// In percent.
    pub(crate) panic_threshold: Option<Located<u8>>,
    pub(crate) outlier: Option<Located<Outlier>>,
    pub(crate) health: Option<Located<Health>>,
    pub(crate) connect_timeout: Option<Located<Duration>>,
    pub(crate) tries: Option<Located<u64>>,
    pub(crate) pool: Pool,
    pub(crate) protocol: Option<Located<BackendProtocol>>,
    pub(crate) tls: Option<BackendTls>,
    pub(crate) exchanges: ClusterExchanges,
}

impl Listener {
    /// Its name where none was written: the address, which UDP may share with TCP.
    pub(crate) fn default_name(address: SocketAddr, is_udp: bool) -> String {
        if is_udp {
            format!("{address}/udp")
        } else {
            shown(address).to_string()
        }
    }
}

impl Cluster {
    /// A cluster of which only the name was written.
    pub(crate) fn named(name: Located<String>) -> Self {
        Self {
            name,
            backends: Vec::new(),
            balance: None,
            hash_key: None,
            bounded_load: None,
            affinity: None,
            slow_start: None,
            panic_threshold: None,
            outlier: None,
            health: None,
            connect_timeout: None,
            tries: None,
            pool: Pool::default(),
            protocol: None,
            tls: None,
            exchanges: ClusterExchanges::default(),
        }
    }
}

/// `pool:` of a cluster: idle HTTP connections to each backend, kept by each worker.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    pub(crate) idle: Option<Located<u64>>,
    pub(crate) idle_timeout: Option<Located<Duration>>,
}

/// A backend.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) address: Located<BackendText>,
    pub(crate) name: Option<Located<String>>,
    pub(crate) backup: bool,
    pub(crate) drain: bool,
}

/// `outlier:` of a cluster.
#[derive(Debug, Default)]
pub(crate) struct Outlier {
    /// The inner `None` is the word `none`, as for `ratio`.
    pub(crate) failures: Option<Located<Option<u64>>>,
    pub(crate) ratio: Option<Located<Option<u8>>>,
    pub(crate) requests: Option<Located<u64>>,
    pub(crate) window: Option<Located<Duration>>,
    pub(crate) ejection: Option<Located<Duration>>,
    pub(crate) ejection_max: Option<Located<Duration>>,
    pub(crate) ejected_max: Option<Located<u8>>,
}

/// `health:` of a cluster.
#[derive(Debug)]
pub(crate) struct Health {
    pub(crate) check: plan::Check,
    pub(crate) interval: Option<Located<Duration>>,
    /// In percent.
    pub(crate) jitter: Option<Located<u8>>,
    pub(crate) timeout: Option<Located<Duration>>,
    pub(crate) rise: Option<Located<u64>>,
    pub(crate) fall: Option<Located<u64>>,
    pub(crate) port: Option<Located<u64>>,
}

impl Health {
    /// A check of which only the kind was written.
    pub(crate) const fn by(check: plan::Check) -> Self {
        Self {
            check,
            interval: None,
            jitter: None,
            timeout: None,
            rise: None,
            fall: None,
            port: None,
        }
    }
}
