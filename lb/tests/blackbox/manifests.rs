//! A folder of Kubernetes objects: what answers on NodePorts, load balancer addresses and Ingresses.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Signal;

use crate::client::{Connection, Response, get};
use crate::harness::{DEADLINE, Folder, Lb, on_both_engines, output, wait_until};
use crate::origin::{self, HttpOrigin, Session};

on_both_engines!(
    a_node_port_follows_its_endpoints,
    an_object_that_is_deleted_is_served_no_more,
    a_half_written_file_changes_nothing,
    a_bad_object_affects_itself_only,
    a_load_balancer_address_takes_clients_of_its_ranges,
    affinity_keeps_a_client,
    local_endpoints_answer_for_their_health,
    ingresses_route_by_host_and_path,
    no_request_is_lost_while_endpoints_are_replaced,
    an_external_name_is_followed_only_if_asked_for,
    files_flags_and_objects_run_together,
    a_port_in_use_is_reported_and_taken_up_when_it_is_free,
    datagrams_reach_pods_that_are_published_though_not_ready,
);

/// A port of the NodePort range that is free, given out once.
fn node_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..2000 {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let offset = std::process::id().wrapping_mul(131).wrapping_add(step) % 2700;
        let port = 30_000 + offset as u16;
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
    panic!("no free NodePort");
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A Service `web`; `spec` is what it has beside its one port.
fn service(node_port: u16, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec:\n  {spec}\n  ports: [{{name: \
         http, port: 80, nodePort: {node_port}}}]\n"
    )
}

/// An EndpointSlice of `web` for each backend, with what is said of it.
fn slices(endpoints: &[(SocketAddr, &str)]) -> String {
    let slice = |(index, (address, endpoint)): (usize, &(SocketAddr, &str))| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: web-{index}, \
             labels: {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\nports: [{{name: http, \
             port: {}}}]\nendpoints: [{{addresses: [{}], {endpoint}}}]\n",
            address.port(),
            address.ip()
        )
    };
    endpoints.iter().enumerate().map(slice).collect()
}

fn start(engine: &str, folder: &Folder, flags: &[&str]) -> Lb {
    let path = folder.as_ref().to_str().unwrap();
    let mut arguments = vec!["--manifests", path, "--nodeport-addresses", "127.0.0.0/8"];
    arguments.extend(["--healthz", "127.0.0.1:0"]);
    arguments.extend(flags);
    Lb::start(engine, &arguments)
}

fn body(address: SocketAddr) -> String {
    get(address, "/").body
}

fn a_node_port_follows_its_endpoints(engine: &str) {
    let (one, two) = (HttpOrigin::start("one"), HttpOrigin::start("two"));
    let (folder, port) = (Folder::new(), node_port());
    folder.write("service.yaml", &service(port, "type: NodePort"));
    folder.write("slices.yaml", &slices(&[(one.address, "")]));
    let lb = start(engine, &folder, &[]);
    assert_eq!(body(at(port)), "one");
    for (endpoints, expected) in [
        (vec![(two.address, "conditions: {ready: true}")], "two"),
        (
            vec![
                (
                    one.address,
                    "conditions: {ready: false, serving: true, terminating: true}",
                ),
                (two.address, "conditions: {ready: true}"),
            ],
            "two",
        ),
        (
            vec![
                (
                    one.address,
                    "conditions: {ready: false, serving: true, terminating: true}",
                ),
                (two.address, "conditions: {ready: false}"),
            ],
            "one",
        ),
        (
            vec![
                (
                    one.address,
                    "conditions: {ready: false, serving: false, terminating: true}",
                ),
                (two.address, "conditions: {ready: true}"),
            ],
            "two",
        ),
    ] {
        folder.replace("slices.yaml", &slices(&endpoints));
        wait_until(expected, || (0..4).all(|_| body(at(port)) == expected));
    }
    folder.replace(
        "slices.yaml",
        &slices(&[(one.address, "conditions: {ready: false}")]),
    );
    wait_until("a refusal", || TcpStream::connect(at(port)).has_ended());
    let note = "TCP 80: no endpoint is ready, of 1; connections are refused";
    let problems = &lb.config()["objects"]["problems"];
    assert!(problems.to_string().contains(note), "{problems}");
}

/// A connection that is refused, or accepted and ended at once.
trait Refused {
    fn has_ended(&self) -> bool;
}

