//! Who an origin says it is: a certificate and its key, read from files or made at start.
//!
//! Invariant: a key is never written anywhere but where the caller says, and never printed.
//! Read next: `../origin/mod.rs`, which serves with it.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A certificate chain and its private key, as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    certificates: String,
    key: String,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read or written.
    #[error("{}: {error}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// A certificate or key cannot be used.
    #[error("the certificate or its key cannot be used: {0}")]
    Unusable(String),
}

impl Identity {
    /// A new self-signed certificate for `names`, with a key on P-256.
    ///
    /// # Errors
    /// When a name is none.
    pub fn self_signed(names: &[&str]) -> Result<Self, IdentityError> {
        let unusable = |error: rcgen::Error| IdentityError::Unusable(error.to_string());
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(unusable)?;
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).map_err(unusable)?;
        let certificate = params.self_signed(&key).map_err(unusable)?;
        Ok(Self {
            certificates: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// What the two PEM files hold.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn read(certificates: &Path, key: &Path) -> Result<Self, IdentityError> {
        let read = |path: &Path| {
            fs::read_to_string(path).map_err(|error| IdentityError::File {
                path: path.to_owned(),
                error,
            })
        };
        Ok(Self {
            certificates: read(certificates)?,
            key: read(key)?,
        })
    }

    /// Writes certificate and key to `NAME.crt` and `NAME.key` in `folder`, and both together to
    /// `NAME.pem`, as HAProxy wants them.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn write(&self, folder: &Path, name: &str) -> Result<(), IdentityError> {
        let both = format!("{}{}", self.certificates, self.key);
        let files = [
            ("crt", &self.certificates),
            ("key", &self.key),
            ("pem", &both),
        ];
        for (extension, text) in files {
            let path = folder.join(format!("{name}.{extension}"));
            fs::write(&path, text).map_err(|error| IdentityError::File { path, error })?;
        }
        Ok(())
    }

    /// A server of both versions that hands out tickets and offers the protocols `alpn`.
    ///
    /// # Errors
    /// When there is no certificate, or the key is not its key.
    pub(crate) fn server(&self, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, IdentityError> {
        let unusable = |error: String| IdentityError::Unusable(error);
        let chain: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(self.certificates.as_bytes()).collect();
        let chain = chain.map_err(|error| unusable(error.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())
            .map_err(|error| unusable(error.to_string()))?;
        let explain = |error: rustls::Error| unusable(error.to_string());
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(explain)?;
        config.enable_secret_extraction = true; // `TlsStream` wants it
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(explain)?;
        Ok(Arc::new(config))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_its_files_and_keeps_its_key_to_itself() {
        let folder = std::env::temp_dir().join(format!("identity-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let made = Identity::self_signed(&["localhost", "127.0.0.1"]).unwrap();
        made.write(&folder, "a").unwrap();
        let read = Identity::read(&folder.join("a.crt"), &folder.join("a.key")).unwrap();
        let both = Identity::read(&folder.join("a.pem"), &folder.join("a.pem")).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert!(read == made);
        assert!(both.server(&[]).is_ok() && made.server(&[b"h2"]).is_ok());
        assert!(!format!("{made:?}").contains("PRIVATE"));
        let other = Identity::self_signed(&["localhost"]).unwrap();
        let mixed = Identity {
            certificates: made.certificates,
            key: other.key,
        };
        assert!(matches!(mixed.server(&[]), Err(IdentityError::Unusable(_))));
        let absent = Identity::read(Path::new("/nowhere/a.crt"), Path::new("b")).unwrap_err();
        assert!(absent.to_string().contains("/nowhere/a.crt"), "{absent}");
    }
}
