//! The log of sessions and flows: what is in it, and that there is a line however they end.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{DEADLINE, Folder, Lb, on_both_engines, output, wait_until};
use crate::origin::{self, Session};
use crate::passthrough;

on_both_engines!(
    a_template_of_nginx_says_what_came_of_a_session,
    an_object_tells_who_broke_a_session_and_who_was_refused,
    the_server_name_is_told_and_cannot_forge_a_line,
    flows_have_lines,
    what_is_cut_off_has_its_line,
    logs_follow_the_file,
    a_listeners_own_log_is_shown,
    formats_are_checked,
);

/// The lines of a log, when there are `count`.
fn lines(path: &str, count: usize) -> Vec<String> {
    let read = || -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    };
    wait_until("the lines", || read().len() >= count);
    let lines = read();
    assert_eq!(lines.len(), count, "{lines:#?}");
    lines
}

fn objects(path: &str, count: usize) -> Vec<Value> {
    let lines = lines(path, count);
    let parse = |line: &String| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
    lines.iter().map(parse).collect()
}

fn a_template_of_nginx_says_what_came_of_a_session(engine: &str) {
    let (origin, folder) = (origin::tcp("a"), Folder::new());
    let log = folder.path("sessions.log");
    let (good, bad) = (
        format!("db@127.0.0.1:0={origin}"),
        format!("gone@127.0.0.1:0={}", origin::nowhere()),
    );
    let format = "$remote_addr $remote_port [$listener] $protocol $status $bytes_sent \
        $bytes_received \"$upstream_addr\" $end $ended_by $server_port $session_time \
        $upstream_connect_time";
    let flags = ["--tcp", &good, "--tcp", &bad, "--session-log", &log];
    let flags = [&flags[..], &["--session-log-format", format]].concat();
    let lb = Lb::start(engine, &flags);
    let front = lb.listener("db");
    let mut session = Session::open(front);
    let own = session.local_addr();
    assert!(session.echoes());
    assert!(!std::fs::exists(&log).unwrap() || lines(&log, 0).is_empty());
    drop(session);
    let line = &lines(&log, 1)[0];
    let start = format!(
        "127.0.0.1 {} [db] TCP 200 8 6 \"{origin}\" finished client {} ",
        own.port(),
        front.port()
    );
    let times = line
        .strip_prefix(&start)
        .unwrap_or_else(|| panic!("{line}"));
    for time in times.split(' ') {
        assert!(
            (0.0..60.0).contains(&time.parse::<f64>().unwrap()),
            "{line}"
        );
    }
    assert!(Session::try_open(lb.listener("gone")).is_none());
    let line = &lines(&log, 2)[1];
    assert!(
        line.contains(" [gone] TCP 502 0 0 \"-\" unavailable - "),
        "{line}"
    );
    assert!(line.ends_with(" -"), "{line}");
}

fn an_object_tells_who_broke_a_session_and_who_was_refused(engine: &str) {
    let rude = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = rude.local_addr().unwrap();
    // What is closed with bytes that nobody read is reset.
    thread::spawn(move || {
        for stream in rude.incoming() {
            drop(stream.unwrap().peek(&mut [0]));
        }
    });
    let folder = Folder::new();
    let log = folder.path("sessions.log");
    let text = format!(
        "session_log: {log}\nlisteners:\n- {{name: rude, address: '127.0.0.1:0', tcp: {{cluster: \
         c}}}}\n- {{name: shut, address: '127.0.0.1:0', deny: [127.0.0.0/8], tcp: {{cluster: \
         c}}}}\n- {{name: quiet, address: '127.0.0.1:0', session_log: off, tcp: {{cluster: c}}}}\n\
         clusters: {{c: {{backends: ['{address}']}}}}\n"
    );
    let path = folder.write("lb.yaml", &text);
    let lb = Lb::start(engine, &["--config", &path]);
    for (name, expected) in [("quiet", 0), ("rude", 1), ("shut", 2)] {
        let mut stream = TcpStream::connect(lb.listener(name)).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        // It may be reset before that.
        let _ = stream.write_all(b"hello");
        assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
        if expected > 0 {
            lines(&log, expected);
        }
    }
    let lines = objects(&log, 2);
    let broken = &lines[0];
    assert_eq!(broken["listener"], "rude");
    assert_eq!(
        (&broken["end"], &broken["ended_by"]),
        (&"reset".into(), &"backend".into())
    );
    assert_eq!(broken["received_bytes"], 5);
    assert_eq!(broken["backend_address"], address.to_string());
    assert_eq!(broken["cluster"], "c");
    assert!(broken["connect_seconds"].is_number() && broken["seconds"].is_number());
    let refused = &lines[1];
    assert_eq!(
        (&refused["status"], &refused["end"]),
        (&403.into(), &"refused".into())
    );
    assert_eq!(refused["refusal"], "denied");
    assert_eq!(refused["client"], "127.0.0.1");
    assert!(refused.get("backend").is_none(), "{refused}");
}

