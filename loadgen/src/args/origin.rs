//! `loadgen origin` as typed.
//!
//! Invariant: what `try_from` returns can be served, but for addresses that are taken.
//! Read next: `../origin/mod.rs`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{PlacementArgs, parse_share};
use crate::origin::{self, Delay, Impairment, Service, SlowStart};
use crate::tcp::TcpMode;
use crate::tls::Identity;
use crate::units::{parse_bytes, parse_duration};

/// `loadgen origin`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Prints one line when it accepts, with the addresses really bound:
  ready http=127.0.0.1:8081 tcp=127.0.0.1:9081 udp=127.0.0.1:9091
Runs until SIGTERM or Ctrl-C.")]
pub struct OriginArgs {
    /// Addresses to answer HTTP/1.1, HTTP/2 (prior knowledge), gRPC (echo) and WebSocket (echo)
    /// on (port 0: any free port).
    #[arg(long, value_name = "ADDR", num_args = 1..)]
    pub http: Vec<SocketAddr>,
    /// Addresses to answer the same over TLS on.
    #[arg(long, value_name = "ADDR", num_args = 1..)]
    pub https: Vec<SocketAddr>,
    /// Addresses to answer TCP on.
    #[arg(long, value_name = "ADDR", num_args = 1..)]
    pub tcp: Vec<SocketAddr>,
    /// Addresses to answer UDP on: echo, and the sink of one-way streams.
    #[arg(long, value_name = "ADDR", num_args = 1..)]
    pub udp: Vec<SocketAddr>,
    /// Size of each HTTP answer's body, as in 64 or 16KiB.
    #[arg(long, value_name = "BYTES", default_value = "64", value_parser = parse_bytes)]
    pub body: usize,
    /// Time taken for each answer: none, fixed:5ms, exp:5ms (exponential, with this mean) or
    /// pareto:5ms (heavy-tailed, with this mean).
    #[arg(long, value_name = "DIST", default_value = "none")]
    pub delay: Delay,
    /// Requests served at a time by each address; others wait their turn [default: any number].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub servers: Option<u16>,
    /// Extra time of each answer from SIGUSR1 until SIGUSR2.
    #[arg(long, value_name = "TIME", default_value = "200ms", value_parser = parse_duration)]
    pub slow_by: Duration,
    /// Part of the requests that fail, 0 to 1: HTTP is answered 503, gRPC with status 14, TCP and
    /// WebSocket by the end of the connection.
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = parse_share)]
    pub error_rate: f64,
    /// Part of the requests whose connection (HTTP/2: stream) is reset in place of an answer.
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = parse_share)]
    pub reset_rate: f64,
    /// For so long after the start answers take longer: by --slow-by at first, then less and less.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_duration)]
    pub slow_start: Duration,
    /// At SIGTERM, go on for so long with the connections that there are, and accept no more:
    /// each answer over HTTP ends its connection then.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_duration)]
    pub drain: Duration,
    /// Part of the datagrams that are lost on their way in.
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = parse_share)]
    pub udp_loss: f64,
    /// Part of the datagrams that come twice.
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = parse_share)]
    pub udp_duplicate: f64,
    /// Part of the datagrams that come after the one that was sent after them.
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = parse_share)]
    pub udp_reorder: f64,
    /// Name in the X-Origin header, in the answer to the TCP line WHO and (16 bytes of it) in
    /// datagrams; numbered NAME-1,
    /// NAME-2, … when there are several addresses of a kind. Without it the address is the name.
    #[arg(long)]
    pub name: Option<String>,
    /// PEM file of the certificate chain for --https [default: one made at start, self-signed].
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file of its private key.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// What TCP connections are answered: echo sends back each byte; stream:BYTES answers each
    /// line with that many bytes.
    #[arg(long, value_name = "MODE", default_value = "echo")]
    pub tcp_mode: TcpMode,
    /// Where to run.
    #[command(flatten)]
    pub placement: PlacementArgs,
}

impl TryFrom<&OriginArgs> for origin::Config {
    type Error = String;

