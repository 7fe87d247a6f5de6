//! The command line.
//!
//! Invariant: a flag that is accepted takes effect. One that the design names and this version
//! does not have is refused by name; any mistake ends with exit code 2 before anything starts.
//! Read next: `config/flags.rs` (what the flags become).

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use lb_core::plan::{Balance, HashKey, ProxyVersion, Relay};
use lb_core::prefixes::Prefix;

use crate::config::{
    self, AccessLog, AdminAddress, AffinityFlag, Engine, Flags, HealthFlag, ListenFlag, Located,
    LogFormat, NameFlag, PROXY_VERSION_WORDS, Place, RouteFlag, Sources, TlsFlags, TrustedFlag,
    Workers, WrittenSettings,
};

use crate::kubernetes::{HealthzAddress, KubernetesFlags, NodePortFlag};

/// Heading of the flags about all backends that are given as flags.
const BALANCING: &str = "Balancing, of backends given as flags";

/// Exit code for a mistake on the command line.
pub(crate) const EXIT_USAGE: u8 = 2;

/// An io_uring, thread-per-core L4/L7 load balancer.
#[derive(Debug, Parser)]
#[command(
    name = "lb",
    version,
    args_conflicts_with_subcommands = true,
    max_term_width = 100
)]
#[command(after_help = "Examples:
  lb --tcp 5432=10.0.0.1:5432,10.0.0.2:5432 --health tcp
  lb --http 8080=10.0.0.1:80 --route 'shop.example/cart=10.0.0.2:80,10.0.0.3:80/2'
  lb --config lb.yaml
  lb demo")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Balance traffic (what `lb` does without a command).
    Run(RunArgs),
    /// Start three built-in origins and balance between them.
    Demo(DemoArgs),
    /// Check sources and print what they mean, without running anything.
    Check(CheckArgs),
}

