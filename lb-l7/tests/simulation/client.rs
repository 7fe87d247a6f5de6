//! A client: some requests on one connection, one after the other or pipelined, and a strict look
//! at what comes back.
//!
//! Invariant checked here: responses come in the order of the requests, each whole and its own; a
//! failure is one that the proxy may have.
//! Read next: `backend.rs` (the other side), `main.rs` (what is looked at in the end).

use crate::seeds::{Random, Weather};
use crate::wire::{Cut, Framing, Message, Wire, content, framed};
use crate::{Kind, Story, tunnel};
use lb_core::plan::HttpTimeouts;
use lb_core::rt::{self, TcpStream};
use std::net::SocketAddr;
use std::rc::Rc;

/// A request to be.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) id: u64,
    pub(crate) method: &'static str,
    body: usize,
    framing: Framing,
}

impl Request {
    /// The request with this id: the same for all who ask.
    pub(crate) fn of(seed: u64, id: u64) -> Self {
        let mut random = Random::new(seed ^ id.rotate_left(32));
        let method = ["GET", "GET", "HEAD", "POST", "POST", "PUT"][random.within(0..6) as usize];
        let framing = match method {
            "GET" | "HEAD" => Framing::None,
            _ if random.one_in(2) => Framing::Length,
            _ => Framing::Chunked,
        };
        let body = match framing {
            Framing::None => 0,
            // So long that it moves inside of the kernel, where nothing has to see it.
            Framing::Length if random.one_in(6) => 66_000 + random.skewed(18),
            _ => random.skewed(17),
        };
        Self {
            id,
            method,
            body,
            framing,
        }
    }

    pub(crate) fn may_be_repeated(&self) -> bool {
        self.method != "POST"
    }

    pub(crate) fn framing(&self) -> Framing {
        self.framing
    }

    pub(crate) fn has_body(&self) -> bool {
        self.framing != Framing::None
    }

    pub(crate) fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    pub(crate) fn content(&self) -> Vec<u8> {
        content(self.id, self.body)
    }

    /// Whether the client waits to be told to send the body.
    pub(crate) fn expects(&self, kind: Kind) -> bool {
        kind == Kind::Expecting && self.body > 0 && !self.id.is_multiple_of(4)
    }

    /// Whether the client asks for another protocol.
    pub(crate) fn upgrades(&self, kind: Kind) -> bool {
        kind == Kind::Upgrading && self.method == "GET"
    }

    /// Whether the proxy holds all of it until it is answered.
    fn is_held(&self, kind: Kind) -> bool {
        !self.has_body() || (kind == Kind::Buffered && self.framing == Framing::Length)
    }

    fn bytes(&self, kind: Kind, random: &mut Random) -> Vec<u8> {
        let mut bytes = self.head(kind, random);
        if !self.expects(kind) {
            bytes.extend(framed(&self.content(), self.framing, random));
        }
        bytes
    }

    fn head(&self, kind: Kind, random: &mut Random) -> Vec<u8> {
        let framing = match self.framing {
            Framing::Length => format!("Content-Length: {}\r\n", self.body),
            Framing::Chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
            Framing::None | Framing::Close => String::new(),
        };
        let filler = "f".repeat(random.skewed(11));
        let expect = match self.expects(kind) {
            true => "Expect: 100-continue\r\n",
            false => "",
        };
        let upgrade = match self.upgrades(kind) {
            true => "Connection: Upgrade\r\nUpgrade: tunnel\r\n",
            false => "",
        };
        format!(
            "{} /{} HTTP/1.1\r\nHost: sim.example\r\nX-Filler: {filler}\r\n{expect}{upgrade}\
             {framing}\r\n",
            self.method, self.id
        )
        .into_bytes()
    }
}

