//! What is counted of clients that speak HTTP/2, beside their exchanges.
//!
//! Invariant: as of every counter, one writing thread.
//! Read next: `mod.rs` (the counters of a listener), `report.rs`.

use super::{Counter, Gauge};

/// HTTP/2 counters of one listener on one worker.
#[derive(Debug, Default)]
pub struct Http2Counters {
    /// Connections that turned out to speak HTTP/2.
    pub connections: Counter,
    /// Of these, the ones that are open.
    pub connections_active: Gauge,
    /// Streams begun.
    pub streams: Counter,
    /// Streams that clients have reset.
    pub resets_received: Counter,
    /// Streams that we have reset.
    pub resets_sent: Counter,
    /// Connections ended since the client broke the protocol's rules.
    pub offences: Counter,
    /// Connections ended since the client did what costs us more than it (ENHANCE_YOUR_CALM).
    pub floods: Counter,
}