/// Sources and options.
#[derive(Debug, Args, Default)]
pub(crate) struct RunArgs {
    /// Configuration file (YAML; CONFIG.md has every key), read again when it changes.
    #[arg(long, value_name = "FILE", help_heading = "Sources")]
    config: Vec<PathBuf>,
    /// Relay TCP connections: 5432=10.0.0.1:5432,10.0.0.2:5432/2; LISTEN may be a range of ports,
    /// as 30000-30010
    #[arg(long, value_name = "[NAME@]LISTEN=BACKENDS", help_heading = "Sources")]
    #[arg(value_parser = ListenFlag::tcp)]
    tcp: Vec<ListenFlag>,
    /// Relay TLS connections by the server name that they ask for, without decrypting them; the
    /// backends take the names that no --sni has: 443
    #[arg(
        long,
        value_name = "[NAME@]LISTEN[=BACKENDS]",
        help_heading = "Sources"
    )]
    #[arg(value_parser = ListenFlag::http)]
    tls_passthrough: Vec<ListenFlag>,
    /// Server name of every --tls-passthrough: shop.example=10.0.0.1:443 or '*.example'=…
    #[arg(long, value_name = "NAME=BACKENDS", help_heading = "Sources")]
    #[arg(value_parser = NameFlag::parse)]
    sni: Vec<NameFlag>,
    /// Relay UDP datagrams, those of one client to one backend: 53=10.0.0.1:53,10.0.0.2:53
    #[arg(long, value_name = "[NAME@]LISTEN=BACKENDS", help_heading = "Sources")]
    #[arg(value_parser = ListenFlag::udp)]
    udp: Vec<ListenFlag>,
    /// Proxy HTTP; the backends take what no route matches: 8080=10.0.0.1:80
    #[arg(
        long,
        value_name = "[NAME@]LISTEN[=BACKENDS]",
        help_heading = "Sources"
    )]
    #[arg(value_parser = ListenFlag::http)]
    http: Vec<ListenFlag>,
    /// As --http, over TLS: 8443=10.0.0.1:80
    #[arg(
        long,
        value_name = "[NAME@]LISTEN[=BACKENDS]",
        help_heading = "Sources"
    )]
    #[arg(value_parser = ListenFlag::http)]
    https: Vec<ListenFlag>,
    /// Certificate of every --https, PEM with its chain; chosen by name, the first is the default
    #[arg(long, value_name = "FILE", help_heading = "Sources")]
    tls_cert: Vec<PathBuf>,
    /// Private key of the --tls-cert at the same position, PEM
    #[arg(long, value_name = "FILE", help_heading = "Sources")]
    tls_key: Vec<PathBuf>,
    /// Writes the secrets of every --https connection to the file that SSLKEYLOGFILE names, to
    /// decrypt captured packets. Never in production
    #[arg(long)]
    tls_key_log: bool,
    /// Route of every --http and --https listener: shop.example/cart=10.0.0.2:80; `*` is any host.
    #[arg(long, value_name = "HOST[/PATH]=BACKENDS", help_heading = "Sources")]
    #[arg(value_parser = RouteFlag::parse)]
    route: Vec<RouteFlag>,
    /// How a backend is chosen (CONFIG.md has every name): rr, wrr, lc, mh, p2c, … [default: wrr]
    #[arg(long, value_name = "NAME", help_heading = BALANCING)]
    #[arg(value_parser = |text: &str| config::parse_word(text, &Balance::NAMES))]
    balance: Option<Balance>,
    /// How --tcp moves bytes: auto, copy or splice [default: auto]
    #[arg(long, value_name = "NAME", help_heading = "Sources")]
    #[arg(value_parser = |text: &str| config::parse_word(text, &Relay::NAMES))]
    relay: Option<Relay>,
    /// What mh, ring, sh and others hash: client, client-port, destination, uri, header:NAME,
    /// cookie:NAME or query:NAME [default: by the scheduler, mostly client]
    #[arg(long, value_name = "KEY", help_heading = BALANCING)]
    #[arg(value_parser = config::parse_hash_key)]
    hash_key: Option<HashKey>,
    // Not as comments of documentation, where brackets are links.
    #[arg(long, value_name = "KIND", help_heading = BALANCING)]
    #[arg(
        help = "Keeps a client where it is: none, client-ip[:SECONDS], cookie[:NAME] or \
                  header:NAME [default: none]"
    )]
    #[arg(value_parser = AffinityFlag::parse)]
    affinity: Option<AffinityFlag>,
    #[arg(long, value_name = "CHECK", help_heading = BALANCING)]
    #[arg(
        help = "Health checks: off, tcp, http:PATH, https:PATH, grpc[:SERVICE] or udp \
                  [default: off]"
    )]
    #[arg(value_parser = HealthFlag::parse)]
    health: Option<HealthFlag>,
    /// Connections begin with a PROXY protocol header, v1 or v2, and come from these proxies:
    /// 10.0.0.0/8,2001:db8::7 [without a value: from anyone]
    #[arg(long, value_name = "PREFIXES", value_parser = TrustedFlag::parse)]
    #[arg(num_args = 0..=1, default_missing_value = "0.0.0.0/0,::/0")]
    proxy_in: Option<TrustedFlag>,
    /// Backends of --tcp and --tls-passthrough get a PROXY protocol header: v1 or v2
    #[arg(long, value_name = "VERSION")]
    #[arg(value_parser = |text: &str| config::parse_word(text, &PROXY_VERSION_WORDS))]
    proxy_out: Option<ProxyVersion>,
    /// Congestion control of client and TCP backend connections, as cubic or bbr [default: the
    /// system's]
    #[arg(long, value_name = "NAME", value_parser = config::parse_congestion)]
    tcp_congestion: Option<String>,
    #[command(flatten)]
    kubernetes: KubernetesArgs,
    #[command(flatten)]
    process: ProcessArgs,
}

