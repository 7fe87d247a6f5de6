//! The fields that matter to a proxy, and what they say of a message: how its connection goes on, how
//! long it is, which protocol may follow.
//!
//! Invariant: what could be read in two ways is refused (RFC 9112 sections 6.3 and 11.2).
//! Read next: `cuts.rs` (how fields are left out), `request.rs` and `response.rs` (who read them).

use super::head::{Framing, HeadError, Span, Version, decimal, is_token, tokens};

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
    pub(super) fn may_be_named(self, name: &str) -> bool {
        self == Self::Other
            && !name
                .get(..8)
                .is_some_and(|start| start.eq_ignore_ascii_case("content-"))
            && !name.eq_ignore_ascii_case("authorization")
            && !name.eq_ignore_ascii_case("cookie")
    }
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

fn is_chunked(coding: &[u8]) -> bool {
    coding.eq_ignore_ascii_case(b"chunked")
}
