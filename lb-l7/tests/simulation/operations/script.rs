//! What the bytes of an input mean: first what the network and the proxy are like, then one
//! operation after the other.
//!
//! Invariant: every input is a script, and one byte changed is mostly one operation changed.
//! Read next: `ends.rs` (what operations do).

use std::net::SocketAddr;
use std::time::Duration;

use lb_core::plan::{self, Balance, ClusterExchanges, Exchanges, HttpLimits, HttpTimeouts};
use lb_core::rt::sim::Faults;

use crate::seeds::Weather;

/// Operations of one script.
const OPERATIONS_MAX: usize = 128;

/// What is played.
pub(crate) struct Script {
    pub(crate) seed: u64,
    pub(crate) faults: Faults,
    pub(crate) backends: usize,
    pub(crate) http: plan::Http,
    settings: [u8; 2],
    pub(crate) operations: Vec<Operation>,
}

/// Whose end of a connection; numbers wrap around.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Side {
    Client(u8),
    /// The newest connection of a backend.
    Backend(u8),
}

#[derive(Debug)]
pub(crate) enum Operation {
    /// A client connects.
    Open,
    /// A client has a request to send; it goes with `Send`.
    Ask(u8, Request),
    /// A backend has the response to the first request that it has not answered.
    Answer(u8, Response),
    /// Bytes of the input itself.
    Raw(Side, Vec<u8>),
    /// So many bytes of what is to be sent are.
    Send(Side, usize),
    /// A side ends its direction.
    Finish(Side),
    Close(Side),
    Reset(Side),
    /// A side stops reading, or goes on.
    Read(Side, bool),
    Pause(Duration),
    Yield,
    Drain,
}

/// How a body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    None,
    Length,
    Chunked,
    /// Nothing says where it ends.
    Close,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    pub(crate) method: &'static str,
    pub(crate) framing: Framing,
    pub(crate) body: usize,
    pub(crate) is_http10: bool,
    pub(crate) closes: bool,
    pub(crate) expects: bool,
    pub(crate) upgrades: bool,
    /// Bytes of a field that is there for its length.
    pub(crate) filler: usize,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) framing: Framing,
    pub(crate) body: usize,
    pub(crate) closes: bool,
    /// A head before the head.
    pub(crate) interim: Option<u16>,
    /// Bytes behind the end that nobody asked for.
    pub(crate) extra: bool,
    /// A body less than announced.
    pub(crate) is_short: bool,
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken.to_vec()
    }
}

/// From nothing to what is spliced, and around the sizes at which ways part.
const SIZES: [usize; 16] = [
    0, 1, 2, 17, 17, 300, 300, 2047, 2048, 2049, 4096, 9000, 16_383, 16_385, 30_000, 70_000,
];

const PAUSES: [u64; 8] = [1, 3, 20, 150, 1_000, 5_000, 11_000, 70_000];

impl Script {
    pub(crate) fn read(input: &[u8]) -> Option<Self> {
        let mut input = Input(input);
        let (network, seed) = (input.byte()?, input.byte()?);
        let settings = [input.byte()?, input.byte()?];
        let weather = [
            Weather::Calm,
            Weather::Calm,
            Weather::Sluggish,
            Weather::Rough,
        ];
        let weather = match network & 0x1f {
            0x1f => Weather::Silent,
            it => weather[usize::from(it & 3)],
        };
        let mut operations = Vec::new();
        while operations.len() < OPERATIONS_MAX
            && let Some(operation) = operation(&mut input)
        {
            operations.push(operation);
        }
        Some(Self {
            seed: seed.into(),
            faults: weather.faults(),
            backends: 1 + usize::from(network >> 5) % 3,
            http: http(settings),
            settings,
            operations,
        })
    }

    pub(crate) fn cluster(&self, backends: &[SocketAddr]) -> plan::Cluster {
        let [first, second] = self.settings;
        let has = |byte: u8, bit: u8| byte & 1 << bit != 0;
        let backends = backends.iter().map(|&address| address.into()).collect();
        let limits = ClusterExchanges {
            connections_max: has(first, 4).then_some(1),
            queue_max: 4,
            queue_timeout: Duration::from_secs(2),
            connection_exchanges_max: has(first, 5).then_some(2),
            connection_age_max: has(first, 6).then_some(Duration::from_millis(100)),
            connections_ready: u16::from(has(first, 7)),
            try_timeout: has(second, 4).then_some(Duration::from_secs(3)),
            total_timeout: has(second, 5).then_some(Duration::from_secs(5)),
            retry_budget: None,
        };
        plan::Cluster {
            balance: Balance::RoundRobin,
            exchanges: limits,
            pool_idle_max: if has(second, 6) { 1 } else { 16 },
            pool_idle_timeout: Duration::from_secs(30),
            ..plan::Cluster::new("c", backends)
        }
    }
}

