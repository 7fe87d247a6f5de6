//! Sleeps and deadlines: a hierarchical wheel, about 10 ms coarse, and a short exact list.
//!
//! Invariant: a timer never fires before its time, and at most one tick after it plus the turn
//! that runs it. Adding and removing are O(1); a `Sleep` takes its place only when it is polled.
//! Read next: `combine.rs` (timeouts), `runtime.rs` (who advances the wheel).

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::pages::Pages;
use super::{Instant, context, now};

/// Granularity of `sleep` and `timeout`.
pub const TICK: Duration = Duration::from_millis(10);

const TICK_NS: u64 = TICK.as_nanos() as u64;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// Four levels of 64 slots reach 46 hours; later deadlines wait in the last slot and move down.
const LEVELS: usize = 4;
const NONE: u32 = u32::MAX;

/// Waits for `duration`, to the next tick.
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(now() + duration)
}

/// Waits until `at`, to the next tick.
pub const fn sleep_until(at: Instant) -> Sleep {
    Sleep {
        at,
        timer: TimerId::NONE,
    }
}

/// Waits until `at` as exactly as the engine can (some 50 µs), for pacing a load. Each costs a
/// tree entry: not for the hot path.
pub const fn sleep_until_precise(at: Instant) -> PreciseSleep {
    PreciseSleep { at, key: None }
}

/// The future of [`sleep`]. 16 bytes; nothing is armed before the first poll.
#[derive(Debug)]
#[must_use = "a sleep waits only when it is awaited"]
pub struct Sleep {
    at: Instant,
    timer: TimerId,
}

impl Sleep {
    /// When it ends.
    #[must_use]
    pub const fn deadline(&self) -> Instant {
        self.at
    }

    /// Moves the end. A later end costs nothing: the armed timer finds it when it fires.
    pub fn set_deadline(&mut self, at: Instant) {
        if at < self.at {
            self.disarm();
        }
        self.at = at;
    }

    fn disarm(&mut self) {
        let timer = std::mem::replace(&mut self.timer, TimerId::NONE);
        if timer != TimerId::NONE {
            context::try_with(|core| core.timers.borrow_mut().wheel.remove(timer));
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        context::with(|core| {
            let wheel = &mut core.timers.borrow_mut().wheel;
            if core.now.get() >= self.at.0 {
                wheel.remove(std::mem::replace(&mut self.timer, TimerId::NONE));
                return Poll::Ready(());
            }
            if !wheel.refresh(self.timer, cx.waker()) {
                self.timer = wheel.insert(self.at.0, cx.waker().clone());
            }
            Poll::Pending
        })
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.disarm();
    }
}

/// The future of [`sleep_until_precise`].
#[derive(Debug)]
#[must_use = "a sleep waits only when it is awaited"]
pub struct PreciseSleep {
    at: Instant,
    key: Option<u64>,
}

impl Future for PreciseSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        context::with(|core| {
            let exact = &mut core.timers.borrow_mut().exact;
            if core.now.get() >= self.at.0 {
                if let Some(key) = self.key.take() {
                    exact.waiting.remove(&(self.at.0, key));
                }
                return Poll::Ready(());
            }
            let key = self.key.unwrap_or_else(|| exact.next_key());
            self.key = Some(key);
            exact.waiting.insert((self.at.0, key), cx.waker().clone());
            Poll::Pending
        })
    }
}

impl Drop for PreciseSleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            context::try_with(|core| {
                core.timers
                    .borrow_mut()
                    .exact
                    .waiting
                    .remove(&(self.at.0, key))
            });
        }
    }
}

/// All timers of one runtime.
#[derive(Debug)]
pub(crate) struct Timers {
    pub(crate) wheel: Wheel,
    exact: Exact,
}

impl Timers {
    pub(crate) fn new(now_ns: u64) -> Self {
        Self {
            wheel: Wheel::new(now_ns),
            exact: Exact::default(),
        }
    }

    /// Nanoseconds on the clock at which something may be due; `None` without timers.
    pub(crate) fn next_due_ns(&self) -> Option<u64> {
        let exact = self.exact.waiting.first_key_value().map(|((at, _), _)| *at);
        match (self.wheel.next_due_ns(), exact) {
            (Some(coarse), Some(exact)) => Some(coarse.min(exact)),
            (coarse, exact) => coarse.or(exact),
        }
    }

    /// Wakes what is due.
    pub(crate) fn advance(&mut self, now_ns: u64) {
        self.wheel.advance(now_ns);
        while let Some(first) = self.exact.waiting.first_entry()
            && first.key().0 <= now_ns
        {
            first.remove().wake();
        }
    }

