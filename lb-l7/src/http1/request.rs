//! Request heads: parsed once and checked strictly.
//!
//! Invariant: what is routed is what is forwarded: the path and the authority that
//! [`RequestHead`] names are the very bytes that the backend gets.
//! Read next: `forward.rs` (what the backend gets), `response.rs` (the other direction).

use std::mem::MaybeUninit;

use lb_core::plan::{Forwarded, RequestId};

use super::authority::Authority;
use super::cuts::Cuts;
use super::fields::{Connection, DeclaredLength, Field, Upgrade};
use super::head::{Framing, HEADERS_MAX, HeadError, Lines, Span, Version, field_lines};
use super::target::Target;
use crate::request_id::is_acceptable;

pub use super::forward::{Client, rewrite_request};

/// What a request head may be and what is done with it on the way.
#[derive(Debug, Clone, Copy)]
pub struct RequestRules {
    /// Longest head in bytes.
    pub head_bytes_max: usize,
    /// Most header fields, at most [`HEADERS_MAX`].
    pub headers_max: usize,
    /// What is done with X-Forwarded-* fields.
    pub forwarded: Forwarded,
    /// What is done with X-Request-ID.
    pub request_id: RequestId,
}

/// A request method, as far as a proxy tells methods apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// DELETE.
    Delete,
    /// GET.
    Get,
    /// HEAD, whose response has no body whatever it says.
    Head,
    /// OPTIONS, which may have `*` as its target.
    Options,
    /// Any other, POST among them.
    Other,
    /// PUT.
    Put,
    /// TRACE.
    Trace,
}

impl Method {
    fn of(name: &str) -> Self {
        match name {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "OPTIONS" => Self::Options,
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            "TRACE" => Self::Trace,
            _ => Self::Other,
        }
    }

    /// Whether a request may be sent again when it is unknown if it was processed (RFC 9110
    /// section 9.2.2).
    #[must_use]
    pub const fn is_idempotent(self) -> bool {
        !matches!(self, Self::Other)
    }
}

/// A checked request head. All spans count from its first byte.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead {
    /// Its kind of method.
    pub method: Method,
    /// The protocol version of the client.
    pub version: Version,
    /// How long the body is.
    pub framing: Framing,
    /// Whether the client keeps the connection after this exchange.
    pub keep_alive: bool,
    /// The method's name.
    pub method_name: Span,
    /// The request target as it came.
    pub target: Span,
    len: u16,
    pub(super) form: Form,
    /// Path and query: what the backend sees as target. May lack the path in absolute-form.
    pub(super) resource: Span,
    pub(super) path: Span,
    /// Host and port; empty only in HTTP/1.0 without Host.
    pub(super) authority: Span,
    host: Span,
    pub(super) has_host_field: bool,
    pub(super) has_forwarded_for: bool,
    pub(super) has_forwarded_host: bool,
    pub(super) has_forwarded_proto: bool,
    has_request_id: bool,
    expects: bool,
    pub(super) fields: Span,
    /// Other protocols that may follow; only where there is no body.
    pub(super) upgrade: Option<Span>,
    /// Of HTTP2-Settings, where HTTP/2 in the clear is offered with it.
    http2_settings: Option<Span>,
    pub(super) cuts: Cuts,
}

/// The forms of a request target (RFC 9112 section 3.2); authority-form belongs to CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Absolute,
    Asterisk,
    Origin,
}

