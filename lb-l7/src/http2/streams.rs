//! The streams of a connection, and what each of them holds.
//!
//! Invariant: a stream's place is used again only when its handle is gone, so that a handle always
//! means the same stream; the streams that a peer has open are those that somebody works on.
//! Read next: `core.rs`.

use std::collections::VecDeque;
use std::fmt;
use std::task::{Context, Waker};

use lb_core::rt::{Buffer, Chunk};

use super::frame::ErrorCode;

/// Pieces up to this are copied together if they are not read at once: else a byte a frame would
/// hold a buffer each.
const COPIED_BYTES_MAX: usize = 4096;

/// Names a stream of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StreamKey {
    pub(super) index: u32,
    pub(super) id: u32,
}

/// Why a stream has ended before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// We have reset it.
    ByUs(ErrorCode),
    /// The peer has reset it.
    ByPeer(ErrorCode),
    /// The peer has said that it did not look at it.
    Refused,
    /// The connection has ended.
    WithConnection,
}

/// A stream.
#[derive(Default)]
pub(super) struct Stream {
    /// Received heads that were not read yet.
    pub(super) heads: VecDeque<Chunk>,
    data: VecDeque<Chunk>,
    last: Option<Buffer>,
    /// Bytes in `data` and `last`.
    unread: usize,
    pub(super) trailers: Option<Chunk>,
    /// Names of fields that are secrets: of the head that was received, then of the one that is
    /// sent.
    pub(super) secrets: Option<Chunk>,
    /// Bytes that the peer may still send.
    pub(super) recv_window: i64,
    /// Bytes that were read, which the peer does not know yet.
    pub(super) unreturned: u32,
    /// Bytes that we may still send.
    pub(super) send_window: i64,
    /// What is still to come of a body whose length was declared.
    pub(super) length_left: Option<u64>,
    /// Of a response: its final head was received.
    pub(super) has_head: bool,
    /// Asked for by HEAD.
    pub(super) is_head: bool,
    /// Extended CONNECT (RFC 8441), the client's or ours.
    pub(super) is_websocket: bool,
    pub(super) recv_closed: bool,
    pub(super) send_closed: bool,
    pub(super) ended: Option<Ended>,
    recv_waker: Option<Waker>,
    send_waker: Option<Waker>,
    /// In the queue for the connection's window.
    pub(super) waits: bool,
    /// It is this stream's turn with the connection's window.
    pub(super) has_turn: bool,
}

impl Stream {
    /// Makes it a new one, which keeps the memory of its queues.
    fn renew(&mut self) {
        let (mut heads, mut data) = (
            std::mem::take(&mut self.heads),
            std::mem::take(&mut self.data),
        );
        heads.clear();
        data.clear();
        *self = Self {
            heads,
            data,
            ..Self::default()
        };
    }

    /// Queues received data.
    pub(super) fn push(&mut self, piece: Chunk) {
        self.unread += piece.len();
        if self.data.is_empty() && self.last.is_none() || piece.len() > COPIED_BYTES_MAX {
            self.end_last();
            return self.data.push_back(piece);
        }
        if self
            .last
            .as_ref()
            .is_some_and(|it| it.remaining() < piece.len())
        {
            self.end_last();
        }
        let fits = self.last.get_or_insert_with(Buffer::new).push(&piece);
        debug_assert!(fits, "a buffer holds more than a small piece");
    }

    /// The next piece of data.
    pub(super) fn pop(&mut self) -> Option<Chunk> {
        if self.data.is_empty() {
            self.end_last();
        }
        let piece = self.data.pop_front()?;
        self.unread -= piece.len();
        Some(piece)
    }

    /// Bytes received and not read.
    pub(super) const fn unread(&self) -> usize {
        self.unread
    }

    /// Drops what was not read, and says how many bytes of data that was.
    pub(super) fn discard(&mut self) -> usize {
        self.heads.clear();
        self.data.clear();
        self.last = None;
        std::mem::take(&mut self.unread)
    }

    fn end_last(&mut self) {
        if let Some(last) = self.last.take() {
            self.data.push_back(last.freeze());
        }
    }

    pub(super) fn wait_to_recv(&mut self, cx: &Context<'_>) {
        store(&mut self.recv_waker, cx);
    }

    pub(super) fn wait_to_send(&mut self, cx: &Context<'_>) {
        store(&mut self.send_waker, cx);
    }

    pub(super) fn wake_receiver(&mut self) {
        if let Some(waker) = self.recv_waker.take() {
            waker.wake();
        }
    }

    pub(super) fn wake_sender(&mut self) {
        if let Some(waker) = self.send_waker.take() {
            waker.wake();
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("unread", &self.unread)
            .field("recv_closed", &self.recv_closed)
            .field("send_closed", &self.send_closed)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

fn store(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}

/// The open streams of a connection.
#[derive(Debug, Default)]
pub(super) struct Streams {
    /// The id of the stream in each place, 0 in a free one: a few hundred numbers in a row are
    /// looked through faster than a map.
    ids: Vec<u32>,
    places: Vec<Stream>,
    free: Vec<u32>,
}

impl Streams {
    /// Number of open streams.
    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(super) fn find(&self, id: u32) -> Option<StreamKey> {
        debug_assert_ne!(id, 0);
        let index = self.ids.iter().position(|&other| other == id)?;
        Some(StreamKey {
            index: index as u32,
            id,
        })
    }

    /// The stream, unless it is closed.
    pub(super) fn get(&mut self, key: StreamKey) -> Option<&mut Stream> {
        let index = key.index as usize;
        (*self.ids.get(index)? == key.id).then(|| &mut self.places[index])
    }

    pub(super) fn insert(&mut self, id: u32) -> (StreamKey, &mut Stream) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.ids.push(0);
            self.places.push(Stream::default());
            self.ids.len() as u32 - 1
        });
        self.ids[index as usize] = id;
        (StreamKey { index, id }, &mut self.places[index as usize])
    }

    pub(super) fn remove(&mut self, key: StreamKey) {
        if self.get(key).is_some() {
            let index = key.index as usize;
            self.places[index].renew();
            self.ids[index] = 0;
            self.free.push(key.index);
        }
    }

    /// The open streams with their ids.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut Stream)> {
        let both = self.ids.iter().copied().zip(&mut self.places);
        both.filter(|(id, _)| *id != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_used_again_by_another_stream() {
        let mut streams = Streams::default();
        let (first, _) = streams.insert(1);
        let (third, _) = streams.insert(3);
        assert_eq!((streams.len(), streams.find(3)), (2, Some(third)));
        streams.remove(first);
        assert!(streams.get(first).is_none());
        let (fifth, _) = streams.insert(5);
        assert_eq!(fifth.index, first.index);
        assert!(streams.get(first).is_none() && streams.get(fifth).is_some());
        assert_eq!(streams.find(1), None);
        assert_eq!(
            streams.iter_mut().map(|(id, _)| id).collect::<Vec<_>>(),
            [5, 3]
        );
    }

    #[test]
    fn small_pieces_share_a_buffer() {
        let mut stream = Stream::default();
        for _ in 0..1000 {
            stream.push(Chunk::from_static(b"x"));
        }
        assert_eq!(stream.unread(), 1000);
        assert_eq!(stream.pop().map(|it| it.len()), Some(1));
        assert_eq!(stream.pop().map(|it| it.len()), Some(999));
        assert!(stream.pop().is_none());
        stream.push(Chunk::from_static(b"x"));
        assert_eq!(stream.discard(), 1);
        assert!(stream.pop().is_none());
    }
}
