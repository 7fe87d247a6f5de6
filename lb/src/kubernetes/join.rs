//! The plan of files and flags, and that of objects, to one.
//!
//! Invariant: what files and flags say wins: a listener of the objects that would take the same
//! connections or the same name is left out, and so is what the plan would not be valid with.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use lb_core::plan::{Listener, Place, Plan, Protocol};

/// Adds `objects` to `own`; what is left out is named with the reason. `before` is the plan that
/// runs.
pub(crate) fn join(
    mut own: Plan,
    objects: &Plan,
    before: &Plan,
) -> (Plan, BTreeMap<String, String>) {
    let mut left_out = BTreeMap::new();
    if own.listeners.is_empty() && own.clusters.is_empty() {
        own.listeners.clone_from(&objects.listeners);
        own.clusters.clone_from(&objects.clusters);
    } else {
        let known: HashSet<String> = own.clusters.iter().map(|it| it.name.clone()).collect();
        let fresh = objects
            .clusters
            .iter()
            .filter(|it| !known.contains(&it.name));
        own.clusters.extend(fresh.cloned());
        let mut listeners = own.listeners.clone();
        for listener in &objects.listeners {
            match own.listeners.iter().find(|it| clashes(it, listener)) {
                Some(first) => {
                    let reason = format!("listener {} of the configuration has it", first.name);
                    left_out.insert(listener.name.clone(), reason);
                }
                None => listeners.push(Arc::clone(listener)),
            }
        }
        own.listeners = listeners;
    }
    drop_invalid(&mut own, before, &mut left_out);
    (own, left_out)
}

/// The objects' compiler makes valid plans; should it be mistaken, one listener is lost and not
/// the whole plan.
fn drop_invalid(plan: &mut Plan, before: &Plan, left_out: &mut BTreeMap<String, String>) {
    let Err(errors) = plan.validate_after(before) else {
        return;
    };
    for error in errors {
        if let Place::Listener { name, .. } | Place::Route { name, .. } = error.place() {
            left_out.insert(name.clone(), error.to_string());
        }
    }
    let out = &*left_out;
    plan.listeners.retain(|it| !out.contains_key(&it.name));
}

fn clashes(own: &Listener, other: &Listener) -> bool {
    own.name == other.name || (is_udp(own) == is_udp(other) && meet(own.address, other.address))
}

fn is_udp(listener: &Listener) -> bool {
    matches!(listener.protocol, Protocol::Udp(_))
}

fn meet(one: SocketAddr, two: SocketAddr) -> bool {
    let any = |address: SocketAddr| address.ip().is_unspecified();
    let same_port = one.port() == two.port() && one.port() != 0;
    same_port && (one.ip() == two.ip() || (any(one) && any(two)))
}

#[cfg(test)]
mod tests {
    use lb_core::plan::{Cluster, Edge, ListenerLog, Tcp};

    use super::*;

    fn plan(name: &str, address: &str) -> Plan {
        let listener = Listener {
            name: name.to_owned(),
            address: address.parse().unwrap(),
            edge: Edge::default(),
            access_log: ListenerLog::default(),
            protocol: Protocol::Tcp(Tcp::to("c")),
        };
        Plan {
            listeners: vec![Arc::new(listener)],
            clusters: vec![Arc::new(Cluster::new("c", Vec::new()))],
            ..Plan::default()
        }
    }

    #[test]
    fn what_files_say_wins() {
        let own = plan("a", "127.0.0.1:80");
        for (name, address, joined) in [
            ("b", "127.0.0.1:81", 2),
            ("b", "127.0.0.1:80", 1),
            ("a", "127.0.0.1:81", 1),
        ] {
            let (plan, left_out) = join(own.clone(), &plan(name, address), &own);
            assert_eq!(plan.listeners.len(), joined, "{name} {address}");
            assert_eq!(left_out.len(), 2 - joined);
            plan.validate().unwrap();
        }
        let (plan, _) = join(Plan::default(), &own, &Plan::default());
        assert_eq!(plan, own);
    }
}
