//! Version 1: one line of text, `PROXY TCP4 192.0.2.7 10.0.0.1 40000 443` (section 2.1).
//!
//! Invariant: one spelling for each header; single spaces, canonical numbers, CR LF.
//! Read next: `v2.rs`.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_core::rt::is_unix;

use super::{Addresses, Header, HeaderError, Origin, Tlvs, Transport, Version};

/// The longest line with its CR LF: "a 108-byte buffer is always enough" with a trailing zero.
pub const V1_BYTES_MAX: usize = 107;

const PREFIX: &[u8] = b"PROXY ";

pub(super) fn parse(bytes: &[u8]) -> Result<Option<Header<'_>>, HeaderError> {
    let begun = bytes.len().min(PREFIX.len());
    if bytes[..begun] != PREFIX[..begun] {
        return Err(HeaderError::Missing);
    }
    let within = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(end) = within.iter().position(|byte| *byte == b'\n') else {
        let too_long = bytes.len() >= V1_BYTES_MAX;
        return if too_long {
            Err(HeaderError::TooLong)
        } else {
            Ok(None)
        };
    };
    let line = within[..end]
        .strip_suffix(b"\r")
        .ok_or(HeaderError::Address)?;
    let text = str::from_utf8(line).map_err(|_| HeaderError::Address)?;
    Ok(Some(Header {
        version: Version::V1,
        origin: origin(&text[PREFIX.len()..])?,
        tlvs: Tlvs::default(),
        length: end + 1,
    }))
}

fn origin(text: &str) -> Result<Origin, HeaderError> {
    let (family, rest) = text.split_once(' ').unwrap_or((text, ""));
    let is_v4 = match family {
        "TCP4" => true,
        "TCP6" => false,
        // "The receiver must ignore anything presented before the CRLF is found."
        "UNKNOWN" => return Ok(Origin::Unknown),
        _ => return Err(HeaderError::Family),
    };
    let mut words = rest.split(' ');
    let mut word = || words.next().ok_or(HeaderError::Address);
    let (source, destination) = (address(word()?, is_v4)?, address(word()?, is_v4)?);
    let (source_port, destination_port) = (port(word()?)?, port(word()?)?);
    if words.next().is_some() {
        return Err(HeaderError::Address);
    }
    Ok(Origin::told(Addresses {
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
        transport: Transport::Stream,
    }))
}

fn address(text: &str, is_v4: bool) -> Result<IpAddr, HeaderError> {
    let parsed = if is_v4 {
        text.parse::<Ipv4Addr>().map(IpAddr::from)
    } else {
        text.parse::<Ipv6Addr>().map(IpAddr::from)
    };
    parsed.map_err(|_| HeaderError::Address)
}

/// A decimal number "without any leading zero".
fn port(text: &str) -> Result<u16, HeaderError> {
    let is_canonical = text == "0" || text.starts_with(|first: char| ('1'..='9').contains(&first));
    is_canonical
        .then(|| text.parse().ok())
        .flatten()
        .ok_or(HeaderError::Address)
}

pub(super) fn write(origin: Origin, header: &mut Vec<u8>) {
    let Origin::Proxied(addresses) = origin else {
        return header.extend_from_slice(b"PROXY UNKNOWN\r\n");
    };
    let is_unix = is_unix(addresses.source.ip()) || is_unix(addresses.destination.ip());
    if addresses.transport == Transport::Datagram || is_unix {
        return header.extend_from_slice(b"PROXY UNKNOWN\r\n");
    }
    let Addresses {
        source,
        destination,
        ..
    } = addresses.in_one_family();
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    let (from_port, to_port) = (source.port(), destination.port());
    // A Vec takes everything that is written to it.
    let _ = write!(
        header,
        "PROXY {family} {from} {to} {from_port} {to_port}\r\n"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_document() {
        let header = parse(b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\nGET")
            .unwrap()
            .unwrap();
        assert_eq!(header.length, 56);
        let longest = b"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
            ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
        assert_eq!(parse(longest).unwrap().unwrap().length, 104);
        let unknown = b"PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
            ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
        let header = parse(unknown).unwrap().unwrap();
        assert_eq!((header.origin, header.length), (Origin::Unknown, 107));
        let short = parse(b"PROXY UNKNOWN\r\n").unwrap().unwrap();
        assert_eq!((short.origin, short.length), (Origin::Unknown, 15));
    }

    #[test]
    fn an_address_is_read() {
        let header = parse(b"PROXY TCP6 2001:db8::7 ::1 40000 0\r\n")
            .unwrap()
            .unwrap();
        let Origin::Proxied(addresses) = header.origin else {
            panic!("{header:?}");
        };
        assert_eq!(addresses.source.to_string(), "[2001:db8::7]:40000");
        assert_eq!(addresses.destination.to_string(), "[::1]:0");
    }

    #[test]
    fn what_is_not_strictly_right_is_refused() {
        use HeaderError::{Address, Family, Missing, TooLong};
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
        for (line, error) in [
            ("GET / HTTP/1.1\r\n", Missing),
            ("PROXX", Missing),
            ("proxy TCP4 ", Missing),
            (&*long, TooLong),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 1 1\n", Address),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", Address),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 1 1 1\r\n", Address),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 1 1 \r\n", Address),
            ("PROXY TCP4  1.2.3.4 1.2.3.4 1 1\r\n", Address),
            ("PROXY TCP4 1.2.3.04 1.2.3.4 1 1\r\n", Address),
            ("PROXY TCP4 1.2.3 1.2.3.4 1 1\r\n", Address),
            ("PROXY TCP4 ::1 ::1 1 1\r\n", Address),
            ("PROXY TCP6 1.2.3.4 ::1 1 1\r\n", Address),
            ("PROXY TCP6 ::1%lo ::1 1 1\r\n", Address),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 01 1\r\n", Address),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 +1 1\r\n", Address),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 65536 1\r\n", Address),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 1 1\0\r\n", Address),
            ("PROXY TCP5 1.2.3.4 1.2.3.4 1 1\r\n", Family),
            ("PROXY UNKNOWNX\r\n", Family),
            ("PROXY \r\n", Family),
        ] {
            assert_eq!(parse(line.as_bytes()), Err(error), "{line:?}");
        }
    }
}
