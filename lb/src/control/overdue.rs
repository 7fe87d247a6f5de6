//! Says in the log when a list of revoked certificates is about to be overdue, and when it is: from
//! then on clients may be refused, and nothing else has changed.
//!
//! Invariant: each moment is told once; what is so when a configuration is read, it says itself.
//! Read next: `lb_l7::tls::RevocationList`.

use std::rc::Rc;
use std::time::{Duration, SystemTime};

use lb_core::rt::wall_clock;
use tokio::task;

use super::Status;
use crate::log::log;
use crate::snapshot::Snapshot;

/// The longest pause: a clock may be set, and a list be renewed meanwhile.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Watches the lists of what runs, until the process ends.
pub(super) fn watch(status: Rc<Status>) {
    task::spawn_local(async move {
        let mut before = wall_clock();
        loop {
            tokio::time::sleep(pause(&status.snapshot(), before)).await;
            let now = wall_clock();
            for (listener, issuer, fault) in said_between(&status.snapshot(), before, now) {
                log!(
                    Warn,
                    "a list of revoked certificates",
                    listener = listener,
                    issuer = issuer,
                    is = fault
                );
            }
            before = now;
        }
    });
}

fn pause(snapshot: &Snapshot, now: SystemTime) -> Duration {
    let acceptors = snapshot.listeners.iter().flat_map(|it| &it.tls);
    let lists = acceptors.flat_map(|it| it.revocation_lists());
    let next = lists.filter_map(|list| list.next_change(now)).min();
    let until = next.and_then(|next| next.duration_since(now).ok());
    // A moment is over only when it is over by the wall clock, too.
    let until = until.map(|until| until + Duration::from_millis(10));
    until.map_or(PAUSE_MAX, |until| until.min(PAUSE_MAX))
}

/// What there is to say that was not to be said before.
fn said_between(
    snapshot: &Snapshot,
    before: SystemTime,
    now: SystemTime,
) -> Vec<(&str, &str, &'static str)> {
    let mut said = Vec::new();
    for listener in &snapshot.listeners {
        for list in listener.tls.iter().flat_map(|it| it.revocation_lists()) {
            if let Some(fault) = list.fault(now)
                && list.fault(before) != Some(fault)
            {
                said.push((listener.stats.name(), &*list.issuer, fault));
            }
        }
    }
    said
}
