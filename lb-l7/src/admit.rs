//! From received bytes to a request that may be sent on: parsed, checked, routed and rewritten in
//! one synchronous step, so that nothing but the result is kept while the exchange runs.
//!
//! Invariant: the bytes of a request are taken exactly: what is behind it goes back to the stream
//! for the next one. Read next: `exchange.rs` (what happens to it).

use std::time::Duration;

use lb_core::plan::RequestId;
use lb_core::rt::{Buffer, Chunk};

use crate::action::{Asked, Routed};
use crate::connection::Peer;
use crate::failure::Failure;
use crate::http1::body::Body;
use crate::http1::head::{Framing, Version};
use crate::http1::request::{
    Client, Method, RequestHead, leading_blank, parse_request, rewrite_request,
};
use crate::http2::grpc;
use crate::http2::h2c::Offer;
use crate::keys::Keys;
use crate::link::{BackendLink, ClientLink, Outgoing};
use crate::log::{Early, Record};
use crate::request_id::RequestIdText;
use crate::route::ClusterIndex;
use crate::service::{HttpService, Served};
use crate::stream::Stream;
use crate::upload::Upload;
use crate::worker::HttpWorker;

/// Body bytes up to this are copied behind the head, to be sent as one piece: cheaper than a
/// second part of the send, and the received buffer is free at once.
pub(crate) const COPIED_BYTES_MAX: usize = 2048;

/// A request on its way to a backend.
#[derive(Debug)]
pub(crate) struct Request {
    /// The head for the backend, and the body bytes at hand if they are few.
    pub(crate) head: Chunk,
    /// So many bytes of it are the head.
    pub(crate) head_len: u16,
    /// The body bytes at hand if they are many.
    pub(crate) body_at_hand: Option<Chunk>,
    /// The body that is still to come.
    pub(crate) upload: Upload,
    pub(crate) framing: Framing,
    pub(crate) method: Method,
    pub(crate) version: Version,
    /// Whether it is a call of gRPC, whose client wants failures told its way.
    pub(crate) is_grpc: bool,
    /// For so long its client waits for an answer, if it has said so: a call of gRPC.
    pub(crate) deadline: Option<Duration>,
    /// Whether the backend may switch to another protocol.
    pub(crate) upgrades: bool,
    /// Whether the client waits to be told to send its body.
    pub(crate) expects_continue: bool,
    /// Whether the client wants to keep its connection.
    pub(crate) keep_alive: bool,
    /// Where it goes; otherwise the answer.
    pub(crate) cluster: Result<ClusterIndex, Failure>,
    /// Where the answer sends the client; mostly empty.
    pub(crate) location: Chunk,
    /// What the cluster chooses by.
    pub(crate) keys: Keys,
    /// It was sent, and must not be sent again unless it is known that it was not processed.
    pub(crate) is_committed: bool,
    /// Names of its fields that must stay out of tables, see `link.rs`.
    pub(crate) secrets: Option<Chunk>,
    pub(crate) log: Option<Box<Record>>,
}

impl Request {
    /// Head and body at hand, for `backend`.
    pub(crate) fn outgoing(&mut self, backend: &BackendLink) -> Outgoing {
        self.upload.begin(backend, self.framing);
        let mut outgoing = Outgoing {
            parts: [
                Some(self.head.share()),
                self.body_at_hand.as_ref().map(Chunk::share),
            ],
            head_len: self.head_len,
            // What a stream brings behind the head of a WebSocket is no body.
            ends: self.upload.is_received() && !(self.upgrades && backend.is_http2()),
            trailers: self.upload.gathered_trailers(),
        };
        if backend.is_http2() && self.framing == Framing::Chunked {
            self.upload.take_off_chunks(&mut outgoing);
        }
        outgoing
    }

    /// Gives back the buffers of what has been sent.
    pub(crate) fn forget(&mut self) {
        self.head = Chunk::empty();
        self.body_at_hand = None;
    }
}

/// What the bytes at hand turned out to be.
#[expect(clippy::large_enum_variant, reason = "the large one is the common one")]
#[derive(Debug)]
pub(crate) enum Admission {
    /// A request.
    Admitted(Request),
    /// One whose client offers to go on in HTTP/2.
    Http2(Box<Offer>),
    /// The start of one; the bytes are given back.
    Incomplete(Chunk),
}

