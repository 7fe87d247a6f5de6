//! The paths of one host: exact ones, prefixes and starts in one sorted list, and beside it the
//! regular expressions.
//!
//! Invariant: of all entries of the list that a path begins with, the longest is the last one not
//! above the path in the order, or one that this entry is linked to: one binary search and a walk
//! along the links find it. Read next: `patterns.rs`.

use super::patterns::{Pattern, Patterns};
use super::{RouteIndex, Unfinished};

/// The paths of one host.
#[derive(Debug, Default)]
pub(super) struct PathTable {
    entries: Vec<Entry>,
    /// Until the table is finished.
    collected: Vec<Pattern>,
    patterns: Option<Patterns>,
}

#[derive(Debug, Clone)]
struct Entry {
    /// Of a prefix without a slash at the end; empty for `/`.
    path: Box<[u8]>,
    kind: Kind,
    route: RouteIndex,
    /// Index of the longest other entry that `path` starts with.
    shorter: Option<u32>,
}

/// In the order in which entries with the same path are preferred, the last first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Start,
    Prefix,
    Exact,
}

impl Entry {
    /// Whether the entry is for `path`.
    fn covers(&self, path: &[u8]) -> bool {
        match (path.strip_prefix(&*self.path), self.kind) {
            (None, _) => false,
            (Some(_), Kind::Start) => true,
            // The prefix ends where an element of the path does.
            (Some(rest), Kind::Prefix) => {
                self.path.is_empty() || rest.first().is_none_or(|byte| *byte == b'/')
            }
            (Some(rest), Kind::Exact) => rest.is_empty(),
        }
    }

    fn key(&self) -> (&[u8], Kind) {
        (&self.path, self.kind)
    }
}

impl PathTable {
    pub(super) fn add_exact(&mut self, path: &str, route: RouteIndex) {
        self.add(path, Kind::Exact, route);
    }

    pub(super) fn add_prefix(&mut self, path: &str, route: RouteIndex) {
        self.add(path.trim_end_matches('/'), Kind::Prefix, route);
    }

    pub(super) fn add_start(&mut self, path: &str, route: RouteIndex) {
        self.add(path, Kind::Start, route);
    }

    /// Fails with the reason if `pattern` is no regular expression.
    pub(super) fn add_pattern(
        &mut self,
        pattern: &str,
        ignore_case: bool,
        route: RouteIndex,
    ) -> Result<(), String> {
        let pattern = Pattern::parse(pattern, ignore_case, route)?;
        self.collected.push(pattern);
        Ok(())
    }

    fn add(&mut self, path: &str, kind: Kind, route: RouteIndex) {
        self.entries.push(Entry {
            path: path.as_bytes().into(),
            kind,
            route,
            shorter: None,
        });
    }

    pub(super) fn find(&self, path: &[u8]) -> Option<RouteIndex> {
        let above = self.entries.partition_point(|entry| &*entry.path <= path);
        let last = above.checked_sub(1).map(|index| &self.entries[index]);
        if let Some(patterns) = &self.patterns {
            if let Some(exact) = last.filter(|it| it.kind == Kind::Exact && *it.path == *path) {
                return Some(exact.route);
            }
            if let Some(route) = patterns.find(path) {
                return Some(route);
            }
        }
        let mut candidate = last?;
        while !candidate.covers(path) {
            candidate = &self.entries[candidate.shorter? as usize];
        }
        Some(candidate.route)
    }

    /// Sorts, links and compiles.
    pub(super) fn finish(&mut self) -> Result<(), Unfinished> {
        self.entries.sort_by(|a, b| a.key().cmp(&b.key()));
        for index in 1..self.entries.len() {
            let (before, from) = self.entries.split_at_mut(index);
            let entry = &mut from[0];
            if before[index - 1].key() == entry.key() {
                return Err(Unfinished::Duplicate(entry.route));
            }
            let mut shorter = u32::try_from(index - 1).ok();
            while let Some(other) = shorter.map(|at| &before[at as usize])
                && !entry.path.starts_with(&other.path)
            {
                shorter = other.shorter;
            }
            entry.shorter = shorter;
        }
        self.entries.shrink_to_fit();
        let collected = std::mem::take(&mut self.collected);
        self.patterns = Patterns::build(&collected)?;
        Ok(())
    }
}
