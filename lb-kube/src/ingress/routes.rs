//! All Ingresses together, to the routes and certificates of the listeners.
//!
//! Invariant: of two that want the same host and path, or a certificate for the same host, the
//! older one has it, then the one whose name sorts first; the other is told so.
//! Sources: Kubernetes documentation, "Ingress"; ingress-nginx, "How it works", "Path matching".
//! Read next: `part.rs` (one Ingress).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use lb_core::plan::{
    self, Edge, Forwarded, HostMatching, Http, ListenerLog, Matching, PathForm, PathMatch,
    Protocol, Redirect, RequestId, Rewrite, Route, RouteAction, Scheme, TlsServer,
};

use super::certificates::{Made, certificate};
use super::class::Mode;
use super::part::{Leads, Part, PathKind, PathRule};
use super::{ClusterRequest, IngressOptions, Output};
use crate::object::Name;
use crate::problem::{Problem, Severity};
use crate::store::Store;

/// Where challenges of certificates are answered, without a redirect to HTTPS.
const CHALLENGES: &str = "/.well-known/acme-challenge";

/// The status of redirects to HTTPS, as ingress-nginx's `http-redirect-code`.
const TO_HTTPS: u16 = 308;

/// What an Ingress without an endpoint for a path answers.
const NOWHERE: u16 = 503;

/// Certificates made before, by Secret and hosts.
pub(super) type Certificates = BTreeMap<Name, Made>;

/// One route, not yet in the form of a listener.
struct Wanted<'p> {
    part: &'p Part,
    field: &'p str,
    path: &'p str,
    /// `None` for what stands in for the default backend.
    kind: Option<PathKind>,
    leads: &'p Leads,
}

/// What is wanted of one host, the older Ingresses first.
#[derive(Default)]
struct Host<'p> {
    wanted: Vec<Wanted<'p>>,
    is_regex: bool,
    has_tls: bool,
}

/// Puts parts together. `parts` are in any order.
pub(super) fn join(
    parts: &BTreeMap<Name, Part>,
    store: &Store,
    options: &IngressOptions,
    certificates: &mut Certificates,
) -> Output {
    let mut sorted: Vec<&Part> = parts.values().collect();
    // One without a time is as new as can be.
    sorted.sort_by_key(|part| {
        let created = part.created.as_ref();
        (
            created.is_none(),
            created.cloned(),
            part.object.name.clone(),
        )
    });
    let mut output = Output::default();
    for part in &sorted {
        output.problems.extend(part.problems.iter().cloned());
    }
    if sorted.is_empty() {
        return output;
    }
    let tls_hosts = tls_hosts(&sorted);
    let mut joiner = Joiner {
        hosts: BTreeMap::new(),
        tls_hosts: &tls_hosts,
        output: &mut output,
        clusters: HashSet::new(),
    };
    joiner.gather(&sorted);
    let (mut http, mut https) = joiner.routes();
    let default = joiner.default(&sorted);
    let is_nginx = sorted.iter().any(|part| part.mode == Mode::Nginx);
    let settings = settings(is_nginx);
    let wants_tls = is_nginx || sorted.iter().any(|part| !part.tls.is_empty());
    if let Some((None, on_tls)) = &default {
        let nowhere = Route {
            host: None,
            path: PathMatch::Prefix("/".to_owned()),
            action: RouteAction::Answer { status: NOWHERE },
        };
        https.extend(on_tls.then(|| nowhere.clone()));
        http.push(nowhere);
    }
    let (http, https) = (unique(http), unique(https));
    if let Some(address) = options.http {
        let http = Http {
            routes: http,
            default_cluster: default.as_ref().and_then(|it| it.0.clone()),
            ..settings.clone()
        };
        output
            .listeners
            .push(listener("ingress-http", address, http));
    }
    if let (true, Some(address), Some(fallback)) = (wants_tls, options.https, &options.fallback) {
        let found = joined_certificates(&sorted, store, certificates, &mut output.problems);
        let mut list = vec![Arc::clone(fallback)];
        list.extend(found);
        let on_tls = default.filter(|it| it.1).and_then(|it| it.0);
        let http = Http {
            routes: https,
            default_cluster: on_tls,
            tls: Some(TlsServer::new(list)),
            ..settings
        };
        output
            .listeners
            .push(listener("ingress-https", address, http));
    }
    output
}

/// Hosts that have a TLS section, wildcards as they are written.
fn tls_hosts(parts: &[&Part]) -> HashSet<String> {
    let of_part = |part: &&Part| {
        let mut hosts = BTreeSet::new();
        for section in &part.tls {
            if section.hosts.is_empty() {
                hosts.extend(part.rules.iter().filter_map(|rule| rule.host.clone()));
            }
            hosts.extend(section.hosts.iter().cloned());
        }
        hosts
    };
    parts.iter().flat_map(of_part).collect()
}

