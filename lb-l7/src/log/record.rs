//! A line on its way: what the heads say is written while they are at hand, how it went at the end.
//!
//! Invariant: a record is used again and again, and keeps its memory, so that a line in steady
//! state allocates nothing. Read next: `mod.rs` (where lines go), `template.rs`.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use lb_core::balance::Backend;
use lb_core::lines::{
    Escape, Variables as _, write_address, write_iso8601, write_local_time, write_msec,
    write_seconds,
};
use lb_core::rt::{self, Instant};

use super::Log;
use super::template::{Part, Piece, Template};
use super::variable::{Stage, Variable};
use crate::connection::Peer;
use crate::http1::head::{Version, field_lines};
use crate::http1::request::RequestHead;
use crate::http1::text::{AddressText, DecimalText};
use crate::link::ClientLink;
use crate::request_id::{RequestIdText, request_id_of};
use crate::route::RouteIndex;

/// A line on its way.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// What was known early, escaped, one run behind the other.
    text: Vec<u8>,
    /// Where the runs end.
    ends: Vec<usize>,
    scratch: Vec<u8>,
    pub(crate) backend: Option<Arc<Backend>>,
    /// When the backend was asked that answered.
    pub(crate) asked: Option<Instant>,
    pub(crate) connect_time: Option<Duration>,
    /// From asking the backend to the head of its response.
    pub(crate) header_time: Option<Duration>,
    pub(crate) retries: Cell<u64>,
    /// Bytes of the request, its head and what has come of the body.
    pub(crate) received_bytes: u64,
    /// Bytes of the response's head, as the client gets it.
    pub(crate) head_bytes: u64,
    /// 0 without a response of a backend.
    pub(crate) backend_status: u16,
}

/// What is known with the request's head.
#[derive(Clone, Copy)]
pub(crate) struct Early<'a> {
    /// `None` if there was none that could be understood.
    pub(crate) request: Option<(&'a [u8], &'a RequestHead)>,
    pub(crate) peer: &'a Peer,
    pub(crate) link: &'a ClientLink,
    pub(crate) route: Option<RouteIndex>,
    pub(crate) request_id: Option<&'a RequestIdText>,
    /// How many requests the connection has had, with this one.
    pub(crate) requests: u32,
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome<'a> {
    /// 0 when the client was gone before an answer.
    pub(crate) status: u16,
    /// Bytes sent to the client, heads included.
    pub(crate) sent_bytes: u64,
    pub(crate) duration: Duration,
    pub(crate) cluster: Option<&'a str>,
}

/// nginx's status for a client that was gone before it had an answer.
const CLIENT_GONE: u16 = 499;

enum Found<'a> {
    At(&'a [u8]),
    /// In the scratch.
    Made,
    Nothing,
}

impl<'a> From<Option<&'a [u8]>> for Found<'a> {
    fn from(value: Option<&'a [u8]>) -> Self {
        value.map_or(Self::Nothing, Self::At)
    }
}

impl Record {
    /// Forgets the line before, but not its memory.
    pub(super) fn clear(&mut self) {
        let (mut text, mut ends) = (
            std::mem::take(&mut self.text),
            std::mem::take(&mut self.ends),
        );
        let scratch = std::mem::take(&mut self.scratch);
        text.clear();
        ends.clear();
        *self = Self {
            text,
            ends,
            scratch,
            ..Self::default()
        };
    }

    /// Bytes of memory that it holds.
    pub(super) fn held_bytes(&self) -> usize {
        self.text.capacity() + self.scratch.capacity()
    }

    /// Writes what is known with the request's head.
    pub(super) fn begin(&mut self, log: &Log, early: &Early<'_>) {
        for part in &log.template.parts {
            let Part::Early(pieces) = part else { continue };
            for piece in pieces {
                let mut scratch = std::mem::take(&mut self.scratch);
                scratch.clear();
                let found = early.find(&piece.variable, log, &mut scratch);
                write_piece(piece, &found, &scratch, &mut self.text);
                self.scratch = scratch;
            }
            self.ends.push(self.text.len());
        }
    }

    /// Writes what the response's head says; `fields` are its lines.
    pub(crate) fn read_response(&mut self, template: &Template, fields: &[u8]) {
        if !template.reads_response {
            return;
        }
        for part in &template.parts {
            if let Part::Late(piece) = part
                && let Variable::ResponseField(name) = &piece.variable
            {
                write_piece(piece, &field(fields, name).into(), &[], &mut self.text);
                self.ends.push(self.text.len());
            }
        }
    }

