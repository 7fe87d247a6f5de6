//! Ports for programs that cannot be asked which one they got.
//!
//! Invariant: they lie below the range from which the kernel takes ports for connections, so a
//! connection of the load cannot sit on a port while its balancer is between two rounds.

use std::io;
use std::net::TcpListener;

use super::peers::Site;

/// The lowest port that is given out.
const FIRST: u16 = 12_000;
/// The end of the ports given out, where the kernel's own range does not begin lower.
const END: u16 = 32_000;

/// `COUNT` different ports on which nobody listens now.
///
/// # Errors
/// When there are not enough.
pub(super) fn free<const COUNT: usize>() -> io::Result<[u16; COUNT]> {
    // Begin somewhere else in each process, so that comparisons side by side rarely meet.
    let offset = std::process::id().wrapping_mul(97) % u32::from(END - FIRST);
    let offset = u16::try_from(offset).unwrap_or(0);
    let around = (FIRST + offset..END).chain(FIRST..FIRST + offset);
    let mut found = around.filter(|port| TcpListener::bind(Site::address(*port)).is_ok());
    let mut ports = [0; COUNT];
    for port in &mut ports {
        *port = found.next().ok_or(io::ErrorKind::AddrInUse)?;
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_free_and_different() {
        let taken = free::<1>().unwrap()[0];
        let guard = TcpListener::bind(Site::address(taken));
        let [a, b, c] = free().unwrap();
        assert!(a != b && b != c && a != c);
        assert!(guard.is_err() || ![a, b, c].contains(&taken));
    }
}
