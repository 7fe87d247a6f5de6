//! WebSockets through the built program, between a client and a server of the package `websockets`.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::Signal;

use crate::harness::{Folder, Lb, on_both_engines, skip};
use crate::origin::HttpOrigin;
use crate::python::python;

on_both_engines!(
    messages_go_both_ways_and_survive_a_change,
    the_drain_deadline_cuts_them,
);

/// A script with its output; killed on drop.
struct Script {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Script {
    fn start(text: &str, argument: &str) -> Option<Self> {
        let python = match python() {
            Ok(python) => python,
            Err(reason) => {
                skip(reason);
                return None;
            }
        };
        let mut child = Command::new(python)
            .args(["-c", text, argument])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Some(Self { child, lines })
    }

    fn server() -> Option<(Self, SocketAddr)> {
        let mut server = Self::start(include_str!("websocket_server.py"), "")?;
        let port: u16 = server.line().parse().unwrap();
        Some((server, SocketAddr::from(([127, 0, 0, 1], port))))
    }

    fn client(address: SocketAddr) -> Option<Self> {
        let uri = format!("ws://{address}/chat?a=b");
        Self::start(include_str!("websocket_client.py"), &uri)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Tells the client to go on to its end.
    fn go_on(&mut self) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(b"\n").unwrap();
        stdin.flush().unwrap();
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn config(backend: SocketAddr) -> String {
    format!(
        "listeners:\n  - {{name: web, address: '127.0.0.1:0', http: {{cluster: web}}}}\n\
         clusters:\n  web: {{backends: ['{backend}']}}\n"
    )
}

fn messages_go_both_ways_and_survive_a_change(engine: &str) {
    let Some((_server, backend)) = Script::server() else {
        return;
    };
    let folder = Folder::new();
    let path = folder.write("lb.yaml", &config(backend));
    let lb = Lb::start(engine, &["--config", &path]);
    let Some(mut client) = Script::client(lb.listener("web")) else {
        return;
    };
    assert_eq!(client.line(), "talked");
    assert_eq!(lb.metric("lb_upgrades_active{listener=\"web\"}"), 1.0);

    let other = HttpOrigin::start("other");
    folder.write("lb.yaml", &config(other.address));
    lb.wait_for_generation(2);
    client.go_on();
    assert_eq!(
        client.line(),
        "closed",
        "it goes on with the backend that it began with"
    );
    assert_eq!(lb.metric("lb_upgrades_total{listener=\"web\"}"), 1.0);
}

fn the_drain_deadline_cuts_them(engine: &str) {
    let Some((_server, backend)) = Script::server() else {
        return;
    };
    let http = format!("web@127.0.0.1:0={backend}");
    let lb = Lb::start(engine, &["--http", &http, "--drain-timeout", "300ms"]);
    let Some(mut client) = Script::client(lb.listener("web")) else {
        return;
    };
    assert_eq!(client.line(), "talked");
    lb.signal(Signal::TERM);
    let cut = lb.event("connections are cut");
    assert_eq!(cut["connections"], "1");
    assert_eq!(lb.wait().0.code(), Some(0));
}
