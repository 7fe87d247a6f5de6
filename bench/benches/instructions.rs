//! Instructions of the hot pieces, counted by callgrind: the same on every run, where time on a
//! shared machine is not.
//!
//! `cargo bench -p bench --bench instructions` runs this program below valgrind, each piece a few
//! and many times; the difference is the piece's own. With `--test` each piece runs once, without
//! valgrind. Instructions are not time: a cache miss is one, too. Read next: `http1.rs`.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot begin ends with a panic"
)]

use std::env;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use lb_core::balance::affinity::{AddressMask, AffinityTable, SlotId, Slots, Tick, Timeout};
use lb_core::balance::{Choice, Cluster, Context, Tried};
use lb_core::plan::{self, Balance, Forwarded, HostMatching, RequestId, Route};
use lb_core::rt::{Buffer, Instant};
use lb_l7::http1::request::{Client, RequestRules, parse_request, rewrite_request};
use lb_l7::http1::response::{ResponseRules, parse_response};
use lb_l7::http2::hpack::{Decoder, Encoder};
use lb_l7::route::RouteTable;

/// Runs whose difference counts: both are warm, and so is what the first ones build.
const FEW: u64 = 100;
const MANY: u64 = 1_100;

const REQUEST: &[u8] = b"GET /items/42 HTTP/1.1\r\n\
    Host: shop-500.example\r\n\
    User-Agent: curl/8.14.1\r\n\
    Accept: */*\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Date: Tue, 15 Nov 1994 08:12:31 GMT\r\n\
    Content-Type: application/json\r\n\
    Content-Length: 64\r\n\r\n";
/// Of a request over HTTP/2.
const FIELDS: [(&[u8], &[u8]); 7] = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"shop-500.example"),
    (b":path", b"/items/42"),
    (b"user-agent", b"curl/8.14.1"),
    (b"accept", b"*/*"),
    (b"cookie", b"session=6f1ed002ab5595859014ebf0951522d9"),
];

/// A piece: its name, and what does it so many times.
type Piece = (&'static str, fn(u64));

const PIECES: [Piece; 8] = [
    ("head: parse a request", parse_requests),
    ("head: rewrite a request", rewrite_requests),
    ("head: parse a response", parse_responses),
    ("route: of 1,000 hosts", find_routes),
    ("pick: maglev, 100 backends", pick_backends),
    ("affinity: look up a client", look_up_clients),
    ("hpack: decode a request", decode_fields),
    ("hpack: encode a request", encode_fields),
];

fn main() {
    let words: Vec<String> = env::args().skip(1).collect();
    if let Some(place) = words.iter().position(|word| word == "--piece") {
        let number = |at: usize| words[place + at].parse::<u64>().unwrap();
        return PIECES[number(1) as usize].1(number(2));
    }
    let is_test = words.iter().any(|word| word == "--test");
    let wanted = words.iter().find(|word| !word.starts_with("--"));
    for (number, (name, piece)) in PIECES.iter().enumerate() {
        if wanted.is_some_and(|wanted| !name.contains(&**wanted)) {
            continue;
        }
        if is_test {
            piece(1);
            println!("{name}: runs");
            continue;
        }
        match (collected(number, FEW), collected(number, MANY)) {
            (Ok(few), Ok(many)) => {
                let each = (many - few) as f64 / (MANY - FEW) as f64;
                println!("{name:<30} {each:>8.1} instructions");
            }
            (Err(reason), _) | (_, Err(reason)) => {
                println!("instructions are not counted: {reason}");
                return;
            }
        }
    }
}

/// The instructions of this program when it does a piece so many times.
fn collected(number: usize, times: u64) -> Result<u64, String> {
    let own = env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(own)
        .args(["--piece", &number.to_string(), &times.to_string()])
        .output()
        .map_err(|error| format!("valgrind: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let count = said.lines().find_map(|line| {
        let (_, count) = line.split_once("Collected : ")?;
        count.split_whitespace().next()?.parse().ok()
    });
    count.ok_or_else(|| format!("valgrind: {}, {said}", output.status))
}

fn request_rules() -> RequestRules {
    RequestRules {
        head_bytes_max: 15 * 1024,
        headers_max: 100,
        forwarded: Forwarded::Append,
        request_id: RequestId::Off,
    }
}

fn parse_requests(times: u64) {
    let rules = request_rules();
    for _ in 0..times {
        let _ = black_box(parse_request(black_box(REQUEST), &rules));
    }
}

fn rewrite_requests(times: u64) {
    let rules = request_rules();
    let client = Client {
        address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 77)),
        scheme: "http",
        local: None,
        request_id: None,
        certificate: b"",
    };
    let head = parse_request(REQUEST, &rules).unwrap().unwrap();
    let mut out = Buffer::new();
    for _ in 0..times {
        out.clear();
        let _ = rewrite_request(black_box(REQUEST), &head, &rules, &client, None, &mut out);
        black_box(&out);
    }
}

