//! A body on its way from one link to the other: which of the bytes, in which coding.
//!
//! Invariant: the receiver can tell where the body ends and that it is whole, and never gets bytes
//! from behind it.
//! Read next: `exchange.rs` and `upload.rs` (which send the parts), `http1/body.rs`.

use lb_core::rt::{Buffer, Chunk};

use crate::http1::body::Body;
use crate::http1::chunked::ChunkError;
use crate::http1::response::Transfer;

/// What one send takes: nothing, one part or two, the first first.
pub(crate) type Parts = [Option<Chunk>; 2];

/// What follows the last data of a body in chunks.
const LAST_CHUNK: &[u8] = b"\r\n0\r\n";

/// The rest of a body.
#[derive(Debug)]
pub(crate) struct Passage {
    body: Body,
    transfer: Transfer,
    /// A chunk of our making was sent, whose line end is still to come.
    in_chunk: bool,
    /// What chunks that are taken off had behind them: lines, each with its CRLF, and the last one
    /// once the body is done.
    trailers: Vec<u8>,
}

impl Passage {
    pub(crate) const fn new(body: Body, transfer: Transfer) -> Self {
        Self {
            body,
            transfer,
            in_chunk: false,
            trailers: Vec::new(),
        }
    }

    /// No body.
    pub(crate) const fn done() -> Self {
        Self::new(Body::Done, Transfer::AsIs)
    }

    pub(crate) const fn is_done(&self) -> bool {
        self.body.is_done()
    }

    /// Whether the body comes in chunks.
    pub(crate) const fn is_chunked(&self) -> bool {
        matches!(self.body, Body::Chunked(_))
    }

    /// Whether the body ends with what it comes on: a connection that is closed, or a stream.
    pub(crate) const fn ends_by_close(&self) -> bool {
        matches!(self.body, Body::UntilClose | Body::Stream { .. })
    }

    /// Changes how the body is passed on, which it has not been yet.
    pub(crate) const fn set_transfer(&mut self, transfer: Transfer) {
        self.transfer = transfer;
    }

    /// How many bytes are still to come that may be sent as they are, as far as that is known.
    pub(crate) const fn plain_left(&self) -> u64 {
        match (&self.body, self.transfer) {
            (Body::Length(left), Transfer::AsIs) => *left,
            _ => 0,
        }
    }

    /// How many bytes are still to come at least.
    pub(crate) const fn least_left(&self) -> u64 {
        match &self.body {
            Body::Length(left) | Body::Stream { left, exact: true } => *left,
            _ => 0,
        }
    }

    /// So many of the bytes that are left have been sent, and more are to come or none.
    pub(crate) const fn skip(&mut self, bytes: u64) {
        self.body.skip(bytes);
    }

    /// How many bytes at the start of `received` may be sent as they are.
    pub(crate) fn take_plain(&mut self, received: &[u8]) -> Result<usize, ChunkError> {
        if self.transfer == Transfer::AsIs {
            self.body.take(received)
        } else {
            Ok(0)
        }
    }

    /// Takes bytes of `received` that can be sent by one send; there may be none to send.
    pub(crate) fn next(&mut self, received: &mut Chunk) -> Result<Parts, ChunkError> {
        match self.transfer {
            Transfer::AsIs => {
                let taken = self.body.take(received)?;
                Ok([non_empty(received.split_to(taken)), None])
            }
            Transfer::Dechunk => {
                let data = self.take_off(received)?;
                // Where the end is at hand, the last data says so.
                if !data.is_empty() && received.starts_with(LAST_CHUNK) {
                    while !received.is_empty() && !self.is_done() {
                        self.take_off(received)?;
                    }
                }
                Ok([non_empty(data), None])
            }
            Transfer::Chunk => {
                let taken = self.body.take(received)?;
                if taken == 0 {
                    return Ok([None, None]);
                }
                let size = chunk_size(taken, self.in_chunk);
                self.in_chunk = true;
                Ok([Some(size), Some(received.split_to(taken))])
            }
        }
    }

