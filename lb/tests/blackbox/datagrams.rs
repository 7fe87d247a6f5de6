//! UDP as a user sees it.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{DEADLINE, Folder, Lb, on_both_engines, output, skip, wait_until};
use crate::origin::{self, Session};

on_both_engines!(
    clients_stay_with_their_backend_and_others_go_elsewhere,
    the_answer_comes_from_the_address_that_was_asked,
    names_are_looked_up,
    tcp_and_udp_share_an_address,
    flows_stay_over_a_reload_while_their_backend_does,
    a_listener_goes_and_comes_back,
    what_nobody_takes_goes_elsewhere,
    what_is_above_the_limit_is_counted,
    the_process_ends_when_its_flows_are_over,
);

/// A backend that answers `name:` and what it was sent.
fn echo(name: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 65_536];
        while let Ok((len, client)) = socket.recv_from(&mut buffer) {
            let answer = [name.as_bytes(), b":", &buffer[..len]].concat();
            let _ = socket.send_to(&answer, client);
        }
    });
    address
}

fn client(server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// An address that no other test has: of this process's own part of the loopback network.
fn own_address() -> SocketAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    let socket = UdpSocket::bind(SocketAddr::from(([127, high, low, 9], 0)));
    socket.unwrap().local_addr().unwrap()
}

/// Asks, and returns the name of the backend that answers.
fn ask(client: &UdpSocket) -> String {
    client.send(b"?").unwrap();
    answer(client).expect("an answer")
}

fn answer(client: &UdpSocket) -> Option<String> {
    let text = receive(client)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    text.split(':').next().map(str::to_owned)
}

