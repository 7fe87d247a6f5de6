//! Affinity in a choice: the backend that a client had, or a new one that is then remembered.
//!
//! Invariant: a backend is kept only if it is in this snapshot, usable, not about to end and not
//! tried; else another is chosen, and remembered in its place. What is remembered belongs to the
//! cluster: all listeners that use it, and all its snapshots, share it.
//! Read next: `affinity/mod.rs` (what remembers), `lease.rs` (what the client is told).

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use super::affinity::{
    AddressMask, AffinityTable, BackendCookies, CookieValue, SessionCookies, Slots, Tick, Timeout,
    random_key,
};
use super::build::planned;
use super::schedulers::{Maglev, from_slot};
use super::tiers::{Level, Tier, View};
use super::{Choice, Cluster, Context, Held, Lease};
use crate::plan::{self, Affinity, Condition, CookieKey, CookieMode};

/// What a cluster with affinity has to remember clients with.
pub(super) enum Sticky {
    /// A cookie that names a backend.
    Backends(BackendCookies),
    /// A cookie that names a session, which is hashed.
    Sessions(Sessions),
    /// The table.
    Table(Remembered),
}

/// Balanced cookies.
pub(super) struct Sessions {
    cookies: Arc<SessionCookies>,
    key: CookieKey,
    /// Of each tier.
    tables: Box<[Arc<Maglev>]>,
}

/// Clients in the table.
pub(super) struct Remembered {
    table: Arc<AffinityTable>,
    slots: Slots,
    timeout: Timeout,
    /// By address, or else by header.
    mask: Option<AddressMask>,
}

impl fmt::Debug for Sticky {
    /// Does not show keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Backends(_) => "Backends(..)",
            Self::Sessions(_) => "Sessions(..)",
            Self::Table(_) => "Table(..)",
        })
    }
}

impl Sticky {
    pub(super) fn build(
        plan: &plan::Cluster,
        tiers: &[Tier],
        context: &Context,
        previous: Option<&Cluster>,
    ) -> Option<Self> {
        let addresses: Vec<SocketAddr> = plan.backends.iter().map(|it| it.address).collect();
        let (timeout, mask) = match plan.affinity.as_ref()? {
            Affinity::ClientAddress {
                timeout,
                ipv4_prefix,
                ipv6_prefix,
            } => (*timeout, Some(AddressMask::new(*ipv4_prefix, *ipv6_prefix))),
            Affinity::Header { timeout, .. } => (*timeout, None),
            Affinity::Cookie(cookie) => {
                let key = &context.cookie_key;
                return Some(match cookie.mode {
                    CookieMode::Persistent => {
                        Self::Backends(BackendCookies::build(key, &plan.name, &addresses))
                    }
                    CookieMode::Balanced => {
                        Self::Sessions(Sessions::build(plan, tiers, context, previous))
                    }
                });
            }
        };
        let timeout = Timeout::new(timeout);
        let table = Arc::clone(&context.affinity);
        // Of the same kind, for an address and a header may hash to the same key.
        let before = previous.and_then(|cluster| match &cluster.sticky {
            Some(Self::Table(before))
                if Arc::ptr_eq(&before.table, &table) && before.mask == mask =>
            {
                Some(&before.slots)
            }
            _ => None,
        });
        Some(Self::Table(Remembered {
            slots: Slots::build(before, &table, &addresses, timeout, context.now),
            table,
            timeout,
            mask,
        }))
    }
}

impl Sessions {
    fn build(
        plan: &plan::Cluster,
        tiers: &[Tier],
        context: &Context,
        previous: Option<&Cluster>,
    ) -> Self {
        let before = previous.and_then(|cluster| match &cluster.sticky {
            Some(Sticky::Sessions(before)) => Some((before, &cluster.tiers)),
            _ => None,
        });
        let key = &context.cookie_key;
        let cookies = match before {
            Some((before, _)) if before.key == *key => Arc::clone(&before.cookies),
            _ => {
                // Should there be no randomness, the numbers can be guessed, which gives a client
                // nothing: it may send any cookie it was given, and the key is not in them.
                let random = random_key().unwrap_or([0; 16]);
                Arc::new(SessionCookies::new(key, &plan.name, random))
            }
        };
        let table = |tier: &Tier| {
            if let Some(maglev) = tier.scheduler.maglev() {
                return Arc::clone(maglev);
            }
            let before = before.and_then(|(before, tiers)| {
                let place = tiers.iter().position(|it| it.level == tier.level)?;
                before.tables.get(place)
            });
            Maglev::taken_over(before, &planned(plan, &tier.members), context.seed)
        };
        Self {
            cookies,
            key: key.clone(),
            tables: tiers.iter().map(table).collect(),
        }
    }
}

