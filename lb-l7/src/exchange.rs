//! One exchange: a request is sent to a backend, its response to the client, both ways at once.
//!
//! Invariant: a request that a backend may have processed is not sent again unless it is
//! idempotent; the client gets either one complete response or a connection that breaks.
//! Read next: `reach.rs` (finding a backend), `upload.rs`, `download.rs` (the bodies).

use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use lb_core::connections::Registration;
use lb_core::rt::{self, Buffer, Chunk, Instant, Sleep, TcpStream};
use lb_core::snapshot::Held;

use crate::access_log::Outcome;
use crate::admit::{COPIED_BYTES_MAX, Request};
use crate::collect::HeadCollector;
use crate::connection::{Connection, End, Next};
use crate::download::{Download, Parts};
use crate::failure::Failure;
use crate::http1::body::Body;
use crate::http1::head::{Framing, Version};
use crate::http1::request::Method;
use crate::http1::response::{
    ClientConnection, ResponseHead, ResponseRules, Transfer, parse_response, rewrite_response,
};
use crate::pool::BackendConnection;
use crate::respond::Answer;
use crate::service::{HEAD_BYTES_MAX, HttpService};
use crate::upload::Upload;
use crate::worker::HttpWorker;

/// Pieces of a body that are passed on before other tasks have their turn.
const PIECES_PER_TURN: u32 = 16;

/// A request and its response under way.
#[derive(Debug)]
pub(crate) struct Exchange<'c> {
    pub(crate) client: &'c TcpStream,
    pub(crate) address: &'c IpAddr,
    pub(crate) http: &'c HttpWorker,
    pub(crate) service: Held<HttpService>,
    pub(crate) request: Request,
    registration: &'c Registration,
    sleep: &'c mut Sleep,
    upload: Upload,
    started: Instant,
    /// When the response head must be there; known once the request has been sent.
    head_due: Option<Instant>,
    sent_bytes: u64,
    /// Of the response that has been begun; 0 before.
    status: u16,
    /// Whether another exchange may follow on the connection.
    may_persist: bool,
}

/// What an exchange waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// That the client takes what is sent.
    Client,
    /// That a backend accepts a connection.
    Connect(Duration),
    /// More of the response's body.
    ResponseBody,
    /// The response's head.
    ResponseHead,
}

/// What the first bytes of a response turned out to be.
enum Response {
    /// The final head, and what is behind it.
    Final {
        parts: Parts,
        rest: Chunk,
        download: Download,
        persists: bool,
    },
    /// Not a whole head; the bytes are given back.
    Incomplete(Chunk),
    /// An interim response for the client, and what is behind it.
    Interim { parts: Parts, rest: Chunk },
}

impl<'c> Exchange<'c> {
    pub(crate) fn new(
        connection: &'c mut Connection,
        service: Held<HttpService>,
        mut request: Request,
    ) -> Self {
        let limit = service.limits.requests_per_connection_max;
        let may_persist = request.keep_alive && limit.is_none_or(|max| connection.exchanges < max);
        let body = std::mem::replace(&mut request.body, Body::Done);
        connection
            .registration
            .listener()
            .exchanges_active
            .increment();
        Self {
            client: &connection.client,
            address: &connection.address,
            http: &connection.http,
            service,
            request,
            registration: &connection.registration,
            sleep: &mut connection.sleep,
            upload: Upload::new(body),
            started: rt::now(),
            head_due: None,
            sent_bytes: 0,
            status: 0,
            may_persist,
        }
    }

    /// Answers the request, from a backend or by ourselves.
    pub(crate) async fn run(&mut self) -> Next {
        match self.proxy().await {
            Ok(()) => self.next(),
            Err(_) if self.status != 0 => Next::End(End::Reset),
            Err(failure) => match failure.status() {
                Some(status) => self.answer(status, failure.reason()).await,
                None => Next::End(End::Gone),
            },
        }
    }

    async fn proxy(&mut self) -> Result<(), Failure> {
        let service = self.service.clone();
        let cluster = service.cluster(self.request.cluster.ok_or(Failure::NoRoute)?);
        let (mut backend, is_pooled) = self.reach(cluster).await?;
        let mut result = self.exchange_with(&backend, is_pooled).await;
        if let Err(Failure::BackendStale) = result {
            cluster
                .counters()
                .of(self.http.worker.index)
                .retries
                .increment();
            backend = self.reach_anew(cluster).await?;
            result = self.exchange_with(&backend, false).await;
        }
        if result? {
            self.http.pool.put(backend, cluster, rt::now());
        }
        Ok(())
    }

