//! A cluster from its plan, and from the cluster of the snapshot before.
//!
//! Invariant: a backend whose address stays keeps its identity, health, load and counters; a table
//! that would be the same is taken over. Runs on the control side, some milliseconds at most.
//! Read next: `mod.rs` (what is built).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::backend::{Backend, BackendState};
use super::hash::Hashing;
use super::schedulers::{Latency, Member, Scheduler};
use super::state::ClusterState;
use super::sticky::Sticky;
use super::tiers::{Level, Tier, View, ViewWord};
use super::{Cluster, Context};
use crate::plan::{self, Balance, HashKey};

impl Cluster {
    /// Builds the cluster of a valid plan. `previous` is the cluster of the same name in the
    /// snapshot before: a backend whose address it had keeps its identity, health and counters.
    /// Without health checks every backend is made healthy, without outlier detection none stays
    /// ejected. What `previous` did not have starts slowly, if the plan says so; the backends of a
    /// cluster without `previous` do not, for there is nobody to start behind.
    ///
    /// A table takes a few milliseconds, and is taken over when the backends are the same.
    pub fn build(plan: &plan::Cluster, context: &Context, previous: Option<&Self>) -> Self {
        let state = previous.map_or_else(
            || {
                Arc::new(ClusterState::new(
                    context.workers,
                    context.seed,
                    context.now,
                ))
            },
            |previous| Arc::clone(&previous.state),
        );
        state.set_slow_start(plan.slow_start.unwrap_or_default());
        let backends = build_backends(plan, context, &state, previous);
        let tiers = build_tiers(plan, context, &backends, previous);
        if let Some(first) = tiers.first().filter(|_| previous.is_none()) {
            state.spread_turns(first.scheduler.turns());
        }
        let hash_key =
            HashKey::of(plan.balance).map(|default| plan.hash_key.clone().unwrap_or(default));
        let epoch = state.epoch();
        Self {
            name: plan.name.clone(),
            balance: plan.balance,
            connect_timeout: plan.connect_timeout,
            tries_max: plan.tries_max,
            pool_idle_max: plan.pool_idle_max,
            pool_idle_timeout: plan.pool_idle_timeout,
            protocol: plan.protocol,
            exchanges: plan.exchanges,
            tls: build_tls(plan.tls.as_ref(), previous),
            health: plan.health.clone(),
            view: ViewWord::new(epoch, View::of(&tiers, plan.panic_threshold)),
            panic_threshold: plan.panic_threshold,
            hashing: Hashing::of(plan.balance, context.seed),
            hash_key,
            bounded_load: plan.bounded_load,
            affinity: plan.affinity.clone(),
            sticky: Sticky::build(plan, &tiers, context, previous),
            slow_start: plan.slow_start.is_some(),
            outlier: plan.outlier.clone(),
            backends,
            tiers,
            state,
        }
    }
}

fn build_tls(
    plan: Option<&plan::BackendTls>,
    previous: Option<&Cluster>,
) -> Option<Arc<plan::BackendTls>> {
    let plan = plan?;
    let before = previous.and_then(|previous| previous.tls.as_ref());
    let same = before.filter(|before| ***before == *plan);
    Some(same.map_or_else(|| Arc::new(plan.clone()), Arc::clone))
}

fn build_backends(
    plan: &plan::Cluster,
    context: &Context,
    cluster: &Arc<ClusterState>,
    previous: Option<&Cluster>,
) -> Box<[Arc<Backend>]> {
    let known: HashMap<SocketAddr, &Arc<BackendState>> = previous
        .into_iter()
        .flat_map(|previous| previous.backends.iter())
        .map(|backend| (backend.address, &backend.state))
        .collect();
    let latency = match plan.balance {
        Balance::Ewma => Latency::mean(known.values().map(|it| &it.hot.latency), context.now),
        _ => None,
    };
    let newcomer = || {
        let state = Arc::new(BackendState::new(Arc::clone(cluster), context.workers));
        if let Some(latency) = latency {
            latency.store(&state.hot.latency);
        }
        if previous.is_some() {
            state.begin_slowly(context.now);
        }
        state
    };
    let build = |(index, backend): (usize, &plan::Backend)| {
        let known = known.get(&backend.address);
        let state = known.map_or_else(newcomer, |state| Arc::clone(state));
        state.adapt(plan, context.now);
        Arc::new(Backend {
            address: backend.address,
            name: backend.name.clone(),
            weight: backend.weight,
            tier: backend.tier,
            condition: backend.condition,
            index: u16::try_from(index).expect("a valid plan has at most BACKENDS_MAX backends"),
            state,
        })
    };
    plan.backends.iter().enumerate().map(build).collect()
}

fn build_tiers(
    plan: &plan::Cluster,
    context: &Context,
    backends: &[Arc<Backend>],
    previous: Option<&Cluster>,
) -> Box<[Tier]> {
    let build = |level: Level| {
        let of_level =
            |it: &&Arc<Backend>| Level::of(it.weight, it.tier, it.condition) == Some(level);
        let member = |backend: &Arc<Backend>| Member {
            state: Arc::clone(&backend.state),
            weight: backend.weight,
            index: backend.index,
        };
        let members: Box<[Member]> = backends.iter().filter(of_level).map(member).collect();
        if members.is_empty() {
            return None;
        }
        let before = previous
            .and_then(|previous| previous.tiers.iter().find(|tier| tier.level == level))
            .map(|tier| (&tier.scheduler, &*tier.members));
        let planned = planned(plan, &members);
        let scheduler = Scheduler::build(plan.balance, &planned, &members, context.seed, before);
        Some(Tier::new(level, members, scheduler))
    };
    Level::ALL.into_iter().filter_map(build).collect()
}

/// What the plan says of the members, by position.
pub(super) fn planned(plan: &plan::Cluster, members: &[Member]) -> Vec<plan::Backend> {
    let of = |member: &Member| plan.backends[usize::from(member.index)].clone();
    members.iter().map(of).collect()
}
