//! One exchange over TCP, from the client's side: an echo, or a bulk answer.
//!
//! Invariant: an answer counts only if it is exactly the bytes that were to come back. Messages
//! differ from each other, so an answer to another request or connection is found out.
//! Read next: `../tcp.rs` (the conversation).

use std::cell::RefCell;

use lb_core::rt::Chunk;
use lb_l7::stream::Stream;

use super::config::TcpRequest;
use super::connection::{Answer, receive};
use super::recorder::{Failure, Recorder};
use crate::tcp::{GO, TcpMode, WHO, follows_pattern, random_bytes};

/// Messages that differ from each other: each is a window of the same random bytes.
const MESSAGES: usize = 4096;

/// Longest name that an origin may give itself.
const NAME_BYTES_MAX: usize = 256;

/// What all connections of a thread share.
pub(super) struct Tcp {
    request: TcpRequest,
    /// The messages, overlapping.
    messages: Chunk,
}

impl Tcp {
    pub(super) fn new(request: &TcpRequest) -> Self {
        Self {
            request: request.clone(),
            messages: Chunk::from_vec(random_bytes(request.message + MESSAGES)),
        }
    }

    /// Asks a new connection for the name of its origin, if that is wanted.
    pub(super) async fn ask_name(&self, stream: &Stream) -> Result<Option<String>, Failure> {
        if !self.request.who {
            return Ok(None);
        }
        stream
            .send(Chunk::from_static(WHO))
            .await
            .map_err(|_| Failure::Reset)?;
        let mut name = Vec::new();
        loop {
            let input = receive(stream).await?;
            name.extend_from_slice(&input);
            match name.split_last() {
                Some((b'\n', name)) => return Ok(Some(String::from_utf8_lossy(name).into())),
                _ if name.len() > NAME_BYTES_MAX => return Err(Failure::Mismatch),
                _ => {}
            }
        }
    }

    /// Sends message `number` and reads its answer to the end.
    pub(super) async fn exchange(
        &self,
        stream: &Stream,
        number: usize,
        recorder: &RefCell<Recorder>,
    ) -> Result<Answer, Failure> {
        let bytes = match self.request.mode {
            TcpMode::Echo => self.echo(stream, number % MESSAGES).await?,
            TcpMode::Stream(bytes) => stream_answer(stream, bytes, recorder).await?,
        };
        Ok(Answer {
            failure: None,
            bytes: bytes as u64,
            origin: None,
            keep_alive: true,
        })
    }

    async fn echo(&self, stream: &Stream, offset: usize) -> Result<usize, Failure> {
        let mut message = self.messages.share();
        message.advance(offset);
        message.truncate(self.request.message);
        let mut expected = message.share();
        stream.send(message).await.map_err(|_| Failure::Reset)?;
        while !expected.is_empty() {
            let input = receive(stream).await?;
            if !expected.starts_with(&input) {
                return Err(Failure::Mismatch);
            }
            expected.advance(input.len());
        }
        Ok(self.request.message)
    }
}

async fn stream_answer(
    stream: &Stream,
    bytes: usize,
    recorder: &RefCell<Recorder>,
) -> Result<usize, Failure> {
    stream
        .send(Chunk::from_static(GO))
        .await
        .map_err(|_| Failure::Reset)?;
    let mut received = 0;
    while received < bytes {
        let input = receive(stream).await?;
        if input.len() > bytes - received || !follows_pattern(received, &input) {
            return Err(Failure::Mismatch);
        }
        received += input.len();
        recorder.borrow_mut().stream(input.len() as u64);
    }
    Ok(bytes)
}
