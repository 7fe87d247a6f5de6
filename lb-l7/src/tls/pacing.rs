//! How long records are: a client can read a record only when all of it has come, and a connection
//! that has just begun, or was idle, sends few packets at first and then waits for the client.
//!
//! Invariant: what is short goes in one record, and long bodies in records of full length but for
//! their first kilobytes after a pause. Read next: `duplex.rs` (who makes the records).

use std::time::Duration;

use lb_core::rt::{self, Instant};

use super::duplex::GATHERED_BYTES_MAX;

/// Content of a short record: with what TLS, TCP and IPv6 add, one packet of 1500 bytes.
pub(super) const RECORD_SHORT: usize = 1369;
/// How much goes in short records: some more than the 10 packets that are sent before the first
/// acknowledgement (RFC 6928), and the 20 that follow.
const SHORT_BYTES: u32 = 40 * RECORD_SHORT as u32;
/// After such a pause TCP begins anew, too (RFC 9293 section 3.8.6 and RFC 5681 section 4.1).
const IDLE: Duration = Duration::from_secs(1);

/// Where a connection is with that.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pacing {
    /// Bytes that are still to go in short records.
    left: u32,
    /// When something long was sent last; `None` where records are of full length always.
    sent_at: Option<Instant>,
}

impl Pacing {
    /// Records of full length.
    pub(super) const FULL: Self = Self {
        left: 0,
        sent_at: None,
    };
    /// Short ones at first, and after a pause.
    pub(super) const SHORT: Self = Self {
        left: SHORT_BYTES,
        sent_at: Some(Instant::START),
    };

    /// How many of `total` bytes go in short records. What is short itself is not cut: it is no
    /// more than a few packets, which leave at once.
    #[inline]
    pub(super) fn short_bytes(&mut self, total: usize) -> usize {
        match self.sent_at {
            Some(sent_at) if total > GATHERED_BYTES_MAX => self.of_long(total, sent_at),
            _ => 0,
        }
    }

    fn of_long(&mut self, total: usize, sent_at: Instant) -> usize {
        let now = rt::now();
        self.sent_at = Some(now);
        if now.saturating_duration_since(sent_at) >= IDLE {
            self.left = SHORT_BYTES;
        }
        let short = total.min(self.left as usize);
        self.left -= short as u32;
        short
    }
}
