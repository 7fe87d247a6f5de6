//! The small notations that flags and YAML share: addresses, backends, durations, sizes.
//!
//! Invariant: each parser takes the whole text or returns one sentence that says what is wrong
//! and shows an example; the caller adds the place.
//! Read next: `flags.rs` and `file.rs` (who use them).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use lb_core::prefixes::{Prefix, PrefixError};
use lb_core::rt::{shown, unix_address};

use super::problem::nearest;

/// A backend as the user wrote it: `HOST:PORT[/WEIGHT]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BackendText {
    pub(crate) host: Host,
    pub(crate) port: u16,
    /// 1 unless given.
    pub(crate) weight: u16,
}

/// Where a backend lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    Address(IpAddr),
    /// A name for the resolver, in lower case.
    Name(String),
}

impl BackendText {
    /// `HOST:PORT`, as in logs and metrics.
    pub(crate) fn name(&self) -> String {
        match &self.host {
            Host::Address(address) => shown(SocketAddr::new(*address, self.port)).to_string(),
            Host::Name(name) => format!("{name}:{}", self.port),
        }
    }
}

/// What a Unix socket's path stands behind.
const UNIX: &str = "unix:";

/// `[ADDRESS:]PORT`; without an address, every IPv4 address of the machine. Or `unix:/PATH`.
pub(crate) fn listen(text: &str) -> Result<SocketAddr, String> {
    if let Some(path) = text.strip_prefix(UNIX) {
        return unix_address(path);
    }
    let example = "an address to listen on is [ADDRESS:]PORT, as 8080, 127.0.0.1:8080 or [::]:8080";
    let (address, port) = match text.rsplit_once(':') {
        None | Some(("" | "*", _)) => (
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            text.rsplit(':').next().unwrap_or(text),
        ),
        Some(("localhost", port)) => (IpAddr::V4(Ipv4Addr::LOCALHOST), port),
        Some((address, port)) => match address_literal(address) {
            Some(address) => (address, port),
            None => return Err(format!("\"{address}\" is not an IP address; {example}")),
        },
    };
    match decimal::<u16>(port) {
        Some(port) => Ok(SocketAddr::new(address, port)),
        None => Err(format!("\"{port}\" is not a port (0 to 65535); {example}")),
    }
}

/// `ADDRESS[/BITS]`.
pub(crate) fn prefix(text: &str) -> Result<Prefix, String> {
    text.parse().map_err(|error: PrefixError| error.to_string())
}

/// `ADDRESS[/BITS][,…]`.
pub(crate) fn prefixes(text: &str) -> Result<Vec<Prefix>, String> {
    text.split(',').map(prefix).collect()
}

/// As [`listen`], or `[ADDRESS:]FIRST-LAST`: the last port, where there are several.
pub(crate) fn listen_range(text: &str) -> Result<(SocketAddr, Option<u16>), String> {
    let range = text.rsplit_once('-').filter(|_| !text.starts_with(UNIX));
    let Some((first, last)) = range else {
        return Ok((listen(text)?, None));
    };
    let address = listen(first)?;
    let first = address.port();
    match decimal::<u16>(last) {
        Some(last) if first > 0 && first < last && last - first < PORTS_MAX => {
            Ok((address, Some(last)))
        }
        _ => Err(format!(
            "\"{text}\" is not a range of at most {PORTS_MAX} ports; one is 30000-30010"
        )),
    }
}

/// Most ports in one range: each is a listener, with a socket for each worker.
const PORTS_MAX: u16 = 1000;

/// As [`listen`], but a port alone stays on this machine.
pub(crate) fn listen_local(text: &str) -> Result<SocketAddr, String> {
    match decimal::<u16>(text) {
        Some(port) => Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)),
        None => listen(text),
    }
}

