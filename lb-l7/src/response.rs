//! The response's head on its way from the backend to the client: checked, rewritten, and with it
//! the decision on how the body follows and whether the client's connection stays.
//!
//! Invariant: what the client is told of framing and persistence is what then happens.
//! Read next: `http1/response.rs` (the rules), `passage.rs` (the body).

use lb_core::balance::{Held, Lease};
use lb_core::rt::{self, Buffer, Chunk};

use crate::admit::COPIED_BYTES_MAX;
use crate::exchange::Exchange;
use crate::failure::Failure;
use crate::http1::body::Body;
use crate::http1::head::{Framing, Version};
use crate::http1::request::Method;
use crate::http1::response::{
    ClientConnection, ResponseHead, ResponseRules, Transfer, parse_response, rewrite_response_with,
};
use crate::link::{BackendLink, ClientLink, Outgoing};
use crate::passage::{Parts, Passage};
use crate::service::HEAD_BYTES_MAX;

/// What the bytes received from a backend turned out to be.
pub(crate) enum Response {
    /// A final head.
    Final {
        /// Whether the backend keeps its connection.
        persists: bool,
    },
    /// Not a whole head.
    Incomplete,
    /// What follows is no HTTP any more, on either side.
    Switched,
    /// The head of an interim response; another follows.
    Interim,
}

impl Exchange<'_> {
    /// Reads the response head at the start of what was received and writes the client's.
    pub(crate) fn begin_response(
        &mut self,
        link: &BackendLink,
        lease: &Lease<'_>,
    ) -> Result<Response, Failure> {
        let answers_head = self.request.method == Method::Head;
        let rules = ResponseRules {
            head_bytes_max: HEAD_BYTES_MAX,
            answers_head,
        };
        let parsed = parse_response(&self.received, &rules).map_err(Failure::BackendHead)?;
        let Some(head) = parsed else {
            return Ok(Response::Incomplete);
        };
        if head.status == 101 && !(self.request.upgrades && head.switches()) {
            return Err(Failure::BackendSwitched);
        }
        if let (BackendLink::Http2(from), ClientLink::Http2(to)) = (link, &self.connection.client)
            && let Some(names) = from.take_secrets()
        {
            to.keep_secret(names);
        }
        let transfer = self.transfer(&head, link);
        let connection = self.client_connection(&head, transfer);
        let out = self.client_head(&head, connection, transfer, lease)?;
        let head_len = out.len();
        if !head.is_interim() || head.switches() {
            self.log_head(&head, head_len);
        }
        self.received.advance(head.len());
        if head.switches() {
            self.outgoing = Outgoing {
                parts: [Some(out.freeze()), None],
                head_len: as_u16(head_len),
                ..Outgoing::default()
            };
            self.status = head.status;
            return Ok(Response::Switched);
        }
        if head.is_interim() {
            // HTTP/1.0 knows no interim responses (RFC 9110 section 15.2).
            let is_wanted = self.request.version == Version::Http11;
            self.outgoing = Outgoing {
                head_len: if is_wanted { as_u16(head_len) } else { 0 },
                parts: [is_wanted.then(|| out.freeze()), None],
                ..Outgoing::default()
            };
            return Ok(Response::Interim);
        }
        self.download = Passage::new(self.body_of(&head, link), transfer);
        self.outgoing.parts = first_parts(out, &mut self.download, &mut self.received)?;
        self.outgoing.head_len = as_u16(head_len);
        self.end_with_download();
        self.status = head.status;
        self.may_persist = connection != ClientConnection::Close;
        let persists = head.keep_alive && head.framing != Framing::UntilClose;
        Ok(Response::Final { persists })
    }

    /// What the log says of the head that is received, of which the client gets `sent` bytes.
    fn log_head(&mut self, head: &ResponseHead, sent: usize) {
        let (Some(record), Some(log)) = (&mut self.request.log, &self.service.log) else {
            return;
        };
        record.backend_status = head.status;
        record.head_bytes = sent as u64;
        record.header_time = record
            .asked
            .map(|asked| rt::now().saturating_duration_since(asked));
        record.read_response(log.template(), head.field_bytes(&self.received));
    }

    /// The head for the client, with an affinity cookie if it is to be given one.
    fn client_head(
        &self,
        head: &ResponseHead,
        connection: ClientConnection,
        transfer: Transfer,
        lease: &Lease<'_>,
    ) -> Result<Buffer, Failure> {
        let served = self.request.cluster.ok().map(|it| self.service.served(it));
        let set_cookie = served.and_then(|it| it.set_cookie.as_ref());
        let is_due = lease.affinity() == Held::Chosen && !head.is_interim();
        let cookie = set_cookie.filter(|_| is_due);
        let cookie = cookie.zip(lease.cookie_value());
        let expires = cookie.and_then(|(cookie, _)| cookie.expires());
        let line = cookie
            .as_ref()
            .map(|(cookie, value)| cookie.line(value.as_bytes(), expires.as_ref()));
        let added = line.as_ref().map_or(&[][..], |line| line);
        let date = self.connection.http.date.text();
        let mut out = Buffer::new();
        let received = &self.received;
        rewrite_response_with(received, head, connection, transfer, &date, added, &mut out)
            .map_err(Failure::BackendHead)?;
        Ok(out)
    }

    fn transfer(&self, head: &ResponseHead, backend: &BackendLink) -> Transfer {
        match self.request.version {
            _ if self.connection.client.is_http2() => {
                if head.declares_chunks() {
                    Transfer::Dechunk
                } else {
                    Transfer::AsIs
                }
            }
            Version::Http11 if head.framing == Framing::UntilClose && backend.is_http2() => {
                // Only so a broken stream can be told from one that has ended; trailers too.
                Transfer::Chunk
            }
            Version::Http10 if head.declares_chunks() => Transfer::Dechunk,
            Version::Http11 if head.framing == Framing::UntilClose && self.persists() => {
                Transfer::Chunk
            }
            Version::Http10 | Version::Http11 => Transfer::AsIs,
        }
    }

    /// The body behind `head`; a stream of HTTP/2 says by itself where it ends.
    fn body_of(&self, head: &ResponseHead, link: &BackendLink) -> Body {
        let is_over = link.is_received() && self.connection.client.is_http2();
        match head.framing {
            Framing::None => Body::Done,
            Framing::Length(length) if link.is_http2() => Body::of_stream(Some(length), u64::MAX),
            // Where trailers are all that a response has, they are its head.
            Framing::UntilClose if is_over => Body::Done,
            _ if link.is_http2() => Body::of_stream(None, u64::MAX),
            framing => Body::new(framing, u64::MAX),
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

    pub(crate) const fn connection_if(&self, persists: bool) -> ClientConnection {
        match (persists, self.request.version) {
            (false, _) => ClientConnection::Close,
            (true, Version::Http10) => ClientConnection::KeepHttp10,
            (true, Version::Http11) => ClientConnection::Keep,
        }
    }

    /// Whether the client's connection can be kept: not while a body is on its way, whose end we
    /// may never see.
    pub(crate) fn persists(&self) -> bool {
        let is_draining = self.connection.http.worker.draining.get();
        self.may_persist && self.request.upload.is_received() && !is_draining
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a head is shorter than a buffer"
)]
const fn as_u16(head_len: usize) -> u16 {
    head_len as u16
}

/// The head in `out` and as much of the body at hand as goes along with it.
fn first_parts(
    mut out: Buffer,
    download: &mut Passage,
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
