//! The chunked coding, checked and measured without taking it apart (RFC 9112 section 7.1).
//!
//! Invariant: [`Chunked`] can be stopped and resumed at any byte, with the same result, and
//! accepts only bytes that every reader frames alike: no bare CR or LF, no white space around a
//! size, no size that overflows. Read next: `body.rs` (the other framings).

use super::head::is_token;

/// Most bytes of extensions behind one chunk size. No extension is in use anywhere.
const EXTENSION_BYTES_MAX: u16 = 256;
/// Most bytes of all trailer fields together.
const TRAILER_BYTES_MAX: u16 = 8 * 1024;
/// What frames or routes a message is not in its trailers (RFC 9110 section 6.5.1): who merges
/// them into the head would read it in another way.
const NO_TRAILERS: [&[u8]; 3] = [b"content-length", b"host", b"transfer-encoding"];

/// The first of the names that a trailer field must not have, and all of them.
const FIRST_NAME: u64 = 1 << 16;
const ANY_NAME: u64 = 0b111 * FIRST_NAME;

/// Reads chunks up to and including the trailers. 24 bytes wide.
#[derive(Debug, Clone)]
pub struct Chunked {
    /// Of the current chunk: the size while its digits are read, then what is left of its data.
    /// Of a trailer field's name: see [`Chunked::on_name`].
    remaining: u64,
    /// Data bytes that may still come.
    allowance: u64,
    /// Digits of the size, bytes of the extension, or bytes of the trailers so far.
    count: u16,
    state: State,
}

/// Why chunks are refused. The connection cannot be used any more then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkError {
    /// A chunk size, a line end or a trailer field is malformed.
    Malformed,
    /// Extensions or trailers are longer than anyone needs.
    Overhead,
    /// The data is longer than was allowed.
    TooLong,
}

/// What the next byte must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A digit of the chunk size, or what ends it.
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// The first byte of a trailer field's name, or the CR of the last line.
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    LastLf,
    Done,
}

/// One step through a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Bytes of sizes, line ends and trailers that come first.
    pub framing: usize,
    /// Bytes of data that follow them.
    pub data: usize,
}

impl Chunked {
    /// At the start of a body whose data may be `data_bytes_max` long.
    #[must_use]
    pub const fn new(data_bytes_max: u64) -> Self {
        Self {
            remaining: 0,
            allowance: data_bytes_max,
            count: 0,
            state: State::Size,
        }
    }

    /// Whether the last byte of the body has been seen.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Whether all data has been seen, and the trailers or the end of them have not.
    #[must_use]
    pub const fn is_trailer(&self) -> bool {
        matches!(
            self.state,
            State::TrailerStart
                | State::TrailerName
                | State::TrailerValue
                | State::TrailerLf
                | State::LastLf
        )
    }

    /// How many bytes at the start of `input` belong to the body: all of them, or those up to its
    /// end.
    ///
    /// # Errors
    /// See [`ChunkError`].
    pub fn scan(&mut self, input: &[u8]) -> Result<usize, ChunkError> {
        let mut taken = 0;
        while taken < input.len() && !self.is_done() {
            let step = self.step(&input[taken..])?;
            taken += step.framing + step.data;
        }
        Ok(taken)
    }

    /// Goes on to the end of the next run of data in `input`, or to the start of the trailers, the
    /// end of the body or of `input` when there is none.
    ///
    /// # Errors
    /// See [`ChunkError`].
    pub fn step(&mut self, input: &[u8]) -> Result<Step, ChunkError> {
        let mut framing = 0;
        while self.state != State::Data && self.state != State::Done {
            let Some(byte) = input.get(framing) else {
                return Ok(Step { framing, data: 0 });
            };
            let before = self.state;
            self.state = self.next(*byte)?;
            framing += 1;
            if self.state == State::TrailerStart && before == State::SizeLf {
                return Ok(Step { framing, data: 0 });
            }
        }
        if self.state == State::Done {
            return Ok(Step { framing, data: 0 });
        }
        let data = usize::try_from(self.remaining)
            .unwrap_or(usize::MAX)
            .min(input.len() - framing);
        self.remaining -= data as u64;
        if self.remaining == 0 {
            self.state = State::DataCr;
        }
        Ok(Step { framing, data })
    }

