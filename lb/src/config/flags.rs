//! The sources given as flags, to a [`File`]: `--tcp`, `--udp`, `--tls-passthrough`, `--sni`,
//! `--http`, `--route`, and what is said about all of them: how their clusters balance, `--relay`,
//! `--proxy-in`, `--proxy-out`.
//!
//! Invariant: each flag that brings backends makes a cluster of its own, named after what the
//! user wrote, so that the same name is met again in logs and metrics.
//! Read next: `compile.rs`.

use std::net::SocketAddr;
use std::rc::Rc;

use lb_core::plan::{
    Affinity, BackendSocket, Balance, Check, Edge, HashKey, ListenSocket, ListenerLog, ProxyOut,
    ProxyVersion, Relay, TcpSocket,
};
use lb_core::prefixes::Prefix;
use lb_core::rt::is_unix;

use super::balancing;
use super::decode::Problems;
use super::edge;
use super::file::{
    Backend, Cluster, File, Health, Http, Listener, Protocol, Route, ServerName, ServerNames, Tcp,
    Udp,
};
use super::notation::{self, BackendText, Host};
use super::problem::{Located, Place, Problem};
use super::tls::TlsFlags;

/// `--tcp [NAME@]LISTEN=BACKENDS`, `--udp` likewise, or `--http [NAME@]LISTEN[=BACKENDS]`.
#[derive(Debug, Clone)]
pub(crate) struct ListenFlag {
    /// As the user wrote it.
    text: String,
    name: Option<String>,
    address: SocketAddr,
    last_port: Option<u16>,
    backends: Option<Vec<BackendText>>,
    is_udp: bool,
}

/// `--route HOST[/PATH]=BACKENDS`.
#[derive(Debug, Clone)]
pub(crate) struct RouteFlag {
    /// As the user wrote it.
    text: String,
    host: Option<String>,
    path: String,
    backends: Vec<BackendText>,
}

/// `--sni NAME=BACKENDS`.
#[derive(Debug, Clone)]
pub(crate) struct NameFlag {
    /// As the user wrote it.
    text: String,
    name: String,
    backends: Vec<BackendText>,
}

/// `--proxy-in PREFIXES`: the proxies that are believed.
#[derive(Debug, Clone)]
pub(crate) struct TrustedFlag(Vec<Prefix>);

/// `--affinity`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AffinityFlag(Option<Affinity>);

/// `--health`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HealthFlag(Option<Check>);

/// All of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flags {
    pub(crate) tcp: Vec<ListenFlag>,
    pub(crate) passthrough: Vec<ListenFlag>,
    pub(crate) names: Vec<NameFlag>,
    pub(crate) udp: Vec<ListenFlag>,
    pub(crate) http: Vec<ListenFlag>,
    pub(crate) https: Vec<ListenFlag>,
    /// What all of `https` have.
    pub(crate) tls: TlsFlags,
    pub(crate) routes: Vec<RouteFlag>,
    pub(crate) balance: Option<Balance>,
    pub(crate) relay: Option<Relay>,
    pub(crate) hash_key: Option<HashKey>,
    pub(crate) affinity: Option<AffinityFlag>,
    pub(crate) health: Option<HealthFlag>,
    pub(crate) proxy_in: Option<TrustedFlag>,
    pub(crate) proxy_out: Option<ProxyVersion>,
    /// On both sides.
    pub(crate) congestion: Option<String>,
}

impl ListenFlag {
    /// Parses `--tcp`.
    pub(crate) fn tcp(text: &str) -> Result<Self, String> {
        match text.contains('=') {
            true => Self::http(text),
            false => Err("there are no backends; as 5432=10.0.0.1:5432,10.0.0.2:5432".to_owned()),
        }
    }

    /// Parses `--udp`.
    pub(crate) fn udp(text: &str) -> Result<Self, String> {
        if !text.contains('=') {
            return Err("there are no backends; as 53=10.0.0.1:53,10.0.0.2:53".to_owned());
        }
        let flag = Self::http(text)?;
        let mut backends = flag.backends.iter().flatten();
        let leads_there = |it: &BackendText| matches!(it.host, Host::Address(ip) if is_unix(ip));
        if is_unix(flag.address.ip()) || backends.any(leads_there) {
            return Err("datagrams are not relayed from or to Unix sockets".to_owned());
        }
        Ok(Self {
            is_udp: true,
            ..flag
        })
    }

