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
            let _ = words[position].compare_exchange(new.0, Word::EMPTY.0, Relaxed, Relaxed);
            return seen.slot();
        }
        let _ = word.compare_exchange(seen.0, Word::EMPTY.0, Relaxed, Relaxed);
    }
    new.slot()
}
