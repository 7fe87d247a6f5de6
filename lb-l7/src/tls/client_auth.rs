//! Certificates of clients: which are good, and what backends are told of them.
//!
//! Invariant: a client whose certificate is not good has no connection; one without a certificate
//! only where that is allowed.
//! Read next: `server.rs` (who asks for them).

use std::sync::Arc;

use lb_core::plan::{ClientAuth, OverdueCrl};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use webpki::{
    BorrowedCertRevocationList, CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage,
    OwnedCertRevocationList, RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy,
    VerifiedPath,
};

use super::client::TlsConfigError;
use super::x509::X509;

/// Verifies clients' certificates as a plan says.
#[derive(Debug)]
pub(crate) struct ClientVerifier {
    roots: RootCertStore,
    names: Vec<DistinguishedName>,
    revoked: Vec<CertRevocationList<'static>>,
    /// What becomes of those that are overdue.
    overdue: ExpirationPolicy,
    depth: usize,
    required: bool,
    provider: Arc<CryptoProvider>,
}

impl ClientVerifier {
    pub(crate) fn new(
        auth: &ClientAuth,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, TlsConfigError> {
        let roots = super::client::root_store(&auth.roots)?;
        let list = |(position, der): (usize, &Vec<u8>)| {
            let der = CertificateRevocationListDer::from(der.as_slice());
            BorrowedCertRevocationList::from_der(&der)
                .and_then(|list| list.to_owned())
                .map(|list: OwnedCertRevocationList| CertRevocationList::Owned(list))
                .map_err(|error| TlsConfigError::Revoked(position, format!("{error:?}")))
        };
        Ok(Self {
            names: roots.subjects(),
            roots,
            revoked: auth
                .revoked
                .iter()
                .enumerate()
                .map(list)
                .collect::<Result<_, _>>()?,
            overdue: match auth.overdue {
                OverdueCrl::Refuse => ExpirationPolicy::Enforce,
                OverdueCrl::Use => ExpirationPolicy::Ignore,
            },
            depth: usize::from(auth.depth),
            required: auth.required,
            provider,
        })
    }

    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        let certificate = EndEntityCert::try_from(certificate)?;
        let lists: Vec<_> = self.revoked.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(UnknownStatusPolicy::Allow)
                .with_expiration_policy(self.overdue)
                .build()
        });
        let within = |path: &VerifiedPath<'_>| {
            if path.intermediate_certificates().count() > self.depth {
                return Err(webpki::Error::MaximumPathDepthExceeded);
            }
            Ok(())
        };
        certificate.verify_for_usage(
            self.provider.signature_verification_algorithms.all,
            &self.roots.roots,
            others,
            now,
            KeyUsage::client_auth(),
            revocation,
            Some(&within),
        )?;
        Ok(())
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.names
    }

    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.verify(end_entity, intermediates, now) {
            Ok(()) => Ok(ClientCertVerified::assertion()),
            Err(error) => Err(Error::InvalidCertificate(certificate_error(error))),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// So that the client is sent the alert that fits.
fn certificate_error(error: webpki::Error) -> CertificateError {
    use webpki::Error as Webpki;
    match error {
        Webpki::BadDer | Webpki::BadDerTime | Webpki::TrailingData(_) => {
            CertificateError::BadEncoding
        }
        Webpki::CertExpired { time, not_after } => {
            CertificateError::ExpiredContext { time, not_after }
        }
        Webpki::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        Webpki::CrlExpired { time, next_update } => {
            CertificateError::ExpiredRevocationListContext { time, next_update }
        }
        Webpki::CertRevoked => CertificateError::Revoked,
        Webpki::UnknownIssuer => CertificateError::UnknownIssuer,
        Webpki::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    }
}

/// What backends are told of a client that has shown a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Its subject, as RFC 4514 writes it.
    pub subject: String,
    /// Its issuer likewise.
    pub issuer: String,
    /// Its serial number, in hexadecimal.
    pub serial: String,
    /// Its SHA-1 fingerprint in lower-case hexadecimal, as nginx's `$ssl_client_fingerprint`.
    pub fingerprint: String,
}

impl ClientCertificate {
    pub(crate) fn of(der: &[u8]) -> Option<Self> {
        let x509 = X509::parse(der).ok()?;
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, der);
        let fingerprint = digest.as_ref().iter().map(|byte| format!("{byte:02x}"));
        Some(Self {
            subject: x509.subject(),
            issuer: x509.issuer(),
            serial: x509.serial(),
            fingerprint: fingerprint.collect(),
        })
    }
}
