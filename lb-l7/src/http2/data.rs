//! Bodies and flow control, both ways (RFC 9113 sections 5.2, 6.1 and 6.9).
//!
//! Invariant: a peer may send what its windows allow and no more; windows grow by what was read,
//! not by what was received, so who does not read is not sent to. Streams that wait for the
//! connection's window or for `Out` are woken one at a time, in turn.
//! Read next: `core.rs`.

use std::task::{Context, Poll};

use lb_core::rt::Chunk;

use super::core::{Core, Phase};
use super::frame::{ConnectionError, ErrorCode, FrameHead, PAYLOAD_BYTES_MAX, flag, kind};
use super::streams::{Ended, Stream, StreamKey};

/// Bytes that may wait to be sent before streams have to wait.
const OUT_BYTES_MAX: usize = 64 * 1024;

/// A DATA frame being received.
#[derive(Debug, Clone, Copy)]
pub(super) struct DataFrame {
    /// `None` for a stream that is gone.
    stream: Option<StreamKey>,
    /// The length of the padding comes next.
    is_padded: bool,
    /// Bytes of data that are still to come, and of padding.
    left: usize,
    padding: usize,
    ends: bool,
    is_empty: bool,
}

impl Core {
    /// The head of a DATA frame was received.
    pub(super) fn begin_data(&mut self, head: FrameHead) -> Result<(), ConnectionError> {
        if head.stream == 0 {
            return Err(ConnectionError::protocol("DATA without a stream"));
        }
        let is_padded = head.has(flag::PADDED);
        if is_padded && head.len == 0 {
            return Err(ConnectionError::size("a padded frame without a length"));
        }
        self.recv_window -= head.len as i64;
        if self.recv_window < 0 {
            let code = ErrorCode::FLOW_CONTROL_ERROR;
            return Err(ConnectionError::new(
                code,
                "more DATA than the window allows",
            ));
        }
        let stream = match self.open_stream(head.stream) {
            Some(key) => self.admit_data(key, head.len)?,
            None => {
                self.check_not_idle(head.stream)?;
                if !self.was_reset(head.stream) {
                    self.send_reset(head.stream, ErrorCode::STREAM_CLOSED);
                    self.take_reset()?;
                }
                None
            }
        };
        let frame = DataFrame {
            stream,
            is_padded,
            left: head.len,
            padding: 0,
            ends: head.has(flag::END_STREAM),
            is_empty: true,
        };
        if head.len == 0 {
            return self.end_data(frame);
        }
        self.input.data = Some(frame);
        Ok(())
    }

    /// Whether a stream takes DATA of `len` bytes.
    fn admit_data(
        &mut self,
        key: StreamKey,
        len: usize,
    ) -> Result<Option<StreamKey>, ConnectionError> {
        let Some(stream) = self.streams.get(key) else {
            return Ok(None);
        };
        match stream.ended {
            None => {}
            // RFC 9113 section 5.1: whoever has reset a stream sends nothing more on it.
            Some(Ended::ByPeer(_) | Ended::Refused) => {
                self.send_reset(key.id, ErrorCode::STREAM_CLOSED);
                self.take_reset()?;
                return Ok(None);
            }
            Some(_) => return Ok(None), // it was on its way when we reset the stream
        }
        stream.recv_window -= len as i64;
        let code = if stream.recv_closed {
            ErrorCode::STREAM_CLOSED
        } else if !stream.has_head {
            ErrorCode::PROTOCOL_ERROR
        } else if stream.recv_window < 0 {
            ErrorCode::FLOW_CONTROL_ERROR
        } else {
            return Ok(Some(key));
        };
        self.stream_error(key, code)?;
        Ok(None)
    }

    /// More of the DATA frame that we are in.
    pub(super) fn receive_data(&mut self, chunk: &mut Chunk) -> Result<(), ConnectionError> {
        let Some(mut frame) = self.input.data.take() else {
            return Ok(());
        };
        if frame.is_padded {
            frame.is_padded = false;
            frame.padding = usize::from(chunk[0]);
            chunk.advance(1);
            let left = (frame.left - 1).checked_sub(frame.padding);
            frame.left = left.ok_or(ConnectionError::protocol("more padding than payload"))?;
            self.was_read(frame.stream, 1 + frame.padding);
        }
        let len = frame.left.min(chunk.len());
        if len > 0 {
            frame.is_empty = false;
            frame.left -= len;
            let piece = chunk.split_to(len);
            self.deliver(frame.stream, piece)?;
        }
        let skipped = frame.padding.min(chunk.len());
        if frame.left == 0 {
            frame.padding -= skipped;
            chunk.advance(skipped);
        }
        if frame.left == 0 && frame.padding == 0 {
            return self.end_data(frame);
        }
        self.input.data = Some(frame);
        Ok(())
    }

