//! The schedulers: each chooses one member of a tier, by the rules of Linux IPVS where it bears an
//! IPVS name (net/netfilter/ipvs/ip_vs_*.c), with the load in flight for IPVS's connections.
//!
//! Invariant: a choice is of a member that may take load and was not tried; it neither allocates
//! nor locks. Ties are broken by turns, so that equals get equal loads.
//! Read next: `rotation.rs`, `least.rs`, `draws.rs`, `hashed.rs`, `locality.rs`, `priority.rs`.

mod draws;
mod ewma;
mod hashed;
mod least;
mod locality;
mod maglev;
mod priority;
mod ring;
mod rotation;
#[cfg(test)]
mod tests;
mod turns;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use draws::{Draw, Draws};
pub(super) use ewma::Latency;
use hashed::Hashed;
pub(super) use hashed::from_slot;
use least::{Least, Rule};
use locality::Locality;
pub(super) use maglev::Maglev;
use priority::Priority;
pub(super) use ring::Crc32;
use rotation::Rotation;

use super::backend::{BackendState, WARMING};
use super::choice::Choice;
use super::slow_start::SHARE_FULL;
use super::state::Own;
use crate::plan::{self, Balance};

/// A backend of a tier, as far as schedulers look at it.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) state: Arc<BackendState>,
    /// At least 1.
    pub(super) weight: u16,
    /// Among all backends of the cluster.
    pub(super) index: u16,
}

/// What is asked of a scheduler: one of `members`, by its position there.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) members: &'a [Member],
    pub(super) choice: &'a Choice<'a>,
    pub(super) own: &'a Own,
    /// Whether unhealthy and ejected members may be chosen too.
    pub(super) ignore_health: bool,
    /// Hash of the hash key; 0 for schedulers that do not hash.
    pub(super) key: u64,
    /// How much a member may have in flight to be chosen by hash.
    pub(super) bound: Option<Bound>,
}

/// A limit on the load of each member, in proportion to its weight.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound {
    /// Of the mean load, more than 100.
    pub(super) percent: u16,
    /// In flight in the cluster, what is about to be chosen included.
    pub(super) load: u64,
    /// Sum of the weights of the members that may be chosen.
    pub(super) weight: u64,
}

impl Ask<'_> {
    /// The turn is over, and `turn` is the next. A retry takes none: else, of two backends, the one
    /// that fails would be the first of every request, as the other had taken its turn in a retry.
    #[inline]
    pub(super) fn end_turn(&self, turn: usize) {
        if self.choice.tried.is_empty() {
            self.own.set_turn(turn);
        }
    }

    /// Whether a member may be chosen.
    #[inline]
    pub(super) fn may(&self, position: usize) -> bool {
        let member = &self.members[position];
        (self.ignore_health || member.state.hot.is_usable())
            && !self.choice.tried.contains(member.index)
    }

    /// As [`Self::may`], but true for a member that starts slowly only as often as its share says.
    #[inline]
    fn accepts(&self, position: usize) -> bool {
        self.may(position) && (!self.is_warming(position) || self.draws_share(position))
    }

    #[inline]
    fn is_warming(&self, position: usize) -> bool {
        self.members[position].state.hot.status() & WARMING != 0
    }

    #[cold]
    fn draws_share(&self, position: usize) -> bool {
        let share = self.members[position]
            .state
            .hot
            .share
            .load(Ordering::Relaxed);
        self.own.random_below(SHARE_FULL as usize) < share as usize
    }

    #[inline]
    fn load(&self, position: usize) -> u64 {
        u64::from(self.members[position].state.hot.in_flight())
    }

    /// A member's weight, less what a slow start takes off.
    #[inline]
    fn weight(&self, position: usize) -> u64 {
        u64::from(self.members[position].weight) * self.share(position)
    }

    /// Of [`SHARE_FULL`].
    #[inline]
    fn share(&self, position: usize) -> u64 {
        u64::from(
            self.members[position]
                .state
                .hot
                .share
                .load(Ordering::Relaxed),
        )
    }

    /// Whether the load bound lets a member take more: less in flight than its part of the mean,
    /// rounded up (Mirrokni, Thorup, Zadimoghaddam: Consistent Hashing with Bounded Loads, 2018).
    #[inline]
    fn has_room(&self, position: usize) -> bool {
        let Some(Bound {
            percent,
            load,
            weight,
        }) = self.bound
        else {
            return true;
        };
        let part = u128::from(percent) * u128::from(load);
        let part = part * u128::from(self.members[position].weight);
        let most = part.div_ceil(100 * u128::from(weight.max(1)));
        u128::from(self.load(position)) < most
    }

    /// The first place from `start` on in `slots` whose member `is_fit`; when hardly any is, any
    /// member that may be chosen, with the place `start`.
    #[inline]
    fn walk(
        &self,
        slots: &[u16],
        start: usize,
        is_fit: impl Fn(usize) -> bool,
    ) -> Option<(usize, usize)> {
        let first = usize::from(*slots.get(start)?);
        if is_fit(first) {
            return Some((start, first));
        }
        self.walk_on(slots, start, is_fit)
    }

    #[cold]
    fn walk_on(
        &self,
        slots: &[u16],
        start: usize,
        is_fit: impl Fn(usize) -> bool,
    ) -> Option<(usize, usize)> {
        // Along the slots first, because the slots after an unusable one belong to all others in
        // proportion to their weights: so its share is spread evenly.
        let near = (start + 1..slots.len())
            .chain(0..=start)
            .take(SLOTS_WALKED_MAX);
        for slot in near {
            let position = usize::from(slots[slot]);
            if is_fit(position) {
                return Some((slot, position));
            }
        }
        // Hardly any is fit: look at each member once.
        let first = usize::from(slots[start]);
        let mut each = (first..self.members.len()).chain(0..first);
        let fit = each.clone().find(|&position| is_fit(position));
        let found = fit.or_else(|| each.find(|&position| self.may(position)))?;
        Some((start, found))
    }
}

