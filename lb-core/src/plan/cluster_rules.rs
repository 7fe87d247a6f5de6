//! What a valid cluster is: ranges, names, and settings that go together.
//!
//! Invariant: a setting that the cluster's scheduler, or its listeners, would ignore is refused
//! and says what to take instead.
//! Read next: `validate.rs` (the errors), `cluster.rs` (the types).

use std::net::SocketAddr;
use std::time::Duration;

use super::validate::{Place, PlanError, Seen, Validation};
use super::{
    Affinity, BACKENDS_MAX, Backend, Balance, Cluster, CookieAffinity, HashKey, Outlier, Plan,
    Protocol, SameSite, Secure, TIMEOUT_MAX, TRIES_LIMIT,
};

impl<'p> Validation<'p> {
    /// All but the cluster's name, its health checks and its backends one by one.
    pub(super) fn cluster(&mut self, place: &Place, cluster: &'p Cluster) {
        self.range(place, "backends", cluster.backends.len(), (0, BACKENDS_MAX));
        self.range(place, "tries_max", cluster.tries_max, (1, TRIES_LIMIT));
        self.range(place, "panic_threshold", cluster.panic_threshold, (0, 100));
        self.timeout(place, "connect_timeout", cluster.connect_timeout);
        self.timeout(place, "pool_idle_timeout", cluster.pool_idle_timeout);
        self.cluster_exchanges(place, cluster);
        self.weights(place, cluster);
        self.hashing(place, cluster);
        if let Some(duration) = cluster.slow_start {
            self.timeout(place, "slow_start", duration);
            if !cluster.balance.can_start_slowly() {
                self.no_effect(place, "slow_start", cluster, Balance::can_start_slowly);
            }
        }
        if let Some(outlier) = &cluster.outlier {
            self.outlier(place, outlier);
        }
        if let Some(affinity) = &cluster.affinity {
            self.affinity(place, cluster, affinity);
        }
        if let Some(tls) = &cluster.tls {
            self.backend_tls(place, tls);
        }
    }

    /// The backends of the cluster at position `index` of the plan.
    pub(super) fn backends(&mut self, index: usize, cluster: &'p Cluster) {
        let mut seen = Seen::default();
        for (position, backend) in cluster.backends.iter().enumerate() {
            let place = Place::Backend {
                cluster: index,
                name: cluster.name.clone(),
                backend: position,
            };
            let address = backend.address;
            if let Some(reason) = address_problem(address) {
                self.malformed(&place, "address", &address.to_string(), reason);
            }
            // The mapped form of an IPv4 address leads to the same place.
            if seen.twice(SocketAddr::new(address.ip().to_canonical(), address.port())) {
                self.errors
                    .push(PlanError::DuplicateAddress { place, address });
            }
        }
    }

    fn weights(&mut self, place: &Place, cluster: &Cluster) {
        let weights = || {
            cluster
                .backends
                .iter()
                .map(|backend: &Backend| backend.weight)
        };
        if !cluster.backends.is_empty() && weights().all(|weight| weight == 0) {
            let value = String::from("0 for every backend");
            let allowed = String::from("more than 0 for at least one");
            self.out_of_range(place, "weight", value, allowed);
        }
        let mut positive = weights().filter(|&weight| weight > 0);
        let first = positive.next();
        if positive.any(|weight| Some(weight) != first)
            && let Some(instead) = cluster.balance.weighted_instead()
        {
            self.errors.push(PlanError::NoEffect {
                place: place.clone(),
                field: "weight",
                balance: cluster.balance,
                hint: format!("take {instead}, or one weight for all backends"),
            });
        }
    }

    fn hashing(&mut self, place: &Place, cluster: &Cluster) {
        if let Some(key) = &cluster.hash_key {
            if !cluster.balance.hashes() {
                self.no_effect(place, "hash_key", cluster, Balance::hashes);
            }
            self.hash_key(place, cluster, key);
        }
        if let Some(percent) = cluster.bounded_load {
            self.range(place, "bounded_load", percent, (101, u16::MAX));
            if !cluster.balance.can_bound_load() {
                self.no_effect(place, "bounded_load", cluster, Balance::can_bound_load);
            }
        }
    }

