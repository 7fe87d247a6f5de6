//! Settings of exchanges, in the words of the YAML form.
//!
//! Invariant: nothing is left out.
//! Read next: `../config/exchange.rs` (the same words, read).

use lb_core::plan::{ClusterExchanges, RetryBudget};
use serde_json::{Value, json};

use super::duration;

/// Queue, deadlines and retries of a cluster.
pub(super) fn cluster(it: &ClusterExchanges) -> [(&'static str, Value); 3] {
    let budget = |it: RetryBudget| json!({"percent": it.percent, "per_second": it.per_second});
    [
        (
            "queue",
            json!({"max": it.queue_max, "timeout": duration(it.queue_timeout)}),
        ),
        (
            "timeouts",
            json!({
                "try": it.try_timeout.map(duration),
                "total": it.total_timeout.map(duration),
            }),
        ),
        ("retry_budget", json!(it.retry_budget.map(budget))),
    ]
}