impl RequestHead {
    /// Length of the head in bytes, the blank line included.
    #[expect(clippy::len_without_is_empty, reason = "a head is never empty")]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// The path without the query, as it came: percent-encoded and never empty.
    #[must_use]
    pub fn path<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        if self.path.is_empty() {
            self.implied_path()
        } else {
            self.path.of_head(head)
        }
    }

    /// Path and query, as they came.
    #[must_use]
    pub fn resource<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        if self.resource.is_empty() {
            self.implied_path()
        } else {
            self.resource.of_head(head)
        }
    }

    /// Name and value of each field, in order; finding one takes a walk.
    pub fn fields<'a>(&self, head: &'a [u8]) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        field_lines(self.field_bytes(head))
    }

    /// The lines of the fields.
    pub(crate) fn field_bytes<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        self.fields.of_head(head)
    }

    /// Whether the request has an id that is passed on.
    pub(crate) const fn has_request_id(&self) -> bool {
        self.has_request_id
    }

    /// The host without port, as it came; empty only in HTTP/1.0 without Host.
    #[must_use]
    pub fn host<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        self.host.of_head(head)
    }

    /// Host and port, as they came; empty only in HTTP/1.0 without Host.
    #[must_use]
    pub fn authority<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        self.authority.of_head(head)
    }

    /// Whether the client waits to be told to send its body (RFC 9110 section 10.1.1).
    #[must_use]
    pub const fn expects_continue(&self) -> bool {
        self.expects
    }

    /// Whether the client wants to go on in another protocol.
    #[must_use]
    pub const fn upgrades(&self) -> bool {
        self.upgrade.is_some()
    }

    /// The settings with which the client offers to go on in HTTP/2 in the clear (RFC 7540 section
    /// 3.2), encoded as they came.
    pub(crate) fn http2_settings<'a>(&self, head: &'a [u8]) -> Option<&'a [u8]> {
        Some(self.http2_settings?.of_head(head))
    }

    /// The backend is not told that the client wants to go on in another protocol.
    pub const fn ignore_upgrade(&mut self) {
        self.upgrade = None;
    }

    /// Whether the backend needs a Host that the request does not have, for
    /// [`Client::local`] to give.
    #[must_use]
    pub const fn lacks_authority(&self) -> bool {
        self.authority.is_empty()
    }

    /// What an absolute-form target without path stands for (RFC 9112 section 3.2.4).
    pub(super) fn implied_path(&self) -> &'static [u8] {
        if self.method == Method::Options && self.resource.is_empty() {
            b"*"
        } else {
            b"/"
        }
    }
}

/// The number of bytes to skip before a request: one empty line is let pass (RFC 9112 section
/// 2.2).
#[must_use]
pub fn leading_blank(bytes: &[u8]) -> usize {
    if bytes.starts_with(b"\r\n") { 2 } else { 0 }
}

/// Parses the request head at the start of `bytes`; `None` when it is not complete yet.
///
/// # Errors
/// What makes the head unacceptable. The connection cannot be used any more then.
pub fn parse_request(bytes: &[u8], rules: &RequestRules) -> Result<Option<RequestHead>, HeadError> {
    let window = &bytes[..bytes.len().min(rules.head_bytes_max)];
    let mut slots = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let slots = &mut slots[..rules.headers_max.min(HEADERS_MAX)];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(window, slots) {
        Ok(httparse::Status::Complete(len)) => check(&window[..len], &request, rules).map(Some),
        Ok(httparse::Status::Partial) if window.len() < rules.head_bytes_max => Ok(None),
        Ok(httparse::Status::Partial) => Err(too_long(window)),
        Err(error) => Err(refusal(window, error)),
    }
}

fn check(
    head: &[u8],
    request: &httparse::Request<'_, '_>,
    rules: &RequestRules,
) -> Result<RequestHead, HeadError> {
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return Err(HeadError::RequestLine);
    };
    let method_name = Span::of(head, method.as_bytes());
    if method_name.start() != 0 {
        return Err(HeadError::LineEnd); // more empty lines, or bare LFs, than we let pass
    }
    if method == "CONNECT" {
        return Err(HeadError::ConnectMethod);
    }
    let method = Method::of(method);
    let target = Target::parse(head, target.as_bytes(), method)?;
    let version = if minor == 0 {
        Version::Http10
    } else {
        Version::Http11
    };
    let lines = Lines::new(head, request.headers)?;
    let fields = Fields::read(&lines, version, rules)?;
    let framing = fields.length.framing(version)?.unwrap_or(Framing::None);
    let may_upgrade =
        fields.connection.upgrades() && version == Version::Http11 && framing == Framing::None;
    let (authority, host) = fields
        .authority(head, &target, version)?
        .unwrap_or_default();
    Ok(RequestHead {
        method,
        version,
        framing,
        keep_alive: fields.connection.persists(version),
        method_name,
        target: target.whole,
        #[expect(
            clippy::cast_possible_truncation,
            reason = "heads are shorter than 64 KiB"
        )]
        len: head.len() as u16,
        form: target.form,
        resource: target.resource,
        path: target.path,
        authority,
        host,
        has_host_field: fields.host.is_some(),
        has_forwarded_for: fields.has_forwarded_for,
        has_forwarded_host: fields.has_forwarded_host,
        has_forwarded_proto: fields.has_forwarded_proto,
        has_request_id: fields.has_request_id,
        expects: fields.expects && version == Version::Http11,
        fields: Span::new(lines.start(), lines.end()),
        upgrade: fields.upgrade.protocols().filter(|_| may_upgrade),
        http2_settings: fields.http2_settings(),
        cuts: fields.cuts,
    })
}