    /// Writes the line.
    pub(super) fn finish(&mut self, template: &Template, outcome: &Outcome<'_>, out: &mut Vec<u8>) {
        let mut scratch = std::mem::take(&mut self.scratch);
        let early = template.parts.iter();
        let early = early.filter(|part| matches!(part, Part::Early(_))).count();
        let has_response = self.ends.len() > early;
        let (mut next_early, mut next_response) = (0, early);
        for part in &template.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::Early(_) => {
                    out.extend_from_slice(self.run(next_early));
                    next_early += 1;
                }
                Part::Late(piece) if piece.variable.stage() == Stage::Response => {
                    if has_response {
                        out.extend_from_slice(self.run(next_response));
                        next_response += 1;
                    } else {
                        write_piece(piece, &Found::Nothing, &[], out);
                    }
                }
                Part::Late(piece) => {
                    scratch.clear();
                    let found = self.find(&piece.variable, outcome, &mut scratch);
                    write_piece(piece, &found, &scratch, out);
                }
            }
        }
        self.scratch = scratch;
    }

    fn run(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.ends
            .get(index)
            .map_or(&[], |end| &self.text[start..*end])
    }

    fn find<'a>(
        &'a self,
        variable: &Variable,
        outcome: &'a Outcome<'_>,
        out: &mut Vec<u8>,
    ) -> Found<'a> {
        let status = match outcome.status {
            0 => CLIENT_GONE,
            status => status,
        };
        match variable {
            Variable::Status => number(u64::from(status), out),
            Variable::BytesSent => number(outcome.sent_bytes, out),
            Variable::BodyBytesSent => {
                number(outcome.sent_bytes.saturating_sub(self.head_bytes), out)
            }
            Variable::BytesReceived => number(self.received_bytes, out),
            Variable::Retries => number(self.retries.get(), out),
            Variable::RequestTime => seconds(Some(outcome.duration), out),
            Variable::ConnectTime => {
                // None was made if an idle connection was taken.
                let pooled = self.backend.as_ref().map(|_| Duration::ZERO);
                seconds(self.connect_time.or(pooled), out)
            }
            Variable::HeaderTime => seconds(self.header_time, out),
            Variable::ResponseTime => {
                let asked = self.asked.filter(|_| self.header_time.is_some());
                let elapsed = asked.map(|asked| rt::now().saturating_duration_since(asked));
                seconds(elapsed, out)
            }
            Variable::BackendStatus if self.backend_status == 0 => Found::Nothing,
            Variable::BackendStatus => number(u64::from(self.backend_status), out),
            Variable::Backend => {
                let name = self.backend.as_ref().map(|backend| backend.name.as_bytes());
                name.into()
            }
            Variable::BackendAddress => self.backend.as_ref().map_or(Found::Nothing, |backend| {
                let address = backend.address;
                made(out, |out| write_address(address, out))
            }),
            Variable::Cluster => outcome.cluster.map(str::as_bytes).into(),
            Variable::Completion => (outcome.status != 0).then_some(&b"OK"[..]).into(),
            Variable::Msec => made(out, write_msec),
            Variable::TimeIso8601 => made(out, write_iso8601),
            Variable::TimeLocal => made(out, write_local_time),
            _ => Found::Nothing, // known earlier
        }
    }
}

impl<'a> Early<'a> {
    fn find(&self, variable: &Variable, log: &'a Log, out: &mut Vec<u8>) -> Found<'a> {
        let tls = self.peer.tls.as_deref();
        match variable {
            Variable::ClientAddress => made(out, |out| {
                out.extend_from_slice(AddressText::of(self.peer.address).bare());
            }),
            Variable::ClientPort => number(self.peer.port.into(), out),
            Variable::ConnectionRequests => number(self.requests.into(), out),
            Variable::Listener => Found::At(log.listener.as_bytes()),
            Variable::LocalAddress | Variable::LocalPort => match self.link.local_addr() {
                Ok(local) if *variable == Variable::LocalPort => number(local.port().into(), out),
                Ok(local) => made(out, |out| {
                    out.extend_from_slice(AddressText::of(local.ip()).bare());
                }),
                Err(_) => Found::Nothing,
            },
            Variable::Scheme => Found::At(self.peer.scheme().as_bytes()),
            Variable::Https => tls.map(|_| &b"on"[..]).into(),
            Variable::TlsVersion => tls.map(|tls| tls.version.as_bytes()).into(),
            Variable::TlsCipher => tls.map(|tls| tls.suite.as_bytes()).into(),
            Variable::TlsResumed => {
                let text = |resumed| if resumed { &b"r"[..] } else { b"." };
                tls.map(|tls| text(tls.resumed)).into()
            }
            Variable::TlsServerName => copied(tls.and_then(|it| it.server_name.as_deref()), out),
            Variable::TlsClient => copied(tls.and_then(|it| it.client_subject.as_deref()), out),
            Variable::Route => {
                let name = self.route.and_then(|route| log.routes.get(route as usize));
                name.map(|name| name.as_bytes()).into()
            }
            _ => self.request.map_or(Found::Nothing, |(bytes, head)| {
                self.find_in_head(variable, bytes, head, out)
            }),
        }
    }

    fn find_in_head(
        &self,
        variable: &Variable,
        bytes: &'a [u8],
        head: &'a RequestHead,
        out: &mut Vec<u8>,
    ) -> Found<'a> {
        let resource = head.resource(bytes);
        let query = memchr::memchr(b'?', resource).map(|mark| &resource[mark + 1..]);
        match variable {
            Variable::Method => Found::At(head.method_name.of_head(bytes)),
            Variable::Target => Found::At(head.target.of_head(bytes)),
            Variable::Uri => Found::At(head.path(bytes)),
            Variable::Args => query.into(),
            Variable::IsArgs => query.map(|_| &b"?"[..]).into(),
            Variable::Host => made(out, |out| {
                out.extend(head.host(bytes).iter().map(u8::to_ascii_lowercase));
            }),
            Variable::Protocol => Found::At(self.protocol(head)),
            Variable::Request => made(out, |out| {
                out.extend_from_slice(head.method_name.of_head(bytes));
                out.push(b' ');
                out.extend_from_slice(head.target.of_head(bytes));
                out.push(b' ');
                out.extend_from_slice(self.protocol(head));
            }),
            Variable::Field(name) => field(head.field_bytes(bytes), name).into(),
            Variable::RequestId => {
                let sent = request_id_of(head.field_bytes(bytes));
                match self.request_id {
                    Some(fresh) => made(out, |out| out.extend_from_slice(fresh)),
                    None => sent.into(),
                }
            }
            Variable::User => made_if(out, |out| {
                write_user(field(head.field_bytes(bytes), b"authorization"), out)
            }),
            Variable::Cookie(name) => {
                let cookies = field(head.field_bytes(bytes), b"cookie").unwrap_or_default();
                pair(cookies, b';', name).into()
            }
            Variable::Arg(name) => pair(query.unwrap_or_default(), b'&', name).into(),
            _ => Found::Nothing, // known later
        }
    }

