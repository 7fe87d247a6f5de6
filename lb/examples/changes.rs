//! What changes of Kubernetes objects cost a large node: how soon they are with the workers, and what
//! requests that are under way notice of them.
//!
//! `cargo run --release -p lb --example changes -- [SERVICES [CHANGES [LB]]]`: a folder of so many
//! Services, each with ten endpoints and an Ingress; one request a millisecond to one of them, first in
//! quiet, then while EndpointSlices of others change, 100 a second. Everything is on loopback.
//! Invariant: exits with 1 if a request failed. Read next: `lb/src/change.rs` (a change on its way).
#![expect(clippy::unwrap_used, reason = "a run that cannot go on ends")]

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use lb_core::rt::now_precise;

const ENDPOINTS: usize = 10;
/// One request each.
const PACE: Duration = Duration::from_millis(1);
const CHANGE_EVERY: Duration = Duration::from_millis(10);
const QUIET: Duration = Duration::from_secs(10);
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn main() {
    let mut arguments = std::env::args().skip(1);
    let services: usize = arguments.next().map_or(5000, |it| it.parse().unwrap());
    let changes: usize = arguments.next().map_or(1000, |it| it.parse().unwrap());
    let beside = || std::env::current_exe().unwrap().with_file_name("../lb");
    let program = arguments.next().map_or_else(beside, PathBuf::from);
    let folder = std::env::temp_dir().join(format!("lb-changes-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let origin = start_origin();
    for service in 0..services {
        write(&folder, &format!("s{service}.yaml"), &objects(service));
        write(
            &folder,
            &format!("e{service}.yaml"),
            &slice(service, origin, true),
        );
    }
    let front = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let begun = now_precise();
    let (mut lb, mut log) = start_lb(&program, &folder, front);
    wait_for(&mut log, "ready");
    let ready = now_precise().saturating_duration_since(begun);
    println!(
        "{services} Services, as many Ingresses, {} endpoints: ready after {:.2} s, {}",
        services * ENDPOINTS,
        ready.as_secs_f64(),
        memory(lb.id())
    );

    let is_over = Arc::new(AtomicBool::new(false));
    let quiet = start_client(front, Arc::clone(&is_over));
    thread::sleep(QUIET);
    is_over.store(true, Relaxed);
    let quiet = quiet.join().unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let client = start_client(front, Arc::clone(&is_over));
    let reader = thread::spawn(move || took(log));
    for change in 0..changes {
        let service = 1 + change * 7 % (services - 1);
        let text = slice(service, origin, change / (services - 1) % 2 == 1);
        write(&folder, &format!("e{service}.yaml"), &text);
        thread::sleep(CHANGE_EVERY);
    }
    thread::sleep(Duration::from_millis(500));
    is_over.store(true, Relaxed);
    let changing = client.join().unwrap();
    lb.kill().unwrap();
    lb.wait().unwrap();
    let mut took = reader.join().unwrap();
    let _ = std::fs::remove_dir_all(&folder);
    took.sort_by(f64::total_cmp);
    println!(
        "{changes} changes in {} steps; from reading to the workers, ms: median {:.1}, p99 {:.1}, most {:.1}",
        took.len(),
        share(&took, 0.5),
        share(&took, 0.99),
        share(&took, 1.0)
    );
    let failed = quiet.failed + changing.failed;
    quiet.print("quiet");
    changing.print("changing");
    assert_eq!(failed, 0, "requests failed");
}

/// What a client saw, in microseconds.
struct Seen {
    latencies: Vec<f64>,
    failed: usize,
}

impl Seen {
    fn print(mut self, when: &str) {
        self.latencies.sort_by(f64::total_cmp);
        let of = |part| share(&self.latencies, part);
        println!(
            "{when}: {} requests, {} failed, µs: p50 {:.0}, p99 {:.0}, p99.9 {:.0}, most {:.0}",
            self.latencies.len(),
            self.failed,
            of(0.5),
            of(0.99),
            of(0.999),
            of(1.0)
        );
    }
}

/// The value below which that part of the sorted numbers is.
fn share(sorted: &[f64], part: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let at = (sorted.len() as f64 * part) as usize;
    sorted.get(at.min(last)).copied().unwrap_or(f64::NAN)
}

/// A whole file, put into place at once.
fn write(folder: &Path, name: &str, text: &str) {
    let new = folder.join(format!(".{name}"));
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, folder.join(name)).unwrap();
}

fn objects(service: usize) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: s{service}}}\nspec:\n  ports: [{{name: http, \
         port: 80}}]\n---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: \
         s{service}}}\nspec:\n  rules:\n  - host: h{service}.example\n    http:\n      paths:\n      - \
         {{path: /, pathType: Prefix, backend: {{service: {{name: s{service}, port: {{number: \
         80}}}}}}}}\n"
    )
}

