//! Starts `lb`, reads its log, and ends it.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use lb_core::rt::EngineKind;
use lb_core::rt::probe::{EngineChoice, probe};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::client;

/// Only a failure waits this long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Makes each function a test on each engine.
macro_rules! on_both_engines {
    ($($test:ident),+ $(,)?) => {
        mod uring { $(#[test] fn $test() { $crate::harness::on_engine("uring", super::$test); })+ }
        mod epoll { $(#[test] fn $test() { $crate::harness::on_engine("epoll", super::$test); })+ }
    };
}
pub(crate) use on_both_engines;

/// Runs a test on an engine, or says that the machine does not have it.
pub(crate) fn on_engine(engine: &'static str, test: fn(&'static str)) {
    if engine == "uring"
        && let Err(reason) = probe(EngineChoice::Only(EngineKind::Uring))
    {
        return skip(&reason);
    }
    test(engine);
}

/// Says why a test does not run; where nothing may be skipped, that is a failure.
pub(crate) fn skip(reason: &str) {
    let required = std::env::var_os("LB_REQUIRE_PEERS").is_some_and(|value| value == "1");
    assert!(!required, "may not be skipped: {reason}");
    eprintln!("skipped: {reason}");
}

/// Runs `lb` to its end.
pub(crate) fn output(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lb"))
        .args(arguments)
        .output()
        .expect("lb runs")
}

/// A running `lb`; killed on drop.
pub(crate) struct Lb {
    child: Child,
    log: Arc<Log>,
}

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

impl Lb {
    /// Starts `lb` with two workers and returns once it is ready.
    pub(crate) fn start(engine: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lb"));
        command.args(arguments);
        Self::spawn(command, engine)
    }

    /// As [`Lb::start`], from a command that ends in the arguments of `lb`.
    pub(crate) fn spawn(mut command: Command, engine: &str) -> Self {
        command.args(["--engine", engine, "--workers", "2"]);
        command.args(["--admin", "127.0.0.1:0", "--log-format", "json"]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("lb starts");
        let log = Arc::new(Log::default());
        let (stderr, writer) = (child.stderr.take().unwrap(), Arc::clone(&log));
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines() {
                writer.lines.lock().unwrap().push(line.unwrap());
                writer.more.notify_all();
            }
        });
        let lb = Self { child, log };
        lb.event("ready");
        lb
    }

    /// Waits for a log line with this message and returns its fields.
    pub(crate) fn event(&self, message: &str) -> Value {
        self.event_where(message, |_| true)
    }

    /// As [`Lb::event`], for a line that also passes `matches`.
    pub(crate) fn event_where(&self, message: &str, matches: impl Fn(&Value) -> bool) -> Value {
        let find = |lines: &Vec<String>| {
            let parsed = lines
                .iter()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok());
            parsed
                .into_iter()
                .find(|line| line["msg"] == message && matches(line))
        };
        let lines = self.log.lines.lock().unwrap();
        let waited = self
            .log
            .more
            .wait_timeout_while(lines, DEADLINE, |it| find(it).is_none());
        let lines = waited.unwrap().0;
        find(&lines).unwrap_or_else(|| panic!("no {message:?} in the log:\n{}", lines.join("\n")))
    }

    /// Where a listener is bound.
    pub(crate) fn listener(&self, name: &str) -> SocketAddr {
        self.event_where("listening", |line| line["listener"] == name)["address"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap()
    }

    /// Where the admin API is bound.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.event("admin API")["address"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap()
    }

    /// The admin page `/config`.
    pub(crate) fn config(&self) -> Value {
        serde_json::from_str(&client::get(self.admin(), "/config").body).unwrap()
    }

    /// The admin page `/status`.
    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&client::get(self.admin(), "/status").body).unwrap()
    }

    /// What the page `/status` says of the backend of that address in a cluster.
    pub(crate) fn backend(&self, cluster: &str, address: SocketAddr) -> Value {
        let status = self.status();
        let find = |list: &Value, key: &str, value: &str| {
            let mut found = list
                .as_array()
                .unwrap()
                .iter()
                .filter(|it| it[key] == value);
            found
                .next()
                .unwrap_or_else(|| panic!("no {value} in {list}"))
                .clone()
        };
        let cluster = find(&status["clusters"], "name", cluster);
        find(&cluster["backends"], "address", &address.to_string())
    }

    /// Waits until a backend is in a state.
    pub(crate) fn wait_for_state(&self, cluster: &str, address: SocketAddr, state: &str) {
        wait_until(&format!("{address} of {cluster} to be {state}"), || {
            self.backend(cluster, address)["state"] == state
        });
    }

    /// Waits until all workers run this generation of the configuration.
    pub(crate) fn wait_for_generation(&self, generation: u64) {
        wait_until(&format!("generation {generation}"), || {
            self.config()["generation"].as_u64() >= Some(generation)
                && client::get(self.admin(), "/readyz").status == 200
        });
    }

    /// The value of a metric, by its name and labels as on the page.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let page = client::get(self.admin(), "/metrics").body;
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in\n{page}"))
            .parse()
            .unwrap()
    }

    /// Memory that it has now.
    pub(crate) fn resident_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:"));
        line.unwrap()
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .unwrap()
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Bytes of memory that the process has now.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/statm", self.child.id());
        let text = std::fs::read_to_string(path).unwrap();
        let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
        pages * rustix::param::page_size() as u64
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end; everything that was written to standard output, too.
    pub(crate) fn wait(mut self) -> (ExitStatus, String) {
        let mut status = None;
        wait_until("the end of lb", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let mut text = String::new();
        self.child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        (status.unwrap(), text)
    }

    /// Reads standard output until `enough` of it is there.
    pub(crate) fn stdout_until(&mut self, enough: impl Fn(&str) -> bool) -> String {
        let mut text = String::new();
        let mut stdout = BufReader::new(self.child.stdout.take().unwrap());
        while !enough(&text) {
            assert_ne!(stdout.read_line(&mut text).unwrap(), 0, "only {text:?}");
        }
        text
    }
}

impl Drop for Lb {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let lines = self.log.lines.lock();
            eprintln!(
                "the log of lb:\n{}",
                // Whoever failed may hold it.
                lines.unwrap_or_else(PoisonError::into_inner).join("\n")
            );
        }
    }
}

/// Ports in a row for servers that cannot be asked which one they got: below those that the
/// kernel gives to others, each given out once, and free a moment ago.
pub(crate) fn free_ports(count: u16) -> Vec<u16> {
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 12_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(count.into(), Ordering::Relaxed);
        let offset = std::process::id().wrapping_mul(97).wrapping_add(step) % COUNT;
        let first = (FIRST + offset) as u16;
        let ports: Vec<_> = (first..first + count).collect();
        let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
        if ports.iter().all(is_free) {
            return ports;
        }
    }
    panic!("no free ports");
}

/// Waits until something is so.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..DEADLINE.as_millis() / 10 {
        if is_so() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("waited in vain for {what}");
}

/// A folder of the test's own, removed on drop.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = format!("lb-test-{}-{serial}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Writes a file and returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.0.join(name), text).unwrap();
        self.path(name)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// Replaces a file the way editors do: written beside it, then renamed over it.
    pub(crate) fn replace(&self, name: &str, text: &str) {
        let beside = self.write("beside", text);
        std::fs::rename(beside, self.0.join(name)).unwrap();
    }
}

impl AsRef<Path> for Folder {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
