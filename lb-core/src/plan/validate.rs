//! What a valid plan is. Everything that runs a plan relies on it without looking again.
//!
//! Invariant: all errors are found in one pass, so that a user mends them in one go; each says
//! where it is and can be told apart from every other.
//! Read next: `mod.rs` (the types).

use std::cell::OnceCell;
use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::{Balance, Cluster, Listener, Plan, Protocol, ProxyVersion, Udp};

/// Most backends that one session or exchange may try.
pub const TRIES_LIMIT: u8 = 8;

/// Most backends of a cluster: a quarter of what the 16-bit tables can name.
pub const BACKENDS_MAX: usize = 16_384;

/// Longest deadline. More is a slip of the unit, and no deadline at all.
pub const TIMEOUT_MAX: Duration = Duration::from_hours(365 * 24);

impl Plan {
    /// Checks everything that the types leave open.
    ///
    /// # Errors
    /// All that is wrong, in the order of the plan.
    pub fn validate(&self) -> Result<(), Vec<PlanError>> {
        self.validate_after(&Self::default())
    }

    /// As [`Plan::validate`], where `before` is valid: a part that is there by the same reference
    /// is looked at only for what other parts may have changed about it.
    ///
    /// # Errors
    /// As of [`Plan::validate`].
    pub fn validate_after(&self, before: &Self) -> Result<(), Vec<PlanError>> {
        let mut check = Validation {
            plan: self,
            before,
            has_same_listeners: same_parts(&self.listeners, &before.listeners, |_, _| false),
            has_same_names: same_parts(&self.clusters, &before.clusters, |now, then| {
                now.name == then.name
            }),
            clusters: OnceCell::new(),
            errors: Vec::new(),
        };
        check.listeners();
        check.clusters();
        if check.errors.is_empty() {
            Ok(())
        } else {
            Err(check.errors)
        }
    }
}

/// True if the lists have as many parts and each is the one in its place, or `alike` to it. Of
/// parts that are the same nothing is read: a plan of thousands costs a comparison of pointers.
fn same_parts<T>(now: &[Arc<T>], then: &[Arc<T>], alike: fn(&T, &T) -> bool) -> bool {
    let mut pairs = now.iter().zip(then);
    now.len() == then.len() && pairs.all(|(now, then)| Arc::ptr_eq(now, then) || alike(now, then))
}

/// One thing wrong with a plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// An address that another listener, or another backend of the cluster, has too.
    #[error("{place}: the address {address} is used twice")]
    DuplicateAddress {
        /// The second user.
        place: Place,
        /// The address.
        address: SocketAddr,
    },
    /// A name that an earlier listener or cluster has too.
    #[error("{place}: the name is used twice")]
    DuplicateName {
        /// The second bearer.
        place: Place,
    },
    /// A route with the host and the path of an earlier one.
    #[error("{place}: an earlier route has the same host and path")]
    DuplicateRoute {
        /// The second route.
        place: Place,
    },
    /// A host, path prefix, name or backend address of the wrong form.
    #[error("{place}: {field} {value:?} is not valid: {reason}")]
    Malformed {
        /// Where.
        place: Place,
        /// The field of the plan.
        field: &'static str,
        /// What it holds.
        value: String,
        /// What it should be.
        reason: &'static str,
    },
    /// A setting that would do nothing.
    #[error("{place}: {field} has no effect with balance {balance}: {hint}")]
    NoEffect {
        /// Where.
        place: Place,
        /// The field of the plan.
        field: &'static str,
        /// The scheduler that ignores it.
        balance: Balance,
        /// What to do instead.
        hint: String,
    },
    /// What only requests have, in a cluster that takes connections only.
    #[error("{place}: {field} needs HTTP, and only listeners without it use the cluster")]
    NeedsHttp {
        /// Where.
        place: Place,
        /// The field of the plan.
        field: &'static str,
    },
    /// A number or duration out of its range.
    #[error("{place}: {field} is {value}, which must be {allowed}")]
    OutOfRange {
        /// Where.
        place: Place,
        /// The field of the plan.
        field: &'static str,
        /// What it holds.
        value: String,
        /// The range, in words.
        allowed: String,
    },
    /// A regular expression that cannot be used.
    #[error("{place}: the pattern {pattern:?} is not valid: {reason}")]
    Pattern {
        /// Where.
        place: Place,
        /// The expression.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A cluster that the plan does not have.
    #[error("{place}: there is no cluster {cluster:?}")]
    UnknownCluster {
        /// Who names it.
        place: Place,
        /// The name.
        cluster: String,
    },
}

