//! An HTTP origin: every request gets the same answer. Who begins with the preface of HTTP/2 is
//! served by `http2.rs`, who asks for a WebSocket by `websocket.rs`.
//!
//! Invariant: an answer is sent for each complete request, in order, and nothing is allocated for
//! a request whose head was seen before and came in one piece.
//! Read next: `../http1/head.rs`.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lb_core::rt::{self, Chunk, TcpListener, TcpStream};
use lb_l7::stream::Stream;
use lb_l7::tls::TlsStream;
use rustls::ServerConfig;

use super::drain::Drain;
use super::http2::{self, Answers2};
use super::service::{Counter, Fate, Turn};
use super::websocket;
use crate::http1::{BadFraming, Heads, RequestHead};
use crate::http2::PREFACE;
use crate::websocket::ACCEPT_BYTES;

/// Pipelined requests that are answered by one send.
const BATCH_MAX: usize = 16;
/// Larger answers are sent one by one.
const BATCH_BYTES_MAX: usize = 64 * 1024;
/// So much of an answer is encrypted at a time.
const SECURE_BYTES_MAX: usize = 256 * 1024;
/// By these a client of HTTP/2 is told from others.
const PREFACE_BEGIN_BYTES: usize = 4;
/// A client that takes longer for its handshake is gone.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
const BAD_REQUEST: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// What all connections of a thread to one address share.
pub(super) struct Http {
    answers: Answers,
    answers2: Answers2,
    heads: RefCell<Heads<RequestHead>>,
    counter: RefCell<Counter>,
    drain: Rc<Drain>,
    /// How connections are secured, where they are.
    tls: Option<Arc<ServerConfig>>,
}

impl Http {
    pub(super) fn new(
        name: &str,
        body: usize,
        counter: Counter,
        drain: Rc<Drain>,
        tls: Option<Arc<ServerConfig>>,
    ) -> Self {
        Self {
            answers: Answers::new(name, body),
            answers2: Answers2::new(name, body),
            heads: RefCell::new(Heads::new()),
            counter: RefCell::new(counter),
            drain,
            tls,
        }
    }

    /// Serves the listener until the drain begins.
    pub(super) async fn serve(self: Rc<Self>, listener: TcpListener) {
        while let Some(stream) = self.drain.accept(&listener).await {
            let (http, open) = (Rc::clone(&self), self.drain.open());
            rt::spawn(async move {
                let _open = open;
                // A client that goes away needs no answer, and there is nobody to tell.
                let _ = http.serve_connection(stream).await;
            });
        }
    }

    /// The answers for HTTP/2.
    pub(super) const fn answers2(&self) -> &Answers2 {
        &self.answers2
    }

    /// Whether connections are to end with what is under way.
    pub(super) fn is_draining(&self) -> bool {
        self.drain.has_begun()
    }

    /// What becomes of one more request.
    pub(super) fn turn(&self) -> Turn {
        self.counter.borrow_mut().turn(rt::now_precise)
    }

    async fn serve_connection(self: &Rc<Self>, stream: TcpStream) -> io::Result<()> {
        let stream = match &self.tls {
            None => Stream::Plain(stream),
            Some(config) => {
                let mut name = None;
                let handshake = TlsStream::accept(stream, Arc::clone(config), &mut name);
                let done = rt::timeout(HANDSHAKE_TIMEOUT, handshake).await;
                Stream::Tls(done.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?)
            }
        };
        let input = stream.recv().await?;
        if input.first_chunk() == PREFACE.first_chunk::<PREFACE_BEGIN_BYTES>() {
            return http2::serve(self, stream, input).await;
        }
        Connection::new(self, stream, input).serve().await
    }
}

/// The bytes that are sent, ready.
struct Answers {
    /// `BATCH_MAX` answers to pipelined requests, if they are small enough, else one.
    batch: Chunk,
    /// Bytes of one answer.
    answer_bytes: usize,
    /// Bytes of its head.
    head_bytes: usize,
    /// The answer that ends the connection.
    last: Chunk,
    /// Bytes of its head.
    last_head_bytes: usize,
    /// The answer to a request that fails.
    failure: Chunk,
    /// The same, ending the connection.
    last_failure: Chunk,
    /// The answer to an upgrade, but for what shows that it was understood.
    upgrade: Vec<u8>,
}

