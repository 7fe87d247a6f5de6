//! `mh`: a hash names a slot, the slot names a backend (Eisenbud et al., "Maglev: A Fast and Reliable
//! Software Network Load Balancer", NSDI 2016, section 3.4).
//!
//! Invariant: the table depends on the seed and on the set of backends (address, name, weight),
//! not on their order, on the process or on the machine: nodes that share a plan agree.
//! Read next: `turns.rs` (how weights count), `hashed.rs` (when the slot's backend is down).

use std::hash::Hasher;
use std::sync::Arc;

use siphasher::sip::SipHasher13;

use super::turns::turns;
use crate::balance::hash::{address_bits, place};
use crate::plan;

/// Number of slots: a prime more than a hundred times the usual number of backends, which keeps
/// their shares within 1 % of even.
const SLOTS: usize = 65_537;

/// The table of one cluster; 128 KiB.
#[derive(Debug)]
pub(in super::super) struct Maglev {
    slots: Box<[u16]>,
    backends: Box<[plan::Backend]>,
    seed: u64,
}

impl Maglev {
    /// Builds the table; some milliseconds. No slots when no backend has a weight.
    pub(in super::super) fn build(backends: &[plan::Backend], seed: u64) -> Self {
        // In an order of their own, so that the order of the plan does not matter.
        let mut order: Vec<usize> = (0..backends.len()).collect();
        order.sort_unstable_by_key(|&index| backends[index].address);
        let weights: Vec<u16> = order.iter().map(|&index| backends[index].weight).collect();
        let permutations: Vec<Permutation> = order
            .iter()
            .map(|&index| Permutation::of(&backends[index], seed))
            .collect();
        let mut slots = fill(SLOTS, &turns(&weights), permutations);
        for slot in &mut slots {
            *slot = order[usize::from(*slot)] as u16;
        }
        Self {
            slots,
            backends: backends.into(),
            seed,
        }
    }

    /// The table of `backends`: `previous`, if it is that.
    pub(in super::super) fn taken_over(
        previous: Option<&Arc<Self>>,
        backends: &[plan::Backend],
        seed: u64,
    ) -> Arc<Self> {
        match previous {
            Some(maglev) if maglev.is_of(backends, seed) => Arc::clone(maglev),
            _ => Arc::new(Self::build(backends, seed)),
        }
    }

    /// Whether building from these would give this table again.
    fn is_of(&self, backends: &[plan::Backend], seed: u64) -> bool {
        self.seed == seed && *self.backends == *backends
    }

    /// Whose each slot is, by position among the backends.
    pub(in super::super) fn slots(&self) -> &[u16] {
        &self.slots
    }

    /// The slot of what hashes to `hash`.
    #[inline]
    pub(in super::super) fn slot_of(hash: u64) -> usize {
        place(hash, SLOTS)
    }
}

/// The order in which a backend wants the slots: `offset`, `offset + skip`, `offset + 2 skip`, …
/// modulo the (prime) number of slots, which visits each once.
#[derive(Debug, Clone, Copy)]
struct Permutation {
    next: usize,
    skip: usize,
}

impl Permutation {
    fn of(backend: &plan::Backend, seed: u64) -> Self {
        Self {
            next: (identity(backend, seed, 0) % SLOTS as u64) as usize,
            skip: (identity(backend, seed, 1) % (SLOTS as u64 - 1)) as usize + 1,
        }
    }

    fn next(&mut self, slots: usize) -> usize {
        let slot = self.next;
        self.next += self.skip;
        if self.next >= slots {
            self.next -= slots;
        }
        slot
    }
}

/// Fills the table: the backends take turns, each takes the first free slot of its permutation.
/// The paper's "populate", with its rounds replaced by weighted turns.
fn fill(slots: usize, turns: &[u16], mut permutations: Vec<Permutation>) -> Box<[u16]> {
    const FREE: u16 = u16::MAX;
    if turns.is_empty() {
        return Box::default();
    }
    let mut table = vec![FREE; slots].into_boxed_slice();
    for &turn in turns.iter().cycle().take(slots) {
        let permutation = &mut permutations[usize::from(turn)];
        let mut slot = permutation.next(slots);
        // Ends: a permutation visits every slot, and there are as many turns as slots.
        while table[slot] != FREE {
            slot = permutation.next(slots);
        }
        table[slot] = turn;
    }
    table
}

