//! `lb demo`.

use std::collections::HashSet;

use rustix::process::Signal;
use serde_json::Value;

use crate::client::{self, Connection};
use crate::harness::{Lb, on_both_engines, wait_until};
use crate::origin::Session;

on_both_engines!(the_demo_shows_balancing);

fn the_demo_shows_balancing(engine: &str) {
    let mut lb = Lb::start(engine, &["demo", "--http", "0", "--tcp", "0"]);
    let (http, tcp) = (lb.listener("demo-http"), lb.listener("demo-tcp"));
    let told = lb.stdout_until(|text| text.contains("Ctrl-C"));
    for word in [
        &format!("curl http://{http}/"),
        &format!("nc 127.0.0.1 {}", tcp.port()),
    ] {
        assert!(told.contains(word), "no {word:?} in {told}");
    }

    let mut browser = Connection::open(http);
    browser.send("GET / HTTP/1.1\r\nHost: demo\r\nAccept: text/html,*/*\r\n\r\n");
    let page = browser.receive();
    assert_eq!(
        page.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert!(page.body.contains("<title>lb demo</title>"));
    assert!(
        !page.body.contains("http://") && !page.body.contains("https://"),
        "self-contained"
    );

    let whoami = |browser: &mut Connection| {
        let answer = browser.get("/whoami");
        assert_eq!(answer.status, 200);
        let value: Value = serde_json::from_str(&answer.body).unwrap();
        value["origin"].as_str().unwrap().to_owned()
    };
    let seen: HashSet<_> = (0..9).map(|_| whoami(&mut browser)).collect();
    assert_eq!(seen.len(), 3);
    assert!(
        client::get(http, "/").body.contains(" answers, request "),
        "for curl"
    );
    assert!(
        Session::open(tcp)
            .origin
            .ends_with("greets you; what you send comes back")
    );

    let stats = |browser: &mut Connection| -> Value {
        serde_json::from_str(&browser.get("/demo/stats").body).unwrap()
    };
    let requests = |stats: &Value| -> u64 {
        let origins = stats["origins"].as_array().unwrap();
        origins
            .iter()
            .map(|origin| origin["requests"].as_u64().unwrap())
            .sum()
    };
    assert!(requests(&stats(&mut browser)) >= 10);

    browser.send("POST /demo/stop/origin-2 HTTP/1.1\r\nHost: demo\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(browser.receive().status, 200);
    let healthy =
        |browser: &mut Connection| stats(browser)["origins"][1]["healthy"].as_bool().unwrap();
    wait_until("origin-2 to be seen down", || !healthy(&mut browser));
    let seen: HashSet<_> = (0..9).map(|_| whoami(&mut browser)).collect();
    assert_eq!(
        seen,
        HashSet::from(["origin-1".to_owned(), "origin-3".to_owned()])
    );
    browser.send("POST /demo/start/origin-2 HTTP/1.1\r\nHost: demo\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(browser.receive().status, 200);
    wait_until("origin-2 to be back", || healthy(&mut browser));

    lb.signal(Signal::INT);
    lb.event("drained");
}
