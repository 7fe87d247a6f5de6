//! How a client's connection becomes one of HTTP/2: agreed on in the handshake of TLS, known to the
//! client from the start, or offered with a request.
//!
//! Invariant: no byte of the client's is lost on the way, and none is taken for anything else.
//! Read next: `h2c.rs` (offers), `server.rs` (the connection that follows).

use lb_core::rt::{self, Chunk};

use super::h2c::{Offer, SWITCHING};
use super::server::{self, FirstStream, ServerConnection};
use crate::connection::Connection;
use crate::link::ClientLink;
use crate::stream::Stream;

/// How it turned out that a client speaks HTTP/2.
#[derive(Debug)]
pub(crate) enum Http2 {
    /// By an offer with a request, which becomes the first stream.
    Offered(Box<Offer>),
    /// By what it began with, which came in pieces.
    Preface(Chunk),
}

/// A connection that goes on in HTTP/2.
#[derive(Debug)]
pub(crate) struct Http2Start {
    pub(crate) connection: Connection,
    pub(crate) how: Http2,
}

impl Http2Start {
    pub(crate) async fn run(self) {
        match self.how {
            Http2::Offered(offer) => self.connection.accept_http2(*offer).await,
            Http2::Preface(first) => self.connection.serve_http2(first).await,
        }
    }
}

impl Connection {
    /// Whether the client speaks HTTP/2, be it that it was agreed on or that it knew before.
    pub(crate) fn speaks_http2(&self, first: &Chunk) -> bool {
        match &self.client {
            ClientLink::Http1(Stream::Plain(_)) => {
                server::is_http2(first) && self.current.get().http2.enabled
            }
            ClientLink::Http1(Stream::Tls(tls)) => tls.alpn_protocol() == Some(b"h2"),
            ClientLink::Http2(_) => false,
        }
    }

    /// First bytes that tell the version of HTTP, if the client sends as many.
    pub(crate) async fn collect_mark(&mut self, first: Chunk) -> Chunk {
        let deadline = rt::now() + self.current.get().timeouts.request_head;
        let mut bytes = first.to_vec();
        while server::may_become_http2(&bytes) {
            match self.receive_until(deadline).await {
                Some(Ok(piece)) if !piece.is_empty() => bytes.extend_from_slice(&piece),
                _ => break,
            }
        }
        Chunk::from_vec(bytes)
    }

    pub(crate) async fn serve_http2(self, first: Chunk) {
        let ClientLink::Http1(stream) = self.client else {
            return; // a stream is no connection
        };
        let connection = ServerConnection {
            peer: self.peer,
            current: self.current,
            http: self.http,
            registration: self.registration.share(),
        };
        connection.serve(stream, first, None).await;
    }

    /// Goes on in HTTP/2 once all of the request is there, as RFC 7540 section 3.2 has it.
    async fn accept_http2(mut self, offer: Offer) {
        let Offer {
            received: mut rest,
            request_len,
            settings,
        } = offer;
        let mut request = rest.split_to(rest.len().min(request_len));
        if request.len() < request_len {
            let mut bytes = request.to_vec();
            let deadline = rt::now() + self.current.get().timeouts.body_idle;
            while bytes.len() < request_len {
                match self.receive_until(deadline).await {
                    Some(Ok(piece)) if !piece.is_empty() => rest = piece,
                    _ => return,
                }
                let missing = (request_len - bytes.len()).min(rest.len());
                bytes.extend_from_slice(&rest.split_to(missing));
            }
            request = Chunk::from_vec(bytes);
        }
        // The answer before it may still be on its way.
        if self.flush().await.is_err() {
            return;
        }
        let ClientLink::Http1(stream) = self.client else {
            return; // a stream is no connection
        };
        if stream.send(Chunk::from_static(SWITCHING)).await.is_err() {
            return;
        }
        let connection = ServerConnection {
            peer: self.peer,
            current: self.current,
            http: self.http,
            registration: self.registration.share(),
        };
        let first = Some(FirstStream { request, settings });
        connection.serve(stream, rest, first).await;
    }
}
