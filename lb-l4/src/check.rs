//! The health checks of layer 4: a TCP connection is established and closed; a datagram is
//! answered, or at least not refused.
//!
//! Invariant: a check ends at its limit, whatever the backend does.
//! Read next: `lb_core::balance::HealthState`, which turns results into health.

use std::net::SocketAddr;
use std::time::Duration;
use std::{fmt, io};

use lb_core::plan::UdpCheck;
use lb_core::rt::{Datagrams, TcpStream, UdpSocket, timeout};

/// Bytes of an answer that an error shows.
const SHOWN_MAX: usize = 32;

/// Why a check failed.
#[derive(Debug)]
pub enum CheckError {
    /// The backend refused, or could not be reached.
    Connect(io::Error),
    /// Nothing came back in time.
    TimedOut(Duration),
    /// A datagram came back that begins otherwise than expected; its first bytes.
    Unexpected(Vec<u8>),
}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "connect: {error}"),
            Self::TimedOut(after) => write!(f, "no answer within {after:?}"),
            Self::Unexpected(bytes) => {
                let shown = bytes.escape_ascii();
                write!(
                    f,
                    "the answer begins with \"{shown}\", which is not what was expected"
                )
            }
        }
    }
}

impl std::error::Error for CheckError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect(error) => Some(error),
            Self::TimedOut(_) | Self::Unexpected(_) => None,
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

/// Sends a datagram to `address` and waits for the answer: any if none in particular is expected,
/// and then silence is good too.
///
/// # Errors
/// When nobody listens (the kernel tells by ICMP), when the answer is not what was expected, or
/// when one was expected and none came within `limit`.
pub async fn check_udp(
    address: SocketAddr,
    check: &UdpCheck,
    limit: Duration,
) -> Result<(), CheckError> {
    let socket = UdpSocket::connect(address).map_err(CheckError::Connect)?;
    socket.send(Datagrams::copy_from(&check.send));
    match (timeout(limit, socket.recv()).await, &check.expect) {
        (Ok(Ok(received)), Some(expect)) => {
            let answer = received.datagrams.iter().next().unwrap_or_default();
            if answer.starts_with(expect) {
                return Ok(());
            }
            let shown = &answer[..answer.len().min(SHOWN_MAX)];
            Err(CheckError::Unexpected(shown.to_vec()))
        }
        (Ok(Err(error)), _) => Err(CheckError::Connect(error)),
        (Err(_), Some(_)) => Err(CheckError::TimedOut(limit)),
        (Ok(Ok(_)) | Err(_), None) => Ok(()),
    }
}
