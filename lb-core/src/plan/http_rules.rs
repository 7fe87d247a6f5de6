//! What is valid in an HTTP listener: its limits, its routes, and what they do.
//!
//! Invariant: a pattern that is accepted compiles, in bounded memory, and no route of a valid plan
//! is hidden by an earlier one with the same host and path.
//! Read next: `http.rs` (the types), `validate.rs` (who asks).

use regex_automata::nfa::thompson::{Compiler, Config};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::Hir;

use super::validate::{Place, PlanError, Seen, Validation, host_problem};
use super::{Http, HttpLimits, PathMatch, Redirect, Rewrite, Route, RouteAction};

/// Longest regular expression of a route in bytes.
pub const PATTERN_BYTES_MAX: usize = 2048;

/// Largest program of a regular expression in bytes, which repetitions make large.
pub const PATTERN_PROGRAM_BYTES_MAX: usize = 256 * 1024;

/// As a path stands in a request target (RFC 9112 section 3.2): anything else never matches.
const PATH_BYTES: &str = "a path has visible ASCII only, others percent-encoded, no '?' or '#'";

/// Parses the regular expression of a route; for bytes, with ASCII classes.
///
/// # Errors
/// What is wrong with it, in a line.
pub fn parse_pattern(pattern: &str, ignore_case: bool) -> Result<Hir, String> {
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(format!("it is longer than {PATTERN_BYTES_MAX} bytes"));
    }
    let mut parser = ParserBuilder::new()
        .utf8(false)
        .unicode(false)
        .case_insensitive(ignore_case)
        .dot_matches_new_line(true)
        .nest_limit(64)
        .build();
    parser.parse(pattern).map_err(|error| last_line(&error))
}

/// The errors of the parser draw where they are, over several lines.
fn last_line(error: &dyn std::error::Error) -> String {
    let text = error.to_string();
    let line = text.lines().last().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

/// The groups of a regular expression; 0 if it is none.
#[must_use]
pub fn group_count(pattern: &str) -> usize {
    parse_pattern(pattern, false).map_or(0, |hir| hir.properties().explicit_captures_len())
}

/// What is wrong with the regular expression of a route, in a line.
#[must_use]
pub fn pattern_problem(pattern: &str, ignore_case: bool) -> Option<String> {
    let hir = match parse_pattern(pattern, ignore_case) {
        Ok(hir) => hir,
        Err(problem) => return Some(problem),
    };
    let config = Config::new()
        .utf8(false)
        .nfa_size_limit(Some(PATTERN_PROGRAM_BYTES_MAX));
    let compiled = Compiler::new().configure(config).build_from_hir(&hir);
    compiled.err().map(|error| match error.size_limit() {
        Some(limit) => format!("it needs more than {limit} bytes; are its repetitions too many?"),
        None => last_line(&error),
    })
}

/// What is wrong with a rewrite on a route for `path`, in a line.
#[must_use]
pub fn rewrite_problem(rewrite: &Rewrite, path: &PathMatch) -> Option<&'static str> {
    let is_regex = matches!(path, PathMatch::Regex { .. });
    match rewrite {
        Rewrite::Path(text) => whole_path_problem(text, is_regex),
        Rewrite::Prefix(text) => prefix_problem(text, path),
    }
}

impl<'p> Validation<'p> {
    pub(super) fn http(&mut self, listener: usize, place: &Place, http: &'p Http) {
        if let Some(cluster) = &http.default_cluster {
            self.cluster_exists(place, cluster);
        }
        self.http_limits(place, http);
        let Place::Listener { name, .. } = place else {
            return; // it is of a listener
        };
        let mut seen = Seen::default();
        for (index, route) in http.routes.iter().enumerate() {
            let place = Place::Route {
                listener,
                name: name.clone(),
                route: index,
            };
            if seen.twice((route.host.as_deref(), PathKey::of(&route.path))) {
                self.errors.push(PlanError::DuplicateRoute {
                    place: place.clone(),
                });
            }
            self.route(&place, route);
        }
    }

