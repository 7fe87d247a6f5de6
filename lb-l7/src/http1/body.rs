//! Bodies by their framing: how many of the bytes at hand belong to the body, and when it ends.
//!
//! Invariant: the original bytes are forwarded untouched, and none behind the end of the body.
//! Read next: `../exchange.rs` (the streams that feed it).

use super::chunked::{ChunkError, Chunked, Step};
use super::head::Framing;

/// What is still to come of a body. 32 bytes wide.
#[derive(Debug, Clone)]
pub enum Body {
    /// Nothing: there was none, or all of it has been seen.
    Done,
    /// So many bytes, at least one.
    Length(u64),
    /// Chunks and trailers.
    Chunked(Chunked),
    /// Everything until the sender closes.
    UntilClose,
    /// Everything until the sender ends the stream, which is told apart from the body.
    Stream {
        /// Bytes that may still come.
        left: u64,
        /// They must come, too: the length was declared.
        exact: bool,
    },
}

impl Body {
    /// At the start of a body on a stream that has not ended yet: `declared` bytes if a length is
    /// given, and otherwise at most `data_bytes_max`.
    #[must_use]
    pub const fn of_stream(declared: Option<u64>, data_bytes_max: u64) -> Self {
        match declared {
            Some(left) => Self::Stream { left, exact: true },
            None => Self::Stream {
                left: data_bytes_max,
                exact: false,
            },
        }
    }

    /// At the start of a body. `data_bytes_max` bounds chunked data; a declared length has been
    /// compared already.
    #[must_use]
    pub const fn new(framing: Framing, data_bytes_max: u64) -> Self {
        match framing {
            Framing::None => Self::Done,
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Chunked::new(data_bytes_max)),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// Whether the body is whole when its sender closes or ends the stream.
    #[must_use]
    pub const fn may_close(&self) -> bool {
        match self {
            Self::Done | Self::UntilClose => true,
            Self::Stream { left, exact } => !*exact || *left == 0,
            Self::Length(_) | Self::Chunked(_) => false,
        }
    }

    /// Whether the trailers are next, or what is left of them.
    #[must_use]
    pub const fn is_trailer(&self) -> bool {
        matches!(self, Self::Chunked(chunked) if chunked.is_trailer())
    }

    /// Whether nothing more is to come. Never true of `UntilClose` and `Stream`.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// How many bytes at the start of `input` belong to the body: all of them, or those up to its
    /// end.
    ///
    /// # Errors
    /// Malformed or overlong chunks.
    pub fn take(&mut self, input: &[u8]) -> Result<usize, ChunkError> {
        let taken = match self {
            Self::Done => 0,
            Self::UntilClose => input.len(),
            Self::Length(remaining) => take_length(remaining, input),
            Self::Chunked(chunked) => chunked.scan(input)?,
            Self::Stream { left, exact } => match left.checked_sub(input.len() as u64) {
                Some(rest) => {
                    *left = rest;
                    input.len()
                }
                None if *exact => return Err(ChunkError::Malformed),
                None => return Err(ChunkError::TooLong),
            },
        };
        self.end();
        Ok(taken)
    }

    /// So many bytes of a declared length have passed by another way.
    ///
    /// # Panics
    /// In debug builds, with more than are left.
    pub const fn skip(&mut self, bytes: u64) {
        if let Self::Length(left) = self {
            debug_assert!(bytes <= *left, "more than the body has");
            *left = left.saturating_sub(bytes);
            if *left == 0 {
                *self = Self::Done;
            }
        }
    }

    /// As `take`, but stops behind the first run of data, and before the trailers, and tells data
    /// from the framing.
    ///
    /// # Errors
    /// Malformed or overlong chunks.
    pub fn step(&mut self, input: &[u8]) -> Result<Step, ChunkError> {
        let step = match self {
            Self::Chunked(chunked) => chunked.step(input)?,
            _ => {
                return Ok(Step {
                    framing: 0,
                    data: self.take(input)?,
                });
            }
        };
        self.end();
        Ok(step)
    }

    fn end(&mut self) {
        let ended = match self {
            Self::Length(remaining) => *remaining == 0,
            Self::Chunked(chunked) => chunked.is_done(),
            Self::Done | Self::UntilClose | Self::Stream { .. } => false,
        };
        if ended {
            *self = Self::Done;
        }
    }
}

fn take_length(remaining: &mut u64, input: &[u8]) -> usize {
    let taken = usize::try_from(*remaining)
        .unwrap_or(usize::MAX)
        .min(input.len());
    *remaining -= taken as u64;
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_counted_down() {
        let mut body = Body::new(Framing::Length(5), u64::MAX);
        assert_eq!(body.take(b"abc"), Ok(3));
        assert!(!body.is_done());
        assert_eq!(body.take(b"defgh"), Ok(2));
        assert!(body.is_done());
        assert_eq!(body.take(b"gh"), Ok(0));
    }

    #[test]
    fn chunks_end_the_body() {
        let mut body = Body::new(Framing::Chunked, u64::MAX);
        assert_eq!(body.take(b"1\r\nx\r\n0\r\n"), Ok(9));
        assert!(!body.is_done());
        assert_eq!(body.take(b"\r\nGET"), Ok(2));
        assert!(body.is_done());
    }

    #[test]
    fn until_close_never_ends() {
        let mut body = Body::new(Framing::UntilClose, u64::MAX);
        assert_eq!(body.take(b"abc"), Ok(3));
        assert!(!body.is_done());
        assert!(Body::new(Framing::None, 0).is_done());
    }

    #[test]
    fn a_step_tells_data_from_framing() {
        let mut body = Body::new(Framing::Chunked, u64::MAX);
        assert_eq!(
            body.step(b"2\r\nabX"),
            Ok(Step {
                framing: 3,
                data: 2
            })
        );
        let mut body = Body::new(Framing::Length(2), u64::MAX);
        assert_eq!(
            body.step(b"abX"),
            Ok(Step {
                framing: 0,
                data: 2
            })
        );
    }
}