/// What is no acceptable request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) failure: Failure,
    /// As [`Request::is_grpc`].
    pub(crate) is_grpc: bool,
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            is_grpc: false,
        }
    }
}

/// Takes the request at the start of `received`, which came from `peer` by `link`.
pub(crate) fn admit(
    mut received: Chunk,
    link: &ClientLink,
    peer: &Peer,
    service: &HttpService,
    of_worker: (&HttpWorker, u32),
) -> Result<Admission, Refused> {
    received.advance(leading_blank(&received));
    let parsed = parse_request(&received, &service.rules).map_err(|error| Refused {
        failure: Failure::Head(error),
        is_grpc: link.is_http2() && grpc::is_call(&received),
    })?;
    let Some(head) = parsed else {
        return Ok(Admission::Incomplete(received));
    };
    if let Some(offer) = http2_offer(&head, &mut received, link, service, of_worker.0) {
        return Ok(Admission::Http2(offer));
    }
    let is_grpc = is_grpc(&head, &received);
    let request = take((received, head, is_grpc), link, peer, service, of_worker);
    request
        .map(Admission::Admitted)
        .map_err(|failure| Refused { failure, is_grpc })
}

/// Takes the request whose head was found to be acceptable.
fn take(
    (mut received, mut head, is_grpc): (Chunk, RequestHead, bool),
    link: &ClientLink,
    peer: &Peer,
    service: &HttpService,
    (http, requests): (&HttpWorker, u32),
) -> Result<Request, Failure> {
    let mut body = expected_body(&mut head, link, service)?;
    let mut client = who(&head, link, peer);
    let request_id = fresh_id(&head, service, http);
    client.request_id = request_id.filter(|_| service.rules.request_id != RequestId::Off);
    let asked = Asked {
        bytes: &received,
        head: &head,
        scheme: client.scheme,
        local: client.local,
    };
    let routed = routed(&asked, peer, service)?;
    let mut out = Buffer::new();
    let target = routed.target.as_ref().map(Buffer::as_slice);
    rewrite_request(&received, &head, &service.rules, &client, target, &mut out)
        .map_err(Failure::Head)?;
    let deadline = is_grpc.then(|| grpc_timeout(&head, &received)).flatten();
    let keys = keys(&received, &head, routed.cluster, service);
    let early = Early {
        request: Some((&received, &head)),
        peer,
        link,
        route: routed.route,
        request_id: request_id.as_ref(),
        requests,
    };
    let log = service.log.as_ref();
    let mut log = log.map(|log| http.records.begin(log, &early));
    received.advance(head.len());

    let head_len = out.len();
    let (at_hand, body_at_hand) = take_at_hand(&mut body, &mut received, &mut out)?;
    if let Some(record) = &mut log {
        record.received_bytes = (head.len() + at_hand) as u64;
    }
    link.unread(received);
    Ok(Request {
        head: out.freeze(),
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a head is shorter than a buffer"
        )]
        head_len: head_len as u16,
        body_at_hand,
        upload: Upload::new(body, service.exchanges.body_rate_min),
        framing: head.framing,
        method: head.method,
        version: head.version,
        is_grpc,
        deadline,
        upgrades: head.upgrades(),
        expects_continue: head.expects_continue(),
        keep_alive: head.keep_alive,
        cluster: routed.cluster,
        location: routed.location,
        keys,
        is_committed: false,
        secrets: link.take_secrets(),
        log,
    })
}

/// Where the request goes; nowhere if its connection is not for its host.
fn routed(asked: &Asked<'_>, peer: &Peer, service: &HttpService) -> Result<Routed, Failure> {
    if !peer.may_ask(asked.head.host(asked.bytes)) {
        return Ok(Routed::misdirected());
    }
    service.route(asked).map_err(Failure::Head)
}