fn settings(is_nginx: bool) -> Http {
    Http {
        matching: Matching {
            hosts: match is_nginx {
                true => HostMatching::Closest,
                false => HostMatching::FallThrough,
            },
            paths: match is_nginx {
                true => PathForm::Normalized,
                false => PathForm::AsSent,
            },
        },
        // The first thing that requests meet: what they say of who sent them is not to be trusted.
        forwarded: Forwarded::Replace,
        request_id: match is_nginx {
            true => RequestId::Accept,
            false => RequestId::Off,
        },
        ..Http::default()
    }
}

fn listener(name: &str, address: std::net::SocketAddr, http: Http) -> Arc<plan::Listener> {
    Arc::new(plan::Listener {
        name: name.to_owned(),
        address,
        edge: Edge::default(),
        access_log: ListenerLog::default(),
        protocol: Protocol::Http(http),
    })
}

struct Joiner<'p, 'o> {
    hosts: BTreeMap<Option<&'p str>, Host<'p>>,
    tls_hosts: &'p HashSet<String>,
    output: &'o mut Output,
    /// Those that are asked for already.
    clusters: HashSet<String>,
}

impl<'p> Joiner<'p, '_> {
    /// Sorts what is wanted by host.
    fn gather(&mut self, parts: &[&'p Part]) {
        for part in parts {
            for rule in &part.rules {
                let name = rule.host.as_deref();
                let has_tls = name.is_some_and(|it| self.has_tls(it));
                let host = self.hosts.entry(name).or_default();
                host.has_tls |= has_tls;
                for PathRule {
                    field,
                    path,
                    kind,
                    leads,
                } in &rule.paths
                {
                    host.is_regex |= part.wants_regex(path);
                    let kind = Some(*kind);
                    host.wanted.push(Wanted {
                        part,
                        field,
                        path,
                        kind,
                        leads,
                    });
                }
            }
        }
        // The default backend of an Ingress takes what its hosts have no path for.
        for part in parts {
            let Some(leads) = &part.default else { continue };
            let hosts: BTreeSet<_> = part
                .rules
                .iter()
                .filter_map(|it| it.host.as_deref())
                .collect();
            for name in hosts {
                let host = self.hosts.entry(Some(name)).or_default();
                let field = "spec.defaultBackend";
                let (path, kind) = ("/", None);
                host.wanted.push(Wanted {
                    part,
                    field,
                    path,
                    kind,
                    leads,
                });
            }
        }
    }

    fn has_tls(&self, host: &str) -> bool {
        let wildcard = host.split_once('.').map(|(_, rest)| format!("*.{rest}"));
        let covered = wildcard.is_some_and(|it| self.tls_hosts.contains(&it));
        covered || self.tls_hosts.contains(host)
    }

    /// The routes of the listener in the clear, and of the one with TLS.
    fn routes(&mut self) -> (Vec<Route>, Vec<Route>) {
        let (mut http, mut https) = (Vec::new(), Vec::new());
        for (name, host) in std::mem::take(&mut self.hosts) {
            let kept = self.without_conflicts(name, host.wanted, host.is_regex);
            let kept = if host.is_regex {
                longest_first(kept)
            } else {
                kept
            };
            let mut challenges = Vec::new();
            let slashes = missing_slashes(&kept, host.is_regex);
            for wanted in &kept {
                let action = self.action(wanted, host.is_regex);
                let route = Route {
                    host: name.map(str::to_owned),
                    path: path_match(wanted, host.is_regex),
                    action,
                };
                let has_tls = host.has_tls || (name.is_none() && !wanted.part.tls.is_empty());
                if wanted.part.mode == Mode::Nginx || has_tls {
                    https.push(route.clone());
                }
                if is_redirected(wanted, has_tls) {
                    if covers_challenges(&route.path) {
                        let path = PathMatch::Prefix(CHALLENGES.to_owned());
                        let action = route.action.clone();
                        let host = route.host.clone();
                        challenges.push(Route { host, path, action });
                    }
                    let action = RouteAction::Redirect(Redirect {
                        scheme: Some(Scheme::Https),
                        trims_slash: true,
                        ..Redirect::by(TO_HTTPS)
                    });
                    http.push(Route { action, ..route });
                } else {
                    http.push(route);
                }
            }
            http.extend(challenges);
            for path in slashes {
                let redirect = Redirect {
                    path: Some(Rewrite::Path(format!("{path}/"))),
                    ..Redirect::by(301)
                };
                let route = Route {
                    host: name.map(str::to_owned),
                    path: PathMatch::Exact(path),
                    action: RouteAction::Redirect(redirect),
                };
                https.push(route.clone());
                http.push(route);
            }
        }
        (http, https)
    }

    fn without_conflicts(
        &mut self,
        host: Option<&str>,
        wanted: Vec<Wanted<'p>>,
        is_regex: bool,
    ) -> Vec<Wanted<'p>> {
        let mut first: HashMap<PathMatch, &Part> = HashMap::new();
        let mut kept = Vec::new();
        for wanted in wanted {
            let key = match path_match(&wanted, is_regex) {
                PathMatch::Prefix(path) => PathMatch::Prefix(path.trim_end_matches('/').to_owned()),
                key => key,
            };
            match first.get(&key) {
                None => {
                    first.insert(key, wanted.part);
                    kept.push(wanted);
                }
                // It is there for what is left over.
                Some(_) if wanted.kind.is_none() => {}
                Some(other) => {
                    let of = match std::ptr::eq(*other, wanted.part) {
                        true => "it is here a second time".to_owned(),
                        false => format!("{} has it, which is older or sorts first", other.object),
                    };
                    let host = host.unwrap_or("*");
                    let reason = format!("\"{}\" of host \"{host}\": {of}", wanted.path);
                    let object = &wanted.part.object;
                    let hint = "the path is left out";
                    let problem = Problem::new(Severity::Error, object, wanted.field, reason, hint);
                    self.output.problems.push(problem);
                }
            }
        }
        kept
    }

    fn action(&mut self, wanted: &Wanted<'_>, is_regex: bool) -> RouteAction {
        let Some(name) = self.cluster(wanted.leads) else {
            return RouteAction::Answer { status: NOWHERE };
        };
        let rewrite = wanted.part.annotations.rewrite.as_ref();
        let rewrite = rewrite.filter(|it| is_regex && *it != wanted.path && wanted.kind.is_some());
        RouteAction::Cluster {
            name,
            rewrite: rewrite.map(|it| Rewrite::Path(it.clone())),
        }
    }

    /// Asks for the cluster.
    fn cluster(&mut self, leads: &Leads) -> Option<String> {
        let Leads::To { cluster, request } = leads else {
            return None;
        };
        if self.clusters.insert(cluster.clone()) {
            self.output.clusters.push(ClusterRequest::clone(request));
        }
        Some(cluster.clone())
    }

    /// Where a request goes that no route matches, if there is such a place, and whether over TLS,
    /// too.
    fn default(&mut self, parts: &[&Part]) -> Option<(Option<String>, bool)> {
        let is_for_all = |part: &&&Part| part.mode == Mode::Strict || part.rules.is_empty();
        let alone = parts.iter().filter(|part| part.rules.is_empty());
        let mut others = parts.iter().filter(|part| !part.rules.is_empty());
        let others = others.by_ref().filter(is_for_all);
        let mut with_default = alone.chain(others).filter(|part| part.default.is_some());
        let first = with_default.next()?;
        for other in with_default.filter(|part| part.rules.is_empty()) {
            let reason = format!("{} has what no rule matches", first.object);
            let (object, field) = (&other.object, "spec.defaultBackend");
            let problem = Problem::new(Severity::Warning, object, field, reason, "");
            self.output.problems.push(problem);
        }
        let cluster = self.cluster(first.default.as_ref()?);
        Some((cluster, first.mode == Mode::Nginx || !first.tls.is_empty()))
    }
}

