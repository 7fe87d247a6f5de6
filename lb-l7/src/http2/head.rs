//! From decoded fields to the text of an HTTP/1.1 head, which is what the rest of the proxy reads
//! (RFC 9113 section 8).
//!
//! Invariant: the text has exactly the lines that are meant: whatever could end a line or a name,
//! fields that belong to a connection, and pseudo-fields where they must not be make it malformed.
//! Read next: `block.rs` (who feeds it), `write.rs` (the other direction).

use std::hash::{BuildHasher, RandomState};

use super::grpc;
use super::hpack::Field;

/// Why a head is not acceptable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadHead {
    /// A stream error of type PROTOCOL_ERROR (RFC 9113 section 8.1.1).
    Malformed,
    /// Longer than the limit: 431.
    TooLong,
    /// The same of a request that is a call of gRPC.
    CallTooLong,
}

/// What a head says of what follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HeadFacts {
    pub(super) content_length: Option<u64>,
    /// Of a response; 0 otherwise.
    pub(super) status: u16,
    /// Of a request: HEAD.
    pub(super) is_head: bool,
    /// Of a request: extended CONNECT for WebSocket (RFC 8441).
    pub(super) is_websocket: bool,
}

/// What kind of head is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeadKind {
    Request {
        /// Nothing follows the head.
        ends: bool,
    },
    Response {
        ends: bool,
    },
    Trailers,
}

/// Room for a head being written, used again and again.
#[derive(Debug, Default)]
pub(super) struct HeadRoom {
    pub(super) text: Vec<u8>,
    cookies: Vec<u8>,
    method: Vec<u8>,
    scheme: Vec<u8>,
    path: Vec<u8>,
    authority: Vec<u8>,
    protocol: Vec<u8>,
    /// Names of fields that must not be put into tables, each with a line feed behind it, but for
    /// those that never are.
    pub(super) secrets: Vec<u8>,
}

/// A head being written.
pub(super) struct HeadText<'r> {
    room: &'r mut HeadRoom,
    kind: HeadKind,
    bytes_max: usize,
    bad: Option<BadHead>,
    /// Whether the start line was written, behind which there are no pseudo-fields.
    has_begun: bool,
    /// A bit for each pseudo-field that was seen.
    pseudo: u8,
    status: u16,
    content_length: Option<u64>,
    has_host: bool,
}

const METHOD: u8 = 1;
const SCHEME: u8 = 2;
const PATH: u8 = 4;
const AUTHORITY: u8 = 8;
const PROTOCOL: u8 = 16;
const STATUS: u8 = 32;

impl<'r> HeadText<'r> {
    pub(super) fn new(room: &'r mut HeadRoom, kind: HeadKind, bytes_max: usize) -> Self {
        room.text.clear();
        room.cookies.clear();
        room.authority.clear();
        room.path.clear();
        room.secrets.clear();
        Self {
            room,
            kind,
            bytes_max,
            bad: None,
            has_begun: kind == HeadKind::Trailers,
            pseudo: 0,
            status: 0,
            content_length: None,
            has_host: false,
        }
    }

    /// Takes the next field.
    #[inline]
    pub(super) fn take(&mut self, field: Field<'_>) {
        if self.bad.is_some() {
            return self.take_behind(field);
        }
        if !field.is_valid {
            self.bad = Some(BadHead::Malformed);
        } else if self.room.text.len() + field.name.len() + field.value.len() + 4 > self.bytes_max {
            self.bad = Some(BadHead::TooLong);
        } else if let Err(bad) = self.add(field) {
            self.bad = Some(bad);
        }
    }

    /// What comes behind something bad is of no interest but for how that is answered.
    #[cold]
    fn take_behind(&mut self, Field { name, value, .. }: Field<'_>) {
        let is_grpc = || name == b"content-type" && grpc::is_grpc(value);
        if self.bad == Some(BadHead::TooLong) && is_grpc() {
            self.bad = Some(BadHead::CallTooLong);
        }
    }

