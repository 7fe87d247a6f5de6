//! Unix sockets among socket addresses: each path has an address of its own that no network has, so
//! that whatever holds a `SocketAddr` (plans, backends, affinity) takes Unix sockets too.
//!
//! Invariant: one path, one address, as long as the process lives; two paths never share one. It is
//! made of a hash of the path, so that nodes with the same paths have the same addresses.
//! Read next: `sys.rs` (where it becomes a `sockaddr_un`).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::{fmt, io};

use super::sys;

/// "Dummy IPv6 Prefix" (RFC 9780): addresses that stand for something else, 100:0:0:1::/64.
const PREFIX: u64 = 0x0100_0000_0000_0001;
/// Any that is not 0, which asks the kernel for one.
const PORT: u16 = 1;
/// Longest path in bytes: `sun_path`, less the zero at its end.
pub const UNIX_PATH_BYTES_MAX: usize = 107;

/// Paths by the lower half of their addresses. Those that left the configuration stay: they are
/// few, and something may still hold the address.
static PATHS: RwLock<Option<HashMap<u64, Arc<str>>>> = RwLock::new(None);

/// The address of a Unix socket whose name we do not know, or that has none: a client's, mostly.
pub const UNIX_UNNAMED: SocketAddr = address_of(0);

const fn address_of(hash: u64) -> SocketAddr {
    let bits = (PREFIX as u128) << 64 | hash as u128;
    SocketAddr::new(IpAddr::V6(Ipv6Addr::from_bits(bits)), PORT)
}

/// The address of the Unix socket `path`: absolute, or `@` and a name of the abstract namespace
/// (unix(7)).
///
/// # Errors
/// One sentence that says what is wrong with it.
pub fn unix_address(path: &str) -> Result<SocketAddr, String> {
    if !path.starts_with(['/', '@']) || path.len() < 2 {
        return Err(format!(
            "\"{path}\" is not the path of a Unix socket, which begins with / (or @, for an \
             abstract name)"
        ));
    }
    if path.len() > UNIX_PATH_BYTES_MAX || path.contains('\0') {
        return Err(format!(
            "the path of a Unix socket has at most {UNIX_PATH_BYTES_MAX} bytes, none of them zero"
        ));
    }
    let mut paths = PATHS.write().unwrap_or_else(PoisonError::into_inner);
    let paths = paths.get_or_insert_default();
    let mut hash = fnv(path);
    loop {
        match paths.get(&hash) {
            _ if hash == 0 => {}
            None => {
                paths.insert(hash, path.into());
                return Ok(address_of(hash));
            }
            Some(known) if **known == *path => return Ok(address_of(hash)),
            Some(_another) => {}
        }
        hash = hash.wrapping_add(1);
    }
}

/// True if it stands for a Unix socket.
#[must_use]
pub const fn is_unix(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64 == PREFIX,
    }
}

/// The path that an address stands for.
#[must_use]
pub fn unix_path(address: SocketAddr) -> Option<Arc<str>> {
    let IpAddr::V6(ip) = address.ip() else {
        return None;
    };
    if !is_unix(address.ip()) {
        return None;
    }
    let paths = PATHS.read().unwrap_or_else(PoisonError::into_inner);
    let found = paths.as_ref()?.get(&(ip.to_bits() as u64));
    found.map(Arc::clone)
}

/// The address of a path that a socket has; only of those that have one already, since clients
/// choose the names of their sockets.
pub(super) fn known(path: &str) -> SocketAddr {
    let paths = PATHS.read().unwrap_or_else(PoisonError::into_inner);
    let has = |hash: u64| paths.as_ref().and_then(|paths| paths.get(&hash));
    let hash = fnv(path);
    if has(hash).is_some_and(|known| **known == *path) {
        address_of(hash)
    } else {
        UNIX_UNNAMED
    }
}

/// An address as people write it: `unix:/path` for those that stand for a Unix socket.
#[must_use]
pub const fn shown(address: SocketAddr) -> Shown {
    Shown(address)
}

/// See [`shown`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown(SocketAddr);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !is_unix(self.0.ip()) {
            return self.0.fmt(f);
        }
        write!(f, "unix:{}", unix_path(self.0).as_deref().unwrap_or(""))
    }
}

/// A socket that listens at `address`, which stands for a path, with room for `backlog`
/// connections; where it is a file, with the permissions `mode`. All workers share it. A worker's
/// runtime takes a copy over as it does other listeners.
///
/// # Errors
/// Those of `bind(2)`, `chmod(2)` and `listen(2)`; EADDRINUSE whenever the file exists.
pub fn listen_unix(
    address: SocketAddr,
    backlog: u32,
    mode: u32,
) -> io::Result<std::net::TcpListener> {
    let path = unix_path(address).ok_or(io::ErrorKind::InvalidInput)?;
    let file = path.starts_with('/').then(|| (Path::new(&*path), mode));
    sys::listen_unix(address, backlog, file).map(Into::into)
}

/// FNV-1a: short, and the same everywhere.
fn fnv(path: &str) -> u64 {
    path.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_address_and_comes_back() {
        let address = unix_address("/run/a.sock").unwrap();
        assert_eq!(unix_address("/run/a.sock"), Ok(address));
        assert_ne!(unix_address("/run/b.sock"), Ok(address));
        assert!(is_unix(address.ip()));
        assert_eq!(shown(address).to_string(), "unix:/run/a.sock");
        let without_extras = SocketAddr::new(address.ip().to_canonical(), address.port());
        assert_eq!(without_extras, address, "nothing is lost on the way");
    }

    #[test]
    fn other_addresses_are_shown_as_they_are() {
        for text in ["192.0.2.1:80", "[2001:db8::1]:80"] {
            let address = text.parse().unwrap();
            assert_eq!(shown(address).to_string(), text);
            assert_eq!(unix_path(address), None);
        }
        assert_eq!(shown(UNIX_UNNAMED).to_string(), "unix:");
    }

    #[test]
    fn what_is_no_path_is_refused() {
        let long = format!("/{}", "x".repeat(UNIX_PATH_BYTES_MAX));
        for wrong in ["", "/", "@", "run/a.sock", "/a\0b", &long] {
            assert!(unix_address(wrong).is_err(), "{wrong:?}");
        }
        assert!(unix_address(&long[..UNIX_PATH_BYTES_MAX]).is_ok());
    }

    #[test]
    fn names_that_strangers_choose_are_not_kept() {
        assert_eq!(known("@from-a-client"), UNIX_UNNAMED);
        let own = unix_address("@own").unwrap();
        assert_eq!(known("@own"), own);
    }
}
