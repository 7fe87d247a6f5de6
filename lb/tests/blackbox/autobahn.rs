//! The cases of Autobahn's WebSocket test suite through `lb`: each ends as it does without.
//!
//! An ordinary run leaves out the chapters that only measure, and sends few messages where the suite
//! sends a thousand; `LB_AUTOBAHN=all cargo test -p lb --test blackbox autobahn -- --nocapture` does all
//! of it and prints how the cases ended (some minutes).
//! Read next: `autobahn.py` (the cases, from PyPI), `websocket.rs` (frames byte for byte).

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use crate::harness::{Folder, Lb, on_both_engines, skip};
use crate::python::{python_with_autobahn, said};

on_both_engines!(cases_end_as_without_a_proxy);

const SCRIPT: &str = include_str!("autobahn.py");
/// Chapters, and messages of a case that only sends many.
const ORDINARY: [&str; 2] = ["1,2,3,4,5,6,7,9.1,9.2,10,12.1,13", "5"];
const ALL: [&str; 2] = ["1,2,3,4,5,6,7,9,10,12,13", "1000"];

fn cases_end_as_without_a_proxy(engine: &str) {
    let suite = python_with_autobahn().and_then(|python| Ok((python, suite(python)?)));
    let (python, suite) = match suite {
        Ok(both) => both,
        Err(reason) => return skip(reason),
    };
    let server = Server::start(python);
    let backend = server.address;
    let folder = Folder::new();
    let own = rcgen::generate_simple_self_signed(vec!["test.example".to_owned()]).unwrap();
    let pem = [own.signing_key.serialize_pem(), own.cert.pem()].concat();
    let pem = folder.write("it.pem", &pem);
    let config = format!(
        "listeners:\n- {{name: plain, address: '127.0.0.1:0', http: {{cluster: c}}}}\n\
         - {{name: tls, address: '127.0.0.1:0', http: {{cluster: c, tls: {{certificate: '{pem}'}}}}}}\n\
         clusters: {{c: {{backends: ['{backend}']}}}}\n"
    );
    let lb = Lb::start(engine, &["--config", &folder.write("lb.yaml", &config)]);
    let (plain, tls) = (lb.listener("plain"), lb.listener("tls"));
    let urls = [
        format!("ws://{backend}/"),
        format!("ws://{plain}/"),
        format!("wss://{tls}/"),
    ];
    let all = std::env::var("LB_AUTOBAHN").is_ok_and(|value| value == "all");
    // Its converted cases are this run's own, so that none reads what another is writing.
    let own = folder.path("cases");
    std::fs::create_dir(&own).unwrap();
    let output = Command::new(python)
        .args(["-c", SCRIPT, "run"])
        .args([suite, Path::new(&own)])
        .args(if all { ALL } else { ORDINARY })
        .args(urls)
        .output()
        .unwrap();
    println!("{engine}: {}", said(&output));
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains(" 0 not as without it"));
}

/// The folder with the suite, fetched once.
fn suite(python: &Path) -> Result<&'static Path, &'static str> {
    static SUITE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let suite = SUITE.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("autobahn-suite");
        let is_there = folder.join("complete");
        if is_there.is_file() {
            return Ok(folder);
        }
        std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let mut fetch = Command::new(python);
        fetch.args(["-c", SCRIPT, "fetch"]).arg(&folder);
        let output = fetch.output().map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(format!("no autobahntestsuite from PyPI: {}", said(&output)));
        }
        std::fs::write(is_there, "").map_err(|error| error.to_string())?;
        Ok(folder)
    });
    suite.as_deref().map_err(String::as_str)
}

/// An echo server of the package `autobahn`; killed on drop.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(python: &Path) -> Self {
        let mut child = Command::new(python)
            .args(["-c", SCRIPT, "serve"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut port = String::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        lines.read_line(&mut port).unwrap();
        let port: u16 = port.trim().parse().expect("the server's port");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Self { child, address }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
