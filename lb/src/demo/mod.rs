//! `lb demo`: three built-in origins and a balancer in front of them, in one process.
//!
//! Invariant: the balancer is the real one, run as for anybody; the demo only brings the origins
//! and a configuration. Everything listens on this machine alone unless told otherwise.
//! Read next: `origin.rs` (the origins), `page.html` (what a browser shows).

mod origin;

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use lb_core::plan::{Check, Edge, ListenerLog};

use self::origin::{Origin, Origins};
use crate::args::DemoArgs;
use crate::config::file::{Backend, Cluster, File, Health, Http, Listener, Protocol, Route, Tcp};
use crate::config::{BackendText, Host, Located, Place, Sources};
use crate::control::{self, StartError, Status};
use crate::terminal;

/// Names of the two listeners.
const HTTP: &str = "demo-http";
const TCP: &str = "demo-tcp";

/// The cluster of the page's own requests.
const STATS: &str = "demo-stats";

/// Runs the demo until a signal ends it.
pub(crate) fn run(demo_args: DemoArgs) -> ExitCode {
    let origins = match Origins::bind() {
        Ok(origins) => origins,
        Err(error) => return StartError::from(cannot_bind(&error)).report(),
    };
    let sources = Sources {
        built_in: Some(file(&demo_args, &origins)),
        settings: demo_args.settings(),
        ..Sources::default()
    };
    control::run(sources, |status| {
        origins.serve(status);
        terminal::print(&what_to_try(status));
    })
}

fn cannot_bind(error: &io::Error) -> String {
    format!("cannot start the demo's origins on 127.0.0.1: {error}")
}

/// The configuration of the demo.
fn file(demo_args: &DemoArgs, origins: &Origins) -> File {
    let http_place = flag("--http", demo_args.http);
    let tcp_place = flag("--tcp", demo_args.tcp);
    let routes = vec![Route::to(
        http_place.clone(),
        None,
        "/demo".to_owned(),
        at(&http_place, STATS.to_owned()),
    )];
    let http = Http {
        cluster: Some(at(&http_place, HTTP.to_owned())),
        routes,
        ..Http::default()
    };
    let tcp = Tcp::to(at(&tcp_place, TCP.to_owned()));
    let by_protocol = |address: fn(&Origin) -> SocketAddr| {
        origins
            .origins
            .iter()
            .map(move |origin| (origin.name.clone(), address(origin)))
            .collect()
    };
    let stats = vec![("demo".to_owned(), origins.stats_address)];
    File {
        listeners: vec![
            listener(&http_place, HTTP, demo_args.http, Protocol::Http(http)),
            listener(&tcp_place, TCP, demo_args.tcp, Protocol::Tcp(tcp)),
        ],
        clusters: vec![
            cluster(&http_place, HTTP, by_protocol(|origin| origin.http_address)),
            cluster(&tcp_place, TCP, by_protocol(|origin| origin.tcp_address)),
            cluster(&http_place, STATS, stats),
        ],
        ..File::default()
    }
}

fn flag(flag: &'static str, address: SocketAddr) -> Place {
    Place::Flag {
        flag,
        value: address.to_string(),
    }
}

fn at<T>(place: &Place, value: T) -> Located<T> {
    Located {
        value,
        place: place.clone(),
    }
}

fn listener(place: &Place, name: &str, address: SocketAddr, protocol: Protocol) -> Listener {
    Listener {
        name: Some(at(place, name.to_owned())),
        address: at(place, address),
        last_port: None,
        edge: Edge::default(),
        access_log: ListenerLog::default(),
        protocol,
    }
}

fn cluster(place: &Place, name: &str, backends: Vec<(String, SocketAddr)>) -> Cluster {
    let backend = |(name, address): (String, SocketAddr)| Backend {
        address: at(
            place,
            BackendText {
                host: Host::Address(address.ip()),
                port: address.port(),
                weight: 1,
            },
        ),
        name: Some(at(place, name)),
        backup: false,
        drain: false,
    };
    let once = |count| Some(at(place, count));
    Cluster {
        backends: backends.into_iter().map(backend).collect(),
        health: Some(at(
            place,
            Health {
                interval: Some(at(place, Duration::from_secs(1))),
                rise: once(1),
                fall: once(1),
                ..Health::by(Check::Tcp)
            },
        )),
        ..Cluster::named(at(place, name.to_owned()))
    }
}

/// What is printed once everything runs.
fn what_to_try(status: &Status) -> String {
    let bound = |name| {
        status
            .bound(name)
            .map(|address| address.to_string())
            .unwrap_or_default()
    };
    let (http, tcp) = (bound(HTTP), bound(TCP));
    let (tcp_host, tcp_port) = tcp.rsplit_once(':').unwrap_or_default();
    let mut lines = vec![
        (
            format!("open http://{http}/"),
            "a page with live backends and rates",
        ),
        (
            format!("curl http://{http}/"),
            "again and again: another origin answers",
        ),
        (
            format!("nc {tcp_host} {tcp_port}"),
            "a TCP session; each lands on the next origin",
        ),
    ];
    if let Some(admin) = status.admin_address.get() {
        lines.push((
            format!("curl http://{admin}/metrics"),
            "the figures behind the page",
        ));
    }
    let lines = lines
        .iter()
        .map(|(what, why)| format!("  {what:<40} {why}\n"));
    format!(
        "\nlb balances between three origins of its own. Try:\n\n{}\nCtrl-C stops everything.\n",
        lines.collect::<String>()
    )
}
