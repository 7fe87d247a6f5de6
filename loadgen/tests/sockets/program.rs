//! The program itself: flags, exit status, signals, output.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use loadgen::run::Summary;

fn loadgen() -> Command {
    Command::new(env!("CARGO_BIN_EXE_loadgen"))
}

/// A running `loadgen origin`, killed when the test ends.
struct OriginProcess {
    child: Child,
    ready: String,
}

impl OriginProcess {
    fn start(arguments: &[&str]) -> Self {
        let mut child = loadgen()
            .arg("origin")
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut ready)
            .unwrap();
        Self { child, ready }
    }

    fn address(&self, kind: &str) -> &str {
        let words = self.ready.split_whitespace();
        words
            .filter_map(|word| word.strip_prefix(kind)?.strip_prefix('='))
            .next()
            .unwrap()
    }
}

impl Drop for OriginProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(arguments: &[&str]) -> Output {
    loadgen().arg("run").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn an_origin_says_where_it_is_and_ends_when_it_is_told_to() {
    let mut origin =
        OriginProcess::start(&["--http", "127.0.0.1:0", "[::1]:0", "--tcp", "127.0.0.1:0"]);
    assert!(
        origin.ready.starts_with("ready http=127.0.0.1:"),
        "{}",
        origin.ready
    );
    assert_eq!(origin.ready.matches("http=").count(), 2);
    let url = format!("tcp://{}", origin.address("tcp"));
    let output = run(&[&url, "-c", "2", "-d", "200ms", "--who", "--strict"]);
    assert!(output.status.success(), "{output:?}");
    assert!(
        text(&output.stdout).contains(origin.address("tcp")),
        "the origin's name: {output:?}"
    );
    let told = Command::new("kill")
        .arg(origin.child.id().to_string())
        .status()
        .unwrap();
    assert!(told.success());
    assert_eq!(origin.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_run_prints_for_people_and_writes_json_for_programs() {
    let origin = OriginProcess::start(&["--http", "127.0.0.1:0", "--name", "blue"]);
    let url = format!("http://{}/", origin.address("http"));
    let output = run(&[&url, "-c", "2", "-d", "1200ms", "--json", "-"]);
    assert!(output.status.success(), "{output:?}");
    let summary: Summary = serde_json::from_slice(&output.stdout).unwrap();
    assert!(summary.is_clean());
    assert_eq!(summary.url, url);
    let people = text(&output.stderr);
    for expected in [
        "1/2 s",
        "closed loop, 2 connections",
        "p99.9",
        "errors      none",
        "blue",
    ] {
        assert!(people.contains(expected), "{expected} in {people}");
    }
}

#[test]
fn exit_status_tells_wrong_flags_from_failed_runs() {
    let cases: [(&[&str], i32, &str); 4] = [
        (&["http://127.0.0.1:1/", "-d", "1s"], 1, "127.0.0.1:1"),
        (&["http://127.0.0.1:1/", "--message", "5"], 2, "--message"),
        (&["http://127.0.0.1:1/", "--rate", "fast"], 2, "--rate"),
        (&["gopher://127.0.0.1:1/"], 2, "gopher"),
    ];
    for (arguments, status, named) in cases {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        assert!(text(&output.stderr).contains(named), "{output:?}");
    }
    let output = loadgen().arg("origin").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn an_interrupted_run_still_reports() {
    let origin = OriginProcess::start(&["--http", "127.0.0.1:0"]);
    let url = format!("http://{}/", origin.address("http"));
    let folder = std::env::temp_dir().join(format!("interrupted-{}", std::process::id()));
    let mut child = loadgen()
        .args(["run", &url, "-c", "2", "-d", "1h", "--out"])
        .arg(&folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut progress = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(progress.next().unwrap().unwrap().contains("1/3600 s"));
    let told = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(told.success());
    drop(progress); // nobody reads it any more, and that is no reason to fail either
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(
        text(&output.stdout).contains("errors      none"),
        "{output:?}"
    );
    assert!(text(&output.stdout).contains("PARTIAL"), "{output:?}");
    let page = fs::read_to_string(folder.join("summary.md")).unwrap();
    let again = loadgen().arg("report").arg(&folder).output().unwrap();
    let charts = ["latency.svg", "timeline.svg"].map(|name| folder.join(name).is_file());
    fs::remove_dir_all(&folder).unwrap();
    assert!(
        page.contains("**Partial**") && again.status.success(),
        "{page}"
    );
    assert_eq!(charts, [true, true]);
}
