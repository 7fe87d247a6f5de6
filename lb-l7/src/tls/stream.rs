//! A TLS connection with the shape of the runtime's `TcpStream`: chunks in, chunks out.
//!
//! Invariant: plaintext is received only when the reader asks for it, so that back-pressure
//! reaches the peer; what `send` took is encrypted and on its way when it returns.
//! Read next: `../stream.rs` (plain or TLS, as one type).

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io::{self, BufRead, Write};
use std::net::SocketAddr;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use lb_core::rt::{Buffer, Chunk, TcpStream};
use rustls::{Connection, HandshakeKind};

/// A TLS connection after its handshake. As with a `TcpStream`, one part of a task may receive
/// while another sends, and a drop closes at once.
#[derive(Debug)]
pub struct TlsStream {
    stream: TcpStream,
    connection: RefCell<Box<Connection>>,
    /// Plaintext that was given back.
    unread: RefCell<Option<Chunk>>,
}

impl TlsStream {
    /// Makes the handshake of either side.
    ///
    /// # Errors
    /// `UnexpectedEof` when the peer closes, what broke the connection, or `InvalidData` with a
    /// `rustls::Error` in it.
    pub async fn handshake(
        stream: TcpStream,
        connection: impl Into<Connection>,
    ) -> io::Result<Self> {
        let mut connection = connection.into();
        connection.set_buffer_limit(None); // a send is taken as a whole
        let tls = Self {
            stream,
            connection: RefCell::new(Box::new(connection)),
            unread: RefCell::new(None),
        };
        poll_fn(|cx| tls.poll_handshake(cx)).await?;
        Ok(tls)
    }

    /// The protocol that was agreed on by ALPN.
    pub fn alpn_protocol(&self) -> Option<Vec<u8>> {
        let connection = self.connection.borrow();
        connection.alpn_protocol().map(<[u8]>::to_vec)
    }

    /// Whether a session from before was resumed.
    pub fn handshake_kind(&self) -> Option<HandshakeKind> {
        self.connection.borrow().handshake_kind()
    }

    /// The connection below.
    pub const fn tcp(&self) -> &TcpStream {
        &self.stream
    }