/// A ClientHello with a server name and nothing else of use.
fn client_hello(name: &[u8]) -> Vec<u8> {
    passthrough::client_hello(name, &[], 16_384)
}

fn the_server_name_is_told_and_cannot_forge_a_line(engine: &str) {
    let (origin, folder) = (origin::tcp("a"), Folder::new());
    let log = folder.path("sessions.log");
    let text = format!(
        "session_log: {{to: {log}, format: '$server_name|$cluster|$status|$end|$refusal'}}\n\
         listeners:\n- name: front\n  address: '127.0.0.1:0'\n  tcp: {{server_names: [{{name: \
         shop.example, cluster: c}}]}}\nclusters: {{c: {{backends: ['{origin}']}}}}\n"
    );
    let path = folder.write("lb.yaml", &text);
    let lb = Lb::start(engine, &["--config", &path]);
    let ask = |hello: &[u8]| {
        let mut stream = TcpStream::connect(lb.listener("front")).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(hello).unwrap();
        let _ = stream.read(&mut [0]);
    };
    ask(&client_hello(b"shop.example"));
    let first = lines(&log, 1);
    assert!(first[0].starts_with("shop.example|c|200|"), "{first:?}");
    ask(&client_hello(b"x\n1.2.3.4 \"forged\""));
    ask(b"nonsense, and no ClientHello");
    let all = lines(&log, 3);
    assert!(
        !all[1].contains('"') && all[1].contains("|refused|"),
        "{all:?}"
    );
    assert_eq!(all[2], "-|-|400|refused|hello");
}

fn echo() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((len, client)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..len], client);
        }
    });
    address
}

fn flows_have_lines(engine: &str) {
    let (backend, folder) = (echo(), Folder::new());
    let log = folder.path("flows.log");
    let text = format!(
        "session_log: {{to: {log}, starts: true}}\nlisteners:\n- {{name: dns, address: \
         '127.0.0.1:0', udp: {{cluster: c, replies: 1}}}}\n- {{name: game, address: \
         '127.0.0.1:0', udp: {{cluster: c, idle_timeout: 100ms}}}}\n\
         clusters: {{c: {{backends: ['{backend}']}}}}\n"
    );
    let path = folder.write("lb.yaml", &text);
    let lb = Lb::start(engine, &["--config", &path]);
    for (name, end, count) in [("dns", "answered", 2), ("game", "idle", 4)] {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(lb.listener(name)).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        client.send(b"question").unwrap();
        assert_eq!(client.recv(&mut [0; 16]).unwrap(), 8);
        let lines = objects(&log, count);
        let (start, line) = (&lines[count - 2], &lines[count - 1]);
        assert_eq!(start["backend_address"], backend.to_string());
        assert!(start.get("end").is_none() && start.get("status").is_none());
        assert_eq!(
            (&line["listener"], &line["end"]),
            (&name.into(), &end.into())
        );
        assert_eq!(
            (&line["protocol"], &line["status"]),
            (&"UDP".into(), &200.into())
        );
        assert_eq!(line["client_port"], client.local_addr().unwrap().port());
        assert_eq!(line["local_port"], lb.listener(name).port());
        for (key, expected) in [("bytes", 8), ("datagrams", 1)] {
            assert_eq!(line[format!("received_{key}")], expected, "{line}");
            assert_eq!(line[format!("sent_{key}")], expected, "{line}");
        }
    }
}

fn what_is_cut_off_has_its_line(engine: &str) {
    let (origin, folder) = (origin::tcp("a"), Folder::new());
    let log = folder.path("sessions.log");
    let tcp = format!("db@127.0.0.1:0={origin}");
    let flags = [
        "--tcp",
        &tcp,
        "--session-log",
        &log,
        "--drain-timeout",
        "100ms",
    ];
    let lb = Lb::start(engine, &flags);
    let mut session = Session::open(lb.listener("db"));
    assert!(session.echoes());
    lb.signal(Signal::TERM);
    lb.event("connections are cut");
    assert!(!session.echoes());
    assert_eq!(lb.wait().0.code(), Some(0));
    let line = &objects(&log, 1)[0];
    assert_eq!(
        (&line["end"], &line["sent_bytes"]),
        (&"drained".into(), &8.into())
    );
    assert!(line.get("ended_by").is_none(), "{line}");
}