/// `HOST:PORT[/WEIGHT]`, or `unix:/PATH[;WEIGHT]`.
pub(crate) fn backend(text: &str) -> Result<BackendText, String> {
    if let Some(socket) = text.strip_prefix(UNIX) {
        return unix_backend(socket);
    }
    let example = "a backend is HOST:PORT[/WEIGHT], as 10.0.0.7:8080 or web.internal:80/3";
    let (address, weight) = match text.split_once('/') {
        None => (text, 1),
        Some((address, weight)) => match decimal(weight) {
            Some(weight) => (address, weight),
            None => {
                return Err(format!(
                    "\"{weight}\" is not a weight (0 to 65535); {example}"
                ));
            }
        },
    };
    let Some((host, port)) = address.rsplit_once(':') else {
        return Err(format!("\"{address}\" has no port; {example}"));
    };
    let Some(port) = decimal(port).filter(|port| *port > 0) else {
        return Err(format!("\"{port}\" is not a port (1 to 65535); {example}"));
    };
    let host = match address_literal(host) {
        Some(address) => Host::Address(address),
        None if is_host_name(host) => Host::Name(host.to_ascii_lowercase()),
        None => {
            return Err(format!(
                "\"{host}\" is not a host name or IP address; {example}"
            ));
        }
    };
    Ok(BackendText { host, port, weight })
}

fn unix_backend(text: &str) -> Result<BackendText, String> {
    let (path, weight) = match text.rsplit_once(';') {
        None => (text, 1),
        Some((path, weight)) => match decimal(weight) {
            Some(weight) => (path, weight),
            None => return Err(format!("\"{weight}\" is not a weight (0 to 65535)")),
        },
    };
    let address = unix_address(path)?;
    Ok(BackendText {
        host: Host::Address(address.ip()),
        port: address.port(),
        weight,
    })
}

/// Permissions of a file, in octal: `660` or `0660`.
pub(crate) fn mode(text: &str) -> Result<u32, String> {
    let digits = text.bytes().all(|byte| (b'0'..b'8').contains(&byte));
    let mode = u32::from_str_radix(text, 8).ok().filter(|_| digits);
    mode.filter(|mode| *mode <= 0o777)
        .ok_or_else(|| format!("\"{text}\" is not the mode of a file, as 660"))
}

/// `HOST:PORT[/WEIGHT][,…]`.
pub(crate) fn backends(text: &str) -> Result<Vec<BackendText>, String> {
    text.split(',').map(backend).collect()
}

/// A whole number and `ms`, `s`, `m` or `h`; at least one millisecond, at most 365 days.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = |why: &str| {
        Err(format!(
            "\"{text}\" {why}; a duration is 500ms, 30s, 5m or 1h"
        ))
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let millis_per_unit = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" => return wrong("has no unit"),
        _ => return wrong("is not a duration"),
    };
    let millis = decimal::<u64>(number).and_then(|number| number.checked_mul(millis_per_unit));
    match millis {
        None => wrong("is not a duration"),
        Some(0) => wrong("is too short"),
        Some(millis) if millis > 365 * 24 * 3_600_000 => wrong("is longer than a year"),
        Some(millis) => Ok(Duration::from_millis(millis)),
    }
}

/// Bytes: a whole number, alone or with `KiB`, `MiB` or `GiB`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let bytes_per_unit = match unit.trim_start() {
        "" | "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        _ => None,
    };
    decimal::<u64>(number)
        .zip(bytes_per_unit)
        .and_then(|(number, unit): (u64, u64)| number.checked_mul(unit))
        .ok_or_else(|| format!("\"{text}\" is not a size; a size is 4096, 16KiB, 1MiB or 2GiB"))
}

/// What a route matches: `HOST[/PATH]`; `*` for any host.
pub(crate) fn route(text: &str) -> Result<(Option<String>, String), String> {
    let (host, path) = match text.find('/') {
        None => (text, "/"),
        Some(at) => text.split_at(at),
    };
    let host = if host == "*" {
        None
    } else {
        Some(route_host(host)?)
    };
    Ok((host, route_path(path)?))
}

