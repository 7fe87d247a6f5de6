//! What comes before a session: PROXY headers, lists and limits, server names; on both engines.

#[expect(dead_code, reason = "other tests use the rest")]
mod harness;

use std::net::SocketAddr;
use std::time::Duration;

use harness::{Front, Serving, in_virtual_time, listen, on_each_engine, receive};
use lb_core::metrics::{Refusal, SessionEnd};
use lb_core::plan::{
    Access, BackendLimit, ConnectionLimits, Otherwise, ProxyIn, ProxyOut, ProxyVersion, ServerName,
    ServerNames,
};
use lb_core::rt::{Chunk, TcpStream, sleep, timeout};
use lb_l4::proxy_protocol::{self, Addresses, Header, Origin, Tlv, Transport};

const CLIENT: &str = "192.0.2.7:40000";
const SERVICE: &str = "198.51.100.1:443";

/// Waits until something is so.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let seen = async {
        while !is_so() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = timeout(Duration::from_secs(60), seen).await;
    assert!(waited.is_ok(), "waited in vain for {what}");
}

async fn refused(serving: &Serving, refusal: Refusal) {
    let what = format!("a refusal, {refusal:?}");
    until(&what, || serving.counters.refusals(refusal) > 0).await;
    assert_eq!(serving.counters.refusals(refusal), 1);
}

fn proxied() -> Origin {
    Origin::Proxied(Addresses {
        source: CLIENT.parse().expect("an address"),
        destination: SERVICE.parse().expect("an address"),
        transport: Transport::Stream,
    })
}

fn trust(prefixes: &[&str]) -> Option<ProxyIn> {
    let trusted = prefixes.iter().map(|text| text.parse().expect("a prefix"));
    Some(ProxyIn {
        trusted: trusted.collect(),
        timeout: Duration::from_secs(5),
    })
}

fn out(version: ProxyVersion) -> Option<ProxyOut> {
    Some(ProxyOut {
        version,
        checksum: version == ProxyVersion::V2,
    })
}

async fn send(stream: &TcpStream, bytes: &[u8]) {
    let chunk = Chunk::from_vec(bytes.to_vec());
    stream.send(chunk).await.expect("send");
}

/// The PROXY header at the start of a backend's connection; of what follows nothing is lost.
async fn header(server: &TcpStream, look: impl FnOnce(Header<'_>)) {
    let mut bytes = Vec::new();
    loop {
        let chunk = server.recv().await.expect("receive");
        assert!(!chunk.is_empty(), "no header in {bytes:?}");
        bytes.extend_from_slice(&chunk);
        if let Some(header) = proxy_protocol::parse(&bytes).expect("a header") {
            let rest = Chunk::from_vec(bytes[header.length..].to_vec());
            look(header);
            return server.unread(rest);
        }
    }
}

/// The connection ends by a reset.
async fn is_reset(stream: &TcpStream) {
    let received = stream.recv().await;
    assert!(received.is_err(), "{received:?}");
}

#[test]
fn backends_are_told_who_the_client_is() {
    on_each_engine(|| async {
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            let (backend, address) = listen();
            let mut front = Front::of(&[address]);
            front.tcp.proxy_out = out(version);
            let serving = front.serve();
            let client = TcpStream::connect(serving.address).await.expect("connect");
            let own = client.local_addr().expect("an address");
            let server = backend.accept().await.expect("accept");
            // It comes before the client has said anything: some protocols let servers begin.
            header(&server, |header| {
                let expected = Origin::Proxied(Addresses {
                    source: own,
                    destination: serving.address,
                    transport: Transport::Stream,
                });
                assert_eq!(header.origin, expected);
            })
            .await;
            send(&client, b"question").await;
            assert_eq!(receive(&server, 8).await, b"question");
            send(&server, b"answer").await;
            assert_eq!(receive(&client, 6).await, b"answer");
        }
    });
}

#[test]
fn a_trusted_proxy_is_believed_and_what_it_says_is_passed_on() {
    on_each_engine(|| async {
        let (backend, address) = listen();
        let mut front = Front::of(&[address]);
        front.edge.proxy_in = trust(&["127.0.0.0/8"]);
        front.tcp.proxy_out = out(ProxyVersion::V2);
        let serving = front.serve();
        let tlvs = [
            Tlv::UniqueId(b"id-1"),
            Tlv::Padding(b"xxx"),
            Tlv::Authority("shop.example"),
        ];
        let mut bytes = Vec::new();
        proxy_protocol::write_v2(proxied(), &tlvs, true, &mut bytes);
        bytes.extend_from_slice(b"question");
        for piece in [1, 7, 20, bytes.len()] {
            let client = TcpStream::connect(serving.address).await.expect("connect");
            for piece in bytes.chunks(piece) {
                send(&client, piece).await;
                client.flush().await.expect("flush");
                lb_core::rt::yield_now().await;
            }
            let server = backend.accept().await.expect("accept");
            header(&server, |header| {
                assert_eq!(header.origin, proxied());
                let passed: Vec<_> = header.tlvs.collect();
                assert_eq!(passed[..2], [tlvs[0], tlvs[2]]);
                assert!(matches!(passed[2..], [Tlv::Checksum(_)]));
            })
            .await;
            assert_eq!(receive(&server, 8).await, b"question");
        }
    });
}

