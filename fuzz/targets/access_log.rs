//! Any template of a log, and any request and response in its lines: a template is refused or
//! compiled, a line has one line feed, at its end, and a line that is JSON for harmless values is
//! JSON for all.
#![no_main]

#[allow(dead_code)]
#[path = "../shared/alone.rs"]
mod alone;
#[allow(dead_code)]
#[path = "../../lb-l7/tests/simulation/proxy.rs"]
mod proxy;

use std::sync::{Arc, Mutex};

use lb_core::lines::LineSink;
use lb_core::plan::{self, LogFormat};
use lb_l7::{Log, Template};
use libfuzzer_sys::fuzz_target;

const HARMLESS: &[u8] =
    b"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: b\r\nReferer: c\r\nCookie: d=e\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx";

fuzz_target!(|input: &[u8]| {
    let Some((&kind, rest)) = input.split_first() else {
        return;
    };
    let mut parts = rest.splitn(3, |&byte| byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    let (template, request, response) = (part(), part(), part());
    let format = match kind & 3 {
        0 => LogFormat::Json,
        1 => LogFormat::Combined,
        _ => match std::str::from_utf8(template) {
            Ok(text) => LogFormat::Template(text.to_owned()),
            Err(_) => return,
        },
    };
    if Template::compile(&format).is_err() {
        return;
    }
    let response = if response.is_empty() {
        ANSWER
    } else {
        response
    };
    let hostile = lines(&format, request, response);
    for line in &hostile {
        assert!(!line.contains(&b'\r'), "a carriage return in a line");
    }
    let harmless = lines(&format, HARMLESS, ANSWER);
    let [harmless] = harmless.as_slice() else {
        panic!("a request has a line, not {}", harmless.len());
    };
    if is_json(harmless) {
        for line in &hostile {
            assert!(is_json(line), "{}", String::from_utf8_lossy(line));
        }
    }
});

fn is_json(line: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(line).is_ok()
}

#[derive(Default)]
struct Sink(Mutex<Vec<u8>>);

impl LineSink for Sink {
    fn write(&self, mut lines: Vec<u8>) -> Vec<u8> {
        let mut all = self.0.lock().expect("one thread");
        all.append(&mut lines);
        lines
    }
}

/// The lines of one connection, without their ends.
fn lines(format: &LogFormat, request: &[u8], response: &[u8]) -> Vec<Vec<u8>> {
    let http = plan::Http {
        default_cluster: Some("c".to_owned()),
        ..plan::Http::default()
    };
    let sink = Arc::new(Sink::default());
    let log = Log::new("web", &[], format, Arc::clone(&sink) as Arc<dyn LineSink>);
    let log = log.expect("compiled before");
    alone::ask(&http, |service| service.logged(log), request, response);
    let all = sink.0.lock().expect("one thread");
    assert!(all.is_empty() || all.ends_with(b"\n"), "a line without end");
    let lines = all.strip_suffix(b"\n").unwrap_or_default();
    lines
        .split(|&byte| byte == b'\n')
        .filter(|_| !all.is_empty())
        .map(<[u8]>::to_vec)
        .collect()
}
