//! A YAML tree to the [`Cluster`]s of a file: every key of a cluster is named here, once.
//!
//! Invariant: as in `read.rs`: a key that is read is one that takes effect.
//! Read next: `balancing.rs` (the short notations), `compile_cluster.rs` (what they make).

use lb_core::plan::{
    self, Affinity, Balance, Check, ClusterExchanges, CookieAffinity, CookieMode, GrpcCheck,
    HttpCheck, SameSite, Secure, TlsCheck, UdpCheck, Verify,
};
use lb_l7::tls;

use super::decode::{self, Fields, Problems};
use super::file::{Backend, Cluster, Health, Outlier, Pool};
use super::http2::PROTOCOL_WORDS;
use super::problem::{Located, Problem};
use super::read::{duration, name};
use super::yaml::{Entry, Node, Value};
use super::{balancing, exchange, notation};

/// `clusters:`, a mapping by name.
pub(super) fn clusters(node: &Node, problems: &mut Problems) -> Option<Vec<Cluster>> {
    let entries: &[_] = match &node.value {
        Value::Mapping(entries) => entries,
        Value::Null => &[],
        Value::Scalar(_) | Value::Sequence(_) => {
            problems.push(decode::expected("a mapping (name: cluster)", node));
            return None;
        }
    };
    Some(
        entries
            .iter()
            .map(|entry| cluster(entry, problems))
            .collect(),
    )
}

/// Even one that cannot be read is there, so that nobody is told that it does not exist.
fn cluster(entry: &Entry, problems: &mut Problems) -> Cluster {
    if let Err(reason) = notation::name(&entry.key) {
        problems.push(Problem::new(&entry.place, reason));
    }
    let name = Located {
        value: entry.key.clone(),
        place: entry.place.clone(),
    };
    let Some(mut fields) = Fields::of(&entry.node, problems) else {
        return Cluster::named(name);
    };
    let mut exchanges = ClusterExchanges::default();
    exchange::cluster(&mut fields, &mut exchanges);
    let pool = fields.optional("pool", |node: &Node, problems: &mut Problems| {
        pool(node, problems, &mut exchanges)
    });
    let cluster = Cluster {
        name,
        backends: fields.required("backends", backends).unwrap_or_default(),
        balance: fields.optional("balance", decode::choice(&Balance::NAMES)),
        hash_key: fields.optional("hash_key", decode::parsed(balancing::hash_key)),
        bounded_load: fields.optional("bounded_load", decode::parsed(balancing::bounded_load)),
        affinity: fields.optional("affinity", affinity),
        slow_start: fields.optional("slow_start", decode::limit(notation::duration)),
        panic_threshold: fields.optional("panic_threshold", percent::<0, 100>),
        outlier: fields.optional("outlier", outlier).flatten(),
        health: fields.optional("health", health),
        connect_timeout: fields.optional("connect_timeout", duration),
        tries: fields.optional("tries", decode::number(1..=plan::TRIES_LIMIT.into())),
        protocol: fields.optional("protocol", decode::choice(&PROTOCOL_WORDS)),
        tls: fields.optional("tls", super::tls::backend).flatten(),
        pool: pool.unwrap_or_default(),
        exchanges,
    };
    fields.finish();
    cluster
}

fn pool(node: &Node, problems: &mut Problems, exchanges: &mut ClusterExchanges) -> Option<Pool> {
    let mut fields = Fields::of(node, problems)?;
    let pool = Pool {
        idle: fields.optional("idle", decode::number(0..=u16::MAX.into())),
        idle_timeout: fields.optional("idle_timeout", duration),
    };
    exchange::pool(&mut fields, exchanges);
    fields.finish();
    Some(pool)
}

/// At least one: a cluster that is empty for now is for sources that fill it by themselves.
fn backends(node: &Node, problems: &mut Problems) -> Option<Vec<Backend>> {
    if matches!(&node.value, Value::Null)
        || matches!(&node.value, Value::Sequence(items) if items.is_empty())
    {
        let reason = "there is no backend; a cluster has at least one, as 10.0.0.7:8080";
        problems.push(Problem::new(&node.place, reason));
        return None;
    }
    decode::list(backend)(node, problems)
}

