//! From the text of an HTTP/1.1 head to a block of HPACK: the way out.
//!
//! Invariant: the text is one that this proxy has written or checked: lines end in CRLF, names are
//! tokens. What belongs to an HTTP/1.1 connection is left out (RFC 9113 section 8.2.2).
//! Read next: `head.rs` (the other direction), `hpack/encode.rs`.

use super::hpack::Encoder;
use super::known::{Known, KnownLines};

/// Places in the static table.
const METHOD: usize = 2;
const METHOD_POST: usize = 3;
const PATH: usize = 4;
const SCHEME_HTTP: usize = 6;
const SCHEME_HTTPS: usize = 7;
const CONTENT_LENGTH: usize = 28;

/// What heads are encoded with.
pub(super) struct Pen<'c> {
    pub(super) encoder: &'c mut Encoder,
    /// Of the head before.
    pub(super) known: &'c mut KnownLines,
}

/// Encodes the response head `text`.
/// Fields named in `secrets`, in lower case and each with a line feed behind it, are marked as such.
pub(super) fn response(text: &[u8], secrets: &[u8], pen: &mut Pen<'_>, out: &mut Vec<u8>) {
    let encoder = &mut *pen.encoder;
    encoder.begin(out);
    let status = text.get(9..12).unwrap_or(b"500");
    // A switch of protocols is a CONNECT that succeeded (RFC 8441 section 5).
    let switches = status == b"101";
    encoder.status(if switches { b"200" } else { status }, out);
    let is_left_out = |name: &[u8]| switches && name.eq_ignore_ascii_case(b"sec-websocket-accept");
    let remembers = secrets.is_empty() && !switches;
    fields(
        after_line(text),
        (secrets, remembers),
        pen,
        out,
        |name, _| Fate::of(is_left_out(name)),
    );
}

/// Encodes the trailer lines `text`.
pub(super) fn trailers(text: &[u8], pen: &mut Pen<'_>, out: &mut Vec<u8>) {
    pen.encoder.begin(out);
    fields(text, (&[], true), pen, out, |name, _| {
        let is_left_out =
            name.eq_ignore_ascii_case(b"content-length") || name.eq_ignore_ascii_case(b"trailer");
        Fate::of(is_left_out)
    });
}

/// What kind of request is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RequestKind<'s> {
    pub(super) is_https: bool,
    /// Extended CONNECT (RFC 8441) instead of an upgrade.
    pub(super) is_websocket: bool,
    /// As those of [`response`].
    pub(super) secrets: &'s [u8],
}

/// Encodes the request head `text`.
pub(super) fn request(text: &[u8], kind: RequestKind<'_>, pen: &mut Pen<'_>, out: &mut Vec<u8>) {
    let encoder = &mut *pen.encoder;
    encoder.begin(out);
    let line = &text[..text.len() - after_line(text).len()];
    let mut words = line.trim_ascii_end().splitn(3, |&byte| byte == b' ');
    let (method, path) = (words.next().unwrap_or(b"GET"), words.next().unwrap_or(b"/"));
    match method {
        _ if kind.is_websocket => {
            encoder.field(b":method", b"CONNECT", out);
            encoder.field(b":protocol", b"websocket", out);
        }
        b"GET" => Encoder::indexed(METHOD, out),
        b"POST" => Encoder::indexed(METHOD_POST, out),
        _ => {
            encoder.field(b":method", method, out);
        }
    }
    Encoder::indexed(
        if kind.is_https {
            SCHEME_HTTPS
        } else {
            SCHEME_HTTP
        },
        out,
    );
    match path {
        b"/" => Encoder::indexed(PATH, out),
        _ => encoder.unindexed(PATH, path, out),
    }
    let rest = after_line(text);
    if let Some((_, host)) = lines(rest).find(|(name, _)| name.eq_ignore_ascii_case(b"host")) {
        encoder.field(b":authority", host, out);
    }
    let remembers = kind.secrets.is_empty() && !kind.is_websocket;
    let is_grpc = fields(rest, (kind.secrets, remembers), pen, out, |name, value| {
        if name.eq_ignore_ascii_case(b"content-type") && super::grpc::is_grpc(value) {
            return Fate::SentAndMarked;
        }
        let is_left_out = name.eq_ignore_ascii_case(b"host")
            || (kind.is_websocket && name.eq_ignore_ascii_case(b"sec-websocket-key"));
        Fate::of(is_left_out)
    });
    // The field belongs to a connection, so the client's was taken away, but servers insist on it
    // ("gRPC over HTTP2", section Requests); we pass trailers on.
    if is_grpc {
        pen.encoder.field(b"te", b"trailers", out);
    }
}

