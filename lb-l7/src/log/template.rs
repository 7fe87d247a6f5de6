//! Access log formats, compiled: what of a line is known with the request's head is written then,
//! what with the response's head then, and the rest at the end.
//!
//! Invariant: a line has one line feed, at its end, and in a format of JSON it is one value of JSON,
//! whatever clients and backends send. Read next: `variable.rs`, `record.rs` (a line on its way).

use lb_core::plan::LogFormat;

use super::variable::{Stage, Variable};

/// Why a template is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A brace is not closed.
    #[error("\"${{\" is not closed by \"}}\"")]
    Brace,
    /// It has no variable, so all lines would be alike.
    #[error("there is no variable in it; one is $remote_addr")]
    Empty,
    /// A line cannot have several lines.
    #[error("it has a line feed; a log has one line for each request")]
    LineFeed,
    /// A dollar sign without a name.
    #[error("behind \"$\" there is the name of a variable")]
    Name,
    /// There is no such variable.
    #[error("there is no variable ${0}")]
    Unknown(String),
}

/// A format, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pub(super) parts: Box<[Part]>,
    /// Whether some part is known with the response's head.
    pub(super) reads_response: bool,
    /// Whether a request without an id gets one for its line.
    pub(crate) makes_ids: bool,
}

/// A part of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// Pieces that are written as one, when the request's head is there.
    Early(Box<[Piece]>),
    Late(Piece),
    Text(Box<[u8]>),
}

/// A value, and how it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) variable: Variable,
    pub(super) before: Box<[u8]>,
    pub(super) escape: Escape,
    /// Without a value, `before` is left out too.
    pub(super) is_optional: bool,
}

/// How a value is written so that nobody who sends it can make it look like something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Escape {
    /// As it is: a number; `null` if there is none.
    JsonNumber,
    /// As a string of JSON with its quotes; `null` if there is none.
    JsonQuoted,
    /// Within a string of JSON.
    JsonString,
    /// As nginx: `"`, `\` and what is not visible ASCII as `\xXX`; `-` if there is none.
    Text,
}

/// As nginx's and Apache's.
const COMMON: &str =
    "$remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent";

const COMBINED: &str = "$remote_addr - $remote_user [$time_local] \"$request\" $status \
                        $body_bytes_sent \"$http_referer\" \"$http_user_agent\"";

/// The members of our own objects; those without a value are left out.
const JSON: [(&str, &str); 26] = [
    ("time", "time_iso8601"),
    ("client", "client"),
    ("listener", "listener"),
    ("request_id", "request_id"),
    ("method", "method"),
    ("scheme", "scheme"),
    ("host", "host"),
    ("target", "target"),
    ("protocol", "protocol"),
    ("referer", "http_referer"),
    ("user_agent", "http_user_agent"),
    ("route", "route"),
    ("cluster", "cluster"),
    ("backend", "backend"),
    ("status", "status"),
    ("backend_status", "backend_status"),
    ("received_bytes", "received_bytes"),
    ("sent_bytes", "sent_bytes"),
    ("seconds", "request_time"),
    ("connect_seconds", "connect_time"),
    ("header_seconds", "header_time"),
    ("response_seconds", "response_time"),
    ("retries", "retries"),
    ("tls_version", "tls_version"),
    ("tls_cipher", "tls_cipher"),
    ("tls_server_name", "tls_server_name"),
];

impl Template {
    /// Compiles a format.
    ///
    /// # Errors
    /// What is wrong with a template; the other formats are right.
    pub fn compile(format: &LogFormat) -> Result<Self, TemplateError> {
        match format {
            LogFormat::Combined => Self::parse(COMBINED),
            LogFormat::Common => Self::parse(COMMON),
            LogFormat::Json => Ok(Self::json()),
            LogFormat::Template(text) => Self::parse(text),
        }
    }

