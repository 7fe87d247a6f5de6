//! Moves the bytes of one connection.
//!
//! Invariant: what several streams have to say in one turn of the loop goes out by one send.
//! Read next: `wire.rs`.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use lb_core::rt::Chunk;
use lb_l7::stream::Stream;

use super::frame::Broken;
use super::outgoing::Outgoing;

/// Who takes in what comes, and says what goes.
pub(crate) trait Side {
    /// Takes in what was received.
    ///
    /// # Errors
    /// When it is no HTTP/2.
    fn on_received(&mut self, bytes: &[u8]) -> Result<(), Broken>;

    /// Looks at what is to be sent.
    fn with_outgoing<R>(&mut self, look: impl FnOnce(&mut Outgoing) -> R) -> R;
}

/// Drives a connection until its peer ends it.
///
/// # Errors
/// What broke it; `InvalidData` for what is no HTTP/2.
pub(crate) async fn drive(stream: &Stream, side: &RefCell<impl Side>) -> io::Result<()> {
    let mut parts = [None, None];
    poll_fn(|cx| {
        if let Poll::Ready(ended) = poll_received(stream, side, cx) {
            return Poll::Ready(ended);
        }
        poll_ready(stream, side, &mut parts, cx)?;
        Poll::Pending
    })
    .await
}

/// Takes in all there is; ready at the end of the connection.
fn poll_received(
    stream: &Stream,
    side: &RefCell<impl Side>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    loop {
        let received = std::task::ready!(stream.poll_recv(cx))?;
        if received.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let taken = side.borrow_mut().on_received(&received);
        taken.map_err(|Broken(why)| io::Error::new(io::ErrorKind::InvalidData, why))?;
    }
}

/// Sends as much as there is room for.
fn poll_ready(
    stream: &Stream,
    side: &RefCell<impl Side>,
    parts: &mut [Option<Chunk>; 2],
    cx: &mut Context<'_>,
) -> io::Result<()> {
    loop {
        if parts[0].is_none() {
            parts[0] = side.borrow_mut().with_outgoing(|outgoing| {
                outgoing.driven_by(cx.waker());
                outgoing.pump();
                outgoing.take()
            });
            if parts[0].is_none() {
                return Ok(());
            }
        }
        match stream.poll_send(cx, parts) {
            Poll::Ready(sent) => sent?,
            Poll::Pending => return Ok(()),
        }
    }
}
