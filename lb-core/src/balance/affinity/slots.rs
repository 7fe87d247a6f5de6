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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(number: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], number))
    }

    fn at(seconds: u64) -> Instant {
        Instant::default() + Duration::from_secs(seconds)
    }

    fn id(index: u16, incarnation: u8) -> Option<SlotId> {
        Some(SlotId { index, incarnation })
    }

    /// One cluster through its plans.
    struct Plans {
        table: AffinityTable,
        limit: u16,
        slots: Option<Slots>,
    }

    impl Plans {
        fn new(limit: u16) -> Self {
            Self {
                table: AffinityTable::new(1, [1; 16]),
                limit,
                slots: None,
            }
        }

        /// With an affinity timeout of 80 s, so a quarantine of 91 s.
        fn publish(&mut self, now: u64, numbers: &[u16]) -> &Slots {
            let addresses: Vec<_> = numbers.iter().map(|&it| address(it)).collect();
            let timeout = Timeout::new(Duration::from_secs(80));
            let previous = self.slots.as_ref();
            let slots = Slots::build_within(
                self.limit,
                previous,
                &self.table,
                &addresses,
                timeout,
                at(now),
            );
            self.slots.insert(slots)
        }
    }

    #[test]
    fn positions_change_and_slots_stay() {
        let mut plans = Plans::new(SLOTS_MAX);
        plans.publish(0, &[1, 2, 3]);
        let slots = plans.publish(1, &[3, 4, 1]);
        assert_eq!(
            [0, 1, 2].map(|it| slots.id_of(it)),
            [id(2, 0), id(3, 0), id(0, 0)]
        );
        let positions = (0..5).map(|it| slots.position_of(id(it, 0).unwrap()));
        assert_eq!(
            positions.collect::<Vec<_>>(),
            [Some(2), None, Some(0), Some(1), None]
        );
        assert_eq!(slots.id_of(3), None);
        assert_eq!(slots.position_of(id(2, 1).unwrap()), None);
    }

    #[test]
    fn a_slot_is_reused_after_quarantine_only_and_by_another_incarnation() {
        let mut plans = Plans::new(SLOTS_MAX);
        plans.publish(0, &[1, 2]);
        plans.publish(10, &[2]);
        assert_eq!(plans.publish(100, &[2, 3]).id_of(1), id(2, 0));
        let slots = plans.publish(101, &[2, 3, 4]);
        assert_eq!(slots.id_of(2), id(0, 1));
        assert_eq!(slots.position_of(id(0, 0).unwrap()), None);
        // The first has lost its slot.
        assert_eq!(plans.publish(102, &[2, 3, 4, 1]).id_of(3), id(3, 0));
    }

    #[test]
    fn a_backend_that_returns_before_its_slot_is_reused_gets_it_back() {
        let mut plans = Plans::new(SLOTS_MAX);
        plans.publish(0, &[1, 2]);
        plans.publish(10, &[2]);
        plans.publish(20, &[2, 1]);
        assert_eq!(plans.publish(1000, &[2, 3, 1]).id_of(2), id(0, 0));
        // Even long after.
        plans.publish(2000, &[2, 3]);
        assert_eq!(plans.publish(9000, &[2, 3, 1]).id_of(2), id(0, 0));
    }

    #[test]
    fn when_all_slots_are_taken_the_one_vacant_for_longest_is_reused_early() {
        let mut plans = Plans::new(3);
        plans.publish(0, &[1, 2, 3]);
        plans.publish(10, &[1, 3]);
        plans.publish(20, &[3]);
        assert_eq!(plans.publish(21, &[3, 4]).id_of(1), id(1, 1));
        assert_eq!(plans.publish(22, &[3, 4, 5]).id_of(2), id(0, 1));
        // None is vacant: the last backends go without.
        let slots = plans.publish(23, &[3, 4, 5, 6, 7]);
        assert_eq!([3, 4].map(|it| slots.id_of(it)), [None, None]);
    }

    #[test]
    fn the_quarantine_is_that_of_the_longest_timeout_so_far() {
        let table = AffinityTable::new(1, [1; 16]);
        let build = |previous: Option<&Slots>, number, timeout, now| {
            let timeout = Timeout::new(Duration::from_secs(timeout));
            Slots::build(previous, &table, &[address(number)], timeout, at(now))
        };
        let slots = build(None, 1, 800, 0);
        let slots = build(Some(&slots), 2, 80, 1);
        assert_eq!(build(Some(&slots), 3, 80, 901).id_of(0), id(2, 0));
        assert_eq!(build(Some(&slots), 3, 80, 902).id_of(0), id(0, 1));
    }

    #[test]
    fn a_cluster_keeps_its_scope_and_a_new_one_gets_another() {
        let mut plans = Plans::new(SLOTS_MAX);
        let key = plans.publish(0, &[1]).scope().key_of(b"x");
        assert_eq!(plans.publish(1, &[2]).scope().key_of(b"x"), key);
        plans.slots = None;
        assert_ne!(plans.publish(2, &[1]).scope().key_of(b"x"), key);
    }

    #[test]
    fn two_backends_of_one_address_share_a_slot() {
        let mut plans = Plans::new(SLOTS_MAX);
        let slots = plans.publish(0, &[1, 1]);
        assert_eq!([0, 1].map(|it| slots.id_of(it)), [id(0, 0), id(0, 0)]);
        assert_eq!(slots.position_of(id(0, 0).unwrap()), Some(0));
    }

    proptest! {
        /// Whatever comes and goes: an id that was given for an address leads to that address or
        /// nowhere, and before the quarantine is over it means no other address's slot unless all
        /// slots were taken.
        #[test]
        fn an_id_means_one_address(
            limit in 1_u16..20,
            plans in proptest::collection::vec(
                (0_u64..60, proptest::collection::btree_set(0_u16..12, 0..8)), 1..60),
        ) {
            let mut cluster = Plans::new(limit);
            let mut given: HashMap<SlotId, u16> = HashMap::new();
            let mut now = 0;
            for (pause, numbers) in plans {
                now += pause;
                let numbers: Vec<u16> = numbers.into_iter().collect();
                let slots = cluster.publish(now, &numbers);
                let with_slot = (0..numbers.len() as u16).filter(|&it| slots.id_of(it).is_some());
                prop_assert_eq!(with_slot.count(), numbers.len().min(usize::from(limit)));
                for (position, &number) in (0..).zip(&numbers) {
                    if let Some(id) = slots.id_of(position) {
                        prop_assert_eq!(slots.position_of(id), Some(position));
                        prop_assert_eq!(*given.entry(id).or_insert(number), number);
                    }
                }
                for (&id, number) in &given {
                    if let Some(position) = slots.position_of(id) {
                        prop_assert_eq!(numbers[usize::from(position)], *number);
                    }
                }
            }
        }
    }
}
