//! Logs of sessions and flows: a line at the end of each, and, if asked for, at its start.
//!
//! Invariant: a line is written however a session ends, cut off or panicked too; a listener without
//! a log keeps nothing for one. A record is used again and again, so that in steady state a logged
//! session allocates nothing for its line.
//! Read next: `variable.rs` (what can be in a line), `record.rs` (where it comes from).

mod record;
mod variable;

use std::fmt;
use std::sync::Arc;

use lb_core::lines::{self, LineSink, Parsed, Piece, TemplateError};
use lb_core::plan::{AccessLog, LogFormat};

pub(crate) use record::{Ended, Record, Side, Transport};
use variable::Variable;

/// As nginx's documentation of its stream log has it, and who was asked.
const TEXT: &str = "$remote_addr [$time_local] $protocol $status $bytes_sent $bytes_received \
                    $session_time \"$upstream_addr\" $end";

/// The members of our own objects; those without a value are left out.
const JSON: [(&str, &str); 22] = [
    ("time", "time_iso8601"),
    ("client", "client"),
    ("client_port", "client_port"),
    ("listener", "listener"),
    ("protocol", "protocol"),
    ("local_address", "local_address"),
    ("local_port", "local_port"),
    ("server_name", "server_name"),
    ("alpn", "alpn"),
    ("cluster", "cluster"),
    ("backend", "backend"),
    ("backend_address", "backend_address"),
    ("status", "status"),
    ("end", "end"),
    ("ended_by", "ended_by"),
    ("refusal", "refusal"),
    ("received_bytes", "received_bytes"),
    ("sent_bytes", "sent_bytes"),
    ("received_datagrams", "received_datagrams"),
    ("sent_datagrams", "sent_datagrams"),
    ("connect_seconds", "connect_time"),
    ("seconds", "session_time"),
];

/// A format of sessions and flows, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionTemplate {
    pieces: Box<[Piece<Variable>]>,
    end: Box<[u8]>,
}

impl SessionTemplate {
    /// Compiles a format.
    ///
    /// # Errors
    /// What is wrong with a template, or that the format is one of exchanges.
    pub fn compile(format: &LogFormat) -> Result<Self, TemplateError> {
        let (pieces, end): Parsed<Variable> = match format {
            LogFormat::Combined | LogFormat::Common => return Err(TemplateError::Exchanges),
            LogFormat::Json => lines::object(&JSON),
            LogFormat::Template(text) => lines::parse(text)?,
            LogFormat::Text => lines::parse(TEXT)?,
        };
        Ok(Self {
            pieces: pieces.into(),
            end,
        })
    }

    /// The names of the variables.
    pub fn variable_names() -> impl Iterator<Item = &'static str> {
        Variable::names()
    }
}

/// The log of a listener.
pub struct SessionLog {
    template: SessionTemplate,
    sink: Arc<dyn LineSink>,
    listener: Box<str>,
    starts: bool,
}

impl SessionLog {
    /// A log of the listener `listener`, whose lines go to `sink`.
    ///
    /// # Errors
    /// What is wrong with the format.
    pub fn new(
        listener: &str,
        log: &AccessLog,
        sink: Arc<dyn LineSink>,
    ) -> Result<Self, TemplateError> {
        Ok(Self {
            template: SessionTemplate::compile(&log.format)?,
            sink,
            listener: listener.into(),
            starts: log.starts,
        })
    }
}

impl fmt::Debug for SessionLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionLog")
            .field("listener", &self.listener)
            .field("template", &self.template)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_compiles_or_is_of_the_other_kind() {
        for format in [LogFormat::Json, LogFormat::Text] {
            assert!(SessionTemplate::compile(&format).is_ok(), "{format:?}");
        }
        let object: Parsed<Variable> = lines::object(&JSON);
        assert_eq!(object.0.len(), JSON.len(), "every name is known");
        let combined = SessionTemplate::compile(&LogFormat::Combined);
        assert_eq!(combined, Err(TemplateError::Exchanges));
        // As nginx's documentation has it.
        let text = "$remote_addr [$time_local] $protocol $status $bytes_sent $bytes_received \
            $session_time \"$upstream_addr\" \"$upstream_bytes_sent\" \
            \"$upstream_bytes_received\" \"$upstream_connect_time\"";
        let format = LogFormat::Template(text.into());
        assert!(SessionTemplate::compile(&format).is_ok());
        let unknown = SessionTemplate::compile(&LogFormat::Template("$host".into()));
        assert_eq!(unknown, Err(TemplateError::Unknown("host".into())));
    }
}
