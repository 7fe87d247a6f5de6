//! The access log: a line of JSON for each HTTP request, written by a thread of its own.
//!
//! Invariant: where the lines go can change while requests are served, and slows none of them;
//! whether there are any is decided at the start, so that workers need not ask.
//! Read next: `line_writer.rs`, `lb_l7::AccessLog` (what a line says).

use std::time::Duration;

use crate::config::AccessLog;
use crate::line_writer::{LineWriter, Target};
use crate::log::log;

/// The control thread's end.
#[derive(Default)]
pub(crate) struct AccessLogWriter {
    open: Option<(LineWriter, Target)>,
}

impl AccessLogWriter {
    /// Opens the file, if there is to be one.
    pub(crate) fn start(setting: &AccessLog) -> Result<Self, String> {
        let Some(target) = target(setting) else {
            return Ok(Self::default());
        };
        match LineWriter::start("lb-access-log", &target) {
            Ok(writer) => Ok(Self {
                open: Some((writer, target)),
            }),
            Err(error) => Err(format!("cannot write the access log to {target}: {error}")),
        }
    }

    /// What workers hand their lines to.
    pub(crate) fn lines(&self) -> Option<LineWriter> {
        self.open.as_ref().map(|(writer, _)| writer.clone())
    }

    /// Lines that were not written.
    pub(crate) fn dropped(&self) -> u64 {
        self.open.as_ref().map_or(0, |(writer, _)| writer.dropped())
    }

    /// Opens the file anew, for those who move it away and send SIGHUP.
    pub(crate) fn reopen(&self) {
        if let Some((writer, target)) = &self.open {
            reopen(writer, target);
        }
    }

    /// Writes elsewhere from now on.
    pub(crate) fn switch(&mut self, setting: &AccessLog) {
        if let (Some((writer, current)), Some(next)) = (&mut self.open, target(setting))
            && *current != next
            && reopen(writer, &next)
        {
            *current = next;
        }
    }

    /// Waits until what was handed over is written.
    pub(crate) fn flush(&self) {
        if let Some((writer, _)) = &self.open {
            writer.flush(Duration::from_secs(1));
        }
    }
}

fn target(setting: &AccessLog) -> Option<Target> {
    match setting {
        AccessLog::File(path) => Some(Target::File(path.clone())),
        AccessLog::Off => None,
        AccessLog::Stdout => Some(Target::Stdout),
    }
}

/// What cannot be opened is logged, and the lines go where they went.
fn reopen(writer: &LineWriter, target: &Target) -> bool {
    let opened = writer.reopen(target);
    if let Err(error) = &opened {
        log!(
            Error,
            "the access log stays where it was",
            wanted = target,
            error = error
        );
    }
    opened.is_ok()
}