    fn http_limits(&mut self, place: &Place, http: &Http) {
        let HttpLimits {
            head_bytes_max,
            headers_max,
            requests_per_connection_max,
            ..
        } = http.limits;
        let head_bytes = (HttpLimits::HEAD_BYTES_LEAST, HttpLimits::HEAD_BYTES_LIMIT);
        self.range(place, "head_bytes_max", head_bytes_max, head_bytes);
        let headers = (1, HttpLimits::HEADERS_LIMIT);
        self.range(place, "headers_max", headers_max, headers);
        if let Some(requests) = requests_per_connection_max {
            let field = "requests_per_connection_max";
            self.range(place, field, requests, (1, u32::MAX));
        }
        self.timeout(place, "request_head", http.timeouts.request_head);
        self.timeout(place, "keep_alive", http.timeouts.keep_alive);
        self.timeout(place, "body_idle", http.timeouts.body_idle);
        self.exchanges(place, &http.exchanges);
        self.timeout(place, "response_head", http.timeouts.response_head);
        if let Some(tls) = &http.tls {
            self.tls_server(place, tls);
        }
    }

    fn route(&mut self, place: &Place, route: &'p Route) {
        if let Some(host) = &route.host
            && let Some(reason) = host_problem(host)
        {
            self.malformed(place, "host", host, reason);
        }
        match &route.path {
            PathMatch::Exact(path) => self.path(place, "exact path", path),
            PathMatch::Prefix(path) => self.path(place, "path prefix", path),
            PathMatch::Start(path) => self.path(place, "path start", path),
            PathMatch::Regex {
                pattern,
                ignore_case,
            } => {
                if let Some(reason) = pattern_problem(pattern, *ignore_case) {
                    self.errors.push(PlanError::Pattern {
                        place: place.clone(),
                        pattern: pattern.clone(),
                        reason,
                    });
                }
            }
        }
        match &route.action {
            RouteAction::Answer { status } => self.range(place, "status", *status, (200, 599)),
            RouteAction::Cluster { name, rewrite } => {
                self.cluster_exists(place, name);
                if let Some(rewrite) = rewrite {
                    self.rewrite(place, route, rewrite);
                }
            }
            RouteAction::Redirect(redirect) => self.redirect(place, route, redirect),
        }
    }

    fn path(&mut self, place: &Place, field: &'static str, path: &str) {
        if !path.starts_with('/') {
            self.malformed(place, field, path, "it must start with '/'");
        } else if path
            .bytes()
            .any(|byte| !byte.is_ascii_graphic() || b"?#".contains(&byte))
        {
            self.malformed(place, field, path, PATH_BYTES);
        }
    }

    fn rewrite(&mut self, place: &Place, route: &Route, rewrite: &Rewrite) {
        let (Rewrite::Path(text) | Rewrite::Prefix(text)) = rewrite;
        if let Some(reason) = rewrite_problem(rewrite, &route.path) {
            self.malformed(place, "rewrite", text, reason);
        }
    }

    fn redirect(&mut self, place: &Place, route: &Route, redirect: &Redirect) {
        let Redirect {
            scheme,
            host,
            port,
            path,
            trims_slash,
            status,
        } = redirect;
        if !matches!(status, 301 | 302 | 303 | 307 | 308) {
            let allowed = String::from("301, 302, 303, 307 or 308");
            self.out_of_range(place, "redirect status", status.to_string(), allowed);
        }
        if let Some(host) = host {
            let problem = match host_problem(host) {
                None if host.starts_with("*.") => Some("a redirect leads to one host"),
                problem => problem,
            };
            if let Some(reason) = problem {
                self.malformed(place, "redirect host", host, reason);
            }
        }
        if *port == Some(0) {
            let allowed = String::from("from 1 to 65535");
            self.out_of_range(place, "redirect port", String::from("0"), allowed);
        }
        if let Some(path) = path {
            self.rewrite(place, route, path);
        }
        if (scheme, host, port, path) == (&None, &None, &None, &None) && !trims_slash {
            let reason = "it leads to where it came from; set scheme, host, port or path";
            self.malformed(place, "redirect", &status.to_string(), reason);
        }
    }
}

