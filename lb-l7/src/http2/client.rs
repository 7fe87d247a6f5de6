//! The client's end: connections to backends, each with many exchanges at once.
//!
//! Invariant: a stream is handed out only where the backend takes it, and one connection at a time
//! is opened to a backend: who comes meanwhile waits for that one.
//! Read next: `driver.rs` (the connection's task), `../reach.rs` (who asks for streams).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use lb_core::balance::{Backend, BackendId, Cluster};
use lb_core::plan::Http2;
use lb_core::rt::{self, Chunk, Notify};

use super::core::{Core, Phase, Role};
use super::driver::{Deadlines, Driver, Shared, broken};
use super::frame::ErrorCode;
use super::offence::{self, OffendingPeer};
use super::settings::LocalSettings;
use super::streams::{Ended, StreamKey};
use super::websocket::{self, Accept};
use super::write::RequestKind;
use crate::link::{BackendStream, Http2Stream};
use crate::service::HEAD_BYTES_MAX;
use crate::stream::Stream;
use crate::tls;

/// Silence of a backend with streams open, after which it is asked for a sign of life.
const SILENCE: Duration = Duration::from_secs(20);

/// The HTTP/2 connections of one worker to backends.
#[derive(Debug, Default)]
pub(crate) struct Backends {
    by_id: RefCell<HashMap<BackendId, Connections>>,
}

#[derive(Debug, Default)]
struct Connections {
    open: Vec<Rc<Shared>>,
    /// Somebody is connecting, and tells this at the end.
    connecting: Option<Rc<Notify>>,
}

/// Whose turn it is to connect.
#[derive(Debug)]
pub(crate) enum Turn<'b> {
    /// The caller's.
    Ours(Connecting<'b>),
    /// Another's, who tells when it is over.
    Theirs(Rc<Notify>),
}

/// The right to connect to a backend; others wait until it is dropped.
#[derive(Debug)]
pub(crate) struct Connecting<'b> {
    backends: &'b Backends,
    id: BackendId,
}

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        let mut by_id = self.backends.by_id.borrow_mut();
        let waiting = by_id.get_mut(&self.id).and_then(|it| it.connecting.take());
        if let Some(waiting) = waiting {
            waiting.notify();
        }
    }
}

impl Backends {
    /// A stream of a connection to `backend` that takes one more, if there is one.
    pub(crate) fn take(&self, backend: BackendId) -> Option<ClientStream> {
        let mut by_id = self.by_id.borrow_mut();
        let open = &mut by_id.get_mut(&backend)?.open;
        open.retain(|it| it.core.borrow().takes_streams());
        open.iter().find_map(ClientStream::reserve)
    }

    /// The turn to connect to `backend`.
    pub(crate) fn turn(&self, backend: BackendId) -> Turn<'_> {
        let mut by_id = self.by_id.borrow_mut();
        let connecting = &mut by_id.entry(backend).or_default().connecting;
        if let Some(theirs) = connecting {
            return Turn::Theirs(Rc::clone(theirs));
        }
        *connecting = Some(Rc::default());
        Turn::Ours(Connecting {
            backends: self,
            id: backend,
        })
    }

    /// Closes the connections to backends that are not `present` any more, once their streams have
    /// ended.
    pub(crate) fn retain(&self, present: impl Fn(BackendId) -> bool) {
        for (backend, connections) in &mut *self.by_id.borrow_mut() {
            if !present(*backend) {
                for shared in connections.open.drain(..) {
                    shared.core.borrow_mut().go_away(Phase::Closing);
                }
            }
        }
    }

    /// Forgets what has ended.
    pub(crate) fn sweep(&self) {
        self.by_id.borrow_mut().retain(|_, connections| {
            connections
                .open
                .retain(|it| it.core.borrow().takes_streams());
            !connections.open.is_empty() || connections.connecting.is_some()
        });
    }

    /// Number of connections without streams.
    pub(crate) fn idle(&self) -> usize {
        let by_id = self.by_id.borrow();
        let open = by_id.values().flat_map(|it| &it.open);
        open.filter(|it| it.core.borrow().is_idle()).count()
    }
}

