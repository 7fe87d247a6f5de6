//! HTTP/2, gRPC and WebSocket, at both ends.

use std::time::Duration;

use lb_core::rt::EngineKind;
use loadgen::origin::{self, Delay, Origin, Service};
use loadgen::run::{Config, Grpc, HttpRequest, TcpRequest};

use crate::support::{ANY, on_each_engine, run, short};

fn origin(engine: EngineKind, body: usize) -> origin::Config {
    origin::Config {
        http: vec![ANY],
        https: vec![ANY],
        name: Some("blue".into()),
        body,
        ..origin::Config::new(engine)
    }
}

/// Both ways to reach it by HTTP/2.
fn both(origin: &Origin, engine: EngineKind) -> [Config; 2] {
    let urls = [
        format!("h2c://{}/a", origin.http()[0]),
        format!("https://{}/a", origin.https()[0]),
    ];
    urls.map(|url| Config {
        http2: true,
        streams: 8,
        ..short(&url, engine)
    })
}

#[test]
fn many_requests_share_a_connection() {
    on_each_engine(|engine| {
        let origin = Origin::start(&origin(engine, 64)).unwrap();
        for config in both(&origin, engine) {
            let summary = run(&config);
            assert!(summary.is_clean(), "{summary}");
            assert_eq!(summary.reconnects, 0);
            assert_eq!(summary.per_origin["blue"], summary.completed);
        }
    });
}

#[test]
fn bodies_larger_than_any_window_go_both_ways() {
    on_each_engine(|engine| {
        let origin = Origin::start(&origin(engine, 3 << 20)).unwrap();
        for config in both(&origin, engine) {
            let config = Config {
                http: HttpRequest {
                    method: "POST".into(),
                    body: 2 << 20,
                    ..HttpRequest::default()
                },
                duration: Duration::from_secs(1),
                ..config
            };
            let summary = run(&config);
            assert!(summary.is_clean(), "{summary}");
            assert!(summary.bytes_received >= summary.completed * (3 << 20));
        }
    });
}

#[test]
fn each_request_may_have_a_connection_of_its_own() {
    on_each_engine(|engine| {
        let origin = Origin::start(&origin(engine, 64)).unwrap();
        for config in both(&origin, engine) {
            let summary = run(&Config {
                streams: 1,
                new_connections: true,
                ..config
            });
            assert!(summary.is_clean(), "{summary}");
            assert_eq!(summary.reconnects, summary.completed);
        }
    });
}

#[test]
fn calls_get_back_their_messages_and_a_status() {
    on_each_engine(|engine| {
        let origin = Origin::start(&origin(engine, 64)).unwrap();
        for config in both(&origin, engine) {
            for (messages, message) in [(1, 0), (1, 64), (20, 10_000)] {
                let summary = run(&Config {
                    grpc: Some(Grpc { messages, message }),
                    ..config.clone()
                });
                assert!(summary.is_clean(), "{summary}");
                let least = summary.completed * (messages * (message + 5)) as u64;
                assert!(summary.bytes_received >= least, "{summary}");
            }
        }
    });
}

#[test]
fn requests_that_fail_and_wait_are_answered_as_such() {
    let slow = origin::Config {
        service: Service {
            delay: Delay::Fixed(Duration::from_millis(5)),
            error_rate: 1.0,
            ..Service::AT_ONCE
        },
        ..origin(EngineKind::Epoll, 64)
    };
    let origin = Origin::start(&slow).unwrap();
    let [config, _] = both(&origin, EngineKind::Epoll);
    for grpc in [
        None,
        Some(Grpc {
            messages: 1,
            message: 5,
        }),
    ] {
        let summary = run(&Config {
            grpc,
            ..config.clone()
        });
        assert_eq!(summary.completed, 0);
        let errors = summary.errors;
        assert!(errors.status_non_2xx > 0, "{summary}");
        assert_eq!(errors.total(), errors.status_non_2xx, "{summary}");
    }
}

#[test]
fn messages_of_a_websocket_come_back() {
    on_each_engine(|engine| {
        let origin = Origin::start(&origin(engine, 64)).unwrap();
        let urls = [
            format!("ws://{}/chat", origin.http()[0]),
            format!("wss://{}/chat", origin.https()[0]),
        ];
        for url in urls {
            for message in [1, 200, 100_000] {
                let summary = run(&Config {
                    tcp: TcpRequest {
                        message,
                        ..TcpRequest::default()
                    },
                    ..short(&url, engine)
                });
                assert!(summary.is_clean(), "{summary}");
                assert_eq!(summary.per_origin["blue"], summary.completed);
                assert_eq!(summary.reconnects, 0);
            }
        }
    });
}

#[test]
fn what_speaks_no_http2_is_a_failure() {
    let plain = crate::support::serve_http("HTTP/1.1 400 Bad Request\r\n\r\n");
    let summary = run(&Config {
        timeout: Duration::from_millis(200),
        new_connections: true,
        ..short(&format!("h2c://{plain}/"), EngineKind::Epoll)
    });
    assert_eq!(summary.completed, 0, "{summary}");
    assert!(summary.errors.total() > 0, "{summary}");
}

#[test]
fn a_reset_costs_its_stream_or_connection_and_nobody_else() {
    on_each_engine(|engine| {
        let resetting = origin::Config {
            service: Service {
                reset_rate: 0.2,
                ..Service::AT_ONCE
            },
            ..origin(engine, 64)
        };
        let origin = Origin::start(&resetting).unwrap();
        let [shared, _] = both(&origin, engine);
        let websocket = short(&format!("ws://{}/", origin.http()[0]), engine);
        for config in [shared, websocket] {
            let summary = run(&config);
            let errors = summary.errors;
            assert!(errors.reset > 0 && summary.completed > 0, "{summary}");
            assert_eq!(errors.total(), errors.reset, "{summary}");
        }
    });
}

#[test]
fn streams_share_a_connection_until_it_has_had_its_requests() {
    on_each_engine(|engine| {
        let origin = Origin::start(&origin(engine, 64)).unwrap();
        let [shared, _] = both(&origin, engine);
        let summary = run(&Config {
            requests_per_connection: Some(50),
            ..shared
        });
        assert!(summary.is_clean(), "{summary}");
        let expected = summary.completed / 50;
        assert!(expected > 2, "{summary}");
        let off = summary.reconnects.abs_diff(expected);
        assert!(off <= 4, "{} of {expected}: {summary}", summary.reconnects);
    });
}
