//! The header at the start of a connection.
//!
//! Invariant: the header is all that is taken from the connection.
//! Read next: `../peek.rs`.

use lb_core::rt::{Instant, TcpStream};

use super::{Header, HeaderError, Origin, Tlvs, parse};
use crate::peek::{PeekError, peek};

/// A header that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// On whose behalf the connection is.
    pub origin: Origin,
    /// The TLVs' bytes; without any, nothing is allocated.
    tlvs: Box<[u8]>,
}

impl Received {
    /// What else the header told.
    #[must_use]
    pub fn tlvs(&self) -> Tlvs<'_> {
        Tlvs::new(&self.tlvs).unwrap_or_default() // they were checked
    }
}

impl From<Header<'_>> for Received {
    fn from(header: Header<'_>) -> Self {
        Self {
            origin: header.origin,
            tlvs: header.tlvs.bytes().into(),
        }
    }
}

/// Why a connection has no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReceiveError {
    /// It ended first.
    #[error("the connection ended before its PROXY header did")]
    Closed,
    /// Its first bytes are none.
    #[error(transparent)]
    Invalid(HeaderError),
    /// It did not come in time.
    #[error("no PROXY header came in time")]
    Timeout,
}

/// Takes the header from the start of a connection, which must have come by `deadline`.
///
/// # Errors
/// [`ReceiveError`]; then the connection is not to be used.
pub async fn receive(client: &TcpStream, deadline: Instant) -> Result<Received, ReceiveError> {
    let read = |bytes: &[u8]| {
        let header = parse(bytes)?;
        Ok(header.map(|header| (Received::from(header), header.length)))
    };
    peek(client, deadline, read)
        .await
        .map_err(|error| match error {
            PeekError::Closed => ReceiveError::Closed,
            PeekError::Refused(error) => ReceiveError::Invalid(error),
            PeekError::Timeout => ReceiveError::Timeout,
        })
}
