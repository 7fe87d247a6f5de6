//! `forwarder-ab`: what a forwarded message and an idle connection cost on each runtime.
//!
//! Run it without arguments on a machine with two idle cores. Each forwarder is a child process
//! of this same binary (`serve NAME`), so all share one allocator and one set of compiler flags.
//! Read next: `ab/mod.rs`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use bench::ab::Arguments;
use clap::Parser;

/// The allocator that `lb` ships with; all forwarders allocate from it, so it favours none.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Arguments::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forwarder-ab: {error}");
            ExitCode::FAILURE
        }
    }
}
