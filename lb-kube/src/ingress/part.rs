//! One Ingress, on its own.
//!
//! Invariant: what is wrong with one path costs that path; what hosts and ports other Ingresses
//! have does not matter here.
//! Sources: Kubernetes API reference, "Ingress v1"; ingress-nginx, "Path matching".
//! Read next: `routes.rs` (all Ingresses together).

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::networking::v1::{HTTPIngressPath, Ingress, IngressBackend};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use lb_core::plan::{self, BackendTls};

use super::ClusterRequest;
use super::annotations::{Annotations, BackendProtocol, read};
use super::class::Mode;
use crate::object::{Name, ObjectRef};
use crate::problem::{Problem, Severity};
use crate::service::{PortRef, Services};

/// An Ingress, understood.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) object: ObjectRef,
    pub(super) created: Option<Time>,
    pub(super) mode: Mode,
    pub(super) annotations: Annotations,
    pub(super) rules: Vec<Rule>,
    pub(super) default: Option<Leads>,
    pub(super) tls: Vec<Tls>,
    pub(super) problems: Vec<Problem>,
    /// The Services that are named, there or not.
    pub(super) services: BTreeSet<Name>,
}

/// One rule.
#[derive(Debug)]
pub(super) struct Rule {
    /// `None` is any.
    pub(super) host: Option<String>,
    pub(super) paths: Vec<PathRule>,
}

/// One path of a rule.
#[derive(Debug)]
pub(super) struct PathRule {
    pub(super) field: String,
    pub(super) path: String,
    pub(super) kind: PathKind,
    pub(super) leads: Leads,
}

/// `pathType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PathKind {
    Exact,
    Prefix,
    Implementation,
}

/// Where requests go.
#[derive(Debug, Clone)]
pub(super) enum Leads {
    To {
        cluster: String,
        request: ClusterRequest,
    },
    /// There is no such place: 503.
    Nowhere,
}

/// One TLS section.
#[derive(Debug)]
pub(super) struct Tls {
    pub(super) field: String,
    /// None: those of all rules.
    pub(super) hosts: Vec<String>,
    /// `None` leaves it to the fallback certificate.
    pub(super) secret: Option<Name>,
}

impl Part {
    pub(super) fn new(name: &Name, ingress: &Ingress, mode: Mode, services: &Services<'_>) -> Self {
        let object = ObjectRef::of(crate::object::Kind::Ingress, &ingress.metadata);
        let mut problems = Vec::new();
        let annotations = read(&object, &ingress.metadata, &mut problems);
        let mut reader = Reader {
            namespace: name,
            services,
            part: Self {
                object,
                created: ingress.metadata.creation_timestamp.clone(),
                mode,
                annotations,
                rules: Vec::new(),
                default: None,
                tls: Vec::new(),
                problems,
                services: BTreeSet::new(),
            },
        };
        reader.read(ingress);
        reader.part
    }

    /// Whether its paths make the hosts that it has hosts of regular expressions, as they do in
    /// nginx.
    pub(super) fn wants_regex(&self, path: &str) -> bool {
        let rewritten = self.annotations.rewrite.as_deref();
        self.annotations.use_regex || rewritten.is_some_and(|rewrite| rewrite != path)
    }
}

struct Reader<'a> {
    namespace: &'a Name,
    services: &'a Services<'a>,
    part: Part,
}

