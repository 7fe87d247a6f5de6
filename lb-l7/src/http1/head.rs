//! What request and response heads share: spans, framing, what is wrong with a head, and its lines.
//!
//! Invariant: every line that is kept ends in CRLF and is forwarded byte for byte.
//! Read next: `fields.rs` (what lines say), `cuts.rs` (which are left out), `request.rs`.

use httparse::Header;

use super::cuts::Cuts;
use super::fields::Field;

/// Most header fields that a head may have, whatever the plan says: the array of parsed fields
/// lives on the stack of one synchronous function.
pub const HEADERS_MAX: usize = 256;

/// A run of bytes in a head. Heads are shorter than 64 KiB, so two `u16` do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    pub(super) start: u16,
    pub(super) end: u16,
}

impl Span {
    /// The span from `start` to `end`, in bytes from the start of the head.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "heads are shorter than 64 KiB"
    )]
    pub(crate) const fn new(start: usize, end: usize) -> Self {
        debug_assert!(start <= end && end <= u16::MAX as usize);
        Self {
            start: start as u16,
            end: end as u16,
        }
    }

    /// Where `part`, a sub-slice of `head`, lies in it.
    pub(crate) fn of(head: &[u8], part: &[u8]) -> Self {
        let start = offset(head, part);
        Self::new(start, start + part.len())
    }

    /// The bytes of `head` that the span covers.
    #[must_use]
    pub fn of_head(self, head: &[u8]) -> &[u8] {
        &head[self.start()..self.end()]
    }

    /// First byte covered.
    #[must_use]
    pub const fn start(self) -> usize {
        self.start as usize
    }

    /// First byte not covered any more.
    #[must_use]
    pub const fn end(self) -> usize {
        self.end as usize
    }

    /// Whether no byte is covered.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// The offset of `part` in `head`, of which it is a sub-slice.
pub(crate) fn offset(head: &[u8], part: &[u8]) -> usize {
    part.as_ptr() as usize - head.as_ptr() as usize
}

/// The protocol version of a message; other major versions are refused with 505.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0: closes after a response unless asked to keep the connection; knows no chunks.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// How long a body is (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// The message has no body.
    None,
    /// So many bytes, at least one.
    Length(u64),
    /// In chunks.
    Chunked,
    /// Everything until the sender closes; responses only.
    UntilClose,
}

/// Why a head is refused. From a client it becomes the status that [`HeadError::status`] names;
/// from a backend it becomes 502.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadError {
    /// An absolute-form target names another authority than Host (RFC 9112 section 3.2.2).
    AuthorityMismatch,
    /// CONNECT: we are a gateway, not a tunnel.
    ConnectMethod,
    /// Content-Length is not a single decimal number (RFC 9110 section 8.6).
    ContentLength,
    /// Content-Length beside Transfer-Encoding (RFC 9112 section 6.1).
    ContentLengthWithTransferEncoding,
    /// A path element is `.` or `..`, plain or percent-encoded.
    DotSegment,
    /// Content-Length is given more than once, be it with equal values.
    DuplicateContentLength,
    /// Host is given more than once (RFC 9112 section 3.2).
    DuplicateHost,
    /// A header field: name, colon or value is not as it must be (RFC 9112 section 5.1).
    Field,
    /// The head is longer than the limit.
    HeadTooLong,
    /// Host is not a name or address with an optional port.
    Host,
    /// A line does not end in CRLF, or a line starts with white space (RFC 9112 section 2.2).
    LineEnd,
    /// HTTP/1.1 without Host (RFC 9112 section 3.2).
    MissingHost,
    /// The request line is not `method SP target SP version`.
    RequestLine,
    /// The status line is not `version SP status SP reason`, or the status is below 100.
    StatusLine,
    /// The request target is none of the four forms (RFC 9112 section 3.2).
    Target,
    /// The request target alone is longer than the limit.
    TargetTooLong,
    /// More fields than the limit.
    TooManyFields,
    /// More connection-specific fields, apart from each other, than we remove.
    TooManyHopByHopFields,
    /// Transfer-Encoding is not a single `chunked`, or comes with HTTP/1.0.
    TransferEncoding,
    /// Transfer-Encoding names a coding that we do not implement.
    UnknownTransferCoding,
    /// Another major version of HTTP.
    Version,
}

impl HeadError {
    /// The status that a client is answered with.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::TargetTooLong => 414,
            Self::HeadTooLong | Self::TooManyFields | Self::TooManyHopByHopFields => 431,
            Self::ConnectMethod | Self::UnknownTransferCoding => 501,
            Self::Version => 505,
            _ => 400,
        }
    }

    /// What was wrong, for the body of the answer and the log.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::AuthorityMismatch => "the request target and Host name different authorities",
            Self::ConnectMethod => "CONNECT is not supported here",
            Self::ContentLength => "Content-Length is not a single decimal number",
            Self::ContentLengthWithTransferEncoding => {
                "Content-Length and Transfer-Encoding exclude each other"
            }
            Self::DotSegment => "the path has a '.' or '..' element",
            Self::DuplicateContentLength => "Content-Length is repeated",
            Self::DuplicateHost => "Host is repeated",
            Self::Field => "a header field is malformed",
            Self::HeadTooLong => "the head is too long",
            Self::Host => "Host is not a valid name or address",
            Self::LineEnd => "a line of the head does not end in CRLF",
            Self::MissingHost => "Host is missing",
            Self::RequestLine => "the request line is malformed",
            Self::StatusLine => "the status line is malformed",
            Self::Target => "the request target is malformed",
            Self::TargetTooLong => "the request target is too long",
            Self::TooManyFields => "the head has too many fields",
            Self::TooManyHopByHopFields => "the head has too many connection-specific fields",
            Self::TransferEncoding => "Transfer-Encoding is not a single 'chunked'",
            Self::UnknownTransferCoding => "Transfer-Encoding names an unsupported coding",
            Self::Version => "the HTTP version is not supported",
        }
    }
}

