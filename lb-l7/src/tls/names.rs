//! Which certificate a client is shown: by the server name that it asks for, then by the
//! signatures that it can verify.
//!
//! Invariant: a choice is one or two look-ups in a hash table, however many certificates there are.
//! Read next: `certificate.rs` (what is chosen among).

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use lb_core::plan::UnknownNames;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{SignatureAlgorithm, SignatureScheme};

use super::certificate::ServerCertificate;

thread_local! {
    /// The server name of the handshake that this thread has just gone on with: the library shows
    /// it to the choice of the certificate and to nobody else.
    static ASKED: Cell<Option<Box<str>>> = const { Cell::new(None) };
}

/// The server name, in lower case, that was asked for since the last call on this thread.
pub(super) fn take_asked() -> Option<Box<str>> {
    ASKED.take()
}

/// The certificates of a listener.
#[derive(Debug)]
pub(crate) struct NameTable {
    /// By exact names, and by wildcards without their `*`.
    by_name: HashMap<Box<str>, Choice, RandomState>,
    default: Choice,
    unknown_names: UnknownNames,
}

/// The certificates of one name.
#[derive(Debug, Clone)]
struct Choice {
    first: Arc<CertifiedKey>,
    /// One with a key of another kind.
    second: Option<Arc<CertifiedKey>>,
}

impl NameTable {
    /// `None` without certificates. The first certificate of a name and kind of key has it.
    pub(crate) fn new(
        certificates: &[Arc<ServerCertificate>],
        unknown_names: UnknownNames,
    ) -> Option<Self> {
        let first = certificates.first()?;
        let mut table = Self {
            by_name: HashMap::default(),
            default: Choice::of(first),
            unknown_names,
        };
        for certificate in certificates {
            for name in &certificate.names {
                let name = name.strip_prefix('*').unwrap_or(name);
                match table.by_name.get_mut(name) {
                    Some(choice) => choice.add(certificate),
                    None => {
                        let choice = Choice::of(certificate);
                        table.by_name.insert(name.into(), choice);
                    }
                }
            }
            if certificate.names == first.names {
                table.default.add(certificate);
            }
        }
        Some(table)
    }

    /// `name` is in lower case.
    fn find(&self, name: &str) -> Option<&Choice> {
        self.by_name.get(name).or_else(|| {
            let dot = name.find('.')?;
            self.by_name.get(&name[dot..])
        })
    }
}

impl Choice {
    fn of(certificate: &ServerCertificate) -> Self {
        Self {
            first: Arc::clone(&certificate.key),
            second: None,
        }
    }

    /// Takes a certificate with a key of another kind.
    fn add(&mut self, certificate: &ServerCertificate) {
        let kind = |key: &CertifiedKey| key.key.algorithm();
        if self.second.is_none() && kind(&self.first) != kind(&certificate.key) {
            self.second = Some(Arc::clone(&certificate.key));
        }
    }

    /// What a client can verify: an ECDSA key before an RSA key, as it costs us a tenth.
    fn select(&self, schemes: &[SignatureScheme]) -> &Arc<CertifiedKey> {
        let Some(second) = &self.second else {
            return &self.first;
        };
        let fits = |key: &CertifiedKey| key.key.choose_scheme(schemes).is_some();
        let is_rsa = self.first.key.algorithm() == SignatureAlgorithm::RSA;
        let (better, other) = if is_rsa {
            (second, &self.first)
        } else {
            (&self.first, second)
        };
        if fits(better) { better } else { other }
    }
}

impl ResolvesServerCert for NameTable {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let found = name.as_deref().and_then(|name| self.find(name));
        ASKED.set(name.map(String::into_boxed_str));
        let choice = match (found, self.unknown_names) {
            (Some(choice), _) => choice,
            (None, UnknownNames::Default) => &self.default,
            (None, UnknownNames::Refuse) => return None,
        };
        Some(Arc::clone(choice.select(hello.signature_schemes())))
    }
}
