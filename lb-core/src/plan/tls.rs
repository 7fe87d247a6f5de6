//! TLS as planned: what a listener shows its clients, and how backends are spoken to.
//!
//! Certificates and keys are here as bytes: whoever makes the plan has read them, so no worker
//! reads a file. That they can be used is checked when the plan is built (`lb_l7::tls`).
//! Invariant: a key does not show itself.
//! Read next: `tls_rules.rs` (what a valid one is), `edge.rs` (`Rate`).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::{Rate, Verify};

/// TLS of an HTTP listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsServer {
    /// What is shown to clients, chosen by the server name that they ask for; the first one, and
    /// those with the same names, to clients that ask for another name or none. At least one.
    /// Several may have one name: those with an RSA and an ECDSA key, of which a client gets what
    /// it can verify.
    pub certificates: Arc<[Arc<Certificate>]>,
    /// Whether HTTP/2 is offered (ALPN `h2`) beside HTTP/1.1, where the listener speaks it.
    pub alpn_http2: bool,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
    /// The cipher suites, in our order of preference; none for all that are good.
    pub suites: Vec<TlsSuite>,
    /// The groups of key exchange, in our order of preference among those that a client has begun
    /// with; none for the default ones.
    pub groups: Vec<TlsGroup>,
    /// Certificates of clients; `None` asks for none.
    pub client_auth: Option<ClientAuth>,
    /// Others for some names; no name is in two of them.
    pub client_auth_by_name: Vec<NamedClientAuth>,
    /// What clients get that ask for a name that no certificate has.
    pub unknown_names: UnknownNames,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// How many handshakes may begin, all workers together; more are closed at once.
    pub handshake_rate: Option<Rate>,
    /// Secrets of session tickets: the first makes them, all open them. None: random ones of this
    /// process, which change every [`TlsServer::TICKETS_ROTATE`].
    pub ticket_keys: Vec<TicketKey>,
    /// Whether sessions may be resumed.
    pub resumption: bool,
    /// How long records of long bodies are.
    pub records: TlsRecords,
    /// Whether the secrets of every connection are written to the file that the environment
    /// variable SSLKEYLOGFILE names, for whoever looks at packets. Never in production.
    pub key_log: bool,
}

impl TlsServer {
    /// As nginx's and Envoy's; more than a slow phone needs.
    pub const HANDSHAKE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
    /// How often the secrets of tickets change; the one before still opens them.
    pub const TICKETS_ROTATE: Duration = Duration::from_hours(6);

    /// A listener with these certificates and defaults otherwise.
    #[must_use]
    pub fn new(certificates: Vec<Arc<Certificate>>) -> Self {
        Self {
            certificates: certificates.into(),
            alpn_http2: true,
            min_version: TlsVersion::default(),
            suites: Vec::new(),
            groups: Vec::new(),
            client_auth: None,
            client_auth_by_name: Vec::new(),
            unknown_names: UnknownNames::default(),
            handshake_timeout: Self::HANDSHAKE_TIMEOUT_DEFAULT,
            handshake_rate: None,
            ticket_keys: Vec::new(),
            resumption: true,
            records: TlsRecords::default(),
            key_log: false,
        }
    }
}

/// A certificate with its chain and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// For messages: a file, or `namespace/secret`.
    pub name: String,
    /// Names that clients ask for when they get it: in lower case, exact or `*.` and a name. Empty:
    /// those that the certificate itself has.
    pub server_names: Vec<String>,
    /// The certificate and those that lead from it to an authority, in DER; at least one.
    pub chain: Vec<Vec<u8>>,
    /// The key of the first of them.
    pub key: PrivateKey,
    /// What its authority says of whether it was revoked (RFC 6960), in DER; shown to clients that
    /// ask for it.
    pub ocsp: Option<Vec<u8>>,
}

/// A private key, in DER.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey {
    /// How it is written.
    pub form: KeyForm,
    /// It.
    pub der: Vec<u8>,
}

impl fmt::Debug for PrivateKey {
    /// Does not show it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({:?}, ..)", self.form)
    }
}

/// How a private key is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyForm {
    /// RFC 8017: `-----BEGIN RSA PRIVATE KEY-----`.
    Pkcs1,
    /// RFC 5208: `-----BEGIN PRIVATE KEY-----`.
    Pkcs8,
    /// RFC 5915: `-----BEGIN EC PRIVATE KEY-----`.
    Sec1,
}

/// A secret from which session tickets are keyed.
#[derive(Clone, PartialEq, Eq)]
pub struct TicketKey(pub Vec<u8>);

impl TicketKey {
    /// Fewest bytes of a secret.
    pub const BYTES_LEAST: usize = 32;
    /// Most bytes of a secret.
    pub const BYTES_MAX: usize = 4096;
}

impl fmt::Debug for TicketKey {
    /// Does not show it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketKey(..)")
    }
}

