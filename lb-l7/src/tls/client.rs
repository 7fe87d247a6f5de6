//! Our side of TLS to a backend: what is offered, and which certificate is good enough.
//!
//! Invariant: a configuration that verifies cannot be talked out of it; one that does not was
//! asked for by name. Read next: `stream.rs` (the handshake).

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use lb_core::plan::{BackendTls, TlsCheck, Verify};
use lb_core::rt::TcpStream;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::certificate::{CertificateError, ServerCertificate};
use super::server::{provider, versions};
use super::stream::TlsStream;

/// How connections to the backends of one cluster are secured; made once, used by all.
#[derive(Debug, Clone)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
    /// What it was made of, where that is a cluster's.
    plan: Option<Arc<BackendTls>>,
}

/// Why TLS cannot be spoken as a plan asks.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TlsConfigError {
    /// A certificate to verify by cannot be read, or is none; with its position, from 0.
    #[error("certificate {0} to verify by: {1}")]
    Root(usize, rustls::Error),
    /// A list of revoked certificates cannot be read; with its position, from 0.
    #[error("list {0} of revoked certificates: {1}")]
    Revoked(usize, String),
    /// A certificate, or its key, cannot be used; with its name.
    #[error("certificate {0}: {1}")]
    Certificate(String, CertificateError),
    /// The name is neither a DNS name nor an IP address.
    #[error("the server name {0:?} is neither a DNS name nor an IP address")]
    ServerName(String),
    /// There is nothing to show to clients.
    #[error("there is no certificate")]
    NoCertificate,
    /// The library refuses what is asked of it.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

impl TlsClient {
    /// A client that offers the protocols `alpn`, in this order; none leaves the extension out.
    /// Sessions are not resumed: a check that is to prove something makes a whole handshake.
    ///
    /// # Errors
    /// When a name or a certificate of the plan is not what it should be.
    pub fn for_check(check: &TlsCheck, alpn: &[&[u8]]) -> Result<Self, TlsConfigError> {
        let tls = BackendTls {
            verify: check.verify.clone(),
            server_name: check.server_name.clone(),
            resumption: false,
            ..BackendTls::default()
        };
        Self::new(&tls, alpn)
    }

    /// A client for the exchanges of a cluster, that offers `alpn`.
    ///
    /// # Errors
    /// As [`TlsClient::for_check`].
    pub fn for_backends(plan: &Arc<BackendTls>, alpn: &[&[u8]]) -> Result<Self, TlsConfigError> {
        let client = Self::new(plan, alpn)?;
        Ok(Self {
            plan: Some(Arc::clone(plan)),
            ..client
        })
    }

    pub(super) const fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }

    fn new(plan: &BackendTls, alpn: &[&[u8]]) -> Result<Self, TlsConfigError> {
        let server_name = plan.server_name.clone().map(|name| {
            let parsed = ServerName::try_from(name.clone());
            parsed.map_err(|_: InvalidDnsNameError| TlsConfigError::ServerName(name))
        });
        let provider = Arc::new(provider(&[], &[]));
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions(plan.min_version, &[]))?;
        let builder = match &plan.verify {
            Verify::Off => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate { provider })),
            Verify::Roots(roots) => builder.with_root_certificates(root_store(roots)?),
        };
        let mut config = match &plan.certificate {
            Some(certificate) => {
                let shown = ServerCertificate::of(certificate).map_err(|error| {
                    TlsConfigError::Certificate(certificate.name.clone(), error)
                })?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(
                    &shown.key,
                ))))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config.enable_secret_extraction = true; // for `record.rs`
        if !plan.resumption {
            config.resumption = Resumption::disabled();
        }
        Ok(Self {
            config: Arc::new(config),
            server_name: server_name.transpose()?,
            plan: None,
        })
    }

    /// Makes the handshake on `stream`, a new connection to `address`, whose certificate must
    /// bear that address where no name is configured.
    ///
    /// # Errors
    /// What broke the connection; as `InvalidData` with a `rustls::Error` in it what was wrong
    /// with the handshake.
    pub async fn connect(&self, stream: TcpStream, address: IpAddr) -> io::Result<TlsStream> {
        let name = self.server_name.clone();
        let name = name.unwrap_or_else(|| ServerName::IpAddress(address.to_canonical().into()));
        let stream = TlsStream::connect(stream, Arc::clone(&self.config), name).await?;
        Ok(stream.made_by(self.plan.as_ref()))
    }
}

pub(super) fn root_store(roots: &[Vec<u8>]) -> Result<RootCertStore, TlsConfigError> {
    let mut store = RootCertStore::empty();
    for (position, root) in roots.iter().enumerate() {
        store
            .add(CertificateDer::from_slice(root).into_owned())
            .map_err(|error| TlsConfigError::Root(position, error))?;
    }
    Ok(store)
}

/// Takes every certificate, but has its bearer prove that it holds the key: a backend that works
/// can do that.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(check: &TlsCheck) -> String {
        TlsClient::for_check(check, &[]).unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_be_used_is_refused_when_it_is_built() {
        let name = TlsCheck {
            server_name: Some("a..b".into()),
            verify: Verify::Off,
        };
        assert_eq!(
            error(&name),
            "the server name \"a..b\" is neither a DNS name nor an IP address"
        );
        let root = TlsCheck {
            server_name: None,
            verify: Verify::Roots(vec![b"no certificate".to_vec()]),
        };
        assert!(error(&root).starts_with("certificate 0 to verify by: "));
        assert!(TlsClient::for_check(&TlsCheck::default(), &[b"h2"]).is_ok());
    }
}
