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
    /// Length of the head, once it is complete or too long.
    len: usize,
}

impl HeadCollector {
    /// For a head of at most `bytes_max`, which is less than a buffer holds.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            buffer: Buffer::new(),
            bytes_max,
            searched: 0,
            len: 0,
        }
    }

    /// Adds a piece. `Some` when the head is complete, or too long to become it: what does not
    /// belong to it is in the chunk.
    pub(crate) fn add(&mut self, mut piece: Chunk) -> Option<Chunk> {
        let before = self.buffer.len();
        let fitting = piece.len().min(self.buffer.remaining());
        let fits = self.buffer.push(&piece[..fitting]);
        debug_assert!(fits, "no more than what remains");
        let len = self.buffer.len();
        let end = match self.end() {
            Some(end) => end,
            None if len >= self.bytes_max => len,
            None => return None,
        };
        self.len = end;
        piece.advance(end - before);
        Some(piece)
    }

    /// The head, as one chunk.
    pub(crate) fn finish(self) -> Chunk {
        let mut head = self.buffer.freeze();
        head.truncate(self.len);
        head
    }

    /// Looks for a blank line, and for what is behind it. One that ends in a bare LF counts: the
    /// parser is to refuse it.
    fn end(&mut self) -> Option<usize> {
        let bytes = self.buffer.as_slice();
        while let Some(at) = memchr::memchr(b'\n', &bytes[self.searched..]) {
            let next = self.searched + at + 1;
            match &bytes[next..] {
                [b'\n', ..] => return Some(next + 1),
                [b'\r', b'\n', ..] => return Some(next + 2),
                [] | [b'\r'] => return None, // look at this line's end again
                _ => self.searched = next,
            }
        }
        self.searched = bytes.len();
        None
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
                let rest = head.chunks(size).find_map(|piece| {
                    given += piece.len();
                    let rest = collector.add(Chunk::from_vec(piece.to_vec()));
                    assert_eq!(rest.is_some(), given >= end, "{given} bytes in {size}s");
                    rest
                });
                assert_eq!(&*rest.unwrap(), &head[end..given]);
                assert_eq!(&*collector.finish(), &head[..end]);
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