    /// Parses `--http`.
    pub(crate) fn http(text: &str) -> Result<Self, String> {
        let (listen, backends) = match text.split_once('=') {
            Some((listen, backends)) => (listen, Some(notation::backends(backends)?)),
            None => (text, None),
        };
        let (name, address) = match listen.split_once('@') {
            // An abstract name of a Unix socket.
            Some(("unix:", _)) | None => (None, listen),
            Some((name, address)) => (Some(notation::name(name)?), address),
        };
        let (address, last_port) = notation::listen_range(address)?;
        Ok(Self {
            text: text.to_owned(),
            name,
            address,
            last_port,
            backends,
            is_udp: false,
        })
    }

    /// The name of the cluster that its backends make.
    fn cluster_name(&self) -> String {
        let default = || Listener::default_name(self.address, self.is_udp);
        self.name.clone().unwrap_or_else(default)
    }
}

impl RouteFlag {
    /// Parses `--route`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let Some((route, backends)) = text.split_once('=') else {
            return Err("there are no backends; as shop.example/cart=10.0.0.1:8080".to_owned());
        };
        let (host, path) = notation::route(route)?;
        Ok(Self {
            text: text.to_owned(),
            host,
            path,
            backends: notation::backends(backends)?,
        })
    }
}

impl NameFlag {
    /// Parses `--sni`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let Some((name, backends)) = text.split_once('=') else {
            return Err("there are no backends; as shop.example=10.0.0.1:443".to_owned());
        };
        Ok(Self {
            text: text.to_owned(),
            name: notation::route_host(name)?,
            backends: notation::backends(backends)?,
        })
    }
}

impl TrustedFlag {
    /// Parses `--proxy-in`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        notation::prefixes(text).map(Self)
    }
}

impl AffinityFlag {
    /// Parses `--affinity`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        balancing::affinity(text).map(Self)
    }
}

impl HealthFlag {
    /// Parses `--health`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        balancing::check(text).map(Self)
    }
}

impl Flags {
    /// As a source; `None` if there are none.
    pub(crate) fn file(&self, problems: &mut Problems) -> Option<File> {
        let has_tcp = !(self.tcp.is_empty() && self.passthrough.is_empty());
        let has_http = !(self.http.is_empty() && self.https.is_empty());
        if !has_tcp && self.udp.is_empty() && !has_http {
            self.refuse_idle(problems);
            return None;
        }
        self.refuse_partial(has_tcp, problems);
        let mut file = File::default();
        for flag in &self.tcp {
            let cluster = self.add_cluster(&mut file, "--tcp", flag);
            let listener = cluster.map(|cluster| self.tcp(Tcp::to(cluster)));
            file.listeners
                .extend(listener.map(|protocol| self.listener("--tcp", flag, protocol)));
        }
        self.add_passthrough(&mut file);
        for flag in &self.udp {
            let cluster = self.add_cluster(&mut file, "--udp", flag);
            let listener = cluster.map(|cluster| Protocol::Udp(Udp::to(cluster)));
            file.listeners
                .extend(listener.map(|protocol| self.listener("--udp", flag, protocol)));
        }
        for flag in &self.http {
            let cluster = self.add_cluster(&mut file, "--http", flag);
            let protocol = Protocol::Http(Http {
                cluster,
                ..Http::default()
            });
            file.listeners.push(self.listener("--http", flag, protocol));
        }
        self.add_https(&mut file, problems);
        for route in &self.routes {
            self.add_route(&mut file, route);
        }
        Some(file)
    }

