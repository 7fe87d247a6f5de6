//! HTTP/2 from the client's side: a connection that several requests share, and their exchanges.
//!
//! Invariant: an answer counts only if its status is 2xx, its body ended with its stream, and, for
//! gRPC, what came back is what was sent and the call's status is 0. What a server says that it
//! has not processed is sent again elsewhere, as any client would.
//! Read next: `../http2/wire.rs`.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use lb_core::rt::{self, Chunk, Notify, TaskId};
use lb_l7::stream::Stream;

use super::config::{Config, Grpc};
use super::connection::Answer;
use super::recorder::{Failure, OriginId, Recorder};
use super::verify::Bodies;
use crate::http2::{Broken, End, Event, Outgoing, PREFACE, Side, Template, Wire, drive, kind};

/// Codes of RFC 9113 §7.
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;
/// Streams of a connection, so that their numbers never end; then it is replaced.
const STREAM_MAX: u32 = 0x7fff_0000;

/// What all connections of a thread send.
pub(super) struct Http2 {
    template: Template,
    body: Chunk,
    /// Whether the body has to come back.
    grpc: Option<Grpc>,
    verify: bool,
    is_head: bool,
}

/// What a header block says, as far as it matters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Meaning {
    status: Option<u16>,
    grpc_status: Option<u32>,
    origin: Option<Rc<str>>,
}

/// One connection; requests may share it.
pub(super) struct Session {
    shared: Rc<RefCell<Shared>>,
    driver: TaskId,
    /// Somebody waits for a stream to end, as there may not be more.
    room: Rc<Notify>,
    next_stream: Cell<u32>,
}

struct Shared {
    wire: Wire<Meaning>,
    calls: Vec<Call>,
    /// The settings have come: requests may be sent.
    is_open: bool,
    /// No further requests.
    is_over: bool,
    opened: Rc<Notify>,
    room: Rc<Notify>,
    /// What has to come back of a call.
    echo: Option<Chunk>,
    /// What bodies have to be, where that is looked at.
    bodies: Option<Bodies>,
    /// Bytes of data since the recorder was told.
    streamed: u64,
}

/// A request under way.
struct Call {
    stream: u32,
    answer: Received,
    state: State,
    waiting: Option<Waker>,
}

#[derive(Debug, Clone, Default)]
struct Received {
    meaning: Meaning,
    bytes: u64,
    data: usize,
    differs: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    UnderWay,
    Answered,
    Failed(Failure),
    /// Not processed: it may be sent again.
    Refused,
}

impl Http2 {
    pub(super) fn new(config: &Config) -> Self {
        let http = &config.http;
        let mut fields = vec![
            (":method".to_owned(), config.method().to_owned()),
            (
                ":scheme".to_owned(),
                if config.url.scheme.is_secure() {
                    "https"
                } else {
                    "http"
                }
                .to_owned(),
            ),
            (":path".to_owned(), config.url.path.clone()),
        ];
        let named = |(name, _): &&(String, String)| name.eq_ignore_ascii_case("host");
        let host = http.headers.iter().find(named);
        let authority = host.map_or(&config.url.authority, |(_, value)| value);
        fields.push((":authority".to_owned(), authority.clone()));
        for field in http.headers.iter().filter(|field| !named(field)) {
            fields.push((field.0.to_ascii_lowercase(), field.1.clone()));
        }
        let body = match config.grpc {
            None => vec![b'x'; http.body],
            Some(grpc) => {
                fields.push(("content-type".to_owned(), "application/grpc".to_owned()));
                fields.push(("te".to_owned(), "trailers".to_owned()));
                grpc.body()
            }
        };
        if config.grpc.is_none() && !body.is_empty() {
            fields.push(("content-length".to_owned(), body.len().to_string()));
        }
        Self {
            template: Template::new(&fields),
            body: Chunk::from_vec(body),
            grpc: config.grpc,
            verify: http.verify,
            is_head: http.method == "HEAD",
        }
    }

