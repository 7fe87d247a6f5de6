//! The gRPC check: one call of `grpc.health.v1.Health/Check`, as kubelet's gRPC probes make it.
//!
//! Invariant: only SERVING, in a call that ended well, is a success; a message is taken in up to
//! [`MESSAGE_BYTES_MAX`]. Source: the gRPC health checking protocol (grpc/proto/health/v1), and
//! "gRPC over HTTP2". Read next: `../stream.rs` (HTTP/2 over our streams).

use std::fmt;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use http::uri::{Authority, Uri};
use http::{HeaderMap, Method, Request, Response, Version};
use lb_core::plan::GrpcCheck;
use lb_core::rt::{Either, select};

use super::{CheckError, Step, connect, limited};
use crate::stream::{Stream, TokioStream};
use crate::tls::{TlsClient, TlsConfigError};

const METHOD_PATH: &str = "/grpc.health.v1.Health/Check";

/// Longest answer; the one expected has seven bytes.
const MESSAGE_BYTES_MAX: usize = 1024;

/// Longest `grpc-message` that an error repeats.
const TEXT_BYTES_MAX: usize = 200;

/// A client for the gRPC checks of one cluster.
#[derive(Debug, Clone)]
pub struct GrpcChecker {
    message: Bytes,
    authority: Option<Authority>,
    tls: Option<TlsClient>,
}

/// Why no client can be made for a gRPC check.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GrpcCheckerError {
    /// The authority is no host with an optional port.
    #[error("{0:?} is not a host with an optional port")]
    Authority(String),
    /// TLS cannot be spoken as the plan asks.
    #[error(transparent)]
    Tls(#[from] TlsConfigError),
}

/// What a service says of itself (`HealthCheckResponse.ServingStatus`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServingStatus {
    /// UNKNOWN, also when nothing is said.
    Unknown,
    /// SERVING.
    Serving,
    /// NOT_SERVING.
    NotServing,
    /// SERVICE_UNKNOWN.
    ServiceUnknown,
    /// A number that has no name.
    Other(u64),
}

impl GrpcChecker {
    /// A client for `check`. Made once for all checks of a cluster.
    ///
    /// # Errors
    /// When a name or a certificate of the plan is not what it should be.
    pub fn new(check: &GrpcCheck) -> Result<Self, GrpcCheckerError> {
        let authority = check.authority.as_ref().map(|text| {
            let parsed = text.parse::<Authority>();
            parsed.map_err(|_| GrpcCheckerError::Authority(text.clone()))
        });
        let tls = check.tls.as_ref();
        Ok(Self {
            message: encode(&check.service),
            authority: authority.transpose()?,
            tls: tls
                .map(|tls| TlsClient::for_check(tls, &[b"h2"]))
                .transpose()?,
        })
    }

    /// Checks what listens on `address`, within `limit`.
    ///
    /// # Errors
    /// What was expected, and what came.
    pub async fn check(&self, address: SocketAddr, limit: Duration) -> Result<(), CheckError> {
        limited(limit, async |step| {
            let stream = connect(address, self.tls.as_ref(), step).await?;
            step.set(Step::Response);
            self.call(stream, self.request(address, limit)).await
        })
        .await
    }

    fn request(&self, address: SocketAddr, limit: Duration) -> Request<()> {
        let authority = self.authority.as_ref();
        let authority = authority.map_or_else(|| address.to_string(), ToString::to_string);
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let uri = Uri::builder()
            .scheme(scheme)
            .authority(authority)
            .path_and_query(METHOD_PATH);
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        // An authority that was parsed, or an address, makes a URI.
        *request.uri_mut() = uri.build().unwrap_or_default();
        let headers = request.headers_mut();
        let mut set = |name: &'static str, value: &'static str| {
            headers.insert(name, http::HeaderValue::from_static(value));
        };
        set("content-type", "application/grpc");
        set("te", "trailers");
        set("user-agent", "lb-health-check");
        // At most eight digits ("gRPC over HTTP2", Timeout).
        let millis = limit.as_millis().clamp(1, 99_999_999);
        if let Ok(value) = format!("{millis}m").parse() {
            headers.insert("grpc-timeout", value);
        }
        request
    }

