//! The traffic: what is asked for, how often, and what is in between.
//!
//! Invariant: only what may be repeated goes to the origins that are killed.
//! Read next: `fleet.rs` (who answers).

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use super::fleet::Group;
use crate::compare::load::{LoadCommand, written};

/// Time limit of a request.
const TIMEOUT: Duration = Duration::from_secs(30);

/// One kind of traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    scheme: &'static str,
    door: Door,
    path: &'static str,
    options: &'static str,
    rate_per_s: u32,
}

/// A listener of `lb`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    Small,
    SmallTls,
    Streams,
    StreamsTls,
    Large,
    LargeTls,
    Killed,
    KilledTls,
    KilledStreams,
}

impl Door {
    pub(super) const ALL: [Self; 9] = [
        Self::Small,
        Self::SmallTls,
        Self::Streams,
        Self::StreamsTls,
        Self::Large,
        Self::LargeTls,
        Self::Killed,
        Self::KilledTls,
        Self::KilledStreams,
    ];

    /// Its cluster, the origins of it, whether these are spoken to by HTTP/2, and clients come over TLS.
    const fn what(self) -> (&'static str, Group, bool, bool) {
        match self {
            Self::Small => ("small", Group::Small, false, false),
            Self::SmallTls => ("small", Group::Small, false, true),
            Self::Streams => ("streams", Group::Small, true, false),
            Self::StreamsTls => ("streams", Group::Small, true, true),
            Self::Large => ("large", Group::Large, false, false),
            Self::LargeTls => ("large", Group::Large, false, true),
            Self::Killed => ("killed", Group::Killed, false, false),
            Self::KilledTls => ("killed", Group::Killed, false, true),
            Self::KilledStreams => ("killed-streams", Group::Killed, true, false),
        }
    }
}

const fn kind(
    name: &'static str,
    scheme: &'static str,
    door: Door,
    options: &'static str,
    rate_per_s: u32,
) -> Kind {
    Kind {
        name,
        scheme,
        door,
        path: "",
        options,
        rate_per_s,
    }
}

const fn call(
    name: &'static str,
    scheme: &'static str,
    door: Door,
    options: &'static str,
    rate_per_s: u32,
) -> Kind {
    Kind {
        path: "echo.Echo/Say",
        ..kind(name, scheme, door, options, rate_per_s)
    }
}

/// All of it.
#[rustfmt::skip]
pub(super) const KINDS: [Kind; 21] = [
    kind("HTTP/1.1, keep-alive", "http", Door::Small, "--verify -c 8", 200),
    kind("HTTP/1.1, a connection each", "http", Door::Small, "--verify -c 4 --new-connections", 50),
    kind("HTTP/1.1, uploads of 256 KiB", "http", Door::Small, "--verify --method POST --body 256KiB -c 4", 10),
    kind("HTTP/1.1 over TLS", "https", Door::SmallTls, "--verify -c 8 --requests-per-connection 20 --resume 0.5", 100),
    kind("the same, uploads of 64 KiB", "https", Door::SmallTls, "--verify --method POST --body 64KiB -c 4", 10),
    kind("HTTP/2", "h2c", Door::Small, "--verify -c 4 -m 8", 150),
    kind("HTTP/2 over TLS", "https", Door::SmallTls, "--http2 --verify -c 4 -m 8 --requests-per-connection 100", 100),
    kind("WebSocket messages", "ws", Door::Small, "--message 128 -c 8 --requests-per-connection 40", 150),
    kind("WebSocket messages over TLS", "wss", Door::SmallTls, "--message 16KiB -c 4 --requests-per-connection 20", 50),
    kind("HTTP/2 to HTTP/2", "h2c", Door::Streams, "--verify -c 4 -m 8", 100),
    kind("the same, uploads of 64 KiB", "h2c", Door::Streams, "--verify --method POST --body 64KiB -c 2 -m 4", 20),
    kind("HTTP/1.1 to HTTP/2", "http", Door::Streams, "--verify -c 4", 50),
    call("gRPC calls", "h2c", Door::Streams, "--grpc unary --message 128 -c 4 -m 4", 100),
    call("gRPC streams of 16 messages", "h2c", Door::Streams, "--grpc stream:16 --message 1KiB -c 4 -m 2", 20),
    call("gRPC calls over TLS", "https", Door::StreamsTls, "--http2 --grpc unary --message 128 -c 4 -m 4", 50),
    kind("downloads of 1 MiB", "http", Door::Large, "--verify -c 4", 10),
    kind("downloads of 1 MiB over TLS", "https", Door::LargeTls, "--verify -c 4", 5),
    kind("GETs, origins killed", "http", Door::Killed, "--verify -c 8", 200),
    kind("GETs over TLS, origins killed", "https", Door::KilledTls, "--verify -c 8 --requests-per-connection 50", 50),
    kind("HTTP/2 GETs, origins killed", "h2c", Door::Killed, "--verify -c 4 -m 8", 50),
    kind("HTTP/2 to HTTP/2, origins killed", "h2c", Door::KilledStreams, "--verify -c 4 -m 8", 50),
];