/// Service 0 has the origin, all others addresses that nobody asks.
fn slice(service: usize, origin: SocketAddr, is_ready: bool) -> String {
    let port = if service == 0 { origin.port() } else { 8080 };
    let mut text = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s{service}-a, labels: \
         {{kubernetes.io/service-name: s{service}}}}}\naddressType: IPv4\nports: [{{name: http, port: \
         {port}}}]\nendpoints:\n"
    );
    for endpoint in 0..ENDPOINTS {
        let number = service * ENDPOINTS + endpoint;
        let address = match service {
            0 => format!("127.0.0.{}", endpoint + 1),
            _ => format!(
                "10.{}.{}.{}",
                1 + number / 62_500,
                number / 250 % 250,
                number % 250 + 1
            ),
        };
        let ready = endpoint > 0 || is_ready;
        writeln!(
            text,
            "- {{addresses: [{address}], conditions: {{ready: {ready}}}}}"
        )
        .unwrap();
    }
    text
}

/// Answers every request on every 127/8 address.
fn start_origin() -> SocketAddr {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            thread::spawn(move || {
                let mut room = [0; 4096];
                while matches!(stream.read(&mut room), Ok(count) if count > 0) {
                    if stream.write_all(ANSWER).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn start_lb(program: &Path, folder: &Path, front: SocketAddr) -> (Child, BufReader<ChildStderr>) {
    let mut child = Command::new(program)
        .arg("--manifests")
        .arg(folder)
        .args(["--node-name", "node", "--workers", "1", "--admin", "off"])
        .args(["--ingress-https", "off", "--healthz", "off"])
        .args(["--ingress-http", &front.to_string()])
        .args(["--log-format", "json"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = BufReader::new(child.stderr.take().unwrap());
    (child, log)
}

fn wait_for(log: &mut impl BufRead, message: &str) {
    let wanted = format!("\"msg\":\"{message}\"");
    let mut line = String::new();
    while !line.contains(&wanted) {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0, "lb has ended");
    }
}

/// What the log says of each change, in milliseconds.
fn took(log: impl BufRead) -> Vec<f64> {
    let of = |line: String| {
        let (_, rest) = line.split_once("\"took_ms\":\"")?;
        rest.split_once('"')?.0.parse().ok()
    };
    log.lines().map_while(Result::ok).filter_map(of).collect()
}

/// A request each millisecond, with latency from the time at which it should have been sent.
fn start_client(front: SocketAddr, is_over: Arc<AtomicBool>) -> thread::JoinHandle<Seen> {
    thread::spawn(move || {
        let mut stream = TcpStream::connect(front).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut seen = Seen {
            latencies: Vec::new(),
            failed: 0,
        };
        let (mut due, mut room) = (now_precise(), [0; 4096]);
        while !is_over.load(Relaxed) {
            thread::sleep(due.saturating_duration_since(now_precise()));
            let asked = stream.write_all(b"GET / HTTP/1.1\r\nHost: h0.example\r\n\r\n");
            let answered = asked.and_then(|()| stream.read(&mut room));
            match answered {
                Ok(count) if room[..count].starts_with(b"HTTP/1.1 200") => {
                    let took = now_precise().saturating_duration_since(due);
                    seen.latencies.push(took.as_secs_f64() * 1e6);
                }
                _ => {
                    seen.failed += 1;
                    stream = TcpStream::connect(front).unwrap();
                }
            }
            due = due + PACE;
        }
        seen
    })
}

fn memory(process: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    line.unwrap_or_default().replace('\t', " ")
}