impl Cluster {
    /// As [`Cluster::pick`], with affinity.
    pub(super) fn pick_sticky<'a>(
        &'a self,
        sticky: &'a Sticky,
        view: View,
        choice: &Choice<'_>,
    ) -> Option<Lease<'a>> {
        let lease = self.keep_or_choose(sticky, view, choice)?;
        let counters = self.counters().of(choice.worker);
        match lease.affinity() {
            Held::Kept => counters.affinity_kept.increment(),
            Held::Chosen => counters.affinity_chosen.increment(),
            Held::Without => {}
        }
        Some(lease)
    }

    fn keep_or_choose<'a>(
        &'a self,
        sticky: &'a Sticky,
        view: View,
        choice: &Choice<'_>,
    ) -> Option<Lease<'a>> {
        match sticky {
            Sticky::Table(remembered) => self.pick_remembered(remembered, view, choice),
            Sticky::Backends(cookies) => {
                let named = choice.cookie.and_then(|value| cookies.position_of(value));
                let (index, held) = match named {
                    Some(index) if self.may_keep(index, view, choice) => (index, Held::Kept),
                    _ => (self.schedule(view, choice)?, Held::Chosen),
                };
                Some(Lease::new(self, index, choice.worker, held))
            }
            Sticky::Sessions(sessions) => {
                let named = choice.cookie.and_then(|it| sessions.cookies.session_of(it));
                let session = named.unwrap_or_else(|| sessions.cookies.open());
                let index = self.pick_session(sessions, session, view, choice)?;
                let held = if named.is_some() {
                    Held::Kept
                } else {
                    Held::Chosen
                };
                Some(Lease::new(self, index, choice.worker, held).of_session(session))
            }
        }
    }

    fn pick_remembered(
        &self,
        remembered: &Remembered,
        view: View,
        choice: &Choice<'_>,
    ) -> Option<Lease<'_>> {
        let Remembered {
            table,
            slots,
            timeout,
            mask,
        } = remembered;
        let key = match (mask, choice.affinity) {
            (Some(mask), _) => slots.scope().key_of_address(choice.client.ip(), *mask),
            (None, Some(header)) => slots.scope().key_of(&header.to_be_bytes()),
            (None, None) => {
                let index = self.schedule(view, choice)?;
                return Some(Lease::new(self, index, choice.worker, Held::Without));
            }
        };
        let now = Tick::of(choice.now);
        let lease = |index, held| Lease::new(self, index, choice.worker, held);
        let valid = |id| {
            let index = slots.position_of(id);
            index.is_some_and(|index| self.may_keep(index, view, choice))
        };
        let known = table.get(key, now, *timeout, valid);
        if let Some(index) = known.and_then(|id| slots.position_of(id)) {
            return Some(lease(index, Held::Kept));
        }
        let chosen = self.schedule(view, choice)?;
        let stands = slots
            .id_of(chosen)
            .map(|id| table.insert(key, id, now, *timeout, valid))
            .and_then(|id| slots.position_of(id))
            .filter(|&index| index != chosen);
        Some(match stands {
            // Another worker was first.
            Some(index) => lease(index, Held::Kept),
            None => lease(chosen, Held::Chosen),
        })
    }

    fn pick_session(
        &self,
        sessions: &Sessions,
        session: u64,
        view: View,
        choice: &Choice<'_>,
    ) -> Option<u16> {
        let of_tier = self.tiers.iter().zip(&sessions.tables);
        self.in_tiers(view, |tier, ignore_health| {
            let (_, maglev) = of_tier.clone().find(|(it, _)| it.level == tier.level)?;
            let mut ask = self.ask(tier, ignore_health, choice, session);
            ask.bound = None; // or sessions would move with the load
            from_slot(maglev.slots(), Maglev::slot_of(session), &ask)
        })
    }

    /// Whether affinity may lead to a backend. It holds on to one that takes no new load, but not
    /// to one that is about to end while others are ready (as kube-proxy).
    fn may_keep(&self, index: u16, view: View, choice: &Choice<'_>) -> bool {
        let backend = &self.backends[usize::from(index)];
        let in_condition = match backend.condition {
            Condition::Ready | Condition::Draining => true,
            Condition::Serving => {
                let tier = self.tiers.get(view.tier);
                tier.is_some_and(|tier| tier.level == Level::Serving)
            }
            Condition::Terminating => false,
        };
        in_condition
            && (view.is_panicking || backend.state.hot.is_usable())
            && !choice.tried.contains(index)
    }

    /// What the affinity cookie of a client with this lease says.
    pub(super) fn cookie_of(&self, index: u16, session: u64) -> Option<CookieValue> {
        match self.sticky.as_ref()? {
            Sticky::Backends(cookies) => cookies.value_of(index).copied(),
            Sticky::Sessions(sessions) => Some(sessions.cookies.value_of(session)),
            Sticky::Table(_) => None,
        }
    }
}