    /// The next bytes; an empty chunk when the peer has said that it is done (close_notify).
    ///
    /// # Errors
    /// What ended the connection; `UnexpectedEof` when it was closed without a word, which may be
    /// somebody's attempt to cut a message short.
    pub fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        if let Some(unread) = self.unread.take() {
            return Poll::Ready(Ok(unread));
        }
        loop {
            if let Some(plain) = self.take_plain()? {
                return Poll::Ready(Ok(plain));
            }
            // Answers of the protocol's own. If they cannot be sent, the receive will tell.
            let _ = self.poll_output(cx);
            let received = ready!(self.stream.poll_recv(cx))?;
            self.decrypt(received, cx)?;
        }
    }

    /// Gives back bytes that were received but not used; the next receive returns them first.
    ///
    /// # Panics
    /// With bytes given back already.
    pub fn unread(&self, chunk: Chunk) {
        if !chunk.is_empty() {
            assert!(self.unread.replace(Some(chunk)).is_none(), "unread twice");
        }
    }

    /// Waits until the connection fails; a plain end of stream is no failure. It takes the place
    /// of a waiting receive.
    pub fn poll_broken(&self, cx: &Context<'_>) -> Poll<io::Error> {
        self.stream.poll_broken(cx)
    }

    /// True if an idle connection must not be used again: the peer has ended it, or sent what
    /// nobody asked for.
    pub fn is_stale(&self) -> bool {
        self.stream.is_stale()
    }

    /// Makes the drop that follows send a reset instead of a FIN.
    pub fn reset_on_drop(&self) {
        self.stream.reset_on_drop();
    }

    /// Our end's address.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// The other end's address.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }

    /// Takes `parts` when it is ready, as `TcpStream::poll_send` does.
    ///
    /// # Errors
    /// What ended the connection, in this or an earlier send.
    pub fn poll_send(
        &self,
        cx: &mut Context<'_>,
        parts: &mut [Option<Chunk>; 2],
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        for part in parts.iter_mut().filter_map(Option::take) {
            self.connection.borrow_mut().writer().write_all(&part)?;
        }
        let sent = self.poll_output(cx);
        debug_assert!(sent.is_ready(), "nothing else was being sent");
        sent
    }

    /// Waits until the kernel has taken everything sent.
    ///
    /// # Errors
    /// As `poll_send`.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_output(cx))?;
        pin!(self.stream.flush()).poll(cx)
    }

    /// Says that we are done (close_notify), and ends our side.
    ///
    /// # Errors
    /// As `poll_send`.
    pub fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.borrow_mut().send_close_notify(); // once, however often it is called
        ready!(self.poll_output(cx))?;
        self.stream.poll_shutdown(cx)
    }

    fn poll_handshake(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let output = self.poll_output(cx)?;
            if !self.connection.borrow().is_handshaking() {
                return output.map(Ok);
            }
            let received = ready!(self.stream.poll_recv(cx))?;
            if received.is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            self.decrypt(received, cx)?;
        }
    }

    /// Plaintext at hand; empty at the end of the stream.
    fn take_plain(&self) -> io::Result<Option<Chunk>> {
        let mut connection = self.connection.borrow_mut();
        let mut reader = connection.reader();
        let mut out = Buffer::new();
        loop {
            let taken = match reader.fill_buf() {
                Ok([]) => return Ok(Some(out.freeze())),
                Ok(plain) => {
                    let taken = plain.len().min(out.remaining());
                    let fits = out.push(&plain[..taken]);
                    debug_assert!(fits, "no more than what remains");
                    taken
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // What came before it is good; it comes up again.
                Err(_) if !out.is_empty() => break,
                Err(error) => return Err(error),
            };
            reader.consume(taken);
            if out.remaining() == 0 {
                break;
            }
        }
        Ok((!out.is_empty()).then(|| out.freeze()))
    }

    /// Takes in what was received, up to the first plaintext: the rest waits in the stream.
    fn decrypt(&self, mut received: Chunk, cx: &mut Context<'_>) -> io::Result<()> {
        loop {
            let mut connection = self.connection.borrow_mut();
            let taken = connection.read_tls(&mut &*received)?; // none: the end of the stream
            received.advance(taken);
            let state = match connection.process_new_packets() {
                Ok(state) => state,
                Err(error) => {
                    drop(connection);
                    let _ = self.poll_output(cx); // the alert that says what was wrong
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            };
            if received.is_empty() || state.plaintext_bytes_to_read() > 0 {
                self.stream.unread(received);
                return Ok(());
            }
        }
    }

    /// Sends what the connection has to say.
    fn poll_output(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut connection = self.connection.borrow_mut();
        while connection.wants_write() {
            ready!(pin!(self.stream.flush()).poll(cx))?;
            let mut parts = encrypted(&mut connection)?;
            ready!(self.stream.poll_send(cx, &mut parts))?;
        }
        Poll::Ready(Ok(()))
    }
}

/// Everything that is ready to be sent: mostly in one buffer of the pool, and in memory of its
/// own what is more.
fn encrypted(connection: &mut Connection) -> io::Result<[Option<Chunk>; 2]> {
    let mut first = Output(Buffer::new());
    while connection.wants_write() && first.0.remaining() > 0 {
        connection.write_tls(&mut first)?;
    }
    let mut rest = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut rest)?;
    }
    let rest = (!rest.is_empty()).then(|| Chunk::from_vec(rest));
    Ok([Some(first.0.freeze()), rest])
}

/// A buffer that takes what fits.
struct Output(Buffer);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.0.remaining());
        let fits = self.0.push(&bytes[..taken]);
        debug_assert!(fits, "no more than what remains");
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
