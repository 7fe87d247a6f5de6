//! How the process runs, whatever it serves: workers, engine, admin address, logs, drain.
//!
//! Invariant: flags win over files, and a later source over an earlier one.
//! Read next: `file.rs` (what was written), `../control/mod.rs` (who obeys).

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use lb_core::plan;

use super::file;
use super::notation;
use super::problem::Located;

/// The settings in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) workers: Workers,
    pub(crate) engine: Engine,
    pub(crate) admin: AdminAddress,
    pub(crate) access_log: AccessLog,
    pub(crate) access_log_format: plan::LogFormat,
    pub(crate) session_log: AccessLog,
    pub(crate) session_log_format: plan::LogFormat,
    pub(crate) session_log_starts: bool,
    pub(crate) drain_timeout: Duration,
    pub(crate) log_format: LogFormat,
    /// Clients that affinity remembers at a time, of all clusters.
    pub(crate) affinity_entries: usize,
}

/// The numbers of clients that affinity can remember: 8 KiB to 1 GiB of memory.
pub(crate) const AFFINITY_ENTRIES: RangeInclusive<u64> = 1_024..=1 << 26;

/// Number of worker threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workers {
    /// One for each CPU that this process may use.
    Auto,
    Count(usize),
}

/// Which engine moves the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    /// io_uring where it works, epoll elsewhere.
    Auto,
    Epoll,
    Uring,
}

/// Where the admin API listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AdminAddress {
    Off,
    Listen(SocketAddr),
}

/// Where access log lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AccessLog {
    Off,
    Stdout,
    File(PathBuf),
}

/// How log lines on stderr look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// `key=value` pairs.
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            workers: Workers::Auto,
            engine: Engine::Auto,
            admin: AdminAddress::Listen(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9900)),
            access_log: AccessLog::Off,
            access_log_format: plan::LogFormat::default(),
            session_log: AccessLog::Off,
            session_log_format: plan::LogFormat::default(),
            session_log_starts: false,
            drain_timeout: Duration::from_secs(30),
            log_format: LogFormat::Text,
            affinity_entries: 1 << 20,
        }
    }
}

impl Settings {
    /// What `written` says replaces what was there.
    pub(crate) fn overlay(&mut self, written: &file::Settings) {
        fn put<T: Clone>(setting: &mut T, written: &Option<Located<T>>) {
            if let Some(written) = written {
                *setting = written.value.clone();
            }
        }
        put(&mut self.workers, &written.workers);
        put(&mut self.engine, &written.engine);
        put(&mut self.admin, &written.admin);
        put(&mut self.access_log, &written.access_log);
        put(&mut self.access_log_format, &written.access_log_format);
        put(&mut self.session_log, &written.session_log);
        put(&mut self.session_log_format, &written.session_log_format);
        self.session_log_starts = written
            .session_log_starts
            .unwrap_or(self.session_log_starts);
        put(&mut self.drain_timeout, &written.drain_timeout);
        put(&mut self.log_format, &written.log_format);
        if let Some(entries) = &written.affinity_entries {
            self.affinity_entries = entries.value as usize;
        }
    }

    /// The names of settings in which `self` and `next` differ and that only a start can change.
    pub(crate) fn needing_restart(&self, next: &Self) -> Vec<&'static str> {
        let differs = [
            ("workers", self.workers != next.workers),
            ("engine", self.engine != next.engine),
            ("admin", self.admin != next.admin),
            ("log_format", self.log_format != next.log_format),
            (
                "affinity_entries",
                self.affinity_entries != next.affinity_entries,
            ),
        ];
        differs
            .into_iter()
            .filter(|(_, differs)| *differs)
            .map(|(name, _)| name)
            .collect()
    }
}

impl Workers {
    /// Most workers that one process starts.
    pub(crate) const MAX: u64 = 1024;

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match notation::decimal::<u64>(text).filter(|count| (1..=Self::MAX).contains(count)) {
            Some(count) => Ok(Self::Count(count as usize)),
            None if text == "auto" => Ok(Self::Auto),
            None => Err(format!(
                "\"{text}\" is not auto or a number of workers (1 to {}), as 4",
                Self::MAX
            )),
        }
    }
}

impl Engine {
    pub(crate) const WORDS: [(&'static str, Self); 3] = [
        ("auto", Self::Auto),
        ("epoll", Self::Epoll),
        ("uring", Self::Uring),
    ];

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        notation::word(text, &Self::WORDS)
    }
}

impl LogFormat {
    pub(crate) const WORDS: [(&'static str, Self); 2] =
        [("json", Self::Json), ("text", Self::Text)];

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        notation::word(text, &Self::WORDS)
    }
}

impl AdminAddress {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        // A port alone stays on this machine: the admin API has no password.
        notation::listen_local(text).map(Self::Listen).map_err(|_| {
            format!("\"{text}\" is not an admin address; one is 127.0.0.1:9900, 9900 or off")
        })
    }
}

impl AccessLog {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "stdout" => Ok(Self::Stdout),
            "" => Err("an access log is off, stdout, or a file, as /var/log/lb.log".to_owned()),
            path => Ok(Self::File(PathBuf::from(path))),
        }
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Listen(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers() {
        assert_eq!(Workers::parse("auto"), Ok(Workers::Auto));
        assert_eq!(Workers::parse("4"), Ok(Workers::Count(4)));
        for text in ["0", "1025", "-1", "four", ""] {
            assert!(Workers::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn admin_stays_local_unless_told() {
        for (text, shown) in [
            ("9900", "127.0.0.1:9900"),
            ("0.0.0.0:9900", "0.0.0.0:9900"),
            (":9900", "0.0.0.0:9900"),
            ("off", "off"),
        ] {
            assert_eq!(
                AdminAddress::parse(text).unwrap().to_string(),
                shown,
                "{text}"
            );
        }
        assert!(AdminAddress::parse("on").is_err());
    }

    #[test]
    fn words_suggest() {
        let error = Engine::parse("urin").unwrap_err();
        assert_eq!(
            error,
            "\"urin\" is not one of auto, epoll, uring; did you mean \"uring\"?"
        );
    }
}