/// `HOST:PORT[/WEIGHT]`, or a mapping.
fn backend(node: &Node, problems: &mut Problems) -> Option<Backend> {
    if let Value::Scalar(_) = &node.value {
        let address = decode::parsed(notation::backend)(node, problems)?;
        return Some(Backend {
            address,
            name: None,
            backup: false,
            drain: false,
        });
    }
    let mut fields = Fields::of(node, problems)?;
    let address = fields.required("address", decode::parsed(notation::backend));
    let weight = fields.optional("weight", decode::number(0..=u16::MAX.into()));
    let name = fields.optional("name", name);
    let backup = fields.optional("backup", decode::boolean).unwrap_or(false);
    let drain = fields.optional("drain", decode::boolean).unwrap_or(false);
    fields.finish();
    let mut address = address?;
    if let Some(weight) = weight {
        address.value.weight = weight.value as u16;
    }
    Some(Backend {
        address,
        name,
        backup,
        drain,
    })
}

/// The short text that `--affinity` takes, or a mapping with one kind and its settings.
fn affinity(node: &Node, problems: &mut Problems) -> Option<Located<Option<Affinity>>> {
    if let Value::Scalar(_) = &node.value {
        return decode::parsed(balancing::affinity)(node, problems);
    }
    let mut fields = Fields::of(node, problems)?;
    let kinds = [
        fields.optional("client_ip", client_affinity),
        fields.optional("header", header_affinity),
        fields.optional("cookie", cookie_affinity),
    ];
    let written = ["client_ip", "header", "cookie"].map(|kind| fields.has(kind));
    if written.iter().filter(|written| **written).count() != 1 {
        fields.problem("affinity is by one of \"client_ip\", \"header\" and \"cookie\"");
    }
    fields.finish();
    let value = kinds.into_iter().flatten().next()?;
    Some(Located {
        value: Some(value),
        place: node.place.clone(),
    })
}

fn client_affinity(node: &Node, problems: &mut Problems) -> Option<Affinity> {
    let mut fields = Fields::of(node, problems)?;
    let timeout = fields.optional("timeout", affinity_timeout);
    let ipv4 = fields.optional("ipv4_prefix", decode::number(1..=32));
    let ipv6 = fields.optional("ipv6_prefix", decode::number(1..=128));
    fields.finish();
    Some(Affinity::ClientAddress {
        timeout: timeout.map_or(Affinity::TIMEOUT_DEFAULT, |it| it.value),
        ipv4_prefix: ipv4.map_or(32, |bits| bits.value as u8),
        ipv6_prefix: ipv6.map_or(128, |bits| bits.value as u8),
    })
}

fn header_affinity(node: &Node, problems: &mut Problems) -> Option<Affinity> {
    let mut fields = Fields::of(node, problems)?;
    let name = fields.required("name", decode::parsed(balancing::field_name));
    let timeout = fields.optional("timeout", affinity_timeout);
    fields.finish();
    Some(Affinity::Header {
        name: name?.value,
        timeout: timeout.map_or(Affinity::TIMEOUT_DEFAULT, |it| it.value),
    })
}

fn cookie_affinity(node: &Node, problems: &mut Problems) -> Option<Affinity> {
    const SAME_SITE: [(&str, SameSite); 3] = [
        ("lax", SameSite::Lax),
        ("none", SameSite::None),
        ("strict", SameSite::Strict),
    ];
    const SECURE: [(&str, Secure); 3] = [
        ("always", Secure::Always),
        ("auto", Secure::Auto),
        ("never", Secure::Never),
    ];
    const MODES: [(&str, CookieMode); 2] = [
        ("balanced", CookieMode::Balanced),
        ("persistent", CookieMode::Persistent),
    ];
    let mut fields = Fields::of(node, problems)?;
    let name = fields.optional("name", decode::parsed(balancing::cookie_name));
    let name = name.map_or_else(|| CookieAffinity::NAME_DEFAULT.to_owned(), |it| it.value);
    let mut cookie = CookieAffinity::new(name);
    if let Some(path) = fields.optional("path", decode::parsed(cookie_path)) {
        cookie.path = path.value;
    }
    let domain = fields.optional("domain", decode::limit(notation::cookie_domain));
    cookie.domain = domain.and_then(|domain| domain.value);
    let max_age = fields.optional("max_age", decode::limit(whole_seconds));
    cookie.max_age = max_age.and_then(|max_age| max_age.value);
    let same_site = fields.optional("same_site", decode::choice(&SAME_SITE));
    cookie.same_site = same_site.map(|same_site| same_site.value);
    if let Some(secure) = fields.optional("secure", decode::choice(&SECURE)) {
        cookie.secure = secure.value;
    }
    if let Some(http_only) = fields.optional("http_only", decode::boolean) {
        cookie.http_only = http_only;
    }
    if let Some(mode) = fields.optional("mode", decode::choice(&MODES)) {
        cookie.mode = mode.value;
    }
    if cookie.same_site == Some(SameSite::None) && cookie.secure == Secure::Never {
        fields.problem("browsers refuse a cookie that is same_site: none and secure: never");
    }
    fields.finish();
    Some(Affinity::Cookie(cookie))
}

