//! What is wrong with a configuration, and where: every error a user can make becomes one
//! [`Problem`].
//!
//! Invariant: a problem names its place (file, line, column and key path, or the flag), the
//! reason, and, when something close exists, the name that was probably meant.
//! Read next: `decode.rs` (which finds most of them).

use std::fmt;
use std::sync::Arc;

use serde_json::{Value, json};

/// Where something was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// On the command line.
    Flag {
        /// The flag, with its dashes.
        flag: &'static str,
        /// What was given to it.
        value: String,
    },
    /// In a configuration file.
    File {
        /// The path as the user gave it.
        file: Arc<str>,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
        /// Key path, as `listeners[0].http.routes[1].cluster`; empty for the whole document.
        key: String,
    },
}

impl Place {
    /// Orders places of one file as they are met in reading; flags come first.
    pub(crate) fn order(&self) -> (&str, usize, usize) {
        match self {
            Self::Flag { flag, .. } => (flag, 0, 0),
            Self::File {
                file, line, column, ..
            } => (file, *line, *column),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag { flag, value } if value.is_empty() => f.write_str(flag),
            Self::Flag { flag, value } => write!(f, "{flag} {value}"),
            Self::File {
                file,
                line,
                column,
                key,
            } if key.is_empty() => {
                write!(f, "{file}:{line}:{column}")
            }
            Self::File {
                file,
                line,
                column,
                key,
            } => write!(f, "{file}:{line}:{column}: {key}"),
        }
    }
}

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Located<T> {
    pub(crate) value: T,
    pub(crate) place: Place,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) place: Place,
    /// What is wrong, in words that say what would be right.
    pub(crate) reason: String,
    /// The nearest valid name.
    pub(crate) meant: Option<String>,
}

impl Problem {
    pub(crate) fn new(place: &Place, reason: impl Into<String>) -> Self {
        Self {
            place: place.clone(),
            reason: reason.into(),
            meant: None,
        }
    }

    /// A name that does not exist among `valid`; the nearest of these is suggested.
    pub(crate) fn unknown<'a>(
        place: &Place,
        reason: impl Into<String>,
        name: &str,
        valid: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let meant = nearest(name, valid).map(str::to_owned);
        Self {
            place: place.clone(),
            reason: reason.into(),
            meant,
        }
    }

    /// As `lb check --format json` and the admin's `/config` show it.
    pub(crate) fn to_json(&self) -> Value {
        let mut value = match &self.place {
            Place::Flag { flag, value } => json!({ "flag": flag, "value": value }),
            Place::File {
                file,
                line,
                column,
                key,
            } => {
                json!({ "file": &**file, "line": line, "column": column, "key": key })
            }
        };
        value["reason"] = json!(self.reason);
        value["meant"] = json!(self.meant);
        value
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.reason)?;
        match &self.meant {
            Some(meant) => write!(f, "; did you mean \"{meant}\"?"),
            None => Ok(()),
        }
    }
}

/// The valid name that `name` was probably meant to be: at most one edit in three characters
/// away, or the only one that begins with it.
pub(crate) fn nearest<'a>(name: &str, valid: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let edits_max = (name.chars().count() / 3).max(1);
    valid
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(edits, candidate)| {
            *edits <= edits_max || (name.len() >= 3 && candidate.starts_with(name))
        })
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_forgives_a_typo_but_does_not_guess() {
        let names = ["listeners", "clusters", "routes", "workers"];
        assert_eq!(nearest("listners", names), Some("listeners"));
        assert_eq!(nearest("cluster", names), Some("clusters"));
        assert_eq!(nearest("rotues", names), Some("routes"));
        assert_eq!(nearest("work", names), Some("workers"));
        assert_eq!(nearest("tls", names), None);
        assert_eq!(nearest("", names), None);
    }

    #[test]
    fn a_problem_is_one_line() {
        let place = Place::File {
            file: "lb.yaml".into(),
            line: 3,
            column: 5,
            key: "a.b".into(),
        };
        let problem = Problem::unknown(&place, "no cluster \"wbe\"", "wbe", ["web"]);
        let line = "lb.yaml:3:5: a.b: no cluster \"wbe\"; did you mean \"web\"?";
        assert_eq!(problem.to_string(), line);
        assert_eq!(problem.to_json()["line"], 3);
    }
}