impl Kind {
    /// The words of its `loadgen run`, to the listener's address among those of [`Door::ALL`].
    pub(super) fn command(
        &self,
        doors: &[SocketAddr],
        pace: f64,
        duration: Duration,
        cpu: usize,
    ) -> LoadCommand {
        let place = Door::ALL.iter().position(|door| *door == self.door);
        let at = doors[place.unwrap_or(0)];
        let rate = f64::from(self.rate_per_s) * pace;
        let words = format!(
            "run {}://{at}/{} {} --rate {rate} --timeout {} -d {} --cpu {cpu}",
            self.scheme,
            self.path,
            self.options,
            written(TIMEOUT),
            written(duration),
        );
        LoadCommand(words.split_whitespace().map(str::to_owned).collect())
    }
}

/// The configuration of `lb`: listeners at `doors`, and those origins that `origins` has of each group.
pub(super) fn configuration(
    doors: &[SocketAddr],
    admin: SocketAddr,
    engine: &str,
    origins: impl Fn(Group) -> Vec<SocketAddr>,
) -> String {
    let mut listeners = String::from("listeners:\n");
    let mut clusters = String::from("clusters:\n");
    let mut last = "";
    for (door, address) in Door::ALL.iter().zip(doors) {
        let (cluster, group, is_http2, is_secure) = door.what();
        let tls = if is_secure {
            ", tls: {certificate: site.crt, key: site.key}"
        } else {
            ""
        };
        let _ = writeln!(
            listeners,
            "  - {{address: '{address}', http: {{cluster: {cluster}{tls}}}}}"
        );
        // Doors of one cluster are neighbours.
        if cluster != last {
            let protocol = if is_http2 { "http2" } else { "http1" };
            let backends: Vec<String> = origins(group).iter().map(|at| format!("'{at}'")).collect();
            let _ = writeln!(
                clusters,
                "  {cluster}: {{protocol: {protocol}, pool: {{idle_timeout: 2s}}, backends: [{}]}}",
                backends.join(", ")
            );
        }
        last = cluster;
    }
    format!("{listeners}{clusters}workers: 2\nengine: {engine}\nadmin: {admin}\n")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};
    use crate::run::Config;

    fn addresses(first: u16, count: u16) -> Vec<SocketAddr> {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        (first..first + count).map(address).collect()
    }

    #[test]
    fn every_kind_is_a_load_that_the_program_understands() {
        let doors = addresses(1, 9);
        for kind in KINDS {
            let command = kind.command(&doors, 0.5, Duration::from_secs(20), 1);
            let words = std::iter::once("loadgen").chain(command.0.iter().map(String::as_str));
            let Command::Run(args) = Cli::try_parse_from(words).unwrap().command else {
                panic!("{command:?} is no load");
            };
            Config::try_from(&*args).unwrap_or_else(|error| panic!("{}: {error}", kind.name));
            let is_killed = kind.door.what().1 == Group::Killed;
            let repeatable = !kind.options.contains("POST") && kind.path.is_empty();
            assert!(!is_killed || repeatable, "{}", kind.name);
        }
    }

    #[test]
    fn each_listener_and_cluster_stands_once_in_the_configuration() {
        let doors = addresses(1, 9);
        let text = configuration(&doors, addresses(99, 1)[0], "epoll", |group| match group {
            Group::Small => addresses(100, 3),
            Group::Large => addresses(200, 1),
            Group::Killed => addresses(300, 2),
        });
        assert_eq!(text.matches("  - {address:").count(), 9, "{text}");
        assert_eq!(text.matches("protocol: ").count(), 5, "{text}");
        assert!(text.contains(
            "  streams: {protocol: http2, pool: {idle_timeout: 2s}, backends: ['127.0.0.1:100', \
             '127.0.0.1:101', '127.0.0.1:102']}\n"
        ));
        assert!(text.ends_with("workers: 2\nengine: epoll\nadmin: 127.0.0.1:99\n"));
    }
}
