//! Certificates and keys out of PEM text, for whoever makes a plan: files, Secrets.
//!
//! Invariant: whatever the text is, reading it ends in a certificate or in words that say what is
//! missing; a key never gets into an error.
//! Read next: `certificate.rs` (whether it can be used).

use lb_core::plan::{KeyForm, PrivateKey};
use rustls::pki_types::pem::{self, PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};

/// Why there is no certificate or key in a text.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// The key is protected by a passphrase.
    #[error(
        "the private key is encrypted; there is nobody to ask for its passphrase: \
         openssl pkey -in FILE -out FILE decrypts it"
    )]
    EncryptedKey,
    /// There is no certificate.
    #[error("there is no certificate in it (-----BEGIN CERTIFICATE-----){}", .0.hint())]
    NoCertificate(Found),
    /// There is no key.
    #[error("there is no private key in it (-----BEGIN PRIVATE KEY-----){}", .0.hint())]
    NoKey(Found),
    /// There is no list of revoked certificates.
    #[error("there is no list of revoked certificates in it (-----BEGIN X509 CRL-----){}", .0.hint())]
    NoList(Found),
    /// A section of the text is broken.
    #[error("it is not valid PEM: {0}")]
    Pem(pem::Error),
    /// There are several keys.
    #[error("there is more than one private key in it")]
    SeveralKeys,
}

/// What a text has in place of what it should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// DER or PKCS#12.
    Binary,
    /// Certificates.
    Certificate,
    /// A private key.
    Key,
    /// None of these.
    Nothing,
}

impl Found {
    pub(super) fn in_text(text: &[u8]) -> Self {
        let has = |mark: &[u8]| memchr::memmem::find(text, mark).is_some();
        match text {
            // The start of a DER sequence whose length takes several bytes.
            [0x30, 0x80..=0x84, ..] => Self::Binary,
            _ if has(b"PRIVATE KEY-----") => Self::Key,
            _ if has(b"-----BEGIN CERTIFICATE-----") => Self::Certificate,
            _ => Self::Nothing,
        }
    }

    /// What to do about it, as the end of a sentence.
    #[must_use]
    pub const fn hint(self) -> &'static str {
        match self {
            Self::Binary => {
                "; it is binary: openssl x509 -inform der -in FILE -out NEW makes PEM of a \
                 certificate, openssl pkey -inform der of a key, openssl pkcs12 -nodes of both"
            }
            Self::Certificate => ", but a certificate: is it the file of the key that is meant?",
            Self::Key => ", but a private key: is it the file of the certificate that is meant?",
            Self::Nothing => "",
        }
    }
}

/// The certificates in `text`, in DER, in the order given; what else there is, is skipped.
///
/// # Errors
/// When there is none, or the PEM is broken.
pub fn chain_from_pem(text: &[u8]) -> Result<Vec<Vec<u8>>, PemError> {
    let certificates = CertificateDer::pem_slice_iter(text).map(|it| it.map(|der| der.to_vec()));
    let chain: Vec<_> = certificates
        .collect::<Result<_, _>>()
        .map_err(PemError::Pem)?;
    if chain.is_empty() {
        return Err(PemError::NoCertificate(Found::in_text(text)));
    }
    Ok(chain)
}

/// The one private key in `text`; what else there is, is skipped.
///
/// # Errors
/// When there is none or several, or the PEM is broken.
pub fn key_from_pem(text: &[u8]) -> Result<PrivateKey, PemError> {
    const ENCRYPTED: [&[u8]; 2] = [b"BEGIN ENCRYPTED PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED"];
    if ENCRYPTED
        .iter()
        .any(|mark| memchr::memmem::find(text, mark).is_some())
    {
        return Err(PemError::EncryptedKey);
    }
    let mut found = None;
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
        let (kind, der) = section.map_err(PemError::Pem)?;
        let form = match kind {
            SectionKind::PrivateKey => KeyForm::Pkcs8,
            SectionKind::RsaPrivateKey => KeyForm::Pkcs1,
            SectionKind::EcPrivateKey => KeyForm::Sec1,
            _ => continue,
        };
        if found.replace(PrivateKey { form, der }).is_some() {
            return Err(PemError::SeveralKeys);
        }
    }
    found.ok_or_else(|| PemError::NoKey(Found::in_text(text)))
}

/// The lists of revoked certificates in `text`, in DER.
///
/// # Errors
/// When there is none, or the PEM is broken.
pub fn revoked_from_pem(text: &[u8]) -> Result<Vec<Vec<u8>>, PemError> {
    let lists = CertificateRevocationListDer::pem_slice_iter(text);
    let lists = lists.map(|list| list.map(|der| der.to_vec()));
    let lists: Vec<_> = lists.collect::<Result<_, _>>().map_err(PemError::Pem)?;
    if lists.is_empty() {
        return Err(PemError::NoList(Found::in_text(text)));
    }
    Ok(lists)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n";
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nREVG\n-----END PRIVATE KEY-----\n";

    #[test]
    fn a_file_may_have_both() {
        let both = format!("# it\n{KEY}{CERTIFICATE}{CERTIFICATE}");
        assert_eq!(chain_from_pem(both.as_bytes()).unwrap(), [b"ABC", b"ABC"]);
        let key = key_from_pem(both.as_bytes()).unwrap();
        assert_eq!((key.form, &*key.der), (KeyForm::Pkcs8, &b"DEF"[..]));
    }

    #[test]
    fn errors_say_what_is_missing() {
        let chain = |text: &str| chain_from_pem(text.as_bytes()).unwrap_err().to_string();
        let key = |text: &str| key_from_pem(text.as_bytes()).unwrap_err().to_string();
        assert!(chain(KEY).contains("BEGIN CERTIFICATE"));
        assert!(key(CERTIFICATE).contains("BEGIN PRIVATE KEY"));
        assert!(key(&format!("{KEY}{KEY}")).contains("more than one"));
        let encrypted = KEY.replace("PRIVATE", "ENCRYPTED PRIVATE");
        assert!(key(&encrypted).contains("passphrase"));
        assert!(key(CERTIFICATE).contains("but a certificate"));
        assert!(chain(KEY).contains("but a private key"));
        let binary = chain_from_pem(&[0x30, 0x82, 1, 0]).unwrap_err();
        assert!(binary.to_string().contains("-inform der"), "{binary}");
        let cut = &CERTIFICATE[..40];
        assert!(chain(cut).contains("valid PEM"), "{}", chain(cut));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text: Vec<u8>, at in 0..100_usize) {
            let mut broken = format!("{KEY}{CERTIFICATE}").into_bytes();
            let at = at.min(broken.len());
            broken.splice(at..at, text.iter().copied());
            for text in [&text, &broken] {
                let _ = (chain_from_pem(text), key_from_pem(text), revoked_from_pem(text));
            }
        }
    }
}
