//! What is known of a connection by its TLS handshake, for logs and for header fields.
//!
//! Invariant: nothing in here is secret.
//! Read next: `../connection.rs` (who is told).

use lb_core::plan::TlsVersion;
use rustls::{CommonState, HandshakeKind, ProtocolVersion};

use super::client_auth::ClientCertificate;
use super::policies::ClientPolicy;

/// What a handshake agreed on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsFacts {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite, by its IANA name.
    pub suite: &'static str,
    /// The name that the client asked for, in lower case.
    pub server_name: Option<String>,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
    /// The subject of the certificate that the client proved to own.
    pub client_subject: Option<String>,
    /// The rest of what it says.
    pub client: Option<ClientCertificate>,
    /// Field lines that tell backends of the client's certificate, each with its CRLF; none where
    /// it is not asked for one.
    pub client_fields: Vec<u8>,
    /// Where names differ in what is asked of clients: by which of them it was made.
    pub(crate) policy: Option<ClientPolicy>,
}

impl TlsFacts {
    /// What the library knows; with what a client has shown if `is_server`.
    pub(super) fn of(common: &CommonState, is_server: bool) -> Self {
        let version = match common.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "TLSv1.2",
        };
        let suite = common.negotiated_cipher_suite();
        let suite = suite.and_then(|suite| suite.suite().as_str());
        let shown = common.peer_certificates().and_then(<[_]>::first);
        let client = shown.filter(|_| is_server);
        let client = client.and_then(|der| ClientCertificate::of(der));
        Self {
            version,
            suite: suite.map_or("", |name| name),
            server_name: None,
            resumed: common.handshake_kind() == Some(HandshakeKind::Resumed),
            client_subject: client.as_ref().map(|client| client.subject.clone()),
            client,
            client_fields: Vec::new(),
            policy: None,
        }
    }

    /// The field lines, with ingress-nginx's names; the client was asked for its certificate.
    pub(super) fn tell_backends(&mut self) {
        let mut text = String::new();
        match &self.client {
            Some(ClientCertificate {
                subject,
                issuer,
                serial,
                fingerprint,
            }) => {
                text.push_str("ssl-client-verify: SUCCESS\r\n");
                let fields = [
                    ("ssl-client-subject-dn: ", subject),
                    ("ssl-client-issuer-dn: ", issuer),
                    ("ssl-client-serial: ", serial),
                    ("ssl-client-fingerprint: ", fingerprint),
                ];
                for (name, value) in fields {
                    text.extend([name, value, "\r\n"]);
                }
            }
            None => text.push_str("ssl-client-verify: NONE\r\n"),
        }
        self.client_fields = text.into_bytes();
    }

    /// The version, to count by.
    #[must_use]
    pub fn tls_version(&self) -> TlsVersion {
        match self.version {
            "TLSv1.3" => TlsVersion::V1_3,
            _ => TlsVersion::V1_2,
        }
    }
}
