//! Clients and backends that speak HTTP/2, by the `h2` crate: many streams at once on connections
//! with windows of any size, streams and connections that end before their time, readers that take
//! theirs.
//!
//! Invariant checked here: as in `client.rs` and `backend.rs`; and a stream that ends early ends no
//! other.
//! Read next: `main.rs`.

use crate::Story;
use crate::client::{Request, response_content};
use crate::seeds::{Random, Weather};
use crate::wire::{Framing, PATIENCE};
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use lb_core::rt::{self, TcpListener, TcpStream};
use lb_l7::stream::{Stream, TokioStream};
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// A connection of which nothing was heard for so long has gone silent.
const FORGOTTEN: Duration = Duration::from_secs(3 * 3600);

/// Waits, but not for ever; `None` at a connection that has gone silent.
async fn patiently<F: Future>(story: &Story, what: F) -> Option<F::Output> {
    let waited = rt::timeout(PATIENCE, what).await.ok();
    assert!(
        waited.is_some() || story.weather == Weather::Silent,
        "somebody is forgotten"
    );
    waited
}

fn window(random: &mut Random) -> u32 {
    [1, 100, 5_000, 65_535, 1 << 20][random.within(0..5) as usize]
}

/// What the requests of a client share.
struct Visit {
    story: Rc<Story>,
    /// The client has left without a word.
    has_left: Cell<bool>,
}

/// Asks for all of `ids`, most of them at the same time.
pub(crate) async fn visit(story: Rc<Story>, front: SocketAddr, ids: std::ops::Range<u64>) {
    let mut random = Random::new(story.seed ^ ids.start << 8 ^ 0xb2);
    let Ok(stream) = TcpStream::connect(front).await else {
        assert!(story.weather.fails(), "the front refuses in calm weather");
        return;
    };
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(window(&mut random))
        .max_concurrent_reset_streams(1000);
    let stream = TokioStream::new(Stream::Plain(stream));
    let handshake = patiently(&story, builder.handshake::<_, Bytes>(stream));
    let Some(Ok((sender, connection))) = handshake.await else {
        return assert!(story.weather.fails(), "no connection in calm weather");
    };
    let driver = rt::spawn(async move { drop(rt::timeout(FORGOTTEN, connection).await) });
    let visit = Rc::new(Visit {
        story,
        has_left: Cell::new(false),
    });
    let leaves = random.one_in(12);
    for id in ids {
        let request = Request::of(visit.story.seed, id);
        let random = Random::new(visit.story.seed ^ id << 16 ^ 0xb2);
        rt::spawn(ask(Rc::clone(&visit), sender.clone(), request, random));
        if leaves && id % 3 == 0 {
            visit.has_left.set(true);
            return rt::abort(driver);
        }
        let mut pause = Random::new(id);
        pause.pause().await;
    }
}

async fn ask(
    visit: Rc<Visit>,
    sender: h2::client::SendRequest<Bytes>,
    request: Request,
    mut random: Random,
) {
    let story = &visit.story;
    let uri = format!("http://sim.example/{}", request.id);
    let mut head = http::Request::builder().method(request.method).uri(uri);
    head = head.header("x-filler", "f".repeat(random.skewed(11)));
    if request.framing() == Framing::Length {
        head = head.header("content-length", request.content().len());
    }
    let head = head.body(()).expect("a request");
    let Some(ready) = patiently(story, sender.ready()).await else {
        return;
    };
    let begun = ready.and_then(|mut it| it.send_request(head, !request.has_body()));
    let (response, mut body) = match begun {
        Ok(begun) => begun,
        Err(error) => return visit.excuse(&request, &error.to_string()),
    };
    if random.one_in(10) {
        random.pause().await; // and does not want it any more
        return body.send_reset(Reason::CANCEL);
    }
    let mut reading = random.clone();
    let uploading = async {
        if request.has_body() {
            let content = request.content();
            patiently(story, send(&mut body, &content, false, &mut random)).await;
        }
    };
    let downloading = patiently(story, receive(response, &request, &mut reading));
    let ((), received) = tokio::join!(uploading, downloading);
    match received {
        Some(Ok((200, None))) => story.answered.set(story.answered.get() + 1),
        Some(Ok((status, _))) => {
            assert!(matches!(status, 408 | 502 | 503 | 504), "{status}");
            visit.excuse(&request, &format!("{status}"));
        }
        Some(Err(error)) => visit.excuse(&request, &error.to_string()),
        None => {}
    }
}

impl Visit {
    /// That a request is not answered must have a reason: the same as with HTTP/1.1, or that the
    /// client has left, or was told to go.
    fn excuse(&self, request: &Request, what: &str) {
        let story = &self.story;
        let excusable = story.fails()
            || story.weather != Weather::Calm
            || (request.has_body() && !story.backends_are_new)
            || self.has_left.get()
            || story.is_drained.get();
        assert!(excusable, "{request:?}: {what} at {:?}", rt::now());
    }
}

