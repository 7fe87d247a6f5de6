//! What is told of one session or flow, gathered while it goes on.
//!
//! Invariant: records that nobody has keep their memory, and are used again, on the same thread.
//! Read next: `mod.rs` (formats), `../tcp/entry.rs` and `../udp/flow.rs` (whose records they are).

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lb_core::balance::Backend;
use lb_core::lines::{
    AddressText, Lines, Piece, write_address, write_iso8601, write_local_time, write_msec,
    write_number, write_seconds,
};
use lb_core::metrics::Refusal;
use lb_core::rt::{Instant, now};

use super::SessionLog;
use super::variable::Variable;
use crate::client_hello::ClientHello;

/// Vacant records that a thread keeps.
const VACANT_MAX: usize = 1024;

#[expect(clippy::vec_box, reason = "sessions hold the boxes")]
mod vacant {
    use super::{Record, RefCell};

    thread_local! {
        pub(super) static VACANT: RefCell<Vec<Box<Record>>> = const { RefCell::new(Vec::new()) };
    }
}
use vacant::VACANT;

/// What is told of a session or flow.
#[derive(Debug, Default)]
pub(crate) struct Record {
    transport: Transport,
    begun: Instant,
    client: Cell<Option<SocketAddr>>,
    local: Cell<Option<SocketAddr>>,
    /// Empty before it is known, as all texts.
    cluster: RefCell<String>,
    server_name: RefCell<String>,
    alpn: RefCell<Vec<u8>>,
    backend: RefCell<Option<Arc<Backend>>>,
    connect_time: Cell<Option<Duration>>,
    retries: Cell<u64>,
    refusal: Cell<Option<Refusal>>,
    ended_by: Cell<Option<Side>>,
    received_bytes: Cell<u64>,
    sent_bytes: Cell<u64>,
    /// From the client, and to it.
    datagrams: Cell<(u64, u64)>,
}

/// What carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Transport {
    #[default]
    Tcp,
    Udp,
}

/// Who ended a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Backend,
    Client,
}

/// How it ended: its name, and the status that nginx would have for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    pub(crate) name: &'static str,
    pub(crate) status: u16,
}

impl Record {
    /// A record of what begins now.
    pub(crate) fn begin(
        transport: Transport,
        client: SocketAddr,
        local: Option<SocketAddr>,
    ) -> Box<Self> {
        let vacant = VACANT.try_with(|vacant| vacant.borrow_mut().pop());
        let mut record = vacant.ok().flatten().unwrap_or_default();
        record.transport = transport;
        record.begun = now();
        record.told(client, local);
        record
    }

    /// A proxy said who the client is.
    pub(crate) fn told(&self, client: SocketAddr, local: Option<SocketAddr>) {
        self.client.set(Some(client));
        self.local.set(local.or_else(|| self.local.get()));
    }

    /// Where it goes, and what it asked for, if that was looked at.
    pub(crate) fn routed(&self, cluster: &str, hello: Option<&ClientHello>) {
        let mut known = self.cluster.borrow_mut();
        known.clear();
        known.push_str(cluster);
        let Some(hello) = hello else { return };
        let name = hello.server_name.as_deref().unwrap_or_default();
        self.server_name.borrow_mut().push_str(name);
        let mut joined = self.alpn.borrow_mut();
        for (index, protocol) in hello.protocols().enumerate() {
            joined.extend_from_slice(if index > 0 { b"," } else { b"" });
            joined.extend_from_slice(protocol);
        }
    }

    /// The backend that it has now. True if it had none before.
    pub(crate) fn connected(&self, backend: &Arc<Backend>, connect_time: Option<Duration>) -> bool {
        self.connect_time.set(connect_time);
        self.backend.replace(Some(Arc::clone(backend))).is_none()
    }

    /// Another backend is asked.
    pub(crate) fn retried(&self) {
        self.retries.set(self.retries.get() + 1);
    }

    pub(crate) fn refused(&self, why: Refusal) {
        self.refusal.set(Some(why));
    }

    /// One side ended its part. Of an end that both agree on, the first is told of.
    pub(crate) fn ended_by(&self, side: Side, is_first: bool) {
        if !(is_first && self.ended_by.get().is_some()) {
            self.ended_by.set(Some(side));
        }
    }

    /// Neither side ended it.
    pub(crate) fn ended_by_us(&self) {
        self.ended_by.set(None);
    }

    /// So many bytes were taken from the client and given to it.
    pub(crate) fn moved(&self, received: u64, sent: u64) {
        self.received_bytes
            .set(self.received_bytes.get() + received);
        self.sent_bytes.set(self.sent_bytes.get() + sent);
    }

    /// So many datagrams were.
    pub(crate) fn moved_datagrams(&self, received: usize, sent: usize) {
        let (before, before_sent) = self.datagrams.get();
        self.datagrams
            .set((before + received as u64, before_sent + sent as u64));
    }

    /// Writes the line of the start, if the log has such.
    pub(crate) fn write_start(&self, log: &SessionLog, lines: &Lines) {
        if log.starts {
            lines.append(&log.sink, |out| self.write(log, None, out));
        }
    }

    /// Writes the line of the end, and takes the record back.
    pub(crate) fn finish(self: Box<Self>, log: &SessionLog, lines: &Lines, ended: Ended) {
        lines.append(&log.sink, |out| self.write(log, Some(ended), out));
        self.keep();
    }

