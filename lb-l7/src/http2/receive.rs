//! Received bytes become frames, and frames change the connection (RFC 9113 sections 4 and 6).
//!
//! Invariant: the result does not depend on how the bytes were cut into pieces. A body's bytes are
//! passed on as they lie in the received buffers; of other frames at most one is collected.
//! Read next: `block.rs`, `data.rs`.

use lb_core::metrics::Http2Counters;
use lb_core::rt::Chunk;

use super::core::{Core, Phase, Role};
use super::data::DataFrame;
use super::frame::{
    ConnectionError, ErrorCode, FrameHead, HEADER_BYTES, PAYLOAD_BYTES_MAX, PREFACE, flag, kind,
    number,
};
use super::settings::WINDOW_MAX;
use super::streams::{Ended, StreamKey};

/// Where in the peer's bytes we are.
#[derive(Debug)]
pub(super) struct Input {
    /// Bytes of the preface that are still to come.
    preface_left: usize,
    pub(super) has_settings: bool,
    /// The start of a frame that is not complete.
    partial: Vec<u8>,
    /// The DATA frame that we are in.
    pub(super) data: Option<DataFrame>,
    /// The start of a head of several frames.
    pub(super) block: Vec<u8>,
    /// Whose head that is; 0 if there is none.
    pub(super) block_stream: u32,
    pub(super) block_ends_stream: bool,
    pub(super) block_frames: u32,
}

impl Input {
    pub(super) const fn new(has_preface: bool) -> Self {
        Self {
            preface_left: if has_preface { PREFACE.len() } else { 0 },
            has_settings: false,
            partial: Vec::new(),
            data: None,
            block: Vec::new(),
            block_stream: 0,
            block_ends_stream: false,
            block_frames: 0,
        }
    }
}

impl Core {
    /// Takes the next bytes from the peer.
    pub(super) fn receive(&mut self, mut chunk: Chunk) -> Result<(), ConnectionError> {
        if self.input.preface_left > 0 {
            self.receive_preface(&mut chunk)?;
        }
        while !chunk.is_empty() && self.phase < Phase::Failed {
            if self.input.data.is_some() {
                self.receive_data(&mut chunk)?;
            } else if self.input.partial.is_empty()
                && let Some(&head) = chunk.first_chunk::<HEADER_BYTES>()
            {
                self.receive_frame(FrameHead::parse(head), &mut chunk)?;
            } else {
                self.collect(&mut chunk)?;
            }
        }
        Ok(())
    }

    fn receive_preface(&mut self, chunk: &mut Chunk) -> Result<(), ConnectionError> {
        let rest = &PREFACE[PREFACE.len() - self.input.preface_left..];
        let len = rest.len().min(chunk.len());
        if chunk[..len] != rest[..len] {
            return Err(ConnectionError::protocol("not the preface of HTTP/2"));
        }
        self.input.preface_left -= len;
        chunk.advance(len);
        Ok(())
    }

    /// A frame that starts in `chunk`, and mostly ends there.
    fn receive_frame(&mut self, head: FrameHead, chunk: &mut Chunk) -> Result<(), ConnectionError> {
        self.check(head)?;
        if head.kind == kind::DATA {
            chunk.advance(HEADER_BYTES);
            return self.begin_data(head);
        }
        let len = HEADER_BYTES + head.len;
        match chunk.get(HEADER_BYTES..len) {
            Some(payload) => {
                self.frame(head, payload)?;
                chunk.advance(len);
            }
            None => {
                self.input.partial.extend_from_slice(chunk);
                chunk.advance(chunk.len());
            }
        }
        Ok(())
    }