    fn hash_key(&mut self, place: &Place, cluster: &Cluster, key: &HashKey) {
        match key {
            HashKey::ClientAddress | HashKey::ClientAddressPort | HashKey::Destination => return,
            HashKey::Cookie(name) => self.token(place, "hash_key.cookie", name),
            HashKey::Header(name) => self.header_name(place, "hash_key.header", name),
            HashKey::Query(name) if name.is_empty() => {
                self.malformed(place, "hash_key.query", name, "it must not be empty");
            }
            HashKey::Query(_) | HashKey::Uri => {}
        }
        self.needs_http(place, "hash_key", cluster);
    }

    fn outlier(&mut self, place: &Place, outlier: &Outlier) {
        match outlier.failures {
            Some(failures) => self.range(place, "outlier.failures", failures, (1, u16::MAX)),
            None if outlier.ratio.is_none() => {
                let allowed = String::from("given when outlier.ratio is not");
                self.out_of_range(place, "outlier.failures", "none".to_owned(), allowed);
            }
            None => {}
        }
        if let Some(ratio) = outlier.ratio {
            self.range(place, "outlier.ratio", ratio, (1, 100));
        }
        self.range(
            place,
            "outlier.requests_least",
            outlier.requests_least,
            (1, u16::MAX),
        );
        self.range(place, "outlier.ejected_max", outlier.ejected_max, (1, 100));
        self.timeout(place, "outlier.window", outlier.window);
        self.timeout(place, "outlier.ejection", outlier.ejection);
        self.timeout(place, "outlier.ejection_max", outlier.ejection_max);
        if outlier.ejection_max < outlier.ejection {
            let value = format!("{:?}", outlier.ejection_max);
            let allowed = format!("at least outlier.ejection, {:?}", outlier.ejection);
            self.out_of_range(place, "outlier.ejection_max", value, allowed);
        }
    }

    fn affinity(&mut self, place: &Place, cluster: &Cluster, affinity: &Affinity) {
        match affinity {
            Affinity::ClientAddress {
                timeout,
                ipv4_prefix,
                ipv6_prefix,
            } => {
                self.affinity_timeout(place, *timeout);
                self.range(place, "affinity.ipv4_prefix", *ipv4_prefix, (1, 32));
                self.range(place, "affinity.ipv6_prefix", *ipv6_prefix, (1, 128));
            }
            Affinity::Header { name, timeout } => {
                self.affinity_timeout(place, *timeout);
                self.header_name(place, "affinity.header", name);
                self.needs_http(place, "affinity.header", cluster);
            }
            Affinity::Cookie(cookie) => {
                self.cookie(place, cookie);
                self.needs_http(place, "affinity.cookie", cluster);
            }
        }
    }

    fn cookie(&mut self, place: &Place, cookie: &CookieAffinity) {
        self.token(place, "affinity.cookie.name", &cookie.name);
        if !cookie.path.starts_with('/') || !cookie.path.bytes().all(is_cookie_attribute) {
            self.malformed(place, "affinity.cookie.path", &cookie.path, COOKIE_PATH);
        }
        if let Some(domain) = &cookie.domain {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
            if domain.is_empty() || !domain.bytes().all(allowed) {
                self.malformed(place, "affinity.cookie.domain", domain, COOKIE_DOMAIN);
            }
        }
        if let Some(max_age) = cookie.max_age
            && !(Duration::from_secs(1)..=TIMEOUT_MAX).contains(&max_age)
        {
            let allowed = String::from("from 1 s to 365 days");
            self.out_of_range(
                place,
                "affinity.cookie.max_age",
                format!("{max_age:?}"),
                allowed,
            );
        }
        if cookie.same_site == Some(SameSite::None) && cookie.secure == Secure::Never {
            let allowed = String::from("auto or always, as browsers refuse SameSite=None without");
            self.out_of_range(place, "affinity.cookie.secure", "never".to_owned(), allowed);
        }
    }

    fn affinity_timeout(&mut self, place: &Place, timeout: Duration) {
        if timeout < Affinity::TIMEOUT_LEAST || timeout > Affinity::TIMEOUT_LIMIT {
            let allowed = String::from("from 1 s to 86400 s");
            self.out_of_range(place, "affinity.timeout", format!("{timeout:?}"), allowed);
        }
    }

