//! A planned certificate, ready to be shown: parsed, and its key found to be its own.
//!
//! Parsing a key costs more than anything else about a certificate, and a change of one of
//! thousands is common: what is planned as before is not parsed again.
//! Invariant: what is in here can sign. Read next: `names.rs` (who gets it), `x509.rs`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

use lb_core::plan::{Certificate, KeyForm, PrivateKey};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};

use super::ocsp::{Ocsp, OcspError};
use super::x509::{X509, X509Error};

/// What was parsed and is in use, by where in memory its plan is.
static PARSED: Mutex<BTreeMap<usize, Weak<ServerCertificate>>> = Mutex::new(BTreeMap::new());

/// A certificate that can be shown to clients.
#[derive(Debug)]
pub struct ServerCertificate {
    /// What it was made of.
    pub plan: Arc<Certificate>,
    /// The names that it is shown for, in lower case; of its own where the plan has none.
    pub names: Vec<String>,
    /// When it begins to be valid.
    pub not_before: SystemTime,
    /// When it ends to be valid.
    pub not_after: SystemTime,
    /// What clients may not like about its chain, in words.
    pub chain_fault: Option<String>,
    pub(crate) key: Arc<CertifiedKey>,
    /// The same with what the authority says of it, and what that is.
    stapled: Option<(Arc<CertifiedKey>, Ocsp)>,
}

/// Why a certificate cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// What should be a certificate is none.
    #[error("the certificate cannot be read: {0}")]
    Certificate(#[from] X509Error),
    /// There is no certificate.
    #[error("there is no certificate")]
    Empty,
    /// What should be a private key is none that is supported.
    #[error(
        "the private key cannot be used: {0} (RSA of 2048 bits or more, ECDSA on P-256, P-384 or P-521, and Ed25519 can)"
    )]
    Key(String),
    /// The key is that of another certificate.
    #[error("the private key is not the key of the certificate{}", .0)]
    KeyMismatch(&'static str),
    /// What its authority should say of it is of no use.
    #[error(transparent)]
    Ocsp(#[from] OcspError),
    /// Neither the plan nor the certificate has a name to show it for.
    #[error("the certificate has no DNS name (subjectAltName), so it can only be the default one")]
    NoName,
}

impl ServerCertificate {
    /// As [`ServerCertificate::new`], but one and the same for all who ask for one plan as long as
    /// any of them keeps it.
    ///
    /// # Errors
    /// Those of `new`.
    pub fn of(plan: &Arc<Certificate>) -> Result<Arc<Self>, CertificateError> {
        let at = Arc::as_ptr(plan).addr();
        let known = parsed().get(&at).and_then(Weak::upgrade);
        if let Some(known) = known {
            debug_assert!(Arc::ptr_eq(&known.plan, plan), "it holds its plan");
            return Ok(known);
        }
        let new = Arc::new(Self::new(plan)?);
        parsed().insert(at, Arc::downgrade(&new));
        Ok(new)
    }

    /// Parses a planned certificate.
    ///
    /// # Errors
    /// When it, or its key, is not what it should be. That it has expired is no error: the clock
    /// may be wrong, and some clients do not look.
    pub fn new(plan: &Arc<Certificate>) -> Result<Self, CertificateError> {
        let first = plan.chain.first().ok_or(CertificateError::Empty)?;
        let x509 = X509::parse(first)?;
        let names = if plan.server_names.is_empty() {
            x509.dns_names()
        } else {
            plan.server_names.clone()
        };
        let chain_fault = chain_fault(&x509, &plan.chain[1..]);
        let chain = plan.chain.iter();
        let chain: Vec<_> = chain.map(|it| CertificateDer::from(it.clone())).collect();
        let key = aws_lc_rs::sign::any_supported_type(&key_der(&plan.key))
            .map_err(|error| CertificateError::Key(reason(&error)))?;
        let key = CertifiedKey::new(chain, key);
        match key.keys_match() {
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(Error::InconsistentKeys(_)) => {
                let others = plan.chain[1..].iter().cloned().map(CertificateDer::from);
                let is_order = others.into_iter().any(|other| {
                    let turned = CertifiedKey::new(vec![other], Arc::clone(&key.key));
                    turned.keys_match().is_ok()
                });
                let hint = if is_order {
                    ", but of another one of the chain: the server's own comes first"
                } else {
                    ""
                };
                return Err(CertificateError::KeyMismatch(hint));
            }
            Err(error) => return Err(CertificateError::Key(reason(&error))),
        }
        let stapled = match &plan.ocsp {
            Some(der) => {
                let said = Ocsp::parse(der, x509.serial)?;
                let mut key = key.clone();
                key.ocsp = Some(der.clone());
                Some((Arc::new(key), said))
            }
            None => None,
        };
        Ok(Self {
            plan: Arc::clone(plan),
            names,
            not_before: x509.not_before,
            not_after: x509.not_after,
            chain_fault,
            key: Arc::new(key),
            stapled,
        })
    }

    /// What clients are shown at `now`, which is asked for only where it matters.
    pub(super) fn shown(&self, now: impl FnOnce() -> SystemTime) -> &Arc<CertifiedKey> {
        match &self.stapled {
            Some((stapled, said)) if said.is_good(now()) => stapled,
            _ => &self.key,
        }
    }

    /// Why clients are not shown what its authority says of it, if there is anything.
    #[must_use]
    pub fn ocsp_fault(&self, now: SystemTime) -> Option<&'static str> {
        self.stapled.as_ref().and_then(|(_, said)| said.fault(now))
    }
}