/// How much of the body is at hand; what is short goes with the head, the rest behind it.
fn take_at_hand(
    body: &mut Body,
    received: &mut Chunk,
    out: &mut Buffer,
) -> Result<(usize, Option<Chunk>), Failure> {
    let at_hand = body.take(received).map_err(Failure::Body)?;
    if at_hand <= COPIED_BYTES_MAX && out.push(&received[..at_hand]) {
        received.advance(at_hand);
        return Ok((at_hand, None));
    }
    Ok((at_hand, Some(received.split_to(at_hand))))
}

/// The offer to go on in HTTP/2, if it is one that is accepted; see [`Offer::read`].
fn http2_offer(
    head: &RequestHead,
    received: &mut Chunk,
    link: &ClientLink,
    service: &HttpService,
    http: &HttpWorker,
) -> Option<Box<Offer>> {
    let is_spoken = matches!(link, ClientLink::Http1(Stream::Plain(_))) && service.http2.enabled;
    if !is_spoken || http.worker.draining.get() {
        return None;
    }
    let (settings, request_len) = Offer::read(head, received)?;
    Some(Box::new(Offer {
        received: std::mem::replace(received, Chunk::empty()),
        request_len,
        settings,
    }))
}

/// The body that `head` announces.
fn expected_body(
    head: &mut RequestHead,
    link: &ClientLink,
    service: &HttpService,
) -> Result<Body, Failure> {
    let data_bytes_max = service.limits.body_bytes_max.unwrap_or(u64::MAX);
    if matches!(head.framing, Framing::Length(length) if length > data_bytes_max) {
        return Err(Failure::BodyTooLong);
    }
    if !service.exchanges.upgrades {
        head.ignore_upgrade();
    }
    Ok(match link {
        ClientLink::Http2(stream) if !stream.is_received() && !stream.is_websocket() => {
            body_of_stream(head, data_bytes_max)
        }
        _ => Body::new(head.framing, data_bytes_max),
    })
}

/// What the cluster chooses by.
fn keys(
    received: &[u8],
    head: &RequestHead,
    cluster: Result<ClusterIndex, Failure>,
    service: &HttpService,
) -> Keys {
    let Ok(index) = cluster else {
        return Keys::default();
    };
    let Served { keys, cluster, .. } = service.served(index);
    keys.read(received, head, cluster)
}

/// An id for a request that has none, where a backend or the log is to have one.
fn fresh_id(head: &RequestHead, service: &HttpService, http: &HttpWorker) -> Option<RequestIdText> {
    let is_passed = service.rules.request_id != RequestId::Off;
    let is_wanted = is_passed
        || service
            .log
            .as_ref()
            .is_some_and(|it| it.template().makes_ids);
    (is_wanted && !head.has_request_id()).then(|| http.request_ids.next())
}

/// The body behind `head` on a stream of HTTP/2, which says by itself where it ends. A backend that
/// speaks HTTP/1 gets one without a length in chunks.
const fn body_of_stream(head: &mut RequestHead, data_bytes_max: u64) -> Body {
    let declared = match head.framing {
        Framing::Length(length) => Some(length),
        _ => {
            head.framing = Framing::Chunked;
            None
        }
    };
    Body::of_stream(declared, data_bytes_max)
}

/// Calls of gRPC are POSTs, each with its Content-Type.
fn is_grpc(head: &RequestHead, received: &[u8]) -> bool {
    let mut fields = head.fields(received);
    head.method == Method::Other
        && fields
            .any(|(name, value)| name.eq_ignore_ascii_case(b"content-type") && grpc::is_grpc(value))
}

/// How long the client of a call waits for it.
fn grpc_timeout(head: &RequestHead, received: &[u8]) -> Option<Duration> {
    let mut fields = head.fields(received);
    let field = fields.find(|(name, _)| name.eq_ignore_ascii_case(b"grpc-timeout"));
    grpc::timeout(field?.1)
}

/// Who the request is from.
fn who<'p>(head: &RequestHead, link: &ClientLink, peer: &'p Peer) -> Client<'p> {
    let local = if head.lacks_authority() {
        link.local_addr().ok()
    } else {
        None
    };
    Client {
        address: peer.address,
        scheme: peer.scheme(),
        local,
        request_id: None,
        certificate: peer.tls.as_ref().map_or(&[], |tls| &tls.client_fields),
    }
}
