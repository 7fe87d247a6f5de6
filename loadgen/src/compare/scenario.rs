//! What is done to a balancer: the scenarios by name.
//!
//! Invariant: a scenario is the same for every peer, and says in its description everything
//! that a reader must know of it. `peers` starts the balancers, `load` makes the traffic.

use crate::report::record::Work;

/// One thing to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// Idle connections that have had one HTTP request answered.
    IdleMemoryHttp,
    /// Idle TCP sessions that have had one message echoed.
    IdleMemoryTcp,
    /// Long responses through a TCP relay.
    L4Bulk,
    /// One short message on each connection through a TCP relay.
    L4Connect,
    /// Short messages through a TCP relay.
    L4Small,
    /// Short requests on lasting connections, each leaving a line in a file.
    L7AccessLog,
    /// Short requests on lasting connections.
    L7Keepalive,
    /// Short requests, each on a connection of its own.
    L7NewConnections,
    /// Short datagrams, there and back.
    UdpEcho,
    /// Long datagrams in one direction, each sent by itself.
    UdpOneWay,
    /// The same, sent eight at a time as QUIC does.
    UdpOneWayGso,
    /// Lasting connections over two workers.
    Workers,
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

/// What client and origins speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speech {
    /// Each message comes back as it was.
    Echo,
    /// Each request gets a response.
    Http,
    /// Each line is answered by so many bytes.
    Stream,
    /// Each datagram comes back as it was.
    DatagramEcho,
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
    /// Whether each request has a connection of its own.
    pub new_connections: bool,
    /// Whether latency is measured too, at a fixed rate.
    pub fixed_rate: bool,
}

impl Scenario {
    /// All of them, in the order of a report.
    pub const ALL: [Self; 12] = [
        Self::L7Keepalive,
        Self::L4Small,
        Self::L4Bulk,
        Self::L4Connect,
        Self::UdpEcho,
        Self::UdpOneWay,
        Self::UdpOneWayGso,
        Self::L7NewConnections,
        Self::L7AccessLog,
        Self::IdleMemoryHttp,
        Self::IdleMemoryTcp,
        Self::Workers,
    ];

    /// Names that stand for another: what they measure is a part of it.
    const ALIASES: [(&'static str, Self); 2] =
        [("l4-idle", Self::IdleMemoryTcp), ("l4-open", Self::L4Small)];

    /// Those that `name` stands for: one, a family (`l4`, `l7`, `udp`, `idle-memory`), or `all`.
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
        match self {
            Self::IdleMemoryHttp => "idle-memory-http",
            Self::IdleMemoryTcp => "idle-memory-tcp",
            Self::L4Bulk => "l4-bulk",
            Self::L4Connect => "l4-connect",
            Self::L4Small => "l4-small",
            Self::L7AccessLog => "l7-access-log",
            Self::L7Keepalive => "l7-keepalive",
            Self::L7NewConnections => "l7-new-connections",
            Self::UdpEcho => "udp-echo",
            Self::UdpOneWay => "udp-oneway",
            Self::UdpOneWayGso => "udp-oneway-gso",
            Self::Workers => "workers",
        }
    }

    /// What happens in it.
    pub fn description(self) -> &'static str {
        match self {
            Self::IdleMemoryHttp => {
                "HTTP proxy; connections that have each had one request answered and then wait."
            }
            Self::IdleMemoryTcp => {
                "TCP relay; sessions that have each had one 64-byte message echoed and then wait."
            }
            Self::L4Bulk => {
                "TCP relay; 8 connections, each asking for one answer of 64 MiB after the other."
            }
            Self::L4Connect => {
                "TCP relay; 64 clients, each opening a connection, having one 64-byte message \
                 echoed, and closing it."
            }
            Self::L4Small => {
                "TCP relay; 64 connections, each sending 64 bytes when the last 64 have come back."
            }
            Self::L7AccessLog => {
                "As l7-keepalive, but every program writes a line for each request to a file, in \
                 its usual format."
            }
            Self::L7Keepalive => {
                "HTTP/1.1 proxy; 64 lasting connections, each sending its next request when the \
                 last is answered; bodies of 64 bytes; connections to the origins are kept."
            }
            Self::L7NewConnections => {
                "HTTP/1.1 proxy; 64 clients, a new connection for each request; bodies of 64 \
                 bytes; connections to the origins are kept."
            }
            Self::UdpEcho => {
                "UDP forwarder; 128 clients, each sending a datagram of 64 bytes when its last \
                 has come back."
            }
            Self::UdpOneWay => {
                "UDP forwarder; 4 clients sending datagrams of 1,200 bytes to a sink, each by a \
                 call of its own; the sink acknowledges every eighth, and a client has at most 16 \
                 under way."
            }
            Self::UdpOneWayGso => {
                "As udp-oneway, but the clients hand eight datagrams at a time to the kernel \
                 (UDP_SEGMENT), as senders of QUIC do; a forwarder that takes them in as one \
                 (UDP_GRO) may pass them on as one."
            }
            Self::Workers => {
                "TCP relay with two workers; 1,000 connections that have each had one message \
                 echoed and stay open."
            }
        }
    }

