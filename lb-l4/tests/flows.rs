//! UDP flows through sockets, on both engines; what takes long, in virtual time.

#[allow(dead_code, reason = "shared with the other test programs")]
mod harness;

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use harness::{in_virtual_time, on_each_engine};
use lb_core::balance::{Cluster, Context};
use lb_core::metrics::{FlowEnd, FlowShed, ListenerCounters};
use lb_core::plan;
use lb_core::rt::{
    self, Datagrams, UdpOptions, UdpSocket, now, sleep, sleep_until_precise, spawn, timeout,
};
use lb_core::worker::Worker;
use lb_l4::{UdpListener, UdpService};

const WAIT: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_millis(50);

/// A socket of its own at some port.
fn socket(ip: &str) -> (UdpSocket, SocketAddr) {
    let ip: IpAddr = ip.parse().expect("an ip");
    let options = UdpOptions {
        reuse_port: false,
        ..UdpOptions::default()
    };
    let socket = UdpSocket::bind((ip, 0).into(), &options).expect("bind");
    let address = socket.local_addr();
    (socket, address)
}

/// A backend that answers `name:` and what it was sent.
fn echo(ip: &str, name: &'static str) -> SocketAddr {
    let (socket, address) = socket(ip);
    spawn(async move {
        loop {
            let Ok(received) = socket.recv().await else {
                continue;
            };
            for datagram in received.datagrams.iter() {
                let answer = [name.as_bytes(), b":", datagram].concat();
                socket.send_to(Datagrams::copy_from(&answer), received.peer);
            }
        }
    });
    address
}

/// An address at which nobody is.
fn nobody() -> SocketAddr {
    socket("127.0.0.1").1
}

/// A balancer at work, and what it would be built from next.
struct Front {
    cluster: plan::Cluster,
    udp: plan::Udp,
    built: Arc<Cluster>,
    counters: Arc<ListenerCounters>,
    worker: Rc<Worker>,
    listener: UdpListener,
    address: SocketAddr,
}

fn cluster(backends: &[SocketAddr]) -> plan::Cluster {
    let backends = backends.iter().map(|&address| address.into()).collect();
    plan::Cluster::new("c", backends)
}

fn front(backends: &[SocketAddr]) -> Front {
    front_at("127.0.0.1", cluster(backends), plan::Udp::to("c"))
}

fn front_with(backends: &[SocketAddr], change: impl FnOnce(&mut plan::Udp)) -> Front {
    let mut udp = plan::Udp::to("c");
    change(&mut udp);
    front_at("127.0.0.1", cluster(backends), udp)
}

fn front_at(ip: &str, cluster: plan::Cluster, udp: plan::Udp) -> Front {
    let (socket, address) = socket(ip);
    let built = Arc::new(Cluster::build(&cluster, &Context::new(1, 1), None));
    let service = Arc::new(UdpService::build(udp.clone(), Arc::clone(&built)));
    let counters = Arc::<ListenerCounters>::default();
    let worker = Rc::new(Worker::new(0, Arc::default()));
    let own = Arc::clone(&counters);
    Front {
        cluster,
        udp,
        built,
        listener: UdpListener::start(socket, service, Rc::clone(&worker), own),
        counters,
        worker,
        address,
    }
}

impl Front {
    /// Takes up a plan with these backends.
    fn switch(&mut self, backends: &[SocketAddr]) {
        self.switch_to(backends.iter().map(|&address| address.into()).collect());
    }

    fn switch_to(&mut self, backends: Vec<plan::Backend>) {
        self.cluster.backends = backends;
        let next = Cluster::build(&self.cluster, &Context::new(1, 1), Some(&self.built));
        self.built = Arc::new(next);
        let service = UdpService::build(self.udp.clone(), Arc::clone(&self.built));
        self.listener
            .switch(Arc::new(service), Arc::clone(&self.counters));
    }

    fn client(&self) -> UdpSocket {
        UdpSocket::connect(self.address).expect("connect")
    }

    fn active(&self) -> u64 {
        self.counters.active.get()
    }
}

async fn receive(socket: &UdpSocket) -> Vec<u8> {
    let received = timeout(WAIT, socket.recv()).await.expect("in time");
    received.expect("a datagram").datagrams.to_vec()
}

async fn is_silent(socket: &UdpSocket) -> bool {
    timeout(SILENCE, socket.recv()).await.is_err()
}

/// Asks, and returns the name of the backend that answers.
async fn ask(client: &UdpSocket) -> String {
    client.send(Datagrams::copy_from(b"?"));
    name_in(&receive(client).await)
}

