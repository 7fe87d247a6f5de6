//! `sh`, `dh`, `ring` and `mh`: a hash names a slot of a table, the slot names a member.
//!
//! Invariant: equal hashes lead to the same member for as long as the members, their health and
//! (with a load bound) their loads stay. When a slot's member cannot take it, the slots after it
//! are asked, so that only its own keys move, and in all directions.
//! Read next: `maglev.rs`, `ring.rs`.

use std::sync::Arc;

use super::turns::reduced;
use super::{Ask, Maglev, ring::Ring};
use crate::balance::hash::place;
use crate::plan;

/// A table that hashes lead into.
#[derive(Debug)]
pub(super) enum Hashed {
    /// `mh`.
    Maglev(Arc<Maglev>),
    /// `ring`.
    Ring(Ring),
    /// `sh` and `dh`.
    InOrder(Box<[u16]>),
}

impl Hashed {
    pub(super) const fn maglev(maglev: Arc<Maglev>) -> Self {
        Self::Maglev(maglev)
    }

    pub(super) fn ring(backends: &[plan::Backend]) -> Self {
        Self::Ring(Ring::build(backends))
    }

    /// `sh` with the members' weights, `dh` with equal ones: the table is filled with the members
    /// in order, again and again, each as often in a row as its weight says (ip_vs_sh.c,
    /// ip_vs_dh.c). It has the 256 slots of IPVS, or more if the weights need it: as many as hold
    /// 128 rounds, so that the last one, cut short, puts nobody off by 1 %.
    pub(super) fn in_order(weights: &[u16]) -> Self {
        let weights = reduced(weights);
        let round: u64 = weights.iter().sum();
        let wanted = (round * 128).min(IN_ORDER_SLOTS_MAX).max(round);
        let slots = wanted.max(IN_ORDER_SLOTS).next_power_of_two();
        let of_one = |(position, &weight): (usize, &u64)| {
            std::iter::repeat_n(position as u16, weight as usize)
        };
        let round = weights.iter().enumerate().flat_map(of_one);
        Self::InOrder(round.cycle().take(slots as usize).collect())
    }

    pub(super) const fn as_maglev(&self) -> Option<&Arc<Maglev>> {
        match self {
            Self::Maglev(maglev) => Some(maglev),
            _ => None,
        }
    }

    #[inline]
    pub(super) fn pick(&self, ask: &Ask<'_>) -> Option<usize> {
        let (slots, slot) = match self {
            Self::Maglev(maglev) => (maglev.slots(), Maglev::slot_of(ask.key)),
            Self::Ring(ring) => (ring.slots(), ring.slot_of(ask.key as u32)),
            Self::InOrder(slots) => (&**slots, place(ask.key, slots.len())),
        };
        let first = usize::from(*slots.get(slot)?);
        if ask.may(first) && ask.has_room(first) {
            return Some(first);
        }
        self.pick_on(slots, slot, ask)
    }

    #[cold]
    fn pick_on(&self, slots: &[u16], slot: usize, ask: &Ask<'_>) -> Option<usize> {
        let from = match self {
            Self::Maglev(_) | Self::Ring(_) => slot,
            // As ip_vs_sh.c with its flag sh-fallback: from a slot that the hash chooses, for the
            // slots beside the first all belong to one or two others.
            Self::InOrder(_) => (2 * slot) % slots.len(),
        };
        from_slot(slots, from, ask)
    }
}

/// The first member from a slot on that may be chosen and has room.
#[inline]
pub(in super::super) fn from_slot(slots: &[u16], slot: usize, ask: &Ask<'_>) -> Option<usize> {
    let is_fit = |position| ask.may(position) && ask.has_room(position);
    ask.walk(slots, slot, is_fit).map(|(_, position)| position)
}

const IN_ORDER_SLOTS: u64 = 256;
const IN_ORDER_SLOTS_MAX: u64 = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(weights: &[u16]) -> Box<[u16]> {
        match Hashed::in_order(weights) {
            Hashed::InOrder(slots) => slots,
            _ => unreachable!(),
        }
    }

    #[test]
    fn a_table_is_filled_in_order_by_weight() {
        let table = slots(&[2, 1, 3]);
        assert_eq!(table.len(), 1024);
        assert_eq!(table[..8], [0, 0, 1, 2, 2, 2, 0, 0]);
        assert_eq!(slots(&[100, 100])[..4], [0, 1, 0, 1]);
        assert!(slots(&[]).is_empty());
    }

    #[test]
    fn a_table_grows_with_the_weights() {
        assert_eq!(slots(&[5, 5]).len(), 256);
        assert_eq!(slots(&[1; 100]).len(), 16_384);
        let table = slots(&vec![1; 10_000]);
        assert_eq!(table.len(), 65_536);
        assert!((0..10_000).all(|it| table.contains(&it)));
    }
}