/// Sends the requests `ids` and reads their responses.
pub(crate) async fn visit(story: Rc<Story>, front: SocketAddr, ids: std::ops::Range<u64>) {
    let mut random = Random::new(story.seed ^ ids.start << 8);
    let requests: Vec<Request> = ids.map(|id| Request::of(story.seed, id)).collect();
    let Ok(stream) = TcpStream::connect(front).await else {
        assert!(story.weather.fails(), "the front refuses in calm weather");
        return;
    };
    let mut wire = Wire::new(stream, story.weather);
    // Who asks for another protocol, or waits to be told, does not send the next request before.
    let may_pipeline = !matches!(story.kind, Kind::Expecting | Kind::Upgrading);
    let pipelined = may_pipeline && random.one_in(3);
    let begun = rt::now();
    // Who does not read while it sends may be cut off for taking nothing.
    let is_slow = || pipelined && rt::now() >= begun + HttpTimeouts::BODY_IDLE_DEFAULT;
    let impatient = random.one_in(12);
    let mut sent = 0;
    for (position, request) in requests.iter().enumerate() {
        if impatient && random.one_in(3) {
            return leave(wire, &mut random).await;
        }
        let upto = if pipelined {
            requests.len()
        } else {
            position + 1
        };
        while sent < upto {
            let bytes = requests[sent].bytes(story.kind, &mut random);
            sent += 1;
            if wire.send(&bytes, &mut random).await.is_err() {
                assert!(
                    is_slow() || story.may_break(&requests[..sent]),
                    "{request:?} could not be sent"
                );
                return;
            }
        }
        match response(&story, &mut wire, request, &mut random).await {
            Ok(message) if message.status() == 101 => {
                return tunnel::end_of_client(&story, wire, request, &mut random).await;
            }
            Ok(message) if check(&story, request, &message) => {}
            Ok(_) => return,
            Err(cut) => {
                assert!(
                    is_slow() || story.may_break(&requests[..sent]),
                    "{request:?}: cut {cut:?}"
                );
                return;
            }
        }
        if random.one_in(3) {
            random.pause().await;
        }
    }
}

async fn leave(wire: Wire, random: &mut Random) {
    random.pause().await;
    if random.one_in(2) {
        wire.stream.reset();
    }
}

/// The final response to `request`. What came of a body that was cut is checked too.
async fn response(
    story: &Story,
    wire: &mut Wire,
    request: &Request,
    random: &mut Random,
) -> Result<Message, Cut> {
    let mut expects = request.expects(story.kind);
    let mut continued = false;
    loop {
        let mut message = wire.head().await?;
        if message.status() == 101 && request.upgrades(story.kind) {
            assert_eq!(message.field("upgrade"), Some("tunnel"));
            return Ok(message);
        }
        if message.status() == 100 && expects {
            expects = false;
            continued = true;
            let body = framed(&request.content(), request.framing, random);
            // An answer may be there although the body is not wanted any more.
            let _ = wire.send(&body, random).await;
        }
        if message.status() < 200 {
            continue;
        }
        message.continued = continued;
        if request.is_head() {
            return Ok(message);
        }
        let until_close = message.field("connection") == Some("close");
        let whole = wire.body(&mut message, until_close).await;
        if let Some(id) = message.field("x-id") {
            assert_eq!(id, request.id.to_string(), "another request's response");
            let expected = response_content(request.id);
            assert!(
                expected.starts_with(&message.body),
                "{request:?} got {} bytes that are not its own",
                message.body.len()
            );
        }
        whole?;
        return Ok(message);
    }
}

/// The body of the response to this request: the same for all who ask.
pub(crate) fn response_content(id: u64) -> Vec<u8> {
    let len = Random::new(id ^ 0xfeed).skewed(17);
    content(!id, len)
}

/// Whether the response is one that may be, and the connection goes on.
fn check(story: &Story, request: &Request, message: &Message) -> bool {
    let status = message.status();
    let goes_on = message.field("connection") != Some("close");
    assert!(
        !goes_on || !request.expects(story.kind) || message.continued,
        "{request:?} was not to be sent, yet the connection goes on"
    );
    if status == 200 {
        assert_eq!(message.field("x-id"), Some(&*request.id.to_string()));
        let body = response_content(request.id);
        if !request.is_head() {
            assert!(
                message.body == body,
                "{request:?}: a whole response, yet not all of it"
            );
        }
        story.answered.set(story.answered.get() + 1);
        return goes_on;
    }
    assert_eq!(
        message.field("x-id"),
        None,
        "a failure with a backend's fields"
    );
    assert!(
        matches!(status, 408 | 502 | 503 | 504),
        "{request:?} got {}",
        message.first_line
    );
    // A backend that ends an idle connection may have seen what came at the same moment: only
    // what may be repeated, and is still at hand, is safe from that.
    let is_safe = request.is_held(story.kind) && request.may_be_repeated();
    let excusable = story.fails() || story.weather != Weather::Calm || !is_safe;
    let is_late = story.kind == Kind::Late && status == 503;
    assert!(
        is_late || excusable && (story.fails() || status == 502 || story.may_be_late(status)),
        "{request:?} got {}: {} in {:?} weather at {:?}",
        message.first_line,
        String::from_utf8_lossy(&message.body),
        story.weather,
        rt::now()
    );
    goes_on
}