impl PlanError {
    /// Where in the plan it is.
    pub fn place(&self) -> &Place {
        match self {
            Self::DuplicateAddress { place, .. }
            | Self::DuplicateName { place }
            | Self::DuplicateRoute { place }
            | Self::Malformed { place, .. }
            | Self::NeedsHttp { place, .. }
            | Self::NoEffect { place, .. }
            | Self::OutOfRange { place, .. }
            | Self::Pattern { place, .. }
            | Self::UnknownCluster { place, .. } => place,
        }
    }
}

/// A part of a plan; the numbers are positions in the plan's lists, from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A backend of a cluster.
    Backend {
        /// Position of the cluster.
        cluster: usize,
        /// Name of the cluster.
        name: String,
        /// Position of the backend.
        backend: usize,
    },
    /// A cluster.
    Cluster {
        /// Position.
        cluster: usize,
        /// Name.
        name: String,
    },
    /// A listener.
    Listener {
        /// Position.
        listener: usize,
        /// Name.
        name: String,
    },
    /// A route of a listener.
    Route {
        /// Position of the listener.
        listener: usize,
        /// Name of the listener.
        name: String,
        /// Position of the route.
        route: usize,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backend { name, backend, .. } => {
                write!(f, "cluster {name:?}, backend {}", backend + 1)
            }
            Self::Cluster { name, .. } => write!(f, "cluster {name:?}"),
            Self::Listener { name, .. } => write!(f, "listener {name:?}"),
            Self::Route { name, route, .. } => write!(f, "listener {name:?}, route {}", route + 1),
        }
    }
}

pub(super) struct Validation<'p> {
    pub(super) plan: &'p Plan,
    /// What was found valid before.
    before: &'p Plan,
    /// Whether all listeners are those from before.
    has_same_listeners: bool,
    /// Whether the clusters have the names from before, in the same places.
    has_same_names: bool,
    /// The names of the clusters.
    clusters: OnceCell<HashSet<&'p str>>,
    pub(super) errors: Vec<PlanError>,
}

impl<'p> Validation<'p> {
    fn listeners(&mut self) {
        if self.has_same_listeners && self.has_same_names {
            return;
        }
        let known: HashSet<_> = self.before.listeners.iter().map(Arc::as_ptr).collect();
        let mut names = Seen::default();
        let mut addresses = Seen::default();
        for (index, listener) in self.plan.listeners.iter().enumerate() {
            let place = Place::Listener {
                listener: index,
                name: listener.name.clone(),
            };
            self.name(&place, &listener.name, &mut names);
            let address = listener.address;
            // The kernel gives every listener on port 0 a port of its own.
            let is_udp = matches!(listener.protocol, Protocol::Udp(_));
            if address.port() != 0 && addresses.twice((is_udp, address)) {
                self.errors.push(PlanError::DuplicateAddress {
                    place: place.clone(),
                    address,
                });
            }
            if !known.contains(&Arc::as_ptr(listener)) {
                self.listener(index, listener, &place);
            } else if !self.has_same_names {
                for cluster in listener.clusters() {
                    self.cluster_exists(&place, cluster);
                }
            }
        }
    }

    fn listener(&mut self, index: usize, listener: &'p Listener, place: &Place) {
        self.edge(place, &listener.edge);
        self.socket_kind(place, listener);
        match &listener.protocol {
            Protocol::Tcp(tcp) => self.tcp(place, tcp),
            Protocol::Udp(udp) => self.udp(place, udp),
            Protocol::Http(http) => self.http(index, place, http),
        }
    }

    fn udp(&mut self, place: &Place, udp: &'p Udp) {
        self.timeout(place, "idle_timeout", udp.idle_timeout);
        self.cluster_exists(place, &udp.cluster);
        if udp
            .proxy_out
            .is_some_and(|it| it.version == ProxyVersion::V1)
        {
            let reason = "version 1 of the PROXY protocol has no form for UDP; v2 has";
            self.malformed(place, "proxy_out", "v1", reason);
        }
        let counts = [
            ("replies", udp.replies, u32::MAX),
            ("requests", udp.requests, u32::MAX),
            ("flows_max", Some(udp.flows_max), Udp::FLOWS_LIMIT),
            (
                "flows_per_source_max",
                udp.flows_per_source_max,
                Udp::FLOWS_LIMIT,
            ),
        ];
        for (field, count, limit) in counts {
            if let Some(count) = count {
                self.range(place, field, count, (1, limit));
            }
        }
    }

