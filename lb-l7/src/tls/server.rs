//! Our side of TLS to clients: a listener's certificates and rules, ready for handshakes.
//!
//! Invariant: an acceptor that was built can make a handshake with each of its certificates; what
//! a client gets is decided by it alone, however long the handshake takes and whatever is published
//! meanwhile.
//! Read next: `names.rs` (which certificate), `tickets.rs`, `client_auth.rs`, `handshake.rs`.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use lb_core::metrics::TlsFailure;
use lb_core::plan::{
    ClientAuth, OverdueCrl, Rate, TlsGroup, TlsRecords, TlsServer, TlsSuite, TlsVersion,
};
use lb_core::rate::TokenBucket;
use lb_core::rt::{self, Chunk, TcpStream, timeout};
use lb_l4::client_hello::{self, HelloError, ReceiveError};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs as crypto};
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{KeyLogFile, SupportedCipherSuite, SupportedProtocolVersion};

use super::certificate::ServerCertificate;
use super::client::TlsConfigError;
use super::client_auth::ClientVerifier;
use super::crl::RevocationList;
use super::failure::TlsRefusal;
use super::names::NameTable;
use super::policies::{ClientPolicies, ClientPolicy};
use super::stream::TlsStream;
use super::tickets::{TicketSecrets, Ticketer};

/// What a client gets that speaks HTTP without TLS.
const PLAIN_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\n\
    content-length: 54\r\nconnection: close\r\n\r\n\
    This port takes TLS: the address begins with https://\n";

/// What all listeners of a process share.
#[derive(Debug)]
pub struct TlsContext {
    secrets: Arc<TicketSecrets>,
}

impl TlsContext {
    /// `None` when the kernel has no random numbers.
    #[must_use]
    pub fn new() -> Option<Self> {
        Some(Self {
            secrets: TicketSecrets::random()?,
        })
    }
}

/// Makes the handshakes of a listener; shared by all workers.
pub struct TlsAcceptor {
    plan: TlsServer,
    config: Arc<ServerConfig>,
    /// Where names differ in what is asked of clients: by which they go, and how each is done.
    by_name: Option<(Arc<ClientPolicies>, Vec<Arc<ServerConfig>>)>,
    certificates: Vec<Arc<ServerCertificate>>,
    revocation_lists: Vec<RevocationList>,
    rate: Option<(Rate, Arc<TokenBucket>)>,
}

impl TlsAcceptor {
    /// Prepares what a plan says; with the same as `previous`, its handshakes are still counted.
    ///
    /// # Errors
    /// When a certificate, a key or a setting cannot be used.
    pub fn build(
        plan: &TlsServer,
        context: &TlsContext,
        previous: Option<&Self>,
    ) -> Result<Self, TlsConfigError> {
        let certificates = plan.certificates.iter();
        let certificates = certificates.map(|it| {
            let parsed = ServerCertificate::of(it);
            parsed.map_err(|error| TlsConfigError::Certificate(it.name.clone(), error))
        });
        let certificates: Vec<_> = certificates.collect::<Result<_, _>>()?;
        let names = NameTable::new(&certificates, plan.unknown_names);
        let names = Arc::new(names.ok_or(TlsConfigError::NoCertificate)?);
        let bucket = previous.and_then(|it| Some(Arc::clone(&it.rate.as_ref()?.1)));
        let configs = ClientPolicies::of(plan).map(|auth| config(plan, auth, context, &names));
        let configs = configs.map(|config| config.map(Arc::new));
        let configs: Vec<_> = configs.collect::<Result<_, _>>()?;
        Ok(Self {
            config: Arc::clone(configs.first().ok_or(TlsConfigError::NoCertificate)?),
            by_name: ClientPolicies::new(plan).map(|policies| (Arc::new(policies), configs)),
            certificates,
            revocation_lists: RevocationList::of(plan),
            rate: plan
                .handshake_rate
                .map(|rate| (rate, bucket.unwrap_or_default())),
            plan: plan.clone(),
        })
    }

    /// Whether it was made of this plan.
    #[must_use]
    pub fn is_of(&self, plan: &TlsServer) -> bool {
        self.plan == *plan
    }

    /// What it shows, the default first.
    #[must_use]
    pub fn certificates(&self) -> &[Arc<ServerCertificate>] {
        &self.certificates
    }

    /// By which lists clients are refused, the one that is overdue first first.
    #[must_use]
    pub fn revocation_lists(&self) -> &[RevocationList] {
        &self.revocation_lists
    }

