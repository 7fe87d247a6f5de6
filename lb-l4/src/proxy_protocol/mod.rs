//! The PROXY protocol, versions 1 and 2: who the client is, said ahead of its bytes. The rules are
//! those of HAProxy's `proxy-protocol.txt`, whose sections are cited.
//!
//! Invariant: pure functions of bytes. A header is accepted whole or refused with its reason, the
//! same however it was cut into segments; nothing behind it is looked at.
//! Read next: `v1.rs`, `v2.rs`, `tlv.rs` (what else a version 2 header tells), `receive.rs` (the
//! header of a connection).

mod crc32c;
mod receive;
mod tlv;
mod v1;
mod v2;

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use lb_core::rt::is_unix;
pub use receive::{ReceiveError, Received, receive};
pub use tlv::{Ssl, Tlv, Tlvs};
pub use v1::V1_BYTES_MAX;
pub use v2::V2_BYTES_MAX;

/// What one header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// Which form it has.
    pub version: Version,
    /// On whose behalf the connection is.
    pub origin: Origin,
    /// Everything else; empty in version 1.
    pub tlvs: Tlvs<'a>,
    /// Length of the header in bytes; the client's first byte is behind it.
    pub length: usize,
}

/// On whose behalf a connection, or a datagram, is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The proxy's own: a health check (section 2.2, command LOCAL). The connection's addresses
    /// are the true ones.
    Local,
    /// A client between two addresses of one family.
    Proxied(Addresses),
    /// A client without an address that we could use: UNKNOWN, UNSPEC or a Unix socket. The
    /// connection's addresses are the best there are.
    Unknown,
}

/// Between which addresses a client is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// The client's.
    pub source: SocketAddr,
    /// The one that the client connected to.
    pub destination: SocketAddr,
    /// By what.
    pub transport: Transport,
}

/// What carries the client's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// UDP.
    Datagram,
    /// TCP.
    Stream,
}

/// The two forms of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// A line of text (section 2.1).
    V1,
    /// Binary (section 2.2).
    V2,
}

/// Why bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// An address or port of version 1 that is not in its one allowed form.
    #[error("an address or port is malformed")]
    Address,
    /// The checksum is not that of the header.
    #[error("the checksum is wrong")]
    Checksum,
    /// A command other than LOCAL and PROXY.
    #[error("the command is unknown")]
    Command,
    /// A family, or a transport, that section 2.2 does not assign.
    #[error("the address family or transport is unknown")]
    Family,
    /// Neither `PROXY ` nor the signature of version 2.
    #[error("there is no PROXY header")]
    Missing,
    /// Longer than [`V1_BYTES_MAX`] or [`V2_BYTES_MAX`].
    #[error("the header is too long")]
    TooLong,
    /// A version 2 header whose length does not hold its addresses.
    #[error("the header is too short for its addresses")]
    TooShort,
    /// A TLV that reaches behind the header, or whose value is not what its type asks for.
    #[error("a TLV is malformed")]
    Tlv,
    /// The version is neither 1 nor 2.
    #[error("the version is unknown")]
    Version,
}

/// Reads the header at the start of `bytes`; `None` while more of it must be received. Called
/// again with more bytes it gives the same answer as if they had come at once.
///
/// # Errors
/// [`HeaderError`] as soon as no continuation could be a header.
pub fn parse(bytes: &[u8]) -> Result<Option<Header<'_>>, HeaderError> {
    match bytes.first() {
        None => Ok(None),
        Some(&v2::FIRST) => v2::parse(bytes),
        Some(_) => v1::parse(bytes),
    }
}

impl Origin {
    /// What a header tells. An address of ours that stands for a Unix socket (`rt::is_unix`) is
    /// nobody's: a peer that tells one must not be taken for a client on such a socket.
    fn told(addresses: Addresses) -> Self {
        let Addresses {
            source,
            destination,
            ..
        } = addresses;
        match is_unix(source.ip()) || is_unix(destination.ip()) {
            true => Self::Unknown,
            false => Self::Proxied(addresses),
        }
    }
}

impl Addresses {
    /// Both in one family, as either version can say them: an IPv4 address beside an IPv6 one
    /// becomes IPv4-mapped.
    #[must_use]
    pub fn in_one_family(self) -> Self {
        if self.source.is_ipv4() == self.destination.is_ipv4() {
            return self;
        }
        Self {
            source: mapped(self.source),
            destination: mapped(self.destination),
            ..self
        }
    }
}

fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(v4) => SocketAddrV6::new(v4.to_ipv6_mapped(), address.port(), 0, 0).into(),
        IpAddr::V6(_) => address,
    }
}

/// Appends a version 1 header; `Local` and `Unknown` become UNKNOWN, and so does a datagram, for
/// which version 1 has no word.
pub fn write_v1(origin: Origin, header: &mut Vec<u8>) {
    v1::write(origin, header);
}

