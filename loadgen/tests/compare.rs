//! `loadgen compare` as its users run it: the program, the peers that are installed, a report.
//!
//! Invariant: nothing here depends on how fast anything is. Peers that are not installed are
//! named; with `LB_REQUIRE_PEERS=1` their absence is a failure.
#![allow(clippy::unwrap_used, reason = "a test program")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use loadgen::compare::peers::Peer;
use loadgen::report::record::{Record, Round, Scenario};
use rustix::process::{Pid, Signal, kill_process};

const LOADGEN: &str = env!("CARGO_BIN_EXE_loadgen");

/// A folder for one test's report, gone with its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("compare-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The names of those of `peers` that are installed; says which are not, and fails if they must
/// be.
fn installed(peers: &[Peer]) -> Vec<&'static str> {
    let is_installed = |peer: &&Peer| match peer.find(Path::new("lb")) {
        Ok(_) => true,
        Err(reason) => {
            let required = std::env::var_os("LB_REQUIRE_PEERS").is_some_and(|value| value == "1");
            assert!(!required, "{reason}, and LB_REQUIRE_PEERS=1 asks for it");
            eprintln!("skipped: {reason}");
            false
        }
    };
    peers
        .iter()
        .filter(is_installed)
        .map(|peer| peer.name())
        .collect()
}

fn compare(out: &Path, peers: &[&str], arguments: &[&str]) -> Command {
    let mut command = Command::new(LOADGEN);
    command
        .args(["compare", "--peers", &peers.join(","), "--out"])
        .arg(out)
        .args(arguments);
    command
}

#[test]
fn a_round_of_each_kind_ends_in_a_report() {
    let mut peers = installed(&[Peer::Nginx, Peer::Haproxy]);
    // Tests of the whole workspace build it; those of this crate alone do not.
    if Path::new(LOADGEN).with_file_name("lb").is_file() {
        peers.push("lb");
    }
    if peers.is_empty() {
        return;
    }
    let out = Folder::new("report");
    let arguments = [
        "--scenario",
        "l7-keepalive,udp-oneway,idle-memory-tcp,workers",
        "--quick",
        "--rounds",
        "1",
    ];
    let output = compare(out.path(), &peers, &arguments).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}");

    let record = Record::read(out.path()).unwrap();
    let names: Vec<&str> = record
        .scenarios
        .iter()
        .map(|scenario| &*scenario.name)
        .collect();
    let expected = ["l7-keepalive", "udp-oneway", "idle-memory-tcp", "workers"];
    assert_eq!(names, expected);
    let [loaded, datagrams, idle, spread] = &record.scenarios[..] else {
        unreachable!("four names")
    };
    check_absence(datagrams, spread, &peers);
    let fixed_rate = &loaded.fixed_rate.as_ref().unwrap().rounds;
    for rounds in [&loaded.load, fixed_rate] {
        let costs = rounds
            .iter()
            .filter_map(|round| Some(round.figures()?.cpu_us));
        assert_eq!(
            costs.filter(|cost| *cost > 0.0).count(),
            peers.len(),
            "{told}"
        );
    }
    assert_eq!(
        idle.idle.iter().filter_map(Round::figures).count(),
        peers.len(),
        "{told}"
    );
    for file in [
        "README.md",
        "summary.md",
        "cpu.svg",
        "throughput.svg",
        "latency.svg",
        "memory.svg",
    ] {
        assert!(out.path().join(file).is_file(), "{file} is missing");
    }

    let again = compare(out.path(), &peers, &arguments).output().unwrap();
    let told = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(
        !again.status.success() && told.contains("never overwritten"),
        "{told}"
    );
}

