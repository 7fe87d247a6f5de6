//! Longest-prefix look-ups in a table of 100,000 prefixes.
//!
//! Guards that a listener with long allow and deny lists pays tens of nanoseconds a connection.
//! Read next: `balance.rs`.
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use criterion::Criterion;
use lb_core::prefixes::{Prefix, PrefixMap};

const PREFIXES: usize = 100_000;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let mut random = Random(7);
    let prefixes: Vec<_> = (0..PREFIXES)
        .map(|value| (random.prefix(), value % 2 == 0))
        .collect();
    let build = |prefixes: &[(Prefix, bool)]| prefixes.iter().copied().collect::<PrefixMap<_>>();
    let map = build(&prefixes);
    let mut group = criterion.benchmark_group("prefixes");
    for (name, is_v4) in [("IPv4", true), ("IPv6", false)] {
        // Half of them near a prefix, so that the search ends among neighbours.
        let sought: Vec<IpAddr> = (0..4096).map(|_| random.address(is_v4)).collect();
        let mut at = 0;
        group.bench_function(format!("find {name} in 100,000"), |bencher| {
            bencher.iter(|| {
                at = (at + 1) % sought.len();
                black_box(map.find(black_box(sought[at])))
            });
        });
    }
    group.sample_size(10);
    group.bench_function("build 100,000", |bencher| {
        bencher.iter(|| build(black_box(&prefixes)));
    });
    group.finish();
    criterion.final_summary();
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn address(&mut self, is_v4: bool) -> IpAddr {
        let (high, low) = (self.next(), self.next());
        if is_v4 {
            return Ipv4Addr::from_bits(high as u32).into();
        }
        // Where addresses are given out: 2000::/3, and most of it in 2001::/16 to 2a00::/16.
        let high = 0x2000_0000_0000_0000 | (high & 0x0FFF_FFFF_FFFF_FFFF);
        Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)).into()
    }

    fn prefix(&mut self) -> Prefix {
        let is_v4 = self.next().is_multiple_of(2);
        let address = self.address(is_v4);
        let bits = if is_v4 {
            8 + self.next() % 25
        } else {
            20 + self.next() % 45
        };
        Prefix::of(address, bits as u8)
    }
}