    /// Number of armed timers.
    pub(crate) fn armed(&self) -> usize {
        self.wheel.armed + self.exact.waiting.len()
    }
}

#[derive(Debug, Default)]
struct Exact {
    waiting: BTreeMap<(u64, u64), Waker>,
    keys: u64,
}

impl Exact {
    const fn next_key(&mut self) -> u64 {
        self.keys += 1;
        self.keys
    }
}

/// Names an armed timer; a name whose timer has fired is harmless.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimerId {
    index: u32,
    generation: u32,
}

impl TimerId {
    /// Names none. (No table grows to this index.)
    const NONE: Self = Self {
        index: NONE,
        generation: 0,
    };
}

#[derive(Debug)]
struct Entry {
    due_tick: u64,
    waker: Option<Waker>,
    previous: u32,
    next: u32,
    generation: u32,
    /// Level and slot as one number, NONE when the entry is vacant.
    place: u32,
}

#[derive(Debug)]
pub(crate) struct Wheel {
    /// Every tick up to and including this one has fired.
    tick: u64,
    heads: [[u32; SLOTS]; LEVELS],
    occupied: [u64; LEVELS],
    entries: Pages<Entry>,
    vacant: Vec<u32>,
    armed: usize,
}

impl Wheel {
    fn new(now_ns: u64) -> Self {
        Self {
            tick: now_ns / TICK_NS,
            heads: [[NONE; SLOTS]; LEVELS],
            occupied: [0; LEVELS],
            entries: Pages::new(),
            vacant: Vec::new(),
            armed: 0,
        }
    }

