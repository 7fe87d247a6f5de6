//! Counts the datagrams of one sequence as they arrive: once, again, late, or never.
//!
//! Invariant: every arrival is counted exactly once, as new or as a copy; memory is fixed. A
//! datagram that comes more than [`WINDOW`] places late can no longer be told from a copy, and
//! counts as one.

/// How far back a sequence is remembered.
const WINDOW: u64 = 4096;

const WORDS: usize = (WINDOW / 64) as usize;

/// What has arrived of one sequence, which begins at 0.
#[derive(Debug, Clone)]
pub struct Tally {
    /// One past the highest place seen.
    end: u64,
    received: u64,
    duplicated: u64,
    reordered: u64,
    /// A bit for each of the last [`WINDOW`] places before `end`: seen.
    seen: Box<[u64; WORDS]>,
}

/// What an arrival was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// The first of its place, after all that were sent before it and had arrived.
    InOrder,
    /// The first of its place, after one that was sent later.
    Reordered,
    /// Not the first of its place.
    Duplicate,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            end: 0,
            received: 0,
            duplicated: 0,
            reordered: 0,
            seen: Box::new([0; WORDS]),
        }
    }
}

impl Tally {
    /// Counts the arrival of place `sequence`.
    pub fn see(&mut self, sequence: u64) -> Arrival {
        if sequence >= self.end {
            self.forget(self.end, sequence);
            self.end = sequence + 1;
            self.mark(sequence);
            self.received += 1;
            return Arrival::InOrder;
        }
        if self.end - sequence > WINDOW || self.is_marked(sequence) {
            self.duplicated += 1;
            return Arrival::Duplicate;
        }
        self.mark(sequence);
        self.received += 1;
        self.reordered += 1;
        Arrival::Reordered
    }

    /// Different places that have arrived.
    pub const fn received(&self) -> u64 {
        self.received
    }

    /// Arrivals of places that had arrived before.
    pub const fn duplicated(&self) -> u64 {
        self.duplicated
    }

    /// Places that arrived after a later one.
    pub const fn reordered(&self) -> u64 {
        self.reordered
    }

    /// Places below the highest that have not arrived.
    pub const fn missing(&self) -> u64 {
        self.end - self.received
    }

    /// Clears the bits of all places from `from` to `to`, which the window is about to reach.
    fn forget(&mut self, from: u64, to: u64) {
        if to - from >= WINDOW {
            self.seen.fill(0);
            return;
        }
        for sequence in from..=to {
            let (word, bit) = place(sequence);
            self.seen[word] &= !bit;
        }
    }

    fn mark(&mut self, sequence: u64) {
        let (word, bit) = place(sequence);
        self.seen[word] |= bit;
    }

    fn is_marked(&self, sequence: u64) -> bool {
        let (word, bit) = place(sequence);
        self.seen[word] & bit != 0
    }
}

const fn place(sequence: u64) -> (usize, u64) {
    let slot = sequence % WINDOW;
    ((slot / 64) as usize, 1 << (slot % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::tcp::SplitMix64;

    #[test]
    fn gaps_copies_and_latecomers_are_told_apart() {
        let mut tally = Tally::default();
        let arrivals: Vec<Arrival> = [0, 2, 1, 1, 5, 0].map(|place| tally.see(place)).to_vec();
        use Arrival::{Duplicate, InOrder, Reordered};
        let expected = [InOrder, InOrder, Reordered, Duplicate, InOrder, Duplicate];
        assert_eq!(arrivals, expected);
        assert_eq!((tally.received(), tally.missing()), (4, 2));
        assert_eq!((tally.duplicated(), tally.reordered()), (2, 1));
    }

    #[test]
    fn a_long_gap_forgets_what_lay_before() {
        let mut tally = Tally::default();
        tally.see(3);
        tally.see(3 + 2 * WINDOW);
        assert_eq!(tally.see(3 + WINDOW + 1), Arrival::Reordered);
        assert_eq!(tally.see(3), Arrival::Duplicate, "beyond memory");
        assert_eq!(tally.missing(), 3 + 2 * WINDOW + 1 - 3);
    }

    #[test]
    fn it_agrees_with_a_set_within_its_window() {
        let mut random = SplitMix64::new(11);
        let (mut tally, mut set) = (Tally::default(), HashSet::new());
        let (mut duplicated, mut reordered, mut end) = (0, 0, 0);
        for step in 0..20_000_u64 {
            let sequence = step + random.next_u64() % 300;
            if !set.insert(sequence) {
                duplicated += 1;
            } else if sequence < end {
                reordered += 1;
            }
            end = end.max(sequence + 1);
            tally.see(sequence);
        }
        assert_eq!(tally.received(), set.len() as u64);
        assert_eq!(tally.duplicated(), duplicated);
        assert_eq!(tally.reordered(), reordered);
        assert_eq!(tally.missing(), end - set.len() as u64);
    }
}
