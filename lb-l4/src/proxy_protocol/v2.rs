//! Version 2: a signature, 4 bytes that say what follows, addresses, TLVs (section 2.2).
//!
//! Invariant: the length decides how far a header reaches, and it is looked at before anything
//! is waited for.
//! Read next: `tlv.rs`.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_core::rt::{is_unix, unix_path};

use super::crc32c::crc32c;
use super::tlv::{self, write_value};
use super::{Addresses, Header, HeaderError, Origin, Tlv, Tlvs, Transport, Version};

/// Longest version 2 header that is read, its first 16 bytes included: as much as one receive
/// buffer takes.
pub const V2_BYTES_MAX: usize = 16 * 1024;

pub(super) const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The signature's first byte; no version 1 header begins with it.
pub(super) const FIRST: u8 = SIGNATURE[0];

/// Bytes before the addresses.
const FIXED: usize = 16;

/// Version 2 and the command.
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

pub(super) fn parse(bytes: &[u8]) -> Result<Option<Header<'_>>, HeaderError> {
    let begun = bytes.len().min(SIGNATURE.len());
    if bytes[..begun] != SIGNATURE[..begun] {
        return Err(HeaderError::Missing);
    }
    let &[version_and_command, family, high, low] = &bytes[begun..][..(bytes.len() - begun).min(4)]
    else {
        return early(&bytes[begun..]);
    };
    check(version_and_command, family)?;
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if length > V2_BYTES_MAX {
        return Err(HeaderError::TooLong);
    }
    if version_and_command == PROXY && length < FIXED + address_bytes(family) {
        return Err(HeaderError::TooShort);
    }
    if bytes.len() < length {
        return Ok(None);
    }
    let header = &bytes[..length];
    // "The receiver must accept this connection as valid and must use the real connection
    // endpoints and discard the protocol block": also what would stand where addresses do.
    let addresses = address_bytes(family).min(length - FIXED);
    let tlvs = match version_and_command {
        LOCAL => Tlvs::new(&header[FIXED + addresses..]).unwrap_or_default(),
        _ => Tlvs::new(&header[FIXED + addresses..])?,
    };
    verify(header, FIXED + addresses, &tlvs)?;
    Ok(Some(Header {
        version: Version::V2,
        origin: origin(version_and_command, family, &header[FIXED..]),
        tlvs,
        length,
    }))
}

/// Refuses what cannot become a header any more.
fn early(begun: &[u8]) -> Result<Option<Header<'_>>, HeaderError> {
    match *begun {
        [] => {}
        [version_and_command] => check(version_and_command, 0)?,
        [version_and_command, family, ..] => check(version_and_command, family)?,
    }
    Ok(None)
}

fn check(version_and_command: u8, family: u8) -> Result<(), HeaderError> {
    match version_and_command {
        LOCAL | PROXY => {}
        other if other >> 4 != 2 => return Err(HeaderError::Version),
        _ => return Err(HeaderError::Command),
    }
    // "When a sender presents a LOCAL connection, it should not present any address": whatever
    // it does present is not looked at.
    if version_and_command == PROXY && (family >> 4 > 3 || family & 0xF > 2) {
        return Err(HeaderError::Family);
    }
    Ok(())
}

/// Bytes that addresses of the family take.
const fn address_bytes(family: u8) -> usize {
    match family >> 4 {
        1 => 12,
        2 => 36,
        3 => 216,
        _ => 0,
    }
}

fn origin(command: u8, family: u8, block: &[u8]) -> Origin {
    if command == LOCAL {
        return Origin::Local;
    }
    let transport = match family & 0xF {
        1 => Transport::Stream,
        2 => Transport::Datagram,
        _ => return Origin::Unknown,
    };
    let addresses = match family >> 4 {
        1 => block.first_chunk().map(v4),
        2 => block.first_chunk().map(v6),
        _ => None,
    };
    addresses.map_or(Origin::Unknown, |(source, destination)| {
        Origin::told(Addresses {
            source,
            destination,
            transport,
        })
    })
}

