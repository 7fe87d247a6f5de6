//! The regular expressions of one host, as one automaton that looks for all of them at once.
//!
//! Invariant: a path takes one pass, however many expressions there are, and of those that match
//! the first in the order of the routes is found. Read next: `../rewrite.rs` (what groups are for).

use lb_core::plan::{PATTERN_PROGRAM_BYTES_MAX, parse_pattern};
use regex_automata::meta::Regex;
use regex_automata::nfa::thompson::WhichCaptures;
use regex_automata::{Anchored, Input};
use regex_syntax::hir::Hir;

use super::{RouteIndex, Unfinished};

/// One expression, parsed.
#[derive(Debug)]
pub(super) struct Pattern {
    hir: Hir,
    route: RouteIndex,
}

impl Pattern {
    pub(super) fn parse(
        pattern: &str,
        ignore_case: bool,
        route: RouteIndex,
    ) -> Result<Self, String> {
        let hir = parse_pattern(pattern, ignore_case)?;
        Ok(Self { hir, route })
    }
}

/// The expressions of one host, compiled.
#[derive(Debug)]
pub(super) struct Patterns {
    regex: Regex,
    /// By the expression's number.
    routes: Box<[RouteIndex]>,
}

impl Patterns {
    /// What each worker may keep of the automaton that is made while it is used.
    const CACHE_BYTES: usize = 256 * 1024;

    /// `None` without patterns.
    pub(super) fn build(patterns: &[Pattern]) -> Result<Option<Self>, Unfinished> {
        let Some(first) = patterns.first() else {
            return Ok(None);
        };
        let config = Regex::config()
            .which_captures(WhichCaptures::Implicit)
            .utf8_empty(false)
            .auto_prefilter(false)
            .onepass(false)
            .backtrack(false)
            .hybrid_cache_capacity(Self::CACHE_BYTES)
            .nfa_size_limit(Some(patterns.len() * PATTERN_PROGRAM_BYTES_MAX));
        let hirs: Vec<&Hir> = patterns.iter().map(|pattern| &pattern.hir).collect();
        let regex = Regex::builder()
            .configure(config)
            .build_many_from_hir(&hirs)
            .map_err(|error| {
                let blamed = error.pattern().and_then(|it| patterns.get(it.as_usize()));
                Unfinished::Patterns(blamed.unwrap_or(first).route, error.to_string())
            })?;
        Ok(Some(Self {
            regex,
            routes: patterns.iter().map(|pattern| pattern.route).collect(),
        }))
    }

    /// The route of the first expression that matches at the start of `path`. Where two match
    /// there, an automaton prefers the earlier, as if they were the two sides of `|`.
    pub(super) fn find(&self, path: &[u8]) -> Option<RouteIndex> {
        let input = Input::new(path).anchored(Anchored::Yes);
        let found = self.regex.search_half(&input)?;
        self.routes.get(found.pattern().as_usize()).copied()
    }
}
