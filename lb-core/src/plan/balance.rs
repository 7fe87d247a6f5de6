//! How a backend is chosen: the schedulers by name, what each takes into account, and what the
//! hashing ones hash.
//!
//! Invariant: a scheduler shows the name by which it is found.
//! Read next: `affinity.rs`, `../balance/schedulers/mod.rs` (the choice itself).

use std::fmt;
use std::str::FromStr;

/// A scheduler, by its IPVS name where it has one (Linux, net/netfilter/ipvs/ip_vs_*.c).
///
/// Where IPVS looks at active and inactive connections, these look at the sessions and exchanges
/// in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Balance {
    /// By the destination address: a table of the backends in order.
    DestinationHash,
    /// Of two at random, the one whose latency (peak EWMA) times its load is less.
    Ewma,
    /// All to the one of highest weight that can be used.
    Failover,
    /// To the one with the fewest in flight.
    LeastConnections,
    /// A destination stays with a backend until that is overloaded.
    LocalityLeastConnections,
    /// A destination stays with a set of backends, which grows while they are overloaded.
    LocalityLeastConnectionsReplicated,
    /// Maglev hashing.
    Maglev,
    /// To an idle one at once, else as [`Balance::ShortestExpectedDelay`].
    NeverQueue,
    /// All to the one of highest weight, until it has more in flight than its weight; then to the
    /// next. When all have, none takes more.
    Overflow,
    /// Of two different ones drawn by weight, the one with the fewer in flight for its weight.
    PowerOfTwo,
    /// Drawn by weight.
    Random,
    /// Consistent hashing on a ring of points (ketama).
    Ring,
    /// Each in turn, whatever its weight.
    RoundRobin,
    /// To the one with the least `(in flight + 1) / weight`.
    ShortestExpectedDelay,
    /// By the client's address: a table of the backends in order, by weight.
    SourceHash,
    /// Of two drawn by weight, perhaps the same, the one with the fewer in flight for its weight.
    TwoChoices,
    /// To the one with the fewest in flight for its weight.
    WeightedLeastConnections,
    /// Each in turn, those of higher weight more often, evenly spread.
    #[default]
    WeightedRoundRobin,
}

impl Balance {
    /// Every scheduler with its name.
    pub const NAMES: [(&str, Self); 18] = [
        ("dh", Self::DestinationHash),
        ("ewma", Self::Ewma),
        ("fo", Self::Failover),
        ("lblc", Self::LocalityLeastConnections),
        ("lblcr", Self::LocalityLeastConnectionsReplicated),
        ("lc", Self::LeastConnections),
        ("mh", Self::Maglev),
        ("nq", Self::NeverQueue),
        ("ovf", Self::Overflow),
        ("p2c", Self::PowerOfTwo),
        ("random", Self::Random),
        ("ring", Self::Ring),
        ("rr", Self::RoundRobin),
        ("sed", Self::ShortestExpectedDelay),
        ("sh", Self::SourceHash),
        ("twos", Self::TwoChoices),
        ("wlc", Self::WeightedLeastConnections),
        ("wrr", Self::WeightedRoundRobin),
    ];

    /// The name.
    pub fn name(self) -> &'static str {
        let known = Self::NAMES.iter().find(|(_, balance)| *balance == self);
        known.map_or("", |(name, _)| name)
    }

    /// Whether it looks at a key of the session or exchange, see [`HashKey::of`].
    pub fn hashes(self) -> bool {
        HashKey::of(self).is_some()
    }

    /// Whether [`bounded_load`](super::Cluster::bounded_load) can be had: with those that hash
    /// and have no rule of their own for an overloaded backend.
    pub const fn can_bound_load(self) -> bool {
        matches!(
            self,
            Self::DestinationHash | Self::Maglev | Self::Ring | Self::SourceHash
        )
    }

    /// Whether [`slow_start`](super::Cluster::slow_start) can be had: with those that divide load
    /// by shares. A hash table cannot grow with time without moving clients, and the order of
    /// `fo` and `ovf` is no share.
    pub fn can_start_slowly(self) -> bool {
        !self.hashes() && !matches!(self, Self::Failover | Self::Overflow)
    }

    /// The scheduler to take for backends of different weight, if this one ignores weights.
    pub const fn weighted_instead(self) -> Option<Self> {
        match self {
            Self::DestinationHash => Some(Self::Maglev),
            Self::Ewma => Some(Self::PowerOfTwo),
            Self::LeastConnections => Some(Self::WeightedLeastConnections),
            Self::RoundRobin => Some(Self::WeightedRoundRobin),
            _ => None,
        }
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Balance {
    type Err = UnknownBalance;

    fn from_str(name: &str) -> Result<Self, UnknownBalance> {
        let known = Self::NAMES.iter().find(|(known, _)| *known == name);
        known
            .map(|&(_, balance)| balance)
            .ok_or_else(|| UnknownBalance {
                name: name.to_owned(),
            })
    }
}

/// A name that no scheduler has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no scheduler is called {name:?}; valid names: {}", Balance::NAMES.map(|(name, _)| name).join(", "))]
pub struct UnknownBalance {
    /// The name given.
    pub name: String,
}

/// What a hashing scheduler hashes. What a TCP session has no notion of, or a request lacks, is
/// replaced by the client's address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HashKey {
    /// The client's address.
    ClientAddress,
    /// The client's address and port: each connection by itself.
    ClientAddressPort,
    /// A cookie's value, by its name.
    Cookie(String),
    /// The address that the client connected to.
    Destination,
    /// A header field's value, by its name in lower case.
    Header(String),
    /// A query parameter's value, by its name.
    Query(String),
    /// Path and query of a request.
    Uri,
}

impl HashKey {
    /// What `balance` hashes when nothing is said; `None` if it does not hash.
    pub const fn of(balance: Balance) -> Option<Self> {
        match balance {
            Balance::Maglev | Balance::Ring | Balance::SourceHash => Some(Self::ClientAddress),
            Balance::DestinationHash
            | Balance::LocalityLeastConnections
            | Balance::LocalityLeastConnectionsReplicated => Some(Self::Destination),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scheduler_is_found_by_the_name_it_shows() {
        for (name, balance) in Balance::NAMES {
            assert_eq!(name.parse(), Ok(balance));
            assert_eq!(balance.to_string(), name);
        }
    }

    #[test]
    fn the_names_are_in_order_and_all_differ() {
        assert!(Balance::NAMES.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn an_unknown_scheduler_is_refused_with_the_valid_names() {
        let error = "RR".parse::<Balance>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "no scheduler is called \"RR\"; valid names: dh, ewma, fo, lblc, lblcr, lc, mh, nq, \
             ovf, p2c, random, ring, rr, sed, sh, twos, wlc, wrr"
        );
    }
}
