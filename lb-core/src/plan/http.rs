//! HTTP listeners: how requests are routed, what a route does, and what a client may send.
//!
//! Invariant: the order of the routes matters for regular expressions only; of all other kinds the
//! most exact match wins, whatever their order.
//! Read next: `http_rules.rs` (what is valid), `lb_l7::route` (the routes at work).

use std::time::Duration;

use super::{Exchanges, Http2, TlsServer};

/// The settings of an HTTP listener; by default without a route.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Http {
    /// Routes; no two with the same host and path.
    pub routes: Vec<Route>,
    /// Where a request goes that no route matches; `None` answers 404.
    pub default_cluster: Option<String>,
    /// How routes are looked up.
    pub matching: Matching,
    /// Limits on what a client may send.
    pub limits: HttpLimits,
    /// Deadlines.
    pub timeouts: HttpTimeouts,
    /// What is done with X-Forwarded-* headers.
    pub forwarded: Forwarded,
    /// Whether backends are given an X-Request-ID.
    pub request_id: RequestId,
    /// How exchanges go on behind routing.
    pub exchanges: Exchanges,
    /// How connections are encrypted; `None`: they are not.
    pub tls: Option<TlsServer>,
    /// HTTP/2 with clients.
    pub http2: Http2,
}

/// One routing rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Host in lower case without port: exact (`shop.example`), one wildcard label
    /// (`*.example`), or `None` for any.
    pub host: Option<String>,
    /// Which paths of the host.
    pub path: PathMatch,
    /// What is done with the request.
    pub action: RouteAction,
}

impl Route {
    /// To a cluster as it came, by a path prefix.
    pub fn to(host: Option<&str>, prefix: &str, cluster: &str) -> Self {
        Self {
            host: host.map(str::to_owned),
            path: PathMatch::Prefix(prefix.to_owned()),
            action: RouteAction::Cluster {
                name: cluster.to_owned(),
                rewrite: None,
            },
        }
    }
}

/// Which paths a route is for. Within a host an exact path comes first, then the first matching
/// expression in the order of the routes, then the longest prefix or start.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PathMatch {
    /// This path and no other.
    Exact(String),
    /// Element by element: `/a` and `/a/` match `/a` and `/a/b`, not `/ab`.
    Prefix(String),
    /// By a regular expression that matches at the path's start and need not reach its end, as
    /// nginx has it in `location ~ "^…"`.
    Regex {
        /// In the syntax of the `regex` crate, for bytes: no look-around, no back-references.
        /// At most [`PATTERN_BYTES_MAX`](super::PATTERN_BYTES_MAX) long.
        pattern: String,
        /// Whether case is ignored, as in `location ~*`.
        ignore_case: bool,
    },
    /// Byte by byte: `/a` matches `/ab` too, as an nginx `location` without modifier.
    Start(String),
}

/// What is done with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteAction {
    /// It is answered by ourselves.
    Answer {
        /// From 200 to 599.
        status: u16,
    },
    /// It is sent to a backend.
    Cluster {
        /// Name of the cluster.
        name: String,
        /// What the backend gets instead of the path.
        rewrite: Option<Rewrite>,
    },
    /// The client is sent elsewhere.
    Redirect(Redirect),
}

impl RouteAction {
    /// The cluster, if there is one.
    #[must_use]
    pub fn cluster(&self) -> Option<&str> {
        match self {
            Self::Cluster { name, .. } => Some(name),
            Self::Answer { .. } | Self::Redirect(_) => None,
        }
    }
}

/// Another path for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rewrite {
    /// In place of the whole path. `$1` to `$9` stand for what the groups of the route's regular
    /// expression matched, and for nothing where there is no such group; `$$` for a dollar sign.
    /// The request's query is kept; behind a `?` of this text it is appended with `&`, and behind
    /// one at its very end it is dropped.
    Path(String),
    /// In place of the route's prefix; what is behind it is kept, and so is the query.
    Prefix(String),
}

/// Where a client is sent. What is `None` stays as it is in the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// Scheme of the new location.
    pub scheme: Option<Scheme>,
    /// Its host.
    pub host: Option<String>,
    /// Its port. `None`: that of the request, and with a scheme or host none is named.
    pub port: Option<u16>,
    /// Its path.
    pub path: Option<Rewrite>,
    /// Whether one slash at the end of path and query is left out, as ingress-nginx does when it
    /// sends clients to HTTPS.
    pub trims_slash: bool,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

impl Redirect {
    /// To the same place, by `status`: something else must be set.
    #[must_use]
    pub const fn by(status: u16) -> Self {
        Self {
            scheme: None,
            host: None,
            port: None,
            path: None,
            trims_slash: false,
            status,
        }
    }
}

