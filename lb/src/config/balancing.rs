//! The short notations of balancing, which flags and YAML share: hash keys, affinity, bounded
//! load, checks.
//!
//! Invariant: as in `notation.rs`: the whole text, or one sentence that lists what is valid.
//! Read next: `flags.rs` and `read_cluster.rs` (who use them), `lb_core::plan` (what they mean).

use std::time::Duration;

use lb_core::plan::{
    Affinity, Check, CookieAffinity, GrpcCheck, HashKey, HttpCheck, StatusRange, TlsCheck, UdpCheck,
};

use super::notation::{decimal, word};

/// What a bounded load means by `on`, in percent of the mean (the paper's example, and HAProxy's).
const BOUNDED_LOAD_DEFAULT: u16 = 125;

/// Largest bounded load in percent: a hundred times the mean bounds nothing.
const BOUNDED_LOAD_MAX: u16 = 10_000;

/// `client`, `client-port`, `destination`, `uri`, `header:NAME`, `cookie:NAME` or `query:NAME`.
pub(crate) fn hash_key(text: &str) -> Result<HashKey, String> {
    const WORDS: [(&str, HashKey); 4] = [
        ("client", HashKey::ClientAddress),
        ("client-port", HashKey::ClientAddressPort),
        ("destination", HashKey::Destination),
        ("uri", HashKey::Uri),
    ];
    if let Some((_, key)) = WORDS.iter().find(|(word, _)| *word == text) {
        return Ok(key.clone());
    }
    match text.split_once(':') {
        Some(("header", name)) => field_name(name).map(HashKey::Header),
        Some(("cookie", name)) => cookie_name(name).map(HashKey::Cookie),
        Some(("query", name)) => parameter(name).map(HashKey::Query),
        _ => Err(not_one_of(
            text,
            &[
                "client",
                "client-port",
                "destination",
                "uri",
                "header:NAME",
                "cookie:NAME",
                "query:NAME",
            ],
        )),
    }
}

/// `none`, `client-ip[:SECONDS]`, `cookie[:NAME]` or `header:NAME`.
pub(crate) fn affinity(text: &str) -> Result<Option<Affinity>, String> {
    match text.split_once(':').unwrap_or((text, "")) {
        ("none", "") => Ok(None),
        ("client-ip", "") => Ok(Some(Affinity::client_address(Affinity::TIMEOUT_DEFAULT))),
        ("client-ip", seconds) => {
            let timeout = decimal(seconds).map(Duration::from_secs);
            let timeout = timeout.filter(|it| affinity_timeout(*it).is_ok());
            let timeout = timeout.ok_or_else(|| {
                format!("\"{seconds}\" is not a number of seconds from 1 to 86400, as 10800")
            })?;
            Ok(Some(Affinity::client_address(timeout)))
        }
        ("cookie", "") => Ok(Some(Affinity::Cookie(CookieAffinity::new(
            CookieAffinity::NAME_DEFAULT,
        )))),
        ("cookie", name) => {
            cookie_name(name).map(|name| Some(Affinity::Cookie(CookieAffinity::new(name))))
        }
        ("header", name) if text.contains(':') => field_name(name).map(|name| {
            let timeout = Affinity::TIMEOUT_DEFAULT;
            Some(Affinity::Header { name, timeout })
        }),
        _ => Err(not_one_of(
            text,
            &[
                "none",
                "client-ip[:SECONDS]",
                "cookie[:NAME]",
                "header:NAME",
            ],
        )),
    }
}

/// A time that affinity remembers.
pub(crate) fn affinity_timeout(timeout: Duration) -> Result<Duration, String> {
    if (Affinity::TIMEOUT_LEAST..=Affinity::TIMEOUT_LIMIT).contains(&timeout) {
        return Ok(timeout);
    }
    Err(format!(
        "{timeout:?} is not from 1s to 24h, for which affinity can last"
    ))
}

