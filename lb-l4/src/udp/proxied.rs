//! Datagrams that begin with a PROXY header, from proxies and to backends: version 2 has a form for
//! them, and each datagram has a header of its own (proxy-protocol.txt, section 2.2).
//!
//! Invariant: a worker's flow is the told client's, whatever proxy brings it; answers go to the proxy that
//! brought its last datagram, from the address that it sent to, and without a header.
//! Read next: `receive.rs`, `flow.rs`.

use std::net::{IpAddr, SocketAddr};

use lb_core::plan::ProxyOut;
use lb_core::rt::Datagrams;

use super::table::Key;
use crate::proxy_protocol::{Addresses, Origin, Transport, Version, parse, write_v2};

/// Datagrams that the kernel takes at once.
const TRAIN_MAX: usize = 64;

/// Between which addresses datagrams came, and answers go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) peer: SocketAddr,
    /// Ours.
    pub(super) local: IpAddr,
}

/// Whose datagrams these are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) key: Key,
    pub(super) way: Way,
    /// As a proxy said; with the port that the client sent to.
    pub(super) is_told: bool,
    destination_port: Option<u16>,
}

impl Caller {
    /// Who sends for itself.
    pub(super) const fn of(way: Way) -> Self {
        Self {
            key: Key {
                client: way.peer,
                local: way.local,
            },
            way,
            is_told: false,
            destination_port: None,
        }
    }

    fn told(way: Way, addresses: Addresses) -> Self {
        let source = addresses.source;
        Self {
            key: Key {
                client: SocketAddr::new(source.ip().to_canonical(), source.port()),
                local: addresses.destination.ip().to_canonical(),
            },
            way,
            is_told: true,
            destination_port: Some(addresses.destination.port()),
        }
    }

    /// The port that the client sent to, if a proxy said so.
    pub(super) const fn port(&self) -> Option<u16> {
        self.destination_port
    }

    /// What backends are told ahead of each datagram; `port` is the one that we listen on.
    pub(super) fn header(&self, proxy: ProxyOut, port: u16) -> Box<[u8]> {
        let Key { client, local } = self.key;
        let port = self.destination_port.unwrap_or(port);
        let origin = Origin::Proxied(Addresses {
            source: client,
            destination: SocketAddr::new(local, port),
            transport: Transport::Datagram,
        });
        let mut header = Vec::new();
        // A checksum covers the header alone, so that one header serves all datagrams.
        write_v2(origin, &[], proxy.checksum, &mut header);
        header.into()
    }
}

/// Whose datagram it is, and how long its header; `None` if that is none, or not for a datagram.
pub(super) fn caller(way: Way, datagram: &[u8]) -> Option<(Caller, usize)> {
    let header = parse(datagram).ok().flatten()?;
    if header.version != Version::V2 {
        return None;
    }
    let caller = match header.origin {
        Origin::Proxied(addresses) if addresses.transport == Transport::Datagram => {
            Caller::told(way, addresses)
        }
        Origin::Proxied(_) => return None,
        Origin::Local | Origin::Unknown => Caller::of(way),
    };
    Some((caller, header.length))
}

/// Gives `send` the datagrams, each behind `header`. One that gets too long for UDP is lost.
pub(super) fn with_header(header: &[u8], datagrams: &Datagrams, mut send: impl FnMut(Datagrams)) {
    let segment = header.len() + datagrams.segment();
    let at_once = (Datagrams::DATAGRAM_MAX / segment).clamp(1, TRAIN_MAX);
    let mut all = datagrams.iter().peekable();
    while all.peek().is_some() {
        let mut bytes = Vec::new();
        for datagram in all.by_ref().take(at_once) {
            bytes.extend_from_slice(header);
            bytes.extend_from_slice(datagram);
        }
        if bytes.len() <= Datagrams::DATAGRAM_MAX {
            send(Datagrams::train(&bytes, segment));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_core::plan::ProxyVersion;

    const PROXY: ProxyOut = ProxyOut {
        version: ProxyVersion::V2,
        checksum: true,
    };

    fn way(peer: &str) -> Way {
        Way {
            peer: peer.parse().unwrap(),
            local: [10, 0, 0, 1].into(),
        }
    }

    #[test]
    fn what_one_says_another_understands() {
        let client = Caller::of(way("192.0.2.7:4000"));
        let header = client.header(PROXY, 53);
        let datagram = [&header[..], b"payload"].concat();
        let (told, length) = caller(way("10.0.0.2:9"), &datagram).unwrap();
        assert_eq!(told.key, client.key);
        assert_eq!(told.way, way("10.0.0.2:9"));
        assert!(told.is_told);
        assert_eq!(&datagram[length..], b"payload");
        // Passed on a second time it is still the client's, with the port that it sent to.
        assert_eq!(told.header(PROXY, 5353), header);
    }

    #[test]
    fn what_is_no_header_for_a_datagram_is_refused() {
        let stream = Origin::Proxied(Addresses {
            source: "192.0.2.7:4000".parse().unwrap(),
            destination: "10.0.0.1:53".parse().unwrap(),
            transport: Transport::Stream,
        });
        let mut header = Vec::new();
        write_v2(stream, &[], false, &mut header);
        let of = |bytes: &[u8]| caller(way("10.0.0.2:9"), bytes);
        assert_eq!(of(&header), None);
        assert_eq!(of(&header[..20]), None, "cut short");
        assert_eq!(of(b"PROXY UDP4 1.2.3.4 1.2.3.5 1 2\r\n"), None);
        assert_eq!(of(b""), None);
        header.clear();
        write_v2(Origin::Local, &[], false, &mut header);
        let (caller, _) = of(&header).unwrap();
        assert_eq!(caller, Caller::of(way("10.0.0.2:9")), "the proxy itself");
    }

    #[test]
    fn each_datagram_of_many_gets_its_header() {
        let datagrams = Datagrams::train(&[7; 250], 100);
        let mut all = Vec::new();
        with_header(b"head", &datagrams, |sent| {
            all.extend(sent.iter().map(<[u8]>::to_vec));
        });
        let expected: Vec<_> = [100, 100, 50]
            .map(|len| [&b"head"[..], &vec![7; len]].concat())
            .into();
        assert_eq!(all, expected);
        let longest = Datagrams::copy_from(&[0; Datagrams::DATAGRAM_MAX]);
        with_header(b"head", &longest, |_| panic!("longer than UDP takes"));
    }
}