/// HAProxy has no UDP, and only lb says how many connections each worker has: the others are
/// named, and whoever takes part has figures.
fn check_absence(datagrams: &Scenario, spread: &Scenario, peers: &[&str]) {
    let is_absent = |scenario: &Scenario, peer: &str| {
        let mut absent = scenario.absent.iter();
        absent.any(|absent| absent.name == peer)
    };
    for peer in peers {
        assert_eq!(is_absent(datagrams, peer), *peer == "haproxy", "{peer}");
        assert_eq!(is_absent(spread, peer), *peer != "lb", "{peer}");
    }
    for round in &datagrams.load {
        assert!(round.figures().is_some(), "{round:?}");
    }
    for round in &spread.spread {
        let Some(workers) = round.figures() else {
            panic!("{round:?}")
        };
        let connections: u64 = workers.connections.iter().sum();
        assert_eq!((workers.connections.len(), connections), (2, 1000));
    }
}

#[test]
fn an_interrupt_leaves_no_process_behind() {
    let peers = installed(&[Peer::Nginx]);
    if peers.is_empty() {
        return;
    }
    let out = Folder::new("interrupt");
    let mut child = compare(
        out.path(),
        &peers,
        &["--scenario", "l4-small", "--duration", "10m"],
    )
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    let mut told = BufReader::new(child.stderr.take().unwrap());
    let mut begun = vec![0; "l4-small 1/5 nginx: ".len()];
    std::io::Read::read_exact(&mut told, &mut begun).unwrap();
    wait_until("balancer and origins run", || {
        children(child.id()).len() >= 2
    });
    let started = children(child.id());

    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let status = wait_for(&mut child);
    let lines: Vec<String> = told.lines().map_while(Result::ok).collect();
    assert!(!status.success(), "{lines:?}");
    assert!(
        lines.iter().any(|line| line.contains("interrupted")),
        "{lines:?}"
    );
    wait_until("all that was started is gone", || {
        !started.iter().any(|id| lives(*id))
    });
}

#[test]
fn an_interrupted_comparison_says_so_and_is_completed() {
    let peers = installed(&[Peer::Nginx]);
    if peers.is_empty() {
        return;
    }
    let out = Folder::new("resume");
    let scenarios = ["--scenario", "l7-body-1mib,workers,l4-connect"];
    let times = ["--rounds", "1", "--duration", "300ms"];
    let mut child = compare(out.path(), &peers, &scenarios)
        .args(times)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One scenario is on the disk as soon as the next begins.
    wait_until("the first scenario is measured", || {
        Record::read(out.path()).is_ok_and(|record| !record.scenarios.is_empty())
    });
    // It may be killed, too: what is on the disk is a record that says that it is partial.
    kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
    wait_for(&mut child);
    let partial = Record::read(out.path()).unwrap();
    assert!(partial.is_partial && partial.scenarios.len() < 3);

    let resumed = Command::new(LOADGEN)
        .args(["compare", "--resume"])
        .arg(out.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&resumed.stderr).into_owned();
    assert!(resumed.status.success(), "{told}");
    let whole = Record::read(out.path()).unwrap();
    assert!(!whole.is_partial);
    assert_eq!((whole.scenarios.len(), whole.resumed.len()), (3, 1));
    let (first, again) = (&partial.scenarios[0], &whole.scenarios[0]);
    assert_eq!(first.load, again.load, "what was measured stays");
    let summary = fs::read_to_string(out.path().join("summary.md")).unwrap();
    assert!(!summary.contains("**Partial**"), "{summary}");

    let again = Command::new(LOADGEN)
        .args(["compare", "--resume"])
        .arg(out.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(
        !again.status.success() && told.contains("is complete"),
        "{told}"
    );
}

fn wait_for(child: &mut Child) -> std::process::ExitStatus {
    let mut status = None;
    wait_until("it ends", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..3_000 {
        if done() {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("waited in vain until {what}");
}

/// The ids of the processes whose parent is `parent`.
fn children(parent: u32) -> Vec<u32> {
    let ids = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| stat(*id).is_some_and(|(_, own)| own == parent))
        .collect()
}

fn lives(id: u32) -> bool {
    stat(id).is_some_and(|(state, _)| state != "Z")
}

/// State and parent of a process.
fn stat(id: u32) -> Option<(String, u32)> {
    let line = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let mut fields = line.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}