/// What two routes of a host must differ in.
#[derive(PartialEq, Eq, Hash)]
enum PathKey<'p> {
    Exact(&'p str),
    Prefix(&'p str),
    Regex(&'p str, bool),
    Start(&'p str),
}

impl<'p> PathKey<'p> {
    fn of(path: &'p PathMatch) -> Self {
        match path {
            PathMatch::Exact(path) => Self::Exact(path),
            PathMatch::Prefix(path) => Self::Prefix(path.trim_end_matches('/')),
            PathMatch::Regex {
                pattern,
                ignore_case,
            } => Self::Regex(pattern, *ignore_case),
            PathMatch::Start(path) => Self::Start(path),
        }
    }
}

fn whole_path_problem(path: &str, is_regex: bool) -> Option<&'static str> {
    let mut bytes = path.bytes();
    if !matches!(bytes.next(), Some(b'/' | b'$')) {
        return Some("it must start with '/', or with what a group matched, as in $1");
    }
    if path.bytes().any(|it| !it.is_ascii_graphic() || it == b'#') {
        return Some("it has visible ASCII only, others percent-encoded, and no '#'");
    }
    let mut rest = path;
    while let Some((_, behind)) = rest.split_once('$') {
        match behind.as_bytes().first() {
            Some(b'1'..=b'9') if !is_regex => {
                return Some("only a route with a regular expression has groups to refer to");
            }
            Some(b'1'..=b'9' | b'$') => rest = &behind[1..],
            _ => return Some("behind '$' there is a number from 1 to 9, or a second '$'"),
        }
    }
    None
}

fn prefix_problem(path: &str, of: &PathMatch) -> Option<&'static str> {
    match of {
        PathMatch::Exact(_) | PathMatch::Regex { .. } => {
            Some("only a route with a path prefix has a prefix to replace")
        }
        _ if !path.starts_with('/') => Some("it must start with '/'"),
        _ => path
            .bytes()
            .any(|byte| !byte.is_ascii_graphic() || b"?#".contains(&byte))
            .then_some(PATH_BYTES),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use super::super::{Cluster, Edge, Listener, ListenerLog, Plan, Protocol, Scheme};
    use super::*;

    fn errors(routes: Vec<Route>) -> Vec<String> {
        let address: SocketAddr = "127.0.0.1:80".parse().unwrap();
        let plan = Plan {
            listeners: vec![Arc::new(Listener {
                name: "web".into(),
                address,
                edge: Edge::default(),
                access_log: ListenerLog::default(),
                protocol: Protocol::Http(Http {
                    routes,
                    ..Http::default()
                }),
            })],
            clusters: vec![Arc::new(Cluster::new("a", vec![]))],
            ..Plan::default()
        };
        let errors = plan.validate().err().unwrap_or_default();
        errors.iter().map(ToString::to_string).collect()
    }

    fn error(path: PathMatch, action: RouteAction) -> String {
        let errors = errors(vec![Route {
            host: None,
            path,
            action,
        }]);
        assert_eq!(errors.len(), 1, "{errors:?}");
        let place = "listener \"web\", route 1: ";
        errors[0].strip_prefix(place).unwrap().to_owned()
    }

    fn prefix() -> PathMatch {
        PathMatch::Prefix("/a".into())
    }

    fn regex(pattern: &str) -> PathMatch {
        PathMatch::Regex {
            pattern: pattern.into(),
            ignore_case: true,
        }
    }

    fn to(rewrite: Option<Rewrite>) -> RouteAction {
        RouteAction::Cluster {
            name: "a".into(),
            rewrite,
        }
    }

    #[test]
    fn every_kind_of_route_is_valid() {
        let redirect = Redirect {
            scheme: Some(Scheme::Https),
            host: Some("b.example".into()),
            port: Some(8443),
            path: Some(Rewrite::Path("/$1$$".into())),
            ..Redirect::by(308)
        };
        let actions = [
            (
                PathMatch::Exact("/a".into()),
                RouteAction::Answer { status: 404 },
            ),
            (prefix(), to(Some(Rewrite::Prefix("/".into())))),
            (
                PathMatch::Start("/a".into()),
                to(Some(Rewrite::Path("/b?c=d".into()))),
            ),
            (regex("/(a|b)(/|$)"), RouteAction::Redirect(redirect)),
            (regex("/"), to(Some(Rewrite::Path("$2".into())))),
        ];
        let routes = actions.map(|(path, action)| Route {
            host: None,
            path,
            action,
        });
        assert_eq!(errors(routes.into()), [""; 0]);
    }

    #[test]
    fn a_pattern_compiles_in_bounded_memory() {
        for (pattern, reason) in [
            ("/a(", "unclosed group"),
            (
                r"/(?=a)",
                "look-around, including look-ahead and look-behind, is not supported",
            ),
            (r"/(a)\1", "backreferences are not supported"),
            (
                "/(?:a{100}){1000}",
                "it needs more than 262144 bytes; are its repetitions too many?",
            ),
            (&"/a".repeat(2000), "it is longer than 2048 bytes"),
        ] {
            assert_eq!(
                error(regex(pattern), to(None)),
                format!("the pattern {pattern:?} is not valid: {reason}")
            );
        }
    }

    #[test]
    fn a_rewrite_fits_its_route() {
        for (path, rewrite, reason) in [
            (
                prefix(),
                Rewrite::Path("b".into()),
                "it must start with '/'",
            ),
            (
                prefix(),
                Rewrite::Path("/$1".into()),
                "only a route with a regular",
            ),
            (
                regex("/"),
                Rewrite::Path("/$0".into()),
                "behind '$' there is a number",
            ),
            (
                regex("/"),
                Rewrite::Path("/\u{e4}".into()),
                "it has visible ASCII only",
            ),
            (
                regex("/"),
                Rewrite::Prefix("/".into()),
                "only a route with a path prefix",
            ),
            (
                prefix(),
                Rewrite::Prefix("/?".into()),
                "a path has visible ASCII",
            ),
            (
                prefix(),
                Rewrite::Prefix(String::new()),
                "it must start with '/'",
            ),
        ] {
            let error = error(path, to(Some(rewrite)));
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_redirect_leads_somewhere_else() {
        let error = |redirect| error(prefix(), RouteAction::Redirect(redirect));
        assert!(error(Redirect::by(302)).contains("leads to where it came from"));
        let to = |host: &str, status| Redirect {
            host: Some(host.into()),
            ..Redirect::by(status)
        };
        assert_eq!(
            error(to("b.example", 300)),
            "redirect status is 300, which must be 301, 302, 303, 307 or 308"
        );
        assert!(error(to("*.b", 301)).contains("a redirect leads to one host"));
        assert!(error(to("a\r\nb", 301)).contains("a host has letters"));
        let port = Redirect {
            port: Some(0),
            ..Redirect::by(301)
        };
        assert!(error(port).starts_with("redirect port is 0"));
    }

    #[test]
    fn an_answer_is_final() {
        for status in [0, 101, 199, 600] {
            let error = error(prefix(), RouteAction::Answer { status });
            assert!(error.starts_with("status is"), "{error}");
        }
    }

    #[test]
    fn the_same_place_twice_is_refused() {
        let route = |path| Route {
            host: Some("h".into()),
            path,
            action: to(None),
        };
        let prefix = |path: &str| PathMatch::Prefix(path.into());
        let routes = vec![
            route(prefix("/a")),
            route(PathMatch::Exact("/a".into())),
            route(PathMatch::Start("/a".into())),
            route(regex("/a")),
            route(prefix("/a/")),
            route(regex("/a")),
        ];
        let text = "an earlier route has the same host and path";
        assert_eq!(
            errors(routes),
            [
                format!("listener \"web\", route 5: {text}"),
                format!("listener \"web\", route 6: {text}"),
            ]
        );
    }
}