    /// A template that begins with a brace is one of JSON.
    fn parse(text: &str) -> Result<Self, TemplateError> {
        if text.contains(['\n', '\r']) {
            return Err(TemplateError::LineFeed);
        }
        let is_json = text.trim_start().starts_with('{') && !text.trim_start().starts_with("{$");
        let mut builder = Builder::default();
        let mut rest = text;
        let mut quotes = Quotes::default();
        while let Some((before, behind)) = rest.split_once('$') {
            let (name, behind) = name(behind)?;
            let variable = Variable::named(name);
            let variable = variable.ok_or_else(|| TemplateError::Unknown(name.to_owned()))?;
            quotes.read(before);
            let escape = match (is_json, quotes.are_open, variable.is_number()) {
                (false, ..) => Escape::Text,
                (true, true, _) => Escape::JsonString,
                (true, false, true) => Escape::JsonNumber,
                (true, false, false) => Escape::JsonQuoted,
            };
            builder.push(Piece {
                variable,
                before: before.as_bytes().into(),
                escape,
                is_optional: false,
            });
            rest = behind;
        }
        if builder.pieces.is_empty() {
            return Err(TemplateError::Empty);
        }
        Ok(builder.finish(&format!("{rest}\n")))
    }

    fn json() -> Self {
        let mut builder = Builder::default();
        for (index, (member, name)) in JSON.iter().enumerate() {
            let separator = if index == 0 { '{' } else { ',' };
            // All of these names are known: a test says so.
            let variable = Variable::named(name).unwrap_or(Variable::Never);
            let escape = match variable.is_number() {
                true => Escape::JsonNumber,
                false => Escape::JsonQuoted,
            };
            builder.push(Piece {
                variable,
                before: format!("{separator}\"{member}\":").into_bytes().into(),
                escape,
                is_optional: true,
            });
        }
        Self {
            makes_ids: false, // many have no use for them
            ..builder.finish("}\n")
        }
    }

    /// The nearest names to one that is not known are among these.
    pub fn variable_names() -> impl Iterator<Item = &'static str> {
        Variable::names()
    }
}

/// The name behind a dollar sign, in braces or not, and what follows.
fn name(behind: &str) -> Result<(&str, &str), TemplateError> {
    if let Some(inner) = behind.strip_prefix('{') {
        return inner.split_once('}').ok_or(TemplateError::Brace);
    }
    let is_name = |it: char| it.is_ascii_alphanumeric() || it == '_';
    let len = behind.find(|it| !is_name(it)).unwrap_or(behind.len());
    if len == 0 {
        return Err(TemplateError::Name);
    }
    Ok(behind.split_at(len))
}

/// Whether the text so far ends within a string of JSON.
#[derive(Default)]
struct Quotes {
    are_open: bool,
    is_escaped: bool,
}

impl Quotes {
    fn read(&mut self, text: &str) {
        for byte in text.bytes() {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' if self.are_open => self.is_escaped = true,
                b'"' => self.are_open = !self.are_open,
                _ => {}
            }
        }
    }
}

/// Joins pieces that are known with the request.
#[derive(Default)]
struct Builder {
    pieces: Vec<Piece>,
}

impl Builder {
    fn push(&mut self, piece: Piece) {
        self.pieces.push(piece);
    }

    fn finish(self, end: &str) -> Template {
        let reads_response =
            (self.pieces.iter()).any(|piece| piece.variable.stage() == Stage::Response);
        let makes_ids = self
            .pieces
            .iter()
            .any(|it| it.variable == Variable::RequestId);
        let mut parts = Vec::new();
        let mut early = Vec::new();
        for piece in self.pieces {
            if piece.variable.stage() == Stage::Request {
                early.push(piece);
                continue;
            }
            if !early.is_empty() {
                parts.push(Part::Early(std::mem::take(&mut early).into()));
            }
            parts.push(Part::Late(piece));
        }
        if !early.is_empty() {
            parts.push(Part::Early(early.into()));
        }
        parts.push(Part::Text(end.as_bytes().into()));
        Template {
            parts: parts.into(),
            reads_response,
            makes_ids,
        }
    }
}

