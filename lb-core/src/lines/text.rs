//! Numbers and addresses as text, on the stack.
//!
//! Invariant: nothing in here allocates. Read next: `value.rs` (a user).

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};

/// In the place of an address.
const UNIX: &[u8] = b"unix:";

/// An IP address as X-Forwarded-For has it: IPv6 without brackets, IPv4 in IPv6 as IPv4; `unix:`,
/// as nginx has it, for a Unix socket.
#[derive(Debug, Clone, Copy)]
pub struct AddressText {
    /// `, ` and the address.
    bytes: [u8; Self::SEPARATOR.len() + 39],
    len: u8,
}

impl AddressText {
    const SEPARATOR: &'static [u8] = b", ";

    /// The text of `address`.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        let mut bytes = [0; _];
        let (separator, text) = bytes.split_at_mut(Self::SEPARATOR.len());
        separator.copy_from_slice(Self::SEPARATOR);
        let text_len = match address.to_canonical() {
            IpAddr::V4(address) => write_v4(address, text),
            address if crate::rt::is_unix(address) => {
                text[..UNIX.len()].copy_from_slice(UNIX);
                UNIX.len()
            }
            IpAddr::V6(address) => {
                let room = text.len();
                let mut rest = &mut *text;
                // 39 bytes hold every IPv6 address that is not an IPv4 one in disguise.
                let _ = write!(rest, "{address}");
                room - rest.len()
            }
        };
        #[expect(clippy::cast_possible_truncation, reason = "at most 41")]
        Self {
            bytes,
            len: (Self::SEPARATOR.len() + text_len) as u8,
        }
    }

    /// The address alone.
    #[inline]
    #[must_use]
    pub fn bare(&self) -> &[u8] {
        &self.bytes[Self::SEPARATOR.len()..usize::from(self.len)]
    }

    /// The address as a further element of a list.
    #[inline]
    #[must_use]
    pub fn appended(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Ten times as fast as `write!`, and needed once a request.
fn write_v4(address: Ipv4Addr, out: &mut [u8]) -> usize {
    let mut at = 0;
    for (index, octet) in address.octets().into_iter().enumerate() {
        if index > 0 {
            out[at] = b'.';
            at += 1;
        }
        if octet >= 100 {
            out[at] = b'0' + octet / 100;
            at += 1;
        }
        if octet >= 10 {
            out[at] = b'0' + octet / 10 % 10;
            at += 1;
        }
        out[at] = b'0' + octet % 10;
        at += 1;
    }
    at
}

/// A number in decimal.
#[derive(Debug, Clone, Copy)]
pub struct DecimalText {
    bytes: [u8; 20],
    start: u8,
}

impl DecimalText {
    /// The text of `number`.
    #[inline]
    #[must_use]
    pub fn of(number: u64) -> Self {
        let mut bytes = [b'0'; 20];
        let mut rest = number;
        let mut start = bytes.len();
        while start == bytes.len() || rest > 0 {
            start -= 1;
            let digit = (rest % 10) as u8;
            bytes[start] = b'0' + digit;
            rest /= 10;
        }
        #[expect(clippy::cast_possible_truncation, reason = "at most 19")]
        Self {
            bytes,
            start: start as u8,
        }
    }

    /// The digits.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[usize::from(self.start)..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (address, text) in [
            ("0.0.0.0", "0.0.0.0"),
            ("10.200.3.99", "10.200.3.99"),
            ("255.255.255.255", "255.255.255.255"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("::1", "::1"),
            ("100:0:0:1::7", "unix:"),
            (
                "2001:db80:1111:2222:3333:4444:5555:6666",
                "2001:db80:1111:2222:3333:4444:5555:6666",
            ),
        ] {
            let written = AddressText::of(address.parse().unwrap());
            assert_eq!(written.bare(), text.as_bytes());
            assert_eq!(written.appended(), format!(", {text}").as_bytes());
        }
    }

    #[test]
    fn numbers() {
        for number in [0, 7, 10, 1234567890, u64::MAX] {
            assert_eq!(
                DecimalText::of(number).as_slice(),
                number.to_string().as_bytes()
            );
        }
    }
}
