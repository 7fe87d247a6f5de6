//! Long bodies of known length from connections in the clear: moved inside of the kernel, or in large
//! pieces where that cannot be or the client's side is sealed.
//!
//! Invariant: not a byte behind the body is moved, and a pipe is held only while bytes are in it.
//! Read next: `exchange.rs`, `upload.rs` (all other bodies), `lb_core::rt` (what a stream promises).

use lb_core::rt::{self, Chunk, Input, Pipe, TcpStream};

use crate::exchange::Exchange;
use crate::failure::Failure;
use crate::link::{BackendLink, ClientLink};
use crate::stream::Stream;
use crate::waiting::Waiting;

/// What is left of a body must be as much for that: a splice moves any number of bytes for the
/// price of a few calls, a chunk few bytes for less.
pub(crate) const BULK_BYTES: u64 = 64 * 1024;
/// Bytes of one splice: what a pipe takes. Other tasks have their turn after it.
pub(crate) const SPLICE_MAX: u64 = 1024 * 1024;
/// Bytes of one piece that is sealed: with what eight records have beside their data, they still
/// fit a large buffer, and so leave by one send.
const SEALED_MAX: usize = 128 * 1024 - 8 * 32;

/// Bytes of one piece that goes into frames of HTTP/2.
const FRAMED_MAX: usize = 64 * 1024;

impl Exchange<'_> {
    /// Passes a body on as long as it is long and nothing has been received of it that is not
    /// passed on. What is left goes the usual way; so does the end or an error of the backend.
    pub(crate) async fn forward_bulk(&mut self, link: &BackendLink) -> Result<(), Failure> {
        let BackendLink::Http1(Stream::Plain(backend)) = link else {
            return Ok(());
        };
        let is_plain = matches!(&self.connection.client, ClientLink::Http1(Stream::Plain(_)));
        let mut least = BULK_BYTES;
        while self.received.is_empty() {
            let left = self.download.plain_left();
            if left < least || !self.takes_large() {
                return Ok(());
            }
            let input = self
                .wait(Waiting::ResponseBody, Some(link), |_, cx| {
                    backend.poll_readable(cx)
                })
                .await?;
            if input == Input::Received {
                return Ok(());
            }
            let taken = match &self.connection.client {
                _ if is_plain => splice(backend, left),
                // Another stream may have been first meanwhile.
                ClientLink::Http2(_) if !self.takes_large() => Taken::Again,
                ClientLink::Http2(_) => copy(backend, FRAMED_MAX),
                ClientLink::Http1(_) => copy(backend, SEALED_MAX),
            };
            least = 1; // what has begun so ends so: a receive of its own would cost more
            match taken {
                Taken::Again => {}
                Taken::Pipe(pipe, bytes) => {
                    self.download.skip(bytes);
                    self.empty(pipe, link).await?;
                    rt::yield_now().await;
                }
                Taken::Chunk(chunk) => self.received = chunk,
                Taken::Usual => return Ok(()),
            }
        }
        Ok(())
    }

    /// Whether the client takes a large piece at once; of HTTP/2, where its windows allow it.
    fn takes_large(&self) -> bool {
        match &self.connection.client {
            ClientLink::Http1(_) => true,
            ClientLink::Http2(stream) => stream.room() >= FRAMED_MAX,
        }
    }

    /// Moves what is in the pipe to the client.
    async fn empty(&mut self, mut pipe: Pipe, link: &BackendLink) -> Result<(), Failure> {
        while !pipe.is_empty() {
            let moved = self
                .wait(Waiting::Client, Some(link), |it, cx| {
                    match &it.connection.client {
                        ClientLink::Http1(stream) => stream.tcp().poll_splice_from(cx, &mut pipe),
                        ClientLink::Http2(_) => std::task::Poll::Ready(Ok(0)), // not reached
                    }
                })
                .await?;
            let moved = moved.map_err(|_| Failure::ClientGone)?;
            self.count_sent_bytes(moved);
        }
        Ok(())
    }
}

/// What was taken from a socket.
pub(crate) enum Taken {
    /// Nothing was there.
    Again,
    Chunk(Chunk),
    Pipe(Pipe, u64),
    /// A receive says what it is.
    Usual,
}

/// Takes what `source` has received of a body of which so many bytes are `left`.
pub(crate) fn splice(source: &TcpStream, left: u64) -> Taken {
    let most = usize::try_from(left.min(SPLICE_MAX)).unwrap_or(usize::MAX);
    let Some(mut pipe) = Pipe::acquire() else {
        return copy(source, most);
    };
    match source.splice_to(&mut pipe, most) {
        Ok(0) => Taken::Usual,
        Ok(bytes) => Taken::Pipe(pipe, bytes as u64),
        Err(error) if is_would_block(&error) => Taken::Again,
        Err(_) => Taken::Usual,
    }
}

fn copy(source: &TcpStream, most: usize) -> Taken {
    match source.recv_large(most) {
        Some(Ok(chunk)) if !chunk.is_empty() => Taken::Chunk(chunk),
        Some(Err(error)) if is_would_block(&error) => Taken::Again,
        _ => Taken::Usual,
    }
}

fn is_would_block(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::WouldBlock
}