    /// Sends the request to a backend and its response to the client. True if the backend's
    /// connection can be used again.
    async fn exchange_with(
        &mut self,
        backend: &BackendConnection,
        is_pooled: bool,
    ) -> Result<bool, Failure> {
        let counters = backend.backend.counters(self.http.worker.index);
        counters.exchanges.increment();
        let _active = counters.exchanges_active.hold();
        if let Some(entry) = &mut self.request.log {
            entry.backend = Some(backend.backend.name.clone());
        }
        let stream = &backend.stream;
        self.send_request(stream, is_pooled).await?;
        let mut received = self
            .receive(stream, Waiting::ResponseHead)
            .await?
            .ok_or_else(|| self.lost(is_pooled))?;
        loop {
            match self.begin_response(received)? {
                Response::Final {
                    parts,
                    rest,
                    download,
                    persists,
                } => {
                    self.send(stream, parts).await?;
                    let is_clean = self.forward(stream, download, rest).await?;
                    return Ok(persists && is_clean && self.upload.is_sent());
                }
                Response::Incomplete(first) => received = self.collect(stream, first).await?,
                Response::Interim { parts, rest } => {
                    self.send(stream, parts).await?;
                    received = if rest.is_empty() {
                        let more = self.receive(stream, Waiting::ResponseHead).await?;
                        more.ok_or(Failure::BackendClosed)?
                    } else {
                        rest
                    };
                }
            }
        }
    }

    /// Sends the head and the body bytes at hand, keeping them if they may have to be sent again.
    async fn send_request(&mut self, stream: &TcpStream, is_pooled: bool) -> Result<(), Failure> {
        let body = self.request.body_at_hand.as_ref().map(Chunk::share);
        let mut parts = [Some(self.request.head.share()), body];
        let sent = self
            .wait(Waiting::ResponseHead, None, |cx| {
                stream.poll_send(cx, &mut parts)
            })
            .await?;
        match sent {
            Ok(()) => Ok(()),
            // Nothing has left us: sending it again is safe whatever the method.
            Err(_) if is_pooled => Err(Failure::BackendStale),
            Err(_) => Err(Failure::BackendClosed),
        }
    }

    /// What it means that a backend ended the connection without any response.
    fn lost(&self, is_pooled: bool) -> Failure {
        if is_pooled && self.request.method.is_idempotent() && !self.upload.has_begun() {
            Failure::BackendStale
        } else {
            Failure::BackendClosed
        }
    }

    /// The rest of a response head that comes in pieces, in one with its `first`.
    async fn collect(&mut self, stream: &TcpStream, first: Chunk) -> Result<Chunk, Failure> {
        let mut collector = HeadCollector::new(HEAD_BYTES_MAX);
        let mut piece = first;
        loop {
            if let Some(rest) = collector.add(piece) {
                stream.unread(rest);
                return Ok(collector.finish());
            }
            let more = self.receive(stream, Waiting::ResponseHead).await?;
            piece = more.ok_or(Failure::BackendClosed)?;
        }
    }

    /// Reads the response head at the start of `received` and writes the client's.
    fn begin_response(&mut self, mut received: Chunk) -> Result<Response, Failure> {
        let answers_head = self.request.method == Method::Head;
        let rules = ResponseRules {
            head_bytes_max: HEAD_BYTES_MAX,
            answers_head,
        };
        let Some(head) = parse_response(&received, &rules).map_err(Failure::BackendHead)? else {
            return Ok(Response::Incomplete(received));
        };
        if head.status == 101 {
            return Err(Failure::BackendSwitched);
        }
        let transfer = self.transfer(&head);
        let connection = self.client_connection(&head, transfer);
        let date = self.http.date.text();
        let mut out = Buffer::new();
        rewrite_response(&received, &head, connection, transfer, &date, &mut out)
            .map_err(Failure::BackendHead)?;
        received.advance(head.len());
        if head.is_interim() {
            // HTTP/1.0 knows no interim responses (RFC 9110 section 15.2).
            let is_wanted = self.request.version == Version::Http11;
            let parts = [is_wanted.then(|| out.freeze()), None];
            return Ok(Response::Interim {
                parts,
                rest: received,
            });
        }
        let mut download = Download::new(Body::new(head.framing, u64::MAX), transfer);
        let parts = first_parts(out, &mut download, &mut received)?;
        self.status = head.status;
        self.may_persist = connection != ClientConnection::Close;
        let persists = head.keep_alive && head.framing != Framing::UntilClose;
        Ok(Response::Final {
            parts,
            rest: received,
            download,
            persists,
        })
    }