    fn insert(&mut self, due_ns: u64, waker: Waker) -> TimerId {
        let due_tick = due_ns.div_ceil(TICK_NS).max(self.tick + 1);
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.entries.push(Entry {
                due_tick: 0,
                waker: None,
                previous: NONE,
                next: NONE,
                generation: 0,
                place: NONE,
            })
        });
        let entry = &mut self.entries[index];
        entry.due_tick = due_tick;
        entry.waker = Some(waker);
        self.armed += 1;
        let generation = entry.generation;
        self.link(index);
        TimerId { index, generation }
    }

    /// Gives a timer that is still armed a new waker; false if it has fired, or is none.
    fn refresh(&mut self, timer: TimerId, waker: &Waker) -> bool {
        let Some(entry) = self.entries.get_mut(timer.index) else {
            return false;
        };
        if entry.generation != timer.generation {
            return false;
        }
        match &mut entry.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        true
    }

    fn remove(&mut self, timer: TimerId) {
        if let Some(entry) = self.entries.get_mut(timer.index)
            && entry.generation == timer.generation
        {
            self.unlink(timer.index);
            drop(self.vacate(timer.index));
        }
    }

    /// The slot in which a tick waits: the level is that of the highest bits in which it differs
    /// from the present, so a slot holds only one turn of its level.
    fn place_of(&self, due_tick: u64) -> (usize, usize) {
        let farthest = self.tick | ((1 << (SLOT_BITS * LEVELS as u32)) - 1);
        let due_tick = due_tick.min(farthest.max(self.tick + 1));
        let differing = (due_tick ^ self.tick) | 1;
        let level = ((63 - differing.leading_zeros()) / SLOT_BITS).min(LEVELS as u32 - 1);
        let slot = due_tick >> (SLOT_BITS * level) & (SLOTS as u64 - 1);
        (level as usize, slot as usize)
    }

    fn link(&mut self, index: u32) {
        let (level, slot) = self.place_of(self.entries[index].due_tick);
        let head = self.heads[level][slot];
        if head != NONE {
            self.entries[head].previous = index;
        }
        let entry = &mut self.entries[index];
        entry.previous = NONE;
        entry.next = head;
        entry.place = (level * SLOTS + slot) as u32;
        self.heads[level][slot] = index;
        self.occupied[level] |= 1 << slot;
    }

    fn unlink(&mut self, index: u32) {
        let entry = &self.entries[index];
        let (previous, next, place) = (entry.previous, entry.next, entry.place as usize);
        if next != NONE {
            self.entries[next].previous = previous;
        }
        if previous != NONE {
            self.entries[previous].next = next;
            return;
        }
        let (level, slot) = (place / SLOTS, place % SLOTS);
        self.heads[level][slot] = next;
        if next == NONE {
            self.occupied[level] &= !(1 << slot);
        }
    }

    fn vacate(&mut self, index: u32) -> Option<Waker> {
        let entry = &mut self.entries[index];
        entry.generation = entry.generation.wrapping_add(1);
        entry.place = NONE;
        self.armed -= 1;
        self.vacant.push(index);
        entry.waker.take()
    }

    /// The first tick at which a slot of some level is reached: for level 0 when timers fire, for
    /// the others when they move down.
    fn next_tick(&self) -> Option<u64> {
        let mut first: Option<u64> = None;
        for level in 0..LEVELS {
            if self.occupied[level] == 0 {
                continue;
            }
            let shift = SLOT_BITS * level as u32;
            let current = self.tick >> shift;
            let position = (current & (SLOTS as u64 - 1)) as u32;
            // Bit 0 stands for the slot after the present one.
            let ahead = self.occupied[level].rotate_right((position + 1) % SLOTS as u32);
            let tick = (current + 1 + u64::from(ahead.trailing_zeros())) << shift;
            first = Some(first.map_or(tick, |earlier| earlier.min(tick)));
        }
        first
    }

    fn next_due_ns(&self) -> Option<u64> {
        self.next_tick().map(|tick| tick.saturating_mul(TICK_NS))
    }

    fn advance(&mut self, now_ns: u64) {
        let target = now_ns / TICK_NS;
        while self.tick < target {
            let Some(tick) = self.next_tick().filter(|tick| *tick <= target) else {
                self.tick = target;
                return;
            };
            self.tick = tick;
            self.run_tick();
        }
    }

    /// Moves down or fires what waits in the slots that begin at the present tick.
    fn run_tick(&mut self) {
        for level in (0..LEVELS).rev() {
            let shift = SLOT_BITS * level as u32;
            if self.tick & ((1 << shift) - 1) != 0 {
                continue;
            }
            let slot = (self.tick >> shift & (SLOTS as u64 - 1)) as usize;
            let mut index = std::mem::replace(&mut self.heads[level][slot], NONE);
            self.occupied[level] &= !(1 << slot);
            while index != NONE {
                let next = self.entries[index].next;
                if self.entries[index].due_tick > self.tick {
                    self.link(index);
                } else if let Some(waker) = self.vacate(index) {
                    waker.wake();
                }
                index = next;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::task::Wake;

    struct Count(AtomicU64);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counting() -> (Arc<Count>, Waker) {
        let count = Arc::new(Count(AtomicU64::new(0)));
        (Arc::clone(&count), Waker::from(count))
    }

    const fn next_random(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    #[test]
    fn fires_every_timer_at_its_tick_whatever_the_steps() {
        for seed in 1..40 {
            let mut random = 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(seed);
            let start = next_random(&mut random) >> 20;
            let mut wheel = Wheel::new(start);
            let mut waiting = Vec::new();
            let mut now_ns = start;
            for _ in 0..300 {
                let reach = 1u64 << (next_random(&mut random) % 48);
                let due = now_ns + next_random(&mut random) % reach;
                let (count, waker) = counting();
                waiting.push((due, count, wheel.insert(due, waker)));
                if next_random(&mut random).is_multiple_of(4) {
                    let at = next_random(&mut random) as usize % waiting.len();
                    let (_, count, timer) = waiting.swap_remove(at);
                    let fired = count.0.load(Ordering::Relaxed);
                    wheel.remove(timer);
                    wheel.advance(now_ns);
                    assert_eq!(count.0.load(Ordering::Relaxed), fired);
                }
                now_ns += next_random(&mut random) % (1 << (next_random(&mut random) % 42));
                wheel.advance(now_ns);
                for (due, count, _) in &waiting {
                    let fired = count.0.load(Ordering::Relaxed);
                    if *due > now_ns {
                        assert_eq!(fired, 0, "seed {seed}: fired early");
                    } else if *due + 2 * TICK_NS <= now_ns {
                        assert_eq!(fired, 1, "seed {seed}: late or twice");
                    }
                }
            }
        }
    }

    #[test]
    fn next_due_is_never_after_a_timer() {
        let mut wheel = Wheel::new(0);
        for due_ms in [1, 9, 10, 11, 639, 640, 641, 50_000, 3_000_000, 400_000_000] {
            let (_, waker) = counting();
            let timer = wheel.insert(due_ms * 1_000_000, waker);
            let due = wheel.next_due_ns().expect("armed");
            assert!(
                due <= (due_ms * 1_000_000).div_ceil(TICK_NS) * TICK_NS,
                "{due_ms} ms: {due}"
            );
            wheel.remove(timer);
            assert_eq!(wheel.next_due_ns(), None);
        }
    }

    #[test]
    fn far_deadlines_survive_the_last_level() {
        let mut wheel = Wheel::new(0);
        let (count, waker) = counting();
        let due = 100 * 3600 * 1_000_000_000; // beyond 46 hours
        wheel.insert(due, waker);
        wheel.advance(due - TICK_NS);
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        wheel.advance(due + TICK_NS);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }
}