fn logs_follow_the_file(engine: &str) {
    let (origin, folder) = (origin::tcp("a"), Folder::new());
    let (first, second) = (folder.path("first.log"), folder.path("second.log"));
    let text = |log: &str| {
        format!(
            "session_log: {log}\nlisteners: [{{name: db, address: '127.0.0.1:0', tcp: {{cluster: \
             c}}}}]\nclusters: {{c: {{backends: ['{origin}']}}}}\n"
        )
    };
    let path = folder.write("lb.yaml", &text(&first));
    let lb = Lb::start(engine, &["--config", &path]);
    let mut old = Session::open(lb.listener("db"));
    folder.replace("lb.yaml", &text(&second));
    lb.wait_for_generation(2);
    let mut new = Session::open(lb.listener("db"));
    assert!(old.echoes() && new.echoes());
    drop((old, new));
    lines(&first, 1);
    lines(&second, 1);
}

fn a_listeners_own_log_is_shown(engine: &str) {
    let folder = Folder::new();
    let to = folder.path("db.log");
    let logs = [
        (
            "tcp",
            format!("session_log: {{to: {to}, format: text, starts: true}},"),
        ),
        (
            "udp",
            "session_log: {to: stdout, format: '$client $end'},".to_owned(),
        ),
        ("http", format!("access_log: {{to: {to}, format: common}},")),
        ("tcp", "session_log: off,".to_owned()),
        ("tcp", String::new()),
    ];
    let listener = |(number, (protocol, log)): (usize, &(&str, String))| {
        format!("- {{name: l{number}, address: '127.0.0.1:0', {log} {protocol}: {{cluster: c}}}}\n")
    };
    let listeners: String = logs.iter().enumerate().map(listener).collect();
    let text = format!("listeners:\n{listeners}clusters: {{c: {{backends: ['127.0.0.1:1']}}}}\n");
    let path = folder.write("lb.yaml", &text);
    let lb = Lb::start(engine, &["--config", &path]);
    let shown = &lb.config()["plan"]["listeners"];
    assert_eq!(
        shown[0]["session_log"],
        json!({"to": to, "format": "text", "starts": true})
    );
    let flows = json!({"to": "stdout", "format": "$client $end", "starts": false});
    assert_eq!(shown[1]["session_log"], flows);
    assert_eq!(
        shown[2]["access_log"],
        json!({"to": to, "format": "common"})
    );
    assert_eq!(shown[3]["session_log"], "off");
    assert_eq!(shown[4].get("session_log"), None);
    let told = output(&["check", "--config", &path]).stdout;
    let told = String::from_utf8(told).unwrap();
    assert!(
        told.contains(&format!("  logs to {to} as text\n")),
        "{told}"
    );
    assert!(told.contains("  logs nothing\n"), "{told}");
}

fn formats_are_checked(_engine: &str) {
    let check = |text: &str| {
        let folder = Folder::new();
        let path = folder.write("lb.yaml", text);
        let told = output(&["check", "--config", &path]);
        assert!(!told.status.success(), "{text}");
        String::from_utf8_lossy(&[told.stdout, told.stderr].concat()).into_owned()
    };
    let file = |own: &str, log: &str| {
        format!(
            "{log}\nlisteners: [{{name: db, address: '127.0.0.1:0', {own} tcp: {{cluster: \
             c}}}}]\nclusters: {{c: {{backends: ['127.0.0.1:1']}}}}\n"
        )
    };
    let told = check(&file("", "session_log: {to: stdout, format: '$request'}"));
    assert!(told.contains("there is no variable \"$request\""), "{told}");
    let told = check(&file("", "session_log: {to: stdout, format: combined}"));
    assert!(told.contains("is not one of json, text"), "{told}");
    let told = check(&file("access_log: stdout,", ""));
    assert!(told.contains("\"session_log\""), "{told}");
    let told = check(&file("", "access_log: {to: stdout, starts: true}"));
    assert!(told.contains("\"starts\""), "{told}");
}
