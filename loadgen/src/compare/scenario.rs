//! What is done to a balancer: the scenarios by name.
//!
//! Invariant: a scenario is the same for every peer, and says in its description everything
//! that a reader must know of it. `peers` starts the balancers, `load` makes the traffic.

use crate::report::record::Work;

/// One thing to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// gRPC calls, by HTTP/2 on both sides.
    GrpcUnary,
    /// Requests over HTTP/2, answered by origins that speak it, too.
    H2cToH2c,
    /// Requests over HTTP/2, answered by origins that speak HTTP/1.1.
    H2cToHttp1,
    /// Idle connections that have had one HTTP request answered.
    IdleMemoryHttp,
    /// Idle TCP sessions that have had one message echoed.
    IdleMemoryTcp,
    /// Idle connections over TLS that have had one HTTP request answered.
    IdleMemoryTls,
    /// Long responses through a TCP relay.
    L4Bulk,
    /// One short message on each connection through a TCP relay.
    L4Connect,
    /// Short messages through a TCP relay.
    L4Small,
    /// Short requests on lasting connections, each leaving a line in a file.
    L7AccessLog,
    /// Responses of 1 MiB.
    L7Body1Mib,
    /// Responses of 64 MiB.
    L7Body64Mib,
    /// Short requests on lasting connections.
    L7Keepalive,
    /// Short requests, each on a connection of its own.
    L7NewConnections,
    /// Responses of 1 MiB over TLS.
    TlsBulk,
    /// Whole handshakes.
    TlsHandshakeFull,
    /// Handshakes that resume a session.
    TlsHandshakeResumed,
    /// Short requests on lasting connections over TLS.
    TlsKeepaliveSmall,
    /// Short datagrams, there and back.
    UdpEcho,
    /// Long datagrams in one direction, each sent by itself.
    UdpOneWay,
    /// The same, sent eight at a time as QUIC does.
    UdpOneWayGso,
    /// Messages of WebSockets.
    WsEcho,
    /// Lasting connections over two workers.
    Workers,
}

/// All that is to be known of a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// On the command line and in reports.
    pub name: &'static str,
    /// What happens in it.
    pub description: &'static str,
    /// What the balancer does.
    pub mode: Mode,
    /// What client and origins speak.
    pub speech: Speech,
    /// What clients and balancer make of their connections.
    pub secure: Secure,
    /// What the balancer speaks with origins: HTTP/2, or HTTP/1.1.
    pub http2_to_origins: bool,
    /// Whether the balancer writes a line for each request.
    pub access_log: bool,
    /// Workers of the balancer.
    pub workers: usize,
    /// What costs are given for.
    pub work: Work,
    /// The length of an answer's body, of a message, or of a datagram.
    pub answer_bytes: usize,
    /// What is measured.
    pub subject: Subject,
}

/// Whether the balancer looks into what it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It proxies requests.
    Http,
    /// It relays bytes.
    Tcp,
    /// It forwards datagrams.
    Udp,
}

/// Whether clients come over TLS 1.3, with the same suite (AES-128-GCM), key exchange (X25519)
/// and certificate (ECDSA on P-256) for every balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secure {
    /// They do not.
    No,
    /// They do, and each connection makes a whole handshake.
    Full,
    /// They do, and each connection resumes a session where it can.
    Resumed,
}

/// What client and origins speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speech {
    /// Each message comes back as it was.
    Echo,
    /// Each gRPC call has one message, which comes back.
    Grpc,
    /// Each request gets a response.
    Http,
    /// The same over HTTP/2.
    Http2,
    /// Each line is answered by so many bytes.
    Stream,
    /// Each datagram comes back as it was.
    DatagramEcho,
    /// Each message of a WebSocket comes back.
    WebSocket,
    /// Datagrams are counted where they arrive; so many are sent at a time.
    DatagramStream {
        /// Datagrams handed to the kernel by one call.
        at_a_time: usize,
    },
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// CPU time, throughput and latency under load.
    Load(Traffic),
    /// Memory of connections on which nothing happens.
    IdleMemory,
    /// How connections are spread over workers.
    Spread,
}

/// Traffic for the generator to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// Connections at a time.
    pub connections: usize,
    /// Requests that each has under way.
    pub streams: usize,
    /// Whether each request has a connection of its own.
    pub new_connections: bool,
    /// Whether latency is measured too, at a fixed rate.
    pub fixed_rate: bool,
}

