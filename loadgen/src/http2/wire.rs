//! One connection's frames, both ways: what concerns only the connection is dealt with here.
//!
//! Invariant: every SETTINGS and PING is answered, and whoever sends data is granted as much
//! again before the window is used up.
//! Read next: `frame.rs`, `hpack.rs`, `outgoing.rs`.

use super::frame::{ACK, Broken, END_HEADERS, END_STREAM, Frames, Head, kind};
use super::hpack::Decoder;
use super::outgoing::Outgoing;

/// What we grant at once: on each stream, and on the connection.
const WINDOW_BYTES: u32 = 1 << 30;
/// What everybody may send unasked.
const WINDOW_BYTES_UNASKED: u32 = 65_535;
/// Header blocks longer than this are refused.
const BLOCK_BYTES_MAX: usize = 64 * 1024;
/// Blocks that are remembered for each connection.
const KNOWN_MAX: usize = 8;

/// Settings (RFC 9113 §6.5.2).
const HEADER_TABLE_SIZE: u16 = 1;
const ENABLE_PUSH: u16 = 2;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;

/// What concerns a stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event<'a, M> {
    /// A header block, with what it means and its number of bytes.
    Headers { meaning: M, bytes: usize },
    /// A piece of data.
    Data(&'a [u8]),
    /// The stream is over; a code of RFC 9113 §7.
    Reset(u32),
    /// No stream above this one will be served.
    GoAway,
    /// The peer's settings have come.
    Settings,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Wire<M> {
    frames: Frames,
    decoder: Decoder,
    pub(crate) outgoing: Outgoing,
    /// Blocks with what they mean, and the state of the table that this depends on.
    known: Vec<(u64, Box<[u8]>, M)>,
    oldest: usize,
    /// The beginning of a block that comes in several frames, and the flags of the first.
    partial: Option<(u32, u8, Vec<u8>)>,
    /// Received and not granted again.
    owed: u32,
    /// Streams that the peer takes at a time.
    pub(crate) streams_max: usize,
    /// Whether the peer keeps as many fields as everybody may expect.
    pub(crate) keeps_fields: bool,
}

impl<M: Clone> Wire<M> {
    /// Says what either side says first; a client sends its preface before.
    pub(crate) fn new(preface: &[u8]) -> Self {
        let mut outgoing = Outgoing::new();
        outgoing.ready.extend_from_slice(preface);
        let mut settings = Vec::new();
        for (name, value) in [(ENABLE_PUSH, 0), (INITIAL_WINDOW_SIZE, WINDOW_BYTES)] {
            if name != ENABLE_PUSH || !preface.is_empty() {
                settings.extend_from_slice(&name.to_be_bytes());
                settings.extend_from_slice(&value.to_be_bytes());
            }
        }
        outgoing.frame(kind::SETTINGS, 0, 0, &settings);
        let more = WINDOW_BYTES - WINDOW_BYTES_UNASKED;
        outgoing.frame(kind::WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        Self {
            frames: Frames::default(),
            decoder: Decoder::new(),
            outgoing,
            known: Vec::new(),
            oldest: 0,
            partial: None,
            owed: 0,
            streams_max: usize::MAX,
            keeps_fields: true,
        }
    }

    /// Takes in what was received. `read` makes of a block what it means, field by field; `on`
    /// is told what concerns which stream, and whether the peer ends it with that.
    ///
    /// # Errors
    /// When it is no HTTP/2.
    pub(crate) fn feed(
        &mut self,
        bytes: &[u8],
        read: impl Fn(&mut M, &[u8], &[u8]),
        mut on: impl FnMut(&mut Outgoing, u32, Event<'_, M>, bool) -> Result<(), Broken>,
    ) -> Result<(), Broken>
    where
        M: Default,
    {
        let mut frames = std::mem::take(&mut self.frames);
        let fed = frames.feed(bytes, |head, payload| {
            self.on_frame(head, payload, &read, &mut on)
        });
        self.frames = frames;
        fed
    }

    fn on_frame(
        &mut self,
        head: Head,
        payload: &[u8],
        read: &impl Fn(&mut M, &[u8], &[u8]),
        on: &mut impl FnMut(&mut Outgoing, u32, Event<'_, M>, bool) -> Result<(), Broken>,
    ) -> Result<(), Broken>
    where
        M: Default,
    {
        let is_end = head.flags & END_STREAM != 0;
        match head.kind {
            kind::DATA => {
                self.owed += payload.len() as u32;
                if self.owed > WINDOW_BYTES / 2 {
                    let owed = std::mem::take(&mut self.owed).to_be_bytes();
                    self.outgoing.frame(kind::WINDOW_UPDATE, 0, 0, &owed);
                }
                let content = head.content(payload)?;
                on(
                    &mut self.outgoing,
                    head.stream,
                    Event::Data(content),
                    is_end,
                )
            }
            kind::HEADERS if head.flags & END_HEADERS != 0 => {
                let block = head.content(payload)?;
                self.on_block(head.stream, block, is_end, read, on)
            }
            kind::HEADERS => {
                let block = head.content(payload)?.to_vec();
                self.partial = Some((head.stream, head.flags, block));
                Ok(())
            }
            kind::CONTINUATION => {
                let unasked = Broken("a continuation of nothing");
                let (stream, flags, mut block) = self.partial.take().ok_or(unasked)?;
                block.extend_from_slice(payload);
                if block.len() > BLOCK_BYTES_MAX || stream != head.stream {
                    return Err(Broken("a header block without end"));
                }
                if head.flags & END_HEADERS == 0 {
                    self.partial = Some((stream, flags, block));
                    return Ok(());
                }
                self.on_block(stream, &block, flags & END_STREAM != 0, read, on)
            }
            kind::RST_STREAM => {
                let code = number(payload).ok_or(Broken("a reset without a code"))?;
                on(&mut self.outgoing, head.stream, Event::Reset(code), true)
            }
            kind::SETTINGS if head.flags & ACK == 0 => {
                self.on_settings(payload)?;
                on(&mut self.outgoing, 0, Event::Settings, false)
            }
            kind::PING if head.flags & ACK == 0 => {
                self.outgoing.frame(kind::PING, ACK, 0, payload);
                Ok(())
            }
            kind::GOAWAY => {
                let last = number(payload).ok_or(Broken("a farewell without a stream"))?;
                on(&mut self.outgoing, last & 0x7fff_ffff, Event::GoAway, false)
            }
            kind::WINDOW_UPDATE => {
                let more = number(payload).ok_or(Broken("a window without a size"))?;
                self.outgoing.grant(head.stream, more & 0x7fff_ffff)
            }
            _ => Ok(()),
        }
    }

    fn on_block(
        &mut self,
        stream: u32,
        block: &[u8],
        is_end: bool,
        read: &impl Fn(&mut M, &[u8], &[u8]),
        on: &mut impl FnMut(&mut Outgoing, u32, Event<'_, M>, bool) -> Result<(), Broken>,
    ) -> Result<(), Broken>
    where
        M: Default,
    {
        let version = self.decoder.version();
        let is_it = |(of, known, _): &&(u64, Box<[u8]>, M)| *of == version && **known == *block;
        let meaning = match self.known.iter().find(is_it) {
            Some((_, _, meaning)) => meaning.clone(),
            None => {
                let mut meaning = M::default();
                let on_field = |name: &[u8], value: &[u8]| read(&mut meaning, name, value);
                self.decoder.decode(block, on_field)?;
                if self.decoder.version() == version {
                    self.remember(version, block, meaning.clone());
                }
                meaning
            }
        };
        let bytes = block.len();
        on(
            &mut self.outgoing,
            stream,
            Event::Headers { meaning, bytes },
            is_end,
        )
    }

    fn remember(&mut self, version: u64, block: &[u8], meaning: M) {
        let entry = (version, block.into(), meaning);
        if self.known.len() < KNOWN_MAX {
            self.known.push(entry);
        } else {
            self.known[self.oldest] = entry;
            self.oldest = (self.oldest + 1) % KNOWN_MAX;
        }
    }

    fn on_settings(&mut self, payload: &[u8]) -> Result<(), Broken> {
        for setting in payload.chunks(6) {
            let (name, value) = setting.split_at_checked(2).unwrap_or_default();
            let value = number(value).ok_or(Broken("a setting without a value"))?;
            match u16::from_be_bytes([name[0], name[1]]) {
                HEADER_TABLE_SIZE => self.keeps_fields = value >= 4096,
                MAX_CONCURRENT_STREAMS => self.streams_max = value as usize,
                INITIAL_WINDOW_SIZE => self.outgoing.set_stream_window(value),
                _ => {}
            }
        }
        self.outgoing.frame(kind::SETTINGS, ACK, 0, &[]);
        Ok(())
    }
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(meaning: &mut Vec<u8>, name: &[u8], value: &[u8]) {
        if name == b":status" {
            meaning.extend_from_slice(value);
        }
    }

    #[test]
    fn a_block_means_the_same_in_one_piece_in_several_and_again() {
        let mut wire: Wire<Vec<u8>> = Wire::new(&[]);
        let mut bytes = Outgoing::new();
        for _ in 0..3 {
            bytes.headers(1, &[0x88], true);
        }
        bytes.frame(kind::HEADERS, END_STREAM, 3, &[]);
        bytes.frame(kind::CONTINUATION, END_HEADERS, 3, &[0x88]);
        let mut seen = Vec::new();
        let fed = wire.feed(&bytes.ready, status, |_, stream, event, is_end| {
            let Event::Headers { meaning, .. } = event else {
                panic!("{event:?}");
            };
            seen.push((stream, meaning, is_end));
            Ok(())
        });
        fed.unwrap();
        let expected = [1, 1, 1, 3].map(|stream| (stream, b"200".to_vec(), true));
        assert_eq!(seen, expected);
        assert_eq!(wire.known.len(), 1);
    }

    #[test]
    fn settings_and_pings_are_answered() {
        let mut wire: Wire<Vec<u8>> = Wire::new(&[]);
        wire.outgoing.ready.clear();
        let mut bytes = Outgoing::new();
        bytes.frame(kind::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 7, 0, 1, 0, 0, 0, 0]);
        bytes.frame(kind::PING, 0, 0, b"12345678");
        bytes.frame(kind::SETTINGS, ACK, 0, &[]);
        wire.feed(&bytes.ready, status, |_, _, _, _| Ok(()))
            .unwrap();
        assert_eq!((wire.streams_max, wire.keeps_fields), (7, false));
        let mut expected = Outgoing::new();
        expected.frame(kind::SETTINGS, ACK, 0, &[]);
        expected.frame(kind::PING, ACK, 0, b"12345678");
        assert_eq!(wire.outgoing.ready, expected.ready);
    }
}