    /// What the balancer does.
    pub fn mode(self) -> Mode {
        match self {
            Self::IdleMemoryHttp
            | Self::L7AccessLog
            | Self::L7Keepalive
            | Self::L7NewConnections => Mode::Http,
            Self::IdleMemoryTcp
            | Self::L4Bulk
            | Self::L4Connect
            | Self::L4Small
            | Self::Workers => Mode::Tcp,
            Self::UdpEcho | Self::UdpOneWay | Self::UdpOneWayGso => Mode::Udp,
        }
    }

    /// Whether the balancer writes a line for each request.
    pub fn access_log(self) -> bool {
        self == Self::L7AccessLog
    }

    /// Workers of the balancer.
    pub fn workers(self) -> usize {
        if self == Self::Workers { 2 } else { 1 }
    }

    /// What client and origins speak.
    pub fn speech(self) -> Speech {
        match self {
            Self::IdleMemoryHttp
            | Self::L7AccessLog
            | Self::L7Keepalive
            | Self::L7NewConnections => Speech::Http,
            Self::IdleMemoryTcp | Self::L4Connect | Self::L4Small | Self::Workers => Speech::Echo,
            Self::L4Bulk => Speech::Stream,
            Self::UdpEcho => Speech::DatagramEcho,
            Self::UdpOneWay => Speech::DatagramStream { at_a_time: 1 },
            Self::UdpOneWayGso => Speech::DatagramStream { at_a_time: 8 },
        }
    }

    /// What costs are given for.
    pub fn work(self) -> Work {
        match self {
            Self::IdleMemoryHttp | Self::IdleMemoryTcp | Self::L4Connect | Self::Workers => {
                Work::Connection
            }
            Self::L4Bulk => Work::Mebibyte,
            Self::L4Small => Work::Message,
            Self::L7AccessLog | Self::L7Keepalive | Self::L7NewConnections => Work::Request,
            Self::UdpEcho | Self::UdpOneWay | Self::UdpOneWayGso => Work::Datagram,
        }
    }

    /// The length of an answer's body, of a message, or of a datagram.
    pub fn answer_bytes(self) -> usize {
        match self {
            Self::L4Bulk => 64 * 1024 * 1024,
            Self::UdpOneWay | Self::UdpOneWayGso => 1200,
            _ => 64,
        }
    }

    /// Units of work in one answer.
    pub fn work_per_answer(self) -> f64 {
        match self {
            Self::L4Bulk => self.answer_bytes() as f64 / (1024.0 * 1024.0),
            _ => 1.0,
        }
    }

    /// What is measured.
    pub fn subject(self) -> Subject {
        let load = |connections, new_connections, fixed_rate| {
            Subject::Load(Traffic {
                connections,
                new_connections,
                fixed_rate,
            })
        };
        match self {
            Self::IdleMemoryHttp | Self::IdleMemoryTcp => Subject::IdleMemory,
            Self::Workers => Subject::Spread,
            Self::L4Bulk => load(8, false, false),
            Self::L4Connect => load(64, true, false),
            Self::L4Small | Self::L7Keepalive => load(64, false, true),
            Self::L7AccessLog => load(64, false, false),
            Self::L7NewConnections => load(64, true, true),
            Self::UdpEcho => load(128, false, true),
            Self::UdpOneWay | Self::UdpOneWayGso => load(4, false, false),
        }
    }
}

/// Beginnings of names that stand for all that begin so.
const FAMILIES: [&str; 4] = ["l4", "l7", "udp", "idle-memory"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_for_one_two_or_all() {
        for scenario in Scenario::ALL {
            assert_eq!(Scenario::parse(scenario.name()), Ok(vec![scenario]));
        }
        let idle = vec![Scenario::IdleMemoryHttp, Scenario::IdleMemoryTcp];
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