fn cookie_path(text: &str) -> Result<String, String> {
    match notation::route_path(text) {
        Ok(path) if !path.contains(';') => Ok(path),
        _ => Err(format!("\"{text}\" is not a path of a cookie, as /cart")),
    }
}

/// Cookies know no shorter time.
fn whole_seconds(text: &str) -> Result<std::time::Duration, String> {
    match notation::duration(text)? {
        time if time.subsec_nanos() == 0 => Ok(time),
        _ => Err(format!("\"{text}\" is not in whole seconds, as 1h")),
    }
}

fn affinity_timeout(node: &Node, problems: &mut Problems) -> Option<Located<std::time::Duration>> {
    let timeout = |text: &str| balancing::affinity_timeout(notation::duration(text)?);
    decode::parsed(timeout)(node, problems)
}

/// `off` and `on` are there for files that are made by programs. The outer `None` could not be
/// read, the inner is off.
fn outlier(node: &Node, problems: &mut Problems) -> Option<Option<Located<Outlier>>> {
    let located = |value| Located {
        value,
        place: node.place.clone(),
    };
    if let Value::Scalar(_) = &node.value {
        let words = [("off", false), ("on", true)];
        let on = decode::choice(&words)(node, problems)?.value;
        return Some(on.then(|| located(Outlier::default())));
    }
    let mut fields = Fields::of(node, problems)?;
    let number = |text: &str| notation::number(text, 1..=u16::MAX.into());
    let outlier = Outlier {
        failures: fields.optional("failures", decode::limit(number)),
        ratio: fields.optional(
            "ratio",
            decode::limit(|text| balancing::percent(text, 1, 100)),
        ),
        requests: fields.optional("requests", decode::parsed(number)),
        window: fields.optional("window", duration),
        ejection: fields.optional("ejection", duration),
        ejection_max: fields.optional("ejection_max", duration),
        ejected_max: fields.optional("ejected_max", percent::<1, 100>),
    };
    fields.finish();
    Some(Some(located(outlier)))
}

fn health(node: &Node, problems: &mut Problems) -> Option<Located<Health>> {
    const KINDS: [(&str, Kind); 5] = [
        ("grpc", Kind::Grpc),
        ("http", Kind::Http),
        ("https", Kind::Https),
        ("tcp", Kind::Tcp),
        ("udp", Kind::Udp),
    ];
    let mut fields = Fields::of(node, problems)?;
    let kind = fields.required("check", decode::choice(&KINDS));
    let check = kind.map(|kind| kind.value.check(&mut fields));
    let health = check.map(|check| Health {
        check,
        interval: fields.optional("interval", duration),
        jitter: fields.optional("jitter", percent::<0, 50>),
        timeout: fields.optional("timeout", duration),
        rise: fields.optional("rise", decode::number(1..=100)),
        fall: fields.optional("fall", decode::number(1..=100)),
        port: fields.optional("port", decode::number(1..=u16::MAX.into())),
    });
    // Without a check, nobody knows which of the other keys are right.
    if health.is_some() {
        fields.finish();
    }
    health.map(|value| Located {
        value,
        place: node.place.clone(),
    })
}

/// The kinds of checks, which differ in the keys that they take.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Grpc,
    Http,
    Https,
    Tcp,
    Udp,
}

