//! How many connections each source has, in a table of fixed size.
//!
//! Invariant: without locks, and without memory that a crowd of sources could make grow. A source
//! for which its bucket has no place is not limited: a flood of sources must not shut out others,
//! and the listener's own limit still holds. Two sources share a count once in 2^40 pairs.

use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets of 8 entries: 65,536 sources, 512 KiB.
const BUCKETS: usize = 8192;

/// Bits of an entry that count; those above are the source's tag, never zero.
const COUNT_BITS: u32 = 20;
const COUNT: u64 = (1 << COUNT_BITS) - 1;

/// Made when it is first used.
#[derive(Default)]
pub(super) struct Sources {
    table: OnceLock<Table>,
}

struct Table {
    /// Secret, so that nobody can choose sources that meet in one bucket.
    hasher: RandomState,
    buckets: Box<[Bucket]>,
}

#[derive(Default)]
#[repr(align(64))]
struct Bucket([AtomicU64; 8]);

/// Where a source is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    bucket: u32,
    entry: u32,
}

/// The source has all the connections that it may have.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Sources {
    /// Counts a connection of `source`, which may have `most`; `None` where there is no place.
    pub(super) fn take(&self, source: impl Hash, most: u32) -> Result<Option<Place>, Full> {
        let table = self.table.get_or_init(Table::new);
        let hash = table.hasher.hash_one(source);
        let index = hash as usize % BUCKETS;
        let tag = (hash >> COUNT_BITS | 1) << COUNT_BITS;
        let taken = table.buckets[index].take(tag, most.into())?;
        Ok(taken.map(|entry| Place {
            bucket: index as u32,
            entry: entry as u32,
        }))
    }

    /// The connection that took `place` has ended.
    pub(super) fn give_back(&self, place: Place) {
        if let Some(table) = self.table.get() {
            table.buckets[place.bucket as usize].give_back(place.entry as usize);
        }
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

impl Table {
    #[cold]
    fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            buckets: (0..BUCKETS).map(|_| Bucket::default()).collect(),
        }
    }
}

impl Bucket {
    fn take(&self, tag: u64, most: u64) -> Result<Option<usize>, Full> {
        loop {
            if let Some(entry) = self.find(tag, None) {
                let more = |value: u64| {
                    (value & !COUNT == tag && value & COUNT < most).then_some(value + 1)
                };
                match self.0[entry].fetch_update(Ordering::SeqCst, Ordering::SeqCst, more) {
                    Ok(_) => return Ok(Some(entry)),
                    Err(value) if value & !COUNT == tag => return Err(Full),
                    Err(_) => continue, // emptied meanwhile
                }
            }
            let load = |entry: &AtomicU64| entry.load(Ordering::SeqCst);
            let Some(entry) = self.0.iter().position(|entry| load(entry) == 0) else {
                return Ok(None);
            };
            if !self.replace(entry, 0, tag | 1) {
                continue;
            }
            // Another worker may have entered the same source elsewhere: the first entry stays.
            match self.find(tag, Some(entry)) {
                Some(other) if other < entry && self.replace(entry, tag | 1, 0) => {}
                _ => return Ok(Some(entry)),
            }
        }
    }

    fn give_back(&self, entry: usize) {
        let before = self.0[entry].fetch_sub(1, Ordering::SeqCst);
        if before & COUNT == 1 {
            // Fails when the source is back already.
            self.replace(entry, before - 1, 0);
        }
    }

    fn find(&self, tag: u64, but: Option<usize>) -> Option<usize> {
        let mut entries = self.0.iter().enumerate();
        let is_of = |value: u64| value & !COUNT == tag;
        let found = entries
            .find(|(index, entry)| Some(*index) != but && is_of(entry.load(Ordering::SeqCst)));
        found.map(|(index, _)| index)
    }

    fn replace(&self, entry: usize, before: u64, after: u64) -> bool {
        let order = Ordering::SeqCst;
        self.0[entry]
            .compare_exchange(before, after, order, order)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn a_source_has_its_number_and_no_more() {
        let sources = Sources::default();
        let places: Vec<_> = (0..3)
            .map(|_| sources.take("a", 3).unwrap().unwrap())
            .collect();
        assert_eq!(sources.take("a", 3), Err(Full));
        assert!(sources.take("b", 3).is_ok());
        sources.give_back(places[0]);
        assert!(sources.take("a", 3).is_ok());
        assert_eq!(sources.take("a", 3), Err(Full));
    }

    #[test]
    fn without_a_place_there_is_no_limit_and_places_are_used_again() {
        let bucket = Bucket::default();
        let tag = |number: u64| number << COUNT_BITS;
        for number in 1..=8 {
            assert_eq!(bucket.take(tag(number), 1), Ok(Some(number as usize - 1)));
        }
        assert_eq!(bucket.take(tag(9), 1), Ok(None));
        assert_eq!(bucket.take(tag(3), 1), Err(Full));
        bucket.give_back(2);
        assert_eq!(bucket.take(tag(9), 1), Ok(Some(2)));
    }

    #[test]
    fn many_threads_never_exceed_the_limit_and_leave_nothing() {
        let bucket = Bucket::default();
        let open: [AtomicU32; 3] = Default::default();
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let (bucket, open) = (&bucket, &open);
                scope.spawn(move || {
                    for turn in 0..20_000 {
                        let source = ((thread + turn) % 3) as usize;
                        let tag = (source as u64 + 1) << COUNT_BITS;
                        let Ok(Some(entry)) = bucket.take(tag, 2) else {
                            continue;
                        };
                        // An entry that gives way to an earlier one may be counted beside it for
                        // a moment, but no more than one for each thread.
                        let now = open[source].fetch_add(1, Ordering::SeqCst);
                        assert!(now < 4);
                        open[source].fetch_sub(1, Ordering::SeqCst);
                        bucket.give_back(entry);
                    }
                });
            }
        });
        assert!(
            bucket
                .0
                .iter()
                .all(|entry| entry.load(Ordering::SeqCst) == 0)
        );
    }
}