    fn header_name(&mut self, place: &Place, field: &'static str, name: &str) {
        if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            self.malformed(place, field, name, "header names are written in lower case");
        } else {
            self.token(place, field, name);
        }
    }

    fn token(&mut self, place: &Place, field: &'static str, name: &str) {
        if name.is_empty() || !name.bytes().all(is_token) {
            self.malformed(place, field, name, TOKEN);
        }
    }

    fn no_effect(
        &mut self,
        place: &Place,
        field: &'static str,
        cluster: &Cluster,
        has_effect: impl Fn(Balance) -> bool,
    ) {
        let with = Balance::NAMES
            .iter()
            .filter(|(_, balance)| has_effect(*balance));
        let names: Vec<&str> = with.map(|(name, _)| *name).collect();
        self.errors.push(PlanError::NoEffect {
            place: place.clone(),
            field,
            balance: cluster.balance,
            hint: format!("it works with {}", names.join(", ")),
        });
    }

    /// A listener without HTTP may share the cluster with one that has it, and do without.
    fn needs_http(&mut self, place: &Place, field: &'static str, cluster: &Cluster) {
        if is_without_http(self.plan, &cluster.name) {
            self.errors.push(PlanError::NeedsHttp {
                place: place.clone(),
                field,
            });
        }
    }
}

/// Whether listeners use a cluster, and none of them speaks HTTP.
/// Whether listeners send to the cluster, and none of them by HTTP.
fn is_without_http(plan: &Plan, cluster: &str) -> bool {
    let mut is_used = false;
    for listener in &plan.listeners {
        if listener.clusters().any(|name| name == cluster) {
            if matches!(listener.protocol, Protocol::Http(_)) {
                return false;
            }
            is_used = true;
        }
    }
    is_used
}

fn address_problem(address: SocketAddr) -> Option<&'static str> {
    if address.port() == 0 {
        Some("nothing can listen on port 0")
    } else if address.ip().is_multicast() {
        Some("it is a multicast address")
    } else {
        None
    }
}

const TOKEN: &str = "it must be a token of RFC 9110 section 5.6.2: letters, digits, and \
                     !#$%&'*+-.^_`|~";
const COOKIE_PATH: &str = "it must start with '/' and have visible ASCII only, no ';'";
const COOKIE_DOMAIN: &str = "a domain has letters, digits, '-' and '.' only";

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// RFC 6265 section 4.1.1, path-value, without spaces.
fn is_cookie_attribute(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b';'
}

#[cfg(test)]
mod tests {
    use super::super::{CookieMode, Edge, Http, Listener, ListenerLog, Tcp};
    use super::*;

    fn cluster(balance: Balance, weights: &[u16]) -> Cluster {
        let backend = |(number, &weight): (usize, &u16)| Backend {
            weight,
            ..SocketAddr::from(([10, 0, 0, 1], 1 + number as u16)).into()
        };
        Cluster {
            balance,
            ..Cluster::new("a", weights.iter().enumerate().map(backend).collect())
        }
    }

    /// The errors of a cluster that a listener for HTTP, or for TCP, uses; without its name.
    fn errors_with(cluster: Cluster, http: bool) -> Vec<String> {
        let protocol = if http {
            Protocol::Http(Http {
                default_cluster: Some("a".to_owned()),
                ..Http::default()
            })
        } else {
            Protocol::Tcp(Tcp::to("a"))
        };
        let listener = Listener {
            name: "l".to_owned(),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            protocol,
            edge: Edge::default(),
            access_log: ListenerLog::default(),
        };
        let plan = Plan {
            listeners: vec![listener.into()],
            clusters: vec![cluster.into()],
            ..Plan::default()
        };
        let errors = plan.validate().err().unwrap_or_default();
        let texts = errors.iter().map(ToString::to_string);
        texts.map(|it| it.replace("cluster \"a\": ", "")).collect()
    }

    /// The errors of a valid cluster that was changed.
    fn errors(balance: Balance, change: impl FnOnce(&mut Cluster)) -> Vec<String> {
        let mut cluster = cluster(balance, &[1, 1]);
        change(&mut cluster);
        errors_with(cluster, true)
    }

    #[test]
    fn every_scheduler_takes_equal_weights_and_drained_backends() {
        for (_, balance) in Balance::NAMES {
            assert_eq!(errors_with(cluster(balance, &[7, 0, 7]), true), [""; 0]);
        }
    }

    #[test]
    fn weights_that_would_be_ignored_are_refused() {
        let refused = Balance::NAMES.iter().filter_map(|&(name, balance)| {
            let errors = errors_with(cluster(balance, &[1, 2]), true);
            assert!(errors.len() <= 1, "{errors:?}");
            Some((name, errors.into_iter().next()?))
        });
        let expected = |name, instead| {
            let text = format!(
                "weight has no effect with balance {name}: take {instead}, or one weight for all \
                 backends"
            );
            (name, text)
        };
        assert_eq!(
            refused.collect::<Vec<_>>(),
            [
                expected("dh", "mh"),
                expected("ewma", "p2c"),
                expected("lc", "wlc"),
                expected("rr", "wrr"),
            ]
        );
    }

