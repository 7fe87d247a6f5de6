//! What may be done to the words of one bucket, by any number of threads at once.
//!
//! Invariant: an entry is one word and changes by one compare-and-swap from the very word that was
//! read, so nobody ever sees parts of two entries; and no operation waits for another thread.
//! Loads are relaxed because a word says all there is to know: nothing is reached through it.
//! Read next: `models.rs` (all interleavings of small cases, by loom), `table.rs`.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::word::{SlotId, Tag, Tick, Timeout, Word};
use crate::rt::words::{AtomicU64, fence};

/// What an insertion came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inserted {
    /// What the key stands for now: what was inserted, or what another thread inserted first.
    pub(super) slot: SlotId,
    /// Whether a live entry of another key had to go.
    pub(super) evicted: bool,
}

/// Tries of an insertion that loses a race each time: enough for each word to change under it. After
/// these it gives up and the key is not remembered; it never holds up a worker.
const TRIES: usize = 16;

/// The slot remembered for `tag`, if it is live and `valid`; this use of it prolongs its life.
#[inline]
pub(super) fn get(
    words: &[AtomicU64],
    tag: Tag,
    now: Tick,
    timeout: Timeout,
    valid: impl Fn(SlotId) -> bool,
) -> Option<SlotId> {
    for word in words {
        let seen = Word(word.load(Relaxed));
        if seen.has_tag(tag) && seen.left(now).is_some() && valid(seen.slot()) {
            if let Some(used) = seen.used(now, timeout) {
                // Whoever changed it meanwhile has prolonged it too, or had reason to replace it.
                let _ = word.compare_exchange(seen.0, used.0, Relaxed, Relaxed);
            }
            return Some(seen.slot());
        }
    }
    None
}

/// Remembers `slot` for `tag`, unless a live and `valid` entry is there: then that one stands.
///
/// An unusable entry of the same tag is replaced, else an empty or expired word, else the live
/// entry nearest to its expiry.
pub(super) fn insert(
    words: &[AtomicU64],
    tag: Tag,
    slot: SlotId,
    now: Tick,
    timeout: Timeout,
    valid: impl Fn(SlotId) -> bool,
) -> Inserted {
    let new = Word::new(tag, slot, now, timeout);
    for _ in 0..TRIES {
        let place = match find(words, tag, now, &valid) {
            Found::Entry(slot) => return Inserted::kept(slot),
            Found::Place(place) => place,
        };
        let word = &words[place.position];
        if word
            .compare_exchange(place.seen.0, new.0, Relaxed, Relaxed)
            .is_ok()
        {
            return Inserted {
                slot: settle(words, place.position, tag, new, now, &valid),
                evicted: place.evicts,
            };
        }
    }
    Inserted::kept(slot)
}

/// Clears words that have expired and counts the others.
pub(super) fn sweep(words: &[AtomicU64], now: Tick) -> usize {
    let mut live = 0;
    for word in words {
        let seen = Word(word.load(Relaxed));
        if seen.left(now).is_some() {
            live += 1;
        } else if seen != Word::EMPTY {
            let _ = word.compare_exchange(seen.0, Word::EMPTY.0, Relaxed, Relaxed);
        }
    }
    live
}

impl Inserted {
    const fn kept(slot: SlotId) -> Self {
        Self {
            slot,
            evicted: false,
        }
    }
}

enum Found {
    Entry(SlotId),
    Place(Place),
}

struct Place {
    position: usize,
    seen: Word,
    evicts: bool,
}

fn find(words: &[AtomicU64], tag: Tag, now: Tick, valid: &impl Fn(SlotId) -> bool) -> Found {
    let mut best = u32::MAX;
    let mut place = Place {
        position: 0,
        seen: Word::EMPTY,
        evicts: false,
    };
    for (position, word) in words.iter().enumerate() {
        let seen = Word(word.load(Relaxed));
        let left = seen.left(now);
        let cost = if !seen.has_tag(tag) {
            left.map_or(1, |left| left + 1)
        } else if left.is_some() && valid(seen.slot()) {
            return Found::Entry(seen.slot());
        } else {
            0
        };
        if cost < best {
            best = cost;
            place = Place {
                position,
                seen,
                evicts: cost > 1,
            };
        }
    }
    Found::Place(place)
}

/// After an insertion at `position`: makes it the only entry of its tag, or gives way.
///
/// Two threads that insert the same tag mostly take the same word, where one loses. But when other
/// words become free between their looks, they may take two. Of two the one at the lower position
/// stays, which is also the one that readers find. The fence makes at least one of the two see the
/// other's, and each is able to set it right.
fn settle(
    words: &[AtomicU64],
    position: usize,
    tag: Tag,
    new: Word,
    now: Tick,
    valid: &impl Fn(SlotId) -> bool,
) -> SlotId {
    fence(SeqCst);
    for (other, word) in words.iter().enumerate() {
        let seen = Word(word.load(Relaxed));
        if other == position || !seen.has_tag(tag) {
            continue;
        }
        if other < position && seen.left(now).is_some() && valid(seen.slot()) {
            remove(&words[position], tag);
            return seen.slot();
        }
        remove(word, tag);
    }
    new.slot()
}

