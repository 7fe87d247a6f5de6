//! Lists and limits of a listener: what is above is reset and counted; and settings of sockets.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::client;
use crate::harness::{DEADLINE, Folder, Lb, on_both_engines, output, wait_until};
use crate::origin::{self, Session};

on_both_engines!(
    lists_are_kept_and_change_with_the_configuration,
    a_hundred_thousand_prefixes_are_kept,
    limits_are_kept,
    a_backends_limit_is_kept,
    who_waits_for_a_backend_keeps_the_place_over_a_reload,
    an_address_may_come_later,
    sockets_have_their_settings,
);

/// A configuration with one TCP listener, `db`, that has `keys` and leads to an origin `a`.
fn yaml(keys: &str, tcp: &str, origin: SocketAddr) -> String {
    format!(
        "listeners:\n- name: db\n  address: 127.0.0.1:0\n{keys}\n  tcp: {{cluster: c{tcp}}}\n\
         clusters: {{c: {{backends: ['{origin}']}}}}\n"
    )
}

fn start(engine: &str, folder: &Folder, keys: &str) -> Lb {
    let text = yaml(keys, "", origin::tcp("a"));
    Lb::start(engine, &["--config", &folder.write("lb.yaml", &text)])
}

fn refused(lb: &Lb, reason: &str) -> f64 {
    lb.metric(&format!(
        "lb_client_connections_refused_total{{listener=\"db\",reason=\"{reason}\"}}"
    ))
}

fn is_reset(address: SocketAddr) {
    let Ok(mut stream) = TcpStream::connect(address) else {
        return; // reset already
    };
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let error = stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

fn lists_are_kept_and_change_with_the_configuration(engine: &str) {
    let folder = Folder::new();
    let origin = origin::tcp("a");
    let text = |keys: &str| yaml(keys, "", origin);
    let config = folder.write("lb.yaml", &text("  deny: [127.0.0.0/8]"));
    let lb = Lb::start(engine, &["--config", &config]);
    let address = lb.listener("db");
    is_reset(address);
    wait_until("the refusal", || refused(&lb, "denied") == 1.0);
    folder.replace(
        "lb.yaml",
        &text("  deny: [127.0.0.0/8]\n  allow: [127.0.0.1]"),
    );
    lb.wait_for_generation(2);
    let mut session = Session::open(address);
    folder.replace("lb.yaml", &text("  allow: [10.0.0.0/8]"));
    lb.wait_for_generation(3);
    is_reset(address);
    assert_eq!(refused(&lb, "denied"), 2.0);
    assert!(session.echoes(), "a session goes on as it began");
    let status = client::get(lb.admin(), "/status").body;
    let status: Value = serde_json::from_str(&status).unwrap();
    let listener = &status["listeners"][0];
    assert_eq!(listener["refused"]["denied"], 2, "{listener}");
    assert_eq!(
        (&listener["accepted"], &listener["active"]),
        (&json!(3), &json!(1))
    );
}

fn a_hundred_thousand_prefixes_are_kept(engine: &str) {
    let folder = Folder::new();
    let origin = origin::tcp("a");
    // Every other /24 of 1.0.0.0 to 3.255.255.0, and two of our own.
    let strangers = (0x01_0000..0x04_0000_u32).step_by(2).map(|network| {
        let [_, first, second, third] = network.to_be_bytes();
        format!("{first}.{second}.{third}.0/24, ")
    });
    let list: String = strangers.collect();
    assert!(list.matches('/').count() > 98_000);
    let keys = |own: &str| format!("  deny: [{list}{own}]\n  allow: [127.0.5.0/24]");
    let config = folder.write("lb.yaml", &yaml(&keys("127.0.4.0/22"), "", origin));
    let lb = Lb::start(engine, &["--config", &config]);
    let address = lb.listener("db");
    let is_let_in = |last: [u8; 2]| {
        let from = SocketAddr::from(([127, 0, last[0], last[1]], 0));
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&from.into()).unwrap();
        if socket.connect(&address.into()).is_err() {
            return false; // reset already
        }
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.read(&mut [0]).is_ok()
    };
    assert!(is_let_in([5, 9]), "the longer prefix decides");
    assert!(!is_let_in([4, 9]) && !is_let_in([7, 9]) && !is_let_in([8, 1]));
    folder.replace("lb.yaml", &yaml(&keys("127.0.5.9"), "", origin));
    lb.wait_for_generation(2);
    assert!(!is_let_in([5, 9]) && is_let_in([5, 8]));
    assert_eq!(refused(&lb, "denied"), 4.0);
}

