//! Clients and backends that talk through a relay, and the ledger of what each said and heard.
//!
//! Invariant checked here: a side hears a prefix of what the other said, in order; it hears a
//! clean end only after all of it, unless the other left without one; where nothing goes wrong,
//! everything arrives. Shared by the simulations of `lb-core` and `lb-l4`.
//! Read next: `storm.rs`, which starts the talks and looks for leaks.

use crate::seeds::{Random, mix};
use lb_core::rt::{self, Chunk, Either, TcpStream};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// Bytes in front of a client's stream that tell the backend which talk it is.
pub(crate) const HEADER: usize = 8;
/// A side that hears nothing for so long gives up; a relay's own idle timeout is shorter.
const PATIENCE: Duration = Duration::from_secs(300);

/// How a side leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaves {
    /// When it has said and heard everything.
    AtTheEnd,
    /// At some moment, without a word: its bytes may be lost, and the end looks clean.
    ByDropping,
    /// At some moment, with a reset.
    ByReset,
}

/// What a side means to do. It follows from the seed, so that both know it.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    seed: u64,
    /// Bytes to say.
    pub(crate) total: usize,
    pub(crate) leaves: Leaves,
    leaves_after: Duration,
}

impl Script {
    pub(crate) fn new(seed: u64, polite: bool) -> Self {
        let mut random = Random::new(seed);
        let leaves = match random.within(0..10) {
            0 if !polite => Leaves::ByDropping,
            1 if !polite => Leaves::ByReset,
            _ => Leaves::AtTheEnd,
        };
        let leaves_after = Duration::from_micros(random.within(0..20_000));
        Self {
            seed,
            total: random.skewed(18),
            leaves,
            leaves_after,
        }
    }

    /// The bytes from `place` on.
    fn say(&self, place: usize, count: usize) -> Vec<u8> {
        let word = |at: usize| mix(self.seed.rotate_left(32) ^ at as u64).to_le_bytes();
        let words = place / 8..(place + count).div_ceil(8);
        let bytes: Vec<u8> = words.flat_map(word).collect();
        bytes[place % 8..place % 8 + count].to_vec()
    }
}

/// What a side heard in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It left before that.
    Left,
    /// A clean end of stream.
    End,
    /// An error.
    Break,
    /// Nothing came for a long time.
    Silence,
}

/// What a side did, as far as it came.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) script: Script,
    /// Bytes that `send` accepted.
    pub(crate) said: Cell<usize>,
    /// Whether `shutdown` succeeded after all of them.
    pub(crate) ended: Cell<bool>,
    pub(crate) heard: Cell<usize>,
    pub(crate) heard_last: Cell<Heard>,
    /// What was heard and not said: where, at most once.
    pub(crate) wrong: RefCell<Option<String>>,
}

impl Ledger {
    pub(crate) fn new(script: Script) -> Rc<Self> {
        Rc::new(Self {
            script,
            said: Cell::new(0),
            ended: Cell::new(false),
            heard: Cell::new(0),
            heard_last: Cell::new(Heard::Left),
            wrong: RefCell::default(),
        })
    }
}

/// Says what the own script says while hearing what the other's does.
pub(crate) async fn talk(stream: TcpStream, own: Rc<Ledger>, other: Script) {
    let both = rt::join(say(&stream, &own), hear(&stream, &own, &other));
    if own.script.leaves == Leaves::AtTheEnd {
        both.await;
        return;
    }
    let moment = rt::sleep_until_precise(rt::now() + own.script.leaves_after);
    if let Either::Second(()) = rt::select(both, moment).await
        && own.script.leaves == Leaves::ByReset
    {
        stream.reset();
    }
}

async fn say(stream: &TcpStream, own: &Ledger) {
    let mut random = Random::new(own.script.seed ^ 1);
    while own.said.get() < own.script.total {
        let left = own.script.total - own.said.get();
        let count = (1 + random.skewed(13)).min(left);
        let mut body = Chunk::from_vec(own.script.say(own.said.get(), count));
        let head = body.split_to(if random.one_in(4) { count / 3 } else { 0 });
        let sent = rt::timeout(PATIENCE, stream.send_two(head, body)).await;
        if !matches!(sent, Ok(Ok(()))) {
            return;
        }
        own.said.set(own.said.get() + count);
        random.pause().await;
    }
    let ended = rt::timeout(PATIENCE, stream.shutdown()).await;
    own.ended.set(matches!(ended, Ok(Ok(()))));
}

async fn hear(stream: &TcpStream, own: &Ledger, other: &Script) {
    let mut random = Random::new(own.script.seed ^ 2);
    let heard_last = loop {
        match rt::timeout(PATIENCE, stream.recv()).await {
            Err(rt::Elapsed) => break Heard::Silence,
            Ok(Err(_)) => break Heard::Break,
            Ok(Ok(chunk)) if chunk.is_empty() => break Heard::End,
            Ok(Ok(mut chunk)) => {
                if random.one_in(8) && chunk.len() > 1 {
                    let taken = chunk.split_to(chunk.len() / 2);
                    stream.unread(std::mem::replace(&mut chunk, taken));
                }
                note(own, other, &chunk);
            }
        }
        random.pause().await;
    };
    own.heard_last.set(heard_last);
}

/// Compares what was heard with what was to be said.
pub(crate) fn note(own: &Ledger, other: &Script, bytes: &[u8]) {
    let place = own.heard.get();
    own.heard.set(place + bytes.len());
    if own.heard.get() > other.total {
        let wrong = format!("heard {} of {} bytes", own.heard.get(), other.total);
        own.wrong.borrow_mut().get_or_insert(wrong);
    } else if other.say(place, bytes.len()) != bytes {
        let wrong = format!(
            "heard something else within {} bytes from {place}",
            bytes.len()
        );
        own.wrong.borrow_mut().get_or_insert(wrong);
    }
}

/// What is wrong with what `listener` heard of `speaker`, if anything. `calm`: the network and the
/// other side did nothing that excuses a loss.
pub(crate) fn verdict(listener: &Ledger, speaker: &Ledger, calm: bool) -> Result<(), String> {
    if let Some(wrong) = &*listener.wrong.borrow() {
        return Err(wrong.clone());
    }
    let (heard, said, total) = (
        listener.heard.get(),
        speaker.said.get(),
        speaker.script.total,
    );
    let all_ended = speaker.ended.get() && heard == total;
    // `send` may have accepted more than the ledger says when its future was dropped.
    let may_exceed = speaker.script.leaves != Leaves::AtTheEnd;
    if heard > said && !may_exceed {
        return Err(format!("heard {heard} bytes of {said}"));
    }
    match listener.heard_last.get() {
        Heard::End if all_ended || speaker.script.leaves == Leaves::ByDropping => Ok(()),
        Heard::End => Err(format!(
            "a clean end after {heard} bytes, of {said} said and {total} meant; ended: {}",
            speaker.ended.get()
        )),
        other if calm => Err(format!("heard {heard} of {total} bytes, then {other:?}")),
        _ => Ok(()),
    }
}
