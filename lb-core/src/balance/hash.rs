//! From what a hash key names to 64 bits that are the same on every node with the same seed.
//!
//! Invariant: an IPv4 address and its IPv6-mapped form are the same client.
//! Read next: `schedulers/hashed.rs` (what the bits lead to).

use std::fmt;
use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};

use siphasher::sip::SipHasher13;

use super::schedulers::Crc32;
use crate::plan::Balance;

/// Hashes of addresses and of bytes, keyed by a seed.
///
/// An address takes two multiplications (about 2 ns, where SipHash takes 8): two foldings of a
/// 128-bit product, the construction of wyhash. The keys come from the seed, so clients cannot
/// choose addresses that meet in one slot without knowing it.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeyHash {
    keys: [u64; 4],
    seed: u64,
}

/// How a cluster hashes its keys.
#[derive(Debug, Clone, Copy)]
pub(super) enum Hashing {
    /// With the seed.
    Keyed(KeyHash),
    /// As nginx does for `ring`: addresses as text.
    Plain,
}

impl Hashing {
    pub(super) fn of(balance: Balance, seed: u64) -> Self {
        match balance {
            Balance::Ring => Self::Plain,
            _ => Self::Keyed(KeyHash::new(seed)),
        }
    }

    #[inline]
    pub(super) fn address(&self, address: IpAddr) -> u64 {
        match self {
            Self::Keyed(hash) => hash.address(address),
            Self::Plain => plain(format_args!("{}", address.to_canonical())),
        }
    }

    #[inline]
    pub(super) fn address_port(&self, address: SocketAddr) -> u64 {
        match self {
            Self::Keyed(hash) => hash.address_port(address),
            Self::Plain => {
                let ip = address.ip().to_canonical();
                plain(format_args!("{}", SocketAddr::new(ip, address.port())))
            }
        }
    }

    pub(super) fn bytes(&self, bytes: &[u8]) -> u64 {
        match self {
            Self::Keyed(hash) => hash.bytes(bytes),
            Self::Plain => u64::from(Crc32::START.with(bytes).finish()),
        }
    }
}

/// The CRC-32 of a text, without making it.
fn plain(text: fmt::Arguments<'_>) -> u64 {
    struct Sum(Crc32);
    impl fmt::Write for Sum {
        fn write_str(&mut self, part: &str) -> fmt::Result {
            self.0 = self.0.with(part.as_bytes());
            Ok(())
        }
    }
    let mut sum = Sum(Crc32::START);
    // Neither an address nor the sum can fail.
    let _ = fmt::Write::write_fmt(&mut sum, text);
    u64::from(sum.0.finish())
}

/// What [`KeyHash`] derives from the seed for bytes; 0 to 5 are taken by Maglev and addresses.
const PURPOSE_BYTES: u64 = 6;

impl KeyHash {
    pub(super) fn new(seed: u64) -> Self {
        let keys = [2, 3, 4, 5].map(|purpose| {
            let mut hasher = SipHasher13::new_with_keys(seed, purpose);
            hasher.write(b"lb client address");
            hasher.finish() | 1 // never zero, which would fold everything to zero
        });
        Self { keys, seed }
    }

    #[inline]
    pub(super) fn address(&self, address: IpAddr) -> u64 {
        let bits = address_bits(address);
        let [k0, k1, k2, k3] = self.keys;
        let first = fold(bits as u64 ^ k0, (bits >> 64) as u64 ^ k1);
        fold(first ^ k2, k3)
    }

    #[inline]
    pub(super) fn address_port(&self, address: SocketAddr) -> u64 {
        let [_, _, k2, k3] = self.keys;
        let first = self.address(address.ip());
        fold(first ^ k3, u64::from(address.port()) ^ k2)
    }

    pub(super) fn bytes(&self, bytes: &[u8]) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.seed, PURPOSE_BYTES);
        hasher.write(bytes);
        hasher.finish()
    }
}

/// An address as 128 bits; an IPv4 address and its IPv6-mapped form are the same.
#[inline]
pub(super) fn address_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// One of `count` places, evenly: the upper half of the product, without a division.
#[inline]
pub(super) fn place(hash: u64, count: usize) -> usize {
    ((u128::from(hash) * count as u128) >> 64) as usize
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn equal_seeds_agree_and_others_do_not() {
        let address: SocketAddr = "192.0.2.1:4000".parse().unwrap();
        let hashes = |seed| {
            let hash = KeyHash::new(seed);
            [
                hash.address(address.ip()),
                hash.address_port(address),
                hash.bytes(b"/path"),
            ]
        };
        assert_eq!(hashes(1), hashes(1));
        assert!(
            hashes(1)
                .iter()
                .zip(hashes(2))
                .all(|(&one, other)| one != other)
        );
    }

    #[test]
    fn ports_and_bytes_spread() {
        let hash = KeyHash::new(7);
        let places = |hashes: &mut dyn Iterator<Item = u64>| {
            hashes
                .map(|it| place(it, 1 << 16))
                .collect::<HashSet<_>>()
                .len()
        };
        let mut ports = (0..1000).map(|it| hash.address_port(([192, 0, 2, 1], it).into()));
        assert!(places(&mut ports) > 980);
        let mut texts = (0..1000).map(|it: u32| hash.bytes(&it.to_be_bytes()));
        assert!(places(&mut texts) > 980);
    }

    #[test]
    fn a_mapped_address_is_the_same_client() {
        let hash = KeyHash::new(7);
        let [plain, mapped] = ["192.0.2.1", "::ffff:192.0.2.1"].map(|it| it.parse().unwrap());
        assert_eq!(hash.address(plain), hash.address(mapped));
    }

    #[test]
    fn a_plain_address_hashes_as_its_text() {
        let address = "192.0.2.1:80".parse::<SocketAddr>().unwrap();
        let hash = Hashing::Plain;
        assert_eq!(hash.address(address.ip()), 3_680_567_351);
        assert_eq!(hash.address(address.ip()), hash.bytes(b"192.0.2.1"));
        assert_eq!(
            hash.address("::ffff:192.0.2.1".parse().unwrap()),
            3_680_567_351
        );
        assert_eq!(hash.address_port(address), hash.bytes(b"192.0.2.1:80"));
    }

    #[test]
    fn places_are_in_range() {
        assert_eq!(
            (place(0, 7), place(u64::MAX, 7), place(u64::MAX, 0)),
            (0, 6, 0)
        );
    }
}
