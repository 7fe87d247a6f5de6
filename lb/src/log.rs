//! Structured log lines on stderr: a time, a level, a message that never varies, and fields.
//!
//! Invariant: logging never blocks the caller once [`start`] was called; one event is one line,
//! whatever its fields hold.
//! Read next: `line_writer.rs`.

use std::fmt::{Display, Write as _};
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lb_core::rt;

use crate::config::LogFormat;
use crate::line_writer::{LineWriter, Target};
use crate::terminal;

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// Something failed and needs somebody.
    Error,
    Info,
    /// Something is wrong, and handled.
    Warn,
}

/// Logs one event: `log!(Info, "listener bound", listener = name, address = address)`.
macro_rules! log {
    ($level:ident, $message:literal $(, $key:ident = $value:expr)* $(,)?) => {
        $crate::log::emit(
            $crate::log::Level::$level,
            $message,
            &[$((stringify!($key), &$value as &dyn std::fmt::Display)),*],
        )
    };
}
pub(crate) use log;

struct Log {
    format: LogFormat,
    writer: LineWriter,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// Moves the writing of log lines to a thread of its own.
pub(crate) fn start(format: LogFormat) -> io::Result<()> {
    let writer = LineWriter::start("lb-log", &Target::Stderr)?;
    // A second start would find the first one's writer at work, and is not made.
    let _ = LOG.set(Log { format, writer });
    Ok(())
}

/// Waits until what was logged is written; before the process ends.
pub(crate) fn flush() {
    if let Some(log) = LOG.get() {
        log.writer.flush(Duration::from_secs(1));
    }
}

/// Log lines that were not written.
pub(crate) fn dropped() -> u64 {
    LOG.get().map_or(0, |log| log.writer.dropped())
}

/// What [`log!`] calls.
pub(crate) fn emit(level: Level, message: &str, fields: &[(&str, &dyn Display)]) {
    let now = rt::wall_clock();
    match LOG.get() {
        Some(log) => log
            .writer
            .write(line(log.format, now, level, message, fields).into_bytes()),
        None => terminal::complain(&line(LogFormat::Text, now, level, message, fields)),
    }
}

/// Lets one event a minute through, for what could happen thousands of times a second.
#[derive(Debug)]
pub(crate) struct Limiter {
    /// When an event may pass again, in nanoseconds of [`rt::now`].
    next_nanos: AtomicU64,
}

impl Limiter {
    pub(crate) const fn new() -> Self {
        Self {
            next_nanos: AtomicU64::new(0),
        }
    }

    pub(crate) fn allows(&self) -> bool {
        let now = rt::now().as_nanos();
        let next = self.next_nanos.load(Ordering::Relaxed);
        let after = now.saturating_add(60_000_000_000);
        now >= next
            && self
                .next_nanos
                .compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

fn line(
    format: LogFormat,
    now: SystemTime,
    level: Level,
    message: &str,
    fields: &[(&str, &dyn Display)],
) -> String {
    let time = rfc3339(now);
    let level = match level {
        Level::Error => "error",
        Level::Info => "info",
        Level::Warn => "warn",
    };
    let message = json_string(message);
    let mut line = match format {
        LogFormat::Text => format!("ts={time} level={level} msg={message}"),
        LogFormat::Json => format!(r#"{{"ts":"{time}","level":"{level}","msg":{message}"#),
    };
    for (key, value) in fields {
        let value = value.to_string();
        let written = match format {
            LogFormat::Text if is_bare(&value) => write!(line, " {key}={value}"),
            LogFormat::Text => write!(line, " {key}={}", json_string(&value)),
            LogFormat::Json => write!(line, r#","{key}":{}"#, json_string(&value)),
        };
        written.expect("writing to a String does not fail");
    }
    if format == LogFormat::Json {
        line.push('}');
    }
    line.push('\n');
    line
}

/// Whether a value can stand without quotes.
fn is_bare(value: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=' | b'\\');
    !value.is_empty() && value.bytes().all(plain)
}

/// The text in quotes, with everything escaped that could break a line or a terminal.
fn json_string(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            control if control.is_control() => {
                write!(quoted, "\\u{:04x}", control as u32)
                    .expect("writing to a String does not fail");
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

/// UTC with milliseconds, as `2026-05-04T03:02:01.123Z`.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let millis = since.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Year, month and day of a day since 1970 (Howard Hinnant, "chrono-compatible low-level date
/// algorithms", civil_from_days, for days that are not negative).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468; // days since 0000-03-01
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, millis: u32) -> SystemTime {
        UNIX_EPOCH + Duration::new(seconds, millis * 1_000_000)
    }

    #[test]
    fn times() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.007Z"),
            (951_782_399, "2000-02-28T23:59:59.007Z"),
            (951_782_400, "2000-02-29T00:00:00.007Z"),
            (1_735_689_599, "2024-12-31T23:59:59.007Z"),
            (4_107_542_400, "2100-03-01T00:00:00.007Z"),
        ] {
            assert_eq!(rfc3339(at(seconds, 7)), text);
        }
    }

    #[test]
    fn an_event_is_one_line_whatever_it_says() {
        let fields: &[(&str, &dyn Display)] = &[
            ("name", &"a b"),
            ("count", &3),
            ("evil", &"x\n\"level\"=\u{1b}[31m"),
        ];
        let text = line(
            LogFormat::Text,
            at(0, 0),
            Level::Warn,
            "it happened",
            fields,
        );
        assert_eq!(
            text,
            "ts=1970-01-01T00:00:00.000Z level=warn msg=\"it happened\" name=\"a b\" count=3 \
             evil=\"x\\n\\\"level\\\"=\\u001b[31m\"\n"
        );
        let json = line(
            LogFormat::Json,
            at(0, 0),
            Level::Error,
            "it happened",
            fields,
        );
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["evil"], "x\n\"level\"=\u{1b}[31m");
        assert_eq!(value["level"], "error");
    }

    #[test]
    fn a_limiter_lets_one_through() {
        let limiter = Limiter::new();
        assert!(limiter.allows());
        assert!(!limiter.allows());
    }
}
