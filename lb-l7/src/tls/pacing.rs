//! How data is cut into records: a client can read one only when all of it has come, and a connection
//! that has just begun, or was idle, sends few packets at first and then waits for the client.
//!
//! Invariant: what is short goes in one record, and long bodies in records of full length but for
//! their first kilobytes after a pause. Read next: `duplex/` (who makes the records).

use std::time::Duration;

use aws_lc_rs::error::Unspecified;
use lb_core::rt::{self, Instant};

use super::record::{Kind, PLAIN_MAX, Sealer};

/// Up to so many bytes, a head and a body go into one record: copying is cheaper than a second.
pub(super) const GATHERED_BYTES_MAX: usize = 4096;
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

/// What is still to be sealed.
pub(super) struct Source<'a> {
    pub(super) first: &'a [u8],
    pub(super) second: &'a [u8],
    /// Records are of full length once no more than this is left.
    pub(super) full_from: usize,
}

impl<'a> Source<'a> {
    pub(super) const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) const fn len(&self) -> usize {
        self.first.len() + self.second.len()
    }

    /// Most bytes of the next record.
    const fn record_max(&self) -> usize {
        if self.len() > self.full_from {
            RECORD_SHORT
        } else {
            PLAIN_MAX
        }
    }

    /// The next bytes, at most `most`: of both parts only where they are few.
    fn next(&mut self, most: usize) -> [&'a [u8]; 2] {
        let (head, rest) = self.first.split_at(self.first.len().min(most));
        self.first = rest;
        let left = most - head.len();
        let together = head.len() + self.second.len().min(left);
        let is_small = together <= GATHERED_BYTES_MAX;
        if !rest.is_empty() || !(head.is_empty() || is_small) {
            return [head, &[]];
        }
        let (body, rest) = self.second.split_at(self.second.len().min(left));
        self.second = rest;
        if head.is_empty() {
            [body, &[]]
        } else {
            [head, body]
        }
    }
}

/// Seals as much as there is room for, behind `before`.
pub(super) fn seal_into(
    sealer: &mut Sealer,
    before: &[u8],
    source: &mut Source<'_>,
    room: &mut [u8],
) -> Result<usize, Unspecified> {
    room[..before.len()].copy_from_slice(before);
    let mut filled = before.len();
    while !source.is_empty() {
        let space = &mut room[filled..];
        let most = space.len().saturating_sub(sealer.overhead());
        let most = most.min(source.record_max());
        if most == 0 {
            break;
        }
        filled += sealer.seal(Kind::Data, source.next(most), space)?;
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_begins_short_again_after_a_pause() {
        let mut pacing = Pacing::SHORT;
        assert_eq!(pacing.short_bytes(GATHERED_BYTES_MAX), 0);
        assert_eq!(pacing.short_bytes(50_000), 50_000);
        assert_eq!(pacing.short_bytes(50_000), SHORT_BYTES as usize - 50_000);
        assert_eq!(pacing.short_bytes(50_000), 0);
        pacing.sent_at = Some(Instant::START);
        assert_eq!(pacing.short_bytes(100_000), SHORT_BYTES as usize);
        let mut full = Pacing::FULL;
        assert_eq!(full.short_bytes(100_000), 0);
    }

    #[test]
    fn a_head_goes_with_the_start_of_its_body() {
        let (head, body) = ([1; 300], [2; 20_000]);
        let mut source = Source {
            first: &head,
            second: &body,
            full_from: 10_000,
        };
        let most = source.record_max();
        assert_eq!(
            source.next(most).map(<[u8]>::len),
            [300, RECORD_SHORT - 300]
        );
        while source.record_max() == RECORD_SHORT {
            assert_eq!(source.next(RECORD_SHORT)[0].len(), RECORD_SHORT);
        }
        assert!((10_000 - RECORD_SHORT..=10_000).contains(&source.len()));
        let left = source.len();
        assert_eq!(source.next(PLAIN_MAX)[0].len(), left);
        assert!(source.is_empty());
    }
}