    #[test]
    fn one_backend_at_least_has_a_weight() {
        let error = "weight is 0 for every backend, which must be more than 0 for at least one";
        assert_eq!(
            errors_with(cluster(Balance::Maglev, &[0, 0]), true),
            [error]
        );
        assert_eq!(errors_with(cluster(Balance::Maglev, &[]), true), [""; 0]);
    }

    #[test]
    fn what_a_scheduler_ignores_is_refused_with_those_that_do_not() {
        let hashing = "it works with dh, lblc, lblcr, mh, ring, sh";
        let bounding = "it works with dh, mh, ring, sh";
        let slow = "it works with ewma, lc, nq, p2c, random, rr, sed, twos, wlc, wrr";
        for (name, balance) in Balance::NAMES {
            let refused = |is_fit: bool, field, hint| -> Vec<String> {
                let text = format!("{field} has no effect with balance {name}: {hint}");
                (!is_fit).then_some(text).into_iter().collect()
            };
            assert_eq!(
                errors(balance, |it| it.hash_key = Some(HashKey::Uri)),
                refused(balance.hashes(), "hash_key", hashing)
            );
            assert_eq!(
                errors(balance, |it| it.bounded_load = Some(125)),
                refused(balance.can_bound_load(), "bounded_load", bounding)
            );
            assert_eq!(
                errors(balance, |it| it.slow_start = Some(Duration::from_secs(30))),
                refused(balance.can_start_slowly(), "slow_start", slow)
            );
        }
    }

    #[test]
    fn numbers_are_bounded() {
        let of = |change: fn(&mut Cluster)| errors(Balance::Maglev, change);
        assert_eq!(
            of(|it| it.bounded_load = Some(100)),
            ["bounded_load is 100, which must be from 101 to 65535"]
        );
        assert_eq!(
            of(|it| it.panic_threshold = 101),
            ["panic_threshold is 101, which must be from 0 to 100"]
        );
        let of = |timeout, prefixes: (u8, u8)| {
            errors(Balance::Maglev, |it| {
                it.affinity = Some(Affinity::ClientAddress {
                    timeout,
                    ipv4_prefix: prefixes.0,
                    ipv6_prefix: prefixes.1,
                });
            })
        };
        assert_eq!(of(Affinity::TIMEOUT_DEFAULT, (32, 128)), [""; 0]);
        assert_eq!(of(Affinity::TIMEOUT_LEAST, (1, 1)), [""; 0]);
        assert_eq!(
            of(Duration::from_millis(999), (0, 129)),
            [
                "affinity.timeout is 999ms, which must be from 1 s to 86400 s",
                "affinity.ipv4_prefix is 0, which must be from 1 to 32",
                "affinity.ipv6_prefix is 129, which must be from 1 to 128",
            ]
        );
        assert_eq!(
            of(Affinity::TIMEOUT_LIMIT + Duration::from_nanos(1), (24, 64)).len(),
            1
        );
    }

    #[test]
    fn outlier_detection_is_bounded() {
        let of = |change: fn(&mut Outlier)| {
            let mut outlier = Outlier::default();
            change(&mut outlier);
            errors(Balance::Maglev, |it| it.outlier = Some(outlier))
        };
        assert_eq!(of(|_| {}), [""; 0]);
        assert_eq!(
            of(|it| it.failures = None),
            ["outlier.failures is none, which must be given when outlier.ratio is not"]
        );
        assert_eq!(
            of(|it| (it.failures, it.ratio) = (Some(0), Some(101))),
            [
                "outlier.failures is 0, which must be from 1 to 65535",
                "outlier.ratio is 101, which must be from 1 to 100",
            ]
        );
        assert_eq!(
            of(|it| (it.requests_least, it.ejected_max) = (0, 0)),
            [
                "outlier.requests_least is 0, which must be from 1 to 65535",
                "outlier.ejected_max is 0, which must be from 1 to 100",
            ]
        );
        assert_eq!(
            of(|it| it.ejection_max = Duration::from_secs(1)),
            ["outlier.ejection_max is 1s, which must be at least outlier.ejection, 30s"]
        );
        assert_eq!(of(|it| it.window = Duration::ZERO).len(), 1);
    }

