//! Why a handshake with a backend came to nothing: a kind to count, and words for whoever has to
//! mend it, since a client sees but a 503.
//!
//! Invariant: every failure is counted once, has one kind, and says what to do.
//! Read next: `client.rs` (whose handshakes they are), `../reach.rs` (who reports them).

use std::fmt;
use std::io;
use std::sync::OnceLock;

use lb_core::balance::{Backend, Cluster};
use lb_core::metrics::BackendTlsFailure;
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

/// What is told of a handshake with a backend that failed: cluster, backend, and what was wrong.
pub type BackendReport = fn(&str, &str, &BackendRefusal);

static BACKEND_REPORT: OnceLock<BackendReport> = OnceLock::new();

/// Has failures of handshakes with backends reported. The first call in a process counts; `report`
/// is called by workers, and so does not wait.
pub fn report_backend_failures(report: BackendReport) {
    let _ = BACKEND_REPORT.set(report);
}

/// A handshake with a backend that failed.
#[derive(Debug)]
pub struct BackendRefusal {
    /// The kind, which is counted.
    pub kind: BackendTlsFailure,
    /// What was wrong, in words.
    pub reason: Box<str>,
    /// What to do about it.
    pub hint: &'static str,
}

/// How a handshake with a backend may end but well.
#[derive(Debug, Clone, Copy)]
pub(crate) enum HandshakeEnd<'a> {
    Failed(&'a io::Error),
    /// By this alert, which came behind it: a server of TLS 1.3 looks at our certificate when we
    /// are done already.
    Alerted(u8),
    /// The deadline for a connection came first.
    Overdue,
    /// It did not agree to HTTP/2.
    NoHttp2,
}

/// What it means that the backend has sent an alert.
pub(crate) fn alerted(alert: u8) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        Error::AlertReceived(alert.into()),
    )
}

/// Counts and reports a handshake of `worker`.
#[cold]
pub(crate) fn backend_failed(
    cluster: &Cluster,
    backend: &Backend,
    worker: usize,
    end: HandshakeEnd<'_>,
) {
    let refusal = BackendRefusal::of(end);
    cluster.counters().of(worker).tls.failed(refusal.kind);
    if let Some(report) = BACKEND_REPORT.get() {
        report(&cluster.name, &backend.name, &refusal);
    }
}

impl BackendRefusal {
    fn of(end: HandshakeEnd<'_>) -> Self {
        use BackendTlsFailure as Kind;
        let error = match end {
            HandshakeEnd::Failed(error) => error,
            HandshakeEnd::Alerted(alert) => {
                return Self::of_tls(&Error::AlertReceived(alert.into()));
            }
            HandshakeEnd::Overdue => {
                let hint = "does it speak TLS at this port? if it is slow, raise connect_timeout";
                let reason = "no end of the handshake within the connect timeout";
                return Self::new(Kind::Timeout, reason, hint);
            }
            HandshakeEnd::NoHttp2 => {
                let hint = "set protocol: http1 for the cluster, or have it offer h2 by ALPN";
                let reason = "the backend did not agree to HTTP/2";
                return Self::new(Kind::Incompatible, reason, hint);
            }
        };
        let inner = error.get_ref();
        match inner.and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(error) => Self::of_tls(error),
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                let reason = "the backend closed the connection in the middle of it";
                Self::new(Kind::Closed, reason, CLOSED_HINT)
            }
            None => Self::new(Kind::Closed, &error.to_string(), CLOSED_HINT),
        }
    }

    fn new(kind: BackendTlsFailure, reason: &str, hint: &'static str) -> Self {
        Self {
            kind,
            reason: reason.into(),
            hint,
        }
    }

    fn of_tls(error: &Error) -> Self {
        use BackendTlsFailure as Kind;
        let (kind, hint) = match error {
            Error::AlertReceived(alert) => (Kind::Refused, refused_hint(*alert)),
            Error::InvalidCertificate(what) => of_certificate(what),
            Error::PeerIncompatible(_) => (
                Kind::Incompatible,
                "look at the versions and suites of the backend, and at min_version of the \
                 cluster's tls",
            ),
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => (
                Kind::NotTls,
                "the backend does not speak TLS at this port: take tls from the cluster, or \
                 correct the port",
            ),
            _ => (Kind::Protocol, "the backend's own log may say more"),
        };
        Self::new(kind, &error.to_string(), hint)
    }
}

impl fmt::Display for BackendRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

const CLOSED_HINT: &str = "does it speak TLS at this port? its own log may say more";

const fn of_certificate(what: &CertificateError) -> (BackendTlsFailure, &'static str) {
    use BackendTlsFailure as Kind;
    match what {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => (
            Kind::Expired,
            "renew the backend's certificate; if its dates are good, look at this machine's clock",
        ),
        CertificateError::UnknownIssuer => (
            Kind::UnknownAuthority,
            "name a file with the authority of the backend's certificate in verify of the \
             cluster's tls, or have the backend send its intermediate certificates",
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (
            Kind::NameMismatch,
            "set server_name of the cluster's tls to a name that the certificate has",
        ),
        _ => (
            Kind::Certificate,
            "have a certificate made for the backend that is for servers and signed by the \
             authority of verify",
        ),
    }
}

const fn refused_hint(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::CertificateRequired
        | AlertDescription::HandshakeFailure
        | AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied => {
            "the backend may want another certificate of ours: certificate and key of the \
             cluster's tls"
        }
        AlertDescription::CertificateExpired | AlertDescription::CertificateRevoked => {
            "renew the certificate of the cluster's tls, which is shown to backends"
        }
        AlertDescription::UnrecognisedName => {
            "the backend serves other names: server_name of the cluster's tls"
        }
        AlertDescription::NoApplicationProtocol => {
            "the backend does not speak this version of HTTP: protocol of the cluster"
        }
        AlertDescription::ProtocolVersion => {
            "the backend speaks other versions: min_version of the cluster's tls"
        }
        _ => "the backend's own log may say why",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(error: Error) -> BackendTlsFailure {
        let error = io::Error::new(io::ErrorKind::InvalidData, error);
        BackendRefusal::of(HandshakeEnd::Failed(&error)).kind
    }

    #[test]
    fn each_failure_has_its_kind() {
        use BackendTlsFailure as Kind;
        let cases = [
            (CertificateError::Expired, Kind::Expired),
            (CertificateError::NotValidYet, Kind::Expired),
            (CertificateError::UnknownIssuer, Kind::UnknownAuthority),
            (CertificateError::NotValidForName, Kind::NameMismatch),
            (CertificateError::InvalidPurpose, Kind::Certificate),
        ];
        for (error, expected) in cases {
            assert_eq!(kind(Error::InvalidCertificate(error)), expected);
        }
        let alert = Error::AlertReceived(AlertDescription::CertificateRequired);
        assert_eq!(kind(alert), Kind::Refused);
        let plain = InvalidMessage::InvalidContentType;
        assert_eq!(kind(plain.into()), Kind::NotTls);
        assert_eq!(kind(Error::EncryptError), Kind::Protocol);
        let eof = io::Error::from(io::ErrorKind::UnexpectedEof);
        let closed = BackendRefusal::of(HandshakeEnd::Failed(&eof));
        assert_eq!(closed.kind, Kind::Closed);
        assert_eq!(
            BackendRefusal::of(HandshakeEnd::Overdue).kind,
            Kind::Timeout
        );
    }
}
