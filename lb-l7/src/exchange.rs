//! One exchange: a request is sent to a backend, its response to the client, both ways at once.
//!
//! Invariant: a request that a backend may have processed is not sent again unless it is
//! idempotent; the client gets either one complete response or a connection that breaks.
//! Read next: `reach.rs` (finding a backend), `response.rs` (its head), `passage.rs` (bodies),
//! `waiting.rs` (what is watched meanwhile).

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use lb_core::balance::{Fault, Lease};
use lb_core::rt::{self, Chunk, Instant};
use lb_core::snapshot::Held;

use crate::admit::Request;
use crate::collect::HeadCollector;
use crate::connection::{Connection, End, Next};
use crate::failure::Failure;
use crate::gather::Gathered;
use crate::http1::request::Method;
use crate::http2::websocket;
use crate::link::{BackendLink, Outgoing};
use crate::log::Outcome;
use crate::passage::Passage;
use crate::pool::BackendConnection;
use crate::respond::Answer;
use crate::response::Response;
use crate::service::{HEAD_BYTES_MAX, HttpService};
use crate::slow::Patience;
use crate::upgrade::Switched;
use crate::waiting::Waiting;

/// Pieces of a body that are passed on before other tasks have their turn.
pub(crate) const PIECES_PER_TURN: u32 = 16;

/// A request and its response under way. What is on its way is held here rather than in the
/// futures below, which so stay small.
#[derive(Debug)]
pub(crate) struct Exchange<'c> {
    pub(crate) connection: &'c mut Connection,
    pub(crate) service: Held<HttpService>,
    pub(crate) request: Request,
    /// From the backend, and not yet looked at.
    pub(crate) received: Chunk,
    /// For the next send.
    pub(crate) outgoing: Outgoing,
    /// The rest of the response's body.
    pub(crate) download: Passage,
    started: Instant,
    /// When the response head must be there; known once the request has been sent.
    pub(crate) head_due: Option<Instant>,
    /// When the next backend is tried.
    pub(crate) try_due: Option<Instant>,
    /// When no backend is tried any more.
    pub(crate) total_due: Option<Instant>,
    /// When nothing is waited for in the queue any more.
    pub(crate) queue_due: Option<Instant>,
    sent_bytes: u64,
    /// Of the response that has been begun; 0 before.
    pub(crate) status: u16,
    /// Whether another exchange may follow on the connection.
    pub(crate) may_persist: bool,
    /// With a client that takes the response.
    pub(crate) patience: Patience,
    /// Of the request's body.
    pub(crate) gathered: Gathered,
    /// The backend's connection, which goes on in another protocol, and the backend's place in the cluster.
    pub(crate) switched: Option<(BackendConnection, u16)>,
}

/// What becomes of a backend's connection after an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    Close,
    Reuse,
    /// It goes on in another protocol.
    Switch,
}

impl<'c> Exchange<'c> {
    pub(crate) fn new(
        connection: &'c mut Connection,
        service: Held<HttpService>,
        request: Request,
    ) -> Self {
        let rate = service.exchanges.body_rate_min;
        let limit = service.limits.requests_per_connection_max;
        let may_persist = request.keep_alive && limit.is_none_or(|max| connection.exchanges < max);
        connection
            .registration
            .listener()
            .exchanges_active
            .increment();
        Self {
            connection,
            service,
            request,
            received: Chunk::empty(),
            outgoing: Outgoing::default(),
            download: Passage::done(),
            started: rt::now(),
            head_due: None,
            try_due: None,
            total_due: None,
            queue_due: None,
            sent_bytes: 0,
            status: 0,
            may_persist,
            patience: Patience::new(rate),
            gathered: Gathered::default(),
            switched: None,
        }
    }

