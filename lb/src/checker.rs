//! What a health check of any kind does, ready to be done again and again, and what came of it.
//!
//! Invariant: made once for a cluster on the control thread, where reading certificates costs
//! nobody anything; a check itself runs on a worker and ends within its limit.
//! Read next: `worker/checks.rs` (who asks, and when), `lb_l4` and `lb_l7::check` (the checks).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use lb_core::plan::{Check, UdpCheck};
use lb_l7::check::{GrpcChecker, HttpChecker};

/// A client for the checks of one cluster.
#[derive(Debug)]
pub(crate) enum Checker {
    Grpc(GrpcChecker),
    Http(HttpChecker),
    Tcp,
    Udp(UdpCheck),
}

impl Checker {
    /// The error says what of the plan is not what it should be.
    pub(crate) fn new(check: &Check) -> Result<Self, String> {
        match check {
            Check::Grpc(check) => GrpcChecker::new(check)
                .map(Self::Grpc)
                .map_err(|error| error.to_string()),
            Check::Http(check) => HttpChecker::new(check, None)
                .map(Self::Http)
                .map_err(|error| error.to_string()),
            Check::Https(check, tls) => HttpChecker::new(check, Some(tls))
                .map(Self::Http)
                .map_err(|error| error.to_string()),
            Check::Tcp => Ok(Self::Tcp),
            Check::Udp(check) => Ok(Self::Udp(check.clone())),
        }
    }

    /// Checks what listens on `address`; the error says what was expected, and what came.
    pub(crate) async fn check(&self, address: SocketAddr, limit: Duration) -> Result<(), String> {
        match self {
            Self::Grpc(grpc) => {
                let result = grpc.check(address, limit).await;
                result.map_err(|error| error.to_string())
            }
            Self::Http(http) => {
                let result = http.check(address, limit).await;
                result.map_err(|error| error.to_string())
            }
            Self::Tcp => {
                let result = lb_l4::check_tcp(address, limit).await;
                result.map_err(|error| error.to_string())
            }
            Self::Udp(udp) => {
                let result = lb_l4::check_udp(address, udp, limit).await;
                result.map_err(|error| error.to_string())
            }
        }
    }
}

/// Why the last check of a backend failed. The worker that checks it writes, anybody reads.
#[derive(Debug, Default)]
pub(crate) struct LastError(ArcSwapOption<String>);

impl LastError {
    /// The result of a check.
    pub(crate) fn set(&self, result: &Result<(), String>) {
        self.0.store(result.as_ref().err().cloned().map(Arc::new));
    }

    /// `None` if the last check succeeded, or there was none yet.
    pub(crate) fn get(&self) -> Option<String> {
        self.0.load().as_deref().cloned()
    }
}