/// Kubernetes objects as a source.
#[derive(Debug, Args, Default)]
#[command(next_help_heading = "Kubernetes objects")]
pub(crate) struct KubernetesArgs {
    /// Folder of Kubernetes manifests (YAML, JSON), with its sub-folders; read again as it changes
    #[arg(long, value_name = "DIR")]
    manifests: Option<PathBuf>,
    /// The Node that this process runs on, for what is local to it
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Where NodePorts are answered: all, primary, or prefixes, as 10.0.0.0/8 [default: all]
    #[arg(long, value_name = "CIDR[,…]", value_parser = NodePortFlag::parse)]
    nodeport_addresses: Option<NodePortFlag>,
    /// Addresses for Services of type LoadBalancer that name none: 192.0.2.0/28
    #[arg(long, value_name = "CIDR[,…]", value_delimiter = ',')]
    lb_pool: Vec<Prefix>,
    /// The loadBalancerClass that is served [default: Services without one]
    #[arg(long, value_name = "NAME")]
    lb_class: Option<String>,
    /// Answer on the cluster IPs of Services, made local by routes (CAP_NET_ADMIN)
    #[arg(long)]
    cluster_ips: bool,
    /// Answer on externalIPs: whoever may write a Service can take any address by them
    #[arg(long)]
    external_ips: bool,
    /// Let Ingresses lead to Services of type ExternalName, to wherever their name leads
    #[arg(long)]
    external_names: bool,
    /// The only class of Ingresses that is served [default: any that is ours or nginx's]
    #[arg(long, value_name = "NAME")]
    ingress_class: Option<String>,
    /// Where Ingresses are answered in the clear, or off [default: 0.0.0.0:80]
    #[arg(long, value_name = "LISTEN", value_parser = HealthzAddress::parse)]
    ingress_http: Option<HealthzAddress>,
    /// Where Ingresses with TLS are answered, or off [default: 0.0.0.0:443]
    #[arg(long, value_name = "LISTEN", value_parser = HealthzAddress::parse)]
    ingress_https: Option<HealthzAddress>,
    /// Address of /healthz and /livez as kube-proxy has them, or off [default: 0.0.0.0:10256]
    #[arg(long, value_name = "LISTEN", value_parser = HealthzAddress::parse)]
    healthz: Option<HealthzAddress>,
}

impl KubernetesArgs {
    fn flags(&self) -> KubernetesFlags {
        KubernetesFlags {
            manifests: self.manifests.clone(),
            node_name: self.node_name.clone(),
            nodeport_addresses: self.nodeport_addresses.clone(),
            lb_pool: self.lb_pool.clone(),
            lb_class: self.lb_class.clone(),
            cluster_ips: self.cluster_ips,
            external_ips: self.external_ips,
            external_names: self.external_names,
            ingress_class: self.ingress_class.clone(),
            ingress_http: self.ingress_http,
            ingress_https: self.ingress_https,
            healthz: self.healthz,
        }
    }
}

/// How the process runs.
#[derive(Debug, Args, Default)]
pub(crate) struct ProcessArgs {
    /// Worker threads, each on its own CPU: a number or auto [default: auto]
    #[arg(long, value_name = "N", value_parser = Workers::parse)]
    workers: Option<Workers>,
    /// auto, uring or epoll [default: auto]
    #[arg(long, value_name = "NAME", value_parser = Engine::parse)]
    engine: Option<Engine>,
    /// Address of /readyz, /livez, /metrics, /status and /config, or off [default: 127.0.0.1:9900]
    #[arg(long, value_name = "ADDRESS", value_parser = AdminAddress::parse)]
    admin: Option<AdminAddress>,
    /// A line for each HTTP request: off, stdout or a file [default: off]
    #[arg(long, value_name = "FILE", value_parser = AccessLog::parse)]
    access_log: Option<AccessLog>,
    /// What is in it: json, common, combined, or a template, as '$remote_addr "$request" $status'
    /// [default: json]
    #[arg(long, value_name = "FORMAT", value_parser = config::logs::parse_format)]
    access_log_format: Option<lb_core::plan::LogFormat>,
    /// A line for each TCP session and UDP flow: off, stdout or a file [default: off]
    #[arg(long, value_name = "FILE", value_parser = AccessLog::parse)]
    session_log: Option<AccessLog>,
    /// What is in it: json, text, or a template, as '$remote_addr $upstream_addr $session_time $end'
    /// [default: json]
    #[arg(long, value_name = "FORMAT", value_parser = config::logs::parse_session_format)]
    session_log_format: Option<lb_core::plan::LogFormat>,
    /// How long exchanges in flight may take to end at SIGTERM [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = config::parse_duration)]
    drain_timeout: Option<Duration>,
    /// Log lines on stderr as text or json [default: text]
    #[arg(long, value_name = "FORMAT", value_parser = LogFormat::parse)]
    log_format: Option<LogFormat>,
}

/// `lb demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Where the HTTP listener is, whose page shows the backends at work.
    #[arg(long, value_name = "[ADDRESS:]PORT", default_value = "127.0.0.1:30080")]
    #[arg(value_parser = config::parse_listen_local)]
    pub(crate) http: SocketAddr,
    /// Where the TCP listener is.
    #[arg(long, value_name = "[ADDRESS:]PORT", default_value = "127.0.0.1:30036")]
    #[arg(value_parser = config::parse_listen_local)]
    pub(crate) tcp: SocketAddr,
    #[command(flatten)]
    process: ProcessArgs,
}

