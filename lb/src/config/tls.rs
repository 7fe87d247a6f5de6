//! `tls:` of an HTTP listener and of a cluster, and the flags of `--https`: settings, and the files
//! that they name, read here, on the control thread.
//!
//! Invariant: what is returned can be used: keys are those of their certificates. Errors name the
//! file and never show a key. Read next: `lb_l7::tls`, `lb_core::plan::TlsServer`.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use lb_core::plan::{
    BackendTls, Certificate, Rate, TicketKey, TlsGroup, TlsRecords, TlsServer, TlsSuite,
    TlsVersion, UnknownNames, Verify,
};
use lb_l7::tls::{self, RevocationList, ServerCertificate};

use super::client_auth::{client_auth, named_client_auth};
use super::decode::{self, Fields, Problems};
use super::problem::{Located, Place, Problem};
use super::read::duration;
use super::yaml::{Node, Value};
use super::{balancing, known, notation, read_cluster};

/// Largest file of certificates or keys, so that a wrong path ends in a message.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Keys whose values are files, below a key `tls`.
const FILE_KEYS: [&str; 7] = [
    "ca",
    "certificate",
    "crl",
    "key",
    "ocsp",
    "ticket_keys",
    "verify",
];

const VERSION_WORDS: [(&str, TlsVersion); 2] =
    [("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];

const UNKNOWN_WORDS: [(&str, UnknownNames); 2] = [
    ("default", UnknownNames::Default),
    ("refuse", UnknownNames::Refuse),
];

const RECORDS_WORDS: [(&str, TlsRecords); 2] =
    [("dynamic", TlsRecords::Dynamic), ("full", TlsRecords::Full)];

/// `tls:` of a listener, as it was written.
#[derive(Debug)]
pub(crate) struct Tls {
    pub(crate) server: TlsServer,
    /// Each of its certificates, and where it was written.
    pub(crate) certificates: Vec<Located<Arc<ServerCertificate>>>,
    /// Where all of it was written; `None` of flags, which ask clients for nothing.
    place: Option<Place>,
}

impl Tls {
    /// A listener with these certificates and defaults otherwise.
    fn of(certificates: Vec<Located<Arc<ServerCertificate>>>) -> Self {
        let plans = certificates.iter().map(|it| Arc::clone(&it.value.plan));
        Self {
            server: TlsServer::new(plans.collect()),
            certificates,
            place: None,
        }
    }

    /// What is odd about its certificates, and about the lists of revoked ones.
    pub(crate) fn warn(&self, now: SystemTime, warnings: &mut Problems) {
        for list in RevocationList::of(&self.server) {
            if let (Some(fault), Some(place)) = (list.fault(now), &self.place) {
                let reason = format!("the list of what {} has revoked {fault}", list.issuer);
                warnings.push(Problem::new(place, reason));
            }
        }
        for Located { value, place } in &self.certificates {
            let name = &value.plan.name;
            if now >= value.not_after {
                let reason = format!("the certificate {name} has expired");
                warnings.push(Problem::new(place, reason));
            } else if now < value.not_before {
                let reason = format!("the certificate {name} is not valid yet");
                warnings.push(Problem::new(place, reason));
            }
            let faults = [value.chain_fault.as_deref(), value.ocsp_fault(now)];
            for fault in faults.into_iter().flatten() {
                let reason = format!("the certificate {name} {fault}");
                warnings.push(Problem::new(place, reason));
            }
            if value.names.is_empty() && self.certificates.len() > 1 {
                let reason =
                    format!("the certificate {name} has no name, so only the first may be shown");
                warnings.push(Problem::new(place, reason));
            }
        }
    }
}

/// The `--tls-cert` and `--tls-key` of every `--https`.
#[derive(Debug, Clone, Default)]
pub(crate) struct TlsFlags {
    pub(crate) certificates: Vec<PathBuf>,
    pub(crate) keys: Vec<PathBuf>,
    pub(crate) key_log: bool,
}

impl TlsFlags {
    pub(crate) fn is_given(&self) -> bool {
        !(self.certificates.is_empty() && self.keys.is_empty()) || self.key_log
    }

    /// The files that are to be watched.
    pub(crate) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.certificates.iter().chain(&self.keys)
    }

    /// Reads the pairs; `listen` is the text of the first `--https`.
    pub(crate) fn read(&self, listen: &str, problems: &mut Problems) -> Option<Tls> {
        let (certificates, keys) = (self.certificates.len(), self.keys.len());
        if certificates == 0 || certificates != keys {
            let (flag, value) = ("--https", listen.to_owned());
            let reason = format!(
                "there are {certificates} --tls-cert and {keys} --tls-key; it takes as many of \
                 each, at least one, the first key for the first certificate"
            );
            problems.push(Problem::new(&Place::Flag { flag, value }, reason));
            return None;
        }
        let pairs = self.certificates.iter().zip(&self.keys);
        let read = pairs.filter_map(|(certificate, key)| {
            let place = |flag, path: &Path| Place::Flag {
                flag,
                value: path.display().to_string(),
            };
            let places = (place("--tls-cert", certificate), place("--tls-key", key));
            read_pair(
                (certificate, &places.0),
                (key, &places.1),
                PairMore::default(),
                problems,
            )
        });
        let read: Vec<_> = read.collect();
        if read.len() < certificates {
            return None;
        }
        let mut tls = Tls::of(read);
        tls.server.key_log = self.key_log;
        Some(tls)
    }
}

/// `tls:` of an HTTP listener.
pub(super) fn server(node: &Node, problems: &mut Problems) -> Option<Tls> {
    let mut fields = Fields::of(node, problems)?;
    let several = fields.optional("certificates", decode::list(pair));
    let one = if fields.has("certificates") {
        fields.refuse("certificate", "it is in the list \"certificates\"");
        fields.refuse("key", "it is in the list \"certificates\"");
        fields.refuse("ocsp", "it belongs into the list \"certificates\"");
        None
    } else {
        let ocsp = fields.optional("ocsp", decode::parsed(notation::path));
        pair_fields(&mut fields, ocsp)
    };
    let certificates = several.unwrap_or_else(|| one.into_iter().collect());
    if certificates.is_empty() && fields.has("certificates") {
        fields.problem("there is no certificate that can be used");
    }
    let mut tls = Tls::of(certificates);
    tls.place = Some(node.place.clone());
    let server = &mut tls.server;
    if let Some(http2) = fields.optional("http2", decode::boolean) {
        server.alpn_http2 = http2;
    }
    let version = fields.optional("min_version", decode::choice(&VERSION_WORDS));
    server.min_version = version.map_or(server.min_version, |it| it.value);
    server.suites = words(&mut fields, "suites", |text| text.parse::<TlsSuite>());
    server.groups = words(&mut fields, "groups", |text| text.parse::<TlsGroup>());
    server.client_auth = fields.optional("client_auth", client_auth);
    let named = fields.optional("client_auth_by_name", decode::list(named_client_auth));
    server.client_auth_by_name = named.unwrap_or_default();
    let unknown = fields.optional("unknown_names", decode::choice(&UNKNOWN_WORDS));
    server.unknown_names = unknown.map_or(server.unknown_names, |it| it.value);
    if let Some(timeout) = fields.optional("handshake_timeout", duration) {
        server.handshake_timeout = timeout.value;
    }
    let range = 1..=Rate::PER_SECOND_LIMIT.into();
    let rate = fields.optional("handshake_rate", decode::number(range));
    server.handshake_rate = rate.map(|rate| Rate {
        per_second: rate.value as u32,
        burst: rate.value as u32,
    });
    let key = |node: &Node, problems: &mut Problems| decode::parsed(ticket_key)(node, problems);
    let keys = fields.optional("ticket_keys", decode::list(key));
    server.ticket_keys = keys.into_iter().flatten().map(|key| key.value).collect();
    if let Some(resumption) = fields.optional("resumption", decode::boolean) {
        server.resumption = resumption;
    }
    let records = fields.optional("records", decode::choice(&RECORDS_WORDS));
    server.records = records.map_or(server.records, |it| it.value);
    fields.finish();
    (!tls.certificates.is_empty()).then_some(tls)
}

/// `tls:` of a cluster: `true`, `false`, or a mapping.
pub(super) fn backend(node: &Node, problems: &mut Problems) -> Option<Option<BackendTls>> {
    if let Value::Scalar(_) = &node.value {
        let given = decode::boolean(node, problems)?;
        return Some(given.then(BackendTls::default));
    }
    let mut fields = Fields::of(node, problems)?;
    let mut tls = BackendTls::default();
    let name = fields.optional("server_name", decode::parsed(balancing::server_name));
    tls.server_name = name.map(|name| name.value);
    let verify = fields.optional("verify", decode::parsed(read_cluster::verify));
    tls.verify = verify.map_or(Verify::Off, |verify| verify.value);
    if fields.has("certificate") || fields.has("key") {
        fields.refuse("ocsp", "it is for certificates that are shown to clients");
        let pair = pair_fields(&mut fields, None);
        tls.certificate = pair.map(|pair| Arc::clone(&pair.value.plan));
    }
    let version = fields.optional("min_version", decode::choice(&VERSION_WORDS));
    tls.min_version = version.map_or(tls.min_version, |it| it.value);
    if let Some(resumption) = fields.optional("resumption", decode::boolean) {
        tls.resumption = resumption;
    }
    fields.finish();
    Some(Some(tls))
}

/// The files that `tls:` names anywhere in a document, also where it is wrong: what is mended there
/// is to be noticed.
pub(super) fn files(root: &Node) -> Vec<PathBuf> {
    let mut found = Vec::new();
    gather(root, false, &mut found);
    found
}

fn gather(node: &Node, in_tls: bool, found: &mut Vec<PathBuf>) {
    match &node.value {
        Value::Mapping(entries) => {
            for entry in entries {
                match &entry.node.value {
                    Value::Scalar(path) if in_tls && FILE_KEYS.contains(&&*entry.key) => {
                        found.push(PathBuf::from(path));
                    }
                    Value::Sequence(items) if in_tls && FILE_KEYS.contains(&&*entry.key) => {
                        for item in items {
                            if let Value::Scalar(path) = &item.value {
                                found.push(PathBuf::from(path));
                            }
                        }
                    }
                    _ => gather(&entry.node, in_tls || entry.key == "tls", found),
                }
            }
        }
        Value::Sequence(items) => items.iter().for_each(|item| gather(item, in_tls, found)),
        Value::Null | Value::Scalar(_) => {}
    }
}

/// An item of `certificates`.
fn pair(node: &Node, problems: &mut Problems) -> Option<Located<Arc<ServerCertificate>>> {
    let mut fields = Fields::of(node, problems)?;
    let ocsp = fields.optional("ocsp", decode::parsed(notation::path));
    let pair = pair_fields(&mut fields, ocsp);
    fields.finish();
    pair
}

/// What there may be beside a certificate and its key.
#[derive(Default)]
struct PairMore {
    server_names: Vec<String>,
    ocsp: Option<Located<PathBuf>>,
}

/// `certificate`, `key` and `names`, of a certificate or of a listener that has one.
fn pair_fields(
    fields: &mut Fields<'_, '_>,
    ocsp: Option<Located<PathBuf>>,
) -> Option<Located<Arc<ServerCertificate>>> {
    let certificate = fields.required("certificate", decode::parsed(notation::path));
    // Many tools write both into one file.
    let key = fields.optional("key", decode::parsed(notation::path));
    let is_bad = key.is_none() && fields.has("key");
    let name =
        |node: &Node, problems: &mut Problems| decode::parsed(notation::route_host)(node, problems);
    let names = fields.optional("names", decode::list(name));
    let more = PairMore {
        server_names: names.into_iter().flatten().map(|name| name.value).collect(),
        ocsp,
    };
    let certificate = certificate.filter(|_| !is_bad)?;
    let key = key.as_ref().unwrap_or(&certificate);
    read_pair(
        (&certificate.value, &certificate.place),
        (&key.value, &key.place),
        more,
        fields.problems(),
    )
}

/// A certificate with its key, known or read.
fn read_pair(
    (certificate, place): (&Path, &Place),
    (key, key_place): (&Path, &Place),
    more: PairMore,
    problems: &mut Problems,
) -> Option<Located<Arc<ServerCertificate>>> {
    let source = known::Source {
        certificate: certificate.to_path_buf(),
        key: key.to_path_buf(),
        ocsp: more.ocsp.as_ref().map(|it| it.value.clone()),
        server_names: more.server_names,
    };
    let located = |value| Located {
        value,
        place: place.clone(),
    };
    let stamp = source.stamp(lb_core::rt::wall_clock());
    let before = known::find(&source, stamp.as_ref());
    if let Some((known, true)) = before {
        return Some(located(known));
    }
    let ocsp_place = more.ocsp.as_ref().map(|it| &it.place);
    let places = [place, key_place, ocsp_place.unwrap_or(place)];
    let plan = read_plan(&source, places, problems)?;
    let made = match before {
        // Touched, or of no age when it was read.
        Some((known, _)) if *known.plan == plan => Ok(known),
        _ => ServerCertificate::of(&Arc::new(plan)),
    };
    match made {
        Ok(value) => {
            known::keep(source, stamp, &value);
            Some(located(value))
        }
        Err(error) => {
            let name = certificate.display();
            let files = if certificate == key {
                format!("\"{name}\"")
            } else {
                format!("\"{name}\" with the key \"{}\"", key.display())
            };
            let reason = format!("{files} cannot be used: {error}");
            problems.push(Problem::new(place, reason));
            None
        }
    }
}

/// What is in the files of a source: certificate, key and what an authority says of it, in the
/// order of their places.
fn read_plan(
    source: &known::Source,
    [place, key_place, ocsp_place]: [&Place; 3],
    problems: &mut Problems,
) -> Option<Certificate> {
    let unusable = |path: &Path, error: &dyn std::fmt::Display| {
        format!("\"{}\" cannot be used: {error}", path.display())
    };
    let ocsp = source.ocsp.as_deref().map(read).transpose();
    let ocsp = ocsp.map_err(|reason| problems.push(Problem::new(ocsp_place, reason)));
    let chain = read(&source.certificate).and_then(|text| {
        let chain = tls::chain_from_pem(&text);
        chain.map_err(|error| unusable(&source.certificate, &error))
    });
    let key = read(&source.key).and_then(|text| {
        let found = tls::key_from_pem(&text);
        found.map_err(|error| unusable(&source.key, &error))
    });
    let chain = chain.map_err(|reason| problems.push(Problem::new(place, reason)));
    let key = key.map_err(|reason| problems.push(Problem::new(key_place, reason)));
    Some(Certificate {
        name: source.certificate.display().to_string(),
        server_names: source.server_names.clone(),
        chain: chain.ok()?,
        key: key.ok()?,
        ocsp: ocsp.ok()?,
    })
}

fn words<T>(
    fields: &mut Fields<'_, '_>,
    key: &'static str,
    parse: impl Fn(&str) -> Result<T, lb_core::plan::UnknownTlsWord>,
) -> Vec<T> {
    let parse = |node: &Node, problems: &mut Problems| {
        decode::parsed(|text| parse(text).map_err(|error| error.to_string()))(node, problems)
    };
    let found = fields.optional(key, decode::list(parse));
    found.into_iter().flatten().map(|word| word.value).collect()
}

fn ticket_key(text: &str) -> Result<TicketKey, String> {
    let path = notation::path(text)?;
    let secret = read(&path)?;
    if !(TicketKey::BYTES_LEAST..=TicketKey::BYTES_MAX).contains(&secret.len()) {
        return Err(format!(
            "\"{text}\" has {} bytes, and should have {} to {}; openssl rand -out FILE 48 makes one",
            secret.len(),
            TicketKey::BYTES_LEAST,
            TicketKey::BYTES_MAX
        ));
    }
    Ok(TicketKey(secret))
}

/// A whole file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    let reason = match read {
        Ok(length) if length as u64 > FILE_BYTES_MAX => "is larger than 1 MiB".to_owned(),
        Ok(0) => "is empty".to_owned(),
        Ok(_) => return Ok(bytes),
        Err(error) => match error.kind() {
            ErrorKind::NotFound => "is not there; check the path".to_owned(),
            ErrorKind::PermissionDenied => {
                "may not be read by this user; check its owner and mode (ls -l)".to_owned()
            }
            ErrorKind::IsADirectory => "is a folder; give the PEM file in it".to_owned(),
            _ => format!("cannot be read: {error}"),
        },
    };
    Err(format!("\"{}\" {reason}", path.display()))
}
