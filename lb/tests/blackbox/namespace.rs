//! Where backend connections come from, in a network namespace of the test's own: the client's
//! address, another address, a mark that a routing rule asks for.
//!
//! Invariant: a test starts itself again inside of a new namespace, so nothing of the machine's
//! network is changed.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use rustix::process::Signal;

use crate::harness::{DEADLINE, Folder, Lb, on_both_engines, skip};
use crate::origin::{HttpOrigin, Session};

on_both_engines!(
    backends_see_the_client,
    a_mark_and_a_device_are_used,
    source_ports_run_out,
    the_kernel_shows_what_was_set,
    bytes_come_with_the_first_packet,
    who_acknowledges_nothing_is_given_up,
    cluster_addresses_are_local_while_they_are_served,
);

/// Set inside of the namespace.
const INSIDE: &str = "LB_TEST_NAMESPACE";

/// Whether the test goes on here: inside of a namespace. Outside it runs itself inside.
pub(crate) fn is_inside(engine: &str, module: &str, test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let unshare = |program: &str| {
        let mut command = Command::new("unshare");
        command.args(["--net", program]);
        command
    };
    let possible = unshare("true")
        .output()
        .is_ok_and(|output| output.status.success());
    if !possible || Command::new("ip").arg("-V").output().is_err() {
        skip("no right to make a network namespace, or no ip command");
        return false;
    }
    let program = std::env::current_exe().unwrap();
    let mut inside = unshare(program.to_str().unwrap());
    inside.env(INSIDE, "1");
    inside.args([
        "--exact",
        "--nocapture",
        &format!("{module}::{engine}::{test}"),
    ]);
    let output = inside.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{said}"
    );
    false
}

pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {said}");
}

/// The routes that lb made.
fn routes() -> String {
    let mut command = Command::new("ip");
    let output = command.args(["route", "show", "table", "local", "proto", "76"]);
    String::from_utf8(output.output().unwrap().stdout).unwrap()
}

fn cluster_addresses_are_local_while_they_are_served(engine: &str) {
    if !is_inside(
        engine,
        "namespace",
        "cluster_addresses_are_local_while_they_are_served",
    ) {
        return;
    }
    ip("link set lo up");
    let origin = HttpOrigin::start("origin");
    let service = |address: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{clusterIP: {address}, \
             ports: [{{port: 80}}]}}\n---\napiVersion: discovery.k8s.io/v1\nkind: \
             EndpointSlice\nmetadata: {{name: web-1, labels: {{kubernetes.io/service-name: \
             web}}}}\naddressType: IPv4\nports: [{{port: {}}}]\nendpoints: [{{addresses: \
             [127.0.0.1]}}]\n",
            origin.address.port()
        )
    };
    let folder = Folder::new();
    folder.write("web.yaml", &service("10.96.0.10"));
    let path = folder.as_ref().to_str().unwrap();
    let flags = ["--manifests", path, "--cluster-ips", "--healthz", "off"];
    let answers = |address: &str| {
        let address = format!("{address}:80").parse().unwrap();
        assert_eq!(crate::client::get(address, "/").body, "origin");
    };
    let lb = Lb::start(engine, &flags);
    answers("10.96.0.10");
    assert!(routes().contains("10.96.0.10"), "{}", routes());
    folder.write("web.yaml", &service("10.96.0.11"));
    crate::harness::wait_until("the next address", || routes().contains("10.96.0.11"));
    crate::harness::wait_until("the end of the first", || !routes().contains("10.96.0.10"));
    answers("10.96.0.11");
    lb.signal(Signal::TERM);
    assert!(lb.wait().0.success());
    assert_eq!(routes(), "", "the routes end with the process");

    drop(Lb::start(engine, &flags)); // killed
    assert!(routes().contains("10.96.0.11"));
    folder.write("web.yaml", &service("10.96.0.12"));
    let _lb = Lb::start(engine, &flags);
    answers("10.96.0.12");
    assert!(!routes().contains("10.96.0.11"), "{}", routes());
}

fn configuration(backend: SocketAddr, edge: &str, socket: &str) -> String {
    format!(
        "listeners:\n- name: db\n  address: 127.0.0.1:0\n{edge}  tcp: {{cluster: c, \
         backend_socket: {socket}}}\nclusters: {{c: {{backends: ['{backend}'], tries: 1, \
         connect_timeout: 5s}}}}\n"
    )
}

fn start(engine: &str, folder: &Folder, text: &str) -> Lb {
    Lb::start(engine, &["--config", &folder.write("lb.yaml", text)])
}

