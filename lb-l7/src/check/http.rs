//! The HTTP check: a request, and a final response with an expected status.
//!
//! Invariant: at most one response head is held, and a head is parsed as strictly as any that a
//! backend sends: what fails a check would fail an exchange.
//! Read next: `../http1/response.rs` (the parser).

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use lb_core::plan::{HttpCheck, StatusRange, TlsCheck};
use lb_core::rt::Chunk;

use super::{CheckError, Step, connect, limited};
use crate::collect::HeadCollector;
use crate::http1::head::HeadError;
use crate::http1::response::{ResponseHead, ResponseRules, parse_response};
use crate::service::HEAD_BYTES_MAX;
use crate::stream::Stream;
use crate::tls::{TlsClient, TlsConfigError};

/// Interim responses that may come before the final one: 103 may be sent more than once.
const INTERIM_MAX: usize = 16;

/// A client for the HTTP and HTTPS checks of one cluster.
#[derive(Debug, Clone)]
pub struct HttpChecker {
    /// The request up to the value of Host.
    start: String,
    host: Option<String>,
    /// The request from behind the value of Host.
    rest: &'static str,
    expected: Vec<StatusRange>,
    rules: ResponseRules,
    tls: Option<TlsClient>,
}

impl HttpChecker {
    /// A client for `check`, over TLS if there is a `tls`. Made once for all checks of a cluster.
    ///
    /// # Errors
    /// When a name or a certificate of the plan is not what it should be.
    pub fn new(check: &HttpCheck, tls: Option<&TlsCheck>) -> Result<Self, TlsConfigError> {
        // A body that may be expected is said to be empty (RFC 9110 section 8.6).
        let rest = match &*check.method {
            "PATCH" | "POST" | "PUT" => {
                "\r\nUser-Agent: lb-health-check\r\nAccept: */*\r\nContent-Length: 0\r\n\
                 Connection: close\r\n\r\n"
            }
            _ => "\r\nUser-Agent: lb-health-check\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        };
        Ok(Self {
            start: format!("{} {} HTTP/1.1\r\nHost: ", check.method, check.path),
            host: check.host.clone(),
            rest,
            expected: check.expected.clone(),
            rules: ResponseRules {
                head_bytes_max: HEAD_BYTES_MAX,
                answers_head: check.method == "HEAD",
            },
            tls: tls
                .map(|tls| TlsClient::for_check(tls, &[b"http/1.1"]))
                .transpose()?,
        })
    }

    /// Checks what listens on `address`, within `limit`.
    ///
    /// # Errors
    /// What was expected, and what came.
    pub async fn check(&self, address: SocketAddr, limit: Duration) -> Result<(), CheckError> {
        limited(limit, async |step| self.ask(address, step).await).await
    }

    async fn ask(&self, address: SocketAddr, step: &Cell<Step>) -> Result<(), CheckError> {
        let stream = connect(address, self.tls.as_ref(), step).await?;
        let host = self.host.clone();
        let host = host.unwrap_or_else(|| address.to_string());
        let request = format!("{}{host}{}", self.start, self.rest);
        let sent = stream.send(Chunk::from_vec(request.into_bytes())).await;
        sent.map_err(CheckError::Lost)?;
        let status = self.final_status(&stream).await?;
        if self.expected.iter().any(|range| range.contains(status)) {
            return Ok(());
        }
        Err(CheckError::Status {
            came: status,
            expected: self.expected.clone(),
        })
    }

    async fn final_status(&self, stream: &Stream) -> Result<u16, CheckError> {
        let mut received = Received {
            stream,
            bytes: Chunk::empty(),
            behind: Chunk::empty(),
        };
        for _ in 0..=INTERIM_MAX {
            let head = received.head(&self.rules).await?;
            // 101 is final: nothing but another protocol follows.
            if !head.is_interim() || head.status == 101 {
                return Ok(head.status);
            }
            received.bytes.advance(head.len());
        }
        Err(CheckError::Interim)
    }
}

/// What a backend sends, as heads.
struct Received<'s> {
    stream: &'s Stream,
    bytes: Chunk,
    /// What did not fit behind `bytes`.
    behind: Chunk,
}

impl Received<'_> {
    /// The head at the start of `bytes`, when all of it is there.
    async fn head(&mut self, rules: &ResponseRules) -> Result<ResponseHead, CheckError> {
        if self.bytes.is_empty() {
            self.bytes = self.piece().await?;
        }
        if let Some(head) = self.parse(rules)? {
            return Ok(head);
        }
        let mut collector = HeadCollector::new(HEAD_BYTES_MAX);
        let mut piece = std::mem::replace(&mut self.bytes, Chunk::empty());
        self.behind = loop {
            if let Some(behind) = collector.add(piece) {
                break behind;
            }
            piece = self.piece().await?;
        };
        self.bytes = collector.finish();
        // An empty line first is not an end of a head, and nothing that a response starts with.
        self.parse(rules)?
            .ok_or(CheckError::Malformed(HeadError::LineEnd))
    }

    fn parse(&self, rules: &ResponseRules) -> Result<Option<ResponseHead>, CheckError> {
        parse_response(&self.bytes, rules).map_err(CheckError::Malformed)
    }

    async fn piece(&mut self) -> Result<Chunk, CheckError> {
        if !self.behind.is_empty() {
            return Ok(std::mem::replace(&mut self.behind, Chunk::empty()));
        }
        match self.stream.recv().await {
            Ok(piece) if piece.is_empty() => {
                Err(CheckError::Lost(io::ErrorKind::UnexpectedEof.into()))
            }
            Ok(piece) => Ok(piece),
            Err(error) => Err(CheckError::Lost(error)),
        }
    }
}
