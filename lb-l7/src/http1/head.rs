//! What request and response heads share: spans, framing, the fields that matter to a proxy,
//! and the list of cuts by which a head is forwarded without taking it apart.
//!
//! Invariant: every line that is kept ends in CRLF and is forwarded byte for byte; `Cuts` are in
//! ascending order and do not overlap. Read next: `request.rs` (parse and rewrite a request).

use httparse::Header;
use lb_core::rt::Buffer;

/// Most header fields that a head may have, whatever the plan says: the array of parsed fields
/// lives on the stack of one synchronous function.
pub const HEADERS_MAX: usize = 256;

/// A run of bytes in a head. Heads are shorter than 64 KiB, so two `u16` do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    start: u16,
    end: u16,
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

/// The fields that a proxy reads, removes or adds to. All others are forwarded unseen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    Connection,
    ContentLength,
    Date,
    Expect,
    Forwarded,
    Host,
    /// Keep-Alive, Proxy-Connection, TE: end at this connection (RFC 9110 section 7.6.1).
    HopByHop,
    /// HTTP2-Settings: what `Upgrade: h2c` comes with (RFC 7540 section 3.2.1).
    Http2Settings,
    Other,
    /// ssl-client-*, with `_` or `-`: what backends are told of a client's certificate.
    SslClient,
    TransferEncoding,
    Upgrade,
    XForwardedFor,
    XForwardedHost,
    XForwardedProto,
    XRequestId,
}

impl Field {
    /// Looks at the length first: most names need no comparison at all.
    #[inline]
    pub(crate) fn of(name: &str) -> Self {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        match name.len() {
            2 if is("te") => Self::HopByHop,
            4 if is("host") => Self::Host,
            4 if is("date") => Self::Date,
            6 if is("expect") => Self::Expect,
            7 if is("upgrade") => Self::Upgrade,
            9 if is("forwarded") => Self::Forwarded,
            10 if is("connection") => Self::Connection,
            10 if is("keep-alive") => Self::HopByHop,
            12 if is("x-request-id") => Self::XRequestId,
            14 if is("content-length") => Self::ContentLength,
            14 if is("http2-settings") => Self::Http2Settings,
            15 | 17 | 20 | 21 | 22 if is_ssl_client(name) => Self::SslClient,
            15 if is("x-forwarded-for") => Self::XForwardedFor,
            16 if is("x-forwarded-host") => Self::XForwardedHost,
            16 if is("proxy-connection") => Self::HopByHop,
            17 if is("transfer-encoding") => Self::TransferEncoding,
            17 if is("x-forwarded-proto") => Self::XForwardedProto,
            _ => Self::Other,
        }
    }

    /// Whether a message that is passed on is framed or routed by it, or waits for what it asks.
    pub(crate) const fn decides(self) -> bool {
        matches!(self, Self::ContentLength | Self::Expect | Self::Host)
    }

