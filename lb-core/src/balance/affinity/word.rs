//! One entry of the affinity table in one word: which key, which backend, until when.
//!
//! Invariant: an entry is never 0, which is the empty word, and it is live for at least the
//! timeout after it was last used, never for more than [`Timeout::life_max`].
//! Read next: `bucket.rs`.
//!
//! Expiry is 18 bits of seconds, which go round in 262,144 s, so "later" means "less than half a
//! round ahead": an entry is live while its expiry is 1 to 131,071 s ahead. The longest life is
//! 86,400 * 9/8 + 1 = 97,201 s, which leaves 33,870 s for workers whose clocks differ. An expired
//! entry would look live again 131,073 s after its expiry: the sweeper comes by long before.

use std::time::Duration;

use crate::plan::{Affinity, BACKENDS_MAX};
use crate::rt::Instant;

/// Number of slots that an entry can tell apart, 14 bits.
pub const SLOTS_MAX: u16 = 1 << SLOT_BITS;
const _: () = assert!(SLOTS_MAX as usize >= BACKENDS_MAX);

const EXPIRY_BITS: u32 = 18;
const INCARNATION_BITS: u32 = 8;
const SLOT_BITS: u32 = 14;
const TAG_BITS: u32 = 24;
const INCARNATION_SHIFT: u32 = EXPIRY_BITS;
const SLOT_SHIFT: u32 = INCARNATION_SHIFT + INCARNATION_BITS;
const TAG_SHIFT: u32 = SLOT_SHIFT + SLOT_BITS;
const _: () = assert!(TAG_SHIFT + TAG_BITS == u64::BITS);

const TICK_MASK: u32 = (1 << EXPIRY_BITS) - 1;
const HALF_ROUND: u32 = 1 << (EXPIRY_BITS - 1);

const TIMEOUT_LIMIT: Timeout = Timeout(Affinity::TIMEOUT_LIMIT.as_secs() as u32);
const _: () = assert!(
    TIMEOUT_LIMIT.most() + 30_000 < HALF_ROUND,
    "leaves room for clocks"
);

/// Seconds by which an entry may outlive its timeout before it is taken to have been written under
/// a longer one, since cut. More than the clocks of two workers ever differ.
const TOLERANCE_SECONDS: u32 = 60;

/// A second of the monotonic clock, modulo 2^18.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick(u32);

impl Tick {
    /// The second that `now` lies in.
    #[inline]
    #[must_use]
    pub const fn of(now: Instant) -> Self {
        Self((now.as_nanos() / 1_000_000_000) as u32 & TICK_MASK)
    }

    /// The tick that is `seconds` later.
    #[inline]
    #[must_use]
    pub const fn after(self, seconds: u32) -> Self {
        Self(self.0.wrapping_add(seconds) & TICK_MASK)
    }

    /// Seconds from `earlier` to this, going round.
    #[inline]
    const fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0) & TICK_MASK
    }
}

/// How long an entry is kept after its last use, in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeout(u32);

impl Timeout {
    /// Rounds up to a second; below a second is a second, above [`Affinity::TIMEOUT_LIMIT`] is
    /// that.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        let seconds = timeout
            .as_secs()
            .saturating_add(u64::from(timeout.subsec_nanos() > 0));
        Self(seconds.clamp(1, u64::from(TIMEOUT_LIMIT.0)) as u32)
    }

    /// The longest time from the last use of an entry to its end: an eighth more than the timeout,
    /// because an entry is written with that much to spare, and so need not be written again at
    /// each use; and a second more, because the current one has begun.
    #[must_use]
    pub const fn life_max(self) -> Duration {
        Duration::from_secs(self.most() as u64)
    }

    /// Seconds that must be left after a use. One more than the timeout, because the current one
    /// is partly gone.
    #[inline]
    const fn least(self) -> u32 {
        self.0 + 1
    }

    /// Seconds that a written entry has left.
    #[inline]
    const fn most(self) -> u32 {
        self.least() + self.0 / 8
    }
}

