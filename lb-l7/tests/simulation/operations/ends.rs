//! The ends of connections that a script plays: all that one has received is kept, and what it has
//! to send goes when the script says so.
//!
//! Read next: `checks.rs` (what is looked at), `messages.rs`.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use lb_core::rt::{self, Chunk, TcpStream};

use super::messages::{request, write_body};
use super::script::{Framing, Request, Response};
use crate::wire::content;

/// A request that a client was given to send.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) client: usize,
    pub(crate) request: Request,
    /// Where what the client sends goes on behind it.
    pub(crate) end: usize,
    /// Whether the client's bytes up to here are all requests of ours.
    pub(crate) is_sure: bool,
}

impl Asked {
    pub(crate) fn content(&self, number: usize) -> Vec<u8> {
        content(number as u64, self.request.body)
    }

    /// Whether a backend may get it twice (RFC 9110 section 9.2.2).
    pub(crate) fn may_be_repeated(&self) -> bool {
        !matches!(self.request.method, "POST" | "PATCH")
    }
}

/// The content of the response to request `number`.
pub(crate) fn answer_content(number: usize, len: usize) -> Vec<u8> {
    content(!(number as u64), len)
}

/// One end of a connection.
#[derive(Default)]
pub(crate) struct End {
    /// All that was received.
    pub(crate) received: RefCell<Vec<u8>>,
    /// All that is to be sent, or was.
    pub(crate) written: RefCell<Vec<u8>>,
    /// How much of it may be sent, and has been.
    released: Cell<usize>,
    sent: Cell<usize>,
    will: Cell<Will>,
    reads_not: Cell<bool>,
    is_over: Cell<bool>,
    /// Whether it was given bytes that are none of ours.
    pub(crate) is_raw: Cell<bool>,
    /// The other end has ended its direction, in order.
    pub(crate) is_ended: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// What follows what was released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Will {
    #[default]
    More,
    Finish,
    Finished,
    Close,
    Reset,
}

impl End {
    pub(crate) fn start(stream: TcpStream) -> Rc<Self> {
        Self::start_later(async { Ok(stream) })
    }

    /// An end of a connection that is still to be made.
    pub(crate) fn start_later(
        stream: impl Future<Output = io::Result<TcpStream>> + 'static,
    ) -> Rc<Self> {
        let end = Rc::new(Self::default());
        let own = Rc::clone(&end);
        rt::spawn(async move {
            if let Ok(stream) = stream.await {
                poll_fn(|cx| own.poll(&stream, cx)).await;
                if own.will.get() == Will::Reset {
                    stream.reset();
                }
            }
            own.is_over.set(true);
        });
        end
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.get() || matches!(self.will.get(), Will::Close | Will::Reset)
    }

    /// Puts bytes behind all that is to be sent; not behind an end.
    pub(crate) fn push_raw(&self, bytes: &[u8]) {
        if self.will.get() == Will::More {
            self.written.borrow_mut().extend_from_slice(bytes);
        }
    }

    /// Lets up to `most` bytes go.
    pub(crate) fn release(&self, most: usize) {
        let all = self.written.borrow().len();
        self.released
            .set(self.released.get().saturating_add(most).min(all));
        self.wake();
    }

    /// Ends this direction behind what was released.
    pub(crate) fn finish(&self) {
        if self.will.get() == Will::More {
            self.turn_to(Will::Finish);
        }
    }

    pub(crate) fn close(&self) {
        if self.will.get() != Will::Reset {
            self.turn_to(Will::Close);
        }
    }

    pub(crate) fn reset(&self) {
        self.turn_to(Will::Reset);
    }

    pub(crate) fn set_reads(&self, reads: bool) {
        self.reads_not.set(!reads);
        self.wake();
    }

    fn turn_to(&self, will: Will) {
        self.will.set(will);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Ready when the connection is over for this end.
    fn poll(&self, stream: &TcpStream, cx: &mut Context<'_>) -> Poll<()> {
        *self.waker.borrow_mut() = Some(cx.waker().clone());
        if self.will.get() == Will::Reset || self.poll_send(stream, cx).is_ready() {
            return Poll::Ready(());
        }
        while !self.reads_not.get() && !self.is_ended.get() {
            match stream.poll_recv(cx) {
                Poll::Pending => break,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(chunk)) => {
                    self.is_ended.set(chunk.is_empty());
                    self.received.borrow_mut().extend_from_slice(&chunk);
                }
            }
        }
        Poll::Pending
    }

    /// Ready when nothing more can come of it.
    fn poll_send(&self, stream: &TcpStream, cx: &mut Context<'_>) -> Poll<()> {
        while self.sent.get() < self.released.get() {
            let written = self.written.borrow();
            let piece = &written[self.sent.get()..self.released.get()];
            let piece = Chunk::from_vec(piece[..piece.len().min(10_000)].to_vec());
            let len = piece.len();
            match stream.poll_send(cx, &mut [Some(piece), None]) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) => self.sent.set(self.sent.get() + len),
            }
        }
        match self.will.get() {
            Will::Finish => match stream.poll_shutdown(cx) {
                Poll::Ready(Ok(())) => {
                    self.will.set(Will::Finished);
                    Poll::Pending
                }
                other => other.map(drop),
            },
            Will::Close => stream.poll_flush(cx).map(drop),
            _ => Poll::Pending,
        }
    }
}