/// A host to match: exact, or with one wildcard label; in lower case.
pub(crate) fn route_host(text: &str) -> Result<String, String> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    if is_host_name(name) || address_literal(name).is_some() {
        return Ok(text.to_ascii_lowercase());
    }
    Err(format!(
        "\"{text}\" is not a host to match; one is shop.example, *.example, or * for any; without a port"
    ))
}

/// An application protocol of TLS (RFC 7301), as `h2` or `http/1.1`.
pub(crate) fn protocol(text: &str) -> Result<String, String> {
    if (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "\"{text}\" is not an application protocol; one is h2 or http/1.1"
    ))
}

/// The name of a congestion control.
pub(crate) fn congestion(text: &str) -> Result<String, String> {
    short_name(
        text,
        "is not the name of a congestion control, such as cubic or bbr",
    )
}

/// The name of a network device.
pub(crate) fn device(text: &str) -> Result<String, String> {
    short_name(text, "is not the name of a network device, such as eth0")
}

/// At most 15 characters, as the kernel has it.
fn short_name(text: &str, wrong: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'/';
    if (1..=15).contains(&text.len()) && text.bytes().all(plain) {
        return Ok(text.to_owned());
    }
    Err(format!("\"{text}\" {wrong}"))
}

/// An IP address.
pub(crate) fn address(text: &str) -> Result<IpAddr, String> {
    address_literal(text)
        .ok_or_else(|| format!("\"{text}\" is not an IP address, or the word client"))
}

/// `FIRST-LAST`.
pub(crate) fn ports(text: &str) -> Result<(u16, u16), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match decimal::<u16>(first).zip(decimal::<u16>(last)) {
        Some((first, last)) if 0 < first && first <= last => Ok((first, last)),
        _ => Err(format!(
            "\"{text}\" is not a range of ports, as 40000-49999"
        )),
    }
}

/// A path prefix to match.
pub(crate) fn route_path(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#');
    if text.starts_with('/') && text.bytes().all(plain) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "\"{text}\" is not a path prefix; one is /cart or /, without a query"
    ))
}

/// The domain of a cookie; a dot in front has no meaning (RFC 6265 section 5.2.3).
pub(crate) fn cookie_domain(text: &str) -> Result<String, String> {
    let name = text.strip_prefix('.').unwrap_or(text);
    if is_host_name(name) {
        return Ok(name.to_ascii_lowercase());
    }
    Err(format!("\"{text}\" is not a domain, as shop.example"))
}

/// The path of a file.
pub(crate) fn path(text: &str) -> Result<PathBuf, String> {
    match text {
        "" => Err("an empty path names no file".to_owned()),
        text => Ok(PathBuf::from(text)),
    }
}

/// A name for listeners and clusters.
pub(crate) fn name(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'@' | b'=');
    if (1..=128).contains(&text.len()) && text.bytes().all(plain) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "\"{text}\" is not a name; a name is 1 to 128 visible ASCII characters, not \" \\ @ ="
    ))
}

