//! `lb`: an io_uring, thread-per-core L4/L7 load balancer.
//!
//! The way of a configuration: `args.rs` → `config/` (what the user wrote, to a plan) →
//! `control/` (one thread: start, reload, drain) → `snapshot.rs` → `worker/` (one thread a core)
//! → `lb_l4` and `lb_l7` (a client's bytes). Beside it: `admin/`, `check.rs`, `demo/`.
#![forbid(unsafe_code)]

mod access_log;
mod admin;
mod args;
mod change;
mod check;
mod checker;
mod config;
mod control;
mod demo;
mod kubernetes;
mod line_writer;
mod log;
mod resolve;
mod show;
mod snapshot;
mod terminal;
mod worker;

use std::process::ExitCode;

use mimalloc::MiMalloc;

use crate::args::{CheckArgs, Cli, Command, EXIT_USAGE, RunArgs};

/// Workers allocate on their own heaps without meeting each other, and what they free goes back
/// to the system when load falls.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    // Before the first large allocation. Where it is refused there are no huge pages to avoid.
    let _ = lb_core::rt::use_small_pages();
    let cli = match Cli::from_arguments(std::env::args_os().collect()) {
        Ok(cli) => cli,
        Err((text, 0)) => {
            terminal::print(&text);
            return ExitCode::SUCCESS;
        }
        Err((text, code)) => {
            terminal::complain(&text);
            return ExitCode::from(code);
        }
    };
    match cli.command {
        None => run(cli.run),
        Some(Command::Run(run_args)) => run(run_args),
        Some(Command::Check(check_args)) => check(check_args),
        Some(Command::Demo(demo_args)) => demo::run(demo_args),
    }
}

fn run(run_args: RunArgs) -> ExitCode {
    if !run_args.has_sources() {
        return nothing_to_do("run");
    }
    if let Some(flag) = run_args.flag_without_objects() {
        return without_objects(flag);
    }
    control::run(run_args.sources(), |_| {})
}

fn check(check_args: CheckArgs) -> ExitCode {
    if !check_args.has_sources() {
        return nothing_to_do("check");
    }
    if let Some(flag) = check_args.flag_without_objects() {
        return without_objects(flag);
    }
    let format = check_args.format;
    check::run(&check_args.sources(), format)
}

fn nothing_to_do(what: &str) -> ExitCode {
    terminal::complain(&format!(
        "error: there is nothing to {what}; give --config FILE, --manifests DIR, --tcp \
         LISTEN=BACKENDS or --http LISTEN=BACKENDS (lb --help has examples), or try lb demo\n"
    ));
    ExitCode::from(EXIT_USAGE)
}

/// A flag about Kubernetes objects, and no objects.
fn without_objects(flag: &str) -> ExitCode {
    terminal::complain(&format!(
        "error: {flag} says nothing without --manifests DIR, the folder of Kubernetes objects\n"
    ));
    ExitCode::from(EXIT_USAGE)
}
