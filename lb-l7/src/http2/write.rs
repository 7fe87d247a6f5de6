//! From the text of an HTTP/1.1 head to a block of HPACK: the way out.
//!
//! Invariant: the text is one that this proxy has written or checked: lines end in CRLF, names are
//! tokens. What belongs to an HTTP/1.1 connection is left out (RFC 9113 section 8.2.2).
//! Read next: `head.rs` (the other direction), `hpack/encode.rs`.

use super::hpack::Encoder;

/// Places in the static table.
const METHOD: usize = 2;
const METHOD_POST: usize = 3;
const PATH: usize = 4;
const SCHEME_HTTP: usize = 6;
const SCHEME_HTTPS: usize = 7;
const CONTENT_LENGTH: usize = 28;

/// Encodes the response head `text`.
/// Fields named in `secrets`, in lower case and each with a line feed behind it, are marked as such.
pub(super) fn response(text: &[u8], secrets: &[u8], encoder: &mut Encoder, out: &mut Vec<u8>) {
    encoder.begin(out);
    let status = text.get(9..12).unwrap_or(b"500");
    // A switch of protocols is a CONNECT that succeeded (RFC 8441 section 5).
    let switches = status == b"101";
    encoder.status(if switches { b"200" } else { status }, out);
    fields(after_line(text), secrets, encoder, out, |name, _| {
        switches && name.eq_ignore_ascii_case(b"sec-websocket-accept")
    });
}

/// Encodes the trailer lines `text`.
pub(super) fn trailers(text: &[u8], encoder: &mut Encoder, out: &mut Vec<u8>) {
    encoder.begin(out);
    fields(text, &[], encoder, out, |name, _| {
        name.eq_ignore_ascii_case(b"content-length") || name.eq_ignore_ascii_case(b"trailer")
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
pub(super) fn request(
    text: &[u8],
    kind: RequestKind<'_>,
    encoder: &mut Encoder,
    out: &mut Vec<u8>,
) {
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
        _ => encoder.field(b":method", method, out),
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
    let mut is_grpc = false;
    fields(rest, kind.secrets, encoder, out, |name, value| {
        is_grpc |= name.eq_ignore_ascii_case(b"content-type") && super::grpc::is_grpc(value);
        (name.eq_ignore_ascii_case(b"host"))
            || (kind.is_websocket && name.eq_ignore_ascii_case(b"sec-websocket-key"))
    });
    // The field belongs to a connection, so the client's was taken away, but servers insist on it
    // ("gRPC over HTTP2", section Requests); we pass trailers on.
    if is_grpc {
        encoder.field(b"te", b"trailers", out);
    }
}

fn fields(
    text: &[u8],
    secrets: &[u8],
    encoder: &mut Encoder,
    out: &mut Vec<u8>,
    mut is_left_out: impl FnMut(&[u8], &[u8]) -> bool,
) {
    for (name, value) in lines(text) {
        if is_connection_specific(name) || is_left_out(name, value) {
            continue;
        }
        if !secrets.is_empty() && is_named(secrets, name) {
            encoder.secret(name, value, out);
        } else if name.len() == 14 && name.eq_ignore_ascii_case(b"content-length") {
            encoder.unindexed(CONTENT_LENGTH, value, out);
        } else {
            encoder.field(name, value, out);
        }
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
        let end = memchr::memchr(b'\n', rest)?;
        let line = &rest[..end];
        rest = &rest[end + 1..];
        let colon = memchr::memchr(b':', line)?;
        Some((&line[..colon], line[colon + 1..].trim_ascii()))
    })
}

/// What follows the first line.
fn after_line(text: &[u8]) -> &[u8] {
    memchr::memchr(b'\n', text).map_or(&[], |end| &text[end + 1..])
}

#[cfg(test)]
mod tests {
    use super::super::hpack::Decoder;
    use super::*;

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
        response(text, b"", &mut Encoder::new(true), &mut out);
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
        request(text, kind, &mut Encoder::new(false), &mut out);
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
            &mut Encoder::new(true),
            &mut out,
        );
        assert_eq!(decoded(&out), ["grpc-status=0"]);
    }
}