impl Escape {
    /// Writes a value, or what stands for none.
    pub(super) fn write(self, value: Option<&[u8]>, out: &mut Vec<u8>) {
        match (self, value) {
            (Self::Text, None) => out.push(b'-'),
            (Self::Text, Some(b"")) => out.push(b'-'),
            (Self::Text, Some(value)) => write_text(value, out),
            (Self::JsonString, value) => write_json(value.unwrap_or_default(), out),
            (Self::JsonNumber | Self::JsonQuoted, None) => out.extend_from_slice(b"null"),
            (Self::JsonNumber, Some(value)) => out.extend_from_slice(value),
            (Self::JsonQuoted, Some(value)) => {
                out.push(b'"');
                write_json(value, out);
                out.push(b'"');
            }
        }
    }
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

fn digits(byte: u8) -> [u8; 2] {
    [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]
}

const fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

fn write_text(value: &[u8], out: &mut Vec<u8>) {
    if value.iter().all(|byte| is_plain(*byte)) {
        return out.extend_from_slice(value);
    }
    for byte in value {
        if is_plain(*byte) {
            out.push(*byte);
        } else {
            let [high, low] = digits(*byte);
            out.extend_from_slice(&[b'\\', b'x', high, low]);
        }
    }
}

/// Bytes beyond ASCII become `\u00xx`, as in Latin-1.
fn write_json(value: &[u8], out: &mut Vec<u8>) {
    if value.iter().all(|byte| is_plain(*byte)) {
        return out.extend_from_slice(value);
    }
    for byte in value {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            _ if is_plain(*byte) => out.push(*byte),
            _ => {
                let [high, low] = digits(*byte);
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Template, TemplateError> {
        Template::compile(&LogFormat::Template(text.to_owned()))
    }

    #[test]
    fn every_format_compiles() {
        for format in [LogFormat::Combined, LogFormat::Common, LogFormat::Json] {
            assert!(Template::compile(&format).is_ok(), "{format:?}");
        }
        for (_, name) in JSON {
            assert!(Variable::named(name).is_some(), "{name}");
        }
        // The default of ingress-nginx.
        let text = "$remote_addr - $remote_user [$time_local] \"$request\" $status \
            $body_bytes_sent \"$http_referer\" \"$http_user_agent\" $request_length $request_time \
            [$proxy_upstream_name] [$proxy_alternative_upstream_name] $upstream_addr \
            $upstream_response_length $upstream_response_time $upstream_status $req_id";
        assert!(parse(text).is_ok());
        assert!(parse("${remote_addr}x$status").is_ok());
    }

    #[test]
    fn what_is_wrong_is_told_apart() {
        for (text, error) in [
            ("$remote_adr", TemplateError::Unknown("remote_adr".into())),
            ("${status", TemplateError::Brace),
            ("$", TemplateError::Name),
            ("a $-", TemplateError::Name),
            ("plain", TemplateError::Empty),
            ("$status\n", TemplateError::LineFeed),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn what_is_known_early_is_joined() {
        let template = parse("$remote_addr $host $status $method!").unwrap();
        let kinds: Vec<_> = template
            .parts
            .iter()
            .map(|part| match part {
                Part::Early(pieces) => pieces.len(),
                Part::Late(_) => 100,
                Part::Text(_) => 200,
            })
            .collect();
        assert_eq!(kinds, [2, 100, 1, 200]);
    }

    #[test]
    fn in_json_the_place_of_a_value_decides_how_it_is_written() {
        let template = parse(r#"{"a\"$host": "$host", "b": $host, "c": $status}"#).unwrap();
        let escapes: Vec<Escape> = template
            .parts
            .iter()
            .flat_map(|part| match part {
                Part::Early(pieces) => pieces.to_vec(),
                Part::Late(piece) => vec![piece.clone()],
                Part::Text(_) => vec![],
            })
            .map(|piece| piece.escape)
            .collect();
        assert_eq!(
            escapes,
            [
                Escape::JsonString,
                Escape::JsonString,
                Escape::JsonQuoted,
                Escape::JsonNumber
            ]
        );
    }

    proptest! {
        #[test]
        fn a_value_stays_within_its_quotes(value in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut out = Vec::new();
            Escape::Text.write(Some(&value), &mut out);
            prop_assert!(out.iter().all(|byte| matches!(byte, b' '..=b'~') && *byte != b'"'));
            out.clear();
            Escape::JsonQuoted.write(Some(&value), &mut out);
            let text = String::from_utf8(out).unwrap();
            let inner = text.strip_prefix('"').unwrap().strip_suffix('"').unwrap();
            let mut quotes = Quotes { are_open: true, is_escaped: false };
            quotes.read(inner);
            prop_assert!(quotes.are_open && !quotes.is_escaped);
            prop_assert!(!inner.contains('\n'));
        }

        #[test]
        fn no_template_panics(text in "\\PC{0,60}") {
            let _ = parse(&text);
        }
    }
}
