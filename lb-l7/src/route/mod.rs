//! Which route a request takes: by host, then by path.
//!
//! Invariant: a look-up without regular expressions allocates nothing, and its time does not grow
//! with the number of hosts; one with them takes time in proportion to the path, whatever the
//! expressions. Read next: `paths.rs` (the paths of a host), `../service.rs` (who compiles it).

mod paths;
mod patterns;

use std::collections::HashMap;

use lb_core::plan::{HostMatching, PathMatch, Route};

use paths::PathTable;

/// Position of a route in the list that the table was built with.
pub type RouteIndex = u32;

/// Position of a cluster in the list that a service was built with.
pub type ClusterIndex = u32;

/// The routes of a listener, compiled.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// By host in lower case.
    exact: HostMap,
    /// By what follows the wildcard label, its dot included: `*.example` is under `.example`.
    wildcard: HostMap,
    any: PathTable,
    hosts: HostMatching,
}

/// Look-ups cannot make it slow, for nothing that a client sends gets in; and who writes the plan
/// does not know the hash's seed, which is random. So it need not be a cryptographic one.
type HostMap = HashMap<Box<[u8]>, PathTable, foldhash::fast::RandomState>;

/// Why routes do not make a table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// Two routes with the same host and path.
    #[error("two routes have the host {} and the path {:?}", host_name(.0), .0.path)]
    Duplicate(Box<Route>),
    /// A regular expression that cannot be used.
    #[error("the pattern of {:?} on host {} is not valid: {reason}", .route.path, host_name(.route))]
    Pattern {
        /// The route.
        route: Box<Route>,
        /// What is wrong with it.
        reason: String,
    },
}

fn host_name(route: &Route) -> &str {
    route.host.as_deref().unwrap_or("(any)")
}

impl RouteTable {
    /// Compiles `routes`. Hosts are expected as the plan has them: in lower case, exact or `*.`
    /// and the rest.
    ///
    /// # Errors
    /// [`RouteError`]; two prefixes that differ in a slash at their end only are the same.
    pub fn build(routes: &[Route], hosts: HostMatching) -> Result<Self, RouteError> {
        let mut table = Self {
            hosts,
            ..Self::default()
        };
        for (index, route) in (0..).zip(routes) {
            let host = route.host.as_deref().map(|host| host.trim_end_matches('.'));
            let paths = match host.map(|host| (host, host.strip_prefix('*'))) {
                None => &mut table.any,
                Some((_, Some(suffix))) => table.wildcard.entry(key(suffix)).or_default(),
                Some((host, None)) => table.exact.entry(key(host)).or_default(),
            };
            match &route.path {
                PathMatch::Regex {
                    pattern,
                    ignore_case,
                } => paths
                    .add_pattern(pattern, *ignore_case, index)
                    .map_err(|reason| pattern_error(route, reason))?,
                PathMatch::Exact(path) => paths.add_exact(path, index),
                PathMatch::Prefix(path) => paths.add_prefix(path, index),
                PathMatch::Start(path) => paths.add_start(path, index),
            }
        }
        let at = |index: RouteIndex| &routes[index as usize];
        table.finish().map_err(|unfinished| match unfinished {
            Unfinished::Duplicate(index) => RouteError::Duplicate(Box::new(at(index).clone())),
            Unfinished::Patterns(index, reason) => pattern_error(at(index), reason),
        })?;
        Ok(table)
    }

    /// The route for a request of `host` (without port, in any case, empty for none) and `path`
    /// (without query). The exact host's routes come first, then those of its wildcard, then
    /// those of any host. Whether a host none of whose paths matches hides the less exact ones is
    /// as the table was told.
    #[must_use]
    pub fn find(&self, host: &[u8], path: &[u8]) -> Option<RouteIndex> {
        if self.exact.is_empty() && self.wildcard.is_empty() {
            return self.any.find(path);
        }
        // The dot that may end a complete name (RFC 1034 section 3.1).
        let host = host.strip_suffix(b".").unwrap_or(host);
        if host.iter().any(u8::is_ascii_uppercase) {
            let mut room = [0; HOST_BYTES_MAX];
            self.find_lower_case(lower_case(host, &mut room), path)
        } else {
            self.find_lower_case(host, path)
        }
    }