/// Names one backend of a cluster for as long as its address stays there, and for a quarantine
/// after that: see [`super::Slots`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SlotId {
    pub(super) index: u16,
    pub(super) incarnation: u8,
}

/// The part of a key that an entry keeps; never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag(u32);

impl Tag {
    /// From the upper bits of a key; the lower ones have chosen the bucket.
    #[inline]
    pub(super) const fn of(key: u64) -> Self {
        let tag = (key >> TAG_SHIFT) as u32;
        Self(if tag == 0 { 1 } else { tag })
    }
}

/// A word of the table, decoded: tag 24 | slot 14 | incarnation 8 | expiry 18, or 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word(pub(super) u64);

impl Word {
    pub(super) const EMPTY: Self = Self(0);

    /// An entry used at `now`.
    #[inline]
    pub(super) const fn new(tag: Tag, slot: SlotId, now: Tick, timeout: Timeout) -> Self {
        debug_assert!(slot.index < SLOTS_MAX);
        Self(
            (tag.0 as u64) << TAG_SHIFT
                | (slot.index as u64) << SLOT_SHIFT
                | (slot.incarnation as u64) << INCARNATION_SHIFT
                | now.after(timeout.most()).0 as u64,
        )
    }

    /// Also true of no empty word, whose tag would be 0.
    #[inline]
    pub(super) const fn has_tag(self, tag: Tag) -> bool {
        (self.0 >> TAG_SHIFT) as u32 == tag.0
    }

    #[inline]
    pub(super) const fn slot(self) -> SlotId {
        SlotId {
            index: (self.0 >> SLOT_SHIFT) as u16 & (SLOTS_MAX - 1),
            incarnation: (self.0 >> INCARNATION_SHIFT) as u8,
        }
    }

    /// Seconds left of an entry, 1 to 131,071; `None` when it has expired or is empty.
    #[inline]
    pub(super) const fn left(self, now: Tick) -> Option<u32> {
        let left = Tick(self.0 as u32 & TICK_MASK).since(now);
        if self.0 != 0 && left != 0 && left < HALF_ROUND {
            Some(left)
        } else {
            None
        }
    }