impl Kind {
    fn check(self, fields: &mut Fields<'_, '_>) -> Check {
        if !matches!(self, Self::Http | Self::Https) {
            fields.refuse("path", "it is for http and https checks");
            fields.refuse("method", "it is for http and https checks");
        }
        if matches!(self, Self::Tcp | Self::Udp) {
            fields.refuse("host", "it is for http, https and grpc checks");
        }
        if matches!(self, Self::Tcp | Self::Grpc) {
            fields.refuse("expect", "it is for http, https and udp checks");
        }
        if self != Self::Grpc {
            fields.refuse("service", "it is for grpc checks");
            fields.refuse("tls", "it is for grpc checks; there is https");
        }
        if self != Self::Udp {
            fields.refuse("send", "it is for udp checks");
        }
        match self {
            Self::Grpc => Check::Grpc(grpc_check(fields)),
            Self::Http => {
                refuse_tls(fields, "it is for https checks");
                Check::Http(http_check(fields))
            }
            Self::Https => Check::Https(http_check(fields), tls_check(fields)),
            Self::Tcp => {
                refuse_tls(fields, "it is for https and grpc checks");
                Check::Tcp
            }
            Self::Udp => {
                refuse_tls(fields, "it is for https and grpc checks");
                Check::Udp(udp_check(fields))
            }
        }
    }
}

fn refuse_tls(fields: &mut Fields<'_, '_>, why: &str) {
    fields.refuse("server_name", why);
    fields.refuse("verify", why);
}

fn http_check(fields: &mut Fields<'_, '_>) -> HttpCheck {
    let default = HttpCheck::default();
    let path = fields.optional("path", decode::parsed(balancing::check_path));
    let host = fields.optional("host", decode::parsed(balancing::authority));
    let method = fields.optional("method", decode::parsed(balancing::check_method));
    let expected = fields.optional("expect", decode::parsed(balancing::statuses));
    HttpCheck {
        path: path.map_or(default.path, |path| path.value),
        host: host.map(|host| host.value),
        method: method.map_or(default.method, |method| method.value),
        expected: expected.map_or(default.expected, |expected| expected.value),
    }
}

fn grpc_check(fields: &mut Fields<'_, '_>) -> GrpcCheck {
    let service = fields.optional("service", decode::parsed(balancing::grpc_service));
    let authority = fields.optional("host", decode::parsed(balancing::authority));
    let tls = fields.optional("tls", decode::boolean).unwrap_or(false);
    let tls = if tls {
        Some(tls_check(fields))
    } else {
        refuse_tls(fields, "it is for checks with tls: true");
        None
    };
    GrpcCheck {
        service: service.map(|service| service.value).unwrap_or_default(),
        authority: authority.map(|authority| authority.value),
        tls,
    }
}

fn tls_check(fields: &mut Fields<'_, '_>) -> TlsCheck {
    let server_name = fields.optional("server_name", decode::parsed(balancing::server_name));
    let verify = fields.optional("verify", decode::parsed(verify));
    TlsCheck {
        server_name: server_name.map(|name| name.value),
        verify: verify.map(|verify| verify.value).unwrap_or_default(),
    }
}

fn udp_check(fields: &mut Fields<'_, '_>) -> UdpCheck {
    let send = fields.optional("send", decode::parsed(balancing::datagram));
    let expect = fields.optional("expect", decode::parsed(balancing::datagram));
    UdpCheck {
        send: send.map(|send| send.value).unwrap_or_default(),
        expect: expect.map(|expect| expect.value),
    }
}

/// `off`, `system`, or a PEM file with the certificates of the authorities to trust.
pub(super) fn verify(text: &str) -> Result<Verify, String> {
    let roots = match text {
        "off" => return Ok(Verify::Off),
        "system" => tls::system_roots().map_err(|error| error.to_string()),
        path => std::fs::read(path)
            .map_err(|error| error.to_string())
            .and_then(|pem| tls::roots_from_pem(&pem).map_err(|error| error.to_string())),
    };
    roots.map(Verify::Roots).map_err(|error| {
        format!(
            "\"{text}\" is not off, system, or a PEM file of certificates that can be read: {error}"
        )
    })
}

pub(super) fn percent<const LEAST: u8, const MOST: u8>(
    node: &Node,
    problems: &mut Problems,
) -> Option<Located<u8>> {
    decode::parsed(|text| balancing::percent(text, LEAST, MOST))(node, problems)
}