    fn clusters(&mut self) {
        let known = self.known_clusters();
        let mut names = Seen::default();
        for (index, cluster) in self.plan.clusters.iter().enumerate() {
            let is_known = match self.before.clusters.get(index) {
                Some(then) if Arc::ptr_eq(then, cluster) => true,
                _ => known.contains(&Arc::as_ptr(cluster)),
            };
            // Some of its settings need listeners of a kind.
            let is_settled = is_known && self.has_same_listeners;
            if is_settled && self.has_same_names {
                continue;
            }
            let place = Place::Cluster {
                cluster: index,
                name: cluster.name.clone(),
            };
            if !self.has_same_names {
                self.name(&place, &cluster.name, &mut names);
            }
            if is_settled {
                continue;
            }
            self.cluster(&place, cluster);
            if is_known {
                continue;
            }
            if let Some(health) = &cluster.health {
                self.health(&place, health);
            }
            self.backends(index, cluster);
        }
    }

    /// The clusters from before that may be in another place now.
    fn known_clusters(&self) -> HashSet<*const Cluster> {
        match self.has_same_names {
            true => HashSet::new(),
            false => self.before.clusters.iter().map(Arc::as_ptr).collect(),
        }
    }

    fn name(&mut self, place: &Place, name: &'p str, seen: &mut Seen<&'p str>) {
        if name.is_empty() {
            self.malformed(place, "name", name, "it must not be empty");
        } else if seen.twice(name) {
            self.errors.push(PlanError::DuplicateName {
                place: place.clone(),
            });
        }
    }

    pub(super) fn cluster_exists(&mut self, place: &Place, cluster: &str) {
        let names = || self.plan.clusters.iter().map(|it| &*it.name).collect();
        if !self.clusters.get_or_init(names).contains(cluster) {
            let cluster = cluster.to_owned();
            self.errors.push(PlanError::UnknownCluster {
                place: place.clone(),
                cluster,
            });
        }
    }

    pub(super) fn timeout(&mut self, place: &Place, field: &'static str, value: Duration) {
        if value.is_zero() || value > TIMEOUT_MAX {
            let allowed = String::from("more than 0 and at most 365 days");
            self.out_of_range(place, field, format!("{value:?}"), allowed);
        }
    }

    pub(super) fn range<N>(
        &mut self,
        place: &Place,
        field: &'static str,
        value: N,
        (least, most): (N, N),
    ) where
        N: PartialOrd + fmt::Display,
    {
        if value < least || value > most {
            let allowed = format!("from {least} to {most}");
            self.out_of_range(place, field, value.to_string(), allowed);
        }
    }

    pub(super) fn out_of_range(
        &mut self,
        place: &Place,
        field: &'static str,
        value: String,
        allowed: String,
    ) {
        self.errors.push(PlanError::OutOfRange {
            place: place.clone(),
            field,
            value,
            allowed,
        });
    }

    pub(super) fn malformed(
        &mut self,
        place: &Place,
        field: &'static str,
        value: &str,
        reason: &'static str,
    ) {
        let value = value.to_owned();
        self.errors.push(PlanError::Malformed {
            place: place.clone(),
            field,
            value,
            reason,
        });
    }
}

/// What has been met.
pub(super) struct Seen<T>(HashSet<T>);

impl<T> Default for Seen<T> {
    fn default() -> Self {
        Self(HashSet::new())
    }
}

impl<T: Eq + Hash> Seen<T> {
    pub(super) fn twice(&mut self, value: T) -> bool {
        !self.0.insert(value)
    }
}

/// What is wrong with a route's host; a wildcard stands for the first label only.
pub(super) fn host_problem(host: &str) -> Option<&'static str> {
    let name = host.strip_prefix("*.").unwrap_or(host);
    if let Some(rest) = name.strip_prefix('[') {
        let inner = rest.strip_suffix(']').map(str::parse::<Ipv6Addr>);
        return (!matches!(inner, Some(Ok(_)))).then_some("only an IPv6 address has brackets");
    }
    let labels = name.strip_suffix('.').unwrap_or(name); // complete (RFC 1034 section 3.1)
    if labels.split('.').any(str::is_empty) {
        return Some("a label is empty");
    }
    if labels.contains('*') {
        return Some("a wildcard is the whole first label, as in *.example.com");
    }
    if labels.contains(':') {
        return Some("it has no port, and an IPv6 address stands in brackets");
    }
    if labels.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Some("hosts are written in lower case");
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (!labels.bytes().all(allowed)).then_some("a host has letters, digits, '-', '_' and '.' only")
}