    /// Takes framing off the start of `received`, and the run of data behind it, if there is one.
    fn take_off(&mut self, received: &mut Chunk) -> Result<Chunk, ChunkError> {
        let was_trailer = self.body.is_trailer();
        let step = self.body.step(received)?;
        let is_blank = matches!(received.first(), Some(b'\r' | b'\n'));
        if was_trailer && !(is_blank && self.trailers.is_empty()) {
            self.trailers.extend_from_slice(&received[..step.framing]);
        }
        received.advance(step.framing);
        Ok(received.split_to(step.data))
    }

    /// Whether the end of a stream can be told along with its last data.
    pub(crate) const fn may_end_with_data(&self) -> bool {
        self.ends_by_close() && matches!(self.transfer, Transfer::AsIs)
    }

    /// What is to be sent when the body has ended by closing, with the trailers that came with
    /// that.
    ///
    /// # Errors
    /// When less came than was declared.
    pub(crate) fn end(&mut self, trailers: Option<&Chunk>) -> Result<Parts, ChunkError> {
        if !self.body.may_close() {
            return Err(ChunkError::Malformed);
        }
        self.body = Body::Done;
        if self.transfer != Transfer::Chunk {
            return Ok([None, None]);
        }
        let (start, trailers) = (
            if self.in_chunk { 0 } else { 2 },
            trailers.map_or(&[][..], |it| it),
        );
        let end = &b"\r\n0\r\n\r\n"[start..];
        if trailers.is_empty() {
            return Ok([Some(Chunk::from_static(end)), None]);
        }
        let end = [&end[..end.len() - 2], trailers, b"\r\n"].concat();
        Ok([Some(Chunk::from_vec(end)), None])
    }

    /// Takes over what `before` has seen of the trailers.
    pub(crate) fn continue_trailers(&mut self, before: Self) {
        self.trailers = before.trailers;
    }

    /// The field lines behind chunks that were taken off, once the body is done.
    pub(crate) fn take_trailers(&mut self) -> Option<Chunk> {
        let mut trailers = std::mem::take(&mut self.trailers);
        trailers.truncate(trailers.len().saturating_sub(2)); // the blank line
        (!trailers.is_empty()).then(|| Chunk::from_vec(trailers))
    }
}

fn non_empty(chunk: Chunk) -> Option<Chunk> {
    (!chunk.is_empty()).then_some(chunk)
}