    async fn call(&self, stream: Stream, request: Request<()>) -> Result<(), CheckError> {
        if let Stream::Tls(tls) = &stream
            && tls.alpn_protocol() != Some(b"h2")
        {
            return Err(CheckError::Alpn);
        }
        let mut builder = h2::client::Builder::new();
        builder.enable_push(false).max_header_list_size(16 * 1024);
        let handshake = builder.handshake::<_, Bytes>(TokioStream::new(stream));
        let (client, connection) = handshake.await.map_err(lost)?;
        let mut answer = pin!(self.answer(client, request));
        match select(answer.as_mut(), connection).await {
            Either::First(result) => result,
            // Answered and closed at once, or broken: the answer knows.
            Either::Second(_) => answer.await,
        }
    }

    async fn answer(
        &self,
        client: SendRequest<Bytes>,
        request: Request<()>,
    ) -> Result<(), CheckError> {
        let mut client = client.ready().await.map_err(lost)?;
        let (response, mut body) = client.send_request(request, false).map_err(lost)?;
        body.send_data(self.message.clone(), true).map_err(lost)?;
        let response = response.await.map_err(lost)?;
        is_grpc(&response)?;
        if response.headers().contains_key("grpc-status") {
            succeeded(response.headers())?; // of a response without a message
        }
        let mut body = response.into_body();
        let message = receive(&mut body).await?;
        let trailers = body.trailers().await.map_err(lost)?;
        succeeded(&trailers.unwrap_or_default())?;
        match decode(&message) {
            Some(ServingStatus::Serving) => Ok(()),
            Some(other) => Err(CheckError::NotServing(other)),
            None => Err(not_grpc("a message that is not a HealthCheckResponse")),
        }
    }
}

impl fmt::Display for ServingStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("UNKNOWN"),
            Self::Serving => f.write_str("SERVING"),
            Self::NotServing => f.write_str("NOT_SERVING"),
            Self::ServiceUnknown => f.write_str("SERVICE_UNKNOWN"),
            Self::Other(number) => write!(f, "the serving status {number}"),
        }
    }
}

/// The name of a `grpc-status`.
pub(super) const fn status_name(status: u16) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    if (status as usize) < NAMES.len() {
        NAMES[status as usize]
    } else {
        "without a name"
    }
}

fn lost(error: h2::Error) -> CheckError {
    if error.is_io() {
        let error = error.into_io();
        return CheckError::Lost(error.unwrap_or_else(|| std::io::ErrorKind::Other.into()));
    }
    not_grpc(&format!("an HTTP/2 error: {error}"))
}

fn not_grpc(what: &str) -> CheckError {
    CheckError::NotGrpc(what.to_owned())
}

fn is_grpc(response: &Response<RecvStream>) -> Result<(), CheckError> {
    let status = response.status();
    if status != 200 {
        return Err(not_grpc(&format!("HTTP status {}", status.as_u16())));
    }
    let kind = text(response.headers(), "content-type");
    if kind.starts_with("application/grpc") {
        Ok(())
    } else {
        Err(not_grpc(&format!("the content type {kind:?}")))
    }
}

/// Whether the headers or trailers say that the call ended well.
fn succeeded(headers: &HeaderMap) -> Result<(), CheckError> {
    let status = text(headers, "grpc-status");
    match status.parse() {
        Ok(0) => Ok(()),
        Ok(status) => {
            let message = text(headers, "grpc-message");
            Err(CheckError::GrpcStatus(status, message))
        }
        Err(_) if status.is_empty() => Err(not_grpc("no grpc-status")),
        Err(_) => Err(not_grpc(&format!("the grpc-status {status:?}"))),
    }
}

/// A field's value, cut to what a log line takes; empty if there is none.
fn text(headers: &HeaderMap, name: &str) -> String {
    let value = headers.get(name).map_or(&[][..], |value| value.as_bytes());
    let value = &value[..value.len().min(TEXT_BYTES_MAX)];
    value.escape_ascii().to_string()
}

/// The bytes of all messages.
async fn receive(body: &mut RecvStream) -> Result<Vec<u8>, CheckError> {
    let mut message = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(lost)?;
        if message.len() + data.len() > MESSAGE_BYTES_MAX {
            return Err(not_grpc("a message of more than 1024 bytes"));
        }
        message.extend_from_slice(&data);
        body.flow_control()
            .release_capacity(data.len())
            .map_err(lost)?;
    }
    Ok(message)
}