#[cfg(test)]
mod tests {
    use super::super::{Backend, Edge, Health, Http, ListenerLog, Route, Tcp};
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn tcp(name: &str, at: &str, cluster: &str) -> Listener {
        Listener {
            name: name.into(),
            address: address(at),
            edge: Edge::default(),
            access_log: ListenerLog::default(),
            protocol: Protocol::Tcp(Tcp::to(cluster)),
        }
    }

    fn http(routes: Vec<Route>) -> Listener {
        Listener {
            name: "web".into(),
            address: address("127.0.0.1:80"),
            edge: Edge::default(),
            access_log: ListenerLog::default(),
            protocol: Protocol::Http(Http {
                routes,
                ..Http::default()
            }),
        }
    }

    fn route(host: Option<&str>, path_prefix: &str) -> Route {
        Route::to(host, path_prefix, "a")
    }

    fn cluster(name: &str) -> Cluster {
        Cluster::new(name, vec![address("127.0.0.1:9000").into()])
    }

    /// A plan with one cluster, `a`.
    fn plan(listeners: Vec<Listener>) -> Plan {
        Plan {
            listeners: listeners.into_iter().map(Arc::new).collect(),
            clusters: vec![cluster("a").into()],
            ..Plan::default()
        }
    }

    /// The errors, as a user reads them.
    fn errors(plan: &Plan) -> Vec<String> {
        let errors = plan.validate().err().unwrap_or_default();
        errors.iter().map(ToString::to_string).collect()
    }

    /// The one error that a changed cluster `a` gives.
    fn cluster_error(change: impl FnOnce(&mut Cluster)) -> String {
        let mut plan = plan(vec![]);
        change(Arc::make_mut(&mut plan.clusters[0]));
        let errors = errors(&plan);
        assert_eq!(errors.len(), 1, "{errors:?}");
        errors[0].clone()
    }

    fn http_error(change: impl FnOnce(&mut Http)) -> String {
        let mut settings = Http::default();
        change(&mut settings);
        let mut listener = http(vec![]);
        listener.protocol = Protocol::Http(settings);
        let errors = errors(&plan(vec![listener]));
        assert_eq!(errors.len(), 1, "{errors:?}");
        errors[0].clone()
    }

    #[test]
    fn the_defaults_are_valid() {
        let mut plan = plan(vec![
            tcp("db", "0.0.0.0:5432", "a"),
            http(vec![route(None, "/"), route(Some("*.shop.example"), "/a")]),
        ]);
        Arc::make_mut(&mut plan.clusters[0]).health = Some(Health::default());
        assert_eq!(plan.validate(), Ok(()));
        assert_eq!(Plan::default().validate(), Ok(()));
    }

    #[test]
    fn what_stays_is_looked_at_for_what_others_change() {
        let before = plan(vec![tcp("db", "0.0.0.0:1", "a")]);
        assert_eq!(before.validate(), Ok(()));
        assert_eq!(before.validate_after(&before), Ok(()));
        let errors = |plan: &Plan| -> Vec<String> {
            let errors = plan.validate_after(&before).err().unwrap_or_default();
            assert_eq!(plan.validate().err().unwrap_or_default(), errors);
            errors.iter().map(ToString::to_string).collect()
        };
        let mut without = before.clone();
        without.clusters.clear();
        assert_eq!(
            errors(&without),
            ["listener \"db\": there is no cluster \"a\""]
        );
        let mut twice = before.clone();
        twice.listeners.push(Arc::clone(&before.listeners[0]));
        twice.clusters.push(Arc::clone(&before.clusters[0]));
        assert_eq!(errors(&twice).len(), 3);
        let mut worse = before.clone();
        Arc::make_mut(&mut worse.clusters[0]).tries_max = 0;
        assert_eq!(errors(&worse).len(), 1);
    }

    #[test]
    fn an_empty_cluster_is_valid() {
        let mut plan = plan(vec![]);
        Arc::make_mut(&mut plan.clusters[0]).backends.clear();
        assert_eq!(plan.validate(), Ok(()));
    }

