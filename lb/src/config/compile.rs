//! Files to a [`Draft`]: everything is checked and filled in, only host names are still names.
//!
//! Invariant: a draft that left no problem is valid; [`Draft::plan`] cannot fail.
//! Read next: `../control/reload.rs` (when this happens), `lb_core::plan` (the result).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use lb_core::plan::{self, Condition, CookieKey, PlanError, Tier};

use super::compile_cluster::{self, Uses};
use super::decode::Problems;
use super::file::{
    Action, Backend, Cluster, File, Http, Limits, Listener, Protocol, Route, ServerNames, Tcp,
    Timeouts, Udp,
};
use super::notation::Host;
use super::problem::{Located, Place, Problem};
use super::routes;
use super::settings::Settings;
use crate::log::log;
use crate::show;

/// A plan but for the addresses of host names.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) settings: Settings,
    listeners: Vec<plan::Listener>,
    /// Where the listeners were written, by name.
    places: HashMap<String, Place>,
    clusters: Vec<DraftCluster>,
    hash_seed: u64,
    cookie_key: Option<CookieKey>,
    /// What is odd without being wrong.
    pub(crate) warnings: Problems,
}

/// A cluster without its backends, and these as they were written.
#[derive(Debug, Clone)]
struct DraftCluster {
    plan: plan::Cluster,
    place: Place,
    backends: Vec<DraftBackend>,
}

#[derive(Debug, Clone)]
struct DraftBackend {
    host: Host,
    port: u16,
    weight: u16,
    tier: Tier,
    condition: Condition,
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