impl Refused for std::io::Result<TcpStream> {
    fn has_ended(&self) -> bool {
        use std::io::Read as _;
        let Ok(mut stream) = self.as_ref() else {
            return true;
        };
        stream
            .set_read_timeout(Some(std::time::Duration::from_millis(200)))
            .unwrap();
        match stream.read(&mut [0]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

fn an_object_that_is_deleted_is_served_no_more(engine: &str) {
    let one = HttpOrigin::start("one");
    let (folder, port, other) = (Folder::new(), node_port(), node_port());
    let text = service(port, "type: NodePort") + &slices(&[(one.address, "")]);
    folder.write("web.yaml", &text);
    std::fs::create_dir(folder.path("sub")).unwrap();
    let lb = start(engine, &folder, &[]);
    assert_eq!(body(at(port)), "one");
    let copy = text
        .replace("web", "copy")
        .replace(&port.to_string(), &other.to_string());
    folder.write("sub/copy.json", &copy);
    wait_until("the second", || TcpStream::connect(at(other)).is_ok());
    assert_eq!(body(at(other)), "one");
    std::fs::remove_file(folder.path("web.yaml")).unwrap();
    wait_until("the end of the first", || {
        TcpStream::connect(at(port)).is_err()
    });
    std::fs::remove_dir_all(folder.path("sub")).unwrap();
    wait_until("the end of the second", || {
        TcpStream::connect(at(other)).is_err()
    });
    assert_eq!(lb.metric("lb_objects"), 0.0);
}

fn a_half_written_file_changes_nothing(engine: &str) {
    use std::io::Write as _;
    let (one, two) = (HttpOrigin::start("one"), HttpOrigin::start("two"));
    let (folder, port) = (Folder::new(), node_port());
    let text =
        |origin: &HttpOrigin| service(port, "type: NodePort") + &slices(&[(origin.address, "")]);
    let path = folder.write("web.yaml", &text(&one));
    let lb = start(engine, &folder, &[]);
    // Half of it, as long as the writer takes; another file meanwhile is taken up.
    let next = text(&two);
    let (first, rest) = next.split_at(next.find("---").unwrap());
    let mut file = std::fs::File::create(path).unwrap();
    file.write_all(first.as_bytes()).unwrap();
    file.flush().unwrap();
    let name = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
    folder.write("other.yaml", name);
    wait_until("the other file", || lb.config()["objects"]["files"] == 2);
    assert_eq!(body(at(port)), "one");
    file.write_all(rest.as_bytes()).unwrap();
    drop(file);
    wait_until("the whole file", || body(at(port)) == "two");
    // One that ends in the middle is refused, and keeps what it had.
    folder.replace("web.yaml", "apiVersion: v1\nkind: [Serv");
    lb.event_where("an object is not served", |line| {
        line["problem"].as_str().unwrap().contains("web.yaml:2:")
    });
    assert_eq!(body(at(port)), "two");
    assert_eq!(lb.metric("lb_objects_problems{severity=\"error\"}"), 1.0);
    folder.replace("web.yaml", &text(&one));
    wait_until("the good file", || body(at(port)) == "one");
    assert_eq!(lb.metric("lb_objects_problems{severity=\"error\"}"), 0.0);
}

fn a_bad_object_affects_itself_only(engine: &str) {
    let one = HttpOrigin::start("one");
    let (folder, port, taken) = (Folder::new(), node_port(), node_port());
    let _taken = TcpListener::bind(at(taken)).unwrap();
    let bad = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: wrong}}\nspec: {{ports: [{{port: \
         http}}]}}\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: taken}}\nspec: {{type: \
         NodePort, ports: [{{port: 80, nodePort: {taken}}}]}}\n---\napiVersion: v1\nkind: \
         Service\nmetadata: {{name: zz-twice}}\nspec: {{type: NodePort, ports: [{{port: 80, nodePort: \
         {port}}}]}}\n---\napiVersion: v1\nkind: Secret\nmetadata: {{name: huge}}\ndata: {{x: {}}}\n",
        "QUFB".repeat(1 << 20)
    );
    let text = service(port, "type: NodePort") + &slices(&[(one.address, "")]);
    let of_taken = slices(&[(one.address, "")]).replace("web", "taken");
    folder.write("web.yaml", &(text + &bad + &of_taken));
    let lb = start(engine, &folder, &[]);
    assert_eq!(body(at(port)), "one");
    let config = lb.config();
    let problems = config["objects"]["problems"].to_string();
    for part in [
        "Service default/wrong",
        "default/taken",
        "Service default/zz-twice",
        "Secret default/huge",
    ] {
        assert!(problems.contains(part), "{part} in {problems}");
    }
    let check = output(&["check", "--manifests", folder.as_ref().to_str().unwrap()]);
    assert_eq!(check.status.code(), Some(1));
    let said = String::from_utf8(check.stdout).unwrap();
    let problem = "Service default/wrong: spec.ports[0].port: ";
    assert!(said.contains(problem), "{said}");
}

