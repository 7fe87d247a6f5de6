//! Clients that are too slow on purpose: what time a body may take, by how much of it has moved.
//!
//! Invariant: only time in which the client is waited for counts; a backend may take its own.
//! Read next: `upload.rs` (bodies of clients), `exchange.rs` (what clients are sent).

use std::time::Duration;

use lb_core::plan::Exchanges;
use lb_core::rt::Instant;

/// The time that a client has for a body: a grace, and a second for so many bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Patience {
    /// Bytes a second; 0 for any.
    rate: u32,
    /// For which the client was waited.
    used: Duration,
    bytes: u64,
    /// Since when it is waited for now.
    since: Option<Instant>,
}

impl Patience {
    pub(crate) fn new(rate: Option<u32>) -> Self {
        Self {
            rate: rate.unwrap_or(0),
            ..Self::default()
        }
    }

    /// The client is waited for; until when.
    pub(crate) fn wait(&mut self, now: Instant) -> Option<Instant> {
        if self.rate == 0 {
            return None;
        }
        let since = *self.since.get_or_insert(now);
        let nanos = u128::from(self.bytes) * 1_000_000_000 / u128::from(self.rate);
        let earned = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let all = Exchanges::RATE_WINDOW.saturating_add(earned);
        Some(since + all.saturating_sub(self.used))
    }

    /// So many bytes have moved, or none: the client is not waited for any more.
    pub(crate) fn moved(&mut self, bytes: usize, now: impl FnOnce() -> Instant) {
        if self.rate == 0 {
            return;
        }
        self.bytes += bytes as u64;
        if let Some(since) = self.since.take() {
            self.used += now().saturating_duration_since(since);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_earn_time_and_only_waiting_takes_it() {
        let at = |seconds| Instant::START + Duration::from_secs(seconds);
        let mut patience = Patience::new(Some(100));
        assert_eq!(patience.wait(at(5)), Some(at(15)), "a grace");
        assert_eq!(patience.wait(at(6)), Some(at(15)));
        patience.moved(300, || at(9));
        assert_eq!(
            patience.wait(at(100)),
            Some(at(109)),
            "10 + 3 - 4 seconds are left"
        );
        patience.moved(0, || at(109));
        assert_eq!(patience.wait(at(200)), Some(at(200)));
        let mut any = Patience::new(None);
        any.moved(1, || at(1));
        assert_eq!(any.wait(at(1)), None);
    }
}
