//! What a client of a load test offers, and which of its sessions it resumes.
//!
//! Invariant: whether a handshake resumes a session is drawn before it, so the mix is the one
//! that was asked for as far as servers hand out tickets; what really happened is counted.
//! Read next: `lb_l7::tls::TlsStream` (the handshake).

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use lb_core::rt::TcpStream;
use lb_l7::tls::TlsStream;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientConfig, ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    DigitallySignedStruct, NamedGroup, RootCertStore, SignatureScheme, SupportedCipherSuite,
    SupportedProtocolVersion,
};

use crate::tcp::SplitMix64;

/// Tickets that a thread keeps: each serves once (RFC 8446, C.4), and servers hand out two or so
/// for each.
const TICKETS_MAX: usize = 8192;

/// What `https://` and `wss://` connections offer.
#[derive(Debug, Clone, PartialEq)]
pub struct TlsRequest {
    /// Part of the connections that resume a session where they have a ticket, 0 to 1.
    pub resume: f64,
    /// The only version to offer; `None`: 1.2 and 1.3.
    pub version: Option<Version>,
    /// Key exchanges to offer, the best first; empty: those of the library.
    pub groups: Vec<Group>,
    /// Cipher suites to offer, the best first; empty: those of the library.
    pub suites: Vec<Suite>,
    /// Name to ask for, instead of the URL's host.
    pub server_name: Option<String>,
    /// Authorities that have to have signed the server's certificate, in DER. Without any, no
    /// certificate is looked at, nor its signature: that costs a client more than anything else.
    pub roots: Vec<Vec<u8>>,
}

impl Default for TlsRequest {
    /// What the library offers; every connection makes a whole handshake.
    fn default() -> Self {
        Self {
            resume: 0.0,
            version: None,
            groups: Vec::new(),
            suites: Vec::new(),
            server_name: None,
            roots: Vec::new(),
        }
    }
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// A key exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// `secp256r1`.
    Secp256r1,
    /// `secp384r1`.
    Secp384r1,
    /// `x25519`.
    X25519,
    /// `x25519mlkem768`.
    X25519MlKem768,
}

/// A cipher suite, of either version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// `aes128`: AES-128-GCM with SHA-256.
    Aes128,
    /// `aes256`: AES-256-GCM with SHA-384.
    Aes256,
    /// `chacha20`: ChaCha20-Poly1305.
    ChaCha20,
}

/// Makes the handshakes of one thread.
pub(crate) struct Dialer {
    full: Arc<ClientConfig>,
    /// With the tickets of this thread.
    resuming: Arc<ClientConfig>,
    resume: f64,
    random: RefCell<SplitMix64>,
    server_name: ServerName<'static>,
}

/// What came of a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Session {
    /// A whole handshake, with certificate and signature.
    Full,
    /// A session from before.
    Resumed,
}

impl Dialer {
    /// For thread number `thread`, to `host` (a name or an address), offering the protocols `alpn`.
    ///
    /// # Errors
    /// What cannot be offered, in words.
    pub(crate) fn new(
        request: &TlsRequest,
        host: &str,
        alpn: &[&[u8]],
        thread: usize,
    ) -> Result<Self, String> {
        let name = request.server_name.as_deref().unwrap_or(host);
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let server_name = ServerName::try_from(name.to_owned())
            .map_err(|_| format!("`{name}` is neither a DNS name nor an address"))?;
        let mut full = request.config().map_err(|error| error.to_string())?;
        full.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        full.resumption = Resumption::disabled();
        full.enable_secret_extraction = true; // `TlsStream` wants it
        let mut resuming = full.clone();
        resuming.resumption = Resumption::store(Arc::new(Tickets::default()));
        Ok(Self {
            full: Arc::new(full),
            resuming: Arc::new(resuming),
            resume: request.resume,
            random: RefCell::new(SplitMix64::new(thread as u64)),
            server_name,
        })
    }

    /// Makes the handshake on a new connection.
    ///
    /// # Errors
    /// What broke the connection, or `InvalidData` with what was wrong with the handshake.
    pub(crate) async fn secure(&self, stream: TcpStream) -> io::Result<(TlsStream, Session)> {
        let resumes = self.resume > 0.0 && self.random.borrow_mut().next_unit() <= self.resume;
        let config = if resumes { &self.resuming } else { &self.full };
        let stream =
            TlsStream::connect(stream, Arc::clone(config), self.server_name.clone()).await?;
        let session = match stream.facts().resumed {
            true => Session::Resumed,
            false => Session::Full,
        };
        Ok((stream, session))
    }
}

impl TlsRequest {
    /// A configuration of the library that offers this, and resumes as the library likes.
    ///
    /// # Errors
    /// When an authority is none.
    pub(crate) fn config(&self) -> Result<ClientConfig, rustls::Error> {
        let mut provider = aws_lc_rs::default_provider();
        if !self.groups.is_empty() {
            provider.kx_groups = self.groups.iter().map(|group| group.supported()).collect();
        }
        if !self.suites.is_empty() {
            let all = self.suites.iter().flat_map(|suite| suite.supported());
            provider.cipher_suites = all.collect();
        }
        let provider = Arc::new(provider);
        let versions: &[&SupportedProtocolVersion] = match self.version {
            None => rustls::DEFAULT_VERSIONS,
            Some(Version::Tls12) => &[&rustls::version::TLS12],
            Some(Version::Tls13) => &[&rustls::version::TLS13],
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)?;
        if self.roots.is_empty() {
            let builder = builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Unverified { provider }));
            return Ok(builder.with_no_client_auth());
        }
        let mut roots = RootCertStore::empty();
        for root in &self.roots {
            roots.add(CertificateDer::from_slice(root).into_owned())?;
        }
        Ok(builder.with_root_certificates(roots).with_no_client_auth())
    }
}

