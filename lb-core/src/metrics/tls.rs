//! What is counted of TLS handshakes with clients and with backends.
//!
//! Invariant: each handshake that begins with a client is counted once, as done or by why it
//! failed; of those with backends the failures are.
//! Read next: `report/` (the series).

use super::Counter;
use crate::plan::TlsVersion;

/// Handshakes of one listener on one worker.
#[derive(Debug, Default)]
pub struct TlsCounters {
    full: [Counter; TlsVersion::ALL.len()],
    resumed: [Counter; TlsVersion::ALL.len()],
    failures: [Counter; TlsFailure::ALL.len()],
}

impl TlsCounters {
    /// Counts a handshake that was made.
    pub fn done(&self, version: TlsVersion, resumed: bool) {
        self.counters(resumed)[version as usize].increment();
    }

    /// Counts a handshake that failed.
    #[cold]
    pub fn failed(&self, failure: TlsFailure) {
        self.failures[failure as usize].increment();
    }

    /// Handshakes that were made: from the start, or going on with an earlier session.
    pub fn handshakes(&self, version: TlsVersion, resumed: bool) -> u64 {
        self.counters(resumed)[version as usize].get()
    }

    /// Handshakes that failed in this way.
    pub fn failures(&self, failure: TlsFailure) -> u64 {
        self.failures[failure as usize].get()
    }

    const fn counters(&self, resumed: bool) -> &[Counter; TlsVersion::ALL.len()] {
        if resumed { &self.resumed } else { &self.full }
    }
}

/// Why a handshake with a client came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlsFailure {
    /// The client sent an alert: it does not trust us, mostly.
    Alert,
    /// The client's certificate is missing or not good.
    ClientCertificate,
    /// The client went away, or its network.
    Closed,
    /// No version, suite, group or kind of signature in common.
    Incompatible,
    /// What came is no TLS.
    NotTls,
    /// What came is HTTP in the clear.
    PlainHttp,
    /// The client broke the rules of TLS.
    Protocol,
    /// More handshakes a second than the listener takes.
    Rate,
    /// It took too long.
    Timeout,
    /// No certificate has the name that was asked for.
    UnknownName,
}

impl TlsFailure {
    /// Every reason.
    pub const ALL: [Self; 10] = [
        Self::Alert,
        Self::ClientCertificate,
        Self::Closed,
        Self::Incompatible,
        Self::NotTls,
        Self::PlainHttp,
        Self::Protocol,
        Self::Rate,
        Self::Timeout,
        Self::UnknownName,
    ];

    /// As a label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Alert => "alert",
            Self::ClientCertificate => "client_certificate",
            Self::Closed => "closed",
            Self::Incompatible => "incompatible",
            Self::NotTls => "not_tls",
            Self::PlainHttp => "plain_http",
            Self::Protocol => "protocol",
            Self::Rate => "rate",
            Self::Timeout => "timeout",
            Self::UnknownName => "unknown_name",
        }
    }
}

/// Handshakes with the backends of one cluster that failed, on one worker; health checks not
/// counted.
#[derive(Debug, Default)]
pub struct BackendTlsCounters {
    failures: [Counter; BackendTlsFailure::ALL.len()],
}

impl BackendTlsCounters {
    /// Counts a handshake that failed.
    #[cold]
    pub fn failed(&self, failure: BackendTlsFailure) {
        self.failures[failure as usize].increment();
    }

    /// Handshakes that failed in this way.
    pub fn failures(&self, failure: BackendTlsFailure) -> u64 {
        self.failures[failure as usize].get()
    }
}

/// Why a handshake with a backend came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BackendTlsFailure {
    /// Its certificate is not good for another reason than those that have a name here.
    Certificate,
    /// It closed the connection, or its network did.
    Closed,
    /// Its certificate has expired, or is not valid yet.
    Expired,
    /// No version, suite or group in common.
    Incompatible,
    /// Its certificate is for other names.
    NameMismatch,
    /// What came is no TLS.
    NotTls,
    /// It broke the rules of TLS.
    Protocol,
    /// It sent an alert: it wants a certificate of ours or another name, mostly.
    Refused,
    /// It accepted the connection, and the handshake took too long.
    Timeout,
    /// Its certificate is of an authority that the cluster does not trust.
    UnknownAuthority,
}

impl BackendTlsFailure {
    /// Every reason.
    pub const ALL: [Self; 10] = [
        Self::Certificate,
        Self::Closed,
        Self::Expired,
        Self::Incompatible,
        Self::NameMismatch,
        Self::NotTls,
        Self::Protocol,
        Self::Refused,
        Self::Timeout,
        Self::UnknownAuthority,
    ];

    /// As a label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Closed => "closed",
            Self::Expired => "expired",
            Self::Incompatible => "incompatible",
            Self::NameMismatch => "name_mismatch",
            Self::NotTls => "not_tls",
            Self::Protocol => "protocol",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::UnknownAuthority => "unknown_authority",
        }
    }
}
