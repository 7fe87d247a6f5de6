//! The slots of a cluster: small numbers for its backends that outlast changes of the plan, for
//! the entries of the affinity table to name them by.
//!
//! Invariant: as long as an entry may live, a slot and its incarnation mean one address. A slot is
//! given to another address only with another incarnation, and after a quarantine if possible.
//! Read next: `table.rs`.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use super::table::{AffinityTable, Scope};
use super::word::{SLOTS_MAX, SlotId, Timeout};
use crate::rt::Instant;

/// The slots of one cluster as of one snapshot: from a backend to its slot and back.
///
/// Built on the control side, from those of the snapshot before; does not change.
#[derive(Debug, Clone)]
pub struct Slots {
    scope: Scope,
    quarantine: Duration,
    slots: Vec<Slot>,
    /// By position among the backends.
    ids: Box<[Option<SlotId>]>,
    /// By slot.
    occupants: Box<[Occupant]>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    address: SocketAddr,
    incarnation: u8,
    /// When the address left the cluster; `None` while it is there.
    left: Option<Instant>,
}

/// Who has a slot, in 4 bytes, because every look-up asks.
#[derive(Debug, Clone, Copy)]
struct Occupant {
    /// Among the backends; [`NOBODY`] for none.
    position: u16,
    incarnation: u8,
}

const NOBODY: u16 = u16::MAX;

impl Slots {
    /// Slots for the backends at `addresses`, in the order of the snapshot.
    ///
    /// With `previous`, an address keeps its slot; also one that comes back before its slot was
    /// given to another, so that affinity to it resumes. Without, the cluster gets a new scope, so
    /// entries of an earlier cluster are not taken for its own. `timeout` is the affinity timeout
    /// of the cluster; the longest that it ever had is the quarantine.
    ///
    /// Addresses beyond the first [`SLOTS_MAX`] get no slot, and so no affinity.
    #[must_use]
    pub fn build(
        previous: Option<&Self>,
        table: &AffinityTable,
        addresses: &[SocketAddr],
        timeout: Timeout,
        now: Instant,
    ) -> Self {
        Self::build_within(SLOTS_MAX, previous, table, addresses, timeout, now)
    }

    fn build_within(
        limit: u16,
        previous: Option<&Self>,
        table: &AffinityTable,
        addresses: &[SocketAddr],
        timeout: Timeout,
        now: Instant,
    ) -> Self {
        let scope = previous.map_or_else(|| table.scope(), |previous| previous.scope);
        let before = previous.map_or(Duration::ZERO, |previous| previous.quarantine);
        let quarantine = before.max(timeout.life_max());
        let kept = previous.map_or(&[][..], |previous| &previous.slots);
        let mut allocation = Allocation::new(kept, addresses, quarantine, limit, now);
        let ids: Box<[_]> = addresses
            .iter()
            .map(|&address| allocation.slot_of(address))
            .collect();
        let slots = allocation.slots;
        let mut occupants: Box<[_]> = slots.iter().map(Slot::unoccupied).collect();
        // From the last, so that of two backends with one address the first has the slot.
        for (position, id) in ids.iter().enumerate().rev() {
            if let Some(id) = id {
                occupants[usize::from(id.index)].position =
                    u16::try_from(position).unwrap_or(NOBODY);
            }
        }
        Self {
            scope,
            quarantine,
            slots,
            ids,
            occupants,
        }
    }

    /// What makes the keys of this cluster.
    #[inline]
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// What to remember for the backend at `position`; `None` when it got no slot.
    #[inline]
    #[must_use]
    pub fn id_of(&self, position: u16) -> Option<SlotId> {
        *self.ids.get(usize::from(position))?
    }

    /// The position of the backend that an entry names; `None` when it is not in this snapshot.
    #[inline]
    #[must_use]
    pub fn position_of(&self, id: SlotId) -> Option<u16> {
        let occupant = self.occupants.get(usize::from(id.index))?;
        let is_meant = occupant.incarnation == id.incarnation && occupant.position != NOBODY;
        is_meant.then_some(occupant.position)
    }
}

impl Slot {
    fn unoccupied(&self) -> Occupant {
        Occupant {
            position: NOBODY,
            incarnation: self.incarnation,
        }
    }
}

/// Slots being given out for one snapshot.
struct Allocation {
    slots: Vec<Slot>,
    /// Slots of addresses that are or were in the cluster.
    known: HashMap<SocketAddr, u16>,
    /// Slots whose address has left, the one that left first at the front.
    vacant: VecDeque<u16>,
    quarantine: Duration,
    limit: u16,
    now: Instant,
}

impl Allocation {
    fn new(
        kept: &[Slot],
        addresses: &[SocketAddr],
        quarantine: Duration,
        limit: u16,
        now: Instant,
    ) -> Self {
        let present: HashSet<SocketAddr> = addresses.iter().copied().collect();
        let mut slots = kept.to_vec();
        for slot in &mut slots {
            slot.left = match slot.left {
                _ if present.contains(&slot.address) => None,
                None => Some(now),
                left => left,
            };
        }
        let numbered = || (0_u16..).zip(&slots);
        let mut vacant: Vec<_> = numbered()
            .filter_map(|(index, slot)| Some((slot.left?, index)))
            .collect();
        vacant.sort_unstable();
        Self {
            known: numbered()
                .map(|(index, slot)| (slot.address, index))
                .collect(),
            vacant: vacant.into_iter().map(|(_, index)| index).collect(),
            slots,
            quarantine,
            limit,
            now,
        }
    }

    fn slot_of(&mut self, address: SocketAddr) -> Option<SlotId> {
        let index = match self.known.get(&address) {
            Some(&index) => index,
            None => self.give(address)?,
        };
        let incarnation = self.slots[usize::from(index)].incarnation;
        Some(SlotId { index, incarnation })
    }

    /// One whose quarantine is over, else one never used, else the one vacant for longest.
    fn give(&mut self, address: SocketAddr) -> Option<u16> {
        let unused = u16::try_from(self.slots.len())
            .ok()
            .filter(|&it| it < self.limit);
        let index = match unused {
            Some(unused) if !self.is_over(self.vacant.front()) => {
                self.slots.push(Slot {
                    address,
                    incarnation: 0,
                    left: None,
                });
                unused
            }
            _ => {
                let index = self.vacant.pop_front()?;
                let slot = &mut self.slots[usize::from(index)];
                self.known.remove(&slot.address);
                *slot = Slot {
                    address,
                    incarnation: slot.incarnation.wrapping_add(1),
                    left: None,
                };
                index
            }
        };
        self.known.insert(address, index);
        Some(index)
    }

    fn is_over(&self, vacant: Option<&u16>) -> bool {
        vacant
            .and_then(|&index| self.slots[usize::from(index)].left)
            .is_some_and(|left| self.now.saturating_duration_since(left) >= self.quarantine)
    }
}
