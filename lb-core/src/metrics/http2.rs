//! What is counted of clients that speak HTTP/2, beside their exchanges.
//!
//! Invariant: as of every counter, one writing thread.
//! Read next: `mod.rs` (the counters of a listener), `report/`.

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
    /// Streams that clients have reset, by the place of the code in [`Self::RESET_CODES`].
    pub resets_received: [Counter; Self::RESET_CODES.len()],
    /// Streams that we have reset, likewise.
    pub resets_sent: [Counter; Self::RESET_CODES.len()],
    /// Connections ended since the client broke the protocol's rules.
    pub offences: Counter,
    /// Connections ended since the client did what costs us more than it (ENHANCE_YOUR_CALM).
    pub floods: Counter,
}

impl Http2Counters {
    /// The error codes of RFC 9113 section 7, each at its number, and one name for all others: who
    /// makes codes up does not make series.
    pub const RESET_CODES: [&'static str; 15] = [
        "no_error",
        "protocol_error",
        "internal_error",
        "flow_control_error",
        "settings_timeout",
        "stream_closed",
        "frame_size_error",
        "refused_stream",
        "cancel",
        "compression_error",
        "connect_error",
        "enhance_your_calm",
        "inadequate_security",
        "http_1_1_required",
        "other",
    ];

    /// The place of a code in [`Self::RESET_CODES`].
    #[must_use]
    pub const fn place_of(code: u32) -> usize {
        let last = Self::RESET_CODES.len() - 1;
        if (code as usize) < last {
            code as usize
        } else {
            last
        }
    }
}
