//! The TCP health check: a connection is established and closed.
//!
//! Read next: `lb_core::balance::HealthState`, which turns results into health.

use std::net::SocketAddr;
use std::time::Duration;
use std::{fmt, io};

use lb_core::rt::{TcpStream, timeout};

/// Why a check failed.
#[derive(Debug)]
pub enum CheckError {
    /// The backend refused, or could not be reached.
    Connect(io::Error),
    /// Nothing came back in time.
    TimedOut(Duration),
}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "connect: {error}"),
            Self::TimedOut(after) => write!(f, "no answer within {after:?}"),
        }
    }
}

impl std::error::Error for CheckError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect(error) => Some(error),
            Self::TimedOut(_) => None,
        }
    }
}

/// Connects to `address` and closes again, with a reset: the backend's accept queue and our
/// ephemeral ports are spared the closing handshake.
///
/// # Errors
/// When there is no connection within `limit`.
pub async fn check_tcp(address: SocketAddr, limit: Duration) -> Result<(), CheckError> {
    match timeout(limit, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            stream.reset();
            Ok(())
        }
        Ok(Err(error)) => Err(CheckError::Connect(error)),
        Err(_) => Err(CheckError::TimedOut(limit)),
    }
}