impl Reader<'_> {
    fn read(&mut self, ingress: &Ingress) {
        let Some(spec) = &ingress.spec else {
            let reason = "it has neither rules nor a default backend";
            return self.error("spec", reason, "");
        };
        if let Some(backend) = &spec.default_backend {
            let leads = self.backend(backend, "spec.defaultBackend");
            self.part.default = Some(leads);
        }
        for (index, section) in spec.tls.iter().flatten().enumerate() {
            self.tls(section, &format!("spec.tls[{index}]"));
        }
        for (index, rule) in spec.rules.iter().flatten().enumerate() {
            let at = format!("spec.rules[{index}]");
            let host = rule.host.as_deref().filter(|host| !host.is_empty());
            let host = host.map(str::to_ascii_lowercase);
            if let Some(reason) = host.as_deref().and_then(host_problem) {
                self.error(&format!("{at}.host"), reason, "the rule is left out");
                continue;
            }
            let mut paths = Vec::new();
            let written = rule.http.as_ref().map(|http| http.paths.as_slice());
            for (index, path) in written.unwrap_or_default().iter().enumerate() {
                paths.extend(self.path(path, &format!("{at}.http.paths[{index}]")));
            }
            self.part.rules.push(Rule { host, paths });
        }
        if self.part.rules.is_empty() && self.part.default.is_none() {
            self.error("spec", "it has neither rules nor a default backend", "");
        }
    }

    fn tls(&mut self, section: &k8s_openapi::api::networking::v1::IngressTLS, at: &str) {
        let mut hosts = Vec::new();
        for (index, host) in section.hosts.iter().flatten().enumerate() {
            let host = host.to_ascii_lowercase();
            match host_problem(&host) {
                Some(reason) => self.error(&format!("{at}.hosts[{index}]"), reason, ""),
                None => hosts.push(host),
            }
        }
        let secret = section
            .secret_name
            .as_deref()
            .filter(|name| !name.is_empty());
        let mut named = None;
        if let Some(secret) = secret {
            let field = format!("{at}.secretName");
            if self.is_here(secret, &field) {
                named = Some(Name::new(Arc::clone(&self.namespace.namespace), secret));
            }
        }
        self.part.tls.push(Tls {
            field: format!("{at}.secretName"),
            hosts,
            secret: named,
        });
    }

    /// Whether a name is one of this namespace; others are not followed.
    fn is_here(&mut self, name: &str, field: &str) -> bool {
        if name.contains('/') {
            let reason =
                format!("\"{name}\" is in another namespace, where an Ingress may not look");
            self.error(field, &reason, "");
        }
        !name.contains('/')
    }

    fn path(&mut self, path: &HTTPIngressPath, at: &str) -> Option<PathRule> {
        let field = format!("{at}.path");
        let kind = match path.path_type.as_str() {
            "Exact" => PathKind::Exact,
            "Prefix" => PathKind::Prefix,
            "ImplementationSpecific" | "" => PathKind::Implementation,
            other => {
                let reason = format!("\"{other}\" is no type of path");
                let hint = "there are Exact, Prefix and ImplementationSpecific";
                self.error(&format!("{at}.pathType"), &reason, hint);
                return None;
            }
        };
        let text = path
            .path
            .as_deref()
            .filter(|path| !path.is_empty())
            .unwrap_or("/");
        let is_regex = self.part.wants_regex(text);
        if let Some(reason) = self.path_problem(text, kind, is_regex) {
            self.error(&field, &reason, "the path is left out");
            return None;
        }
        let leads = self.backend(&path.backend, &format!("{at}.backend"));
        Some(PathRule {
            field,
            path: text.to_owned(),
            kind,
            leads,
        })
    }

    fn path_problem(&self, path: &str, kind: PathKind, is_regex: bool) -> Option<String> {
        if !path.starts_with('/') {
            return Some("a path begins with '/'".to_owned());
        }
        if path.bytes().any(|it| !it.is_ascii_graphic()) {
            return Some("it has something other than visible ASCII".to_owned());
        }
        let plain = |it: char| it.is_ascii_alphanumeric() || "._-/".contains(it);
        if kind != PathKind::Implementation
            && self.part.mode == Mode::Nginx
            && !path.chars().all(plain)
        {
            let reason = "ingress-nginx refuses it: a path of this type has letters, digits and ._-/ \
                          only; ImplementationSpecific may have others";
            return Some(reason.to_owned());
        }
        if is_regex {
            return plan::pattern_problem(path, true)
                .map(|reason| format!("it is no regular expression: {reason}"));
        }
        if path.contains(['?', '#']) {
            return Some("a path has no '?' and no '#'".to_owned());
        }
        // As the API server (ValidateIngress) refuses them.
        let invalid = ["//", "/./", "/../", "%2f", "%2F"];
        let found = invalid.iter().find(|it| path.contains(**it));
        let ends = ["/..", "/."].into_iter().find(|it| path.ends_with(it));
        match found.copied().or(ends) {
            Some(found) if kind != PathKind::Implementation => {
                Some(format!("a path of this type does not have \"{found}\""))
            }
            _ => None,
        }
    }

    fn backend(&mut self, backend: &IngressBackend, at: &str) -> Leads {
        let Some(service) = &backend.service else {
            let reason = match &backend.resource {
                Some(resource) => format!("a {} cannot be served", resource.kind),
                None => "it names no Service".to_owned(),
            };
            self.error(at, &reason, "requests get a 503");
            return Leads::Nowhere;
        };
        let field = format!("{at}.service.name");
        if !self.is_here(&service.name, &field) {
            return Leads::Nowhere;
        }
        let name = Name::new(Arc::clone(&self.namespace.namespace), service.name.as_str());
        self.part.services.insert(name.clone());
        let port = service.port.as_ref();
        let port = match port.map(|port| (port.name.as_deref(), port.number)) {
            Some((Some(name), _)) => PortRef::Name(name),
            Some((None, Some(number))) => PortRef::Number(number),
            _ => {
                let field = format!("{at}.service.port");
                self.error(
                    &field,
                    "it has neither a number nor a name",
                    "requests get a 503",
                );
                return Leads::Nowhere;
            }
        };
        let found = match self.services.port(&name, &port) {
            Ok(found) => found,
            Err(unknown) => {
                let field = match unknown {
                    crate::service::Unknown::Service(_)
                    | crate::service::Unknown::ExternalName(_) => field,
                    _ => format!("{at}.service.port"),
                };
                self.error(&field, &unknown.to_string(), "requests get a 503");
                return Leads::Nowhere;
            }
        };
        self.leads(
            name,
            found.port,
            found.cluster,
            found.app_protocol.as_deref(),
        )
    }

    fn leads(&self, service: Name, port: u16, cluster: String, app: Option<&str>) -> Leads {
        let protocol = self
            .part
            .annotations
            .protocol
            .or(match (self.part.mode, app) {
                (Mode::Strict, Some("kubernetes.io/h2c" | "grpc")) => Some(BackendProtocol::Grpc),
                (Mode::Strict, Some("https" | "HTTPS" | "kubernetes.io/wss")) => {
                    Some(BackendProtocol::Https)
                }
                _ => None,
            });
        let (tls, is_http2, suffix) = match protocol {
            None | Some(BackendProtocol::Http) => {
                let template = None;
                let request = ClusterRequest {
                    service,
                    port,
                    template,
                };
                return Leads::To { cluster, request };
            }
            Some(BackendProtocol::Https) => (true, false, "https"),
            Some(BackendProtocol::Grpc) => (false, true, "grpc"),
            Some(BackendProtocol::Grpcs) => (true, true, "grpcs"),
            Some(BackendProtocol::Unknown) => return Leads::Nowhere,
        };
        let cluster = format!("{cluster}+{suffix}");
        let template = plan::Cluster {
            tls: tls.then(BackendTls::default),
            protocol: match is_http2 {
                true => plan::BackendProtocol::Http2,
                false => plan::BackendProtocol::Http1,
            },
            ..plan::Cluster::new(cluster.clone(), Vec::new())
        };
        let template = Some(Arc::new(template));
        let request = ClusterRequest {
            service,
            port,
            template,
        };
        Leads::To { cluster, request }
    }

    fn error(&mut self, field: &str, reason: &str, hint: &str) {
        let object = &self.part.object;
        let problem = Problem::new(Severity::Error, object, field, reason, hint);
        self.part.problems.push(problem);
    }
}

/// Why a host is none, in lower case.
fn host_problem(host: &str) -> Option<&'static str> {
    let name = host.strip_prefix("*.").unwrap_or(host);
    if name.contains('*') {
        return Some("a wildcard is the whole first label, as in *.shop.example");
    }
    if name.contains(':') {
        return Some("a host has no port");
    }
    if name.parse::<std::net::IpAddr>().is_ok() {
        return Some("a host is a name, not an address");
    }
    let is_label = |label: &str| {
        let plain = |it: u8| it.is_ascii_alphanumeric() || it == b'-';
        let edges = label.starts_with('-') || label.ends_with('-');
        (1..=63).contains(&label.len()) && label.bytes().all(plain) && !edges
    };
    let is_name = name.len() <= 253 && name.split('.').all(is_label);
    (!is_name).then_some("it is no DNS name: labels of letters, digits and '-' between dots")
}