    fn find_lower_case(&self, host: &[u8], path: &[u8]) -> Option<RouteIndex> {
        let falls_through = self.hosts == HostMatching::FallThrough;
        if let Some(paths) = self.exact.get(host) {
            let found = paths.find(path);
            if found.is_some() || !falls_through {
                return found;
            }
        }
        if !self.wildcard.is_empty() {
            let label_len = memchr::memchr(b'.', host).unwrap_or(host.len());
            // A wildcard stands for a label, and a label is not empty.
            if label_len > 0
                && let Some(paths) = self.wildcard.get(&host[label_len..])
            {
                let found = paths.find(path);
                if found.is_some() || !falls_through {
                    return found;
                }
            }
        }
        self.any.find(path)
    }

    fn finish(&mut self) -> Result<(), Unfinished> {
        let hosts = self.exact.values_mut().chain(self.wildcard.values_mut());
        hosts.chain([&mut self.any]).try_for_each(PathTable::finish)
    }
}

/// Why the paths of a host do not make a table, and the route to blame.
enum Unfinished {
    Duplicate(RouteIndex),
    Patterns(RouteIndex, String),
}

/// Longest host that can have a route; longer ones do not pass the head's checks.
const HOST_BYTES_MAX: usize = 255;

fn pattern_error(route: &Route, reason: String) -> RouteError {
    RouteError::Pattern {
        route: Box::new(route.clone()),
        reason,
    }
}

fn key(host: &str) -> Box<[u8]> {
    host.to_ascii_lowercase().into_bytes().into_boxed_slice()
}

