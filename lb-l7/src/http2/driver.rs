//! The task of a connection: receives, has the state machine work, sends; and keeps its deadlines.
//!
//! Invariant: all that streams have queued when the task runs leaves in as few sends as possible;
//! a peer that does not read is not read from.
//! Read next: `core.rs` (the state), `server.rs`, `client.rs` (who starts it).

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use lb_core::rt::{self, Chunk, Instant, Sleep};

use super::core::{Core, Phase, Role};
use super::frame::{ConnectionError, ErrorCode};
use super::joining::Joining;
use super::streams::Ended;
use crate::stream::Stream;

/// Receives that are taken before other tasks have their turn.
const RECEIVES_PER_TURN: u32 = 16;
/// How long the peer may go on sending after we have ended the connection.
const LINGER: Duration = Duration::from_secs(1);
/// How long after the warning a connection closes at the latest, and a peer has for its SETTINGS.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection, as its task and its streams share it.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) core: RefCell<Core>,
    pub(super) local: Option<SocketAddr>,
    /// The alert by which the peer has ended TLS.
    pub(super) alert: Cell<Option<u8>>,
}

impl Shared {
    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.local.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

/// What a stream that ended before its time fails with.
pub(super) fn broken(ended: Ended) -> io::Error {
    match ended {
        Ended::ByUs(_) => io::ErrorKind::ConnectionAborted.into(),
        Ended::ByPeer(_) | Ended::Refused => io::ErrorKind::ConnectionReset.into(),
        Ended::WithConnection => io::ErrorKind::BrokenPipe.into(),
    }
}

/// Deadlines of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadlines {
    /// Without streams.
    pub(super) idle: Duration,
    /// With streams, but without a byte from the peer; after as long again it is given up.
    pub(super) silence: Duration,
}

/// A connection's task.
#[derive(Debug)]
pub(super) struct Driver<'s> {
    shared: &'s Shared,
    stream: Stream,
    deadlines: Deadlines,
    sleep: Sleep,
    /// When the peer was last heard.
    heard: Instant,
    /// When the last stream ended, or the first byte came.
    idle_since: Option<Instant>,
    /// When a connection that is to close does so whatever the peer says.
    closes_at: Option<Instant>,
    has_ended: bool,
    /// The client has finished sending, and may be waiting for answers.
    is_half_closed: bool,
    joining: Joining,
}

impl<'s> Driver<'s> {
    pub(super) fn new(shared: &'s Shared, stream: Stream, deadlines: Deadlines) -> Self {
        let now = rt::now();
        Self {
            shared,
            stream,
            deadlines,
            sleep: rt::sleep_until(now + deadlines.idle.min(deadlines.silence)),
            heard: now,
            idle_since: None,
            closes_at: None,
            has_ended: false,
            is_half_closed: false,
            joining: Joining::default(),
        }
    }

    /// Runs the connection to its end. `begin` is called when there are new streams of the peer.
    pub(super) async fn run(mut self, mut begin: impl FnMut()) {
        poll_fn(|cx| self.poll(cx, &mut begin)).await;
        self.shared.core.borrow_mut().fail(None);
        self.close().await;
    }

    fn poll(&mut self, cx: &mut Context<'_>, begin: &mut impl FnMut()) -> Poll<()> {
        self.shared.core.borrow_mut().now = rt::now();
        self.poll_receive(cx, begin);
        let waits = self.joining.waits(&self.shared.core.borrow(), cx);
        if !waits && self.poll_send(cx).is_err() {
            return Poll::Ready(());
        }
        let mut core = self.shared.core.borrow_mut();
        core.give_turn();
        core.wait_as_driver(cx);
        let is_over = core.phase == Phase::Failed
            || (core.phase == Phase::Closing && core.streams.len() == 0);
        if self.has_ended || (is_over && core.out.bytes() == 0) {
            return Poll::Ready(());
        }
        self.poll_deadlines(&mut core, cx)
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>, begin: &mut impl FnMut()) {
        if self.is_half_closed {
            self.has_ended |= self.stream.tcp().poll_broken(cx).is_ready();
            return;
        }
        for _ in 0..RECEIVES_PER_TURN {
            let mut core = self.shared.core.borrow_mut();
            if core.phase == Phase::Failed || self.has_ended || core.is_clogged() {
                return; // sending goes on, and wakes us
            }
            let Poll::Ready(received) = self.stream.poll_recv(cx) else {
                return;
            };
            let is_broken = received.is_err();
            if is_broken {
                self.shared.alert.set(self.stream.tls_alert());
            }
            let chunk = received.unwrap_or(Chunk::empty());
            if chunk.is_empty() {
                self.end_input(&mut core, is_broken);
                drop(core);
                return cx.waker().wake_by_ref();
            }
            self.heard = core.now;
            if let Err(error) = core.receive(chunk) {
                core.fail(Some(error));
            }
            let has_begun = !core.begun.is_empty();
            drop(core);
            if has_begun {
                begin();
            }
        }
        cx.waker().wake_by_ref();
    }