    /// More of a frame that comes in pieces.
    fn collect(&mut self, chunk: &mut Chunk) -> Result<(), ConnectionError> {
        let partial = &mut self.input.partial;
        let head = partial.first_chunk().map(|&it| FrameHead::parse(it));
        let wanted = HEADER_BYTES + head.map_or(0, |it| it.len);
        let taken = chunk.len().min(wanted - partial.len());
        partial.extend_from_slice(&chunk[..taken]);
        chunk.advance(taken);
        if partial.len() < wanted {
            return Ok(());
        }
        let head = match partial.first_chunk() {
            Some(&head) => FrameHead::parse(head),
            None => return Ok(()),
        };
        if wanted == HEADER_BYTES {
            self.check(head)?;
            if head.kind == kind::DATA {
                self.input.partial.clear();
                return self.begin_data(head);
            }
            if head.len > 0 {
                return Ok(());
            }
        }
        let mut frame = std::mem::take(&mut self.input.partial);
        let result = self.frame(head, &frame[HEADER_BYTES..]);
        frame.clear();
        self.input.partial = frame;
        result
    }

    /// What can be said before the payload is there.
    fn check(&self, head: FrameHead) -> Result<(), ConnectionError> {
        if head.len > PAYLOAD_BYTES_MAX {
            return Err(ConnectionError::size("a frame that is too long"));
        }
        let block = self.input.block_stream;
        if block != 0 && (head.kind != kind::CONTINUATION || head.stream != block) {
            return Err(ConnectionError::protocol("a head is interrupted"));
        }
        if !self.input.has_settings && (head.kind != kind::SETTINGS || head.has(flag::ACK)) {
            return Err(ConnectionError::protocol("SETTINGS must come first"));
        }
        Ok(())
    }

    fn frame(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), ConnectionError> {
        let has_stream = head.stream != 0;
        match head.kind {
            kind::HEADERS if has_stream => self.headers(head, payload),
            kind::CONTINUATION if has_stream => self.continuation(head, payload),
            kind::RST_STREAM if has_stream => self.reset_frame(head.stream, payload),
            kind::WINDOW_UPDATE => self.window_update(head.stream, payload),
            kind::PRIORITY if has_stream => {
                if payload.len() == 5 {
                    return self.take_earned();
                }
                match self.streams.find(head.stream) {
                    Some(key) => self.stream_error(key, ErrorCode::FRAME_SIZE_ERROR),
                    None => Err(ConnectionError::size("PRIORITY of a broken length")),
                }
            }
            kind::SETTINGS if !has_stream => self.settings(head, payload),
            kind::PING if !has_stream => self.ping(head, payload),
            kind::GOAWAY if !has_stream => self.went_away(payload),
            kind::PUSH_PROMISE => Err(ConnectionError::protocol("nobody asked for a push")),
            kind::HEADERS..=kind::CONTINUATION => Err(ConnectionError::protocol(
                "a frame on a stream where it must not be",
            )),
            _ => self.take_control(), // unknown ones are ignored (RFC 9113 section 4.1)
        }
    }

    fn settings(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), ConnectionError> {
        if head.has(flag::ACK) {
            return match payload.len() {
                0 => self.take_earned(),
                _ => Err(ConnectionError::size("an acknowledgement with settings")),
            };
        }
        self.take_control()?;
        let window = self.peer.window;
        self.peer.apply(payload, self.role == Role::Client)?;
        self.input.has_settings = true;
        if let Some(settling) = self.settling.take() {
            settling.wake();
        }
        self.encoder.set_table_size(self.peer.table_bytes);
        let change = self.peer.window - window;
        if change != 0 {
            for (_, stream) in self.streams.iter_mut() {
                stream.send_window += change;
                if stream.send_window > WINDOW_MAX {
                    return Err(ConnectionError::new(
                        ErrorCode::FLOW_CONTROL_ERROR,
                        "an initial window that makes another too large",
                    ));
                }
                stream.wake_sender();
            }
        }
        self.out.frame(kind::SETTINGS, flag::ACK, 0, b"");
        Ok(())
    }

    fn ping(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), ConnectionError> {
        if payload.len() != 8 {
            return Err(ConnectionError::size("PING of a broken length"));
        }
        if head.has(flag::ACK) {
            if !std::mem::replace(&mut self.ping_is_out, false) {
                return self.take_control();
            }
            if self.phase == Phase::Warned {
                self.go_away(Phase::Closing);
            }
            return Ok(());
        }
        self.out.frame(kind::PING, flag::ACK, 0, payload);
        self.take_earned()
    }