fn a_load_balancer_address_takes_clients_of_its_ranges(engine: &str) {
    let one = HttpOrigin::start("one");
    let folder = Folder::new();
    let port = node_port();
    let mut text = service(
        port,
        "type: LoadBalancer\n  loadBalancerSourceRanges: [127.0.0.9/32]",
    );
    let own = crate::harness::free_ports(1)[0];
    text = text.replace("port: 80", &format!("port: {own}"));
    folder.write("web.yaml", &(text + &slices(&[(one.address, "")])));
    let _lb = start(engine, &folder, &["--lb-pool", "127.77.0.5/32"]);
    let address = SocketAddr::from(([127, 77, 0, 5], own));
    let mut inside = Connection::open_from(Ipv4Addr::new(127, 0, 0, 9), address);
    assert_eq!(inside.get("/").body, "one");
    let outside = TcpStream::connect(address);
    assert!(outside.has_ended() || !outside_answers(address));
    assert_eq!(body(at(port)), "one", "NodePorts are open to all");
}

fn outside_answers(address: SocketAddr) -> bool {
    use std::io::{Read as _, Write as _};
    let Ok(mut stream) = TcpStream::connect(address) else {
        return false;
    };
    stream
        .set_read_timeout(Some(std::time::Duration::from_millis(500)))
        .unwrap();
    let sent = stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    sent.is_ok() && stream.read(&mut [0; 64]).is_ok_and(|count| count > 0)
}

fn affinity_keeps_a_client(engine: &str) {
    let (one, two) = (origin::tcp("one"), origin::tcp("two"));
    let (folder, port) = (Folder::new(), node_port());
    let spec = "type: NodePort\n  sessionAffinity: ClientIP";
    folder.write(
        "web.yaml",
        &(service(port, spec) + &slices(&[(one, ""), (two, "")])),
    );
    let _lb = start(engine, &folder, &[]);
    let first = Session::open(at(port)).origin;
    for _ in 0..20 {
        assert_eq!(Session::open(at(port)).origin, first);
    }
}

