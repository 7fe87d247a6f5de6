//! `loadgen faults` as its users run it: the program, our own balancer, a script, a report.
//!
//! Invariant: nothing here depends on how fast anything is. Without `lb` beside `loadgen` (tests
//! of this crate alone do not build it) only refusals are tested.
#![allow(clippy::unwrap_used, reason = "a test program")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use loadgen::report::faults::record::Faults;
use loadgen::report::record::Outcome;

const LOADGEN: &str = env!("CARGO_BIN_EXE_loadgen");

const SCRIPT: &str = "\
1s kill o-1     # each event once
2s restart o-1
3s stop o-2
4s continue o-2
5s slow o-1
6s recover o-1
7s remove o-2
8s add o-2
9s reload
10s bad-config
11s end
";

fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("faults-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    path
}

fn faults(out: &Path, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(LOADGEN)
        .args(["faults", "--origins", "2", "--rate", "200", "--out"])
        .arg(out)
        .args(arguments)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), told)
}

#[test]
fn every_event_happens_and_has_its_seconds() {
    if !Path::new(LOADGEN).with_file_name("lb").is_file() {
        eprintln!("skipped: lb was not built beside loadgen");
        return;
    }
    let (out, script) = (folder("report"), folder("script"));
    fs::write(&script, SCRIPT).unwrap();
    let scenario = script.display().to_string();
    let (went_well, told) = faults(&out, &["--scenario", &scenario, "--engines", "epoll"]);
    fs::remove_file(&script).unwrap();
    assert!(went_well, "{told}");
    let record = Faults::read(&out).unwrap();
    let drawn = out.join("timeline-rr-http-epoll.svg").is_file();
    fs::remove_dir_all(&out).unwrap();
    assert!(
        drawn && record.command.contains("--scenario FILE"),
        "{told}"
    );
    assert_eq!(record.events.len(), 10);
    let [run] = &record.runs[..] else {
        panic!("{told}")
    };
    let Outcome::Measured(figures) = &run.outcome else {
        panic!("{told}")
    };
    assert_eq!(figures.timeline.len(), 11, "{told}");
    let costs = record.costs(&figures.timeline);
    assert_eq!(costs.len(), 11);
    let slow = &costs[5];
    assert_eq!(slow.0, "slow o-1");
    assert!(
        slow.1.delayed > 0,
        "answers that take 200 ms are late: {told}"
    );
    let after = &costs[10];
    assert!(
        after.1.completed > 0,
        "it survives a bad configuration: {told}"
    );
}

#[test]
fn what_cannot_be_carried_out_is_refused_by_name() {
    let out = folder("refused");
    let script = folder("bad-script");
    fs::write(&script, "1s kill o-7\n2s end\n").unwrap();
    let path = script.display().to_string();
    for (arguments, named) in [
        (["--scenario", "rainy"], "reloads, or a file"),
        (["--scenario", &*path], "line 1"),
        (
            ["--scenario=kills", "--lb=/nowhere/lb"],
            "lb does not start",
        ),
        (["--scenario", "all"], "o-1 to o-2"),
        (["--health", "psychic"], "tcp"),
    ] {
        let (went_well, told) = faults(&out, &arguments);
        assert!(!went_well && told.contains(named), "{arguments:?}: {told}");
    }
    fs::remove_file(&script).unwrap();
    assert!(!out.exists());
}
