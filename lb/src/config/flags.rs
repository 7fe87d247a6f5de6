//! The sources given as flags, to a [`File`]: `--tcp`, `--udp`, `--http`, `--route`, `--balance`,
//! `--health`.
//!
//! Invariant: each flag that brings backends makes a cluster of its own, named after what the
//! user wrote, so that the same name is met again in logs and metrics.
//! Read next: `compile.rs`.

use std::net::SocketAddr;

use lb_core::plan::Balance;

use super::decode::Problems;
use super::file::{Backend, Cluster, File, Health, Http, Listener, Protocol, Route, Tcp, Udp};
use super::notation::{self, BackendText};
use super::problem::{Located, Place, Problem};

/// `--tcp [NAME@]LISTEN=BACKENDS`, `--udp` likewise, or `--http [NAME@]LISTEN[=BACKENDS]`.
#[derive(Debug, Clone)]
pub(crate) struct ListenFlag {
    /// As the user wrote it.
    text: String,
    name: Option<String>,
    address: SocketAddr,
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

/// `--health off|tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HealthFlag {
    Off,
    Tcp,
}

/// All of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flags {
    pub(crate) tcp: Vec<ListenFlag>,
    pub(crate) udp: Vec<ListenFlag>,
    pub(crate) http: Vec<ListenFlag>,
    pub(crate) routes: Vec<RouteFlag>,
    pub(crate) balance: Option<Balance>,
    pub(crate) health: Option<HealthFlag>,
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
        Self::http(text).map(|flag| Self {
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
            Some((name, address)) => (Some(notation::name(name)?), address),
            None => (None, listen),
        };
        let address = notation::listen(address)?;
        Ok(Self {
            text: text.to_owned(),
            name,
            address,
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

impl HealthFlag {
    /// Parses `--health`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with("http") {
            return Err(
                "HTTP checks are not supported by this version yet; as --health tcp".into(),
            );
        }
        notation::word(text, &[("off", Self::Off), ("tcp", Self::Tcp)])
    }
}

impl Flags {
    /// As a source; `None` if there are none.
    pub(crate) fn file(&self, problems: &mut Problems) -> Option<File> {
        if self.tcp.is_empty() && self.udp.is_empty() && self.http.is_empty() {
            self.refuse_idle(problems);
            return None;
        }
        if let (Some(route), true) = (self.routes.first(), self.http.is_empty()) {
            let place = Place::Flag {
                flag: "--route",
                value: route.text.clone(),
            };
            problems.push(Problem::new(
                &place,
                "no --http listener takes this route; as --http 8080",
            ));
        }
        let mut file = File::default();
        for flag in &self.tcp {
            let cluster = self.add_cluster(&mut file, "--tcp", flag);
            let listener = cluster.map(|cluster| {
                Protocol::Tcp(Tcp {
                    cluster,
                    idle_timeout: None,
                })
            });
            file.listeners
                .extend(listener.map(|protocol| flag.listener("--tcp", protocol)));
        }
        for flag in &self.udp {
            let cluster = self.add_cluster(&mut file, "--udp", flag);
            let listener = cluster.map(|cluster| Protocol::Udp(Udp::to(cluster)));
            file.listeners
                .extend(listener.map(|protocol| flag.listener("--udp", protocol)));
        }
        for flag in &self.http {
            let cluster = self.add_cluster(&mut file, "--http", flag);
            let protocol = Protocol::Http(Http {
                cluster,
                ..Http::default()
            });
            file.listeners.push(flag.listener("--http", protocol));
        }
        for route in &self.routes {
            self.add_route(&mut file, route);
        }
        Some(file)
    }

    /// Flags that would have no effect.
    fn refuse_idle(&self, problems: &mut Problems) {
        let routes = self
            .routes
            .iter()
            .map(|route| ("--route", route.text.clone()));
        let balance = self.balance.map(|_| ("--balance", String::new()));
        let health = self.health.map(|_| ("--health", String::new()));
        for (flag, value) in routes.chain(balance).chain(health) {
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
        file.routes.push(Route {
            place,
            host,
            path,
            cluster,
        });
    }

    fn cluster(&self, name: Located<String>, backends: &[BackendText]) -> Cluster {
        let place = name.place.clone();
        let backend = |text: &BackendText| Backend {
            address: Located {
                value: text.clone(),
                place: place.clone(),
            },
            name: None,
        };
        Cluster {
            backends: backends.iter().map(backend).collect(),
            balance: self.balance.map(|value| Located {
                value,
                place: place.clone(),
            }),
            health: (self.health == Some(HealthFlag::Tcp)).then(Health::default),
            ..Cluster::named(name)
        }
    }
}

impl ListenFlag {
    fn listener(&self, flag: &'static str, protocol: Protocol) -> Listener {
        let place = Place::Flag {
            flag,
            value: self.text.clone(),
        };
        Listener {
            name: self.name.clone().map(|value| Located {
                value,
                place: place.clone(),
            }),
            address: Located {
                value: self.address,
                place,
            },
            protocol,
        }
    }
}
