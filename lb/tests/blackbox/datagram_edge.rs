//! Lists, limits and PROXY headers of UDP listeners.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use crate::harness::{DEADLINE, Folder, Lb, on_both_engines, wait_until};

on_both_engines!(
    who_is_on_no_list_is_dropped,
    limits_are_of_flows,
    what_one_tells_another_believes,
    headers_of_strangers_and_other_bytes_are_dropped,
    a_backend_reads_who_the_client_is,
    a_checksum_that_is_wrong_is_noticed,
);

/// A backend that answers with what it was sent, and the address that it saw.
fn echo() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((len, client)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..len], client);
        }
    });
    address
}

fn client_from(ip: [u8; 4], server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::from(ip), 0)).unwrap();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

fn client(server: SocketAddr) -> UdpSocket {
    client_from([127, 0, 0, 1], server)
}

fn ask(client: &UdpSocket, question: &[u8]) -> Vec<u8> {
    client.send(question).unwrap();
    let mut buffer = vec![0; 2048];
    let len = client.recv(&mut buffer).unwrap();
    buffer.truncate(len);
    buffer
}

/// One UDP listener `u` with these keys, and these in `udp:`.
fn start(engine: &str, folder: &Folder, keys: &str, udp: &str, backend: SocketAddr) -> Lb {
    let text = format!(
        "listeners: [{{name: u, address: '127.0.0.1:0'{keys}, udp: {{cluster: c{udp}}}}}]\n\
         clusters: {{c: {{backends: ['{backend}']}}}}\n"
    );
    Lb::start(engine, &["--config", &folder.write("lb.yaml", &text)])
}

fn refused(lb: &Lb, reason: &str) -> f64 {
    lb.metric(&format!(
        "lb_client_connections_refused_total{{listener=\"u\",reason=\"{reason}\"}}"
    ))
}

/// Sends without an answer, until that was counted.
fn is_refused(lb: &Lb, client: &UdpSocket, bytes: &[u8], reason: &str) {
    let before = refused(lb, reason);
    client.send(bytes).unwrap();
    wait_until("the refusal", || refused(lb, reason) > before);
    client
        .set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    assert!(client.recv(&mut [0; 8]).is_err());
    client.set_read_timeout(Some(DEADLINE)).unwrap();
}

fn who_is_on_no_list_is_dropped(engine: &str) {
    let folder = Folder::new();
    let lists = ", deny: [127.0.0.0/8], allow: [127.0.0.2]";
    let lb = start(engine, &folder, lists, "", echo());
    let front = lb.listener("u");
    is_refused(&lb, &client(front), b"x", "denied");
    assert_eq!(ask(&client_from([127, 0, 0, 2], front), b"x"), b"x");
}

fn limits_are_of_flows(engine: &str) {
    for (limits, reason) in [
        ("connections: 2", "connections"),
        ("per_source: 2", "source"),
        ("rate: 1, burst: 2", "rate"),
    ] {
        let folder = Folder::new();
        let keys = format!(", limits: {{{limits}}}");
        let lb = start(engine, &folder, &keys, ", idle_timeout: 200ms", echo());
        let front = lb.listener("u");
        let clients: Vec<_> = (0..2).map(|_| client(front)).collect();
        for known in &clients {
            assert_eq!(ask(known, b"x"), b"x");
        }
        // Keeps both alive until the third has been turned away.
        let others = clients.iter().map(|it| it.try_clone().unwrap());
        let others: Vec<_> = others.collect();
        let is_over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let is_over_too = std::sync::Arc::clone(&is_over);
        let keeps = thread::spawn(move || {
            while !is_over_too.load(std::sync::atomic::Ordering::Relaxed) {
                others.iter().for_each(|it| drop(it.send(b"y")));
                thread::sleep(Duration::from_millis(10));
            }
        });
        let third = client(front);
        wait_until("a refusal", || {
            third.send(b"x").unwrap();
            refused(&lb, reason) >= 1.0
        });
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        keeps.join().unwrap();
        third
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        wait_until("room", || {
            third.send(b"x").unwrap();
            third.recv(&mut [0; 8]).is_ok()
        });
    }
}

/// A version 2 header for a datagram.
fn header(source: [u8; 4], port: u16) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([0x21, 0x12, 0, 12]);
    header.extend(source);
    header.extend([192, 0, 2, 1]);
    header.extend(port.to_be_bytes());
    header.extend(53_u16.to_be_bytes());
    header
}