    pub(super) const fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// Makes the handshake of a new connection.
    ///
    /// # Errors
    /// Why there is none; the client has been told as far as TLS has words for it.
    pub async fn accept(&self, stream: TcpStream) -> Result<TlsStream, TlsRefusal> {
        if let Some((rate, bucket)) = &self.rate
            && !bucket.take(*rate, rt::now())
        {
            return Err(TlsRefusal::new(
                TlsFailure::Rate,
                "more handshakes a second than the listener takes",
            ));
        }
        let handshake = Box::pin(self.handshake(stream));
        match timeout(self.plan.handshake_timeout, handshake).await {
            Ok(result) => result,
            Err(_) => Err(TlsRefusal::new(
                TlsFailure::Timeout,
                "the client took longer than the handshake timeout",
            )),
        }
    }

    async fn handshake(&self, stream: TcpStream) -> Result<TlsStream, TlsRefusal> {
        let first = stream.recv().await;
        let first = first.map_err(|error| TlsRefusal::of(&error, None))?;
        if is_plain_http(&first) {
            // A person who reads this has typed the wrong address.
            if stream.send(Chunk::from_static(PLAIN_ANSWER)).await.is_ok() {
                let _ = stream.shutdown().await;
            }
            let reason = "HTTP in the clear came to a port that takes TLS";
            return Err(TlsRefusal::new(TlsFailure::PlainHttp, reason));
        }
        stream.unread(first);
        let Some((policies, configs)) = &self.by_name else {
            let asks = self.plan.client_auth.is_some();
            return self.handshake_by(stream, &self.config, asks).await;
        };
        // The library asks for a certificate in the same breath in which it reads the name.
        let deadline = rt::now() + self.plan.handshake_timeout;
        let hello = client_hello::receive(&stream, deadline).await;
        let hello = hello.map_err(|error| refused_hello(&error))?;
        let find = |name: Option<&str>| policies.find(name.unwrap_or_default().as_bytes());
        let own = find(hello.server_name.as_deref());
        let asks = ClientPolicies::of(&self.plan).nth(own).flatten().is_some();
        let mut stream = self.handshake_by(stream, &configs[own], asks).await?;
        if find(stream.facts().server_name.as_deref()) != own {
            let reason = "the ClientHello has two readings of its server name";
            return Err(TlsRefusal::new(TlsFailure::Protocol, reason));
        }
        if let Some(facts) = stream.facts_mut() {
            facts.policy = Some(ClientPolicy::new(Arc::clone(policies), own));
        }
        Ok(stream)
    }

    /// Makes the handshake; `asks` says whether it asks for a certificate.
    async fn handshake_by(
        &self,
        stream: TcpStream,
        config: &Arc<ServerConfig>,
        asks: bool,
    ) -> Result<TlsStream, TlsRefusal> {
        let mut name = None;
        let stream = TlsStream::accept(stream, Arc::clone(config), &mut name).await;
        let mut stream = stream.map_err(|error| TlsRefusal::of(&error, name))?;
        if let Some(facts) = stream.facts_mut().filter(|_| asks) {
            facts.tell_backends();
        }
        if self.plan.records == TlsRecords::Dynamic {
            stream.begin_short();
        }
        Ok(stream)
    }
}

impl fmt::Debug for TlsAcceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsAcceptor")
            .field("certificates", &self.certificates.len())
            .finish_non_exhaustive()
    }
}

fn refused_hello(error: &ReceiveError) -> TlsRefusal {
    let kind = match error {
        ReceiveError::Closed => TlsFailure::Closed,
        ReceiveError::Timeout => TlsFailure::Timeout,
        ReceiveError::Invalid(HelloError::NotTls) => TlsFailure::NotTls,
        ReceiveError::Invalid(_) => TlsFailure::Protocol,
    };
    TlsRefusal::new(kind, &error.to_string())
}

fn is_plain_http(first: &[u8]) -> bool {
    const METHODS: [&[u8]; 8] = [
        b"GET ", b"POST", b"HEAD", b"PUT ", b"DELE", b"OPTI", b"PATC", b"PRI ",
    ];
    METHODS.iter().any(|method| first.starts_with(method))
}

