//! As much of WebSocket (RFC 6455) as both ends of a load test need: the upgrade and frames.
//!
//! Invariant: what one call does not consume belongs to the next frame.
//! Read next: `run/websocket.rs`, `origin/websocket.rs`.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

/// The key that every client of ours sends. It has to be no secret: it only shows that the server
/// understood the upgrade.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// Bytes of a `Sec-WebSocket-Accept`.
pub(crate) const ACCEPT_BYTES: usize = 28;

/// Opcodes (RFC 6455 §5.2).
pub(crate) const CONTINUATION: u8 = 0;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

const SALT: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// The last frame of its message.
    pub(crate) is_last: bool,
    pub(crate) opcode: u8,
    /// Of the payload.
    pub(crate) length: u64,
    /// How the payload is masked, by a client.
    pub(crate) mask: Option<[u8; 4]>,
}

impl Head {
    /// Takes a head off the front; its length, or `None` if there is not all of it.
    pub(crate) fn read(bytes: &[u8]) -> Option<(usize, Self)> {
        let [first, second] = *bytes.first_chunk()?;
        let (length, mut size) = match second & 0x7f {
            126 => (u64::from(u16::from_be_bytes(*bytes[2..].first_chunk()?)), 4),
            127 => (u64::from_be_bytes(*bytes[2..].first_chunk()?), 10),
            length => (u64::from(length), 2),
        };
        let mask = if second & 0x80 == 0 {
            None
        } else {
            size += 4;
            Some(*bytes[size - 4..].first_chunk()?)
        };
        let head = Self {
            is_last: first & 0x80 != 0,
            opcode: first & 0xf,
            length,
            mask,
        };
        Some((size, head))
    }

    /// Appends it.
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        out.push(u8::from(self.is_last) << 7 | self.opcode);
        let masked = u8::from(self.mask.is_some()) << 7;
        match (u16::try_from(self.length), u8::try_from(self.length)) {
            (_, Ok(short @ ..126)) => out.push(masked | short),
            (Ok(medium), _) => {
                out.push(masked | 126);
                out.extend_from_slice(&medium.to_be_bytes());
            }
            _ => {
                out.push(masked | 127);
                out.extend_from_slice(&self.length.to_be_bytes());
            }
        }
        out.extend_from_slice(self.mask.as_ref().map_or(&[], |mask| mask));
    }
}

/// What a server has to answer to `key` (RFC 6455 §4.2.2).
pub(crate) fn accept(key: &[u8]) -> [u8; ACCEPT_BYTES] {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let salted = [key, SALT].concat();
    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, &salted);
    let mut text = [b'='; ACCEPT_BYTES];
    for (three, four) in digest.as_ref().chunks(3).zip(text.chunks_mut(4)) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for (place, digit) in four.iter_mut().take(three.len() + 1).enumerate() {
            *digit = DIGITS[(bits >> (18 - 6 * place) & 63) as usize];
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc_is_accepted() {
        assert_eq!(&accept(KEY.as_bytes()), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn heads_of_all_lengths_are_read_as_written() {
        for length in [0, 5, 125, 126, 65_535, 65_536, 1 << 40] {
            for mask in [None, Some([1, 2, 3, 4])] {
                let head = Head {
                    is_last: true,
                    opcode: BINARY,
                    length,
                    mask,
                };
                let mut bytes = Vec::new();
                head.write(&mut bytes);
                assert_eq!(Head::read(&bytes), Some((bytes.len(), head)));
                for cut in 0..bytes.len() {
                    assert_eq!(Head::read(&bytes[..cut]), None, "{length} {cut}");
                }
            }
        }
    }
}
