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
use lb_core::rt;
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
    first: Arc<ServerCertificate>,
    /// One with a key of another kind.
    second: Option<Arc<ServerCertificate>>,
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
    fn of(certificate: &Arc<ServerCertificate>) -> Self {
        Self {
            first: Arc::clone(certificate),
            second: None,
        }
    }

    /// Takes a certificate with a key of another kind.
    fn add(&mut self, certificate: &Arc<ServerCertificate>) {
        let kind = |it: &ServerCertificate| it.key.key.algorithm();
        if self.second.is_none() && kind(&self.first) != kind(certificate) {
            self.second = Some(Arc::clone(certificate));
        }
    }

    /// What a client can verify: an ECDSA key before an RSA key, as it costs us a tenth.
    fn select(&self, schemes: &[SignatureScheme]) -> &ServerCertificate {
        let Some(second) = &self.second else {
            return &self.first;
        };
        let fits = |it: &ServerCertificate| it.key.key.choose_scheme(schemes).is_some();
        let is_rsa = self.first.key.key.algorithm() == SignatureAlgorithm::RSA;
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
        let name = hello.server_name().map(|name| {
            // RFC 6066 section 3 has it without its dot, but some send it.
            name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
        });
        let found = name.as_deref().and_then(|name| self.find(name));
        ASKED.set(name.map(String::into_boxed_str));
        let choice = match (found, self.unknown_names) {
            (Some(choice), _) => choice,
            (None, UnknownNames::Default) => &self.default,
            (None, UnknownNames::Refuse) => return None,
        };
        let certificate = choice.select(hello.signature_schemes());
        Some(Arc::clone(certificate.shown(rt::wall_clock)))
    }
}
