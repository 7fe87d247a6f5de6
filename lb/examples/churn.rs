//! A long run under churn: thousands of sessions at a time come and go, backends are killed and
//! added, each change is a reload, and once descriptors run out. Every byte is compared.
//!
//! `cargo run --release -p lb --example churn -- [MINUTES [SESSIONS [LB]]]`, as root or with an open
//! files limit of more than twice the sessions. Invariant: a session that nobody cut off has had
//! every byte back.
//! Read next: `CONFIG.md` (what the configuration says).
#![expect(clippy::unwrap_used, reason = "a run that cannot go on ends")]

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use lb_core::rt::{self, Chunk, Config, Instant, ListenOptions, Runtime, TcpListener, TcpStream};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit, setrlimit};

const FRONT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1)), 28_080);
const BACKENDS: usize = 6;
/// A killed backend comes back at another port, after the next one is killed.
const KILL_EVERY: Duration = Duration::from_secs(2);
const SAMPLE_EVERY: Duration = Duration::from_secs(30);
/// What a session may wait for; more is a hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the clients saw.
#[derive(Debug, Default)]
struct Tally {
    open: AtomicU64,
    finished: AtomicU64,
    bytes: AtomicU64,
    /// Ended before all had come back: its backend was killed, or there was no descriptor.
    cut: AtomicU64,
    refused: AtomicU64,
    hung: AtomicU64,
    corrupted: AtomicU64,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let minutes: f64 = arguments.next().map_or(10.0, |it| it.parse().unwrap());
    let sessions: usize = arguments.next().map_or(5000, |it| it.parse().unwrap());
    let beside = || std::env::current_exe().unwrap().with_file_name("../lb");
    let program = arguments.next().map_or_else(beside, PathBuf::from);
    let most = getrlimit(Resource::Nofile).maximum;
    let all = Rlimit {
        current: most,
        maximum: most,
    };
    setrlimit(Resource::Nofile, all).unwrap();

    let folder = std::env::temp_dir().join(format!("lb-churn-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("lb.yaml");
    let (killer, addresses) = start_backends();
    let mut backends: Vec<SocketAddr> = (0..BACKENDS).map(|_| addresses.recv().unwrap()).collect();
    configure(&file, &backends);
    let mut lb = Command::new(program)
        .args(["--workers", "2", "--admin", "127.0.0.1:28081", "--config"])
        .arg(&file)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_secs(1));
    let tally = Arc::new(Tally::default());
    let is_over = Arc::new(AtomicBool::new(false));
    let clients = start_clients(sessions, &tally, &is_over);

    println!("minute      RSS   files    open  finished  MiB both ways  cut  refused  hung  wrong");
    let begun = rt::now_precise();
    let length = Duration::from_secs_f64(minutes * 60.0);
    let (mut sampled, mut reloads, mut was_short) = (Duration::ZERO, 0, false);
    loop {
        let elapsed = rt::now_precise().saturating_duration_since(begun);
        if elapsed >= length {
            break;
        }
        if elapsed >= sampled {
            sample(elapsed, &lb, &tally);
            sampled += SAMPLE_EVERY;
        }
        if !was_short && std::env::var_os("NOSHORT").is_none() && elapsed >= length / 2 {
            was_short = true;
            run_short_of_files(&lb);
        }
        thread::sleep(KILL_EVERY);
        killer.send(()).unwrap();
        backends.remove(0);
        backends.push(addresses.recv().unwrap());
        configure(&file, &backends);
        reloads += 1;
        assert!(lb.try_wait().unwrap().is_none(), "lb has ended");
    }
    is_over.store(true, Relaxed);
    clients.join().unwrap();
    thread::sleep(Duration::from_secs(2));
    sample(length, &lb, &tally);
    println!("{reloads} backends killed and replaced, as many reloads");
    kill_process(Pid::from_child(&lb), Signal::TERM).unwrap();
    println!("lb: {}", lb.wait().unwrap());
    std::fs::remove_dir_all(folder).unwrap();
    let wrong = tally.corrupted.load(Relaxed) + tally.hung.load(Relaxed);
    assert_eq!(wrong, 0, "sessions were corrupted, or hung");
}

fn configure(file: &std::path::Path, backends: &[SocketAddr]) {
    let backends: Vec<_> = backends.iter().map(|it| format!("'{it}'")).collect();
    let text = format!(
        "listeners: [{{name: front, address: '{FRONT}', tcp: {{cluster: c}}}}]\nclusters: {{c: \
         {{connect_timeout: 5s, backends: [{}]}}}}\n",
        backends.join(", ")
    );
    let beside = file.with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(beside, file).unwrap();
}

fn sample(elapsed: Duration, lb: &Child, tally: &Tally) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", lb.id())).unwrap();
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let files = std::fs::read_dir(format!("/proc/{}/fd", lb.id()))
        .unwrap()
        .count();
    let count = |counter: &AtomicU64| counter.load(Relaxed);
    println!(
        "{:>6.1} {:>10} {files:>6} {:>7} {:>9} {:>14} {:>4} {:>8} {:>5} {:>6}",
        elapsed.as_secs_f64() / 60.0,
        rss.unwrap_or("?").trim().replace(" kB", "K"),
        count(&tally.open),
        count(&tally.finished),
        (count(&tally.bytes) * 2) >> 20,
        count(&tally.cut),
        count(&tally.refused),
        count(&tally.hung),
        count(&tally.corrupted),
    );
}

