//! Kubernetes objects in the life of the process: read at the start, watched, joined to what files
//! and flags say, and what belongs to them beside the plan: routes to addresses, health ports.
//!
//! Invariant: an address is made local before it is bound, and is so until its listener is gone.
//! Read next: `../kubernetes/mod.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use lb_core::plan::Plan;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task;

use super::bind::BindError;
use super::start::StartError;
use super::{Control, Event, LoadNumber, Status};
use crate::config::Names;
use crate::kubernetes::{
    FolderWatch, HealthServers, HealthzAddress, Kubernetes, KubernetesFlags, KubernetesState, Seen,
    Watched, join, machine_addresses, serve_healthz,
};
use crate::log::log;
use crate::resolve::{Resolved, Schedule, resolve};

/// How long after a failure listeners are tried again.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// Listeners that do not run, by name, and why.
pub(super) type LeftOut = BTreeMap<String, String>;

/// Kubernetes objects as a source.
pub(super) struct Objects {
    kubernetes: Kubernetes,
    machine: Vec<IpAddr>,
    watch: Option<FolderWatch>,
    watched: Rc<Watched>,
    health: HealthServers,
    is_waiting: bool,
    /// Addresses of the host names that objects lead to.
    names: Names,
    schedule: Schedule,
    /// The names that are being resolved, or are to be after a pause.
    asked: BTreeSet<String>,
    /// Tells an answer that is still wanted from one that a later question has overtaken.
    round: LoadNumber,
}

impl Objects {
    /// Reads them, if they are a source. Must be called within a tokio runtime.
    pub(super) fn read(flags: &KubernetesFlags) -> Result<Option<Self>, String> {
        let Some(mut kubernetes) = Kubernetes::read(flags, true)? else {
            return Ok(None);
        };
        let watch = FolderWatch::new(kubernetes.folder().root());
        let watched = watch.watched();
        watched.add(kubernetes.folder().folders());
        // What has changed before the watch began.
        kubernetes.refresh(&Seen::everything());
        Ok(Some(Self {
            kubernetes,
            machine: machine_addresses(),
            watched,
            watch: Some(watch),
            health: HealthServers::default(),
            is_waiting: false,
            names: Names::new(),
            schedule: Schedule::new(),
            asked: BTreeSet::new(),
            round: LoadNumber(0),
        }))
    }

    /// What the admin API shows of them.
    pub(super) fn state(&self) -> Rc<KubernetesState> {
        self.kubernetes.state()
    }

    /// Begins to answer for the node's health, and to watch.
    pub(super) fn start(
        &mut self,
        healthz: Option<HealthzAddress>,
        status: &Rc<Status>,
        sender: &UnboundedSender<Event>,
    ) -> Result<(), StartError> {
        serve_healthz(healthz, status)?;
        self.published(status);
        self.resolve(sender);
        let Some(mut watch) = self.watch.take() else {
            return Ok(());
        };
        let sender = sender.clone();
        task::spawn_local(async move {
            loop {
                let seen = watch.changed().await;
                if sender.send(Event::Objects(seen)).is_err() {
                    return;
                }
            }
        });
        Ok(())
    }

    /// Whether a listener is of theirs.
    pub(super) fn has_listener(&self, name: &str) -> bool {
        self.kubernetes.has_listener(name)
    }

    /// Joins them to what files and flags say, and makes local what is to be bound; `before` runs.
    pub(super) fn join(&mut self, own: Plan, before: &Plan) -> (Plan, LeftOut) {
        let wanted = self.kubernetes.compiled().local_addresses.clone();
        let result = self.kubernetes.local.add(&wanted, &self.machine);
        self.kubernetes.set_local_problem(result.err());
        join(own, self.kubernetes.plan(), before)
    }

    /// Says which of their listeners do not run; these are tried again after a while.
    pub(super) fn left_out(&mut self, left_out: LeftOut, sender: &UnboundedSender<Event>) {
        self.kubernetes.leave_out(left_out);
        if self.kubernetes.is_incomplete() && !self.is_waiting {
            self.is_waiting = true;
            let sender = sender.clone();
            task::spawn_local(async move {
                tokio::time::sleep(TRY_AGAIN).await;
                // The loop ends before its channel does only when the process ends.
                let _ = sender.send(Event::TryAgain);
            });
        }
    }

    /// What they say runs now.
    pub(super) fn published(&mut self, status: &Rc<Status>) {
        let compiled = self.kubernetes.compiled();
        self.health.set(&compiled.health_checks, status);
        let wanted = compiled.local_addresses.clone();
        self.kubernetes.local.keep(&wanted);
    }
}

impl Objects {
    /// Resolves the host names that objects lead to: new ones at once, all of them after a pause.
    fn resolve(&mut self, sender: &UnboundedSender<Event>) {
        let wanted = &self.kubernetes.compiled().host_names;
        if wanted.is_empty() || *wanted == self.asked {
            return;
        }
        let is_new = wanted.iter().any(|host| !self.names.contains_key(host));
        let all_found = self.names.values().all(|addresses| !addresses.is_empty());
        let pause = match is_new {
            true => Duration::ZERO,
            false => self.schedule.pause(all_found),
        };
        self.asked.clone_from(wanted);
        self.round = LoadNumber(self.round.0 + 1);
        let round = self.round;
        let (wanted, known, sender) = (wanted.clone(), self.names.clone(), sender.clone());
        task::spawn_local(async move {
            tokio::time::sleep(pause).await;
            // As above.
            let _ = sender.send(Event::ObjectNames(resolve(wanted, known).await, round));
        });
    }
}

impl Control {
    /// The host names that objects lead to have these addresses.
    pub(super) fn take_object_names(&mut self, resolved: Resolved, round: LoadNumber) {
        let Some(objects) = &mut self.objects else {
            return;
        };
        if round != objects.round {
            return;
        }
        let names = resolved.logged();
        objects.asked.clear();
        let any = objects.kubernetes.take_names(&names);
        objects.names = names;
        if any {
            self.publish_objects();
        } else {
            objects.resolve(&self.sender);
        }
    }

    /// Looks at what the watch has seen.
    pub(super) fn objects_changed(&mut self, seen: &Seen) {
        let Some(objects) = &mut self.objects else {
            return;
        };
        let mut any = objects.kubernetes.refresh(seen);
        if seen.everything {
            // A folder that is watched only now may have changed before.
            while objects.watched.add(objects.kubernetes.folder().folders()) {
                any |= objects.kubernetes.refresh(&Seen {
                    everything: true,
                    ..seen.clone()
                });
            }
        }
        if any {
            self.publish_objects();
        }
    }

    /// Tries to bind what could not be bound.
    pub(super) fn try_again(&mut self) {
        if let Some(objects) = &mut self.objects {
            objects.is_waiting = false;
        }
        self.publish_objects();
    }

    fn publish_objects(&mut self) {
        if let Some(objects) = &mut self.objects {
            objects.resolve(&self.sender);
        }
        let (draft, names) = (self.draft.clone(), self.names.clone());
        if let Err(problem) = self.publish(&names, &draft) {
            log!(Error, "a change of objects was refused", problem = problem);
        }
    }
}

/// Takes what could not be bound out of a plan.
pub(super) fn leave_out(plan: &mut Plan, failed: Vec<BindError>, left_out: &mut LeftOut) {
    for BindError { listener, reason } in failed {
        left_out.insert(listener, reason);
    }
    if !left_out.is_empty() {
        let out = &*left_out;
        plan.listeners.retain(|it| !out.contains_key(&it.name));
    }
}
