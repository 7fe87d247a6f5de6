//! Socket addresses and control messages as the kernel writes them, to and from bytes.
//!
//! Invariant: pure functions; whatever bytes come, nothing is read outside of them.
//! Source: `cmsg(3)`, `ip(7)`, `ipv6(7)`, `udp(7)`; 64-bit Linux.
//! Read next: `sys.rs`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// Room for an address of either family.
pub(crate) const NAME_MAX: usize = 32;
/// Room for the control messages that are asked for or given: where from or to, and a size.
pub(crate) const CONTROL_MAX: usize = 64;

/// Length, level and type.
const HEADER: usize = size_of::<libc::cmsghdr>();
const ALIGNMENT: usize = size_of::<usize>();
/// `struct in_pktinfo`: interface, our address, the address in the header.
const PKTINFO_V4: usize = 12;
/// `struct in6_pktinfo`: our address, interface.
const PKTINFO_V6: usize = 20;

/// Bytes of an address, aligned for the kernel's reads.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Name {
    pub(crate) bytes: [u8; NAME_MAX],
}

/// Control messages, aligned for the kernel's reads.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Control {
    pub(crate) bytes: [u8; CONTROL_MAX],
}

impl Name {
    pub(crate) const EMPTY: Self = Self {
        bytes: [0; NAME_MAX],
    };

    /// Writes `address` for a socket of the family `is_ipv6`; returns the length.
    pub(crate) fn set(&mut self, address: SocketAddr, is_ipv6: bool) -> usize {
        let bytes = &mut self.bytes;
        let family = if is_ipv6 {
            libc::AF_INET6
        } else {
            libc::AF_INET
        };
        bytes[..2].copy_from_slice(&(family as u16).to_ne_bytes());
        bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        let (ip, flow, scope) = match (address, is_ipv6) {
            (SocketAddr::V4(v4), false) => {
                bytes[4..8].copy_from_slice(&v4.ip().octets());
                bytes[8..16].fill(0);
                return 16;
            }
            (SocketAddr::V4(v4), true) => (v4.ip().to_ipv6_mapped(), 0, 0),
            (SocketAddr::V6(v6), _) => (*v6.ip(), v6.flowinfo(), v6.scope_id()),
        };
        bytes[4..8].copy_from_slice(&u32::to_ne_bytes(flow));
        bytes[8..24].copy_from_slice(&ip.octets());
        bytes[24..28].copy_from_slice(&u32::to_ne_bytes(scope));
        28
    }
}

/// The address in `bytes`, mapped IPv4 as IPv4; `None` for another family or too few bytes.
pub(crate) fn address_in(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(array(bytes, 0)?);
    let port = u16::from_be_bytes(array(bytes, 2)?);
    if i32::from(family) == libc::AF_INET {
        let ip = Ipv4Addr::from(array::<4>(bytes, 4)?);
        return Some(SocketAddr::new(ip.into(), port));
    }
    if i32::from(family) != libc::AF_INET6 {
        return None;
    }
    let ip = Ipv6Addr::from(array::<16>(bytes, 8)?);
    if let Some(ip) = ip.to_ipv4_mapped() {
        return Some(SocketAddr::new(ip.into(), port));
    }
    let flow = u32::from_ne_bytes(array(bytes, 4)?);
    let scope = u32::from_ne_bytes(array(bytes, 24)?);
    Some(SocketAddrV6::new(ip, port, flow, scope).into())
}

/// What control messages of a receive say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Told {
    /// Bytes of each datagram but the last (UDP_GRO).
    pub(crate) segment: Option<u32>,
    /// Our address that it came to (IP_PKTINFO, IPV6_PKTINFO).
    pub(crate) local: Option<IpAddr>,
}

/// Reads the control messages of a receive.
pub(crate) fn told_in(mut bytes: &[u8]) -> Told {
    let mut told = Told::default();
    while let Some((level, kind, data, len)) = first_of(bytes) {
        match (level, kind) {
            (libc::SOL_UDP, libc::UDP_GRO) => {
                let size = array(data, 0).map(i32::from_ne_bytes);
                told.segment = size.and_then(|size| u32::try_from(size).ok());
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // Our address, not the header's: that may be one for many (broadcast).
                told.local = array::<4>(data, 4).map(|ip| IpAddr::V4(ip.into()));
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let ip = array::<16>(data, 0).map(|ip| IpAddr::V6(ip.into()));
                told.local = ip.map(|ip| ip.to_canonical());
            }
            _ => {}
        }
        bytes = bytes.get(aligned(len)..).unwrap_or_default();
    }
    told
}

