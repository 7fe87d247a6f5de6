//! How many retries a cluster may see on one worker: a share of its exchanges, and a few a second.
//!
//! Invariant: in no window are there more retries than the window and the one before it allow, so
//! that retries do not multiply a load under which backends fail already.
//! Read next: `reach.rs` (who retries).

use std::time::Duration;

use lb_core::plan::RetryBudget;
use lb_core::rt::Instant;

/// The retries of one cluster.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    began: Instant,
    /// Exchanges of the cluster when the window began.
    exchanges_before: u64,
    retries: u64,
    /// Exchanges and retries of the window before.
    last: (u64, u64),
}

impl Budget {
    const WINDOW: Duration = Duration::from_secs(10);

    /// Takes one retry from the budget, if there is one. `exchanges` counts all of the cluster.
    pub(crate) fn take(&mut self, settings: RetryBudget, exchanges: u64, now: Instant) -> bool {
        self.turn(exchanges, now);
        let recent = self.last.0 + (exchanges - self.exchanges_before);
        let floor = u64::from(settings.per_second) * Self::WINDOW.as_secs();
        let allowed = floor + recent * u64::from(settings.percent) / 100;
        let is_allowed = self.last.1 + self.retries < allowed;
        self.retries += u64::from(is_allowed);
        is_allowed
    }

    /// Whether nothing of it matters any more.
    pub(crate) fn is_old(&self, now: Instant) -> bool {
        now >= self.began + Self::WINDOW * 2
    }

    /// Begins a window if the one before is over. Nobody looks at a cluster without retries: what
    /// it did meanwhile is not held for it.
    fn turn(&mut self, exchanges: u64, now: Instant) {
        if now < self.began + Self::WINDOW {
            return;
        }
        self.last = if self.is_old(now) {
            (0, 0)
        } else {
            (exchanges - self.exchanges_before, self.retries)
        };
        self.began = now;
        self.exchanges_before = exchanges.saturating_sub(1); // the one that asks is in this window
        self.retries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: RetryBudget = RetryBudget {
        percent: 20,
        per_second: 1,
    };

    fn taken(budget: &mut Budget, exchanges: u64, now: Instant) -> usize {
        let take = |_: &u32| budget.take(SETTINGS, exchanges, now);
        (0..1000).take_while(take).count()
    }

    #[test]
    fn a_floor_and_a_share() {
        let start = Instant::START + Duration::from_secs(1000);
        let mut budget = Budget::default();
        assert_eq!(taken(&mut budget, 5000, start), 10, "the floor of a window");
        let later = start + Duration::from_secs(1);
        assert_eq!(taken(&mut budget, 5100, later), 20, "and a fifth of 100");
        assert_eq!(taken(&mut budget, 5100, later), 0);
        let next = start + Duration::from_secs(11);
        assert_eq!(
            taken(&mut budget, 5200, next),
            20,
            "of two windows 50, 30 of them made"
        );
        let last = start + Duration::from_secs(60);
        assert!(budget.is_old(last));
        assert_eq!(taken(&mut budget, 9000, last), 10);
    }
}
