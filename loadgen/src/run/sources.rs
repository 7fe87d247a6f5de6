//! The addresses that clients come from, out of 127.0.0.0/8: many clients on one machine.
//!
//! Invariant: the same settings give the same sequence of addresses in each run, so that what two
//! runs see can be compared client by client.
//! Read next: `connection.rs`, which connects from them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use crate::tcp::SplitMix64;

/// The most addresses: three bytes, of which none is 0 or 255.
pub const SOURCES_MAX: usize = 250 * 250 * 250;

/// How many clients there are, and how often each comes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sources {
    /// Different addresses, from 1 to [`SOURCES_MAX`].
    pub count: usize,
    /// Exponent of a Zipf distribution: the `n`-th client comes in proportion to `n^-skew`.
    /// `None`: each in turn.
    pub skew: Option<f64>,
}

/// Who the next client is.
#[derive(Debug)]
pub(super) struct Clients {
    sources: Sources,
    /// With a skew: the share of all clients up to each.
    cumulative: Vec<f64>,
    random: SplitMix64,
    next: usize,
}

impl Sources {
    /// The address of client `number`, from 0.
    pub fn address(number: usize) -> IpAddr {
        let byte = |number: usize| (number % 250 + 1) as u8;
        let (low, middle, high) = (number, number / 250, number / 62_500);
        Ipv4Addr::new(127, byte(high), byte(middle), byte(low)).into()
    }
}

impl FromStr for Sources {
    type Err = String;

    /// `1000` or `1000:1.1`, with the exponent.
    fn from_str(text: &str) -> Result<Self, String> {
        let (count, skew) = match text.split_once(':') {
            Some((count, skew)) => (count, Some(skew)),
            None => (text, None),
        };
        let bad = || {
            format!("`{text}` is no number of clients; write for example 1000, or 1000:1.1 (Zipf)")
        };
        let count: usize = count.parse().map_err(|_| bad())?;
        if count == 0 || count > SOURCES_MAX {
            return Err(format!("{count} clients: from 1 to {SOURCES_MAX} will do"));
        }
        let skew: Option<f64> = skew.map(str::parse).transpose().map_err(|_| bad())?;
        match skew {
            Some(skew) if !(skew > 0.0 && skew <= 10.0) => Err(bad()),
            skew => Ok(Self { count, skew }),
        }
    }
}

impl Clients {
    /// `thread` of `threads`: each begins elsewhere.
    pub(super) fn new(sources: Sources, thread: usize, threads: usize) -> Self {
        let mut sum = 0.0;
        let cumulative = sources.skew.map(|skew| {
            let weights = (1..=sources.count).map(|rank| (rank as f64).powf(-skew));
            weights
                .map(|weight| {
                    sum += weight;
                    sum
                })
                .collect()
        });
        Self {
            sources,
            cumulative: cumulative.unwrap_or_default(),
            random: SplitMix64::new(thread as u64),
            next: thread * sources.count / threads.max(1),
        }
    }

    /// The number of the next one.
    pub(super) fn next(&mut self) -> usize {
        let Some(whole) = self.cumulative.last() else {
            let number = self.next % self.sources.count;
            self.next = number + 1;
            return number;
        };
        let drawn = self.random.next_unit() * whole;
        let number = self.cumulative.partition_point(|sum| *sum < drawn);
        number.min(self.sources.count - 1)
    }
}

/// Why clients cannot come from 127.0.0.0/8.
pub(super) fn reaches(address: SocketAddr) -> bool {
    match address.ip() {
        IpAddr::V4(address) => address.is_loopback(),
        IpAddr::V6(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn addresses_differ_and_are_of_this_machine() {
        let numbers = (0..70_000).chain([SOURCES_MAX - 1]);
        let all: HashSet<IpAddr> = numbers.map(Sources::address).collect();
        assert_eq!(all.len(), 70_001);
        assert!(all.iter().all(IpAddr::is_loopback));
        assert_eq!(Sources::address(0).to_string(), "127.1.1.1");
    }

    #[test]
    fn settings_are_read_as_documented() {
        let sources = |count, skew| Ok(Sources { count, skew });
        assert_eq!("7".parse(), sources(7, None));
        assert_eq!("1000:1.1".parse(), sources(1000, Some(1.1)));
        for bad in ["", "0", "x", "7:", "7:0", "7:-1", "7:nan", "99999999999"] {
            assert!(bad.parse::<Sources>().is_err(), "{bad}");
        }
    }

    #[test]
    fn clients_come_in_turn_or_by_their_weight() {
        let in_turn = Sources {
            count: 4,
            skew: None,
        };
        let mut clients = Clients::new(in_turn, 1, 2);
        let numbers: Vec<usize> = (0..5).map(|_| clients.next()).collect();
        assert_eq!(numbers, [2, 3, 0, 1, 2]);

        let skewed = Sources {
            count: 100,
            skew: Some(1.0),
        };
        let mut clients = Clients::new(skewed, 0, 1);
        let mut counts = [0_u32; 100];
        for _ in 0..50_000 {
            counts[clients.next()] += 1;
        }
        // The first of a hundred has 1 / (1 + 1/2 + … + 1/100) = 19.3 % of all.
        let first = f64::from(counts[0]) / 50_000.0;
        assert!((first - 0.193).abs() < 0.01, "{first}");
        let ratio = f64::from(counts[0]) / f64::from(counts[1]);
        assert!((ratio - 2.0).abs() < 0.15, "{ratio}");
    }
}
