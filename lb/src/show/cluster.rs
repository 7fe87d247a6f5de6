//! A cluster of a plan for people and programs.
//!
//! Invariant: as JSON, in the words of the YAML form, nothing is left out; as text, what is not
//! there is not mentioned.
//! Read next: `../config/read_cluster.rs` (the same words, read).

use std::fmt::{self, Write as _};

use lb_core::plan::{
    Affinity, Backend, BackendProtocol, Check, Cluster, Condition, CookieAffinity, CookieMode,
    HashKey, Health, HttpCheck, Outlier, SameSite, Secure, StatusRange, Tier, TlsCheck, Verify,
};
use serde_json::{Value, json};

use super::{duration, exchange};

/// A cluster as JSON.
pub(super) fn json(cluster: &Cluster) -> Value {
    let mut all = own(cluster);
    if let Some(all) = all.as_object_mut() {
        let more = exchange::cluster(&cluster.exchanges);
        all.extend(more.map(|(key, value)| (key.to_owned(), value)));
    }
    all
}

fn own(cluster: &Cluster) -> Value {
    let mut value = json!({
        "name": cluster.name,
        "backends": cluster.backends.iter().map(backend).collect::<Vec<_>>(),
        "balance": cluster.balance.to_string(),
        "hash_key": cluster.hash_key.as_ref().map(hash_key),
        "bounded_load": cluster.bounded_load.map(factor),
        "affinity": cluster.affinity.as_ref().map(affinity),
        "slow_start": cluster.slow_start.map(duration),
        "panic_threshold": cluster.panic_threshold,
        "outlier": cluster.outlier.as_ref().map(outlier),
        "health": cluster.health.as_ref().map(health),
        "connect_timeout": duration(cluster.connect_timeout),
        "tries": cluster.tries_max,
        "pool": {
            "idle": cluster.pool_idle_max,
            "idle_timeout": duration(cluster.pool_idle_timeout),
            "connections": cluster.exchanges.connections_max,
            "age": cluster.exchanges.connection_age_max.map(duration),
            "exchanges": cluster.exchanges.connection_exchanges_max,
            "ready": cluster.exchanges.connections_ready,
        },
        "protocol": match cluster.protocol {
            BackendProtocol::Http1 => "http1",
            BackendProtocol::Http2 => "http2",
        },
    });
    if let Some(tls) = &cluster.tls {
        value["tls"] = super::tls::backend_json(tls);
    }
    value
}

fn backend(backend: &Backend) -> Value {
    json!({
        "name": backend.name,
        "address": lb_core::rt::shown(backend.address).to_string(),
        "weight": backend.weight,
        "backup": backend.tier == Tier::Backup,
        "drain": backend.condition == Condition::Draining,
    })
}

fn hash_key(key: &HashKey) -> String {
    match key {
        HashKey::ClientAddress => "client".to_owned(),
        HashKey::ClientAddressPort => "client-port".to_owned(),
        HashKey::Cookie(name) => format!("cookie:{name}"),
        HashKey::Destination => "destination".to_owned(),
        HashKey::Header(name) => format!("header:{name}"),
        HashKey::Query(name) => format!("query:{name}"),
        HashKey::Uri => "uri".to_owned(),
    }
}

/// Percent as a factor.
fn factor(percent: u16) -> String {
    format!("{}.{:02}", percent / 100, percent % 100)
}

fn affinity(affinity: &Affinity) -> Value {
    match affinity {
        Affinity::ClientAddress {
            timeout,
            ipv4_prefix,
            ipv6_prefix,
        } => json!({ "client_ip": {
            "timeout": duration(*timeout),
            "ipv4_prefix": ipv4_prefix,
            "ipv6_prefix": ipv6_prefix,
        }}),
        Affinity::Cookie(cookie) => json!({ "cookie": cookie_affinity(cookie) }),
        Affinity::Header { name, timeout } => json!({ "header": {
            "name": name,
            "timeout": duration(*timeout),
        }}),
    }
}

fn cookie_affinity(cookie: &CookieAffinity) -> Value {
    json!({
        "name": cookie.name,
        "path": cookie.path,
        "domain": cookie.domain,
        "max_age": cookie.max_age.map(duration),
        "same_site": cookie.same_site.map(|same_site| match same_site {
            SameSite::Lax => "lax",
            SameSite::None => "none",
            SameSite::Strict => "strict",
        }),
        "secure": match cookie.secure {
            Secure::Always => "always",
            Secure::Auto => "auto",
            Secure::Never => "never",
        },
        "http_only": cookie.http_only,
        "mode": match cookie.mode {
            CookieMode::Balanced => "balanced",
            CookieMode::Persistent => "persistent",
        },
    })
}

