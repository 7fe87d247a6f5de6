//! `loadgen run` as typed.
//!
//! Invariant: what `try_from` returns is a valid `run::Config`; flags that do not go together are refused
//! by name (`refuse.rs`). Read next: `../run/config.rs`.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use lb_l7::tls::roots_from_pem;

use super::{PlacementArgs, parse_share};
use crate::run::{
    self, Grpc, HttpRequest, LoadMode, Mix, MixError, Replay, Sources, TcpRequest, UdpRequest, Url,
};
use crate::tcp::TcpMode;
use crate::tls::{Group, Suite, TlsRequest, Version};
use crate::units::{parse_bytes, parse_duration};

/// `loadgen run`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Exit status: 0 if anything was answered (with --strict: if everything was), 1 if not, 2 if the
command line was wrong.

Examples:
  loadgen run http://127.0.0.1:8080/ -c 64 -d 10s --rate 20000
  loadgen run tcp://127.0.0.1:9000 -c 64 -d 10s --closed --message 128 --json -
  loadgen run h2c://127.0.0.1:8080/ -c 16 -m 16 -d 10s
  loadgen run https://127.0.0.1:8443/ --http2 -c 4 -m 32 --grpc stream:10 --message 1KiB
  loadgen run http://127.0.0.1:8080/ -c 64 --scenario shop.yaml --rate 100..5000
  loadgen run http://127.0.0.1:8080/ -c 64 --replay access.log --speed 4
  loadgen run ws://127.0.0.1:8080/chat -c 64 --message 128
  loadgen run https://127.0.0.1:8443/ -c 64 --new-connections --resume 0.8
  loadgen run http://127.0.0.1:8080/ -c 500 --ramp-up 20s -d 30s --idle 5000
  loadgen run tcp://127.0.0.1:9000 -c 64 --requests-per-connection 100 --sources 1000
  loadgen run udp://127.0.0.1:9000 -c 128 -d 10s --one-way --message 1200
  loadgen run http://127.0.0.1:8080/ -c 64 --new-connections --sources 1000:1.1")]