fn http([first, second]: [u8; 2]) -> plan::Http {
    let has = |byte: u8, bit: u8| byte & 1 << bit != 0;
    let exchanges = Exchanges {
        upgrades: !has(first, 0),
        upgrade_idle: Duration::from_secs(60),
        body_rate_min: has(first, 1).then_some(1000),
        request_buffer: [0, 100, 20_000, 200_000][usize::from(first >> 2 & 3)],
        ignore_client_abort: has(second, 2),
    };
    plan::Http {
        default_cluster: Some("c".to_owned()),
        exchanges,
        timeouts: HttpTimeouts {
            body_idle: Duration::from_secs(10),
            response_head: Duration::from_secs(10),
            ..HttpTimeouts::default()
        },
        limits: HttpLimits {
            body_bytes_max: has(second, 0).then_some(10_000),
            requests_per_connection_max: has(second, 1).then_some(3),
            ..HttpLimits::default()
        },
        ..plan::Http::default()
    }
}

fn operation(input: &mut Input<'_>) -> Option<Operation> {
    let code = input.byte()?;
    let (kind, number) = (code & 0x0f, code >> 5);
    let side = if code & 0x10 == 0 {
        Side::Client(number)
    } else {
        Side::Backend(number)
    };
    Some(match kind {
        0 => Operation::Open,
        1 | 2 => Operation::Ask(number, request(input)?),
        3 | 4 => Operation::Answer(number, response(input)?),
        5 => {
            let count = input.byte()?;
            Operation::Raw(side, input.bytes(count.into()))
        }
        6 | 7 => Operation::Send(side, usize::MAX),
        8 => Operation::Send(side, SIZES[usize::from(input.byte()? & 15)].max(1)),
        9 => Operation::Finish(side),
        10 => Operation::Close(side),
        11 => Operation::Reset(side),
        12 => Operation::Read(side, number & 1 == 0),
        13 if code == 0xfd => Operation::Drain,
        13 => Operation::Yield,
        _ => Operation::Pause(Duration::from_millis(PAUSES[usize::from(number)])),
    })
}

fn request(input: &mut Input<'_>) -> Option<Request> {
    let (kind, size, flags) = (input.byte()?, input.byte()?, input.byte()?);
    let methods = [
        "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "GET", "POST",
    ];
    let is_http10 = flags & 1 != 0;
    let framing = match kind >> 3 & 3 {
        0 => Framing::None,
        1 if !is_http10 => Framing::Chunked,
        _ => Framing::Length,
    };
    let body = if framing == Framing::None {
        0
    } else {
        SIZES[usize::from(size & 15)]
    };
    Some(Request {
        method: methods[usize::from(kind & 7)],
        framing,
        body,
        is_http10,
        closes: flags & 2 != 0,
        expects: flags & 0x0c == 0x0c && !is_http10 && body > 0,
        upgrades: flags & 0x30 == 0x30 && !is_http10,
        filler: SIZES[usize::from(size >> 4)].min(20_000),
    })
}

fn response(input: &mut Input<'_>) -> Option<Response> {
    let (kind, size, flags) = (input.byte()?, input.byte()?, input.byte()?);
    let statuses = [200, 200, 200, 500, 204, 304, 101, 200];
    Some(Response {
        status: statuses[usize::from(kind & 7)],
        framing: match kind >> 3 & 3 {
            0 | 1 => Framing::Length,
            2 => Framing::Chunked,
            _ => Framing::Close,
        },
        body: SIZES[usize::from(size & 15)],
        closes: flags & 1 != 0,
        interim: match flags >> 1 & 7 {
            0 => Some(100),
            1 => Some(103),
            _ => None,
        },
        extra: flags & 0x70 == 0x70,
        is_short: flags & 0xe0 == 0xa0,
    })
}
