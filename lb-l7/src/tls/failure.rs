//! Why a handshake with a client came to nothing: a kind to count, and words for whoever has to
//! find out.
//!
//! Invariant: every failure has one kind, and says what to look at.
//! Read next: `server.rs` (where they come from), `backend_failure.rs` (likewise of backends).

use std::fmt;
use std::io;

use lb_core::metrics::TlsFailure;
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

/// A handshake that failed.
#[derive(Debug)]
pub struct TlsRefusal {
    /// The kind, which is counted.
    pub kind: TlsFailure,
    /// The server name that the client asked for, as far as it came.
    pub server_name: Option<Box<str>>,
    /// What was wrong, in words.
    pub reason: Box<str>,
}

impl TlsRefusal {
    pub(super) fn of(error: &io::Error, server_name: Option<Box<str>>) -> Self {
        let inner = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<Error>());
        let (kind, reason) = match inner {
            Some(error) => of_tls(error),
            None if error.kind() == io::ErrorKind::UnexpectedEof => (
                TlsFailure::Closed,
                "the client closed the connection in the middle of it".to_owned(),
            ),
            None => (TlsFailure::Closed, error.to_string()),
        };
        Self {
            kind,
            server_name,
            reason: reason.into(),
        }
    }

    pub(super) fn new(kind: TlsFailure, reason: &str) -> Self {
        Self {
            kind,
            server_name: None,
            reason: reason.into(),
        }
    }
}

impl fmt::Display for TlsRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

fn of_tls(error: &Error) -> (TlsFailure, String) {
    let (kind, hint) = match error {
        Error::AlertReceived(alert) => (TlsFailure::Alert, alert_hint(*alert)),
        Error::PeerIncompatible(what) => (TlsFailure::Incompatible, incompatible_hint(what)),
        Error::NoCertificatesPresented => (
            TlsFailure::ClientCertificate,
            "the client showed no certificate, and the listener requires one",
        ),
        Error::InvalidCertificate(what) => (TlsFailure::ClientCertificate, certificate_hint(what)),
        Error::General(text) if text.contains("no server certificate") => (
            TlsFailure::UnknownName,
            "no certificate has the name, and unknown names are refused",
        ),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            (TlsFailure::NotTls, "what came is no TLS")
        }
        _ => (TlsFailure::Protocol, ""),
    };
    let reason = match hint {
        "" => error.to_string(),
        hint => format!("{hint} ({error})"),
    };
    (kind, reason)
}

const fn alert_hint(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::UnknownCA => {
            "the client does not trust the authority of our certificate; is an intermediate \
             certificate missing in its file?"
        }
        AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
            "the client refuses our certificate: its name, its date or its authority"
        }
        AlertDescription::CertificateExpired => "the client says that our certificate has expired",
        AlertDescription::ProtocolVersion => "the client speaks no version of TLS that we do",
        _ => "the client ended it",
    }
}

const fn incompatible_hint(what: &PeerIncompatible) -> &'static str {
    match what {
        PeerIncompatible::NoCipherSuitesInCommon => "no cipher suite is the client's and ours",
        PeerIncompatible::NoKxGroupsInCommon => "no group of key exchange is the client's and ours",
        PeerIncompatible::NoSignatureSchemesInCommon => {
            "the client cannot verify the key of our certificate"
        }
        PeerIncompatible::Tls12NotOfferedOrEnabled
        | PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
        | PeerIncompatible::SignatureAlgorithmsExtensionRequired
        | PeerIncompatible::SupportedVersionsExtensionRequired => {
            "the client offers no version of TLS that we speak"
        }
        _ => "the client and we have too little in common",
    }
}

const fn certificate_hint(what: &CertificateError) -> &'static str {
    match what {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the client's certificate has expired"
        }
        CertificateError::Revoked => "the client's certificate was revoked",
        CertificateError::ExpiredRevocationList
        | CertificateError::ExpiredRevocationListContext { .. } => {
            "the list of what the client's authority has revoked (crl) is overdue: renew the file, \
             or set crl_overdue: use"
        }
        CertificateError::UnknownIssuer => {
            "the client's certificate is not from an authority that the listener trusts"
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "the client's certificate is not for clients"
        }
        _ => "the client's certificate is not good",
    }
}