fn v4(block: &[u8; 12]) -> (SocketAddr, SocketAddr) {
    let address = |at: usize| Ipv4Addr::new(block[at], block[at + 1], block[at + 2], block[at + 3]);
    let port = |at: usize| u16::from_be_bytes([block[at], block[at + 1]]);
    let source = SocketAddr::from((address(0), port(8)));
    (source, SocketAddr::from((address(4), port(10))))
}

fn v6(block: &[u8; 36]) -> (SocketAddr, SocketAddr) {
    let address = |at: usize| {
        let octets: [u8; 16] = std::array::from_fn(|index| block[at + index]);
        Ipv6Addr::from(octets)
    };
    let port = |at: usize| u16::from_be_bytes([block[at], block[at + 1]]);
    let source = SocketAddr::from((address(0), port(32)));
    (source, SocketAddr::from((address(16), port(34))))
}

/// The checksum, if there is one, was computed with zeros in its own place (section 2.2.3).
fn verify(header: &[u8], tlvs_at: usize, tlvs: &Tlvs<'_>) -> Result<(), HeaderError> {
    let Some(at) = tlvs.checksum_at()? else {
        return Ok(());
    };
    let (before, rest) = header.split_at(tlvs_at + at);
    let (told, behind) = rest.split_at(4);
    let right = crc32c(&[before, &[0; 4], behind]);
    if told == right.to_be_bytes() {
        Ok(())
    } else {
        Err(HeaderError::Checksum)
    }
}

