//! What valid settings of exchanges are.
//!
//! Invariant: a setting that would have no effect is refused.
//! Read next: `validate.rs` (the errors), `exchange.rs` (the types).

use super::validate::{Place, Validation};
use super::{ClusterExchanges, Exchanges};

impl Validation<'_> {
    pub(super) fn exchanges(&mut self, place: &Place, exchanges: &Exchanges) {
        self.timeout(place, "upgrade_idle", exchanges.upgrade_idle);
        if let Some(rate) = exchanges.body_rate_min {
            self.range(place, "body_rate_min", rate as usize, (1, 1 << 30));
        }
        let limit = Exchanges::BUFFER_LIMIT as usize;
        self.range(
            place,
            "request_buffer",
            exchanges.request_buffer as usize,
            (0, limit),
        );
    }

    pub(super) fn cluster_exchanges(
        &mut self,
        place: &Place,
        exchanges: &ClusterExchanges,
        pool_idle_max: u16,
    ) {
        let timeouts = [
            ("try_timeout", exchanges.try_timeout),
            ("total_timeout", exchanges.total_timeout),
            ("queue_timeout", Some(exchanges.queue_timeout)),
            ("connection_age_max", exchanges.connection_age_max),
        ];
        for (name, timeout) in timeouts {
            if let Some(timeout) = timeout {
                self.timeout(place, name, timeout);
            }
        }
        if let Some(budget) = exchanges.retry_budget {
            self.range(place, "retry_budget percent", budget.percent, (0, 100));
        }
        if let Some(max) = exchanges.connections_max {
            self.range(place, "connections_max", max, (1, u16::MAX));
        }
        if let Some(max) = exchanges.connection_exchanges_max {
            self.range(place, "connection_exchanges_max", max, (1, u32::MAX));
        }
        let ready_max = pool_idle_max.min(exchanges.connections_max.unwrap_or(u16::MAX));
        let ready = exchanges.connections_ready;
        self.range(place, "connections_ready", ready, (0, ready_max));
    }
}