    /// The peer sends nothing more. A client that has only finished sending gets its answers; one
    /// that is gone says so when it is sent a PING.
    fn end_input(&mut self, core: &mut Core, is_broken: bool) {
        core.end_input();
        let awaits_answers = core.role == Role::Server && core.streams.len() > 0;
        if is_broken || !awaits_answers {
            self.has_ended = true;
            return;
        }
        self.is_half_closed = true;
        core.go_away(Phase::Closing);
        core.send_ping();
    }

    fn poll_send(&self, cx: &mut Context<'_>) -> io::Result<()> {
        let mut core = self.shared.core.borrow_mut();
        while core.out.bytes() > 0 {
            // More is joined while one send is under way. TLS takes some meanwhile.
            if let Stream::Plain(stream) = &self.stream
                && stream.poll_flush(cx)?.is_pending()
            {
                break;
            }
            let mut parts = core.out.next();
            match self.stream.poll_send(cx, &mut parts) {
                Poll::Ready(sent) => sent?,
                Poll::Pending => {
                    core.out.put_back(parts);
                    break;
                }
            }
        }
        Ok(())
    }

    fn poll_deadlines(&mut self, core: &mut Core, cx: &mut Context<'_>) -> Poll<()> {
        if !core.is_idle() {
            self.idle_since = None;
        } else if self.idle_since.is_none() {
            self.idle_since = Some(core.now);
        }
        if core.phase > Phase::Open && self.closes_at.is_none() {
            self.closes_at = Some(core.now + PATIENCE);
            self.sleep.set_deadline(core.now + PATIENCE);
        }
        while Pin::new(&mut self.sleep).poll(cx).is_ready() {
            if self.is_overdue(core) {
                return Poll::Ready(());
            }
            // Looked at again when it might be time: not each time that something happens.
            let idle = self.idle_since.map(|it| it + self.deadlines.idle);
            let silent = match self.is_half_closed {
                true => core.now + PATIENCE, // nothing is to be heard any more
                false => (self.heard + self.deadlines.silence).max(core.now + rt::TICK),
            };
            let next = [idle, self.closes_at].into_iter().flatten().min();
            let next = next.map_or(silent, |it| it.max(core.now + rt::TICK).min(silent));
            self.sleep.set_deadline(next);
            if core.out.bytes() > 0 {
                cx.waker().wake_by_ref();
            }
        }
        Poll::Pending
    }

    /// Acts on what is overdue; true if the connection is to end at once.
    fn is_overdue(&mut self, core: &mut Core) -> bool {
        let now = core.now;
        if self.closes_at.is_some_and(|it| it <= now) {
            if core.phase == Phase::Failed {
                return true; // it does not even take the reason
            }
            core.go_away(Phase::Closing);
            self.closes_at = Some(now + PATIENCE);
        }
        if self
            .idle_since
            .is_some_and(|it| it + self.deadlines.idle <= now)
        {
            core.go_away(Phase::Closing);
        }
        let silence = now.saturating_duration_since(self.heard);
        if self.is_half_closed {
            return false; // nothing is to be heard; the exchanges have deadlines of their own
        }
        if core.ping_is_out && silence >= self.deadlines.silence * 2 {
            let code = ErrorCode::NO_ERROR;
            core.fail(Some(ConnectionError::new(code, "no sign of life")));
        } else if silence >= self.deadlines.silence && !core.ping_is_out {
            core.send_ping();
        }
        false
    }

    /// Lets the peer read what was sent last, for a while.
    async fn close(&mut self) {
        if self.has_ended {
            return;
        }
        self.sleep.set_deadline(rt::now() + LINGER);
        poll_fn(|cx| {
            if self.poll_send(cx).is_err() || Pin::new(&mut self.sleep).poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let is_sent = self.shared.core.borrow().out.bytes() == 0;
            if is_sent && matches!(self.stream.poll_shutdown(cx), Poll::Ready(Err(_))) {
                return Poll::Ready(());
            }
            loop {
                match self.stream.poll_recv(cx) {
                    Poll::Ready(Ok(chunk)) if !chunk.is_empty() => {}
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
    }
}

impl Drop for Driver<'_> {
    /// However the task ends, its streams learn of it.
    fn drop(&mut self) {
        if let Ok(mut core) = self.shared.core.try_borrow_mut() {
            core.fail(None);
        }
    }
}
