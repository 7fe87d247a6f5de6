//! A connection's two directions after its handshake: data, and what the protocol says beside it
//! (alerts, new keys, tickets).
//!
//! Invariant: what the protocol answers is sealed before any data that is sealed later, and sent
//! before it. Whatever a peer sends that is no data is bounded.
//! Read next: `record.rs` (one record), `stream.rs` (who moves the bytes).

mod kernel;
mod resting;

use std::io;

use lb_core::rt::{Buffer, Chunk};
use rustls::{ConnectionTrafficSecrets, ProtocolVersion};

pub(super) use self::kernel::Kernel;
pub(super) use self::resting::Resting;
use super::pacing::{GATHERED_BYTES_MAX, Pacing, RECORD_SHORT, Source, seal_into};
use super::record::{HEADER_LEN, Kind, OVERHEAD_MAX, Opener, PLAIN_MAX, RecordError, Sealer};

/// Records after which a key is changed (TLS 1.3), or the connection ends (TLS 1.2): half of what
/// AES-GCM allows for records of full length (RFC 8446 section 5.5).
const RECORDS_PER_KEY: u64 = 1 << 23;
/// Records without data in a row that a peer may send.
const QUIET_MAX: u8 = 64;
/// Longest message of the protocol's own after the handshake; tickets are the longest.
const MESSAGE_MAX: usize = 1 << 16;
/// From so many bytes on, large buffers are worth it.
const BULK_BYTES: usize = 2 * PLAIN_MAX;

const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;

/// Both directions of a connection.
pub(super) struct Duplex {
    sealer: Sealer,
    opener: Opener,
    kernel: Kernel,
    version: ProtocolVersion,
    /// Received and not yet opened.
    input: Chunk,
    /// The start of a record whose rest is to come.
    partial: Vec<u8>,
    /// The start of a message of the protocol's own likewise.
    message: Vec<u8>,
    /// Sealed and to be sent before anything else.
    control: Vec<u8>,
    /// Records without data in a row.
    quiet: u8,
    pub(super) is_ended: bool,
    failure: Option<RecordError>,
    has_said_end: bool,
    /// Whether a new key that the peer has asked for is in `control`.
    has_answered: bool,
    pacing: Pacing,
}

impl Duplex {
    /// `None` of a suite that is not ours.
    pub(super) fn new(
        tx: (u64, ConnectionTrafficSecrets),
        rx: (u64, ConnectionTrafficSecrets),
        kernel: Kernel,
        version: ProtocolVersion,
    ) -> Option<Self> {
        Some(Self {
            sealer: Sealer::new(tx, version)?,
            opener: Opener::new(rx, version)?,
            kernel,
            version,
            input: Chunk::empty(),
            partial: Vec::new(),
            message: Vec::new(),
            control: Vec::new(),
            quiet: 0,
            is_ended: false,
            failure: None,
            has_said_end: false,
            has_answered: false,
            pacing: Pacing::FULL,
        })
    }

    /// Makes the first records of what is long so short that each arrives in one packet.
    pub(super) fn begin_short(&mut self) {
        self.pacing = Pacing::SHORT;
    }

    /// Takes in what was received; everything before it has been opened.
    pub(super) fn receive(&mut self, received: Chunk) {
        debug_assert!(self.input.is_empty(), "what came before is opened first");
        self.input = received;
    }

    /// The alert by which the peer has ended the connection.
    pub(super) const fn alert_of_peer(&self) -> Option<u8> {
        match self.failure {
            Some(RecordError::Alerted(alert)) => Some(alert),
            _ => None,
        }
    }

    /// Whether there is something to open or to be told: bytes, the peer's end, a failure.
    pub(super) fn has_input(&self) -> bool {
        !self.input.is_empty() || self.is_ended || self.failure.is_some()
    }

    /// Whether the peer is in the middle of a record.
    pub(super) const fn is_within(&self) -> bool {
        !self.partial.is_empty()
    }

    /// Gives back memory that only a busy connection needs.
    pub(super) fn rest(&mut self) {
        self.input = Chunk::empty();
        if self.partial.is_empty() && self.partial.capacity() > 0 {
            self.partial = Vec::new();
        }
    }

    /// Plaintext of what was received, if there is any: of as many records as one buffer takes.
    pub(super) fn open(&mut self) -> io::Result<Option<Chunk>> {
        if self.is_ended {
            return Ok(None);
        }
        if let Some(failure) = self.failure {
            return Err(failure.into());
        }
        self.open_records().map_err(|error| {
            self.fail(error);
            error.into()
        })
    }

