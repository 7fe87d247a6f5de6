//! A keep-alive request costs no heap allocation, its line in the access log included: counted, on
//! every engine. A stream of HTTP/2 costs two.
//!
//! The allocator counts what the proxy's thread allocates; the backend and the client are
//! other threads.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lb_core::plan::{self, Affinity, Balance, CookieAffinity, CookieMode, HashKey};
use lb_core::rt::EngineKind;
use rcgen::{CertificateParams, KeyPair};
use rustls::client::{ClientConfig, ClientConnection};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, StreamOwned};

#[path = "../../lb-core/tests/counting/mod.rs"]
mod counting;
#[path = "proxy/support.rs"]
#[expect(dead_code, reason = "the other test binary uses the rest")]
mod support;

use counting::{allocations, count_this_thread};
use support::{Backend, Client, Proxy, Request, cluster_plan, http_plan, ok, on_each_engine};

/// One request of each kind, answered.
fn round(client: &mut Client) {
    for request in [
        "GET /a?b HTTP/1.1\r\nHost: a.example\r\nUser-Agent: test\r\nConnection: keep-alive\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n\
         hello",
        "PUT / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n\
         5\r\nhello\r\n0\r\n\r\n",
        "GET /chunked HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET /large HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET /missing HTTP/1.1\r\nHost: a.example\r\n\r\nGET /pipelined HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        client.send(request.as_bytes());
        for _ in request.matches("Host:") {
            assert!(matches!(client.response().status, 200 | 404));
        }
    }
}

fn respond(request: &Request) -> Vec<u8> {
    if request.head.starts_with("GET /chunked") {
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n".to_vec()
    } else if request.head.starts_with("GET /large") {
        ok(&[b'x'; 200_000])
    } else {
        ok(&[b'y'; 64])
    }
}

/// Lets `round` through a proxy with `cluster` until everything has grown to its size, and then
/// `rounds` of them allocate nothing.
fn assert_does_not_allocate<C>(
    engine: EngineKind,
    http: plan::Http,
    cluster: plan::Cluster,
    rounds: usize,
    connect: impl Fn(&Proxy) -> C,
    round: impl Fn(&mut C),
) {
    let count_here = count_this_thread;
    let proxy = Proxy::start_logging(engine, http, &[cluster], true, count_here);
    let mut clients = [connect(&proxy), connect(&proxy), connect(&proxy)];
    let mut allocated = || {
        let before = allocations();
        assert!(before > 0, "the allocator counts");
        (0..rounds).for_each(|number| round(&mut clients[number % 3]));
        allocations() - before
    };
    let first = allocated();
    assert!(first > 0, "the proxy's thread is counted");
    // As time passes, the places of the timer wheel are used for the first time: what a request
    // allocates is allocated in each series.
    let series: Vec<u64> = (0..6)
        .map(|_| allocated())
        .take_while(|it| *it > 0)
        .collect();
    assert!(
        series.len() < 6,
        "{series:?} allocations in {rounds} rounds on {engine:?}"
    );
}

/// One at a time: the allocations of all proxies are counted together.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn keep_alive_requests_do_not_allocate() {
    let _alone = ALONE.lock();
    on_each_engine(|engine| {
        let backend = Backend::responding(respond);
        let mut http = http_plan();
        http.routes = vec![plan::Route::to(Some("*.example"), "/", "main")];
        http.default_cluster = None;
        let cluster = cluster_plan("main", &[backend.address]);
        assert_does_not_allocate(engine, http, cluster, 400, Proxy::connect, round);
    });
}

#[test]
fn neither_do_hash_keys_and_affinity() {
    let _alone = ALONE.lock();
    let hash_keys = [
        HashKey::Header("x-user".into()),
        HashKey::Cookie("id".into()),
        HashKey::Query("user".into()),
        HashKey::Uri,
        HashKey::ClientAddressPort,
        HashKey::Destination,
    ];
    let hashed = hash_keys.map(|key| (Some(key), None));
    let cookie = |mode| {
        Affinity::Cookie(CookieAffinity {
            mode,
            max_age: Some(Duration::from_secs(60)),
            ..CookieAffinity::new("lb")
        })
    };
    let header = Affinity::Header {
        name: "x-user".into(),
        timeout: Duration::from_secs(60),
    };
    let affinities = [
        cookie(CookieMode::Persistent),
        cookie(CookieMode::Balanced),
        header,
        Affinity::client_address(Duration::from_secs(60)),
    ];
    let kept = affinities.map(|affinity| (None, Some(affinity)));
    let cases: Vec<_> = hashed.into_iter().chain(kept).collect();
    on_each_engine(|engine| {
        let backends = [Backend::responding(respond), Backend::responding(respond)];
        for (hash_key, affinity) in &cases {
            let mut cluster = cluster_plan("main", &backends.each_ref().map(|it| it.address));
            if hash_key.is_some() {
                cluster.balance = Balance::Maglev;
            }
            cluster.hash_key.clone_from(hash_key);
            cluster.affinity.clone_from(affinity);
            assert_does_not_allocate(
                engine,
                http_plan(),
                cluster,
                100,
                Proxy::connect,
                round_of_one,
            );
        }
    });
}

