//! The affinity table: what key was sent to which backend, for all clusters and all workers.
//!
//! Invariant: its size is fixed whatever clients do; a look-up reads one cache line and writes it
//! only to prolong an entry; no operation locks, waits or allocates.
//! Read next: `bucket.rs` (the protocol), `word.rs` (an entry), `sweeper.rs`.

use std::fmt;
use std::hash::Hasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::sync::atomic::{AtomicU64 as Counter, Ordering};

use crossbeam_utils::CachePadded;
use siphasher::sip::SipHasher13;
use siphasher::sip128::{Hasher128, SipHasher24};

use super::bucket;
use super::word::{SlotId, Tag, Tick, Timeout};
use crate::rt::words::{self, AtomicU64};

/// The largest table that can be asked for, 4 GiB; more is taken as this.
pub const ENTRIES_MAX: usize = 1 << 28;

/// Words of a bucket: a cache line of them.
const WORDS: usize = 8;

/// Entries of a bucket when the table holds what it was made for. At half full, less than 1 % of
/// the entries find their bucket full; at three quarters it would be 6 %.
const WORDS_PLANNED: usize = WORDS / 2;

const LINE_BYTES: usize = 64;

/// Remembers, for keys of any cluster, a backend and until when. Shared by all workers.
pub struct AffinityTable {
    /// The buckets, from `first` on, where a cache line begins.
    words: Box<[AtomicU64]>,
    first: usize,
    /// Number of buckets, a power of two, less one.
    mask: usize,
    key: [u8; 16],
    scopes: Counter,
    counts: CachePadded<Counts>,
}

#[derive(Default)]
struct Counts {
    live: Counter,
    evictions: Counter,
}

impl AffinityTable {
    /// A table for `entries` live entries, whose keys are hashed with the secret `key`.
    ///
    /// It has a bucket of 8 words (64 bytes) for each 4 entries, their number rounded up to a power
    /// of two: 1,000,000 entries take 16 MiB. The memory is used only as entries are written to it.
    /// Holds up to twice the entries, with evictions from full buckets becoming more frequent.
    #[must_use]
    pub fn new(entries: usize, key: [u8; 16]) -> Self {
        let entries = entries.clamp(1, ENTRIES_MAX);
        let buckets = entries.div_ceil(WORDS_PLANNED).next_power_of_two();
        // A line more than needed, so that the buckets can begin where a line begins.
        let words = words::zeroed((buckets + 1) * WORDS);
        let first = words.as_ptr().align_offset(LINE_BYTES);
        Self {
            words,
            first: if first < WORDS { first } else { 0 },
            mask: buckets - 1,
            key,
            scopes: Counter::new(0),
            counts: CachePadded::default(),
        }
    }

    /// A new scope, for the keys of one cluster; never given before.
    pub fn scope(&self) -> Scope {
        let number = self.scopes.fetch_add(1, Ordering::Relaxed);
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write_u64(number);
        let hash = hasher.finish128();
        Scope(SipHasher13::new_with_keys(hash.h1, hash.h2))
    }

    /// The slot remembered for `key`, if it has not expired and `valid` says that its backend is
    /// one to use. It then stays for `timeout` from `now` on.
    #[inline]
    pub fn get(
        &self,
        key: u64,
        now: Tick,
        timeout: Timeout,
        valid: impl Fn(SlotId) -> bool,
    ) -> Option<SlotId> {
        bucket::get(self.bucket(key), Tag::of(key), now, timeout, valid)
    }

    /// Remembers `slot` for `key` until `timeout` after its last use, and returns what `key` stands
    /// for now: another worker may have been first, and then its choice stands if `valid` agrees.
    /// An entry that `valid` refuses is replaced.
    ///
    /// When the bucket is full, the entry in it that is nearest to its expiry is evicted.
    pub fn insert(
        &self,
        key: u64,
        slot: SlotId,
        now: Tick,
        timeout: Timeout,
        valid: impl Fn(SlotId) -> bool,
    ) -> SlotId {
        let words = self.bucket(key);
        let inserted = bucket::insert(words, Tag::of(key), slot, now, timeout, valid);
        if inserted.evicted {
            self.counts.evictions.fetch_add(1, Ordering::Relaxed);
        }
        inserted.slot
    }

