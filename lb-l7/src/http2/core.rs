//! A connection's state, at either end: received bytes go in, frames to send come out.
//!
//! Invariant: no I/O happens here and no clock is read; memory is bounded by the windows, the
//! limit of streams, and `Out`, beyond whose limit nothing more is read.
//! Read next: `receive.rs` (frames), `block.rs` (heads), `data.rs` (bodies), `driver.rs` (the I/O).

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use lb_core::metrics::Http2Counters;
use lb_core::rt::Instant;

use super::budget::Budget;
use super::frame::{ConnectionError, ErrorCode, PREFACE, kind};
use super::head::HeadRoom;
use super::hpack::{Decoder, Encoder};
use super::known::{KnownBlock, KnownLines};
use super::out::Out;
use super::receive::Input;
use super::settings::{LocalSettings, PeerSettings, WINDOW_INITIAL};
use super::streams::{Ended, StreamKey, Streams};

/// Streams that we have reset of late: what is still on its way to them is no offence. More than a
/// peer has open at once, mostly, as all of them may end together.
const RESET_KEPT: usize = 1024;
/// Frames that the peer may answer each of ours with, see [`Core::earn`], and how many it may save.
const EARNED: u32 = 4;
const EARNED_MAX: u32 = 4096;
/// The highest stream id, said in a GOAWAY that warns.
const LAST_POSSIBLE: u32 = i32::MAX as u32;

/// Which end of the connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Client,
    Server,
}

/// How far a connection's end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Streams come and go.
    Open,
    /// The peer was warned; streams that it has begun meanwhile are served.
    Warned,
    /// No new streams.
    Closing,
    /// Nothing is received or sent any more, but what waits to be sent.
    Failed,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) role: Role,
    pub(super) local: LocalSettings,
    pub(super) peer: PeerSettings,
    pub(super) phase: Phase,
    pub(super) now: Instant,
    pub(super) input: Input,
    pub(super) decoder: Decoder,
    pub(super) encoder: Encoder,
    pub(super) known_block: KnownBlock,
    pub(super) known_heads: KnownLines,
    pub(super) known_trailers: KnownLines,
    pub(super) room: HeadRoom,
    /// A block being encoded.
    pub(super) block: Vec<u8>,
    pub(super) streams: Streams,
    /// Requests that nobody serves yet.
    pub(super) begun: VecDeque<StreamKey>,
    pub(super) out: Out,
    pub(super) send_window: i64,
    pub(super) recv_window: i64,
    pub(super) unreturned: u32,
    /// Streams that wait for the connection's window or for `out`, in turn.
    pub(super) waiting: VecDeque<StreamKey>,
    /// One of them was woken and has not sent yet.
    pub(super) turn_is_taken: bool,
    /// The highest id that the peer has used.
    pub(super) last_peer_id: u32,
    /// A bit for each of the 64 ids up to that one: whether the peer has used it.
    used_ids: u64,
    /// The next id of ours.
    pub(super) next_id: u32,
    /// The peer has said that it takes no more streams.
    pub(super) is_going_away: bool,
    pub(super) resets: Budget,
    pub(super) control: Budget,
    /// Frames about windows and PINGs that the peer may send before they count as a flood.
    earned: u32,
    /// A PING of ours was not answered yet.
    pub(super) ping_is_out: bool,
    /// Streams that are about to begin.
    pub(super) reserved: usize,
    /// Whether requests came, or go, over TLS.
    pub(super) is_https: bool,
    /// Who waits for the peer's settings.
    pub(super) settling: Option<Waker>,
    recent: VecDeque<u32>,
    /// Why the connection was ended.
    pub(super) failure: Option<ConnectionError>,
    pub(super) counts: Counts,
    pub(super) resets_counted: Resets,
    driver: Option<Waker>,
}

/// What happened since it was last asked.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Counts {
    pub(super) streams: u64,
    /// Connections that ended for a fault of the peer's, and for a flood.
    pub(super) offences: u64,
    pub(super) floods: u64,
}

/// Streams that were reset, by the place of the error code among those that are counted.
#[derive(Debug, Default)]
pub(super) struct Resets {
    pub(super) received: [u32; Http2Counters::RESET_CODES.len()],
    pub(super) sent: [u32; Http2Counters::RESET_CODES.len()],
    /// There are some that were not passed on.
    pub(super) has_new: bool,
}