fn local_endpoints_answer_for_their_health(engine: &str) {
    let (here, there) = (HttpOrigin::start("here"), HttpOrigin::start("there"));
    let (folder, port, check) = (Folder::new(), node_port(), node_port());
    let spec = format!(
        "type: LoadBalancer\n  externalTrafficPolicy: Local\n  healthCheckNodePort: {check}"
    );
    let both = [
        (here.address, "nodeName: a"),
        (there.address, "nodeName: b"),
    ];
    folder.write("service.yaml", &service(port, &spec));
    folder.write("slices.yaml", &slices(&both));
    let _lb = start(engine, &folder, &["--node-name", "a"]);
    for _ in 0..6 {
        assert_eq!(body(at(port)), "here");
    }
    let answer = get(at(check), "/whatever");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("x-load-balancing-endpoint-weight"), Some("1"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(
        answer.body,
        "{\n\t\"service\": {\n\t\t\"namespace\": \"default\",\n\t\t\"name\": \"web\"\n\t},\n\t\
         \"localEndpoints\": 1,\n\t\"serviceProxyHealthy\": true\n}"
    );
    folder.replace("slices.yaml", &slices(&both[1..]));
    wait_until("503", || get(at(check), "/").status == 503);
    let other = spec.replace(
        "  healthCheckNodePort",
        "  publishNotReadyAddresses: true #",
    );
    folder.replace(
        "service.yaml",
        &service(port, &other.replace("Local", "Cluster")),
    );
    wait_until("the port to close", || {
        TcpStream::connect(at(check)).is_err()
    });
    wait_until("the other node's", || body(at(port)) == "there");
}

fn ask(address: SocketAddr, host: &str, path: &str) -> Response {
    let mut connection = Connection::open(address);
    connection.send(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    connection.receive()
}

fn ingresses_route_by_host_and_path(engine: &str) {
    let echo = origin::echo();
    let folder = Folder::new();
    let text = service(node_port(), "type: NodePort") + &slices(&[(echo, "")]);
    folder.write("web.yaml", &text);
    let path = |path: &str, kind: &str| {
        format!(
            "{{path: \"{path}\", pathType: {kind}, backend: {{service: {{name: web, port: {{name: \
             http}}}}}}}}"
        )
    };
    let ingress = |name: &str, annotations: &str, host: &str, paths: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}, annotations: \
             {{{annotations}}}}}\nspec:\n  rules: [{{host: \"{host}\", http: {{paths: \
             [{paths}]}}}}]\n---\n"
        )
    };
    let paths = [path("/a", "Prefix"), path("/only", "Exact")].join(", ");
    let rewrite = "nginx.ingress.kubernetes.io/rewrite-target: /$2";
    let something = path("/something(/|$)(.*)", "ImplementationSpecific");
    let objects = ingress("plain", "", "shop.example", &paths)
        + &ingress("wild", "", "*.shop.example", &path("/", "Prefix"))
        + &ingress("rewritten", rewrite, "re.example", &something);
    folder.write("ingress.yaml", &objects);
    let lb = start(
        engine,
        &folder,
        &["--ingress-http", "127.0.0.1:0", "--ingress-https", "off"],
    );
    let front = lb.listener("ingress-http");
    for (host, path, expected) in [
        ("shop.example", "/a", Some("/a")),
        ("SHOP.example", "/a/b?c", Some("/a/b?c")),
        ("shop.example", "/ab", None),
        ("shop.example", "/only", Some("/only")),
        ("shop.example", "/only/", None),
        ("x.shop.example", "/z", Some("/z")),
        ("x.y.shop.example", "/z", None),
        ("other.example", "/a", None),
        ("re.example", "/something", Some("/")),
        ("re.example", "/something/", Some("/")),
        ("re.example", "/Something/new?q=1", Some("/new?q=1")),
        ("re.example", "/somethingelse", None),
    ] {
        let answer = ask(front, host, path);
        match expected {
            Some(expected) => {
                let line = answer.body.lines().next().unwrap_or_default();
                assert_eq!(line, format!("GET {expected} HTTP/1.1"), "{host}{path}");
            }
            None => assert_eq!(answer.status, 404, "{host}{path}"),
        }
    }
    let absent = objects.replace("name: web", "name: gone");
    folder.replace("ingress.yaml", &absent);
    wait_until("503", || ask(front, "shop.example", "/a").status == 503);
}

fn no_request_is_lost_while_endpoints_are_replaced(engine: &str) {
    use std::sync::atomic::AtomicBool;
    let origins: Vec<_> = (0..4).map(|_| HttpOrigin::start("answer")).collect();
    let (folder, port) = (Folder::new(), node_port());
    folder.write("service.yaml", &service(port, "type: NodePort"));
    folder.write("slices.yaml", &slices(&[(origins[0].address, "")]));
    let ingress = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: all}\nspec: \
                   {defaultBackend: {service: {name: web, port: {number: 80}}}}\n";
    folder.write("ingress.yaml", ingress);
    let lb = start(
        engine,
        &folder,
        &["--ingress-http", "127.0.0.1:0", "--ingress-https", "off"],
    );
    let front = lb.listener("ingress-http");
    let (is_over, answered) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut kept = Connection::open(front);
            while !is_over.load(Ordering::Relaxed) {
                assert_eq!(kept.get("/").status, 200);
                assert_eq!(get(front, "/").status, 200);
                assert_eq!(body(at(port)), "answer");
                answered.fetch_add(3, Ordering::Relaxed);
            }
        });
        for round in 1..13 {
            let before = lb.config()["generation"].as_u64().unwrap();
            let old = origins[(round - 1) % 4].address;
            let new = origins[round % 4].address;
            let ending = "conditions: {ready: false, serving: true, terminating: true}";
            folder.replace("slices.yaml", &slices(&[(old, ending), (new, "")]));
            lb.wait_for_generation(before + 1);
            folder.replace("slices.yaml", &slices(&[(new, "")]));
            lb.wait_for_generation(before + 2);
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert!(answered.load(Ordering::Relaxed) > 0);
}

