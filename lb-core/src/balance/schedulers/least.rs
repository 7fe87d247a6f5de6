//! `lc`, `wlc`, `sed` and `nq`: the member with the least load, which all are looked at for.
//!
//! Invariant: loads are compared as fractions `load / weight` by cross-multiplication, exactly.
//! Among equals the one whose turn it is comes first, so that idle members share by weight.
//! Read next: `turns.rs`.

use super::{Ask, turns::turns};

/// What is least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// What is in flight (ip_vs_lc.c), for the weight (ip_vs_wlc.c).
    Least,
    /// What would be in flight with one more, for the weight (ip_vs_sed.c).
    ExpectedDelay,
    /// The same, but one with nothing in flight is taken at once (ip_vs_nq.c).
    IdleFirst,
}

/// Finds the member with the least load.
#[derive(Debug)]
pub(super) struct Least {
    rule: Rule,
    /// Whether weights count.
    weighted: bool,
    /// Where the search starts.
    slots: Box<[u16]>,
}

impl Least {
    /// `lc`, for `count` members.
    pub(super) fn in_order(count: usize) -> Self {
        Self {
            rule: Rule::Least,
            weighted: false,
            slots: turns(&vec![1; count]),
        }
    }

    pub(super) fn by_weight(rule: Rule, weights: &[u16]) -> Self {
        Self {
            rule,
            weighted: true,
            slots: turns(weights),
        }
    }

    pub(super) fn turns(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn pick(&self, ask: &Ask<'_>) -> Option<usize> {
        let turn = ask.own.turn(self.slots.len());
        let start = usize::from(*self.slots.get(turn)?);
        let found = self
            .least(ask, start, |position| ask.accepts(position))
            // All those that may be chosen start slowly, and none drew its share.
            .or_else(|| self.least(ask, start, |position| ask.may(position)))?;
        ask.end_turn(turn + 1);
        Some(found)
    }

    #[inline]
    fn least(&self, ask: &Ask<'_>, start: usize, is_fit: impl Fn(usize) -> bool) -> Option<usize> {
        let more = u64::from(self.rule != Rule::Least);
        let mut least: Option<Found> = None;
        for position in (start..ask.members.len()).chain(0..start) {
            if !is_fit(position) {
                continue;
            }
            let load = ask.load(position);
            if load == 0 && self.rule == Rule::IdleFirst {
                return Some(position);
            }
            let found = Found {
                position,
                load: load + more,
                weight: if self.weighted {
                    ask.weight(position)
                } else {
                    ask.share(position)
                },
            };
            if least.is_none_or(|least| found.is_below(least)) {
                least = Some(found);
            }
        }
        least.map(|least| least.position)
    }
}

#[derive(Clone, Copy)]
struct Found {
    position: usize,
    load: u64,
    weight: u64,
}

impl Found {
    /// Fits: a load has 33 bits, a weight 26.
    #[inline]
    fn is_below(self, other: Self) -> bool {
        self.load * other.weight < other.load * self.weight
    }
}

/// The member with the least load for its weight that `is_fit`, from `start` on: what `lblc` falls
/// back on.
pub(super) fn weighted_least(
    ask: &Ask<'_>,
    start: usize,
    is_fit: impl Fn(usize) -> bool,
) -> Option<usize> {
    let rule = Least {
        rule: Rule::Least,
        weighted: true,
        slots: Box::default(),
    };
    rule.least(ask, start, is_fit)
}
