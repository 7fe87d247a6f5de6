//! Address prefixes, and a table that finds the longest one an address is in.
//!
//! Invariant: a table is built once and never changes; a look-up is one binary search over the
//! bounds of disjoint ranges, without allocation, however the prefixes nest. An IPv4-mapped IPv6
//! address (RFC 4291 section 2.5.5.2) is the IPv4 address.
//! Read next: `plan/tcp.rs` (lists of prefixes in a plan).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The addresses that share their first `bits` bits; the others of `address` are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    address: IpAddr,
    bits: u8,
}

/// Why a prefix is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Bits behind the prefix are set: more probably a slip than a wish.
    #[error("{given} has bits set after the first {}; the prefix is {meant}", .meant.bits())]
    HostBits {
        /// As written.
        given: String,
        /// The prefix that it is in.
        meant: Prefix,
    },
    /// More bits than the address has.
    #[error("a prefix of {address} has 0 to {limit} bits, not {bits}")]
    Length {
        /// The address.
        address: IpAddr,
        /// The length given.
        bits: u32,
        /// 32 or 128.
        limit: u8,
    },
    /// Neither an address nor a prefix.
    #[error("{0:?} is no address or prefix, such as 10.0.0.0/8, 2001:db8::/32 or 192.0.2.7")]
    Syntax(String),
}

impl Prefix {
    /// The prefix of `bits` bits, 0 to 32 or 128.
    ///
    /// # Errors
    /// `Length`, and `HostBits` if bits behind the prefix are set.
    pub fn new(address: IpAddr, bits: u8) -> Result<Self, PrefixError> {
        let limit = width(address);
        if bits > limit {
            return Err(PrefixError::Length {
                address,
                bits: bits.into(),
                limit,
            });
        }
        let meant = Self::of(address, bits);
        let is_mapped = meant.address.is_ipv4() != address.is_ipv4();
        if !is_mapped && meant.address != address || is_mapped && !has_address(meant, address) {
            let given = format!("{address}/{bits}");
            return Err(PrefixError::HostBits { given, meant });
        }
        Ok(meant)
    }

    /// The prefix of `bits` bits (cut to the address's width) that `address` is in.
    #[must_use]
    pub fn of(address: IpAddr, bits: u8) -> Self {
        let bits = bits.min(width(address));
        let canonical = address.to_canonical();
        match (canonical, address) {
            (IpAddr::V4(v4), IpAddr::V6(_)) if bits >= 96 => Self::v4(v4, bits - 96),
            (IpAddr::V4(v4), IpAddr::V4(_)) => Self::v4(v4, bits),
            (_, IpAddr::V6(v6)) => Self {
                address: Ipv6Addr::from_bits(u128::from(v6) & mask(128, bits)).into(),
                bits,
            },
            (IpAddr::V6(_), IpAddr::V4(_)) => unreachable!("an IPv4 address is canonical"),
        }
    }

    fn v4(address: Ipv4Addr, bits: u8) -> Self {
        let mask = mask(32, bits) as u32;
        Self {
            address: Ipv4Addr::from_bits(u32::from(address) & mask).into(),
            bits,
        }
    }

    /// The first address.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// Number of bits, 0 to 32 or 128.
    #[must_use]
    pub const fn bits(&self) -> u8 {
        self.bits
    }

    /// Whether `address` is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        match (self.address, address) {
            (IpAddr::V4(_), IpAddr::V6(_)) => false,
            // A short IPv6 prefix such as ::/0 has no IPv4 addresses: they are another family.
            (IpAddr::V6(_), IpAddr::V4(_)) => false,
            _ => Self::of(address, self.bits) == *self,
        }
    }
}

/// Whether a mapped `address` has no bits set behind `prefix`.
fn has_address(prefix: Prefix, address: IpAddr) -> bool {
    address.to_canonical() == prefix.address
}

const fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The first `bits` of `width` bits set.
const fn mask(width: u8, bits: u8) -> u128 {
    if bits == 0 {
        return 0;
    }
    let all = u128::MAX >> (128 - width);
    all & (all << (width - bits))
}

impl From<IpAddr> for Prefix {
    /// The address alone.
    fn from(address: IpAddr) -> Self {
        Self::of(address, width(address))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let syntax = || PrefixError::Syntax(text.to_owned());
        let Some((address, bits)) = text.split_once('/') else {
            let address: IpAddr = text.parse().map_err(|_| syntax())?;
            return Ok(address.into());
        };
        let address: IpAddr = address.parse().map_err(|_| syntax())?;
        if bits.is_empty() || !bits.bytes().all(|byte| byte.is_ascii_digit()) || bits.len() > 3 {
            return Err(syntax());
        }
        let bits: u32 = bits.parse().map_err(|_| syntax())?;
        let limit = width(address);
        let length = PrefixError::Length {
            address,
            bits,
            limit,
        };
        let bits = u8::try_from(bits).map_err(|_| length)?;
        Self::new(address, bits)
    }
}

