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
    /// Short messages through a TCP relay.
    L4Small,
    /// Short requests on lasting connections, each leaving a line in a file.
    L7AccessLog,
    /// Short requests on lasting connections.
    L7Keepalive,
    /// Short requests, each on a connection of its own.
    L7NewConnections,
}

/// Whether the balancer looks into what it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It proxies requests.
    Http,
    /// It relays bytes.
    Tcp,
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
}

/// Traffic for the generator to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// Connections at a time.
    pub connections: usize,
    /// Whether each request has a connection of its own.
    pub new_connections: bool,
}

impl Scenario {
    /// All of them, in the order of a report.
    pub const ALL: [Self; 7] = [
        Self::L7Keepalive,
        Self::L4Small,
        Self::L7NewConnections,
        Self::L7AccessLog,
        Self::L4Bulk,
        Self::IdleMemoryHttp,
        Self::IdleMemoryTcp,
    ];

    /// Those that `name` stands for: one, both kinds of `idle-memory`, or `all`.
    ///
    /// # Errors
    /// When there are none; the text names those there are.
    pub fn parse(name: &str) -> Result<Vec<Self>, String> {
        let chosen = |scenario: &Self| {
            let own = scenario.name();
            name == "all"
                || own == name
                || own
                    .strip_prefix(name)
                    .is_some_and(|kind| kind == "-http" || kind == "-tcp")
        };
        let found: Vec<Self> = Self::ALL.into_iter().filter(chosen).collect();
        if found.is_empty() {
            let names = Self::ALL.map(Self::name).join(", ");
            return Err(format!(
                "there is no scenario {name:?}; there are all, idle-memory, {names}"
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
            Self::L4Small => "l4-small",
            Self::L7AccessLog => "l7-access-log",
            Self::L7Keepalive => "l7-keepalive",
            Self::L7NewConnections => "l7-new-connections",
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
                "TCP relay; 8 connections, each asking for one answer of 4 MiB after the other."
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
        }
    }

    /// What the balancer does.
    pub fn mode(self) -> Mode {
        match self {
            Self::IdleMemoryHttp
            | Self::L7AccessLog
            | Self::L7Keepalive
            | Self::L7NewConnections => Mode::Http,
            Self::IdleMemoryTcp | Self::L4Bulk | Self::L4Small => Mode::Tcp,
        }
    }

    /// Whether the balancer writes a line for each request.
    pub fn access_log(self) -> bool {
        self == Self::L7AccessLog
    }

    /// What client and origins speak.
    pub fn speech(self) -> Speech {
        match self {
            Self::IdleMemoryHttp
            | Self::L7AccessLog
            | Self::L7Keepalive
            | Self::L7NewConnections => Speech::Http,
            Self::IdleMemoryTcp | Self::L4Small => Speech::Echo,
            Self::L4Bulk => Speech::Stream,
        }
    }

    /// What costs are given for.
    pub fn work(self) -> Work {
        match self {
            Self::IdleMemoryHttp | Self::IdleMemoryTcp => Work::Connection,
            Self::L4Bulk => Work::Mebibyte,
            Self::L4Small => Work::Message,
            Self::L7AccessLog | Self::L7Keepalive | Self::L7NewConnections => Work::Request,
        }
    }

    /// The length of an answer's body.
    pub fn answer_bytes(self) -> usize {
        match self {
            Self::L4Bulk => 4 * 1024 * 1024,
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

    /// The load; `None` where connections are idle.
    pub fn traffic(self) -> Option<Traffic> {
        let traffic = |connections, new_connections| {
            Some(Traffic {
                connections,
                new_connections,
            })
        };
        match self {
            Self::IdleMemoryHttp | Self::IdleMemoryTcp => None,
            Self::L4Bulk => traffic(8, false),
            Self::L4Small | Self::L7AccessLog | Self::L7Keepalive => traffic(64, false),
            Self::L7NewConnections => traffic(64, true),
        }
    }
}

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
        assert!(Scenario::parse("l4").unwrap_err().contains("l4-small"));
        assert!(Scenario::parse("").is_err());
    }
}