/// Slots looked at before the members are looked at one by one. With half of them usable, a walk
/// of 64 slots misses them all about once in 2^64.
const SLOTS_WALKED_MAX: usize = 64;

/// The scheduler of one tier, built for its members.
#[derive(Debug)]
pub(super) struct Scheduler(Kind);

#[derive(Debug)]
enum Kind {
    Draws(Draws),
    Hashed(Hashed),
    Least(Least),
    Locality(Locality),
    Priority(Priority),
    Rotation(Rotation),
}

impl Scheduler {
    /// Builds the scheduler of `members`, which are `backends` of the plan. `previous` is the same
    /// tier's in the snapshot before, with its members: what a change leaves as it is is taken
    /// over.
    pub(super) fn build(
        balance: Balance,
        backends: &[plan::Backend],
        members: &[Member],
        seed: u64,
        previous: Option<(&Self, &[Member])>,
    ) -> Self {
        let weights: Vec<u16> = members.iter().map(|member| member.weight).collect();
        let kind = match balance {
            Balance::RoundRobin => Kind::Rotation(Rotation::in_order(members.len())),
            Balance::WeightedRoundRobin => Kind::Rotation(Rotation::by_weight(&weights)),
            Balance::LeastConnections => Kind::Least(Least::in_order(members.len())),
            Balance::WeightedLeastConnections => {
                Kind::Least(Least::by_weight(Rule::Least, &weights))
            }
            Balance::ShortestExpectedDelay => {
                Kind::Least(Least::by_weight(Rule::ExpectedDelay, &weights))
            }
            Balance::NeverQueue => Kind::Least(Least::by_weight(Rule::IdleFirst, &weights)),
            Balance::Random => Kind::Draws(Draws::by_weight(Draw::One, &weights)),
            Balance::TwoChoices => Kind::Draws(Draws::by_weight(Draw::Two, &weights)),
            Balance::PowerOfTwo => Kind::Draws(Draws::by_weight(Draw::TwoDifferent, &weights)),
            Balance::Ewma => Kind::Draws(Draws::by_latency(members.len())),
            Balance::SourceHash => Kind::Hashed(Hashed::in_order(&weights)),
            Balance::DestinationHash => Kind::Hashed(Hashed::in_order(&vec![1; members.len()])),
            Balance::Ring => Kind::Hashed(Hashed::ring(backends)),
            Balance::Maglev => {
                let previous = previous.and_then(|(scheduler, _)| scheduler.maglev());
                Kind::Hashed(Hashed::maglev(Maglev::taken_over(previous, backends, seed)))
            }
            Balance::LocalityLeastConnections => Kind::Locality(Locality::build(
                false,
                members,
                &weights,
                locality(previous),
            )),
            Balance::LocalityLeastConnectionsReplicated => {
                Kind::Locality(Locality::build(true, members, &weights, locality(previous)))
            }
            Balance::Failover => Kind::Priority(Priority::failover(&weights)),
            Balance::Overflow => Kind::Priority(Priority::overflow(&weights)),
        };
        Self(kind)
    }

    /// The position of the member chosen; `None` when none may be.
    #[inline]
    pub(super) fn pick(&self, ask: &Ask<'_>) -> Option<usize> {
        match &self.0 {
            Kind::Rotation(rotation) => rotation.pick(ask),
            Kind::Hashed(hashed) => hashed.pick(ask),
            Kind::Draws(draws) => draws.pick(ask),
            Kind::Least(least) => least.pick(ask),
            Kind::Locality(locality) => locality.pick(ask),
            Kind::Priority(priority) => priority.pick(ask),
        }
    }

    /// The Maglev table, if it has one.
    pub(super) fn maglev(&self) -> Option<&Arc<Maglev>> {
        match &self.0 {
            Kind::Hashed(hashed) => hashed.as_maglev(),
            _ => None,
        }
    }

    /// Length of the cycle that the workers go along.
    pub(super) fn turns(&self) -> usize {
        match &self.0 {
            Kind::Rotation(rotation) => rotation.turns(),
            Kind::Least(least) => least.turns(),
            _ => 0,
        }
    }
}

/// What `lblc` and `lblcr` take over.
fn locality<'a>(
    previous: Option<(&'a Scheduler, &'a [Member])>,
) -> Option<(&'a Locality, &'a [Member])> {
    match previous? {
        (Scheduler(Kind::Locality(locality)), members) => Some((locality, members)),
        _ => None,
    }
}