    fn deliver(&mut self, key: Option<StreamKey>, piece: Chunk) -> Result<(), ConnectionError> {
        let len = piece.len();
        let stream = key.and_then(|key| self.streams.get(key));
        let (Some(key), Some(stream)) = (key, stream.filter(|it| it.ended.is_none())) else {
            self.return_to_connection(len);
            return Ok(());
        };
        if let Some(left) = &mut stream.length_left {
            match left.checked_sub(len as u64) {
                Some(rest) => *left = rest,
                None => {
                    self.return_to_connection(len);
                    return self.stream_error(key, ErrorCode::PROTOCOL_ERROR);
                }
            }
        }
        stream.push(piece);
        stream.wake_receiver();
        Ok(())
    }

    fn end_data(&mut self, frame: DataFrame) -> Result<(), ConnectionError> {
        match frame.stream {
            Some(key) if frame.ends => self.close_recv(key),
            _ if frame.is_empty => self.take_control(),
            _ => Ok(()),
        }
    }

    /// The peer has ended its side of the stream.
    pub(super) fn close_recv(&mut self, key: StreamKey) -> Result<(), ConnectionError> {
        let Some(stream) = self.streams.get(key).filter(|it| it.ended.is_none()) else {
            return Ok(());
        };
        // RFC 9113 section 8.1.1. What answers HEAD declares a length that does not come.
        if stream.length_left.is_some_and(|left| left > 0) {
            return self.stream_error(key, ErrorCode::PROTOCOL_ERROR);
        }
        stream.recv_closed = true;
        stream.wake_receiver();
        Ok(())
    }

    /// What a stream has received next: heads first, then data; an empty chunk at the end.
    pub(super) fn poll_recv(
        &mut self,
        key: StreamKey,
        cx: &Context<'_>,
    ) -> Poll<Result<Chunk, Ended>> {
        let is_failed = self.phase == Phase::Failed;
        let Some(stream) = self.streams.get(key) else {
            return Poll::Ready(Err(Ended::WithConnection));
        };
        if let Some(head) = stream.heads.pop_front() {
            return Poll::Ready(Ok(head));
        }
        if let Some(piece) = stream.pop() {
            self.was_read(Some(key), piece.len());
            return Poll::Ready(Ok(piece));
        }
        match stream.ended {
            _ if stream.recv_closed && !matches!(stream.ended, Some(Ended::ByUs(_))) => {
                Poll::Ready(Ok(Chunk::empty()))
            }
            Some(ended) => Poll::Ready(Err(ended)),
            None if is_failed => Poll::Ready(Err(Ended::WithConnection)),
            None => {
                stream.wait_to_recv(cx);
                Poll::Pending
            }
        }
    }

    /// Ready when the stream has ended before its time.
    pub(super) fn poll_ended(&mut self, key: StreamKey, cx: &Context<'_>) -> Poll<Ended> {
        let Some(stream) = self.streams.get(key) else {
            return Poll::Ready(Ended::WithConnection);
        };
        match stream.ended {
            Some(ended) => Poll::Ready(ended),
            None => {
                stream.wait_to_recv(cx);
                Poll::Pending
            }
        }
    }

    /// Takes of `data` what may be sent now, at least a part of it. With `ends`, the last of it
    /// ends our side; `data` may be empty then.
    pub(super) fn poll_send(
        &mut self,
        key: StreamKey,
        data: &mut Chunk,
        ends: bool,
        cx: &Context<'_>,
    ) -> Poll<Result<(), Ended>> {
        if data.is_empty() {
            return match self.ended(key) {
                Some(ended) => Poll::Ready(Err(ended)),
                None => {
                    self.finish(key, ends);
                    Poll::Ready(Ok(()))
                }
            };
        }
        let allowed = match self.poll_window(key, cx) {
            Poll::Ready(Ok(allowed)) => allowed,
            other => return other.map_ok(|_| ()),
        };
        let piece = data.split_to(data.len().min(allowed));
        let is_last = ends && data.is_empty();
        self.send_window -= piece.len() as i64;
        if let Some(stream) = self.streams.get(key) {
            stream.send_window -= piece.len() as i64;
            stream.send_closed = is_last;
        }
        self.out.data(key.id, piece, is_last);
        self.earn();
        self.wake_driver();
        self.give_turn();
        Poll::Ready(Ok(()))
    }

