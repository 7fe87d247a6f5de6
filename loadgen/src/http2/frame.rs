//! Frames (RFC 9113 §4): where one ends and the next begins.
//!
//! Invariant: data is handed on as it comes, everything else as whole frames; nothing is copied
//! of what came in one piece.
//! Read next: `wire.rs`.

/// What a client says first (RFC 9113 §3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a frame's head.
pub(crate) const HEAD_BYTES: usize = 9;

/// The longest frame that we allow, which is what everybody may send unasked.
pub(crate) const FRAME_BYTES_MAX: usize = 16_384;

/// Flags of DATA and HEADERS, and of HEADERS and CONTINUATION.
pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;
/// Flag of SETTINGS and PING.
pub(crate) const ACK: u8 = 0x1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// Types of frames.
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

/// What is no HTTP/2, in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Broken(pub(crate) &'static str);

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// Bytes of its payload.
    pub(crate) length: usize,
    /// Its type.
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    /// 0: the connection itself.
    pub(crate) stream: u32,
}

impl Head {
    fn read(bytes: &[u8; HEAD_BYTES]) -> Self {
        let [a, b, c, kind, flags, rest @ ..] = *bytes;
        Self {
            length: usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c),
            kind,
            flags,
            stream: u32::from_be_bytes(rest) & 0x7fff_ffff,
        }
    }

    /// Appends it.
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        let length = (self.length as u32).to_be_bytes();
        out.extend_from_slice(&length[1..]);
        out.extend_from_slice(&[self.kind, self.flags]);
        out.extend_from_slice(&self.stream.to_be_bytes());
    }

    /// The payload without padding and priority.
    pub(crate) fn content<'a>(&self, payload: &'a [u8]) -> Result<&'a [u8], Broken> {
        let mut content = payload;
        let mut padding = 0;
        if self.flags & PADDED != 0 && matches!(self.kind, kind::DATA | kind::HEADERS) {
            let (length, rest) = content.split_first().ok_or(Broken("no padding length"))?;
            (padding, content) = (usize::from(*length), rest);
        }
        if self.flags & PRIORITY != 0 && self.kind == kind::HEADERS {
            content = content.get(5..).ok_or(Broken("no priority"))?;
        }
        let end = content.len().checked_sub(padding);
        Ok(&content[..end.ok_or(Broken("more padding than payload"))?])
    }

    fn is_streamed(&self) -> bool {
        self.kind == kind::DATA && self.flags & PADDED == 0
    }
}

/// Cuts what is received into frames.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// The head of the frame whose payload is coming, and how much of it is to come.
    current: Option<(Head, usize)>,
    /// The beginning of a head or payload that came in pieces.
    partial: Vec<u8>,
}

impl Frames {
    /// Hands on what `bytes` complete: a frame, or a piece of data (the last piece of a frame with
    /// its flags, the others without).
    ///
    /// # Errors
    /// When a frame is longer than allowed, and whatever `on` returns.
    pub(crate) fn feed(
        &mut self,
        mut bytes: &[u8],
        mut on: impl FnMut(Head, &[u8]) -> Result<(), Broken>,
    ) -> Result<(), Broken> {
        loop {
            let Some((head, left)) = self.current else {
                if bytes.is_empty() {
                    return Ok(());
                }
                bytes = self.read_head(bytes)?;
                continue;
            };
            if bytes.is_empty() && left > 0 {
                return Ok(());
            }
            let (piece, rest) = bytes.split_at(left.min(bytes.len()));
            bytes = rest;
            self.current = Some((head, left - piece.len()));
            if head.is_streamed() {
                let is_last = piece.len() == left;
                if is_last {
                    self.current = None;
                }
                let flags = if is_last { head.flags } else { 0 };
                on(Head { flags, ..head }, piece)?;
                continue;
            }
            if piece.len() < left {
                self.partial.extend_from_slice(piece);
                return Ok(());
            }
            self.current = None;
            if self.partial.is_empty() {
                on(head, piece)?;
            } else {
                self.partial.extend_from_slice(piece);
                let whole = std::mem::take(&mut self.partial);
                on(head, &whole)?;
            }
        }
    }

    /// Takes a head, or as much of it as there is, off the front.
    fn read_head<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Broken> {
        let wanted = HEAD_BYTES - self.partial.len();
        let head = if let (0, Some(head)) = (self.partial.len(), bytes.first_chunk()) {
            Head::read(head)
        } else {
            let (piece, _) = bytes.split_at(wanted.min(bytes.len()));
            self.partial.extend_from_slice(piece);
            let Some(head) = self.partial.first_chunk() else {
                return Ok(&bytes[piece.len()..]);
            };
            let head = Head::read(head);
            self.partial.clear();
            head
        };
        if head.length > FRAME_BYTES_MAX {
            return Err(Broken("a frame longer than 16 KiB"));
        }
        self.current = Some((head, head.length));
        Ok(&bytes[wanted..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let head = Head {
            length: payload.len(),
            kind,
            flags,
            stream: 3,
        };
        head.write(&mut bytes);
        [bytes, payload.to_vec()].concat()
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let bytes = [
            frame(kind::SETTINGS, 0, &[]),
            frame(kind::HEADERS, END_HEADERS, b"block"),
            frame(kind::DATA, END_STREAM, b"0123456789"),
            frame(kind::DATA, END_STREAM, b""),
        ]
        .concat();
        for size in 1..=bytes.len() {
            let (mut frames, mut whole, mut data) = (Frames::default(), Vec::new(), Vec::new());
            let mut ends = 0;
            for piece in bytes.chunks(size) {
                let fed = frames.feed(piece, |head, payload| {
                    if head.kind == kind::DATA {
                        data.extend_from_slice(payload);
                        ends += u32::from(head.flags & END_STREAM != 0);
                    } else {
                        whole.push((head.kind, payload.to_vec()));
                    }
                    Ok(())
                });
                fed.unwrap();
            }
            let expected = [
                (kind::SETTINGS, Vec::new()),
                (kind::HEADERS, b"block".to_vec()),
            ];
            assert_eq!(
                (&*whole, &*data, ends),
                (&expected[..], &b"0123456789"[..], 2)
            );
        }
    }

    #[test]
    fn padding_and_priority_are_no_content() {
        let head = |flags| Head {
            length: 0,
            kind: kind::HEADERS,
            flags,
            stream: 1,
        };
        assert_eq!(head(PADDED).content(b"\x02abcd"), Ok(&b"ab"[..]));
        assert_eq!(head(PRIORITY).content(b"12345ab"), Ok(&b"ab"[..]));
        assert!(head(PADDED).content(b"\x05abcd").is_err());
        let mut long = Vec::new();
        Head {
            length: FRAME_BYTES_MAX + 1,
            ..head(0)
        }
        .write(&mut long);
        assert!(Frames::default().feed(&long, |_, _| Ok(())).is_err());
    }
}