/// Name and value of each of the lines of a checked head, in order.
pub(crate) fn field_lines(lines: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = lines;
    std::iter::from_fn(move || {
        let end = memchr::memchr(b'\n', rest)?;
        let line = &rest[..end];
        rest = &rest[end + 1..];
        // Every line of a checked head has one.
        let colon = memchr::memchr(b':', line)?;
        Some((&line[..colon], line[colon + 1..].trim_ascii()))
    })
}

/// The fields of a parsed head with the spans of their lines, each checked to end in CRLF.
pub(crate) struct Lines<'a> {
    head: &'a [u8],
    fields: &'a [Header<'a>],
    /// Just behind the last field line; the blank line follows.
    end: usize,
}

impl<'a> Lines<'a> {
    /// `head` runs from its first byte to the end of the blank line. Checks the ends of the
    /// start line and of the head, which `httparse` lets be a bare LF.
    pub(crate) fn new(head: &'a [u8], fields: &'a [Header<'a>]) -> Result<Self, HeadError> {
        let end = head.len().saturating_sub(2);
        let lines = Self { head, fields, end };
        if head.ends_with(b"\r\n") && head[..lines.start()].ends_with(b"\r\n") {
            Ok(lines)
        } else {
            Err(HeadError::LineEnd)
        }
    }

    /// The head.
    pub(crate) const fn head(&self) -> &'a [u8] {
        self.head
    }

    /// Where the first field line starts.
    pub(crate) fn start(&self) -> usize {
        self.fields
            .first()
            .map_or(self.end, |first| offset(self.head, first.name.as_bytes()))
    }

    /// Just behind the last field line.
    pub(crate) const fn end(&self) -> usize {
        self.end
    }

    /// Just behind the last byte of the field's value.
    pub(crate) fn value_end(&self, field: &Header<'_>) -> usize {
        Span::of(self.head, field.value).end()
    }

    /// Each field with its line, in order; `Err` for a line that ends in a bare LF.
    #[inline]
    pub(crate) fn iter(&self) -> impl Iterator<Item = Result<(&'a Header<'a>, Span), HeadError>> {
        let mut start = self.start();
        self.fields.iter().enumerate().map(move |(index, field)| {
            let next = self.fields.get(index + 1);
            let end = next.map_or(self.end, |next| offset(self.head, next.name.as_bytes()));
            let line = Span::new(start, end);
            start = end;
            if self.head[..end].ends_with(b"\r\n") {
                Ok((field, line))
            } else {
                Err(HeadError::LineEnd)
            }
        })
    }

    /// Removes the white space around a value where there is a tab in it. It is allowed (RFC 9110
    /// section 5.6.3), and nginx takes it for a part of the value.
    pub(crate) fn cut_tabs(
        &self,
        field: &Header<'_>,
        line: Span,
        cuts: &mut Cuts,
    ) -> Result<(), HeadError> {
        let value = Span::of(self.head, field.value);
        let colon_end = line.start() + field.name.len() + 1;
        if field.value.is_empty() {
            return Ok(());
        }
        for space in [
            Span::new(colon_end, value.start()),
            Span::new(value.end(), line.end() - 2),
        ] {
            if space.of_head(self.head).contains(&b'\t') {
                cuts.remove(space)?;
            }
        }
        Ok(())
    }

    /// All lines that end at this connection: those that `removes` says, and those that a
    /// Connection field names (RFC 9110 section 7.6.1).
    pub(crate) fn cut_named(
        &self,
        removes: impl Fn(Field, &[u8]) -> bool,
    ) -> Result<Cuts, HeadError> {
        let mut cuts = Cuts::default();
        for item in self.iter() {
            let (header, line) = item?;
            let field = Field::of(header.name);
            let named = field.may_be_named(header.name) && self.names(header.name);
            if named || removes(field, header.value) {
                cuts.remove(line)?;
            } else if field.decides() {
                self.cut_tabs(header, line, &mut cuts)?;
            }
        }
        Ok(cuts)
    }

    /// Whether some Connection field names `name`.
    fn names(&self, name: &str) -> bool {
        self.fields
            .iter()
            .filter(|field| Field::of(field.name) == Field::Connection)
            .flat_map(|field| tokens(field.value))
            .any(|token| token.eq_ignore_ascii_case(name.as_bytes()))
    }
}

/// Whether `byte` may be part of a token (RFC 9110 section 5.6.2).
pub(crate) const fn is_token(byte: u8) -> bool {
    TOKEN[byte as usize]
}

static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let b = byte as u8;
        table[byte] = b.is_ascii_alphanumeric()
            || matches!(b, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~');
        byte += 1;
    }
    table
};

/// The number that `digits` spell; `None` for anything but decimal digits within `u64`.
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number = number.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    (!digits.is_empty()).then_some(number)
}

/// The elements of a comma-separated list, without the white space around them; empty ones are
/// skipped (RFC 9110 section 5.6.1.2).
pub(crate) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}
