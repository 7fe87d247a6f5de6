//! `access_log:`, of the process and of a listener, and the formats of lines.
//!
//! Invariant: a template that is accepted compiles; a variable that there is not is refused with
//! the nearest name. Read next: `lb_l7::Template` (the variables), `../access_log.rs`.

use lb_core::plan::{self, ListenerLog, LogFormat};
use lb_l7::{Template, TemplateError};

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

/// `access_log:` as it was written.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) to: Option<Located<AccessLog>>,
    pub(super) format: Option<Located<LogFormat>>,
}

/// One of the names, or a template, which has a `$`.
pub(crate) fn parse_format(text: &str) -> Result<LogFormat, String> {
    if !text.contains('$') {
        let words = FORMAT_WORDS.each_ref().map(|(word, _)| (*word, *word));
        let word = notation::word(text, &words)
            .map_err(|error| format!("{error}; a template has variables, as $status"))?;
        let format = FORMAT_WORDS.iter().find(|(known, _)| *known == word);
        return Ok(format.map(|(_, format)| format.clone()).unwrap_or_default());
    }
    let format = LogFormat::Template(text.to_owned());
    match Template::compile(&format) {
        Ok(_) => Ok(format),
        Err(TemplateError::Unknown(name)) => {
            let meant = nearest(&name, Template::variable_names());
            let meant = meant.map(|it| format!("; did you mean \"${it}\"?"));
            let meant = meant.unwrap_or_default();
            Err(format!("there is no variable \"${name}\"{meant}"))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// As it is written.
pub(crate) fn format_text(format: &LogFormat) -> &str {
    match format {
        LogFormat::Combined => "combined",
        LogFormat::Common => "common",
        LogFormat::Json => "json",
        LogFormat::Template(text) => text,
    }
}

/// The log of the process: a target, or a mapping.
pub(super) fn access_log(node: &Node, problems: &mut Problems) -> Option<Written> {
    if matches!(node.value, Value::Scalar(_)) {
        let to = decode::parsed(AccessLog::parse)(node, problems);
        return Some(Written { to, format: None });
    }
    let mut fields = Fields::of(node, problems)?;
    let written = Written {
        to: fields.required("to", decode::parsed(AccessLog::parse)),
        format: fields.optional("format", decode::parsed(parse_format)),
    };
    fields.finish();
    Some(written)
}

/// The log of a listener.
pub(super) fn listener_log(node: &Node, problems: &mut Problems) -> Option<ListenerLog> {
    let Written { to, format } = access_log(node, problems)?;
    let format = format.map(|format| format.value).unwrap_or_default();
    Some(
        to?.value
            .with(format)
            .map_or(ListenerLog::Off, ListenerLog::To),
    )
}

impl AccessLog {
    /// As a plan has it; `None` if there is none.
    pub(crate) fn with(&self, format: LogFormat) -> Option<plan::AccessLog> {
        let target = match self {
            Self::File(path) => plan::LogTarget::File(path.clone()),
            Self::Off => return None,
            Self::Stdout => plan::LogTarget::Stdout,
        };
        Some(plan::AccessLog { target, format })
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
            parse_format("${status").unwrap_err(),
            "\"${\" is not closed by \"}\""
        );
    }
}
