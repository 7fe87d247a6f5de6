//! Formats of lines, taken apart: pieces of text, and the variables between them.
//!
//! Invariant: a line has one line feed, at its end, and in a format of JSON it is one value of JSON,
//! whatever clients and backends send.
//! Read next: `value.rs` (what is written for a variable).

/// Why a template is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A brace is not closed.
    #[error("\"${{\" is not closed by \"}}\"")]
    Brace,
    /// It has no variable, so all lines would be alike.
    #[error("there is no variable in it; one is $remote_addr")]
    Empty,
    /// One of the formats that have names is for exchanges.
    #[error("it is for HTTP only; there are text, json, and templates")]
    Exchanges,
    /// A line cannot have several lines.
    #[error("it has a line feed; a log has one line for each")]
    LineFeed,
    /// A dollar sign without a name.
    #[error("behind \"$\" there is the name of a variable")]
    Name,
    /// One of the formats that have names is for sessions.
    #[error("it is for TCP and UDP only; there are json, common, combined, and templates")]
    Sessions,
    /// There is no such variable.
    #[error("there is no variable ${0}")]
    Unknown(String),
}

/// What the variables of a kind of log are.
pub trait Variables: Sized {
    /// The variable of that name.
    fn named(name: &str) -> Option<Self>;

    /// Whether the value is a number of JSON.
    fn is_number(&self) -> bool;
}

/// A format in pieces, and what is behind the last of them, with the line feed.
pub type Parsed<V> = (Vec<Piece<V>>, Box<[u8]>);

/// A value, and how it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece<V> {
    /// What the value is.
    pub variable: V,
    /// What stands before it.
    pub before: Box<[u8]>,
    /// How it is written.
    pub escape: Escape,
    /// Without a value, `before` is left out too.
    pub is_optional: bool,
}

impl<V> Piece<V> {
    /// What stands around a value that needs no escape.
    #[must_use]
    pub const fn quote(&self) -> &'static [u8] {
        match self.escape {
            Escape::JsonQuoted => b"\"",
            Escape::JsonNumber | Escape::JsonString | Escape::Text => b"",
        }
    }
}

/// How a value is written so that nobody who sends it can make it look like something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Escape {
    /// As it is: a number; `null` if there is none.
    JsonNumber,
    /// As a string of JSON with its quotes; `null` if there is none.
    JsonQuoted,
    /// Within a string of JSON.
    JsonString,
    /// As nginx: `"`, `\` and what is not visible ASCII as `\xXX`; `-` if there is none.
    Text,
}

/// Takes a template apart: text with `$variables`. One that begins with a brace is one of JSON.
///
/// # Errors
/// What is wrong with it.
pub fn parse<V: Variables>(text: &str) -> Result<Parsed<V>, TemplateError> {
    if text.contains(['\n', '\r']) {
        return Err(TemplateError::LineFeed);
    }
    let is_json = text.trim_start().starts_with('{') && !text.trim_start().starts_with("{$");
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut quotes = Quotes::default();
    while let Some((before, behind)) = rest.split_once('$') {
        let (name, behind) = name(behind)?;
        let variable = V::named(name);
        let variable = variable.ok_or_else(|| TemplateError::Unknown(name.to_owned()))?;
        quotes.read(before);
        let escape = match (is_json, quotes.are_open, variable.is_number()) {
            (false, ..) => Escape::Text,
            (true, true, _) => Escape::JsonString,
            (true, false, true) => Escape::JsonNumber,
            (true, false, false) => Escape::JsonQuoted,
        };
        pieces.push(Piece {
            variable,
            before: before.as_bytes().into(),
            escape,
            is_optional: false,
        });
        rest = behind;
    }
    if pieces.is_empty() {
        return Err(TemplateError::Empty);
    }
    Ok((pieces, format!("{rest}\n").into_bytes().into()))
}

/// An object of JSON: its members, and the variables that they have the values of. Members without
/// a value are left out of a line; the first has one always. Names that are not known are left out.
#[must_use]
pub fn object<V: Variables>(members: &[(&str, &str)]) -> Parsed<V> {
    let mut pieces = Vec::new();
    for (member, name) in members {
        let Some(variable) = V::named(name) else {
            continue;
        };
        let separator = if pieces.is_empty() { '{' } else { ',' };
        let escape = match variable.is_number() {
            true => Escape::JsonNumber,
            false => Escape::JsonQuoted,
        };
        pieces.push(Piece {
            variable,
            before: format!("{separator}\"{member}\":").into_bytes().into(),
            escape,
            is_optional: true,
        });
    }
    (pieces, (*b"}\n").into())
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

impl Escape {
    /// Writes a value, or what stands for none.
    pub fn write(self, value: Option<&[u8]>, out: &mut Vec<u8>) {
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

    #[derive(Debug, PartialEq, Eq)]
    enum Word {
        Name,
        Number,
    }

    impl Variables for Word {
        fn named(name: &str) -> Option<Self> {
            match name {
                "name" => Some(Self::Name),
                "number" => Some(Self::Number),
                _ => None,
            }
        }

        fn is_number(&self) -> bool {
            *self == Self::Number
        }
    }

    #[test]
    fn an_object_leaves_out_what_is_not_known() {
        let (pieces, end) = object::<Word>(&[("a", "name"), ("b", "nothing"), ("c", "number")]);
        let before: Vec<_> = pieces.iter().map(|it| &*it.before).collect();
        assert_eq!(before, [&b"{\"a\":"[..], b",\"c\":"]);
        assert_eq!(pieces[0].escape, Escape::JsonQuoted);
        assert_eq!(pieces[1].escape, Escape::JsonNumber);
        assert_eq!(&*end, b"}\n");
    }

    #[test]
    fn text_and_variables_alternate() {
        let (pieces, end) = parse::<Word>("a $name-${number}b").unwrap();
        assert_eq!(
            (&*pieces[0].before, &*pieces[1].before),
            (&b"a "[..], &b"-"[..])
        );
        assert_eq!(&*end, b"b\n");
        assert_eq!(
            parse::<Word>("$nam"),
            Err(TemplateError::Unknown("nam".into()))
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
    }
}