    /// Flags that are for listeners of a kind that there is not.
    fn refuse_partial(&self, has_tcp: bool, problems: &mut Problems) {
        let mut refuse = |flag, value: String, reason| {
            problems.push(Problem::new(&Place::Flag { flag, value }, reason));
        };
        let has_http = !(self.http.is_empty() && self.https.is_empty());
        if let (Some(route), false) = (self.routes.first(), has_http) {
            let reason = "no --http listener takes this route; as --http 8080";
            refuse("--route", route.text.clone(), reason);
        }
        if let (Some(name), true) = (self.names.first(), self.passthrough.is_empty()) {
            let reason = "no listener looks at server names; as --tls-passthrough 443";
            refuse("--sni", name.text.clone(), reason);
        }
        if let (Some(listen), true) = (self.passthrough.first(), self.names.is_empty()) {
            let reason = "there is no server name to look for; as --sni shop.example=10.0.0.1:443";
            refuse("--tls-passthrough", listen.text.clone(), reason);
        }
        if let (Some(relay), false) = (self.relay, has_tcp) {
            let reason = "no --tcp listener moves bytes so; as --tcp 5432=10.0.0.1:5432";
            refuse("--relay", relay.name().to_owned(), reason);
        }
        if self.proxy_out.is_some() && !has_tcp {
            let reason = "has an effect only on --tcp and --tls-passthrough";
            refuse("--proxy-out", String::new(), reason);
        }
        if self.tls.is_given() && self.https.is_empty() {
            let reason = "no listener shows this certificate; as --https 8443=10.0.0.1:80";
            refuse("--tls-cert", String::new(), reason);
        }
        let has_connections = has_tcp || has_http;
        let proxy_in = self.proxy_in.iter().map(|_| "--proxy-in");
        let congestion = self.congestion.iter().map(|_| "--tcp-congestion");
        for flag in proxy_in.chain(congestion).filter(|_| !has_connections) {
            let reason = "has an effect only on --tcp, --tls-passthrough and --http";
            refuse(flag, String::new(), reason);
        }
    }

    /// Flags that would have no effect.
    fn refuse_idle(&self, problems: &mut Problems) {
        let routes = self
            .routes
            .iter()
            .map(|route| ("--route", route.text.clone()));
        let names = self.names.iter().map(|name| ("--sni", name.text.clone()));
        let given = [
            ("--balance", self.balance.is_some()),
            ("--hash-key", self.hash_key.is_some()),
            ("--affinity", self.affinity.is_some()),
            ("--health", self.health.is_some()),
            ("--proxy-in", self.proxy_in.is_some()),
            ("--proxy-out", self.proxy_out.is_some()),
            ("--relay", self.relay.is_some()),
            ("--tcp-congestion", self.congestion.is_some()),
            ("--tls-cert", self.tls.is_given()),
        ];
        let given = given.into_iter().filter(|(_, given)| *given);
        let given = given.map(|(flag, _)| (flag, String::new()));
        for (flag, value) in routes.chain(names).chain(given) {
            let reason = "has an effect only on listeners given as --tcp, --udp or --http; \
                          in a file, write it there";
            problems.push(Problem::new(&Place::Flag { flag, value }, reason));
        }
    }

    /// Adds the cluster of a listener's backends, if it has any, and returns its name.
    fn add_cluster(
        &self,
        file: &mut File,
        flag: &'static str,
        listen: &ListenFlag,
    ) -> Option<Located<String>> {
        let place = Place::Flag {
            flag,
            value: listen.text.clone(),
        };
        let name = Located {
            value: listen.cluster_name(),
            place,
        };
        file.clusters
            .push(self.cluster(name.clone(), listen.backends.as_ref()?));
        Some(name)
    }

    /// All of them show the same certificates.
    fn add_https(&self, file: &mut File, problems: &mut Problems) {
        let Some(first) = self.https.first() else {
            return;
        };
        let tls = self.tls.read(&first.text, problems).map(Rc::new);
        for flag in &self.https {
            let protocol = Protocol::Http(Http {
                cluster: self.add_cluster(file, "--https", flag),
                tls: tls.clone(),
                ..Http::default()
            });
            file.listeners
                .push(self.listener("--https", flag, protocol));
        }
    }