/// Hash of what a backend is, over bytes that are the same on every machine.
fn identity(backend: &plan::Backend, seed: u64, purpose: u64) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(seed, purpose);
    hasher.write(&address_bits(backend.address.ip()).to_be_bytes());
    hasher.write(&backend.address.port().to_be_bytes());
    hasher.write(backend.name.as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use proptest::prelude::*;

    use super::*;
    use crate::balance::hash::KeyHash;

    const SEED: u64 = 7;

    fn slot_of(client: IpAddr) -> usize {
        Maglev::slot_of(KeyHash::new(SEED).address(client))
    }

    fn backends(weights: &[u16]) -> Vec<plan::Backend> {
        let backend = |(index, &weight): (usize, &u16)| {
            let [high, low] = (index as u16).to_be_bytes();
            let address = SocketAddr::from(([10, 1, high, low], 9000));
            plan::Backend {
                weight,
                ..address.into()
            }
        };
        weights.iter().enumerate().map(backend).collect()
    }

    /// The slots of each backend.
    fn counts(maglev: &Maglev, backends: usize) -> Vec<usize> {
        let mut counts = vec![0; backends];
        for &slot in maglev.slots() {
            counts[usize::from(slot)] += 1;
        }
        counts
    }

    /// Whom each slot belongs to, so that tables over different lists can be compared.
    fn owners<'a>(maglev: &'a Maglev, backends: &'a [plan::Backend]) -> Vec<&'a plan::Backend> {
        maglev
            .slots()
            .iter()
            .map(|&slot| &backends[usize::from(slot)])
            .collect()
    }

    /// The share of slots whose owner differs.
    fn moved(before: &[&plan::Backend], after: &[&plan::Backend]) -> f64 {
        let moved = before
            .iter()
            .zip(after)
            .filter(|(before, after)| before != after)
            .count();
        moved as f64 / before.len() as f64
    }

    /// Tables 1 and 2 of the paper: three backends, seven slots, then without B1.
    #[test]
    fn the_example_of_the_paper() {
        let b0 = Permutation { next: 3, skip: 4 };
        let b1 = Permutation { next: 0, skip: 2 };
        let b2 = Permutation { next: 3, skip: 1 };
        assert_eq!(
            *fill(7, &[0, 1, 2], vec![b0, b1, b2]),
            [1, 0, 1, 0, 2, 2, 0]
        );
        assert_eq!(*fill(7, &[0, 2], vec![b0, b1, b2]), [0, 0, 0, 0, 2, 2, 2]);
    }

    #[test]
    fn equal_weights_share_evenly() {
        let maglev = Maglev::build(&backends(&[1; 100]), SEED);
        let counts = counts(&maglev, 100);
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(most - least <= 1, "{least}..{most}");
        assert_eq!(counts.iter().sum::<usize>(), SLOTS);
    }

    #[test]
    fn weights_are_kept_within_one_percent() {
        let weights = [100, 50, 25, 200, 0, 1000];
        let maglev = Maglev::build(&backends(&weights), SEED);
        let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
        for (&weight, count) in weights.iter().zip(counts(&maglev, weights.len())) {
            let expected = f64::from(weight) / total * SLOTS as f64;
            assert!(
                (count as f64 - expected).abs() <= expected * 0.01,
                "{weight}: {count}"
            );
        }
    }

    #[test]
    fn a_backend_that_leaves_moves_little_but_its_own() {
        let all = backends(&[1; 20]);
        let rest: Vec<_> = all.iter().filter(|it| **it != all[7]).cloned().collect();
        let (before, after) = (Maglev::build(&all, SEED), Maglev::build(&rest, SEED));
        let (before, after) = (owners(&before, &all), owners(&after, &rest));
        let others: Vec<_> = before
            .iter()
            .zip(&after)
            .filter(|(it, _)| **it != &all[7])
            .collect();
        let disturbed = others
            .iter()
            .filter(|(before, after)| before != after)
            .count();
        assert!(
            disturbed as f64 / (others.len() as f64) < 0.03,
            "{disturbed}"
        );
    }

    #[test]
    fn a_backend_that_comes_takes_little_more_than_its_share() {
        let all = backends(&[1; 20]);
        let (before, after) = (Maglev::build(&all[..19], SEED), Maglev::build(&all, SEED));
        let moved = moved(&owners(&before, &all), &owners(&after, &all));
        assert!((0.05..0.08).contains(&moved), "{moved}");
    }

    /// What the table promises: one of N that leaves or comes moves 1/N of the keys, and at most
    /// 2 % besides.
    #[test]
    fn one_of_many_moves_its_share_and_two_percent_at_most() {
        for count in [2, 3, 5, 10, 20, 50, 100] {
            let all = backends(&vec![1; count]);
            let rest: Vec<_> = all
                .iter()
                .filter(|it| **it != all[count / 2])
                .cloned()
                .collect();
            let (more, fewer) = (Maglev::build(&all, SEED), Maglev::build(&rest, SEED));
            // Leaving one way, coming the other.
            let moved = moved(&owners(&more, &all), &owners(&fewer, &rest));
            assert!(moved <= 1.0 / count as f64 + 0.02, "{count}: {moved}");
        }
    }

    #[test]
    fn nobody_has_five_percent_more_than_the_mean() {
        for count in [1, 2, 3, 7, 33, 64, 99, 100] {
            let maglev = Maglev::build(&backends(&vec![1; count]), SEED);
            let most = *counts(&maglev, count).iter().max().unwrap();
            assert!(
                most as f64 <= 1.05 * SLOTS as f64 / count as f64,
                "{count}: {most}"
            );
        }
    }

    #[test]
    fn a_changed_weight_moves_little() {
        let (before, after) = (
            backends(&[10; 10]),
            backends(&[10, 10, 10, 11, 10, 10, 10, 10, 10, 10]),
        );
        let tables = (Maglev::build(&before, SEED), Maglev::build(&after, SEED));
        let addresses = |owners: Vec<&plan::Backend>| -> Vec<SocketAddr> {
            owners.into_iter().map(|it| it.address).collect()
        };
        let before = addresses(owners(&tables.0, &before));
        let after = addresses(owners(&tables.1, &after));
        let moved = before
            .iter()
            .zip(&after)
            .filter(|(before, after)| before != after)
            .count();
        // 1 % would be the least.
        assert!(moved < SLOTS / 10, "{moved}");
    }

    #[test]
    fn the_order_of_the_plan_does_not_matter_but_the_seed_does() {
        let backends = backends(&[3, 1, 4, 1, 5]);
        let reversed: Vec<_> = backends.iter().rev().cloned().collect();
        let table = Maglev::build(&backends, SEED);
        let same = Maglev::build(&reversed, SEED);
        assert_eq!(owners(&table, &backends), owners(&same, &reversed));
        let other = Maglev::build(&backends, SEED + 1);
        assert!(moved(&owners(&table, &backends), &owners(&other, &backends)) > 0.5);
    }

    /// Nodes of different versions must agree while an upgrade is rolled out: a change here is
    /// a breaking change.
    #[test]
    fn the_table_stays_the_same_between_versions() {
        let table = Maglev::build(&backends(&[1, 2, 3]), SEED);
        let clients = ["192.0.2.1", "192.0.2.2", "198.51.100.7", "2001:db8::1"];
        let slots = clients.map(|client| slot_of(client.parse().unwrap()));
        assert_eq!(slots, [34_472, 8_972, 10_536, 18_308]);
        assert_eq!(table.slots()[..8], [2, 1, 2, 2, 0, 1, 1, 1]);
    }

    #[test]
    fn clients_spread_over_the_slots_evenly() {
        let table = Maglev::build(&backends(&[1; 10]), SEED);
        let mut clients = [0_u32; 10];
        for client in 0..100_000_u32 {
            // Neighbouring addresses, as one provider's customers have.
            let address = IpAddr::from((0x0a00_0000 + client).to_be_bytes());
            clients[usize::from(table.slots()[slot_of(address)])] += 1;
        }
        // Five standard deviations of a fair draw (95 each).
        assert!(
            clients.iter().all(|count| count.abs_diff(10_000) < 475),
            "{clients:?}"
        );
    }

    #[test]
    fn without_weight_there_are_no_slots() {
        assert!(Maglev::build(&[], SEED).slots().is_empty());
        assert!(Maglev::build(&backends(&[0, 0]), SEED).slots().is_empty());
    }

    proptest! {
        // A table takes some time to fill in a debug build.
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn every_slot_is_owned_in_proportion(
            weights in proptest::collection::vec(0_u16..20, 1..30),
            seed: u64,
        ) {
            let maglev = Maglev::build(&backends(&weights), seed);
            let total: usize = weights.iter().map(|&weight| usize::from(weight)).sum();
            prop_assert_eq!(maglev.slots().len(), if total == 0 { 0 } else { SLOTS });
            for (&weight, count) in weights.iter().zip(counts(&maglev, weights.len())) {
                // Whole cycles are exact; the last, cut short, is off by less than a turn each.
                let share = usize::from(weight) * SLOTS / total.max(1);
                prop_assert!(count.abs_diff(share) <= usize::from(weight) + 1);
                prop_assert_eq!(count > 0, weight > 0);
            }
        }
    }
}