/// For ten seconds no new descriptor can be had.
fn run_short_of_files(lb: &Child) {
    let pid = Some(Pid::from_child(lb));
    let files = std::fs::read_dir(format!("/proc/{}/fd", lb.id()))
        .unwrap()
        .count() as u64;
    let maximum = getrlimit(Resource::Nofile).maximum;
    let short = Rlimit {
        current: Some(files),
        maximum,
    };
    let before = prlimit(pid, Resource::Nofile, short).unwrap();
    println!("       now it may have no more than {files} files, for ten seconds");
    thread::sleep(Duration::from_secs(10));
    prlimit(pid, Resource::Nofile, before).unwrap();
}

/// Echo servers on a thread of their own. Each message to the thread kills the oldest, with all of
/// its connections, and starts another; the addresses come back.
fn start_backends() -> (mpsc::Sender<()>, mpsc::Receiver<SocketAddr>) {
    let (killer, kills) = mpsc::channel();
    let (sender, addresses) = mpsc::channel();
    thread::spawn(move || {
        let mut runtime = Runtime::new(&Config::default()).unwrap();
        runtime.block_on(async move {
            let mut running = std::collections::VecDeque::new();
            let mut started = 0_u8;
            loop {
                while running.len() < BACKENDS {
                    started = started.wrapping_add(1);
                    let (address, is_dead) = start_backend(started);
                    running.push_back(is_dead);
                    sender.send(address).unwrap();
                }
                while kills.try_recv().is_err() {
                    rt::sleep(Duration::from_millis(20)).await;
                }
                let oldest: Rc<Cell<bool>> = running.pop_front().unwrap();
                oldest.set(true);
            }
        });
    });
    (killer, addresses)
}