    /// Begins to speak on a new connection, and waits for what the server allows.
    pub(super) async fn open(&self, stream: Stream) -> Result<Session, Failure> {
        let (opened, room) = (Rc::new(Notify::new()), Rc::new(Notify::new()));
        let shared = Rc::new(RefCell::new(Shared {
            wire: Wire::new(PREFACE),
            calls: Vec::new(),
            is_open: false,
            is_over: false,
            opened: Rc::clone(&opened),
            room: Rc::clone(&room),
            echo: self.grpc.map(|_| self.body.share()),
            bodies: self.verify.then(Bodies::default),
            streamed: 0,
        }));
        let driven = Rc::clone(&shared);
        let driver = rt::spawn(async move {
            // Why it ended is what its calls are told.
            let broken = drive(&stream, &driven).await.is_err();
            driven.borrow_mut().end(broken);
        });
        let session = Session {
            shared,
            driver,
            room,
            next_stream: Cell::new(1),
        };
        while !session.shared.borrow().is_open {
            if session.is_over() {
                return Err(Failure::Reset);
            }
            opened.notified().await;
        }
        Ok(session)
    }

    /// Makes one request; `None` if the server has not processed it and wants it sent again.
    pub(super) async fn exchange(
        &self,
        session: &Session,
        recorder: &RefCell<Recorder>,
    ) -> Option<Result<Answer, Failure>> {
        let call = session.send(self).await?;
        let (state, received) = call.ended().await;
        drop(call);
        let streamed = std::mem::take(&mut session.shared.borrow_mut().streamed);
        recorder.borrow_mut().stream(streamed);
        match state {
            State::Refused => None,
            State::Failed(failure) => Some(Err(failure)),
            State::UnderWay | State::Answered => Some(self.judge(&received, recorder)),
        }
    }

    fn judge(&self, received: &Received, recorder: &RefCell<Recorder>) -> Result<Answer, Failure> {
        let status = received.meaning.status.ok_or(Failure::BadBody)?;
        let is_echo = self.grpc.is_some() && received.meaning.grpc_status == Some(0);
        let is_good = (200..300).contains(&status) && (self.grpc.is_none() || is_echo);
        if is_echo && (received.differs || received.data != self.body.len()) {
            return Err(Failure::Mismatch);
        }
        let is_wrong = is_good && self.grpc.is_none() && received.differs;
        if self.is_head && received.data > 0 {
            return Err(Failure::BadBody);
        }
        let origin: Option<OriginId> = received
            .meaning
            .origin
            .as_deref()
            .map(|name| recorder.borrow_mut().origin(name));
        let failure = if is_good {
            is_wrong.then_some(Failure::Body)
        } else {
            Some(Failure::Status)
        };
        Ok(Answer {
            failure,
            bytes: received.bytes,
            origin,
            keep_alive: true,
        })
    }
}

impl Session {
    /// Whether it takes no further requests.
    pub(super) fn is_over(&self) -> bool {
        self.shared.borrow().is_over
    }

    /// Whether one more request can be sent, or none ever again.
    fn has_room(&self) -> bool {
        let shared = self.shared.borrow();
        shared.is_over || shared.calls.len() < shared.wire.streams_max
    }

    /// Sends a request when there is room for one; `None` if the session is over.
    async fn send(&self, http: &Http2) -> Option<Ticket<'_>> {
        while !self.has_room() {
            self.room.notified().await;
        }
        if self.is_over() {
            return None;
        }
        let mut shared = self.shared.borrow_mut();
        let stream = self.next_stream.get();
        self.next_stream.set(stream + 2);
        let block = match (shared.wire.keeps_fields, stream) {
            (false, _) => &http.template.plain,
            (true, 1) => &http.template.first,
            (true, _) => &http.template.next,
        };
        let outgoing = &mut shared.wire.outgoing;
        outgoing.headers(stream, block, http.body.is_empty());
        if !http.body.is_empty() {
            outgoing.body(stream, http.body.share(), End::WithData);
        }
        outgoing.wake();
        shared.is_over |= stream >= STREAM_MAX;
        shared.calls.push(Call {
            stream,
            answer: Received::default(),
            state: State::UnderWay,
            waiting: None,
        });
        Some(Ticket {
            session: self,
            stream,
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        rt::abort(self.driver);
    }
}

/// A request under way, which is cancelled when nobody waits for it any more.
struct Ticket<'session> {
    session: &'session Session,
    stream: u32,
}

