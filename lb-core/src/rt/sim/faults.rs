//! What the simulated network does to those who use it, and the one source of its choices.
//!
//! Invariant: every choice comes from `Random`, so a seed and a program give one history.
//! Read next: `network/`, which makes the choices.

use std::ops::RangeInclusive;
use std::time::Duration;

/// The simulated network of a runtime: what it is like, and the seed of its choices.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// Seed of every choice. The same program with the same seed has the same history.
    pub seed: u64,
    /// What the network does.
    pub faults: Faults,
}

/// What the simulated network does to its users. Chances are per mille, 0 for never; delays and
/// sizes are chosen evenly from their ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    /// Time that a segment is under way. Segments of one direction do not overtake each other.
    pub latency: RangeInclusive<Duration>,
    /// Bytes that a direction holds between sender and reader; chosen for each connection.
    pub window: RangeInclusive<usize>,
    /// Largest segment, so also the most that arrives at once, in bytes.
    pub segment: RangeInclusive<usize>,
    /// A read gives less than there is, a write takes less than there is room for.
    pub short_per_mille: u32,
    /// A segment, and those behind it, are late by `stall`.
    pub stall_per_mille: u32,
    /// How late.
    pub stall: RangeInclusive<Duration>,
    /// The network breaks the connection at a segment: both ends see a reset.
    pub reset_per_mille: u32,
    /// A connection attempt is refused although someone listens.
    pub refuse_per_mille: u32,
    /// A connection attempt gets no answer, and fails with ETIMEDOUT after 127 s as on Linux.
    pub hang_per_mille: u32,
    /// An established connection goes dead: from then on nothing arrives in either direction.
    pub silence_per_mille: u32,
    /// An accept fails with EMFILE; the connection goes on waiting.
    pub accept_per_mille: u32,
    /// A connect fails at once with EMFILE.
    pub descriptor_per_mille: u32,
    /// A datagram gets lost. Datagrams overtake each other always: each has its own latency.
    pub loss_per_mille: u32,
    /// A datagram arrives once more.
    pub duplicate_per_mille: u32,
}

impl Default for Faults {
    /// A network without failures, as uneven as any: latencies of 20 to 300 µs, short reads and
    /// writes, segments of all sizes.
    fn default() -> Self {
        Self {
            latency: Duration::from_micros(20)..=Duration::from_micros(300),
            window: 4 * 1024..=256 * 1024,
            segment: 1..=16 * 1024,
            short_per_mille: 100,
            stall_per_mille: 0,
            stall: Duration::from_millis(1)..=Duration::from_millis(200),
            reset_per_mille: 0,
            refuse_per_mille: 0,
            hang_per_mille: 0,
            silence_per_mille: 0,
            accept_per_mille: 0,
            descriptor_per_mille: 0,
            loss_per_mille: 0,
            duplicate_per_mille: 0,
        }
    }
}

impl Faults {
    /// Everything that can go wrong does, now and then, but that no connection goes silent: for
    /// that its users need timeouts.
    #[must_use]
    pub fn rough() -> Self {
        Self {
            window: 64..=32 * 1024,
            segment: 1..=4 * 1024,
            short_per_mille: 400,
            stall_per_mille: 20,
            reset_per_mille: 5,
            refuse_per_mille: 50,
            hang_per_mille: 20,
            accept_per_mille: 50,
            descriptor_per_mille: 20,
            loss_per_mille: 20,
            duplicate_per_mille: 20,
            ..Self::default()
        }
    }
}

/// A splitmix64 sequence: small, seeded, and the same on every machine.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// From `range`, both ends included.
    pub(crate) fn size(&mut self, range: &RangeInclusive<usize>) -> usize {
        let width = (range.end().saturating_sub(*range.start()) as u64).saturating_add(1);
        range.start() + usize::try_from(self.next() % width).expect("below a usize")
    }

    pub(crate) fn nanos(&mut self, range: &RangeInclusive<Duration>) -> u64 {
        let nanos =
            |duration: &Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4);
        let (low, high) = (nanos(range.start()), nanos(range.end()));
        low + self.next() % high.saturating_sub(low).saturating_add(1)
    }

    pub(crate) const fn chance(&mut self, per_mille: u32) -> bool {
        // Without a throw where there is no chance, a change of one fault leaves the others be.
        per_mille > 0 && self.next() % 1000 < per_mille as u64
    }
}

/// The finaliser of splitmix64 (public domain, Sebastiano Vigna).
pub(crate) const fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
