//! Maglev hashing: the client's address names a slot, the slot names a backend (Eisenbud et al.,
//! "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4).
//!
//! Invariant: the table depends on the seed and on the set of backends (address, name, weight),
//! not on their order, on the process or on the machine: nodes that share a plan agree.
//! Read next: `turns.rs` (how weights count), `mod.rs` (`walk`, when the slot's backend is down).

use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher13;

use super::turns::turns;
use crate::plan;

/// Number of slots: a prime more than a hundred times the usual number of backends, which keeps
/// their shares within 1 % of even.
const SLOTS: usize = 65_537;

/// The table of one cluster; 128 KiB.
#[derive(Debug)]
pub(super) struct Maglev {
    slots: Box<[u16]>,
    hash: AddressHash,
    backends: Box<[plan::Backend]>,
    seed: u64,
}

impl Maglev {
    /// Builds the table; some milliseconds. No slots when no backend has a weight.
    pub(super) fn build(backends: &[plan::Backend], seed: u64) -> Self {
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
            hash: AddressHash::new(seed),
            backends: backends.into(),
            seed,
        }
    }

    /// Whether building from these would give this table again.
    pub(super) fn is_of(&self, backends: &[plan::Backend], seed: u64) -> bool {
        self.seed == seed && *self.backends == *backends
    }

    pub(super) fn slots(&self) -> &[u16] {
        &self.slots
    }

    /// The slot of a client; all of its connections have the same.
    #[inline]
    pub(super) fn slot_of(&self, client: IpAddr) -> usize {
        // The upper half of the product: as even as a remainder, without the division.
        ((u128::from(self.hash.of(client)) * SLOTS as u128) >> 64) as usize
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

/// An address as 128 bits; an IPv4 address and its IPv6-mapped form are the same.
#[inline]
fn address_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// A keyed hash of an address in two multiplications (about 2 ns, where SipHash takes 8): two
/// foldings of a 128-bit product, the construction of wyhash. The keys come from the seed, so
/// clients cannot choose addresses that meet in one slot without knowing it.
#[derive(Debug, Clone, Copy)]
struct AddressHash {
    keys: [u64; 4],
}

impl AddressHash {
    fn new(seed: u64) -> Self {
        let keys = [2, 3, 4, 5].map(|purpose| {
            let mut hasher = SipHasher13::new_with_keys(seed, purpose);
            hasher.write(b"lb client address");
            hasher.finish() | 1 // never zero, which would fold everything to zero
        });
        Self { keys }
    }

    #[inline]
    fn of(&self, address: IpAddr) -> u64 {
        let bits = address_bits(address);
        let [k0, k1, k2, k3] = self.keys;
        let first = fold(bits as u64 ^ k0, (bits >> 64) as u64 ^ k1);
        fold(first ^ k2, k3)
    }
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}
