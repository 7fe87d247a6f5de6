//! `random`, `twos`, `p2c` and `ewma`: one or two members at random, the better of two.
//!
//! Invariant: a member is drawn as often as its weight says, among those that may be chosen. The
//! numbers come from the worker's own generator, so a draw costs nanoseconds.
//! Read next: `ewma.rs`, `turns.rs` (why a random slot is a draw by weight).

use super::{Ask, Latency, turns::turns};

/// How many are drawn, and what makes one of two better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Draw {
    /// `random`.
    One,
    /// `twos`: both among all; the one with less in flight for its weight (ip_vs_twos.c, without
    /// its preference of the first member by one part in the sum of all weights).
    Two,
    /// `p2c`: the second among the others; the one with less in flight for its weight.
    TwoDifferent,
    /// `ewma`: the second among the others; the one with the lower [`Latency::cost`].
    TwoByLatency,
}

/// Draws members.
#[derive(Debug)]
pub(super) struct Draws {
    draw: Draw,
    /// Each member as often as its weight says.
    slots: Box<[u16]>,
}

impl Draws {
    pub(super) fn by_weight(draw: Draw, weights: &[u16]) -> Self {
        Self {
            draw,
            slots: turns(weights),
        }
    }

    /// `ewma`, for `count` members.
    pub(super) fn by_latency(count: usize) -> Self {
        Self {
            draw: Draw::TwoByLatency,
            slots: turns(&vec![1; count]),
        }
    }

    #[inline]
    pub(super) fn pick(&self, ask: &Ask<'_>) -> Option<usize> {
        let first = self.one(ask, |position| ask.accepts(position))?;
        let second = match self.draw {
            Draw::One => return Some(first),
            Draw::Two => self.one(ask, |position| ask.may(position)),
            Draw::TwoDifferent | Draw::TwoByLatency => {
                self.one(ask, |position| position != first && ask.may(position))
            }
        };
        // Accepted here and not above, where it would be drawn until it is.
        let second = second.filter(|&second| second != first && ask.accepts(second));
        Some(match second {
            Some(second) if self.is_better(ask, second, first) => second,
            _ => first,
        })
    }

    #[inline]
    fn one(&self, ask: &Ask<'_>, is_fit: impl Fn(usize) -> bool) -> Option<usize> {
        for _ in 0..DRAWS_MAX {
            let slot = ask.own.random_below(self.slots.len());
            let position = usize::from(*self.slots.get(slot)?);
            if is_fit(position) {
                return Some(position);
            }
        }
        let slot = ask.own.random_below(self.slots.len());
        let (_, position) = ask.walk(&self.slots, slot, is_fit)?;
        Some(position)
    }

    #[inline]
    fn is_better(&self, ask: &Ask<'_>, one: usize, other: usize) -> bool {
        if self.draw == Draw::TwoByLatency {
            let cost = |position: usize| {
                let hot = &ask.members[position].state.hot;
                Latency::cost(&hot.latency, hot.in_flight(), ask.choice.now)
            };
            cost(one) < cost(other)
        } else {
            ask.load(one) * ask.weight(other) < ask.load(other) * ask.weight(one)
        }
    }
}

/// Draws before the slots are walked along: with half of the members unusable, 255 of 256 choices
/// are draws.
const DRAWS_MAX: usize = 8;