    fn try_from(args: &OriginArgs) -> Result<Self, String> {
        let streams = [&args.http, &args.https, &args.tcp];
        let only_datagrams = streams.iter().all(|addresses| addresses.is_empty());
        if only_datagrams && args.udp.is_empty() {
            return Err(
                "nothing to serve: give --http, --https, --tcp or --udp, as in --http \
                 127.0.0.1:8081"
                    .into(),
            );
        }
        if args.https.is_empty() && args.tls_cert.is_some() {
            return Err("--tls-cert is for --https".into());
        }
        let files = args.tls_cert.as_ref().zip(args.tls_key.as_ref());
        let identity = files.map(|(certificates, key)| Identity::read(certificates, key));
        let flags = [
            ("--delay", args.delay != Delay::None),
            ("--servers", args.servers.is_some()),
            ("--error-rate", args.error_rate > 0.0),
            ("--reset-rate", args.reset_rate > 0.0),
            ("--slow-start", !args.slow_start.is_zero()),
            ("--drain", !args.drain.is_zero()),
        ];
        if let Some((flag, _)) = flags.iter().find(|(_, given)| *given)
            && only_datagrams
        {
            return Err(format!(
                "{flag} is for --http, --https and --tcp; datagrams are answered at once"
            ));
        }
        if args.servers.is_some() && args.delay == Delay::None {
            return Err("--servers is for a --delay; without one nobody has to wait".into());
        }
        let impairment = args.impairment()?;
        if args.error_rate + args.reset_rate > 1.0 {
            return Err("--error-rate and --reset-rate: more than all requests".into());
        }
        Ok(Self {
            impairment,
            drain: args.drain,
            http: args.http.clone(),
            https: args.https.clone(),
            tcp: args.tcp.clone(),
            udp: args.udp.clone(),
            body: args.body,
            service: Service {
                delay: args.delay,
                servers: args.servers.map_or(0, usize::from),
                error_rate: args.error_rate,
                reset_rate: args.reset_rate,
                slow_start: SlowStart {
                    extra: args.slow_by,
                    lasts: args.slow_start,
                },
            },
            name: args.name.clone(),
            identity: identity.transpose().map_err(|error| error.to_string())?,
            tcp_mode: args.tcp_mode,
            threads: args.placement.threads()?,
            cpu: args.placement.cpu,
            engine: args.placement.engine()?,
        })
    }
}

impl OriginArgs {
    fn impairment(&self) -> Result<Impairment, String> {
        let impairment = Impairment {
            lost: self.udp_loss,
            duplicated: self.udp_duplicate,
            reordered: self.udp_reorder,
        };
        if self.udp.is_empty() && impairment != Impairment::NONE {
            return Err("--udp-loss, --udp-duplicate and --udp-reorder are for --udp".into());
        }
        if impairment.sum() > 1.0 {
            return Err(
                "--udp-loss, --udp-duplicate and --udp-reorder: more than all datagrams".into(),
            );
        }
        Ok(impairment)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::{Cli, Command};
    use super::*;

    #[test]
    fn an_origin_serves_something() {
        let origin = |words: &[&str]| {
            let cli = Cli::try_parse_from([&["loadgen", "origin"], words].concat()).unwrap();
            let Command::Origin(args) = cli.command else {
                panic!("not an origin")
            };
            origin::Config::try_from(&args)
        };
        assert!(origin(&[]).unwrap_err().contains("--http"));
        let config = origin(&[
            "--http",
            "127.0.0.1:0",
            "127.0.0.1:0",
            "--tcp",
            "[::1]:0",
            "--delay",
            "exp:1ms",
        ])
        .unwrap();
        let only_udp = ["--udp", "127.0.0.1:0"];
        assert_eq!(origin(&only_udp).unwrap().udp.len(), 1);
        let refused = origin(&[&only_udp[..], &["--delay", "fixed:1ms"]].concat());
        assert!(refused.unwrap_err().contains("--delay"));
        assert_eq!((config.http.len(), config.tcp.len()), (2, 1));
        assert_eq!(
            config.service.delay,
            Delay::Exponential(Duration::from_millis(1))
        );
        for (words, named) in [
            ("--tcp 127.0.0.1:0 --servers 2", "--delay"),
            ("--tcp 127.0.0.1:0 --udp-loss 0.1", "--udp"),
            ("--udp 127.0.0.1:0 --reset-rate 0.1", "--reset-rate"),
            (
                "--udp 127.0.0.1:0 --udp-loss 0.6 --udp-reorder 0.6",
                "all datagrams",
            ),
            (
                "--tcp 127.0.0.1:0 --error-rate 0.6 --reset-rate 0.6",
                "all requests",
            ),
        ] {
            let words: Vec<&str> = words.split(' ').collect();
            let refused = origin(&words).unwrap_err();
            assert!(refused.contains(named), "{words:?}: {refused}");
        }
    }
}
