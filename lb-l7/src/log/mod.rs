//! Access logs: a line for each exchange, put together while it goes on.
//!
//! Invariant: a request never waits for its log line; a listener without a log builds nothing for
//! one. Read next: `template.rs` (what is in a line), `record.rs` (a line on its way),
//! `lb_core::lines` (where it goes).

mod record;
mod template;
mod variable;

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use lb_core::lines::{LineSink, Lines, TemplateError};
use lb_core::plan::{LogFormat, PathMatch, Route};

pub(crate) use record::{Early, Outcome, Record};
pub use template::Template;

/// The log of a listener.
pub struct Log {
    template: Template,
    sink: Arc<dyn LineSink>,
    listener: Box<str>,
    /// By route.
    routes: Box<[Box<str>]>,
}

impl Log {
    /// A log of the listener `listener`, whose lines go to `sink`.
    ///
    /// # Errors
    /// What is wrong with the format.
    pub fn new(
        listener: &str,
        routes: &[Route],
        format: &LogFormat,
        sink: Arc<dyn LineSink>,
    ) -> Result<Self, TemplateError> {
        Ok(Self {
            template: Template::compile(format)?,
            sink,
            listener: listener.into(),
            routes: routes.iter().map(|route| name(route).into()).collect(),
        })
    }

    pub(crate) const fn template(&self) -> &Template {
        &self.template
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("listener", &self.listener)
            .field("template", &self.template)
            .finish_non_exhaustive()
    }
}

/// A route as lines have it: host and path.
fn name(route: &Route) -> String {
    let host = route.host.as_deref().unwrap_or("*");
    match &route.path {
        PathMatch::Exact(path) => format!("{host}={path}"),
        PathMatch::Prefix(path) | PathMatch::Start(path) => format!("{host}{path}"),
        PathMatch::Regex { pattern, .. } => format!("{host}~{pattern}"),
    }
}

/// The records that no exchange has, of one worker.
#[derive(Default)]
pub(crate) struct Records {
    #[expect(clippy::vec_box, reason = "exchanges hold the boxes")]
    vacant: RefCell<Vec<Box<Record>>>,
}

impl Records {
    /// Vacant records that are kept.
    const VACANT_MAX: usize = 1024;
    /// Larger records are not kept.
    const RECORD_BYTES_MAX: usize = 4 * 1024;

    /// A record of a request, with what is known of it early.
    pub(crate) fn begin(&self, log: &Log, early: &Early<'_>) -> Box<Record> {
        let mut record = self.vacant.borrow_mut().pop().unwrap_or_default();
        record.begin(log, early);
        record
    }

    /// Writes the line of `record` and takes it back.
    pub(crate) fn write(
        &self,
        lines: &Lines,
        log: &Log,
        mut record: Box<Record>,
        outcome: &Outcome<'_>,
    ) {
        lines.append(&log.sink, |line| {
            record.finish(&log.template, outcome, line)
        });
        self.keep(record);
    }

    fn keep(&self, mut record: Box<Record>) {
        let mut vacant = self.vacant.borrow_mut();
        if vacant.len() < Self::VACANT_MAX && record.held_bytes() <= Self::RECORD_BYTES_MAX {
            record.clear();
            vacant.push(record);
        }
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records")
            .field("vacant", &self.vacant.borrow().len())
            .finish_non_exhaustive()
    }
}