/// `off`, `on`, or a factor of the mean load: `1.25`. In percent.
pub(crate) fn bounded_load(text: &str) -> Result<Option<u16>, String> {
    match text {
        "off" => return Ok(None),
        "on" => return Ok(Some(BOUNDED_LOAD_DEFAULT)),
        _ => {}
    }
    let (whole, hundredths) = text.split_once('.').unwrap_or((text, "0"));
    let scale = match hundredths.len() {
        1 => Some(10),
        2 => Some(1),
        _ => None,
    };
    let percent = decimal::<u16>(whole)
        .and_then(|whole| whole.checked_mul(100))
        .zip(decimal::<u16>(hundredths).zip(scale))
        .and_then(|(whole, (hundredths, scale))| whole.checked_add(hundredths * scale));
    percent
        .filter(|percent| (101..=BOUNDED_LOAD_MAX).contains(percent))
        .map(Some)
        .ok_or_else(|| {
            format!(
                "\"{text}\" is not on, off, or a factor of the mean load from 1.01 to 100, as 1.25"
            )
        })
}

/// `off`, `tcp`, `http:PATH`, `https:PATH`, `grpc[:SERVICE]` or `udp`.
pub(crate) fn check(text: &str) -> Result<Option<Check>, String> {
    let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
    let http = |path: &str| match path {
        "" => Err(format!(
            "\"{kind}\" lacks the path to ask for, as {kind}:/healthz"
        )),
        path => check_path(path).map(|path| HttpCheck {
            path,
            ..HttpCheck::default()
        }),
    };
    match (kind, rest) {
        ("off", "") => Ok(None),
        ("tcp", "") => Ok(Some(Check::Tcp)),
        ("udp", "") => Ok(Some(Check::Udp(UdpCheck::default()))),
        ("http", path) => http(path).map(Check::Http).map(Some),
        ("https", path) => http(path).map(|check| Some(Check::Https(check, TlsCheck::default()))),
        ("grpc", service) => Ok(Some(Check::Grpc(GrpcCheck {
            service: grpc_service(service)?,
            ..GrpcCheck::default()
        }))),
        _ => Err(not_one_of(
            text,
            &[
                "off",
                "tcp",
                "http:PATH",
                "https:PATH",
                "grpc[:SERVICE]",
                "udp",
            ],
        )),
    }
}

/// The path of a check, with its query.
pub(crate) fn check_path(text: &str) -> Result<String, String> {
    if text.starts_with('/') && is_visible(text) && !text.contains('#') {
        return Ok(text.to_owned());
    }
    Err(format!("\"{text}\" is not a path to ask for, as /healthz"))
}

/// The method of a check.
pub(crate) fn check_method(text: &str) -> Result<String, String> {
    let letters = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase());
    if letters && text != "CONNECT" {
        return Ok(text.to_owned());
    }
    Err(format!(
        "\"{text}\" is not a method for a check; one is GET, HEAD or OPTIONS"
    ))
}

/// A gRPC service; empty for the backend as a whole.
pub(crate) fn grpc_service(text: &str) -> Result<String, String> {
    if is_visible(text) && text.len() <= 255 {
        return Ok(text.to_owned());
    }
    Err(format!("\"{text}\" is not a gRPC service, as shop.v1.Cart"))
}

/// `HOST[:PORT]` of a check's request.
pub(crate) fn authority(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:[]".contains(&byte);
    if (1..=255).contains(&text.len()) && text.bytes().all(allowed) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "\"{text}\" is not a host to ask for, as web.internal"
    ))
}

/// A name that a certificate bears.
pub(crate) fn server_name(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    if (1..=253).contains(&text.len()) && text.bytes().all(allowed) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "\"{text}\" is not a name of a certificate, as web.internal, without a port"
    ))
}

