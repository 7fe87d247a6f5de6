//! `lblc` and `lblcr`: a key (by default the destination address) stays with the backend, or the
//! set of backends, that had it, until these are overloaded (ip_vs_lblc.c, ip_vs_lblcr.c).
//!
//! Invariant: the table is one for all workers, lock-free and of fixed size: as many entries as
//! IPVS allows, 8 bytes each. An entry is a hint: one that is lost, or that names another member
//! than it did, costs locality and nothing else.
//! Read next: `least.rs` (who is chosen when no entry helps).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::least::weighted_least;
use super::{Ask, Member, turns::turns};
use crate::balance::hash::place;
use crate::rt::Instant;

/// The scheduler of one tier.
#[derive(Debug)]
pub(super) struct Locality {
    /// Whether a key may have several members (`lblcr`).
    replicates: bool,
    /// Where the search for the least loaded starts.
    slots: Box<[u16]>,
    /// Entries by key, in buckets of a cache line. The set of a key is what in its bucket has its
    /// tag.
    buckets: Box<[Bucket]>,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Bucket([AtomicU64; 8]);

/// IPVS begins to discard entries at 16 times its 1,024 hash buckets.
const BUCKETS: usize = 1024 * 16 / 8;

impl Locality {
    pub(super) fn build(
        replicates: bool,
        members: &[Member],
        weights: &[u16],
        previous: Option<(&Self, &[Member])>,
    ) -> Self {
        let locality = Self {
            replicates,
            slots: turns(weights),
            buckets: (0..BUCKETS).map(|_| Bucket::default()).collect(),
        };
        if let Some((previous, before)) = previous {
            locality.take_over(previous, before, members);
        }
        locality
    }

    /// Copies the entries of members that stay.
    fn take_over(&self, previous: &Self, before: &[Member], members: &[Member]) {
        let now_at = |member: &Member| {
            members
                .iter()
                .position(|it| Arc::ptr_eq(&it.state, &member.state))
        };
        let moved: Vec<Option<usize>> = if before.len() == members.len()
            && before
                .iter()
                .zip(members)
                .all(|(before, now)| Arc::ptr_eq(&before.state, &now.state))
        {
            (0..members.len()).map(Some).collect()
        } else {
            before.iter().map(now_at).collect()
        };
        for (from, to) in previous.buckets.iter().zip(&self.buckets) {
            for (from, to) in from.0.iter().zip(&to.0) {
                let entry = Entry(from.load(Ordering::Relaxed));
                if let Some(&Some(position)) = moved.get(entry.position())
                    && entry != Entry::EMPTY
                {
                    to.store(entry.at(position).0, Ordering::Relaxed);
                }
            }
        }
    }

    pub(super) fn pick(&self, ask: &Ask<'_>) -> Option<usize> {
        let set = Set {
            bucket: &self.buckets[place(ask.key, BUCKETS)],
            tag: Entry::tag_of(ask.key),
            now: Units::of(ask.choice.now),
        };
        if let Some(position) = set.least(ask) {
            if self.replicates {
                set.shrink(ask);
            }
            if !is_overloaded(position, ask) {
                return Some(position);
            }
        }
        let turn = ask.own.turn(self.slots.len());
        let start = usize::from(*self.slots.get(turn)?);
        let position = weighted_least(ask, start, |it| ask.may(it))?;
        ask.end_turn(turn + 1);
        if !self.replicates {
            set.clear();
        }
        set.insert(position);
        Some(position)
    }
}

/// More in flight than the weight, while another member has less than half of its own.
fn is_overloaded(position: usize, ask: &Ask<'_>) -> bool {
    let weight = |position: usize| u64::from(ask.members[position].weight);
    ask.load(position) > weight(position)
        && (0..ask.members.len()).any(|it| ask.may(it) && ask.load(it) * 2 < weight(it))
}

/// What the table has of one key.
struct Set<'a> {
    bucket: &'a Bucket,
    tag: u64,
    now: Units,
}

impl<'a> Set<'a> {
    /// The entries of the key that have not expired.
    fn entries(&self) -> impl Iterator<Item = (&'a AtomicU64, Entry)> {
        let (tag, now) = (self.tag, self.now);
        let load = |word: &'a AtomicU64| (word, Entry(word.load(Ordering::Relaxed)));
        let live = move |(_, entry): &(_, Entry)| entry.is_of(tag) && !now.is_expired(entry.used());
        self.bucket.0.iter().map(load).filter(live)
    }

