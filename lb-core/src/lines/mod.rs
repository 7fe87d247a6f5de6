//! Lines of logs, gathered by each worker and handed over in batches; and how formats become lines.
//!
//! Invariant: who has something to log never waits for it, and in steady state allocates nothing:
//! the buffers that lines gather in come back.
//! Read next: `template.rs` (what is in a line), `value.rs`.

mod template;
mod text;
mod value;

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

pub use template::{Escape, Parsed, Piece, TemplateError, Variables, object, parse};
pub use text::{AddressText, DecimalText};
pub use value::{
    MONTHS, civil_date, since_epoch, write_address, write_iso8601, write_local_time, write_msec,
    write_number, write_seconds,
};

/// Takes batches of lines from workers: a queue to a writing thread.
pub trait LineSink: Send + Sync {
    /// Takes whole lines, each with its line feed. Must not block: what does not fit is dropped
    /// and counted by the sink. Gives back an empty buffer to gather the next in, with the memory
    /// of an earlier one if it has any.
    fn write(&self, lines: Vec<u8>) -> Vec<u8>;
}

/// The lines of one worker that are not handed over yet.
#[derive(Default)]
pub struct Lines {
    batches: RefCell<Vec<Batch>>,
}

/// Lines that go the same way.
struct Batch {
    sink: Arc<dyn LineSink>,
    lines: Vec<u8>,
}

impl Lines {
    /// Lines gather up to this, or until they are flushed.
    const BATCH_BYTES: usize = 16 * 1024;

    /// Adds what `write` writes, which is a line with its line feed, to what goes to `sink`.
    pub fn append(&self, sink: &Arc<dyn LineSink>, write: impl FnOnce(&mut Vec<u8>)) {
        let mut batches = self.batches.borrow_mut();
        let known = batches.iter().position(|it| Arc::ptr_eq(&it.sink, sink));
        let index = known.unwrap_or_else(|| {
            batches.push(Batch {
                sink: Arc::clone(sink),
                lines: Vec::new(),
            });
            batches.len() - 1
        });
        let Batch { sink, lines } = &mut batches[index];
        if lines.capacity() == 0 {
            lines.reserve(Self::BATCH_BYTES + 1024);
        }
        write(lines);
        if lines.len() >= Self::BATCH_BYTES {
            *lines = sink.write(std::mem::take(lines));
        }
    }

    /// Hands over what has gathered; to be called every second or so. Sinks that had nothing since
    /// the last time are forgotten, so that one of a log that is no more can end.
    pub fn flush(&self) {
        let mut batches = self.batches.borrow_mut();
        batches.retain_mut(|Batch { sink, lines }| {
            let has_lines = !lines.is_empty();
            if has_lines {
                *lines = sink.write(std::mem::take(lines));
            }
            has_lines
        });
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").finish_non_exhaustive()
    }
}
