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
        // Words of a model are no words and lie anywhere.
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::rt::Instant;

    fn slot(index: u16) -> SlotId {
        SlotId {
            index,
            incarnation: 0,
        }
    }

    fn at(seconds: u64) -> Tick {
        Tick::of(Instant::START + Duration::from_secs(seconds))
    }

    fn seconds(seconds: u64) -> Timeout {
        Timeout::new(Duration::from_secs(seconds))
    }

    fn table(entries: usize) -> AffinityTable {
        AffinityTable::new(entries, [1; 16])
    }

    /// A key of a tag of its own, in one of so many buckets.
    fn key(number: u64, buckets: u64) -> u64 {
        ((number + 1) << 40) + number % buckets
    }

    const ANY: fn(SlotId) -> bool = |_| true;

    #[test]
    fn a_million_entries_take_16_mib() {
        let table = table(1_000_000);
        assert_eq!((table.buckets(), table.capacity()), (262_144, 2_097_152));
        assert_eq!(table.bytes(), (16 << 20) + LINE_BYTES);
        let sizes = [0, 1, 4, 5, 64, usize::MAX]
            .map(|it| AffinityTable::new(it.min(1 << 20), [1; 16]).buckets());
        assert_eq!(sizes, [1, 1, 1, 2, 16, 1 << 18]);
    }

    #[test]
    fn a_bucket_is_one_cache_line() {
        let table = table(1000);
        for key in 0..1000 {
            let bucket = table.bucket(key);
            assert_eq!(bucket.as_ptr() as usize % LINE_BYTES, 0);
            assert_eq!(size_of_val(bucket), LINE_BYTES);
        }
    }

    #[test]
    fn a_table_as_full_as_planned_evicts_less_than_a_hundredth() {
        let entries = 65_536;
        let table = table(entries as usize);
        let scope = table.scope();
        for client in 0..entries {
            let address = Ipv4Addr::from_bits(client).into();
            let key = scope.key_of_address(address, AddressMask::WHOLE);
            table.insert(key, slot(1), at(0), seconds(10), ANY);
        }
        let live = table.sweep(0..table.buckets(), at(0)) as u64;
        assert_eq!(live + table.evictions(), u64::from(entries));
        assert!(table.evictions() * 100 < u64::from(entries), "{table:?}");
        assert!(table.evictions() > 0, "the test sees evictions at all");
    }

    #[test]
    fn a_full_table_stays_full_and_counts() {
        let table = table(64);
        let scope = table.scope();
        for client in 0..10_000_u32 {
            let key = scope.key_of(&client.to_be_bytes());
            // The newest is always there.
            table.insert(key, slot(7), at(0), seconds(10), ANY);
            assert_eq!(table.get(key, at(0), seconds(10), ANY), Some(slot(7)));
        }
        assert_eq!(table.sweep(0..usize::MAX, at(0)), table.capacity());
        assert_eq!(table.evictions(), 10_000 - table.capacity() as u64);
        table.clear();
        assert_eq!(table.sweep(0..usize::MAX, at(0)), 0);
    }

    #[test]
    fn an_address_is_known_by_its_prefix_and_in_both_notations() {
        let table = table(1);
        let scope = table.scope();
        let key = |address: &str, mask| scope.key_of_address(address.parse().unwrap(), mask);
        let whole = AddressMask::WHOLE;
        assert_eq!(key("192.0.2.1", whole), key("::ffff:192.0.2.1", whole));
        assert_ne!(key("192.0.2.1", whole), key("192.0.2.2", whole));
        assert_ne!(key("2001:db8::1", whole), key("2001:db8::2", whole));
        let networks = AddressMask::new(24, 56);
        assert_eq!(key("192.0.2.1", networks), key("192.0.2.200", networks));
        assert_ne!(key("192.0.2.1", networks), key("192.0.3.1", networks));
        assert_eq!(
            key("2001:db8::1", networks),
            key("2001:db8:0:ff::2", networks)
        );
        assert_ne!(
            key("2001:db8::1", networks),
            key("2001:db8:0:100::1", networks)
        );
        let nothing = AddressMask::new(0, 0);
        assert_eq!(key("192.0.2.1", nothing), key("198.51.100.1", nothing));
        assert_eq!(key("2001:db8::1", nothing), key("fe80::1", nothing));
        assert_eq!(AddressMask::new(255, 255), whole);
        assert_ne!(
            key("192.0.2.1", whole),
            table
                .scope()
                .key_of_address("192.0.2.1".parse().unwrap(), whole)
        );
    }

    #[test]
    fn secrets_are_not_printed() {
        let table = table(1);
        let printed = format!("{table:?} {:?}", table.scope());
        assert_eq!(
            printed,
            "AffinityTable { buckets: 1, len: 0, evictions: 0, .. } Scope"
        );
    }

    /// What may be done to the table, and to its model.
    #[derive(Debug, Clone)]
    enum Step {
        Pass(u64),
        Get(u64),
        Insert(u64, u16),
        Forbid(u16),
        Sweep,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0_u64..15).prop_map(Step::Pass),
            (0_u64..24).prop_map(Step::Get),
            (0_u64..24, 0_u16..5).prop_map(|(key, slot)| Step::Insert(key, slot)),
            (0_u16..5).prop_map(Step::Forbid),
            Just(Step::Sweep),
        ];
        proptest::collection::vec(step, 1..200)
    }

    /// A map without limits, which remembers when each key was used.
    #[derive(Default)]
    struct Model {
        entries: HashMap<u64, Remembered>,
        now: u64,
        forbidden: u16,
    }

    /// An entry ends a while after its timeout; inserting the same slot again in that while may
    /// find the old entry or begin a new one.
    #[derive(Clone, Copy)]
    struct Remembered {
        slot: u16,
        used_surely: u64,
        used_perhaps: u64,
    }

    const TIMEOUT: u64 = 40;

    impl Model {
        /// Whether that slot must be remembered for `key`.
        fn must(&self, key: u64) -> bool {
            let surely = |it: &Remembered| self.now <= it.used_surely + TIMEOUT;
            let valid = |it: &Remembered| it.slot != self.forbidden;
            self.entries
                .get(&key)
                .is_some_and(|it| surely(it) && valid(it))
        }

        /// Whether that slot may still be remembered for `key`.
        fn may(&self, key: u64, slot: u16) -> bool {
            let life = seconds(TIMEOUT).life_max().as_secs();
            let perhaps = |it: &Remembered| self.now < it.used_perhaps + life;
            let valid = |it: &Remembered| it.slot == slot && slot != self.forbidden;
            self.entries
                .get(&key)
                .is_some_and(|it| perhaps(it) && valid(it))
        }

        fn used(&mut self, key: u64, slot: u16) {
            let remembered = Remembered {
                slot,
                used_surely: self.now,
                used_perhaps: self.now,
            };
            self.entries.insert(key, remembered);
        }

        fn inserted(&mut self, key: u64, slot: u16) {
            if !self.may(key, slot) {
                self.used(key, slot);
            } else if !self.must(key)
                && let Some(entry) = self.entries.get_mut(&key)
            {
                entry.used_perhaps = self.now;
            }
        }
    }

    proptest! {
        /// As long as nothing is evicted, the table remembers what the map does.
        #[test]
        fn behaves_as_a_map(start in 0_u64..1 << 19, steps in steps()) {
            let table = table(64);
            let mut model = Model { now: start, ..Model::default() };
            for step in steps {
                let (now, forbidden) = (at(model.now), model.forbidden);
                let valid = |it: SlotId| it.index != forbidden;
                match step {
                    Step::Pass(time) => model.now += time,
                    Step::Forbid(slot) => model.forbidden = slot,
                    Step::Sweep => {
                        table.sweep(0..table.buckets(), now);
                    }
                    Step::Get(number) => {
                        // 24 keys in 3 of the buckets, 8 in each: full, and nothing evicted.
                        let key = key(number, 3);
                        if let Some(got) = table.get(key, now, seconds(TIMEOUT), valid) {
                            prop_assert!(model.may(key, got.index));
                            model.used(key, got.index);
                        } else {
                            prop_assert!(!model.must(key));
                        }
                    }
                    Step::Insert(number, new) => {
                        let key = key(number, 3);
                        let got = table.insert(key, slot(new), now, seconds(TIMEOUT), valid).index;
                        if got == new {
                            prop_assert!(!model.must(key) || model.may(key, new));
                            model.inserted(key, new);
                        } else {
                            prop_assert!(model.may(key, got));
                        }
                    }
                }
            }
            prop_assert_eq!(table.evictions(), 0);
        }
    }

    /// What loom cannot do: many threads and words, for a while. Slots say which key they are for,
    /// and their incarnation until when they may be seen.
    #[test]
    fn threads_never_see_entries_of_others_or_of_the_past() {
        const THREADS: u64 = 4;
        const KEYS: u64 = 64;
        let table = table(16);
        let (table, capacity) = (&table, table.capacity());
        assert!(capacity < KEYS as usize, "so entries are evicted");
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                scope.spawn(move || {
                    let mut random = 0x9E37_79B9_7F4A_7C15 ^ thread;
                    for round in 0..40_000_u64 {
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        let number = random % KEYS;
                        let key = key(number, 4);
                        // The backends of an odd time are not those of an even one.
                        let era = (round / 1000) as u8;
                        let valid = |it: SlotId| it.incarnation == era;
                        let now = at(round / 10);
                        let new = SlotId {
                            index: (number + KEYS * thread) as u16,
                            incarnation: era,
                        };
                        let got = match random >> 60 {
                            0..4 => Some(table.insert(key, new, now, seconds(8), valid)),
                            4 => {
                                table.sweep(0..table.buckets(), now);
                                None
                            }
                            _ => table.get(key, now, seconds(8), valid),
                        };
                        if let Some(got) = got {
                            assert_eq!(u64::from(got.index) % KEYS, number);
                            assert_eq!(got.incarnation, era);
                        }
                    }
                });
            }
        });
        // At rest, no key has two entries.
        for bucket in 0..table.buckets() {
            let words = table.bucket(bucket as u64).iter();
            let mut tags: Vec<u64> = words.map(|it| it.load(Ordering::Relaxed) >> 40).collect();
            tags.retain(|&tag| tag != 0);
            let count = tags.len();
            tags.sort_unstable();
            tags.dedup();
            assert_eq!(tags.len(), count);
        }
        assert!(table.evictions() > 0);
    }
}
