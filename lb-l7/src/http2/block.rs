//! Heads of messages: collected from HEADERS and CONTINUATION, decoded, and made streams of.
//!
//! Invariant: every block that was received is decoded, whatever becomes of it, so that the table
//! stays in step; what is not wanted is decoded into nothing.
//! Read next: `head.rs` (the text), `data.rs` (what follows).

use lb_core::rt::{Buffer, Chunk};

use super::core::{Core, Phase, Role};
use super::frame::{ConnectionError, ErrorCode, FrameHead, PAYLOAD_BYTES_MAX, flag, kind};
use super::head::{BadHead, HeadFacts, HeadKind, HeadRoom, HeadText};
use super::server::FirstStream;
use super::settings::WINDOW_INITIAL;
use super::streams::{Ended, StreamKey};
use super::write::{self, RequestKind};

/// Longest head as it is sent, in all of its frames.
const BLOCK_BYTES_MAX: usize = 64 * 1024;
/// Frames that a head may come in.
const BLOCK_FRAMES_MAX: u32 = 16;
/// Responses that may wait to be read, the interim ones among them.
const HEADS_MAX: usize = 8;

/// The answer to a head that is too long, complete (RFC 6585 section 5).
const TOO_LONG: &[u8] = b"HTTP/1.1 431 \r\ncontent-length: 0\r\n\r\n";
/// The same for a call of gRPC: RESOURCE_EXHAUSTED.
const CALL_TOO_LONG: &[u8] = b"HTTP/1.1 200 \r\ncontent-type: application/grpc\r\n\
    grpc-status: 8\r\ngrpc-message: the head is longer than allowed\r\n\r\n";

/// What a head says, its text, and the names of its fields that are secrets.
type Decoded = (HeadFacts, Chunk, Option<Chunk>);

impl Core {
    /// HEADERS: the start of a head, mostly all of it.
    pub(super) fn headers(
        &mut self,
        head: FrameHead,
        payload: &[u8],
    ) -> Result<(), ConnectionError> {
        let mut payload = unpadded(head, payload)?;
        if head.has(flag::PRIORITY) {
            let Some((_, rest)) = payload.split_at_checked(5) else {
                return Err(ConnectionError::size("HEADERS that end within a priority"));
            };
            payload = rest;
        }
        let ends_stream = head.has(flag::END_STREAM);
        if head.has(flag::END_HEADERS) {
            return self.head(head.stream, ends_stream, payload);
        }
        self.input.block.clear();
        self.input.block.extend_from_slice(payload);
        self.input.block_stream = head.stream;
        self.input.block_ends_stream = ends_stream;
        self.input.block_frames = 1;
        Ok(())
    }

    /// CONTINUATION: more of a head (CVE-2024-27316 and its like are why this has limits).
    pub(super) fn continuation(
        &mut self,
        head: FrameHead,
        payload: &[u8],
    ) -> Result<(), ConnectionError> {
        let input = &mut self.input;
        if input.block_stream == 0 {
            return Err(ConnectionError::protocol("CONTINUATION of nothing"));
        }
        input.block_frames += 1;
        if input.block_frames > BLOCK_FRAMES_MAX
            || input.block.len() + payload.len() > BLOCK_BYTES_MAX
        {
            return Err(ConnectionError::calm("a head of too many frames"));
        }
        input.block.extend_from_slice(payload);
        if !head.has(flag::END_HEADERS) {
            return Ok(());
        }
        input.block_stream = 0;
        let ends_stream = input.block_ends_stream;
        let block = std::mem::take(&mut input.block);
        let result = self.head(head.stream, ends_stream, &block);
        self.input.block = block;
        result
    }

