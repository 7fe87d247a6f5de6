//! What valid settings of exchanges are.
//!
//! Invariant: a setting that would have no effect is refused.
//! Read next: `validate.rs` (the errors), `exchange.rs` (the types).

use super::validate::{Place, PlanError, Validation};
use super::{BackendProtocol, Cluster, ClusterExchanges, Exchanges};

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

    pub(super) fn cluster_exchanges(&mut self, place: &Place, cluster: &Cluster) {
        let exchanges = &cluster.exchanges;
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
        let most = exchanges.connections_max.unwrap_or(u16::MAX);
        let ready_max = cluster.pool_idle_max.min(most);
        let ready = exchanges.connections_ready;
        self.range(place, "connections_ready", ready, (0, ready_max));
        self.pool_of_http1(place, cluster);
    }

    /// Connections of HTTP/2 are shared, and no pool has them; and one that is made ready would have
    /// to be one that the next request may use.
    fn pool_of_http1(&mut self, place: &Place, cluster: &Cluster) {
        let ClusterExchanges {
            connections_max,
            connection_age_max,
            connection_exchanges_max,
            connections_ready,
            ..
        } = cluster.exchanges;
        let mut refuse = |field, reason: &str| {
            self.errors.push(PlanError::OutOfRange {
                place: place.clone(),
                field,
                value: "set".to_owned(),
                allowed: reason.to_owned(),
            });
        };
        if cluster.protocol == BackendProtocol::Http2 {
            let reason = "left out with protocol http2, whose connections many requests share";
            let set = [
                ("connections_max", connections_max.is_some()),
                ("connection_age_max", connection_age_max.is_some()),
                (
                    "connection_exchanges_max",
                    connection_exchanges_max.is_some(),
                ),
                ("connections_ready", connections_ready > 0),
            ];
            for (field, _) in set.into_iter().filter(|(_, is_set)| *is_set) {
                refuse(field, reason);
            }
        } else if cluster.tls.is_some() && connections_ready > 0 {
            refuse(
                "connections_ready",
                "left out where backends are reached over TLS",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{BackendTls, Plan};
    use super::*;

    fn errors(change: impl FnOnce(&mut Cluster)) -> Vec<String> {
        let mut cluster = Cluster::new("a", Vec::new());
        change(&mut cluster);
        let plan = Plan {
            clusters: vec![Arc::new(cluster)],
            ..Plan::default()
        };
        let errors = plan.validate().err().unwrap_or_default();
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_pool_setting_that_would_do_nothing_is_refused() {
        assert!(errors(|it| it.exchanges.connections_ready = 2).is_empty());
        let of_http2 = errors(|it| {
            it.protocol = BackendProtocol::Http2;
            it.exchanges.connections_ready = 2;
            it.exchanges.connections_max = Some(5);
        });
        assert_eq!(of_http2.len(), 2, "{of_http2:?}");
        let over_tls = errors(|it| {
            it.tls = Some(BackendTls::default());
            it.exchanges.connections_ready = 2;
        });
        let ready = over_tls
            .iter()
            .filter(|it| it.contains("connections_ready"));
        assert_eq!(ready.count(), 1, "{over_tls:?}");
    }
}
