//! Every kind of WebSocket frame through `lb`, right and wrong ones, compared byte for byte with a
//! direct connection to the same server of the package `websockets`.
//!
//! Read next: `websocket_frames.py` (the cases), `autobahn.rs` (Autobahn's), `upgrades.rs` (what else can
//! happen to tunnels).

use std::process::Command;

use crate::harness::{Folder, Lb, on_both_engines};
use crate::python::{python, said};
use crate::upgrades::Script;

on_both_engines!(frames_pass_as_they_are);

fn frames_pass_as_they_are(engine: &str) {
    let Some((_server, backend)) = Script::server() else {
        return;
    };
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
    let config = folder.write("lb.yaml", &config);
    let lb = Lb::start(engine, &["--config", &config]);
    let addresses = [backend, lb.listener("plain"), lb.listener("tls")];
    let output = Command::new(python().expect("it runs the server"))
        .args(["-c", include_str!("websocket_frames.py")])
        .args(addresses.map(|it| it.to_string()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("all as without a proxy"));
}
