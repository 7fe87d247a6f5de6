//! What becomes known of peers that break the rules of HTTP/2, or flood: beside the counters, why.
//!
//! Invariant: each connection is reported once, when it ends.
//! Read next: `core.rs` (who finds offences), `budget.rs` (floods).

use std::net::SocketAddr;
use std::sync::OnceLock;

use super::frame::{ConnectionError, ErrorCode};

/// Why a connection was ended.
#[derive(Debug, Clone, Copy)]
pub struct Offence<'a> {
    /// Who is at its other end.
    pub peer: OffendingPeer<'a>,
    /// What the peer was told.
    pub code: ErrorCode,
    /// What it has done.
    pub reason: &'static str,
}

/// Who has broken the rules.
#[derive(Debug, Clone, Copy)]
pub enum OffendingPeer<'a> {
    /// A client.
    Client {
        /// The address of ours that it has come to, if that is known still.
        local: Option<SocketAddr>,
        /// Where it is.
        address: SocketAddr,
    },
    /// A backend.
    Backend {
        /// Its cluster.
        cluster: &'a str,
        /// Its address.
        backend: &'a str,
    },
}

/// What is told of each offence.
pub type OffenceReport = fn(&Offence<'_>);

static REPORT: OnceLock<OffenceReport> = OnceLock::new();

/// Has offences reported. The first call in a process counts; `report` is called by workers, and so
/// does not wait.
pub fn report_offences(report: OffenceReport) {
    let _ = REPORT.set(report);
}

/// Reports what a connection was ended for, if the peer is to blame.
pub(super) fn report(error: Option<ConnectionError>, peer: OffendingPeer<'_>) {
    if let (Some(report), Some(ConnectionError { code, reason })) = (REPORT.get(), error)
        && code != ErrorCode::NO_ERROR
    {
        report(&Offence { peer, code, reason });
    }
}
