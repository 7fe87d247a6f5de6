//! What an HTTP/1.1 exchange costs besides its sockets: heads parsed and rewritten, chunk sizes
//! read.
//!
//! Guards the promise of lean user code, under 1 µs a request: the sum of `request` and `response`
//! is, with the look-up in `routes.rs`, most of what one keep-alive exchange computes.
//! Read next: `balance.rs`.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot begin ends with a panic"
)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use criterion::{Criterion, Throughput};
use lb_core::plan::Forwarded;
use lb_core::rt::Buffer;
use lb_l7::http1::chunked::Chunked;
use lb_l7::http1::request::{Client, RequestRules, parse_request, rewrite_request};
use lb_l7::http1::response::{
    ClientConnection, ResponseRules, Transfer, parse_response, rewrite_response,
};

/// What a service calls another with.
const SMALL_REQUEST: &[u8] = b"GET /items/42 HTTP/1.1\r\n\
    Host: shop.example\r\n\
    User-Agent: curl/8.14.1\r\n\
    Accept: */*\r\n\r\n";

/// What a browser sends.
const BROWSER_REQUEST: &[u8] = b"GET /catalogue/shoes?size=42&colour=blue HTTP/1.1\r\n\
    Host: www.shop.example\r\n\
    Connection: keep-alive\r\n\
    sec-ch-ua: \"Chromium\";v=\"140\", \"Not=A?Brand\";v=\"24\"\r\n\
    sec-ch-ua-mobile: ?0\r\n\
    sec-ch-ua-platform: \"Linux\"\r\n\
    Upgrade-Insecure-Requests: 1\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Sec-Fetch-Site: same-origin\r\n\
    Sec-Fetch-Mode: navigate\r\n\
    Sec-Fetch-Dest: document\r\n\
    Referer: https://www.shop.example/catalogue\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
    Cookie: session=6f1ed002ab5595859014ebf0951522d9; consent=1; theme=dark\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Date: Tue, 15 Nov 1994 08:12:31 GMT\r\n\
    Content-Type: application/json\r\n\
    Content-Length: 64\r\n\
    Cache-Control: no-store\r\n\r\n";

const HEAD_BYTES_MAX: usize = 15 * 1024;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    request(&mut criterion);
    response(&mut criterion);
    chunked(&mut criterion);
    criterion.final_summary();
}

fn request(criterion: &mut Criterion) {
    let rules = RequestRules {
        head_bytes_max: HEAD_BYTES_MAX,
        headers_max: 100,
        forwarded: Forwarded::Append,
        request_id: lb_core::plan::RequestId::Off,
    };
    let client = Client {
        address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 77)),
        scheme: "http",
        local: None,
        request_id: None,
        certificate: b"",
    };
    let mut group = criterion.benchmark_group("request");
    for (name, bytes) in [("small", SMALL_REQUEST), ("browser", BROWSER_REQUEST)] {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(format!("parse, {name}"), |bencher| {
            bencher.iter(|| parse_request(black_box(bytes), &rules));
        });
        let head = parse_request(bytes, &rules).unwrap().unwrap();
        let mut out = Buffer::new();
        group.bench_function(format!("rewrite, {name}"), |bencher| {
            bencher.iter(|| {
                out.clear();
                rewrite_request(black_box(bytes), &head, &rules, &client, None, &mut out)
            });
        });
    }
    group.finish();
}

fn response(criterion: &mut Criterion) {
    let rules = ResponseRules {
        head_bytes_max: HEAD_BYTES_MAX,
        answers_head: false,
    };
    let mut group = criterion.benchmark_group("response");
    group.throughput(Throughput::Bytes(RESPONSE.len() as u64));
    group.bench_function("parse", |bencher| {
        bencher.iter(|| parse_response(black_box(RESPONSE), &rules));
    });
    let head = parse_response(RESPONSE, &rules).unwrap().unwrap();
    let (connection, transfer) = (ClientConnection::Keep, Transfer::AsIs);
    let mut out = Buffer::new();
    group.bench_function("rewrite", |bencher| {
        bencher.iter(|| {
            out.clear();
            rewrite_response(
                black_box(RESPONSE),
                &head,
                connection,
                transfer,
                b"",
                &mut out,
            )
        });
    });
    group.finish();
}

/// A received buffer full of chunks: of 1 KiB, as servers make them, and of 1 byte, as an
/// attacker would.
fn chunked(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("chunked");
    for data_bytes in [1024, 1] {
        let chunk = format!("{data_bytes:x}\r\n{}\r\n", "x".repeat(data_bytes));
        let body = chunk.repeat(Buffer::CAPACITY / chunk.len());
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(format!("chunks of {data_bytes} bytes"), |bencher| {
            bencher.iter(|| Chunked::new(u64::MAX).scan(black_box(body.as_bytes())));
        });
    }
    group.finish();
}
