//! A cluster as written to a cluster of the plan, but for its backends.
//!
//! Invariant: a setting that would have no effect with another one is refused by name; where it
//! has an effect on a part of the traffic only, a warning says so.
//! Read next: `compile.rs` (who asks), `lb_core::plan::Cluster`.

use std::collections::HashSet;
use std::time::Duration;

use lb_core::plan::{self, Affinity, Balance, HashKey};

use super::compile::or;
use super::decode::Problems;
use super::file::{Cluster, File, Health, Outlier, Protocol};
use super::problem::{Located, Place, Problem};
use crate::checker::Checker;

/// The clusters that listeners use, by what they speak.
#[derive(Debug, Default)]
pub(super) struct Uses<'f> {
    http: HashSet<&'f str>,
    /// TCP or UDP.
    stream: HashSet<&'f str>,
}

impl<'f> Uses<'f> {
    pub(super) fn of(files: &[&'f File]) -> Self {
        let mut uses = Self::default();
        for file in files {
            for listener in &file.listeners {
                match &listener.protocol {
                    Protocol::Udp(udp) => drop(uses.stream.insert(&udp.cluster.value)),
                    Protocol::Tcp(tcp) => {
                        let names = tcp.server_names.iter().flat_map(|names| &names.routes);
                        let clusters = names.map(|name| &name.cluster).chain(&tcp.cluster);
                        uses.stream.extend(clusters.map(|cluster| &*cluster.value));
                    }
                    Protocol::Http(http) => {
                        let routes = http.routes.iter().chain(&file.routes);
                        let clusters = routes
                            .filter_map(|route| route.cluster())
                            .chain(&http.cluster);
                        uses.http.extend(clusters.map(|cluster| &*cluster.value));
                    }
                }
            }
        }
        uses
    }
}

/// Compiles `cluster`; what is wrong and what is odd with it is added to the lists.
pub(super) fn compile(
    cluster: &Cluster,
    uses: &Uses<'_>,
    problems: &mut Problems,
    warnings: &mut Problems,
) -> plan::Cluster {
    let mut compiler = Compiler {
        cluster,
        balance: or(&cluster.balance, Balance::default()),
        problems,
        warnings,
    };
    compiler.refuse_what_has_no_effect();
    compiler.look_at_requests(uses);
    compiler.look_at_backends();
    let outlier = cluster.outlier.as_ref();
    let outlier = outlier.map(|outlier| compiler.outlier(outlier));
    let health = cluster.health.as_ref();
    let health = health.map(|health| compiler.health(health));
    plan::Cluster {
        balance: compiler.balance,
        hash_key: cluster.hash_key.as_ref().map(|key| key.value.clone()),
        bounded_load: or(&cluster.bounded_load, None),
        affinity: or(&cluster.affinity, None),
        slow_start: or(&cluster.slow_start, None),
        panic_threshold: or(&cluster.panic_threshold, 0),
        outlier,
        health,
        connect_timeout: or(&cluster.connect_timeout, Duration::from_secs(5)),
        tries_max: or(&cluster.tries, 3) as u8,
        pool_idle_max: or(&cluster.pool.idle, plan::Cluster::POOL_IDLE_DEFAULT.into()) as u16,
        protocol: or(&cluster.protocol, plan::BackendProtocol::default()),
        pool_idle_timeout: or(&cluster.pool.idle_timeout, Duration::from_secs(30)),
        exchanges: cluster.exchanges,
        tls: cluster.tls.clone(),
        ..plan::Cluster::new(cluster.name.value.clone(), Vec::new())
    }
}

struct Compiler<'c, 'p> {
    cluster: &'c Cluster,
    balance: Balance,
    problems: &'p mut Problems,
    warnings: &'p mut Problems,
}

impl Compiler<'_, '_> {
    fn refuse_what_has_no_effect(&mut self) {
        let cluster = self.cluster;
        if let Some(key) = &cluster.hash_key {
            self.needs(&key.place, "hash_key", Balance::hashes);
        }
        if let Some(Located {
            value: Some(_),
            place,
        }) = &cluster.bounded_load
        {
            self.needs(place, "bounded_load", Balance::can_bound_load);
        }
        if let Some(Located {
            value: Some(_),
            place,
        }) = &cluster.slow_start
        {
            self.needs(place, "slow_start", Balance::can_start_slowly);
        }
        if let Some(Located { value: 1.., place }) = &cluster.panic_threshold
            && cluster.health.is_none()
            && cluster.outlier.is_none()
        {
            let reason = "panic_threshold has no effect without health or outlier: no backend \
                          is ever thought to be down";
            self.problems.push(Problem::new(place, reason));
        }
    }

    /// Refuses a setting that the scheduler takes no notice of.
    fn needs(&mut self, place: &Place, setting: &str, takes: fn(Balance) -> bool) {
        if takes(self.balance) {
            return;
        }
        let names = Balance::NAMES.iter().filter(|(_, balance)| takes(*balance));
        let names: Vec<_> = names.map(|(name, _)| *name).collect();
        let balance = self.balance;
        let names = names.join(", ");
        let reason = format!("{setting} has no effect with balance {balance}; it is for {names}");
        self.problems.push(Problem::new(place, reason));
    }

