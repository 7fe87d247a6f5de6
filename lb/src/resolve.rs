//! Host names to addresses, off the workers and off the control thread's own loop.
//!
//! Invariant: a name that cannot be resolved keeps the addresses it had; one that never could be
//! has none, and is tried again soon.
//! Read next: `control/reload.rs` (which asks), `config/compile.rs` (what becomes of the answers).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time;

use crate::config::Names;
use crate::log::log;

/// Time between two rounds when all names have addresses.
const INTERVAL: Duration = Duration::from_secs(30);

/// Time before the next round when one has none; doubled each time, up to `INTERVAL`.
const INTERVAL_MISSING: Duration = Duration::from_secs(1);

/// How long one name may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// When to resolve next.
#[derive(Debug)]
pub(crate) struct Schedule {
    missing: Duration,
}

impl Schedule {
    pub(crate) fn new() -> Self {
        Self {
            missing: INTERVAL_MISSING,
        }
    }

    /// The pause after a round with this result.
    pub(crate) fn pause(&mut self, all_found: bool) -> Duration {
        if all_found {
            self.missing = INTERVAL_MISSING;
            return INTERVAL;
        }
        let pause = self.missing;
        self.missing = (pause * 2).min(INTERVAL);
        pause
    }
}

/// What came of resolving names.
#[derive(Debug, Default)]
pub(crate) struct Resolved {
    /// Every name that was asked for.
    pub(crate) names: Names,
    /// Names that failed, and why; they have the addresses they had before, if any.
    pub(crate) failures: Vec<(String, String)>,
}

impl Resolved {
    /// Logs the failures.
    pub(crate) fn logged(self) -> Names {
        for (host, error) in &self.failures {
            let kept = self.names[host].len();
            log!(
                Warn,
                "cannot resolve a backend",
                host = host,
                error = error,
                kept = kept
            );
        }
        self.names
    }
}

/// Resolves all of `hosts` at once. Those that fail keep what `known` has.
pub(crate) async fn resolve(hosts: BTreeSet<String>, known: Names) -> Resolved {
    let look_up = |host: String| (tokio::spawn(look_up(host.clone())), host);
    let lookups: Vec<_> = hosts.into_iter().map(look_up).collect();
    let mut resolved = Resolved::default();
    for (lookup, host) in lookups {
        let found = lookup.await.unwrap_or_else(|error| Err(error.to_string()));
        let addresses = found.unwrap_or_else(|error| {
            resolved.failures.push((host.clone(), error));
            known.get(&host).cloned().unwrap_or_default()
        });
        resolved.names.insert(host, addresses);
    }
    resolved
}

/// The IPv4 addresses of a name, or the IPv6 addresses if it has no others; in order, so that
/// the same answer in another order is no change.
async fn look_up(host: String) -> Result<Vec<IpAddr>, String> {
    let lookup = tokio::net::lookup_host((host.as_str(), 0));
    let addresses = match time::timeout(TIMEOUT, lookup).await {
        Ok(Ok(addresses)) => addresses.map(|address| address.ip()),
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err(format!("no answer within {} s", TIMEOUT.as_secs())),
    };
    let (v4, v6): (BTreeSet<_>, BTreeSet<_>) = addresses.partition(IpAddr::is_ipv4);
    Ok(if v4.is_empty() { v6 } else { v4 }.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_name_is_tried_again_soon_and_then_less_often() {
        let mut schedule = Schedule::new();
        assert_eq!(schedule.pause(true), INTERVAL);
        let pauses: Vec<_> = (0..7).map(|_| schedule.pause(false).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(schedule.pause(true), INTERVAL);
        assert_eq!(schedule.pause(false), INTERVAL_MISSING);
    }

    #[test]
    fn a_name_that_cannot_be_resolved_keeps_its_addresses() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let bad = "no-such-name.invalid".to_owned();
        let hosts = BTreeSet::from([bad.clone(), "localhost".to_owned()]);
        let kept: Vec<IpAddr> = vec!["192.0.2.7".parse().unwrap()];
        let known = Names::from([(bad.clone(), kept.clone())]);
        let resolved = runtime.block_on(resolve(hosts, known));
        assert_eq!(resolved.failures[0].0, bad);
        assert_eq!(resolved.names[&bad], kept);
        assert_eq!(
            resolved.names["localhost"],
            ["127.0.0.1".parse::<IpAddr>().unwrap()]
        );
        runtime.shutdown_background();
    }
}