/// Empties the word if it is an entry of `tag`, also when that is being prolonged just now.
fn remove(word: &AtomicU64, tag: Tag) {
    for _ in 0..TRIES {
        let seen = Word(word.load(Relaxed));
        if !seen.has_tag(tag)
            || word
                .compare_exchange(seen.0, Word::EMPTY.0, Relaxed, Relaxed)
                .is_ok()
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::rt::Instant;
    use crate::rt::words;

    fn tag(number: u64) -> Tag {
        Tag::of((number + 1) << 40)
    }

    fn slot(index: u16) -> SlotId {
        SlotId {
            index,
            incarnation: 0,
        }
    }

    fn at(seconds: u64) -> Tick {
        Tick::of(Instant(seconds * 1_000_000_000))
    }

    fn seconds(seconds: u64) -> Timeout {
        Timeout::new(Duration::from_secs(seconds))
    }

    const ANY: fn(SlotId) -> bool = |_| true;

    fn put(words: &[AtomicU64], number: u64, now: u64, timeout: u64) -> Inserted {
        insert(
            words,
            tag(number),
            slot(number as u16),
            at(now),
            seconds(timeout),
            ANY,
        )
    }

    fn has(words: &[AtomicU64], number: u64, now: u64) -> bool {
        // With the longest timeout a look would prolong; so ask for the least.
        get(words, tag(number), at(now), seconds(1), ANY).is_some()
    }

    #[test]
    fn remembers_until_it_expires() {
        let words = words::zeroed(8);
        assert_eq!(get(&words, tag(1), at(0), seconds(10), ANY), None);
        put(&words, 1, 0, 10);
        assert_eq!(get(&words, tag(1), at(10), seconds(10), ANY), Some(slot(1)));
        // That look prolonged it.
        assert_eq!(get(&words, tag(1), at(21), seconds(10), ANY), Some(slot(1)));
        assert_eq!(get(&words, tag(1), at(33), seconds(10), ANY), None);
        assert_eq!(get(&words, tag(2), at(0), seconds(10), ANY), None);
    }

    #[test]
    fn a_valid_entry_stands_and_an_invalid_one_is_replaced_in_its_place() {
        let words = words::zeroed(8);
        put(&words, 9, 0, 10);
        put(&words, 1, 0, 10);
        let add = |index, valid: fn(SlotId) -> bool| {
            insert(&words, tag(1), slot(index), at(1), seconds(10), valid)
        };
        assert_eq!(add(2, ANY), Inserted::kept(slot(1)));
        assert_eq!(add(2, |it| it.index != 1), Inserted::kept(slot(2)));
        assert_eq!(
            get(&words, tag(1), at(1), seconds(10), |it| it.index == 1),
            None
        );
        assert_eq!(sweep(&words, at(1)), 2);
    }

    #[test]
    fn a_full_bucket_evicts_the_entry_nearest_to_its_expiry() {
        let words = words::zeroed(4);
        for (number, timeout) in [(0, 50), (1, 30), (2, 40), (3, 60)] {
            assert!(!put(&words, number, 0, timeout).evicted);
        }
        assert!(put(&words, 4, 1, 100).evicted);
        let there = (0..5).map(|it| has(&words, it, 1));
        assert_eq!(there.collect::<Vec<_>>(), [true, false, true, true, true]);
    }

    #[test]
    fn expired_entries_give_way_before_live_ones_and_are_not_counted() {
        let words = words::zeroed(2);
        put(&words, 0, 0, 100);
        put(&words, 1, 0, 8);
        assert!(!put(&words, 2, 20, 100).evicted);
        assert!(has(&words, 0, 20) && has(&words, 2, 20));
    }

    #[test]
    fn a_sweep_clears_the_expired_and_counts_the_live() {
        let words = words::zeroed(3);
        put(&words, 0, 0, 100);
        put(&words, 1, 0, 8);
        assert_eq!(sweep(&words, at(9)), 2);
        assert_eq!(sweep(&words, at(10)), 1);
        assert_eq!(words.iter().filter(|it| it.load(Relaxed) == 0).count(), 2);
    }

    #[test]
    fn of_two_entries_of_one_tag_the_one_that_readers_find_stays() {
        // As two threads leave them that insert at once.
        let new = |index| Word::new(tag(1), slot(index), at(0), seconds(9));
        for position in [0, 1] {
            let words = words::zeroed(3);
            words[0].store(new(0).0, Relaxed);
            words[1].store(new(1).0, Relaxed);
            let mine = new(position as u16);
            assert_eq!(settle(&words, position, tag(1), mine, at(0), &ANY), slot(0));
            assert_eq!(get(&words, tag(1), at(0), seconds(9), ANY), Some(slot(0)));
            assert_eq!(sweep(&words, at(0)), 1);
        }
    }
}
