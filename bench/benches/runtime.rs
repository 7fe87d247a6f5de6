//! The runtime's own moves: tasks, wake-ups, timers, buffers. No sockets: `forwarder-ab` has those.
//!
//! Guards that a timeout around an operation, a wake-up and a lent buffer each cost tens of
//! nanoseconds, so that protocol code may use them without a second thought. All run on the
//! epoll engine; nothing here asks the engine for anything. Read next: `http1.rs`.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot begin ends with a panic"
)]

use std::cell::Cell;
use std::future::pending;
use std::hint::black_box;
use std::rc::Rc;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion};
use lb_core::rt::{self, Buffer, Chunk, Config, Notify, Runtime, now_precise};
use nix::time::{ClockId, clock_gettime};

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let mut runtime = Runtime::new(&Config::default()).unwrap();
    task(&mut criterion, &mut runtime);
    timer(&mut criterion, &mut runtime);
    buffer(&mut criterion);
    criterion.final_summary();
}

fn task(criterion: &mut Criterion, runtime: &mut Runtime) {
    let mut group = criterion.benchmark_group("task");
    measure(&mut group, runtime, "spawn, run and end", async |count| {
        for _ in 0..count {
            rt::spawn(async {});
            rt::yield_now().await;
        }
    });
    measure(&mut group, runtime, "yield", async |count| {
        for _ in 0..count {
            rt::yield_now().await;
        }
    });
    // Two tasks that wake each other: half a round trip is one wake-up with its poll.
    measure(
        &mut group,
        runtime,
        "wake and be woken by another",
        async |count| {
            let (ping, pong) = (Rc::new(Notify::new()), Rc::new(Notify::new()));
            let answer = {
                let (ping, pong) = (Rc::clone(&ping), Rc::clone(&pong));
                rt::spawn(async move {
                    loop {
                        ping.notified().await;
                        pong.notify();
                    }
                })
            };
            for _ in 0..count {
                ping.notify();
                pong.notified().await;
            }
            rt::abort(answer);
        },
    );
    group.finish();
}

fn timer(criterion: &mut Criterion, runtime: &mut Runtime) {
    const FAR: Duration = Duration::from_secs(30);
    const HOURS: Duration = Duration::from_hours(20);
    let mut group = criterion.benchmark_group("timer");
    measure(
        &mut group,
        runtime,
        "timeout around what is ready",
        async |count| {
            for _ in 0..count {
                let _ = rt::timeout(FAR, async { black_box(1) }).await;
            }
        },
    );
    // What every receive that has to wait costs: armed at the first poll, removed by the drop.
    measure(
        &mut group,
        runtime,
        "timeout armed and dropped",
        async |count| {
            for _ in 0..count {
                rt::poll_once(rt::timeout(FAR, pending::<()>())).await;
            }
        },
    );
    // The same while 10,000 other connections have theirs, which the loop's clock never reaches.
    let mut others: Vec<_> = (0..10_000).map(|_| Box::pin(rt::sleep(HOURS))).collect();
    runtime.block_on(async {
        for other in &mut others {
            rt::poll_once(other.as_mut()).await;
        }
    });
    measure(
        &mut group,
        runtime,
        "timeout armed and dropped among 10,000",
        async |count| {
            for _ in 0..count {
                rt::poll_once(rt::timeout(FAR, pending::<()>())).await;
            }
        },
    );
    drop(others);
    group
        .sample_size(10)
        .bench_function("sleep armed, fired and its task ended", |bencher| {
            bencher.iter_custom(|count| fire(runtime, count));
        });
    group.finish();
}

/// CPU time in which `count` tasks each sleep a tick, 50,000 of them at once: most of the wall
/// time passes in waiting for the tick.
fn fire(runtime: &mut Runtime, count: u64) -> Duration {
    const AT_ONCE: u64 = 50_000;
    let start = thread_cpu_time();
    let mut left = count;
    while left > 0 {
        let batch = left.min(AT_ONCE);
        left -= batch;
        runtime.block_on(async {
            let ended = Rc::new((Cell::new(0), Notify::new()));
            for _ in 0..batch {
                let ended = Rc::clone(&ended);
                rt::spawn(async move {
                    rt::sleep(rt::TICK).await;
                    ended.0.set(ended.0.get() + 1);
                    if ended.0.get() == batch {
                        ended.1.notify();
                    }
                });
            }
            ended.1.notified().await;
        });
    }
    thread_cpu_time() - start
}

fn buffer(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("buffer");
    group.bench_function("take, write 64 bytes, freeze, drop", |bencher| {
        bencher.iter(|| {
            let mut buffer = Buffer::new();
            assert!(buffer.push(black_box(&[7; 64])));
            black_box(buffer.freeze());
        });
    });
    let mut buffer = Buffer::new();
    assert!(buffer.push(&[7; 1024]));
    let chunk = buffer.freeze();
    group.bench_function("share and drop", |bencher| {
        bencher.iter(|| chunk.share().len());
    });
    group.bench_function("split a head off", |bencher| {
        bencher.iter(|| {
            let mut body = chunk.share();
            body.split_to(100).len() + body.len()
        });
    });
    group.bench_function("static", |bencher| {
        bencher.iter(|| Chunk::from_static(black_box(b"HTTP/1.1 100 Continue\r\n\r\n")).len());
    });
    group.finish();
}

/// Measures `work(count)` in a task of its own by the wall clock. Not in `block_on`'s future: that
/// one runs once a turn, and each turn of the loop asks the engine.
fn measure(
    group: &mut BenchmarkGroup<'_, WallTime>,
    runtime: &mut Runtime,
    name: &str,
    work: impl AsyncFn(u64) + Copy + 'static,
) {
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|count| {
            let ended = Rc::new((Cell::new(Duration::ZERO), Notify::new()));
            runtime.block_on(async {
                let result = Rc::clone(&ended);
                rt::spawn(async move {
                    let start = now_precise();
                    work(count).await;
                    let end = now_precise();
                    result.0.set(end.saturating_duration_since(start));
                    result.1.notify();
                });
                ended.1.notified().await;
            });
            ended.0.get()
        });
    });
}

fn thread_cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .unwrap()
        .into()
}