    /// Clears the expired entries of `buckets`, as far as there are that many; returns the number
    /// of live ones there.
    pub fn sweep(&self, buckets: Range<usize>, now: Tick) -> usize {
        let end = buckets.end.min(self.buckets());
        (buckets.start..end)
            .map(|bucket| bucket::sweep(self.bucket(bucket as u64), now))
            .sum()
    }

    /// Forgets everything.
    pub fn clear(&self) {
        for word in &self.words {
            // Reading first leaves memory untouched that was never used.
            if word.load(Ordering::Relaxed) != 0 {
                word.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Number of buckets.
    pub fn buckets(&self) -> usize {
        self.mask + 1
    }

    /// Size of the table, in bytes; what is in use may be less.
    pub fn bytes(&self) -> usize {
        self.words.len() * size_of::<u64>()
    }

    /// Number of entries it can hold at most.
    pub fn capacity(&self) -> usize {
        self.buckets() * WORDS
    }

    /// Number of live entries, as the sweeper estimated it last.
    pub fn len(&self) -> u64 {
        self.counts.live.load(Ordering::Relaxed)
    }

    /// Whether the sweeper found no live entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Live entries that had to go for others because their bucket was full, since the start.
    pub fn evictions(&self) -> u64 {
        self.counts.evictions.load(Ordering::Relaxed)
    }

    pub(super) fn set_len(&self, live: u64) {
        self.counts.live.store(live, Ordering::Relaxed);
    }

    /// The bucket that the lower bits of `key` choose.
    #[inline]
    fn bucket(&self, key: u64) -> &[AtomicU64] {
        let start = self.first + (key as usize & self.mask) * WORDS;
        &self.words[start..start + WORDS]
    }
}

impl fmt::Debug for AffinityTable {
    /// Neither the key nor the entries.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AffinityTable")
            .field("buckets", &self.buckets())
            .field("len", &self.len())
            .field("evictions", &self.evictions())
            .finish_non_exhaustive()
    }
}

/// Makes the keys of one cluster: a keyed hash (SipHash-1-3) of its own, so that clusters do not
/// mix and clients cannot aim at a bucket.
#[derive(Clone, Copy)]
pub struct Scope(SipHasher13);

impl Scope {
    /// The key of a client's address, of as many bits of it as `mask` keeps. An IPv4-mapped IPv6
    /// address is the IPv4 address.
    #[inline]
    #[must_use]
    pub fn key_of_address(&self, address: IpAddr, mask: AddressMask) -> u64 {
        match address {
            IpAddr::V4(address) => self.key_of_v4(address, mask),
            IpAddr::V6(address) => match address.to_ipv4_mapped() {
                Some(address) => self.key_of_v4(address, mask),
                None => self.key_of_v6(address, mask),
            },
        }
    }

    /// The key of any bytes, such as a header's value.
    #[inline]
    #[must_use]
    pub fn key_of(&self, bytes: &[u8]) -> u64 {
        self.0.hash(bytes)
    }

    #[inline]
    fn key_of_v4(&self, address: Ipv4Addr, mask: AddressMask) -> u64 {
        self.0.hash(&(address.to_bits() & mask.v4).to_ne_bytes())
    }

    #[inline]
    fn key_of_v6(&self, address: Ipv6Addr, mask: AddressMask) -> u64 {
        self.0.hash(&(address.to_bits() & mask.v6).to_ne_bytes())
    }
}

impl fmt::Debug for Scope {
    /// Not the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scope")
    }
}

/// How much of a client's address counts: clients that share a prefix share a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressMask {
    v4: u32,
    v6: u128,
}

impl AddressMask {
    /// The whole address.
    pub const WHOLE: Self = Self::new(32, 128);

    /// The first `v4_bits` (0 to 32) of an IPv4 and `v6_bits` (0 to 128) of an IPv6 address; more
    /// is the whole.
    #[must_use]
    pub const fn new(v4_bits: u8, v6_bits: u8) -> Self {
        let v4_rest = 32_u32.saturating_sub(v4_bits as u32);
        let v6_rest = 128_u32.saturating_sub(v6_bits as u32);
        Self {
            v4: match u32::MAX.checked_shl(v4_rest) {
                Some(mask) => mask,
                None => 0,
            },
            v6: match u128::MAX.checked_shl(v6_rest) {
                Some(mask) => mask,
                None => 0,
            },
        }
    }
}
