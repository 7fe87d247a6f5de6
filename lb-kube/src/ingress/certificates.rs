//! Secrets of type `kubernetes.io/tls` to certificates.
//!
//! Invariant: a certificate that comes out of here can be served: it parses, and its key is that
//! of its first certificate.
//! Source: Kubernetes documentation, "TLS Secrets".
//! Read next: `routes.rs` (which host gets which).

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use lb_core::plan::{Certificate, KeyForm, PrivateKey};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::object::Name;

/// Reads a Secret; `server_names` are the hosts that it is for.
///
/// # Errors
/// What is wrong with it, in a line.
pub(super) fn certificate(
    name: &Name,
    secret: &Secret,
    server_names: Vec<String>,
) -> Result<Certificate, String> {
    let data = |key: &str| {
        let binary = secret.data.as_ref().and_then(|data| data.get(key));
        let text = secret.string_data.as_ref().and_then(|data| data.get(key));
        let found = text
            .map(String::as_bytes)
            .or_else(|| binary.map(|it| &*it.0));
        found.ok_or_else(|| format!("the Secret {name} has no {key}"))
    };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(data("tls.crt")?)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("tls.crt of the Secret {name} is no PEM: {error}"))?;
    if chain.is_empty() {
        return Err(format!("tls.crt of the Secret {name} has no certificate"));
    }
    let key = PrivateKeyDer::from_pem_slice(data("tls.key")?)
        .map_err(|error| format!("tls.key of the Secret {name} has no private key: {error}"))?;
    let form = match &key {
        PrivateKeyDer::Pkcs1(_) => KeyForm::Pkcs1,
        PrivateKeyDer::Sec1(_) => KeyForm::Sec1,
        _ => KeyForm::Pkcs8,
    };
    let provider = aws_lc_rs::default_provider();
    CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider)
        .map_err(|error| format!("the Secret {name} cannot be used: {error}"))?;
    Ok(Certificate {
        name: name.to_string(),
        server_names,
        chain: chain.iter().map(|it| it.to_vec()).collect(),
        key: PrivateKey {
            form,
            der: key.secret_der().to_vec(),
        },
        ocsp: None,
    })
}

/// The parsed form of a Secret, by the Secret it was made of: it is made again when that changes.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) secret: Option<Arc<Secret>>,
    pub(super) server_names: Vec<String>,
    pub(super) result: Result<Arc<Certificate>, String>,
}