/// A value for each of many prefixes; the longest prefix that an address is in decides. About 5
/// bytes a bound for IPv4 and 17 for IPv6, at most two bounds a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefixMap<V> {
    v4: Ranges<u32, V>,
    v6: Ranges<u128, V>,
}

impl<V: Copy + Eq> PrefixMap<V> {
    /// The value of the longest prefix that `address` is in.
    #[must_use]
    #[inline]
    pub fn find(&self, address: IpAddr) -> Option<V> {
        match address {
            IpAddr::V4(v4) => self.v4.find(v4.to_bits()),
            IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                Some(v4) => self.v4.find(v4.to_bits()),
                None => self.v6.find(v6.to_bits()),
            },
        }
    }

    /// True without a prefix.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let is_none = |values: &[Option<V>]| values.iter().all(Option::is_none);
        is_none(&self.v4.values) && is_none(&self.v6.values)
    }
}

impl<V: Copy + Eq> FromIterator<(Prefix, V)> for PrefixMap<V> {
    /// Cold: sorts. Of two values for one prefix the later stays.
    fn from_iter<I: IntoIterator<Item = (Prefix, V)>>(prefixes: I) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (prefix, value) in prefixes {
            match prefix.address {
                IpAddr::V4(first) => {
                    let last = first.to_bits() | !(mask(32, prefix.bits) as u32);
                    v4.push((first.to_bits(), last, value));
                }
                IpAddr::V6(first) => {
                    let last = first.to_bits() | !mask(128, prefix.bits);
                    v6.push((first.to_bits(), last, value));
                }
            }
        }
        Self {
            v4: Ranges::build(v4),
            v6: Ranges::build(v6),
        }
    }
}

/// The number line cut into ranges: each begins at its start and ends before the next. Starts
/// ascend; the first is zero. Their high halves are apart, since a search rarely needs the low
/// ones, and half as many bytes are half as many cache misses.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ranges<K: Bound, V> {
    highs: Box<[K::High]>,
    lows: Box<[K::Low]>,
    values: Box<[Option<V>]>,
}

impl<K: Bound, V: Copy + Eq> Ranges<K, V> {
    #[inline]
    fn find(&self, key: K) -> Option<V> {
        let (high, low) = key.halves();
        let behind = self.highs.partition_point(|start| *start <= high);
        if self.highs[behind - 1] < high || self.lows[behind - 1] <= low {
            return self.values[behind - 1];
        }
        self.find_among_lows(high, low, behind)
    }

    /// Among the starts with this high half, which end before `behind`.
    #[cold]
    fn find_among_lows(&self, high: K::High, low: K::Low, behind: usize) -> Option<V> {
        let first = self.highs.partition_point(|start| *start < high);
        let within = self.lows[first..behind].partition_point(|start| *start <= low);
        // At least one is not above: that of zero has both halves zero.
        self.values[first + within - 1]
    }

    /// One sweep over the prefixes by their first address, those that hold others first; `open`
    /// are the ones that the sweep is in, the innermost on top.
    fn build(mut prefixes: Vec<(K, K, V)>) -> Self {
        // Stable, so that the later of two equal ones stays the later.
        prefixes.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
        let mut ranges = vec![(K::ZERO, None)];
        let mut open: Vec<(K, V)> = Vec::new();
        for (first, last, value) in prefixes {
            close_before(&mut ranges, &mut open, Some(first));
            begin(&mut ranges, first, Some(value));
            open.push((last, value));
        }
        close_before(&mut ranges, &mut open, None);
        Self {
            highs: ranges.iter().map(|range| range.0.halves().0).collect(),
            lows: ranges.iter().map(|range| range.0.halves().1).collect(),
            values: ranges.iter().map(|range| range.1).collect(),
        }
    }
}

/// Ends the prefixes that end before `limit`, all without one.
fn close_before<K: Bound, V: Copy + Eq>(
    ranges: &mut Vec<(K, Option<V>)>,
    open: &mut Vec<(K, V)>,
    limit: Option<K>,
) {
    while let Some((last, _)) = open.pop_if(|(last, _)| limit.is_none_or(|limit| *last < limit)) {
        if let Some(next) = last.next() {
            begin(ranges, next, open.last().map(|(_, value)| *value));
        }
    }
}