impl Drop for ServerCertificate {
    fn drop(&mut self) {
        let at = Arc::as_ptr(&self.plan).addr();
        let mut parsed = parsed();
        // Another one of the same plan may have come meanwhile.
        if parsed.get(&at).is_some_and(|it| it.strong_count() == 0) {
            parsed.remove(&at);
        }
    }
}

fn parsed() -> MutexGuard<'static, BTreeMap<usize, Weak<ServerCertificate>>> {
    PARSED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is wrong with the certificates `behind` the first, if anything: whether they lead from one
/// to the next, and whether there should be any.
fn chain_fault(first: &X509<'_>, behind: &[Vec<u8>]) -> Option<String> {
    let is_own_issuer = first.is_issued_by(first);
    if behind.is_empty() && !is_own_issuer && first.refers_to_issuer() {
        return Some(format!(
            "comes alone: append the certificate of its issuer ({}) to the file, which many \
             clients do not have",
            first.issuer()
        ));
    }
    let mut before = first.clone();
    for (position, der) in behind.iter().enumerate() {
        let Ok(next) = X509::parse(der) else {
            return Some(format!(
                "has a broken one in its chain, at {}",
                position + 2
            ));
        };
        if !before.is_issued_by(&next) {
            return Some(format!(
                "has a chain that is not in order: behind each belongs its issuer, and certificate \
                 {} of the file is not {}",
                position + 2,
                before.issuer()
            ));
        }
        before = next;
    }
    None
}

fn reason(error: &Error) -> String {
    match error {
        Error::General(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A planned key as the library takes it.
pub(crate) fn key_der(key: &PrivateKey) -> PrivateKeyDer<'static> {
    let der = key.der.clone();
    match key.form {
        KeyForm::Pkcs1 => PrivatePkcs1KeyDer::from(der).into(),
        KeyForm::Pkcs8 => PrivatePkcs8KeyDer::from(der).into(),
        KeyForm::Sec1 => PrivateSec1KeyDer::from(der).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_parsed_once_for_all_who_keep_it() {
        let made = rcgen::generate_simple_self_signed(vec!["a.example".into()]).unwrap();
        let plan = Arc::new(Certificate {
            name: "a".into(),
            server_names: Vec::new(),
            chain: vec![made.cert.der().to_vec()],
            key: PrivateKey {
                form: KeyForm::Pkcs8,
                der: made.signing_key.serialize_der(),
            },
            ocsp: None,
        });
        let first = ServerCertificate::of(&plan).unwrap();
        let second = ServerCertificate::of(&plan).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        let equal = ServerCertificate::of(&Arc::new((*plan).clone())).unwrap();
        assert!(!Arc::ptr_eq(&first, &equal));
        let at = Arc::as_ptr(&plan).addr();
        drop(first);
        assert!(parsed().contains_key(&at));
        drop(second);
        assert!(!parsed().contains_key(&at));
    }
}