    /// Answers the request, from a backend or by ourselves.
    pub(crate) async fn run(&mut self) -> Next {
        let may_gather =
            self.service.exchanges.request_buffer > 0 && self.request.upload.is_active();
        let gathered = if may_gather {
            Box::pin(self.gather()).await
        } else {
            Ok(())
        };
        let asked = match gathered {
            Ok(()) => self.proxy().await,
            Err(failure) => Err(failure),
        };
        if asked == Err(Failure::ClientGone) {
            let listener = self.connection.registration.listener();
            listener.exchanges_aborted.increment();
        }
        match asked {
            Ok(()) => match (self.switched.take(), self.request.cluster) {
                (Some((backend, place)), Ok(cluster)) => Next::Switch(Switched {
                    backend,
                    place,
                    service: self.service.clone(),
                    cluster,
                }),
                _ => self.next(),
            },
            Err(_) if self.status != 0 => Next::End(End::Reset),
            Err(failure) => match failure.status() {
                Some(status) => self.answer(status, failure.reason()).await,
                None => Next::End(End::Gone),
            },
        }
    }

    /// Sends the request to a backend and its response to the client; what becomes of the backend's
    /// connection.
    pub(crate) async fn exchange_with(
        &mut self,
        backend: &BackendConnection,
        lease: &Lease<'_>,
        is_pooled: bool,
    ) -> Result<After, Failure> {
        let asked = rt::now();
        self.head_due = None;
        let counters = backend.backend.counters(self.connection.http.worker.index);
        counters.exchanges.increment();
        let _active = counters.exchanges_active.hold();
        if let Some(record) = &mut self.request.log {
            record.backend = Some(Arc::clone(&backend.backend));
            record.asked = Some(asked);
        }
        let link = &backend.link;
        self.send_request(link, is_pooled).await?;
        if !self.receive(link, Waiting::ResponseHead).await? {
            if link.is_refused() {
                return Err(Failure::BackendRefused);
            }
            let may_be_stale = is_pooled && self.may_send_again();
            return Err(Self::lost(may_be_stale));
        }
        self.request.forget(); // there is an answer: it will not be sent again
        loop {
            match self.begin_response(link, lease)? {
                Response::Final { persists } => {
                    let latency = rt::now().saturating_duration_since(asked);
                    if self.status >= 500 {
                        lease.failed(Fault::Answer);
                    }
                    self.send(link).await?;
                    let is_clean = self.forward(link).await?;
                    if self.status < 500 {
                        lease.answered(latency); // a response that breaks off is none
                    }
                    return Ok(
                        match persists && is_clean && self.request.upload.is_sent() {
                            true => After::Reuse,
                            false => After::Close,
                        },
                    );
                }
                Response::Incomplete => self.collect_head(link).await?,
                Response::Switched => {
                    lease.answered(rt::now().saturating_duration_since(asked));
                    let behind = std::mem::replace(&mut self.received, Chunk::empty());
                    link.unread(behind);
                    self.send(link).await?;
                    return Ok(After::Switch);
                }
                Response::Interim => {
                    self.send(link).await?;
                    if self.received.is_empty()
                        && !self.receive(link, Waiting::ResponseHead).await?
                    {
                        return Err(Failure::BackendClosed);
                    }
                }
            }
        }
    }

    /// Sends the head and the body bytes at hand; keeps them while they may have to be sent again.
    async fn send_request(&mut self, link: &BackendLink, is_pooled: bool) -> Result<(), Failure> {
        if self.request.upgrades
            && let BackendLink::Http2(stream) = link
        {
            // HTTP/2 knows no other upgrade.
            self.request.upgrades = websocket::ask(&self.request.head, &**stream)?;
        }
        if let (Some(names), BackendLink::Http2(stream)) = (&self.request.secrets, link) {
            stream.keep_secret(names.share());
        }
        self.outgoing = self.request.outgoing(link);
        let sent = self
            .wait(Waiting::ResponseHead, None, |it, cx| {
                link.poll_send(cx, &mut it.outgoing)
            })
            .await?;
        match sent {
            Ok(()) if self.request.method.is_idempotent() => Ok(()),
            Ok(()) if link.is_http2() => {
                self.request.is_committed = true; // unless the backend says that it is not
                Ok(())
            }
            Err(_) if link.is_refused() => Err(Failure::BackendRefused),
            Ok(()) => {
                self.request.forget(); // it may have been processed from here on
                Ok(())
            }
            Err(_) => {
                // Of a connection, nothing has left us: sending it again is safe whatever the
                // method. Of a stream, the head may have, and the rest was waiting for room.
                let has_left = link.is_http2() && self.outgoing.head_len == 0;
                self.request.is_committed |= has_left && !self.request.method.is_idempotent();
                Err(Self::lost(is_pooled && self.may_send_again()))
            }
        }
    }