fn limits_are_kept(engine: &str) {
    for (limit, reason) in [("connections", "connections"), ("per_source", "source")] {
        let folder = Folder::new();
        let lb = start(engine, &folder, &format!("  limits: {{{limit}: 2}}"));
        let address = lb.listener("db");
        let (mut first, second) = (Session::open(address), Session::open(address));
        is_reset(address);
        wait_until("the refusal", || refused(&lb, reason) == 1.0);
        assert!(first.echoes());
        drop(second);
        let mut again = None;
        wait_until("room", || {
            again = Session::try_open(address);
            again.is_some()
        });
        assert!(again.unwrap().echoes());
    }
    let folder = Folder::new();
    let lb = start(engine, &folder, "  limits: {rate: 1, burst: 3}");
    let address = lb.listener("db");
    let served = (0..20)
        .filter(|_| Session::try_open(address).is_some())
        .count();
    // As many as the burst, and one more for each second that this took.
    assert!((3..20).contains(&served), "{served}");
    wait_until("the refusals", || {
        refused(&lb, "rate") == (20 - served) as f64
    });
}

fn a_backends_limit_is_kept(engine: &str) {
    let folder = Folder::new();
    let limit = |queue: u32| {
        let tcp = format!(", backend_limit: {{connections: 1, queue: {queue}}}");
        yaml("", &tcp, origin::tcp("a"))
    };
    let lb = Lb::start(engine, &["--config", &folder.write("lb.yaml", &limit(0))]);
    let address = lb.listener("db");
    let _first = Session::open(address);
    is_reset(address);
    wait_until("the refusal", || refused(&lb, "queue_full") == 1.0);
    drop(lb);
    let lb = Lb::start(engine, &["--config", &folder.write("lb.yaml", &limit(1))]);
    let address = lb.listener("db");
    let mut first = Session::open(address);
    let waits = std::thread::spawn(move || Session::open(address).echoes());
    let active = "lb_client_connections_active{listener=\"db\"}";
    wait_until("the second session", || lb.metric(active) == 2.0);
    assert!(first.echoes());
    drop(first);
    assert!(waits.join().unwrap(), "it has its turn");
}

fn who_waits_for_a_backend_keeps_the_place_over_a_reload(engine: &str) {
    let folder = Folder::new();
    let origin = origin::tcp("a");
    let text = |idle: &str| {
        let limit = "backend_limit: {connections: 1, queue: 2, queue_timeout: 1m}";
        yaml("", &format!(", {limit}, idle_timeout: {idle}"), origin)
    };
    let lb = Lb::start(engine, &["--config", &folder.write("lb.yaml", &text("1h"))]);
    let address = lb.listener("db");
    let first = Session::open(address);
    let active = "lb_client_connections_active{listener=\"db\"}";
    let wait = |count: f64| {
        let waits = std::thread::spawn(move || Session::open(address));
        wait_until("one more to wait", || lb.metric(active) == count);
        waits
    };
    let second = wait(2.0);
    folder.replace("lb.yaml", &text("2h"));
    lb.wait_for_generation(2);
    let third = wait(3.0);
    is_reset(address);
    assert_eq!(refused(&lb, "queue_full"), 1.0, "both wait in one queue");
    drop(first);
    let mut second = second.join().unwrap();
    assert!(
        second.echoes() && !third.is_finished(),
        "the first comes first"
    );
    drop(second);
    assert!(third.join().unwrap().echoes());
}