/// A datagram, if one comes in time. A receive with a deadline is not begun again by itself when
/// it is interrupted, as it is when a ring of its thread closes.
fn receive(client: &UdpSocket) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 65_536];
    loop {
        match client.recv(&mut buffer) {
            Ok(len) => return Some(buffer[..len].to_vec()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

/// Asks until an answer comes, of which the first question has no chance.
fn ask_again(client: &UdpSocket) -> String {
    client
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let mut found = None;
    wait_until("an answer", || {
        client.send(b"?").unwrap();
        found = answer(client);
        found.is_some()
    });
    found.unwrap()
}

fn start(engine: &str, backends: &[SocketAddr]) -> Lb {
    let backends: Vec<_> = backends.iter().map(SocketAddr::to_string).collect();
    let flag = format!("echo@127.0.0.1:0={}", backends.join(","));
    Lb::start(engine, &["--udp", &flag])
}

fn clients_stay_with_their_backend_and_others_go_elsewhere(engine: &str) {
    let lb = start(engine, &[echo("a"), echo("b")]);
    let front = lb.listener("echo");
    // All at once: a client that has gone may leave its port, and so its flow, to the next.
    let clients: Vec<_> = (0..16).map(|_| client(front)).collect();
    let stays = |client| {
        let name = ask(client);
        assert!((0..3).all(|_| ask(client) == name));
        name
    };
    let seen: Vec<_> = clients.iter().map(stays).collect();
    assert!(seen.contains(&"a".to_owned()) && seen.contains(&"b".to_owned()));
    assert_eq!(
        lb.metric("lb_client_connections_total{listener=\"echo\"}"),
        16.0
    );
    assert_eq!(
        lb.metric("lb_udp_sent_datagrams_total{listener=\"echo\"}"),
        64.0
    );
}

fn the_answer_comes_from_the_address_that_was_asked(engine: &str) {
    let backend = echo("a").to_string();
    for wildcard in ["0.0.0.0:0", "[::]:0"] {
        let lb = Lb::start(engine, &["--udp", &format!("echo@{wildcard}={backend}")]);
        let port = lb.listener("echo").port();
        for ip in [[127, 0, 0, 1], [127, 0, 0, 2]] {
            assert_eq!(ask(&client((ip, port).into())), "a"); // it hears nobody else
        }
        if wildcard.starts_with('[') {
            let client = UdpSocket::bind("[::1]:0").unwrap();
            client.connect(("::1", port)).unwrap();
            client.set_read_timeout(Some(DEADLINE)).unwrap();
            assert_eq!(ask(&client), "a", "from the other family");
        }
    }
}

/// A server that knows the one name `balanced.test`, at 192.0.2.7 (RFC 1035).
fn name_server() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((len, client)) = socket.recv_from(&mut buffer) {
            // The question, without what else the query has (EDNS).
            let name_end = 12 + buffer[12..len].iter().position(|&byte| byte == 0).unwrap() + 1;
            let mut reply = buffer[..name_end + 4].to_vec();
            reply[2..4].copy_from_slice(&[0x85, 0x80]); // an answer, authoritative
            reply[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
            reply.extend([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
            let _ = socket.send_to(&reply, client);
        }
    });
    address
}

fn names_are_looked_up(engine: &str) {
    let folder = Folder::new();
    let text = format!(
        "listeners:\n  - {{name: dns, address: '127.0.0.1:0', udp: {{cluster: dns, replies: 1}}}}\n\
         clusters: {{dns: {{backends: ['{}', '{}']}}}}\n",
        name_server(),
        name_server(),
    );
    let lb = Lb::start(engine, &["--config", &folder.write("lb.yaml", &text)]);
    let front = lb.listener("dns");
    let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\
                  \x08balanced\x04test\x00\x00\x01\x00\x01";
    for _ in 0..10 {
        let client = client(front);
        client.send(query).unwrap();
        let reply = receive(&client).expect("a reply");
        assert_eq!(reply[..2], query[..2]);
        assert!(reply.ends_with(&[192, 0, 2, 7]));
    }
    wait_until("flows that are answered to be over", || {
        lb.metric("lb_udp_flows_total{listener=\"dns\",end=\"answered\"}") == 10.0
            && lb.metric("lb_client_connections_active{listener=\"dns\"}") == 0.0
    });
    dig(front);
}

/// Other people's resolver.
fn dig(server: SocketAddr) {
    let port = server.port().to_string();
    let words = [
        "@127.0.0.1",
        "-p",
        &port,
        "+short",
        "+tries=1",
        "balanced.test",
    ];
    match Command::new("dig").args(words).output() {
        Ok(output) => assert_eq!(String::from_utf8_lossy(&output.stdout), "192.0.2.7\n"),
        Err(error) => skip(&format!("dig (of bind9-dnsutils): {error}")),
    }
}

fn tcp_and_udp_share_an_address(engine: &str) {
    let address = own_address();
    let (tcp, udp) = (origin::tcp("t"), echo("u"));
    let flags = [format!("{address}={tcp}"), format!("{address}={udp}")];
    let lb = Lb::start(engine, &["--tcp", &flags[0], "--udp", &flags[1]]);
    assert_eq!(lb.listener(&format!("{address}/udp")), address);
    assert_eq!(Session::open(address).origin, "t");
    assert_eq!(ask(&client(address)), "u");
    let config = lb.config().to_string();
    assert!(config.contains("flows_max"), "{config}");
    let taken = format!("{address}=127.0.0.1:9");
    let second = output(&["--udp", &taken, "--admin", "off"]);
    let error = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(
        !second.status.success() && error.contains("ss -lunp"),
        "{error}"
    );
}

fn config(backends: &[SocketAddr], is_udp: bool) -> String {
    let backends: Vec<_> = backends.iter().map(|it| format!("'{it}'")).collect();
    let udp = "  - {name: echo, address: '127.0.0.1:0', udp: {cluster: c}}\n";
    format!(
        "listeners:\n  - {{name: other, address: '127.0.0.1:0', tcp: {{cluster: c}}}}\n{}\
         clusters: {{c: {{backends: [{}]}}}}\n",
        if is_udp { udp } else { "" },
        backends.join(", ")
    )
}

fn flows_stay_over_a_reload_while_their_backend_does(engine: &str) {
    let (a, b) = (echo("a"), echo("b"));
    let folder = Folder::new();
    let path = folder.write("lb.yaml", &config(&[a], true));
    let lb = Lb::start(engine, &["--config", &path]);
    let client = client(lb.listener("echo"));
    assert_eq!(ask(&client), "a");
    folder.replace("lb.yaml", &config(&[b, a], true));
    lb.wait_for_generation(2);
    assert!((0..5).all(|_| ask(&client) == "a"));
    folder.replace("lb.yaml", &config(&[b], true));
    lb.wait_for_generation(3);
    assert!((0..5).all(|_| ask(&client) == "b"), "at once");
    assert_eq!(
        lb.metric("lb_client_connections_total{listener=\"echo\"}"),
        1.0
    );
    assert_eq!(
        lb.metric("lb_udp_flows_moved_total{listener=\"echo\"}"),
        1.0
    );
}

fn a_listener_goes_and_comes_back(engine: &str) {
    let a = echo("a");
    let folder = Folder::new();
    let text = |is_udp| {
        config(&[a], is_udp).replace("echo, address: '127.0.0.1:0'", "echo, address: 'PORT'")
    };
    let port = own_address();
    let text = |is_udp| text(is_udp).replace("PORT", &port.to_string());
    let lb = Lb::start(engine, &["--config", &folder.write("lb.yaml", &text(true))]);
    let first = client(port);
    assert_eq!(ask(&first), "a");
    folder.replace("lb.yaml", &text(false));
    lb.wait_for_generation(2);
    assert_eq!(ask(&first), "a", "a flow goes on");
    let late = client(port);
    late.set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let _ = late.send(b"?");
    assert_eq!(answer(&late), None, "none begins");
    folder.replace("lb.yaml", &text(true));
    lb.wait_for_generation(3);
    for _ in 0..16 {
        assert_eq!(ask(&client(port)), "a", "whichever worker it comes to");
    }
}

fn what_nobody_takes_goes_elsewhere(engine: &str) {
    let gone = UdpSocket::bind("127.0.0.1:0").unwrap();
    let nobody = gone.local_addr().unwrap();
    drop(gone);
    let lb = start(engine, &[nobody, echo("a")]);
    let front = lb.listener("echo");
    for _ in 0..8 {
        assert_eq!(ask_again(&client(front)), "a");
    }
    let failures = format!(
        "lb_backend_connect_failures_total{{cluster=\"echo\",backend=\"{nobody}\",address=\"{nobody}\"}}"
    );
    assert!(lb.metric(&failures) > 0.0);
}

fn what_is_above_the_limit_is_counted(engine: &str) {
    let folder = Folder::new();
    let text = config(&[echo("a")], true).replace(
        "cluster: c}}\nc",
        "cluster: c, flows_per_source_max: 1}}\nc",
    );
    let lb = Lb::start(engine, &["--config", &folder.write("lb.yaml", &text)]);
    let front = lb.listener("echo");
    // Two workers, one flow each; of three clients two are on the same.
    let clients: Vec<_> = (0..3).map(|_| client(front)).collect();
    for client in &clients {
        client.send(b"?").unwrap();
    }
    wait_until("the third to be shed", || {
        let shed = "lb_udp_flows_shed_total{listener=\"echo\",reason=\"source\"}";
        lb.metric(shed) >= 1.0
    });
    assert!(lb.metric("lb_client_connections_active{listener=\"echo\"}") <= 2.0);
}

fn the_process_ends_when_its_flows_are_over(engine: &str) {
    let lb = start(engine, &[echo("a")]);
    let client = client(lb.listener("echo"));
    assert_eq!(ask(&client), "a");
    lb.signal(Signal::TERM);
    lb.event("draining");
    // The worker without a flow closes its socket at once. The kernel takes that out of the group
    // before it takes it out of the table: what comes between the two is lost in it
    // (udp_lib_unhash), so clients ask again, as they always must.
    client
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let asked = (0..6).find_map(|_| {
        client.send(b"?").unwrap();
        answer(&client)
    });
    assert_eq!(asked.as_deref(), Some("a"), "the flow goes on meanwhile");
    lb.event("drained");
    assert!(lb.wait().0.success());
}
