//! Kubernetes objects as a source: a folder of manifests, read, watched and compiled.
//!
//! Invariant: what objects bring never stops what files and flags say: a listener of theirs that
//! clashes or cannot be bound is left out and reported.
//! Read next: `options.rs` (flags), `watch.rs` (changes), `lb_kube` (objects to a plan).

mod fallback;
mod health;
mod join;
mod local;
mod options;
mod watch;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::rc::Rc;

use lb_core::metrics::{Kind, Text};
use lb_core::plan::Plan;
use lb_kube::files::{Change, Folder, PassedOver, Report, locate};
use lb_kube::{Compiled, Compiler, Severity, Store};
use serde_json::{Value, json};

pub(crate) use self::health::{HealthServers, serve_healthz};
pub(crate) use self::join::join;
pub(crate) use self::local::LocalAddresses;
pub(crate) use self::options::{HealthzAddress, KubernetesFlags, NodePortFlag, machine_addresses};
pub(crate) use self::watch::{FolderWatch, Seen, Watched};
use crate::config::Names;
use crate::log::log;

/// A folder of manifests, and what it compiles to.
pub(crate) struct Kubernetes {
    folder: Folder,
    store: Store,
    compiler: Compiler,
    compiled: Compiled,
    /// Listeners that could not be bound or clash with others, by name.
    left_out: BTreeMap<String, String>,
    /// Why addresses could not be made local.
    local_problem: Option<String>,
    state: Rc<KubernetesState>,
    /// Whether what is wrong goes to the log.
    is_logged: bool,
    /// Whether addresses are made local.
    pub(crate) local: LocalAddresses,
}

/// What the admin API shows of it.
#[derive(Default)]
pub(crate) struct KubernetesState {
    inner: RefCell<Shown>,
}

#[derive(Default)]
struct Shown {
    folder: String,
    files: usize,
    objects: usize,
    reports: Vec<Report>,
    passed_over: Vec<PassedOver>,
}

impl Kubernetes {
    /// Reads the folder.
    ///
    /// # Errors
    /// A folder that cannot be listed: nothing was read yet that could go on.
    pub(crate) fn read(flags: &KubernetesFlags, is_logged: bool) -> Result<Option<Self>, String> {
        let Some(root) = &flags.manifests else {
            return Ok(None);
        };
        std::fs::read_dir(root)
            .map_err(|error| format!("--manifests {}: {error}", root.display()))?;
        let mut kubernetes = Self {
            folder: Folder::new(root.clone()),
            store: Store::new(),
            compiler: Compiler::new(flags.options()?),
            compiled: Compiled::default(),
            left_out: BTreeMap::new(),
            local_problem: None,
            state: Rc::default(),
            is_logged,
            local: LocalAddresses::default(),
        };
        let changes = kubernetes.folder.look(&BTreeSet::new());
        kubernetes.take(changes);
        kubernetes.compile();
        Ok(Some(kubernetes))
    }

    /// What the admin API is to show.
    pub(crate) fn state(&self) -> Rc<KubernetesState> {
        Rc::clone(&self.state)
    }

    /// The folders to watch.
    pub(crate) const fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Takes up what the watch has seen; whether anything is different now.
    pub(crate) fn refresh(&mut self, seen: &Seen) -> bool {
        let changes = if seen.everything {
            self.folder.look(&seen.being_written)
        } else {
            self.folder.look_at(&seen.files)
        };
        let any = self.take(changes);
        if any {
            self.compile();
        } else {
            self.show();
        }
        any
    }

    /// Takes up the addresses of host names; whether anything is different now.
    pub(crate) fn take_names(&mut self, names: &Names) -> bool {
        for (host, addresses) in names {
            self.store.resolve(host, addresses.clone());
        }
        let before = self.compiled.plan.clone();
        self.compile();
        before != self.compiled.plan
    }

    /// What the objects say is to run.
    pub(crate) const fn plan(&self) -> &Plan {
        &self.compiled.plan
    }

    /// All that the objects compile to.
    pub(crate) const fn compiled(&self) -> &Compiled {
        &self.compiled
    }

    /// Whether a listener is from here.
    pub(crate) fn has_listener(&self, name: &str) -> bool {
        let mut listeners = self.compiled.plan.listeners.iter();
        listeners.any(|listener| listener.name == name)
    }

    /// Says which listeners do not run, and why.
    pub(crate) fn leave_out(&mut self, left_out: BTreeMap<String, String>) {
        for (listener, reason) in &left_out {
            if self.left_out.get(listener) != Some(reason) {
                log!(
                    Warn,
                    "a listener is left out",
                    listener = listener,
                    reason = reason
                );
            }
        }
        if left_out != self.left_out {
            self.left_out = left_out;
            self.show();
        }
    }