    fn protocol(&self, head: &RequestHead) -> &'static [u8] {
        match head.version {
            _ if self.link.is_http2() => b"HTTP/2.0",
            Version::Http10 => b"HTTP/1.0",
            Version::Http11 => b"HTTP/1.1",
        }
    }
}

fn write_piece(piece: &Piece, found: &Found<'_>, scratch: &[u8], out: &mut Vec<u8>) {
    let value = match found {
        Found::At(value) => Some(*value),
        Found::Made => Some(scratch),
        Found::Nothing => None,
    };
    if piece.is_optional && value.is_none_or(<[u8]>::is_empty) {
        return;
    }
    out.extend_from_slice(&piece.before);
    match (piece.escape, found) {
        // Numbers are made by ourselves.
        (Escape::Text, Found::Made) if piece.variable.is_number() => out.extend_from_slice(scratch),
        _ => piece.escape.write(value, out),
    }
}

fn made<'a>(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) -> Found<'a> {
    write(out);
    Found::Made
}

fn made_if<'a>(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> bool) -> Found<'a> {
    if write(out) {
        Found::Made
    } else {
        Found::Nothing
    }
}

fn number<'a>(number: u64, out: &mut Vec<u8>) -> Found<'a> {
    out.extend_from_slice(DecimalText::of(number).as_slice());
    Found::Made
}

fn copied<'a>(value: Option<&str>, out: &mut Vec<u8>) -> Found<'a> {
    value.map_or(Found::Nothing, |value| {
        out.extend_from_slice(value.as_bytes());
        Found::Made
    })
}

fn seconds<'a>(duration: Option<Duration>, out: &mut Vec<u8>) -> Found<'a> {
    duration.map_or(Found::Nothing, |duration| {
        write_seconds(duration, out);
        Found::Made
    })
}

/// The value of the first field of that name.
fn field<'a>(lines: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut fields = field_lines(lines);
    let found = fields.find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value)
}

/// The value of `name=value` in a list.
fn pair<'a>(list: &'a [u8], separator: u8, name: &[u8]) -> Option<&'a [u8]> {
    let mut pairs = list
        .split(|byte| *byte == separator)
        .map(<[u8]>::trim_ascii);
    pairs.find_map(|pair| pair.strip_prefix(name)?.strip_prefix(b"="))
}

/// The user of Basic authentication (RFC 7617): what stands before the colon.
fn write_user(authorization: Option<&[u8]>, out: &mut Vec<u8>) -> bool {
    let Some((scheme, credentials)) = authorization.and_then(|it| it.split_at_checked(6)) else {
        return false;
    };
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return false;
    }
    let (mut bits, mut count) = (0_u32, 0_u32);
    for byte in credentials.trim_ascii() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => break,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            match (bits >> count) as u8 {
                b':' => break,
                byte => out.push(byte),
            }
        }
    }
    !out.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_those_of_basic_authentication() {
        let user = |text: &str| {
            let mut out = Vec::new();
            write_user(Some(text.as_bytes()), &mut out).then(|| String::from_utf8(out).unwrap())
        };
        assert_eq!(
            user("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
            Some("Aladdin".into())
        );
        assert_eq!(user("basic dXNlcg=="), Some("user".into()));
        assert_eq!(user("Basic ?"), None);
        assert_eq!(user("Bearer abc"), None);
        assert_eq!(user(""), None);
    }

    #[test]
    fn cookies_and_arguments() {
        assert_eq!(pair(b"a=1; bb=2;b=3", b';', b"b"), Some(&b"3"[..]));
        assert_eq!(pair(b"a=1&b=", b'&', b"b"), Some(&b""[..]));
        assert_eq!(pair(b"", b'&', b"b"), None);
    }
}