fn lower_case<'a>(host: &[u8], room: &'a mut [u8; HOST_BYTES_MAX]) -> &'a [u8] {
    let room = &mut room[..host.len().min(HOST_BYTES_MAX)];
    room.copy_from_slice(&host[..room.len()]);
    room.make_ascii_lowercase();
    room
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn build(routes: &[(Option<&str>, &str)]) -> Result<RouteTable, RouteError> {
        let routes: Vec<Route> = (routes.iter())
            .map(|(host, path)| Route::to(*host, path, "a"))
            .collect();
        RouteTable::build(&routes, HostMatching::FallThrough)
    }

    /// Routes of any host.
    fn paths(paths: Vec<PathMatch>) -> RouteTable {
        let routes: Vec<Route> = (paths.into_iter())
            .map(|path| Route {
                path,
                ..Route::to(None, "/", "a")
            })
            .collect();
        RouteTable::build(&routes, HostMatching::FallThrough).unwrap()
    }

    fn exact(path: &str) -> PathMatch {
        PathMatch::Exact(path.into())
    }

    fn prefix(path: &str) -> PathMatch {
        PathMatch::Prefix(path.into())
    }

    fn start(path: &str) -> PathMatch {
        PathMatch::Start(path.into())
    }

    fn regex(pattern: &str) -> PathMatch {
        PathMatch::Regex {
            pattern: pattern.into(),
            ignore_case: false,
        }
    }

    fn find(table: &RouteTable, host: &str, path: &str) -> Option<RouteIndex> {
        table.find(host.as_bytes(), path.as_bytes())
    }

    #[test]
    fn the_most_exact_host_wins() {
        let table = build(&[
            (None, "/"),
            (Some("*.example"), "/"),
            (Some("shop.example"), "/"),
            (Some("[::1]"), "/"),
        ])
        .unwrap();
        for (host, cluster) in [
            ("shop.example", 2),
            ("SHOP.Example.", 2),
            ("other.example", 1),
            ("a.shop.example", 0),
            ("example", 0),
            (".example", 0),
            ("", 0),
            ("[::1]", 3),
        ] {
            assert_eq!(find(&table, host, "/x"), Some(cluster), "{host}");
        }
    }

    #[test]
    fn the_longest_prefix_wins_element_by_element() {
        let table = build(&[
            (None, "/a"),
            (None, "/a/b/"),
            (None, "/a/b/c/d"),
            (None, "/abc"),
            (None, "/"),
        ])
        .unwrap();
        for (path, cluster) in [
            ("/a", 0),
            ("/a/", 0),
            ("/a/x", 0),
            ("/ab", 4),
            ("/abcd", 4),
            ("/abc/", 3),
            ("/a/b", 1),
            ("/a/bc", 0),
            ("/a/b/c", 1),
            ("/a/b/c/dd", 1),
            ("/a/b/c/d/e", 2),
            ("/A", 4),
            ("/%61", 4),
            ("*", 4),
        ] {
            assert_eq!(find(&table, "h", path), Some(cluster), "{path}");
        }
    }

    #[test]
    fn without_a_match_there_is_no_cluster() {
        let table = build(&[(Some("shop.example"), "/a"), (None, "/b")]).unwrap();
        assert_eq!(find(&table, "shop.example", "/c"), None);
        assert_eq!(find(&table, "shop.example", "/b/x"), Some(1));
        assert_eq!(find(&table, "other", "/a"), None);
        assert_eq!(find(&RouteTable::default(), "h", "/"), None);
    }

    #[test]
    fn the_same_route_twice_is_refused() {
        let error = build(&[(None, "/a"), (Some("h"), "/a/"), (Some("h"), "/a")]).unwrap_err();
        let expected = Route::to(Some("h"), "/a", "a");
        assert_eq!(error, RouteError::Duplicate(Box::new(expected)));
    }

    #[test]
    fn as_nginx_has_it_a_host_hides_less_exact_ones() {
        let routes = [
            (None, "/"),
            (Some("*.example"), "/any"),
            (Some("shop.example"), "/a"),
        ]
        .map(|(host, path)| Route::to(host, path, "a"));
        for (hosts, results) in [
            (
                HostMatching::FallThrough,
                [Some(2), Some(1), Some(0), Some(0)],
            ),
            (HostMatching::Closest, [Some(2), None, None, Some(0)]),
        ] {
            let table = RouteTable::build(&routes, hosts).unwrap();
            let asked = [
                ("shop.example", "/a"),
                ("shop.example", "/any"),
                ("x.example", "/"),
                ("else", "/"),
            ];
            assert_eq!(asked.map(|(host, path)| find(&table, host, path)), results);
        }
    }

    #[test]
    fn exact_paths_come_first_then_expressions_in_order_then_prefixes() {
        let table = paths(vec![
            prefix("/"),
            prefix("/static/"),
            regex("/static/.*[.]js$"),
            regex("/static/[a-z]+"),
            exact("/static/app.js"),
            exact("/static/"),
            start("/sta"),
        ]);
        for (path, route) in [
            ("/static/app.js", 4),
            ("/static/lib.js", 2),
            ("/static/lib.jsx", 3),
            ("/static/lib", 3),
            ("/static/1", 1),
            ("/static/", 5),
            ("/static", 1),
            ("/statics", 6),
            ("/x/static/lib.js", 0),
        ] {
            assert_eq!(find(&table, "h", path), Some(route), "{path}");
        }
    }

    #[test]
    fn expressions_match_at_the_start_and_ignore_case_if_told() {
        let with_case = |pattern: &str, ignore_case| {
            paths(vec![PathMatch::Regex {
                pattern: pattern.into(),
                ignore_case,
            }])
        };
        let table = with_case("/foo/bar/[A-Z0-9]{3}", true);
        assert_eq!(find(&table, "h", "/FOO/bar/x1zed"), Some(0));
        assert_eq!(find(&table, "h", "/a/foo/bar/abc"), None);
        let table = with_case("/foo|/bar", false);
        assert_eq!(find(&table, "h", "/barista"), Some(0));
        assert_eq!(find(&table, "h", "/x/bar"), None, "both sides are anchored");
        assert_eq!(find(&table, "h", "/FOO"), None);
    }

    #[test]
    fn a_start_is_compared_byte_by_byte() {
        let table = paths(vec![
            start("/foo"),
            prefix("/foo"),
            start("/foo/bar"),
            exact("/foo/"),
        ]);
        for (path, route) in [
            ("/foo", Some(1)),
            ("/foo/", Some(3)),
            ("/foo/x", Some(1)),
            ("/foobar", Some(0)),
            ("/foo/barista", Some(2)),
            ("/fo", None),
        ] {
            assert_eq!(find(&table, "h", path), route, "{path}");
        }
    }

    #[test]
    fn an_expression_that_does_not_compile_is_refused() {
        let route = Route {
            path: regex("/("),
            ..Route::to(None, "/", "a")
        };
        let error = RouteTable::build(&[route], HostMatching::Closest).unwrap_err();
        assert!(matches!(error, RouteError::Pattern { .. }), "{error}");
    }

    #[test]
    fn a_long_host_is_no_match() {
        let table = build(&[(Some("h"), "/"), (None, "/")]).unwrap();
        assert_eq!(find(&table, &"h".repeat(300), "/"), Some(1));
    }

    /// What a path that begins and ends nowhere in particular is compared with, one by one.
    fn scan(paths: &[PathMatch], path: &str) -> Option<RouteIndex> {
        let position = |matches: &dyn Fn(&PathMatch) -> bool| paths.iter().position(matches);
        let is_exact = |it: &PathMatch| matches!(it, PathMatch::Exact(exact) if exact == path);
        let is_regex = |it: &PathMatch| match it {
            PathMatch::Regex { pattern, .. } => paths_of(pattern).any(|it| path.starts_with(it)),
            _ => false,
        };
        let covers = |it: &PathMatch| match it {
            PathMatch::Prefix(prefix) => (path.strip_prefix(prefix.trim_end_matches('/')))
                .filter(|rest| rest.is_empty() || rest.starts_with('/'))
                .map(|_| 2 * prefix.trim_end_matches('/').len() + 1),
            PathMatch::Start(start) => path.starts_with(start.as_str()).then(|| 2 * start.len()),
            _ => None,
        };
        let longest = || {
            let covering = paths.iter().enumerate();
            let covering = covering.filter_map(|(index, it)| Some((covers(it)?, index)));
            covering.max().map(|(_, index)| index)
        };
        let found = position(&is_exact)
            .or_else(|| position(&is_regex))
            .or_else(longest);
        found.map(|index| index as RouteIndex)
    }

    /// The literals of an expression of the form `a|b`.
    fn paths_of(pattern: &str) -> impl Iterator<Item = &str> {
        pattern.split('|')
    }

    fn any_path() -> impl Strategy<Value = PathMatch> {
        prop_oneof![
            "(/[ab]{1,2}){1,3}/?".prop_map(PathMatch::Exact),
            "(/[ab]{1,2}){0,3}".prop_map(PathMatch::Prefix),
            "/([ab]{1,2}/?){0,3}".prop_map(PathMatch::Start),
            "(/[ab]{1,2}){1,3}([|](/[ab]){1,3})?".prop_map(|pattern| regex(&pattern)),
        ]
    }

    proptest! {
        #[test]
        fn every_kind_of_path_is_found_as_a_scan_finds_it(
            routes in prop::collection::hash_set(any_path(), 0..20),
            path in "(/[ab]{0,2}){1,5}",
        ) {
            let routes: Vec<PathMatch> = routes.into_iter().collect();
            let expected = scan(&routes, &path);
            prop_assert_eq!(find(&paths(routes), "h", &path), expected);
        }

        #[test]
        fn the_search_finds_what_a_scan_finds(
            prefixes in prop::collection::btree_set("(/[ab]{1,2}){0,4}", 0..30),
            path in "(/[ab]{0,2}){1,5}",
        ) {
            let routes: Vec<(Option<&str>, &str)> =
                prefixes.iter().map(|prefix| (None, prefix.as_str())).collect();
            let table = build(&routes).unwrap();
            let covers = |prefix: &str| {
                path.strip_prefix(prefix)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            let expected = (prefixes.iter().enumerate())
                .filter(|(_, prefix)| covers(prefix))
                .max_by_key(|(_, prefix)| prefix.len())
                .map(|(index, _)| index as u32);
            prop_assert_eq!(find(&table, "h", &path), expected);
        }
    }
}