    #[test]
    fn unknown_clusters_are_named_where_they_are_used() {
        let mut web = http(vec![route(None, "/"), Route::to(None, "/c", "c")]);
        let Protocol::Http(settings) = &mut web.protocol else {
            unreachable!()
        };
        settings.default_cluster = Some("d".into());
        assert_eq!(
            errors(&plan(vec![tcp("db", "0.0.0.0:1", "b"), web])),
            [
                "listener \"db\": there is no cluster \"b\"",
                "listener \"web\": there is no cluster \"d\"",
                "listener \"web\", route 2: there is no cluster \"c\"",
            ]
        );
    }

    #[test]
    fn names_addresses_and_routes_are_unique() {
        let mut plan = plan(vec![
            tcp("db", "0.0.0.0:1", "a"),
            tcp("db", "0.0.0.0:1", "a"),
            http(vec![
                route(Some("a.b"), "/"),
                route(Some("a.b"), "/x"),
                route(Some("a.b"), "/"),
            ]),
        ]);
        plan.clusters.push(cluster("a").into());
        Arc::make_mut(&mut plan.clusters[1])
            .backends
            .push(address("127.0.0.1:9000").into());
        assert_eq!(
            errors(&plan),
            [
                "listener \"db\": the name is used twice",
                "listener \"db\": the address 0.0.0.0:1 is used twice",
                "listener \"web\", route 3: an earlier route has the same host and path",
                "cluster \"a\": the name is used twice",
                "cluster \"a\", backend 2: the address 127.0.0.1:9000 is used twice",
            ]
        );
    }

    #[test]
    fn port_0_may_be_listened_on_twice_but_not_connected_to() {
        let mut plan = plan(vec![
            tcp("x", "127.0.0.1:0", "a"),
            tcp("y", "127.0.0.1:0", "a"),
        ]);
        assert_eq!(plan.validate(), Ok(()));
        Arc::make_mut(&mut plan.clusters[0]).backends[0] = address("127.0.0.1:0").into();
        let expected = "cluster \"a\", backend 1: address \"127.0.0.1:0\" is not valid: \
                        nothing can listen on port 0";
        assert_eq!(errors(&plan), [expected]);
    }

    #[test]
    fn numbers_of_a_cluster_are_bounded() {
        let place = "cluster \"a\": ";
        let many = |count: usize| -> Vec<Backend> {
            let port = |index: usize| (1 + index % 60_000) as u16;
            (0..count)
                .map(|it| SocketAddr::from(([10, 0, (it / 60_000) as u8, 1], port(it))))
                .map(Backend::from)
                .collect()
        };
        assert_eq!(
            cluster_error(|it| it.backends = many(BACKENDS_MAX + 1)),
            format!("{place}backends is 16385, which must be from 0 to 16384")
        );
        assert_eq!(
            cluster_error(|it| it.tries_max = 0),
            format!("{place}tries_max is 0, which must be from 1 to 8")
        );
        assert_eq!(
            cluster_error(|it| it.tries_max = TRIES_LIMIT + 1),
            format!("{place}tries_max is 9, which must be from 1 to 8")
        );
        let range = "which must be more than 0 and at most 365 days";
        assert_eq!(
            cluster_error(|it| it.connect_timeout = Duration::ZERO),
            format!("{place}connect_timeout is 0ns, {range}")
        );
        assert_eq!(
            cluster_error(|it| it.pool_idle_timeout = Duration::MAX),
            format!("{place}pool_idle_timeout is {:?}, {range}", Duration::MAX)
        );
    }

    #[test]
    fn health_checks_are_bounded() {
        let error = |change: fn(&mut Health)| {
            let mut health = Health::default();
            change(&mut health);
            cluster_error(|it| it.health = Some(health))
        };
        let place = "cluster \"a\": ";
        let range = "which must be from 1 to 255";
        assert_eq!(
            error(|it| it.rise = 0),
            format!("{place}health.rise is 0, {range}")
        );
        assert_eq!(
            error(|it| it.fall = 0),
            format!("{place}health.fall is 0, {range}")
        );
        assert_eq!(
            error(|it| it.timeout = Duration::ZERO),
            format!("{place}health.timeout is 0ns, which must be more than 0 and at most 365 days")
        );
    }

