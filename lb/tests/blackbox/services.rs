//! Kubernetes Services from a folder of manifests, as clients of a NodePort see them.
//!
//! Invariant: NodePorts are of the real range, on addresses of the loopback device only.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::{ErrorKind, Read as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::client::{self, Connection};
use crate::harness::{DEADLINE, Folder, Lb, free_ports, on_both_engines, wait_until};
use crate::namespace::{ip, is_inside};
use crate::origin::{self, HttpOrigin, Session};

on_both_engines!(
    all_endpoints_are_replaced_under_load,
    only_local_endpoints_are_asked,
    conditions_decide_who_is_asked,
    hints_keep_traffic_near,
    a_client_stays_with_its_endpoint,
    addresses_of_services_are_answered,
);

/// One endpoint of the Service `web`.
#[derive(Clone, Copy)]
struct Endpoint {
    address: SocketAddr,
    node: &'static str,
    state: State,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Ready,
    NotReady,
    /// And still serving.
    Terminating,
}

impl Endpoint {
    const fn ready(address: SocketAddr) -> Self {
        Self {
            address,
            node: "here",
            state: State::Ready,
        }
    }

    const fn on(self, node: &'static str) -> Self {
        Self { node, ..self }
    }

    const fn is(self, state: State) -> Self {
        Self { state, ..self }
    }
}

/// A running `lb` with a Service.
struct World {
    folder: Folder,
    lb: Lb,
    node_port: SocketAddr,
    spec: String,
}

impl World {
    /// With the Service `web`, of which `spec` says more.
    fn start(engine: &str, spec: &str, endpoints: &[Endpoint]) -> Self {
        let node_port = SocketAddr::from((Ipv4Addr::LOCALHOST, node_port()));
        let spec = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec:\n  type: NodePort\n  \
             ports: [{{port: 80, nodePort: {}}}]\n{spec}",
            node_port.port()
        );
        let folder = Folder::new();
        folder.write("web.yaml", &(spec.clone() + &slices(endpoints)));
        let lb = start(engine, &folder, &[]);
        Self {
            folder,
            lb,
            node_port,
            spec,
        }
    }

    /// Returns when these are the endpoints.
    fn set(&self, endpoints: &[Endpoint]) {
        let generation = self.lb.config()["generation"].as_u64().unwrap();
        self.folder
            .replace("web.yaml", &(self.spec.clone() + &slices(endpoints)));
        self.lb.wait_for_generation(generation + 1);
    }

    /// The origins that answer many connections.
    fn asked(&self) -> HashSet<String> {
        (0..24)
            .map(|_| client::get(self.node_port, "/").body)
            .collect()
    }

    fn connect(&self) -> std::io::Result<TcpStream> {
        TcpStream::connect_timeout(&self.node_port, Duration::from_millis(300))
    }
}

fn start(engine: &str, folder: &Folder, more: &[&str]) -> Lb {
    let path = folder.as_ref().to_str().unwrap();
    let mut arguments = vec!["--manifests", path, "--node-name", "here"];
    arguments.extend(["--nodeport-addresses", "127.0.0.0/8", "--healthz", "off"]);
    arguments.extend(["--ingress-http", "off", "--ingress-https", "off"]);
    arguments.extend(more);
    Lb::start(engine, &arguments)
}

/// A port of the range of NodePorts that was free a moment ago.
fn node_port() -> u16 {
    let mut ports = std::iter::repeat_with(|| free_ports(1)[0]);
    ports.find(|port| *port >= 30_000).unwrap()
}

/// A slice for each endpoint, since each has a port of its own here.
fn slices(endpoints: &[Endpoint]) -> String {
    let mut text = String::new();
    for (index, endpoint) in endpoints.iter().enumerate() {
        let conditions = match endpoint.state {
            State::Ready => "{ready: true}",
            State::NotReady => "{ready: false, serving: false}",
            State::Terminating => "{ready: false, serving: true, terminating: true}",
        };
        let (address, port) = (endpoint.address.ip(), endpoint.address.port());
        let node = endpoint.node;
        write!(
            text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: \
             web-{index}, labels: {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\nports: \
             [{{port: {port}}}]\nendpoints:\n- addresses: [{address}]\n  nodeName: {node}\n  \
             conditions: {conditions}\n  hints: {{forNodes: [{{name: {node}}}]}}\n"
        )
        .unwrap();
    }
    text
}

fn names<const N: usize>(names: [&str; N]) -> HashSet<String> {
    names.map(str::to_owned).into()
}

fn all_endpoints_are_replaced_under_load(engine: &str) {
    let old = ["old-1", "old-2", "old-3"].map(HttpOrigin::start);
    let new = ["new-1", "new-2", "new-3"].map(HttpOrigin::start);
    let mut endpoints: Vec<_> = old
        .iter()
        .map(|it| Endpoint::ready(it.address).on("a"))
        .collect();
    let world = World::start(engine, "", &endpoints);
    let (done, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    let count = |response: client::Response| {
        assert_eq!(response.status, 200);
        answered.fetch_add(1, Ordering::Relaxed);
    };
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut kept = Connection::open(world.node_port);
                while !done.load(Ordering::Relaxed) {
                    count(kept.get("/"));
                }
            });
        }
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                count(client::get(world.node_port, "/"));
            }
        });
        let go_on = |endpoints: &[Endpoint]| {
            world.set(endpoints);
            let before = answered.load(Ordering::Relaxed);
            wait_until("some traffic", || {
                answered.load(Ordering::Relaxed) >= before + 30
            });
        };
        for origin in &new {
            endpoints.push(Endpoint::ready(origin.address).on("a"));
            go_on(&endpoints);
            endpoints[0].state = State::Terminating;
            go_on(&endpoints);
            endpoints.remove(0);
            go_on(&endpoints);
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(world.asked(), names(["new-1", "new-2", "new-3"]));
}

