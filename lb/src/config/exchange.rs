//! Keys about exchanges: upgrades, slow clients, buffering; connections, queues and tries of clusters.
//!
//! Invariant: as in `read.rs`: a key that is read is one that takes effect, and what is not written
//! has the default of the plan.
//! Read next: `read.rs`, `read_cluster.rs` (who call this), `lb_core::plan` (the meaning).

use std::time::Duration;

use lb_core::plan::{ClusterExchanges, Exchanges, RetryBudget};

use super::decode::{self, Fields, Problems};
use super::notation;
use super::problem::Located;
use super::read::duration;
use super::read_cluster::percent;
use super::yaml::{Node, Value};

/// What was written of the exchanges of a listener.
#[derive(Debug, Default)]
pub(crate) struct ListenerExchanges {
    pub(crate) upgrades: Option<bool>,
    pub(crate) body_rate: Option<Located<Option<u64>>>,
    pub(crate) request_buffer: Option<Located<Option<u64>>>,
    pub(crate) ignore_client_abort: Option<bool>,
}

impl ListenerExchanges {
    /// `upgrades`, `body_rate`, `request_buffer` and `ignore_client_abort` of an HTTP listener.
    pub(super) fn read(fields: &mut Fields<'_, '_>) -> Self {
        let rate = decode::limit(|text| within(text, 1, 1 << 30, "1 and 1GiB"));
        let most = u64::from(Exchanges::BUFFER_LIMIT);
        let buffer = decode::limit(move |text| within(text, 1, most, "1 and 16MiB"));
        Self {
            upgrades: fields.optional("upgrades", decode::boolean),
            body_rate: fields.optional("body_rate", rate),
            request_buffer: fields.optional("request_buffer", buffer),
            ignore_client_abort: fields.optional("ignore_client_abort", decode::boolean),
        }
    }

    /// The plan's form.
    pub(super) fn compile(&self, upgrade_idle: Option<&Located<Duration>>) -> Exchanges {
        let default = Exchanges::default();
        let number = |it: &Option<Located<Option<u64>>>| {
            let written = it.as_ref().and_then(|it| it.value);
            written.map(|it| u32::try_from(it).unwrap_or(u32::MAX))
        };
        Exchanges {
            upgrades: self.upgrades.unwrap_or(default.upgrades),
            upgrade_idle: upgrade_idle.map_or(default.upgrade_idle, |it| it.value),
            body_rate_min: number(&self.body_rate),
            request_buffer: number(&self.request_buffer).unwrap_or(0),
            ignore_client_abort: self
                .ignore_client_abort
                .unwrap_or(default.ignore_client_abort),
        }
    }
}

fn within(text: &str, least: u64, most: u64, words: &str) -> Result<u64, String> {
    match notation::size(text)? {
        bytes if (least..=most).contains(&bytes) => Ok(bytes),
        _ => Err(format!("\"{text}\" is not between {words}")),
    }
}

/// `connections`, `age`, `exchanges` and `ready` of a cluster's `pool`.
pub(super) fn pool(fields: &mut Fields<'_, '_>, exchanges: &mut ClusterExchanges) {
    let count = |most: u64| decode::limit(move |text: &str| notation::number(text, 1..=most));
    let value = |it: Option<Located<Option<u64>>>| it.and_then(|it| it.value);
    let connections = value(fields.optional("connections", count(u16::MAX.into())));
    exchanges.connections_max = connections.map(|it| it as u16);
    let uses = value(fields.optional("exchanges", count(u32::MAX.into())));
    exchanges.connection_exchanges_max = uses.map(|it| it as u32);
    let age = fields.optional("age", decode::limit(notation::duration));
    exchanges.connection_age_max = age.and_then(|it| it.value);
    let ready = fields.optional("ready", decode::number(0..=u16::MAX.into()));
    exchanges.connections_ready = ready.map_or(0, |it| it.value as u16);
}

/// `queue`, `timeouts` and `retry_budget` of a cluster.
pub(super) fn cluster(fields: &mut Fields<'_, '_>, exchanges: &mut ClusterExchanges) {
    if let Some((max, timeout)) = fields.optional("queue", queue) {
        exchanges.queue_max = max.map_or(exchanges.queue_max, |it| it.value as u16);
        exchanges.queue_timeout = timeout.map_or(exchanges.queue_timeout, |it| it.value);
    }
    if let Some((one, total)) = fields.optional("timeouts", timeouts) {
        exchanges.try_timeout = one.and_then(|it| it.value);
        exchanges.total_timeout = total.and_then(|it| it.value);
    }
    if let Some(budget) = fields.optional("retry_budget", retry_budget) {
        exchanges.retry_budget = budget;
    }
}

type Queue = (Option<Located<u64>>, Option<Located<Duration>>);

fn queue(node: &Node, problems: &mut Problems) -> Option<Queue> {
    let mut fields = Fields::of(node, problems)?;
    let max = fields.optional("max", decode::number(0..=u16::MAX.into()));
    let timeout = fields.optional("timeout", duration);
    fields.finish();
    Some((max, timeout))
}

type Timeouts = (
    Option<Located<Option<Duration>>>,
    Option<Located<Option<Duration>>>,
);

fn timeouts(node: &Node, problems: &mut Problems) -> Option<Timeouts> {
    let mut fields = Fields::of(node, problems)?;
    let one = fields.optional("try", decode::limit(notation::duration));
    let total = fields.optional("total", decode::limit(notation::duration));
    fields.finish();
    Some((one, total))
}

/// `none`, or a mapping with `percent` and `per_second`.
fn retry_budget(node: &Node, problems: &mut Problems) -> Option<Option<RetryBudget>> {
    if let Value::Scalar(_) = &node.value {
        return decode::choice(&[("none", None)])(node, problems).map(|it| it.value);
    }
    let mut fields = Fields::of(node, problems)?;
    let percent = fields.optional("percent", percent::<0, 100>);
    let per_second = fields.optional("per_second", decode::number(0..=u16::MAX.into()));
    fields.finish();
    let default = RetryBudget::default();
    Some(Some(RetryBudget {
        percent: percent.map_or(default.percent, |it| it.value),
        per_second: per_second.map_or(default.per_second, |it| it.value as u16),
    }))
}
