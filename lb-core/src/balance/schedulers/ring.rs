//! `ring`: consistent hashing on a ring of points, laid out as nginx's `hash … consistent` and
//! Cache::Memcached::Fast do: 160 points a unit of weight, each the CRC-32 of host, zero, port and
//! the point before (ngx_http_upstream_hash_module.c, ngx_http_upstream_update_chash).
//!
//! Invariant: for backends named by address the ring and what hashes to it are nginx's, so that
//! caches stay warm when one replaces the other. Unlike the other tables it has no seed.
//! Read next: `hashed.rs`.

use crate::plan;

/// The points of one tier.
#[derive(Debug)]
pub(super) struct Ring {
    /// In order, each once.
    points: Box<[u32]>,
    /// Whose each point is.
    owners: Box<[u16]>,
}

/// Points for a unit of weight.
const POINTS: u64 = 160;

/// Above this sum of points all backends get fewer, in proportion. As many as 1,024 backends of
/// weight 1 have.
const POINTS_MAX: u64 = POINTS * 1024;

impl Ring {
    pub(super) fn build(backends: &[plan::Backend]) -> Self {
        let wanted: u64 = backends
            .iter()
            .map(|it| u64::from(it.weight) * POINTS)
            .sum();
        let mut points = Vec::with_capacity(wanted.min(POINTS_MAX) as usize + backends.len());
        // In an order of their own, so that it does not depend on the plan who has a point that
        // two backends hash to.
        let mut order: Vec<usize> = (0..backends.len()).collect();
        order.sort_unstable_by_key(|&position| backends[position].address);
        for (rank, &position) in order.iter().enumerate() {
            let backend = &backends[position];
            let own = u64::from(backend.weight) * POINTS;
            let own = if wanted > POINTS_MAX {
                (own * POINTS_MAX / wanted).max(1)
            } else {
                own
            };
            points.extend(chain(backend).take(own as usize).map(|point| Point {
                point,
                rank: rank as u16,
                position: position as u16,
            }));
        }
        points.sort_unstable();
        points.dedup_by_key(|it| it.point);
        Self {
            points: points.iter().map(|it| it.point).collect(),
            owners: points.iter().map(|it| it.position).collect(),
        }
    }

    /// Whose each point is, in the order of the ring.
    pub(super) fn slots(&self) -> &[u16] {
        &self.owners
    }

    /// The first point that is not before `hash`; after the last comes the first.
    #[inline]
    pub(super) fn slot_of(&self, hash: u32) -> usize {
        let slot = self.points.partition_point(|&point| point < hash);
        if slot == self.points.len() { 0 } else { slot }
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    point: u32,
    rank: u16,
    position: u16,
}

/// The points of a backend, without end.
fn chain(backend: &plan::Backend) -> impl Iterator<Item = u32> {
    let host = backend.address.ip().to_string();
    // nginx takes what stands before the port, and an IPv6 address stands in brackets.
    let host = if backend.address.is_ipv6() {
        format!("[{host}]")
    } else {
        host
    };
    let port = backend.address.port().to_string();
    let base = [host.as_bytes(), b"\0", port.as_bytes()]
        .iter()
        .fold(Crc32::START, |crc, bytes| crc.with(bytes));
    let mut before = 0_u32;
    std::iter::from_fn(move || {
        before = base.with(&before.to_le_bytes()).finish();
        Some(before)
    })
}

/// CRC-32 as in zlib and Ethernet, byte by byte.
#[derive(Clone, Copy)]
pub(in super::super) struct Crc32(u32);

impl Crc32 {
    pub(in super::super) const START: Self = Self(u32::MAX);

    #[must_use]
    pub(in super::super) fn with(self, bytes: &[u8]) -> Self {
        let step = |crc: u32, &byte: &u8| (crc >> 8) ^ CRC_TABLE[(crc as u8 ^ byte) as usize];
        Self(bytes.iter().fold(self.0, step))
    }