/// Appends a version 2 header with `tlvs`, in their order, and with a checksum if asked for. A
/// [`Tlv::Checksum`] among `tlvs` is left out: the one that is written is computed.
///
/// # Panics
/// When the header would be longer than [`V2_BYTES_MAX`].
pub fn write_v2(origin: Origin, tlvs: &[Tlv<'_>], checksum: bool, header: &mut Vec<u8>) {
    v2::write(origin, tlvs, checksum, header);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn socket_address() -> impl Strategy<Value = SocketAddr> {
        prop_oneof![
            (any::<[u8; 4]>(), any::<u16>()).prop_map(SocketAddr::from),
            (any::<[u8; 16]>(), any::<u16>()).prop_map(SocketAddr::from),
        ]
    }

    fn origin() -> impl Strategy<Value = Origin> {
        let transport = prop_oneof![Just(Transport::Stream), Just(Transport::Datagram)];
        let proxied = (socket_address(), socket_address(), transport);
        let proxied = proxied.prop_map(|(source, destination, transport)| {
            let addresses = Addresses {
                source,
                destination,
                transport,
            };
            Origin::Proxied(addresses.in_one_family())
        });
        prop_oneof![1 => Just(Origin::Local), 1 => Just(Origin::Unknown), 6 => proxied]
    }

    fn each_prefix_is_incomplete(bytes: &[u8], length: usize) -> Result<(), TestCaseError> {
        for cut in 0..length {
            prop_assert_eq!(parse(&bytes[..cut]), Ok(None), "{} bytes", cut);
        }
        Ok(())
    }

    #[test]
    fn nobody_can_say_to_be_on_a_unix_socket_of_ours() {
        let v1 = b"PROXY TCP6 100:0:0:1::7 2001:db8::1 1 2\r\n".to_vec();
        let mut v2 = [&v2::SIGNATURE[..], &[0x21, 0x21, 0, 36], &[0; 16]].concat();
        v2.extend([1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0]);
        for bytes in [v1, v2] {
            let header = parse(&bytes).unwrap().unwrap();
            assert_eq!(header.origin, Origin::Unknown, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_written_as_v1_is_read(origin in origin(), rest in any::<[u8; 5]>()) {
            let mut bytes = Vec::new();
            write_v1(origin, &mut bytes);
            let length = bytes.len();
            prop_assert!(length <= V1_BYTES_MAX);
            bytes.extend(rest);
            let header = parse(&bytes).unwrap().unwrap();
            let said = match origin {
                Origin::Proxied(Addresses { transport: Transport::Stream, .. }) => origin,
                _ => Origin::Unknown,
            };
            prop_assert_eq!((header.origin, header.length), (said, length));
            prop_assert_eq!(header.tlvs.count(), 0);
            each_prefix_is_incomplete(&bytes, length)?;
        }

        #[test]
        fn what_was_written_as_v2_is_read(
            origin in origin(),
            authority in "[a-z.]{0,40}",
            id in prop::collection::vec(any::<u8>(), 0..=128),
            checksum in any::<bool>(),
            rest in any::<[u8; 5]>(),
        ) {
            let tlvs = [Tlv::Authority(&authority), Tlv::UniqueId(&id), Tlv::Alpn(b"h2")];
            let mut bytes = Vec::new();
            write_v2(origin, &tlvs, checksum, &mut bytes);
            let length = bytes.len();
            bytes.extend(rest);
            let header = parse(&bytes).unwrap().unwrap();
            prop_assert_eq!((header.origin, header.length), (origin, length));
            let read: Vec<_> = header.tlvs.collect();
            prop_assert_eq!(&read[..3], &tlvs);
            prop_assert_eq!(read.len(), 3 + usize::from(checksum));
            each_prefix_is_incomplete(&bytes, length)?;
            // Not every bit: one that is wrong in a type or length may hide the checksum itself.
            let block = 16..match origin {
                Origin::Proxied(addresses) if addresses.source.is_ipv4() => 28,
                Origin::Proxied(_) => 52,
                Origin::Local | Origin::Unknown => 16,
            };
            for byte in block.chain(length - 4..length).filter(|_| checksum) {
                let mut wrong = bytes.clone();
                wrong[byte] ^= 1 << (byte % 8);
                prop_assert_eq!(parse(&wrong), Err(HeaderError::Checksum), "byte {}", byte);
            }
        }

        #[test]
        fn any_bytes_are_survived(
            mut bytes in prop::collection::vec(any::<u8>(), 0..300),
            start in prop_oneof![
                Just(&b""[..]), Just(&b"PROXY "[..]), Just(&b"PROXY TCP4 "[..]),
                Just(&v2::SIGNATURE[..]),
                Just(&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x40"[..]),
            ],
        ) {
            bytes.splice(..0, start.iter().copied());
            let whole = parse(&bytes);
            if let Ok(Some(header)) = &whole {
                prop_assert!(header.length <= bytes.len());
                header.tlvs.for_each(drop);
            }
            // More bytes may complete an answer, never change one.
            for cut in 0..bytes.len() {
                let answer = parse(&bytes[..cut]);
                prop_assert!(answer == Ok(None) || answer == whole, "{} bytes", cut);
            }
        }
    }

    #[test]
    fn families_are_made_one() {
        let addresses = Addresses {
            source: "192.0.2.7:1".parse().unwrap(),
            destination: "[2001:db8::1]:2".parse().unwrap(),
            transport: Transport::Stream,
        };
        let one = addresses.in_one_family();
        assert_eq!(one.source.to_string(), "[::ffff:192.0.2.7]:1");
        assert_eq!(one.destination, addresses.destination);
        assert_eq!(one.in_one_family(), one);
    }
}
