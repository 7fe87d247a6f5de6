//! IPv4, IPv6, from one to the other, both on one listener, and ranges of ports.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};

use crate::harness::{DEADLINE, Lb, free_ports, on_both_engines};
use crate::origin::{self, Session};

on_both_engines!(
    either_family_reaches_the_other,
    a_range_of_ports_is_so_many_listeners,
);

/// An origin on IPv6 that says what it was told about the client.
fn told() -> SocketAddr {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = Vec::new();
            while !line.ends_with(b"\n") {
                let mut byte = [0];
                if stream.read(&mut byte).unwrap_or(0) == 0 {
                    break;
                }
                line.push(byte[0]);
            }
            let _ = stream.write_all(&line);
        }
    });
    address
}

fn either_family_reaches_the_other(engine: &str) {
    let v4 = format!("v4@[::1]:0={}", origin::tcp("four"));
    let both = format!("both@[::]:0={}", told());
    let lb = Lb::start(engine, &["--tcp", &v4]);
    let mut session = Session::open(lb.listener("v4"));
    assert_eq!(session.origin, "four");
    assert!(session.echoes());
    let lb = Lb::start(engine, &["--tcp", &both, "--proxy-out", "v1"]);
    let port = lb.listener("both").port();
    for (to, family) in [
        (SocketAddr::from((Ipv4Addr::LOCALHOST, port)), "TCP4"),
        (SocketAddr::from((Ipv6Addr::LOCALHOST, port)), "TCP6"),
    ] {
        let mut stream = TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let own = stream.local_addr().unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        let (ip, from) = (own.ip(), own.port());
        assert_eq!(
            said,
            format!("PROXY {family} {ip} {} {from} {port}\r\n", to.ip())
        );
    }
}

fn a_range_of_ports_is_so_many_listeners(engine: &str) {
    let origin = origin::tcp("a");
    let ports = free_ports(3);
    let tcp = format!("db@127.0.0.1:{}-{}={origin}", ports[0], ports[2]);
    let lb = Lb::start(engine, &["--tcp", &tcp]);
    for port in ports {
        assert_eq!(lb.listener(&format!("db-{port}")).port(), port);
        assert_eq!(Session::open(([127, 0, 0, 1], port).into()).origin, "a");
    }
}