    /// Whether a Connection field may have this field removed. What decides framing, routing or
    /// who the client is must not vanish because the client said so.
    fn may_be_named(self, name: &str) -> bool {
        self == Self::Other
            && !name
                .get(..8)
                .is_some_and(|start| start.eq_ignore_ascii_case("content-"))
            && !name.eq_ignore_ascii_case("authorization")
            && !name.eq_ignore_ascii_case("cookie")
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

/// Many backends take `_` for `-` in names.
fn is_ssl_client(name: &str) -> bool {
    const KNOWN: [&str; 6] = [
        "ssl-client-cert",
        "ssl-client-verify",
        "ssl-client-serial",
        "ssl-client-issuer-dn",
        "ssl-client-subject-dn",
        "ssl-client-fingerprint",
    ];
    let same = |known: &&str| {
        let pairs = name.bytes().zip(known.bytes());
        let mut pairs = pairs.map(|(byte, known)| (byte.to_ascii_lowercase(), known));
        name.len() == known.len()
            && pairs.all(|(byte, known)| byte == known || (byte, known) == (b'_', b'-'))
    };
    name.as_bytes()[0].eq_ignore_ascii_case(&b's') && KNOWN.iter().any(same)
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

/// What the Connection fields of a head say.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Connection {
    close: bool,
    keep_alive: bool,
    upgrade: bool,
    http2_settings: bool,
    /// Fields named, known hop-by-hop ones among them.
    named: u8,
}

impl Connection {
    /// Looking for the fields that are named takes time for each name and each field.
    const NAMED_MAX: u8 = 32;

    /// Takes in one Connection field.
    pub(crate) fn read(&mut self, value: &[u8]) -> Result<(), HeadError> {
        for token in tokens(value) {
            if token.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if token.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true; // the field that it names is removed anyway
            } else if token.eq_ignore_ascii_case(b"http2-settings") {
                self.http2_settings = true; // likewise
            } else if self.named == Self::NAMED_MAX {
                return Err(HeadError::TooManyHopByHopFields);
            } else {
                self.named += 1;
            }
        }
        Ok(())
    }

    /// Whether fields are named that may not be removed anyway.
    pub(crate) const fn names_fields(self) -> bool {
        self.named > 0
    }

    /// Whether HTTP2-Settings is meant for this connection (RFC 7540 section 3.2.1).
    pub(crate) const fn names_http2_settings(self) -> bool {
        self.http2_settings
    }

    /// Whether another protocol is meant to follow on the connection (RFC 9110 section 7.8).
    pub(crate) const fn upgrades(self) -> bool {
        self.upgrade
    }

    /// Whether the sender keeps the connection after this message (RFC 9112 section 9.3).
    pub(crate) const fn persists(self, version: Version) -> bool {
        !self.close && (self.keep_alive || matches!(version, Version::Http11))
    }
}

/// What the Upgrade fields of a head say.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Upgrade {
    value: Span,
    is_repeated: bool,
    is_refused: bool,
    offers_h2c: bool,
}

impl Upgrade {
    /// Takes in an Upgrade field: a list of protocols. One with HTTP/2 in it is ours to accept, not
    /// a backend's: nobody would look at the requests that follow.
    pub(crate) fn read(&mut self, head: &[u8], value: &[u8]) {
        let is_protocol = |byte: u8| is_token(byte) || byte == b'/';
        let is_good = |protocol: &[u8]| {
            !protocol.is_empty()
                && protocol.iter().all(|byte| is_protocol(*byte))
                && !protocol
                    .get(..2)
                    .is_some_and(|it| it.eq_ignore_ascii_case(b"h2"))
                && !protocol
                    .get(..4)
                    .is_some_and(|it| it.eq_ignore_ascii_case(b"http"))
                && !protocol
                    .get(..3)
                    .is_some_and(|it| it.eq_ignore_ascii_case(b"tls"))
        };
        self.is_repeated |= !self.value.is_empty();
        self.is_refused |= !value
            .split(|byte| *byte == b',')
            .all(|it| is_good(it.trim_ascii()));
        let mut protocols = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        self.offers_h2c |= protocols.any(|it| it.eq_ignore_ascii_case(b"h2c"));
        self.value = Span::of(head, value);
    }

    /// Whether HTTP/2 in the clear is among the protocols, which are named in one field.
    pub(crate) const fn offers_h2c(self) -> bool {
        self.offers_h2c && !self.is_repeated
    }

    /// The protocols, if they were named in one field and may be spoken.
    pub(crate) fn protocols(self) -> Option<Span> {
        let is_good = !self.is_repeated && !self.is_refused && !self.value.is_empty();
        is_good.then_some(self.value)
    }
}

/// The length of the body as the fields have it, before the kind of message is looked at.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct DeclaredLength {
    content_length: Option<u64>,
    chunked: bool,
}

impl DeclaredLength {
    /// Takes in a Content-Length field: digits only, once only.
    pub(crate) fn content_length(&mut self, value: &[u8]) -> Result<(), HeadError> {
        let length = decimal(value).ok_or(HeadError::ContentLength)?;
        match self.content_length.replace(length) {
            None => Ok(()),
            Some(_) => Err(HeadError::DuplicateContentLength),
        }
    }

