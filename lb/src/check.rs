//! `lb check`: what sources mean, and what is wrong with them, without running anything.
//!
//! Invariant: exit code 0 means that `lb run` with the same sources would start, ports and other
//! things of the machine aside; warnings do not change it.
//! Read next: `config/mod.rs`, `show.rs`.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use lb_core::plan::Plan;
use lb_kube::Severity;
use lb_kube::files::{PassedOver, Report};
use serde_json::json;

use crate::args::{CheckFormat, EXIT_USAGE};
use crate::config::{Draft, Names, Problem, Sources};
use crate::kubernetes::{Kubernetes, join, passed_over_json, report_json};
use crate::resolve::{Resolved, resolve};
use crate::show;
use crate::terminal;

/// Prints sources and their problems.
pub(crate) fn run(sources: &Sources, format: CheckFormat) -> ExitCode {
    let objects = match Kubernetes::read(&sources.kubernetes, false) {
        Ok(objects) => objects,
        Err(reason) => {
            terminal::complain(&format!("error: {reason}\n"));
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let (own, problems, warnings) = match sources.load() {
        Ok(draft) => {
            let resolved = resolve_names(&draft);
            let failed = resolved.failures.iter();
            let problems = failed
                .map(|(host, error)| draft.host_problem(host, error))
                .collect();
            (Some(draft.plan(&resolved.names)), problems, draft.warnings)
        }
        Err(problems) => (None, problems, Vec::new()),
    };
    let (plan, found) = match (own, objects) {
        (Some(own), Some(mut objects)) => {
            let (plan, left_out) = join(own, objects.plan(), &Plan::default());
            objects.leave_out(left_out);
            (Some(plan), Found::of(&objects))
        }
        (own, _) => (own, Found::default()),
    };
    let text = match format {
        CheckFormat::Json => {
            let list = |problems: &[Problem]| -> Vec<_> {
                problems.iter().map(Problem::to_json).collect()
            };
            let reports = found.reports.iter().map(report_json);
            let passed_over = found.passed_over.iter().map(passed_over_json);
            let page = json!({
                "plan": plan.as_ref().map(show::plan_json),
                "problems": list(&problems),
                "warnings": list(&warnings),
                "objects": {
                    "problems": reports.collect::<Vec<_>>(),
                    "passed_over": passed_over.collect::<Vec<_>>(),
                },
            });
            format!("{page:#}\n")
        }
        CheckFormat::Text => {
            let mut text = plan.as_ref().map(show::plan_text).unwrap_or_default();
            for warning in &warnings {
                text.push_str(&format!("warning: {warning}\n"));
            }
            for problem in &problems {
                text.push_str(&format!("problem: {problem}\n"));
            }
            found.write(&mut text);
            text
        }
    };
    terminal::print(&text);
    if problems.is_empty() && !found.has_errors() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What there is to say of Kubernetes objects.
#[derive(Default)]
struct Found {
    reports: Vec<Report>,
    passed_over: Vec<PassedOver>,
}

impl Found {
    fn of(objects: &Kubernetes) -> Self {
        Self {
            reports: objects.reports(),
            passed_over: objects.passed_over(),
        }
    }

    fn has_errors(&self) -> bool {
        let mut reports = self.reports.iter();
        reports.any(|report| report.severity == Severity::Error)
    }

    fn write(&self, text: &mut String) {
        for report in &self.reports {
            let what = match report.severity {
                Severity::Error => "problem",
                Severity::Warning => "warning",
                Severity::Note => "note",
            };
            text.push_str(&format!("{what}: {report}\n"));
        }
        for object in &self.passed_over {
            let (file, line) = (&object.origin.file, object.origin.line);
            let (kind, name) = (&object.kind, &object.name);
            text.push_str(&format!("passed over: {file}:{line}: {kind} {name}\n"));
        }
    }
}

/// Nothing resolves without a runtime, so the names fail, and say so.
fn resolve_names(draft: &Draft) -> Resolved {
    let hosts: BTreeSet<String> = draft.host_names().into_iter().map(str::to_owned).collect();
    match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => {
            let resolved = runtime.block_on(resolve(hosts, Names::new()));
            runtime.shutdown_timeout(Duration::ZERO);
            resolved
        }
        Err(error) => Resolved {
            names: Names::new(),
            failures: hosts
                .into_iter()
                .map(|host| (host, error.to_string()))
                .collect(),
        },
    }
}
