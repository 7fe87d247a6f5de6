//! `rr` and `wrr`: each worker goes along a cycle of turns.
//!
//! Invariant: over a cycle every member that may be chosen gets as many turns as its weight says,
//! spread evenly, so `wrr` is smooth; what cannot be chosen leaves its turns to those after it.
//! Read next: `turns.rs` (the cycle).

use super::{Ask, turns::turns};

/// A cycle of turns.
#[derive(Debug)]
pub(super) struct Rotation {
    slots: Box<[u16]>,
}

impl Rotation {
    /// `rr`: each of `count` members has one turn.
    pub(super) fn in_order(count: usize) -> Self {
        Self {
            slots: turns(&vec![1; count]),
        }
    }

    /// `wrr`. IPVS gives a heavy member several turns in a row; here, as in nginx, they are spread.
    pub(super) fn by_weight(weights: &[u16]) -> Self {
        Self {
            slots: turns(weights),
        }
    }

    pub(super) fn turns(&self) -> usize {
        self.slots.len()
    }

    #[inline]
    pub(super) fn pick(&self, ask: &Ask<'_>) -> Option<usize> {
        let turn = ask.own.turn(self.slots.len());
        let (slot, position) = ask.walk(&self.slots, turn, |it| ask.accepts(it))?;
        ask.end_turn(slot + 1);
        Some(position)
    }
}
