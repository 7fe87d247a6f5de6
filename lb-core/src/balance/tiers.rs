//! Which backends are used when: primaries, then backups, then those that are about to end.
//!
//! Invariant: a tier holds the backends of one level that may take new load (condition and weight
//! say so), whatever their health. What health makes of them is a [`View`]: looked for once after
//! each change of a backend's status, not at each choice.
//! Read next: `schedulers/mod.rs` (the choice within a tier).

use std::sync::atomic::{AtomicU64, Ordering};

use super::schedulers::{Member, Scheduler};
use crate::plan::{Condition, Tier as Wanted};

/// The order in which tiers are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Primary,
    Backup,
    /// About to end, and still serving (KEP-1669).
    Serving,
}

impl Level {
    pub(super) const ALL: [Self; 3] = [Self::Primary, Self::Backup, Self::Serving];

    /// The level of a backend; `None` when it takes no new load.
    pub(super) const fn of(weight: u16, tier: Wanted, condition: Condition) -> Option<Self> {
        match (condition, tier) {
            (Condition::Draining | Condition::Terminating, _) => None,
            _ if weight == 0 => None,
            (Condition::Serving, _) => Some(Self::Serving),
            (Condition::Ready, Wanted::Primary) => Some(Self::Primary),
            (Condition::Ready, Wanted::Backup) => Some(Self::Backup),
        }
    }
}

/// The backends of one level; at least one.
#[derive(Debug)]
pub(super) struct Tier {
    pub(super) level: Level,
    pub(super) members: Box<[Member]>,
    pub(super) scheduler: Scheduler,
    /// Sum of the weights of the usable members, as of the cluster's view.
    usable_weight: AtomicU64,
}

impl Tier {
    pub(super) fn new(level: Level, members: Box<[Member]>, scheduler: Scheduler) -> Self {
        Self {
            level,
            members,
            scheduler,
            usable_weight: AtomicU64::new(0),
        }
    }

    pub(super) fn usable_weight(&self) -> u64 {
        self.usable_weight.load(Ordering::Relaxed)
    }

    /// The number of usable members; remembers their weight.
    fn count_usable(&self) -> usize {
        let usable = self
            .members
            .iter()
            .filter(|member| member.state.hot.is_usable());
        let (count, weight) = usable.fold((0, 0), |(count, weight), member| {
            (count + 1, weight + u64::from(member.weight))
        });
        self.usable_weight.store(weight, Ordering::Relaxed);
        count
    }

    fn all_weight(&self) {
        let weight = self
            .members
            .iter()
            .map(|member| u64::from(member.weight))
            .sum();
        self.usable_weight.store(weight, Ordering::Relaxed);
    }
}

/// What a cluster's backends come to at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct View {
    /// Position of the tier in use.
    pub(super) tier: usize,
    /// Whether health is ignored in it.
    pub(super) is_panicking: bool,
}

impl View {
    /// The first tier with a usable member is in use; its health is ignored if fewer than
    /// `threshold` percent of it are usable. When no tier has any, health is ignored in the first:
    /// checks that fail everywhere say more about the checks than about the backends.
    pub(super) fn of(tiers: &[Tier], threshold: u8) -> Self {
        let counts = || tiers.iter().map(Tier::count_usable);
        let found = counts().enumerate().fold(None, |found, (tier, count)| {
            found.or_else(|| (count > 0).then_some((tier, count)))
        });
        let view = match found {
            Some((tier, usable)) => Self {
                tier,
                is_panicking: usable * 100 < usize::from(threshold) * tiers[tier].members.len(),
            },
            None => Self {
                tier: 0,
                is_panicking: !tiers.is_empty(),
            },
        };
        if let Some(tier) = tiers.get(view.tier).filter(|_| view.is_panicking) {
            tier.all_weight();
        }
        view
    }
}

/// A view and the epoch that it is of, in one word.
#[derive(Debug)]
pub(super) struct ViewWord(AtomicU64);

impl ViewWord {
    pub(super) fn new(epoch: u32, view: View) -> Self {
        Self(AtomicU64::new(Self::pack(epoch, view)))
    }

    /// The view, if it is of this epoch.
    #[inline]
    pub(super) fn at(&self, epoch: u32) -> Option<View> {
        let word = self.0.load(Ordering::Relaxed);
        ((word >> 32) as u32 == epoch).then_some(View {
            tier: (word >> 1 & 3) as usize,
            is_panicking: word & 1 == 1,
        })
    }

    pub(super) fn set(&self, epoch: u32, view: View) {
        self.0.store(Self::pack(epoch, view), Ordering::Relaxed);
    }

    fn pack(epoch: u32, view: View) -> u64 {
        u64::from(epoch) << 32 | (view.tier as u64) << 1 | u64::from(view.is_panicking)
    }
}