    fn open_records(&mut self) -> Result<Option<Chunk>, RecordError> {
        if self.input.is_empty() {
            return Ok(None);
        }
        if self.is_one_record()? {
            return self.open_in_place();
        }
        loop {
            if let Some(plain) = self.open_partial()? {
                return Ok(Some(plain));
            }
            if self.input.len() >= BULK_BYTES {
                match Chunk::large(|room| self.open_into(room)) {
                    Some(Ok(plain)) if !plain.is_empty() => return Ok(Some(plain)),
                    Some(Err(error)) => return Err(error),
                    _ => {}
                }
            }
            let mut out = Buffer::new();
            out.fill(|room| self.open_into(room))?;
            if !out.is_empty() {
                return Ok(Some(out.freeze()));
            }
            drop(out);
            match Opener::record_len(&self.input)? {
                // A record of full length is longer than a buffer.
                Some(length) if length <= self.input.len() && !self.is_ended => {
                    let record = self.input.split_to(length);
                    if let Some(plain) = self.open_alone(&record)? {
                        return Ok(Some(plain));
                    }
                }
                _ => {
                    if !self.is_ended {
                        self.partial.extend_from_slice(&self.input);
                    }
                    self.input = Chunk::empty();
                    return Ok(None);
                }
            }
        }
    }

    /// Whether the input is a record, and no more, in a buffer that can be written to.
    fn is_one_record(&mut self) -> Result<bool, RecordError> {
        Ok(self.partial.is_empty()
            && Opener::record_len(&self.input)? == Some(self.input.len())
            && self.input.own_mut().is_some())
    }

    /// Opens such a record: short requests come so, and take no second buffer.
    fn open_in_place(&mut self) -> Result<Option<Chunk>, RecordError> {
        let mut record = std::mem::replace(&mut self.input, Chunk::empty());
        let bytes = record.own_mut().ok_or(RecordError::Internal)?;
        let (kind, content) = self.opener.open_in_place(bytes)?;
        let taken = self.take(kind, &bytes[content.clone()])?;
        record.advance(content.start);
        record.truncate(taken);
        Ok((taken > 0).then_some(record))
    }