    pub(in super::super) const fn finish(self) -> u32 {
        !self.0
    }
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn backend(address: &str, weight: u16) -> plan::Backend {
        let address: SocketAddr = address.parse().unwrap();
        plan::Backend {
            weight,
            ..address.into()
        }
    }

    fn owner(ring: &Ring, key: &str) -> u16 {
        ring.slots()[ring.slot_of(Crc32::START.with(key.as_bytes()).finish())]
    }

    #[test]
    fn crc32_of_the_check_value() {
        // The check value of CRC-32/ISO-HDLC.
        assert_eq!(Crc32::START.with(b"123456789").finish(), 0xCBF4_3926);
    }

    /// Computed from nginx's definition with zlib's crc32.
    #[test]
    fn points_are_those_of_nginx() {
        let points: Vec<u32> = chain(&backend("127.0.0.1:8001", 1)).take(4).collect();
        assert_eq!(
            points,
            [3_170_451_098, 1_196_970_643, 3_874_392_417, 1_477_646_300]
        );
        let points: Vec<u32> = chain(&backend("[::1]:80", 1)).take(2).collect();
        assert_eq!(points, [1_028_208_324, 2_639_490_794]);
    }

    /// Computed from nginx's definition with zlib's crc32.
    #[test]
    fn keys_go_where_nginx_sends_them() {
        let ring = Ring::build(&[
            backend("127.0.0.1:8001", 1),
            backend("127.0.0.1:8002", 1),
            backend("127.0.0.1:8003", 2),
        ]);
        assert_eq!(ring.points.len(), 640);
        assert_eq!(
            ring.points[..4],
            [26_325_830, 33_510_751, 41_225_534, 55_791_024]
        );
        assert_eq!(ring.owners[..4], [2, 2, 0, 1]);
        let keys = [
            ("/", 2),
            ("/index.html", 0),
            ("/a/b/c?d=e", 2),
            ("192.0.2.1", 1),
            ("198.51.100.7", 1),
            ("2001:db8::1", 2),
            ("user-42", 1),
            ("", 2),
        ];
        for (key, expected) in keys {
            assert_eq!(owner(&ring, key), expected, "{key}");
        }
        // Beyond the last point, 4287416484, comes the first.
        assert_eq!(ring.slot_of(u32::MAX), 0);
        assert_eq!(ring.slot_of(4_287_416_484), 639);
    }

    #[test]
    fn the_order_of_the_plan_does_not_matter() {
        let backends = [backend("10.0.0.1:80", 1), backend("10.0.0.2:80", 3)];
        let reversed = [backends[1].clone(), backends[0].clone()];
        let (ring, other) = (Ring::build(&backends), Ring::build(&reversed));
        assert_eq!(ring.points, other.points);
        assert!(
            ring.owners
                .iter()
                .zip(&other.owners)
                .all(|(one, other)| one + other == 1)
        );
    }

    #[test]
    fn a_backend_that_leaves_moves_its_own_keys_only() {
        let all: Vec<_> = (1..=10)
            .map(|it| backend(&format!("10.0.0.{it}:80"), 1))
            .collect();
        let (before, after) = (Ring::build(&all), Ring::build(&all[..9]));
        for key in 0..10_000 {
            let key = key.to_string();
            let owner_before = owner(&before, &key);
            assert!(owner_before == 9 || owner_before == owner(&after, &key));
        }
    }

    #[test]
    fn large_weights_keep_their_proportions_within_a_bounded_ring() {
        let ring = Ring::build(&[
            backend("10.0.0.1:80", 60_000),
            backend("10.0.0.2:80", 30_000),
            backend("10.0.0.3:80", 1),
        ]);
        let count = |owner| ring.owners.iter().filter(|&&it| it == owner).count() as u64;
        assert!(ring.points.len() as u64 <= POINTS_MAX + 3);
        assert!(
            count(0).abs_diff(2 * count(1)) < 500,
            "{} {}",
            count(0),
            count(1)
        );
        assert!(count(2) >= 1);
        assert!(Ring::build(&[]).slots().is_empty());
    }
}
