//! What waits to be sent on a connection: few large pieces rather than many small ones.
//!
//! Invariant: frames leave in the order in which they came, whole.
//! Read next: `driver.rs` (who sends).

use std::collections::VecDeque;
use std::convert::Infallible;

use lb_core::rt::{Buffer, Chunk};

use super::frame::{FrameHead, flag, kind};

/// Payloads up to this are copied behind their frame's head: cheaper than a piece of its own.
const COPIED_BYTES_MAX: usize = 4096;

/// From so many bytes on, pieces are copied into one: a send costs more than that.
const JOINED_BYTES_MIN: usize = 24 * 1024;

/// Frames that wait to be sent.
#[derive(Default)]
pub(super) struct Out {
    pieces: VecDeque<Chunk>,
    /// The last piece, while it grows.
    last: Option<Buffer>,
    bytes: usize,
}

impl Out {
    /// Bytes that wait.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends a frame.
    pub(super) fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let head = FrameHead {
            len: payload.len(),
            kind,
            flags,
            stream,
        };
        self.push(&head.bytes());
        self.push(payload);
    }

    /// Appends a DATA frame.
    pub(super) fn data(&mut self, stream: u32, payload: Chunk, ends: bool) {
        let flags = if ends { flag::END_STREAM } else { 0 };
        if payload.len() <= COPIED_BYTES_MAX {
            return self.frame(kind::DATA, flags, stream, &payload);
        }
        let head = FrameHead {
            len: payload.len(),
            kind: kind::DATA,
            flags,
            stream,
        };
        self.push(&head.bytes());
        self.end_piece();
        self.bytes += payload.len();
        self.pieces.push_back(payload);
    }

    /// What the next send takes: the first is there unless nothing waits.
    pub(super) fn next(&mut self) -> [Option<Chunk>; 2] {
        if self.pieces.len() < 2 {
            self.end_piece();
        }
        if let Some(joined) = self.join() {
            self.bytes -= joined.len();
            return [Some(joined), None];
        }
        let parts = [self.pieces.pop_front(), self.pieces.pop_front()];
        let taken: usize = parts.iter().flatten().map(|it| it.len()).sum();
        self.bytes -= taken;
        parts
    }

    /// Copies pieces into one, if they are many.
    fn join(&mut self) -> Option<Chunk> {
        let is_joined = |it: &Chunk| it.len() >= JOINED_BYTES_MIN; // it was put back
        if self.pieces.len() < 3 || self.bytes < JOINED_BYTES_MIN {
            return None;
        }
        if self.pieces.front().is_some_and(is_joined) {
            return self.pieces.pop_front();
        }
        self.end_piece();
        let pieces = &mut self.pieces;
        let joined = Chunk::large(|room| {
            let mut len = 0;
            while let Some(piece) = pieces.front()
                && let Some(place) = room.get_mut(len..len + piece.len())
            {
                place.copy_from_slice(piece);
                len += piece.len();
                pieces.pop_front();
            }
            Ok::<_, Infallible>(len)
        });
        joined.and_then(Result::ok)
    }

    /// Puts back what [`next`](Self::next) gave out and was not sent.
    pub(super) fn put_back(&mut self, parts: [Option<Chunk>; 2]) {
        for part in parts.into_iter().rev().flatten() {
            self.bytes += part.len();
            self.pieces.push_front(part);
        }
    }

    /// Appends bytes; a run that does not fit a buffer is divided.
    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len();
        while !bytes.is_empty() {
            let last = self.last.get_or_insert_with(Buffer::new);
            let (now, later) = bytes.split_at(bytes.len().min(last.remaining()));
            let fits = last.push(now);
            debug_assert!(fits, "no more than what remains");
            bytes = later;
            if !bytes.is_empty() {
                self.end_piece();
            }
        }
    }

    fn end_piece(&mut self) {
        if let Some(last) = self.last.take() {
            self.pieces.push_back(last.freeze());
        }
    }
}

impl std::fmt::Debug for Out {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Out")
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_leave_in_order() {
        let mut out = Out::default();
        out.frame(kind::PING, 0, 0, b"12345678");
        out.data(1, Chunk::from_static(b"few"), false);
        out.data(3, Chunk::from_vec(vec![b'x'; 10_000]), true);
        out.frame(kind::RST_STREAM, 0, 5, b"1234");
        let total = 9 + 8 + 9 + 3 + 9 + 10_000 + 9 + 4;
        assert_eq!(out.bytes(), total);
        let parts = out.next();
        assert_eq!(parts[0].as_ref().map(|it| it.len()), Some(38));
        assert_eq!(parts[1].as_ref().map(|it| it.len()), Some(10_000));
        out.put_back(parts);
        assert_eq!(out.bytes(), total);
        let mut sent = Vec::new();
        while out.bytes() > 0 {
            out.next()
                .iter()
                .flatten()
                .for_each(|it| sent.extend_from_slice(it));
        }
        assert!(sent.starts_with(
            b"\0\0\x08\x06\0\0\0\0\x0012345678\0\0\x03\0\0\0\0\0\x01few\0\x27\x10\0\x01"
        ));
        assert!(sent.ends_with(b"xx\0\0\x04\x03\0\0\0\0\x051234"));
        assert!(out.next()[0].is_none());
    }

    #[test]
    fn many_pieces_leave_as_one() {
        let mut out = Out::default();
        for id in [1, 3, 5] {
            out.data(id, Chunk::from_vec(vec![id as u8; 10_000]), true);
        }
        out.frame(kind::PING, 0, 0, b"12345678");
        let total = 3 * (9 + 10_000) + 9 + 8;
        let parts = out.next();
        assert_eq!(parts[0].as_ref().map(|it| it.len()), Some(total));
        assert!(parts[1].is_none() && out.bytes() == 0);
        out.put_back(parts);
        out.data(7, Chunk::from_vec(vec![7; 10_000]), true);
        let parts = out.next();
        let bytes = parts[0].as_deref().unwrap();
        assert_eq!(&bytes[9..10_009], [1; 10_000]);
        assert!(bytes.ends_with(b"12345678"));
        assert_eq!(out.next()[1].as_deref(), Some(&[7; 10_000][..]));
    }

    #[test]
    fn what_fits_no_buffer_is_divided() {
        let mut out = Out::default();
        out.push(&vec![b'x'; 3 * Buffer::CAPACITY / 2]);
        let parts = out.next();
        assert_eq!(parts[0].as_ref().map(|it| it.len()), Some(Buffer::CAPACITY));
        assert!(parts[1].is_some());
    }
}