/// `lb check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    run: RunArgs,
    /// text or json
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    #[arg(value_parser = |text: &str| config::parse_word(text, &CHECK_FORMATS))]
    pub(crate) format: CheckFormat,
}

/// How `lb check` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CheckFormat {
    Json,
    Text,
}

const CHECK_FORMATS: [(&str, CheckFormat); 2] =
    [("json", CheckFormat::Json), ("text", CheckFormat::Text)];

/// Flags of the design that later versions bring.
const NOT_YET: [&str; 1] = ["--kubernetes"];

impl Cli {
    /// Parses the process's arguments; the error is what to print and the exit code.
    pub(crate) fn from_arguments(arguments: Vec<OsString>) -> Result<Self, (String, u8)> {
        if let Some(flag) = arguments.iter().find_map(not_yet) {
            let text = format!("error: {flag} is not supported by this version yet\n");
            return Err((text, EXIT_USAGE));
        }
        Self::try_parse_from(arguments).map_err(|error| {
            let code = if error.use_stderr() { EXIT_USAGE } else { 0 };
            (error.render().to_string(), code)
        })
    }
}

/// The flag, if `argument` is one that is not supported yet.
fn not_yet(argument: &OsString) -> Option<String> {
    let flag = argument.to_str()?.split('=').next()?;
    NOT_YET.contains(&flag).then(|| flag.to_owned())
}

impl RunArgs {
    /// Whether there is anything to run.
    pub(crate) fn has_sources(&self) -> bool {
        let listeners = [
            &self.tcp,
            &self.udp,
            &self.tls_passthrough,
            &self.http,
            &self.https,
        ];
        let is_empty = self.config.is_empty() && listeners.iter().all(|it| it.is_empty());
        !is_empty || self.kubernetes.manifests.is_some()
    }

    /// A flag about Kubernetes objects that was given without any.
    pub(crate) fn flag_without_objects(&self) -> Option<&'static str> {
        self.kubernetes.flags().without_objects()
    }

    /// The sources that the flags name.
    pub(crate) fn sources(self) -> Sources {
        let kubernetes = self.kubernetes.flags();
        let flags = Flags {
            tcp: self.tcp,
            passthrough: self.tls_passthrough,
            names: self.sni,
            udp: self.udp,
            http: self.http,
            https: self.https,
            tls: TlsFlags {
                certificates: self.tls_cert,
                keys: self.tls_key,
                key_log: self.tls_key_log,
            },
            routes: self.route,
            balance: self.balance,
            relay: self.relay,
            hash_key: self.hash_key,
            affinity: self.affinity,
            health: self.health,
            proxy_in: self.proxy_in,
            proxy_out: self.proxy_out,
            congestion: self.tcp_congestion,
        };
        Sources {
            files: self.config,
            flags,
            kubernetes,
            settings: self.process.settings(),
            ..Sources::default()
        }
    }
}

impl DemoArgs {
    /// The process settings given.
    pub(crate) fn settings(self) -> WrittenSettings {
        self.process.settings()
    }
}

impl CheckArgs {
    /// The sources to check.
    pub(crate) fn sources(self) -> Sources {
        self.run.sources()
    }

    /// As [`RunArgs::flag_without_objects`].
    pub(crate) fn flag_without_objects(&self) -> Option<&'static str> {
        self.run.flag_without_objects()
    }

    /// Whether there is anything to check.
    pub(crate) fn has_sources(&self) -> bool {
        self.run.has_sources()
    }
}

impl ProcessArgs {
    fn settings(self) -> WrittenSettings {
        fn located<T>(flag: &'static str, value: Option<T>) -> Option<Located<T>> {
            let place = Place::Flag {
                flag,
                value: String::new(),
            };
            value.map(|value| Located { value, place })
        }
        WrittenSettings {
            workers: located("--workers", self.workers),
            engine: located("--engine", self.engine),
            admin: located("--admin", self.admin),
            access_log: located("--access-log", self.access_log),
            access_log_format: located("--access-log-format", self.access_log_format),
            session_log: located("--session-log", self.session_log),
            session_log_format: located("--session-log-format", self.session_log_format),
            session_log_starts: None,
            drain_timeout: located("--drain-timeout", self.drain_timeout),
            log_format: located("--log-format", self.log_format),
            affinity_entries: None,
        }
    }
}