/// The line before a chunk's data, after the end of the chunk before if there was one.
fn chunk_size(size: usize, in_chunk: bool) -> Chunk {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut line = *b"\r\n0000000000000000\r\n";
    let mut rest = size;
    let mut start = line.len() - 2;
    while rest > 0 {
        start -= 1;
        line[start] = DIGITS[rest % 16];
        rest /= 16;
    }
    if in_chunk {
        start -= 2;
        line[start..start + 2].copy_from_slice(b"\r\n");
    }
    let mut out = Buffer::new();
    let fits = out.push(&line[start..]);
    debug_assert!(fits, "a few bytes into an empty buffer");
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::head::Framing;

    fn sent(passage: &mut Passage, received: &[u8]) -> Result<(Vec<u8>, usize), ChunkError> {
        let mut chunk = Chunk::from_vec(received.to_vec());
        let mut sent = Vec::new();
        while !chunk.is_empty() && !passage.is_done() {
            for part in passage.next(&mut chunk)?.iter().flatten() {
                assert!(!part.is_empty());
                sent.extend_from_slice(part);
            }
        }
        Ok((sent, chunk.len()))
    }

    #[test]
    fn bytes_behind_the_body_stay() {
        let mut passage = Passage::new(Body::new(Framing::Length(3), 0), Transfer::AsIs);
        assert_eq!(sent(&mut passage, b"abcde"), Ok((b"abc".to_vec(), 2)));
        assert!(passage.is_done());
    }

    #[test]
    fn chunks_are_taken_off() {
        let body = Body::new(Framing::Chunked, u64::MAX);
        let mut passage = Passage::new(body, Transfer::Dechunk);
        let received = b"3\r\nabc\r\n1;x\r\nd\r\n0\r\nA: b\r\n\r\nHTTP";
        assert_eq!(sent(&mut passage, received), Ok((b"abcd".to_vec(), 4)));
        assert!(passage.is_done());
        assert_eq!(passage.take_trailers().as_deref(), Some(&b"A: b\r\n"[..]));
        assert!(passage.take_trailers().is_none());
    }

    #[test]
    fn the_last_data_takes_an_end_at_hand_along() {
        let body = || Body::new(Framing::Chunked, u64::MAX);
        for (received, is_done) in [
            (&b"1\r\na\r\n0\r\n\r\n"[..], true),
            (b"1\r\na\r\n0\r\nA: b\r\n\r\nHTTP", true),
            (b"1\r\na\r\n0\r\nA: b\r\n", false),
            (b"1\r\na\r\n0\r\n", false),
            (b"1\r\na\r\n0", false),
            (b"1\r\na", false),
            (b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n", false),
        ] {
            let mut passage = Passage::new(body(), Transfer::Dechunk);
            let mut chunk = Chunk::from_vec(received.to_vec());
            let [data, _] = passage.next(&mut chunk).unwrap();
            assert_eq!(data.as_deref(), Some(&b"a"[..]));
            assert_eq!(passage.is_done(), is_done, "{received:?}");
        }
    }

    #[test]
    fn trailers_are_put_behind_chunks_of_our_making() {
        let lines = Chunk::from_static(b"grpc-status: 0\r\n");
        for (data, end) in [
            (&b""[..], &b"0\r\ngrpc-status: 0\r\n\r\n"[..]),
            (b"a", b"\r\n0\r\ngrpc-status: 0\r\n\r\n"),
        ] {
            let body = Body::of_stream(None, u64::MAX);
            let mut passage = Passage::new(body, Transfer::Chunk);
            sent(&mut passage, data).unwrap();
            let [first, _] = passage.end(Some(&lines)).unwrap();
            assert_eq!(first.as_deref(), Some(end));
            assert!(passage.is_done());
        }
    }

    #[test]
    fn a_stream_is_as_long_as_it_said() {
        let exact = || Passage::new(Body::of_stream(Some(3), u64::MAX), Transfer::AsIs);
        assert_eq!(sent(&mut exact(), b"abcd"), Err(ChunkError::Malformed));
        let mut short = exact();
        sent(&mut short, b"ab").unwrap();
        assert!(matches!(short.end(None), Err(ChunkError::Malformed)));
        let mut whole = exact();
        sent(&mut whole, b"abc").unwrap();
        assert!(!whole.is_done() && whole.end(None).is_ok());
        let mut limited = Passage::new(Body::of_stream(None, 3), Transfer::Chunk);
        assert_eq!(sent(&mut limited, b"abcd"), Err(ChunkError::TooLong));
    }

    #[test]
    fn chunks_are_put_on() {
        let mut passage = Passage::new(Body::UntilClose, Transfer::Chunk);
        let (first, _) = sent(&mut passage, b"abc").unwrap();
        let (second, _) = sent(&mut passage, &[b'x'; 26]).unwrap();
        let end: Vec<u8> = passage
            .end(None)
            .unwrap()
            .iter()
            .flatten()
            .flat_map(|part| part.to_vec())
            .collect();
        let all = [first, second, end].concat();
        assert_eq!(
            all,
            [
                b"3\r\nabc\r\n1a\r\n",
                [b'x'; 26].as_slice(),
                b"\r\n0\r\n\r\n"
            ]
            .concat()
        );
        let end = Passage::new(Body::UntilClose, Transfer::AsIs).end(None);
        assert!(matches!(end, Ok([None, None])));
    }
}