impl Group {
    fn supported(self) -> &'static dyn SupportedKxGroup {
        match self {
            Self::Secp256r1 => aws_lc_rs::kx_group::SECP256R1,
            Self::Secp384r1 => aws_lc_rs::kx_group::SECP384R1,
            Self::X25519 => aws_lc_rs::kx_group::X25519,
            Self::X25519MlKem768 => aws_lc_rs::kx_group::X25519MLKEM768,
        }
    }
}

impl Suite {
    fn supported(self) -> [SupportedCipherSuite; 3] {
        use aws_lc_rs::cipher_suite::*;
        match self {
            Self::Aes128 => [
                TLS13_AES_128_GCM_SHA256,
                TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
                TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            ],
            Self::Aes256 => [
                TLS13_AES_256_GCM_SHA384,
                TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
                TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            ],
            Self::ChaCha20 => [
                TLS13_CHACHA20_POLY1305_SHA256,
                TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
                TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
            ],
        }
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "1.2" => Ok(Self::Tls12),
            "1.3" => Ok(Self::Tls13),
            _ => Err(format!("there is no version {text:?}; write 1.2 or 1.3")),
        }
    }
}

impl FromStr for Group {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "secp256r1" => Ok(Self::Secp256r1),
            "secp384r1" => Ok(Self::Secp384r1),
            "x25519" => Ok(Self::X25519),
            "x25519mlkem768" => Ok(Self::X25519MlKem768),
            _ => Err(format!(
                "there is no key exchange {text:?}; there are x25519, secp256r1, secp384r1 and \
                 x25519mlkem768"
            )),
        }
    }
}

impl FromStr for Suite {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "aes128" => Ok(Self::Aes128),
            "aes256" => Ok(Self::Aes256),
            "chacha20" => Ok(Self::ChaCha20),
            _ => Err(format!(
                "there is no suite {text:?}; there are aes128, aes256 and chacha20"
            )),
        }
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer")
            .field("server_name", &self.server_name)
            .field("resume", &self.resume)
            .finish_non_exhaustive()
    }
}

/// The sessions of one thread, all with the same server. Only its thread ever takes the lock.
#[derive(Debug, Default)]
struct Tickets(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    group: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    tls13: Vec<Tls13ClientSessionValue>,
}

impl Tickets {
    fn with<R>(&self, f: impl FnOnce(&mut Kept) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _server: ServerName<'static>, group: NamedGroup) {
        self.with(|kept| kept.group = Some(group));
    }

    fn kx_hint(&self, _server: &ServerName<'_>) -> Option<NamedGroup> {
        self.with(|kept| kept.group)
    }

    fn set_tls12_session(&self, _server: ServerName<'static>, session: Tls12ClientSessionValue) {
        self.with(|kept| kept.tls12 = Some(session));
    }

    fn tls12_session(&self, _server: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.with(|kept| kept.tls12.clone())
    }

    fn remove_tls12_session(&self, _server: &ServerName<'static>) {
        self.with(|kept| kept.tls12 = None);
    }

    fn insert_tls13_ticket(&self, _server: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.with(|kept| {
            if kept.tls13.len() < TICKETS_MAX {
                kept.tls13.push(ticket);
            }
        });
    }

    fn take_tls13_ticket(&self, _server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.with(|kept| kept.tls13.pop())
    }
}

/// Takes every server for who it says it is.
#[derive(Debug)]
struct Unverified {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Unverified {
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
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_offered_is_refused_in_words() {
        let request = TlsRequest::default();
        let error = Dialer::new(&request, "a..b", &[], 0).unwrap_err();
        assert!(error.contains("a..b"), "{error}");
        assert!(Dialer::new(&request, "[::1]", &[b"h2"], 0).is_ok());
        let request = TlsRequest {
            roots: vec![b"no certificate".to_vec()],
            ..request
        };
        assert!(Dialer::new(&request, "shop.example", &[], 0).is_err());
        assert!("x448".parse::<Group>().unwrap_err().contains("x25519,"));
        assert!("rc4".parse::<Suite>().unwrap_err().contains("aes128"));
        assert!("1.1".parse::<Version>().unwrap_err().contains("1.2"));
    }

    #[test]
    fn only_what_was_asked_for_is_offered() {
        let request = TlsRequest {
            version: Some(Version::Tls13),
            groups: vec![Group::X25519],
            suites: vec![Suite::Aes128],
            ..TlsRequest::default()
        };
        let config = request.config().unwrap();
        let provider = config.crypto_provider();
        assert_eq!(provider.kx_groups.len(), 1);
        assert_eq!(provider.kx_groups[0].name(), NamedGroup::X25519);
        assert_eq!(provider.cipher_suites.len(), 3);
    }
}