    #[test]
    fn numbers_of_an_http_listener_are_bounded() {
        let place = "listener \"web\": ";
        assert_eq!(
            http_error(|it| it.limits.head_bytes_max = 16 * 1024),
            format!("{place}head_bytes_max is 16384, which must be from 256 to 15360")
        );
        assert_eq!(
            http_error(|it| it.limits.headers_max = 0),
            format!("{place}headers_max is 0, which must be from 1 to 256")
        );
        assert_eq!(
            http_error(|it| it.limits.requests_per_connection_max = Some(0)),
            format!("{place}requests_per_connection_max is 0, which must be from 1 to 4294967295")
        );
        let zero = Duration::ZERO;
        let zeroed = [
            (
                "request_head",
                http_error(|it| it.timeouts.request_head = zero),
            ),
            ("keep_alive", http_error(|it| it.timeouts.keep_alive = zero)),
            ("body_idle", http_error(|it| it.timeouts.body_idle = zero)),
            (
                "response_head",
                http_error(|it| it.timeouts.response_head = zero),
            ),
        ];
        for (field, error) in zeroed {
            assert!(
                error.starts_with(&format!("{place}{field} is 0ns")),
                "{error}"
            );
        }
    }

    #[test]
    fn a_tcp_listener_needs_a_deadline() {
        let mut listener = tcp("db", "0.0.0.0:1", "a");
        let Protocol::Tcp(settings) = &mut listener.protocol else {
            unreachable!()
        };
        settings.idle_timeout = Duration::ZERO;
        let errors = plan(vec![listener]).validate().unwrap_err();
        assert!(matches!(
            errors[..],
            [PlanError::OutOfRange {
                field: "idle_timeout",
                ..
            }]
        ));
    }

    #[test]
    fn a_udp_listener_has_limits_and_may_share_its_address_with_another_protocol() {
        let udp = |settings: Udp| {
            let mut listener = tcp("dns", "0.0.0.0:53", "a");
            listener.protocol = Protocol::Udp(settings);
            listener
        };
        let both = vec![tcp("dns-tcp", "0.0.0.0:53", "a"), udp(Udp::to("a"))];
        assert_eq!(errors(&plan(both)), [""; 0]);
        let mut twin = udp(Udp::to("a"));
        twin.name = "twin".into();
        let twice = plan(vec![udp(Udp::to("a")), twin]).validate().unwrap_err();
        assert!(matches!(twice[..], [PlanError::DuplicateAddress { .. }]));
        let none = Udp {
            idle_timeout: Duration::ZERO,
            replies: Some(0),
            requests: Some(0),
            flows_max: 0,
            flows_per_source_max: Some(Udp::FLOWS_LIMIT + 1),
            ..Udp::to("nowhere")
        };
        assert_eq!(errors(&plan(vec![udp(none)])).len(), 6);
    }

    #[test]
    fn hosts_and_paths_have_a_form() {
        for host in [
            "a.b.",
            "shop.example",
            "*.example",
            "localhost",
            "a_b.c-d",
            "10.0.0.1",
            "[::1]",
        ] {
            assert_eq!(
                errors(&plan(vec![http(vec![route(Some(host), "/")])])),
                [""; 0]
            );
        }
        for host in [
            "", "[::1]:80", "::1", "[a]", ".", "*", "*.", "a..b", "a..", "x*.a", "*.*.a", "A.b",
            "a:80", "a b", "ä.de",
        ] {
            let errors = plan(vec![http(vec![route(Some(host), "/")])])
                .validate()
                .unwrap_err();
            assert!(
                matches!(errors[..], [PlanError::Malformed { field: "host", .. }]),
                "{host}"
            );
        }
        for path in ["", "a", "/a b", "/a?b", "/a#b", "/\u{e4}"] {
            let errors = plan(vec![http(vec![route(None, path)])])
                .validate()
                .unwrap_err();
            assert!(
                matches!(
                    errors[..],
                    [PlanError::Malformed {
                        field: "path prefix",
                        ..
                    }]
                ),
                "{path}"
            );
        }
    }

    #[test]
    fn an_error_leads_to_its_place_in_the_plan() {
        let plan = plan(vec![tcp("", "0.0.0.0:1", "a")]);
        let errors = plan.validate().unwrap_err();
        let place = Place::Listener {
            listener: 0,
            name: String::new(),
        };
        assert_eq!(errors[0].place(), &place);
    }
}