/// What becomes of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    LeftOut,
    Sent,
    SentAndMarked,
}

impl Fate {
    const fn of(is_left_out: bool) -> Self {
        if is_left_out {
            Self::LeftOut
        } else {
            Self::Sent
        }
    }
}

/// Encodes the lines of `text`; true if one of them was marked. With `remembers`, lines that are
/// where they were in the head before, and that the peer knows, are not looked at again.
fn fields(
    text: &[u8],
    (secrets, remembers): (&[u8], bool),
    pen: &mut Pen<'_>,
    out: &mut Vec<u8>,
    fate: impl Fn(&[u8], &[u8]) -> Fate,
) -> bool {
    let mut is_marked = false;
    let mut rest = text;
    for nth in 0.. {
        let changes = pen.encoder.table_changes();
        let known = pen.known.recall(nth, rest, changes);
        if let Some(known) = known.filter(|_| remembers) {
            out.extend_from_slice(known.code);
            is_marked |= known.mark;
            rest = &rest[known.len..];
            continue;
        }
        let Some((name, value, len)) = line(rest) else {
            break;
        };
        let start = out.len();
        let fate = fate(name, value);
        let is_secret = !secrets.is_empty() && is_named(secrets, name);
        let is_lasting = fate == Fate::LeftOut || field((name, value), is_secret, pen.encoder, out);
        if is_lasting && remembers {
            let known = Known {
                len,
                code: &out[start..],
                mark: fate == Fate::SentAndMarked,
            };
            pen.known.keep(nth, &rest[..len], &known, changes);
        }
        is_marked |= fate == Fate::SentAndMarked;
        rest = &rest[len..];
    }
    is_marked
}

/// Encodes one field; true if it would be encoded so again.
fn field(
    (name, value): (&[u8], &[u8]),
    is_secret: bool,
    encoder: &mut Encoder,
    out: &mut Vec<u8>,
) -> bool {
    if is_connection_specific(name) {
        true
    } else if is_secret {
        encoder.secret(name, value, out);
        false
    } else if name.len() == 14 && name.eq_ignore_ascii_case(b"content-length") {
        encoder.unindexed(CONTENT_LENGTH, value, out);
        true
    } else {
        encoder.field(name, value, out)
    }
}

/// Whether `name` is one of `names`, which have a line feed behind each.
fn is_named(names: &[u8], name: &[u8]) -> bool {
    let mut names = names.split(|&byte| byte == b'\n');
    names.any(|it| it.eq_ignore_ascii_case(name))
}

fn is_connection_specific(name: &[u8]) -> bool {
    let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
    match name.len() {
        2 => is(b"te"),
        7 => is(b"upgrade"),
        10 => is(b"connection") || is(b"keep-alive"),
        16 => is(b"proxy-connection"),
        17 => is(b"transfer-encoding"),
        _ => false,
    }
}

/// Name and value of each line, up to the blank one.
fn lines(text: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (name, value, len) = line(rest)?;
        rest = &rest[len..];
        Some((name, value))
    })
}

/// Name and value of the first line, and the bytes that it takes; `None` if it is blank.
fn line(text: &[u8]) -> Option<(&[u8], &[u8], usize)> {
    let end = memchr::memchr(b'\n', text)?;
    let line = &text[..end];
    let colon = memchr::memchr(b':', line)?;
    Some((&line[..colon], line[colon + 1..].trim_ascii(), end + 1))
}

