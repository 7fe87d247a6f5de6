//! The files of access logs: each is written by a thread of its own, whatever listeners log there.
//!
//! Invariant: a change of the configuration is refused if a file of it cannot be opened; what runs
//! keeps its files. Which lines go where can change while requests are served, and slows none.
//! Read next: `line_writer.rs`, `lb_l7::Log` and `lb_l4::SessionLog` (what a line says).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use lb_core::lines::{LineSink, TemplateError};
use lb_core::plan::{self, AccessLog, Http, ListenerLog, LogTarget, Plan, Protocol};
use lb_l4::SessionLog;
use lb_l7::Log;

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

/// The logs of listeners that have no say of their own, as far as there are any.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct DefaultLogs {
    /// Of HTTP listeners.
    exchanges: Option<AccessLog>,
    /// Of TCP and UDP listeners.
    sessions: Option<AccessLog>,
}

impl DefaultLogs {
    pub(crate) fn of(settings: &Settings) -> Self {
        let format = settings.access_log_format.clone();
        let session_format = settings.session_log_format.clone();
        let starts = settings.session_log_starts;
        Self {
            exchanges: settings.access_log.with(format, false),
            sessions: settings.session_log.with(session_format, starts),
        }
    }
}

/// The log of a listener.
fn log_of<'a>(listener: &'a plan::Listener, default: &'a DefaultLogs) -> Option<&'a AccessLog> {
    match (&listener.access_log, &listener.protocol) {
        (ListenerLog::Inherit, Protocol::Http(_)) => default.exchanges.as_ref(),
        (ListenerLog::Inherit, _) => default.sessions.as_ref(),
        (ListenerLog::Off, _) => None,
        (ListenerLog::To(log), _) => Some(log),
    }
}

impl AccessLogs {
    /// Opens what the listeners of `plan` need and is not open yet.
    pub(crate) fn open(&self, plan: &Plan, default: &DefaultLogs) -> Result<(), String> {
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
    pub(crate) fn retain(&self, plan: &Plan, default: &DefaultLogs) {
        self.writers.borrow_mut().retain(|target, writer| {
            let is_used = targets(plan, default).any(|used| used == target);
            if !is_used {
                let dropped = self.dropped_before.get() + writer.dropped();
                self.dropped_before.set(dropped);
            }
            is_used
        });
    }

    /// The log of an HTTP listener, if it has one.
    pub(crate) fn log(
        &self,
        listener: &plan::Listener,
        http: &Http,
        default: &DefaultLogs,
    ) -> Result<Option<Log>, String> {
        let Some(log) = log_of(listener, default) else {
            return Ok(None);
        };
        let log = Log::new(&listener.name, &http.routes, &log.format, self.sink(log)?);
        log.map(Some).map_err(invalid)
    }

    /// The log of a TCP or UDP listener, if it has one.
    pub(crate) fn session_log(
        &self,
        listener: &plan::Listener,
        default: &DefaultLogs,
    ) -> Result<Option<SessionLog>, String> {
        let Some(log) = log_of(listener, default) else {
            return Ok(None);
        };
        let log = SessionLog::new(&listener.name, log, self.sink(log)?);
        log.map(Some).map_err(invalid)
    }

    fn sink(&self, log: &AccessLog) -> Result<Arc<dyn LineSink>, String> {
        let writers = self.writers.borrow();
        let Some(writer) = writers.get(&log.target) else {
            return Err(format!("the access log {} is not open", log.target));
        };
        Ok(Arc::<LineWriter>::clone(writer))
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

fn invalid(error: TemplateError) -> String {
    format!("the access log's format is not valid: {error}")
}

fn targets<'a>(plan: &'a Plan, default: &'a DefaultLogs) -> impl Iterator<Item = &'a LogTarget> {
    let logs = plan
        .listeners
        .iter()
        .filter_map(move |it| log_of(it, default));
    logs.map(|log| &log.target)
}

fn of(target: &LogTarget) -> Target {
    match target {
        LogTarget::File(path) => Target::File(path.clone()),
        LogTarget::Stdout => Target::Stdout,
    }
}