fn name_in(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    text.split(':').next().unwrap_or_default().to_owned()
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let seen = async {
        while !holds() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(WAIT, seen).await.is_ok(), "never: {what}");
}

#[test]
fn a_client_stays_with_its_backend_and_others_go_elsewhere() {
    on_each_engine(|| async {
        let front = front(&[echo("127.0.0.1", "a"), echo("127.0.0.1", "b")]);
        let (first, second) = (front.client(), front.client());
        let of_first = ask(&first).await;
        let of_second = ask(&second).await;
        assert_ne!(of_first, of_second, "each in turn");
        for _ in 0..5 {
            assert_eq!(ask(&first).await, of_first);
            assert_eq!(ask(&second).await, of_second);
        }
        assert_eq!(front.active(), 2);
        assert_eq!(front.counters.flows.received.get(), 12);
        assert_eq!(front.counters.flows.sent.get(), 12);
        assert_eq!(front.counters.received_bytes.get(), 12);
        assert_eq!(front.counters.sent_bytes.get(), 36);
        let sum = |backend: &Arc<lb_core::balance::Backend>| backend.in_flight();
        assert_eq!(front.built.backends().iter().map(sum).sum::<u32>(), 2);
    });
}

#[test]
fn every_size_gets_through_both_ways() {
    on_each_engine(|| async {
        let (backend, address) = socket("127.0.0.1");
        let front = front(&[address]);
        let client = front.client();
        for size in [
            0,
            1,
            64,
            1200,
            1472,
            1473,
            9000,
            65_000,
            Datagrams::DATAGRAM_MAX,
            0,
        ] {
            client.send(Datagrams::copy_from(&vec![size as u8; size]));
            let received = timeout(WAIT, backend.recv()).await.expect("in time");
            let received = received.expect("a datagram");
            assert_eq!(received.datagrams.len(), size);
            backend.send_to(received.datagrams, received.peer);
            assert_eq!(receive(&client).await, vec![size as u8; size]);
        }
    });
}

/// Datagrams that are sent, received or relayed many at a time stay what they are.
#[test]
fn bursts_keep_sizes_and_order() {
    on_each_engine(|| async {
        let (backend, address) = socket("127.0.0.1");
        let front = front(&[address]);
        let client = front.client();
        let sizes = [64, 64, 64, 30, 64, 100, 0, 64, 1200, 1200, 1200, 7];
        for round in 0..10_u8 {
            let mut expected = Vec::new();
            for (at, size) in sizes.into_iter().enumerate() {
                expected.push(vec![round ^ at as u8; size]);
                client.send(Datagrams::copy_from(expected.last().expect("one")));
            }
            client.send(Datagrams::train(&[round; 1000], 90));
            expected.extend([round; 1000].chunks(90).map(<[u8]>::to_vec));
            let (mut arrived, mut back) = (Vec::new(), Vec::new());
            while arrived.len() < expected.len() {
                let received = timeout(WAIT, backend.recv()).await.expect("in time");
                let received = received.expect("datagrams");
                arrived.extend(received.datagrams.iter().map(<[u8]>::to_vec));
                backend.send_to(received.datagrams, received.peer);
            }
            assert!(arrived == expected, "round {round}");
            while back.len() < expected.len() {
                let received = timeout(WAIT, client.recv()).await.expect("in time");
                let received = received.expect("datagrams");
                back.extend(received.datagrams.iter().map(<[u8]>::to_vec));
            }
            assert!(back == expected, "round {round}, back");
        }
    });
}

#[test]
fn the_reply_comes_from_where_the_client_sent_to() {
    on_each_engine(|| async {
        let backend = echo("127.0.0.1", "a");
        for (wildcard, reached) in [
            ("0.0.0.0", "127.0.0.1"),
            ("0.0.0.0", "127.0.0.2"),
            ("::", "127.0.0.2"),
            ("::", "::1"),
            ("::1", "::1"),
        ] {
            let front = front_at(wildcard, cluster(&[backend]), plan::Udp::to("c"));
            let reached: IpAddr = reached.parse().expect("an ip");
            // It is connected: an answer from elsewhere would not reach it.
            let client = UdpSocket::connect((reached, front.address.port()).into());
            assert_eq!(
                ask(&client.expect("connect")).await,
                "a",
                "{wildcard} {reached}"
            );
        }
    });
}