fn only_local_endpoints_are_asked(engine: &str) {
    let (here, there) = (HttpOrigin::start("here"), HttpOrigin::start("there"));
    let (here, there) = (
        Endpoint::ready(here.address),
        Endpoint::ready(there.address).on("b"),
    );
    let world = World::start(engine, "  externalTrafficPolicy: Local\n", &[here, there]);
    assert_eq!(world.asked(), names(["here"]));
    world.set(&[here.is(State::Terminating), there]);
    assert_eq!(world.asked(), names(["here"]), "it serves to its end");
    world.set(&[there]);
    wait_until("what comes to be dropped", || {
        world
            .connect()
            .is_err_and(|error| error.kind() == ErrorKind::TimedOut)
    });
    world.set(&[]);
    wait_until("what comes to be refused", || {
        world
            .connect()
            .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
    world.set(&[there, here]);
    wait_until("what comes to be served", || world.connect().is_ok());
    assert_eq!(world.asked(), names(["here"]));
}

fn conditions_decide_who_is_asked(engine: &str) {
    let origins = ["a", "b", "c"].map(origin::tcp);
    let [a, b, c] = origins.map(|address| Endpoint::ready(address).on("other"));
    let world = World::start(engine, "", &[a, b, c]);
    let asked = || -> HashSet<String> {
        (0..24)
            .map(|_| Session::open(world.node_port).origin)
            .collect()
    };
    assert_eq!(asked(), names(["a", "b", "c"]));
    let mut sessions: Vec<_> = (0..6).map(|_| Session::open(world.node_port)).collect();
    world.set(&[a, b.is(State::NotReady), c.is(State::Terminating)]);
    assert_eq!(asked(), names(["a"]));
    assert!(
        sessions.iter_mut().all(Session::echoes),
        "no session is cut"
    );
    world.set(&[b.is(State::NotReady), c.is(State::Terminating)]);
    assert_eq!(asked(), names(["c"]), "none is ready, and one still serves");
    world.set(&[b.is(State::NotReady)]);
    wait_until("what comes to be refused", || {
        world
            .connect()
            .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
}

fn hints_keep_traffic_near(engine: &str) {
    let (near, far) = (HttpOrigin::start("near"), HttpOrigin::start("far"));
    let (near, far) = (
        Endpoint::ready(near.address),
        Endpoint::ready(far.address).on("b"),
    );
    let world = World::start(engine, "", &[near, far]);
    assert_eq!(world.asked(), names(["near"]));
    world.set(&[near.is(State::NotReady), far]);
    assert_eq!(world.asked(), names(["far"]), "better far than not at all");
}

fn a_client_stays_with_its_endpoint(engine: &str) {
    let origins = ["a", "b", "c"].map(HttpOrigin::start);
    let endpoints = origins
        .each_ref()
        .map(|it| Endpoint::ready(it.address).on("other"));
    let world = World::start(engine, "  sessionAffinity: ClientIP\n", &endpoints);
    let from = |client: u8| -> HashSet<String> {
        let client = Ipv4Addr::new(127, 0, 3, client);
        let ask = |_| Connection::open_from(client, world.node_port).get("/").body;
        (0..6).map(ask).collect()
    };
    let mut all = HashSet::new();
    for client in 1..=40 {
        let asked = from(client);
        assert_eq!(asked.len(), 1, "client {client} was sent to {asked:?}");
        all.extend(asked);
    }
    assert_eq!(all, names(["a", "b", "c"]), "clients are spread");
}

/// Cluster IPs and load balancer addresses, in a network of the test's own.
fn addresses_of_services_are_answered(engine: &str) {
    if !is_inside(engine, "services", "addresses_of_services_are_answered") {
        return;
    }
    ip("link set lo up");
    ip("address add 10.8.0.1/32 dev lo");
    ip("address add 10.8.0.2/32 dev lo");
    let web = HttpOrigin::start("web");
    let folder = Folder::new();
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  type: \
                   LoadBalancer\n  clusterIP: 10.96.0.1\n  loadBalancerSourceRanges: \
                   [10.8.0.1/32]\n  ports: [{port: 80, nodePort: 30080}]\n";
    folder.write(
        "web.yaml",
        &(service.to_owned() + &slices(&[Endpoint::ready(web.address)])),
    );
    let lb = start(
        engine,
        &folder,
        &["--cluster-ips", "--lb-pool", "192.0.2.0/30"],
    );
    let ask = |client: [u8; 4], address: &str| {
        Connection::open_from(client.into(), address.parse().unwrap())
            .get("/")
            .body
    };
    assert_eq!(ask([127, 0, 0, 1], "10.96.0.1:80"), "web");
    assert_eq!(
        ask([10, 8, 0, 2], "127.0.0.1:30080"),
        "web",
        "NodePorts have no source ranges"
    );
    let listening = lb.event_where("listening", |line| {
        line["address"].as_str().unwrap().starts_with("192.0.2.")
    });
    let balancer = listening["address"].as_str().unwrap();
    assert_eq!(ask([10, 8, 0, 1], balancer), "web");
    let stranger = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let address = SocketAddr::from(([10, 8, 0, 2], 0));
    stranger.bind(&address.into()).unwrap();
    let balancer: SocketAddr = balancer.parse().unwrap();
    // It may be reset before we are told that we were connected.
    if stranger.connect(&balancer.into()).is_ok() {
        let mut stranger = TcpStream::from(stranger);
        stranger.set_read_timeout(Some(DEADLINE)).unwrap();
        assert!(
            stranger.read(&mut [0]).is_err(),
            "it is not within the source ranges"
        );
    }
}