    /// Ends the head.
    pub(super) fn finish(mut self) -> Result<HeadFacts, BadHead> {
        match self.finish_text() {
            Err(BadHead::TooLong) if grpc::is_call(&self.room.text) => Err(BadHead::CallTooLong),
            finished => finished,
        }
    }

    fn finish_text(&mut self) -> Result<HeadFacts, BadHead> {
        if let Some(bad) = self.bad {
            return Err(bad);
        }
        self.begin()?;
        if !self.room.cookies.is_empty() {
            let cookies = std::mem::take(&mut self.room.cookies);
            self.line(b"cookie", &cookies);
            self.room.cookies = cookies;
        }
        let is_websocket = self.pseudo & PROTOCOL != 0;
        if let HeadKind::Request { ends } = self.kind {
            self.finish_request(ends, is_websocket)?;
        }
        if self.kind != HeadKind::Trailers {
            self.room.text.extend_from_slice(b"\r\n");
        }
        if self.room.text.len() > self.bytes_max {
            return Err(BadHead::TooLong);
        }
        Ok(HeadFacts {
            content_length: self.content_length,
            status: self.status,
            is_head: self.pseudo & METHOD != 0 && self.room.method == b"HEAD",
            is_websocket,
        })
    }

    fn finish_request(&mut self, ends: bool, is_websocket: bool) -> Result<(), BadHead> {
        if is_websocket {
            // What follows is no body. RFC 6455 section 4.1 has the fields.
            self.line(b"connection", b"upgrade");
            self.line(b"upgrade", b"websocket");
            self.line(b"sec-websocket-key", &nonce());
            return Ok(());
        }
        match self.content_length {
            Some(1..) if ends => return Err(BadHead::Malformed),
            Some(_) => {}
            None if !ends => {} // the stream says where the body ends
            // Some servers insist (RFC 9110 section 8.6).
            None if matches!(&*self.room.method, b"POST" | b"PUT" | b"PATCH") => {
                self.line(b"content-length", b"0");
            }
            None => {}
        }
        Ok(())
    }

    fn add(&mut self, field: Field<'_>) -> Result<(), BadHead> {
        if let [b':', ..] = field.name {
            return self.add_pseudo(field);
        }
        if !self.has_begun {
            self.begin()?;
        }
        match self.special(field)? {
            Special::Line => {
                self.line(field.name, field.value);
                if field.is_secret && !is_known_secret(field.name) {
                    self.room.secrets.extend_from_slice(field.name);
                    self.room.secrets.push(b'\n');
                }
            }
            Special::Dropped => {}
        }
        Ok(())
    }

    /// Fields that mean something to a connection or to framing.
    fn special(&mut self, Field { name, value, .. }: Field<'_>) -> Result<Special, BadHead> {
        let is_trailers = self.kind == HeadKind::Trailers;
        let is_request = matches!(self.kind, HeadKind::Request { .. });
        match name.len() {
            2 if name == b"te" => match value.eq_ignore_ascii_case(b"trailers") {
                true => Ok(Special::Line),
                false => Err(BadHead::Malformed),
            },
            4 if name == b"host" && is_request => self.host(value),
            4 if name == b"host" => Ok(Special::Dropped),
            6 if name == b"cookie" && is_request => {
                if !self.room.cookies.is_empty() {
                    self.room.cookies.extend_from_slice(b"; ");
                }
                self.room.cookies.extend_from_slice(value);
                let bytes = self.room.cookies.len() + self.room.text.len() + 16;
                (bytes <= self.bytes_max)
                    .then_some(Special::Dropped)
                    .ok_or(BadHead::TooLong)
            }
            17 if name == b"sec-websocket-key" => Ok(Special::Dropped), // ours is asked for
            7 if name == b"upgrade" => Err(BadHead::Malformed),
            10 if name == b"connection" || name == b"keep-alive" => Err(BadHead::Malformed),
            14 if name == b"content-length" && is_trailers => Ok(Special::Dropped),
            14 if name == b"content-length" => {
                let length = decimal(value).ok_or(BadHead::Malformed)?;
                let is_open = self.kind == (HeadKind::Request { ends: false });
                match self.content_length.replace(length) {
                    // Trailers may follow: the stream says where it ends.
                    None if length == 0 && is_open => Ok(Special::Dropped),
                    None => Ok(Special::Line),
                    Some(_) => Err(BadHead::Malformed),
                }
            }
            16 if name == b"proxy-connection" => Err(BadHead::Malformed),
            17 if name == b"transfer-encoding" => Err(BadHead::Malformed),
            _ => Ok(Special::Line),
        }
    }

