//! When frames are sent: at once, or along with those of streams that are about to have some, too.
//!
//! Invariant: nothing waits for time to pass. Frames wait for turns of the loop that have work to do
//! anyway or are over at once, for as many as [`TURNS_MAX`], and only while each brings more.
//! Read next: `driver.rs` (who asks).

use std::task::Context;

use lb_core::rt;

use super::core::{Core, Phase};

/// Turns that frames wait for at most.
const TURNS_MAX: u8 = 4;
/// Beyond so many bytes nothing is gained.
const BYTES_MAX: usize = 16 * 1024;
/// With fewer streams, most likely nobody is about to send.
const STREAMS_MIN: usize = 2;
/// After so many waits in a row that brought nothing, waiting is given up, to be tried again after
/// so many sends.
const TRIES: u8 = 8;
const SENDS_WITHOUT: u8 = 64;

/// Whether the frames of one connection wait.
#[derive(Debug)]
pub(super) struct Joining {
    /// The turn in which they began to wait for the next one, and how many they have waited for.
    turn: u64,
    turns: u8,
    /// How many bytes they were then.
    bytes: usize,
    /// Waits in a row that may still bring nothing.
    tries: u8,
    /// Sends left that are not waited with.
    sends: u8,
}

impl Default for Joining {
    fn default() -> Self {
        Self {
            turn: 0,
            turns: 0,
            bytes: 0,
            tries: TRIES,
            sends: 0,
        }
    }
}

impl Joining {
    /// Whether what `core` has to send waits; then the task is woken again.
    pub(super) fn waits(&mut self, core: &Core, cx: &Context<'_>) -> bool {
        let bytes = core.out.bytes();
        if bytes == 0 {
            return false;
        }
        let turn = rt::turns();
        if self.turns > 0 && turn == self.turn {
            return true;
        }
        let is_more = bytes > self.bytes;
        if self.turns > 0 {
            self.learn(is_more);
        }
        let may_wait = core.phase == Phase::Open
            && core.streams.len() >= STREAMS_MIN
            && bytes < BYTES_MAX
            && self.turns < TURNS_MAX
            && is_more
            && self.is_worthwhile();
        if may_wait {
            (self.turn, self.bytes) = (turn, bytes);
            self.turns += 1;
            rt::wake_after_turn(cx);
        } else {
            (self.turns, self.bytes) = (0, 0);
        }
        may_wait
    }

    const fn learn(&mut self, is_more: bool) {
        match (is_more, self.tries) {
            (true, _) => self.tries = TRIES,
            (false, 0 | 1) => (self.tries, self.sends) = (0, SENDS_WITHOUT),
            (false, _) => self.tries -= 1,
        }
    }

    const fn is_worthwhile(&mut self) -> bool {
        if self.tries == 0 {
            self.sends = self.sends.saturating_sub(1);
            if self.sends == 0 {
                self.tries = 1;
            }
        }
        self.tries > 0
    }
}
