//! Files to a [`Draft`]: everything is checked and filled in, only host names are still names.
//!
//! Invariant: a draft that left no problem is valid; [`Draft::plan`] cannot fail.
//! Read next: `../control/reload.rs` (when this happens), `lb_core::plan` (the result).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::slice;
use std::time::Duration;

use lb_core::plan;

use super::decode::Problems;
use super::file::{
    Cluster, File, Health, Http, Limits, Listener, Protocol, Route, ServerNames, Tcp, Timeouts,
};
use super::notation::{BackendText, Host};
use super::problem::{Located, Place, Problem};
use super::settings::Settings;

/// A plan but for the addresses of host names.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) settings: Settings,
    listeners: Vec<plan::Listener>,
    /// Where the listeners were written, by name.
    places: HashMap<String, Place>,
    clusters: Vec<DraftCluster>,
    hash_seed: u64,
}

/// A cluster without its backends, and these as they were written.
#[derive(Debug, Clone)]
struct DraftCluster {
    plan: plan::Cluster,
    backends: Vec<DraftBackend>,
}

#[derive(Debug, Clone)]
struct DraftBackend {
    host: Host,
    port: u16,
    weight: u16,
    name: String,
    place: Place,
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

    /// Something about a listener that only binding it could show.
    pub(crate) fn listener_problem(&self, listener: &str, reason: String) -> Problem {
        let unknown = || Place::Flag {
            flag: "listener",
            value: listener.to_owned(),
        };
        Problem::new(
            &self.places.get(listener).cloned().unwrap_or_else(unknown),
            reason,
        )
    }