    /// Host beside `:authority` must say the same, and is not repeated.
    fn host(&mut self, value: &[u8]) -> Result<Special, BadHead> {
        if std::mem::replace(&mut self.has_host, true) {
            return Err(BadHead::Malformed);
        }
        if self.pseudo & AUTHORITY == 0 {
            return Ok(Special::Line);
        }
        match value.eq_ignore_ascii_case(&self.room.authority) {
            true => Ok(Special::Dropped),
            false => Err(BadHead::Malformed),
        }
    }

    fn add_pseudo(&mut self, Field { name, value, .. }: Field<'_>) -> Result<(), BadHead> {
        let is_request = matches!(self.kind, HeadKind::Request { .. });
        let (bit, place) = match name {
            b":method" if is_request => (METHOD, &mut self.room.method),
            b":scheme" if is_request => (SCHEME, &mut self.room.scheme),
            b":path" if is_request => (PATH, &mut self.room.path),
            b":authority" if is_request => (AUTHORITY, &mut self.room.authority),
            b":protocol" if is_request => (PROTOCOL, &mut self.room.protocol),
            b":status" if matches!(self.kind, HeadKind::Response { .. }) => {
                (STATUS, &mut self.room.method)
            }
            _ => return Err(BadHead::Malformed),
        };
        if self.has_begun || self.pseudo & bit != 0 || value.contains(&b' ') {
            return Err(BadHead::Malformed);
        }
        self.pseudo |= bit;
        place.clear();
        place.extend_from_slice(value);
        Ok(())
    }

    /// Writes the start line.
    fn begin(&mut self) -> Result<(), BadHead> {
        if std::mem::replace(&mut self.has_begun, true) {
            return Ok(());
        }
        match self.kind {
            HeadKind::Request { .. } => self.begin_request(),
            HeadKind::Response { .. } => self.begin_response(),
            HeadKind::Trailers => Ok(()),
        }
    }

    /// RFC 9113 section 8.3.1; section 8.5 for CONNECT, which is refused later on, and RFC 8441
    /// section 4.
    fn begin_request(&mut self) -> Result<(), BadHead> {
        let HeadRoom {
            text,
            method,
            scheme,
            path,
            authority,
            protocol,
            ..
        } = &mut *self.room;
        let has = |bits: u8| self.pseudo & bits == bits;
        if !has(METHOD) || !is_token(method) {
            return Err(BadHead::Malformed);
        }
        let is_connect = method == b"CONNECT";
        if has(PROTOCOL) {
            if !is_connect || protocol != b"websocket" || !has(AUTHORITY) {
                return Err(BadHead::Malformed);
            }
            method.clear();
            method.extend_from_slice(b"GET");
        } else if is_connect {
            let is_plain = has(AUTHORITY) && self.pseudo & (SCHEME | PATH) == 0;
            text.extend_from_slice(b"CONNECT / HTTP/1.1\r\n");
            return is_plain.then_some(()).ok_or(BadHead::Malformed);
        }
        let is_path = matches!(path.first(), Some(b'/')) || (path == b"*" && method == b"OPTIONS");
        if !has(SCHEME | PATH) || !is_path || !is_scheme(scheme) {
            return Err(BadHead::Malformed);
        }
        for part in [&**method, b" ", &**path, b" HTTP/1.1\r\n"] {
            text.extend_from_slice(part);
        }
        if has(AUTHORITY) {
            if authority.is_empty() || authority.contains(&b'@') {
                return Err(BadHead::Malformed);
            }
            for part in [&b"host: "[..], authority, b"\r\n"] {
                text.extend_from_slice(part);
            }
        }
        Ok(())
    }