    fn head(&mut self, id: u32, ends: bool, block: &[u8]) -> Result<(), ConnectionError> {
        if let Some(key) = self.open_stream(id) {
            return self.head_of_open(key, ends, block);
        }
        if self.role == Role::Server && id % 2 == 1 && id > self.last_peer_id {
            return self.request(id, ends, block);
        }
        self.check_not_idle(id)?;
        self.discard_head(block)?;
        // What a backend says behind its answer is not worth the other streams, unless it does not
        // stop.
        if self.role == Role::Client {
            return self.take_earned();
        }
        if self.was_reset(id) {
            return self.take_earned();
        }
        // RFC 9113 section 5.1.1: ids that were passed over are not for use.
        let code = match self.was_used(id) {
            true => ErrorCode::STREAM_CLOSED,
            false => ErrorCode::PROTOCOL_ERROR,
        };
        Err(ConnectionError::new(
            code,
            "a head on a stream that is closed",
        ))
    }

    /// A new stream.
    fn request(&mut self, id: u32, ends: bool, block: &[u8]) -> Result<(), ConnectionError> {
        self.use_id(id);
        self.earn();
        if self.phase >= Phase::Closing {
            return self.discard_head(block); // it was told to send it elsewhere
        }
        if self.streams.len() >= self.local.streams_max as usize {
            self.discard_head(block)?;
            self.send_reset(id, ErrorCode::REFUSED_STREAM);
            return self.take_reset();
        }
        let decoded = self.decode(block, HeadKind::Request { ends })?;
        let (key, stream) = self.streams.insert(id);
        stream.recv_window = i64::from(self.local.window).max(WINDOW_INITIAL);
        stream.send_window = self.peer.window;
        stream.recv_closed = ends;
        self.counts.streams += 1;
        match decoded {
            Ok((facts, text, secrets)) => {
                stream.length_left = facts.content_length;
                stream.secrets = secrets;
                stream.has_head = true;
                stream.is_websocket = facts.is_websocket;
                stream.heads.push_back(text);
                self.begun.push_back(key);
                Ok(())
            }
            Err(bad) => {
                match bad {
                    BadHead::TooLong => self.send_head(key, TOO_LONG, true),
                    BadHead::CallTooLong => self.send_head(key, CALL_TOO_LONG, true),
                    BadHead::Malformed => false,
                };
                self.reset(key, bad_head_code(bad));
                self.streams.remove(key);
                self.take_reset()
            }
        }
    }

    /// Stream 1, which came as a request of HTTP/1.1 with the client's settings (RFC 7540 section
    /// 3.2). Its text is parsed by the same rules again, now as a stream's; there is no more of it.
    pub(super) fn begin_upgraded(&mut self, first: FirstStream) -> Result<(), ConnectionError> {
        self.peer.apply(&first.settings, false)?;
        self.encoder.set_table_size(self.peer.table_bytes);
        self.use_id(1);
        let (key, stream) = self.streams.insert(self.last_peer_id);
        stream.send_window = self.peer.window;
        stream.recv_closed = true;
        stream.has_head = true;
        stream.heads.push_back(first.request);
        self.counts.streams += 1;
        self.begun.push_back(key);
        Ok(())
    }

    /// A response, or trailers.
    fn head_of_open(
        &mut self,
        key: StreamKey,
        ends: bool,
        block: &[u8],
    ) -> Result<(), ConnectionError> {
        let Some(stream) = self.streams.get(key) else {
            return self.discard_head(block);
        };
        if stream.ended.is_some() || stream.recv_closed {
            let ended = stream.ended;
            self.discard_head(block)?;
            return match ended {
                None => self.stream_error(key, ErrorCode::STREAM_CLOSED),
                Some(Ended::ByPeer(_) | Ended::Refused) => Err(ConnectionError::new(
                    ErrorCode::STREAM_CLOSED,
                    "a head behind a reset",
                )),
                Some(_) => Ok(()), // it was on its way
            };
        }
        if stream.has_head {
            return self.trailers(key, ends, block);
        }
        match self.decode(block, HeadKind::Response { ends })? {
            Ok((facts, text, secrets)) => {
                if let Some(stream) = self.streams.get(key) {
                    stream.secrets = secrets;
                }
                self.response(key, ends, facts, text)
            }
            Err(bad) => self.stream_error(key, bad_head_code(bad)),
        }
    }

