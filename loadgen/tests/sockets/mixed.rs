//! Requests of several kinds, from a file and from a log; rates that change.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lb_core::rt::EngineKind;
use loadgen::origin::{self, Origin};
use loadgen::run::{Config, LoadMode, Replay};

use crate::support::{ANY, on_each_engine, read_head, run, serve, short};

/// A server that keeps the heads it was sent, and gives each client a cookie.
fn listening() -> (String, Arc<Mutex<Vec<String>>>) {
    let heads: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = Arc::clone(&heads);
    let address = serve(move |mut stream| {
        while let Some(head) = read_head(&mut stream) {
            kept.lock().unwrap().push(head);
            let answer =
                "HTTP/1.1 200 OK\r\nSet-Cookie: visit=7; Path=/\r\nContent-Length: 0\r\n\r\n";
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    });
    (format!("http://{address}/"), heads)
}

#[test]
fn kinds_come_by_their_weights_and_cookies_come_back() {
    let mix = "
cookies: true
requests:
  - {name: often, weight: 9, uris: [/a, /b]}
  - {name: seldom, weight: 1, uris: [/c], headers: {X-Kind: seldom}, think: 1ms}
";
    let (url, heads) = listening();
    let summary = run(&Config {
        mix: Some(Arc::new(mix.parse().unwrap())),
        duration: Duration::from_secs(1),
        ..short(&url, EngineKind::Epoll)
    });
    assert!(summary.is_clean(), "{summary}");
    let [often, seldom] = ["often", "seldom"].map(|name| summary.per_kind[name].completed);
    assert_eq!(often + seldom, summary.completed);
    assert!(often > 4 * seldom && seldom > 0, "{summary}");
    let heads = heads.lock().unwrap();
    let with = |text: &str| heads.iter().filter(|head| head.contains(text)).count();
    assert!(with("GET /a ") > 0 && with("GET /b ") > 0);
    assert_eq!(with("GET /c "), with("X-Kind: seldom"));
    // But for the first of each connection.
    assert_eq!(with("Cookie: visit=7\r\n"), heads.len() - 2);
}

#[test]
fn a_log_is_sent_again_as_fast_as_it_is_asked_for() {
    on_each_engine(|engine| {
        let origin = Origin::start(&origin::Config {
            http: vec![ANY],
            ..origin::Config::new(engine)
        })
        .unwrap();
        let line = |second: usize| {
            format!(
                "::1 - - [10/Oct/2025:13:55:{second:02} +0000] \"GET /{second} HTTP/1.1\" 200 5\n"
            )
        };
        let log: String = (0..20).map(|number| line(number / 5)).collect();
        let replay = Replay::read(&log, 8.0).unwrap();
        let summary = run(&Config {
            mode: LoadMode::Replay { speed: 8.0 },
            duration: replay.duration(8.0),
            replay: Some(Arc::new(replay)),
            ..short(&format!("http://{}/", origin.http()[0]), engine)
        });
        assert!(summary.is_clean(), "{summary}");
        assert_eq!(summary.completed, 20);
        assert!(summary.duration_s > 0.25, "{summary}");
    });
}

#[test]
fn as_many_requests_are_made_as_a_changing_rate_says() {
    let origin = Origin::start(&origin::Config {
        http: vec![ANY],
        ..origin::Config::new(EngineKind::Epoll)
    })
    .unwrap();
    let url = format!("http://{}/", origin.http()[0]);
    let ramp = LoadMode::Ramp {
        from_per_s: 100.0,
        to_per_s: 900.0,
    };
    let steps = LoadMode::Steps {
        from_per_s: 200.0,
        to_per_s: 600.0,
        steps: 2,
    };
    for (mode, expected) in [(ramp, 250), (steps, 200)] {
        let summary = run(&Config {
            mode,
            threads: 2,
            duration: Duration::from_millis(500),
            ..short(&url, EngineKind::Epoll)
        });
        assert!(summary.is_clean(), "{summary}");
        assert!(summary.completed.abs_diff(expected) <= 2, "{summary}");
    }
}
