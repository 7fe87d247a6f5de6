//! What a peer may do that costs us more than it: so much at once, and so much a second.
//!
//! Resets are what "rapid reset" (CVE-2023-44487) and, provoked from us, "MadeYouReset"
//! (CVE-2025-8671) live on; SETTINGS, PING, PRIORITY and empty frames are floods of CVE-2019-9511
//! and following. Read next: `core.rs`.

use std::time::Duration;

use lb_core::rt::Instant;

/// A budget that is refilled as time passes.
#[derive(Debug)]
pub(super) struct Budget {
    left: u32,
    most: u32,
    per_second: u32,
    refilled: Instant,
}

impl Budget {
    /// For streams that end by a reset or are refused. Whoever completes requests may reset more.
    pub(super) const fn of_resets() -> Self {
        Self::new(500, 100)
    }

    /// For frames that ask for work, and carry nothing.
    pub(super) const fn of_control() -> Self {
        Self::new(1000, 500)
    }

    const fn new(most: u32, per_second: u32) -> Self {
        Self {
            left: most,
            most,
            per_second,
            refilled: Instant::START,
        }
    }

    /// Takes one; false when nothing is left.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        if self.left == 0 {
            self.refill(now);
        }
        let is_left = self.left > 0;
        self.left = self.left.saturating_sub(1);
        is_left
    }

    /// Gives one back.
    pub(super) fn give(&mut self) {
        self.left = self.most.min(self.left + 1);
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.refilled);
        if elapsed < Duration::from_millis(10) {
            return;
        }
        let due = elapsed.as_millis().min(60_000) as u32 * self.per_second / 1000;
        self.left = self.most.min(self.left + due);
        self.refilled = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_refilled_by_time() {
        let start = Instant::START + Duration::from_secs(100);
        let mut budget = Budget::new(10, 100);
        budget.refilled = start;
        let count = |budget: &mut Budget, now| (0..100).filter(|_| budget.take(now)).count();
        assert_eq!(count(&mut budget, start), 10);
        assert_eq!(count(&mut budget, start + Duration::from_millis(50)), 5);
        assert_eq!(count(&mut budget, start + Duration::from_secs(3600)), 10);
        budget.give();
        assert_eq!(count(&mut budget, start + Duration::from_secs(3600)), 1);
    }
}