    /// Opens whole records of the input as long as they fit. What came before a bad one is true,
    /// however it was cut on its way.
    fn open_into(&mut self, room: &mut [u8]) -> Result<usize, RecordError> {
        let mut filled = 0;
        loop {
            match self.open_next(&mut room[filled..]) {
                Ok(Some(count)) => filled += count,
                Ok(None) => return Ok(filled),
                Err(error) if filled > 0 => {
                    self.fail(error);
                    return Ok(filled);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Opens the next record of the input if it is whole and fits: how much of it is data.
    fn open_next(&mut self, space: &mut [u8]) -> Result<Option<usize>, RecordError> {
        if self.is_ended {
            return Ok(None);
        }
        let length = Opener::record_len(&self.input)?;
        let fits = |length: &usize| {
            *length <= self.input.len() && self.opener.room_for(*length) <= space.len()
        };
        let Some(length) = length.filter(fits) else {
            return Ok(None);
        };
        let record = self.input.split_to(length);
        let (kind, count) = self.opener.open(&record, space)?;
        self.take(kind, &space[..count]).map(Some)
    }

    /// There is nothing more to be had of the peer, which is told why.
    fn fail(&mut self, error: RecordError) {
        self.failure = Some(error);
        self.input = Chunk::empty();
        match error.alert() {
            Some(alert) => self.alert(2, alert),
            None => self.has_said_end = true, // there is nobody to say it to
        }
    }

    /// Completes the record that has begun, and opens it.
    fn open_partial(&mut self) -> Result<Option<Chunk>, RecordError> {
        while !self.partial.is_empty() {
            let header = HEADER_LEN.saturating_sub(self.partial.len());
            self.complete(header);
            let Some(length) = Opener::record_len(&self.partial)? else {
                return Ok(None);
            };
            self.complete(length - self.partial.len());
            if self.partial.len() < length {
                return Ok(None);
            }
            let mut record = std::mem::take(&mut self.partial);
            let plain = self.open_alone(&record);
            record.clear();
            self.partial = record; // its memory will be needed again
            if let Some(plain) = plain? {
                return Ok(Some(plain));
            }
        }
        Ok(None)
    }

    fn complete(&mut self, missing: usize) {
        let more = self.input.split_to(missing.min(self.input.len()));
        self.partial.extend_from_slice(&more);
    }

    /// Opens a record to a buffer of its own.
    fn open_alone(&mut self, record: &[u8]) -> Result<Option<Chunk>, RecordError> {
        let needed = self.opener.room_for(record.len());
        let mut out = Buffer::new();
        if needed <= out.remaining() {
            out.fill(|room| {
                let (kind, count) = self.opener.open(record, room)?;
                self.take(kind, &room[..count])
            })?;
            return Ok((!out.is_empty()).then(|| out.freeze()));
        }
        let mut out = vec![0; needed];
        let (kind, count) = self.opener.open(record, &mut out)?;
        let taken = self.take(kind, &out[..count])?;
        out.truncate(taken);
        Ok((taken > 0).then(|| Chunk::from_vec(out)))
    }

    /// How many bytes of an opened record are data.
    fn take(&mut self, kind: Kind, plain: &[u8]) -> Result<usize, RecordError> {
        if kind == Kind::Data && !self.message.is_empty() {
            return Err(RecordError::Unexpected); // within a message (RFC 8446 section 5.1)
        }
        if kind == Kind::Data && !plain.is_empty() {
            self.quiet = 0;
            return Ok(plain.len());
        }
        self.quiet += 1;
        if self.quiet > QUIET_MAX {
            return Err(RecordError::Unexpected);
        }
        match kind {
            // Only data may be empty (RFC 8446 section 5.4).
            Kind::Alert | Kind::Handshake if plain.is_empty() => {
                return Err(RecordError::Unexpected);
            }
            Kind::Data => {}
            Kind::Alert => self.take_alert(plain)?,
            Kind::Handshake if self.version == ProtocolVersion::TLSv1_3 => {
                self.take_messages(plain)?;
            }
            // A renegotiation, or nonsense.
            Kind::Handshake | Kind::ChangeCipherSpec => return Err(RecordError::Unexpected),
        }
        Ok(0)
    }

    fn take_alert(&mut self, plain: &[u8]) -> Result<(), RecordError> {
        match plain {
            [_, CLOSE_NOTIFY] => self.is_ended = true,
            [_, USER_CANCELED] => {}
            [1, _] if self.version != ProtocolVersion::TLSv1_3 => {} // a warning
            [_, what] => return Err(RecordError::Alerted(*what)),
            _ => return Err(RecordError::Decode),
        }
        Ok(())
    }

    fn take_messages(&mut self, plain: &[u8]) -> Result<(), RecordError> {
        self.message.extend_from_slice(plain);
        let messages = std::mem::take(&mut self.message);
        let mut rest = &messages[..];
        while let Some((&[kind, high, middle, low], body)) = rest.split_first_chunk() {
            let length = u32::from_be_bytes([0, high, middle, low]) as usize;
            let most = match (kind, &self.kernel) {
                (KEY_UPDATE, _) => 1,
                (NEW_SESSION_TICKET, Kernel::Client(_)) => MESSAGE_MAX,
                _ => return Err(RecordError::Unexpected),
            };
            if length > most {
                return Err(RecordError::Decode);
            }
            let Some((body, behind)) = body.split_at_checked(length) else {
                break;
            };
            self.take_message(kind, body, behind)?;
            rest = behind;
        }
        self.message = rest.to_vec();
        Ok(())
    }

    fn take_message(&mut self, kind: u8, body: &[u8], behind: &[u8]) -> Result<(), RecordError> {
        match (kind, &mut self.kernel) {
            (NEW_SESSION_TICKET, Kernel::Client(kernel)) => {
                // One that cannot be used is no reason to end a connection that works.
                let _ = kernel.handle_new_session_ticket(body);
                Ok(())
            }
            // A new key begins with the next record (RFC 8446 section 5.1).
            (KEY_UPDATE, _) if behind.is_empty() => {
                let next = self.kernel.next_receiving();
                let next = next.map_err(|_| RecordError::Internal)?;
                let opener = Opener::new(next, self.version);
                self.opener = opener.ok_or(RecordError::Internal)?;
                match body {
                    [0] => Ok(()),
                    // One answer is enough for all that came before it (RFC 8446 section 4.6.3).
                    [1] if self.has_answered => Ok(()),
                    [1] => {
                        self.has_answered = true;
                        self.change_key()
                    }
                    [_] => Err(RecordError::Illegal),
                    _ => Err(RecordError::Decode),
                }
            }
            _ => Err(RecordError::Unexpected),
        }
    }

    /// Says that a new key follows, and takes it.
    pub(super) fn change_key(&mut self) -> Result<(), RecordError> {
        self.seal_control(Kind::Handshake, &[KEY_UPDATE, 0, 0, 1, 0]);
        let next = self.kernel.next_sending();
        let next = next.map_err(|_| RecordError::Internal)?;
        self.sealer = Sealer::new(next, self.version).ok_or(RecordError::Internal)?;
        Ok(())
    }

    /// Says that we are done, once.
    pub(super) fn end(&mut self) {
        self.alert(1, CLOSE_NOTIFY);
    }

    fn alert(&mut self, level: u8, what: u8) {
        if !std::mem::replace(&mut self.has_said_end, true) {
            self.seal_control(Kind::Alert, &[level, what]);
        }
    }

    fn seal_control(&mut self, kind: Kind, content: &[u8]) {
        let mut room = [0; OVERHEAD_MAX + 16];
        if let Ok(length) = self.sealer.seal(kind, [content, &[]], &mut room) {
            self.control.extend_from_slice(&room[..length]);
        }
    }

    /// What makes this end's records, for `replay.rs`.
    pub(super) const fn sealer(&mut self) -> &mut Sealer {
        &mut self.sealer
    }

    /// What is to be sent before anything else, if there is anything.
    pub(super) fn take_control(&mut self) -> Option<Chunk> {
        self.has_answered = false;
        let control = std::mem::take(&mut self.control);
        (!control.is_empty()).then(|| Chunk::from_vec(control))
    }

    /// Bytes of that.
    pub(super) const fn control_len(&self) -> usize {
        self.control.len()
    }

    pub(super) const fn has_control(&self) -> bool {
        !self.control.is_empty()
    }

    /// Seals all of `parts`, which are not empty: mostly into one buffer of the pool.
    ///
    /// # Errors
    /// When the key has been used so often that it is not safe any more.
    pub(super) fn seal(&mut self, parts: &[Option<Chunk>; 2]) -> io::Result<[Option<Chunk>; 2]> {
        if self.sealer.number() >= RECORDS_PER_KEY
            && (self.version != ProtocolVersion::TLSv1_3 || self.change_key().is_err())
        {
            let text = "TLS: too much was sent with one key";
            return Err(io::Error::other(text));
        }
        let slice = |part: &Option<Chunk>| part.as_ref().map_or(0, |part| part.len());
        let total = slice(&parts[0]) + slice(&parts[1]);
        let short = self.pacing.short_bytes(total);
        let mut source = Source {
            first: parts[0].as_deref().unwrap_or_default(),
            second: parts[1].as_deref().unwrap_or_default(),
            full_from: total - short,
        };
        self.has_answered = false;
        let control = std::mem::take(&mut self.control);
        let failed = |_| io::Error::other("TLS: a record cannot be made");
        let buffers = 2 * (Buffer::CAPACITY - OVERHEAD_MAX - GATHERED_BYTES_MAX);
        let first = if total > buffers {
            Chunk::large(|room| seal_into(&mut self.sealer, &control, &mut source, room))
        } else {
            None
        };
        let first = match first {
            Some(first) => first.map_err(failed)?,
            None => {
                let mut out = Buffer::new();
                let room =
                    |room: &mut [u8]| seal_into(&mut self.sealer, &control, &mut source, room);
                out.fill(room).map_err(failed)?;
                out.freeze()
            }
        };
        if source.is_empty() {
            return Ok([Some(first), None]);
        }
        let records = source.len().div_ceil(PLAIN_MAX) + 1 + short / RECORD_SHORT;
        let needed = source.len() + records * OVERHEAD_MAX;
        let mut out = Buffer::new();
        if needed <= out.remaining() {
            out.fill(|room| seal_into(&mut self.sealer, &[], &mut source, room))
                .map_err(failed)?;
            return Ok([Some(first), Some(out.freeze())]);
        }
        let mut out = vec![0; needed];
        let length = seal_into(&mut self.sealer, &[], &mut source, &mut out).map_err(failed)?;
        out.truncate(length);
        debug_assert!(source.is_empty(), "there was room for all of it");
        Ok([Some(first), Some(Chunk::from_vec(out))])
    }
}