    /// Takes in a Transfer-Encoding field: `chunked` alone, once only.
    pub(crate) fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), HeadError> {
        if self.chunked {
            return Err(HeadError::TransferEncoding);
        }
        if value.eq_ignore_ascii_case(b"chunked") {
            self.chunked = true;
            return Ok(());
        }
        let mut codings = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        let unknown = |coding: &[u8]| {
            !coding.is_empty() && coding.iter().all(|byte| is_token(*byte)) && !is_chunked(coding)
        };
        let last = codings.next_back().unwrap_or_default();
        if codings.all(unknown) && (unknown(last) || is_chunked(last)) {
            Err(HeadError::UnknownTransferCoding)
        } else {
            Err(HeadError::TransferEncoding)
        }
    }

    /// The framing that the fields declare; `None` when they say nothing.
    pub(crate) const fn framing(self, version: Version) -> Result<Option<Framing>, HeadError> {
        match (self.content_length, self.chunked, version) {
            (Some(_), true, _) => Err(HeadError::ContentLengthWithTransferEncoding),
            (None, true, Version::Http10) => Err(HeadError::TransferEncoding),
            (None, true, Version::Http11) => Ok(Some(Framing::Chunked)),
            (Some(0), false, _) => Ok(Some(Framing::None)),
            (Some(length), false, _) => Ok(Some(Framing::Length(length))),
            (None, false, _) => Ok(None),
        }
    }
}

/// The parts of a head that are not forwarded, and at most one place where text is put in.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cuts {
    spans: [Span; Self::MAX],
    len: u8,
}

impl Cuts {
    /// Neighbouring lines share one cut, so real heads need one or two.
    const MAX: usize = 12;

    /// Removes `line`, which lies behind all earlier cuts.
    pub(crate) fn remove(&mut self, line: Span) -> Result<(), HeadError> {
        let len = usize::from(self.len);
        if let Some(last) = self.spans[..len].last_mut()
            && last.end == line.start
            && !last.is_empty()
        {
            last.end = line.end;
            return Ok(());
        }
        *self
            .spans
            .get_mut(len)
            .ok_or(HeadError::TooManyHopByHopFields)? = line;
        self.len += 1;
        Ok(())
    }

    /// Marks `at` as the place for an insertion, which must not lie within a cut.
    pub(crate) fn insert_at(&mut self, at: usize) -> Result<(), HeadError> {
        let len = usize::from(self.len);
        if len == Self::MAX {
            return Err(HeadError::TooManyHopByHopFields);
        }
        let index = self.spans[..len].partition_point(|cut| cut.end() <= at);
        self.spans.copy_within(index..len, index + 1);
        self.spans[index] = Span::new(at, at);
        self.len += 1;
        Ok(())
    }

    /// Appends `head[from..to]` without the cuts to `out`, and `insertion` at its place.
    #[inline]
    pub(crate) fn copy(
        &self,
        head: &[u8],
        from: usize,
        to: usize,
        insertion: &[u8],
        out: &mut HeadWriter<'_>,
    ) {
        let mut at = from;
        for cut in &self.spans[..usize::from(self.len)] {
            out.push(&head[at..cut.start()]);
            if cut.is_empty() {
                out.push(insertion);
            }
            at = cut.end();
        }
        out.push(&head[at..to]);
    }
}

/// Appends to a buffer and remembers whether everything did fit.
pub(crate) struct HeadWriter<'a> {
    buffer: &'a mut Buffer,
    fits: bool,
}

impl<'a> HeadWriter<'a> {
    pub(crate) const fn new(buffer: &'a mut Buffer) -> Self {
        Self { buffer, fits: true }
    }

    #[inline]
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.fits &= self.buffer.push(bytes);
    }

    /// Ends the head with the blank line.
    pub(crate) fn finish(mut self) -> Result<(), HeadError> {
        self.push(b"\r\n");
        if self.fits {
            Ok(())
        } else {
            Err(HeadError::HeadTooLong)
        }
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

fn is_chunked(coding: &[u8]) -> bool {
    coding.eq_ignore_ascii_case(b"chunked")
}