    fn response(
        &mut self,
        key: StreamKey,
        ends: bool,
        facts: HeadFacts,
        text: Chunk,
    ) -> Result<(), ConnectionError> {
        let Some(stream) = self.streams.get(key) else {
            return Ok(());
        };
        let is_interim = facts.status < 200;
        if (is_interim && ends) || stream.heads.len() >= HEADS_MAX {
            return self.stream_error(key, ErrorCode::PROTOCOL_ERROR);
        }
        if !is_interim {
            stream.has_head = true;
            // What follows CONNECT has no length (RFC 9110 section 9.3.6).
            let is_tunnel = stream.is_websocket && facts.status < 300;
            let has_body = !stream.is_head && !matches!(facts.status, 204 | 304);
            stream.length_left = if is_tunnel {
                None
            } else if has_body {
                facts.content_length
            } else {
                Some(0)
            };
        }
        stream.heads.push_back(text);
        stream.wake_receiver();
        match ends {
            true => self.close_recv(key),
            false => Ok(()),
        }
    }

    fn trailers(
        &mut self,
        key: StreamKey,
        ends: bool,
        block: &[u8],
    ) -> Result<(), ConnectionError> {
        let decoded = self.decode(block, HeadKind::Trailers)?;
        match decoded {
            Ok((_, text, _)) if ends => {
                if let Some(stream) = self.streams.get(key) {
                    stream.trailers = (!text.is_empty()).then_some(text);
                }
                self.close_recv(key)
            }
            Ok(_) => self.stream_error(key, ErrorCode::PROTOCOL_ERROR),
            Err(bad) => self.stream_error(key, bad_head_code(bad)),
        }
    }

    fn decode(
        &mut self,
        block: &[u8],
        kind: HeadKind,
    ) -> Result<Result<Decoded, BadHead>, ConnectionError> {
        let before = self.decoder.table_changes();
        if let Some((facts, text)) = self.known_block.recall(block, kind, before) {
            return Ok(Ok((facts, in_buffer(text), None)));
        }
        let mut text = HeadText::new(&mut self.room, kind, self.local.head_bytes_max);
        let decoded = self.decoder.decode(block, |field| text.take(field));
        decoded.map_err(|_| broken_block())?;
        let facts = match text.finish() {
            Ok(facts) => facts,
            Err(bad) => return Ok(Err(bad)),
        };
        let HeadRoom { text, secrets, .. } = &self.room;
        // A WebSocket's key is another one each time.
        let is_plain = secrets.is_empty() && !facts.is_websocket;
        if is_plain && self.decoder.table_changes() == before {
            self.known_block.keep(block, text, (kind, facts), before);
        }
        let secrets = (!secrets.is_empty()).then(|| Chunk::from_vec(secrets.clone()));
        Ok(Ok((facts, in_buffer(text), secrets)))
    }

    fn discard_head(&mut self, block: &[u8]) -> Result<(), ConnectionError> {
        self.decoder
            .decode(block, |_| {})
            .map_err(|_| broken_block())
    }

    /// Begins a stream of ours that was reserved; `None` when the peer takes no more.
    pub(super) fn send_request(
        &mut self,
        text: &[u8],
        kind: RequestKind<'_>,
        ends: bool,
    ) -> Option<StreamKey> {
        if !self.takes_streams() {
            return None;
        }
        let id = self.next_id;
        self.next_id += 2;
        self.earn();
        self.counts.streams += 1;
        let (key, stream) = self.streams.insert(id);
        stream.recv_window = i64::from(self.local.window).max(WINDOW_INITIAL);
        stream.send_window = self.peer.window;
        stream.send_closed = ends;
        stream.is_head = text.starts_with(b"HEAD ");
        stream.is_websocket = kind.is_websocket;
        let mut block = std::mem::take(&mut self.block);
        block.clear();
        write::request(text, kind, &mut self.pen(), &mut block);
        self.send_block(id, &block, ends);
        self.block = block;
        Some(key)
    }

    /// Whether another stream of ours may begin.
    pub(super) fn has_room(&self) -> bool {
        self.streams.len() + self.reserved < self.peer.streams_max as usize && self.takes_streams()
    }