#[test]
fn one_client_at_two_of_our_addresses_has_two_flows() {
    on_each_engine(|| async {
        let backend = echo("127.0.0.1", "a");
        let front = front_at("0.0.0.0", cluster(&[backend]), plan::Udp::to("c"));
        let (client, _) = socket("127.0.0.1");
        let port = front.address.port();
        for ip in [[127, 0, 0, 1], [127, 0, 0, 2]] {
            client.send_to(Datagrams::copy_from(b"?"), (ip, port).into());
            let received = timeout(WAIT, client.recv()).await.expect("in time");
            assert_eq!(received.expect("an answer").peer, (ip, port).into());
        }
        assert_eq!(front.active(), 2);
    });
}

#[test]
fn ipv6_backends_serve_ipv4_clients() {
    on_each_engine(|| async {
        let front = front(&[echo("::1", "six")]);
        assert_eq!(ask(&front.client()).await, "six");
    });
}

#[test]
fn a_flow_leaves_a_backend_that_leaves_the_plan_with_its_next_datagram() {
    on_each_engine(|| async {
        let (a, b) = (echo("127.0.0.1", "a"), echo("127.0.0.1", "b"));
        let mut front = front(&[a]);
        let client = front.client();
        assert_eq!(ask(&client).await, "a");
        front.switch(&[a, b]);
        assert_eq!(ask(&client).await, "a", "its backend stays");
        front.switch(&[b]);
        assert_eq!(ask(&client).await, "b");
        front.switch(&[]);
        client.send(Datagrams::copy_from(b"?"));
        assert!(is_silent(&client).await);
        assert_eq!(front.counters.flows.ends(FlowEnd::Unavailable), 1);
        front.switch(&[a]);
        assert_eq!(ask(&client).await, "a");
    });
}

#[test]
fn a_flow_leaves_a_backend_that_fails_its_checks_if_another_works() {
    on_each_engine(|| async {
        let front = front(&[echo("127.0.0.1", "a"), echo("127.0.0.1", "b")]);
        let client = front.client();
        let name = ask(&client).await;
        let backends = front.built.backends();
        let own = usize::from(name == "b");
        backends[own].set_healthy(false);
        let other = ask(&client).await;
        assert_ne!(other, name);
        assert_eq!(front.counters.flows.moved.get(), 1);
        backends[1 - own].set_healthy(false);
        for _ in 0..5 {
            assert_eq!(ask(&client).await, other, "no better one: it stays");
        }
        assert_eq!(front.active(), 1);
    });
}

#[test]
fn a_flow_leaves_a_backend_that_is_about_to_end_and_stays_on_one_that_drains() {
    on_each_engine(|| async {
        let (a, b) = (echo("127.0.0.1", "a"), echo("127.0.0.1", "b"));
        for (condition, expected) in [
            (plan::Condition::Draining, "a"),
            (plan::Condition::Serving, "b"),
            (plan::Condition::Terminating, "b"),
        ] {
            let mut front = front(&[a]);
            let client = front.client();
            assert_eq!(ask(&client).await, "a");
            let ends = plan::Backend {
                condition,
                ..a.into()
            };
            front.switch_to(vec![ends.clone()]);
            assert_eq!(ask(&client).await, "a", "no better one: it stays");
            sleep(Duration::from_millis(150)).await;
            front.switch_to(vec![ends, b.into()]);
            assert_eq!(ask(&client).await, expected, "{condition:?}");
        }
    });
}

#[test]
fn what_nobody_takes_goes_elsewhere_the_next_time() {
    on_each_engine(|| async {
        for balance in [plan::Balance::default(), plan::Balance::Maglev] {
            let backends = [nobody(), nobody(), echo("127.0.0.1", "a")];
            let cluster = plan::Cluster {
                balance,
                ..cluster(&backends)
            };
            let front = front_at("127.0.0.1", cluster, plan::Udp::to("c"));
            for _ in 0..6 {
                let client = front.client();
                let mut tries = 0;
                loop {
                    tries += 1;
                    client.send(Datagrams::copy_from(b"?"));
                    if !is_silent(&client).await {
                        break;
                    }
                    assert!(tries <= 20, "three backends, one of which works");
                }
            }
            let failures = |index: usize| {
                let backend = &front.built.backends()[index];
                backend.sum(|shard| shard.connect_failures.get())
            };
            // A hash of the one address may lead to the one that works at once.
            assert!(failures(0) + failures(1) > 0 || balance == plan::Balance::Maglev);
            assert_eq!(failures(2), 0);
        }
    });
}