fn start_backend(number: u8) -> (SocketAddr, Rc<Cell<bool>>) {
    let any = SocketAddr::from(([127, 0, 1, number.max(1)], 0));
    let listener = TcpListener::bind(any, &ListenOptions::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let is_dead = Rc::new(Cell::new(false));
    let is_dead_too = Rc::clone(&is_dead);
    rt::spawn(async move {
        while !is_dead.get() {
            let accepted = rt::timeout(Duration::from_millis(20), listener.accept()).await;
            if let Ok(Ok(stream)) = accepted {
                rt::spawn(echo(stream, Rc::clone(&is_dead)));
            }
        }
    });
    (address, is_dead_too)
}

async fn echo(stream: TcpStream, is_dead: Rc<Cell<bool>>) {
    loop {
        let received = rt::timeout(Duration::from_millis(500), stream.recv()).await;
        if is_dead.get() {
            return stream.reset();
        }
        match received {
            Err(_silent) => {}
            Ok(Ok(chunk)) if chunk.is_empty() => return,
            Ok(Ok(chunk)) => {
                if stream.send(chunk).await.is_err() {
                    return;
                }
            }
            Ok(Err(_)) => return,
        }
    }
}

fn start_clients(
    sessions: usize,
    tally: &Arc<Tally>,
    is_over: &Arc<AtomicBool>,
) -> thread::JoinHandle<()> {
    let (tally, is_over) = (Arc::clone(tally), Arc::clone(is_over));
    thread::spawn(move || {
        let mut runtime = Runtime::new(&Config::default()).unwrap();
        runtime.block_on(async move {
            for number in 0..sessions {
                let (tally, is_over) = (Arc::clone(&tally), Arc::clone(&is_over));
                rt::spawn(async move {
                    let mut random = number as u64 * 0x9E37_79B9 + 1;
                    rt::sleep(Duration::from_millis(next(&mut random) % 5000)).await;
                    while !is_over.load(Relaxed) {
                        session(&tally, &mut random).await;
                    }
                });
            }
            while rt::stats().tasks > 0 {
                rt::sleep(Duration::from_millis(100)).await;
            }
        });
    })
}

/// Opens a connection, has some messages echoed, with pauses, and closes it.
async fn session(tally: &Tally, random: &mut u64) {
    let source = SocketAddr::from(([127, 0, 2, (next(random) % 200) as u8 + 1], 0));
    let stream = match rt::timeout(PATIENCE, TcpStream::connect_from(source, FRONT)).await {
        Ok(Ok(stream)) => stream,
        failed => {
            if tally.refused.fetch_add(1, Relaxed).is_multiple_of(100) {
                println!("       not connected: {:?}", failed.map(|it| it.err()));
            }
            return rt::sleep(Duration::from_secs(1)).await;
        }
    };
    tally.open.fetch_add(1, Relaxed);
    let end = talk(&stream, random, tally).await;
    match end {
        End::Finished => &tally.finished,
        End::Cut => &tally.cut,
        End::Hung => &tally.hung,
        End::Corrupted => &tally.corrupted,
    }
    .fetch_add(1, Relaxed);
    tally.open.fetch_sub(1, Relaxed);
}

enum End {
    Finished,
    Cut,
    Hung,
    Corrupted,
}

async fn talk(stream: &TcpStream, random: &mut u64, tally: &Tally) -> End {
    let deadline = |at: Instant| at + PATIENCE;
    for _ in 0..=next(random) % 8 {
        let (seed, len) = (next(random), 1 + next(random) % 20_000);
        let message: Vec<u8> = (0..len).map(|at| byte(seed, at)).collect();
        if stream.send(Chunk::from_vec(message)).await.is_err() {
            return End::Cut;
        }
        let mut got = 0;
        while got < len {
            match rt::timeout_at(deadline(rt::now()), stream.recv()).await {
                Err(_) => return End::Hung,
                Ok(Err(_)) => return End::Cut,
                Ok(Ok(chunk)) if chunk.is_empty() => return End::Cut,
                Ok(Ok(chunk)) => {
                    let right = (got..)
                        .zip(&*chunk)
                        .all(|(at, told)| byte(seed, at) == *told);
                    if !right || got + chunk.len() as u64 > len {
                        return End::Corrupted;
                    }
                    got += chunk.len() as u64;
                }
            }
        }
        tally.bytes.fetch_add(len, Relaxed);
        rt::sleep(Duration::from_millis(next(random) % 3000)).await;
    }
    End::Finished
}

fn byte(seed: u64, at: u64) -> u8 {
    (seed.wrapping_add(at).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

/// xorshift64
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}