impl Scenario {
    /// All of them, in the order of a report.
    pub const ALL: [Self; 23] = [
        Self::L7Keepalive,
        Self::L4Small,
        Self::L4Bulk,
        Self::L4Connect,
        Self::UdpEcho,
        Self::UdpOneWay,
        Self::UdpOneWayGso,
        Self::L7NewConnections,
        Self::L7AccessLog,
        Self::L7Body1Mib,
        Self::L7Body64Mib,
        Self::TlsKeepaliveSmall,
        Self::TlsHandshakeFull,
        Self::TlsHandshakeResumed,
        Self::TlsBulk,
        Self::H2cToHttp1,
        Self::H2cToH2c,
        Self::GrpcUnary,
        Self::WsEcho,
        Self::IdleMemoryHttp,
        Self::IdleMemoryTls,
        Self::IdleMemoryTcp,
        Self::Workers,
    ];

    /// Names that stand for another: what they measure is a part of it.
    const ALIASES: [(&'static str, Self); 2] =
        [("l4-idle", Self::IdleMemoryTcp), ("l4-open", Self::L4Small)];

    /// Those that `name` stands for: one, a family (`h2c`, `l4`, `l7`, `tls`, `udp`, `idle-memory`), or
    /// `all`.
    ///
    /// # Errors
    /// When there are none; the text names those there are.
    pub fn parse(name: &str) -> Result<Vec<Self>, String> {
        let is_alias = |scenario: Self| {
            let mut aliases = Self::ALIASES.iter();
            aliases.any(|(alias, meant)| *alias == name && *meant == scenario)
        };
        let chosen = |scenario: &Self| {
            let rest = scenario.name().strip_prefix(name);
            name == "all"
                || is_alias(*scenario)
                || rest.is_some_and(|rest| {
                    let is_family = FAMILIES.contains(&name) && rest.starts_with('-');
                    rest.is_empty() || is_family
                })
        };
        let found: Vec<Self> = Self::ALL.into_iter().filter(chosen).collect();
        if found.is_empty() {
            let names = Self::ALL.map(Self::name).join(", ");
            let aliases = Self::ALIASES.map(|(alias, _)| alias).join(", ");
            return Err(format!(
                "there is no scenario {name:?}; there are all, {}, {names}, {aliases}",
                FAMILIES.join(", ")
            ));
        }
        Ok(found)
    }

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        self.spec().name
    }

    /// All that is to be known of it.
    pub fn spec(self) -> Spec {
        match self {
            Self::L4Bulk | Self::L4Connect | Self::L4Small | Self::Workers => self.relayed(),
            Self::UdpEcho | Self::UdpOneWay | Self::UdpOneWayGso => self.forwarded(),
            Self::IdleMemoryHttp | Self::IdleMemoryTcp | Self::IdleMemoryTls => self.idle(),
            Self::GrpcUnary | Self::H2cToH2c | Self::H2cToHttp1 | Self::WsEcho => self.framed(),
            Self::TlsBulk
            | Self::TlsHandshakeFull
            | Self::TlsHandshakeResumed
            | Self::TlsKeepaliveSmall => self.secured(),
            Self::L7AccessLog
            | Self::L7Body1Mib
            | Self::L7Body64Mib
            | Self::L7Keepalive
            | Self::L7NewConnections => self.proxied(),
        }
    }

    /// Those of the HTTP proxy.
    fn proxied(self) -> Spec {
        match self {
            Self::L7AccessLog => Spec {
                name: "l7-access-log",
                description: "As l7-keepalive, but every program writes a line for each request \
                              to a file, in its usual format.",
                access_log: true,
                subject: load(64),
                ..HTTP
            },
            Self::L7Body1Mib => Spec {
                name: "l7-body-1mib",
                description: "HTTP/1.1 proxy; 16 lasting connections, each asking for one answer \
                              of 1 MiB after the other; nothing is buffered on disk.",
                work: Work::Mebibyte,
                answer_bytes: MEBIBYTE,
                subject: load(16),
                ..HTTP
            },
            Self::L7Body64Mib => Spec {
                name: "l7-body-64mib",
                description: "As l7-body-1mib, with 8 connections and answers of 64 MiB.",
                work: Work::Mebibyte,
                answer_bytes: 64 * MEBIBYTE,
                subject: load(8),
                ..HTTP
            },
            Self::L7NewConnections => Spec {
                name: "l7-new-connections",
                description: "HTTP/1.1 proxy; 64 clients, a new connection for each request; \
                              bodies of 64 bytes; connections to the origins are kept.",
                subject: Subject::Load(Traffic {
                    new_connections: true,
                    ..lasting(64)
                }),
                ..HTTP
            },
            _ => HTTP,
        }
    }

    /// Those of the HTTP proxy that carry frames.
    fn framed(self) -> Spec {
        let to_http1 = Spec {
            name: "h2c-to-http1",
            description: "HTTP/2 proxy without TLS; 16 lasting connections, each with 16 requests \
                          under way; bodies of 64 bytes; HTTP/1.1 to the origins, connections \
                          kept.",
            speech: Speech::Http2,
            subject: Subject::Load(Traffic {
                streams: 16,
                fixed_rate: false,
                ..lasting(16)
            }),
            ..HTTP
        };
        match self {
            Self::WsEcho => Spec {
                name: "ws-echo",
                description: "HTTP/1.1 proxy; 64 WebSockets, each sending 64 bytes when the last \
                              64 have come back.",
                speech: Speech::WebSocket,
                work: Work::Message,
                subject: load(64),
                ..HTTP
            },
            Self::H2cToH2c => Spec {
                name: "h2c-to-h2c",
                description: "As h2c-to-http1, but HTTP/2 to the origins, too.",
                http2_to_origins: true,
                ..to_http1
            },
            Self::GrpcUnary => Spec {
                name: "grpc-unary",
                description: "As h2c-to-h2c, but each request is a unary gRPC call with a message \
                              of 64 bytes, which comes back, and trailers.",
                speech: Speech::Grpc,
                http2_to_origins: true,
                ..to_http1
            },
            _ => to_http1,
        }
    }

    /// Those of the HTTP proxy that speaks TLS with its clients.
    fn secured(self) -> Spec {
        let handshake = Spec {
            secure: Secure::Full,
            work: Work::Handshake,
            subject: Subject::Load(Traffic {
                new_connections: true,
                fixed_rate: false,
                ..lasting(32)
            }),
            ..HTTP
        };
        match self {
            Self::TlsHandshakeFull => Spec {
                name: "tls-handshake-full",
                description: "HTTPS proxy, TLS 1.3, ECDSA on P-256, X25519, AES-128-GCM; 32 \
                              clients, each opening a connection with a whole handshake, having \
                              one request answered, and closing it.",
                ..handshake
            },
            Self::TlsHandshakeResumed => Spec {
                name: "tls-handshake-resumed",
                description: "As tls-handshake-full, but each handshake resumes a session by a \
                              ticket and a key exchange (psk_dhe_ke).",
                secure: Secure::Resumed,
                ..handshake
            },
            Self::TlsBulk => Spec {
                name: "tls-bulk",
                description: "HTTPS proxy, TLS 1.3, AES-128-GCM; 16 lasting connections, each \
                              asking for one answer of 1 MiB after the other.",
                secure: Secure::Full,
                work: Work::Mebibyte,
                answer_bytes: MEBIBYTE,
                subject: load(16),
                ..HTTP
            },
            _ => Spec {
                name: "tls-keepalive-small",
                description: "HTTPS proxy, TLS 1.3, AES-128-GCM; 64 lasting connections, each \
                              sending its next request when the last is answered; bodies of 64 \
                              bytes; connections to the origins are kept, and in the clear.",
                secure: Secure::Full,
                ..HTTP
            },
        }
    }

    /// Those of connections on which nothing happens.
    fn idle(self) -> Spec {
        let http = Spec {
            name: "idle-memory-http",
            description: "HTTP proxy; connections that have each had one request answered and \
                          then wait.",
            work: Work::Connection,
            subject: Subject::IdleMemory,
            ..HTTP
        };
        match self {
            Self::IdleMemoryTcp => Spec {
                name: "idle-memory-tcp",
                description: "TCP relay; sessions that have each had one 64-byte message echoed \
                              and then wait.",
                mode: Mode::Tcp,
                speech: Speech::Echo,
                ..http
            },
            Self::IdleMemoryTls => Spec {
                name: "idle-memory-tls",
                description: "HTTPS proxy, TLS 1.3; connections that have each had one request \
                              answered and then wait.",
                secure: Secure::Full,
                ..http
            },
            _ => http,
        }
    }

    /// Those of the TCP relay.
    fn relayed(self) -> Spec {
        match self {
            Self::L4Bulk => Spec {
                name: "l4-bulk",
                description: "TCP relay; 8 connections, each asking for one answer of 64 MiB \
                              after the other.",
                speech: Speech::Stream,
                work: Work::Mebibyte,
                answer_bytes: 64 * MEBIBYTE,
                subject: load(8),
                ..TCP
            },
            Self::L4Connect => Spec {
                name: "l4-connect",
                description: "TCP relay; 64 clients, each opening a connection, having one \
                              64-byte message echoed, and closing it.",
                work: Work::Connection,
                subject: Subject::Load(Traffic {
                    new_connections: true,
                    fixed_rate: false,
                    ..lasting(64)
                }),
                ..TCP
            },
            Self::Workers => Spec {
                name: "workers",
                description: "TCP relay with two workers; 1,000 connections that have each had \
                              one message echoed and stay open.",
                workers: 2,
                work: Work::Connection,
                subject: Subject::Spread,
                ..TCP
            },
            _ => TCP,
        }
    }

    /// Those of the UDP forwarder.
    fn forwarded(self) -> Spec {
        let one_way = Spec {
            name: "udp-oneway",
            description: "UDP forwarder; 4 clients sending datagrams of 1,200 bytes to a sink, \
                          each by a call of its own; the sink acknowledges every eighth, and a \
                          client has at most 16 under way.",
            speech: Speech::DatagramStream { at_a_time: 1 },
            answer_bytes: 1200,
            subject: load(4),
            ..UDP
        };
        match self {
            Self::UdpOneWay => one_way,
            Self::UdpOneWayGso => Spec {
                name: "udp-oneway-gso",
                description: "As udp-oneway, but the clients hand eight datagrams at a time to \
                              the kernel (UDP_SEGMENT), as senders of QUIC do; a forwarder that \
                              takes them in as one (UDP_GRO) may pass them on as one.",
                speech: Speech::DatagramStream { at_a_time: 8 },
                ..one_way
            },
            _ => UDP,
        }
    }
}

impl Spec {
    /// Units of work in one answer.
    pub fn work_per_answer(&self) -> f64 {
        match self.work {
            Work::Mebibyte => self.answer_bytes as f64 / MEBIBYTE as f64,
            _ => 1.0,
        }
    }
}

const MEBIBYTE: usize = 1024 * 1024;

/// What most scenarios of the HTTP proxy are.
const HTTP: Spec = Spec {
    name: "l7-keepalive",
    description: "HTTP/1.1 proxy; 64 lasting connections, each sending its next request when the \
                  last is answered; bodies of 64 bytes; connections to the origins are kept.",
    mode: Mode::Http,
    speech: Speech::Http,
    secure: Secure::No,
    http2_to_origins: false,
    access_log: false,
    workers: 1,
    work: Work::Request,
    answer_bytes: 64,
    subject: load_and_latency(64),
};

/// What most scenarios of the TCP relay are.
const TCP: Spec = Spec {
    name: "l4-small",
    description: "TCP relay; 64 connections, each sending 64 bytes when the last 64 have come \
                  back.",
    mode: Mode::Tcp,
    speech: Speech::Echo,
    work: Work::Message,
    ..HTTP
};

/// What most scenarios of the UDP forwarder are.
const UDP: Spec = Spec {
    name: "udp-echo",
    description: "UDP forwarder; 128 clients, each sending a datagram of 64 bytes when its last \
                  has come back.",
    mode: Mode::Udp,
    speech: Speech::DatagramEcho,
    work: Work::Datagram,
    subject: load_and_latency(128),
    ..HTTP
};

/// As much as lasting connections can ask for.
const fn load(connections: usize) -> Subject {
    Subject::Load(Traffic {
        fixed_rate: false,
        ..lasting(connections)
    })
}

/// The same, and latency at a rate below.
const fn load_and_latency(connections: usize) -> Subject {
    Subject::Load(lasting(connections))
}

/// Lasting connections, latency and all.
const fn lasting(connections: usize) -> Traffic {
    Traffic {
        connections,
        streams: 1,
        new_connections: false,
        fixed_rate: true,
    }
}

/// Beginnings of names that stand for all that begin so.
const FAMILIES: [&str; 6] = ["h2c", "l4", "l7", "tls", "udp", "idle-memory"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_for_one_two_or_all() {
        for scenario in Scenario::ALL {
            assert_eq!(Scenario::parse(scenario.name()), Ok(vec![scenario]));
        }
        let idle = vec![
            Scenario::IdleMemoryHttp,
            Scenario::IdleMemoryTls,
            Scenario::IdleMemoryTcp,
        ];
        assert_eq!(Scenario::parse("idle-memory"), Ok(idle));
        assert_eq!(Scenario::parse("all"), Ok(Scenario::ALL.to_vec()));
        let udp = vec![
            Scenario::UdpEcho,
            Scenario::UdpOneWay,
            Scenario::UdpOneWayGso,
        ];
        assert_eq!(Scenario::parse("udp"), Ok(udp));
        assert_eq!(Scenario::parse("l4-open"), Ok(vec![Scenario::L4Small]));
        for bad in ["", "l", "l4-", "udp-one", "workers-"] {
            let error = Scenario::parse(bad).unwrap_err();
            assert!(
                error.contains("l4-small") && error.contains("l4-open"),
                "{error}"
            );
        }
    }
}