#[test]
fn who_is_no_trusted_proxy_or_sends_no_header_is_reset() {
    on_each_engine(|| async {
        let (_backend, address) = listen();
        let mut front = Front::of(&[address]);
        front.edge.proxy_in = trust(&["10.0.0.0/8"]);
        let serving = front.serve();
        // The reset may come before we are told that we were connected.
        if let Ok(client) = TcpStream::connect(serving.address).await {
            is_reset(&client).await;
        }
        refused(&serving, Refusal::Untrusted).await;

        front.edge.proxy_in = trust(&["127.0.0.1"]);
        let serving = front.serve();
        let client = TcpStream::connect(serving.address).await.expect("connect");
        send(&client, b"GET / HTTP/1.1\r\n\r\n").await;
        is_reset(&client).await;
        refused(&serving, Refusal::Proxy).await;
        assert_eq!(serving.rest().await.buffers, lb_core::rt::stats().buffers);
        assert_eq!(serving.counters.sessions(SessionEnd::Refused), 1);
    });
}

#[test]
fn a_proxys_own_connections_are_its_own() {
    on_each_engine(|| async {
        let (backend, address) = listen();
        let mut front = Front::of(&[address]);
        front.edge.proxy_in = trust(&["127.0.0.1"]);
        front.tcp.proxy_out = out(ProxyVersion::V1);
        let serving = front.serve();
        let client = TcpStream::connect(serving.address).await.expect("connect");
        let own = client.local_addr().expect("an address");
        let mut bytes = Vec::new();
        proxy_protocol::write_v2(Origin::Local, &[], false, &mut bytes);
        send(&client, &bytes).await;
        let server = backend.accept().await.expect("accept");
        header(&server, |header| match header.origin {
            Origin::Proxied(addresses) => assert_eq!(addresses.source, own),
            other => panic!("{other:?}"),
        })
        .await;
    });
}

#[test]
fn lists_and_limits_see_the_client_that_the_proxy_told_of() {
    on_each_engine(|| async {
        let (backend, address) = listen();
        let mut front = Front::of(&[address]);
        front.edge.proxy_in = trust(&["127.0.0.1"]);
        front.edge.access = Access {
            allow: Vec::new(),
            deny: vec!["203.0.113.0/24".parse().expect("a prefix")],
        };
        front.edge.limits = ConnectionLimits {
            per_source_max: Some(1),
            ..ConnectionLimits::default()
        };
        let serving = front.serve();
        let connect = async |source: &str| {
            let client = TcpStream::connect(serving.address).await.expect("connect");
            let line = format!("PROXY TCP4 {source} 198.51.100.1 40000 443\r\n");
            send(&client, line.as_bytes()).await;
            client
        };
        is_reset(&connect("203.0.113.9").await).await;
        refused(&serving, Refusal::Denied).await;
        let first = connect("192.0.2.7").await;
        let _server = backend.accept().await.expect("accept");
        is_reset(&connect("192.0.2.7").await).await;
        refused(&serving, Refusal::Source).await;
        let _other = connect("192.0.2.8").await;
        let _server = backend.accept().await.expect("accept");
        first.reset();
        until("its place to be free", || {
            serving.counters.active.get() == 1
        })
        .await;
        let _again = connect("192.0.2.7").await;
        let _server = backend.accept().await.expect("accept");
    });
}

#[test]
fn a_header_or_hello_that_does_not_come_is_not_waited_for() {
    in_virtual_time(|| async {
        let (_backend, address) = listen();
        let mut front = Front::of(&[address]);
        front.edge.proxy_in = trust(&["0.0.0.0/0", "::/0"]);
        front.tcp.server_names = Some(names(&[], Otherwise::Alert));
        let serving = front.serve();
        let client = TcpStream::connect(serving.address).await.expect("connect");
        send(&client, b"PROXY TCP4 192.0.2.7").await;
        is_reset(&client).await;
        refused(&serving, Refusal::ProxyTimeout).await;
        let client = TcpStream::connect(serving.address).await.expect("connect");
        send(&client, b"PROXY TCP4 192.0.2.7 192.0.2.8 1 1\r\n\x16").await;
        is_reset(&client).await;
        refused(&serving, Refusal::HelloTimeout).await;
    });
}

