//! A change of the configuration: read, check, bind, publish; or refuse, and keep what runs.
//!
//! Invariant: the workers see a change only after nothing in it can fail any more.
//! Read next: `../snapshot.rs`, `lb_core::snapshot`.

use std::collections::BTreeSet;

use lb_core::plan::Plan;

use super::bind::{bind_new, ports};
use super::{Control, Event, LoadNumber};
use crate::access_log::default_log;
use crate::config::{Draft, Names, Problem};
use crate::log::log;
use crate::resolve::resolve;
use crate::snapshot::{ListenerKey, Snapshot};

impl Control {
    /// Reads the sources again. Names that are new are resolved first; meanwhile all goes on.
    pub(super) fn reload(&mut self, why: &'static str) {
        log!(Info, "reading the configuration", because = why);
        self.status.access_logs.reopen();
        self.load = LoadNumber(self.load.0 + 1);
        let draft = match self.sources.load() {
            Ok(draft) => draft,
            Err(problems) => {
                self.refuse(problems);
                return self.resolve_later();
            }
        };
        let (known, new): (Vec<_>, Vec<_>) = draft
            .host_names()
            .into_iter()
            .partition(|host| self.names.contains_key(*host));
        let of_old = |host: &str| (host.to_owned(), self.names[host].clone());
        let mut names: Names = known.into_iter().map(of_old).collect();
        if new.is_empty() {
            return self.take_up(draft, names);
        }
        let new = new.into_iter().map(str::to_owned).collect();
        let (sender, load) = (self.sender.clone(), self.load);
        tokio::task::spawn_local(async move {
            names.extend(resolve(new, Names::new()).await.logged());
            // The loop ends before its channel does only when the process ends.
            let _ = sender.send(Event::Loaded(Box::new(draft), names, load));
        });
    }

    /// Runs a draft that was read and whose names are known.
    pub(super) fn take_up(&mut self, draft: Draft, names: Names) {
        if let Err(problem) = self.publish(draft.plan(&names), &draft) {
            self.refuse(vec![problem]);
            return self.resolve_later();
        }
        self.take_settings(&draft);
        draft.log_warnings();
        self.draft = draft;
        self.names = names;
        self.status.problems.take();
        self.status.metrics.reloads_succeeded.increment();
        self.status.metrics.last_reload_successful.set(1);
        self.resolve_later();
    }

    /// The names of the running draft have been resolved again.
    pub(super) fn take_names(&mut self, names: Names) {
        if names != self.names {
            let draft = self.draft.clone();
            log!(Info, "addresses of backends have changed");
            if let Err(problem) = self.publish(draft.plan(&names), &draft) {
                log!(
                    Error,
                    "a change of addresses was refused",
                    problem = problem
                );
            }
        }
        self.names = names;
        self.resolve_later();
    }

    /// Resolves the names of the running draft after a pause, if it has any.
    pub(super) fn resolve_later(&mut self) {
        if self.names.is_empty() {
            return;
        }
        let hosts: BTreeSet<String> = self.names.keys().cloned().collect();
        let all_found = self.names.values().all(|addresses| !addresses.is_empty());
        let pause = self.schedule.pause(all_found);
        let (known, load, sender) = (self.names.clone(), self.load, self.sender.clone());
        tokio::task::spawn_local(async move {
            tokio::time::sleep(pause).await;
            let resolved = resolve(hosts, known).await;
            let _ = sender.send(Event::Resolved(resolved, load));
        });
    }

    /// Makes `plan` what runs.
    fn publish(&mut self, plan: Plan, draft: &Draft) -> Result<(), Problem> {
        let current = self.status.snapshot();
        let log = default_log(&draft.settings);
        if plan == current.plan && log == current.log {
            log!(Info, "the configuration is as before");
            return Ok(());
        }
        let workers = self.status.workers.len();
        let new = bind_new(&plan.listeners, &self.bound, &self.own_ports, workers)
            .map_err(|error| draft.listener_problem(&error.listener, error.reason))?;
        let mut bound = self.bound.clone();
        bound.extend(new.bound);
        bound.retain(|key, _| plan.listeners.iter().any(|it| ListenerKey::of(it) == *key));
        let logs = &self.status.access_logs;
        let snapshot = logs
            .open(&plan, log.as_ref())
            .and_then(|()| {
                let ground = &self.status.ground;
                Snapshot::build(plan, ground, &bound, (logs, log), Some(&current))
            })
            .map_err(|reason| {
                logs.retain(&current.plan, current.log.as_ref());
                draft.listener_problem("", reason)
            })?;
        logs.retain(&snapshot.plan, snapshot.log.as_ref());
        self.log_listeners(&current, &snapshot);
        let generation = self.status.publisher.borrow_mut().publish(snapshot);
        for (worker, sockets) in self.status.workers.iter().zip(new.by_worker) {
            worker.apply(sockets, draft.settings.drain_timeout);
        }
        self.own_ports.extend(ports(&bound));
        self.bound = bound;
        self.status.metrics.config_generation.set(generation);
        log!(
            Info,
            "the configuration is taken up",
            generation = generation
        );
        Ok(())
    }

    fn log_listeners(&self, before: &Snapshot, after: &Snapshot) {
        for listener in &after.listeners {
            if !self.bound.contains_key(&listener.key) {
                log!(
                    Info,
                    "listening",
                    listener = listener.stats.name(),
                    address = listener.bound
                );
            }
        }
        for listener in &before.listeners {
            if !after.listeners.iter().any(|it| it.key == listener.key) {
                log!(Info, "listener closed", listener = listener.stats.name());
            }
        }
    }

    /// Keeps what runs, and shows why.
    fn refuse(&self, problems: Vec<Problem>) {
        for problem in &problems {
            log!(
                Error,
                "the configuration is refused; the one before goes on",
                problem = problem
            );
        }
        self.status.problems.replace(problems);
        self.status.metrics.reloads_failed.increment();
        self.status.metrics.last_reload_successful.set(0);
    }

    /// Settings that can change while running do; the others are named in the log.
    fn take_settings(&mut self, draft: &Draft) {
        let mut settings = self.status.settings.borrow_mut();
        for name in settings.needing_restart(&draft.settings) {
            log!(
                Warn,
                "a changed setting takes effect at the next start",
                setting = name
            );
        }
        settings.access_log = draft.settings.access_log.clone();
        settings.access_log_format = draft.settings.access_log_format.clone();
        settings.drain_timeout = draft.settings.drain_timeout;
    }
}
