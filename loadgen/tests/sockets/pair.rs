//! Our generator against our origins.

use std::io::Write;
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use lb_core::rt::EngineKind;
use loadgen::gate::Gate;
use loadgen::origin::{self, Delay, Origin};
use loadgen::run::{
    self, Config, HttpRequest, Idle, LoadMode, LoadPhase, Observer, RunError, Second, Sources,
    TcpRequest,
};
use loadgen::tcp::TcpMode;

use crate::support::{ANY, on_each_engine, read_head, run, short};

fn origin(engine: EngineKind, tcp_mode: TcpMode) -> Origin {
    let config = origin::Config {
        http: vec![ANY],
        tcp: vec![ANY],
        name: Some("blue".into()),
        tcp_mode,
        ..origin::Config::new(engine)
    };
    Origin::start(&config).unwrap()
}

fn http(origin: &Origin) -> String {
    format!("http://{}/path", origin.http()[0])
}

fn tcp(origin: &Origin) -> String {
    format!("tcp://{}", origin.tcp()[0])
}

#[test]
fn a_closed_loop_keeps_every_connection_busy_on_every_thread() {
    on_each_engine(|engine| {
        let origin = origin(engine, TcpMode::Echo);
        let config = Config {
            connections: 8,
            threads: 2,
            ..short(&http(&origin), engine)
        };
        let summary = run(&config);
        assert!(summary.is_clean(), "{summary}");
        assert_eq!(summary.reconnects, 0);
        assert_eq!(summary.per_origin["blue"], summary.completed);
        let answer_bytes = summary.bytes_received / summary.completed;
        assert!((64..200).contains(&answer_bytes), "{answer_bytes}");
        assert_eq!(
            summary
                .histogram
                .iter()
                .map(|(_, count)| count)
                .sum::<u64>(),
            summary.completed
        );
        assert!(summary.generator.cpu_s > 0.0 && summary.generator.cpu_fraction <= 1.1);
        assert_eq!(summary.engine, engine.name());
    });
}

#[test]
fn an_open_loop_sends_what_is_due_and_no_more() {
    on_each_engine(|engine| {
        let origin = origin(engine, TcpMode::Echo);
        let config = Config {
            mode: LoadMode::Open { rate_per_s: 400.0 },
            connections: 6,
            threads: 2,
            warm_up: Duration::from_millis(100),
            duration: Duration::from_millis(500),
            ..short(&http(&origin), engine)
        };
        let summary = run(&config);
        assert!(summary.is_clean(), "{summary}");
        assert_eq!(
            summary.completed, 200,
            "the warm-up does not count: {summary}"
        );
    });
}

#[test]
fn request_bodies_are_sent_whole() {
    on_each_engine(|engine| {
        let origin = origin(engine, TcpMode::Echo);
        let post = HttpRequest {
            method: "POST".into(),
            body: 300_000,
            ..HttpRequest::default()
        };
        let summary = run(&Config {
            http: post,
            ..short(&http(&origin), engine)
        });
        assert!(summary.is_clean(), "{summary}");
    });
}

#[test]
fn echoes_are_checked_at_every_size() {
    on_each_engine(|engine| {
        let origin = origin(engine, TcpMode::Echo);
        for message in [1, 64, 20_000, 1_000_000] {
            let request = TcpRequest {
                message,
                who: true,
                ..TcpRequest::default()
            };
            let summary = run(&Config {
                tcp: request,
                ..short(&tcp(&origin), engine)
            });
            assert!(summary.is_clean(), "{summary}");
            assert_eq!(summary.bytes_received, summary.completed * message as u64);
            assert_eq!(summary.per_origin["blue"], summary.completed);
        }
    });
}

#[test]
fn bulk_data_is_checked_to_its_last_byte() {
    on_each_engine(|engine| {
        for bytes in [1, 1_000_000] {
            let mode = TcpMode::Stream(bytes);
            let origin = origin(engine, mode);
            let request = TcpRequest {
                mode,
                ..TcpRequest::default()
            };
            let summary = run(&Config {
                tcp: request,
                ..short(&tcp(&origin), engine)
            });
            assert!(summary.is_clean(), "{summary}");
            assert_eq!(summary.bytes_received, summary.completed * bytes as u64);
            let longer = TcpRequest {
                mode: TcpMode::Stream(bytes + 1),
                ..TcpRequest::default()
            };
            let config = Config {
                tcp: longer,
                timeout: Duration::from_millis(30),
                ..short(&tcp(&origin), engine)
            };
            assert_eq!(run(&config).completed, 0);
        }
    });
}

#[test]
fn origins_fail_as_often_as_they_are_told_to() {
    on_each_engine(|engine| {
        let config = origin::Config {
            http: vec![ANY],
            tcp: vec![ANY],
            service: origin::Service {
                error_rate: 0.5,
                ..origin::Service::AT_ONCE
            },
            ..origin::Config::new(engine)
        };
        let origin = Origin::start(&config).unwrap();
        let summary = run(&short(&http(&origin), engine));
        let failed = summary.errors.status_non_2xx;
        assert_eq!(failed, summary.errors.total(), "{summary}");
        assert!(failed > 0 && summary.completed > 0, "{summary}");
        let summary = run(&short(&tcp(&origin), engine));
        let failed = summary.errors.short + summary.errors.reset;
        assert_eq!(failed, summary.errors.total(), "{summary}");
        assert!(failed > 0 && summary.completed > 0, "{summary}");
    });
}

#[test]
fn new_connections_work_with_either_protocol() {
    on_each_engine(|engine| {
        let origin = origin(engine, TcpMode::Echo);
        for url in [http(&origin), tcp(&origin)] {
            let summary = run(&Config {
                new_connections: true,
                ..short(&url, engine)
            });
            assert!(summary.is_clean(), "{summary}");
            assert_eq!(summary.reconnects, summary.completed);
        }
    });
}