#[test]
fn a_session_ends_when_its_lifetime_is_over_whatever_it_does() {
    in_virtual_time(|| async {
        let (backend, address) = listen();
        let mut front = Front::of(&[address]);
        front.tcp.lifetime = Some(Duration::from_secs(10));
        let serving = front.serve();
        let client = TcpStream::connect(serving.address).await.expect("connect");
        let server = backend.accept().await.expect("accept");
        for _ in 0..9 {
            sleep(Duration::from_secs(1)).await;
            send(&client, b"x").await;
            assert_eq!(receive(&server, 1).await, b"x");
        }
        sleep(Duration::from_secs(2)).await;
        is_reset(&client).await;
        is_reset(&server).await;
        assert_eq!(serving.counters.sessions(SessionEnd::Expired), 1);
    });
}

fn names(routes: &[(&str, &[&str])], otherwise: Otherwise) -> ServerNames {
    let route = |(name, protocols): &(&str, &[&str])| ServerName {
        name: (*name).to_owned(),
        protocols: protocols.iter().map(|&it| it.to_owned()).collect(),
        cluster: "c".to_owned(),
    };
    ServerNames {
        routes: routes.iter().map(route).collect(),
        hello_timeout: Duration::from_secs(5),
        otherwise,
    }
}

/// A listener that knows `shop.example` and, for h2 only, `*.api.example`.
fn by_name(backend: SocketAddr, otherwise: Otherwise) -> Serving {
    let mut front = Front::of(&[backend]);
    let routes: [(&str, &[&str]); 2] = [("shop.example", &[]), ("*.api.example", &["h2"])];
    front.tcp.cluster = None;
    front.tcp.server_names = Some(names(&routes, otherwise));
    front.tcp.proxy_out = out(ProxyVersion::V2);
    front.serve()
}

/// A ClientHello in records of `record` bytes.
fn hello(name: &str, protocol: Option<&str>, record: usize) -> Vec<u8> {
    let vector = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes(), bytes].concat();
    let entry = [&[0], &*vector(name.as_bytes())].concat();
    let mut extensions = [&[0, 0], &*vector(&vector(&entry))].concat();
    if let Some(protocol) = protocol {
        let list = [&[protocol.len() as u8], protocol.as_bytes()].concat();
        extensions.extend([&[0, 16], &*vector(&vector(&list))].concat());
    }
    let mut body = [3; 34].to_vec();
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend(vector(&extensions));
    let length = (body.len() as u32).to_be_bytes();
    let message = [&[1], &length[1..], &body].concat();
    let records = message.chunks(record);
    records
        .flat_map(|part| [&[22, 3, 1], &*vector(part)].concat())
        .collect()
}

#[test]
fn a_server_name_leads_to_its_backend_and_the_hello_goes_along() {
    on_each_engine(|| async {
        let (backend, address) = listen();
        let serving = by_name(address, Otherwise::Alert);
        for (name, protocol, record, piece) in [
            ("shop.example", None, 9000, 9000),
            ("shop.example", Some("http/1.1"), 30, 7),
            ("v1.api.example", Some("h2"), 1, 1),
        ] {
            let client = TcpStream::connect(serving.address).await.expect("connect");
            let hello = hello(name, protocol, record);
            for piece in hello.chunks(piece) {
                send(&client, piece).await;
                client.flush().await.expect("flush");
                lb_core::rt::yield_now().await;
            }
            let server = backend.accept().await.expect("accept");
            header(&server, |header| {
                let mut tlvs = header.tlvs;
                assert!(tlvs.any(|tlv| tlv == Tlv::Authority(name)), "{name}");
            })
            .await;
            assert_eq!(receive(&server, hello.len()).await, hello);
            send(&server, b"answer").await;
            assert_eq!(receive(&client, 6).await, b"answer");
        }
    });
}

#[test]
fn a_name_that_leads_nowhere_is_answered_by_an_alert_and_an_end() {
    on_each_engine(|| async {
        let (_backend, address) = listen();
        let serving = by_name(address, Otherwise::Alert);
        for (name, protocol, description) in [
            ("other.example", None, 112),
            ("api.example", Some("h2"), 112),
            ("v1.api.example", Some("http/1.1"), 120),
        ] {
            let client = TcpStream::connect(serving.address).await.expect("connect");
            send(&client, &hello(name, protocol, 9000)).await;
            let alert = receive(&client, 7).await;
            assert_eq!(alert, [21, 3, 3, 0, 2, 2, description], "{name}");
            assert!(client.recv().await.expect("a clean end").is_empty());
        }
        assert_eq!(serving.counters.refusals(Refusal::NoRoute), 3);
    });
}

