//! Response heads: checked as strictly as requests, since a backend may be compromised or broken
//! too, and forwarded by the same cuts.
//!
//! Invariant: the framing that a client is told is the framing that [`ResponseHead`] names.
//! Read next: `body.rs` (what follows a head).

use std::mem::MaybeUninit;

use lb_core::rt::Buffer;

use super::cuts::{Cuts, HeadWriter};
use super::fields::{Connection, DeclaredLength, Field, Upgrade};
use super::head::{Framing, HEADERS_MAX, HeadError, Lines, Span, Version};
use super::phrase::phrase;

/// What a response head may be.
#[derive(Debug, Clone, Copy)]
pub struct ResponseRules {
    /// Longest head in bytes.
    pub head_bytes_max: usize,
    /// Whether it answers HEAD: then it has no body, whatever it says.
    pub answers_head: bool,
}

/// A checked response head. All spans count from its first byte.
#[derive(Debug, Clone, Copy)]
pub struct ResponseHead {
    /// 100 to 999.
    pub status: u16,
    /// How long the body is.
    pub framing: Framing,
    /// Whether the backend keeps the connection after this response.
    pub keep_alive: bool,
    /// Whether the head declares chunks; so it may with `Framing::None`, in answer to HEAD.
    chunked: bool,
    has_date: bool,
    version: Version,
    len: u16,
    fields: Span,
    upgrade: Option<Span>,
    cuts: Cuts,
}

impl ResponseHead {
    /// Length of the head in bytes, the blank line included.
    #[expect(clippy::len_without_is_empty, reason = "a head is never empty")]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// The lines of the fields.
    pub(crate) fn field_bytes<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        self.fields.of_head(head)
    }

    /// Whether the connection goes on in another protocol, which the head names (RFC 9110 section
    /// 15.2.2).
    #[must_use]
    pub const fn switches(&self) -> bool {
        self.status == 101 && self.upgrade.is_some()
    }

    /// Whether another response to the same request follows (RFC 9110 section 15.2).
    #[must_use]
    pub const fn is_interim(&self) -> bool {
        self.status < 200
    }

    /// Whether the backend makes chunks, or says that it would in answer to GET.
    #[must_use]
    pub const fn declares_chunks(&self) -> bool {
        self.chunked
    }

    /// Whether the backend should have said when it made the response (RFC 9110 section 6.6.1).
    #[must_use]
    pub const fn lacks_date(&self) -> bool {
        !self.has_date && !self.is_interim()
    }
}

/// What the client is told of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientConnection {
    /// It ends with this response.
    Close,
    /// It stays, as an HTTP/1.1 client expects without being told.
    Keep,
    /// It stays, and an HTTP/1.0 client must be told.
    KeepHttp10,
}

/// How the body reaches the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transfer {
    /// Byte for byte as the backend sends it.
    AsIs,
    /// In chunks of our making: the backend ends the body by closing, and the client's
    /// connection is to stay.
    Chunk,
    /// Without the chunks that the backend makes: an HTTP/1.0 client does not know them.
    Dechunk,
}

/// Parses the response head at the start of `bytes`; `None` when it is not complete yet.
///
/// # Errors
/// What makes the head unacceptable. The connection cannot be used any more then.
pub fn parse_response(
    bytes: &[u8],
    rules: &ResponseRules,
) -> Result<Option<ResponseHead>, HeadError> {
    let window = &bytes[..bytes.len().min(rules.head_bytes_max)];
    if let Some(b'\r' | b'\n') = window.first() {
        // httparse would skip it, and then not see the end that whoever collects a head looks for.
        return Err(HeadError::LineEnd);
    }
    let mut slots = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        window,
        &mut slots,
    );
    match parsed {
        Ok(httparse::Status::Complete(len)) => check(&window[..len], &response, rules).map(Some),
        Ok(httparse::Status::Partial) if window.len() < rules.head_bytes_max => Ok(None),
        Ok(httparse::Status::Partial) => Err(HeadError::HeadTooLong),
        Err(error) => Err(refusal(error)),
    }
}

/// Writes the head that the client gets for the response `head`, of which `response` tells.
/// `date` is added when the response [lacks](ResponseHead::lacks_date) one.
///
/// # Errors
/// `HeadTooLong` when it does not fit into `out`.
pub fn rewrite_response(
    head: &[u8],
    response: &ResponseHead,
    connection: ClientConnection,
    transfer: Transfer,
    date: &[u8],
    out: &mut Buffer,
) -> Result<(), HeadError> {
    rewrite_response_with(head, response, connection, transfer, date, &[], out)
}