    /// Whether streams of ours may begin once others have ended.
    pub(super) const fn takes_streams(&self) -> bool {
        let has_ids = self.next_id < i32::MAX as u32;
        matches!(self.phase, Phase::Open) && !self.is_going_away && has_ids
    }

    /// Sends a response head; false if the stream takes none any more.
    pub(super) fn send_head(&mut self, key: StreamKey, text: &[u8], ends: bool) -> bool {
        let secrets = self.streams.get(key).and_then(|it| it.secrets.take());
        let secrets = secrets.as_deref().unwrap_or_default();
        self.send_fields(key, ends, |core, block| {
            write::response(text, secrets, &mut core.pen(), block)
        })
    }

    /// Sends trailers, and so ends our side.
    pub(super) fn send_trailers(&mut self, key: StreamKey, text: &[u8]) -> bool {
        self.send_fields(key, true, |core, block| {
            let pen = &mut write::Pen {
                encoder: &mut core.encoder,
                known: &mut core.known_trailers,
            };
            write::trailers(text, pen, block)
        })
    }

    const fn pen(&mut self) -> write::Pen<'_> {
        write::Pen {
            encoder: &mut self.encoder,
            known: &mut self.known_heads,
        }
    }

    fn send_fields(
        &mut self,
        key: StreamKey,
        ends: bool,
        encode: impl FnOnce(&mut Self, &mut Vec<u8>),
    ) -> bool {
        let Some(stream) = self.streams.get(key) else {
            return false;
        };
        if stream.ended.is_some() || stream.send_closed {
            return false;
        }
        stream.send_closed = ends;
        let mut block = std::mem::take(&mut self.block);
        block.clear();
        encode(self, &mut block);
        self.send_block(key.id, &block, ends);
        self.block = block;
        true
    }

    fn send_block(&mut self, id: u32, block: &[u8], ends: bool) {
        self.earn();
        let mut kind = kind::HEADERS;
        let mut flags = if ends { flag::END_STREAM } else { 0 };
        let mut rest = block;
        loop {
            let (now, later) = rest.split_at(rest.len().min(PAYLOAD_BYTES_MAX));
            let is_last = later.is_empty();
            self.out.frame(
                kind,
                flags | if is_last { flag::END_HEADERS } else { 0 },
                id,
                now,
            );
            if is_last {
                break;
            }
            (kind, flags, rest) = (kind::CONTINUATION, 0, later);
        }
        self.wake_driver();
    }

    /// Whether the peer has said that it did not process the stream: it may be sent elsewhere.
    pub(super) fn was_refused(&mut self, key: StreamKey) -> bool {
        self.streams
            .get(key)
            .is_some_and(|it| it.ended == Some(Ended::Refused))
    }
}

fn in_buffer(text: &[u8]) -> Chunk {
    let mut out = Buffer::new();
    let fits = out.push(text);
    debug_assert!(fits, "heads are limited to what a buffer holds");
    out.freeze()
}

const fn broken_block() -> ConnectionError {
    ConnectionError::new(
        ErrorCode::COMPRESSION_ERROR,
        "a head that cannot be decoded",
    )
}

const fn bad_head_code(bad: BadHead) -> ErrorCode {
    match bad {
        BadHead::Malformed => ErrorCode::PROTOCOL_ERROR,
        // Behind a complete answer (RFC 9113 section 8.1).
        BadHead::TooLong | BadHead::CallTooLong => ErrorCode::NO_ERROR,
    }
}

/// The payload without its padding (RFC 9113 section 6.2).
fn unpadded(head: FrameHead, payload: &[u8]) -> Result<&[u8], ConnectionError> {
    if !head.has(flag::PADDED) {
        return Ok(payload);
    }
    let Some((&padding, rest)) = payload.split_first() else {
        return Err(ConnectionError::size("a padded frame without a length"));
    };
    let len = rest.len().checked_sub(usize::from(padding));
    let len = len.ok_or(ConnectionError::protocol("more padding than payload"))?;
    Ok(&rest[..len])
}
