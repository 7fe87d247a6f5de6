//! `host[:port]`, as in Host and in absolute-form targets (RFC 3986 section 3.2).
//!
//! Invariant: what passes is a DNS-like name, an IPv4 address or a bracketed IPv6 address, so
//! that no two readers can take it for different hosts. Read next: `request.rs`.

use std::net::Ipv6Addr;

/// Longest host name in bytes (RFC 1035 section 2.3.4, with a trailing dot).
const HOST_BYTES_MAX: usize = 255;

/// A host and perhaps a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authority<'a> {
    /// Name or address as it came, IPv6 in its brackets. Never empty.
    pub host: &'a [u8],
    /// The port, where one was given. An empty one (`host:`) counts as none.
    pub port: Option<u16>,
}

impl<'a> Authority<'a> {
    /// Reads an authority without user information. `None` unless all of `value` is one: letters,
    /// digits, `-`, `.`, `_` and `~` make a name. RFC 3986 has more characters for registered
    /// names that are not DNS; no client needs them, and attackers do.
    #[must_use]
    pub fn parse(value: &'a [u8]) -> Option<Self> {
        let host_len = match value.first()? {
            b'[' => memchr::memchr(b']', value)? + 1,
            _ => value
                .iter()
                .position(|byte| !is_name(*byte))
                .unwrap_or(value.len()),
        };
        let (host, rest) = value.split_at(host_len);
        if host.is_empty() || host.len() > HOST_BYTES_MAX || !is_host(host) {
            return None;
        }
        let port = match rest {
            [] | [b':'] => None,
            [b':', digits @ ..] => Some(port(digits)?),
            _ => return None,
        };
        Some(Self { host, port })
    }

    /// Whether both name the same host and port, where `default_port` stands for none.
    #[must_use]
    pub fn is_same(&self, other: &Self, default_port: u16) -> bool {
        self.host.eq_ignore_ascii_case(other.host)
            && self.port.unwrap_or(default_port) == other.port.unwrap_or(default_port)
    }
}

/// Names have had their characters checked already; an address in brackets has not.
fn is_host(host: &[u8]) -> bool {
    let Some(address) = host.strip_prefix(b"[") else {
        return true;
    };
    let address = address
        .strip_suffix(b"]")
        .and_then(|inner| str::from_utf8(inner).ok());
    address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok())
}

fn port(digits: &[u8]) -> Option<u16> {
    let number = super::head::decimal(digits)?;
    if digits.len() > 5 {
        None
    } else {
        u16::try_from(number).ok()
    }
}

const fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &str) -> Option<(&str, Option<u16>)> {
        Authority::parse(value.as_bytes())
            .map(|authority| (str::from_utf8(authority.host).unwrap(), authority.port))
    }

    #[test]
    fn names_and_addresses_pass() {
        assert_eq!(parse("shop.example"), Some(("shop.example", None)));
        assert_eq!(
            parse("shop.example.:8080"),
            Some(("shop.example.", Some(8080)))
        );
        assert_eq!(parse("my_svc~1:"), Some(("my_svc~1", None)));
        assert_eq!(parse("10.1.2.3:80"), Some(("10.1.2.3", Some(80))));
        assert_eq!(parse("[::1]"), Some(("[::1]", None)));
        assert_eq!(
            parse("[2001:db8::1.2.3.4]:443"),
            Some(("[2001:db8::1.2.3.4]", Some(443)))
        );
    }

    #[test]
    fn all_else_is_refused() {
        let long = "a".repeat(HOST_BYTES_MAX + 1);
        for value in [
            "",
            ":80",
            "a b",
            "a,b",
            "user@a",
            "a/b",
            "a?b",
            "a:80:80",
            "a:x",
            "a:65536",
            "a:000080",
            "a:+1",
            "::1",
            "[::1",
            "[]",
            "[::1]x",
            "[g::]",
            "[::1%25eth0]",
            "a%2eb",
            "\u{e9}",
            "a\u{0}",
            &long,
        ] {
            assert_eq!(parse(value), None, "{value:?}");
        }
    }

    #[test]
    fn the_default_port_may_be_left_out() {
        let same = |a: &str, b: &str| {
            Authority::parse(a.as_bytes())
                .unwrap()
                .is_same(&Authority::parse(b.as_bytes()).unwrap(), 80)
        };
        assert!(same("Shop.example", "shop.EXAMPLE:80"));
        assert!(!same("shop.example", "shop.example:81"));
        assert!(!same("shop.example", "shop.example.org"));
    }
}
