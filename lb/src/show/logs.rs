//! A listener's own log, as JSON and as text.
//!
//! Invariant: as `mod.rs`; a listener that logs as the process does has none to show.
//! Read next: `../config/logs.rs` (how it is written).

use std::fmt::{self, Write as _};

use lb_core::plan::{AccessLog, Listener, ListenerLog, Protocol};
use serde_json::{Value, json};

use crate::config::logs::format_text;

/// Adds `access_log` or `session_log`, as the listener's protocol has it.
pub(super) fn add(listener: &Listener, value: &mut Value) {
    let key = key(&listener.protocol);
    value[key] = match &listener.access_log {
        ListenerLog::Inherit => return,
        ListenerLog::Off => json!("off"),
        ListenerLog::To(log) => log_json(log, &listener.protocol),
    };
}

fn log_json(log: &AccessLog, protocol: &Protocol) -> Value {
    let AccessLog {
        target,
        format,
        starts,
    } = log;
    let mut value = json!({ "to": target.to_string(), "format": format_text(format) });
    if !matches!(protocol, Protocol::Http(_)) {
        value["starts"] = json!(starts);
    }
    value
}

/// The same as text.
pub(super) fn write(text: &mut String, listener: &Listener) -> fmt::Result {
    match &listener.access_log {
        ListenerLog::Inherit => Ok(()),
        ListenerLog::Off => writeln!(text, "  logs nothing"),
        ListenerLog::To(AccessLog { target, format, .. }) => {
            writeln!(text, "  logs to {target} as {}", format_text(format))
        }
    }
}

const fn key(protocol: &Protocol) -> &'static str {
    match protocol {
        Protocol::Http(_) => "access_log",
        Protocol::Tcp(_) | Protocol::Udp(_) => "session_log",
    }
}
