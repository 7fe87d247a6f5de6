//! The response's body on its way from the backend to the client: which of the bytes, in which
//! coding.
//!
//! Invariant: the client can tell where the body ends, and never gets bytes from behind it.
//! Read next: `exchange.rs` (which sends the parts), `http1/body.rs`.

use lb_core::rt::{Buffer, Chunk};

use crate::http1::body::Body;
use crate::http1::chunked::ChunkError;
use crate::http1::response::Transfer;

/// What one send takes: nothing, one part or two, the first first.
pub(crate) type Parts = [Option<Chunk>; 2];

/// The rest of a response's body.
#[derive(Debug)]
pub(crate) struct Download {
    body: Body,
    transfer: Transfer,
    /// A chunk of our making was sent, whose line end is still to come.
    in_chunk: bool,
}

impl Download {
    pub(crate) const fn new(body: Body, transfer: Transfer) -> Self {
        Self {
            body,
            transfer,
            in_chunk: false,
        }
    }

    /// No body.
    pub(crate) const fn done() -> Self {
        Self::new(Body::Done, Transfer::AsIs)
    }

    pub(crate) const fn is_done(&self) -> bool {
        self.body.is_done()
    }

    /// Whether the backend ends the body by closing its connection.
    pub(crate) const fn ends_by_close(&self) -> bool {
        matches!(self.body, Body::UntilClose)
    }

    /// How many bytes at the start of `received` may go to the client as they are.
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
                let step = self.body.step(received)?;
                received.advance(step.framing);
                Ok([non_empty(received.split_to(step.data)), None])
            }
            Transfer::Chunk => {
                let data = received.split_to(received.len());
                let size = chunk_size(data.len(), self.in_chunk);
                self.in_chunk = true;
                Ok([Some(size), Some(data)])
            }
        }
    }

    /// What is to be sent when the backend has ended the body by closing.
    pub(crate) const fn end(&self) -> Parts {
        let end: &[u8] = match self.transfer {
            Transfer::AsIs | Transfer::Dechunk => return [None, None],
            Transfer::Chunk if self.in_chunk => b"\r\n0\r\n\r\n",
            Transfer::Chunk => b"0\r\n\r\n",
        };
        [Some(Chunk::from_static(end)), None]
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

    fn sent(download: &mut Download, received: &[u8]) -> Result<(Vec<u8>, usize), ChunkError> {
        let mut chunk = Chunk::from_vec(received.to_vec());
        let mut sent = Vec::new();
        while !chunk.is_empty() && !download.is_done() {
            for part in download.next(&mut chunk)?.iter().flatten() {
                assert!(!part.is_empty());
                sent.extend_from_slice(part);
            }
        }
        Ok((sent, chunk.len()))
    }

    #[test]
    fn bytes_behind_the_body_stay() {
        let mut download = Download::new(Body::new(Framing::Length(3), 0), Transfer::AsIs);
        assert_eq!(sent(&mut download, b"abcde"), Ok((b"abc".to_vec(), 2)));
        assert!(download.is_done());
    }

    #[test]
    fn chunks_are_taken_off() {
        let body = Body::new(Framing::Chunked, u64::MAX);
        let mut download = Download::new(body, Transfer::Dechunk);
        let received = b"3\r\nabc\r\n1;x\r\nd\r\n0\r\nA: b\r\n\r\nHTTP";
        assert_eq!(sent(&mut download, received), Ok((b"abcd".to_vec(), 4)));
        assert!(download.is_done());
    }

    #[test]
    fn chunks_are_put_on() {
        let mut download = Download::new(Body::UntilClose, Transfer::Chunk);
        let (first, _) = sent(&mut download, b"abc").unwrap();
        let (second, _) = sent(&mut download, &[b'x'; 26]).unwrap();
        let end: Vec<u8> = download
            .end()
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
        assert!(Download::new(Body::UntilClose, Transfer::AsIs).end()[0].is_none());
    }
}
