//! Objects to a plan, in parts that are kept and made again only when what they follow from
//! changes.
//!
//! Invariant: the result is the same as if all were compiled from nothing.
//! Read next: `service/mod.rs`, `ingress/mod.rs` (the parts).

use std::collections::BTreeSet;
use std::net::IpAddr;

use lb_core::plan::Plan;

use crate::health::HealthCheckNodePort;
use crate::ingress::Ingresses;
use crate::object::Name;
use crate::options::Options;
use crate::problem::Problem;
use crate::service::Services;
use crate::store::Store;

/// What objects compile to.
#[derive(Debug, Clone, Default)]
pub struct Compiled {
    /// What to run; valid. What is as before is the same `Arc` as in the plan before.
    pub plan: Plan,
    /// What is wrong, in the order of the objects.
    pub problems: Vec<Problem>,
    /// What load balancers outside ask.
    pub health_checks: Vec<HealthCheckNodePort>,
    /// Cluster IPs and load balancer addresses that listeners are on: to be made local.
    pub local_addresses: BTreeSet<IpAddr>,
    /// The addresses of Services of type LoadBalancer.
    pub load_balancers: Vec<(Name, Vec<IpAddr>)>,
    /// Names of Services of type ExternalName that are led to, for [`Store::resolve`].
    pub host_names: BTreeSet<String>,
}

/// Compiles objects, again and again.
#[derive(Debug)]
pub struct Compiler {
    options: Options,
    ingresses: Ingresses,
}

impl Compiler {
    /// With nothing compiled yet.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            options,
            ingresses: Ingresses::default(),
        }
    }

    /// Compiles what has changed in `store` since the last time, which must be the same store.
    pub fn compile(&mut self, store: &mut Store) -> Compiled {
        let changes = store.take_changes();
        let services = Services {
            store,
            options: &self.options,
        };
        self.ingresses
            .update(store, &services, &self.options, &changes);
        let output = self.ingresses.output();
        Compiled {
            plan: Plan {
                listeners: output.listeners.clone(),
                ..Plan::default()
            },
            problems: output.problems.clone(),
            ..Compiled::default()
        }
    }
}
