//! Finds the end of a body without keeping it (RFC 9112 §6 and §7).
//!
//! Invariant: what one call does not consume belongs to the next message, however the bytes
//! are cut into calls.

/// How much of a body is still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    /// So many bytes.
    Length(u64),
    /// Chunks, up to the last one and its trailers.
    Chunked(Chunked),
    /// Everything up to the end of the connection.
    UntilClose,
}

/// Where a chunked body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chunked {
    /// In a chunk's size; no digit yet.
    SizeStart,
    /// In a chunk's size, which is this so far.
    Size(u64),
    /// In a chunk's extension, up to its line feed; the size of the chunk.
    Extension(u64),
    /// In a chunk's data, so many bytes of which are to come.
    Data(u64),
    /// At the end of a chunk's data, before its line feed.
    DataEnd,
    /// At the beginning of a trailer line.
    TrailerStart,
    /// Within a trailer line.
    Trailer,
    /// After a carriage return that begins a trailer line, so after the last one.
    LastLine,
    /// After the end.
    Done,
}

/// A chunked body that is not well-formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadFraming;

impl Body {
    /// No body.
    pub(crate) const NONE: Self = Self::Length(0);
    /// A chunked body at its beginning.
    pub(crate) const CHUNKED: Self = Self::Chunked(Chunked::SizeStart);

    /// True if nothing is to come.
    pub(crate) const fn is_done(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunked::Done))
    }

    /// Takes what belongs to the body off the front of `bytes`; the number of bytes taken.
    ///
    /// # Errors
    /// When they cannot be part of a chunked body.
    pub(crate) fn skip(&mut self, bytes: &[u8]) -> Result<usize, BadFraming> {
        self.take(bytes, |_| ())
    }

    /// The same, with `look` called for what is content and not framing.
    pub(crate) fn take(
        &mut self,
        bytes: &[u8],
        mut look: impl FnMut(&[u8]),
    ) -> Result<usize, BadFraming> {
        match self {
            Self::Length(left) => {
                let taken = bytes
                    .len()
                    .min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                look(&bytes[..taken]);
                Ok(taken)
            }
            Self::Chunked(chunked) => chunked.take(bytes, look),
            Self::UntilClose => {
                look(bytes);
                Ok(bytes.len())
            }
        }
    }
}

impl Chunked {
    fn take(&mut self, bytes: &[u8], mut look: impl FnMut(&[u8])) -> Result<usize, BadFraming> {
        let mut at = 0;
        while at < bytes.len() && *self != Self::Done {
            if let Self::Data(left) = self {
                let taken = (bytes.len() - at).min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                look(&bytes[at..at + taken]);
                at += taken;
                if *left == 0 {
                    *self = Self::DataEnd;
                }
                continue;
            }
            *self = self.after(bytes[at])?;
            at += 1;
        }
        Ok(at)
    }

    /// The state after one byte that is no data.
    fn after(self, byte: u8) -> Result<Self, BadFraming> {
        Ok(match (self, byte) {
            (Self::SizeStart, digit) => Self::Size(hex_value(digit)?),
            (Self::Size(size) | Self::Extension(size), b'\n') => match size {
                0 => Self::TrailerStart,
                size => Self::Data(size),
            },
            (Self::Size(size), b'\r' | b';' | b' ' | b'\t') => Self::Extension(size),
            (Self::Size(size), digit) => {
                Self::Size(size.checked_mul(16).ok_or(BadFraming)? + hex_value(digit)?)
            }
            (Self::Extension(size), _) => Self::Extension(size),
            (Self::DataEnd, b'\r') => Self::DataEnd,
            (Self::DataEnd, b'\n') => Self::SizeStart,
            (Self::TrailerStart, b'\r') => Self::LastLine,
            (Self::TrailerStart | Self::LastLine, b'\n') => Self::Done,
            (Self::Trailer, b'\n') => Self::TrailerStart,
            (Self::TrailerStart | Self::Trailer, _) => Self::Trailer,
            _ => return Err(BadFraming),
        })
    }
}

fn hex_value(digit: u8) -> Result<u64, BadFraming> {
    char::from(digit)
        .to_digit(16)
        .map(u64::from)
        .ok_or(BadFraming)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `bytes` in pieces of `piece`; what was taken, and whether the body is done.
    fn feed(mut body: Body, bytes: &[u8], piece: usize) -> Result<(usize, bool), BadFraming> {
        let mut taken = 0;
        for part in bytes.chunks(piece) {
            let now = body.skip(part)?;
            taken += now;
            if now < part.len() {
                break;
            }
        }
        Ok((taken, body.is_done()))
    }

    #[test]
    fn the_end_is_found_however_the_bytes_are_cut() {
        let chunked = b"5\r\nhello\r\n1A;name=\"x\"\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n";
        let trailers = b"1\r\n\n\r\n0\r\nETag: x\r\nA: b\r\n\r\n";
        for piece in 1..=chunked.len() + 3 {
            for (body, bytes) in [
                (Body::CHUNKED, &chunked[..]),
                (Body::CHUNKED, &trailers[..]),
                (Body::Length(12), b"123456789012"),
            ] {
                let followed = [bytes, b"HTTP"].concat();
                assert_eq!(
                    feed(body, &followed, piece),
                    Ok((bytes.len(), true)),
                    "{piece}"
                );
                let cut = &bytes[..bytes.len() - 1];
                assert_eq!(feed(body, cut, piece), Ok((cut.len(), false)), "{piece}");
            }
        }
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        for bad in [
            "g\r\n",
            "\r\n",
            "-1\r\n",
            "1\r\nab\r\n",
            "0\r\n\rX",
            "11111111111111111\r\n",
        ] {
            assert_eq!(
                feed(Body::CHUNKED, bad.as_bytes(), 1),
                Err(BadFraming),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn a_body_until_close_takes_everything_and_is_never_done() {
        assert_eq!(feed(Body::UntilClose, b"abc", 2), Ok((3, false)));
        assert!(Body::NONE.is_done());
    }
}