#[test]
fn flows_above_the_limits_are_shed_and_the_others_go_on() {
    on_each_engine(|| async {
        let front = front_with(&[echo("127.0.0.1", "a")], |udp| {
            udp.flows_max = 3;
            udp.flows_per_source_max = Some(2);
        });
        let from = |ip: &str| {
            let source = format!("{ip}:0").parse().expect("an address");
            UdpSocket::connect_from(source, front.address).expect("connect")
        };
        let (first, second) = (from("127.0.0.1"), from("127.0.0.1"));
        assert_eq!(ask(&first).await, "a");
        assert_eq!(ask(&second).await, "a");
        let third = from("127.0.0.1");
        third.send(Datagrams::copy_from(b"?"));
        assert!(is_silent(&third).await);
        assert_eq!(front.counters.flows.sheds(FlowShed::Source), 1);
        let other = from("127.0.0.2");
        assert_eq!(ask(&other).await, "a", "another source has its own");
        let full = from("127.0.0.3");
        full.send(Datagrams::copy_from(b"?"));
        assert!(is_silent(&full).await);
        assert_eq!(front.counters.flows.sheds(FlowShed::Flows), 1);
        assert_eq!(ask(&first).await, "a");
        assert_eq!(front.active(), 3);
    });
}

#[test]
fn a_flow_whose_datagrams_are_answered_is_over() {
    on_each_engine(|| async {
        let front = front_with(&[echo("127.0.0.1", "a"), echo("127.0.0.1", "b")], |udp| {
            udp.replies = Some(1);
        });
        let client = front.client();
        let names = [ask(&client).await, ask(&client).await];
        assert_ne!(names[0], names[1], "each a flow of its own");
        eventually("both are over", || front.active() == 0).await;
        assert_eq!(front.counters.flows.ends(FlowEnd::Answered), 2);
    });
}

#[test]
fn a_flow_takes_so_many_requests_and_another_begins() {
    on_each_engine(|| async {
        let front = front_with(&[echo("127.0.0.1", "a"), echo("127.0.0.1", "b")], |udp| {
            udp.requests = Some(2);
        });
        let client = front.client();
        // Five at once, as one train: they are cut between the second and the third.
        client.send(Datagrams::train(b"vwxyz", 1));
        let mut answers = Vec::new();
        while answers.len() < 5 {
            let received = timeout(WAIT, client.recv()).await.expect("in time");
            let received = received.expect("answers");
            answers.extend(received.datagrams.iter().map(<[u8]>::to_vec));
        }
        answers.sort();
        let of = |name: &str| answers.iter().filter(|it| name_in(it) == name).count();
        let counts = [of("a"), of("b")];
        assert!(counts == [3, 2] || counts == [2, 3], "{counts:?}");
        assert_eq!(front.active(), 3);
    });
}

#[test]
fn silence_ends_a_flow() {
    in_virtual_time(|| async {
        let front = front_with(&[echo("127.0.0.1", "a")], |udp| {
            udp.idle_timeout = Duration::from_secs(10);
        });
        let client = front.client();
        for _ in 0..3 {
            assert_eq!(ask(&client).await, "a");
            sleep(Duration::from_secs(9)).await;
            assert_eq!(front.active(), 1);
        }
        sleep(Duration::from_secs(2)).await;
        assert_eq!(front.active(), 0);
        assert_eq!(front.counters.flows.ends(FlowEnd::Idle), 1);
        assert_eq!(ask(&client).await, "a", "another begins");
    });
}

/// A datagram may come when the timer is due and has not fired yet, since it waits for its tick.
#[test]
fn silence_ends_a_flow_that_was_busy_when_its_timer_was_due() {
    in_virtual_time(|| async {
        let front = front_with(&[echo("127.0.0.1", "a")], |udp| {
            udp.idle_timeout = Duration::from_millis(95);
        });
        for _ in 0..8 {
            let client = front.client();
            for _ in 0..500 {
                assert_eq!(ask(&client).await, "a");
                sleep_until_precise(now() + Duration::from_micros(700)).await;
            }
        }
        sleep(Duration::from_secs(1)).await;
        assert_eq!(front.active(), 0);
        assert_eq!(front.counters.flows.ends(FlowEnd::Idle), 8);
    });
}

#[test]
fn replies_alone_keep_a_flow() {
    in_virtual_time(|| async {
        let (backend, address) = socket("127.0.0.1");
        let front = front_with(&[address], |udp| {
            udp.idle_timeout = Duration::from_secs(10);
        });
        let client = front.client();
        client.send(Datagrams::copy_from(b"subscribe"));
        let peer = backend.recv().await.expect("a datagram").peer;
        for _ in 0..5 {
            sleep(Duration::from_secs(9)).await;
            backend.send_to(Datagrams::copy_from(b"news"), peer);
            assert_eq!(receive(&client).await, b"news");
        }
        assert_eq!(front.active(), 1);
    });
}