/// A scheme of a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// How routes are looked up, where products differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Matching {
    /// What a host hides.
    pub hosts: HostMatching,
    /// Which form of the path is compared.
    pub paths: PathForm,
}

/// What happens to a request for whose host there are routes, none of which matches its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HostMatching {
    /// The routes of the host's wildcard are looked at next, then those of any host.
    #[default]
    FallThrough,
    /// None of the others: as nginx, which chooses a server by the host alone.
    Closest,
}

/// Which form of a path is compared with the routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PathForm {
    /// As it was sent: the bytes that are matched are the bytes that are forwarded.
    #[default]
    AsSent,
    /// Percent-decoded and with repeated slashes as one, as nginx does. A path that a route
    /// rewrites is made of this form; any other is forwarded as it was sent.
    Normalized,
}

/// Whether backends are given an X-Request-ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RequestId {
    /// That of the request, or a new one if it has none.
    Accept,
    /// Always a new one, for an edge that trusts no client.
    Replace,
    /// What the request has is passed on, and nothing is added.
    #[default]
    Off,
}

/// Limits on what an HTTP client may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpLimits {
    /// Longest request head in bytes; more is answered 431 (414 if the request line alone is
    /// longer). From [`Self::HEAD_BYTES_LEAST`] to [`Self::HEAD_BYTES_LIMIT`].
    pub head_bytes_max: u32,
    /// Largest number of header fields in a head; more is answered 431. At least 1, at most
    /// [`Self::HEADERS_LIMIT`].
    pub headers_max: u16,
    /// Largest request body in bytes, `None` for no limit; more is answered 413.
    pub body_bytes_max: Option<u64>,
    /// Requests on one client connection before it is closed, at least 1; `None` for no limit.
    pub requests_per_connection_max: Option<u32>,
}

impl HttpLimits {
    /// One receive buffer (16 KiB) less 1 KiB, the room to add fields of our own.
    pub const HEAD_BYTES_LIMIT: u32 = 15 * 1024;
    /// All that there is room for: cookies grow, and the buffer is held only while a head is
    /// incomplete.
    pub const HEAD_BYTES_DEFAULT: u32 = Self::HEAD_BYTES_LIMIT;
    /// What the shortest useful browser request needs; less is surely a slip.
    pub const HEAD_BYTES_LEAST: u32 = 256;
    /// As HAProxy and Apache.
    pub const HEADERS_DEFAULT: u16 = 100;
    /// Bounds the table on the stack in which a head is parsed.
    pub const HEADERS_LIMIT: u16 = 256;
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            head_bytes_max: Self::HEAD_BYTES_DEFAULT,
            headers_max: Self::HEADERS_DEFAULT,
            body_bytes_max: None,
            requests_per_connection_max: None,
        }
    }
}

/// Deadlines of an HTTP listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpTimeouts {
    /// From the first byte of a request head to its last; 408 after it.
    pub request_head: Duration,
    /// Idle time between two requests of a connection before it is closed.
    pub keep_alive: Duration,
    /// Between two reads of a body, or while a peer takes nothing.
    pub body_idle: Duration,
    /// From the request's last byte sent to the response head; 504 after it.
    pub response_head: Duration,
}

impl HttpTimeouts {
    /// Ample for a slow phone, short for a connection that trickles bytes to hold a slot.
    pub const REQUEST_HEAD_DEFAULT: Duration = Duration::from_secs(15);
    /// As nginx. Longer than the 60 s of the cloud balancers that stand in front of us, which
    /// would otherwise reuse a connection while we close it.
    pub const KEEP_ALIVE_DEFAULT: Duration = Duration::from_secs(75);
    /// As nginx's client_body_timeout and send_timeout.
    pub const BODY_IDLE_DEFAULT: Duration = Duration::from_secs(60);
    /// As nginx's proxy_read_timeout.
    pub const RESPONSE_HEAD_DEFAULT: Duration = Duration::from_secs(60);
}

impl Default for HttpTimeouts {
    fn default() -> Self {
        Self {
            request_head: Self::REQUEST_HEAD_DEFAULT,
            keep_alive: Self::KEEP_ALIVE_DEFAULT,
            body_idle: Self::BODY_IDLE_DEFAULT,
            response_head: Self::RESPONSE_HEAD_DEFAULT,
        }
    }
}

/// What is done with X-Forwarded-For, -Proto and -Host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Forwarded {
    /// The client's address is appended to what the request carries.
    #[default]
    Append,
    /// Nothing is added or removed.
    Off,
    /// What the request carries is discarded first: for an edge that trusts no client.
    Replace,
}