/// What follows the first line.
fn after_line(text: &[u8]) -> &[u8] {
    memchr::memchr(b'\n', text).map_or(&[], |end| &text[end + 1..])
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;

    use super::super::hpack::Decoder;
    use super::*;

    macro_rules! pen {
        ($encoder:expr) => {
            Pen {
                encoder: &mut $encoder,
                known: &mut KnownLines::default(),
            }
        };
    }

    fn decoded(block: &[u8]) -> Vec<String> {
        let mut fields = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let decoded = Decoder::new().decode(block, |it| {
            fields.push(format!("{}={}", text(it.name), text(it.value)));
        });
        decoded.unwrap();
        fields
    }

    #[test]
    fn a_response_keeps_what_is_end_to_end() {
        let text = b"HTTP/1.1 404 Not Found\r\nServer:  s \r\nConnection: close\r\n\
            Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n";
        let mut out = Vec::new();
        response(text, b"", &mut pen!(Encoder::new(true)), &mut out);
        assert_eq!(
            decoded(&out),
            [":status=404", "server=s", "content-length=5"]
        );
    }

    #[test]
    fn a_request_gets_its_pseudo_fields() {
        let text = b"PUT /a?b HTTP/1.1\r\nAccept: x\r\nHost: example\r\n\
            Content-Type: application/grpc+proto\r\nTE: trailers\r\n\r\n";
        let mut out = Vec::new();
        let kind = RequestKind {
            is_https: true,
            is_websocket: false,
            secrets: b"",
        };
        request(text, kind, &mut pen!(Encoder::new(false)), &mut out);
        let expected = [
            ":method=PUT",
            ":scheme=https",
            ":path=/a?b",
            ":authority=example",
            "accept=x",
            "content-type=application/grpc+proto",
            "te=trailers",
        ];
        assert_eq!(decoded(&out), expected);
    }

    #[test]
    fn trailers_are_lines() {
        let mut out = Vec::new();
        trailers(
            b"Grpc-Status: 0\r\ncontent-length: 5\r\n",
            &mut pen!(Encoder::new(true)),
            &mut out,
        );
        assert_eq!(decoded(&out), ["grpc-status=0"]);
    }

    proptest::proptest! {
        #[test]
        fn what_is_known_means_what_is_written(
            heads in vec(vec((0..8_usize, 0..4_usize), 0..8), 0..40),
            sizes in vec(0..400_u32, 0..14),
        ) {
            const NAMES: [&str; 8] = ["Date", "X-A", "Set-Cookie", "Connection", "ETag",
                "Content-Type", "Content-Length", "x-longer-name"];
            let (mut encoder, mut known) = (Encoder::new(true), KnownLines::default());
            let mut decoder = Decoder::new();
            for (nth, head) in heads.iter().enumerate() {
                if let Some(&size) = sizes.get(nth / 3) && nth % 3 == 0 {
                    encoder.set_table_size(size);
                }
                let mut text = String::from("HTTP/1.1 200 OK\r\n");
                let mut expected = vec![String::from(":status=200")];
                for &(name, value) in head {
                    let (name, value) = (NAMES[name], ["a", "b", "0", "ccc"][value]);
                    text += &format!("{name}: {value}\r\n");
                    if name != "Connection" {
                        expected.push(format!("{}={value}", name.to_lowercase()));
                    }
                }
                text += "\r\n";
                let mut out = Vec::new();
                let pen = &mut Pen { encoder: &mut encoder, known: &mut known };
                response(text.as_bytes(), b"", pen, &mut out);
                let mut fields = Vec::new();
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let decoded = decoder.decode(&out, |it| {
                    fields.push(format!("{}={}", text(it.name), text(it.value)));
                });
                decoded.unwrap();
                proptest::prop_assert_eq!(fields, expected);
            }
        }
    }
}