    fn keep(mut self: Box<Self>) {
        self.cluster.get_mut().clear();
        self.server_name.get_mut().clear();
        self.alpn.get_mut().clear();
        let texts = (
            self.cluster.take(),
            self.server_name.take(),
            self.alpn.take(),
        );
        *self = Self {
            cluster: texts.0.into(),
            server_name: texts.1.into(),
            alpn: texts.2.into(),
            ..Self::default()
        };
        // Where the thread ends, nobody needs it.
        let _ = VACANT.try_with(|vacant| {
            let mut vacant = vacant.borrow_mut();
            if vacant.len() < VACANT_MAX {
                vacant.push(self);
            }
        });
    }

    fn write(&self, log: &SessionLog, ended: Option<Ended>, out: &mut Vec<u8>) {
        for piece in &log.template.pieces {
            self.write_piece(piece, log, ended, out);
        }
        out.extend_from_slice(&log.template.end);
    }

    fn write_piece(
        &self,
        piece: &Piece<Variable>,
        log: &SessionLog,
        ended: Option<Ended>,
        out: &mut Vec<u8>,
    ) {
        let start = out.len();
        out.extend_from_slice(&piece.before);
        let behind = out.len();
        let text = |text: Option<&[u8]>, out: &mut Vec<u8>| {
            let text = text.filter(|text| !text.is_empty());
            if text.is_some() || !piece.is_optional {
                piece.escape.write(text, out);
            }
        };
        match piece.variable {
            Variable::Alpn => text(Some(&self.alpn.borrow()), out),
            Variable::ServerName => text(Some(self.server_name.borrow().as_bytes()), out),
            Variable::Cluster => text(Some(self.cluster.borrow().as_bytes()), out),
            Variable::Listener => text(Some(log.listener.as_bytes()), out),
            Variable::Backend => {
                let backend = self.backend.borrow();
                text(backend.as_ref().map(|it| it.name.as_bytes()), out);
            }
            Variable::ClientAddress | Variable::LocalAddress => {
                let address = self.address(piece.variable);
                let address = address.map(|address| AddressText::of(address.ip()));
                text(address.as_ref().map(AddressText::bare), out);
            }
            Variable::End => text(ended.map(|ended| ended.name.as_bytes()), out),
            Variable::EndedBy => text(self.ended_by.get().map(Side::name), out),
            Variable::Protocol => text(Some(self.transport.name()), out),
            Variable::Refusal => text(self.refusal.get().map(|it| it.name().as_bytes()), out),
            _ => {
                // What we make ourselves has nothing that is to be escaped.
                let quote = piece.quote();
                out.extend_from_slice(quote);
                let made = out.len();
                self.write_made(piece.variable, ended, out);
                if out.len() > made {
                    out.extend_from_slice(quote);
                } else {
                    out.truncate(behind);
                    text(None, out);
                }
            }
        }
        if out.len() == behind && piece.is_optional {
            out.truncate(start);
        }
    }

    fn address(&self, variable: Variable) -> Option<SocketAddr> {
        match variable {
            Variable::ClientAddress | Variable::ClientPort => self.client.get(),
            _ => self.local.get(),
        }
    }

    /// Writes a value of digits and the like; nothing where there is none.
    fn write_made(&self, variable: Variable, ended: Option<Ended>, out: &mut Vec<u8>) {
        let is_udp = self.transport == Transport::Udp;
        match variable {
            Variable::BackendAddress => {
                if let Some(backend) = &*self.backend.borrow() {
                    write_address(backend.address, out);
                }
            }
            Variable::BytesReceived => write_number(self.received_bytes.get(), out),
            Variable::BytesSent => write_number(self.sent_bytes.get(), out),
            Variable::ClientPort | Variable::LocalPort => {
                if let Some(address) = self.address(variable) {
                    write_number(address.port().into(), out);
                }
            }
            Variable::ConnectTime => {
                if let Some(time) = self.connect_time.get() {
                    write_seconds(time, out);
                }
            }
            Variable::DatagramsReceived if is_udp => write_number(self.datagrams.get().0, out),
            Variable::DatagramsSent if is_udp => write_number(self.datagrams.get().1, out),
            Variable::Msec => write_msec(out),
            Variable::Retries => write_number(self.retries.get(), out),
            Variable::SessionTime => {
                write_seconds(now().saturating_duration_since(self.begun), out);
            }
            Variable::Status => {
                if let Some(ended) = ended {
                    let refused = self.refusal.get().map(status_of);
                    write_number(refused.unwrap_or(ended.status).into(), out);
                }
            }
            Variable::TimeIso8601 => write_iso8601(out),
            Variable::TimeLocal => write_local_time(out),
            _ => {}
        }
    }
}

impl Side {
    const fn name(self) -> &'static [u8] {
        match self {
            Self::Backend => b"backend",
            Self::Client => b"client",
        }
    }
}

impl Transport {
    const fn name(self) -> &'static [u8] {
        match self {
            Self::Tcp => b"TCP",
            Self::Udp => b"UDP",
        }
    }
}

/// As nginx has them: 400 for bytes that are not what they should be, 403 for those who may not,
/// 503 where there is no room.
const fn status_of(why: Refusal) -> u16 {
    match why {
        Refusal::Hello | Refusal::HelloTimeout | Refusal::Proxy | Refusal::ProxyTimeout => 400,
        Refusal::Denied | Refusal::Untrusted => 403,
        Refusal::NoRoute => 502,
        Refusal::Connections
        | Refusal::QueueFull
        | Refusal::QueueTimeout
        | Refusal::Rate
        | Refusal::Source => 503,
    }
}
