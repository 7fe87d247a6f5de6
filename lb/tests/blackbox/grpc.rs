//! gRPC: all kinds of calls between a client and a server of `grpcio`, Google's implementation.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::harness::{Lb, on_both_engines, skip};
use crate::python::{python, said};

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
         - {{name: strict, address: '127.0.0.1:0', http: {{limits: {{head: 2KiB, body: 1KiB}}, \
           routes: [{{path: /t.T/Unary, cluster: grpc}}, {{path: /t.T/Denied, answer: 403}}, \
           {{path: /t.T/Away, redirect: {{host: other.example}}}}]}}}}\n\
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
        .arg(lb.listener("strict").to_string())
        .output()
        .unwrap();
    assert!(client.status.success(), "{}", said(&client));
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