fn path_match(wanted: &Wanted<'_>, is_regex: bool) -> PathMatch {
    let path = wanted.path.to_owned();
    if is_regex {
        let pattern = if wanted.kind.is_none() {
            "/".to_owned()
        } else {
            escaped(wanted)
        };
        return PathMatch::Regex {
            pattern,
            ignore_case: true,
        };
    }
    match (wanted.kind, wanted.part.mode) {
        (Some(PathKind::Exact), _) => PathMatch::Exact(path),
        (Some(PathKind::Implementation), Mode::Nginx) => PathMatch::Start(path),
        (Some(PathKind::Prefix), Mode::Nginx) if path.ends_with('/') => PathMatch::Start(path),
        _ => PathMatch::Prefix(path),
    }
}

/// The path as a pattern: every path of such a host is one, whether it was meant so or not.
fn escaped(wanted: &Wanted<'_>) -> String {
    match plan::pattern_problem(wanted.path, true) {
        None => wanted.path.to_owned(),
        // Of an Ingress that did not ask for expressions, beside one that did.
        Some(_) => wanted
            .path
            .chars()
            .flat_map(|it| {
                let escape = (!it.is_ascii_alphanumeric() && it != '/').then_some('\\');
                escape.into_iter().chain([it])
            })
            .collect(),
    }
}

