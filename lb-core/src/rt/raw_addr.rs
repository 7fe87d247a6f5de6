//! Socket addresses as the kernel reads and writes them.
//!
//! Invariant: `len` bytes of the storage are initialised, and the family in it says as what.
//! Read next: `sys.rs` (the calls that take them), `unix.rs` (sockets with a path).
#![allow(
    unsafe_code,
    reason = "an address is one of several structs in one place"
)]

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use super::unix::{self, is_unix};

/// A `sockaddr_storage` and the length that is in use.
#[derive(Clone, Copy)]
pub(crate) struct RawAddr {
    pub(crate) storage: libc::sockaddr_storage,
    pub(crate) len: libc::socklen_t,
}

impl RawAddr {
    pub(crate) fn new(address: SocketAddr) -> Self {
        let mut raw = Self::empty();
        match address {
            SocketAddr::V4(v4) => {
                let sin = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(v4.ip().octets()),
                    },
                    sin_zero: [0; 8],
                };
                raw.len = size_of_val(&sin) as libc::socklen_t;
                // SAFETY: sockaddr_storage is at least as large and as aligned as sockaddr_in.
                unsafe {
                    (&raw mut raw.storage)
                        .cast::<libc::sockaddr_in>()
                        .write(sin)
                };
            }
            SocketAddr::V6(_) if is_unix(address.ip()) => raw.set_unix(address),
            SocketAddr::V6(v6) => {
                let sin6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr {
                        s6_addr: v6.ip().octets(),
                    },
                    sin6_scope_id: v6.scope_id(),
                };
                raw.len = size_of_val(&sin6) as libc::socklen_t;
                // SAFETY: sockaddr_storage is at least as large and as aligned as sockaddr_in6.
                unsafe {
                    (&raw mut raw.storage)
                        .cast::<libc::sockaddr_in6>()
                        .write(sin6)
                };
            }
        }
        raw
    }

    /// An address that was made by hand and stands for no path becomes an unnamed socket, which
    /// calls refuse.
    #[cold]
    fn set_unix(&mut self, address: SocketAddr) {
        let path = unix::unix_path(address);
        let path = path.as_deref().unwrap_or_default().as_bytes();
        // SAFETY: all zeroes is a valid sockaddr_un.
        let mut sun: libc::sockaddr_un = unsafe { mem::zeroed() };
        sun.sun_family = libc::AF_UNIX as libc::sa_family_t;
        for (place, byte) in sun.sun_path.iter_mut().zip(path) {
            *place = *byte as libc::c_char;
        }
        let is_abstract = path.first() == Some(&b'@');
        if is_abstract {
            sun.sun_path[0] = 0;
        }
        // A path ends with a zero, an abstract name with its last byte.
        let zero = usize::from(!is_abstract && !path.is_empty());
        let len = mem::offset_of!(libc::sockaddr_un, sun_path) + path.len() + zero;
        self.len = len as libc::socklen_t;
        // SAFETY: sockaddr_storage is at least as large and as aligned as sockaddr_un.
        unsafe {
            (&raw mut self.storage)
                .cast::<libc::sockaddr_un>()
                .write(sun)
        };
    }

    fn decode_unix(&self) -> SocketAddr {
        // SAFETY: the family says that a sockaddr_un was written; the rest is zero.
        let sun = unsafe { &*self.as_ptr().cast::<libc::sockaddr_un>() };
        let len = (self.len as usize).saturating_sub(mem::offset_of!(libc::sockaddr_un, sun_path));
        let name = sun.sun_path.iter().take(len).map(|byte| *byte as u8);
        let mut name: Vec<u8> = name.collect();
        match name.first() {
            None => return unix::UNIX_UNNAMED,
            Some(0) => name[0] = b'@',
            Some(_) => name.retain(|byte| *byte != 0),
        }
        std::str::from_utf8(&name).map_or(unix::UNIX_UNNAMED, unix::known)
    }

    pub(super) const fn empty() -> Self {
        Self {
            // SAFETY: all zeroes is a valid sockaddr_storage.
            storage: unsafe { mem::zeroed() },
            len: size_of::<libc::sockaddr_storage>() as libc::socklen_t,
        }
    }

    pub(crate) const fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }

    pub(super) fn decode(&self) -> io::Result<SocketAddr> {
        match libc::c_int::from(self.storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says that a sockaddr_in was written.
                let sin = unsafe { &*self.as_ptr().cast::<libc::sockaddr_in>() };
                let ip = Ipv4Addr::from(sin.sin_addr.s_addr.to_ne_bytes());
                Ok(SocketAddrV4::new(ip, u16::from_be(sin.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: the family says that a sockaddr_in6 was written.
                let sin6 = unsafe { &*self.as_ptr().cast::<libc::sockaddr_in6>() };
                let ip = Ipv6Addr::from(sin6.sin6_addr.s6_addr);
                let port = u16::from_be(sin6.sin6_port);
                Ok(SocketAddrV6::new(ip, port, sin6.sin6_flowinfo, sin6.sin6_scope_id).into())
            }
            libc::AF_UNIX => Ok(self.decode_unix()),
            family => Err(io::Error::other(format!(
                "socket address of family {family}"
            ))),
        }
    }
}

/// As `decode`, with IPv4 clients of a dual-stack listener shown as IPv4.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}