/// Statuses with commas between: `200`, `200-299`, `2xx`.
pub(crate) fn statuses(text: &str) -> Result<Vec<StatusRange>, String> {
    let ranges = text.split(',').map(|range| range.trim().parse());
    let ranges: Result<_, _> = ranges.collect();
    ranges.map_err(|_| {
        format!("\"{text}\" are no statuses to expect (200 to 599); as 200, 200-299 or 2xx,404")
    })
}

/// What a datagram has: text, or bytes in hexadecimal after `0x`.
pub(crate) fn datagram(text: &str) -> Result<Vec<u8>, String> {
    let bytes = match text.strip_prefix("0x") {
        None => Some(text.as_bytes().to_vec()),
        Some(digits) => digits
            .as_bytes()
            .chunks(2)
            .map(|pair| match pair {
                [a, b] => Some(hexadecimal(*a)? << 4 | hexadecimal(*b)?),
                _ => None,
            })
            .collect(),
    };
    let bytes = bytes.ok_or_else(|| {
        format!("\"{text}\" is not bytes in hexadecimal, two digits each, as 0x0d0a")
    })?;
    if bytes.len() > UdpCheck::BYTES_MAX {
        let most = UdpCheck::BYTES_MAX;
        return Err(format!(
            "{} bytes are more than {most}, which fit a datagram",
            bytes.len()
        ));
    }
    Ok(bytes)
}

fn hexadecimal(digit: u8) -> Option<u8> {
    // Below 16, so it fits.
    char::from(digit).to_digit(16).map(|value| value as u8)
}

/// A share in percent, with or without the sign.
pub(crate) fn percent(text: &str, least: u8, most: u8) -> Result<u8, String> {
    decimal(text.strip_suffix('%').unwrap_or(text))
        .filter(|percent| (least..=most).contains(percent))
        .ok_or_else(|| format!("\"{text}\" is not a share from {least}% to {most}%, as 50%"))
}

/// The name of a header field (RFC 9110 section 5.1), in lower case.
pub(crate) fn field_name(text: &str) -> Result<String, String> {
    if is_token(text) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(format!("\"{text}\" is not the name of a header, as x-user"))
}

/// The name of a cookie (RFC 6265 section 4.1.1).
pub(crate) fn cookie_name(text: &str) -> Result<String, String> {
    if is_token(text) && text.len() <= 128 {
        return Ok(text.to_owned());
    }
    Err(format!(
        "\"{text}\" is not the name of a cookie, as session"
    ))
}

/// The name of a query parameter, as it stands in the query.
fn parameter(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"&=#?".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "\"{text}\" is not the name of a query parameter, as user"
    ))
}