impl Connecting<'_> {
    /// Takes the connection that was established into use; yields a stream of it once the backend
    /// has said what it takes.
    ///
    /// # Errors
    /// `Unsupported` when the backend does not speak HTTP/2, `InvalidData` when it has ended TLS.
    pub(crate) fn begin(
        self,
        stream: Stream,
        cluster: &Cluster,
        backend: &Arc<Backend>,
        worker: usize,
    ) -> impl Future<Output = io::Result<ClientStream>> {
        let speaks_http2 = match &stream {
            Stream::Plain(_) => true, // or it will not send SETTINGS
            Stream::Tls(tls) => tls.alpn_protocol() == Some(b"h2"),
        };
        let local = LocalSettings {
            streams_max: 0,
            window: Http2::WINDOW_DEFAULT,
            head_bytes_max: HEAD_BYTES_MAX,
        };
        let mut core = Core::new(Role::Client, local);
        core.is_https = matches!(stream, Stream::Tls(_));
        let shared = Rc::new(Shared {
            core: RefCell::new(core),
            local: stream.tcp().local_addr().ok(),
            alert: Cell::new(None),
        });
        let deadlines = Deadlines {
            idle: cluster.pool_idle_timeout,
            silence: SILENCE,
        };
        let counted = Counted::new(Arc::clone(backend), worker);
        let driven = Rc::clone(&shared);
        let cluster = cluster.name.clone();
        rt::spawn(async move {
            Driver::new(&driven, stream, deadlines).run(|| {}).await;
            counted.end(&driven.core.borrow(), &cluster);
        });
        let begun = Begun(Some(shared));
        async move {
            let mut begun = begun;
            if !speaks_http2 {
                return Err(io::ErrorKind::Unsupported.into());
            }
            let turn = self; // all of it: others wait until the connection can be used
            let settled = poll_fn(|cx| begun.poll_settled(cx)).await;
            let ours = settled.then(|| begun.reserve()).flatten();
            let ours = ours.ok_or_else(|| begun.refusal())?;
            let mut by_id = turn.backends.by_id.borrow_mut();
            let open = &mut by_id.entry(turn.id).or_default().open;
            open.extend(begun.0.take());
            drop(by_id);
            Ok(ours)
        }
    }
}

/// A connection that is not in use yet; it ends if it never is.
struct Begun(Option<Rc<Shared>>);

impl Begun {
    fn poll_settled(&self, cx: &Context<'_>) -> Poll<bool> {
        match &self.0 {
            Some(shared) => shared.core.borrow_mut().poll_settled(cx),
            None => Poll::Ready(false),
        }
    }

    fn reserve(&self) -> Option<ClientStream> {
        self.0.as_ref().and_then(ClientStream::reserve)
    }

    /// Why there is no stream.
    fn refusal(&self) -> io::Error {
        let alert = self.0.as_ref().and_then(|shared| shared.alert.get());
        alert.map_or_else(|| io::ErrorKind::ConnectionRefused.into(), tls::alerted)
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(shared) = &self.0 {
            shared.core.borrow_mut().go_away(Phase::Closing);
        }
    }
}

/// A connection, counted as long as its task lives.
#[derive(Debug)]
struct Counted {
    backend: Arc<Backend>,
    worker: usize,
}

impl Counted {
    fn new(backend: Arc<Backend>, worker: usize) -> Self {
        let counters = backend.counters(worker);
        counters.connections.increment();
        counters.connections_active.increment();
        Self { backend, worker }
    }
}

impl Counted {
    /// Says why the connection has ended, where the backend is to blame.
    fn end(self, core: &Core, cluster: &str) {
        let counters = self.backend.counters(self.worker);
        counters.http2_offences.add(core.counts.offences);
        counters.http2_floods.add(core.counts.floods);
        let backend = OffendingPeer::Backend {
            cluster,
            backend: &self.backend.name,
        };
        offence::report(core.failure, backend);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let counters = self.backend.counters(self.worker);
        counters.connections_active.decrement();
    }
}

