//! Access logs: what is in them, that nobody can forge a line, and that they follow the
//! configuration.

use std::net::SocketAddr;

use serde_json::Value;

use crate::client::{self, Connection};
use crate::ends::Backend;
use crate::harness::{Folder, Lb, on_both_engines, output, wait_until};
use crate::origin;
use crate::others::Other;
use crate::tls::{self, Authority};

on_both_engines!(
    a_template_of_nginx_says_what_nginx_says,
    hostile_input_stays_within_its_line,
    our_json_tells_the_whole_story,
    every_documented_variable_says_what_it_is_said_to,
    listeners_have_logs_of_their_own_that_follow_the_file,
    a_request_has_an_id,
    common_and_combined_are_those_of_nginx,
    a_log_that_nobody_takes_holds_nobody_up,
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

fn a_template_of_nginx_says_what_nginx_says(engine: &str) {
    let origin = origin::echo();
    let folder = Folder::new();
    let log = folder.path("access.log");
    let http = format!("web@127.0.0.1:0={origin}");
    let format = "$remote_addr - $remote_user \"$request\" $status $body_bytes_sent \
        \"$http_referer\" \"$http_user_agent\" $uri|$args|$arg_b|$cookie_c|$sent_http_x_origin| \
        $upstream_addr $upstream_status $request_length $bytes_sent $scheme $server_protocol \
        $request_time $upstream_response_time";
    let flags = [
        "--http",
        &http,
        "--access-log",
        &log,
        "--access-log-format",
        format,
    ];
    let lb = Lb::start(engine, &flags);
    let mut connection = Connection::open(lb.listener("web"));
    let fields = [
        "Authorization: Basic dXNlcjpwYXNz",
        "Referer: http://r/",
        "User-Agent: t",
        "Cookie: a=1; c=2",
    ];
    let response = connection.get_with("/x?a=1&b=2", &fields);
    let line = &lines(&log, 1)[0];
    let body = response.body.len();
    let start = format!(
        "127.0.0.1 - user \"GET /x?a=1&b=2 HTTP/1.1\" 200 {body} \"http://r/\" \"t\" \
         /x|a=1&b=2|2|2|echo| {origin} 200 "
    );
    let rest = line
        .strip_prefix(&start)
        .unwrap_or_else(|| panic!("{line}"));
    let rest: Vec<&str> = rest.split(' ').collect();
    let sent = "GET /x?a=1&b=2 HTTP/1.1\r\nHost: test.example\r\n\r\n".len();
    let sent = sent + fields.map(|field| field.len() + 2).iter().sum::<usize>();
    assert_eq!(rest[0], sent.to_string());
    assert!(rest[1].parse::<usize>().unwrap() > body, "{line}");
    assert_eq!(rest[2..4], ["http", "HTTP/1.1"]);
    for time in &rest[4..] {
        assert!(
            (0.0..60.0).contains(&time.parse::<f64>().unwrap()),
            "{line}"
        );
    }
}

fn hostile_input_stays_within_its_line(engine: &str) {
    let origin = origin::echo();
    let folder = Folder::new();
    let (text, json, own) = (folder.path("text"), folder.path("json"), folder.path("own"));
    let template =
        r#"{"agent":"$http_user_agent","host":$host,"status":$status,"connect":$connect_time}"#;
    let listener = |name: &str, path: &str, format: &str| {
        format!(
            "- name: {name}\n  address: 127.0.0.1:0\n  access_log:\n    to: {path}\n    \
             format: '{format}'\n  http: {{cluster: a}}\n"
        )
    };
    let file = format!(
        "listeners:\n{}{}{}clusters:\n  a: {{backends: [\"{origin}\"]}}\n",
        listener("text", &text, "combined"),
        listener("json", &json, "json"),
        listener("own", &own, template),
    );
    let path = folder.write("lb.yaml", &file);
    let lb = Lb::start(engine, &["--config", &path]);
    let hostile = "a\" 200 \\\" \\ {\"x\":\t\u{e4}}";
    for name in ["text", "json", "own"] {
        let mut connection = Connection::open(lb.listener(name));
        let target = "/\"\\{},x";
        let response = connection.get_with(target, &[&format!("User-Agent: {hostile}")]);
        assert_eq!(response.status, 200);
        connection.send("nonsense\r\n\r\n");
        assert_eq!(connection.receive().status, 400);
    }
    let text = lines(&text, 2);
    assert!(
        text[0].contains("\"GET /\\x22\\x5C{},x HTTP/1.1\" 200 "),
        "{text:?}"
    );
    let agent = "\"a\\x22 200 \\x5C\\x22 \\x5C {\\x22x\\x22:\\x09\\xC3\\xA4}\"";
    assert!(text[0].ends_with(agent), "{text:?}");
    assert!(text[1].contains("\"-\" 400 "), "{text:?}");
    let json = lines(&json, 2);
    let line: Value = serde_json::from_str(&json[0]).unwrap();
    assert_eq!(line["target"], "/\"\\{},x");
    assert_eq!(line["user_agent"], "a\" 200 \\\" \\ {\"x\":\t\u{c3}\u{a4}}");
    let line: Value = serde_json::from_str(&json[1]).unwrap();
    assert_eq!(line["status"], 400);
    let own = lines(&own, 2);
    let line: Value = serde_json::from_str(&own[0]).unwrap();
    assert_eq!(line["host"], "test.example");
    assert!(line["connect"].is_number(), "{line}");
    let line: Value = serde_json::from_str(&own[1]).unwrap();
    assert_eq!(line["agent"], "");
    assert_eq!(line["host"], Value::Null);
    assert_eq!(line["connect"], Value::Null);
}

/// The variables of the table of the documentation.
fn documented() -> Vec<String> {
    let text = include_str!("../../CONFIG.md");
    let start = text.find("## Access logs").unwrap();
    let section = &text[start..start + text[start..].find("\n## Session logs").unwrap()];
    let rows = section.lines().filter(|line| line.starts_with("| "));
    let words = rows.flat_map(|line| line.split('`').skip(1).step_by(2));
    let names = words.filter_map(|word| word.strip_prefix('$'));
    names.map(str::to_owned).collect()
}

/// What it stands for in this test; `None` for what only has to look right.
fn expected(name: &str, lb: SocketAddr, origin: SocketAddr) -> Option<String> {
    let text = match name {
        "client" | "remote_addr" | "realip_remote_addr" | "the_real_ip" | "server_addr" => {
            "127.0.0.1".into()
        }
        "remote_user" => "user".into(),
        "listener" => "web".into(),
        "scheme" => "https".into(),
        "https" => "on".into(),
        "tls_version" | "ssl_protocol" => "TLSv1.3".into(),
        "tls_server_name" | "ssl_server_name" => "a.example".into(),
        "server_port" => lb.port().to_string(),
        "connection_requests" => "2".into(),
        "ssl_session_reused" => ".".into(),
        "method" | "request_method" => "POST".into(),
        "target" | "request_uri" => "/x/%41?b=2&c=3".into(),
        "request" => "POST /x/%41?b=2&c=3 HTTP/1.1".into(),
        "path" | "uri" | "document_uri" => "/x/%41".into(),
        "query" | "args" | "query_string" => "b=2&c=3".into(),
        "is_args" => "?".into(),
        "host" | "server_name" => "a.example".into(),
        "protocol" | "server_protocol" => "HTTP/1.1".into(),
        "request_id" | "req_id" => "an-id".into(),
        "http_x_a" => "1".into(),
        "cookie_c" => "2".into(),
        "arg_b" => "2".into(),
        "sent_http_x_origin" | "upstream_http_x_origin" => "echo".into(),
        "route" => "*/x".into(),
        "cluster" | "proxy_upstream_name" => "c".into(),
        "proxy_alternative_upstream_name" => "-".into(),
        "backend" => "second".into(),
        "backend_address" | "upstream_addr" => origin.to_string(),
        "backend_status" | "upstream_status" | "status" => "200".into(),
        "retries" => "1".into(),
        "request_completion" => "OK".into(),
        _ => return None,
    };
    Some(text)
}

/// What can only be known to look right, with the sizes of the request and of the response's body.
fn looks_right(name: &str, value: &str, [request, body]: [usize; 2]) -> bool {
    let number = || value.parse::<usize>().unwrap();
    match name {
        "client_port" | "remote_port" => number() > 0,
        "tls_cipher" | "ssl_cipher" => value.contains("AES") || value.contains("CHACHA20"),
        "tls_client" | "ssl_client_s_dn" => value.contains("CN="),
        "received_bytes" | "request_length" | "bytes_received" => number() == request,
        "body_bytes" | "body_bytes_sent" | "upstream_response_length" => number() == body,
        "sent_bytes" | "bytes_sent" => number() > body + 50 && number() < body + 300,
        "time_iso8601" => value.len() >= 20 && value.contains('T'),
        "time_local" => value.contains('/') && value.contains(" +0000"),
        "msec" => value.parse::<f64>().unwrap() > 1.7e9,
        name if name.ends_with("_time") => (0.0..60.0).contains(&value.parse().unwrap()),
        name => panic!("${name} is documented and not looked at: {value:?}"),
    }
}

fn every_documented_variable_says_what_it_is_said_to(engine: &str) {
    let (folder, origin) = (
        Folder::new(),
        Backend::scripted(|mut connection, _| {
            while connection.request().is_some() {
                connection
                    .send(b"HTTP/1.1 200 OK\r\nX-Origin: echo\r\nContent-Length: 5\r\n\r\nhello");
            }
        }),
    );
    let names: Vec<String> = (documented().into_iter())
        .map(|it| match &*it {
            "http_NAME" => "http_x_a".into(),
            "cookie_NAME" => "cookie_c".into(),
            "arg_NAME" => "arg_b".into(),
            "sent_http_NAME" | "upstream_http_NAME" => it.replace("NAME", "x_origin"),
            _ => it,
        })
        .collect();
    assert!(names.len() > 60, "{names:?}");
    let format: Vec<String> = names.iter().map(|name| format!("${name}")).collect();
    let authority = Authority::new();
    let (server, own) = (
        authority.server(&["a.example"]),
        authority.sign(&["me"], rcgen::ExtendedKeyUsagePurpose::ClientAuth),
    );
    let log = folder.path("access.log");
    let [certificate, key, ca] = [
        ("server.pem", &server.certificate),
        ("server.key", &server.key),
        ("ca.pem", &authority.pem),
    ]
    .map(|(name, text)| folder.write(name, text));
    let file = format!(
        "access_log: {{to: '{log}', format: '{}'}}\nlisteners:\n- name: web\n  address: 127.0.0.1:0\n  \
         http:\n    request_id: accept\n    routes: [{{path: /x, cluster: c}}]\n    tls: {{certificate: \
         '{certificate}', key: '{key}', client_auth: {{ca: '{ca}'}}}}\nclusters:\n  c:\n    balance: fo\n    \
         backends:\n    - {{address: '{}', weight: 2}}\n    - {{address: '{}', name: second}}\n",
        format.join(" ~ "),
        origin::nowhere(),
        origin.address,
    );
    let lb = Lb::start(engine, &["--config", &folder.write("lb.yaml", &file)]);
    let web = lb.listener("web");
    let config = tls::client(&authority, Some(&own), &[&rustls::version::TLS13]);
    let mut stream = tls::connect(&config, web, "a.example");
    let first = "GET /none HTTP/1.1\r\nHost: a.example\r\n\r\n";
    assert_eq!(tls::ask(&mut stream, first).unwrap().0, 404);
    let request = "POST /x/%41?b=2&c=3 HTTP/1.1\r\nHost: a.example\r\nX-A: 1\r\nCookie: a=1; c=2\r\n\
        Authorization: Basic dXNlcjpwYXNz\r\nX-Request-ID: an-id\r\nContent-Length: 3\r\n\r\nabc";
    let (status, body) = tls::ask(&mut stream, request).unwrap();
    assert_eq!((status, &*body), (200, "hello"));
    let lines = lines(&log, 2);
    let values: Vec<&str> = lines[1].split(" ~ ").collect();
    assert_eq!(values.len(), names.len(), "{}", lines[1]);
    let mut wrong = Vec::new();
    for (name, value) in names.iter().zip(values) {
        let is_right = match expected(name, web, origin.address) {
            Some(expected) => *value == expected,
            None => looks_right(name, value, [request.len(), body.len()]),
        };
        if !is_right {
            wrong.push((name, value));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

fn our_json_tells_the_whole_story(engine: &str) {
    let folder = Folder::new();
    let log = folder.path("access.log");
    let file = format!(
        "access_log: {log}\nlisteners:\n- name: web\n  address: 127.0.0.1:0\n  http:\n    routes:\n    \
         - {{path: /shop, cluster: shop}}\n    - {{exact: /gone, answer: 410}}\n\
         clusters:\n  shop: {{balance: fo, backends: [\"{}\", \"{}\"]}}\n",
        origin::nowhere(),
        origin::echo(),
    );
    let path = folder.write("lb.yaml", &file);
    let lb = Lb::start(engine, &["--config", &path]);
    assert_eq!(client::get(lb.listener("web"), "/shop/x").status, 200);
    assert_eq!(client::get(lb.listener("web"), "/gone").status, 410);
    assert_eq!(client::get(lb.listener("web"), "/none").status, 404);
    let mut lines: Vec<Value> = (lines(&log, 3).iter())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    lines.sort_by_key(|line| line["status"].as_u64());
    let [shop, none, gone] = &lines[..] else {
        unreachable!()
    };
    assert_eq!(shop["route"], "*/shop");
    assert_eq!(shop["cluster"], "shop");
    assert_eq!(shop["retries"], 1);
    assert_eq!(shop["backend_status"], 200);
    assert!(shop["connect_seconds"].as_f64() <= shop["seconds"].as_f64());
    assert!(shop["header_seconds"].as_f64() <= shop["response_seconds"].as_f64());
    assert_eq!(gone["route"], "*=/gone");
    assert_eq!(gone["backend"], Value::Null);
    assert_eq!(none["route"], Value::Null);
    assert_eq!(none["listener"], "web");
}

fn listeners_have_logs_of_their_own_that_follow_the_file(engine: &str) {
    let origin = origin::echo();
    let folder = Folder::new();
    let (first, second) = (folder.path("first"), folder.path("second"));
    let file = |log: &str| {
        format!(
            "access_log: {{to: {first}, format: '$uri'}}\nlisteners:\n\
             - {{name: a, address: '127.0.0.1:0', http: {{cluster: a}}}}\n\
             - {{name: b, address: '127.0.0.1:0', access_log: {log}, http: {{cluster: a}}}}\n\
             clusters:\n  a: {{backends: [\"{origin}\"]}}\n"
        )
    };
    let path = folder.write("lb.yaml", &file("off"));
    let lb = Lb::start(engine, &["--config", &path]);
    client::get(lb.listener("b"), "/not-logged");
    client::get(lb.listener("a"), "/one");
    assert_eq!(lines(&first, 1), ["/one"]);
    let format = format!("{{to: {second}, format: '$uri $listener'}}");
    folder.write("lb.yaml", &file(&format));
    wait_until("the new log", || std::fs::exists(&second).unwrap());
    wait_until("a line in it", || {
        client::get(lb.listener("b"), "/two");
        let text = std::fs::read_to_string(&second).unwrap();
        text.starts_with("/two b\n")
    });
    // A file that cannot be written is refused, and what was goes on.
    folder.write("lb.yaml", &file("/no/such/folder/log"));
    wait_until("the refusal", || {
        lb.metric("lb_config_last_reload_successful") == 0.0
    });
    client::get(lb.listener("a"), "/three");
    assert_eq!(lines(&first, 2), ["/one", "/three"]);
}

fn a_request_has_an_id(engine: &str) {
    let origin = origin::echo();
    let folder = Folder::new();
    let log = folder.path("access.log");
    let listener = |name: &str| {
        format!(
            "- {{name: {name}, address: '127.0.0.1:0', http: {{cluster: a, request_id: {name}}}}}\n"
        )
    };
    let file = format!(
        "access_log: {{to: {log}, format: '$listener $request_id'}}\nlisteners:\n{}{}{}\
         clusters:\n  a: {{backends: [\"{origin}\"]}}\n",
        listener("accept"),
        listener("replace"),
        listener("\"off\""),
    );
    let path = folder.write("lb.yaml", &file);
    let lb = Lb::start(engine, &["--config", &path]);
    let sent = |name: &str, fields: &[&str]| {
        let response = Connection::open(lb.listener(name)).get_with("/", fields);
        let head = response.body.to_ascii_lowercase();
        let ids: Vec<String> = (head.lines())
            .filter_map(|line| line.strip_prefix("x-request-id: "))
            .map(str::to_owned)
            .collect();
        ids
    };
    let is_made = |id: &str| id.len() == 32 && id.bytes().all(|it| it.is_ascii_hexdigit());
    let mine = ["X-Request-ID: mine"];
    let mut logged = Vec::new();
    for (name, fields, expected) in [
        ("accept", &mine[..], Some("mine")),
        ("accept", &[], None),
        ("accept", &["X-Request-ID: not mine"], None),
        ("replace", &mine, None),
        ("off", &mine, Some("mine")),
    ] {
        let ids = sent(name, fields);
        assert_eq!(ids.len(), 1, "{name} {fields:?}");
        match expected {
            Some(expected) => assert_eq!(ids[0], expected),
            None => assert!(is_made(&ids[0]), "{ids:?}"),
        }
        logged.push(format!("{name} {}", ids[0]));
    }
    assert!(sent("off", &[]).is_empty());
    let mut written = lines(&log, 6);
    let off = written
        .iter()
        .position(|line| line.starts_with("off ") && !line.ends_with("mine"));
    written.remove(off.unwrap());
    written.sort();
    logged.sort();
    assert_eq!(written, logged);
}

#[test]
fn a_bad_format_is_told() {
    let flags = [
        "--http",
        "127.0.0.1:0=127.0.0.1:9",
        "--access-log",
        "stdout",
    ];
    let format = ["--access-log-format", "$remote_adr"];
    let check = output(&[&["check"][..], &flags, &format].concat());
    assert_eq!(check.status.code(), Some(2));
    let error = String::from_utf8(check.stderr).unwrap();
    let said = "there is no variable \"$remote_adr\"; did you mean \"$remote_addr\"?";
    assert!(error.contains(said), "{error}");
}

/// A line without what is between brackets: the time.
fn untimed(line: &str) -> String {
    let start = line.find('[').expect("a time");
    let end = line.find(']').expect("its end");
    assert!(line[start..end].ends_with(" +0000"), "{line}");
    [&line[..start], &line[end + 1..]].concat()
}

fn common_and_combined_are_those_of_nginx(engine: &str) {
    let origin = origin::echo();
    let folder = Folder::new();
    let formats = ["common", "combined"];
    let ours = formats.map(|format| folder.path(&format!("{format}.lb")));
    let theirs = formats.map(|format| folder.path(&format!("{format}.nginx")));
    let listeners = [0, 1].map(|at| {
        format!(
            "- {{name: {}, address: '127.0.0.1:0', access_log: {{to: {}, format: {}}}, \
             http: {{cluster: a}}}}\n",
            formats[at], ours[at], formats[at]
        )
    });
    let file = format!(
        "listeners:\n{}clusters:\n  a: {{backends: ['{origin}']}}\n",
        listeners.concat()
    );
    let path = folder.write("lb.yaml", &file);
    let lb = Lb::start(engine, &["--config", &path]);
    let nginx = Other::nginx(2, |_, ports| {
        let server = |at: usize| {
            format!(
                "server {{ listen 127.0.0.1:{}; access_log {} {}; location / {{ \
                 proxy_pass http://{origin}; proxy_http_version 1.1; \
                 proxy_set_header Host $host; proxy_set_header Connection ''; }} }}",
                ports[at], theirs[at], formats[at]
            )
        };
        let common = "log_format common '$remote_addr - $remote_user [$time_local] \
            \"$request\" $status $body_bytes_sent';";
        [common, &server(0), &server(1)].concat()
    });
    let Some(nginx) = nginx else { return };
    let requests: &[(&str, &[&str])] = &[
        ("/", &[]),
        (
            "/x?a=1&b=%20",
            &["Referer: http://r/", "User-Agent: t/1 (x)"],
        ),
        (
            "/",
            &["Authorization: Basic dXNlcjpwYXNz", "User-Agent: \"q\" \\"],
        ),
    ];
    for at in [0, 1] {
        for edge in [lb.listener(formats[at]), nginx.addresses[at]] {
            let mut connection = Connection::open(edge);
            for (path, fields) in requests {
                assert_eq!(connection.get_with(path, fields).status, 200);
            }
        }
        let [ours, theirs] = [&ours[at], &theirs[at]].map(|path| {
            let lines = lines(path, requests.len());
            lines
                .iter()
                .map(|it| without_size(&untimed(it)))
                .collect::<Vec<_>>()
        });
        assert_eq!(ours, theirs);
    }
}

/// A line without the size of the body: the origin echoes a head, which each proxy words its way.
fn without_size(line: &str) -> String {
    let (before, after) = line.split_once("\" 200 ").expect("a status");
    let after = after.trim_start_matches(|it: char| it.is_ascii_digit());
    format!("{before}\" 200{after}")
}

/// A pipe that is full.
fn a_log_that_nobody_takes_holds_nobody_up(engine: &str) {
    let origin = origin::echo();
    let folder = Folder::new();
    let pipe = folder.path("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.is_ok_and(|status| status.success()));
    let reader = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&pipe);
    let reader = reader.expect("a reader that does not read");
    let http = format!("web@127.0.0.1:0={origin}");
    let lb = Lb::start(engine, &["--http", &http, "--access-log", &pipe]);
    let mut connection = Connection::open(lb.listener("web"));
    // Some 300 bytes each: several times what a pipe takes.
    for _ in 0..1_500 {
        assert_eq!(connection.get("/").status, 200);
    }
    drop(reader);
}
