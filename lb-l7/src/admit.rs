//! From received bytes to a request that may be sent on: parsed, checked, routed and rewritten in
//! one synchronous step, so that nothing but the result is kept while the exchange runs.
//!
//! Invariant: the bytes of a request are taken exactly: what is behind it goes back to the stream
//! for the next one. Read next: `exchange.rs` (what happens to it).

use std::net::IpAddr;

use lb_core::rt::{Buffer, Chunk, TcpStream};

use crate::access_log::Entry;
use crate::action::Asked;
use crate::failure::Failure;
use crate::http1::body::Body;
use crate::http1::head::{Framing, Version};
use crate::http1::request::{
    Client, Method, RequestHead, leading_blank, parse_request, rewrite_request,
};
use crate::keys::Keys;
use crate::route::ClusterIndex;
use crate::service::{HttpService, Served};
use crate::upload::Upload;

/// Body bytes up to this are copied behind the head, to be sent as one piece: cheaper than a
/// second part of the send, and the received buffer is free at once.
pub(crate) const COPIED_BYTES_MAX: usize = 2048;

/// A request on its way to a backend.
#[derive(Debug)]
pub(crate) struct Request {
    /// The head for the backend, and the body bytes at hand if they are few.
    pub(crate) head: Chunk,
    /// The body bytes at hand if they are many.
    pub(crate) body_at_hand: Option<Chunk>,
    /// The body that is still to come.
    pub(crate) upload: Upload,
    pub(crate) method: Method,
    pub(crate) version: Version,
    /// Whether the client wants to keep its connection.
    pub(crate) keep_alive: bool,
    /// Where it goes; otherwise the answer.
    pub(crate) cluster: Result<ClusterIndex, Failure>,
    /// Where the answer sends the client; mostly empty.
    pub(crate) location: Chunk,
    /// What the cluster chooses by.
    pub(crate) keys: Keys,
    pub(crate) log: Option<Box<Entry>>,
}

impl Request {
    /// Gives back the buffers of what has been sent.
    pub(crate) fn forget(&mut self) {
        self.head = Chunk::empty();
        self.body_at_hand = None;
    }
}

/// What the bytes at hand turned out to be.
#[derive(Debug)]
pub(crate) enum Admission {
    /// A request.
    Admitted(Request),
    /// The start of one; the bytes are given back.
    Incomplete(Chunk),
}

/// Takes the request at the start of `received`.
pub(crate) fn admit(
    mut received: Chunk,
    stream: &TcpStream,
    client: IpAddr,
    service: &HttpService,
    logs: bool,
) -> Result<Admission, Failure> {
    received.advance(leading_blank(&received));
    let Some(head) = parse_request(&received, &service.rules).map_err(Failure::Head)? else {
        return Ok(Admission::Incomplete(received));
    };
    let data_bytes_max = service.limits.body_bytes_max.unwrap_or(u64::MAX);
    if matches!(head.framing, Framing::Length(length) if length > data_bytes_max) {
        return Err(Failure::BodyTooLong);
    }
    let client = who(&head, stream, client);
    let asked = Asked {
        bytes: &received,
        head: &head,
        scheme: client.scheme,
        local: client.local,
    };
    let routed = service.route(&asked).map_err(Failure::Head)?;
    let mut out = Buffer::new();
    let target = routed.target.as_ref().map(Buffer::as_slice);
    rewrite_request(&received, &head, &service.rules, &client, target, &mut out)
        .map_err(Failure::Head)?;
    let cluster = routed.cluster;
    let keys = cluster.map_or_else(
        |_| Keys::default(),
        |index| {
            let Served { keys, cluster, .. } = service.served(index);
            keys.read(&received, &head, cluster)
        },
    );
    let log = logs.then(|| {
        let (method, target) = (
            head.method_name.of_head(&received),
            head.target.of_head(&received),
        );
        Box::new(Entry::of_request(
            client.address,
            method,
            target,
            head.host(&received),
        ))
    });
    received.advance(head.len());

    let mut body = Body::new(head.framing, data_bytes_max);
    let at_hand = body.take(&received).map_err(Failure::Body)?;
    let body_at_hand = if at_hand <= COPIED_BYTES_MAX && out.push(&received[..at_hand]) {
        received.advance(at_hand);
        None
    } else {
        Some(received.split_to(at_hand))
    };
    stream.unread(received);
    Ok(Admission::Admitted(Request {
        head: out.freeze(),
        body_at_hand,
        upload: Upload::new(body),
        method: head.method,
        version: head.version,
        keep_alive: head.keep_alive,
        cluster,
        location: routed.location,
        keys,
        log,
    }))
}

/// Who the request is from.
fn who(head: &RequestHead, stream: &TcpStream, address: IpAddr) -> Client {
    let local = if head.lacks_authority() {
        stream.local_addr().ok()
    } else {
        None
    };
    Client {
        address,
        scheme: "http",
        local,
    }
}