/// Waits until another has connected.
pub(crate) fn poll_connected(
    notify: &Notify,
) -> impl FnMut(&mut Context<'_>) -> Poll<()> + use<'_> {
    let mut notified = Box::pin(notify.notified());
    move |cx| pin!(&mut notified).poll(cx)
}

/// A stream to a backend, which begins with its head.
pub(crate) struct ClientStream {
    shared: Rc<Shared>,
    key: Cell<Option<StreamKey>>,
    /// The proof of the WebSocket that is asked for.
    accept: Cell<Option<Accept>>,
    /// Of the head that is sent next.
    secrets: Cell<Option<Chunk>>,
}

impl fmt::Debug for ClientStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientStream")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl ClientStream {
    /// A stream of this connection, if it takes one more.
    fn reserve(shared: &Rc<Shared>) -> Option<Self> {
        let mut core = shared.core.borrow_mut();
        core.has_room().then(|| {
            core.reserved += 1;
            Self {
                shared: Rc::clone(shared),
                key: Cell::new(None),
                accept: Cell::new(None),
                secrets: Cell::new(None),
            }
        })
    }

    fn with<R>(&self, f: impl FnOnce(&mut Core, StreamKey) -> R) -> Option<R> {
        let key = self.key.get()?;
        Some(f(&mut self.shared.core.borrow_mut(), key))
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        let mut core = self.shared.core.borrow_mut();
        match self.key.get() {
            Some(key) => core.release(key),
            None => core.reserved -= 1,
        }
    }
}

fn not_begun() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

impl Http2Stream for ClientStream {
    fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        match self.with(|core, key| core.poll_recv(key, cx)) {
            Some(received) => received.map_err(broken),
            None => Poll::Ready(Err(not_begun())),
        }
    }

    fn is_received(&self) -> bool {
        self.with(Core::is_received).unwrap_or(false)
    }

    fn take_secrets(&self) -> Option<Chunk> {
        self.with(|core, key| core.streams.get(key)?.secrets.take())?
    }

    fn keep_secret(&self, names: Chunk) {
        self.secrets.set(Some(names));
    }

    fn take_trailers(&self) -> Option<Chunk> {
        self.with(|core, key| core.streams.get(key)?.trailers.take())?
    }

    fn poll_send_head(
        &self,
        _: &mut Context<'_>,
        head: &mut Chunk,
        ends: bool,
    ) -> Poll<io::Result<()>> {
        if self.key.get().is_some() {
            return Poll::Ready(Ok(()));
        }
        let secrets = self.secrets.take();
        let mut core = self.shared.core.borrow_mut();
        let kind = RequestKind {
            is_https: core.is_https,
            is_websocket: self.accept.get().is_some(),
            secrets: secrets.as_deref().unwrap_or_default(),
        };
        let Some(key) = core.send_request(head, kind, ends) else {
            return Poll::Ready(Err(broken(Ended::WithConnection)));
        };
        core.reserved -= 1;
        self.key.set(Some(key));
        Poll::Ready(Ok(()))
    }

    fn poll_send_data(
        &self,
        cx: &mut Context<'_>,
        data: &mut Chunk,
        ends: bool,
    ) -> Poll<io::Result<()>> {
        match self.with(|core, key| core.poll_send(key, data, ends, cx)) {
            Some(sent) => sent.map_err(broken),
            None => Poll::Ready(Err(not_begun())),
        }
    }

    fn poll_send_trailers(
        &self,
        _: &mut Context<'_>,
        trailers: &mut Chunk,
    ) -> Poll<io::Result<()>> {
        match self.with(|core, key| core.send_trailers(key, trailers)) {
            Some(true) => Poll::Ready(Ok(())),
            Some(false) => Poll::Ready(Err(broken(Ended::WithConnection))),
            None => Poll::Ready(Err(not_begun())),
        }
    }

    fn poll_broken(&self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match self.with(|core, key| core.poll_ended(key, cx)) {
            Some(ended) => ended.map(broken),
            None => Poll::Ready(not_begun()),
        }
    }

    fn reset(&self) {
        self.with(|core, key| core.reset(key, ErrorCode::CANCEL));
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.shared.local_addr()
    }
}

impl BackendStream for ClientStream {
    fn poll_recv_head(&self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        let received = ready!(self.poll_recv(cx));
        Poll::Ready(match self.accept.get() {
            Some(accept) => received.map(|head| websocket::answer(head, &accept)),
            None => received,
        })
    }

    fn ask_websocket(&self, accept: Accept) -> bool {
        let allows = self.shared.core.borrow().peer.has_connect_protocol;
        self.accept.set(allows.then_some(accept));
        allows
    }

    fn is_refused(&self) -> bool {
        self.with(Core::was_refused).unwrap_or(false)
    }
}