    #[test]
    fn names_of_headers_and_cookies_are_tokens() {
        let key = |key| errors(Balance::Maglev, |it| it.hash_key = Some(key));
        assert_eq!(key(HashKey::Header("x-user".into())), [""; 0]);
        assert_eq!(
            key(HashKey::Header("X-User".into())),
            ["hash_key.header \"X-User\" is not valid: header names are written in lower case"]
        );
        for name in ["", "a b", "a=b", "a;", "\u{e4}"] {
            assert_eq!(key(HashKey::Header(name.into())).len(), 1, "{name}");
            assert_eq!(key(HashKey::Cookie(name.into())).len(), 1, "{name}");
            let cookie = Affinity::Cookie(CookieAffinity::new(name));
            assert_eq!(
                errors(Balance::Maglev, |it| it.affinity = Some(cookie)).len(),
                1
            );
            let header = Affinity::Header {
                name: name.to_owned(),
                timeout: Affinity::TIMEOUT_DEFAULT,
            };
            assert_eq!(
                errors(Balance::Maglev, |it| it.affinity = Some(header)).len(),
                1
            );
        }
        assert_eq!(key(HashKey::Query(String::new())).len(), 1);
        assert_eq!(key(HashKey::Query("a b".into())), [""; 0]);
    }

    #[test]
    fn cookies_have_a_form() {
        let of = |change: fn(&mut CookieAffinity)| {
            let mut cookie = CookieAffinity::new("lb");
            change(&mut cookie);
            errors(Balance::Maglev, |it| {
                it.affinity = Some(Affinity::Cookie(cookie))
            })
        };
        assert_eq!(of(|it| it.mode = CookieMode::Balanced), [""; 0]);
        for path in ["", "a", "/a;b", "/a b", "/\r\n"] {
            let cookie = CookieAffinity {
                path: path.to_owned(),
                ..CookieAffinity::new("lb")
            };
            let errors = errors(Balance::Maglev, |it| {
                it.affinity = Some(Affinity::Cookie(cookie));
            });
            assert_eq!(errors.len(), 1, "{path}");
        }
        assert_eq!(
            of(|it| it.domain = Some(".shop.example".to_owned())),
            [""; 0]
        );
        assert_eq!(of(|it| it.domain = Some("a;b".to_owned())).len(), 1);
        assert_eq!(
            of(|it| it.max_age = Some(Duration::ZERO)),
            ["affinity.cookie.max_age is 0ns, which must be from 1 s to 365 days"]
        );
        assert_eq!(
            of(|it| (it.same_site, it.secure) = (Some(SameSite::None), Secure::Never)),
            [
                "affinity.cookie.secure is never, which must be auto or always, as browsers refuse \
              SameSite=None without"
            ]
        );
    }

    #[test]
    fn what_needs_requests_is_refused_for_connections() {
        let cookie = Affinity::Cookie(CookieAffinity::new("lb"));
        let mut changed = cluster(Balance::Maglev, &[1]);
        changed.affinity = Some(cookie);
        changed.hash_key = Some(HashKey::Uri);
        assert_eq!(errors_with(changed.clone(), true), [""; 0]);
        assert_eq!(
            errors_with(changed, false),
            [
                "hash_key needs HTTP, and only listeners without it use the cluster",
                "affinity.cookie needs HTTP, and only listeners without it use the cluster",
            ]
        );
        let mut changed = cluster(Balance::Maglev, &[1]);
        changed.affinity = Some(Affinity::client_address(Affinity::TIMEOUT_DEFAULT));
        changed.hash_key = Some(HashKey::ClientAddressPort);
        assert_eq!(errors_with(changed, false), [""; 0]);
    }

    #[test]
    fn addresses_of_backends_are_distinct_and_can_be_connected_to() {
        let of = |addresses: &[&str]| {
            let backends = addresses
                .iter()
                .map(|it| it.parse::<SocketAddr>().unwrap().into());
            errors_with(Cluster::new("a", backends.collect()), true)
        };
        assert_eq!(of(&["10.0.0.1:80", "10.0.0.1:81", "[::1]:80"]), [""; 0]);
        assert_eq!(
            of(&["10.0.0.1:80", "[::ffff:10.0.0.1]:80"]),
            ["cluster \"a\", backend 2: the address [::ffff:10.0.0.1]:80 is used twice"]
        );
        assert_eq!(of(&["224.0.0.1:80", "[ff02::1]:80"]).len(), 2);
    }
}
