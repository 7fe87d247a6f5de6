//! Other people's clients.

use std::process::Command;

use crate::harness::{Lb, on_both_engines, skip};
use crate::origin::HttpOrigin;

on_both_engines!(curl_gets_through);

fn curl_gets_through(engine: &str) {
    let origin = HttpOrigin::start("answer");
    let http = format!("web@127.0.0.1:0={}", origin.address);
    let lb = Lb::start(engine, &["--http", &http]);
    let url = format!("http://{}/", lb.listener("web"));
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--fail",
        "--max-time",
        "30",
        "--noproxy",
        "*",
    ]);
    let Ok(output) = curl.args([&url, &url]).output() else {
        return skip("curl not installed");
    };
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.stdout, b"answeranswer");
}