/// A `HealthCheckRequest` in its frame: not compressed, its length, then field 1 if not empty.
fn encode(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0A);
        let mut rest = service.len();
        while rest > 0x7F {
            message.push(0x80 | (rest & 0x7F) as u8);
            rest >>= 7;
        }
        message.push(rest as u8);
        message.extend_from_slice(service.as_bytes());
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a service's name in a valid plan has at most 255 bytes"
    )]
    let [a, b, c, d] = (message.len() as u32).to_be_bytes();
    [&[0, a, b, c, d], &*message].concat().into()
}

/// The status in a framed `HealthCheckResponse`; `None` if it is no such thing.
fn decode(framed: &[u8]) -> Option<ServingStatus> {
    let (&[is_compressed, a, b, c, d], mut rest) = framed.split_first_chunk::<5>()?;
    let len = u32::from_be_bytes([a, b, c, d]);
    if is_compressed != 0 || usize::try_from(len) != Ok(rest.len()) {
        return None;
    }
    let mut status = 0;
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        match (key >> 3, key & 7) {
            (0, _) => return None,
            (1, 0) => status = varint(&mut rest)?,
            (_, 0) => drop(varint(&mut rest)?),
            (_, 1) => rest = rest.get(8..)?,
            (_, 2) => {
                let len = varint(&mut rest)?;
                rest = rest.get(usize::try_from(len).ok()?..)?;
            }
            (_, 5) => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(match status {
        0 => ServingStatus::Unknown,
        1 => ServingStatus::Serving,
        2 => ServingStatus::NotServing,
        3 => ServingStatus::ServiceUnknown,
        other => ServingStatus::Other(other),
    })
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framed(message: &[u8]) -> Vec<u8> {
        let len = u32::try_from(message.len()).unwrap();
        [&[0], &len.to_be_bytes()[..], message].concat()
    }

    #[test]
    fn a_request_names_its_service() {
        assert_eq!(&*encode(""), [0, 0, 0, 0, 0]);
        assert_eq!(&*encode("ab"), [0, 0, 0, 0, 4, 0x0A, 2, b'a', b'b']);
        let long = encode(&"x".repeat(200));
        assert_eq!(long[..8], [0, 0, 0, 0, 203, 0x0A, 0xC8, 0x01]);
        assert_eq!(long.len(), 208);
    }

    #[test]
    fn an_answer_says_a_status() {
        let status = |message: &[u8]| decode(&framed(message));
        assert_eq!(status(&[]), Some(ServingStatus::Unknown));
        assert_eq!(status(&[8, 1]), Some(ServingStatus::Serving));
        assert_eq!(status(&[8, 2]), Some(ServingStatus::NotServing));
        assert_eq!(status(&[8, 3]), Some(ServingStatus::ServiceUnknown));
        assert_eq!(status(&[8, 0x81, 1]), Some(ServingStatus::Other(129)));
        assert_eq!(
            status(&[8, 2, 8, 1]),
            Some(ServingStatus::Serving),
            "the last counts"
        );
        // Fields that we do not know: 2 as a varint, 3 as bytes, 4 and 5 of fixed size.
        let others = [
            &[16, 200, 1, 26, 2, 0, 0, 33][..],
            &[9; 8],
            &[45],
            &[9; 4],
            &[8, 1],
        ];
        assert_eq!(status(&others.concat()), Some(ServingStatus::Serving));
    }

    #[test]
    fn what_is_no_answer_is_none() {
        assert_eq!(decode(&[]), None);
        assert_eq!(decode(&[0, 0, 0, 0, 3, 8, 1]), None, "shorter than it says");
        assert_eq!(decode(&[1, 0, 0, 0, 2, 8, 1]), None, "compressed");
        for message in [
            &[8][..],
            &[8, 0x80],
            &[0, 1],
            &[26, 9, 1],
            &[33, 1],
            &[11],
            &[8; 1],
        ] {
            assert_eq!(decode(&framed(message)), None, "{message:?}");
        }
        assert_eq!(decode(&framed(&[&[8][..], &[0xFF; 10]].concat())), None);
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            decode(&bytes);
            decode(&framed(&bytes));
        }
    }
}
