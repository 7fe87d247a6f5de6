//! Files to a [`Draft`]: everything is checked and filled in, only host names are still names.
//!
//! Invariant: a draft that left no problem is valid; [`Draft::plan`] cannot fail.
//! Read next: `../control/reload.rs` (when this happens), `lb_core::plan` (the result).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lb_core::plan;

use super::decode::Problems;
use super::file::{Cluster, File, Health, Http, Limits, Listener, Protocol, Route, Timeouts};
use super::notation::Host;
use super::problem::{Located, Place, Problem};
use super::settings::Settings;

/// A plan but for the addresses of host names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Draft {
    pub(crate) listeners: Vec<plan::Listener>,
    pub(crate) settings: Settings,
    clusters: Vec<DraftCluster>,
    hash_seed: u64,
}

/// A cluster without its backends, and these as they were written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct DraftCluster {
    plan: plan::Cluster,
    backends: Vec<DraftBackend>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct DraftBackend {
    host: Host,
    port: u16,
    weight: u16,
    name: Option<String>,
}

/// The addresses of host names, as last resolved.
pub(crate) type Names = HashMap<String, Vec<IpAddr>>;

impl Draft {
    /// The host names that backends have.
    pub(crate) fn host_names(&self) -> BTreeSet<&str> {
        let backends = self.clusters.iter().flat_map(|cluster| &cluster.backends);
        backends
            .filter_map(|backend| match &backend.host {
                Host::Name(name) => Some(name.as_str()),
                Host::Address(_) => None,
            })
            .collect()
    }

    /// The plan; a name without addresses brings no backend.
    pub(crate) fn plan(&self, names: &Names) -> plan::Plan {
        plan::Plan {
            listeners: self.listeners.clone(),
            clusters: self
                .clusters
                .iter()
                .map(|cluster| cluster.plan(names))
                .collect(),
            hash_seed: self.hash_seed,
        }
    }
}

impl DraftCluster {
    /// An address that two names share is there once.
    fn plan(&self, names: &Names) -> plan::Cluster {
        let mut seen = HashSet::new();
        let backends = self.backends.iter().flat_map(|backend| backend.plan(names));
        let backends = backends
            .filter(|backend| seen.insert(backend.address))
            .collect();
        plan::Cluster {
            backends,
            ..self.plan.clone()
        }
    }
}

impl DraftBackend {
    /// One backend for each address of its host, named `HOST/ADDRESS:PORT` if it has a name.
    fn plan(&self, names: &Names) -> Vec<plan::Backend> {
        let backend = |address: &IpAddr, label: Option<&str>, own_name: bool| {
            let address = SocketAddr::new(*address, self.port);
            let name = match label {
                Some(label) if own_name => label.to_owned(),
                Some(label) => format!("{label}/{address}"),
                None => address.to_string(),
            };
            plan::Backend {
                address,
                name,
                weight: self.weight,
            }
        };
        match &self.host {
            Host::Address(address) => vec![backend(address, self.name.as_deref(), true)],
            Host::Name(host) => {
                let label = self.name.as_deref().or(Some(host));
                let addresses = names.get(host).map(Vec::as_slice).unwrap_or_default();
                addresses
                    .iter()
                    .map(|address| backend(address, label, false))
                    .collect()
            }
        }
    }
}

/// Checks the sources together and fills in what was not written. The draft is valid if this
/// leaves no problem.
pub(crate) fn compile(files: &[File], problems: &mut Problems) -> Draft {
    let mut compiler = Compiler {
        clusters: BTreeMap::new(),
        problems,
    };
    let clusters = files.iter().flat_map(|file| &file.clusters);
    let clusters = clusters.map(|cluster| compiler.cluster(cluster)).collect();
    let listeners = compiler.listeners(files);
    let mut settings = Settings::default();
    files
        .iter()
        .for_each(|file| settings.overlay(&file.settings));
    let hash_seed = files
        .iter()
        .filter_map(|file| file.hash_seed.as_ref())
        .next_back();
    Draft {
        listeners,
        settings,
        clusters,
        hash_seed: hash_seed.map_or(0, |seed| seed.value),
    }
}

/// What has been met so far.
struct Compiler<'p> {
    /// Names of the clusters of all sources, and where they are.
    clusters: BTreeMap<String, Place>,
    problems: &'p mut Problems,
}

