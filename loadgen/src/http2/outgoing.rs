//! What is to be sent, as far as the peer's windows allow (RFC 9113 §5.2).
//!
//! Invariant: no more data is framed than the windows of stream and connection have room for, and
//! no more than fits a buffer at a time, so that streams take turns.
//! Read next: `drive.rs`, which sends it.

use std::collections::{HashMap, VecDeque};
use std::task::Waker;

use lb_core::rt::{Buffer, Chunk};

use super::frame::{Broken, END_HEADERS, END_STREAM, FRAME_BYTES_MAX, Head, kind};

/// Windows at the beginning (RFC 9113 §6.9.2).
const WINDOW_BYTES: i64 = 65_535;
/// A window larger than this is an error.
const WINDOW_BYTES_MAX: i64 = 0x7fff_ffff;
/// No data is framed while so much waits to be sent.
const READY_BYTES_MAX: usize = 256 * 1024;

/// How a stream ends after its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// With the last of it.
    WithData,
    /// With these trailers, a header block.
    Trailers(&'static [u8]),
}

/// Bytes that wait for their turn.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// Frames, ready to be sent.
    pub(crate) ready: Vec<u8>,
    window: i64,
    stream_window: i64,
    bodies: VecDeque<Body>,
    /// What streams without a body were granted so far.
    early: HashMap<u32, i64>,
    /// Who sends.
    driver: Option<Waker>,
}

#[derive(Debug)]
struct Body {
    stream: u32,
    window: i64,
    /// What follows next, and all of it again as often as this says.
    bytes: Chunk,
    end: End,
}

impl Outgoing {
    pub(crate) fn new() -> Self {
        Self {
            ready: Vec::new(),
            window: WINDOW_BYTES,
            stream_window: WINDOW_BYTES,
            bodies: VecDeque::new(),
            early: HashMap::new(),
            driver: None,
        }
    }