fn an_external_name_is_followed_only_if_asked_for(engine: &str) {
    let one = HttpOrigin::start("one");
    let folder = Folder::new();
    let objects = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: outside}}\nspec: {{type: ExternalName, \
         externalName: localhost}}\n---\napiVersion: networking.k8s.io/v1\nkind: \
         Ingress\nmetadata: {{name: all}}\nspec: {{defaultBackend: {{service: {{name: outside, port: \
         {{number: {}}}}}}}}}\n",
        one.address.port()
    );
    folder.write("objects.yaml", &objects);
    let flags = ["--ingress-http", "127.0.0.1:0", "--ingress-https", "off"];
    let lb = start(engine, &folder, &flags);
    assert_ne!(get(lb.listener("ingress-http"), "/").status, 200);
    assert_eq!(lb.metric("lb_objects_problems{severity=\"error\"}"), 1.0);
    let lb = start(
        engine,
        &folder,
        &[&flags[..], &["--external-names"]].concat(),
    );
    let front = lb.listener("ingress-http");
    wait_until("the name", || get(front, "/").status == 200);
}

fn files_flags_and_objects_run_together(engine: &str) {
    let (one, two) = (HttpOrigin::start("one"), HttpOrigin::start("two"));
    let (folder, port) = (Folder::new(), node_port());
    folder.write(
        "web.yaml",
        &(service(port, "type: NodePort") + &slices(&[(one.address, "")])),
    );
    let flag = format!("own@127.0.0.1:0={}", two.address);
    let lb = start(engine, &folder, &["--http", &flag]);
    assert_eq!(body(at(port)), "one");
    assert_eq!(body(lb.listener("own")), "two");
    lb.signal(Signal::HUP);
    lb.event("the configuration is as before");
    let healthz = lb.event("healthz")["address"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(get(healthz, "/healthz").status, 200);
    assert_eq!(get(healthz, "/livez").status, 200);
    assert_eq!(get(healthz, "/other").status, 404);
}

fn a_port_in_use_is_reported_and_taken_up_when_it_is_free(engine: &str) {
    let (web, other) = (HttpOrigin::start("web"), HttpOrigin::start("other"));
    let (folder, port) = (Folder::new(), node_port());
    let taken = TcpListener::bind(at(port)).unwrap();
    folder.write(
        "web.yaml",
        &(service(port, "type: NodePort") + &slices(&[(web.address, "")])),
    );
    let flag = format!("own@127.0.0.1:0={}", other.address);
    let lb = start(engine, &folder, &["--http", &flag]);
    assert_eq!(body(lb.listener("own")), "other", "all else is served");
    let problems = lb.config()["objects"]["problems"].to_string();
    assert!(
        problems.contains("in use") && problems.contains(&port.to_string()),
        "{problems}"
    );
    drop(taken);
    wait_until("the port", || TcpStream::connect(at(port)).is_ok());
    assert_eq!(body(at(port)), "web");
    wait_until("no problem", || {
        let problems = &lb.config()["objects"]["problems"];
        problems.as_array().unwrap().is_empty()
    });
}

fn datagrams_reach_pods_that_are_published_though_not_ready(engine: &str) {
    let origin = UdpSocket::bind("127.0.0.1:0").unwrap();
    let backend = origin.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut room = [0; 64];
        while let Ok((count, from)) = origin.recv_from(&mut room) {
            if origin.send_to(&room[..count], from).is_err() {
                return;
            }
        }
    });
    let (folder, port) = (Folder::new(), node_port());
    let spec = "type: NodePort\n  publishNotReadyAddresses: true\n  selector: {app: web}";
    let udp = format!("protocol: UDP, targetPort: {}, port", backend.port());
    let text = service(port, spec).replace("port: 80", &format!("{udp}: 80"));
    let pod = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: web}}\nstatus: \
               {podIP: 127.0.0.1, phase: Running, conditions: [{type: Ready, status: \"False\"}]}\n";
    folder.write("web.yaml", &(text + pod));
    let lb = start(engine, &folder, &[]);
    assert_eq!(lb.config()["objects"]["problems"].to_string(), "[]");
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(at(port)).unwrap();
    client.send(b"question").unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut room = [0; 64];
    let count = client.recv(&mut room).unwrap();
    assert_eq!(&room[..count], b"question");
}

#[test]
fn flags_about_objects_need_objects() {
    let output = output(&["--tcp", "127.0.0.1:0=127.0.0.1:1", "--cluster-ips"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("--cluster-ips says nothing without --manifests"),
        "{said}"
    );
}