fn backends_see_the_client(engine: &str) {
    if !is_inside(engine, "namespace", "backends_see_the_client") {
        return;
    }
    ip("link set lo up");
    ip("address add 10.8.0.1/32 dev lo");
    ip("address add 10.8.0.2/32 dev lo");
    // What the backend answers, to whomever, comes back to this machine.
    ip("rule add from 10.8.0.1 lookup 100");
    ip("route add local default dev lo table 100");
    let backend = TcpListener::bind("10.8.0.1:0").unwrap();
    let address = backend.local_addr().unwrap();
    let folder = Folder::new();
    let proxied = "  proxy_in: {trusted: [127.0.0.1]}\n";
    let lb = start(
        engine,
        &folder,
        &configuration(address, proxied, "{source: client}"),
    );
    let mut client = TcpStream::connect(lb.listener("db")).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client
        .write_all(b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\nquestion")
        .unwrap();
    let (mut server, peer) = backend.accept().unwrap();
    assert_eq!(peer.ip().to_string(), "192.0.2.7");
    let mut question = [0; 8];
    server.read_exact(&mut question).unwrap();
    assert_eq!(&question, b"question");
    server.write_all(b"answer").unwrap();
    let mut answer = [0; 6];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"answer");

    let socket = "{source: 10.8.0.2, ports: 40000-40009}";
    let lb = start(engine, &folder, &configuration(address, "", socket));
    let _client = TcpStream::connect(lb.listener("db")).unwrap();
    let (_server, peer) = backend.accept().unwrap();
    assert_eq!(peer.ip().to_string(), "10.8.0.2");
    assert!((40_000..=40_009).contains(&peer.port()), "{peer}");
}

fn a_mark_and_a_device_are_used(engine: &str) {
    if !is_inside(engine, "namespace", "a_mark_and_a_device_are_used") {
        return;
    }
    ip("link set lo up");
    ip("address add 10.8.0.1/32 dev lo");
    // The rule that looks at marks stands before the one for this machine's own addresses.
    ip("rule add pref 200 lookup local");
    ip("rule del pref 0");
    ip("rule add pref 100 fwmark 42 prohibit");
    let backend = TcpListener::bind("10.8.0.1:0").unwrap();
    let address = backend.local_addr().unwrap();
    let folder = Folder::new();
    for (socket, is_let_through) in [
        ("{mark: 42}", false),
        ("{mark: 43, device: lo}", true),
        ("{}", true),
    ] {
        let lb = start(engine, &folder, &configuration(address, "", socket));
        let client = TcpStream::connect(lb.listener("db"));
        if is_let_through {
            drop(backend.accept().unwrap());
            continue;
        }
        // It may be reset before we are told that we were connected.
        if let Ok(mut client) = client {
            client.set_read_timeout(Some(DEADLINE)).unwrap();
            client.read(&mut [0]).unwrap_err();
        }
        let series = "lb_sessions_total{listener=\"db\",end=\"unavailable\"}";
        crate::harness::wait_until("the failure", || lb.metric(series) == 1.0);
    }
}

fn source_ports_run_out(engine: &str) {
    if !is_inside(engine, "namespace", "source_ports_run_out") {
        return;
    }
    ip("link set lo up");
    let backend = crate::origin::tcp("a");
    let folder = Folder::new();
    let socket = "{ports: 40000-40001}";
    let text =
        configuration(backend, "", socket).replace("connect_timeout: 5s", "connect_timeout: 1s");
    let lb = start(engine, &folder, &text);
    let address = lb.listener("db");
    let mut sessions = [Session::open(address), Session::open(address)];
    assert!(Session::try_open(address).is_none());
    let series = "lb_sessions_total{listener=\"db\",end=\"resources\"}";
    crate::harness::wait_until("its end", || lb.metric(series) == 1.0);
    assert!(sessions.iter_mut().all(Session::echoes));
}

