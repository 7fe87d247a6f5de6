//! HTTP/2 from the origin's side: the same answers, and gRPC calls that echo their messages.
//!
//! Invariant: an answer begins when its request is complete, and goes out with those of the
//! requests that came along with it.
//! Read next: `../http2/wire.rs`, `http.rs` (the same over HTTP/1.1).

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;

use lb_core::rt::{self, Chunk};
use lb_l7::stream::Stream;

use super::http::{Http, body_of};
use super::service::{Fate, Turn};
use crate::http2::{
    Broken, End, Event, Outgoing, PREFACE, Side, Wire, drive, indexed, kind, literal,
};

/// The static table's entry for `:status: 200`.
const STATUS_200: usize = 8;
/// NO_ERROR and INTERNAL_ERROR (RFC 9113 §7).
const NO_ERROR: u32 = 0;
const INTERNAL_ERROR: u32 = 2;
/// Bytes of a gRPC call that are echoed.
const CALL_BYTES_MAX: usize = 16 << 20;

/// Header blocks and bodies, ready.
pub(super) struct Answers2 {
    ok: Vec<u8>,
    body: Chunk,
    failure: Vec<u8>,
    call: Vec<u8>,
    failed_call: Vec<u8>,
    trailers: &'static [u8],
}

/// What a request says, as far as it matters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Meaning {
    is_head: bool,
    is_call: bool,
}

struct Served {
    http: Rc<Http>,
    wire: Wire<Meaning>,
    /// Requests whose end has not come, with what has come of calls.
    open: HashMap<u32, (Meaning, Vec<u8>)>,
    /// What is left of the client's preface.
    preface: &'static [u8],
    /// The client knows that it is to ask elsewhere.
    has_said_goodbye: bool,
    /// Answers that are due later.
    delayed: Vec<(u32, Meaning, Vec<u8>, Turn)>,
}

impl Answers2 {
    pub(super) fn new(name: &str, body_bytes: usize) -> Self {
        let mut ok = Vec::new();
        indexed(STATUS_200, &mut ok);
        let mut call = ok.clone();
        literal("content-type", "text/plain", &mut ok);
        literal("content-length", &body_bytes.to_string(), &mut ok);
        literal("x-origin", name, &mut ok);
        literal("content-type", "application/grpc", &mut call);
        literal("x-origin", name, &mut call);
        let mut failure = Vec::new();
        literal(":status", "503", &mut failure);
        literal("x-origin", name, &mut failure);
        let mut failed_call = call.clone();
        literal("grpc-status", "14", &mut failed_call);
        let mut trailers = Vec::new();
        literal("grpc-status", "0", &mut trailers);
        Self {
            ok,
            body: Chunk::from_vec(body_of(name, body_bytes)),
            failure,
            call,
            failed_call,
            // As long as the origin, of which there are few.
            trailers: trailers.leak(),
        }
    }
}

/// Serves one connection to its end; `input` is what was received already.
pub(super) async fn serve(http: &Rc<Http>, stream: Stream, input: Chunk) -> io::Result<()> {
    let served = Rc::new(RefCell::new(Served {
        http: Rc::clone(http),
        wire: Wire::new(&[]),
        open: HashMap::new(),
        preface: PREFACE,
        has_said_goodbye: false,
        delayed: Vec::new(),
    }));
    let invalid = |Broken(why)| io::Error::new(io::ErrorKind::InvalidData, why);
    served.borrow_mut().on_received(&input).map_err(invalid)?;
    drop(input);
    let side = Driven(Rc::clone(&served));
    drive(&stream, &RefCell::new(side)).await
}

/// The side, and the tasks that answer later.
struct Driven(Rc<RefCell<Served>>);