    /// What it means that a backend ended the connection without any response.
    const fn lost(is_pooled: bool) -> Failure {
        if is_pooled {
            Failure::BackendStale
        } else {
            Failure::BackendClosed
        }
    }

    /// Whether the request can be sent again, and doing so is harmless: there is no response, it
    /// is idempotent or was not sent at all, and no more of its body was taken than is at hand.
    pub(crate) fn may_send_again(&self) -> bool {
        self.has_request() && !self.request.is_committed
    }

    /// Whether all of the request that was sent is still at hand.
    pub(crate) fn has_request(&self) -> bool {
        !self.request.head.is_empty()
    }

    /// Receives the rest of a response head that comes in pieces.
    async fn collect_head(&mut self, link: &BackendLink) -> Result<(), Failure> {
        let mut collector = HeadCollector::new(HEAD_BYTES_MAX);
        loop {
            let piece = std::mem::replace(&mut self.received, Chunk::empty());
            if let Some(rest) = collector.add(piece) {
                link.unread(rest);
                self.received = collector.finish();
                return Ok(());
            }
            if !self.receive(link, Waiting::ResponseHead).await? {
                return Err(Failure::BackendClosed);
            }
        }
    }

    /// Passes the response's body on. True if the backend sent nothing behind it.
    async fn forward(&mut self, link: &BackendLink) -> Result<bool, Failure> {
        let mut pieces = 0_u32;
        loop {
            while !self.received.is_empty() && !self.download.is_done() {
                let parts = self.download.next(&mut self.received);
                self.outgoing.parts = parts.map_err(Failure::BackendBody)?;
                self.end_with_download();
                self.end_with_stream(link)?;
                self.send(link).await?;
            }
            if self.download.is_done() {
                return Ok(self.received.is_empty());
            }
            self.forward_bulk(link).await?;
            pieces = pieces.wrapping_add(1);
            if pieces.is_multiple_of(PIECES_PER_TURN) {
                rt::yield_now().await;
            }
            if !self.received.is_empty() || self.download.is_done() {
                continue;
            }
            if !self.receive(link, Waiting::ResponseBody).await? {
                if !self.download.ends_by_close() {
                    return Err(Failure::BackendClosed);
                }
                self.outgoing.trailers = link.take_trailers();
                let end = self.download.end(self.outgoing.trailers.as_ref());
                self.outgoing.parts = end.map_err(Failure::BackendBody)?;
                self.outgoing.ends = true;
                self.send(link).await?;
                return Ok(false);
            }
        }
    }

    /// The message ends with what is outgoing if all of the body has been taken.
    pub(crate) fn end_with_download(&mut self) {
        if self.download.is_done() {
            self.outgoing.ends = true;
            self.outgoing.trailers = self.download.take_trailers();
        }
    }

    /// The message ends with what is outgoing if the backend has ended its stream with that.
    fn end_with_stream(&mut self, link: &BackendLink) -> Result<(), Failure> {
        let is_last = self.received.is_empty() && link.is_received();
        if is_last && self.download.may_end_with_data() {
            self.outgoing.trailers = link.take_trailers();
            let end = self.download.end(self.outgoing.trailers.as_ref());
            end.map_err(Failure::BackendBody)?;
            self.outgoing.ends = true;
        }
        Ok(())
    }

