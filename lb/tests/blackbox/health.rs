//! Health checks.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use crate::check_peers::{NAME, Peer};
use crate::fleet::Fleet;
use crate::harness::{Folder, Lb, on_both_engines, wait_until};
use crate::origin::{self, Session};

on_both_engines!(
    a_backend_falls_and_rises,
    every_kind_of_check_notices,
    checks_follow_the_configuration,
);

fn a_backend_falls_and_rises(engine: &str) {
    let folder = Folder::new();
    let down = origin::nowhere();
    let config = folder.write(
        "lb.yaml",
        &format!(
            "listeners: [{{name: db, address: '127.0.0.1:0', tcp: {{cluster: db}}}}]\n\
             clusters:\n  db:\n    backends: [{}, '{down}']\n    \
             health: {{check: tcp, interval: 20ms, timeout: 5s, rise: 2, fall: 2}}\n",
            origin::tcp("a")
        ),
    );
    let lb = Lb::start(engine, &["--config", &config]);
    let fallen = lb.event("backend is down");
    assert_eq!(fallen["address"], down.to_string());
    assert!(
        fallen["reason"].as_str().unwrap().contains("refused"),
        "{fallen}"
    );
    let healthy = |index: usize| {
        lb.config()["plan"]["clusters"][0]["backends"][index]["healthy"]
            .as_bool()
            .unwrap()
    };
    assert!(healthy(0) && !healthy(1));
    for _ in 0..6 {
        assert_eq!(Session::open(lb.listener("db")).origin, "a");
    }
    let failures = format!(
        "lb_backend_connect_failures_total{{cluster=\"db\",backend=\"{down}\",address=\"{down}\"}}"
    );
    let failed_before = lb.metric(&failures);
    Session::open(lb.listener("db"));
    assert_eq!(
        lb.metric(&failures),
        failed_before,
        "an unhealthy backend is not tried"
    );

    let _back = TcpListener::bind(down).unwrap();
    lb.event("backend is up");
    wait_until("the backend to be healthy", || healthy(1));
}

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn every_kind_of_check_notices(engine: &str) {
    let (world, folder) = (World::new(), Folder::new());
    let clusters = world.clusters(&folder);
    let lb = Lb::start(
        engine,
        &["--config", &folder.write("lb.yaml", &config(&clusters))],
    );
    let checks = |name: &str, address: SocketAddr, result: &str| {
        lb.metric(&format!(
            "lb_backend_health_checks_total{{cluster=\"{name}\",backend=\"{address}\",\
             address=\"{address}\",result=\"{result}\"}}"
        ))
    };
    let all_are = |state: &str, result: &str| {
        for Checked { name, address, .. } in &clusters[..6] {
            wait_until(&format!("{result} of {name}"), || {
                checks(name, *address, result) >= 2.0
            });
            lb.wait_for_state(name, *address, state);
        }
    };
    let error =
        |cluster: &Checked| lb.backend(cluster.name, cluster.address)["check_error"].clone();
    all_are("ready", "success");
    let mistrusted = &clusters[6];
    lb.wait_for_state(mistrusted.name, mistrusted.address, "unhealthy");
    assert!(error(mistrusted).as_str().unwrap().contains("certificate"));

    world.set_well(false);
    all_are("unhealthy", "failure");
    for cluster in &clusters[..6] {
        let (name, word) = (cluster.name, cluster.complaint);
        let shown = error(cluster);
        assert!(shown.as_str().unwrap().contains(word), "{name}: {shown}");
        let down = lb.event_where("backend is down", |line| line["cluster"] == name);
        assert!(down["reason"].as_str().unwrap().contains(word), "{down}");
    }
    world.set_well(true);
    for cluster in &clusters[..6] {
        lb.wait_for_state(cluster.name, cluster.address, "ready");
        // Soon: on a busy machine a check may be late, which is an error but no reason to go down.
        wait_until("no error", || error(cluster).is_null());
        lb.event_where("backend is up", |line| line["cluster"] == cluster.name);
    }
}

/// A server of each kind.
struct World {
    fleet: Fleet,
    https: Peer,
    /// On the address of the fleet's origin, but on a port of its own.
    beside: Peer,
    grpc: Peer,
    udp: Peer,
}

/// A cluster with one backend.
struct Checked {
    name: &'static str,
    address: SocketAddr,
    check: String,
    /// A word of what is said when the server is not well.
    complaint: &'static str,
}