impl Answers {
    fn new(name: &str, body_bytes: usize) -> Self {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {body_bytes}\r\n\
             X-Origin: {name}\r\n"
        );
        let failure = format!(
            "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nX-Origin: {name}\r\n"
        );
        let ending = |text: &str| Chunk::from_vec(format!("{failure}{text}\r\n").into_bytes());
        let body = body_of(name, body_bytes);
        let keep = [head.as_bytes(), b"\r\n", &body].concat();
        let last = [head.as_bytes(), b"Connection: close\r\n\r\n", &body].concat();
        let batch = if keep.len() * BATCH_MAX <= BATCH_BYTES_MAX {
            BATCH_MAX
        } else {
            1
        };
        Self {
            answer_bytes: keep.len(),
            head_bytes: keep.len() - body.len(),
            batch: Chunk::from_vec(keep.repeat(batch)),
            last_head_bytes: last.len() - body.len(),
            last: Chunk::from_vec(last),
            failure: ending(""),
            last_failure: ending("Connection: close\r\n"),
            upgrade: format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 X-Origin: {name}\r\nSec-WebSocket-Accept: "
            )
            .into_bytes(),
        }
    }

    /// `count` whole answers, or fewer if a batch holds fewer; how many they are.
    fn several(&self, count: usize) -> (Chunk, usize) {
        let count = count.min(self.batch.len() / self.answer_bytes);
        (prefix(&self.batch, count * self.answer_bytes), count)
    }

    fn one(&self, request: &RequestHead) -> Chunk {
        match (request.keep_alive, request.is_head) {
            (true, true) => prefix(&self.batch, self.head_bytes),
            (true, false) => prefix(&self.batch, self.answer_bytes),
            (false, true) => prefix(&self.last, self.last_head_bytes),
            (false, false) => self.last.share(),
        }
    }
}

/// The origin's name over and over, as far as it fits; text, so that `curl` shows it well.
pub(crate) fn body_of(name: &str, bytes: usize) -> Vec<u8> {
    format!("{name}\n").bytes().cycle().take(bytes).collect()
}

fn prefix(chunk: &Chunk, bytes: usize) -> Chunk {
    let mut chunk = chunk.share();
    chunk.truncate(bytes);
    chunk
}

struct Connection<'http> {
    http: &'http Http,
    stream: Stream,
    /// What was received and not looked at yet.
    input: Chunk,
    /// The beginning of a head that came in pieces.
    partial: Vec<u8>,
    /// Requests that were read but not answered; their answers go out by one send.
    owed: usize,
}

/// Why there is no further request.
enum End {
    /// The client has ended its side.
    Closed,
    /// The client sent what is no HTTP/1.1.
    Malformed,
    /// The connection broke.
    Broken,
}

impl<'http> Connection<'http> {
    const fn new(http: &'http Http, stream: Stream, input: Chunk) -> Self {
        Self {
            http,
            stream,
            input,
            partial: Vec::new(),
            owed: 0,
        }
    }

    async fn serve(mut self) -> io::Result<()> {
        loop {
            match self.next_request().await {
                Ok(request) if self.may_wait(&request) => self.owed += 1,
                Ok(RequestHead {
                    websocket: Some(accept),
                    ..
                }) => return self.upgrade(&accept).await,
                Ok(mut request) => {
                    request.keep_alive &= !self.http.is_draining();
                    self.pay().await?;
                    self.answer(&request).await?;
                    if !request.keep_alive {
                        break;
                    }
                }
                Err(End::Closed) => break,
                Err(End::Broken) => return Ok(()),
                Err(End::Malformed) => {
                    self.pay().await?;
                    self.stream.send(Chunk::from_static(BAD_REQUEST)).await?;
                    break;
                }
            }
        }
        poll_fn(|cx| self.stream.poll_shutdown(cx)).await
    }

    /// The next request, its body skipped.
    async fn next_request(&mut self) -> Result<RequestHead, End> {
        let mut request = self.next_head().await?;
        if request.expects_continue && !request.body.is_done() && self.input.is_empty() {
            self.pay().await?;
            self.stream.send(Chunk::from_static(CONTINUE)).await?;
        }
        while !request.body.is_done() {
            if self.input.is_empty() {
                self.receive().await?;
            }
            let taken = request.body.skip(&self.input)?;
            self.input.advance(taken);
        }
        Ok(request)
    }

