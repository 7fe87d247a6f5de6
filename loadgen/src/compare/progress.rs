//! How far a comparison is, and how long the rest will take.
//!
//! Invariant: the time left is told from the rounds of this run, and not before there are some.

use std::cell::Cell;
use std::time::Duration;

use lb_core::rt::{self, Instant};

/// Rounds before the time left can be told.
const ROUNDS_MIN: usize = 5;

/// Counts rounds.
#[derive(Debug)]
pub(super) struct Progress {
    all: usize,
    done: Cell<usize>,
    began: Instant,
}

impl Progress {
    /// Of `all` rounds, or what takes as long.
    pub(super) fn new(all: usize) -> Self {
        Self {
            all,
            done: Cell::new(0),
            began: rt::now_precise(),
        }
    }

    /// So many more are done.
    pub(super) fn advance(&self, rounds: usize) {
        self.done.set((self.done.get() + rounds).min(self.all));
    }

    /// `[12 %, 9 min left] `.
    pub(super) fn told(&self) -> String {
        self.told_after(rt::now_precise().saturating_duration_since(self.began))
    }

    fn told_after(&self, passed: Duration) -> String {
        let (done, all) = (self.done.get(), self.all.max(1));
        let percent = done * 100 / all;
        if done < ROUNDS_MIN {
            return format!("[{percent} %] ");
        }
        let left = passed.as_secs_f64() * (all - done) as f64 / done as f64;
        if left < 90.0 {
            return format!("[{percent} %, {left:.0} s left] ");
        }
        format!("[{percent} %, {:.0} min left] ", left / 60.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_told_when_it_is_known() {
        let progress = Progress::new(100);
        assert_eq!(progress.told_after(Duration::from_secs(1)), "[0 %] ");
        progress.advance(10);
        let told = progress.told_after(Duration::from_secs(60));
        assert_eq!(told, "[10 %, 9 min left] ");
        progress.advance(85);
        let told = progress.told_after(Duration::from_secs(190));
        assert_eq!(told, "[95 %, 10 s left] ");
        progress.advance(50);
        assert!(
            progress
                .told_after(Duration::from_secs(1))
                .starts_with("[100 %")
        );
    }
}