pub struct RunArgs {
    /// `http://HOST[:PORT][/PATH]`, `https://…`, `h2c://…`, `ws://…`, `wss://…`, `tcp://HOST:PORT`
    /// or `udp://HOST:PORT`.
    #[arg(value_name = "URL")]
    pub url: Url,
    /// Requests due per second over all connections, whatever the answers do; latency counts
    /// from the moment that a request was due. N..M goes evenly from one rate to the other from
    /// the start to the end, N..M/STEPS in so many equal steps.
    #[arg(long, value_name = "N[..M[/STEPS]]", conflicts_with = "closed", value_parser = parse_rate)]
    pub rate: Option<LoadMode>,
    /// Requests are due at random (a Poisson process), at --rate on average.
    #[arg(long, requires = "rate")]
    pub poisson: bool,
    /// http, https: YAML file of several kinds of requests, with weights, URIs, headers, bodies,
    /// think times and a cookie jar for each connection.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["headers", "method", "body", "replay"])]
    pub scenario: Option<PathBuf>,
    /// http, https: log in combined format whose requests are sent again, when they were sent.
    #[arg(long, value_name = "LOG", conflicts_with_all = ["headers", "method", "body", "rate", "closed", "warmup", "duration"])]
    pub replay: Option<PathBuf>,
    /// Replay so many times as fast.
    #[arg(long, value_name = "TIMES", requires = "replay", default_value_t = 1.0)]
    pub speed: f64,
    /// Send each connection's next request when its last one is answered (default).
    #[arg(long)]
    pub closed: bool,
    /// Connections; udp: sockets.
    #[arg(short, long, value_name = "N", default_value_t = 64)]
    pub connections: usize,
    /// Length of the measured window.
    #[arg(short, long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub duration: Duration,
    /// Load before the measured window.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_duration)]
    pub warmup: Duration,
    /// Time limit of a request and of opening a connection.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// A new connection for each request; opening it is part of the latency.
    #[arg(long)]
    pub new_connections: bool,
    /// Requests after which a connection is replaced by a new one [default: it lasts].
    #[arg(long, value_name = "N", conflicts_with = "new_connections", value_parser = clap::value_parser!(u64).range(1..))]
    pub requests_per_connection: Option<u64>,
    /// Connections begin evenly over this time from the start, and not all before it.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_duration, conflicts_with = "new_connections")]
    pub ramp_up: Duration,
    /// Further connections that are opened before the start and on which nothing happens; how many
    /// the server has ended by the end is counted.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub idle: usize,
    /// http, ws: further request header; repeatable.
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE", value_parser = parse_header)]
    pub headers: Vec<(String, String)>,
    /// http: request method [default: GET].
    #[arg(long, value_name = "METHOD", value_parser = parse_method)]
    pub method: Option<String>,
    /// http: size of the request body [default: none].
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub body: Option<usize>,
    /// http, https, h2c: each body has to be what the origin that the answer names sends, byte by
    /// byte; for answers of `loadgen origin`.
    #[arg(long, conflicts_with = "grpc")]
    pub verify: bool,
    /// https: speak HTTP/2 (h2c:// does so without TLS).
    #[arg(long)]
    pub http2: bool,
    /// HTTP/2: requests that each connection has under way at a time [default: 1].
    #[arg(short = 'm', long, value_name = "N")]
    pub streams: Option<usize>,
    /// HTTP/2: gRPC calls that echo messages of --message bytes: unary, or stream:N for calls
    /// with N messages each way.
    #[arg(long, value_name = "KIND", value_parser = parse_grpc)]
    pub grpc: Option<usize>,
    /// https: part of the connections that resume a TLS session where they can, 0 to 1; whether
    /// a handshake was whole or resumed is counted [default: 0].
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    pub resume: Option<f64>,
    /// https: the only version of TLS to offer, 1.2 or 1.3 [default: both].
    #[arg(long, value_name = "VERSION")]
    pub tls_version: Option<Version>,
    /// https: key exchanges to offer, the best first: x25519, secp256r1, secp384r1,
    /// x25519mlkem768.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub tls_groups: Vec<Group>,
    /// https: cipher suites to offer, the best first: aes128, aes256, chacha20.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub tls_suites: Vec<Suite>,
    /// https: name to ask for (SNI) [default: the URL's host].
    #[arg(long, value_name = "NAME")]
    pub tls_name: Option<String>,
    /// https: PEM file of the authorities that must have signed the server's certificate; without
    /// it any certificate will do, and none is verified.
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// tcp, udp, ws, gRPC: size of the message [default: 64].
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub message: Option<usize>,
    /// tcp: what the server does: echo sends back each byte; stream:BYTES answers each line with
    /// that many bytes [default: echo].
    #[arg(long, value_name = "MODE")]
    pub tcp_mode: Option<TcpMode>,
    /// tcp: ask each new connection for its origin's name, with the line WHO.
    #[arg(long)]
    pub who: bool,
    /// udp: a stream that the origin counts and does not send back.
    #[arg(long)]
    pub one_way: bool,
    /// udp, closed loop: datagrams of a socket that may be under way [default: 1, one-way 16].
    #[arg(long, value_name = "N")]
    pub window: Option<usize>,
    /// udp: datagrams handed to the kernel at a time (UDP_SEGMENT) [default: 1].
    #[arg(long, value_name = "N")]
    pub gso: Option<usize>,
    /// Clients that come from so many addresses of 127.0.0.0/8, in turn or, with N:S, in
    /// proportion to rank^-S (Zipf); the result says whether they stayed with their origins.
    #[arg(long, value_name = "N[:S]")]
    pub sources: Option<Sources>,
    /// Answers that take longer are counted as delayed, second by second.
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = parse_duration)]
    pub delayed_after: Duration,
    /// Write the result as JSON; - is standard output, and the readable summary goes to
    /// standard error then.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a report, with charts of latency by percentile and of answers over time, into this
    /// new folder.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Exit with status 1 if any request failed.
    #[arg(long)]
    pub strict: bool,
    /// Where to run.
    #[command(flatten)]
    pub placement: PlacementArgs,
}

