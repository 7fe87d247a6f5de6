//! The files of access logs: each is written by a thread of its own, whatever listeners log there.
//!
//! Invariant: a change of the configuration is refused if a file of it cannot be opened; what runs
//! keeps its files. Which lines go where can change while requests are served, and slows none.
//! Read next: `line_writer.rs`, `lb_l7::Log` (what a line says).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use lb_core::plan::{self, AccessLog, Http, ListenerLog, LogTarget, Plan, Protocol};
use lb_l7::{LineSink, Log};

use crate::config::Settings;
use crate::line_writer::{LineWriter, Target};
use crate::log::log;

/// The control thread's end of all access logs.
#[derive(Default)]
pub(crate) struct AccessLogs {
    writers: RefCell<HashMap<LogTarget, Arc<LineWriter>>>,
    /// Lines that writers which have ended did not write.
    dropped_before: Cell<u64>,
}

/// The log of listeners that have no say of their own, if there is one.
pub(crate) fn default_log(settings: &Settings) -> Option<AccessLog> {
    settings.access_log.with(settings.access_log_format.clone())
}

/// The log of a listener. Sessions and flows are not logged.
fn log_of<'a>(
    listener: &'a plan::Listener,
    default: Option<&'a AccessLog>,
) -> Option<(&'a AccessLog, &'a Http)> {
    let Protocol::Http(http) = &listener.protocol else {
        return None;
    };
    let log = match &listener.access_log {
        ListenerLog::Inherit => default,
        ListenerLog::Off => None,
        ListenerLog::To(log) => Some(log),
    };
    log.map(|log| (log, http))
}

impl AccessLogs {
    /// Opens what the listeners of `plan` need and is not open yet.
    pub(crate) fn open(&self, plan: &Plan, default: Option<&AccessLog>) -> Result<(), String> {
        let mut writers = self.writers.borrow_mut();
        for target in targets(plan, default) {
            if writers.contains_key(target) {
                continue;
            }
            let writer = LineWriter::start("lb-access-log", &of(target))
                .map_err(|error| format!("cannot write the access log to {target}: {error}"))?;
            writers.insert(target.clone(), Arc::new(writer));
        }
        Ok(())
    }

    /// Forgets the writers that no listener of `plan` needs; they end when their last line is
    /// written.
    pub(crate) fn retain(&self, plan: &Plan, default: Option<&AccessLog>) {
        self.writers.borrow_mut().retain(|target, writer| {
            let is_used = targets(plan, default).any(|used| used == target);
            if !is_used {
                let dropped = self.dropped_before.get() + writer.dropped();
                self.dropped_before.set(dropped);
            }
            is_used
        });
    }

    /// The log of a listener, if it has one.
    pub(crate) fn log(
        &self,
        listener: &plan::Listener,
        default: Option<&AccessLog>,
    ) -> Result<Option<Log>, String> {
        let Some((log, http)) = log_of(listener, default) else {
            return Ok(None);
        };
        let writers = self.writers.borrow();
        let Some(writer) = writers.get(&log.target) else {
            return Err(format!("the access log {} is not open", log.target));
        };
        let sink: Arc<dyn LineSink> = Arc::<LineWriter>::clone(writer);
        Log::new(&listener.name, &http.routes, &log.format, sink)
            .map(Some)
            .map_err(|error| format!("the access log's format is not valid: {error}"))
    }

    /// Lines that were not written.
    pub(crate) fn dropped(&self) -> u64 {
        let writers = self.writers.borrow();
        let dropped: u64 = writers.values().map(|writer| writer.dropped()).sum();
        self.dropped_before.get() + dropped
    }

    /// Opens the files anew, for those who move them away and send SIGHUP.
    pub(crate) fn reopen(&self) {
        for (target, writer) in &*self.writers.borrow() {
            if let Err(error) = writer.reopen(&of(target)) {
                log!(
                    Error,
                    "the access log stays where it was",
                    wanted = target,
                    error = error
                );
            }
        }
    }

    /// Waits until what was handed over is written.
    pub(crate) fn flush(&self) {
        for writer in self.writers.borrow().values() {
            writer.flush(Duration::from_secs(1));
        }
    }
}

fn targets<'a>(
    plan: &'a Plan,
    default: Option<&'a AccessLog>,
) -> impl Iterator<Item = &'a LogTarget> {
    let logs = plan
        .listeners
        .iter()
        .filter_map(move |it| log_of(it, default));
    logs.map(|(log, _)| &log.target)
}

fn of(target: &LogTarget) -> Target {
    match target {
        LogTarget::File(path) => Target::File(path.clone()),
        LogTarget::Stdout => Target::Stdout,
    }
}
