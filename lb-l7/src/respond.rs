//! The answers that we give ourselves, complete to the last field.
//!
//! Invariant: every answer says in one line of plain text what was wrong, for whoever reads it at
//! three in the morning, and nothing about the inside of the cluster.
//! Read next: `failure.rs` (what is answered with what).

use lb_core::rt::{Buffer, Chunk};

use crate::date::DateText;
use crate::http1::phrase::phrase;
use crate::http1::response::ClientConnection;
use crate::http1::text::DecimalText;
use crate::http2::grpc;
use crate::link::{ClientLink, Outgoing};

/// An answer of our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer<'a> {
    /// The status.
    pub(crate) status: u16,
    /// What was wrong, in a few words; empty if nothing was.
    pub(crate) reason: &'static str,
    /// What the client is told of its connection.
    pub(crate) connection: ClientConnection,
    /// Whether the body is left out, as HEAD asks.
    pub(crate) without_body: bool,
    /// Where the client finds what it wants, mostly empty.
    pub(crate) location: &'a [u8],
}

impl Answer<'_> {
    /// Head and body, ready to be sent. There is no Server field: it would tell an attacker more
    /// than it tells a user.
    #[must_use]
    pub(crate) fn write(&self, date: &DateText) -> Chunk {
        let status = DecimalText::of(u64::from(self.status));
        let parts = [status.as_slice(), b" ", phrase(self.status).as_bytes()];
        let colon: &[u8] = if self.reason.is_empty() { b"" } else { b": " };
        let body = [colon, self.reason.as_bytes(), b"\n"];
        let body_len: usize = parts.iter().chain(&body).map(|part| part.len()).sum();
        // These have none by definition (RFC 9110 sections 15.3.5, 15.4.5).
        let is_empty = matches!(self.status, 204 | 304);
        let mut out = Buffer::new();
        let mut push = |bytes: &[u8]| {
            let fits = out.push(bytes);
            debug_assert!(fits, "an answer is shorter than a buffer");
        };
        push(b"HTTP/1.1 ");
        parts.iter().for_each(|part| push(part));
        if !is_empty {
            push(b"\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: ");
            push(DecimalText::of(body_len as u64).as_slice());
        }
        if !self.location.is_empty() {
            push(b"\r\nLocation: ");
            push(self.location);
        }
        push(b"\r\nDate: ");
        push(date);
        push(self.head_end());
        if !self.without_body && !is_empty {
            parts.iter().chain(&body).for_each(|part| push(part));
        }
        out.freeze()
    }

    const fn head_end(&self) -> &'static [u8] {
        match self.connection {
            ClientConnection::Close => b"\r\nConnection: close\r\n\r\n",
            ClientConnection::Keep => b"\r\n\r\n",
            ClientConnection::KeepHttp10 => b"\r\nConnection: keep-alive\r\n\r\n",
        }
    }

    /// The same for a link.
    pub(crate) fn outgoing_to(
        &self,
        client: &ClientLink,
        is_grpc: bool,
        date: &DateText,
    ) -> Outgoing {
        match is_grpc {
            true => self.grpc_outgoing(date, client.is_http2()),
            false => self.outgoing(date),
        }
    }

    pub(crate) fn outgoing(&self, date: &DateText) -> Outgoing {
        let text = self.write(date);
        let head_len = memchr::memmem::find(&text, b"\r\n\r\n").map_or(0, |end| end + 4);
        Outgoing {
            parts: [Some(text), None],
            #[expect(clippy::cast_possible_truncation, reason = "an answer is short")]
            head_len: head_len as u16,
            ends: true,
            trailers: None,
        }
    }

    /// The same for a call of gRPC: nothing but a head, whose HTTP status is 200 ("gRPC over
    /// HTTP2", Trailers-Only).
    fn grpc_outgoing(&self, date: &DateText, is_http2: bool) -> Outgoing {
        let status = DecimalText::of(u64::from(grpc::status(self.status)));
        let message = match self.reason {
            "" => phrase(self.status),
            reason => reason,
        };
        let length: &[u8] = match is_http2 {
            true => b"", // the stream ends with the head
            false => b"\r\nContent-Length: 0",
        };
        let mut out = Buffer::new();
        for part in [
            b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nDate: ".as_slice(),
            date,
            b"\r\ngrpc-status: ",
            status.as_slice(),
            b"\r\ngrpc-message: ",
            message.as_bytes(),
            length,
            self.head_end(),
        ] {
            let fits = out.push(part);
            debug_assert!(fits, "an answer is shorter than a buffer");
        }
        Outgoing {
            #[expect(clippy::cast_possible_truncation, reason = "an answer is short")]
            head_len: out.len() as u16,
            parts: [Some(out.freeze()), None],
            ends: true,
            trailers: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &DateText = b"Sun, 06 Nov 1994 08:49:37 GMT";

    #[test]
    fn an_answer_is_complete() {
        let answer = Answer {
            status: 404,
            reason: "no route",
            connection: ClientConnection::Keep,
            without_body: false,
            location: &[],
        };
        let text = "HTTP/1.1 404 Not Found\r\n\
            Content-Type: text/plain; charset=utf-8\r\n\
            Content-Length: 24\r\n\
            Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
            \r\n\
            404 Not Found: no route\n";
        assert_eq!(str::from_utf8(&answer.write(DATE)), Ok(text));
        let close = Answer {
            connection: ClientConnection::Close,
            without_body: true,
            ..answer
        };
        let written = close.write(DATE);
        let written = str::from_utf8(&written).unwrap();
        assert!(
            written.contains("\r\nContent-Length: 24\r\n"),
            "as GET would have it"
        );
        assert!(written.ends_with("\r\nConnection: close\r\n\r\n"));
    }
}
