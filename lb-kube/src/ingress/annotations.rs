//! What an Ingress's annotations say: those of ingress-nginx that are honoured, all others of its
//! prefix by name as not honoured.
//!
//! Invariant: no annotation of the prefix is passed over in silence.
//! Sources: ingress-nginx's documentation, "Annotations", "Rewrite", "TLS/HTTPS".
//! Read next: `part.rs` (who asks).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::object::ObjectRef;
use crate::problem::{Problem, Severity};

const PREFIX: &str = "nginx.ingress.kubernetes.io/";

/// What the annotations of an Ingress ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Annotations {
    /// `rewrite-target`, in the form of a plan.
    pub(super) rewrite: Option<String>,
    pub(super) use_regex: bool,
    /// `ssl-redirect`, if it is given.
    pub(super) ssl_redirect: Option<bool>,
    pub(super) force_ssl_redirect: bool,
    pub(super) protocol: Option<BackendProtocol>,
}

/// `backend-protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BackendProtocol {
    Http,
    Https,
    Grpc,
    Grpcs,
    /// One that is not spoken here: what would go there is answered 503.
    Unknown,
}

/// Reads them; what is wrong is added to `problems`.
pub(super) fn read(
    object: &ObjectRef,
    metadata: &ObjectMeta,
    problems: &mut Vec<Problem>,
) -> Annotations {
    let mut reader = Reader {
        object,
        problems,
        key: "",
    };
    let mut read = Annotations::default();
    for (key, value) in metadata.annotations.iter().flatten() {
        let Some(name) = key.strip_prefix(PREFIX) else {
            continue;
        };
        reader.key = key;
        match name {
            "rewrite-target" => read.rewrite = reader.rewrite(value),
            "use-regex" => read.use_regex = reader.flag(value).unwrap_or(false),
            "ssl-redirect" => read.ssl_redirect = reader.flag(value),
            "force-ssl-redirect" => {
                read.force_ssl_redirect = reader.flag(value).unwrap_or(false);
            }
            "backend-protocol" => read.protocol = Some(reader.protocol(value)),
            _ => reader.report(
                Severity::Warning,
                "it is not honoured",
                "docs/kubernetes.md lists those that are",
            ),
        }
    }
    read
}

struct Reader<'a> {
    object: &'a ObjectRef,
    problems: &'a mut Vec<Problem>,
    key: &'a str,
}

impl Reader<'_> {
    /// As Go's `strconv.ParseBool`, which ingress-nginx reads them with.
    fn flag(&mut self, value: &str) -> Option<bool> {
        match value {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
            _ => {
                let reason =
                    format!("\"{value}\" is not true or false; it is as if it were not there");
                self.report(Severity::Warning, &reason, "");
                None
            }
        }
    }

    /// Names of variables but those of groups stay for nginx to know.
    fn rewrite(&mut self, value: &str) -> Option<String> {
        let value = value.trim();
        if value.is_empty() {
            return None;
        }
        let reason = if !value.starts_with(['/', '$']) {
            Some("it is not a path, so it would be a redirect in nginx, which is not done here")
        } else if value.bytes().any(|it| !it.is_ascii_graphic() || it == b'#') {
            Some("it has something other than visible ASCII, or a '#'")
        } else if unknown_variable(value) {
            Some("behind '$' there is something other than a number from 1 to 9")
        } else {
            None
        };
        if let Some(reason) = reason {
            self.report(Severity::Error, reason, "paths are not rewritten");
            return None;
        }
        Some(value.to_owned())
    }

    fn protocol(&mut self, value: &str) -> BackendProtocol {
        match value.to_ascii_uppercase().as_str() {
            "HTTP" | "" => BackendProtocol::Http,
            "HTTPS" => BackendProtocol::Https,
            "GRPC" => BackendProtocol::Grpc,
            "GRPCS" => BackendProtocol::Grpcs,
            _ => {
                let reason = format!("\"{value}\" is not spoken to backends; requests get a 503");
                let hint = "there are HTTP, HTTPS, GRPC and GRPCS";
                self.report(Severity::Error, &reason, hint);
                BackendProtocol::Unknown
            }
        }
    }

    fn report(&mut self, severity: Severity, reason: &str, hint: &str) {
        let field = format!("metadata.annotations.{}", self.key);
        let problem = Problem::new(severity, self.object, field, reason, hint);
        self.problems.push(problem);
    }
}

fn unknown_variable(value: &str) -> bool {
    let mut behind = value.split('$').skip(1);
    behind.any(|rest| !rest.starts_with(|it: char| ('1'..='9').contains(&it)))
}