/// What the fields of a request say.
#[derive(Default)]
struct Fields<'a> {
    connection: Connection,
    length: DeclaredLength,
    host: Option<&'a [u8]>,
    has_forwarded_for: bool,
    has_forwarded_host: bool,
    has_forwarded_proto: bool,
    has_request_id: bool,
    expects: bool,
    upgrade: Upgrade,
    http2_settings: Option<Span>,
    has_http2_settings_twice: bool,
    cuts: Cuts,
}

impl<'a> Fields<'a> {
    fn read(lines: &Lines<'a>, version: Version, rules: &RequestRules) -> Result<Self, HeadError> {
        let mut fields = Self::default();
        let mut forwarded_for_end = None;
        let removes = |field: Field, value: &[u8]| is_removed(field, value, version, rules);
        for item in lines.iter() {
            let (header, line) = item?;
            let field = Field::of(header.name);
            let removed = removes(field, header.value);
            match field {
                Field::Other => continue,
                Field::Connection => fields.connection.read(header.value)?,
                Field::ContentLength => fields.length.content_length(header.value)?,
                Field::TransferEncoding => fields.length.transfer_encoding(header.value)?,
                Field::Host if fields.host.replace(header.value).is_some() => {
                    return Err(HeadError::DuplicateHost);
                }
                Field::XForwardedFor if !removed => {
                    fields.has_forwarded_for = true;
                    forwarded_for_end = Some(lines.value_end(header));
                }
                Field::Expect => fields.expects = true,
                Field::Upgrade => fields.upgrade.read(lines.head(), header.value),
                Field::Http2Settings => {
                    let settings = Span::of(lines.head(), header.value);
                    fields.has_http2_settings_twice |=
                        fields.http2_settings.replace(settings).is_some();
                }
                Field::XForwardedHost => fields.has_forwarded_host |= !removed,
                Field::XForwardedProto => fields.has_forwarded_proto |= !removed,
                Field::XRequestId => fields.has_request_id |= !removed,
                _ => {}
            }
            if removed {
                fields.cuts.remove(line)?;
            } else if field.decides() {
                lines.cut_tabs(header, line, &mut fields.cuts)?;
            }
        }
        if fields.connection.names_fields() {
            fields.cuts = lines.cut_named(removes)?;
        }
        if let Some(end) = forwarded_for_end.filter(|_| rules.forwarded == Forwarded::Append) {
            fields.cuts.insert_at(end)?;
        }
        Ok(fields)
    }

    /// Where the settings of an offer of HTTP/2 are: there must be one field, and Connection name it.
    fn http2_settings(&self) -> Option<Span> {
        let connection = &self.connection;
        let is_offered = self.upgrade.offers_h2c()
            && connection.upgrades()
            && connection.names_http2_settings()
            && !self.has_http2_settings_twice;
        self.http2_settings.filter(|_| is_offered)
    }

    /// Where the authority is in the head, and the host in it; `None` only in HTTP/1.0.
    fn authority(
        &self,
        head: &[u8],
        target: &Target<'_>,
        version: Version,
    ) -> Result<Option<(Span, Span)>, HeadError> {
        let Some(value) = self.host else {
            if version == Version::Http11 {
                return Err(HeadError::MissingHost);
            }
            let authority = target.authority.as_ref();
            return Ok(authority.map(|(parsed, span, _)| (*span, Span::of(head, parsed.host))));
        };
        let named = Authority::parse(value).ok_or(HeadError::Host)?;
        if let Some((authority, _, default_port)) = &target.authority
            && !authority.is_same(&named, *default_port)
        {
            return Err(HeadError::AuthorityMismatch);
        }
        Ok(Some((Span::of(head, value), Span::of(head, named.host))))
    }
}