    async fn next_head(&mut self) -> Result<RequestHead, End> {
        loop {
            if self.input.is_empty() {
                self.receive().await?;
            }
            let known = self.partial.len();
            let mut heads = self.http.heads.borrow_mut();
            let head = if known == 0 {
                heads.read(&self.input)?
            } else {
                self.partial.extend_from_slice(&self.input);
                heads.read(&self.partial)?
            };
            if let Some((length, request)) = head {
                self.input.advance(length - known);
                self.partial.clear();
                return Ok(*request);
            }
            if known == 0 {
                self.partial.extend_from_slice(&self.input);
            }
            self.input = Chunk::empty();
        }
    }

    /// Waits for input; before that, sends what is owed.
    async fn receive(&mut self) -> Result<(), End> {
        self.pay().await?;
        self.input = self.stream.recv().await?;
        if self.input.is_empty() {
            Err(End::Closed)
        } else {
            Ok(())
        }
    }

    /// True if the answer may go out together with those of the requests that follow.
    fn may_wait(&self, request: &RequestHead) -> bool {
        let is_plain = request.keep_alive && !request.is_head && request.websocket.is_none();
        is_plain && !self.http.is_draining() && self.http.counter.borrow().is_idle()
    }

    async fn pay(&mut self) -> io::Result<()> {
        while self.owed > 0 {
            let (answers, count) = self.http.answers.several(self.owed);
            self.owed -= count;
            self.send(answers).await?;
        }
        Ok(())
    }

    /// Sends an answer; over TLS a piece at a time, as each is encrypted as a whole.
    async fn send(&self, mut answer: Chunk) -> io::Result<()> {
        let is_secure = matches!(self.stream, Stream::Tls(_));
        while is_secure && answer.len() > SECURE_BYTES_MAX {
            self.stream.send(answer.split_to(SECURE_BYTES_MAX)).await?;
        }
        self.stream.send(answer).await
    }

    /// Goes over to speaking by WebSocket.
    async fn upgrade(mut self, accept: &[u8; ACCEPT_BYTES]) -> io::Result<()> {
        self.pay().await?;
        let answer = [&*self.http.answers.upgrade, accept, b"\r\n\r\n"].concat();
        self.stream.send(Chunk::from_vec(answer)).await?;
        websocket::serve(self.http, &self.stream, self.input).await
    }

    async fn answer(&self, request: &RequestHead) -> io::Result<()> {
        let turn = self.http.turn();
        if let Some(at) = turn.at {
            rt::sleep_until_precise(at).await;
        }
        let answers = &self.http.answers;
        let answer = match (turn.fate, request.keep_alive) {
            (Fate::Answered, _) => answers.one(request),
            (Fate::Failed, true) => answers.failure.share(),
            (Fate::Failed, false) => answers.last_failure.share(),
            (Fate::Reset, _) => return reset(&self.stream),
        };
        self.send(answer).await
    }
}

/// Has the connection reset.
///
/// # Errors
/// Always, so that it ends here.
pub(super) fn reset(stream: &Stream) -> io::Result<()> {
    stream.tcp().reset_on_drop();
    Err(io::ErrorKind::ConnectionReset.into())
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Broken
    }
}

impl From<httparse::Error> for End {
    fn from(_: httparse::Error) -> Self {
        Self::Malformed
    }
}

impl From<BadFraming> for End {
    fn from(_: BadFraming) -> Self {
        Self::Malformed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_cut_from_what_is_ready() {
        let answers = Answers::new("a", 5);
        let head =
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\nX-Origin: a\r\n";
        let whole = format!("{head}\r\na\na\na");
        let (three, count) = answers.several(3);
        assert_eq!((&*three, count), (whole.repeat(3).as_bytes(), 3));
        assert_eq!(answers.several(BATCH_MAX + 1).1, BATCH_MAX);
        let request = RequestHead {
            is_head: true,
            body: crate::http1::Body::NONE,
            keep_alive: true,
            expects_continue: false,
            websocket: None,
        };
        assert_eq!(&*answers.one(&request), format!("{head}\r\n").as_bytes());
        let last = RequestHead {
            is_head: false,
            keep_alive: false,
            ..request
        };
        let closing = format!("{head}Connection: close\r\n\r\na\na\na");
        assert_eq!(&*answers.one(&last), closing.as_bytes());
    }

    #[test]
    fn large_answers_are_sent_one_by_one() {
        let answers = Answers::new("a", 1 << 20);
        let (chunk, count) = answers.several(5);
        assert_eq!((chunk.len(), count), (answers.answer_bytes, 1));
    }
}
