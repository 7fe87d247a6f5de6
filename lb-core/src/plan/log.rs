//! Access logs: where lines go and what is in them.
//!
//! Invariant: a format is text here; who knows the variables compiles it.
//! Read next: `lb_l7` and `lb_l4` (the variables), `http.rs`.

use std::fmt;
use std::path::PathBuf;

/// Whether and how a listener logs what it serves.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum ListenerLog {
    /// As the process is told for all.
    #[default]
    Inherit,
    /// Not at all.
    Off,
    /// A log of its own.
    To(AccessLog),
}

/// A log of exchanges or sessions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AccessLog {
    /// Where lines go.
    pub target: LogTarget,
    /// What is in them.
    pub format: LogFormat,
    /// Of sessions and flows: whether there is a line at the start, too.
    pub starts: bool,
}

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LogTarget {
    /// To the end of a file, which is made if it does not exist.
    File(PathBuf),
    /// To standard output.
    Stdout,
}

impl fmt::Display for LogTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Stdout => f.write_str("stdout"),
        }
    }
}

/// What is in a line.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum LogFormat {
    /// Of exchanges: `Common`, and the fields Referer and User-Agent: what nginx and Apache call combined.
    Combined,
    /// Of exchanges: the common log format of NCSA httpd.
    Common,
    /// An object of JSON with all that is usually asked for.
    #[default]
    Json,
    /// Text with `$variables`.
    Template(String),
    /// Of sessions and flows: who, when, what came of it, how much and how long.
    Text,
}
