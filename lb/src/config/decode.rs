//! Typed values out of YAML nodes: the vocabulary in which `read.rs` is written.
//!
//! Invariant: decoding never stops at the first problem. What cannot be read is `None` and has
//! left a problem behind, so that a user sees every mistake of a file at once.
//! Read next: `read.rs`.

use std::ops::RangeInclusive;

use super::notation;
use super::problem::{Located, Problem};
use super::yaml::{Entry, Node, Value};

/// The problems found so far.
pub(crate) type Problems = Vec<Problem>;

/// A mapping whose keys are taken one by one; what is left at the end is unknown.
pub(crate) struct Fields<'n, 'p> {
    node: &'n Node,
    entries: &'n [Entry],
    known: Vec<&'static str>,
    refused: Vec<&'static str>,
    problems: &'p mut Problems,
}

impl<'n, 'p> Fields<'n, 'p> {
    /// `None` if the node is no mapping. Nothing at all counts as an empty one.
    pub(crate) fn of(node: &'n Node, problems: &'p mut Problems) -> Option<Self> {
        let entries: &[_] = match &node.value {
            Value::Mapping(entries) => entries,
            Value::Null => &[],
            Value::Scalar(_) | Value::Sequence(_) => {
                problems.push(expected("a mapping (key: value)", node));
                return None;
            }
        };
        Some(Self {
            node,
            entries,
            known: Vec::new(),
            refused: Vec::new(),
            problems,
        })
    }

    /// The value of a key that may be absent.
    pub(crate) fn optional<T>(
        &mut self,
        key: &'static str,
        decode: impl FnOnce(&Node, &mut Problems) -> Option<T>,
    ) -> Option<T> {
        self.known.push(key);
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        decode(&entry.node, self.problems)
    }

    /// The value of a key that must be there.
    pub(crate) fn required<T>(
        &mut self,
        key: &'static str,
        decode: impl FnOnce(&Node, &mut Problems) -> Option<T>,
    ) -> Option<T> {
        if !self.has(key) {
            self.problem(format!("the key \"{key}\" is missing"));
        }
        self.optional(key, decode)
    }

    /// A key that would have no effect here is refused, and `why` says what it is for.
    pub(crate) fn refuse(&mut self, key: &'static str, why: &str) {
        self.refused.push(key);
        if let Some(entry) = self.entries.iter().find(|entry| entry.key == key) {
            let reason = format!("\"{key}\" has no effect here; {why}");
            self.problems.push(Problem::new(&entry.place, reason));
        }
    }

    /// Whether the key was written.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key)
    }

    /// Where problems go.
    pub(crate) const fn problems(&mut self) -> &mut Problems {
        self.problems
    }

    /// Something is wrong with the mapping as a whole.
    pub(crate) fn problem(&mut self, reason: impl Into<String>) {
        self.problems.push(Problem::new(&self.node.place, reason));
    }

    /// Reports the keys that nobody asked for.
    pub(crate) fn finish(self) {
        for Entry { key, place, .. } in self.entries {
            if !self.known.contains(&&**key) && !self.refused.contains(&&**key) {
                let valid = self.known.join(", ");
                let reason = format!("there is no key \"{key}\" here; there are {valid}");
                let known = self.known.iter().copied();
                self.problems
                    .push(Problem::unknown(place, reason, key, known));
            }
        }
    }
}

/// The items of a list, each by `decode`.
pub(crate) fn list<T>(
    mut decode: impl FnMut(&Node, &mut Problems) -> Option<T>,
) -> impl FnOnce(&Node, &mut Problems) -> Option<Vec<T>> {
    move |node, problems| match &node.value {
        Value::Sequence(nodes) => Some(
            nodes
                .iter()
                .filter_map(|node| decode(node, problems))
                .collect(),
        ),
        Value::Null => Some(Vec::new()),
        Value::Mapping(_) | Value::Scalar(_) => {
            problems.push(expected("a list (lines that begin with \"- \")", node));
            None
        }
    }
}

/// A scalar in one of the notations of `notation.rs`.
pub(crate) fn parsed<T>(
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> impl FnOnce(&Node, &mut Problems) -> Option<Located<T>> {
    move |node, problems| {
        let Value::Scalar(text) = &node.value else {
            problems.push(expected("a value", node));
            return None;
        };
        match parse(text) {
            Ok(value) => Some(Located {
                value,
                place: node.place.clone(),
            }),
            Err(reason) => {
                problems.push(Problem::new(&node.place, reason));
                None
            }
        }
    }
}

/// As [`parsed`], where the word `none` means that there is no limit.
pub(crate) fn limit<T>(
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> impl FnOnce(&Node, &mut Problems) -> Option<Located<Option<T>>> {
    parsed(|text| match text {
        "none" => Ok(None),
        _ => parse(text)
            .map(Some)
            .map_err(|reason| format!("{reason}; or none")),
    })
}

/// A whole number within bounds.
pub(crate) fn number(
    range: RangeInclusive<u64>,
) -> impl FnOnce(&Node, &mut Problems) -> Option<Located<u64>> {
    parsed(|text| notation::number(text, range))
}

/// `true` or `false`.
pub(crate) fn boolean(node: &Node, problems: &mut Problems) -> Option<bool> {
    choice(&[("false", false), ("true", true)])(node, problems).map(|it| it.value)
}

/// One of a fixed set of words.
pub(crate) fn choice<T: Copy>(
    words: &[(&'static str, T)],
) -> impl FnOnce(&Node, &mut Problems) -> Option<Located<T>> {
    parsed(|text| notation::word(text, words))
}

/// What stands there is of the wrong kind.
pub(crate) fn expected(what: &str, node: &Node) -> Problem {
    Problem::new(
        &node.place,
        format!("expected {what}, found {}", node.describe()),
    )
}
