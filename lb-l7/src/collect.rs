//! A head that comes in several pieces: rare, so it may cost a copy.
//!
//! Invariant: each byte is looked at once, however small the pieces are.
//! Read next: `connection.rs` and `exchange.rs` (its users).

use lb_core::rt::{Buffer, Chunk};

/// Gathers the pieces of a head in one buffer.
#[derive(Debug)]
pub(crate) struct HeadCollector {
    buffer: Buffer,
    bytes_max: usize,
    /// Up to here there is no end of a head.
    searched: usize,
}

impl HeadCollector {
    /// For a head of at most `bytes_max`, which is less than a buffer holds.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            buffer: Buffer::new(),
            bytes_max,
            searched: 0,
        }
    }

    /// Adds a piece. `Some` when the head is complete, or too long to become it: what does not
    /// fit into the buffer is in the chunk.
    pub(crate) fn add(&mut self, mut piece: Chunk) -> Option<Chunk> {
        let fitting = piece.len().min(self.buffer.remaining());
        let fits = self.buffer.push(&piece[..fitting]);
        debug_assert!(fits, "no more than what remains");
        piece.advance(fitting);
        let is_complete = self.finds_end() || self.buffer.len() >= self.bytes_max;
        is_complete.then_some(piece)
    }

    /// Everything gathered, as one chunk.
    pub(crate) fn finish(self) -> Chunk {
        self.buffer.freeze()
    }

    /// Looks for a blank line. One that ends in a bare LF counts: the parser is to refuse it.
    fn finds_end(&mut self) -> bool {
        let bytes = self.buffer.as_slice();
        while let Some(at) = memchr::memchr(b'\n', &bytes[self.searched..]) {
            match &bytes[self.searched + at + 1..] {
                [b'\n', ..] | [b'\r', b'\n', ..] => return true,
                [] | [b'\r'] => return false, // look at this line's end again
                _ => self.searched += at + 1,
            }
        }
        self.searched = bytes.len();
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_found_however_the_pieces_are_cut() {
        for head in [
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\nBODY".as_slice(),
            b"A\nB\n\nC",
            b"A\nB\n\r\nC",
        ] {
            let end = head
                .windows(2)
                .position(|pair| pair == b"\n\n")
                .map_or_else(
                    || {
                        head.windows(3)
                            .position(|three| three == b"\n\r\n")
                            .unwrap()
                            + 3
                    },
                    |at| at + 2,
                );
            for size in 1..=head.len() {
                let mut collector = HeadCollector::new(1000);
                let mut given = 0;
                for piece in head.chunks(size) {
                    given += piece.len();
                    let complete = collector.add(Chunk::from_vec(piece.to_vec())).is_some();
                    assert_eq!(complete, given >= end, "{given} bytes in pieces of {size}");
                    if complete {
                        break;
                    }
                }
                assert_eq!(&*collector.finish(), &head[..given]);
            }
        }
    }

    #[test]
    fn what_is_too_long_comes_to_an_end() {
        let mut collector = HeadCollector::new(15_000);
        assert!(collector.add(Chunk::from_vec(vec![b'a'; 14_000])).is_none());
        let rest = collector.add(Chunk::from_vec(vec![b'b'; 14_000])).unwrap();
        assert_eq!(rest.len(), 28_000 - Buffer::CAPACITY);
        assert_eq!(collector.finish().len(), Buffer::CAPACITY);
    }
}