/// As [`rewrite_response`], with one more field line, which `added` is the parts of.
///
/// # Errors
/// `HeadTooLong` when it does not fit into `out`.
pub fn rewrite_response_with(
    head: &[u8],
    response: &ResponseHead,
    connection: ClientConnection,
    transfer: Transfer,
    date: &[u8],
    added: &[&[u8]],
    out: &mut Buffer,
) -> Result<(), HeadError> {
    let mut out = HeadWriter::new(out);
    let from = write_status_line(head, response, &mut out);
    response
        .cuts
        .copy(head, from, response.fields.end(), b"", &mut out);
    if transfer == Transfer::Chunk || (response.chunked && transfer == Transfer::AsIs) {
        out.push(b"Transfer-Encoding: chunked\r\n");
    }
    if response.lacks_date() {
        out.push(b"Date: ");
        out.push(date);
        out.push(b"\r\n");
    }
    if let Some(protocol) = response.upgrade.filter(|_| response.switches()) {
        out.push(b"Connection: upgrade\r\nUpgrade: ");
        out.push(protocol.of_head(head));
        out.push(b"\r\n");
    }
    match connection {
        ClientConnection::Close if !response.is_interim() => out.push(b"Connection: close\r\n"),
        ClientConnection::KeepHttp10 if !response.switches() => {
            out.push(b"Connection: keep-alive\r\n")
        }
        _ => {}
    }
    added.iter().for_each(|part| out.push(part));
    out.finish()
}

fn check(
    head: &[u8],
    response: &httparse::Response<'_, '_>,
    rules: &ResponseRules,
) -> Result<ResponseHead, HeadError> {
    let (Some(status @ 100..), Some(minor)) = (response.code, response.version) else {
        return Err(HeadError::StatusLine);
    };
    if !head.starts_with(b"HTTP/1.") {
        return Err(HeadError::LineEnd); // httparse skips empty lines
    }
    let version = if minor == 0 {
        Version::Http10
    } else {
        Version::Http11
    };
    let lines = Lines::new(head, response.headers)?;
    let fields = Fields::read(&lines, status)?;
    let declared = fields.length.framing(version)?;
    let has_body = !rules.answers_head && may_have_body(status);
    let chunked = matches!(declared, Some(Framing::Chunked)) && may_have_body(status);
    Ok(ResponseHead {
        status,
        framing: if has_body {
            declared.unwrap_or(Framing::UntilClose)
        } else {
            Framing::None
        },
        keep_alive: fields.connection.persists(version),
        chunked,
        has_date: fields.has_date,
        version,
        #[expect(
            clippy::cast_possible_truncation,
            reason = "heads are shorter than 64 KiB"
        )]
        len: head.len() as u16,
        fields: Span::new(lines.start(), lines.end()),
        upgrade: fields
            .upgrade
            .protocols()
            .filter(|_| fields.connection.upgrades() && version == Version::Http11),
        cuts: fields.cuts,
    })
}

/// RFC 9112 section 6.3, rule 1.
const fn may_have_body(status: u16) -> bool {
    !matches!(status, 100..=199 | 204 | 304)
}

/// What the fields of a response say.
#[derive(Default)]
struct Fields {
    connection: Connection,
    length: DeclaredLength,
    has_date: bool,
    upgrade: Upgrade,
    cuts: Cuts,
}

impl Fields {
    fn read(lines: &Lines<'_>, status: u16) -> Result<Self, HeadError> {
        let mut fields = Self::default();
        let removes = |field: Field, _: &[u8]| is_removed(field, status);
        for item in lines.iter() {
            let (header, line) = item?;
            let field = Field::of(header.name);
            match field {
                Field::Other => continue,
                Field::Connection => fields.connection.read(header.value)?,
                Field::ContentLength => fields.length.content_length(header.value)?,
                Field::TransferEncoding => fields.length.transfer_encoding(header.value)?,
                Field::Date => fields.has_date = true,
                Field::Upgrade => fields.upgrade.read(lines.head(), header.value),
                _ => {}
            }
            if is_removed(field, status) {
                fields.cuts.remove(line)?;
            } else if field.decides() {
                lines.cut_tabs(header, line, &mut fields.cuts)?;
            }
        }
        if fields.connection.names_fields() {
            fields.cuts = lines.cut_named(removes)?;
        }
        Ok(fields)
    }
}