/// Status of a response, and whether it is a failure of the proxy's.
async fn receive(
    response: h2::client::ResponseFuture,
    request: &Request,
    random: &mut Random,
) -> Result<(u16, Option<()>), h2::Error> {
    let response = response.await?;
    let status = response.status().as_u16();
    let id = response.headers().get("x-id").cloned();
    let has_date = response.headers().contains_key("date");
    assert!(has_date && !response.headers().contains_key("connection"));
    let mut body = response.into_body();
    let mut content = Vec::new();
    let expected = response_content(request.id);
    while let Some(data) = body.data().await {
        let data = data?;
        content.extend_from_slice(&data);
        if random.one_in(4) {
            random.pause().await;
        }
        body.flow_control().release_capacity(data.len())?;
        assert!(
            id.is_none() || expected.starts_with(&content),
            "{request:?} got {} bytes that are not its own",
            content.len()
        );
    }
    body.trailers().await?;
    match id {
        Some(id) => {
            assert_eq!(id, request.id.to_string(), "another request's response");
            assert!(content == expected || request.is_head(), "not all of it");
            Ok((status, None))
        }
        None => Ok((status, Some(()))),
    }
}

/// Sends all of a body as windows allow, in pieces; it may be cut by the other side.
async fn send(stream: &mut SendStream<Bytes>, body: &[u8], trailers: bool, random: &mut Random) {
    let mut rest = Bytes::copy_from_slice(body);
    while !rest.is_empty() {
        stream.reserve_capacity(rest.len().min(1 + random.skewed(16)));
        let Some(Ok(room)) = poll_fn(|cx| stream.poll_capacity(cx)).await else {
            return;
        };
        let piece = rest.split_to(room.min(rest.len()));
        if stream.send_data(piece, false).is_err() {
            return;
        }
        if random.one_in(4) {
            random.pause().await;
        }
    }
    if trailers {
        let mut fields = http::HeaderMap::new();
        fields.insert("x-sum", http::HeaderValue::from_static("1"));
        let _ = stream.send_trailers(fields);
    } else {
        let _ = stream.send_data(Bytes::new(), true);
    }
}

/// A backend; accepts for ever.
pub(crate) async fn serve(story: Rc<Story>, listener: TcpListener, number: u64) {
    let mut connections = 0;
    loop {
        match listener.accept().await {
            Ok(stream) => {
                connections += 1;
                let seed = story.seed ^ number << 40 ^ connections << 20 ^ 0xb2;
                rt::spawn(talk(Rc::clone(&story), stream, Random::new(seed)));
            }
            Err(_out_of_descriptors) => rt::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn talk(story: Rc<Story>, stream: TcpStream, mut random: Random) {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(window(&mut random))
        .max_concurrent_streams(random.within(1..20) as u32)
        .max_pending_accept_reset_streams(1000)
        .max_concurrent_reset_streams(1000);
    let stream = TokioStream::new(Stream::Plain(stream));
    let handshake = rt::timeout(FORGOTTEN, builder.handshake::<_, Bytes>(stream));
    let Ok(Ok(mut connection)) = handshake.await else {
        return;
    };
    while let Ok(Some(Ok((request, respond)))) = rt::timeout(FORGOTTEN, connection.accept()).await {
        if story.is_rude && random.one_in(25) {
            return; // it dies, with all of its streams
        }
        let random_too = Random::new(random.next());
        rt::spawn(answer(Rc::clone(&story), request, respond, random_too));
        if random.one_in(15) {
            connection.graceful_shutdown();
        }
    }
}

async fn answer(
    story: Rc<Story>,
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    mut random: Random,
) {
    let (head, mut body) = request.into_parts();
    let id: u64 = head.uri.path()[1..].parse().expect("an id of a client's");
    let request = Request::of(story.seed, id);
    if story.is_rude && random.one_in(15) {
        return respond.send_reset(Reason::REFUSED_STREAM);
    }
    story.seen(&request);
    assert_eq!(head.uri.host(), Some("sim.example"));
    let early = random.one_in(10);
    if !early && !read(&request, &mut body, &mut random).await {
        return;
    }
    random.pause().await;
    if story.is_rude && random.one_in(20) {
        return respond.send_reset(Reason::INTERNAL_ERROR);
    }
    let content = response_content(id);
    let mut response = http::Response::builder().header("x-id", id);
    if random.one_in(2) {
        response = response.header("content-length", content.len());
    }
    let response = response.body(()).expect("a response");
    let Ok(mut stream) = respond.send_response(response, request.is_head()) else {
        return;
    };
    if !request.is_head() {
        let cut = story.is_rude && random.one_in(20);
        let len = if cut {
            content.len() / 2
        } else {
            content.len()
        };
        if cut {
            stream.reserve_capacity(len);
            let _ = stream.send_data(Bytes::copy_from_slice(&content[..len]), false);
            return stream.send_reset(Reason::INTERNAL_ERROR);
        }
        let trailers = random.one_in(4);
        let sending = send(&mut stream, &content, trailers, &mut random);
        let _ = rt::timeout(FORGOTTEN, sending).await;
    }
    // What is left of the body is refused by the drop that follows (RFC 9113 section 8.1).
}

/// Reads a request's body; false if it was cut, or taken back.
async fn read(request: &Request, body: &mut RecvStream, random: &mut Random) -> bool {
    let mut content = Vec::new();
    let whole = request.content();
    loop {
        let data = match rt::timeout(FORGOTTEN, body.data()).await {
            Ok(Some(Ok(data))) => data,
            Ok(None) => break,
            Ok(Some(Err(_))) | Err(_) => return false,
        };
        if random.one_in(4) {
            random.pause().await;
        }
        let _ = body.flow_control().release_capacity(data.len());
        content.extend_from_slice(&data);
        assert!(
            whole.starts_with(&content),
            "{request:?} came with another body"
        );
    }
    assert!(content == whole, "{request:?} came shortened");
    true
}