    /// What follows a complete response.
    const fn next(&self) -> Next {
        if self.may_persist {
            Next::Request
        } else if !self.request.keep_alive && self.request.upload.is_received() {
            Next::End(End::Close)
        } else {
            Next::End(End::Linger)
        }
    }

    /// Answers by ourselves.
    async fn answer(&mut self, status: u16, reason: &'static str) -> Next {
        self.may_persist = self.persists();
        self.status = status;
        let answer = Answer {
            status,
            reason,
            connection: self.connection_if(self.may_persist),
            without_body: self.request.method == Method::Head,
            location: &self.request.location,
        };
        let date = self.connection.http.date.text();
        let client = &self.connection.client;
        self.outgoing = answer.outgoing_to(client, self.request.is_grpc, &date);
        if let Some(record) = &mut self.request.log {
            record.head_bytes = u64::from(self.outgoing.head_len);
        }
        self.count_sent();
        if !self.may_persist {
            self.connection.client.hold_last();
        }
        let sent = self.wait(Waiting::Client, None, Self::poll_send);
        match sent.await {
            Ok(Ok(())) => self.next(),
            Ok(Err(_)) | Err(_) => Next::End(End::Gone),
        }
    }

    /// Sends what is outgoing to the client; the `backend` gets more of the request's body
    /// meanwhile.
    async fn send(&mut self, backend: &BackendLink) -> Result<(), Failure> {
        if self.outgoing.is_empty() {
            return Ok(());
        }
        self.count_sent();
        if !self.may_persist && self.status >= 200 && self.download.is_done() {
            self.connection.client.hold_last();
        }
        let sent = self
            .wait(Waiting::Client, Some(backend), Self::poll_send)
            .await?;
        self.patience.moved(0, rt::now);
        sent.map_err(|_| Failure::ClientGone)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.client.poll_send(cx, &mut self.outgoing)
    }

    /// Receives the backend's next bytes, false when it has closed; it gets more of the request's
    /// body meanwhile.
    async fn receive(&mut self, backend: &BackendLink, waiting: Waiting) -> Result<bool, Failure> {
        match self
            .wait(waiting, Some(backend), |_, cx| match waiting {
                Waiting::ResponseHead => backend.poll_recv_head(cx),
                _ => backend.poll_recv(cx),
            })
            .await?
        {
            Ok(chunk) => {
                self.received = chunk;
                Ok(!self.received.is_empty())
            }
            // A body that ends by closing must not end by a reset.
            Err(_) if waiting == Waiting::ResponseBody => Err(Failure::BackendClosed),
            Err(_) => Ok(false),
        }
    }

    fn count_sent(&mut self) {
        self.count_sent_bytes(self.outgoing.len());
    }

    pub(crate) fn count_sent_bytes(&mut self, bytes: usize) {
        self.patience.moved(bytes, rt::now);
        self.sent_bytes += bytes as u64;
        self.connection
            .registration
            .listener()
            .sent_bytes
            .add(bytes as u64);
    }
}

impl Drop for Exchange<'_> {
    /// Counts and logs it, however it ended.
    fn drop(&mut self) {
        self.gathered.leave(self.connection);
        let listener = self.connection.registration.listener();
        let duration = rt::now().saturating_duration_since(self.started);
        listener.exchanges_active.decrement();
        listener.exchange_time.observe(duration);
        if self.status != 0 {
            listener.exchange_answered(self.status);
        }
        if let (Some(log), Some(record)) = (&self.service.log, self.request.log.take()) {
            let cluster = self.request.cluster.ok();
            let cluster = cluster.map(|it| &*self.service.served(it).cluster.name);
            let outcome = Outcome {
                status: self.status,
                sent_bytes: self.sent_bytes,
                duration,
                cluster,
            };
            let http = &self.connection.http;
            http.records
                .write(&http.worker.lines, log, record, &outcome);
        }
    }
}