/// Level, type, data and whole length of the first control message.
fn first_of(bytes: &[u8]) -> Option<(i32, i32, &[u8], usize)> {
    let len = usize::from_ne_bytes(array(bytes, 0)?);
    let level = i32::from_ne_bytes(array(bytes, 8)?);
    let kind = i32::from_ne_bytes(array(bytes, 12)?);
    let data = bytes.get(HEADER..len)?;
    Some((level, kind, data, len))
}

impl Control {
    pub(crate) const EMPTY: Self = Self {
        bytes: [0; CONTROL_MAX],
    };

    /// Appends at `at` that a datagram leaves from `ip`; returns where the next one goes.
    pub(crate) fn leave_from(&mut self, at: usize, ip: IpAddr, is_ipv6: bool) -> usize {
        let ip = match ip {
            IpAddr::V4(ip) if !is_ipv6 => {
                let mut info = [0; PKTINFO_V4];
                info[4..8].copy_from_slice(&ip.octets());
                return self.append(at, libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let mut info = [0; PKTINFO_V6];
        info[..16].copy_from_slice(&ip.octets());
        self.append(at, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info)
    }

    /// Appends at `at` that the bytes are datagrams of `segment` each; returns the length of all.
    pub(crate) fn segment(&mut self, at: usize, segment: u16) -> usize {
        self.append(at, libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes())
    }

    fn append(&mut self, at: usize, level: i32, kind: i32, data: &[u8]) -> usize {
        let len = HEADER + data.len();
        let room = &mut self.bytes[at..at + aligned(len)];
        room.fill(0);
        room[..8].copy_from_slice(&len.to_ne_bytes());
        room[8..12].copy_from_slice(&level.to_ne_bytes());
        room[12..16].copy_from_slice(&kind.to_ne_bytes());
        room[HEADER..len].copy_from_slice(data);
        at + aligned(len)
    }
}

const fn aligned(len: usize) -> usize {
    len.next_multiple_of(ALIGNMENT)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_come_back() {
        for (text, is_ipv6) in [
            ("127.0.0.2:53", false),
            ("127.0.0.2:53", true),
            ("[2001:db8::1]:65535", true),
            ("[::]:0", true),
        ] {
            let address: SocketAddr = text.parse().expect("an address");
            let mut name = Name { bytes: [0xFF; 32] };
            let len = name.set(address, is_ipv6);
            assert_eq!(address_in(&name.bytes[..len]), Some(address));
            assert_eq!(address_in(&name.bytes[..len - 9]), None, "cut short");
        }
        let link: SocketAddr = SocketAddrV6::new("fe80::1".parse().expect("an ip"), 1, 0, 7).into();
        let mut name = Name::EMPTY;
        let len = name.set(link, true);
        assert_eq!(address_in(&name.bytes[..len]), Some(link), "scope kept");
    }

    #[test]
    fn what_is_appended_is_read_back() {
        let v4: IpAddr = "127.0.0.2".parse().expect("an ip");
        let v6: IpAddr = "2001:db8::2".parse().expect("an ip");
        for (ip, is_ipv6) in [(v4, false), (v4, true), (v6, true)] {
            let mut control = Control::EMPTY;
            let end = control.leave_from(0, ip, is_ipv6);
            let len = control.segment(end, 1200);
            assert!(len <= CONTROL_MAX);
            let told = told_in(&control.bytes[..len]);
            assert_eq!(told.local, Some(ip));
            assert_eq!(told.segment, None, "UDP_SEGMENT is not UDP_GRO");
        }
    }

    #[test]
    fn the_size_of_received_datagrams_is_found_behind_others() {
        let mut control = Control::EMPTY;
        let ip = "10.0.0.1".parse().expect("an ip");
        let end = control.leave_from(0, ip, false);
        let size = 1200i32.to_ne_bytes();
        let len = control.append(end, libc::SOL_UDP, libc::UDP_GRO, &size);
        let told = told_in(&control.bytes[..len]);
        assert_eq!((told.segment, told.local), (Some(1200), Some(ip)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = told_in(&bytes);
            let _ = address_in(&bytes);
        }
    }
}