#[test]
fn a_listener_that_closes_begins_no_flow_and_waits_for_those_that_are_there() {
    in_virtual_time(|| async {
        let Front {
            listener,
            counters,
            address,
            ..
        } = front(&[echo("127.0.0.1", "a")]);
        let client = UdpSocket::connect(address).expect("connect");
        assert_eq!(ask(&client).await, "a");
        let closing = spawn(listener.close());
        let late = UdpSocket::connect(address).expect("connect");
        for _ in 0..5 {
            sleep(Duration::from_secs(4)).await;
            assert_eq!(ask(&client).await, "a", "it goes on");
            late.send(Datagrams::copy_from(b"?"));
            assert!(is_silent(&late).await);
        }
        assert_eq!(counters.flows.sheds(FlowShed::Draining), 5);
        sleep(Duration::from_secs(6)).await;
        assert_eq!(counters.active.get(), 0);
        assert_eq!(counters.flows.ends(FlowEnd::Drained), 1);
        rt::abort(closing);
        client.send(Datagrams::copy_from(b"?"));
        let refused = timeout(WAIT, client.recv()).await.expect("in time");
        refused.expect_err("nobody listens any more");
    });
}

#[test]
fn a_dropped_listener_takes_its_flows_along() {
    on_each_engine(|| async {
        let before = rt::stats();
        let backend = echo("127.0.0.1", "a");
        let Front {
            listener,
            counters,
            address,
            worker,
            ..
        } = front(&[backend]);
        let clients: Vec<_> = (0..20)
            .map(|_| UdpSocket::connect(address).expect("connect"))
            .collect();
        for client in &clients {
            assert_eq!(ask(client).await, "a");
        }
        assert_eq!(worker.connections.len(), 20);
        drop(listener);
        eventually("all are over", || counters.active.get() == 0).await;
        assert_eq!(counters.flows.ends(FlowEnd::Drained), 20);
        drop(clients);
        eventually("nothing is left but the backend", || {
            let now = rt::stats();
            (now.sockets, now.tasks) == (before.sockets + 1, before.tasks + 1)
        })
        .await;
    });
}

#[test]
fn aborted_connections_are_aborted_flows_too() {
    on_each_engine(|| async {
        let front = front(&[echo("127.0.0.1", "a")]);
        let client = front.client();
        assert_eq!(ask(&client).await, "a");
        front.worker.connections.abort_all();
        assert_eq!(front.active(), 0);
        assert_eq!(ask(&client).await, "a", "the listener itself goes on");
    });
}

/// Loss, doubles and reordering of the network are the network's: nothing is added to them, no
/// datagram is mixed up with another's, and every flow ends.
#[test]
fn random_talks_survive_a_rough_network() {
    for seed in 0..64 {
        let config = rt::Config {
            engine: rt::EngineKind::Sim,
            sim: rt::sim::Settings {
                seed,
                faults: rt::sim::Faults::rough(),
            },
            ..rt::Config::default()
        };
        let mut runtime = rt::Runtime::new(&config).expect("a simulated network");
        runtime.block_on(async {
            let backends = [echo("127.0.0.1", "a"), echo("127.0.0.1", "b"), nobody()];
            let front = front_with(&backends, |udp| {
                udp.idle_timeout = Duration::from_secs(5);
            });
            let mut answered = 0;
            for number in 0..20_u8 {
                let Ok(client) = UdpSocket::connect(front.address) else {
                    continue; // out of descriptors, says the network
                };
                for round in 0..10_u8 {
                    client.send(Datagrams::train(&[number, round].repeat(3), 2));
                    let pause = Duration::from_millis(u64::from(round) * 3);
                    while let Ok(received) = timeout(pause, client.recv()).await {
                        let Ok(received) = received else { break };
                        for datagram in received.datagrams.iter() {
                            let own = &datagram[2..];
                            assert!(own[0] == number && own[1] <= round, "seed {seed}");
                            answered += 1;
                        }
                    }
                }
            }
            assert!(answered > 100, "seed {seed}: {answered} answers");
            sleep(Duration::from_secs(20)).await;
            assert_eq!(front.active(), 0, "seed {seed}");
            let in_flight = front.built.backends().iter().map(|it| it.in_flight());
            assert_eq!(in_flight.sum::<u32>(), 0, "seed {seed}");
        });
    }
}