fn parse_responses(times: u64) {
    let rules = ResponseRules {
        head_bytes_max: 15 * 1024,
        answers_head: false,
    };
    for _ in 0..times {
        let _ = black_box(parse_response(black_box(RESPONSE), &rules));
    }
}

fn find_routes(times: u64) {
    let mut routes = vec![Route::to(None, "/", "a")];
    for number in 0..1_000 {
        let host = format!("shop-{number}.example");
        let paths = ["/", "/api", "/api/orders", "/static"];
        routes.extend(paths.map(|path| Route::to(Some(&host), path, "a")));
    }
    let table = RouteTable::build(&routes, HostMatching::FallThrough).unwrap();
    for _ in 0..times {
        black_box(table.find(black_box(b"shop-500.example"), black_box(b"/api/orders/7")));
    }
}

fn pick_backends(times: u64) {
    let backends = backends(100).into_iter().map(plan::Backend::from);
    let plan = plan::Cluster {
        balance: Balance::Maglev,
        ..plan::Cluster::new("bench", backends.collect())
    };
    let cluster = Cluster::build(&plan, &Context::new(7, 2), None);
    for client in 0..times {
        let client = SocketAddr::from((address(client), 40_000));
        let tried = Tried::default();
        let choice = Choice::new(0, Instant::START, client, &tried);
        black_box(cluster.pick(&choice).map(|lease| lease.backend().index));
    }
}

fn look_up_clients(times: u64) {
    const CLIENTS: u64 = 1_000;
    let duration = Duration::from_secs(10_800);
    let (now, timeout) = (Instant::START + duration, Timeout::new(duration));
    let table = AffinityTable::new(10_000, [1; 16]);
    let slots = Slots::build(None, &table, &backends(100), timeout, now);
    let valid = |id: SlotId| slots.position_of(id).is_some();
    let key = |client: u64| {
        let address = IpAddr::V4(address(client % CLIENTS));
        slots.scope().key_of_address(address, AddressMask::WHOLE)
    };
    for client in 0..CLIENTS {
        let id = slots.id_of((client % 100) as u16).unwrap();
        table.insert(key(client), id, Tick::of(now), timeout, valid);
    }
    for client in 0..times {
        black_box(table.get(key(client), Tick::of(now), timeout, valid));
    }
}

fn decode_fields(times: u64) {
    let (mut encoder, mut decoder) = (Encoder::new(true), Decoder::new());
    // After some blocks of the same fields the tables hold what they can.
    let mut block = Vec::new();
    for _ in 0..4 {
        block.clear();
        encode(&mut encoder, &mut block);
        decoder.decode(&block, |_| ()).unwrap();
    }
    for _ in 0..times {
        let decoded = decoder.decode(black_box(&block), |field| {
            black_box(field);
        });
        decoded.unwrap();
    }
}

fn encode_fields(times: u64) {
    let mut encoder = Encoder::new(true);
    let mut block = Vec::new();
    for _ in 0..times {
        block.clear();
        encode(&mut encoder, &mut block);
        black_box(&block);
    }
}

fn encode(encoder: &mut Encoder, block: &mut Vec<u8>) {
    encoder.begin(block);
    for (name, value) in FIELDS {
        encoder.field(black_box(name), black_box(value), block);
    }
}

/// The address of a client; neighbours in number are far apart.
fn address(client: u64) -> Ipv4Addr {
    Ipv4Addr::from_bits((client as u32).wrapping_mul(0x9E37_79B9))
}

fn backends(count: u16) -> Vec<SocketAddr> {
    let address = |number| SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), number));
    (1..=count).map(address).collect()
}