/// A request without a cookie, and one that brings the cookie that it was given, if it was.
fn round_of_one(client: &mut Client) {
    let request = |cookie: &str| {
        format!(
            "GET /a?user=ann HTTP/1.1\r\nHost: a\r\nX-User: ann\r\nCookie: id=7{cookie}\r\n\r\n"
        )
    };
    client.send(request("").as_bytes());
    let first = client.response();
    let given = first.field("set-cookie").unwrap_or("lb=none;");
    let value = given.split(';').next().unwrap();
    client.send(request(&format!("; {value}")).as_bytes());
    let second = client.response();
    assert_eq!((first.status, second.status), (200, 200));
}

type Tls = StreamOwned<ClientConnection, TcpStream>;

/// One request of each kind over TLS, answered.
fn round_over_tls(client: &mut Tls) {
    for request in [
        "GET /a HTTP/1.1\r\nHost: a.example\r\nUser-Agent: test\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello",
        "GET /large HTTP/1.1\r\nHost: a.example\r\n\r\n",
    ] {
        client.write_all(request.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        assert!(head.starts_with(b"HTTP/1.1 200 "));
        let length = if request.starts_with("GET /large") {
            200_000
        } else {
            64
        };
        client.read_exact(&mut vec![0; length]).unwrap();
    }
}

#[test]
fn neither_do_requests_over_tls() {
    let _alone = ALONE.lock();
    let params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap().der().clone();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let planned = plan::Certificate {
        name: "it".to_owned(),
        server_names: Vec::new(),
        chain: vec![certificate.to_vec()],
        key: plan::PrivateKey {
            form: plan::KeyForm::Pkcs8,
            der: key.serialize_der(),
        },
        ocsp: None,
    };
    let tls = plan::TlsServer::new(vec![Arc::new(planned)]);
    for version in [&TLS12, &TLS13] {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        let config = Arc::new(config);
        let connect = |proxy: &Proxy| {
            let name = ServerName::try_from("a.example").unwrap();
            let connection = ClientConnection::new(Arc::clone(&config), name).unwrap();
            Tls::new(connection, proxy.connect().stream)
        };
        on_each_engine(|engine| {
            let backend = Backend::responding(respond);
            let http = plan::Http {
                tls: Some(tls.clone()),
                ..http_plan()
            };
            let cluster = cluster_plan("main", &[backend.address]);
            assert_does_not_allocate(engine, http, cluster, 200, connect, round_over_tls);
        });
    }
}

/// Two for each stream of HTTP/2, its task and its end of the exchange's link, and no more however
/// many there are.
#[test]
fn streams_allocate_two_boxes() {
    const STREAMS: u32 = 60;
    let _alone = ALONE.lock();
    on_each_engine(|engine| {
        let backend = Backend::responding(respond);
        let cluster = cluster_plan("main", &[backend.address]);
        let proxy = Proxy::start_logging(engine, http_plan(), &[cluster], true, count_this_thread);
        let mut client = proxy.connect();
        client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
        let mut next = 1;
        let mut allocated = || {
            let before = allocations();
            let mut heads = Vec::new();
            for _ in 0..STREAMS {
                heads.extend_from_slice(b"\0\0\x09\x01\x05");
                heads.extend_from_slice(&u32::to_be_bytes(next));
                heads.extend_from_slice(b"\x82\x86\x84\x41\x04test");
                next += 2;
            }
            // DATA costs windows.
            heads.extend_from_slice(b"\0\0\x04\x08\0\0\0\0\0\0\0\x10\0");
            client.send(&heads);
            let mut ended = 0;
            while ended < STREAMS {
                let mut head = [0; 9];
                client.stream.read_exact(&mut head).unwrap();
                let len = usize::from(head[1]) << 8 | usize::from(head[2]);
                client.stream.read_exact(&mut vec![0; len]).unwrap();
                ended += u32::from(head[3] == 0 && head[4] & 1 == 1);
            }
            allocations() - before
        };
        let series: Vec<u64> = (0..12).map(|_| allocated()).collect();
        let least = series.iter().min().unwrap();
        assert!(*least <= 2 * u64::from(STREAMS), "{series:?} on {engine:?}");
    });
}
