//! A plain reader and writer of HTTP/1.1 messages for the simulation's clients and backends, which
//! shares no code with what is tested.
//!
//! Read next: `client.rs`, `backend.rs`.

use crate::seeds::{Random, Weather};
use lb_core::rt::{self, Chunk, TcpStream};
use std::time::Duration;

/// Longer than any deadline of the proxy: who waits for so long has been forgotten.
pub(crate) const PATIENCE: Duration = Duration::from_secs(900);

/// `len` bytes that are told from those of any other seed.
pub(crate) fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(seed ^ 0xc0ffee);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// How a body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    None,
    Length,
    Chunked,
    Close,
}

/// A message read to its end.
#[derive(Debug, Default)]
pub(crate) struct Message {
    pub(crate) first_line: String,
    fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether 100 came before it.
    pub(crate) continued: bool,
}

impl Message {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(it, _)| it == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn status(&self) -> u16 {
        let status = self.first_line.split(' ').nth(1);
        status.and_then(|it| it.parse().ok()).expect("a status")
    }
}

/// Why a message did not come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The connection ended between messages.
    Between,
    /// The connection ended within a message, or was reset.
    Within,
}

/// One end of a connection, read message by message.
pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    input: Vec<u8>,
    weather: Weather,
}

impl Wire {
    pub(crate) const fn new(stream: TcpStream, weather: Weather) -> Self {
        Self {
            stream,
            weather,
            input: Vec::new(),
        }
    }

    /// False at the end of the stream.
    async fn fill(&mut self) -> Result<bool, Cut> {
        match rt::timeout(PATIENCE, self.stream.recv()).await {
            Err(_) => Err(self.forgotten()),
            Ok(Ok(chunk)) => {
                self.input.extend_from_slice(&chunk);
                Ok(!chunk.is_empty())
            }
            Ok(Err(_)) => Err(Cut::Within),
        }
    }

    /// What is at hand or comes next; empty at the end.
    pub(crate) async fn next(&mut self) -> Result<Vec<u8>, Cut> {
        if self.input.is_empty() {
            self.fill().await?;
        }
        Ok(std::mem::take(&mut self.input))
    }

    /// Lets what still comes run out.
    pub(crate) async fn drain(&mut self) {
        while self.fill().await == Ok(true) {
            self.input.clear();
        }
    }

    /// Who waits for so long is at a connection that has gone silent.
    fn forgotten(&self) -> Cut {
        assert_eq!(self.weather, Weather::Silent, "somebody is forgotten");
        Cut::Within
    }

    /// Sends in pieces, pausing now and then.
    pub(crate) async fn send(&self, bytes: &[u8], random: &mut Random) -> Result<(), Cut> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(rest.len().min(1 + random.skewed(15)));
            let sent = rt::timeout(PATIENCE, self.stream.send(Chunk::from_vec(piece.to_vec())));
            let sent = sent.await.map_err(|_| self.forgotten())?;
            sent.map_err(|_| Cut::Within)?;
            rest = behind;
            if random.one_in(4) {
                random.pause().await;
            }
        }
        let flushed = rt::timeout(PATIENCE, self.stream.flush()).await;
        flushed
            .map_err(|_| self.forgotten())?
            .map_err(|_| Cut::Within)
    }

    /// A head; its body is left.
    pub(crate) async fn head(&mut self) -> Result<Message, Cut> {
        let end = loop {
            if let Some(at) = self.input.windows(4).position(|it| it == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.fill().await? {
                let nothing = self.input.is_empty();
                return Err(if nothing { Cut::Between } else { Cut::Within });
            }
        };
        let head: Vec<u8> = self.input.drain(..end).collect();
        let text = String::from_utf8(head).unwrap_or_else(|_| panic!("not a head"));
        let mut lines = text.trim_end().split("\r\n");
        let first_line = lines.next().expect("a first line").to_owned();
        let field = |line: &str| {
            let (name, value) = line.split_once(':').expect("a field");
            (name.to_ascii_lowercase(), value.trim().to_owned())
        };
        Ok(Message {
            first_line,
            fields: lines.map(field).collect(),
            ..Message::default()
        })
    }

    /// The body that `head` announces, into it. `until_close` is how a body without framing ends.
    pub(crate) async fn body(&mut self, head: &mut Message, until_close: bool) -> Result<(), Cut> {
        if head.field("transfer-encoding").is_some() {
            assert_eq!(head.field("transfer-encoding"), Some("chunked"));
            assert_eq!(head.field("content-length"), None);
            loop {
                let line = self.line().await?;
                let size = usize::from_str_radix(&line, 16).expect("a chunk size");
                self.take(size, &mut head.body).await?;
                let mut behind = self.line().await?;
                while size == 0 && behind.contains(": ") {
                    behind = self.line().await?; // a trailer
                }
                assert_eq!(behind, "", "a line end behind a chunk");
                if size == 0 {
                    return Ok(());
                }
            }
        }
        if let Some(length) = head.field("content-length") {
            let length = length.parse().expect("a length");
            return self.take(length, &mut head.body).await;
        }
        if until_close {
            while self.fill().await? {}
            head.body = std::mem::take(&mut self.input);
        }
        Ok(())
    }

    async fn line(&mut self) -> Result<String, Cut> {
        loop {
            if let Some(at) = self.input.windows(2).position(|it| it == b"\r\n") {
                let line: Vec<u8> = self.input.drain(..at + 2).collect();
                return Ok(String::from_utf8(line[..at].to_vec()).expect("a readable line"));
            }
            if !self.fill().await? {
                return Err(Cut::Within);
            }
        }
    }

    async fn take(&mut self, count: usize, into: &mut Vec<u8>) -> Result<(), Cut> {
        while into.len() < count + into.len() && self.input.len() < count {
            if !self.fill().await? {
                into.append(&mut self.input); // what came is looked at too
                return Err(Cut::Within);
            }
        }
        into.extend(self.input.drain(..count));
        Ok(())
    }
}

/// A body as it goes over the wire.
pub(crate) fn framed(body: &[u8], framing: Framing, random: &mut Random) -> Vec<u8> {
    if framing != Framing::Chunked {
        return body.to_vec();
    }
    let mut bytes = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(rest.len().min(1 + random.skewed(13)));
        bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        bytes.extend_from_slice(piece);
        bytes.extend_from_slice(b"\r\n");
        rest = behind;
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}