/// 192.0.2.0/24 is nobody's (RFC 5737).
fn an_address_may_come_later(engine: &str) {
    let folder = Folder::new();
    let origin = origin::tcp("a");
    let one = |protocol: &str, keys: &str| {
        format!(
            "listeners: [{{name: db, address: '192.0.2.77:0'{keys}, {protocol}: {{cluster: \
             c}}}}]\nclusters: {{c: {{backends: ['{origin}']}}}}\n"
        )
    };
    for protocol in ["tcp", "udp", "http"] {
        let config = folder.write("lb.yaml", &one(protocol, ", socket: {free_bind: true}"));
        let lb = Lb::start(engine, &["--config", &config]);
        assert_eq!(lb.listener("db").ip().to_string(), "192.0.2.77");
        drop(lb);
        let config = folder.write("lb.yaml", &one(protocol, ""));
        let refused = output(&["--config", &config, "--admin", "off"]);
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(said.contains("free_bind"), "{said}");
    }
}

fn sockets_have_their_settings(engine: &str) {
    let folder = Folder::new();
    let keys = "  socket: {backlog: 77, defer_accept: 1s, fast_open: 5, congestion: reno, \
                user_timeout: 9s, keep_alive: {idle: 50s}}";
    let tcp = ", backend_socket: {congestion: reno, source: 127.0.0.9, ports: 40000-40100}";
    let config = folder.write("lb.yaml", &yaml(keys, tcp, origin::tcp("a")));
    let lb = Lb::start(engine, &["--config", &config]);
    let mut stream = TcpStream::connect(lb.listener("db")).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    std::io::Write::write_all(&mut stream, b"x").unwrap(); // else accepting is deferred
    let mut greeting = [0; 2];
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"a\n");
    let shown = &lb.config()["plan"]["listeners"][0];
    assert_eq!(shown["socket"]["congestion"], "reno", "{shown}");
    assert_eq!(shown["tcp"]["backend_socket"]["ports"], "40000-40100");

    // A setting that the kernel refuses changes nothing.
    folder.replace(
        "lb.yaml",
        &yaml("  socket: {congestion: nosuch}", "", origin::tcp("b")),
    );
    let refusal = lb.event("the configuration is refused; the one before goes on");
    let problem = refusal["problem"].as_str().unwrap();
    assert!(
        problem.contains("TCP_CONGESTION") && problem.contains("sysctl"),
        "{problem}"
    );
    assert_eq!(lb.config()["generation"], 1);
}

#[test]
fn a_setting_that_the_kernel_refuses_is_named_at_the_start() {
    let arguments = [
        "--tcp",
        "127.0.0.1:0=127.0.0.1:1",
        "--tcp-congestion",
        "nosuch",
    ];
    let output = output(&[&arguments[..], &["--admin", "off"]].concat());
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("TCP_CONGESTION"), "{text}");
}

#[test]
fn check_shows_what_is_asked_of_connections() {
    let folder = Folder::new();
    let keys = "  deny: [10.0.0.0/8]\n  proxy_in: {trusted: [192.0.2.1]}\n  limits: {connections: 7, \
                per_source: 3, rate: 5, burst: 9}";
    let config = folder.write("lb.yaml", &yaml(keys, "", "127.0.0.1:1".parse().unwrap()));
    let output = output(&["check", "--config", &config]);
    let text = String::from_utf8(output.stdout).unwrap();
    for line in [
        "  behind a PROXY header, from 192.0.2.1/32 only",
        "  denies 10.0.0.0/8",
        "  at most 7 at a time",
        "  at most 3 at a time from one source",
        "  at most 5 a second, 9 at once",
    ] {
        assert!(text.lines().any(|it| it == line), "{line:?} in\n{text}");
    }
}
