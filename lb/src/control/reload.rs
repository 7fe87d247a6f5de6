//! A change of the configuration: read, check, bind, publish; or refuse, and keep what runs.
//!
//! Invariant: the workers see a change only after nothing in it can fail any more.
//! Read next: `../snapshot.rs`, `lb_core::snapshot`.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use lb_core::plan;

use super::bind::{bind_new, ports};
use super::objects::{LeftOut, leave_out};
use super::status::Running;
use super::{Control, Event, LoadNumber};
use crate::access_log::DefaultLogs;
use crate::change::Change;
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
        let loaded = self.sources.load();
        self.watched.send_if_modified(|watched| {
            let named: Vec<_> = self.sources.named.borrow().iter().cloned().collect();
            let is_new = *watched != named;
            *watched = named;
            is_new
        });
        let draft = match loaded {
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
        if let Err(problem) = self.publish(&names, &draft) {
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
            if let Err(problem) = self.publish(&names, &draft) {
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

    /// Makes a draft and the objects beside it what runs.
    pub(super) fn publish(&mut self, names: &Names, draft: &Draft) -> Result<(), Problem> {
        let current = self.status.snapshot();
        let own = draft.plan(names);
        let (mut plan, mut left_out) = match &mut self.objects {
            Some(objects) => objects.join(own, &current.plan),
            None => (own, LeftOut::new()),
        };
        let log = DefaultLogs::of(&draft.settings);
        let is_as_before = |plan: &plan::Plan| *plan == current.plan && log == current.log;
        if is_as_before(&plan) {
            log!(Info, "the configuration is as before");
            return Ok(());
        }
        let workers = self.status.workers.len();
        let objects = self.objects.as_ref();
        let optional = |name: &str| objects.is_some_and(|objects| objects.has_listener(name));
        let known: HashSet<_> = current.plan.listeners.iter().map(Arc::as_ptr).collect();
        let listeners = plan.listeners.iter();
        let different = listeners.filter(|it| !known.contains(&Arc::as_ptr(it)));
        let new = bind_new(different, &self.bound, &self.own_ports, workers, &optional)
            .map_err(|error| draft.listener_problem(&error.listener, error.reason))?;
        leave_out(&mut plan, new.left_out, &mut left_out);
        if let Some(objects) = &mut self.objects {
            objects.left_out(left_out, &self.sender);
            if is_as_before(&plan) {
                return Ok(());
            }
        }
        let own_ports: Vec<_> = ports(&new.bound).collect();
        let opened: HashSet<ListenerKey> = new.bound.keys().cloned().collect();
        self.bound.extend(new.bound);
        let logs = &self.status.access_logs;
        let snapshot = logs.open(&plan, &log).and_then(|()| {
            let ground = &self.status.ground;
            Snapshot::build(plan, ground, &self.bound, (logs, log), Some(&current))
        });
        let snapshot = snapshot.map_err(|reason| {
            logs.retain(&current.plan, &current.log);
            self.bound.retain(|key, _| !opened.contains(key));
            draft.listener_problem("", reason)
        })?;
        logs.retain(&snapshot.plan, &snapshot.log);
        self.own_ports.extend(own_ports);
        let generation = self.status.generation() + 1;
        let change = Arc::new(Change::between(Some(&current), &snapshot, generation));
        self.close_and_log(&change, &opened);
        self.status.running.replace(Running {
            generation,
            snapshot: Arc::new(snapshot),
        });
        for (worker, sockets) in self.status.workers.iter().zip(new.by_worker) {
            worker.apply(Arc::clone(&change), sockets, draft.settings.drain_timeout);
        }
        if let Some(objects) = &mut self.objects {
            objects.published(&self.status);
        }
        self.files.extend(new.files);
        self.status.metrics.config_generation.set(generation);
        let took = lb_core::rt::now_precise().saturating_duration_since(self.event_at);
        log!(
            Info,
            "the configuration is taken up",
            generation = generation,
            clusters_changed = change.clusters.len(),
            listeners_changed = change.listeners.len() + change.closed.len(),
            took_ms = format_args!("{:.1}", took.as_secs_f64() * 1e3)
        );
        Ok(())
    }

    fn close_and_log(&mut self, change: &Change, opened: &HashSet<ListenerKey>) {
        for listener in change
            .listeners
            .iter()
            .filter(|it| opened.contains(&it.key))
        {
            log!(
                Info,
                "listening",
                listener = listener.stats.name(),
                address = lb_core::rt::shown(listener.bound)
            );
        }
        for listener in &change.closed {
            self.bound.remove(&listener.key);
            self.files.remove(&listener.key);
            log!(Info, "listener closed", listener = listener.stats.name());
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
        settings.session_log = draft.settings.session_log.clone();
        settings.session_log_format = draft.settings.session_log_format.clone();
        settings.session_log_starts = draft.settings.session_log_starts;
        settings.drain_timeout = draft.settings.drain_timeout;
    }
}