    /// Something about a host name that only resolving it could show.
    pub(crate) fn host_problem(&self, host: &str, reason: &str) -> Problem {
        let mut backends = self.clusters.iter().flat_map(|cluster| &cluster.backends);
        let of_host = |backend: &&DraftBackend| backend.host == Host::Name(host.to_owned());
        let place = backends.find(of_host).map(|backend| backend.place.clone());
        let unknown = || Place::Flag {
            flag: "host",
            value: host.to_owned(),
        };
        let reason = format!("the name \"{host}\" cannot be resolved: {reason}");
        Problem::new(&place.unwrap_or_else(unknown), reason)
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
            cookie_key: None,
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
    /// One backend for each address of its host; all have the host's name.
    fn plan(&self, names: &Names) -> Vec<plan::Backend> {
        let addresses = match &self.host {
            Host::Address(address) => slice::from_ref(address),
            Host::Name(host) => names.get(host).map(Vec::as_slice).unwrap_or_default(),
        };
        let backend = |address: &IpAddr| plan::Backend {
            name: self.name.clone(),
            weight: self.weight,
            ..SocketAddr::new(*address, self.port).into()
        };
        addresses.iter().map(backend).collect()
    }
}

/// Checks the sources together and fills in what was not written. The draft is valid if this
/// leaves no problem.
pub(crate) fn compile(files: &[&File], problems: &mut Problems) -> Draft {
    let mut compiler = Compiler {
        clusters: BTreeMap::new(),
        problems,
    };
    let clusters = files.iter().flat_map(|file| &file.clusters);
    let clusters = clusters.map(|cluster| compiler.cluster(cluster)).collect();
    let mut places = HashMap::new();
    let listeners = compiler.listeners(files, &mut places);
    let mut settings = Settings::default();
    files
        .iter()
        .for_each(|file| settings.overlay(&file.settings));
    let hash_seed = files
        .iter()
        .filter_map(|file| file.hash_seed.as_ref())
        .next_back();
    Draft {
        settings,
        listeners,
        places,
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
        let mut backends = Vec::new();
        for backend in &cluster.backends {
            let BackendText { host, port, weight } = backend.address.value.clone();
            let own_name = backend.name.as_ref().map(|name| name.value.clone());
            let name = own_name.unwrap_or_else(|| backend.address.value.name());
            let place = &backend.address.place;
            if let Some(first) = seen.insert(name.clone(), place) {
                self.twice(place, "backend", &name, first);
            }
            let place = place.clone();
            backends.push(DraftBackend {
                host,
                port,
                weight,
                name,
                place,
            });
        }
        if backends.len() > plan::BACKENDS_MAX {
            let reason = format!("more than {} backends", plan::BACKENDS_MAX);
            self.problems.push(Problem::new(&name.place, reason));
        }
        DraftCluster {
            plan: cluster_plan(cluster),
            backends,
        }
    }

    /// `places` takes up where each of them was written.
    fn listeners(
        &mut self,
        files: &[&File],
        places: &mut HashMap<String, Place>,
    ) -> Vec<plan::Listener> {
        let mut listeners = Vec::new();
        let mut addresses = HashMap::new();
        for file in files {
            for listener in &file.listeners {
                let protocol = self.protocol(listener, &file.routes);
                for (name, address) in each_port(listener) {
                    let place = &address.place;
                    let text = address.value.to_string();
                    if let Some(first) = places.insert(name.clone(), place.clone()) {
                        self.twice(place, "listener", &name, &first);
                    } else if let Some(first) = overlap(&mut addresses, &address) {
                        self.twice(place, "address", &text, &first);
                    }
                    listeners.push(plan::Listener {
                        name,
                        address: address.value,
                        edge: listener.edge.clone(),
                        protocol: protocol.clone(),
                    });
                }
            }
        }
        listeners
    }

    fn protocol(&mut self, listener: &Listener, shared_routes: &[Route]) -> plan::Protocol {
        match &listener.protocol {
            Protocol::Tcp(tcp) => plan::Protocol::Tcp(self.tcp(tcp)),
            Protocol::Http(http) => plan::Protocol::Http(self.http(http, shared_routes)),
        }
    }

    fn tcp(&mut self, tcp: &Tcp) -> plan::Tcp {
        let cluster = tcp.cluster.as_ref();
        plan::Tcp {
            cluster: cluster.map(|cluster| self.known_cluster(cluster)),
            idle_timeout: or(&tcp.idle_timeout, plan::Tcp::IDLE_TIMEOUT_DEFAULT),
            relay: or(&tcp.relay, plan::Relay::default()),
            lifetime: tcp.lifetime.as_ref().map(|lifetime| lifetime.value),
            proxy_out: tcp.proxy_out,
            backend_limit: tcp.backend_limit,
            backend_socket: tcp.backend_socket.clone(),
            server_names: tcp
                .server_names
                .as_ref()
                .map(|names| self.server_names(names)),
        }
    }

    fn server_names(&mut self, names: &ServerNames) -> plan::ServerNames {
        let mut seen = HashMap::new();
        let mut routes = Vec::new();
        for route in &names.routes {
            let any = std::iter::once("").filter(|_| route.protocols.is_empty());
            for protocol in route.protocols.iter().map(String::as_str).chain(any) {
                let what = (route.name.clone(), protocol.to_owned());
                if let Some(first) = seen.insert(what, &route.place) {
                    self.twice(&route.place, "server name", &route.name, first);
                }
            }
            routes.push(plan::ServerName {
                name: route.name.clone(),
                protocols: route.protocols.clone(),
                cluster: self.known_cluster(&route.cluster),
            });
        }
        let hello_timeout = plan::ServerNames::HELLO_TIMEOUT_DEFAULT;
        plan::ServerNames {
            routes,
            hello_timeout: or(&names.hello_timeout, hello_timeout),
            otherwise: or(&names.otherwise, plan::Otherwise::default()),
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

/// Names and addresses of the listeners that one with a range of ports stands for.
fn each_port(listener: &Listener) -> Vec<(String, Located<SocketAddr>)> {
    let Located {
        value: address,
        place,
    } = &listener.address;
    let name = listener.name.as_ref().map(|name| &name.value);
    let first = address.port();
    let each = |port: u16| {
        let address = SocketAddr::new(address.ip(), port);
        let name = match (name, listener.last_port) {
            (None, _) => address.to_string(),
            (Some(name), None) => name.clone(),
            (Some(name), Some(_)) => format!("{name}-{port}"),
        };
        let (value, place) = (address, place.clone());
        (name, Located { value, place })
    };
    let last = listener.last_port.unwrap_or(first);
    (first..=last).map(each).collect()
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
        hash_key: None,
        bounded_load: None,
        affinity: None,
        slow_start: None,
        panic_threshold: 0,
        outlier: None,
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
        ..plan::Health::default()
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