impl TryFrom<&RunArgs> for run::Config {
    type Error = String;

    fn try_from(args: &RunArgs) -> Result<Self, String> {
        args.refuse_settings_of_the_other_scheme()?;
        let replay = args.replayed()?;
        let mode = match (args.rate, args.poisson) {
            _ if replay.is_some() => LoadMode::Replay { speed: args.speed },
            (Some(LoadMode::Open { rate_per_s }), true) => LoadMode::Poisson { rate_per_s },
            (Some(_), true) => return Err("--poisson is for one --rate".into()),
            (Some(mode), false) => mode,
            (None, _) => LoadMode::Closed,
        };
        let duration = replay.as_ref().map(|replay| replay.duration(args.speed));
        let threads = args.placement.threads()?;
        if args.connections < threads {
            return Err(format!(
                "--connections {}: each of the {threads} threads needs at least one",
                args.connections
            ));
        }
        for (flag, time) in [("--duration", args.duration), ("--timeout", args.timeout)] {
            if time.is_zero() {
                return Err(format!("{flag} 0: write a time above 0, as in 10s"));
            }
        }
        let (http, tcp) = (HttpRequest::default(), TcpRequest::default());
        Ok(Self {
            mode,
            mix: args.mixed()?,
            replay: replay.map(Arc::new),
            connections: args.connections,
            duration: duration.unwrap_or(args.duration),
            warm_up: args.warmup,
            timeout: args.timeout,
            new_connections: args.new_connections,
            requests_per_connection: args.requests_per_connection,
            ramp_up: args.ramp_up,
            idle: args.idle,
            http: HttpRequest {
                method: args.method.clone().unwrap_or(http.method),
                headers: args.headers.clone(),
                body: args.body.unwrap_or(http.body),
                verify: args.verify,
            },
            http2: args.http2,
            streams: args.streams.unwrap_or(1),
            grpc: args.grpc.map(|messages| Grpc {
                messages,
                message: args.message.unwrap_or(tcp.message),
            }),
            tls: args.tls()?,
            tcp: TcpRequest {
                mode: args.tcp_mode.unwrap_or(tcp.mode),
                message: args.message.unwrap_or(tcp.message),
                who: args.who,
            },
            udp: args.udp(),
            sources: args.sources,
            delayed_after: args.delayed_after,
            threads,
            cpu: args.placement.cpu,
            ..Self::new(args.url.clone(), args.placement.engine()?)
        })
    }
}

impl RunArgs {
    fn mixed(&self) -> Result<Option<Arc<Mix>>, String> {
        let Some(path) = &self.scenario else {
            return Ok(None);
        };
        let explain = |error: String| format!("--scenario {}: {error}", path.display());
        let text = fs::read_to_string(path).map_err(|error| explain(error.to_string()))?;
        let mix = text
            .parse()
            .map_err(|error: MixError| explain(error.to_string()))?;
        Ok(Some(Arc::new(mix)))
    }

    fn replayed(&self) -> Result<Option<Replay>, String> {
        let Some(path) = &self.replay else {
            return Ok(None);
        };
        if !(self.speed.is_finite() && self.speed > 0.0) {
            return Err(format!(
                "--speed {}: write a number above 0, as in 2",
                self.speed
            ));
        }
        let explain = |error: String| format!("--replay {}: {error}", path.display());
        // A log may hold any bytes.
        let bytes = fs::read(path).map_err(|error| explain(error.to_string()))?;
        let text = String::from_utf8_lossy(&bytes);
        let replay = Replay::read(&text, self.speed);
        replay.map(Some).map_err(|error| explain(error.to_string()))
    }

