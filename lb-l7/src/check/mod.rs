//! Health checks that ask a backend something: over HTTP, HTTPS and gRPC.
//!
//! Invariant: a check ends at its limit, whatever the backend does, and what it takes in until
//! then is bounded. A failure says what was expected and what came.
//! Read next: `http.rs`, `grpc.rs`; `lb_core::balance::HealthState` turns results into health.

mod grpc;
mod http;

use std::cell::Cell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

pub use grpc::{GrpcChecker, GrpcCheckerError, ServingStatus};
pub use http::HttpChecker;
use lb_core::plan::StatusRange;
use lb_core::rt::{TcpStream, timeout};

use crate::http1::head::HeadError;
use crate::stream::Stream;
use crate::tls::TlsClient;

/// Why a check failed.
#[derive(Debug)]
pub enum CheckError {
    /// The backend refused, or could not be reached.
    Connect(io::Error),
    /// It was not over in time.
    TimedOut {
        /// The limit.
        limit: Duration,
        /// What was being done.
        step: Step,
    },
    /// The TLS handshake failed.
    Tls(io::Error),
    /// The backend speaks TLS, but another protocol in it than the one offered.
    Alpn,
    /// The connection broke, or was closed, before the answer was there.
    Lost(io::Error),
    /// What came is no HTTP response.
    Malformed(HeadError),
    /// One interim response (1xx) after the other came, and no final one.
    Interim,
    /// The status is not an expected one.
    Status {
        /// What came.
        came: u16,
        /// What was expected.
        expected: Vec<StatusRange>,
    },
    /// What came is not gRPC.
    NotGrpc(String),
    /// The call failed, with this status and message (`grpc-status`, `grpc-message`).
    GrpcStatus(u16, String),
    /// The service does not serve.
    NotServing(ServingStatus),
}

/// What a check does at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Connecting.
    Connect,
    /// The TLS handshake.
    Handshake,
    /// Sending a request, and waiting for the whole of its response head or message.
    Response,
}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "connect: {error}"),
            Self::TimedOut { limit, step } => match step {
                Step::Connect => write!(f, "no connection within {limit:?}"),
                Step::Handshake => write!(f, "no end of the TLS handshake within {limit:?}"),
                Step::Response => write!(f, "no complete answer within {limit:?}"),
            },
            Self::Tls(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                f.write_str("TLS: the backend closed the connection during the handshake")
            }
            Self::Tls(error) => write!(f, "TLS: {error}"),
            Self::Alpn => f.write_str("TLS: expected HTTP/2, which the backend did not agree to"),
            Self::Lost(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                f.write_str("the backend closed the connection before it had answered")
            }
            Self::Lost(error) => write!(f, "the connection broke: {error}"),
            Self::Malformed(error) => {
                write!(f, "expected an HTTP/1.1 response, but {}", error.reason())
            }
            Self::Interim => f.write_str("expected a final response, got interim ones (1xx) only"),
            Self::Status { came, expected } => {
                let expected: Vec<_> = expected.iter().map(ToString::to_string).collect();
                write!(f, "expected status {}, got {came}", expected.join(", "))
            }
            Self::NotGrpc(what) => write!(f, "expected a gRPC response, got {what}"),
            Self::GrpcStatus(status, message) => {
                let name = grpc::status_name(*status);
                write!(f, "expected SERVING, got grpc-status {status} ({name})")?;
                if message.is_empty() {
                    return Ok(());
                }
                write!(f, ": {message}")
            }
            Self::NotServing(status) => write!(f, "expected SERVING, got {status}"),
        }
    }
}

impl std::error::Error for CheckError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect(error) | Self::Tls(error) | Self::Lost(error) => Some(error),
            _ => None,
        }
    }
}

/// Runs `check` for at most `limit`; it notes what it is doing, for the error.
async fn limited(
    limit: Duration,
    check: impl AsyncFnOnce(&Cell<Step>) -> Result<(), CheckError>,
) -> Result<(), CheckError> {
    let step = Cell::new(Step::Connect);
    let result = timeout(limit, check(&step)).await;
    result.unwrap_or_else(|_| {
        let step = step.get();
        Err(CheckError::TimedOut { limit, step })
    })
}

/// A connection to `address`, secured if there is a `tls`.
async fn connect(
    address: SocketAddr,
    tls: Option<&TlsClient>,
    step: &Cell<Step>,
) -> Result<Stream, CheckError> {
    let stream = TcpStream::connect(address).await;
    let stream = stream.map_err(CheckError::Connect)?;
    let Some(tls) = tls else {
        step.set(Step::Response);
        return Ok(Stream::Plain(stream));
    };
    step.set(Step::Handshake);
    let stream = tls.connect(stream, address.ip()).await;
    let stream = stream.map_err(CheckError::Tls)?;
    step.set(Step::Response);
    Ok(Stream::Tls(stream))
}
