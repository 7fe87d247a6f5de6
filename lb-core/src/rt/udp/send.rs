//! How datagrams leave: what a turn's tasks handed over, one call for many.
//!
//! Invariant: of one socket to one peer they leave in the order handed over, each with its own
//! size; an error of one datagram does not stop the next.
//! Read next: `sys.rs` (the call).

use std::io;
use std::mem;

use super::buffer::Datagrams;
use super::socket::{Outgoing, Slots};
use super::sys::{MESSAGES, Message, Outbox, PARTS};
use crate::rt::socket::Key;

/// Datagrams that the kernel takes at once (UDP_MAX_SEGMENTS; 128 from Linux 6.9 on).
const DATAGRAMS_MAX: usize = 64;

/// Sends everything that was handed over.
pub(super) fn flush(slots: &mut Slots, outbox: &mut Outbox, batch: &mut Batch) {
    let mut dirty = mem::take(&mut slots.dirty);
    for key in dirty.drain(..) {
        while batch.fill(slots, key) {
            batch.send(slots, key, outbox);
        }
    }
    slots.dirty = dirty; // with its memory
    slots.outgoing.clear();
}

/// Messages being put together.
#[derive(Default)]
pub(crate) struct Batch {
    messages: Vec<Message>,
    /// What the messages' parts are pieces of: entry, first byte, length.
    pieces: Vec<(Datagrams, usize, usize)>,
    /// An entry of which some has been taken, and how much.
    begun: Option<(Outgoing, usize)>,
}

impl Batch {
    /// Takes from the socket's list what one call can send; false when nothing is left.
    fn fill(&mut self, slots: &mut Slots, key: Key) -> bool {
        self.messages.clear();
        self.pieces.clear();
        let Some(slot) = slots.find(key) else {
            self.begun = None;
            return false;
        };
        let segment_max = slot.segment_max as usize;
        while self.pieces.len() < PARTS {
            let begun = self.begun.take();
            let Some((outgoing, offset)) = begun.or_else(|| Some((slots.next_outgoing(key)?, 0)))
            else {
                break;
            };
            let segment = outgoing.datagrams.segment();
            let left = outgoing.datagrams.len() - offset;
            // Datagrams of which the kernel does not take many at once go one by one.
            let count = if segment > segment_max {
                1
            } else {
                DATAGRAMS_MAX
            };
            let len = left.min(segment * count);
            if !self.extends(&outgoing, len, segment_max) {
                if self.messages.len() == MESSAGES {
                    self.begun = Some((outgoing, offset));
                    break;
                }
                self.begin(&outgoing);
            }
            self.push(&outgoing, offset, len);
            if len < left {
                self.begun = Some((outgoing, offset + len));
            }
        }
        !self.messages.is_empty()
    }

    /// True if `len` bytes of datagrams may go with those of the last message.
    fn extends(&self, outgoing: &Outgoing, len: usize, segment_max: usize) -> bool {
        let Some(last) = self.messages.last() else {
            return false;
        };
        let segment = outgoing.datagrams.segment();
        let count = len.div_ceil(segment.max(1));
        // Only the last datagram of all may be shorter than the others.
        let fits = segment == last.segment || (count == 1 && len < last.segment);
        fits && segment > 0
            && last.segment <= segment_max
            && last.bytes % last.segment == 0
            && last.bytes + len <= Datagrams::DATAGRAM_MAX
            && last.datagrams + count <= DATAGRAMS_MAX
            && last.to == outgoing.to
            && last.from == outgoing.from
    }

    fn begin(&mut self, outgoing: &Outgoing) {
        self.messages.push(Message {
            to: outgoing.to,
            from: outgoing.from,
            first: self.pieces.len(),
            parts: 0,
            bytes: 0,
            segment: outgoing.datagrams.segment(),
            datagrams: 0,
        });
    }

    fn push(&mut self, outgoing: &Outgoing, offset: usize, len: usize) {
        if let Some(last) = self.messages.last_mut() {
            let segment = outgoing.datagrams.segment().max(1);
            last.parts += 1;
            last.bytes += len;
            last.datagrams += len.div_ceil(segment).max(1);
            self.pieces.push((outgoing.datagrams.share(), offset, len));
        }
    }

    fn send(&self, slots: &mut Slots, key: Key, outbox: &mut Outbox) {
        let mut at = 0;
        while let Some(message) = self.messages.get(at) {
            match outbox.send(slots.get(key), &self.messages[at..], self.pieces()) {
                Ok(sent) => at += sent.max(1),
                Err(error) => {
                    at += 1;
                    self.on_refused(slots, key, outbox, message, &error);
                }
            }
        }
    }

    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.pieces
            .iter()
            .map(|(datagrams, offset, len)| &datagrams[*offset..][..*len])
    }

    /// The kernel did not take a message: one by one if it was many, else it is lost.
    #[cold]
    fn on_refused(
        &self,
        slots: &mut Slots,
        key: Key,
        outbox: &mut Outbox,
        message: &Message,
        error: &io::Error,
    ) {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        let is_form = matches!(errno, libc::EINVAL | libc::EIO | libc::EMSGSIZE);
        if message.datagrams == 1 || !is_form {
            return lose(slots, key, message, errno);
        }
        // EINVAL: larger than the path takes unbroken. EIO: the device makes no checksums, so
        // never.
        let slot = slots.get(key);
        slot.segment_max = match errno {
            libc::EIO => 0,
            _ => slot.segment_max.min(message.segment as u32 - 1),
        };
        for piece in self.pieces().skip(message.first).take(message.parts) {
            for datagram in piece.chunks(message.segment) {
                let single = Message {
                    first: 0,
                    parts: 1,
                    bytes: datagram.len(),
                    segment: datagram.len(),
                    datagrams: 1,
                    ..*message
                };
                let pieces = std::iter::once(datagram);
                if let Err(error) = outbox.send(slots.get(key), &[single], pieces) {
                    lose(
                        slots,
                        key,
                        &single,
                        error.raw_os_error().unwrap_or(libc::EIO),
                    );
                }
            }
        }
    }
}

#[cold]
fn lose(slots: &mut Slots, key: Key, message: &Message, errno: i32) {
    slots.unsent += message.datagrams as u64;
    let slot = slots.get(key);
    // An unconnected socket has many peers: that one of them cannot be reached is not its error.
    let full = matches!(errno, libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM);
    if slot.connected.is_some() && !full {
        slot.on_error(errno);
        slots.woke = true;
    }
}