/// Whether a field of a request is not forwarded as it came, whatever Connection names.
fn is_removed(field: Field, value: &[u8], version: Version, rules: &RequestRules) -> bool {
    match field {
        Field::Connection | Field::HopByHop | Field::TransferEncoding | Field::Upgrade => true,
        // A backend that accepted would speak a protocol with the client that we do not look at.
        Field::Http2Settings => true,
        // Backends believe it, so it is only ever ours.
        Field::SslClient => true,
        // Expect from HTTP/1.0 is to be ignored (RFC 9110 section 10.1.1).
        Field::Expect => version == Version::Http10,
        // Forwarded too: a backend that reads it would believe the client.
        Field::Forwarded | Field::XForwardedHost | Field::XForwardedProto => {
            rules.forwarded == Forwarded::Replace
        }
        Field::XForwardedFor => match rules.forwarded {
            Forwarded::Append => value.is_empty(),
            Forwarded::Off => false,
            Forwarded::Replace => true,
        },
        Field::XRequestId => !is_acceptable(value, rules.request_id),
        Field::ContentLength | Field::Date | Field::Host | Field::Other => false,
    }
}

#[cold]
fn too_long(window: &[u8]) -> HeadError {
    if memchr::memchr(b'\n', window).is_some() {
        HeadError::HeadTooLong
    } else {
        HeadError::TargetTooLong
    }
}

/// What `httparse` found, in our words.
#[cold]
fn refusal(window: &[u8], error: httparse::Error) -> HeadError {
    match error {
        httparse::Error::HeaderName | httparse::Error::HeaderValue => HeadError::Field,
        httparse::Error::NewLine => HeadError::LineEnd,
        httparse::Error::TooManyHeaders => HeadError::TooManyFields,
        httparse::Error::Version if names_other_version(window) => HeadError::Version,
        _ => HeadError::RequestLine,
    }
}