    fn transfer(&self, head: &ResponseHead) -> Transfer {
        match self.request.version {
            Version::Http10 if head.declares_chunks() => Transfer::Dechunk,
            Version::Http11 if head.framing == Framing::UntilClose && self.persists() => {
                Transfer::Chunk
            }
            Version::Http10 | Version::Http11 => Transfer::AsIs,
        }
    }

    fn client_connection(&self, head: &ResponseHead, transfer: Transfer) -> ClientConnection {
        let ends_by_close = match head.framing {
            Framing::Chunked => transfer == Transfer::Dechunk,
            Framing::UntilClose => transfer == Transfer::AsIs,
            Framing::Length(_) | Framing::None => false,
        };
        self.connection_if(self.persists() && !ends_by_close)
    }

    const fn connection_if(&self, persists: bool) -> ClientConnection {
        match (persists, self.request.version) {
            (false, _) => ClientConnection::Close,
            (true, Version::Http10) => ClientConnection::KeepHttp10,
            (true, Version::Http11) => ClientConnection::Keep,
        }
    }

    /// Whether the client's connection can be kept: not while a body is on its way, whose end we
    /// may never see.
    fn persists(&self) -> bool {
        self.may_persist && self.upload.is_received() && !self.http.worker.draining.get()
    }

    /// Passes the response's body on. True if the backend sent nothing behind it.
    async fn forward(
        &mut self,
        stream: &TcpStream,
        mut download: Download,
        mut received: Chunk,
    ) -> Result<bool, Failure> {
        let mut pieces = 0;
        loop {
            while !received.is_empty() && !download.is_done() {
                let parts = download.next(&mut received).map_err(Failure::BackendBody)?;
                self.send(stream, parts).await?;
            }
            if download.is_done() {
                return Ok(received.is_empty());
            }
            pieces += 1;
            if pieces % PIECES_PER_TURN == 0 {
                rt::yield_now().await;
            }
            received = match self.receive(stream, Waiting::ResponseBody).await? {
                Some(received) => received,
                None if download.ends_by_close() => {
                    self.send(stream, download.end()).await?;
                    return Ok(false);
                }
                None => return Err(Failure::BackendClosed),
            };
        }
    }

    /// What follows a complete response.
    fn next(&self) -> Next {
        if self.may_persist {
            Next::Request
        } else if !self.request.keep_alive && self.upload.is_received() {
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
        };
        let mut parts = [Some(answer.write(&self.http.date.text())), None];
        self.count_sent(&parts);
        let client = self.client;
        match self
            .wait(Waiting::Client, None, |cx| client.poll_send(cx, &mut parts))
            .await
        {
            Ok(Ok(())) => self.next(),
            Ok(Err(_)) | Err(_) => Next::End(End::Gone),
        }
    }

    /// Sends `parts` to the client; the `backend` gets more of the request's body meanwhile.
    async fn send(&mut self, backend: &TcpStream, mut parts: Parts) -> Result<(), Failure> {
        if parts[0].is_none() {
            return Ok(());
        }
        self.count_sent(&parts);
        let client = self.client;
        let sent = self
            .wait(Waiting::Client, Some(backend), |cx| {
                client.poll_send(cx, &mut parts)
            })
            .await?;
        sent.map_err(|_| Failure::ClientGone)
    }

    /// The backend's next bytes, `None` when it has closed; it gets more of the request's body
    /// meanwhile.
    async fn receive(
        &mut self,
        backend: &TcpStream,
        waiting: Waiting,
    ) -> Result<Option<Chunk>, Failure> {
        let received = self
            .wait(waiting, Some(backend), |cx| backend.poll_recv(cx))
            .await?;
        match received {
            Ok(chunk) => Ok((!chunk.is_empty()).then_some(chunk)),
            // A body that ends by closing must not end by a reset.
            Err(_) if waiting == Waiting::ResponseBody => Err(Failure::BackendClosed),
            Err(_) => Ok(None),
        }
    }

