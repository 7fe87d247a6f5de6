//! `access_log:` and `session_log:`, of the process and of a listener, and the formats of lines.
//!
//! Invariant: a template that is accepted compiles; a variable that there is not is refused with
//! the nearest name. Read next: `lb_l7::Template` (the variables), `../access_log.rs`.

use lb_core::lines::TemplateError;
use lb_core::plan::{self, ListenerLog, LogFormat};
use lb_l4::SessionTemplate;
use lb_l7::Template;

use super::decode::{self, Fields, Problems};
use super::notation;
use super::problem::{Located, nearest};
use super::settings::AccessLog;
use super::yaml::{Node, Value};

/// The formats that have names.
const FORMAT_WORDS: [(&str, LogFormat); 3] = [
    ("combined", LogFormat::Combined),
    ("common", LogFormat::Common),
    ("json", LogFormat::Json),
];

/// The formats of sessions and flows that have names.
const SESSION_FORMAT_WORDS: [(&str, LogFormat); 2] =
    [("json", LogFormat::Json), ("text", LogFormat::Text)];

/// `access_log:` or `session_log:` as it was written.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) to: Option<Located<AccessLog>>,
    pub(super) format: Option<Located<LogFormat>>,
    pub(super) starts: Option<bool>,
}

/// What is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Exchanges,
    /// Flows, too.
    Sessions,
}

/// One of the names, or a template, which has a `$`.
pub(crate) fn parse_format(text: &str) -> Result<LogFormat, String> {
    if !text.contains('$') {
        return named(text, &FORMAT_WORDS);
    }
    let format = LogFormat::Template(text.to_owned());
    match Template::compile(&format) {
        Ok(_) => Ok(format),
        Err(error) => Err(explained(error, Template::variable_names())),
    }
}

/// As [`parse_format`], of sessions and flows.
pub(crate) fn parse_session_format(text: &str) -> Result<LogFormat, String> {
    if !text.contains('$') {
        return named(text, &SESSION_FORMAT_WORDS);
    }
    let format = LogFormat::Template(text.to_owned());
    match SessionTemplate::compile(&format) {
        Ok(_) => Ok(format),
        Err(error) => Err(explained(error, SessionTemplate::variable_names())),
    }
}

fn named<const N: usize>(
    text: &str,
    formats: &[(&'static str, LogFormat); N],
) -> Result<LogFormat, String> {
    let words = formats.each_ref().map(|(word, _)| (*word, *word));
    let word = notation::word(text, &words)
        .map_err(|error| format!("{error}; a template has variables, as $status"))?;
    let format = formats.iter().find(|(known, _)| *known == word);
    Ok(format.map(|(_, format)| format.clone()).unwrap_or_default())
}

fn explained(error: TemplateError, names: impl Iterator<Item = &'static str>) -> String {
    let TemplateError::Unknown(name) = error else {
        return error.to_string();
    };
    let meant = nearest(&name, names);
    let meant = meant.map(|it| format!("; did you mean \"${it}\"?"));
    format!(
        "there is no variable \"${name}\"{}",
        meant.unwrap_or_default()
    )
}

/// As it is written.
pub(crate) fn format_text(format: &LogFormat) -> &str {
    match format {
        LogFormat::Combined => "combined",
        LogFormat::Common => "common",
        LogFormat::Json => "json",
        LogFormat::Template(text) => text,
        LogFormat::Text => "text",
    }
}

/// The log of the process: a target, or a mapping.
pub(super) fn log(kind: Kind) -> impl Fn(&Node, &mut Problems) -> Option<Written> {
    move |node, problems| log_of(kind, node, problems)
}

fn log_of(kind: Kind, node: &Node, problems: &mut Problems) -> Option<Written> {
    if matches!(node.value, Value::Scalar(_)) {
        let to = decode::parsed(AccessLog::parse)(node, problems);
        return Some(Written {
            to,
            ..Written::default()
        });
    }
    let mut fields = Fields::of(node, problems)?;
    let format = match kind {
        Kind::Exchanges => parse_format,
        Kind::Sessions => parse_session_format,
    };
    if kind == Kind::Exchanges {
        fields.refuse("starts", "an exchange has one line, at its end");
    }
    let written = Written {
        to: fields.required("to", decode::parsed(AccessLog::parse)),
        format: fields.optional("format", decode::parsed(format)),
        starts: fields.optional("starts", decode::boolean),
    };
    fields.finish();
    Some(written)
}

/// The log of a listener.
pub(super) fn listener_log(kind: Kind) -> impl Fn(&Node, &mut Problems) -> Option<ListenerLog> {
    move |node, problems| {
        let Written { to, format, starts } = log_of(kind, node, problems)?;
        let format = format.map(|format| format.value).unwrap_or_default();
        let log = to?.value.with(format, starts.unwrap_or_default());
        Some(log.map_or(ListenerLog::Off, ListenerLog::To))
    }
}

impl AccessLog {
    /// As a plan has it; `None` if there is none.
    pub(crate) fn with(&self, format: LogFormat, starts: bool) -> Option<plan::AccessLog> {
        let target = match self {
            Self::File(path) => plan::LogTarget::File(path.clone()),
            Self::Off => return None,
            Self::Stdout => plan::LogTarget::Stdout,
        };
        Some(plan::AccessLog {
            target,
            format,
            starts,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_have_names_or_variables() {
        assert_eq!(parse_format("common"), Ok(LogFormat::Common));
        let template = "$remote_addr \"$request\"";
        assert_eq!(
            parse_format(template),
            Ok(LogFormat::Template(template.into()))
        );
        assert_eq!(format_text(&LogFormat::Json), "json");
        assert_eq!(
            parse_format("comon").unwrap_err(),
            "\"comon\" is not one of combined, common, json; did you mean \"common\"?; a template \
             has variables, as $status"
        );
        assert_eq!(
            parse_format("$remote_adr").unwrap_err(),
            "there is no variable \"$remote_adr\"; did you mean \"$remote_addr\"?"
        );
        assert_eq!(
            parse_session_format("$bytes_snt").unwrap_err(),
            "there is no variable \"$bytes_snt\"; did you mean \"$bytes_sent\"?"
        );
        assert!(parse_session_format("combined").is_err());
        assert_eq!(parse_session_format("text"), Ok(LogFormat::Text));
        assert_eq!(
            parse_format("${status").unwrap_err(),
            "\"${\" is not closed by \"}\""
        );
    }
}