fn config(
    plan: &TlsServer,
    client_auth: Option<&ClientAuth>,
    context: &TlsContext,
    names: &Arc<NameTable>,
) -> Result<ServerConfig, TlsConfigError> {
    let provider = Arc::new(provider(&plan.suites, &plan.groups));
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions(plan.min_version, &plan.suites))?;
    let builder = match client_auth {
        Some(auth) => {
            let verifier = ClientVerifier::new(auth, provider)?;
            builder.with_client_cert_verifier(Arc::new(verifier))
        }
        None => builder.with_client_cert_verifier(WebPkiClientVerifier::no_client_auth()),
    };
    let mut config = builder.with_cert_resolver(Arc::clone(names) as _);
    let http2: &[&[u8]] = if plan.alpn_http2 { &[b"h2"] } else { &[] };
    let http1: &[&[u8]] = &[b"http/1.1"];
    let protocols = http2.iter().chain(http1);
    config.alpn_protocols = protocols.map(|protocol| protocol.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {}); // tickets say all
    config.enable_secret_extraction = true; // for `record.rs`
    config.ignore_client_order = !plan.suites.is_empty();
    if plan.resumption {
        let secrets = TicketSecrets::of_keys(&plan.ticket_keys);
        let secrets = secrets.unwrap_or_else(|| Arc::clone(&context.secrets));
        let ticketer = Ticketer::new(secrets, client_auth_digest(client_auth));
        config.ticketer = Arc::new(ticketer);
    } else {
        config.send_tls13_tickets = 0;
    }
    if plan.key_log {
        config.key_log = Arc::new(KeyLogFile::new());
    }
    Ok(config)
}

/// What a ticket is bound to: a session that was begun without a certificate of the client, or
/// with one of another authority, does not go on where one is asked for.
fn client_auth_digest(auth: Option<&ClientAuth>) -> [u8; 32] {
    let mut digest = Context::new(&SHA256);
    if let Some(auth) = auth {
        let refuses_overdue = auth.overdue == OverdueCrl::Refuse;
        let flags = [u8::from(auth.required), u8::from(refuses_overdue)];
        digest.update(&[1, flags[0], flags[1], auth.depth]);
        for list in [&auth.roots, &auth.revoked] {
            digest.update(&(list.len() as u64).to_be_bytes());
            for der in list.iter() {
                digest.update(&(der.len() as u64).to_be_bytes());
                digest.update(der);
            }
        }
    }
    let mut out = [0; 32];
    out.copy_from_slice(digest.finish().as_ref());
    out
}

/// The cryptography, narrowed to what a plan allows.
pub(super) fn provider(suites: &[TlsSuite], groups: &[TlsGroup]) -> CryptoProvider {
    let mut provider = crypto::default_provider();
    let suites: Vec<SupportedCipherSuite> = if suites.is_empty() {
        // AES of 128 bits first: it is as safe as the rest of the handshake, and cheaper.
        let mut all = provider.cipher_suites;
        all.sort_by_key(|suite| {
            suite.suite() != crypto::cipher_suite::TLS13_AES_128_GCM_SHA256.suite()
        });
        all
    } else {
        suites.iter().map(|suite| suite_of(*suite)).collect()
    };
    provider.cipher_suites = suites;
    let default = [
        TlsGroup::X25519MlKem768,
        TlsGroup::X25519,
        TlsGroup::Secp256r1,
        TlsGroup::Secp384r1,
    ];
    let groups = if groups.is_empty() { &default } else { groups };
    provider.kx_groups = groups.iter().map(|group| group_of(*group)).collect();
    provider
}

/// The versions that there are suites for.
pub(super) fn versions(
    least: TlsVersion,
    suites: &[TlsSuite],
) -> &'static [&'static SupportedProtocolVersion] {
    static BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
    static OLDER: &[&SupportedProtocolVersion] = &[&TLS12];
    static NEWER: &[&SupportedProtocolVersion] = &[&TLS13];
    let has = |version| suites.is_empty() || suites.iter().any(|suite| suite.version() == version);
    let older = least == TlsVersion::V1_2 && has(TlsVersion::V1_2);
    match (older, has(TlsVersion::V1_3)) {
        (true, true) => BOTH,
        (true, false) => OLDER,
        (false, _) => NEWER,
    }
}

const fn suite_of(suite: TlsSuite) -> SupportedCipherSuite {
    use crypto::cipher_suite as suites;
    match suite {
        TlsSuite::Aes128 => suites::TLS13_AES_128_GCM_SHA256,
        TlsSuite::Aes256 => suites::TLS13_AES_256_GCM_SHA384,
        TlsSuite::Chacha20 => suites::TLS13_CHACHA20_POLY1305_SHA256,
        TlsSuite::EcdsaAes128 => suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        TlsSuite::EcdsaAes256 => suites::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        TlsSuite::EcdsaChacha20 => suites::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        TlsSuite::RsaAes128 => suites::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        TlsSuite::RsaAes256 => suites::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        TlsSuite::RsaChacha20 => suites::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    }
}

const fn group_of(group: TlsGroup) -> &'static dyn SupportedKxGroup {
    use crypto::kx_group as groups;
    match group {
        TlsGroup::Secp256r1 => groups::SECP256R1,
        TlsGroup::Secp384r1 => groups::SECP384R1,
        TlsGroup::X25519 => groups::X25519,
        TlsGroup::X25519MlKem768 => groups::X25519MLKEM768,
    }
}