    fn went_away(&mut self, payload: &[u8]) -> Result<(), ConnectionError> {
        if payload.len() < 8 {
            return Err(ConnectionError::size("GOAWAY of a broken length"));
        }
        self.is_going_away = true;
        if self.role == Role::Client {
            let last = number(payload) & WINDOW_MAX as u32;
            for (_, stream) in self.streams.iter_mut().filter(|(id, _)| *id > last) {
                stream.ended.get_or_insert(Ended::Refused);
                stream.wake_receiver();
                stream.wake_sender();
            }
        }
        self.take_control()
    }

    fn reset_frame(&mut self, id: u32, payload: &[u8]) -> Result<(), ConnectionError> {
        if payload.len() != 4 {
            return Err(ConnectionError::size("RST_STREAM of a broken length"));
        }
        let place = Http2Counters::place_of(number(payload));
        self.resets_counted.received[place] += 1;
        self.resets_counted.has_new = true;
        let Some(key) = self.streams.find(id) else {
            self.check_not_idle(id)?;
            // A backend may end every stream so behind its answer, whether or not that came first.
            return match self.role {
                Role::Server => self.take_control(),
                Role::Client => self.take_earned(),
            };
        };
        let code = ErrorCode(number(payload));
        let Some(stream) = self.streams.get(key) else {
            return Ok(());
        };
        let was_done = stream.recv_closed && stream.send_closed;
        let ended = match code {
            ErrorCode::REFUSED_STREAM => Ended::Refused,
            _ => Ended::ByPeer(code),
        };
        // A whole response stays whole, whatever becomes of the request (RFC 9113 section 8.1).
        let keeps_data = self.role == Role::Client && stream.recv_closed;
        stream.ended.get_or_insert(ended);
        stream.wake_receiver();
        stream.wake_sender();
        if !keeps_data {
            let unread = stream.discard();
            self.return_to_connection(unread);
        }
        match was_done {
            true => self.take_control(),
            false if self.role == Role::Server => self.take_reset(),
            false => Ok(()),
        }
    }

    fn window_update(&mut self, id: u32, payload: &[u8]) -> Result<(), ConnectionError> {
        if payload.len() != 4 {
            return Err(ConnectionError::size("WINDOW_UPDATE of a broken length"));
        }
        let more = i64::from(number(payload) & WINDOW_MAX as u32);
        let overflow = ErrorCode::FLOW_CONTROL_ERROR;
        if id == 0 {
            self.send_window += more;
            if more == 0 {
                return Err(ConnectionError::protocol("a window grows by nothing"));
            }
            if self.send_window > WINDOW_MAX {
                return Err(ConnectionError::new(overflow, "the window is too large"));
            }
            self.give_turn();
            return self.take_earned();
        }
        let Some(key) = self.streams.find(id) else {
            self.check_not_idle(id)?; // it may have ended meanwhile
            return self.take_earned();
        };
        self.take_earned()?;
        let Some(stream) = self.streams.get(key) else {
            return Ok(());
        };
        stream.send_window += more;
        let is_too_large = stream.send_window > WINDOW_MAX;
        stream.wake_sender();
        match more {
            0 => self.stream_error(key, ErrorCode::PROTOCOL_ERROR),
            _ if is_too_large => self.stream_error(key, overflow),
            _ => Ok(()),
        }
    }

    /// A frame on a stream that nobody has begun is an offence.
    pub(super) fn check_not_idle(&self, id: u32) -> Result<(), ConnectionError> {
        let is_peers = (id % 2 == 1) == (self.role == Role::Server);
        let is_idle = if is_peers {
            id > self.last_peer_id
        } else {
            id >= self.next_id
        };
        match is_idle {
            true => Err(ConnectionError::protocol(
                "a frame on a stream that is idle",
            )),
            false => Ok(()),
        }
    }

    /// The stream that a frame is for, if it is open.
    pub(super) fn open_stream(&self, id: u32) -> Option<StreamKey> {
        self.streams.find(id)
    }
}
