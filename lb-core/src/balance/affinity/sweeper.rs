//! Clears expired entries of the affinity table, little by little.
//!
//! Invariant: a bucket is visited before an expired entry in it could look live again, which is
//! 131,073 s after its expiry (`word.rs`): a pass takes 256 s, and when nobody called for so long
//! that this does not hold, everything is forgotten instead.
//! Read next: `bucket.rs`.

use std::sync::Arc;
use std::time::Duration;

use super::table::AffinityTable;
use super::word::Tick;
use crate::rt::Instant;

/// How long it takes to visit each bucket once.
const PASS: Duration = Duration::from_secs(256);

/// After a longer pause the table is cleared: 131,072 s less a pass, and less a margin.
const PAUSE_MAX: Duration = Duration::from_secs(130_000);

/// The number of live entries is estimated from each 1/16 of the table: their keys are hashed, so
/// each part has as many as any other.
const PARTS: usize = 16;

/// Where the sweep of one table stands. One for each table, on any one thread.
#[derive(Debug)]
pub struct Sweeper {
    table: Arc<AffinityTable>,
    bucket: usize,
    at: Instant,
    part: Part,
}

/// What was found since the last estimate.
#[derive(Debug, Default)]
struct Part {
    buckets: usize,
    live: usize,
}

impl Sweeper {
    /// Begins with the first bucket.
    #[must_use]
    pub fn new(table: Arc<AffinityTable>, now: Instant) -> Self {
        Self {
            table,
            bucket: 0,
            at: now,
            part: Part::default(),
        }
    }

    /// Does what has become due since the last turn. To be called about every 100 ms: with a table
    /// of 1,000,000 entries that is a look at 102 buckets, some microseconds.
    pub fn turn(&mut self, now: Instant) {
        let pause = now.saturating_duration_since(self.at);
        if pause > PAUSE_MAX {
            self.table.clear();
        }
        let buckets = self.table.buckets() as u128;
        let share = pause.as_nanos().min(PASS.as_nanos());
        let due = buckets * share / PASS.as_nanos();
        // Only what whole buckets stand for; the rest of the time counts at the next turn.
        let paid = PASS.as_nanos() * due / buckets;
        self.at = if share < pause.as_nanos() {
            now
        } else {
            self.at + Duration::from_nanos(paid as u64)
        };
        self.sweep(due as usize, Tick::of(now));
    }

    fn sweep(&mut self, mut due: usize, now: Tick) {
        let buckets = self.table.buckets();
        let part_buckets = buckets.div_ceil(PARTS);
        while due > 0 {
            let run = due
                .min(buckets - self.bucket)
                .min(part_buckets - self.part.buckets);
            self.part.live += self.table.sweep(self.bucket..self.bucket + run, now);
            self.part.buckets += run;
            self.bucket = (self.bucket + run) % buckets;
            due -= run;
            if self.part.buckets == part_buckets {
                let live = self.part.live as u64 * buckets as u64 / part_buckets as u64;
                self.table.set_len(live);
                self.part = Part::default();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::word::{SlotId, Timeout};
    use super::*;

    const SLOT: SlotId = SlotId {
        index: 0,
        incarnation: 0,
    };

    fn at(seconds: u64) -> Instant {
        Instant::default() + Duration::from_secs(seconds)
    }

    /// A table of 1024 buckets with an entry in each, half of them short-lived.
    fn table() -> Arc<AffinityTable> {
        let table = AffinityTable::new(4096, [1; 16]);
        for key in 0..1024 {
            let timeout = Timeout::new(Duration::from_secs(if key % 2 == 0 { 10 } else { 80_000 }));
            table.insert(1 << 60 | key, SLOT, Tick::of(at(0)), timeout, |_| true);
        }
        assert_eq!(table.buckets(), 1024);
        Arc::new(table)
    }

    fn used_words(table: &AffinityTable) -> usize {
        // Seen from the time of writing, every entry is live.
        table.sweep(0..table.buckets(), Tick::of(at(0)))
    }

    #[test]
    fn a_pass_visits_every_bucket_whatever_the_turns() {
        for millis in [10, 100, 777, 60_000, 127_999] {
            let table = table();
            let mut sweeper = Sweeper::new(Arc::clone(&table), at(100));
            let mut now = at(100);
            let mut turn_until = |end: Instant| {
                while now < end {
                    now = now + Duration::from_millis(millis);
                    sweeper.turn(now);
                }
                used_words(&table)
            };
            let half_way = turn_until(at(100) + PASS / 4);
            assert!((513..1024).contains(&half_way), "{half_way}");
            assert_eq!(turn_until(at(100) + PASS), 512);
        }
    }

    #[test]
    fn estimates_the_live_entries() {
        let table = table();
        let mut sweeper = Sweeper::new(Arc::clone(&table), at(0));
        assert!(table.is_empty());
        sweeper.turn(at(9));
        assert!(table.is_empty(), "too little seen");
        sweeper.turn(at(16));
        let (few, many) = (table.len(), 1024);
        assert!((512..=many).contains(&few), "{few}");
        sweeper.turn(at(16) + PASS);
        assert_eq!(table.len(), 512);
    }

    #[test]
    fn after_a_pause_of_a_day_and_a_half_everything_is_forgotten() {
        let table = table();
        let mut sweeper = Sweeper::new(Arc::clone(&table), at(0));
        sweeper.turn(at(130_001));
        assert_eq!(used_words(&table), 0);
        sweeper.turn(at(130_002));
        assert_eq!(sweeper.at, at(130_002));
    }

    #[test]
    fn the_smallest_table_is_swept_too() {
        let table = Arc::new(AffinityTable::new(1, [1; 16]));
        table.insert(
            1,
            SLOT,
            Tick::of(at(0)),
            Timeout::new(Duration::ZERO),
            |_| true,
        );
        let mut sweeper = Sweeper::new(Arc::clone(&table), at(0));
        for second in 1..=256 {
            sweeper.turn(at(second));
        }
        assert_eq!((table.buckets(), used_words(&table)), (1, 0));
    }
}