    /// Polls `main` until it is ready. Beside it, the body is uploaded to `backend`, the client
    /// is watched and the time.
    pub(crate) async fn wait<T>(
        &mut self,
        waiting: Waiting,
        backend: Option<&TcpStream>,
        mut main: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Result<T, Failure> {
        let mut is_armed = false;
        poll_fn(|cx| {
            if let Poll::Ready(output) = main(cx) {
                return Poll::Ready(Ok(output));
            }
            if !is_armed {
                self.set_deadline(waiting);
                is_armed = true;
            }
            self.poll_beside(waiting, backend, cx).map(Err)
        })
        .await
    }

    fn poll_beside(
        &mut self,
        waiting: Waiting,
        backend: Option<&TcpStream>,
        cx: &mut Context<'_>,
    ) -> Poll<Failure> {
        if let Some(backend) = backend.filter(|_| self.upload.is_active()) {
            if let Poll::Ready(failure) = self.poll_upload(waiting, backend, cx) {
                return Poll::Ready(failure);
            }
        } else if self.client.poll_broken(cx).is_ready() {
            return Poll::Ready(Failure::ClientGone);
        }
        Pin::new(&mut *self.sleep)
            .poll(cx)
            .map(|()| self.overdue(waiting))
    }

    fn poll_upload(
        &mut self,
        waiting: Waiting,
        backend: &TcpStream,
        cx: &Context<'_>,
    ) -> Poll<Failure> {
        for _ in 0..PIECES_PER_TURN {
            if !self.upload.is_active() {
                break;
            }
            match self.upload.poll(self.client, backend, cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(failure)) => return Poll::Ready(failure),
                Poll::Ready(Ok(bytes)) => {
                    self.registration
                        .listener()
                        .received_bytes
                        .add(bytes as u64);
                    self.set_deadline(waiting);
                }
            }
        }
        cx.waker().wake_by_ref(); // others have their turn, then this goes on
        Poll::Pending
    }

    fn set_deadline(&mut self, waiting: Waiting) {
        let (now, timeouts) = (rt::now(), &self.service.timeouts);
        let deadline = match waiting {
            Waiting::Connect(timeout) => now + timeout,
            Waiting::ResponseHead if !self.upload.is_active() => {
                *self.head_due.get_or_insert(now + timeouts.response_head)
            }
            Waiting::Client | Waiting::ResponseBody | Waiting::ResponseHead => {
                now + timeouts.body_idle
            }
        };
        self.sleep.set_deadline(deadline);
    }

    /// Who has let the deadline pass.
    const fn overdue(&self, waiting: Waiting) -> Failure {
        match waiting {
            Waiting::Client => Failure::ClientStuck,
            Waiting::ResponseHead
                if self.upload.is_active() && !self.upload.waits_for_backend() =>
            {
                Failure::BodyTimeout
            }
            Waiting::Connect(_) | Waiting::ResponseBody | Waiting::ResponseHead => {
                Failure::BackendTimeout
            }
        }
    }

    fn count_sent(&mut self, parts: &Parts) {
        let bytes: usize = parts.iter().flatten().map(|part| part.len()).sum();
        self.sent_bytes += bytes as u64;
        self.registration.listener().sent_bytes.add(bytes as u64);
    }
}

impl Drop for Exchange<'_> {
    /// Counts and logs it, however it ended.
    fn drop(&mut self) {
        let listener = self.registration.listener();
        let duration = rt::now().saturating_duration_since(self.started);
        listener.exchanges_active.decrement();
        listener.exchange_time.observe(duration);
        if self.status != 0 {
            listener.exchange_answered(self.status);
        }
        if let (Some(log), Some(entry)) = (&self.http.access_log, &self.request.log) {
            let Self {
                status, sent_bytes, ..
            } = *self;
            log.write(
                entry,
                Outcome {
                    status,
                    sent_bytes,
                    duration,
                },
            );
        }
    }
}

/// The head in `out` and as much of the body at hand as goes along with it.
fn first_parts(
    mut out: Buffer,
    download: &mut Download,
    received: &mut Chunk,
) -> Result<Parts, Failure> {
    let plain = download
        .take_plain(received)
        .map_err(Failure::BackendBody)?;
    if plain <= COPIED_BYTES_MAX && out.push(&received[..plain]) {
        received.advance(plain);
        return Ok([Some(out.freeze()), None]);
    }
    Ok([Some(out.freeze()), Some(received.split_to(plain))])
}