/// What is asked of clients beside their requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientAuth {
    /// Whether a client without a certificate is refused. One with a bad certificate always is.
    pub required: bool,
    /// Certificates of the authorities that are trusted, in DER; at least one.
    pub roots: Arc<[Vec<u8>]>,
    /// Lists of what they have revoked, in DER. With any, the client's certificate must not be on
    /// them; one whose issuer has no list is good.
    pub revoked: Arc<[Vec<u8>]>,
    /// What a list says once it is overdue: once its authority should have made a newer one.
    pub overdue: OverdueCrl,
    /// How many intermediate certificates may stand between a client's and an authority's, 0 to
    /// [`ClientAuth::DEPTH_LIMIT`].
    pub depth: u8,
}

impl ClientAuth {
    /// As nginx's `ssl_verify_depth`.
    pub const DEPTH_DEFAULT: u8 = 1;
    /// As far as chains are followed.
    pub const DEPTH_LIMIT: u8 = 6;
}

/// What is asked of clients that come for some names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedClientAuth {
    /// Server names, in lower case, exact or `*.` and a name; at least one.
    pub names: Vec<String>,
    /// Certificates of clients; `None` asks for none.
    pub auth: Option<ClientAuth>,
}

/// What becomes of clients whose authority's list of revoked certificates is overdue, its nextUpdate
/// being over (RFC 5280 section 5.1.2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OverdueCrl {
    /// They are refused, as nobody knows what has been revoked since: as OpenSSL has it
    /// (`X509_V_ERR_CRL_HAS_EXPIRED`), so nginx and HAProxy, and RFC 5280 section 6.3.3.
    #[default]
    Refuse,
    /// The list counts on, as it does for `rustls` where nobody asks otherwise.
    Use,
}

/// What a client gets that asks for a name that no certificate has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnknownNames {
    /// The default certificate.
    #[default]
    Default,
    /// The alert `unrecognized_name` (RFC 6066 section 3), and nothing else. So do clients that
    /// ask for no name.
    Refuse,
}

/// How long records of long bodies are: a client can read a record when all of it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsRecords {
    /// As a packet at first, and again after a pause; then 16 KiB.
    #[default]
    Dynamic,
    /// 16 KiB.
    Full,
}

impl TlsRecords {
    /// As configuration has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dynamic => "dynamic",
            Self::Full => "full",
        }
    }
}

/// How a cluster's backends are spoken to over TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendTls {
    /// Whether a backend's certificate is verified.
    pub verify: Verify,
    /// The name that the certificate must bear, sent as SNI; a DNS name or an IP address. `None`:
    /// no SNI, and the certificate must bear the backend's address.
    pub server_name: Option<String>,
    /// What is shown to backends that ask for a certificate.
    pub certificate: Option<Arc<Certificate>>,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
    /// Whether sessions are resumed.
    pub resumption: bool,
}

impl Default for BackendTls {
    /// Without looking at certificates, as ingress-nginx and nginx: in clusters they are
    /// self-signed. A source that knows better says so.
    fn default() -> Self {
        Self {
            verify: Verify::Off,
            server_name: None,
            certificate: None,
            min_version: TlsVersion::default(),
            resumption: true,
        }
    }
}

/// A version of TLS. Older ones are broken (RFC 8996), and not spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum TlsVersion {
    /// RFC 5246.
    #[default]
    V1_2,
    /// RFC 8446.
    V1_3,
}

impl TlsVersion {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V1_2, Self::V1_3];

    /// As configuration, logs and metrics have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1_2 => "1.2",
            Self::V1_3 => "1.3",
        }
    }
}

/// A cipher suite. Others are weak or slow, and not spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsSuite {
    /// TLS 1.3.
    Aes128,
    /// TLS 1.3.
    Aes256,
    /// TLS 1.3.
    Chacha20,
    /// TLS 1.2.
    EcdsaAes128,
    /// TLS 1.2.
    EcdsaAes256,
    /// TLS 1.2.
    EcdsaChacha20,
    /// TLS 1.2.
    RsaAes128,
    /// TLS 1.2.
    RsaAes256,
    /// TLS 1.2.
    RsaChacha20,
}