fn outlier(outlier: &Outlier) -> Value {
    json!({
        "failures": outlier.failures,
        "ratio": outlier.ratio,
        "requests": outlier.requests_least,
        "window": duration(outlier.window),
        "ejection": duration(outlier.ejection),
        "ejection_max": duration(outlier.ejection_max),
        "ejected_max": outlier.ejected_max,
    })
}

fn health(health: &Health) -> Value {
    let mut value = json!({
        "check": health.check.kind(),
        "interval": duration(health.interval),
        "jitter": health.jitter,
        "timeout": duration(health.timeout),
        "rise": health.rise,
        "fall": health.fall,
        "port": health.port,
    });
    match &health.check {
        Check::Grpc(check) => {
            value["service"] = json!(check.service);
            value["host"] = json!(check.authority);
            value["tls"] = json!(check.tls.is_some());
            if let Some(tls) = &check.tls {
                add_tls(&mut value, tls);
            }
        }
        Check::Http(check) => add_http(&mut value, check),
        Check::Https(check, tls) => {
            add_http(&mut value, check);
            add_tls(&mut value, tls);
        }
        Check::Tcp => {}
        Check::Udp(check) => {
            value["send"] = json!(datagram(&check.send));
            value["expect"] = json!(check.expect.as_deref().map(datagram));
        }
    }
    value
}

fn add_http(value: &mut Value, check: &HttpCheck) {
    let expected: Vec<_> = check.expected.iter().map(StatusRange::to_string).collect();
    value["path"] = json!(check.path);
    value["host"] = json!(check.host);
    value["method"] = json!(check.method);
    value["expect"] = json!(expected.join(","));
}

fn add_tls(value: &mut Value, tls: &TlsCheck) {
    value["server_name"] = json!(tls.server_name);
    value["verify"] = match &tls.verify {
        Verify::Off => json!("off"),
        Verify::Roots(roots) => json!(format!("{} certificates", roots.len())),
    };
}

/// Text where that is what it is, else hexadecimal.
fn datagram(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) && !text.starts_with("0x") => {
            text.to_owned()
        }
        _ => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("0x{digits}")
        }
    }
}

/// Writes a cluster as text, a line for each backend.
pub(super) fn write(text: &mut String, cluster: &Cluster) -> fmt::Result {
    write!(text, "cluster {}: {}", cluster.name, cluster.balance)?;
    if let Some(key) = &cluster.hash_key {
        write!(text, " by {}", hash_key(key))?;
    }
    if let Some(percent) = cluster.bounded_load {
        write!(text, ", bounded load {}", factor(percent))?;
    }
    match &cluster.affinity {
        Some(Affinity::ClientAddress { timeout, .. }) => {
            write!(text, ", affinity by client-ip for {}", duration(*timeout))?;
        }
        Some(Affinity::Cookie(cookie)) => write!(text, ", affinity by cookie {}", cookie.name)?,
        Some(Affinity::Header { name, .. }) => write!(text, ", affinity by header {name}")?,
        None => {}
    }
    if let Some(time) = cluster.slow_start {
        write!(text, ", slow start {}", duration(time))?;
    }
    if cluster.outlier.is_some() {
        write!(text, ", outliers ejected")?;
    }
    match &cluster.health {
        Some(health) => {
            let (kind, interval) = (health.check.kind(), duration(health.interval));
            writeln!(text, ", {kind} checks every {interval}")?;
        }
        None => writeln!(text, ", no checks")?,
    }
    for backend in &cluster.backends {
        write_backend(text, backend)?;
    }
    if cluster.backends.is_empty() {
        writeln!(text, "  no backend; every request is answered 503")?;
    }
    Ok(())
}

fn write_backend(text: &mut String, backend: &Backend) -> fmt::Result {
    let address = lb_core::rt::shown(backend.address).to_string();
    write!(text, "  {address}")?;
    if backend.name != address {
        write!(text, " ({})", backend.name)?;
    }
    write!(text, " weight {}", backend.weight)?;
    if backend.tier == Tier::Backup {
        write!(text, ", backup")?;
    }
    if backend.condition == Condition::Draining {
        write!(text, ", draining")?;
    }
    writeln!(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_are_shown_as_they_are_written() {
        assert_eq!(datagram(b"ping"), "ping");
        assert_eq!(datagram(b"a\r\n"), "0x610d0a");
        assert_eq!(datagram(b"0x"), "0x3078");
        assert_eq!(factor(125), "1.25");
        assert_eq!(factor(203), "2.03");
    }
}
