//! Addresses of Services made this machine's own: a `local` route to each, by rtnetlink.
//!
//! Invariant: routes made here carry [`PROTOCOL`], and those alone are ever removed: at the end,
//! and at the next start if the process was killed.
//! Sources: rtnetlink(7), `linux/rtnetlink.h`.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

use crate::log::log;

/// Who made a route (`rtm_protocol`): a number that no other program is known to use.
const PROTOCOL: u8 = 76;

const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE: u16 = 0x400;
const RT_TABLE_LOCAL: u8 = 255;
const RT_SCOPE_HOST: u8 = 254;
const RTN_LOCAL: u8 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const EEXIST: i32 = 17;
const ESRCH: i32 = 3;

/// Bytes of `struct nlmsghdr` and of `struct rtmsg`.
const HEADER: usize = 16;
const ROUTE: usize = 12;

/// The addresses made local.
#[derive(Debug, Default)]
pub(crate) struct LocalAddresses {
    made: BTreeSet<IpAddr>,
    /// Whether routes that an earlier process left were looked for.
    is_clean: bool,
}

impl LocalAddresses {
    /// Makes these addresses local; those that are so by themselves stay as they are.
    ///
    /// # Errors
    /// What is missing, in a line.
    pub(crate) fn add(
        &mut self,
        wanted: &BTreeSet<IpAddr>,
        machine: &[IpAddr],
    ) -> Result<(), String> {
        let is_local = |address: &IpAddr| address.is_loopback() || machine.contains(address);
        let missing = wanted.iter().filter(|it| !is_local(it)).copied();
        let missing: Vec<_> = missing.filter(|it| !self.made.contains(it)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let mut routes = Routes::open().map_err(|error| advice(&error))?;
        if !self.is_clean {
            self.is_clean = true;
            self.clean(&mut routes, wanted);
        }
        for address in missing {
            match routes.add(address) {
                Ok(()) => self.made.insert(address),
                Err(error) => return Err(format!("{address}: {}", advice(&error))),
            };
        }
        Ok(())
    }

    /// Removes routes to addresses that are no longer wanted.
    pub(crate) fn keep(&mut self, wanted: &BTreeSet<IpAddr>) {
        let gone: Vec<_> = self.made.difference(wanted).copied().collect();
        if gone.is_empty() {
            return;
        }
        let Ok(mut routes) = Routes::open() else {
            return;
        };
        for address in gone {
            if let Err(error) = routes.remove(address) {
                log!(
                    Warn,
                    "a route stays behind",
                    address = address,
                    error = error
                );
            }
            self.made.remove(&address);
        }
    }

    /// Takes over what an earlier process left behind, or removes it.
    fn clean(&mut self, routes: &mut Routes, wanted: &BTreeSet<IpAddr>) {
        for address in routes.ours().unwrap_or_default() {
            if wanted.contains(&address) {
                self.made.insert(address);
            } else if routes.remove(address).is_ok() {
                log!(Info, "a route left behind is removed", address = address);
            }
        }
    }
}

impl Drop for LocalAddresses {
    fn drop(&mut self) {
        self.keep(&BTreeSet::new());
    }
}

fn advice(error: &io::Error) -> String {
    if error.kind() == ErrorKind::PermissionDenied {
        return "a route to it needs the capability CAP_NET_ADMIN (`setcap \
                cap_net_admin,cap_net_bind_service=+ep`, AmbientCapabilities=, or \
                securityContext.capabilities.add of the Pod)"
            .to_owned();
    }
    format!("no route to it can be made: {error}")
}

/// A netlink socket.
struct Routes {
    socket: OwnedFd,
    loopback: u32,
    sequence: u32,
}

impl Routes {
    fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        Ok(Self {
            socket,
            loopback: if_nametoindex("lo")?,
            sequence: 0,
        })
    }

    fn add(&mut self, address: IpAddr) -> io::Result<()> {
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
        self.change(RTM_NEWROUTE, flags, address, EEXIST)
    }

    fn remove(&mut self, address: IpAddr) -> io::Result<()> {
        self.change(RTM_DELROUTE, NLM_F_REQUEST | NLM_F_ACK, address, ESRCH)
    }

