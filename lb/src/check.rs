//! `lb check`: what sources mean, and what is wrong with them, without running anything.
//!
//! Invariant: exit code 0 means that `lb run` with the same sources would start, ports and other
//! things of the machine aside; warnings do not change it.
//! Read next: `config/mod.rs`, `show.rs`.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use crate::args::CheckFormat;
use crate::config::{Draft, Names, Problem, Sources};
use crate::resolve::{Resolved, resolve};
use crate::show;
use crate::terminal;

/// Prints sources and their problems.
pub(crate) fn run(sources: &Sources, format: CheckFormat) -> ExitCode {
    let (plan, problems, warnings) = match sources.load() {
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
    let text = match format {
        CheckFormat::Json => {
            let list = |problems: &[Problem]| -> Vec<_> {
                problems.iter().map(Problem::to_json).collect()
            };
            let page = json!({
                "plan": plan.as_ref().map(show::plan_json),
                "problems": list(&problems),
                "warnings": list(&warnings),
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
            text
        }
    };
    terminal::print(&text);
    if problems.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
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
