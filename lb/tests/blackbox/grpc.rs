//! gRPC: all kinds of calls between a client and a server of `grpcio`, Google's implementation.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use crate::harness::{Lb, on_both_engines, skip};

on_both_engines!(calls_of_every_kind_pass);

const PEER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/blackbox/grpc_peer.py");

fn calls_of_every_kind_pass(engine: &str) {
    let python = match python() {
        Ok(python) => python,
        Err(reason) => return skip(reason),
    };
    let server = Server::start(python);
    let gone = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let text = format!(
        "listeners:\n\
         - {{name: calls, address: '127.0.0.1:0', http: {{cluster: grpc}}}}\n\
         - {{name: dead, address: '127.0.0.1:0', http: {{cluster: gone}}}}\n\
         clusters:\n  \
           grpc: {{protocol: http2, backends: ['127.0.0.1:{}']}}\n  \
           gone: {{protocol: http2, backends: ['{gone}']}}\n",
        server.port
    );
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("grpc-{engine}.yaml"));
    std::fs::write(&file, text).unwrap();
    let lb = Lb::start(engine, &["--config", file.to_str().unwrap()]);
    let client = Command::new(python)
        .args([PEER, "client"])
        .arg(lb.listener("calls").to_string())
        .arg(lb.listener("dead").to_string())
        .output()
        .unwrap();
    assert!(client.status.success(), "{}", said(&client));
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr]
        .map(|it| String::from_utf8_lossy(it).into_owned())
        .concat()
}

/// A server; killed on drop.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(python: &Path) -> Self {
        let mut command = Command::new(python);
        let command = command.args([PEER, "server"]).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let port = line.trim().parse().unwrap();
        Self { child, port }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A Python that has `grpcio`, made once and kept with what else was built.
fn python() -> Result<&'static Path, &'static str> {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let python = PYTHON.get_or_init(make_python);
    python.as_deref().map_err(String::as_str)
}

fn make_python() -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("grpcio");
    let python = folder.join("bin/python");
    let has_grpc = || run(Command::new(&python).args(["-c", "import grpc"]));
    if has_grpc().is_ok() {
        return Ok(python);
    }
    run(Command::new("python3")
        .args(["-m", "venv", "--clear"])
        .arg(&folder))
    .and_then(|()| {
        let pip = [
            "-m",
            "pip",
            "install",
            "--quiet",
            "--only-binary=:all:",
            "grpcio",
        ];
        run(Command::new(&python).args(pip))
    })
    .and_then(|()| has_grpc())
    .map_err(|reason| format!("no grpcio from PyPI: {reason}"))?;
    Ok(python)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(said(&output)),
    }
}
