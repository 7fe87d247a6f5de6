//! The PROXY protocol as HAProxy and nginx speak it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::client::Connection;
use crate::harness::{DEADLINE, Folder, Lb, on_both_engines};
use crate::origin::HttpOrigin;
use crate::others::Other;

on_both_engines!(
    haproxy_reads_what_we_pass_on_of_haproxy,
    nginx_reads_what_we_say_of_the_client,
    http_listeners_believe_a_trusted_proxy,
    others_are_refused_and_counted,
);

/// One request: what was answered, and the address that it came from.
fn ask(address: SocketAddr) -> (String, SocketAddr) {
    let stream = TcpStream::connect(address).unwrap();
    let own = stream.local_addr().unwrap();
    (Connection::of(stream).get("/").body, own)
}

/// A client, HAProxy, lb and HAProxy: the last one knows the client.
fn haproxy_reads_what_we_pass_on_of_haproxy(engine: &str) {
    let answer = "http-request return status 200 content-type text/plain lf-string \
                  \"%[src]:%[src_port] %[dst]:%[dst_port]\"";
    let last = Other::haproxy(1, |ports| {
        let port = ports[0];
        format!("frontend last\n  bind 127.0.0.1:{port} accept-proxy\n  {answer}\n")
    });
    let Some(last) = last else { return };
    for (version_in, version_out) in [("", "v1"), ("-v2", "v2"), ("-v2", "v1"), ("", "v2")] {
        let tcp = format!("db@127.0.0.1:0={}", last.addresses[0]);
        let flags = ["--tcp", &tcp, "--proxy-in", "127.0.0.0/8", "--proxy-out"];
        let lb = Lb::start(engine, &[&flags[..], &[version_out]].concat());
        let to = lb.listener("db");
        let first = Other::haproxy(1, |ports| {
            format!(
                "listen first\n  bind 127.0.0.1:{}\n  server lb {to} send-proxy{version_in}\n",
                ports[0]
            )
        });
        let first = first.unwrap();
        let (said, own) = ask(first.addresses[0]);
        assert_eq!(
            said,
            format!("{own} {}", first.addresses[0]),
            "{version_in} {version_out}"
        );
    }
}

fn nginx_reads_what_we_say_of_the_client(engine: &str) {
    let nginx = Other::nginx(1, |_, ports| {
        format!(
            "server {{ listen 127.0.0.1:{} proxy_protocol; location / {{ return 200 \
             \"$proxy_protocol_addr:$proxy_protocol_port $proxy_protocol_server_port\"; }} }}",
            ports[0]
        )
    });
    let Some(nginx) = nginx else { return };
    let yaml = |out: &str| {
        format!(
            "listeners: [{{name: db, address: '127.0.0.1:0', tcp: {{cluster: c, \
             proxy_out: {out}}}}}]\nclusters: {{c: {{backends: ['{}']}}}}\n",
            nginx.addresses[0]
        )
    };
    for out in ["v1", "v2", "{version: v2, checksum: true}"] {
        let folder = Folder::new();
        let lb = Lb::start(engine, &["--config", &folder.write("lb.yaml", &yaml(out))]);
        let address = lb.listener("db");
        let (said, own) = ask(address);
        assert_eq!(said, format!("{own} {}", address.port()), "{out}");
    }
}

fn http_listeners_believe_a_trusted_proxy(engine: &str) {
    let nginx = Other::nginx(1, |_, ports| {
        let port = ports[0];
        let answer = "return 200 \"$http_x_forwarded_for\"";
        format!("server {{ listen 127.0.0.1:{port}; location / {{ {answer}; }} }}")
    });
    let Some(nginx) = nginx else { return };
    let http = format!("web@127.0.0.1:0={}", nginx.addresses[0]);
    let flags = ["--http", &http, "--proxy-in", "127.0.0.1"];
    let lb = Lb::start(engine, &[&flags[..], &["--access-log", "stdout"]].concat());
    let mut stream = TcpStream::connect(lb.listener("web")).unwrap();
    stream
        .write_all(b"PROXY TCP6 2001:db8::7 2001:db8::1 40000 80\r\n")
        .unwrap();
    let mut connection = Connection::of(stream);
    assert_eq!(connection.get("/").body, "2001:db8::7");
    assert_eq!(connection.get("/again").body, "2001:db8::7");
    drop(connection);
    let mut lb = lb;
    let logged = lb.stdout_until(|text| text.lines().count() == 2);
    assert!(
        logged.lines().all(|line| line.contains("2001:db8::7")),
        "{logged}"
    );
}

fn others_are_refused_and_counted(engine: &str) {
    let origin = HttpOrigin::start("a");
    let http = format!("web@127.0.0.1:0={}", origin.address);
    let refused = |lb: &Lb, reason: &str| {
        lb.metric(&format!(
            "lb_client_connections_refused_total{{listener=\"web\",reason=\"{reason}\"}}"
        ))
    };
    let reads_nothing = |address: SocketAddr, bytes: &[u8]| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let _ = stream.write_all(bytes); // it may be reset already
        let error = stream.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    };
    let lb = Lb::start(engine, &["--http", &http, "--proxy-in", "10.0.0.0/8"]);
    reads_nothing(lb.listener("web"), b"");
    assert_eq!(refused(&lb, "untrusted"), 1.0);
    let lb = Lb::start(engine, &["--http", &http, "--proxy-in", "127.0.0.1"]);
    reads_nothing(lb.listener("web"), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(refused(&lb, "proxy"), 1.0);
}