    /// Says why addresses could not be made local.
    pub(crate) fn set_local_problem(&mut self, problem: Option<String>) {
        if problem != self.local_problem {
            self.local_problem = problem;
            self.show();
        }
    }

    /// Whether a listener is left out, for which there may be room later.
    pub(crate) fn is_incomplete(&self) -> bool {
        !self.left_out.is_empty()
    }

    /// What is wrong, the most severe first.
    pub(crate) fn reports(&self) -> Vec<Report> {
        let mut reports = self.folder.reports();
        reports.extend(self.compiled.problems.iter().cloned().map(Report::from));
        let left_out = self.left_out.iter();
        let left_out = left_out.map(|(name, reason)| (format!("listener {name}"), reason));
        let local = self.local_problem.iter();
        let local = local.map(|reason| ("addresses of Services".to_owned(), reason));
        reports.extend(left_out.chain(local).map(|(field, reason)| Report {
            file: None,
            document: 0,
            position: None,
            object: None,
            field,
            reason: reason.clone(),
            hint: String::new(),
            severity: Severity::Error,
        }));
        locate(&mut reports);
        reports.sort_by(|a, b| (a.severity, &a.file, a).cmp(&(b.severity, &b.file, b)));
        reports.dedup();
        reports
    }

    /// Objects of kinds that configure nothing here.
    pub(crate) fn passed_over(&self) -> Vec<PassedOver> {
        self.folder.passed_over().cloned().collect()
    }

    fn take(&mut self, changes: Vec<Change>) -> bool {
        let mut any = false;
        for change in changes {
            any |= match change {
                Change::Apply(found) => self.store.apply(found.object, Some(found.origin)),
                Change::Delete(object) => self.store.delete(&object),
            };
        }
        any
    }

    fn compile(&mut self) {
        self.compiled = self.compiler.compile(&mut self.store);
        self.show();
    }

    /// Logs what is newly wrong, and shows everything.
    fn show(&self) {
        let reports = self.reports();
        let mut shown = self.state.inner.borrow_mut();
        let known: HashSet<&Report> = shown.reports.iter().collect();
        for report in &reports {
            if !self.is_logged || known.contains(report) {
                continue;
            }
            match report.severity {
                Severity::Error => log!(Error, "an object is not served", problem = report),
                Severity::Warning => log!(Warn, "an object is served otherwise", problem = report),
                Severity::Note => log!(Info, "a note on an object", problem = report),
            }
        }
        *shown = Shown {
            folder: self.folder.root().display().to_string(),
            files: self.folder.file_count(),
            objects: self.folder.object_count(),
            reports,
            passed_over: self.passed_over(),
        };
    }
}

impl KubernetesState {
    /// For the admin page `/config`.
    pub(crate) fn to_json(&self) -> Value {
        let shown = self.inner.borrow();
        json!({
            "folder": shown.folder,
            "files": shown.files,
            "objects": shown.objects,
            "problems": shown.reports.iter().map(report_json).collect::<Vec<_>>(),
            "passed_over": shown.passed_over.iter().map(passed_over_json).collect::<Vec<_>>(),
        })
    }

    /// How many problems of a severity there are.
    fn count(&self, severity: Severity) -> u64 {
        let shown = self.inner.borrow();
        let of_it = shown.reports.iter().filter(|it| it.severity == severity);
        of_it.count() as u64
    }

    /// For the page of metrics.
    pub(crate) fn write_metrics(&self, text: &mut Text) {
        let mut problems = text.family(
            "lb_objects_problems",
            Kind::Gauge,
            "Problems of Kubernetes objects and their files.",
        );
        for severity in [Severity::Error, Severity::Warning, Severity::Note] {
            problems.sample(&[("severity", severity.name())], self.count(severity));
        }
        let shown = self.inner.borrow();
        let sizes = [
            (
                "lb_objects",
                shown.objects,
                "Kubernetes objects that configure something.",
            ),
            (
                "lb_objects_files",
                shown.files,
                "Files of Kubernetes objects.",
            ),
        ];
        for (name, value, help) in sizes {
            text.family(name, Kind::Gauge, help)
                .sample(&[], value as u64);
        }
    }
}

/// As `lb check --format json` and `/config` show it.
pub(crate) fn report_json(report: &Report) -> Value {
    json!({
        "severity": report.severity.name(),
        "file": report.file.as_deref(),
        "document": report.document,
        "line": report.position.map(|it| it.line),
        "column": report.position.map(|it| it.column),
        "object": report.object.as_ref().map(ToString::to_string),
        "field": report.field,
        "reason": report.reason,
        "hint": report.hint,
    })
}

/// As [`report_json`].
pub(crate) fn passed_over_json(object: &PassedOver) -> Value {
    json!({
        "file": &*object.origin.file,
        "line": object.origin.line,
        "api_version": object.api_version,
        "kind": object.kind,
        "name": object.name,
    })
}
