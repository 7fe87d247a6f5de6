//! One direction of a session: bytes from its source to its sink, copied or spliced.
//!
//! Invariant: bytes reach the sink in the order in which the source gave them, then its end. A
//! source whose sink is full is not read: at most a chunk, or what is in a pipe, waits here. A
//! pipe is held only while bytes are in it, so that few serve many sessions.
//! Read next: `pace.rs` (which way), `lb_core::rt` (what a stream promises).

use std::io;
use std::task::{Context, Poll, ready};

use lb_core::rt::{Chunk, Input, Pipe, TcpStream};

use super::pace::{Pace, Way};

/// Steps of one poll, so that a flood leaves the thread to other tasks.
const STEPS_PER_POLL: u32 = 32;
/// Bytes that one poll moves, for the same reason: some 100 µs of work.
const BYTES_PER_POLL: u64 = 1024 * 1024;
/// Bytes of one splice: what a pipe takes, as far as its pages are full.
const SPLICE_MAX: usize = 1024 * 1024;

/// How a direction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// The source ended, and everything it sent was passed on, its end too.
    Ended,
    /// The sink takes nothing more; the other direction goes on.
    SinkFailed,
    /// The source was reset: the session is over.
    SourceFailed,
}

/// One direction of a session. Its sockets are given to it, as it is one of a pair.
pub(super) struct Direction {
    /// Taken from the source, not yet by the sink.
    held: Held,
    phase: Phase,
    pace: Pace,
}

enum Held {
    Nothing,
    /// Waits for the send before it.
    Chunk(Chunk),
    /// Waits for room in the sink.
    Pipe(Pipe),
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Moving,
    /// The source has ended; the sink is to be told.
    Ending,
    Over(Progress),
}

impl Direction {
    pub(super) const fn new(pace: Pace) -> Self {
        Self {
            held: Held::Nothing,
            phase: Phase::Moving,
            pace,
        }
    }

    /// True if all has been passed on, the end too.
    pub(super) const fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Over(Progress::Ended))
    }

    /// Moves what can be moved, and says how many bytes the sink took. The sink of the `last`
    /// direction is told the end by its close, which follows.
    pub(super) fn poll(
        &mut self,
        cx: &Context<'_>,
        source: &TcpStream,
        sink: &TcpStream,
        last: bool,
    ) -> (Poll<Progress>, u64) {
        let mut moved = 0;
        for _ in 0..STEPS_PER_POLL {
            if let Phase::Over(progress) = self.phase {
                return (Poll::Ready(progress), moved);
            }
            let Poll::Ready(count) = self.poll_step(cx, source, sink, last) else {
                return (Poll::Pending, moved);
            };
            moved += count as u64;
            if moved >= BYTES_PER_POLL {
                break;
            }
        }
        cx.waker().wake_by_ref();
        (Poll::Pending, moved)
    }

    /// One step: passes on what is held, or takes something. How many bytes the sink took.
    fn poll_step(
        &mut self,
        cx: &Context<'_>,
        source: &TcpStream,
        sink: &TcpStream,
        last: bool,
    ) -> Poll<usize> {
        match &mut self.held {
            Held::Nothing => {}
            Held::Chunk(chunk) => {
                let (count, chunk) = (chunk.len(), std::mem::replace(chunk, Chunk::empty()));
                let mut parts = [Some(chunk), None];
                let sent = sink.poll_send(cx, &mut parts);
                return self.on_sent(sent, parts, count);
            }
            Held::Pipe(pipe) => {
                let moved = ready!(sink.poll_splice_from(cx, pipe));
                return Poll::Ready(self.on_spliced_out(moved));
            }
        }
        match self.phase {
            Phase::Moving => self.poll_take(cx, source).map(|()| 0),
            Phase::Ending => {
                let told = if last {
                    ready!(sink.poll_flush(cx))
                } else {
                    ready!(sink.poll_shutdown(cx))
                };
                self.phase = Phase::Over(match told {
                    Ok(()) => Progress::Ended,
                    Err(_) => Progress::SinkFailed,
                });
                Poll::Ready(0)
            }
            Phase::Over(_) => Poll::Ready(0),
        }
    }

    fn on_sent(
        &mut self,
        sent: Poll<io::Result<()>>,
        parts: [Option<Chunk>; 2],
        count: usize,
    ) -> Poll<usize> {
        match sent {
            Poll::Pending => {
                let [chunk, _] = parts;
                self.held = chunk.map_or(Held::Nothing, Held::Chunk);
                Poll::Pending
            }
            Poll::Ready(Ok(())) => {
                self.held = Held::Nothing;
                Poll::Ready(count)
            }
            Poll::Ready(Err(_)) => Poll::Ready(self.on_sink_failed()),
        }
    }

    fn on_spliced_out(&mut self, moved: io::Result<usize>) -> usize {
        match moved {
            Ok(count) => {
                // An empty pipe goes back to where all sessions find it.
                if matches!(&self.held, Held::Pipe(pipe) if pipe.is_empty()) {
                    self.held = Held::Nothing;
                }
                count
            }
            Err(_) => self.on_sink_failed(),
        }
    }

    /// What is held is lost with the sink, and not counted as moved.
    fn on_sink_failed(&mut self) -> usize {
        self.held = Held::Nothing;
        self.phase = Phase::Over(Progress::SinkFailed);
        0
    }

    /// Takes the next bytes, the end or the error of the source.
    fn poll_take(&mut self, cx: &Context<'_>, source: &TcpStream) -> Poll<()> {
        let way = self.pace.way();
        if way != Way::Chunks && ready!(source.poll_readable(cx)) == Input::InSocket {
            if way == Way::Splices {
                if let Some(pipe) = Pipe::acquire() {
                    self.fill(source, pipe);
                    return Poll::Ready(());
                }
                self.pace.on_no_pipe();
            }
            if let Some(received) = source.recv_large(usize::MAX) {
                self.on_received(received);
                return Poll::Ready(());
            }
        }
        let received = ready!(source.poll_recv(cx));
        self.on_received(received);
        Poll::Ready(())
    }

    fn on_received(&mut self, received: io::Result<Chunk>) {
        match received {
            Ok(chunk) if chunk.is_empty() => self.phase = Phase::Ending,
            Ok(chunk) => {
                self.pace.on_piece(chunk.len());
                self.held = Held::Chunk(chunk);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.phase = Phase::Over(Progress::SourceFailed),
        }
    }

    fn fill(&mut self, source: &TcpStream, mut pipe: Pipe) {
        match source.splice_to(&mut pipe, SPLICE_MAX) {
            Ok(0) => self.phase = Phase::Ending,
            Ok(count) => {
                self.pace.on_piece(count);
                self.held = Held::Pipe(pipe);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // A receive says what it is.
            Err(_) => self.pace.on_refused(),
        }
    }
}