impl Served {
    fn on_received(&mut self, mut bytes: &[u8]) -> Result<(), Broken> {
        let said = self.preface.len().min(bytes.len());
        if bytes[..said] != self.preface[..said] {
            return Err(Broken("a client that says something else first"));
        }
        (self.preface, bytes) = (&self.preface[said..], &bytes[said..]);
        if self.http.is_draining() && !self.has_said_goodbye {
            self.has_said_goodbye = true;
            // No request is refused by this (RFC 9113 §6.8): the client opens no further ones.
            let goodbye = [0x7fff_ffff_u32.to_be_bytes(), NO_ERROR.to_be_bytes()].concat();
            self.wire.outgoing.frame(kind::GOAWAY, 0, 0, &goodbye);
        }
        let Self {
            http,
            wire,
            open,
            delayed,
            ..
        } = self;
        wire.feed(bytes, Meaning::read, |outgoing, stream, event, is_end| {
            match event {
                Event::Headers { meaning, .. } => {
                    // A second block holds trailers.
                    open.entry(stream).or_insert((meaning, Vec::new()));
                }
                Event::Data(data) => {
                    if let Some((meaning, kept)) = open.get_mut(&stream)
                        && meaning.is_call
                        && kept.len() + data.len() <= CALL_BYTES_MAX
                    {
                        kept.extend_from_slice(data);
                    }
                }
                Event::Reset(_) => {
                    open.remove(&stream);
                    outgoing.forget(stream);
                    return Ok(());
                }
                Event::GoAway | Event::Settings => return Ok(()),
            }
            if !is_end {
                return Ok(());
            }
            let Some((meaning, kept)) = open.remove(&stream) else {
                return Ok(());
            };
            let turn = http.turn();
            if turn.at.is_some() {
                delayed.push((stream, meaning, kept, turn));
            } else {
                answer(http.answers2(), outgoing, stream, &meaning, kept, turn.fate);
            }
            Ok(())
        })
    }
}

fn answer(
    answers: &Answers2,
    outgoing: &mut Outgoing,
    stream: u32,
    meaning: &Meaning,
    message: Vec<u8>,
    fate: Fate,
) {
    let is_empty_call = meaning.is_call && message.is_empty();
    match (fate, meaning) {
        (Fate::Failed, Meaning { is_call: true, .. }) => {
            outgoing.headers(stream, &answers.failed_call, true);
        }
        (Fate::Failed, _) => outgoing.headers(stream, &answers.failure, true),
        (fate, _) if fate == Fate::Reset || is_empty_call => {
            outgoing.frame(kind::RST_STREAM, 0, stream, &INTERNAL_ERROR.to_be_bytes());
        }
        (_, Meaning { is_call: true, .. }) => {
            outgoing.headers(stream, &answers.call, false);
            let end = End::Trailers(answers.trailers);
            outgoing.body(stream, Chunk::from_vec(message), end);
        }
        (_, Meaning { is_head, .. }) => {
            let is_end = *is_head || answers.body.is_empty();
            outgoing.headers(stream, &answers.ok, is_end);
            if is_end {
                outgoing.ended(stream);
            } else {
                outgoing.body(stream, answers.body.share(), End::WithData);
            }
        }
    }
}

impl Side for Driven {
    fn on_received(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        self.0.borrow_mut().on_received(bytes)?;
        let delayed = std::mem::take(&mut self.0.borrow_mut().delayed);
        for (stream, meaning, message, turn) in delayed {
            let served = Rc::clone(&self.0);
            rt::spawn(async move {
                if let Some(at) = turn.at {
                    rt::sleep_until_precise(at).await;
                }
                let mut served = served.borrow_mut();
                let Served { http, wire, .. } = &mut *served;
                let outgoing = &mut wire.outgoing;
                answer(
                    http.answers2(),
                    outgoing,
                    stream,
                    &meaning,
                    message,
                    turn.fate,
                );
                outgoing.wake();
            });
        }
        Ok(())
    }

    fn with_outgoing<R>(&mut self, f: impl FnOnce(&mut Outgoing) -> R) -> R {
        f(&mut self.0.borrow_mut().wire.outgoing)
    }
}

impl Meaning {
    fn read(&mut self, name: &[u8], value: &[u8]) {
        match name {
            b":method" => self.is_head = value == b"HEAD",
            b"content-type" => self.is_call = value.starts_with(b"application/grpc"),
            _ => {}
        }
    }
}
