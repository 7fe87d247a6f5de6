//! Access log formats, compiled: what of a line is known with the request's head is written then,
//! what with the response's head then, and the rest at the end.
//!
//! Invariant: a line has one line feed, at its end, and in a format of JSON it is one value of JSON,
//! whatever clients and backends send. Read next: `variable.rs`, `record.rs` (a line on its way).

use lb_core::lines::{self, TemplateError};
use lb_core::plan::LogFormat;

use super::variable::{Stage, Variable};

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

pub(super) type Piece = lines::Piece<Variable>;

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
            LogFormat::Text => Err(TemplateError::Sessions),
        }
    }

    fn parse(text: &str) -> Result<Self, TemplateError> {
        let (pieces, end) = lines::parse(text)?;
        Ok(Builder { pieces }.finish(end))
    }

    fn json() -> Self {
        let (pieces, end) = lines::object(&JSON);
        Self {
            makes_ids: false, // many have no use for them
            ..Builder { pieces }.finish(end)
        }
    }

    /// The nearest names to one that is not known are among these.
    pub fn variable_names() -> impl Iterator<Item = &'static str> {
        Variable::names()
    }
}

/// Joins pieces that are known with the request.
struct Builder {
    pieces: Vec<Piece>,
}

impl Builder {
    fn finish(self, end: Box<[u8]>) -> Template {
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
        parts.push(Part::Text(end));
        Template {
            parts: parts.into(),
            reads_response,
            makes_ids,
        }
    }
}

#[cfg(test)]
mod tests {
    use lb_core::lines::{Escape, Variables as _};
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
        fn no_template_panics(text in "\\PC{0,60}") {
            let _ = parse(&text);
        }
    }
}