    /// Settings about requests, in a cluster of TCP or UDP listeners.
    fn look_at_requests(&mut self, uses: &Uses<'_>) {
        let name = &*self.cluster.name.value;
        let (stream, http) = (uses.stream.contains(name), uses.http.contains(name));
        let of_request = |key: &HashKey| match key {
            HashKey::ClientAddress | HashKey::ClientAddressPort | HashKey::Destination => false,
            HashKey::Cookie(_) | HashKey::Header(_) | HashKey::Query(_) | HashKey::Uri => true,
        };
        let hash_key = self.cluster.hash_key.as_ref();
        let hash_key = hash_key.filter(|key| of_request(&key.value));
        let hash_key = hash_key.map(|key| (&key.place, "a hash key", "by the client's address"));
        let affinity = self.cluster.affinity.as_ref().filter(|affinity| {
            matches!(
                affinity.value,
                Some(Affinity::Cookie(_) | Affinity::Header { .. })
            )
        });
        let affinity = affinity.map(|affinity| (&affinity.place, "affinity", "without affinity"));
        for (place, what, instead) in hash_key.into_iter().chain(affinity).filter(|_| stream) {
            if http {
                let reason = format!(
                    "TCP or UDP listeners use this cluster too; they know no requests, and their \
                     sessions are balanced {instead}"
                );
                self.warnings.push(Problem::new(place, reason));
            } else {
                let reason = format!(
                    "{what} of requests has no effect on a cluster that no HTTP listener uses; \
                     by the client's address it has"
                );
                self.problems.push(Problem::new(place, reason));
            }
        }
    }

    fn look_at_backends(&mut self) {
        let backends = &self.cluster.backends;
        let place = &self.cluster.name.place;
        if backends.is_empty() {
            return; // told where the list is
        }
        if backends
            .iter()
            .all(|it| it.drain || it.address.value.weight == 0)
        {
            let reason = "no backend takes new load: all have weight 0 or drain: true";
            self.problems.push(Problem::new(place, reason));
        }
        if backends.iter().all(|it| it.backup) {
            let reason = "all backends have backup: true; at least one must not";
            self.problems.push(Problem::new(place, reason));
        }
        let mut weights = backends.iter().map(|it| it.address.value.weight);
        let first = weights.find(|weight| *weight > 0);
        let differ = weights.any(|weight| weight > 0 && Some(weight) != first);
        if let (true, Some(instead)) = (differ, self.balance.weighted_instead()) {
            let balance = self.balance;
            let reason = format!("balance {balance} ignores weights; {instead} heeds them");
            let place = self.cluster.balance.as_ref().map_or(place, |it| &it.place);
            self.problems.push(Problem::new(place, reason));
        }
    }

    fn outlier(&mut self, located: &Located<Outlier>) -> plan::Outlier {
        let (outlier, default) = (&located.value, plan::Outlier::default());
        let failures = outlier.failures.as_ref();
        let compiled = plan::Outlier {
            failures: failures.map_or(default.failures, |it| it.value.map(|it| it as u16)),
            ratio: or(&outlier.ratio, default.ratio),
            requests_least: outlier
                .requests
                .as_ref()
                .map_or(default.requests_least, |it| it.value as u16),
            window: or(&outlier.window, default.window),
            ejection: or(&outlier.ejection, default.ejection),
            ejection_max: or(&outlier.ejection_max, default.ejection_max),
            ejected_max: or(&outlier.ejected_max, default.ejected_max),
        };
        if compiled.failures.is_none() && compiled.ratio.is_none() {
            let reason = "nothing would ever eject a backend: there is neither failures nor ratio";
            self.problems.push(Problem::new(&located.place, reason));
        }
        let requests = outlier.requests.as_ref().map(|it| (&it.place, "requests"));
        let window = outlier.window.as_ref().map(|it| (&it.place, "window"));
        for (place, key) in requests.into_iter().chain(window) {
            if compiled.ratio.is_none() {
                let reason = format!("{key} has no effect without ratio");
                self.problems.push(Problem::new(place, reason));
            }
        }
        if compiled.ejection > compiled.ejection_max {
            let longer = outlier.ejection.as_ref().map(|it| &it.place);
            let place = longer.unwrap_or(&located.place);
            let reason = "the first ejection is longer than ejection_max (default: 5m)";
            self.problems.push(Problem::new(place, reason));
        }
        compiled
    }

    fn health(&mut self, located: &Located<Health>) -> plan::Health {
        let (health, default) = (&located.value, plan::Health::default());
        // What only the making of a client can show, as the names in certificates.
        if let Err(reason) = Checker::new(&health.check) {
            self.problems.push(Problem::new(&located.place, reason));
        }
        plan::Health {
            check: health.check.clone(),
            interval: or(&health.interval, default.interval),
            jitter: or(&health.jitter, default.jitter),
            timeout: or(&health.timeout, default.timeout),
            rise: or(&health.rise, default.rise.into()) as u8,
            fall: or(&health.fall, default.fall.into()) as u8,
            port: health.port.as_ref().map(|port| port.value as u16),
        }
    }
}