/// The words are shapes, as `header:NAME`: the part before a name is what a slip is compared with.
fn not_one_of(text: &str, shapes: &[&'static str]) -> String {
    let stem = |shape: &'static str| shape.split(['[', ':']).next().unwrap_or(shape);
    let words: Vec<_> = shapes.iter().map(|shape| (stem(shape), ())).collect();
    let before = text.split(':').next().unwrap_or(text);
    let suggestion = word(before, &words).err().unwrap_or_default();
    let meant = suggestion
        .split_once("; did you mean")
        .map(|(_, meant)| meant);
    let meant = meant.map(|meant| format!("; did you mean{meant}"));
    format!(
        "\"{text}\" is not one of {}{}",
        shapes.join(", "),
        meant.unwrap_or_default()
    )
}

fn is_token(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(allowed)
}

fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_keys() {
        assert_eq!(hash_key("client"), Ok(HashKey::ClientAddress));
        assert_eq!(hash_key("client-port"), Ok(HashKey::ClientAddressPort));
        assert_eq!(hash_key("uri"), Ok(HashKey::Uri));
        assert_eq!(
            hash_key("header:X-User"),
            Ok(HashKey::Header("x-user".into()))
        );
        assert_eq!(hash_key("cookie:Sid"), Ok(HashKey::Cookie("Sid".into())));
        assert_eq!(hash_key("query:u"), Ok(HashKey::Query("u".into())));
        for text in [
            "",
            "header",
            "header:",
            "header:a b",
            "cookie:a;b",
            "query:a&b",
            "client:x",
        ] {
            assert!(hash_key(text).is_err(), "{text}");
        }
        assert_eq!(
            hash_key("heder:x").unwrap_err(),
            "\"heder:x\" is not one of client, client-port, destination, uri, header:NAME, \
             cookie:NAME, query:NAME; did you mean \"header\"?"
        );
    }

    #[test]
    fn affinities() {
        let client = |seconds| Ok(Some(Affinity::client_address(Duration::from_secs(seconds))));
        assert_eq!(affinity("none"), Ok(None));
        assert_eq!(affinity("client-ip"), client(10_800));
        assert_eq!(affinity("client-ip:60"), client(60));
        let cookie = |name: &str| Ok(Some(Affinity::Cookie(CookieAffinity::new(name))));
        assert_eq!(affinity("cookie"), cookie("lb"));
        assert_eq!(affinity("cookie:Sid"), cookie("Sid"));
        let header = affinity("header:X-User").unwrap();
        assert!(matches!(header, Some(Affinity::Header { name, .. }) if name == "x-user"));
        for text in [
            "client-ip:0",
            "client-ip:86401",
            "client-ip:1h",
            "header",
            "cookie:a b",
        ] {
            assert!(affinity(text).is_err(), "{text}");
        }
        assert_eq!(
            affinity("client").unwrap_err(),
            "\"client\" is not one of none, client-ip[:SECONDS], cookie[:NAME], header:NAME; did \
             you mean \"client-ip\"?"
        );
    }

    #[test]
    fn bounded_loads() {
        for (text, percent) in [
            ("on", 125),
            ("1.25", 125),
            ("1.5", 150),
            ("2", 200),
            ("1.01", 101),
        ] {
            assert_eq!(bounded_load(text), Ok(Some(percent)), "{text}");
        }
        assert_eq!(bounded_load("off"), Ok(None));
        for text in [
            "", "1", "1.0", "0.5", "1.255", "-2", "1.", "101", "999999", "x",
        ] {
            assert!(
                bounded_load(text).unwrap_err().contains("as 1.25"),
                "{text}"
            );
        }
    }

    #[test]
    fn checks() {
        assert_eq!(check("off"), Ok(None));
        assert_eq!(check("tcp"), Ok(Some(Check::Tcp)));
        let kinds = ["http:/healthz?x=1", "https:/", "grpc", "grpc:a.B", "udp"];
        let kinds = kinds.map(|text| check(text).unwrap().unwrap().kind());
        assert_eq!(kinds, ["http", "https", "grpc", "grpc", "udp"]);
        for text in ["http", "http:healthz", "tcp:80", "grpc:a b", "icmp", ""] {
            assert!(check(text).is_err(), "{text}");
        }
        assert!(
            check("htpp:/x")
                .unwrap_err()
                .ends_with("did you mean \"http\"?")
        );
    }

    #[test]
    fn datagrams_and_statuses() {
        assert_eq!(datagram("ping"), Ok(b"ping".to_vec()));
        assert_eq!(datagram("0x0d0A"), Ok(vec![13, 10]));
        assert_eq!(datagram("0x"), Ok(Vec::new()));
        for text in ["0x0", "0xzz", "0x+1"] {
            assert!(datagram(text).is_err(), "{text}");
        }
        assert!(datagram(&"a".repeat(1233)).is_err());
        assert_eq!(
            statuses("200, 3xx,404-410").map(|ranges| ranges.len()),
            Ok(3)
        );
        assert!(statuses("200,x").is_err());
        assert_eq!(percent("50%", 0, 100), Ok(50));
        assert!(percent("101", 0, 100).is_err());
    }
}