impl Ticket<'_> {
    /// Waits until it is answered or never will be.
    async fn ended(&self) -> (State, Received) {
        poll_fn(|cx| {
            let mut shared = self.session.shared.borrow_mut();
            let Some(call) = shared.call(self.stream) else {
                return Poll::Ready((State::Failed(Failure::Reset), Received::default()));
            };
            if call.state == State::UnderWay {
                match &mut call.waiting {
                    Some(waiting) => waiting.clone_from(cx.waker()),
                    None => call.waiting = Some(cx.waker().clone()),
                }
                return Poll::Pending;
            }
            Poll::Ready((call.state, std::mem::take(&mut call.answer)))
        })
        .await
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut shared = self.session.shared.borrow_mut();
        let Some(place) = shared
            .calls
            .iter()
            .position(|call| call.stream == self.stream)
        else {
            return;
        };
        let call = shared.calls.swap_remove(place);
        let is_over = shared.is_over;
        let outgoing = &mut shared.wire.outgoing;
        if call.state == State::UnderWay && !is_over {
            outgoing.forget(self.stream);
            outgoing.frame(kind::RST_STREAM, 0, self.stream, &CANCEL.to_be_bytes());
            outgoing.wake();
        }
        drop(shared);
        self.session.room.notify();
    }
}

impl Shared {
    fn call(&mut self, stream: u32) -> Option<&mut Call> {
        self.calls.iter_mut().find(|call| call.stream == stream)
    }

    /// The connection is gone.
    fn end(&mut self, broken: bool) {
        let failure = if broken {
            Failure::Reset
        } else {
            Failure::Short
        };
        self.is_over = true;
        for call in &mut self.calls {
            call.end(State::Failed(failure));
        }
        self.opened.notify();
        self.room.notify();
    }
}

impl Call {
    fn end(&mut self, state: State) {
        if self.state == State::UnderWay {
            self.state = state;
        }
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
    }

    /// What came on its stream.
    fn on_event(
        &mut self,
        event: Event<'_, Meaning>,
        is_end: bool,
        echo: Option<&Chunk>,
        bodies: Option<&mut Bodies>,
    ) {
        match event {
            Event::Headers { meaning, bytes } => {
                self.answer.bytes += bytes as u64;
                let known = &mut self.answer.meaning;
                // Interim answers (RFC 9110 §15.2) are followed by the final one.
                known.status = meaning.status.or(known.status);
                known.grpc_status = meaning.grpc_status.or(known.grpc_status);
                known.origin = meaning.origin.or_else(|| known.origin.take());
            }
            Event::Data(data) => {
                self.answer.bytes += data.len() as u64;
                let start = self.answer.data;
                self.answer.data += data.len();
                if let Some(echo) = echo {
                    let expected = echo.get(start..self.answer.data);
                    self.answer.differs |= expected != Some(data);
                }
                if let Some(bodies) = bodies {
                    self.answer.differs |= match &self.answer.meaning.origin {
                        Some(name) => !bodies.is_part(name, start, data),
                        None => !data.is_empty(),
                    };
                }
            }
            Event::Reset(REFUSED_STREAM) => return self.end(State::Refused),
            // After a whole answer it only says that the request need not be sent to its end.
            Event::Reset(_) => return self.end(State::Failed(Failure::Reset)),
            Event::GoAway | Event::Settings => return,
        }
        if is_end {
            self.end(State::Answered);
        }
    }
}

impl Side for Shared {
    fn on_received(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        let Self {
            wire,
            calls,
            is_open,
            is_over,
            opened,
            echo,
            bodies,
            streamed,
            ..
        } = self;
        wire.feed(bytes, Meaning::read, |outgoing, stream, event, is_end| {
            match &event {
                Event::Settings => {
                    *is_open = true;
                    opened.notify();
                    return Ok(());
                }
                Event::GoAway => {
                    *is_over = true;
                    for call in calls.iter_mut().filter(|call| call.stream > stream) {
                        call.end(State::Refused);
                    }
                    return Ok(());
                }
                Event::Data(data) => *streamed += data.len() as u64,
                Event::Headers { .. } | Event::Reset(_) => {}
            }
            if is_end {
                outgoing.forget(stream);
            }
            // What belongs to no call was cancelled.
            if let Some(call) = calls.iter_mut().find(|call| call.stream == stream) {
                call.on_event(event, is_end, echo.as_ref(), bodies.as_mut());
            }
            Ok(())
        })
    }

    fn with_outgoing<R>(&mut self, look: impl FnOnce(&mut Outgoing) -> R) -> R {
        look(&mut self.wire.outgoing)
    }
}

impl Meaning {
    fn read(&mut self, name: &[u8], value: &[u8]) {
        let text = || std::str::from_utf8(value).ok();
        match name {
            b":status" => self.status = text().and_then(|text| text.parse().ok()),
            b"grpc-status" => self.grpc_status = text().and_then(|text| text.parse().ok()),
            b"x-origin" => self.origin = text().map(Rc::from),
            _ => {}
        }
    }
}