    /// The server names are those of every `--tls-passthrough`.
    fn add_passthrough(&self, file: &mut File) {
        let mut routes = Vec::new();
        for flag in &self.names {
            let place = Place::Flag {
                flag: "--sni",
                value: flag.text.clone(),
            };
            let cluster = Located {
                value: flag.name.clone(),
                place: place.clone(),
            };
            file.clusters
                .push(self.cluster(cluster.clone(), &flag.backends));
            routes.push(ServerName {
                place,
                name: flag.name.clone(),
                protocols: Vec::new(),
                cluster,
            });
        }
        for flag in &self.passthrough {
            let tcp = Tcp {
                cluster: self.add_cluster(file, "--tls-passthrough", flag),
                server_names: Some(ServerNames {
                    routes: routes.clone(),
                    ..ServerNames::default()
                }),
                ..Tcp::default()
            };
            let listener = self.listener("--tls-passthrough", flag, self.tcp(tcp));
            file.listeners.push(listener);
        }
    }

    fn add_route(&self, file: &mut File, route: &RouteFlag) {
        let place = Place::Flag {
            flag: "--route",
            value: route.text.clone(),
        };
        let host = route.host.as_deref().unwrap_or("*");
        let value = if route.path == "/" {
            host.to_owned()
        } else {
            format!("{host}{}", route.path)
        };
        let cluster = Located {
            value,
            place: place.clone(),
        };
        // The same route a second time is reported as such, not as a cluster there twice.
        if !file
            .clusters
            .iter()
            .any(|known| known.name.value == cluster.value)
        {
            file.clusters
                .push(self.cluster(cluster.clone(), &route.backends));
        }
        let (host, path) = (route.host.clone(), route.path.clone());
        file.routes.push(Route::to(place, host, path, cluster));
    }

    fn cluster(&self, name: Located<String>, backends: &[BackendText]) -> Cluster {
        let place = name.place.clone();
        let backend = |text: &BackendText| Backend {
            address: Located {
                value: text.clone(),
                place: place.clone(),
            },
            name: None,
            backup: false,
            drain: false,
        };
        Cluster {
            backends: backends.iter().map(backend).collect(),
            balance: located("--balance", self.balance),
            hash_key: located("--hash-key", self.hash_key.clone()),
            affinity: located("--affinity", self.affinity.clone().map(|flag| flag.0)),
            health: located(
                "--health",
                self.health.clone().and_then(|flag| flag.0).map(Health::by),
            ),
            ..Cluster::named(name)
        }
    }
    fn tcp(&self, tcp: Tcp) -> Protocol {
        let checksum = false;
        Protocol::Tcp(Tcp {
            backend_socket: BackendSocket {
                tcp: self.tcp_socket(),
                ..BackendSocket::default()
            },
            proxy_out: self.proxy_out.map(|version| ProxyOut { version, checksum }),
            relay: self.relay.map(|value| Located {
                value,
                place: Place::Flag {
                    flag: "--relay",
                    value: value.name().to_owned(),
                },
            }),
            ..tcp
        })
    }

    fn edge(&self) -> Edge {
        let trusted = self.proxy_in.as_ref().map(|trusted| trusted.0.clone());
        Edge {
            proxy_in: trusted.map(edge::proxies),
            socket: ListenSocket {
                tcp: self.tcp_socket(),
                ..ListenSocket::default()
            },
            ..Edge::default()
        }
    }

    fn tcp_socket(&self) -> TcpSocket {
        TcpSocket {
            congestion: self.congestion.clone(),
            ..TcpSocket::default()
        }
    }

    fn listener(&self, flag: &'static str, listen: &ListenFlag, protocol: Protocol) -> Listener {
        let place = Place::Flag {
            flag,
            value: listen.text.clone(),
        };
        let edge = match &protocol {
            Protocol::Udp(_) => Edge::default(),
            Protocol::Http(_) | Protocol::Tcp(_) => self.edge(),
        };
        Listener {
            name: listen.name.clone().map(|value| Located {
                value,
                place: place.clone(),
            }),
            address: Located {
                value: listen.address,
                place,
            },
            last_port: listen.last_port,
            edge,
            access_log: ListenerLog::default(),
            protocol,
        }
    }
}

/// What a flag says of every cluster.
fn located<T>(flag: &'static str, value: Option<T>) -> Option<Located<T>> {
    let place = Place::Flag {
        flag,
        value: String::new(),
    };
    value.map(|value| Located { value, place })
}