/// One of a fixed set of words, the nearest of which is suggested.
pub(crate) fn word<T: Copy>(text: &str, words: &[(&'static str, T)]) -> Result<T, String> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let valid = words.iter().map(|(word, _)| *word);
    let meant = nearest(text, valid.clone()).map(|word| format!("; did you mean \"{word}\"?"));
    let valid = valid.collect::<Vec<_>>().join(", ");
    Err(format!(
        "\"{text}\" is not one of {valid}{}",
        meant.unwrap_or_default()
    ))
}

/// A whole number within bounds.
pub(crate) fn number(text: &str, range: RangeInclusive<u64>) -> Result<u64, String> {
    decimal(text)
        .filter(|number| range.contains(number))
        .ok_or_else(|| {
            format!(
                "\"{text}\" is not a whole number from {} to {}",
                range.start(),
                range.end()
            )
        })
}

/// Digits only: `parse` alone would take a sign.
pub(crate) fn decimal<T: std::str::FromStr>(text: &str) -> Option<T> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// IPv4, or IPv6 with or without its brackets.
fn address_literal(text: &str) -> Option<IpAddr> {
    match text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        Some(inner) => inner.parse().ok().map(IpAddr::V6),
        None => text.parse().ok(),
    }
}

/// RFC 1123 §2.1 labels, and the underscore that container networks use.
fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    // All digits and dots would be an IPv4 address with a slip in it.
    name.len() <= 253
        && name.split('.').all(is_label)
        && !name
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_addresses() {
        for (text, address) in [
            ("8080", "0.0.0.0:8080"),
            (":8080", "0.0.0.0:8080"),
            ("*:8080", "0.0.0.0:8080"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("localhost:80", "127.0.0.1:80"),
            ("[::]:443", "[::]:443"),
            ("::1:443", "[::1]:443"),
        ] {
            assert_eq!(listen(text).unwrap().to_string(), address, "{text}");
        }
        for text in [
            "",
            "http",
            "80:80",
            "1.2.3:80",
            "127.0.0.1:65536",
            "127.0.0.1:+80",
            "a.b:80",
        ] {
            assert!(
                listen(text).unwrap_err().contains("[ADDRESS:]PORT"),
                "{text}"
            );
        }
    }

    #[test]
    fn backends_with_weights() {
        let list = backends("10.0.0.7:80,Web.Internal:8080/3,[fe80::1]:9/0").unwrap();
        assert_eq!(list[0].name(), "10.0.0.7:80");
        assert_eq!(list[0].weight, 1);
        assert_eq!(list[1].host, Host::Name("web.internal".to_owned()));
        assert_eq!((list[1].port, list[1].weight), (8080, 3));
        assert_eq!(
            (list[2].name().as_str(), list[2].weight),
            ("[fe80::1]:9", 0)
        );
        for text in [
            "",
            "web",
            "web:",
            "web:0",
            "web:80/",
            "web:80/-1",
            "web:80,",
            "10.0.0.300:80",
            "-a:80",
            "a b:80",
            "http://web:80",
        ] {
            assert!(backends(text).unwrap_err().contains("HOST:PORT"), "{text}");
        }
    }

    #[test]
    fn ranges_of_ports() {
        let range = |text| listen_range(text).map(|(first, last)| (first.to_string(), last));
        assert_eq!(range("80"), Ok(("0.0.0.0:80".into(), None)));
        assert_eq!(
            range("[::1]:30000-30999"),
            Ok(("[::1]:30000".into(), Some(30999)))
        );
        for text in [
            "0-5", "5-5", "6-5", "5-", "-5", "1-1001", "80-65536", "80-90-95",
        ] {
            assert!(range(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        for text in [
            "",
            "5",
            "s",
            "5 s",
            "-5s",
            "1.5s",
            "0s",
            "9999999999h",
            "18446744073709551615h",
        ] {
            assert!(duration(text).unwrap_err().contains("500ms"), "{text}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("16KiB"), Ok(16_384));
        assert_eq!(size("1 MiB"), Ok(1_048_576));
        for text in ["", "KiB", "16KB", "16k", "-1", "99999999999GiB"] {
            assert!(size(text).unwrap_err().contains("16KiB"), "{text}");
        }
    }

    #[test]
    fn routes() {
        assert_eq!(route("*"), Ok((None, "/".to_owned())));
        assert_eq!(route("*/api"), Ok((None, "/api".to_owned())));
        assert_eq!(
            route("Shop.example/a/b"),
            Ok((Some("shop.example".into()), "/a/b".into()))
        );
        assert_eq!(route("*.example").unwrap().0.as_deref(), Some("*.example"));
        for text in [
            "",
            "/api",
            "a.*.b",
            "*a",
            "shop.example:80",
            "shop.example/a?b",
            "a/ b",
        ] {
            assert!(route(text).is_err(), "{text}");
        }
    }
}