/// A client's end, and what was asked by it.
pub(crate) struct ClientEnd {
    pub(crate) end: Rc<End>,
    /// Its requests, by number.
    pub(crate) asked: Vec<usize>,
    /// Whether it was given bytes that are none of ours.
    pub(crate) is_raw: bool,
}

impl ClientEnd {
    pub(crate) const fn new(end: Rc<End>) -> Self {
        Self {
            end,
            asked: Vec::new(),
            is_raw: false,
        }
    }

    /// Gives it a request to send.
    pub(crate) fn ask(&mut self, number: usize, client: usize, request: &Request) -> Asked {
        let version = if request.is_http10 { "1.0" } else { "1.1" };
        let framing = match request.framing {
            Framing::Length => format!("Content-Length: {}\r\n", request.body),
            Framing::Chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
            Framing::None | Framing::Close => String::new(),
        };
        let connection = match (request.upgrades, request.closes, request.is_http10) {
            (true, _, _) => "Connection: upgrade\r\nUpgrade: tunnel\r\n",
            (_, true, _) => "Connection: close\r\n",
            (_, _, true) => "Connection: keep-alive\r\n",
            _ => "",
        };
        let expect = match request.expects {
            true => "Expect: 100-continue\r\n",
            false => "",
        };
        let head = format!(
            "{} /{number} HTTP/{version}\r\nHost: sim.example\r\nX-Id: {number}\r\nX-Filler: {}\r\n\
             {connection}{expect}{framing}\r\n",
            request.method,
            "f".repeat(request.filler),
        );
        let mut bytes = head.into_bytes();
        write_body(
            &mut bytes,
            &content(number as u64, request.body),
            request.framing,
        );
        self.end.push_raw(&bytes);
        self.asked.push(number);
        Asked {
            client,
            request: *request,
            end: self.end.written.borrow().len(),
            is_sure: !self.is_raw,
        }
    }
}

/// A backend's end of one connection.
pub(crate) struct BackendEnd {
    pub(crate) end: Rc<End>,
    /// Where the request begins that was answered last.
    answered_at: Option<usize>,
    /// For each that is ours: its number, and framing and length of the body.
    answers: Vec<(usize, Framing, usize)>,
    /// Where what is behind a 101 begins.
    pub(crate) switched_at: Option<usize>,
}

impl BackendEnd {
    pub(crate) const fn new(end: Rc<End>) -> Self {
        Self {
            end,
            answered_at: None,
            answers: Vec::new(),
            switched_at: None,
        }
    }

    /// What was answered of ours: number, framing and announced length.
    pub(crate) fn answers(&self) -> impl Iterator<Item = (usize, Framing, usize)> + '_ {
        self.answers.iter().copied()
    }

    /// Answers the next request if there is one; false if there is none.
    pub(crate) fn answer(&mut self, asked: &[Asked], response: &Response) -> bool {
        if self.switched_at.is_some() {
            return false;
        }
        let received = self.end.received.borrow();
        // Behind what was answered early, and is not whole, there is no next one yet.
        let at = match self.answered_at.and_then(|at| request(&received, at)) {
            Some(last) if !last.is_whole => return false,
            last => last.map_or(0, |it| it.end),
        };
        let Some(request) = request(&received, at) else {
            return false;
        };
        let switches = response.status == 101;
        let number = request.number().filter(|it| *it < asked.len());
        let id = number.map_or_else(String::new, |it| format!("X-Id: {it}\r\n"));
        let mut bytes = Vec::new();
        if let Some(status) = response.interim {
            bytes.extend_from_slice(format!("HTTP/1.1 {status} Interim\r\n\r\n").as_bytes());
        }
        let framing = match response.framing {
            _ if switches => "Connection: upgrade\r\nUpgrade: tunnel\r\n".to_owned(),
            Framing::Chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
            Framing::Length => format!("Content-Length: {}\r\n", response.body),
            Framing::None | Framing::Close => String::new(),
        };
        let connection = if response.closes && !switches {
            "Connection: close\r\n"
        } else {
            ""
        };
        let head = format!(
            "HTTP/1.1 {} Ok\r\n{id}{connection}{framing}\r\n",
            response.status
        );
        bytes.extend_from_slice(head.as_bytes());
        self.answered_at = Some(at);
        let has_body = request.method() != "HEAD" && !matches!(response.status, 101 | 204 | 304);
        if let Some(number) = number.filter(|_| has_body) {
            let body = answer_content(number, response.body);
            self.answers.push((number, response.framing, response.body));
            let mut framed = Vec::new();
            write_body(&mut framed, &body, response.framing);
            if response.is_short {
                framed.truncate(framed.len() / 2);
            }
            bytes.extend_from_slice(&framed);
        }
        // Behind a body that only a close ends, nothing is behind it.
        if response.extra && !switches && response.framing != Framing::Close {
            bytes.extend_from_slice(b"HTTP/1.1 200 Stray\r\nContent-Length: 5\r\n\r\nstray");
        }
        let has_upgrade = request.field("upgrade").is_some();
        drop(received);
        self.end.push_raw(&bytes);
        if switches && has_upgrade {
            self.switched_at = Some(self.end.written.borrow().len());
        }
        true
    }
}