    fn tls(&self) -> Result<TlsRequest, String> {
        let roots = |path: &PathBuf| {
            let explain = |error: String| format!("--tls-ca {}: {error}", path.display());
            let text = fs::read(path).map_err(|error| explain(error.to_string()))?;
            roots_from_pem(&text).map_err(|error| explain(error.to_string()))
        };
        Ok(TlsRequest {
            resume: self.resume.unwrap_or(0.0),
            version: self.tls_version,
            groups: self.tls_groups.clone(),
            suites: self.tls_suites.clone(),
            server_name: self.tls_name.clone(),
            roots: self
                .tls_ca
                .as_ref()
                .map(roots)
                .transpose()?
                .unwrap_or_default(),
        })
    }

    pub(super) fn udp(&self) -> UdpRequest {
        let usual = UdpRequest::default();
        let window = if self.one_way {
            UdpRequest::ONE_WAY_WINDOW
        } else {
            usual.window
        };
        UdpRequest {
            message: self.message.unwrap_or(usual.message),
            one_way: self.one_way,
            window: self.window.unwrap_or(window),
            gso: self.gso.unwrap_or(usual.gso),
        }
    }
}

/// `1000`, `100..5000` or `100..5000/5`.
fn parse_rate(text: &str) -> Result<LoadMode, String> {
    let wrong = || format!("`{text}`: write a number above 0, as in 1000, 100..5000 or 100..500/5");
    let rate = |text: &str| {
        let rate = text
            .parse()
            .ok()
            .filter(|rate: &f64| rate.is_finite() && *rate > 0.0);
        rate.ok_or_else(wrong)
    };
    let Some((from, to)) = text.split_once("..") else {
        return Ok(LoadMode::Open {
            rate_per_s: rate(text)?,
        });
    };
    let Some((to, steps)) = to.split_once('/') else {
        return Ok(LoadMode::Ramp {
            from_per_s: rate(from)?,
            to_per_s: rate(to)?,
        });
    };
    let steps = steps
        .parse()
        .ok()
        .filter(|steps| (2..=1000).contains(steps));
    Ok(LoadMode::Steps {
        from_per_s: rate(from)?,
        to_per_s: rate(to)?,
        steps: steps.ok_or_else(wrong)?,
    })
}

fn parse_grpc(text: &str) -> Result<usize, String> {
    let messages = match text.split_once(':') {
        None if text == "unary" => Some(1),
        Some(("stream", count)) => count.parse().ok().filter(|count| *count > 0),
        _ => None,
    };
    messages.ok_or_else(|| "write unary or, for example, stream:10".into())
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or("no colon in it; write for example 'Accept: text/html'")?;
    let value = value.trim();
    if !is_token(name) || value.chars().any(char::is_control) {
        return Err("not a header; write for example 'Accept: text/html'".into());
    }
    let reserved = ["connection", "content-length", "transfer-encoding"];
    if reserved.contains(&name.to_ascii_lowercase().as_str()) {
        return Err(format!(
            "{name} is set by loadgen itself (--new-connections, --body)"
        ));
    }
    Ok((name.to_owned(), value.to_owned()))
}

fn parse_method(text: &str) -> Result<String, String> {
    if is_token(text) && text != "CONNECT" {
        Ok(text.to_owned())
    } else {
        Err("not a request method; write for example POST".into())
    }
}