    /// The word to replace a live one by when it is used at `now`; `None` while enough is left.
    ///
    /// It moves the expiry by at least an eighth of the timeout, so that the words of busy clients
    /// are mostly read, and their lines can be shared by the workers. A timeout that was cut takes
    /// effect here.
    #[inline]
    pub(super) const fn used(self, now: Tick, timeout: Timeout) -> Option<Self> {
        let left = Tick(self.0 as u32 & TICK_MASK).since(now);
        if left >= timeout.least() && left <= timeout.most() + TOLERANCE_SECONDS {
            return None;
        }
        let kept = self.0 & !(TICK_MASK as u64);
        Some(Self(kept | now.after(timeout.most()).0 as u64))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SLOT: SlotId = SlotId {
        index: 7,
        incarnation: 3,
    };

    fn tick(seconds: u32) -> Tick {
        Tick::of(Instant(u64::from(seconds) * 1_000_000_000))
    }

    fn seconds(seconds: u64) -> Timeout {
        Timeout::new(Duration::from_secs(seconds))
    }

    fn word(now: Tick, timeout: Timeout) -> Word {
        Word::new(Tag(1), SLOT, now, timeout)
    }

    #[test]
    fn timeouts_are_whole_seconds_within_the_limits() {
        let timeout = |duration| Timeout::new(duration).0;
        assert_eq!(timeout(Duration::ZERO), 1);
        assert_eq!(timeout(Duration::from_millis(1001)), 2);
        assert_eq!(timeout(Duration::MAX), 86_400);
    }

    #[test]
    fn an_entry_lives_for_its_timeout_and_at_most_an_eighth_more() {
        for timeout in [1, 7, 8, 10, 10_800, 86_400] {
            let word = word(tick(5), seconds(timeout));
            let life_max = seconds(timeout).life_max();
            assert_eq!(life_max, Duration::from_secs(timeout + timeout / 8 + 1));
            // Written at the very end of second 5, it is still there `timeout` later.
            assert!(word.left(tick(5 + timeout as u32)).is_some());
            let end = 5 + life_max.as_secs() as u32;
            assert_eq!(word.left(tick(end - 1)), Some(1));
            assert_eq!(word.left(tick(end)), None);
        }
    }

    #[test]
    fn an_expired_entry_stays_so_until_half_a_round_later() {
        let word = word(tick(0), seconds(86_400));
        let end = 86_400 + 86_400 / 8 + 1;
        assert_eq!(word.left(tick(end + HALF_ROUND)), None);
        assert!(word.left(tick(end + HALF_ROUND + 1)).is_some());
        // Written by a worker whose clock is ahead by nine hours.
        assert!(word.left(Tick(TICK_MASK - 33_000)).is_some());
    }

    #[test]
    fn the_clock_goes_round() {
        let late = tick(TICK_MASK - 1);
        let word = word(late, seconds(10));
        assert_eq!(word.left(late.after(1)), Some(11));
        assert_eq!(word.left(late.after(11)), Some(1));
        assert_eq!(word.left(late.after(12)), None);
    }

    #[test]
    fn no_entry_is_the_empty_word() {
        // Tag, slot, incarnation and expiry all as near to 0 as can be.
        let slot = SlotId {
            index: 0,
            incarnation: 0,
        };
        let word = Word::new(Tag::of(0), slot, Tick(0).after(TICK_MASK - 1), seconds(1));
        assert_eq!(word.0 & u64::from(TICK_MASK), 0);
        assert_ne!(word, Word::EMPTY);
        assert_eq!(Word::EMPTY.left(tick(TICK_MASK)), None);
        assert!(!Word::EMPTY.has_tag(Tag::of(0)));
    }

    #[test]
    fn a_use_is_written_only_when_it_prolongs_the_life_by_an_eighth() {
        let timeout = seconds(80);
        let word = word(tick(0), timeout);
        assert_eq!(word.left(tick(0)), Some(91));
        for now in 0..=10 {
            assert_eq!(word.used(tick(now), timeout), None);
        }
        let used = word.used(tick(11), timeout).unwrap();
        assert_eq!(used.left(tick(11)), Some(91));
        assert_eq!((used.slot(), used.has_tag(Tag(1))), (SLOT, true));
    }

    #[test]
    fn a_timeout_that_was_cut_takes_effect_at_the_next_use() {
        let word = word(tick(0), seconds(10_000));
        let used = word.used(tick(1), seconds(10)).unwrap();
        assert_eq!(used.left(tick(1)), Some(12));
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_out(
            key: u64, index in 0..SLOTS_MAX, incarnation: u8, now: u32, timeout in 0_u64..100_000,
        ) {
            let slot = SlotId { index, incarnation };
            let (tag, now, timeout) = (Tag::of(key), tick(now), seconds(timeout));
            let word = Word::new(tag, slot, now, timeout);
            prop_assert!(word.has_tag(tag));
            prop_assert!(!word.has_tag(Tag::of(!key)));
            prop_assert_eq!(word.slot(), slot);
            prop_assert_eq!(word.left(now), Some(timeout.most()));
        }

        #[test]
        fn after_every_use_the_timeout_is_left(
            timeout in 1_u64..=86_400, steps in proptest::collection::vec(0_u32..20_000, 1..50),
        ) {
            let timeout = seconds(timeout);
            let mut now = tick(TICK_MASK - 40_000);
            let mut word = word(now, timeout);
            for step in steps {
                now = now.after(step % timeout.0);
                prop_assert!(word.left(now).is_some());
                word = word.used(now, timeout).unwrap_or(word);
                let left = word.left(now).unwrap();
                prop_assert!((timeout.least()..=timeout.most()).contains(&left));
            }
        }
    }
}
