//! How a backend is chosen: the schedulers by name, and what the hashing ones hash.
//!
//! Invariant: a scheduler shows the name by which it is found.
//! Read next: `affinity.rs`, `../balance/mod.rs` (the choice itself).

use std::fmt;
use std::str::FromStr;

/// A scheduler, by its IPVS name where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Balance {
    /// Maglev hashing of the client's address.
    Maglev,
    /// Each in turn, weighted.
    #[default]
    RoundRobin,
}

impl Balance {
    /// Every scheduler with its name.
    pub const NAMES: [(&str, Self); 2] = [("mh", Self::Maglev), ("rr", Self::RoundRobin)];
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Maglev => "mh",
            Self::RoundRobin => "rr",
        })
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
    fn an_unknown_scheduler_is_refused_with_the_valid_names() {
        let error = "RR".parse::<Balance>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "no scheduler is called \"RR\"; valid names: mh, rr"
        );
    }
}