    /// RFC 9113 section 8.3.2; there is no 101 (section 8.6).
    fn begin_response(&mut self) -> Result<(), BadHead> {
        let status = &self.room.method;
        let is_status = self.pseudo & STATUS != 0
            && matches!(status[..], [b'1'..=b'9', b'0'..=b'9', b'0'..=b'9'])
            && status != b"101";
        if !is_status {
            return Err(BadHead::Malformed);
        }
        self.status = status
            .iter()
            .fold(0, |sum, &digit| sum * 10 + u16::from(digit - b'0'));
        for part in [&b"HTTP/1.1 "[..], status, b" \r\n"] {
            self.room.text.extend_from_slice(part);
        }
        Ok(())
    }

    fn line(&mut self, name: &[u8], value: &[u8]) {
        let text = &mut self.room.text;
        text.extend_from_slice(name);
        text.extend_from_slice(b": ");
        text.extend_from_slice(value);
        text.extend_from_slice(b"\r\n");
    }
}

/// Whether the encoder takes a field of this name for a secret anyway.
fn is_known_secret(name: &[u8]) -> bool {
    matches!(
        name,
        b"authorization" | b"cookie" | b"proxy-authorization" | b"set-cookie"
    )
}

/// What becomes of a field.
enum Special {
    Line,
    Dropped,
}

/// Sixteen bytes in base64 that no one can foretell, which is all that is asked of them.
fn nonce() -> [u8; 24] {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = [b'='; 24];
    let seed = RandomState::new();
    let bits = u128::from(seed.hash_one(0)) << 64 | u128::from(seed.hash_one(1));
    for (at, place) in text[..22].iter_mut().enumerate() {
        // The last digit has four bits less.
        let digit = (bits.rotate_left(6 * at as u32 + 6) & 63) as usize;
        *place = DIGITS[if at == 21 { digit & 48 } else { digit }];
    }
    text
}

fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&byte| byte.is_ascii_graphic())
}

/// RFC 3986 section 3.1.
fn is_scheme(text: &[u8]) -> bool {
    let is_scheme = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
    matches!(text, b"http" | b"https") || (!text.is_empty() && text.iter().all(is_scheme))
}