impl Compiler<'_> {
    fn cluster(&mut self, cluster: &Cluster) -> DraftCluster {
        let name = &cluster.name;
        if let Some(first) = self.clusters.insert(name.value.clone(), name.place.clone()) {
            self.twice(&name.place, "cluster", &name.value, &first);
        }
        let mut seen = HashMap::new();
        for backend in &cluster.backends {
            let own = backend.name.as_ref().map(|name| name.value.clone());
            let label = own.unwrap_or_else(|| backend.address.value.name());
            let place = &backend.address.place;
            if let Some(first) = seen.insert(label.clone(), place) {
                self.twice(place, "backend", &label, first);
            }
        }
        let backends = cluster.backends.iter().map(|backend| DraftBackend {
            host: backend.address.value.host.clone(),
            port: backend.address.value.port,
            weight: backend.address.value.weight,
            name: backend.name.as_ref().map(|name| name.value.clone()),
        });
        DraftCluster {
            plan: cluster_plan(cluster),
            backends: backends.collect(),
        }
    }

    fn listeners(&mut self, files: &[File]) -> Vec<plan::Listener> {
        let mut listeners = Vec::new();
        let mut names = HashMap::new();
        let mut addresses = HashMap::new();
        for file in files {
            for listener in &file.listeners {
                let address = &listener.address;
                let name = listener.name.as_ref().map(|name| name.value.clone());
                let name = name.unwrap_or_else(|| address.value.to_string());
                if let Some(first) = names.insert(name.clone(), address.place.clone()) {
                    self.twice(&address.place, "listener", &name, &first);
                } else if let Some(first) = overlap(&mut addresses, address) {
                    self.twice(
                        &address.place,
                        "address",
                        &address.value.to_string(),
                        &first,
                    );
                }
                let protocol = self.protocol(listener, &file.routes);
                listeners.push(plan::Listener {
                    name,
                    address: address.value,
                    protocol,
                });
            }
        }
        listeners
    }

    fn protocol(&mut self, listener: &Listener, shared_routes: &[Route]) -> plan::Protocol {
        match &listener.protocol {
            Protocol::Tcp(tcp) => plan::Protocol::Tcp(plan::Tcp {
                cluster: self.known_cluster(&tcp.cluster),
                idle_timeout: or(&tcp.idle_timeout, Duration::from_secs(3600)),
            }),
            Protocol::Http(http) => plan::Protocol::Http(self.http(http, shared_routes)),
        }
    }

    fn http(&mut self, http: &Http, shared_routes: &[Route]) -> plan::Http {
        let mut seen = HashMap::new();
        let mut routes = Vec::new();
        for route in http.routes.iter().chain(shared_routes) {
            let what = format!("{}{}", route.host.as_deref().unwrap_or("*"), route.path);
            if let Some(first) = seen.insert(what.clone(), &route.place) {
                self.twice(&route.place, "route", &what, first);
            }
            let cluster = self.known_cluster(&route.cluster);
            let (host, path_prefix) = (route.host.clone(), route.path.clone());
            routes.push(plan::Route {
                host,
                path_prefix,
                cluster,
            });
        }
        plan::Http {
            routes,
            default_cluster: http
                .cluster
                .as_ref()
                .map(|cluster| self.known_cluster(cluster)),
            limits: limits(&http.limits),
            timeouts: timeouts(&http.timeouts),
            forwarded: or(&http.forwarded, plan::Forwarded::default()),
        }
    }

    fn known_cluster(&mut self, name: &Located<String>) -> String {
        if !self.clusters.contains_key(&name.value) {
            let reason = format!("there is no cluster \"{}\"", name.value);
            let known = self.clusters.keys().map(String::as_str);
            self.problems
                .push(Problem::unknown(&name.place, reason, &name.value, known));
        }
        name.value.clone()
    }

    fn twice(&mut self, place: &Place, what: &str, name: &str, first: &Place) {
        let first = match first {
            Place::Flag { flag, value } => format!("in {flag} {value}"),
            Place::File { file, line, .. } => format!("at {file}:{line}"),
        };
        let reason = format!("the {what} \"{name}\" is here a second time; the first is {first}");
        self.problems.push(Problem::new(place, reason));
    }
}

/// The place of a listener whose address takes the same connections. `[::]` takes IPv4 too.
fn overlap(seen: &mut HashMap<SocketAddr, Place>, address: &Located<SocketAddr>) -> Option<Place> {
    let (ip, port) = (address.value.ip(), address.value.port());
    if port == 0 {
        return None;
    }
    let twins = [IpAddr::from([0, 0, 0, 0]), IpAddr::from([0u16; 8])];
    let twin = twins.iter().filter(|_| ip.is_unspecified());
    let met = twin
        .chain([&ip])
        .find_map(|ip| seen.get(&SocketAddr::new(*ip, port)).cloned());
    seen.insert(address.value, address.place.clone());
    met
}

fn cluster_plan(cluster: &Cluster) -> plan::Cluster {
    plan::Cluster {
        name: cluster.name.value.clone(),
        backends: Vec::new(),
        balance: or(&cluster.balance, plan::Balance::default()),
        health: cluster.health.as_ref().map(health),
        connect_timeout: or(&cluster.connect_timeout, Duration::from_secs(5)),
        tries_max: or(&cluster.tries, 3) as u8,
        pool_idle_max: or(&cluster.pool.idle, 64) as u16,
        pool_idle_timeout: or(&cluster.pool.idle_timeout, Duration::from_secs(30)),
    }
}

fn health(health: &Health) -> plan::Health {
    plan::Health {
        check: plan::Check::Tcp,
        interval: or(&health.interval, Duration::from_secs(2)),
        timeout: or(&health.timeout, Duration::from_secs(1)),
        rise: or(&health.rise, 2) as u8,
        fall: or(&health.fall, 3) as u8,
    }
}

fn limits(limits: &Limits) -> plan::HttpLimits {
    plan::HttpLimits {
        head_bytes_max: or(&limits.head, 15_360) as u32,
        headers_max: or(&limits.headers, 100) as u16,
        body_bytes_max: or(&limits.body, None),
        requests_per_connection_max: or(&limits.requests_per_connection, None)
            .map(|requests| requests as u32),
    }
}

fn timeouts(timeouts: &Timeouts) -> plan::HttpTimeouts {
    plan::HttpTimeouts {
        request_head: or(&timeouts.request_head, Duration::from_secs(15)),
        keep_alive: or(&timeouts.keep_alive, Duration::from_secs(75)),
        body_idle: or(&timeouts.body_idle, Duration::from_secs(60)),
        response_head: or(&timeouts.response_head, Duration::from_secs(60)),
    }
}

/// What was written, or the default. Readers have checked the range of every number.
fn or<T: Clone>(written: &Option<Located<T>>, default: T) -> T {
    written
        .as_ref()
        .map_or(default, |written| written.value.clone())
}
