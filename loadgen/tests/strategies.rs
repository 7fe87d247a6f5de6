//! `loadgen strategies` as its users run it: the program, our own balancer, a report.
//!
//! Invariant: nothing here depends on how fast anything is. Without `lb` beside `loadgen` (tests
//! of this crate alone do not build it) only refusals are tested.
#![allow(clippy::unwrap_used, reason = "a test program")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use loadgen::report::record::Outcome;
use loadgen::report::strategies::record::Strategies;

const LOADGEN: &str = env!("CARGO_BIN_EXE_loadgen");

fn strategies(out: &Path, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(LOADGEN)
        .args(["strategies", "--quick", "--origins", "3", "--out"])
        .arg(out)
        .args(arguments)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), told)
}

fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("strategies-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    path
}

#[test]
fn each_scheduler_meets_each_workload_and_those_lb_does_not_have_are_named() {
    if !Path::new(LOADGEN).with_file_name("lb").is_file() {
        eprintln!("skipped: lb was not built beside loadgen");
        return;
    }
    let out = folder("report");
    let arguments = [
        "--balance",
        "nonsense,mh",
        "--workload",
        "uniform,churn",
        "--everywhere",
        "uniform,churn",
        "--relays",
        "splice",
        "--modes",
        "http,tcp",
        "--engines",
        "epoll",
    ];
    let (went_well, told) = strategies(&out, &arguments);
    assert!(went_well, "{told}");
    let record = Strategies::read(&out).unwrap();
    let page = fs::read_to_string(out.join("summary.md")).unwrap();
    fs::remove_dir_all(&out).unwrap();
    let refused: Vec<&str> = record.refused.iter().map(|r| &*r.name).collect();
    let expected = ["nonsense (http, epoll)", "nonsense (tcp, epoll, splice)"];
    assert_eq!(refused, expected);
    assert!(record.refused[0].reason.contains("nonsense"), "{told}");
    assert_eq!(record.cells.len(), 2 * 2, "{told}");
    for cell in &record.cells {
        let Outcome::Measured(figures) = &cell.outcome else {
            panic!("{cell:?}")
        };
        assert!(figures.completed > 0 && figures.cpu_us > 0.0, "{cell:?}");
        let origins = if cell.workload == "churn" { 4 } else { 3 };
        assert_eq!(figures.shares.len(), origins, "{cell:?}");
    }
    for cell in &record.keys {
        let Outcome::Measured(keys) = &cell.outcome else {
            panic!("{cell:?}")
        };
        assert_eq!((keys.clients, keys.origins), (211, 3));
        if cell.place.balance == "mh" {
            assert_eq!(keys.moved_by_nothing, 0, "{keys:?}");
            assert!(keys.moved_by_removal < 150, "{keys:?}");
        }
    }
    for words in [
        "## uniform, tcp, epoll, splice",
        "## Which scheduler for which load (http, epoll)",
        "- **Engines and relays**: µs of CPU",
        "## Clients moved, http, epoll",
        "nonsense",
    ] {
        assert!(page.contains(words), "{words} is missing in {page}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let out = folder("refused");
    for (arguments, named) in [
        (["--workload", "rainy"], "heavy-tailed"),
        (["--modes", "udp"], "http and tcp"),
        (["--balance", "a b"], "not a name"),
        (["--lb", "/nowhere/lb"], "lb does not start"),
    ] {
        let (went_well, told) = strategies(&out, &arguments);
        assert!(!went_well && told.contains(named), "{arguments:?}: {told}");
    }
    assert!(!out.exists());
}
