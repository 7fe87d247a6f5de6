//! The access log: one line for each exchange and session, written by a thread of its own.
//!
//! Invariant: it can be switched on, off and elsewhere while requests are served, and slows none.
//! Read next: `line_writer.rs`.

use std::time::Duration;

use crate::config::AccessLog;
use crate::line_writer::{LineWriter, Target};
use crate::log::log;

/// The control thread's end.
pub(crate) struct AccessLogWriter {
    setting: AccessLog,
    writer: Option<LineWriter>,
}

impl AccessLogWriter {
    pub(crate) fn start(setting: &AccessLog) -> Result<Self, String> {
        let mut log = Self {
            setting: AccessLog::Off,
            writer: None,
        };
        log.open(setting)?;
        Ok(log)
    }

    /// Opens the file anew, for those who move it away and send SIGHUP.
    pub(crate) fn reopen(&mut self) {
        let setting = self.setting.clone();
        self.switch(&setting);
    }

    /// Writes elsewhere from now on; what cannot be opened is logged, and the old place stays.
    pub(crate) fn switch(&mut self, setting: &AccessLog) {
        if let Err(error) = self.open(setting) {
            log!(Error, "the access log stays where it was", error = error);
        }
    }

    pub(crate) fn flush(&self) {
        if let Some(writer) = &self.writer {
            writer.flush(Duration::from_secs(1));
        }
    }

    fn open(&mut self, setting: &AccessLog) -> Result<(), String> {
        let target = match setting {
            AccessLog::File(path) => Some(Target::File(path.clone())),
            AccessLog::Off => None,
            AccessLog::Stdout => Some(Target::Stdout),
        };
        if let Some(target) = target {
            let opened = match &self.writer {
                Some(writer) => writer.reopen(&target),
                None => LineWriter::start("lb-access-log", &target)
                    .map(|writer| self.writer = Some(writer)),
            };
            opened.map_err(|error| format!("cannot open the access log {setting:?}: {error}"))?;
        }
        self.setting = setting.clone();
        Ok(())
    }
}