    /// The member of the set with the least load for its weight; all of the set counts as used.
    fn least(&self, ask: &Ask<'_>) -> Option<usize> {
        let mut positions = [0; 8];
        let mut count = 0;
        for (word, entry) in self.entries() {
            replace(word, entry, entry.used_at(self.now));
            if entry.position() < ask.members.len() && ask.may(entry.position()) {
                positions[count] = entry.position();
                count += 1;
            }
        }
        let cross = |one: usize, other: usize| {
            (ask.load(one) * ask.weight(other)).cmp(&(ask.load(other) * ask.weight(one)))
        };
        positions[..count]
            .iter()
            .copied()
            .min_by(|&one, &other| cross(one, other))
    }

    /// Takes the most loaded member off a set of several that has not changed for a day.
    fn shrink(&self, ask: &Ask<'_>) {
        let known = |(word, entry): (_, Entry)| {
            (entry.position() < ask.members.len()).then_some((word, entry))
        };
        let is_old = self
            .entries()
            .all(|(_, entry)| self.now.is_expired(entry.changed()));
        if !is_old || self.entries().count() < 2 {
            return;
        }
        let most = self
            .entries()
            .filter_map(known)
            .max_by(|(_, one), (_, other)| {
                let (one, other) = (one.position(), other.position());
                (ask.load(one) * ask.weight(other)).cmp(&(ask.load(other) * ask.weight(one)))
            });
        if let Some((word, entry)) = most {
            replace(word, entry, Entry::EMPTY);
            for (word, entry) in self.entries() {
                replace(word, entry, entry.changed_at(self.now));
            }
        }
    }

    fn clear(&self) {
        for (word, entry) in self.entries() {
            replace(word, entry, Entry::EMPTY);
        }
    }

    /// Adds a member, in place of the entry that was not used for longest if there is no room.
    fn insert(&self, position: usize) {
        if self
            .entries()
            .any(|(_, entry)| entry.position() == position)
        {
            return;
        }
        let age = |entry: Entry| {
            if entry == Entry::EMPTY || self.now.is_expired(entry.used()) {
                u64::MAX
            } else {
                self.now.since(entry.used())
            }
        };
        let words = self.bucket.0.iter();
        let loaded = words.map(|word| (word, Entry(word.load(Ordering::Relaxed))));
        if let Some((word, before)) = loaded.max_by_key(|&(_, entry)| age(entry)) {
            replace(word, before, Entry::new(self.tag, position, self.now));
        }
    }
}

/// When another worker was faster, its entry stands.
fn replace(word: &AtomicU64, before: Entry, after: Entry) {
    if before != after {
        let _ = word.compare_exchange(before.0, after.0, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Tag (24 bits, of which the lowest is always set), position (16), last use and last change of
/// the set (12 each).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry(u64);

impl Entry {
    const EMPTY: Self = Self(0);

    const fn tag_of(key: u64) -> u64 {
        (key | 1) & 0xFF_FFFF
    }

    const fn new(tag: u64, position: usize, now: Units) -> Self {
        Self(tag << 40 | (position as u64 & 0xFFFF) << 24 | now.0 << 12 | now.0)
    }

    const fn is_of(self, tag: u64) -> bool {
        self.0 >> 40 == tag
    }

    const fn position(self) -> usize {
        (self.0 >> 24) as usize & 0xFFFF
    }

    const fn used(self) -> Units {
        Units(self.0 >> 12 & Units::MASK)
    }

    const fn changed(self) -> Units {
        Units(self.0 & Units::MASK)
    }

    const fn at(self, position: usize) -> Self {
        Self(self.0 & !(0xFFFF << 24) | (position as u64 & 0xFFFF) << 24)
    }

    const fn used_at(self, now: Units) -> Self {
        Self(self.0 & !(Units::MASK << 12) | now.0 << 12)
    }

    const fn changed_at(self, now: Units) -> Self {
        Self(self.0 & !Units::MASK | now.0)
    }
}

/// Time in units of 64 s, 12 bits of it: goes round after three days. An entry that nobody asked
/// for that long may count as used recently, which is harmless: its member is still looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Units(u64);

impl Units {
    const MASK: u64 = 0xFFF;
    const SECONDS: u64 = 64;
    /// As IPVS: entries and sets live for a day.
    const DAY: u64 = 24 * 3600 / Self::SECONDS;

    const fn of(now: Instant) -> Self {
        Self((now.as_nanos() / 1_000_000_000 / Self::SECONDS) & Self::MASK)
    }

    const fn since(self, earlier: Self) -> u64 {
        self.0.wrapping_sub(earlier.0) & Self::MASK
    }

    const fn is_expired(self, earlier: Self) -> bool {
        self.since(earlier) >= Self::DAY
    }
}