    /// Writes to the log what is odd without being wrong.
    pub(crate) fn log_warnings(&self) {
        for warning in &self.warnings {
            log!(Warn, "the configuration is odd", warning = warning);
        }
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

    /// The plan has the last word. What it finds was overlooked here, so this finds nothing;
    /// host names stand for addresses that no backend has.
    pub(super) fn last_word(&self) -> Problems {
        let hosts = self.host_names().into_iter().zip(1_u16..);
        let stand_in = |number| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, number]);
        let names = hosts.map(|(host, number)| (host.to_owned(), vec![stand_in(number)]));
        let errors = self.plan(&names.collect()).validate().err();
        let problem = |error: PlanError| match error.place() {
            plan::Place::Backend { cluster, .. } | plan::Place::Cluster { cluster, .. } => {
                Problem::new(&self.clusters[*cluster].place, error.to_string())
            }
            plan::Place::Listener { name, .. } | plan::Place::Route { name, .. } => {
                self.listener_problem(name, error.to_string())
            }
        };
        errors.into_iter().flatten().map(problem).collect()
    }

    /// The plan; a name without addresses brings no backend.
    pub(crate) fn plan(&self, names: &Names) -> plan::Plan {
        plan::Plan {
            listeners: self.listeners.iter().cloned().map(Arc::new).collect(),
            clusters: self
                .clusters
                .iter()
                .map(|cluster| Arc::new(cluster.plan(names)))
                .collect(),
            hash_seed: self.hash_seed,
            cookie_key: self.cookie_key.clone(),
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
    fn new(backend: &Backend) -> Self {
        let text = &backend.address.value;
        let own_name = backend.name.as_ref().map(|name| name.value.clone());
        Self {
            host: text.host.clone(),
            port: text.port,
            weight: text.weight,
            tier: if backend.backup {
                Tier::Backup
            } else {
                Tier::Primary
            },
            condition: if backend.drain {
                Condition::Draining
            } else {
                Condition::Ready
            },
            name: own_name.unwrap_or_else(|| text.name()),
            place: backend.address.place.clone(),
        }
    }

    /// One backend for each address of its host; all have the host's name.
    fn plan(&self, names: &Names) -> Vec<plan::Backend> {
        let addresses = match &self.host {
            Host::Address(address) => slice::from_ref(address),
            Host::Name(host) => names.get(host).map(Vec::as_slice).unwrap_or_default(),
        };
        let backend = |address: &IpAddr| plan::Backend {
            name: self.name.clone(),
            weight: self.weight,
            tier: self.tier,
            condition: self.condition,
            ..SocketAddr::new(*address, self.port).into()
        };
        addresses.iter().map(backend).collect()
    }
}

/// Checks the sources together and fills in what was not written. The draft is valid if this
/// leaves no problem.
pub(crate) fn compile(files: &[&File], problems: &mut Problems) -> Draft {
    let uses = Uses::of(files);
    let mut warnings = Problems::new();
    let mut compiler = Compiler {
        clusters: BTreeMap::new(),
        uses: &uses,
        problems,
        warnings: &mut warnings,
    };
    let clusters = files.iter().flat_map(|file| &file.clusters);
    let clusters = clusters.map(|cluster| compiler.cluster(cluster)).collect();
    let mut places = HashMap::new();
    let listeners = compiler.listeners(files, &mut places);
    let mut settings = Settings::default();
    files
        .iter()
        .for_each(|file| settings.overlay(&file.settings));
    let last = |file: &&File| file.hash_seed.as_ref().map(|seed| seed.value);
    let hash_seed = files.iter().filter_map(last).next_back();
    let last = |file: &&File| file.cookie_key.as_ref().map(|key| key.value.clone());
    let cookie_key = files.iter().filter_map(last).next_back();
    Draft {
        settings,
        listeners,
        places,
        clusters,
        hash_seed: hash_seed.unwrap_or(0),
        cookie_key,
        warnings,
    }
}

/// What has been met so far.
struct Compiler<'p> {
    /// Names of the clusters of all sources, and where they are.
    clusters: BTreeMap<String, Place>,
    uses: &'p Uses<'p>,
    problems: &'p mut Problems,
    warnings: &'p mut Problems,
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
            let draft = DraftBackend::new(backend);
            let written = backend.address.value.name();
            let names = [(&draft.name, "backend"), (&written, "address")];
            for (name, what) in names {
                if let Some(first) = seen.get(name) {
                    self.twice(&draft.place, what, name, first);
                    break;
                }
            }
            seen.insert(written, draft.place.clone());
            seen.insert(draft.name.clone(), draft.place.clone());
            if let Some(reason) = unusable(&draft.host) {
                self.problems.push(Problem::new(&draft.place, reason));
            }
            backends.push(draft);
        }
        if backends.len() > plan::BACKENDS_MAX {
            let reason = format!("more than {} backends", plan::BACKENDS_MAX);
            self.problems.push(Problem::new(&name.place, reason));
        }
        let plan = compile_cluster::compile(cluster, self.uses, self.problems, self.warnings);
        DraftCluster {
            plan,
            place: name.place.clone(),
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
        let mut addresses = [HashMap::new(), HashMap::new()]; // UDP has its own
        for file in files {
            for listener in &file.listeners {
                let is_udp = matches!(listener.protocol, Protocol::Udp(_));
                let addresses = &mut addresses[usize::from(is_udp)];
                let protocol = self.protocol(listener, &file.routes);
                for (name, address) in each_port(listener, is_udp) {
                    let place = &address.place;
                    let text = lb_core::rt::shown(address.value).to_string();
                    if let Some(first) = places.insert(name.clone(), place.clone()) {
                        self.twice(place, "listener", &name, &first);
                    } else if let Some(first) = overlap(addresses, &address) {
                        self.twice(place, "address", &text, &first);
                    }
                    listeners.push(plan::Listener {
                        name,
                        address: address.value,
                        edge: listener.edge.clone(),
                        access_log: listener.access_log.clone(),
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
            Protocol::Udp(udp) => plan::Protocol::Udp(self.udp(udp)),
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

    fn udp(&mut self, udp: &Udp) -> plan::Udp {
        let default = plan::Udp::to(self.known_cluster(&udp.cluster));
        let count = |written: &Option<Located<Option<u64>>>, default: Option<u32>| {
            or(written, default.map(u64::from)).map(|count| count as u32)
        };
        plan::Udp {
            idle_timeout: or(&udp.idle_timeout, default.idle_timeout),
            replies: count(&udp.replies, default.replies),
            requests: count(&udp.requests, default.requests),
            flows_max: or(&udp.flows_max, default.flows_max.into()) as u32,
            flows_per_source_max: count(&udp.flows_per_source_max, default.flows_per_source_max),
            proxy_out: udp.proxy_out,
            ..default
        }
    }

    fn http(&mut self, http: &Http, shared_routes: &[Route]) -> plan::Http {
        let mut seen = HashMap::new();
        let mut routes = Vec::new();
        for route in http.routes.iter().chain(shared_routes) {
            let host = route.host.as_deref().unwrap_or("*");
            let what = format!("{host}{}", show::routes::path(&route.path));
            // A slash at the end of a prefix makes no difference.
            let is_prefix = matches!(route.path, plan::PathMatch::Prefix(_));
            let key = if is_prefix {
                what.trim_end_matches('/')
            } else {
                &what
            };
            if let Some(first) = seen.insert(key.to_owned(), &route.place) {
                self.twice(&route.place, "route", &what, first);
            }
            routes::missing_groups(route, self.problems);
            routes.push(plan::Route {
                host: route.host.clone(),
                path: route.path.clone(),
                action: self.action(&route.action),
            });
        }
        plan::Http {
            routes,
            default_cluster: http
                .cluster
                .as_ref()
                .map(|cluster| self.known_cluster(cluster)),
            matching: http.matching,
            limits: limits(&http.limits),
            timeouts: timeouts(&http.timeouts),
            forwarded: or(&http.forwarded, plan::Forwarded::default()),
            http2: http.http2,
            tls: http.tls.as_ref().map(|tls| {
                tls.warn(lb_core::rt::wall_clock(), self.warnings);
                tls.server.clone()
            }),
            request_id: or(&http.request_id, plan::RequestId::default()),
            exchanges: http.exchanges.compile(http.timeouts.upgrade_idle.as_ref()),
        }
    }

    fn action(&mut self, action: &Action) -> plan::RouteAction {
        match action {
            Action::Answer(status) => plan::RouteAction::Answer { status: *status },
            Action::Cluster { cluster, rewrite } => plan::RouteAction::Cluster {
                name: self.known_cluster(cluster),
                rewrite: rewrite.clone(),
            },
            Action::Redirect(redirect) => plan::RouteAction::Redirect(redirect.clone()),
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
fn each_port(listener: &Listener, is_udp: bool) -> Vec<(String, Located<SocketAddr>)> {
    let Located {
        value: address,
        place,
    } = &listener.address;
    let name = listener.name.as_ref().map(|name| &name.value);
    let first = address.port();
    let each = |port: u16| {
        let address = SocketAddr::new(address.ip(), port);
        let name = match (name, listener.last_port) {
            (None, _) => Listener::default_name(address, is_udp),
            (Some(name), None) => name.clone(),
            (Some(name), Some(_)) => format!("{name}-{port}"),
        };
        let (value, place) = (address, place.clone());
        (name, Located { value, place })
    };
    let last = listener.last_port.unwrap_or(first);
    (first..=last).map(each).collect()
}

/// Why nothing can be sent to an address, whatever listens there.
fn unusable(host: &Host) -> Option<String> {
    let Host::Address(address) = host else {
        return None;
    };
    if let IpAddr::V6(v6) = address
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        return Some(format!(
            "\"{v6}\" is an IPv4 address in IPv6 form; write {v4}"
        ));
    }
    let broadcast = *address == IpAddr::V4(Ipv4Addr::BROADCAST);
    (address.is_unspecified() || address.is_multicast() || broadcast)
        .then(|| format!("\"{address}\" is not the address of one machine"))
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
pub(super) fn or<T: Clone>(written: &Option<Located<T>>, default: T) -> T {
    written
        .as_ref()
        .map_or(default, |written| written.value.clone())
}