/// Digits and nothing else.
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 {
        return None;
    }
    text.iter().try_fold(0_u64, |sum, &byte| {
        byte.is_ascii_digit()
            .then(|| sum * 10 + u64::from(byte - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(kind: HeadKind, fields: &[(&str, &str)]) -> Result<String, BadHead> {
        let mut room = HeadRoom::default();
        let mut head = HeadText::new(&mut room, kind, 1000);
        for (name, value) in fields {
            head.take(Field {
                name: name.as_bytes(),
                value: value.as_bytes(),
                is_valid: true,
                is_secret: false,
            });
        }
        head.finish()?;
        Ok(String::from_utf8(room.text).unwrap())
    }

    const GET: [(&str, &str); 4] = [
        (":method", "GET"),
        (":path", "/a?b"),
        (":scheme", "http"),
        (":authority", "example"),
    ];

    fn request(ends: bool, more: &[(&str, &str)]) -> Result<String, BadHead> {
        text(HeadKind::Request { ends }, &[&GET[..], more].concat())
    }

    #[test]
    fn a_request_becomes_text() {
        let fields = [
            ("a", "b"),
            ("cookie", "c"),
            ("host", "EXAMPLE"),
            ("cookie", "d"),
            ("te", "trailers"),
        ];
        assert_eq!(
            request(true, &fields).unwrap(),
            "GET /a?b HTTP/1.1\r\nhost: example\r\na: b\r\nte: trailers\r\ncookie: c; d\r\n\r\n"
        );
        let open = request(false, &[("content-length", "0")]).unwrap();
        assert_eq!(open, "GET /a?b HTTP/1.1\r\nhost: example\r\n\r\n");
        let sized = request(false, &[("content-length", "5")]).unwrap();
        assert!(sized.contains("\r\ncontent-length: 5\r\n"));
        let post = text(
            HeadKind::Request { ends: true },
            &[&[(":method", "POST")], &GET[1..]].concat(),
        );
        assert!(post.unwrap().contains("\r\ncontent-length: 0\r\n"));
    }

    #[test]
    fn what_belongs_to_http1_is_malformed() {
        for field in [
            ("connection", "close"),
            ("keep-alive", "1"),
            ("proxy-connection", "close"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("te", "gzip"),
            ("host", "other"),
            ("content-length", "x"),
            ("content-length", "-1"),
            ("content-length", "5"),
            (":method", "GET"),
            (":path", "/"),
            (":status", "200"),
            (":unknown", "x"),
        ] {
            assert_eq!(
                request(true, &[field]),
                Err(BadHead::Malformed),
                "{field:?}"
            );
        }
        let twice = [("content-length", "5"), ("content-length", "5")];
        assert_eq!(request(false, &twice), Err(BadHead::Malformed));
    }

    #[test]
    fn pseudo_fields_must_be_there_and_in_front() {
        let kind = HeadKind::Request { ends: true };
        for missing in 0..3 {
            let mut fields = GET.to_vec();
            fields.remove(missing);
            assert_eq!(text(kind, &fields), Err(BadHead::Malformed), "{missing}");
        }
        let late = [&GET[..3], &[("a", "b")], &GET[3..]].concat();
        assert_eq!(text(kind, &late), Err(BadHead::Malformed));
        for (at, field) in [
            (0, (":method", "")),
            (0, (":method", "G T")),
            (1, (":path", "")),
            (1, (":path", "*")),
            (1, (":path", "/ HTTP/1.1")),
            (2, (":scheme", "")),
            (3, (":authority", "")),
            (3, (":authority", "user@example")),
        ] {
            let mut fields = GET.to_vec();
            fields[at] = field;
            assert_eq!(text(kind, &fields), Err(BadHead::Malformed), "{field:?}");
        }
    }

    #[test]
    fn a_websocket_is_asked_for_by_connect() {
        let fields = [
            &[(":method", "CONNECT"), (":protocol", "websocket")],
            &GET[1..],
        ]
        .concat();
        let head = text(HeadKind::Request { ends: false }, &fields).unwrap();
        let start = "GET /a?b HTTP/1.1\r\nhost: example\r\nconnection: upgrade\r\n\
            upgrade: websocket\r\nsec-websocket-key: ";
        assert!(
            head.starts_with(start) && head.ends_with("==\r\n\r\n"),
            "{head}"
        );
        let plain = [(":method", "CONNECT"), (":authority", "a:1")];
        let head = text(HeadKind::Request { ends: true }, &plain).unwrap();
        assert!(head.starts_with("CONNECT "));
    }

    #[test]
    fn a_response_becomes_text() {
        let kind = HeadKind::Response { ends: false };
        let head = text(kind, &[(":status", "200"), ("a", "b")]);
        assert_eq!(head.unwrap(), "HTTP/1.1 200 \r\na: b\r\n\r\n");
        for status in ["", "20", "2000", "099", "101", "2x0"] {
            assert_eq!(text(kind, &[(":status", status)]), Err(BadHead::Malformed));
        }
        assert_eq!(text(kind, &[("a", "b")]), Err(BadHead::Malformed));
    }

    #[test]
    fn trailers_have_no_pseudo_fields() {
        let fields = [("grpc-status", "0"), ("content-length", "5")];
        assert_eq!(
            text(HeadKind::Trailers, &fields).unwrap(),
            "grpc-status: 0\r\n"
        );
        let pseudo = [(":status", "200")];
        assert_eq!(text(HeadKind::Trailers, &pseudo), Err(BadHead::Malformed));
    }

    #[test]
    fn a_head_has_a_limit() {
        let long = "x".repeat(600);
        assert!(request(true, &[("a", &long)]).is_ok());
        assert_eq!(
            request(true, &[("a", &long), ("b", &long)]),
            Err(BadHead::TooLong)
        );
        assert_eq!(
            request(true, &[("cookie", &long), ("cookie", &long)]),
            Err(BadHead::TooLong)
        );
    }
}