pub(super) fn write(origin: Origin, tlvs: &[Tlv<'_>], checksum: bool, header: &mut Vec<u8>) {
    let start = header.len();
    header.extend(SIGNATURE);
    match origin {
        Origin::Local => header.extend([LOCAL, 0, 0, 0]),
        Origin::Unknown => header.extend([PROXY, 0, 0, 0]),
        Origin::Proxied(addresses) => write_addresses(addresses.in_one_family(), header),
    }
    for tlv in tlvs {
        tlv::write(tlv, header);
    }
    if checksum {
        write_value(Tlv::CHECKSUM, &[0; 4], header);
    }
    let written = header.len() - start;
    assert!(written <= V2_BYTES_MAX, "a header of {written} bytes");
    let length = (written - FIXED) as u16; // at most V2_BYTES_MAX
    header[start + 14..start + FIXED].copy_from_slice(&length.to_be_bytes());
    if checksum {
        let crc = crc32c(&[&header[start..]]);
        let end = header.len();
        header[end - 4..].copy_from_slice(&crc.to_be_bytes());
    }
}

fn write_addresses(addresses: Addresses, header: &mut Vec<u8>) {
    let transport = match addresses.transport {
        Transport::Stream => 1,
        Transport::Datagram => 2,
    };
    let is_unix = [addresses.source, addresses.destination].map(|it| is_unix(it.ip()));
    if is_unix == [true; 2] {
        header.extend([PROXY, 0x30 | transport, 0, 0]);
        write_path(addresses.source, header);
        return write_path(addresses.destination, header);
    }
    if is_unix != [false; 2] {
        return header.extend([PROXY, 0, 0, 0]); // no family has both
    }
    match (addresses.source, addresses.destination) {
        (SocketAddr::V4(source), SocketAddr::V4(destination)) => {
            header.extend([PROXY, 0x10 | transport, 0, 0]);
            header.extend(source.ip().octets());
            header.extend(destination.ip().octets());
        }
        (source, destination) => {
            header.extend([PROXY, 0x20 | transport, 0, 0]);
            for address in [source, destination] {
                if let SocketAddr::V6(address) = address {
                    header.extend(address.ip().octets());
                }
            }
        }
    }
    header.extend(addresses.source.port().to_be_bytes());
    header.extend(addresses.destination.port().to_be_bytes());
}

/// `sun_path`: 108 bytes, filled up with zeros; an abstract name begins with one (unix(7)).
fn write_path(address: SocketAddr, header: &mut Vec<u8>) {
    let start = header.len();
    let path = unix_path(address);
    header.extend(path.as_deref().unwrap_or_default().as_bytes());
    if header.get(start) == Some(&b'@') {
        header[start] = 0;
    }
    header.resize(start + 108, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header with these bytes behind the signature.
    fn header(rest: &[u8]) -> Vec<u8> {
        [&SIGNATURE[..], rest].concat()
    }

    const V4: &[u8] = &[192, 0, 2, 7, 10, 0, 0, 1, 0x9C, 0x40, 0x01, 0xBB];

    #[test]
    fn a_header_as_other_programs_write_it() {
        let bytes = header(&[&[0x21, 0x11, 0, 12][..], V4, b"GET"].concat());
        let header = parse(&bytes).unwrap().unwrap();
        assert_eq!(header.length, 28);
        let Origin::Proxied(addresses) = header.origin else {
            panic!("{header:?}");
        };
        assert_eq!(addresses.source, "192.0.2.7:40000".parse().unwrap());
        assert_eq!(addresses.destination, "10.0.0.1:443".parse().unwrap());
        assert_eq!(addresses.transport, Transport::Stream);
    }

    #[test]
    fn local_says_nothing_whatever_it_carries() {
        for rest in [
            &[0x20, 0, 0, 0][..],
            &[0x20, 0x11, 0, 0],
            &[0x20, 0xFF, 0, 2, 1, 2],
            &[0x20, 0x11, 0, 13, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9],
        ] {
            let bytes = header(rest);
            let header = parse(&bytes).unwrap().unwrap();
            assert_eq!((header.origin, header.length), (Origin::Local, bytes.len()));
        }
    }

    #[test]
    fn without_an_address_that_we_use_the_client_is_unknown() {
        let mut unix = vec![0x21, 0x31, 0, 216];
        unix.resize(4 + 216, b'/');
        for rest in [&[0x21, 0x00, 0, 0][..], &unix, &[0x21, 0x00, 0, 3, 4, 0, 0]] {
            let bytes = header(rest);
            let header = parse(&bytes).unwrap().unwrap();
            assert_eq!(
                (header.origin, header.length),
                (Origin::Unknown, bytes.len())
            );
        }
        let bytes = header(&[&[0x21, 0x10, 0, 12][..], V4].concat());
        assert_eq!(parse(&bytes).unwrap().unwrap().origin, Origin::Unknown);
    }

    #[test]
    fn what_cannot_become_a_header_is_refused_at_once() {
        use HeaderError::{Command, Family, Missing, TooLong, TooShort, Version};
        for (rest, error) in [
            (&[0x11][..], Version),
            (&[0x01], Version),
            (&[0x31], Version),
            (&[0x22], Command),
            (&[0x21, 0x41], Family),
            (&[0x21, 0x13], Family),
            (&[0x21, 0x11, 0, 11], TooShort),
            (&[0x21, 0x21, 0, 35], TooShort),
            (&[0x21, 0x31, 0, 215], TooShort),
            (&[0x21, 0x11, 0x3F, 0xF1], TooLong),
            (&[0x20, 0x00, 0xFF, 0xFF], TooLong),
        ] {
            assert_eq!(parse(&header(rest)), Err(error), "{rest:?}");
        }
        assert_eq!(parse(b"\r\n\r\nX"), Err(Missing));
        let longest = header(&[0x21, 0x11, 0x3F, 0xF0]);
        assert_eq!(parse(&longest), Ok(None));
    }

    #[test]
    fn a_wrong_or_repeated_checksum_is_refused() {
        let origin = Origin::Unknown;
        let mut bytes = Vec::new();
        write(origin, &[Tlv::Alpn(b"h2")], true, &mut bytes);
        let sum = bytes.len() - 4;
        bytes[sum] ^= 1;
        assert_eq!(parse(&bytes), Err(HeaderError::Checksum));
        let twice = header(&[0x21, 0, 0, 14, 3, 0, 4, 0, 0, 0, 0, 3, 0, 4, 0, 0, 0, 0]);
        assert_eq!(parse(&twice), Err(HeaderError::Tlv));
    }
}
