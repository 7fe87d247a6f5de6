//! The first bytes of a connection, gathered until they can be understood.
//!
//! Invariant: no byte is lost or taken twice: what the reader did not use stands before what the
//! connection brings next. One piece is read where it was received; several are joined in memory
//! that grows with what was really sent.
//! Read next: `proxy_protocol/receive.rs`, `client_hello/receive.rs` (the readers).

use lb_core::rt::{Chunk, Instant, TcpStream, timeout_at};

/// Why the first bytes were not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PeekError<E> {
    /// The client ended or broke the connection.
    Closed,
    /// The reader refused them.
    Refused(E),
    /// They did not come in time.
    Timeout,
}

/// What a reader makes of bytes: nothing yet, or something and the number of bytes used.
pub(crate) type Reading<T, E> = Result<Option<(T, usize)>, E>;

/// Receives until `read` understands the bytes; what it did not use is given back to `client`.
/// `read` refuses bytes that are too many.
pub(crate) async fn peek<T, E>(
    client: &TcpStream,
    deadline: Instant,
    mut read: impl FnMut(&[u8]) -> Reading<T, E>,
) -> Result<T, PeekError<E>> {
    let mut gathered = Chunk::empty();
    loop {
        let piece = match timeout_at(deadline, client.recv()).await {
            Ok(Ok(piece)) if !piece.is_empty() => piece,
            Ok(_) => return Err(PeekError::Closed),
            Err(_) => return Err(PeekError::Timeout),
        };
        gathered = if gathered.is_empty() {
            piece
        } else {
            Chunk::from_vec([&*gathered, &*piece].concat())
        };
        if let Some((found, used)) = read(&gathered).map_err(PeekError::Refused)? {
            gathered.advance(used);
            client.unread(gathered);
            return Ok(found);
        }
    }
}
