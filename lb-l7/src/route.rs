//! Which cluster a request goes to: by host, then by the longest path prefix.
//!
//! Invariant: a look-up allocates nothing and its time does not grow with the number of hosts.
//! Paths are compared as they came, percent-encoding untouched: the bytes that are matched are
//! the bytes that are forwarded. Read next: `service.rs` (who compiles the table).

use std::collections::HashMap;

use lb_core::plan::{PathMatch, Route};

/// Position of a cluster in the list that the table was built with.
pub type ClusterIndex = u32;

/// The routes of a listener, compiled.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// By host in lower case.
    exact: HostMap,
    /// By what follows the wildcard label, its dot included: `*.example` is under `.example`.
    wildcard: HostMap,
    any: PathTable,
}

/// Look-ups cannot make it slow, for nothing that a client sends gets in; and who writes the plan
/// does not know the hash's seed, which is random. So it need not be a cryptographic one.
type HostMap = HashMap<Box<[u8]>, PathTable, foldhash::fast::RandomState>;

/// Two routes with the same host and path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DuplicateRoute {
    /// The host of both, `None` for any.
    pub host: Option<String>,
    /// The path prefix of both.
    pub path_prefix: String,
}

impl RouteTable {
    /// Compiles `routes`; `cluster` gives each its cluster's index. Hosts are expected as the plan
    /// has them: in lower case, exact or `*.` and the rest.
    ///
    /// # Errors
    /// [`DuplicateRoute`], also when the prefixes differ in a slash at their end only.
    pub fn build(
        routes: &[Route],
        cluster: impl Fn(&Route) -> ClusterIndex,
    ) -> Result<Self, DuplicateRoute> {
        let mut table = Self::default();
        for route in routes {
            let host = route.host.as_deref().map(|host| host.trim_end_matches('.'));
            let paths = match host.map(|host| (host, host.strip_prefix('*'))) {
                None => &mut table.any,
                Some((_, Some(suffix))) => table.wildcard.entry(key(suffix)).or_default(),
                Some((host, None)) => table.exact.entry(key(host)).or_default(),
            };
            paths
                .prefixes
                .push(Prefix::new(prefix_of(route), cluster(route)));
        }
        table.finish().map_err(|prefix| DuplicateRoute {
            host: routes
                .iter()
                .find(|route| prefix.is_of(route))
                .and_then(|it| it.host.clone()),
            path_prefix: String::from_utf8_lossy(&prefix.path).into_owned(),
        })?;
        Ok(table)
    }

    /// The cluster for a request of `host` (without port, in any case, empty for none) and `path`
    /// (without query). The exact host's routes come first, then those of its wildcard, then
    /// those of any host; a host none of whose paths matches does not hide the less exact ones.
    #[must_use]
    pub fn find(&self, host: &[u8], path: &[u8]) -> Option<ClusterIndex> {
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

    fn find_lower_case(&self, host: &[u8], path: &[u8]) -> Option<ClusterIndex> {
        let label_len = memchr::memchr(b'.', host).unwrap_or(host.len());
        self.exact
            .get(host)
            .and_then(|paths| paths.find(path))
            .or_else(|| self.wildcard.get(&host[label_len..])?.find(path))
            .or_else(|| self.any.find(path))
    }

    fn finish(&mut self) -> Result<(), Prefix> {
        let hosts = self.exact.values_mut().chain(self.wildcard.values_mut());
        hosts.chain([&mut self.any]).try_for_each(PathTable::finish)
    }
}

/// Longest host that can have a route; longer ones do not pass the head's checks.
const HOST_BYTES_MAX: usize = 255;

fn prefix_of(route: &Route) -> &str {
    match &route.path {
        PathMatch::Prefix(prefix) => prefix,
        _ => "/",
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

/// The path prefixes of one host, sorted, each linked to the longest other that it starts with.
///
/// Of all prefixes of a path, the longest is the last entry not above the path in the order, or
/// one that this entry starts with: so one binary search and a walk along the links find it.
#[derive(Debug, Default)]
struct PathTable {
    prefixes: Vec<Prefix>,
}

#[derive(Debug, Clone)]
struct Prefix {
    /// Without a slash at the end; empty for `/`.
    path: Box<[u8]>,
    cluster: ClusterIndex,
    /// Index of the longest other prefix that `path` starts with.
    shorter: Option<u32>,
}

impl Prefix {
    fn new(path: &str, cluster: ClusterIndex) -> Self {
        let path = path.trim_end_matches('/').as_bytes().into();
        Self {
            path,
            cluster,
            shorter: None,
        }
    }

    fn is_of(&self, route: &Route) -> bool {
        *self.path == *prefix_of(route).trim_end_matches('/').as_bytes()
    }

    /// Whether the prefix ends where an element of `path` does.
    fn covers(&self, path: &[u8]) -> bool {
        match path.strip_prefix(&*self.path) {
            Some(rest) => self.path.is_empty() || rest.first().is_none_or(|byte| *byte == b'/'),
            None => false,
        }
    }
}

impl PathTable {
    fn find(&self, path: &[u8]) -> Option<ClusterIndex> {
        let above = self
            .prefixes
            .partition_point(|prefix| &*prefix.path <= path);
        let mut candidate = self.prefixes.get(above.checked_sub(1)?)?;
        while !candidate.covers(path) {
            candidate = &self.prefixes[candidate.shorter? as usize];
        }
        Some(candidate.cluster)
    }

    /// Sorts and links; `Err` with a prefix that is there twice.
    fn finish(&mut self) -> Result<(), Prefix> {
        self.prefixes.sort_by(|a, b| a.path.cmp(&b.path));
        for index in 1..self.prefixes.len() {
            let (before, from) = self.prefixes.split_at_mut(index);
            let prefix = &mut from[0];
            let mut shorter = u32::try_from(index - 1).ok();
            while let Some(at) = shorter {
                let other = &before[at as usize];
                if other.path == prefix.path {
                    return Err(other.clone());
                }
                if prefix.path.starts_with(&other.path) {
                    break;
                }
                shorter = other.shorter;
            }
            prefix.shorter = shorter;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn route(host: Option<&str>, path_prefix: &str, index: usize) -> Route {
        Route::to(host, path_prefix, &index.to_string())
    }

    fn build(routes: &[(Option<&str>, &str)]) -> Result<RouteTable, DuplicateRoute> {
        let routes: Vec<Route> = (routes.iter().enumerate())
            .map(|(index, (host, path))| route(*host, path, index))
            .collect();
        RouteTable::build(&routes, |it| it.action.cluster().unwrap().parse().unwrap())
    }

    fn find(table: &RouteTable, host: &str, path: &str) -> Option<ClusterIndex> {
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
            (".example", 1),
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
        assert_eq!(error.path_prefix, "/a");
    }

    #[test]
    fn a_long_host_is_no_match() {
        let table = build(&[(Some("h"), "/"), (None, "/")]).unwrap();
        assert_eq!(find(&table, &"h".repeat(300), "/"), Some(1));
    }

    proptest! {
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