#[test]
fn hundreds_of_connections_are_held_while_few_are_used() {
    on_each_engine(|engine| {
        let origin = origin(engine, TcpMode::Echo);
        let config = Config {
            mode: LoadMode::Open { rate_per_s: 40.0 },
            connections: 300,
            ..short(&http(&origin), engine)
        };
        let summary = run(&config);
        assert!(summary.is_clean(), "{summary}");
        assert_eq!((summary.completed, summary.reconnects), (10, 0));
    });
}

/// Notes what it sees, and stops the run after its first second.
struct Stopping<'gate> {
    phases: Vec<LoadPhase>,
    seconds: Vec<u64>,
    stop: &'gate Gate,
}

impl Observer for Stopping<'_> {
    fn on_phase(&mut self, phase: LoadPhase) {
        self.phases.push(phase);
    }

    fn on_second(&mut self, second: &Second) {
        self.seconds.push(second.t);
        self.stop.open();
    }
}

#[test]
fn a_run_that_is_stopped_reports_what_it_measured() {
    on_each_engine(|engine| {
        let origin = origin(engine, TcpMode::Echo);
        let stop = Gate::new();
        let mut observer = Stopping {
            phases: Vec::new(),
            seconds: Vec::new(),
            stop: &stop,
        };
        let config = Config {
            duration: Duration::from_secs(3600),
            ..short(&http(&origin), engine)
        };
        let summary = run::run(&config, &mut observer, &stop).unwrap();
        assert!(summary.is_clean(), "{summary}");
        assert!(
            (1.0..600.0).contains(&summary.duration_s),
            "{}",
            summary.duration_s
        );
        assert!(summary.is_partial && summary.to_string().contains("PARTIAL"));
        assert_eq!(observer.seconds[0], 0);
        use LoadPhase::{Connecting, Ended, Measuring, WarmUp};
        assert_eq!(observer.phases, [Connecting, WarmUp, Measuring, Ended]);
    });
}

#[test]
fn a_run_that_is_stopped_before_it_measures_has_nothing_to_report() {
    on_each_engine(|engine| {
        let origin = origin(engine, TcpMode::Echo);
        let stop = Gate::new();
        stop.open();
        let config = Config {
            warm_up: Duration::from_secs(3600),
            ..short(&http(&origin), engine)
        };
        let error = run::run(&config, &mut (), &stop).unwrap_err();
        assert!(matches!(error, RunError::Stopped), "{error:?}");
    });
}

#[test]
fn a_connection_is_replaced_after_its_requests() {
    on_each_engine(|engine| {
        let origin = origin(engine, TcpMode::Echo);
        for url in [http(&origin), tcp(&origin)] {
            let summary = run(&Config {
                requests_per_connection: Some(3),
                sources: Some(Sources {
                    count: 2,
                    skew: None,
                }),
                tcp: TcpRequest {
                    who: true,
                    ..TcpRequest::default()
                },
                ..short(&url, engine)
            });
            assert!(summary.is_clean(), "{summary}");
            let expected = summary.completed.div_ceil(3);
            assert!(summary.reconnects.abs_diff(expected) <= 2, "{summary}");
            let clients = summary.affinity.unwrap().clients;
            assert_eq!(clients, 2, "each stays who it is: {summary}");
        }
    });
}

#[test]
fn connections_begin_one_after_the_other() {
    on_each_engine(|engine| {
        let origin = Origin::start(&origin::Config {
            http: vec![ANY],
            service: origin::Service {
                delay: Delay::Fixed(Duration::from_millis(10)),
                ..origin::Service::AT_ONCE
            },
            ..origin::Config::new(engine)
        })
        .unwrap();
        let ramped = |ramp_up| {
            run(&Config {
                connections: 20,
                threads: 2,
                duration: Duration::from_secs(1),
                ramp_up,
                ..short(&http(&origin), engine)
            })
        };
        let (at_once, slowly) = (ramped(Duration::ZERO), ramped(Duration::from_secs(1)));
        assert!(at_once.is_clean() && slowly.is_clean(), "{slowly}");
        assert_eq!(slowly.reconnects, 0, "the first of each place is not one");
        let share = slowly.completed as f64 / at_once.completed as f64;
        assert!((0.2..0.8).contains(&share), "about half: {share}, {slowly}");
    });
}

#[test]
fn idle_connections_are_held_and_those_that_are_ended_are_counted() {
    on_each_engine(|engine| {
        let origin = origin(engine, TcpMode::Echo);
        for url in [
            http(&origin),
            http(&origin).replace("http", "h2c"),
            tcp(&origin),
        ] {
            let summary = run(&Config {
                idle: 301,
                threads: 2,
                ..short(&url, engine)
            });
            assert!(summary.is_clean(), "{summary}");
            let expected = Idle { held: 301, lost: 0 };
            assert_eq!(summary.idle, Some(expected), "{summary}");
        }
        // A server that serves the one and ends the others.
        let listener = TcpListener::bind(ANY).unwrap();
        let server = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut first, _) = listener.accept().unwrap();
            let ending = thread::spawn(move || {
                for _ in 0..5 {
                    drop(listener.accept().unwrap());
                }
            });
            while read_head(&mut first).is_some() {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                if first.write_all(answer).is_err() {
                    break;
                }
            }
            ending.join().unwrap();
        });
        let summary = run(&Config {
            connections: 1,
            idle: 5,
            ..short(&format!("http://{server}/"), engine)
        });
        assert!(summary.is_clean(), "{summary}");
        assert_eq!(summary.idle, Some(Idle { held: 0, lost: 5 }), "{summary}");
    });
}