/// RFC 9110 §5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::{Cli, Command};
    use super::*;

    fn config(command_line: &str) -> Result<run::Config, String> {
        let words = command_line.split(' ').map(|word| word.replace('_', " "));
        let cli = Cli::try_parse_from(
            ["loadgen".to_owned(), "run".to_owned()]
                .into_iter()
                .chain(words),
        );
        match cli.map_err(|error| error.to_string())?.command {
            Command::Run(args) => run::Config::try_from(&*args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_run_is_closed_unless_it_has_a_rate() {
        assert_eq!(
            config("http://127.0.0.1:1/").unwrap().mode,
            LoadMode::Closed
        );
        assert_eq!(
            config("http://127.0.0.1:1/ --closed").unwrap().mode,
            LoadMode::Closed
        );
        let open = config("tcp://127.0.0.1:1 --rate 1000 -c 8 -d 2s --message 1k").unwrap();
        assert_eq!(open.mode, LoadMode::Open { rate_per_s: 1000.0 });
        assert_eq!((open.connections, open.tcp.message), (8, 1000));
        assert_eq!(open.duration, Duration::from_secs(2));
    }

    #[test]
    fn headers_and_method_reach_the_request() {
        let config = config("http://a:1/ --method POST --body 3 -H X-A:_1 --header X-B:2").unwrap();
        assert_eq!(config.http.method, "POST");
        assert_eq!(config.http.body, 3);
        assert_eq!(
            config.http.headers,
            [("X-A".into(), "1".into()), ("X-B".into(), "2".into())]
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (command_line, named) in [
            ("tcp://a:1 --method GET", "--method"),
            ("tcp://a:1 -H A:b", "--header"),
            ("tcp://a:1 --gso 8", "udp://"),
            ("udp://a:1 --new-connections", "wss:// and tcp://"),
            ("udp://a:1 --idle 5", "wss:// and tcp://"),
            ("udp://a:1 --ramp-up 5s", "wss:// and tcp://"),
            ("udp://a:1 --requests-per-connection 5", "wss:// and tcp://"),
            ("http://a:1/ --requests-per-connection 0", "1.."),
            (
                "http://a:1/ --requests-per-connection 2 --new-connections",
                "--new-connections",
            ),
            ("http://a:1/ --resume 0.5", "https://"),
            ("https://a:1/ --resume 2", "0 to 1"),
            ("https://a:1/ -m 4", "--http2"),
            ("h2c://a:1/ -m 0", "-m 0"),
            ("h2c://a:1/ -m 2 --new-connections", "--new-connections"),
            ("h2c://a:1/ --grpc twice", "unary"),
            ("h2c://a:1/ --message 5", "--grpc"),
            ("https://a:1/ --tls-groups x448", "x25519"),
            ("https://a:1/ --tls-ca /nowhere/ca", "/nowhere/ca"),
            ("udp://a:1 --message 39", "from 40 to"),
            ("udp://a:1 --window 0", "--window"),
            ("udp://a:1 --one-way --window 1", "--window"),
            ("udp://a:1 --gso 8", "--one-way"),
            ("udp://a:1 --one-way --gso 65", "at most 64"),
            ("udp://a:1 --one-way --gso 60 --message 1200", "--gso"),
            ("udp://a:1 --one-way --gso 4 --rate 5", "closed loop"),
            ("http://a:1/ --sources 0", "--sources"),
            ("http://a:1/ --message 5", "--message"),
            ("http://a:1/ --who", "--who"),
            ("ws://a:1/ --verify", "--verify"),
            ("tcp://a:1 --tcp-mode stream:5 --message 5", "--message"),
            ("tcp://a:1 --message 0", "--message"),
            ("http://a:1/ --rate 0", "--rate"),
            ("http://a:1/ --rate 5 --closed", "--closed"),
            ("http://a:1/ -c 1 --threads 2", "--connections"),
            ("http://a:1/ --threads 0", "--threads"),
            ("http://a:1/ -d 0s", "--duration"),
            ("http://a:1/ -d 10", "500ms"),
            ("http://a:1/ -H nonsense", "--header"),
            ("http://a:1/ -H Connection:close", "Connection"),
            ("http://a:1/ --method G/T", "--method"),
            ("http://a:1/ --engine kqueue", "--engine"),
            ("ftp://a:1/", "ftp"),
        ] {
            let error = config(command_line).unwrap_err();
            assert!(error.contains(named), "{command_line}: {error}");
        }
    }

    #[test]
    fn the_definitions_of_the_flags_are_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
