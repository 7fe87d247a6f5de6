//! How exchanges go on behind routing: upgrades, bodies, connections to backends, tries.
//!
//! Invariant: the defaults are what a user without an opinion wants; a limit that is not set costs
//! nothing. Read next: `exchange_rules.rs` (what is valid), `lb_l7::exchange` (who obeys).

use std::time::Duration;

/// What an HTTP listener does with exchanges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchanges {
    /// Whether a client may go on in another protocol, WebSocket mostly, if its backend agrees.
    /// HTTP/2 is never asked for on a client's behalf.
    pub upgrades: bool,
    /// An upgraded connection that moves nothing for so long is over.
    pub upgrade_idle: Duration,
    /// Bytes a second that a client must send of a body, or take of a response, on the average
    /// over [`Self::RATE_WINDOW`]; 408 or a closed connection otherwise. `None`: any.
    pub body_rate_min: Option<u32>,
    /// Request bodies up to so many bytes are received before a backend is asked, so that another
    /// can be asked when it fails; 0 passes every body on as it comes. At most
    /// [`Self::BUFFER_LIMIT`].
    pub request_buffer: u32,
    /// Whether an exchange goes on when its client of HTTP/1 has ended its side, or its
    /// connection: for clients that end their side and then read. By default it is cancelled.
    pub ignore_client_abort: bool,
}

impl Exchanges {
    /// WebSockets are silent for long, and most send something within this.
    pub const UPGRADE_IDLE_DEFAULT: Duration = Duration::from_secs(3600);
    /// Long enough for a stall of a mobile network.
    pub const RATE_WINDOW: Duration = Duration::from_secs(10);
    /// What one exchange may hold.
    pub const BUFFER_LIMIT: u32 = 16 << 20;
}

impl Default for Exchanges {
    fn default() -> Self {
        Self {
            upgrades: true,
            upgrade_idle: Self::UPGRADE_IDLE_DEFAULT,
            body_rate_min: None,
            request_buffer: 0,
            ignore_client_abort: false,
        }
    }
}

/// How exchanges reach the backends of a cluster. All numbers are of one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterExchanges {
    /// From the choice of a backend to the head of its response, for one try; then another is
    /// tried, if that is safe. `None`: only the listener's deadline.
    pub try_timeout: Option<Duration>,
    /// From the first try to the head of the response, all tries and waits included; then 504.
    pub total_timeout: Option<Duration>,
    /// Retries beyond this are not made; `None`: all that are safe, as far as tries go.
    pub retry_budget: Option<RetryBudget>,
    /// Connections to each backend; exchanges beyond wait. `None`: no limit.
    pub connections_max: Option<u16>,
    /// How many exchanges may wait for a connection, at most; 503 for more.
    pub queue_max: u16,
    /// How long one waits; 503 after it.
    pub queue_timeout: Duration,
    /// A connection older than this is not used again.
    pub connection_age_max: Option<Duration>,
    /// A connection is not used for more exchanges than this.
    pub connection_exchanges_max: Option<u32>,
    /// Idle connections that are kept ready to each backend; at most what is kept idle.
    pub connections_ready: u16,
}

impl ClusterExchanges {
    /// A burst of what 128 connections serve.
    pub const QUEUE_DEFAULT: u16 = 128;
    /// Longer than a burst, shorter than a client's patience.
    pub const QUEUE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
}

impl Default for ClusterExchanges {
    fn default() -> Self {
        Self {
            try_timeout: None,
            total_timeout: None,
            retry_budget: Some(RetryBudget::default()),
            connections_max: None,
            queue_max: Self::QUEUE_DEFAULT,
            queue_timeout: Self::QUEUE_TIMEOUT_DEFAULT,
            connection_age_max: None,
            connection_exchanges_max: None,
            connections_ready: 0,
        }
    }
}

/// How many retries a cluster may see: when everything fails, tries are not to multiply the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBudget {
    /// In percent of the exchanges, 0 to 100.
    pub percent: u8,
    /// And so many a second, whatever the exchanges are.
    pub per_second: u16,
}

impl Default for RetryBudget {
    /// As Linkerd and Finagle.
    fn default() -> Self {
        Self {
            percent: 20,
            per_second: 10,
        }
    }
}