    /// The state behind `byte` of the framing.
    #[inline]
    fn next(&mut self, byte: u8) -> Result<State, ChunkError> {
        match (self.state, byte) {
            (State::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => self.on_digit(byte),
            (State::Size, b'\r') if self.count > 0 => Ok(State::SizeLf),
            (State::Size, b';') if self.count > 0 => {
                self.count = 0;
                Ok(State::Extension)
            }
            (State::Extension, b'\r') => Ok(State::SizeLf),
            (State::Extension, _) if is_text(byte) => {
                self.count(EXTENSION_BYTES_MAX, State::Extension)
            }
            (State::SizeLf, b'\n') => self.on_size(),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => {
                self.count = 0;
                Ok(State::Size)
            }
            (State::TrailerStart, b'\r') => Ok(State::LastLf),
            (State::TrailerStart, _) if is_token(byte) => {
                self.remaining = ANY_NAME;
                self.on_name(byte)
            }
            (State::TrailerName, b':') if !self.is_named() => Ok(State::TrailerValue),
            (State::TrailerName, _) if is_token(byte) => self.on_name(byte),
            (State::TrailerValue, b'\r') => Ok(State::TrailerLf),
            (State::TrailerValue, _) if is_text(byte) => {
                self.count(TRAILER_BYTES_MAX, State::TrailerValue)
            }
            (State::TrailerLf, b'\n') => Ok(State::TrailerStart),
            (State::LastLf, b'\n') => Ok(State::Done),
            _ => Err(ChunkError::Malformed),
        }
    }

    /// Sixteen digits cannot overflow 64 bits, leading zeros or not.
    fn on_digit(&mut self, byte: u8) -> Result<State, ChunkError> {
        const DIGITS_MAX: u16 = 16;
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            _ => (byte | 0x20) - b'a' + 10,
        };
        if self.count == DIGITS_MAX {
            return Err(ChunkError::Malformed);
        }
        self.count += 1;
        self.remaining = self.remaining << 4 | u64::from(digit);
        Ok(State::Size)
    }

    fn on_size(&mut self) -> Result<State, ChunkError> {
        self.count = 0;
        if self.remaining == 0 {
            return Ok(State::TrailerStart);
        }
        self.allowance = self
            .allowance
            .checked_sub(self.remaining)
            .ok_or(ChunkError::TooLong)?;
        Ok(State::Data)
    }

    /// A byte of a trailer field's name. How many there are is in the low bits of `remaining`, and
    /// which names it may still become in those of [`ANY_NAME`].
    fn on_name(&mut self, byte: u8) -> Result<State, ChunkError> {
        let at = self.name_len();
        for (index, name) in NO_TRAILERS.iter().enumerate() {
            if name.get(at) != Some(&byte.to_ascii_lowercase()) {
                self.remaining &= !(FIRST_NAME << index);
            }
        }
        self.remaining += 1;
        self.count(TRAILER_BYTES_MAX, State::TrailerName)
    }

    const fn name_len(&self) -> usize {
        (self.remaining & (FIRST_NAME - 1)) as usize
    }

    /// Whether the name is one that may not be there.
    fn is_named(&self) -> bool {
        let may_be = |index: usize| self.remaining & (FIRST_NAME << index) != 0;
        let mut names = NO_TRAILERS.iter().enumerate();
        names.any(|(index, name)| may_be(index) && name.len() == self.name_len())
    }

    fn count(&mut self, max: u16, next: State) -> Result<State, ChunkError> {
        self.count += 1;
        if self.count > max {
            Err(ChunkError::Overhead)
        } else {
            Ok(next)
        }
    }
}

