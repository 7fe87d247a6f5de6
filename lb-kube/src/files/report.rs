//! What is wrong with files and the objects in them, in one form.
//!
//! Invariant: a report is one line of text, whatever the file holds.
//! Read next: `../problem.rs` (of objects that could be read).

use std::fmt;
use std::sync::Arc;

use super::document::Position;
use crate::object::{ObjectRef, Origin};
use crate::problem::{Problem, Severity};

/// One thing that is wrong with a file, an object or a part of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Report {
    /// The file, as the user named its folder; `None` if it is in none.
    pub file: Option<Arc<str>>,
    /// Which document of the file, from 1; 0 for the file as a whole.
    pub document: u32,
    /// The line and the column of the field or the object.
    pub position: Option<Position>,
    /// The object, as far as it is known.
    pub object: Option<ObjectRef>,
    /// The field, as `spec.rules[0].host`; empty for the object as a whole.
    pub field: String,
    /// What is wrong.
    pub reason: String,
    /// What to do; may be empty.
    pub hint: String,
    /// What it means for the traffic.
    pub severity: Severity,
}

impl Report {
    /// About a file as a whole.
    pub(super) fn of_file(file: &Arc<str>, reason: impl Into<String>) -> Self {
        Self {
            file: Some(Arc::clone(file)),
            document: 0,
            position: None,
            object: None,
            field: String::new(),
            reason: reason.into(),
            hint: String::new(),
            severity: Severity::Error,
        }
    }

    /// The same with what to do.
    pub(super) fn with_hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: hint.into(),
            ..self
        }
    }
}

impl From<Problem> for Report {
    fn from(problem: Problem) -> Self {
        let at = |origin: &Origin| Position {
            line: origin.line,
            column: 1,
        };
        let origin = problem.origin;
        Self {
            document: origin.as_ref().map_or(0, |origin| origin.document),
            position: origin.as_ref().map(at),
            file: origin.map(|origin| origin.file),
            object: Some(problem.object),
            field: problem.field,
            reason: problem.reason,
            hint: problem.hint,
            severity: problem.severity,
        }
    }
}

impl fmt::Display for Report {
    /// As `web.yaml:12:5: Ingress default/web: spec.rules[0].host: reason; hint`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            f.write_str(file)?;
            if let Some(Position { line, column }) = self.position {
                write!(f, ":{line}:{column}")?;
            }
            f.write_str(": ")?;
        }
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.reason)?;
        if !self.hint.is_empty() {
            write!(f, "; {}", self.hint)?;
        }
        Ok(())
    }
}