/// As ingress-nginx orders expressions.
fn longest_first(mut wanted: Vec<Wanted<'_>>) -> Vec<Wanted<'_>> {
    wanted.sort_by_key(|it| std::cmp::Reverse(it.path.len()));
    wanted
}

/// Paths without the slash that nginx adds by a redirect.
fn missing_slashes(wanted: &[Wanted<'_>], is_regex: bool) -> BTreeSet<String> {
    let slashed = wanted.iter().filter(|it| {
        let is_nginx = it.part.mode == Mode::Nginx && !is_regex;
        is_nginx && it.path.len() > 1 && it.path.ends_with('/')
    });
    let bare = slashed.map(|it| it.path.trim_end_matches('/'));
    let is_taken = |path: &&str| {
        wanted
            .iter()
            .any(|it| it.path == *path && it.kind != Some(PathKind::Implementation))
    };
    bare.filter(|path| !is_taken(path))
        .map(str::to_owned)
        .collect()
}

fn is_redirected(wanted: &Wanted<'_>, has_tls: bool) -> bool {
    let annotations = &wanted.part.annotations;
    let default = wanted.part.mode == Mode::Nginx;
    let asked = annotations.ssl_redirect.unwrap_or(default) && has_tls;
    (asked || annotations.force_ssl_redirect) && !wanted.path.starts_with(CHALLENGES)
}

/// Whether a route would take the requests for challenges.
fn covers_challenges(path: &PathMatch) -> bool {
    match path {
        PathMatch::Prefix(path) | PathMatch::Start(path) => path == "/",
        PathMatch::Exact(_) | PathMatch::Regex { .. } => false,
    }
}

/// Routes without those whose host and path an earlier one has.
fn unique(routes: Vec<Route>) -> Vec<Route> {
    let mut seen = HashSet::new();
    let mut kept = routes;
    kept.retain(|route| {
        let path = match &route.path {
            PathMatch::Prefix(path) => PathMatch::Prefix(path.trim_end_matches('/').to_owned()),
            path => path.clone(),
        };
        seen.insert((route.host.clone(), path))
    });
    kept
}

/// The certificates of all TLS sections, and what is wrong with them.
fn joined_certificates(
    parts: &[&Part],
    store: &Store,
    made: &mut Certificates,
    problems: &mut Vec<Problem>,
) -> Vec<Arc<plan::Certificate>> {
    let mut owners: HashMap<String, (&Part, Option<Name>)> = HashMap::new();
    let mut names: BTreeMap<Name, (Vec<String>, &Part, &str)> = BTreeMap::new();
    for part in parts {
        for section in &part.tls {
            let Some(secret) = &section.secret else {
                continue;
            };
            let hosts: Vec<String> = match section.hosts.is_empty() {
                true => part
                    .rules
                    .iter()
                    .filter_map(|rule| rule.host.clone())
                    .collect(),
                false => section.hosts.clone(),
            };
            let entry = names
                .entry(secret.clone())
                .or_insert_with(|| (Vec::new(), part, &section.field));
            for host in hosts {
                match owners.get(&host) {
                    Some((_, other)) if other.as_ref() == Some(secret) => {}
                    Some((owner, _)) => {
                        let reason =
                            format!("{} has the certificate of host \"{host}\"", owner.object);
                        let (object, field) = (&part.object, section.field.as_str());
                        let hint = "it is older or sorts first";
                        problems.push(Problem::new(Severity::Warning, object, field, reason, hint));
                    }
                    None => {
                        entry.0.push(host.clone());
                        owners.insert(host, (part, Some(secret.clone())));
                    }
                }
            }
        }
    }
    made.retain(|secret, _| names.contains_key(secret));
    let mut found = Vec::new();
    for (secret, (mut hosts, part, field)) in names {
        hosts.sort();
        hosts.dedup();
        match make(&secret, hosts, store, made) {
            Ok(certificate) => found.push(certificate),
            Err(reason) => {
                let hint = "its hosts get a certificate of no worth";
                let object = &part.object;
                problems.push(Problem::new(Severity::Error, object, field, reason, hint));
            }
        }
    }
    found
}

fn make(
    name: &Name,
    server_names: Vec<String>,
    store: &Store,
    made: &mut Certificates,
) -> Result<Arc<plan::Certificate>, String> {
    let secret = store.secret_shared(name);
    if let Some(before) = made.get(name)
        && before.server_names == server_names
        && same(before.secret.as_ref(), secret.as_ref())
    {
        return before.result.clone();
    }
    let result = match &secret {
        None => Err(format!("there is no Secret {name}")),
        Some(secret) => certificate(name, secret, server_names.clone()).map(Arc::new),
    };
    let entry = Made {
        secret,
        server_names,
        result: result.clone(),
    };
    made.insert(name.clone(), entry);
    result
}

fn same<T>(one: Option<&Arc<T>>, two: Option<&Arc<T>>) -> bool {
    match (one, two) {
        (Some(one), Some(two)) => Arc::ptr_eq(one, two),
        (None, None) => true,
        _ => false,
    }
}