    /// Frames a header block.
    pub(crate) fn headers(&mut self, stream: u32, block: &[u8], is_end: bool) {
        let mut parts = block.chunks(FRAME_BYTES_MAX).peekable();
        let (mut kind_of, mut flags) = (kind::HEADERS, if is_end { END_STREAM } else { 0 });
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                flags |= END_HEADERS;
            }
            self.frame(kind_of, flags, stream, part);
            (kind_of, flags) = (kind::CONTINUATION, 0);
        }
    }

    /// Queues the body of a stream whose headers were framed; it has at least one byte.
    pub(crate) fn body(&mut self, stream: u32, bytes: Chunk, end: End) {
        let window = self.stream_window + self.early.remove(&stream).unwrap_or(0);
        self.bodies.push_back(Body {
            stream,
            window,
            bytes,
            end,
        });
    }

    /// Frames anything.
    pub(crate) fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let head = Head {
            length: payload.len(),
            kind,
            flags,
            stream,
        };
        head.write(&mut self.ready);
        self.ready.extend_from_slice(payload);
    }

    /// Nothing more is sent on a stream.
    pub(crate) fn forget(&mut self, stream: u32) {
        self.early.remove(&stream);
        self.bodies.retain(|body| body.stream != stream);
    }

    /// The peer grants more; on stream 0 to the connection.
    ///
    /// # Errors
    /// When a window overflows.
    pub(crate) fn grant(&mut self, stream: u32, bytes: u32) -> Result<(), Broken> {
        let window = if stream == 0 {
            &mut self.window
        } else {
            match self.bodies.iter_mut().find(|body| body.stream == stream) {
                Some(body) => &mut body.window,
                None => self.early.entry(stream).or_insert(0),
            }
        };
        *window += i64::from(bytes);
        if *window > WINDOW_BYTES_MAX {
            return Err(Broken("a window that overflows"));
        }
        Ok(())
    }

    /// The peer says how large the windows of streams are, of those that are open, too.
    pub(crate) fn set_stream_window(&mut self, bytes: u32) {
        let change = i64::from(bytes) - self.stream_window;
        self.stream_window += change;
        for body in &mut self.bodies {
            body.window += change;
        }
    }

    /// A stream has ended without data of ours.
    pub(crate) fn ended(&mut self, stream: u32) {
        if !self.early.is_empty() {
            self.early.remove(&stream);
        }
    }

    /// Frames what bodies the windows have room for, each in its turn.
    pub(crate) fn pump(&mut self) {
        let mut blocked = 0;
        while blocked < self.bodies.len() && self.ready.len() < READY_BYTES_MAX && self.window > 0 {
            let Some(mut body) = self.bodies.pop_front() else {
                return;
            };
            let room = body.window.min(self.window).min(FRAME_BYTES_MAX as i64);
            let Ok(room @ 1..) = usize::try_from(room) else {
                self.bodies.push_back(body);
                blocked += 1;
                continue;
            };
            blocked = 0;
            let part = body.bytes.split_to(room.min(body.bytes.len()));
            body.window -= part.len() as i64;
            self.window -= part.len() as i64;
            let is_last = body.bytes.is_empty();
            let ends_here = is_last && body.end == End::WithData;
            let flags = if ends_here { END_STREAM } else { 0 };
            self.frame(kind::DATA, flags, body.stream, &part);
            if !is_last {
                self.bodies.push_back(body);
            } else if let End::Trailers(block) = body.end {
                self.headers(body.stream, block, true);
            }
        }
    }

    /// What is ready: in a buffer of the pool if it fits.
    pub(crate) fn take(&mut self) -> Option<Chunk> {
        if self.ready.is_empty() {
            return None;
        }
        let mut buffer = Buffer::new();
        if buffer.push(&self.ready) {
            self.ready.clear();
            return Some(buffer.freeze());
        }
        Some(Chunk::from_vec(std::mem::take(&mut self.ready)))
    }

    /// There is something new to be sent.
    pub(crate) fn wake(&self) {
        if let Some(driver) = &self.driver {
            driver.wake_by_ref();
        }
    }

    pub(super) fn driven_by(&mut self, driver: &Waker) {
        match &mut self.driver {
            Some(known) => known.clone_from(driver),
            None => self.driver = Some(driver.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data_bytes(outgoing: &mut Outgoing) -> Vec<(u32, usize, bool)> {
        outgoing.pump();
        let (mut frames, mut seen) = (super::super::frame::Frames::default(), Vec::new());
        let ready = std::mem::take(&mut outgoing.ready);
        let on = |head: Head, payload: &[u8]| {
            seen.push((head.stream, payload.len(), head.flags & END_STREAM != 0));
            Ok(())
        };
        frames.feed(&ready, on).unwrap();
        seen
    }

    #[test]
    fn bodies_keep_to_their_windows_and_take_turns() {
        let mut outgoing = Outgoing::new();
        outgoing.body(1, Chunk::from_vec(vec![1; 20_000]), End::WithData);
        outgoing.body(3, Chunk::from_vec(vec![3; 70_000]), End::Trailers(b"t"));
        let sent = data_bytes(&mut outgoing);
        assert_eq!(sent[..2], [(1, 16_384, false), (3, 16_384, false)]);
        assert_eq!(sent[2], (1, 3_616, true));
        let all: usize = sent.iter().map(|(_, bytes, _)| bytes).sum();
        assert_eq!(all, 65_535, "the connection's window");
        outgoing.grant(0, 1 << 20).unwrap();
        let sent = data_bytes(&mut outgoing);
        let all: usize = sent.iter().map(|(_, bytes, _)| bytes).sum();
        assert_eq!(all, 20_000, "the stream's window");
        outgoing.set_stream_window(65_535 + 1_000);
        outgoing.grant(3, 10_000).unwrap();
        let sent = data_bytes(&mut outgoing);
        assert_eq!(
            sent,
            [(3, 4_465, false), (3, 1, true)],
            "the rest, and trailers"
        );
        assert!(outgoing.grant(0, 0x7fff_ffff).is_err());
    }

    #[test]
    fn what_was_granted_early_counts() {
        let mut outgoing = Outgoing::new();
        outgoing.grant(0, 1 << 20).unwrap();
        outgoing.grant(5, 1_000).unwrap();
        outgoing.body(5, Chunk::from_vec(vec![5; 100_000]), End::WithData);
        let sent = data_bytes(&mut outgoing);
        let all: usize = sent.iter().map(|(_, bytes, _)| bytes).sum();
        assert_eq!(all, 66_535);
        outgoing.forget(5);
        outgoing.grant(0, 1).unwrap();
        assert_eq!(data_bytes(&mut outgoing), []);
    }
}
