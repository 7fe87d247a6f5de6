//! Other people's clients.

use std::process::Command;

use crate::harness::{Folder, Lb, on_both_engines, skip};
use crate::http2::mirror;
use crate::origin::HttpOrigin;
use crate::python::{python, said};

on_both_engines!(
    curl_gets_through,
    wrk_gets_through,
    the_package_h2_gets_through,
);

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

/// `lb` before `backend`, in the clear and over TLS.
fn both_ways(engine: &str, backend: std::net::SocketAddr) -> Lb {
    let folder = Folder::new();
    let names = vec!["test.example".to_owned()];
    let own = rcgen::generate_simple_self_signed(names).unwrap();
    let pem = [own.signing_key.serialize_pem(), own.cert.pem()].concat();
    let pem = folder.write("it.pem", &pem);
    let config = format!(
        "listeners:\n- {{name: plain, address: '127.0.0.1:0', http: {{cluster: c}}}}\n\
         - {{name: tls, address: '127.0.0.1:0', http: {{cluster: c, tls: {{certificate: '{pem}'}}}}}}\n\
         clusters: {{c: {{backends: ['{backend}']}}}}\n"
    );
    Lb::start(engine, &["--config", &folder.write("lb.yaml", &config)])
}

fn wrk_gets_through(engine: &str) {
    let origin = HttpOrigin::start("answer");
    let lb = both_ways(engine, origin.address);
    let urls = [
        format!("http://{}/", lb.listener("plain")),
        format!("https://{}/", lb.listener("tls")),
    ];
    for url in urls {
        let mut wrk = Command::new("wrk");
        let Ok(output) = wrk.args(["-t", "1", "-c", "8", "-d", "1s", &url]).output() else {
            return skip("wrk not installed");
        };
        let said = said(&output);
        assert!(output.status.success(), "{said}");
        // It tells of errors and of other answers only if there are any.
        assert!(
            said.contains("requests in") && !said.contains(" 0 requests in"),
            "{said}"
        );
        assert!(
            !said.contains("Socket errors") && !said.contains("Non-2xx"),
            "{said}"
        );
    }
}

fn the_package_h2_gets_through(engine: &str) {
    let python = match python() {
        Ok(python) => python,
        Err(reason) => return skip(reason),
    };
    let lb = both_ways(engine, mirror());
    for (listener, how) in [("plain", "plain"), ("tls", "tls")] {
        let output = Command::new(python)
            .args(["-c", include_str!("http2_client.py")])
            .args([&lb.listener(listener).to_string(), how])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", said(&output));
        assert!(said(&output).contains("all answered"));
    }
}
