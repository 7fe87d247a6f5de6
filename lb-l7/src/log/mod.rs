//! Access logs: a line for each exchange, gathered by each worker and handed over in batches.
//!
//! Invariant: a request never waits for its log line; a listener without a log builds nothing for
//! one. Read next: `template.rs` (what is in a line), `record.rs` (a line on its way).

mod record;
mod template;
mod variable;

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use lb_core::plan::{LogFormat, PathMatch, Route};

pub(crate) use record::{Early, Outcome, Record};
pub use template::{Template, TemplateError};

/// Takes batches of lines from workers: a queue to a writing thread.
pub trait LineSink: Send + Sync {
    /// Takes whole lines, each with its line feed. Must not block: what does not fit is dropped
    /// and counted by the sink.
    fn write(&self, lines: Vec<u8>);
}

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

/// The lines of one worker, and the records that no exchange has.
#[derive(Default)]
pub(crate) struct Lines {
    batches: RefCell<Vec<Batch>>,
    #[expect(clippy::vec_box, reason = "exchanges hold the boxes")]
    vacant: RefCell<Vec<Box<Record>>>,
}

/// Lines that go the same way.
struct Batch {
    sink: Arc<dyn LineSink>,
    lines: Vec<u8>,
}

impl Lines {
    /// Lines gather up to this, or for a second.
    const BATCH_BYTES: usize = 16 * 1024;
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

    fn keep(&self, mut record: Box<Record>) {
        let mut vacant = self.vacant.borrow_mut();
        if vacant.len() < Self::VACANT_MAX && record.held_bytes() <= Self::RECORD_BYTES_MAX {
            record.clear();
            vacant.push(record);
        }
    }

    /// Writes the line of `record` and takes it back.
    pub(crate) fn write(&self, log: &Log, mut record: Box<Record>, outcome: &Outcome<'_>) {
        let mut batches = self.batches.borrow_mut();
        let known = batches
            .iter()
            .position(|it| Arc::ptr_eq(&it.sink, &log.sink));
        let index = known.unwrap_or_else(|| {
            batches.push(Batch {
                sink: Arc::clone(&log.sink),
                lines: Vec::new(),
            });
            batches.len() - 1
        });
        let Batch { sink, lines } = &mut batches[index];
        if lines.capacity() == 0 {
            lines.reserve(Self::BATCH_BYTES + 1024);
        }
        record.finish(&log.template, outcome, lines);
        if lines.len() >= Self::BATCH_BYTES {
            sink.write(std::mem::take(lines));
        }
        drop(batches);
        self.keep(record);
    }

    /// Hands over what has gathered. Sinks that had nothing since the last time are forgotten, so
    /// that one of a log that is no more can end.
    pub(crate) fn flush(&self) {
        let mut batches = self.batches.borrow_mut();
        batches.retain_mut(|Batch { sink, lines }| {
            let has_lines = !lines.is_empty();
            if has_lines {
                sink.write(std::mem::take(lines));
            }
            has_lines
        });
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines")
            .field("vacant", &self.vacant.borrow().len())
            .finish_non_exhaustive()
    }
}