fn a_backend_reads_who_the_client_is(engine: &str) {
    let folder = Folder::new();
    let lb = start(engine, &folder, "", ", proxy_out: v2", echo());
    let front = lb.listener("u");
    let client = client(front);
    let own = client.local_addr().unwrap();
    for payload in [&b"first"[..], b"", b"third"] {
        let seen = ask(&client, payload);
        assert_eq!(seen[..16], header([0; 4], 0)[..16], "UDP over IPv4");
        assert_eq!(seen[16..24], [127, 0, 0, 1, 127, 0, 0, 1]);
        assert_eq!(seen[24..26], own.port().to_be_bytes());
        assert_eq!(seen[26..28], front.port().to_be_bytes());
        assert_eq!(seen[28..], *payload);
    }
}

/// One balancer in front of another: the second knows the first one's clients apart.
fn what_one_tells_another_believes(engine: &str) {
    let (folder, second_folder) = (Folder::new(), Folder::new());
    let keys = ", proxy_in: {trusted: [127.0.0.1]}, deny: [127.0.0.3]";
    let second = start(engine, &second_folder, keys, "", echo());
    let proxy_out = ", proxy_out: {version: v2, checksum: true}";
    let first = start(engine, &folder, "", proxy_out, second.listener("u"));
    let front = first.listener("u");
    let clients: Vec<_> = [[127, 0, 0, 1], [127, 0, 0, 2]]
        .map(|ip| client_from(ip, front))
        .into();
    for round in 0..3 {
        for (number, client) in clients.iter().enumerate() {
            let question = format!("{round} {number}");
            assert_eq!(ask(client, question.as_bytes()), question.as_bytes());
        }
    }
    client_from([127, 0, 0, 3], front).send(b"x").unwrap();
    wait_until("the refusal", || refused(&second, "denied") == 1.0);
    assert_eq!(
        second.metric("lb_client_connections_total{listener=\"u\"}"),
        2.0
    );
    // Two clients by way of one socket.
    let proxy = client(second.listener("u"));
    for port in [1, 2] {
        let told = header([192, 0, 2, 7], port);
        assert_eq!(ask(&proxy, &[&told[..], b"told"].concat()), b"told");
    }
    assert_eq!(
        second.metric("lb_client_connections_total{listener=\"u\"}"),
        4.0
    );
    // A client whose proxy has another address now.
    let other = client(second.listener("u"));
    let told = header([192, 0, 2, 7], 1);
    assert_eq!(ask(&other, &[&told[..], b"again"].concat()), b"again");
}

fn headers_of_strangers_and_other_bytes_are_dropped(engine: &str) {
    let folder = Folder::new();
    let keys = ", proxy_in: {trusted: [127.0.0.2]}";
    let lb = start(engine, &folder, keys, "", echo());
    let front = lb.listener("u");
    let told = [&header([192, 0, 2, 7], 1)[..], b"x"].concat();
    is_refused(&lb, &client(front), &told, "untrusted");
    let proxy = client_from([127, 0, 0, 2], front);
    is_refused(&lb, &proxy, b"no header", "proxy");
    is_refused(
        &lb,
        &proxy,
        b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\nx",
        "proxy",
    );
    assert_eq!(ask(&proxy, &told), b"x");
}

/// CRC-32C, bit by bit (RFC 9260 appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    let next = |crc: u32, byte: &u8| {
        let shift = |crc: u32, _| (crc >> 1) ^ (0x82F6_3B78 * (crc & 1));
        (0..8).fold(crc ^ u32::from(*byte), shift)
    };
    !bytes.iter().fold(u32::MAX, next)
}

fn a_checksum_that_is_wrong_is_noticed(engine: &str) {
    let folder = Folder::new();
    let lb = start(
        engine,
        &folder,
        ", proxy_in: {trusted: [127.0.0.1]}",
        "",
        echo(),
    );
    let client = client(lb.listener("u"));
    let mut told = header([192, 0, 2, 7], 1);
    told[15] += 7;
    told.extend([3, 0, 4, 0, 0, 0, 0]); // PP2_TYPE_CRC32C, counted as zero
    let sum = crc32c(&told).to_be_bytes();
    let with_sum = |sum: [u8; 4], payload: &[u8]| [&told[..31], &sum, payload].concat();
    assert_eq!(ask(&client, &with_sum(sum, b"right")), b"right");
    let wrong = with_sum([sum[0] ^ 1, sum[1], sum[2], sum[3]], b"wrong");
    is_refused(&lb, &client, &wrong, "proxy");
    assert_eq!(ask(&client, &with_sum(sum, b"again")), b"again");
}
