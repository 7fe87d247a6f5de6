//! What is said in HTTP/2: to clients of a listener, and to the backends of a cluster.
//!
//! Invariant: `validate.rs` keeps the ranges. Read next: `http.rs`, `cluster.rs`.

use std::time::Duration;

/// The version of HTTP that is spoken to the backends of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BackendProtocol {
    /// HTTP/1.1, one request at a time on a connection.
    #[default]
    Http1,
    /// HTTP/2 with many requests on a connection: by ALPN over TLS, with prior knowledge in the
    /// clear (h2c, RFC 9113 section 3.3).
    Http2,
}

/// HTTP/2 with the clients of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2 {
    /// Whether it is spoken at all: in the clear, or to clients that ask for it by ALPN.
    pub enabled: bool,
    /// Streams that a client may have open at once on a connection, 1 to
    /// [`Self::STREAMS_LIMIT`].
    pub streams_max: u32,
    /// Bytes of a request body that a client may send ahead of the backend's reading, 65,535 to
    /// [`Self::WINDOW_LIMIT`]; a connection has four times that for all of its streams.
    pub window_bytes: u32,
    /// Silence of a client with streams open after which it is asked for a sign of life, and as
    /// long again until it is given up; from 1 s.
    pub ping_interval: Duration,
}

impl Http2 {
    /// As nginx; RFC 9113 section 6.5.2 recommends no less than 100.
    pub const STREAMS_DEFAULT: u32 = 128;
    /// A stream under way holds a few kilobytes.
    pub const STREAMS_LIMIT: u32 = 1024;
    /// 256 KiB: 20 Mbit/s at 100 ms.
    pub const WINDOW_DEFAULT: u32 = 256 * 1024;
    /// What RFC 9113 section 6.9.2 starts with.
    pub const WINDOW_LEAST: u32 = 65_535;
    /// 16 MiB: more would be memory for whoever does not read.
    pub const WINDOW_LIMIT: u32 = 16 * 1024 * 1024;
    /// Below the patience of most NATs and firewalls.
    pub const PING_INTERVAL_DEFAULT: Duration = Duration::from_secs(30);
}

impl Default for Http2 {
    fn default() -> Self {
        Self {
            enabled: true,
            streams_max: Self::STREAMS_DEFAULT,
            window_bytes: Self::WINDOW_DEFAULT,
            ping_interval: Self::PING_INTERVAL_DEFAULT,
        }
    }
}
