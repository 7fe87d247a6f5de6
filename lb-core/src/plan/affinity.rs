//! Affinity: what makes later connections or requests of a client go where its first one went.
//!
//! Invariant: a timeout is from [`Affinity::TIMEOUT_LEAST`] to [`Affinity::TIMEOUT_LIMIT`].
//! Read next: `../balance/affinity/` (the table that remembers).

use std::fmt;
use std::time::Duration;

/// What of a client is recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Affinity {
    /// Its address, or the network that it is in.
    ClientAddress {
        /// How long it is remembered after its latest new connection or request.
        timeout: Duration,
        /// Leading bits of an IPv4 address that count, 1 to 32.
        ipv4_prefix: u8,
        /// Leading bits of an IPv6 address that count, 1 to 128.
        ipv6_prefix: u8,
    },
    /// A cookie that we set; HTTP only.
    Cookie(CookieAffinity),
    /// The value of a header field; HTTP only.
    Header {
        /// Name in lower case.
        name: String,
        /// How long a value is remembered after the latest request that had it.
        timeout: Duration,
    },
}

impl Affinity {
    /// As Kubernetes' `sessionAffinityConfig.clientIP.timeoutSeconds`: three hours.
    pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10_800);
    /// Shortest timeout.
    pub const TIMEOUT_LEAST: Duration = Duration::from_secs(1);
    /// Longest timeout: Kubernetes' limit, one day.
    pub const TIMEOUT_LIMIT: Duration = Duration::from_secs(86_400);

    /// By whole client addresses.
    #[must_use]
    pub const fn client_address(timeout: Duration) -> Self {
        Self::ClientAddress {
            timeout,
            ipv4_prefix: 32,
            ipv6_prefix: 128,
        }
    }
}

/// The cookie that carries a client's backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CookieAffinity {
    /// Name, a token of RFC 9110.
    pub name: String,
    /// `Path` attribute.
    pub path: String,
    /// `Domain` attribute.
    pub domain: Option<String>,
    /// `Max-Age` attribute, and `Expires` with it for the clients that know only that; `None` lasts
    /// as long as the browser's session.
    pub max_age: Option<Duration>,
    /// `SameSite` attribute.
    pub same_site: Option<SameSite>,
    /// `Secure` attribute.
    pub secure: Secure,
    /// `HttpOnly` attribute.
    pub http_only: bool,
    /// What a change of the backends does to clients that have the cookie.
    pub mode: CookieMode,
}

impl CookieAffinity {
    /// A session cookie of that name for all paths.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            path: "/".to_owned(),
            domain: None,
            max_age: None,
            same_site: None,
            secure: Secure::Auto,
            http_only: true,
            mode: CookieMode::Persistent,
        }
    }

    /// The name when none is given.
    pub const NAME_DEFAULT: &str = "lb";
}

/// Which requests from other sites carry the cookie (RFC 6265bis, section 5.6.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SameSite {
    /// Those that navigate.
    Lax,
    /// All; browsers want `Secure` with it.
    None,
    /// None.
    Strict,
}

/// Whether the cookie is kept from unencrypted connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Secure {
    /// Always.
    Always,
    /// When the client came over TLS.
    Auto,
    /// Never.
    Never,
}

/// What a change of the backends does to clients that have the cookie (ingress-nginx's
/// `affinity-mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CookieMode {
    /// The cookie names a session; which backend has it is a matter of consistent hashing, so that a
    /// new backend gets its share of the sessions.
    Balanced,
    /// The cookie names the backend, for as long as that is there.
    Persistent,
}

/// A secret with which affinity cookies are keyed.
#[derive(Clone, PartialEq, Eq)]
pub struct CookieKey(pub [u8; 16]);

impl fmt::Debug for CookieKey {
    /// Does not show it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CookieKey(..)")
    }
}
