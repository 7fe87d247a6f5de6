//! A server answers at once, but for one stall. The exact percentiles are known: an open loop
//! has to find them, and a closed loop, which stops asking while the server stalls, cannot.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use lb_core::rt::{Instant, now_precise};
use loadgen::run::{Config, LoadMode, Summary};

use crate::support::{on_each_engine, run, serve, short};

const STALL_FROM: Duration = Duration::from_millis(200);
const STALL: Duration = Duration::from_millis(400);
const DURATION: Duration = Duration::from_millis(1600);
const RATE_PER_S: f64 = 1000.0;

/// Echoes at once, but while it stalls, at the end of the stall. Time begins with the first
/// message.
fn stalling_server() -> SocketAddr {
    let first: &'static OnceLock<Instant> = Box::leak(Box::default());
    serve(move |mut stream| {
        let mut message = [0; 64];
        while stream.read_exact(&mut message).is_ok() {
            let now = now_precise();
            let since = now.saturating_duration_since(*first.get_or_init(|| now));
            if (STALL_FROM..STALL_FROM + STALL).contains(&since) {
                thread::sleep(STALL_FROM + STALL - since);
            }
            if stream.write_all(&message).is_err() {
                return;
            }
        }
    })
}

fn stalled_run(mode: LoadMode, engine: lb_core::rt::EngineKind) -> Summary {
    let url = format!("tcp://{}", stalling_server());
    run(&Config {
        mode,
        connections: 4,
        duration: DURATION,
        ..short(&url, engine)
    })
}

#[test]
fn an_open_loop_sees_a_stall_as_long_as_it_was() {
    // A quarter of the requests are due within the stall of 400 ms and wait for its end, each a
    // millisecond less than the one before: the slowest tenth waits for 240 ms and more.
    let exact_ms = |quantile: f64| {
        let slower = (1.0 - quantile) * DURATION.as_secs_f64();
        (STALL.as_secs_f64() - slower) * 1e3
    };
    on_each_engine(|engine| {
        let summary = stalled_run(
            LoadMode::Open {
                rate_per_s: RATE_PER_S,
            },
            engine,
        );
        assert!(summary.is_clean(), "{summary}");
        assert_eq!(
            summary.completed,
            (RATE_PER_S * DURATION.as_secs_f64()) as u64
        );
        let latency = &summary.latency_us;
        for (quantile, found_us) in [
            (0.9, latency.p90),
            (0.99, latency.p99),
            (0.999, latency.p999),
        ] {
            let (found, exact) = (found_us / 1e3, exact_ms(quantile));
            // Never less, but for rounding: a busy machine can only make it longer.
            assert!(
                found > exact * 0.95 && found < exact * 4.0,
                "{quantile}: {found}, {exact}"
            );
        }
    });
}

#[test]
fn a_closed_loop_omits_it() {
    on_each_engine(|engine| {
        let summary = stalled_run(LoadMode::Closed, engine);
        assert!(summary.is_clean(), "{summary}");
        assert!(
            summary.latency_us.max >= STALL.as_secs_f64() * 0.9e6,
            "it stalled: {summary}"
        );
        assert!(summary.latency_us.p90 < 100e3, "{summary}");
    });
}

#[test]
fn the_timeline_shows_when_it_was() {
    on_each_engine(|engine| {
        let summary = stalled_run(
            LoadMode::Open {
                rate_per_s: RATE_PER_S,
            },
            engine,
        );
        let [first, second] = &summary.timeline[..] else {
            panic!("{:?}", summary.timeline)
        };
        assert_eq!((first.t, second.t), (0, 1));
        assert!(first.p99_us > 200e3, "{first:?}");
        assert!(
            second.completed > 0 && second.p50_us < first.p99_us,
            "{second:?}"
        );
        assert!(first.completed + second.completed <= summary.completed);
    });
}