    /// `done` is the error that says that it is so already.
    fn change(&mut self, kind: u16, flags: u16, address: IpAddr, done: i32) -> io::Result<()> {
        let message = self.message(kind, flags, address);
        self.send(&message)?;
        let mut errno = 0;
        self.receive(|kind, body| {
            if kind == NLMSG_ERROR && body.len() >= 4 {
                errno = -i32::from_ne_bytes([body[0], body[1], body[2], body[3]]);
            }
        })?;
        match errno {
            0 => Ok(()),
            errno if errno == done => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    fn message(&mut self, kind: u16, flags: u16, address: IpAddr) -> Vec<u8> {
        let (family, octets) = match address {
            IpAddr::V4(v4) => (AF_INET, v4.octets().to_vec()),
            IpAddr::V6(v6) => (AF_INET6, v6.octets().to_vec()),
        };
        let bits = (octets.len() * 8) as u8; // 32 or 128
        let mut body = vec![family, bits, 0, 0, RT_TABLE_LOCAL, PROTOCOL];
        body.extend([RT_SCOPE_HOST, RTN_LOCAL, 0, 0, 0, 0]);
        attribute(&mut body, RTA_DST, &octets);
        attribute(&mut body, RTA_OIF, &self.loopback.to_ne_bytes());
        self.framed(kind, flags, &body)
    }

    fn framed(&mut self, kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        self.sequence += 1;
        let mut message = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend([0; 4]); // the kernel fills in who asks
        message.extend(body);
        message
    }

    /// The addresses of local routes with our protocol.
    fn ours(&mut self) -> io::Result<Vec<IpAddr>> {
        let mut ours = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let mut body = vec![0; ROUTE];
            body[0] = family;
            let message = self.framed(RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP, &body);
            self.send(&message)?;
            self.receive(|kind, body| {
                if kind == RTM_NEWROUTE {
                    ours.extend(our_route(body));
                }
            })?;
        }
        Ok(ours)
    }

    fn send(&self, message: &[u8]) -> io::Result<()> {
        let kernel = NetlinkAddr::new(0, 0);
        sendto(self.socket.as_raw_fd(), message, &kernel, MsgFlags::empty())?;
        Ok(())
    }

    /// Reads the messages of an answer, up to its end.
    fn receive(&self, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let bytes = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = &buffer[..bytes];
            while rest.len() >= HEADER {
                let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
                let kind = u16::from_ne_bytes([rest[4], rest[5]]);
                let Some(body) = rest.get(HEADER..length) else {
                    return Err(io::Error::other("a netlink message is cut off"));
                };
                each(kind, body);
                if kind == NLMSG_DONE || kind == NLMSG_ERROR {
                    return Ok(());
                }
                rest = rest.get(aligned(length)..).unwrap_or_default();
            }
        }
    }
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend((4 + value.len() as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(aligned(body.len()), 0);
}

const fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// The address of a route, if it is one of ours.
fn our_route(body: &[u8]) -> Option<IpAddr> {
    let (route, mut attributes) = body.split_at_checked(ROUTE)?;
    if (route[4], route[5], route[7]) != (RT_TABLE_LOCAL, PROTOCOL, RTN_LOCAL) {
        return None;
    }
    while attributes.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([attributes[0], attributes[1]]));
        let kind = u16::from_ne_bytes([attributes[2], attributes[3]]);
        let value = attributes.get(4..length)?;
        if kind == RTA_DST {
            return match value.len() {
                4 => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
                16 => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
                _ => None,
            };
        }
        attributes = attributes.get(aligned(length)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_read_as_it_is_written() {
        for text in ["10.96.0.10", "fd00::10"] {
            let address: IpAddr = text.parse().unwrap();
            let mut routes = Routes {
                socket: std::fs::File::open("/dev/null").unwrap().into(),
                loopback: 1,
                sequence: 0,
            };
            let message = routes.message(RTM_NEWROUTE, NLM_F_REQUEST, address);
            let length = u32::from_ne_bytes(message[..4].try_into().unwrap());
            assert_eq!(length as usize, message.len());
            assert_eq!(our_route(&message[HEADER..]), Some(address));
            let mut other = message[HEADER..].to_vec();
            other[5] = 2; // the kernel's
            assert_eq!(our_route(&other), None);
        }
    }

    #[test]
    fn what_is_local_already_needs_no_right() {
        let mut local = LocalAddresses::default();
        let wanted = ["127.0.0.7", "192.0.2.1"].map(|it| it.parse().unwrap());
        let machine = ["192.0.2.1".parse().unwrap()];
        local.add(&BTreeSet::from(wanted), &machine).unwrap();
        assert!(local.made.is_empty());
    }
}