/// From `start` on the value is `value`, until something else is said.
fn begin<K: Bound, V: Copy + Eq>(ranges: &mut Vec<(K, Option<V>)>, start: K, value: Option<V>) {
    ranges.pop_if(|range| range.0 == start);
    if ranges.last().is_none_or(|range| range.1 != value) {
        ranges.push((start, value));
    }
}

/// An address as a number.
trait Bound: Copy + Ord {
    type High: Copy + Ord;
    type Low: Copy + Ord;

    const ZERO: Self;

    fn next(self) -> Option<Self>;
    fn halves(self) -> (Self::High, Self::Low);
}

impl Bound for u32 {
    type High = Self;
    type Low = ();

    const ZERO: Self = 0;

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }

    fn halves(self) -> (Self, ()) {
        (self, ())
    }
}

impl Bound for u128 {
    type High = u64;
    type Low = u64;

    const ZERO: Self = 0;

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }

    fn halves(self) -> (u64, u64) {
        ((self >> 64) as u64, self as u64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn prefixes_are_read_and_shown() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("::1", "::1/128"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.1.2.3", "10.1.2.3/32"),
        ] {
            assert_eq!(prefix(text).to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_prefix_says_why() {
        for (text, words) in [
            ("", "no address or prefix"),
            ("10.0.0.0/", "no address or prefix"),
            ("10.0.0.0/+8", "no address or prefix"),
            ("10.0.0/8", "no address or prefix"),
            ("10.0.0.0/33", "0 to 32 bits, not 33"),
            ("10.0.0.0/256", "0 to 32 bits, not 256"),
            ("::/129", "0 to 128 bits, not 129"),
            ("10.0.0.1/8", "the prefix is 10.0.0.0/8"),
            ("2001:db8::1/32", "the prefix is 2001:db8::/32"),
            ("::ffff:10.0.0.1/104", "the prefix is 10.0.0.0/8"),
        ] {
            let error = text.parse::<Prefix>().unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn the_longest_prefix_decides() {
        let map: PrefixMap<u8> = [
            (prefix("0.0.0.0/0"), 0),
            (prefix("10.0.0.0/8"), 8),
            (prefix("10.1.0.0/16"), 16),
            (prefix("10.1.2.3"), 32),
            (prefix("255.255.255.255"), 33),
            (prefix("2001:db8::/32"), 6),
        ]
        .into_iter()
        .collect();
        for (text, value) in [
            ("9.255.255.255", Some(0)),
            ("10.0.0.0", Some(8)),
            ("10.1.0.0", Some(16)),
            ("10.1.2.3", Some(32)),
            ("10.1.2.4", Some(16)),
            ("10.2.0.0", Some(8)),
            ("11.0.0.0", Some(0)),
            ("255.255.255.255", Some(33)),
            ("::ffff:10.1.2.3", Some(32)),
            ("2001:db8:ffff::", Some(6)),
            ("2001:db9::", None),
            ("::", None),
        ] {
            assert_eq!(map.find(address(text)), value, "{text}");
        }
    }

    #[test]
    fn without_a_prefix_there_is_nothing_to_find() {
        let map: PrefixMap<u8> = std::iter::empty().collect();
        assert!(map.is_empty());
        assert_eq!(map.find(address("10.0.0.1")), None);
        assert_eq!(map.find(address("::1")), None);
    }

    /// Few addresses, so that prefixes nest, touch and repeat.
    fn addresses() -> impl Strategy<Value = IpAddr> {
        let byte = prop_oneof![Just(0_u8), Just(1), Just(127), Just(128), Just(255)];
        prop_oneof![
            [byte.clone(), byte.clone(), byte.clone(), byte.clone()].prop_map(IpAddr::from),
            (byte.clone(), byte.clone(), byte).prop_map(|(first, middle, last)| {
                let mut octets = [0; 16];
                (octets[0], octets[7], octets[15]) = (first, middle, last);
                IpAddr::from(octets)
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_table_finds_what_a_linear_search_finds(
            prefixes in prop::collection::vec((addresses(), 0..=128_u8), 0..60),
            sought in prop::collection::vec(addresses(), 40),
        ) {
            let prefixes: Vec<_> = prefixes
                .into_iter()
                .enumerate()
                .map(|(value, (address, bits))| (Prefix::of(address, bits), value))
                .collect();
            let map: PrefixMap<usize> = prefixes.iter().copied().collect();
            // Where ranges begin and end is where mistakes would be.
            let edges = prefixes.iter().map(|(prefix, _)| prefix.address);
            for address in edges.chain(sought) {
                let linear = prefixes
                    .iter()
                    .filter(|(prefix, _)| prefix.contains(address))
                    .max_by_key(|(prefix, _)| prefix.bits)
                    .map(|(_, value)| *value);
                prop_assert_eq!(map.find(address), linear, "{}", address);
            }
        }
    }
}
