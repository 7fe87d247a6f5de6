//! A connection without I/O, for fuzzing and for looking at bytes.
//!
//! Invariant: it does what a connection's task does, but for the time, which stands still.
//! Read next: `core.rs`, `driver.rs`.

use std::task::{Context, Poll, Waker};

use lb_core::rt::Chunk;

use super::core::{Core, Role};
use super::settings::LocalSettings;
use super::streams::StreamKey;
use super::write::RequestKind;

/// An end of a connection whose streams read what comes: the server's, which answers nothing, or the
/// client's with requests under way.
#[derive(Debug)]
pub struct Replay {
    core: Core,
    open: Vec<StreamKey>,
    texts: Vec<Vec<u8>>,
}

impl Default for Replay {
    fn default() -> Self {
        Self::of(Role::Server, 8)
    }
}

impl Replay {
    /// The client's end with five requests under way, one of them HEAD, one for a WebSocket, and two
    /// with a body to come.
    #[must_use]
    pub fn client() -> Self {
        let mut replay = Self::of(Role::Client, 0);
        for (text, is_websocket, ends) in [
            (&b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"[..], false, true),
            (b"HEAD /b HTTP/1.1\r\nHost: a\r\n\r\n", false, true),
            (
                b"GET /c HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
                true,
                false,
            ),
            (b"POST /d HTTP/1.1\r\nHost: a\r\n\r\n", false, false),
            (b"PUT /e HTTP/1.1\r\nHost: a\r\n\r\n", false, false),
        ] {
            let kind = RequestKind {
                is_https: false,
                is_websocket,
                secrets: b"",
            };
            replay
                .open
                .extend(replay.core.send_request(text, kind, ends));
        }
        replay
    }

    fn of(role: Role, streams_max: u32) -> Self {
        let local = LocalSettings {
            streams_max,
            window: 65_535,
            head_bytes_max: 4096,
        };
        Self {
            core: Core::new(role, local),
            open: Vec::new(),
            texts: Vec::new(),
        }
    }

    /// Takes bytes of the peer; false when the connection has failed.
    pub fn receive(&mut self, bytes: &[u8]) -> bool {
        let received = self.core.receive(Chunk::from_vec(bytes.to_vec()));
        self.open.extend(self.core.begun.drain(..));
        match received {
            Ok(()) => true,
            Err(error) => {
                self.core.fail(Some(error));
                false
            }
        }
    }

    /// Reads what has come on all streams.
    pub fn read(&mut self) {
        let cx = Context::from_waker(Waker::noop());
        for key in std::mem::take(&mut self.open) {
            loop {
                match self.core.poll_recv(key, &cx) {
                    Poll::Ready(Ok(piece)) if !piece.is_empty() => self.texts.push(piece.to_vec()),
                    Poll::Pending => break self.open.push(key),
                    Poll::Ready(_) => break self.core.release(key),
                }
            }
        }
    }

    /// What was read: heads as text, and pieces of bodies.
    #[must_use]
    pub fn texts(&self) -> &[Vec<u8>] {
        &self.texts
    }

    /// Bytes of bodies that were received and not read.
    pub fn unread(&mut self) -> usize {
        self.core
            .streams
            .iter_mut()
            .map(|(_, it)| it.unread())
            .sum()
    }

    /// What is to be sent.
    pub fn sent(&mut self) -> Vec<u8> {
        let mut sent = Vec::new();
        while self.core.out.bytes() > 0 {
            let parts = self.core.out.next();
            parts
                .iter()
                .flatten()
                .for_each(|it| sent.extend_from_slice(it));
        }
        sent
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::PREFACE;
    use super::*;

    /// Frames of a client that mostly keeps to the rules.
    fn frames() -> impl Strategy<Value = Vec<u8>> {
        let block: &[u8] = b"\x83\x86\x84\x41\x04test";
        let frame = (0..12_u8, any::<u8>(), 0..6_u32, vec(any::<u8>(), 0..20)).prop_map(
            move |(kind, flags, stream, noise)| {
                let payload = if kind == 1 { block.to_vec() } else { noise };
                let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
                frame.extend_from_slice(&[kind, flags & 0x2D]);
                frame.extend_from_slice(&stream.to_be_bytes());
                frame.extend_from_slice(&payload);
                frame
            },
        );
        vec(frame, 0..20).prop_map(|frames| frames.concat())
    }

    #[test]
    fn a_response_is_read_on_its_stream() {
        let mut replay = Replay::client();
        let sent = replay.sent();
        assert!(sent.starts_with(PREFACE));
        let frames =
            b"\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\x04\0\0\0\x01\x88\0\0\x02\0\x01\0\0\0\x01hi\
            \0\0\x01\x01\x05\0\0\0\x03\x89";
        assert!(replay.receive(frames));
        replay.read();
        let expected = [
            &b"HTTP/1.1 200 \r\n\r\n"[..],
            b"hi",
            b"HTTP/1.1 204 \r\n\r\n",
        ];
        assert_eq!(replay.texts(), expected);
        assert!(
            !replay.receive(b"\0\0\x01\x01\x05\0\0\0\x0d\x88"),
            "nobody asked"
        );
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_bytes_are_cut(frames in frames(), size in 1..40_usize) {
            let bytes = [&PREFACE[..], b"\0\0\0\x04\0\0\0\0\0", &frames].concat();
            let (mut whole, mut cut) = (Replay::default(), Replay::default());
            let is_fine = whole.receive(&bytes);
            let was_fine = bytes.chunks(size).all(|piece| cut.receive(piece));
            prop_assert_eq!(is_fine, was_fine);
            prop_assert_eq!(whole.unread(), cut.unread());
            prop_assert_eq!(whole.sent(), cut.sent());
            whole.read();
            cut.read();
            prop_assert_eq!(whole.texts().concat(), cut.texts().concat());
            prop_assert_eq!(whole.sent(), cut.sent());
        }
    }
}