impl TlsSuite {
    /// All, with the names that IANA and OpenSSL (of TLS 1.3: rustls) know them by.
    const NAMES: [(Self, &'static str, &'static str); 9] = [
        (
            Self::Aes256,
            "TLS_AES_256_GCM_SHA384",
            "TLS13_AES_256_GCM_SHA384",
        ),
        (
            Self::Aes128,
            "TLS_AES_128_GCM_SHA256",
            "TLS13_AES_128_GCM_SHA256",
        ),
        (
            Self::Chacha20,
            "TLS_CHACHA20_POLY1305_SHA256",
            "TLS13_CHACHA20_POLY1305_SHA256",
        ),
        (
            Self::EcdsaAes256,
            "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
            "ECDHE-ECDSA-AES256-GCM-SHA384",
        ),
        (
            Self::EcdsaAes128,
            "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            "ECDHE-ECDSA-AES128-GCM-SHA256",
        ),
        (
            Self::EcdsaChacha20,
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
            "ECDHE-ECDSA-CHACHA20-POLY1305",
        ),
        (
            Self::RsaAes256,
            "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
            "ECDHE-RSA-AES256-GCM-SHA384",
        ),
        (
            Self::RsaAes128,
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            "ECDHE-RSA-AES128-GCM-SHA256",
        ),
        (
            Self::RsaChacha20,
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
            "ECDHE-RSA-CHACHA20-POLY1305",
        ),
    ];

    /// All of them, the ones for TLS 1.3 first.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::NAMES.into_iter().map(|(suite, ..)| suite)
    }

    /// IANA's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        let mut names = Self::NAMES.iter();
        let found = names.find(|(suite, ..)| *suite == self);
        found.map_or("", |(_, name, _)| name)
    }

    /// The version that has it.
    #[must_use]
    pub const fn version(self) -> TlsVersion {
        match self {
            Self::Aes128 | Self::Aes256 | Self::Chacha20 => TlsVersion::V1_3,
            _ => TlsVersion::V1_2,
        }
    }
}

impl FromStr for TlsSuite {
    type Err = UnknownTlsWord;

    /// IANA's name, or OpenSSL's.
    fn from_str(text: &str) -> Result<Self, UnknownTlsWord> {
        let mut names = Self::NAMES.iter();
        let found = names.find(|(_, iana, openssl)| [*iana, *openssl].contains(&text));
        found.map(|(suite, ..)| *suite).ok_or_else(|| {
            let known = Self::NAMES.map(|(_, name, _)| name).join(", ");
            UnknownTlsWord {
                text: text.to_owned(),
                what: "cipher suite",
                known,
            }
        })
    }
}

/// A group of key exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsGroup {
    /// P-256.
    Secp256r1,
    /// P-384.
    Secp384r1,
    /// Curve25519.
    X25519,
    /// Curve25519 together with ML-KEM-768, which quantum computers do not break.
    X25519MlKem768,
}

impl TlsGroup {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::X25519,
        Self::Secp256r1,
        Self::Secp384r1,
        Self::X25519MlKem768,
    ];

    /// IANA's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Secp256r1 => "secp256r1",
            Self::Secp384r1 => "secp384r1",
            Self::X25519 => "x25519",
            Self::X25519MlKem768 => "X25519MLKEM768",
        }
    }
}

impl FromStr for TlsGroup {
    type Err = UnknownTlsWord;

    /// IANA's name in any case, or OpenSSL's `prime256v1`, `P-256` and `P-384`.
    fn from_str(text: &str) -> Result<Self, UnknownTlsWord> {
        let found = match text.to_ascii_lowercase().as_str() {
            "prime256v1" | "p-256" => Some(Self::Secp256r1),
            "p-384" => Some(Self::Secp384r1),
            _ => Self::ALL
                .into_iter()
                .find(|group| group.name().eq_ignore_ascii_case(text)),
        };
        found.ok_or_else(|| UnknownTlsWord {
            text: text.to_owned(),
            what: "group",
            known: Self::ALL.map(Self::name).join(", "),
        })
    }
}

/// What is no cipher suite or group that is spoken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what} that is spoken; there are {known}")]
pub struct UnknownTlsWord {
    /// The text given.
    pub text: String,
    /// What it should be.
    pub what: &'static str,
    /// All that there are.
    pub known: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_shown() {
        for suite in TlsSuite::all() {
            assert_eq!(suite.name().parse(), Ok(suite));
        }
        for group in TlsGroup::ALL {
            assert_eq!(group.name().parse(), Ok(group));
        }
        let suite = "ECDHE-RSA-AES128-GCM-SHA256".parse();
        assert_eq!(suite, Ok(TlsSuite::RsaAes128));
        assert_eq!("prime256v1".parse(), Ok(TlsGroup::Secp256r1));
        assert!("".parse::<TlsSuite>().is_err());
        let error = "RC4-MD5".parse::<TlsSuite>().unwrap_err().to_string();
        assert!(
            error.starts_with("\"RC4-MD5\" is no cipher suite"),
            "{error}"
        );
    }

    #[test]
    fn secrets_do_not_show() {
        let key = PrivateKey {
            form: KeyForm::Pkcs8,
            der: vec![201, 202, 203],
        };
        assert_eq!(format!("{key:?}"), "PrivateKey(Pkcs8, ..)");
        assert_eq!(format!("{:?}", TicketKey(vec![7])), "TicketKey(..)");
    }
}