#[test]
fn what_is_no_hello_is_reset_and_so_is_a_name_if_asked_for() {
    on_each_engine(|| async {
        let (_backend, address) = listen();
        let serving = by_name(address, Otherwise::Reset);
        let client = TcpStream::connect(serving.address).await.expect("connect");
        send(&client, b"GET / HTTP/1.1\r\n\r\n").await;
        is_reset(&client).await;
        refused(&serving, Refusal::Hello).await;
        let client = TcpStream::connect(serving.address).await.expect("connect");
        send(&client, &hello("other.example", None, 9000)).await;
        is_reset(&client).await;
        refused(&serving, Refusal::NoRoute).await;
        let gone = TcpStream::connect(serving.address).await.expect("connect");
        send(&gone, &[22, 3]).await;
        gone.shutdown().await.expect("shutdown");
        let counters = &serving.counters;
        until("the client to be missed", || {
            counters.sessions(SessionEnd::Abandoned) == 1
        })
        .await;
    });
}

fn limited(backends: &[SocketAddr], connections_max: u32, queue_max: u32) -> Serving {
    let mut front = Front::of(backends);
    front.tcp.backend_limit = Some(BackendLimit {
        connections_max,
        queue_max,
        queue_timeout: Duration::from_secs(3600),
    });
    front.serve()
}

/// How many sessions wait for a backend.
fn waiting(serving: &Serving) -> u64 {
    let backends = serving.cluster.backends().iter();
    let established = backends.map(|it| it.counters(0).connections_active.get());
    serving.counters.active.get() - established.sum::<u64>()
}

#[test]
fn a_full_backend_is_passed_over_and_then_waited_for_in_order() {
    on_each_engine(|| async {
        let ((one, first), (other, second)) = (listen(), listen());
        let serving = limited(&[first, second], 1, 2);
        let _clients = [
            TcpStream::connect(serving.address).await.expect("connect"),
            TcpStream::connect(serving.address).await.expect("connect"),
        ];
        let served = one.accept().await.expect("accept");
        let _also_served = other.accept().await.expect("accept");
        let mut queued = Vec::new();
        for name in [b"a", b"b"] {
            let client = TcpStream::connect(serving.address).await.expect("connect");
            send(&client, name).await;
            queued.push(client);
            let count = queued.len() as u64;
            until("a place in the queue", || waiting(&serving) == count).await;
        }
        if let Ok(client) = TcpStream::connect(serving.address).await {
            is_reset(&client).await;
        }
        refused(&serving, Refusal::QueueFull).await;
        // The one that gives up in the queue does not keep the other from its turn.
        served.reset();
        let next = one.accept().await.expect("accept");
        assert_eq!(receive(&next, 1).await, b"a");
        next.reset();
        let next = one.accept().await.expect("accept");
        assert_eq!(receive(&next, 1).await, b"b");
        for backend in serving.cluster.backends() {
            assert_eq!(backend.in_flight(), 1);
        }
    });
}

#[test]
fn who_leaves_the_queue_is_counted_and_makes_room() {
    on_each_engine(|| async {
        let (backend, address) = listen();
        let serving = limited(&[address], 1, 1);
        let _client = TcpStream::connect(serving.address).await.expect("connect");
        let served = backend.accept().await.expect("accept");
        let impatient = TcpStream::connect(serving.address).await.expect("connect");
        until("a place in the queue", || waiting(&serving) == 1).await;
        impatient.reset();
        let counters = &serving.counters;
        until("the client to be missed", || {
            counters.sessions(SessionEnd::Abandoned) == 1
        })
        .await;
        let patient = TcpStream::connect(serving.address).await.expect("connect");
        until("a place in the queue", || waiting(&serving) == 1).await;
        served.reset();
        send(&patient, b"x").await;
        let next = backend.accept().await.expect("accept");
        assert_eq!(receive(&next, 1).await, b"x");
    });
}

#[test]
fn a_place_in_the_queue_is_not_for_ever() {
    in_virtual_time(|| async {
        let (backend, address) = listen();
        let serving = limited(&[address], 1, 1);
        let _client = TcpStream::connect(serving.address).await.expect("connect");
        let _served = backend.accept().await.expect("accept");
        let client = TcpStream::connect(serving.address).await.expect("connect");
        is_reset(&client).await;
        refused(&serving, Refusal::QueueTimeout).await;
    });
}