/// Whether the request line is right but for its version, which is one we do not speak.
fn names_other_version(window: &[u8]) -> bool {
    let line = window
        .split(|byte| *byte == b'\r')
        .next()
        .unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let version = words.nth(2).unwrap_or_default();
    words.next().is_none()
        && matches!(version, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use lb_core::rt::Buffer;
    use proptest::prelude::*;

    use super::*;

    const RULES: RequestRules = RequestRules {
        head_bytes_max: 15_000,
        headers_max: 100,
        forwarded: Forwarded::Append,
        request_id: RequestId::Off,
    };

    fn client() -> Client<'static> {
        Client {
            address: "192.0.2.7".parse().unwrap(),
            scheme: "http",
            request_id: None,
            local: Some("10.0.0.1:8080".parse().unwrap()),
            certificate: b"",
        }
    }

    fn rewritten_with(head: &str, rules: &RequestRules) -> Result<String, HeadError> {
        let request = parse_request(head.as_bytes(), rules)?.expect("a complete head");
        assert_eq!(request.len(), head.len());
        let mut out = Buffer::new();
        rewrite_request(head.as_bytes(), &request, rules, &client(), None, &mut out)?;
        Ok(String::from_utf8(out.as_slice().to_vec()).unwrap())
    }

    /// The fields that we add are left out of the expectation.
    fn rewritten(head: &str) -> Result<String, HeadError> {
        rewritten_with(
            head,
            &RequestRules {
                forwarded: Forwarded::Off,
                ..RULES
            },
        )
    }

    fn refused(head: &str) -> HeadError {
        rewritten(head).expect_err(head)
    }

    #[test]
    fn end_to_end_fields_stay_byte_for_byte() {
        let head = "GET /a%2Fb?c=d;e HTTP/1.1\r\nhOST: a.example:81\r\nX:\t y \r\nEmpty:\r\n\r\n";
        assert_eq!(rewritten(head).unwrap(), head);
    }

    #[test]
    fn hop_by_hop_fields_go() {
        let head = "GET / HTTP/1.1\r\nConnection: keep-alive, X-Mine , Host,content-length\r\n\
            Keep-Alive: timeout=5\r\nHost: a\r\nContent-Length: 2\r\nX-mine: 1\r\nTE: trailers\r\n\
            X-Other: 2\r\nProxy-Connection: close\r\nUpgrade: websocket\r\nTrailer: X\r\n\r\n";
        let expected = "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nX-Other: 2\r\n\
            Trailer: X\r\n\r\n";
        assert_eq!(rewritten(head).unwrap(), expected);
    }

    #[test]
    fn what_decides_framing_or_identity_cannot_be_named_away() {
        let named = "Host, Content-Length, Content-Type, Authorization, Cookie, X-Forwarded-For";
        let head = format!(
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Type: b\r\n\
             Authorization: c\r\nCookie: d\r\nX-Forwarded-For: e\r\nConnection: {named}\r\n\r\n"
        );
        let expected = head.replace(&format!("Connection: {named}\r\n"), "");
        assert_eq!(rewritten(&head).unwrap(), expected);
    }

    #[test]
    fn chunked_is_told_anew() {
        let head = "POST / HTTP/1.1\r\nTRANSFER-Encoding: Chunked\r\nHost: a\r\n\r\n";
        let expected = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(rewritten(head).unwrap(), expected);
    }

    #[test]
    fn absolute_form_becomes_origin_form() {
        for (target, resource) in [
            ("http://a.example/b?c", "/b?c"),
            ("HTTP://A.example:80/b", "/b"),
            ("http://a.example", "/"),
            ("http://a.example?c", "/?c"),
        ] {
            let head = format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n");
            let expected = format!("GET {resource} HTTP/1.1\r\nHost: a.example\r\n\r\n");
            assert_eq!(rewritten(&head).unwrap(), expected);
        }
        let head = "OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(
            rewritten(head).unwrap(),
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"
        );
        let head = "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(rewritten(head).unwrap(), head);
    }

    #[test]
    fn http_1_0_becomes_1_1_with_a_host() {
        let head = "GET /a HTTP/1.0\r\nExpect: 100-continue\r\nX: y\r\n\r\n";
        let expected = "GET /a HTTP/1.1\r\nX: y\r\nHost: 10.0.0.1:8080\r\n\r\n";
        assert_eq!(rewritten(head).unwrap(), expected);
        let head = "GET http://b.example/a HTTP/1.0\r\n\r\n";
        let expected = "GET /a HTTP/1.1\r\nHost: b.example\r\n\r\n";
        assert_eq!(rewritten(head).unwrap(), expected);
    }

    #[test]
    fn what_is_routed_is_what_is_forwarded() {
        let head = b"GET http://A.example:8080/x/y?z HTTP/1.1\r\nHost: a.example:8080\r\n\r\n";
        let request = parse_request(head, &RULES).unwrap().unwrap();
        assert_eq!(
            (request.host(head), request.path(head)),
            (&b"a.example"[..], &b"/x/y"[..])
        );
        let head = b"GET http://a HTTP/1.0\r\n\r\n";
        let request = parse_request(head, &RULES).unwrap().unwrap();
        assert_eq!(
            (request.host(head), request.path(head)),
            (&b"a"[..], &b"/"[..])
        );
    }

    #[test]
    fn forwarded_fields_are_appended_to() {
        let head = "GET / HTTP/1.1\r\nX-Forwarded-For: 1.1.1.1\r\nHost: a\r\n\
            X-Forwarded-For:  2.2.2.2 \r\nConnection: close\r\n\r\n";
        let expected = "GET / HTTP/1.1\r\nX-Forwarded-For: 1.1.1.1\r\nHost: a\r\n\
            X-Forwarded-For:  2.2.2.2, 192.0.2.7 \r\nX-Forwarded-Proto: http\r\n\
            X-Forwarded-Host: a\r\n\r\n";
        assert_eq!(rewritten_with(head, &RULES).unwrap(), expected);
        let head = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For:\r\nX-Forwarded-Proto: https\r\n\
            X-Forwarded-Host: b\r\n\r\n";
        let expected = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: https\r\n\
            X-Forwarded-Host: b\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n";
        assert_eq!(rewritten_with(head, &RULES).unwrap(), expected);
    }

    #[test]
    fn forwarded_fields_are_replaced_at_an_edge() {
        let rules = RequestRules {
            forwarded: Forwarded::Replace,
            ..RULES
        };
        let head = "GET / HTTP/1.1\r\nX-Forwarded-For: 1.1.1.1\r\nHost: a\r\nForwarded: for=x\r\n\
            X-Forwarded-Proto: https\r\nX: y\r\nX-Forwarded-Host: b\r\n\r\n";
        let expected = "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\nX-Forwarded-For: 192.0.2.7\r\n\
            X-Forwarded-Proto: http\r\nX-Forwarded-Host: a\r\n\r\n";
        assert_eq!(rewritten_with(head, &rules).unwrap(), expected);
    }

    #[test]
    fn persistence_follows_the_version_and_connection() {
        for (version, connection, keep_alive) in [
            ("1.1", "", true),
            ("1.1", "Connection: Close\r\n", false),
            ("1.1", "Connection: keep-alive, close\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
        ] {
            let head = format!("GET / HTTP/{version}\r\nHost: a\r\n{connection}\r\n");
            let request = parse_request(head.as_bytes(), &RULES).unwrap().unwrap();
            assert_eq!(request.keep_alive, keep_alive, "{head}");
        }
    }

    #[test]
    fn framing_is_what_the_fields_say() {
        let framing = |fields: &str| {
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            parse_request(head.as_bytes(), &RULES).map(|request| request.unwrap().framing)
        };
        assert_eq!(framing(""), Ok(Framing::None));
        assert_eq!(framing("Content-Length: 0\r\n"), Ok(Framing::None));
        assert_eq!(framing("Content-Length: 042\r\n"), Ok(Framing::Length(42)));
        assert_eq!(
            framing("Transfer-Encoding: CHUNKED\r\n"),
            Ok(Framing::Chunked)
        );
        assert_eq!(
            framing("Content-Length: 1,1\r\n"),
            Err(HeadError::ContentLength)
        );
        let max = format!("Content-Length: {}\r\n", u64::MAX);
        assert_eq!(framing(&max), Ok(Framing::Length(u64::MAX)));
        assert_eq!(
            framing("Content-Length: 18446744073709551616\r\n"),
            Err(HeadError::ContentLength)
        );
        for (coding, error) in [
            ("gzip, chunked", HeadError::UnknownTransferCoding),
            ("gzip", HeadError::UnknownTransferCoding),
            ("xchunked", HeadError::UnknownTransferCoding),
            ("chunked, gzip", HeadError::TransferEncoding),
            ("chunked, chunked", HeadError::TransferEncoding),
            ("chunked;a=b", HeadError::TransferEncoding),
            ("\"chunked\"", HeadError::TransferEncoding),
            (", chunked", HeadError::TransferEncoding),
            ("", HeadError::TransferEncoding),
        ] {
            let fields = format!("Transfer-Encoding: {coding}\r\n");
            assert_eq!(framing(&fields), Err(error), "{coding}");
        }
    }

    #[test]
    fn limits_are_told_apart() {
        let small = RequestRules {
            head_bytes_max: 100,
            headers_max: 2,
            ..RULES
        };
        let parse = |head: &str| parse_request(head.as_bytes(), &small).map(|head| head.is_some());
        let long = "a".repeat(100);
        assert_eq!(
            parse(&format!("GET /{long}")),
            Err(HeadError::TargetTooLong)
        );
        assert_eq!(
            parse(&format!("GET / HTTP/1.1\r\nA: {long}")),
            Err(HeadError::HeadTooLong)
        );
        assert_eq!(parse("GET / HTTP/1.1\r\nHost: a\r\nB: c\r\n\r\n"), Ok(true));
        let three = "GET / HTTP/1.1\r\nHost: a\r\nB: c\r\nD: e\r\n\r\n";
        assert_eq!(parse(three), Err(HeadError::TooManyFields));
        assert_eq!(parse("GET / HTTP/1.1\r\nHost: a\r\n"), Ok(false));
        let scattered: String = (0..20).map(|i| format!("TE: x\r\nA{i}: b\r\n")).collect();
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{scattered}\r\n");
        assert_eq!(refused(&head), HeadError::TooManyHopByHopFields);
        let named = "x, ".repeat(33);
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: {named}\r\n\r\n");
        assert_eq!(refused(&head), HeadError::TooManyHopByHopFields);
    }

    #[test]
    fn dot_segments_are_refused_in_any_spelling() {
        for path in [
            "/.",
            "/..",
            "/a/../b",
            "/a/./b",
            "/%2e",
            "/a/%2E./b",
            "/..;x/b",
            "/a\\..\\b",
        ] {
            let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(refused(&head), HeadError::DotSegment, "{path}");
        }
        for path in [
            "/.well-known",
            "/...",
            "/a.b/c..",
            "/%2f",
            "/%2e%2e%2e",
            "/?/../",
            "//",
            "/;",
        ] {
            let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(rewritten(&head).as_deref(), Ok(&*head), "{path}");
        }
    }

    #[test]
    fn tabs_around_what_decides_do_not_pass() {
        for (fields, expected) in [
            ("Host:\t a \t\r\n", "Host:a\r\n"),
            (
                "Host: a\r\nContent-Length:\t3\t\r\n",
                "Host: a\r\nContent-Length:3\r\n",
            ),
            ("Host: a\t\r\nConnection: x\r\nX: y\r\n", "Host: a\r\n"),
            (
                "Host: a\r\nExpect:\t100-continue\r\n",
                "Host: a\r\nExpect:100-continue\r\n",
            ),
            ("Host: a \r\nX:\ty\t\r\n", "Host: a \r\nX:\ty\t\r\n"),
        ] {
            let head = |fields| format!("POST / HTTP/1.1\r\n{fields}\r\n");
            assert_eq!(rewritten(&head(fields)), Ok(head(expected)), "{fields:?}");
        }
    }

    #[test]
    fn a_cut_short_head_is_incomplete_at_any_byte() {
        let head = "POST /a?b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n";
        for len in 0..head.len() {
            let parsed = parse_request(&head.as_bytes()[..len], &RULES);
            assert!(matches!(parsed, Ok(None)), "{len}: {parsed:?}");
        }
    }

    /// Bytes that look enough like a head to get past its first checks.
    fn near_heads() -> impl Strategy<Value = Vec<u8>> {
        let pieces = prop::sample::select(vec![
            "GET ",
            "POST ",
            "/",
            "http://a",
            "*",
            " HTTP/1.1",
            " HTTP/1.0",
            "\r\n",
            "\n",
            "\r",
            "Host: a\r\n",
            "Content-Length: 5\r\n",
            "Content-Length: 6\r\n",
            "Connection: x, te\r\n",
            "Transfer-Encoding: chunked\r\n",
            "TE: x\r\n",
            "X: y\r\n",
            " ",
            ":",
            "\0",
            "\u{e9}",
            "X-Forwarded-For: 1\r\n",
            "X-Forwarded-For:\r\n",
            "Expect: 100-continue\r\n",
            "\r\n\r\n",
        ]);
        prop::collection::vec(pieces, 0..25).prop_map(|pieces| pieces.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn nothing_panics_and_what_passes_passes_again(
            head in prop_oneof![near_heads(), prop::collection::vec(any::<u8>(), 0..200)],
            forwarded in prop::sample::select(
                vec![Forwarded::Append, Forwarded::Off, Forwarded::Replace]),
        ) {
            let rules = RequestRules { forwarded, ..RULES };
            if let Ok(Some(request)) = parse_request(&head, &rules) {
                let mut out = Buffer::new();
                let written = rewrite_request(&head, &request, &rules, &client(), None, &mut out);
                prop_assert_eq!(written, Ok(()));
                let again = parse_request(out.as_slice(), &rules).unwrap().unwrap();
                prop_assert_eq!(again.len(), out.len());
                prop_assert_eq!(again.framing, request.framing);
                prop_assert_eq!(again.path(out.as_slice()), request.path(&head));
                if !request.lacks_authority() {
                    prop_assert_eq!(again.host(out.as_slice()), request.host(&head));
                }
            }
        }
    }
}