/// What `ss` says of sockets.
fn sockets(arguments: &str) -> String {
    let output = Command::new("ss").args(arguments.split(' ')).output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

fn the_kernel_shows_what_was_set(engine: &str) {
    if !is_inside(engine, "namespace", "the_kernel_shows_what_was_set") {
        return;
    }
    if Command::new("ss").arg("-V").output().is_err() {
        return skip("ss (of iproute2) not installed");
    }
    ip("link set lo up");
    let backend = crate::origin::tcp("a");
    let folder = Folder::new();
    let edge = "  socket: {backlog: 77, defer_accept: 5s, fast_open: 5, congestion: reno, \
                keep_alive: {idle: 500s}}\n";
    let socket = "{source: 127.0.0.9, keep_alive: {idle: 900s}, congestion: reno}";
    let lb = start(engine, &folder, &configuration(backend, edge, socket));
    let address = lb.listener("db");
    let listening = sockets(&format!("-Htlni sport = :{}", address.port()));
    let of_workers = listening.matches(" 77 ").count();
    assert_eq!(
        (of_workers, listening.matches("reno").count()),
        (2, 2),
        "{listening}"
    );

    let accepted = || lb.metric("lb_client_connections_total{listener=\"db\"}");
    let mut silent = TcpStream::connect(address).unwrap();
    let mut speaking = TcpStream::connect(address).unwrap();
    speaking.set_read_timeout(Some(DEADLINE)).unwrap();
    speaking.write_all(b"x").unwrap();
    speaking.read_exact(&mut [0]).unwrap();
    assert_eq!(accepted(), 1.0, "who says nothing is not accepted yet");
    silent.write_all(b"y").unwrap();
    crate::harness::wait_until("the second", || accepted() == 2.0);

    let ours = sockets(&format!(
        "-Htnoi state established sport = :{}",
        address.port()
    ));
    assert_eq!(ours.matches("reno").count(), 2, "{ours}");
    assert_eq!(ours.matches("timer:(keepalive,8min").count(), 2, "{ours}");
    let to_backend = sockets("-Htnoi state established src 127.0.0.9");
    assert_eq!(
        to_backend.matches("timer:(keepalive,1").count(),
        2,
        "{to_backend}"
    );
    assert_eq!(to_backend.matches("reno").count(), 2, "{to_backend}");
}

fn bytes_come_with_the_first_packet(engine: &str) {
    if !is_inside(engine, "namespace", "bytes_come_with_the_first_packet") {
        return;
    }
    ip("link set lo up");
    std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", "3").unwrap();
    let origin = HttpOrigin::start("origin");
    let folder = Folder::new();
    let edge = "  socket: {fast_open: 16}\n";
    let lb = start(engine, &folder, &configuration(origin.address, edge, "{}"));
    let url = format!("http://{}/", lb.listener("db"));
    // The first one gets the cookie (RFC 7413), the next ones use it.
    for _ in 0..3 {
        let mut curl = Command::new("curl");
        let Ok(output) = curl.args(["-s", "--tcp-fastopen", &url]).output() else {
            return skip("curl not installed");
        };
        assert_eq!(String::from_utf8_lossy(&output.stdout), "origin");
    }
    let counters = std::fs::read_to_string("/proc/net/netstat").unwrap();
    let mut lines = counters.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut pairs = names.split(' ').zip(values.split(' '));
    let passive = pairs.find(|(name, _)| *name == "TCPFastOpenPassive");
    assert_eq!(passive.map(|(_, count)| count), Some("2"));
}

fn who_acknowledges_nothing_is_given_up(engine: &str) {
    if !is_inside(engine, "namespace", "who_acknowledges_nothing_is_given_up") {
        return;
    }
    ip("link set lo up");
    let backend = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = Folder::new();
    let edge = "  socket: {user_timeout: 1s}\n";
    let text = configuration(backend.local_addr().unwrap(), edge, "{}");
    let lb = start(engine, &folder, &text);
    let address = lb.listener("db");
    let mut client = TcpStream::connect(address).unwrap();
    let (mut server, _) = backend.accept().unwrap();
    server.set_read_timeout(Some(DEADLINE)).unwrap();
    client.write_all(b"x").unwrap();
    server.read_exact(&mut [0]).unwrap();
    // From here on, nothing that lb says to the client leaves.
    ip("rule add pref 200 lookup local");
    ip("rule del pref 0");
    ip(&format!(
        "rule add pref 100 ipproto tcp sport {} blackhole",
        address.port()
    ));
    server.write_all(b"lost").unwrap();
    // Without the setting, the kernel goes on for a quarter of an hour.
    let end = server.read(&mut [0]);
    assert!(matches!(end, Ok(0)) || is_reset(&end), "{end:?}");
    let series = "lb_sessions_total{listener=\"db\",end=\"reset\"}";
    crate::harness::wait_until("its end", || lb.metric(series) == 1.0);
}

fn is_reset(end: &std::io::Result<usize>) -> bool {
    let kind = end.as_ref().map_err(std::io::Error::kind);
    kind == Err(std::io::ErrorKind::ConnectionReset)
}
