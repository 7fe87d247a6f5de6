//! TLS routed by server name and protocol: between curl and nginx, and hellos cut to pieces.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};

use crate::harness::{DEADLINE, Folder, Lb, on_both_engines, skip};
use crate::others::Other;

on_both_engines!(
    names_and_protocols_lead_to_their_servers,
    hellos_in_many_records_reach_their_backend_as_they_came,
);

/// Three TLS servers that answer with their names.
fn servers() -> Option<Other> {
    Other::nginx(3, |folder, ports| {
        let (key, certificate) = (folder.path("key.pem"), folder.path("certificate.pem"));
        let openssl = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ])
            .args([
                "-nodes",
                "-subj",
                "/CN=test",
                "-keyout",
                &key,
                "-out",
                &certificate,
            ])
            .output();
        assert!(openssl.unwrap().status.success(), "a certificate");
        let server = |(port, name): (&u16, &str)| {
            format!(
                "server {{ listen 127.0.0.1:{port} ssl http2; ssl_certificate {certificate}; \
                 ssl_certificate_key {key}; location / {{ return 200 \"{name}\"; }} }}\n"
            )
        };
        ports
            .iter()
            .zip(["shop", "wild", "rest"])
            .map(server)
            .collect()
    })
}

/// Asks for `name` at `address`, by HTTP/1.1 or HTTP/2.
fn curl(address: SocketAddr, name: &str, http: &str) -> Output {
    let port = address.port();
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--insecure",
        "--max-time",
        "30",
        "--noproxy",
        "*",
    ]);
    curl.args(["--resolve", &format!("{name}:{port}:127.0.0.1"), http]);
    curl.arg(format!("https://{name}:{port}/"))
        .output()
        .unwrap()
}

fn names_and_protocols_lead_to_their_servers(engine: &str) {
    if Command::new("curl").arg("--version").output().is_err()
        || Command::new("openssl").arg("version").output().is_err()
    {
        return skip("curl or openssl not installed");
    }
    let Some(servers) = servers() else { return };
    let [shop, wild, rest] = servers.addresses[..] else {
        unreachable!("three were asked for")
    };
    let text = |output: Output| String::from_utf8(output.stdout).unwrap();

    let sni = [format!("shop.example={shop}"), format!("*.example={wild}")];
    let flags = [
        "--tls-passthrough",
        "tls@127.0.0.1:0",
        "--sni",
        &sni[0],
        "--sni",
        &sni[1],
    ];
    let lb = Lb::start(engine, &flags);
    let address = lb.listener("tls");
    assert_eq!(text(curl(address, "shop.example", "--http1.1")), "shop");
    assert_eq!(text(curl(address, "SHOP.example", "--http2")), "shop");
    assert_eq!(text(curl(address, "cart.example", "--http2")), "wild");
    let refused = curl(address, "other.test", "--http1.1");
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("unrecognized name"), "{said}");
    let series = "lb_client_connections_refused_total{listener=\"tls\",reason=\"no_route\"}";
    assert_eq!(lb.metric(series), 1.0);

    let yaml = format!(
        "listeners:\n- name: tls\n  address: 127.0.0.1:0\n  tcp:\n    cluster: rest\n    \
         server_names:\n    - {{name: shop.example, protocols: [h2], cluster: shop}}\n\
         clusters: {{shop: {{backends: ['{shop}']}}, rest: {{backends: ['{rest}']}}}}\n"
    );
    let folder = Folder::new();
    let lb = Lb::start(engine, &["--config", &folder.write("lb.yaml", &yaml)]);
    let address = lb.listener("tls");
    assert_eq!(text(curl(address, "shop.example", "--http2")), "shop");
    assert_eq!(text(curl(address, "shop.example", "--http1.1")), "rest");
    assert_eq!(text(curl(address, "other.test", "--http2")), "rest");
}

/// A ClientHello (RFC 8446 section 4.1.2) that asks for `name`, behind these other extensions, in
/// records of `record_bytes` each.
pub(crate) fn client_hello(name: &[u8], others: &[(u16, &[u8])], record_bytes: usize) -> Vec<u8> {
    let sized = |bytes: &[u8], width: usize| {
        let len = (bytes.len() as u32).to_be_bytes();
        [&len[4 - width..], bytes].concat()
    };
    let extension = |kind: u16, body: &[u8]| [&kind.to_be_bytes()[..], &sized(body, 2)].concat();
    let entry = [&[0][..], &sized(name, 2)].concat();
    let mut extensions: Vec<u8> = others
        .iter()
        .flat_map(|(kind, body)| extension(*kind, body))
        .collect();
    extensions.extend(extension(0, &sized(&entry, 2)));
    let hello = [
        &[3, 3][..],
        &[7; 32],
        &[0],
        &sized(&[0x1A, 0x1A, 0x13, 0x01], 2), // GREASE (RFC 8701) among the suites
        &[1, 0],
        &sized(&extensions, 2),
    ]
    .concat();
    let message = [&[1][..], &sized(&hello, 3)].concat();
    let record = |part: &[u8]| [&[22, 3, 1][..], &sized(part, 2)].concat();
    message.chunks(record_bytes).flat_map(record).collect()
}

fn hellos_in_many_records_reach_their_backend_as_they_came(engine: &str) {
    let backend = TcpListener::bind("127.0.0.1:0").unwrap();
    let sni = format!("shop.example={}", backend.local_addr().unwrap());
    let flags = ["--tls-passthrough", "tls@127.0.0.1:0", "--sni", &sni];
    let lb = Lb::start(engine, &flags);
    // An outer ClientHello (RFC 9849), between two extensions that are to be passed over.
    let others: [(u16, &[u8]); 3] = [(0x0A0A, &[]), (0xFE0D, &[0, 1, 2, 3]), (0xFAFA, &[0])];
    let ask = |hello: &[u8], piece: usize| {
        let mut client = TcpStream::connect(lb.listener("tls")).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        client.set_nodelay(true).unwrap();
        for piece in hello.chunks(piece) {
            client.write_all(piece).unwrap();
        }
        client
    };
    for (record, piece) in [(1, 2), (3, 1), (40, 7), (16_384, 1), (50, 16_384)] {
        let hello = client_hello(b"Shop.EXAMPLE", &others, record);
        let mut client = ask(&hello, piece);
        let (mut server, _) = backend.accept().unwrap();
        server.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut came = vec![0; hello.len()];
        server.read_exact(&mut came).unwrap();
        assert_eq!(came, hello, "records of {record}, pieces of {piece}");
        server.write_all(b"answer").unwrap();
        let mut answer = [0; 6];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"answer");
        let mut client = ask(&client_hello(b"other.test", &others, record), piece);
        let mut told = Vec::new();
        client.read_to_end(&mut told).unwrap();
        assert_eq!(told, [21, 3, 3, 0, 2, 2, 112], "unrecognized_name, fatal");
    }
}
