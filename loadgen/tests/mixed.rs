//! `loadgen mixed` as its users run it: the program, our own balancer, all traffic, restarts, a report.
//!
//! Invariant: nothing here depends on how fast anything is. Without `lb` beside `loadgen` (tests
//! of this crate alone do not build it) only refusals are tested.
#![allow(clippy::unwrap_used, reason = "a test program")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lb_core::rt::EngineKind;
use lb_core::rt::probe::{EngineChoice, probe};
use loadgen::report::mixed::Mixed;

const LOADGEN: &str = env!("CARGO_BIN_EXE_loadgen");

fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("mixed-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    path
}

/// For twenty seconds on each engine.
fn nothing_fails(engine: &str) {
    if !Path::new(LOADGEN).with_file_name("lb").is_file() {
        eprintln!("skipped: lb was not built beside loadgen");
        return;
    }
    let out = folder(engine);
    let output = Command::new(LOADGEN)
        .args(["mixed", "-d", "20s", "--every", "200ms", "--pace", "0.2"])
        .args(["--engines", engine, "--out"])
        .arg(&out)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    let record = Mixed::read(&out);
    let page = fs::read_to_string(out.join("summary.md")).unwrap_or_default();
    let _ = fs::remove_dir_all(&out);
    assert!(output.status.success(), "{told}");
    let record = record.unwrap();
    let [answered, failed, restarts] = record.totals();
    assert!(answered > 1000 && failed == 0, "{told}");
    assert!(restarts >= 2, "one was killed, one ended in order: {told}");
    assert!(record.runs[0].is_good(), "{told}");
    assert!(page.contains("**0 failed**"), "{page}");
}

#[test]
fn nothing_fails_on_epoll() {
    nothing_fails("epoll");
}

#[test]
fn nothing_fails_on_io_uring() {
    match probe(EngineChoice::Only(EngineKind::Uring)) {
        Ok(_) => nothing_fails("uring"),
        Err(reason) => eprintln!("skipped: {reason}"),
    }
}

#[test]
fn what_cannot_be_run_is_refused() {
    for (arguments, named) in [
        (&["mixed", "--pace", "0"][..], "`0` is not between"),
        (&["mixed", "--lb", "/nowhere/lb"][..], "lb does not start"),
    ] {
        let output = Command::new(LOADGEN).args(arguments).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && told.contains(named), "{told}");
    }
}
