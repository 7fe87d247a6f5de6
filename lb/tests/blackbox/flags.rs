//! A bad flag names itself, what is wrong and an example, and exits with 2; what the machine does
//! not give exits with 1 and says what to do.

use std::net::TcpListener;

use crate::harness::{Folder, output};

/// Arguments, and words of the one error they must lead to.
const BAD_FLAGS: &[(&[&str], &[&str])] = &[
    (&[], &["nothing to run", "--config FILE", "lb demo"]),
    (&["check"], &["nothing to check"]),
    (
        &["--tcp", "5432"],
        &["--tcp", "no backends", "as 5432=10.0.0.1:5432"],
    ),
    (
        &["--tcp", "x=a:1"],
        &["--tcp", "\"x\" is not a port", "as 8080"],
    ),
    (
        &["--tcp", "80=a"],
        &["--tcp", "\"a\" has no port", "as 10.0.0.7:8080"],
    ),
    (&["--http", "80=a:b"], &["--http", "\"b\" is not a port"]),
    (&["--http", "[::1=a:1"], &["--http", "is not an IP address"]),
    (
        &["--route", "shop.example"],
        &["--route", "as shop.example/cart=10.0.0.1:8080"],
    ),
    (&["--route", "a:80/=a:1"], &["--route", "without a port"]),
    (
        &["--tcp", "80=a:1", "--route", "*=a:1"],
        &["--route *=a:1", "no --http listener"],
    ),
    (
        &["--config", "x", "--health", "tcp"],
        &["--health", "in a file, write it there"],
    ),
    (
        &["--tcp", "80=a:1", "--tcp", "80=b:1"],
        &["--tcp 80=b:1", "a second time"],
    ),
    (
        &["--tls-passthrough", "443"],
        &[
            "--tls-passthrough 443",
            "as --sni shop.example=10.0.0.1:443",
        ],
    ),
    (
        &["--tcp", "80=a:1", "--sni", "a.example=a:1"],
        &["--sni a.example=a:1", "as --tls-passthrough 443"],
    ),
    (&["--sni", "a.example"], &["--sni", "as shop.example="]),
    (&["--sni", "a..b=a:1"], &["--sni", "not a host to match"]),
    (
        &["--http", "80=a:1", "--proxy-out", "v1"],
        &["--proxy-out", "only on --tcp"],
    ),
    (
        &["--udp", "53=a:53", "--tcp-congestion", "reno"],
        &["--tcp-congestion", "only on --tcp"],
    ),
    (&["--proxy-out", "v3"], &["--proxy-out", "v1, v2"]),
    (
        &["--proxy-in", "10.0.0.1/8"],
        &["--proxy-in", "the prefix is 10.0.0.0/8"],
    ),
    (
        &["--config", "x", "--proxy-in", "::1"],
        &["--proxy-in", "in a file, write it there"],
    ),
    (
        &["--balance", "wllc"],
        &["--balance", "dh, ewma", "did you mean \"wlc\"?"],
    ),
    (
        &["--hash-key", "header"],
        &["--hash-key", "client-port", "header:NAME"],
    ),
    (
        &["--affinity", "client-ip:1d"],
        &["--affinity", "from 1 to 86400", "as 10800"],
    ),
    (
        &["--affinity", "cokie"],
        &[
            "--affinity",
            "none, client-ip[:SECONDS]",
            "did you mean \"cookie\"?",
        ],
    ),
    (
        &["--tcp", "80=a:1", "--affinity", "cookie"],
        &["--affinity", "no HTTP listener uses"],
    ),
    (
        &["--http", "80=a:1", "--hash-key", "uri"],
        &["--hash-key", "no effect with balance wrr", "mh"],
    ),
    (
        &["--http", "80=a:1/0"],
        &["--http 80=a:1/0", "no backend takes new load"],
    ),
    (
        &["--health", "http"],
        &["--health", "lacks the path", "as http:/healthz"],
    ),
    (
        &["--health", "icmp"],
        &[
            "--health",
            "off, tcp, http:PATH, https:PATH, grpc[:SERVICE], udp",
        ],
    ),
    (&["--workers", "0"], &["--workers", "as 4"]),
    (
        &["--engine", "urin"],
        &["--engine", "did you mean \"uring\"?"],
    ),
    (&["--admin", "here"], &["--admin", "127.0.0.1:9900"]),
    (
        &["--drain-timeout", "30"],
        &["--drain-timeout", "has no unit", "30s"],
    ),
    (&["--log-format", "xml"], &["--log-format", "json, text"]),
    (&["--confg", "x"], &["--confg", "--config"]),
    (&["chekc"], &["chekc", "check"]),
    (
        &["--udp", "53"],
        &["--udp", "there are no backends; as 53=10.0.0.1:53"],
    ),
    (
        &["--https=443=a:1"],
        &["--https 443=a:1", "0 --tls-cert and 0 --tls-key"],
    ),
    (
        &["run", "--http", "80=a:1", "--tls-cert", "x"],
        &["--tls-cert", "as --https 8443=10.0.0.1:80"],
    ),
    (
        &["check", "--tcp", "80=a:1", "--format", "xml"],
        &["--format", "json, text"],
    ),
];

#[test]
fn a_bad_flag_names_itself_and_exits_with_2() {
    for (arguments, words) in BAD_FLAGS {
        let output = output(arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        for word in *words {
            assert!(
                text.contains(word),
                "{arguments:?}: no {word:?} in {text:?}"
            );
        }
    }
}

#[test]
fn help_and_version_are_no_errors() {
    for arguments in [["--help"], ["--version"], ["help"]] {
        let output = output(&arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(
            !output.stdout.is_empty() && output.stderr.is_empty(),
            "{arguments:?}"
        );
    }
}

#[test]
fn what_the_machine_does_not_give_exits_with_1() {
    let folder = Folder::new();
    let (missing, folder_path) = (folder.path("missing.yaml"), folder.path(""));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let tcp = format!("db@{address}=127.0.0.1:1");
    let by = format!("ss -ltnp 'sport = :{}'", address.port());
    let admin = address.to_string();
    let cases: [(&[&str], &[&str]); 6] = [
        (&["--config", &missing], &[&missing, "no such file"]),
        (&["--config", &folder_path], &["is a folder"]),
        (
            &["--tcp", &tcp, "--admin", "off"],
            &["--tcp", "(listener db)", "in use", &by],
        ),
        (
            &["--tcp", "127.0.0.1:0=127.0.0.1:1", "--admin", &admin],
            &["admin", "in use", "--admin takes another"],
        ),
        (
            &["demo", "--http", &admin, "--admin", "off"],
            &["--http", "in use", "another port"],
        ),
        (
            &["--tcp", "192.0.2.1:8080=127.0.0.1:1", "--admin", "off"],
            &["192.0.2.1:8080", "none of this machine's"],
        ),
    ];
    for (arguments, words) in cases {
        let output = output(arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
        let error = text.lines().find(|line| line.starts_with("error: "));
        let error = error.unwrap_or_else(|| panic!("{arguments:?}: no error in {text:?}"));
        for word in words {
            assert!(
                error.contains(word),
                "{arguments:?}: no {word:?} in {error:?}"
            );
        }
    }
}