/// Whether `byte` may be part of an extension or a field value.
const fn is_text(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds `input` in pieces of the given sizes, then the rest; how many bytes were the body,
    /// and its data.
    fn feed(
        input: &[u8],
        pieces: &[usize],
        max: u64,
    ) -> Result<(usize, Vec<u8>, bool), ChunkError> {
        let mut chunked = Chunked::new(max);
        let mut data = Vec::new();
        let mut taken = 0;
        let mut pieces = pieces.iter();
        while taken < input.len() && !chunked.is_done() {
            let len = pieces.next().map_or(usize::MAX, |len| 1 + len % 7);
            let piece = &input[taken..input.len().min(taken.saturating_add(len))];
            let step = chunked.step(piece)?;
            data.extend_from_slice(&piece[step.framing..step.framing + step.data]);
            taken += step.framing + step.data;
        }
        Ok((taken, data, chunked.is_done()))
    }

    fn scan(input: &[u8]) -> Result<Option<usize>, ChunkError> {
        let mut chunked = Chunked::new(u64::MAX);
        let taken = chunked.scan(input)?;
        Ok(chunked.is_done().then_some(taken))
    }

    #[test]
    fn the_end_is_found() {
        assert_eq!(scan(b"0\r\n\r\n"), Ok(Some(5)));
        assert_eq!(scan(b"000\r\n\r\nGET"), Ok(Some(7)));
        assert_eq!(scan(b"5\r\nhello\r\n0\r\n\r\nGET"), Ok(Some(15)));
        assert_eq!(
            scan(b"a;x=\"y\"\r\n0123456789\r\nA\r\n0123456789\r\n0;z\r\n\r\n"),
            Ok(Some(43))
        );
        assert_eq!(scan(b"0\r\nA: b\r\nC:\r\n\r\nGET"), Ok(Some(15)));
        let alike = b"0\r\nHosts: a\r\nHos: a\r\nX-Host: a\r\nContent-Lengt: 1\r\n\r\n";
        assert_eq!(scan(alike), Ok(Some(alike.len())));
        assert_eq!(scan(b"5\r\nhello"), Ok(None));
        assert_eq!(scan(b"0\r\n"), Ok(None));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for input in [
            b"\r\n".as_slice(),
            b"g\r\n",
            b"-1\r\n",
            b"+1\r\n",
            b"0x1\r\n",
            b" 1\r\n",
            b"1 \r\n",
            b"1\t\r\n",
            b"1\n",
            b"1\rx",
            b"1;\n",
            b"1;a\rb\r\n",
            b"1;a\0\r\n",
            b";a\r\n",
            b"1\r\nab",
            b"1\r\na\n",
            b"1\r\na\rb",
            b"1\r\na\r\n\r\n",
            b"0\r\n\n",
            b"0\r\n\rx",
            b"0\r\n A: b\r\n",
            b"0\r\nA : b\r\n",
            b"0\r\nA\r\n",
            b"0\r\nA: b\n",
            b"0\r\nA: b\r\n c\r\n",
            b"0\r\nA: \x7f\r\n",
            b"0\r\n: b\r\n",
            b"0\r\nContent-Length: 1\r\n",
            b"0\r\nA: b\r\nHOST: a\r\n",
            b"0\r\ntransfer-encodinG: chunked\r\n",
        ] {
            assert_eq!(
                scan(input),
                Err(ChunkError::Malformed),
                "{:?}",
                input.escape_ascii()
            );
        }
    }

    #[test]
    fn sizes_do_not_overflow() {
        assert_eq!(scan(b"ffffffffffffffff\r\n"), Ok(None));
        assert_eq!(scan(b"10000000000000000\r\n"), Err(ChunkError::Malformed));
        assert_eq!(scan(b"00000000000000001\r\n"), Err(ChunkError::Malformed));
    }

    #[test]
    fn overhead_is_bounded() {
        let extension = [b"1;".as_slice(), &[b'x'; EXTENSION_BYTES_MAX as usize + 1]].concat();
        assert_eq!(scan(&extension), Err(ChunkError::Overhead));
        let trailer = b"a: b\r\n".repeat(usize::from(TRAILER_BYTES_MAX));
        assert_eq!(
            scan(&[b"0\r\n".as_slice(), &trailer].concat()),
            Err(ChunkError::Overhead)
        );
    }

    #[test]
    fn data_is_bounded() {
        let body = b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        assert!(feed(body, &[], 5).is_ok());
        assert_eq!(feed(body, &[], 4), Err(ChunkError::TooLong));
    }

    proptest! {
        #[test]
        fn splits_do_not_matter(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            pieces in prop::collection::vec(any::<usize>(), 0..200),
            behind in prop::collection::vec(any::<u8>(), 0..9),
        ) {
            let mut body = Vec::new();
            for chunk in &chunks {
                body.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                body.extend_from_slice(chunk);
                body.extend_from_slice(b"\r\n");
            }
            body.extend_from_slice(b"0\r\nX: y\r\n\r\n");
            let len = body.len();
            body.extend_from_slice(&behind);
            prop_assert_eq!(feed(&body, &pieces, u64::MAX), Ok((len, chunks.concat(), true)));
            prop_assert_eq!(scan(&body), Ok(Some(len)));
        }

        #[test]
        fn any_bytes_give_the_same_result_however_split(
            input in prop::collection::vec(prop::sample::select(b"0123aF;\r\n x:".to_vec()), 0..60),
            pieces in prop::collection::vec(any::<usize>(), 0..60),
        ) {
            prop_assert_eq!(feed(&input, &pieces, 64), feed(&input, &[], 64));
        }
    }
}
