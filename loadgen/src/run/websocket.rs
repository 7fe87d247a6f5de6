//! Messages of a WebSocket from the client's side, each of which has to come back.
//!
//! Invariant: an answer counts only if it is the message that was sent, in one frame or several.
//! Masks are of zeros: they protect intermediaries against scripts in browsers (RFC 6455 §10.3),
//! and nothing that a load test sends.
//! Read next: `../websocket.rs`.

use lb_core::rt::Chunk;
use lb_l7::stream::Stream;

use super::config::Config;
use super::connection::{Answer, receive};
use super::recorder::Failure;
use crate::http1::{Meaning as _, ResponseHead};
use crate::tcp::random_bytes;
use crate::websocket::{BINARY, CONTINUATION, Head, KEY, PING, PONG};

/// Messages that differ from each other: each is a window of the same random bytes.
const MESSAGES: usize = 4096;
/// Bytes of a frame's head.
const HEAD_BYTES_MAX: usize = 14;
/// Longest head of an answer to the upgrade.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// What all connections of a thread share.
pub(super) struct WebSocket {
    upgrade: Chunk,
    head: Vec<u8>,
    message: usize,
    /// The messages, overlapping.
    messages: Chunk,
}

impl WebSocket {
    pub(super) fn new(config: &Config) -> Self {
        let url = &config.url;
        let mut upgrade = format!("GET {} HTTP/1.1\r\n", url.path);
        let headers = &config.http.headers;
        if !headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("host"))
        {
            upgrade += &format!("Host: {}\r\n", url.authority);
        }
        for (name, value) in headers {
            upgrade += &format!("{name}: {value}\r\n");
        }
        upgrade += &format!(
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: {KEY}\r\n\r\n"
        );
        let message = config.tcp.message;
        let mut head = Vec::new();
        Head {
            is_last: true,
            opcode: BINARY,
            length: message as u64,
            mask: Some([0; 4]),
        }
        .write(&mut head);
        Self {
            upgrade: Chunk::from_vec(upgrade.into_bytes()),
            head,
            message,
            messages: Chunk::from_vec(random_bytes(message + MESSAGES)),
        }
    }

    /// Asks for a WebSocket; who gave it.
    pub(super) async fn upgrade(&self, stream: &Stream) -> Result<Option<String>, Failure> {
        let sent = stream.send(self.upgrade.share()).await;
        sent.map_err(|_| Failure::Reset)?;
        let mut answer = Vec::new();
        loop {
            answer.extend_from_slice(&receive(stream).await?);
            match ResponseHead::parse(&answer).map_err(|_| Failure::BadBody)? {
                Some((length, head)) if head.status == 101 && length == answer.len() => {
                    return Ok(head.origin.map(Into::into));
                }
                Some((_, head)) if head.status == 101 => return Err(Failure::BadBody),
                Some(_) => return Err(Failure::Status),
                None if answer.len() > ANSWER_BYTES_MAX => return Err(Failure::BadBody),
                None => {}
            }
        }
    }

    /// Sends message `number` and takes it back.
    pub(super) async fn exchange(&self, stream: &Stream, number: usize) -> Result<Answer, Failure> {
        let offset = number % MESSAGES;
        let message = &self.messages[offset..offset + self.message];
        let frame = [&*self.head, message].concat();
        let sent = stream.send(Chunk::from_vec(frame)).await;
        sent.map_err(|_| Failure::Reset)?;
        let (mut expected, mut bytes) = (message, 0);
        let mut input = Input {
            stream,
            chunk: Chunk::empty(),
        };
        loop {
            let head = input.head().await?;
            match head.opcode {
                BINARY | CONTINUATION => {}
                PING => {
                    input.pong(head.length).await?;
                    continue;
                }
                PONG if head.length == 0 => continue,
                _ => return Err(Failure::BadBody),
            }
            let mut left = usize::try_from(head.length).map_err(|_| Failure::BadBody)?;
            while left > 0 {
                let piece = input.some(left).await?;
                expected = expected.strip_prefix(&*piece).ok_or(Failure::Mismatch)?;
                (left, bytes) = (left - piece.len(), bytes + piece.len() as u64);
            }
            if head.is_last {
                break;
            }
        }
        if !expected.is_empty() {
            return Err(Failure::Mismatch);
        }
        if !input.chunk.is_empty() {
            return Err(Failure::BadBody);
        }
        Ok(Answer {
            failure: None,
            bytes,
            origin: None,
            keep_alive: true,
        })
    }
}

/// What was received and not looked at yet.
struct Input<'stream> {
    stream: &'stream Stream,
    chunk: Chunk,
}

impl Input<'_> {
    async fn head(&mut self) -> Result<Head, Failure> {
        let mut partial = Vec::new();
        loop {
            if self.chunk.is_empty() {
                self.chunk = receive(self.stream).await?;
            }
            let known = partial.len();
            let wanted = self.chunk.len().min(HEAD_BYTES_MAX - known);
            partial.extend_from_slice(&self.chunk[..wanted]);
            if let Some((length, head)) = Head::read(&partial) {
                self.chunk.advance(length - known);
                if head.mask.is_some() {
                    return Err(Failure::BadBody);
                }
                return Ok(head);
            }
            self.chunk = Chunk::empty();
        }
    }

    /// At least one and at most `most` bytes.
    async fn some(&mut self, most: usize) -> Result<Chunk, Failure> {
        if self.chunk.is_empty() {
            self.chunk = receive(self.stream).await?;
        }
        Ok(self.chunk.split_to(most.min(self.chunk.len())))
    }

    /// Answers a ping with its own payload (RFC 6455 §5.5.3).
    async fn pong(&mut self, length: u64) -> Result<(), Failure> {
        let mut frame = Vec::new();
        Head {
            is_last: true,
            opcode: PONG,
            length,
            mask: Some([0; 4]),
        }
        .write(&mut frame);
        // Longer ones are not allowed (RFC 6455 §5.5).
        let mut left = usize::try_from(length).map_or(usize::MAX, |length| length);
        if left > 125 {
            return Err(Failure::BadBody);
        }
        while left > 0 {
            let piece = self.some(left).await?;
            left -= piece.len();
            frame.extend_from_slice(&piece);
        }
        let sent = self.stream.send(Chunk::from_vec(frame)).await;
        sent.map_err(|_| Failure::Reset)
    }
}
