//! The certificate of hosts whose own one is missing or unusable.
//!
//! Invariant: it is self-signed, of this process alone, and says in its name what it is, so that
//! nobody takes it for theirs.

use std::sync::Arc;

use lb_core::plan::{Certificate, KeyForm, PrivateKey};
use rcgen::{CertificateParams, DnType, KeyPair};

/// What it is called, in it and in messages.
const NAME: &str = "lb fallback certificate";

/// Makes one.
pub(super) fn certificate() -> Result<Arc<Certificate>, rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec!["fallback.invalid".to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, NAME);
    let certificate = params.self_signed(&key)?;
    Ok(Arc::new(Certificate {
        name: NAME.to_owned(),
        server_names: Vec::new(),
        chain: vec![certificate.der().to_vec()],
        key: PrivateKey {
            form: KeyForm::Pkcs8,
            der: key.serialize_der(),
        },
        ocsp: None,
    }))
}