impl World {
    fn new() -> Self {
        let fleet = Fleet::start(1);
        Self {
            beside: Peer::https(fleet.origins[0].address.ip()),
            fleet,
            https: Peer::https(HERE),
            grpc: Peer::grpc(HERE),
            udp: Peer::udp(HERE),
        }
    }

    /// The last of them does not trust its backend.
    fn clusters(&self, folder: &Folder) -> [Checked; 7] {
        let pem = folder.write("origin.pem", &self.https.pem);
        let other_pem = folder.write("other.pem", &self.beside.pem);
        let (http, https) = (self.fleet.origins[0].address, self.https.address);
        let (grpc, udp) = (self.grpc.address, self.udp.address);
        let port = self.beside.address.port();
        let verified = |pem: &str| format!("https, verify: '{pem}', server_name: {NAME}");
        let checked = |name, address, check: &str, complaint| Checked {
            name,
            address,
            check: check.to_owned(),
            complaint,
        };
        [
            checked("http", http, "http, path: /health, expect: '200'", "503"),
            checked("https", https, "https, path: /, method: HEAD", "503"),
            checked("port", http, &format!("https, port: {port}"), "503"),
            checked("verified", https, &verified(&pem), "503"),
            checked("grpc", grpc, "grpc, service: shop.Cart", "NOT_SERVING"),
            checked("udp", udp, "udp, send: ping, expect: '0x706f6e67'", "500ms"),
            checked("mistrusted", https, &verified(&other_pem), "certificate"),
        ]
    }

    fn set_well(&self, well: bool) {
        self.fleet.origins[0].set_sick(!well);
        for peer in [&self.https, &self.beside, &self.grpc, &self.udp] {
            peer.set_well(well);
        }
    }
}

fn config(clusters: &[Checked]) -> String {
    let mut config = String::from(
        "listeners: [{name: web, address: '127.0.0.1:0', http: {cluster: http}}]\nclusters:\n",
    );
    for Checked {
        name,
        address,
        check,
        ..
    } in clusters
    {
        let times = "interval: 50ms, timeout: 500ms, rise: 2, fall: 2, jitter: 50%";
        config += &format!(
            "  {name}: {{backends: ['{address}'], health: {{check: {check}, {times}}}}}\n"
        );
    }
    config
}

/// They stop with the backend, start with it, and change with their settings.
fn checks_follow_the_configuration(engine: &str) {
    let fleet = Fleet::start(2);
    let [a, b] = [0, 1].map(|it: usize| fleet.origins[it].address);
    let with = |backends: &[SocketAddr], health: &str| {
        let list: Vec<_> = backends.iter().map(|it| format!("'{it}'")).collect();
        format!(
            "listeners: [{{name: web, address: '127.0.0.1:0', http: {{cluster: c}}}}]\n\
             clusters:\n  c: {{backends: [{}]{health}}}\n",
            list.join(", ")
        )
    };
    let by = |path: &str| {
        format!(
            ", health: {{check: http, path: {path}, interval: 20ms, timeout: 5s, fall: 1, rise: 1}}"
        )
    };
    let folder = Folder::new();
    let path = folder.write("lb.yaml", &with(&[a, b], &by("/health")));
    let lb = Lb::start(engine, &["--config", &path]);
    fleet.origins[1].set_sick(true);
    lb.wait_for_state("c", b, "unhealthy");
    // Another path, which it answers.
    folder.write("lb.yaml", &with(&[a, b], &by("/else")));
    lb.wait_for_generation(2);
    lb.wait_for_state("c", b, "ready");
    let checked = fleet.origins[1].served();
    wait_until("checks by the other path", || {
        fleet.origins[1].served() > checked + 3
    });
    // Gone: after those on their way, no more checks.
    folder.write("lb.yaml", &with(&[a], &by("/else")));
    lb.wait_for_generation(3);
    wait_until("the checks to stop", || {
        let (before, other) = (fleet.origins[1].served(), fleet.origins[0].served());
        wait_until("checks of the other", || {
            fleet.origins[0].served() > other + 5
        });
        fleet.origins[1].served() == before
    });
    // Without checks, everyone is healthy.
    fleet.origins[0].set_sick(true);
    folder.write("lb.yaml", &with(&[a, b], &by("/health")));
    lb.wait_for_generation(4);
    lb.wait_for_state("c", a, "unhealthy");
    folder.write("lb.yaml", &with(&[a, b], ""));
    lb.wait_for_generation(5);
    lb.wait_for_state("c", a, "ready");
}
