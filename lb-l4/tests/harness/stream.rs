//! Endless byte sequences, one for each seed, and streams that carry them.
//!
//! Invariant: no two places of a sequence look alike, so a byte that is lost, doubled or in the
//! wrong place is found.

use std::io;

use lb_core::rt::{Chunk, TcpStream};

/// Bytes of one send.
const SEND: usize = 100_000;

/// A place in the sequence of a seed.
#[derive(Debug, Clone)]
pub(crate) struct Sequence {
    seed: u64,
    pub(crate) place: usize,
}

impl Sequence {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, place: 0 }
    }

    /// The next `count` bytes.
    pub(crate) fn take(&mut self, count: usize) -> Vec<u8> {
        let skipped = self.place % 8;
        let words = self.place / 8..(self.place + count).div_ceil(8);
        let mut bytes: Vec<u8> = Vec::with_capacity(8 * words.len());
        for word in words {
            bytes.extend_from_slice(&mix(word as u64 ^ self.seed.rotate_left(40)).to_le_bytes());
        }
        bytes.drain(..skipped);
        bytes.truncate(count);
        self.place += count;
        bytes
    }

    /// Panics unless `bytes` are the next ones.
    pub(crate) fn check(&mut self, bytes: &[u8]) {
        let place = self.place;
        let expected = self.take(bytes.len());
        let wrong = bytes
            .iter()
            .zip(&expected)
            .position(|(is, ought)| is != ought);
        assert_eq!(wrong, None, "of the bytes from {place} on");
    }

    /// Sends the next `count` bytes.
    pub(crate) async fn send(&mut self, stream: &TcpStream, count: usize) -> io::Result<()> {
        let end = self.place + count;
        while self.place < end {
            let bytes = self.take(SEND.min(end - self.place));
            stream.send(Chunk::from_vec(bytes)).await?;
        }
        stream.flush().await
    }

    /// Checks what is received until `end`, or the end of the stream.
    pub(crate) async fn expect(&mut self, stream: &TcpStream, end: usize) -> io::Result<()> {
        while self.place < end {
            let chunk = stream.recv().await?;
            if chunk.is_empty() {
                break;
            }
            self.check(&chunk);
        }
        Ok(())
    }
}

/// The finaliser of splitmix64 (public domain, Sebastiano Vigna).
pub(crate) fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