impl Core {
    /// An end of a new connection, with its first frames to send.
    pub(super) fn new(role: Role, local: LocalSettings) -> Self {
        let is_server = role == Role::Server;
        let mut out = Out::default();
        if !is_server {
            out.push(PREFACE);
        }
        out.frame(kind::SETTINGS, 0, 0, &local.payload(is_server));
        let recv_window = local.connection_window();
        let more = (recv_window - WINDOW_INITIAL) as u32;
        if more > 0 {
            out.frame(kind::WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        }
        Self {
            role,
            local,
            peer: PeerSettings::new(),
            phase: Phase::Open,
            now: Instant::START,
            input: Input::new(is_server),
            decoder: Decoder::new(),
            encoder: Encoder::new(is_server),
            known_block: KnownBlock::default(),
            known_heads: KnownLines::default(),
            known_trailers: KnownLines::default(),
            room: HeadRoom::default(),
            block: Vec::new(),
            streams: Streams::default(),
            begun: VecDeque::new(),
            out,
            send_window: WINDOW_INITIAL,
            recv_window,
            unreturned: 0,
            waiting: VecDeque::new(),
            turn_is_taken: false,
            last_peer_id: 0,
            used_ids: 0,
            next_id: 1,
            is_going_away: false,
            resets: Budget::of_resets(),
            control: Budget::of_control(),
            earned: EARNED,
            ping_is_out: false,
            reserved: 0,
            is_https: false,
            settling: None,
            recent: VecDeque::new(),
            failure: None,
            counts: Counts::default(),
            resets_counted: Resets::default(),
            driver: None,
        }
    }

    /// Ends the connection over what the peer did, or since it is gone; streams learn of it.
    pub(super) fn fail(&mut self, error: Option<ConnectionError>) {
        if self.phase == Phase::Failed {
            return;
        }
        self.phase = Phase::Failed;
        self.failure = error;
        if let Some(ConnectionError { code, reason }) = error {
            let is_fault = ![ErrorCode::ENHANCE_YOUR_CALM, ErrorCode::NO_ERROR].contains(&code);
            self.counts.offences += u64::from(is_fault);
            self.counts.floods += u64::from(code == ErrorCode::ENHANCE_YOUR_CALM);
            self.send_go_away(self.last_peer_id, code, reason);
        }
        for (_, stream) in self.streams.iter_mut() {
            if !(stream.recv_closed && stream.send_closed) {
                stream.ended.get_or_insert(Ended::WithConnection);
            }
            stream.wake_receiver();
            stream.wake_sender();
        }
        if let Some(settling) = self.settling.take() {
            settling.wake();
        }
    }

    /// Waits for the peer's settings; false when the connection failed without.
    pub(super) fn poll_settled(&mut self, cx: &Context<'_>) -> Poll<bool> {
        if self.phase == Phase::Failed || self.input.has_settings {
            return Poll::Ready(self.phase != Phase::Failed);
        }
        self.settling = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The peer sends nothing more: what it has not sent all of fails, the rest goes on.
    pub(super) fn end_input(&mut self) {
        for (_, stream) in self.streams.iter_mut() {
            if !stream.recv_closed {
                stream.ended.get_or_insert(Ended::WithConnection);
                stream.wake_receiver();
                stream.wake_sender();
            }
        }
    }

    /// Whether no stream is open or about to be.
    pub(super) fn is_idle(&self) -> bool {
        self.streams.len() + self.reserved == 0
    }

    /// Tells the peer to begin no more streams; those under way go on.
    pub(super) fn go_away(&mut self, phase: Phase) {
        if self.phase >= phase {
            return;
        }
        self.phase = phase;
        match phase {
            // RFC 9113 section 6.8: streams on their way are not lost.
            Phase::Warned => {
                self.send_go_away(LAST_POSSIBLE, ErrorCode::NO_ERROR, "");
                self.send_ping();
            }
            _ => self.send_go_away(self.last_peer_id, ErrorCode::NO_ERROR, ""),
        }
        self.wake_driver();
    }

    pub(super) fn send_ping(&mut self) {
        self.ping_is_out = true;
        self.out.frame(kind::PING, 0, 0, b"lb-alive");
    }

    fn send_go_away(&mut self, last: u32, code: ErrorCode, reason: &str) {
        let mut payload = [last.to_be_bytes(), code.0.to_be_bytes()].concat();
        payload.extend_from_slice(reason.as_bytes());
        self.out.frame(kind::GOAWAY, 0, 0, &payload);
    }

    /// Whether the peer has done nothing but what is its due, so far.
    pub(super) fn take_control(&mut self) -> Result<(), ConnectionError> {
        match self.control.take(self.now) {
            true => Ok(()),
            false => Err(ConnectionError::calm("too many frames that ask for work")),
        }
    }

    /// We have sent a head or data, or a request has begun: peers answer that with windows, and
    /// measure the way by PINGs, as many as there is data (grpc-go does).
    pub(super) const fn earn(&mut self) {
        if self.earned < EARNED_MAX {
            self.earned += EARNED;
        }
    }

    /// As [`take_control`](Self::take_control), for what may be an answer to what we have sent.
    pub(super) fn take_earned(&mut self) -> Result<(), ConnectionError> {
        match self.earned.checked_sub(1) {
            Some(left) => {
                self.earned = left;
                Ok(())
            }
            None => self.take_control(),
        }
    }

    /// The peer begins a stream, whose id is higher than all before.
    pub(super) fn use_id(&mut self, id: u32) {
        let steps = (id - self.last_peer_id).div_ceil(2);
        self.used_ids = self.used_ids.checked_shl(steps).unwrap_or(0) | 1;
        self.last_peer_id = id;
    }

    /// Whether the peer has begun a stream with this id, which is not above its highest; for ids of
    /// long ago it is taken for granted.
    pub(super) fn was_used(&self, id: u32) -> bool {
        let age = self.last_peer_id.saturating_sub(id) / 2;
        let used = self.used_ids.checked_shr(age);
        used.is_none_or(|it| it & 1 == 1)
    }

    pub(super) fn take_reset(&mut self) -> Result<(), ConnectionError> {
        match self.resets.take(self.now) {
            true => Ok(()),
            false => Err(ConnectionError::calm("too many streams are reset")),
        }
    }

    /// Ends a stream for a fault of the peer's.
    pub(super) fn stream_error(
        &mut self,
        key: StreamKey,
        code: ErrorCode,
    ) -> Result<(), ConnectionError> {
        self.reset(key, code);
        self.take_reset()
    }

    /// Resets a stream that is not at its end.
    pub(super) fn reset(&mut self, key: StreamKey, code: ErrorCode) {
        let Some(stream) = self.streams.get(key) else {
            return;
        };
        if stream.ended.is_some() || (stream.recv_closed && stream.send_closed) {
            return;
        }
        stream.ended = Some(Ended::ByUs(code));
        let unread = stream.discard();
        stream.wake_receiver();
        stream.wake_sender();
        self.return_to_connection(unread);
        self.send_reset(key.id, code);
    }

    /// RST_STREAM, be there a stream or not.
    pub(super) fn send_reset(&mut self, id: u32, code: ErrorCode) {
        if self.recent.len() == RESET_KEPT {
            self.recent.pop_front();
        }
        self.recent.push_back(id);
        self.resets_counted.sent[Http2Counters::place_of(code.0)] += 1;
        self.resets_counted.has_new = true;
        self.out
            .frame(kind::RST_STREAM, 0, id, &code.0.to_be_bytes());
        self.wake_driver();
    }

    /// Whether we have reset the stream of late.
    pub(super) fn was_reset(&self, id: u32) -> bool {
        self.recent.contains(&id)
    }

    /// The handle of a stream is gone: whatever is left of it is not wanted.
    pub(super) fn release(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get(key) else {
            return;
        };
        let is_complete = stream.recv_closed && stream.send_closed && stream.ended.is_none();
        let is_answered = self.role == Role::Server && stream.send_closed;
        let had_turn = stream.has_turn;
        // An early response needs no more of the request (RFC 9113 section 8.1).
        let code = if is_answered {
            ErrorCode::NO_ERROR
        } else {
            ErrorCode::CANCEL
        };
        self.reset(key, code);
        if let Some(stream) = self.streams.get(key) {
            let unread = stream.discard();
            self.return_to_connection(unread);
        }
        self.streams.remove(key);
        if is_complete {
            self.resets.give();
        }
        if had_turn {
            self.turn_is_taken = false;
            self.give_turn();
        }
        if self.phase > Phase::Open || self.streams.len() == 0 {
            self.wake_driver();
        }
    }

    pub(super) fn wait_as_driver(&mut self, cx: &Context<'_>) {
        match &mut self.driver {
            Some(waker) => waker.clone_from(cx.waker()),
            None => self.driver = Some(cx.waker().clone()),
        }
    }

    /// Has the driver look at what is to be sent.
    pub(super) fn wake_driver(&mut self) {
        if let Some(waker) = self.driver.take() {
            waker.wake();
        }
    }
}
