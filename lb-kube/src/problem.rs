//! What is wrong with an object, or not done here.
//!
//! Invariant: a problem names the object, the field, the reason and, if there is one, the cure.
//! Read next: `compile.rs` (which collects them).

use std::fmt;

use crate::object::{ObjectRef, Origin};

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The object.
    pub object: ObjectRef,
    /// Where it was read, if it was in a file.
    pub origin: Option<Origin>,
    /// The field, as `spec.ports[0].protocol`; empty for the object as a whole.
    pub field: String,
    /// What is wrong.
    pub reason: String,
    /// What to do; may be empty.
    pub hint: String,
    /// What it means for the traffic.
    pub severity: Severity,
}

/// What a problem means for the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// The object, or the part of it that is named, is not served.
    Error,
    /// It is served, but not as it says.
    Warning,
    /// It is served; something was chosen that it leaves open, or nobody is there to answer now.
    Note,
}

impl Severity {
    /// `error`, `warning` or `note`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

impl Problem {
    /// Of `object`, with `severity`.
    pub fn new(
        severity: Severity,
        object: &ObjectRef,
        field: impl Into<String>,
        reason: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            object: object.clone(),
            origin: None,
            field: field.into(),
            reason: reason.into(),
            hint: hint.into(),
            severity,
        }
    }
}

impl fmt::Display for Problem {
    /// As `web.yaml:12: Service default/web: spec.ports[0].protocol: reason; hint`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        write!(f, "{}: ", self.object)?;
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
