//! One exchange over a plain blocking socket: is a balancer there, and does it still answer?
//!
//! Invariant: an exchange either comes back whole and right, or it is an error; and none waits
//! longer than [`EXCHANGE_TIMEOUT`].

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::scenario::{Scenario, Speech};

/// How long connecting, sending and receiving may each take.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// A head longer than this is not one that our origins send.
const HEAD_BYTES_MAX: usize = 8 * 1024;

const MESSAGE: [u8; 64] = [b'm'; 64];
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A connection to a balancer.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    speech: Speech,
    /// Bytes that answer a line, where that is what is spoken.
    answer_bytes: usize,
}

impl Connection {
    /// Connects to `address`, where `scenario` is played.
    ///
    /// # Errors
    /// When nobody listens there.
    pub(super) fn open(address: SocketAddr, scenario: Scenario) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, EXCHANGE_TIMEOUT)?;
        stream.set_read_timeout(Some(EXCHANGE_TIMEOUT))?;
        stream.set_write_timeout(Some(EXCHANGE_TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            speech: scenario.speech(),
            answer_bytes: scenario.answer_bytes(),
        })
    }

    /// Sends one request or message and takes the whole of what it is answered.
    ///
    /// # Errors
    /// When the answer is wrong, incomplete or late.
    pub(super) fn exchange(&mut self) -> io::Result<()> {
        match self.speech {
            Speech::Echo => self.echo(),
            Speech::Http => self.request(),
            Speech::Stream => {
                self.stream.write_all(b"\n")?;
                self.skip(self.answer_bytes)
            }
        }
    }

    fn echo(&mut self) -> io::Result<()> {
        let mut answer = [0; MESSAGE.len()];
        self.stream.write_all(&MESSAGE)?;
        self.stream.read_exact(&mut answer)?;
        if answer == MESSAGE {
            Ok(())
        } else {
            Err(io::ErrorKind::InvalidData.into())
        }
    }

    fn request(&mut self) -> io::Result<()> {
        self.stream.write_all(REQUEST)?;
        let mut answer = Vec::with_capacity(512);
        let mut piece = [0; 1024];
        let total = loop {
            if let Some(total) = total_bytes(&answer)? {
                break total;
            }
            let count = self.read_some(&mut piece)?;
            answer.extend_from_slice(&piece[..count]);
        };
        self.skip(
            total
                .checked_sub(answer.len())
                .ok_or(io::ErrorKind::InvalidData)?,
        )
    }

    fn skip(&mut self, mut left: usize) -> io::Result<()> {
        let mut piece = [0; 16 * 1024];
        while left > 0 {
            let wanted = left.min(piece.len());
            left -= self.read_some(&mut piece[..wanted])?;
        }
        Ok(())
    }

    fn read_some(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        match self.stream.read(piece)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => Ok(count),
        }
    }
}

/// The length of head and body, once the head is there.
fn total_bytes(answer: &[u8]) -> io::Result<Option<usize>> {
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        let is_long = answer.len() > HEAD_BYTES_MAX;
        return if is_long {
            Err(invalid("an endless head".to_owned()))
        } else {
            Ok(None)
        };
    };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("http/1.1 200") {
        return Err(invalid(format!("the answer was {status:?}")));
    }
    let length = lines.find_map(|line| {
        line.strip_prefix("content-length:")?
            .trim()
            .parse::<usize>()
            .ok()
    });
    let length = length.ok_or_else(|| invalid("an answer without content-length".to_owned()))?;
    Ok(Some(end + 4 + length))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Answers the first bytes that arrive with `answer`, once per connection.
    fn answering(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let count = stream.read(&mut [0; 1024]).unwrap();
            assert!(count > 0);
            stream.write_all(answer).unwrap();
        });
        address
    }

    fn http(answer: &'static [u8]) -> io::Result<()> {
        Connection::open(answering(answer), Scenario::L7Keepalive)
            .unwrap()
            .exchange()
    }

    #[test]
    fn an_answer_must_be_whole_and_right() {
        assert!(http(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").is_ok());
        let short = http(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell").unwrap_err();
        assert_eq!(short.kind(), io::ErrorKind::UnexpectedEof);
        let long = http(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello!").unwrap_err();
        assert_eq!(long.kind(), io::ErrorKind::InvalidData);
        let refusal = http(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n").unwrap_err();
        assert!(refusal.to_string().contains("502"), "{refusal}");
    }

    #[test]
    fn an_echo_must_be_the_message() {
        let mut good = Connection::open(answering(&MESSAGE), Scenario::L4Small).unwrap();
        assert!(good.exchange().is_ok());
        let mut bad = Connection::open(answering(&[b'x'; 64]), Scenario::L4Small).unwrap();
        assert_eq!(
            bad.exchange().unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }
}
