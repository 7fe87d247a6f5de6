//! The ClientHello at the start of a connection, and how a client is told that it leads nowhere.
//!
//! Invariant: nothing is taken from the connection: the backend gets the ClientHello as it came.
//! Read next: `../peek.rs`.

use std::time::Duration;

use lb_core::rt::{Chunk, Instant, TcpStream, now, timeout_at};

use super::{ClientHello, HelloError, Unrouted, parse};
use crate::peek::{PeekError, peek};

/// How long a client may take to read why it is refused.
const LINGER: Duration = Duration::from_secs(1);

/// Why a connection has no ClientHello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReceiveError {
    /// It ended first.
    #[error("the connection ended before its ClientHello did")]
    Closed,
    /// Its first bytes are none.
    #[error(transparent)]
    Invalid(HelloError),
    /// It did not come in time.
    #[error("no ClientHello came in time")]
    Timeout,
}

/// Waits until a connection has sent its ClientHello, which must have come by `deadline`.
///
/// # Errors
/// [`ReceiveError`]; then the connection is not to be used.
pub async fn receive(client: &TcpStream, deadline: Instant) -> Result<ClientHello, ReceiveError> {
    let read = |bytes: &[u8]| Ok(parse(bytes)?.map(|hello| (hello, 0)));
    peek(client, deadline, read)
        .await
        .map_err(|error| match error {
            PeekError::Closed => ReceiveError::Closed,
            PeekError::Refused(error) => ReceiveError::Invalid(error),
            PeekError::Timeout => ReceiveError::Timeout,
        })
}

/// Fatal alerts (RFC 8446 section 6.2, RFC 7301 section 3.2), each a record.
const UNRECOGNIZED_NAME: &[u8] = &[21, 3, 3, 0, 2, 2, 112];
const NO_APPLICATION_PROTOCOL: &[u8] = &[21, 3, 3, 0, 2, 2, 120];

/// Tells the client by an alert that it leads nowhere, and leaves it time to read that before the
/// connection is dropped.
pub async fn refuse(client: &TcpStream, why: Unrouted) {
    let alert = match why {
        Unrouted::Protocol => NO_APPLICATION_PROTOCOL,
        Unrouted::ServerName => UNRECOGNIZED_NAME,
    };
    let deadline = now() + LINGER;
    // What the client has sent was not taken; left in the socket it would turn the close into a
    // reset, which may overtake the alert.
    let sent = async {
        client.send(Chunk::from_static(alert)).await?;
        client.shutdown().await?;
        while !client.recv().await?.is_empty() {}
        std::io::Result::Ok(())
    };
    // The client is gone, or does not listen: there is nobody to tell.
    let _ = timeout_at(deadline, sent).await;
}
