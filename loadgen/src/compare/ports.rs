//! Ports for programs that cannot be asked which one they got.
//!
//! Invariant: they lie below the range from which the kernel takes ports for connections, so a
//! connection of the load cannot sit on a port while its balancer is between two rounds.

use std::io;
use std::net::{TcpListener, UdpSocket};

use super::peers::Site;

/// The lowest port that is given out.
const FIRST: u16 = 12_000;
/// The end of the ports given out, where the kernel's own range does not begin lower.
const END: u16 = 32_000;

/// So many different ports on which nobody listens now.
///
/// # Errors
/// When there are not enough.
pub(crate) fn free(count: usize) -> io::Result<Vec<u16>> {
    // Begin somewhere else in each process, so that comparisons side by side rarely meet.
    let offset = std::process::id().wrapping_mul(97) % u32::from(END - FIRST);
    let offset = u16::try_from(offset).unwrap_or(0);
    let around = (FIRST + offset..END).chain(FIRST..FIRST + offset);
    let is_free = |port: &u16| {
        let address = Site::address(*port);
        TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
    };
    let ports: Vec<u16> = around.filter(is_free).take(count).collect();
    if ports.len() < count {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_free_and_different() {
        let taken = free(1).unwrap()[0];
        let guard = TcpListener::bind(Site::address(taken));
        let mut ports = free(3).unwrap();
        assert!(guard.is_err() || !ports.contains(&taken));
        ports.dedup();
        assert_eq!(ports.len(), 3);
    }
}
