//! Certificates of authorities, read by the control side: no worker reads a file.
//!
//! Invariant: a file that yields no certificate is an error, never an empty set of roots.
//! Read next: `client.rs` (who verifies by them).

use std::path::{Path, PathBuf};
use std::{env, fs, io};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};

use super::pem::Found;

/// Where distributions keep the certificates of public authorities, in one file.
const SYSTEM_FILES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt", // Debian, Ubuntu, Alpine, Arch
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // Fedora, RHEL
    "/etc/pki/tls/certs/ca-bundle.crt",   // older RHEL
    "/var/lib/ca-certificates/ca-bundle.pem", // SUSE
    "/etc/ssl/cert.pem",
];

/// Why there are no certificates to verify by.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// The text has no certificate.
    #[error("it has no certificate (-----BEGIN CERTIFICATE-----){}", .0.hint())]
    Empty(Found),
    /// A section of the text is broken.
    #[error("it is not valid PEM: {0}")]
    Pem(pem::Error),
    /// The file cannot be read.
    #[error("{0}: {1}")]
    Read(PathBuf, #[source] io::Error),
    /// No file is where distributions have it.
    #[error(
        "this system has no file of trusted authorities; install the package ca-certificates, or \
         name a file (looked at: SSL_CERT_FILE, {})", SYSTEM_FILES.join(", ")
    )]
    Unknown,
}

/// The certificates in `text`, in DER, in the order given; what else there is, is skipped.
///
/// # Errors
/// When there is none, or the PEM is broken.
pub fn roots_from_pem(text: &[u8]) -> Result<Vec<Vec<u8>>, RootsError> {
    let certificates = CertificateDer::pem_slice_iter(text).map(|it| it.map(|der| der.to_vec()));
    let certificates: Vec<_> = certificates
        .collect::<Result<_, _>>()
        .map_err(RootsError::Pem)?;
    if certificates.is_empty() {
        return Err(RootsError::Empty(Found::in_text(text)));
    }
    Ok(certificates)
}

/// What this system trusts: the file that SSL_CERT_FILE names, else the distribution's. Reads a
/// file, so it is not for workers.
///
/// # Errors
/// When there is no such file, or it has no certificates.
pub fn system_roots() -> Result<Vec<Vec<u8>>, RootsError> {
    let named = env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let known = || SYSTEM_FILES.iter().map(Path::new).find(|it| it.exists());
    let path = named.or_else(|| known().map(Path::to_path_buf));
    let path = path.ok_or(RootsError::Unknown)?;
    let text = fs::read(&path).map_err(|error| RootsError::Read(path, error))?;
    roots_from_pem(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_found_among_other_things() {
        let one = "-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n";
        let key = "-----BEGIN PRIVATE KEY-----\nQUJD\n-----END PRIVATE KEY-----\n";
        let text = format!("# comment\n{one}{key}{one}");
        let roots = roots_from_pem(text.as_bytes()).unwrap();
        assert_eq!(roots, [b"ABC", b"ABC"]);
    }

    #[test]
    fn a_file_without_certificates_is_an_error() {
        for text in ["", "# nothing here\n"] {
            let error = roots_from_pem(text.as_bytes()).unwrap_err();
            assert!(matches!(error, RootsError::Empty(_)), "{error}");
        }
        let broken = "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
        let error = roots_from_pem(broken.as_bytes()).unwrap_err();
        assert!(matches!(error, RootsError::Pem(_)), "{error}");
    }
}