    /// How many bytes the stream may send now.
    fn poll_window(&mut self, key: StreamKey, cx: &Context<'_>) -> Poll<Result<usize, Ended>> {
        let is_full = self.out.bytes() >= OUT_BYTES_MAX || self.send_window <= 0;
        let others_wait = !self.waiting.is_empty();
        let Some(stream) = self.streams.get(key) else {
            return Poll::Ready(Err(Ended::WithConnection));
        };
        if let Some(ended) = stream.ended {
            return Poll::Ready(Err(ended));
        }
        if stream.send_closed {
            return Poll::Ready(Err(Ended::ByUs(ErrorCode::NO_ERROR)));
        }
        let had_turn = std::mem::take(&mut stream.has_turn);
        if stream.send_window <= 0 {
            stream.wait_to_send(cx);
        } else if is_full || (others_wait && !had_turn) {
            self.wait_for_turn(key, cx);
        } else {
            let allowed = stream.send_window.min(self.send_window) as usize;
            self.turn_is_taken &= !had_turn;
            return Poll::Ready(Ok(allowed.min(PAYLOAD_BYTES_MAX)));
        }
        self.turn_is_taken &= !had_turn;
        if !is_full {
            self.give_turn();
        }
        Poll::Pending
    }

    /// How many bytes the windows allow the stream now, unless others wait for the connection's.
    pub(super) fn room(&mut self, key: StreamKey) -> usize {
        if !self.waiting.is_empty() {
            return 0;
        }
        let window = self.streams.get(key).map_or(0, |it| it.send_window);
        usize::try_from(window.min(self.send_window)).unwrap_or(0)
    }

    /// Puts the stream in the queue of those that wait for the connection.
    pub(super) fn wait_for_turn(&mut self, key: StreamKey, cx: &Context<'_>) {
        let Some(stream) = self.streams.get(key) else {
            return;
        };
        stream.wait_to_send(cx);
        if !std::mem::replace(&mut stream.waits, true) {
            self.waiting.push_back(key);
        }
    }

    /// Wakes the next stream that waits, if there is room for what it sends.
    pub(super) fn give_turn(&mut self) {
        while !self.turn_is_taken
            && self.send_window > 0
            && self.out.bytes() < OUT_BYTES_MAX
            && let Some(key) = self.waiting.pop_front()
        {
            let Some(stream) = self.streams.get(key) else {
                continue;
            };
            stream.waits = false;
            stream.has_turn = true;
            stream.wake_sender();
            self.turn_is_taken = true;
        }
    }

    /// Ends our side behind what was sent.
    fn finish(&mut self, key: StreamKey, ends: bool) {
        let stream = self.streams.get(key);
        if ends && stream.is_some_and(|it| !std::mem::replace(&mut it.send_closed, true)) {
            self.out.data(key.id, Chunk::empty(), true);
            self.wake_driver();
        }
    }

    /// Why the stream takes nothing any more, if so.
    pub(super) fn ended(&mut self, key: StreamKey) -> Option<Ended> {
        match self.streams.get(key) {
            Some(stream) => stream.ended,
            None => Some(Ended::WithConnection),
        }
    }

    /// Whether the peer has ended the stream, and all of it was read.
    pub(super) fn is_received(&mut self, key: StreamKey) -> bool {
        let stream = self.streams.get(key);
        stream.is_none_or(|it| it.recv_closed && it.unread() == 0)
    }

    /// Bytes were read of a stream: it may get as many more.
    fn was_read(&mut self, key: Option<StreamKey>, len: usize) {
        self.return_to_connection(len);
        let least = self.local.window / 2;
        let stream = key.and_then(|key| self.streams.get(key));
        let (Some(key), Some(stream)) = (key, stream.filter(|it| it.wants_more())) else {
            return;
        };
        stream.unreturned += len as u32;
        if stream.unreturned >= least {
            let more = std::mem::take(&mut stream.unreturned);
            stream.recv_window += i64::from(more);
            self.out
                .frame(kind::WINDOW_UPDATE, 0, key.id, &more.to_be_bytes());
            self.wake_driver();
        }
    }

    /// Bytes of any stream were read or thrown away.
    pub(super) fn return_to_connection(&mut self, len: usize) {
        self.unreturned += len as u32;
        if i64::from(self.unreturned) >= self.local.connection_window() / 2 {
            let more = std::mem::take(&mut self.unreturned);
            self.recv_window += i64::from(more);
            self.out
                .frame(kind::WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
            self.wake_driver();
        }
    }

    /// Whether so much waits to be sent that nothing more should be received: the peer does not
    /// read.
    pub(super) const fn is_clogged(&self) -> bool {
        self.out.bytes() >= 4 * OUT_BYTES_MAX
    }
}

impl Stream {
    const fn wants_more(&self) -> bool {
        !self.recv_closed && self.ended.is_none()
    }
}