/// Whether a field of a response is not forwarded as it came, whatever Connection names.
const fn is_removed(field: Field, status: u16) -> bool {
    match field {
        Field::Connection | Field::HopByHop | Field::TransferEncoding | Field::Upgrade => true,
        // No length where there is no content (RFC 9110 section 8.6).
        Field::ContentLength => status < 200 || status == 204,
        _ => false,
    }
}

/// Writes the status line with our version and a reason phrase, and returns where to copy on from:
/// its own start when it may stay as it is.
fn write_status_line(head: &[u8], response: &ResponseHead, out: &mut HeadWriter<'_>) -> usize {
    const CODE_END: usize = "HTTP/1.1 200".len();
    let reason = &head[CODE_END..];
    let lacks_reason = !matches!(reason, [b' ', first, ..] if *first != b'\r');
    if response.version == Version::Http11 && !lacks_reason {
        return 0;
    }
    out.push(b"HTTP/1.1");
    out.push(&head["HTTP/1.1".len()..CODE_END]);
    if !lacks_reason {
        return CODE_END;
    }
    out.push(b" ");
    out.push(phrase(response.status).as_bytes());
    CODE_END + usize::from(reason[0] == b' ')
}

/// What `httparse` found, in our words.
#[cold]
const fn refusal(error: httparse::Error) -> HeadError {
    match error {
        httparse::Error::HeaderName | httparse::Error::HeaderValue => HeadError::Field,
        httparse::Error::NewLine => HeadError::LineEnd,
        httparse::Error::TooManyHeaders => HeadError::TooManyFields,
        httparse::Error::Version => HeadError::Version,
        _ => HeadError::StatusLine,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: ResponseRules = ResponseRules {
        head_bytes_max: 15_000,
        answers_head: false,
    };

    fn parse(head: &str) -> Result<ResponseHead, HeadError> {
        parse_response(head.as_bytes(), &RULES).map(|head| head.expect("a complete head"))
    }

    fn rewritten(head: &str, connection: ClientConnection, transfer: Transfer) -> String {
        let response = parse(head).unwrap();
        let mut out = Buffer::new();
        rewrite_response(
            head.as_bytes(),
            &response,
            connection,
            transfer,
            b"now",
            &mut out,
        )
        .unwrap();
        String::from_utf8(out.as_slice().to_vec()).unwrap()
    }

    #[test]
    fn end_to_end_fields_stay_byte_for_byte() {
        let head = "HTTP/1.1 200 Very  OK\r\ndate: x\r\nContent-Length: 3\r\nA:b\r\n\r\n";
        assert_eq!(
            rewritten(head, ClientConnection::Keep, Transfer::AsIs),
            head
        );
    }

    #[test]
    fn hop_by_hop_fields_go_and_ours_come() {
        let head = "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Mine\r\nKeep-Alive: timeout=5\r\n\
            Server: s\r\nTransfer-Encoding: chunked\r\nX-Mine: y\r\nTrailer: Z\r\n\r\n";
        assert_eq!(
            rewritten(head, ClientConnection::Close, Transfer::AsIs),
            "HTTP/1.1 200 OK\r\nServer: s\r\nTrailer: Z\r\nTransfer-Encoding: chunked\r\n\
             Date: now\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(
            rewritten(head, ClientConnection::KeepHttp10, Transfer::Dechunk),
            "HTTP/1.1 200 OK\r\nServer: s\r\nTrailer: Z\r\nDate: now\r\n\
             Connection: keep-alive\r\n\r\n"
        );
    }

    #[test]
    fn the_status_line_is_ours_where_it_must_be() {
        for (line, expected) in [
            ("HTTP/1.0 404 Not Found", "HTTP/1.1 404 Not Found"),
            ("HTTP/1.1 404", "HTTP/1.1 404 Not Found"),
            ("HTTP/1.0 404", "HTTP/1.1 404 Not Found"),
            ("HTTP/1.1 404 ", "HTTP/1.1 404 Not Found"),
            ("HTTP/1.0 404 ", "HTTP/1.1 404 Not Found"),
            ("HTTP/1.1 404 ?", "HTTP/1.1 404 ?"),
            ("HTTP/1.1 299 ", "HTTP/1.1 299 Success"),
        ] {
            let head = format!("{line}\r\nDate: x\r\n\r\n");
            let expected = format!("{expected}\r\nDate: x\r\n\r\n");
            assert_eq!(
                rewritten(&head, ClientConnection::Keep, Transfer::AsIs),
                expected
            );
        }
    }

    #[test]
    fn framing_follows_status_method_and_fields() {
        let framing = |head: &str| parse(head).map(|head| head.framing);
        assert_eq!(framing("HTTP/1.1 200 OK\r\n\r\n"), Ok(Framing::UntilClose));
        assert_eq!(
            framing("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
            Ok(Framing::None)
        );
        assert_eq!(
            framing("HTTP/1.1 304 N\r\nContent-Length: 9\r\n\r\n"),
            Ok(Framing::None)
        );
        assert_eq!(
            framing("HTTP/1.1 204 N\r\nContent-Length: 9\r\n\r\n"),
            Ok(Framing::None)
        );
        assert_eq!(framing("HTTP/1.1 100 C\r\n\r\n"), Ok(Framing::None));
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n";
        let rules = ResponseRules {
            answers_head: true,
            ..RULES
        };
        assert_eq!(
            parse_response(head, &rules).unwrap().unwrap().framing,
            Framing::None
        );
        for (fields, error) in [
            (
                "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
                HeadError::ContentLengthWithTransferEncoding,
            ),
            (
                "Content-Length: 1\r\nContent-Length: 1\r\n",
                HeadError::DuplicateContentLength,
            ),
            ("Content-Length: -1\r\n", HeadError::ContentLength),
            (
                "Transfer-Encoding: gzip, chunked\r\n",
                HeadError::UnknownTransferCoding,
            ),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                HeadError::TransferEncoding,
            ),
        ] {
            let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
            assert_eq!(framing(&head), Err(error), "{fields}");
        }
        let head = "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(framing(head), Err(HeadError::TransferEncoding));
    }

    #[test]
    fn a_length_without_content_is_not_forwarded() {
        let head = "HTTP/1.1 204 N\r\nDate: x\r\nContent-Length: 0\r\n\r\n";
        let expected = "HTTP/1.1 204 N\r\nDate: x\r\n\r\n";
        assert_eq!(
            rewritten(head, ClientConnection::Keep, Transfer::AsIs),
            expected
        );
        let head = "HTTP/1.1 304 N\r\nDate: x\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(
            rewritten(head, ClientConnection::Keep, Transfer::AsIs),
            head
        );
    }

    #[test]
    fn garbage_is_refused() {
        for (head, error) in [
            ("SSH-2.0-OpenSSH_9.9\r\n\r\n", HeadError::Version),
            ("HTTP/2 200 OK\r\n\r\n", HeadError::Version),
            ("HTTP/1.1 099 OK\r\n\r\n", HeadError::StatusLine),
            ("HTTP/1.1 20 OK\r\n\r\n", HeadError::StatusLine),
            ("HTTP/1.1 200 O\0K\r\n\r\n", HeadError::StatusLine),
            ("\r\nHTTP/1.1 200 OK\r\n\r\n", HeadError::LineEnd),
            ("HTTP/1.1 200 OK\n\r\n", HeadError::LineEnd),
            ("HTTP/1.1 200 OK\r\nA: b\n\r\n", HeadError::LineEnd),
            ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", HeadError::Field),
            ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", HeadError::Field),
            ("HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n", HeadError::Field),
        ] {
            assert_eq!(parse(head).map(|head| head.status), Err(error), "{head:?}");
        }
    }

    #[test]
    fn persistence_follows_the_version_and_connection() {
        for (head, keep_alive) in [
            ("HTTP/1.1 200 OK\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", false),
            ("HTTP/1.0 200 OK\r\n\r\n", false),
            ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n", true),
        ] {
            assert_eq!(parse(head).unwrap().keep_alive, keep_alive, "{head}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(
            start in prop::sample::select(vec!["", "HTTP/1.1 200 OK\r\n", "HTTP/1.0 404"]),
            rest in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let head = [start.as_bytes(), &rest].concat();
            if let Ok(Some(response)) = parse_response(&head, &RULES) {
                let mut out = Buffer::new();
                let keep = ClientConnection::Keep;
                let written =
                    rewrite_response(&head, &response, keep, Transfer::AsIs, b"now", &mut out);
                prop_assert_eq!(written, Ok(()));
            }
        }
    }
}
