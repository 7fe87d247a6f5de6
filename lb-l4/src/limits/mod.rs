//! What a connection must pass before it is served: lists, limits, and who it is.
//!
//! Invariant: a limit holds over all workers, and what a connection takes of it it gives back when
//! its [`Permit`] is dropped, however it ends. A listener without rules has no gate, and its
//! connections pay nothing.
//! Read next: `sources.rs`, `lb_core::rate`; `../proxy_protocol/receive.rs`.

pub(crate) mod queue;
mod sources;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crossbeam_utils::CachePadded;
use lb_core::metrics::Refusal;
use lb_core::plan::{self, ConnectionLimits};
use lb_core::prefixes::{Prefix, PrefixMap};
use lb_core::rate::TokenBucket;
use lb_core::rt::{Instant, TcpStream, is_unix, now};

use crate::client::Client;
use crate::proxy_protocol::{Origin, ReceiveError, receive};
use sources::{Place, Sources};

/// The rules of one listener at work, shared by all workers; part of a snapshot.
#[derive(Debug)]
pub struct Gate {
    proxy: Option<Proxy>,
    /// True for those that may connect.
    access: Option<PrefixMap<bool>>,
    /// What holds for a client that no list has.
    others_may: bool,
    limits: ConnectionLimits,
    state: Arc<State>,
}

#[derive(Debug)]
struct Proxy {
    trusted: PrefixMap<()>,
    timeout: Duration,
}

/// What passes from one snapshot to the next.
#[derive(Debug, Default)]
struct State {
    open: CachePadded<AtomicU32>,
    bucket: CachePadded<TokenBucket>,
    sources: Sources,
}

/// A connection's share of the limits.
#[derive(Debug)]
pub struct Permit {
    state: Arc<State>,
    is_counted: bool,
    source: Option<Place>,
}

impl Gate {
    /// The gate of a valid plan's listener, which goes on counting where `previous` is; `None` if
    /// nothing is asked of connections. A limit counts the connections that came while there was
    /// a gate.
    #[must_use]
    pub fn build(plan: &plan::Edge, previous: Option<&Self>) -> Option<Self> {
        let plan::Edge {
            proxy_in,
            access,
            limits,
            socket: _,
        } = plan;
        let has_lists = !(access.allow.is_empty() && access.deny.is_empty());
        if proxy_in.is_none() && !has_lists && *limits == ConnectionLimits::default() {
            return None;
        }
        let state = previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.state));
        Some(Self {
            proxy: proxy_in.as_ref().map(|proxy| Proxy {
                trusted: proxy.trusted.iter().map(|prefix| (*prefix, ())).collect(),
                timeout: proxy.timeout,
            }),
            access: has_lists.then(|| lists(access)),
            others_may: access.allow.is_empty(),
            limits: *limits,
            state,
        })
    }

    /// Whether a connection from `peer` is let in, as far as that can be said before it is read.
    ///
    /// # Errors
    /// Why not; then it is to be reset.
    pub fn admit(&self, peer: IpAddr, now: Instant) -> Result<Permit, Refusal> {
        match &self.proxy {
            Some(_) if !self.trusts(peer) => return Err(Refusal::Untrusted),
            Some(_) => {}
            None => self.check_access(peer)?,
        }
        let mut permit = self.admit_counted(now)?;
        if self.proxy.is_none() {
            self.count_source(&mut permit, peer)?;
        }
        Ok(permit)
    }

    /// Rate and number, whoever it is.
    fn admit_counted(&self, now: Instant) -> Result<Permit, Refusal> {
        if let Some(rate) = self.limits.rate
            && !self.state.bucket.take(rate, now)
        {
            return Err(Refusal::Rate);
        }
        let mut permit = Permit {
            state: Arc::clone(&self.state),
            is_counted: false,
            source: None,
        };
        if let Some(most) = self.limits.connections_max {
            // Counted first and looked at then, so that two workers cannot both be the last.
            permit.is_counted = true;
            if self.state.open.fetch_add(1, Ordering::Relaxed) >= most {
                return Err(Refusal::Connections);
            }
        }
        Ok(permit)
    }

    /// Whether a flow of `client` is let in; `told` if its proxy said that it is the client's, which
    /// is [trusted](Self::trusts) then.
    ///
    /// # Errors
    /// Why not; then its datagrams are to be dropped.
    pub fn admit_flow(&self, client: IpAddr, told: bool, now: Instant) -> Result<Permit, Refusal> {
        if self.proxy.is_none() || told {
            self.check_access(client)?;
        }
        let mut permit = self.admit_counted(now)?;
        if self.proxy.is_none() || told {
            self.count_source(&mut permit, client)?;
        }
        Ok(permit)
    }

    /// True if what comes begins with a PROXY header.
    #[must_use]
    pub const fn reads_headers(&self) -> bool {
        self.proxy.is_some()
    }

    /// True if `peer` may say on whose behalf it sends.
    #[must_use]
    pub fn trusts(&self, peer: IpAddr) -> bool {
        let proxy = self.proxy.as_ref();
        // Who may write to a Unix socket, its permissions say.
        proxy.is_some_and(|proxy| is_unix(peer) || proxy.trusted.find(peer).is_some())
    }

    /// Who the client of an admitted connection is. Waits for the PROXY header, if there is to be
    /// one, and checks then what could not be checked before.
    ///
    /// # Errors
    /// Why the connection is refused; then it is to be reset.
    pub async fn identify(
        &self,
        stream: &TcpStream,
        peer: Client,
        permit: &mut Permit,
    ) -> Result<Client, Refusal> {
        let Some(proxy) = &self.proxy else {
            return Ok(peer);
        };
        let received = receive(stream, now() + proxy.timeout).await;
        let received = received.map_err(|error| match error {
            ReceiveError::Closed | ReceiveError::Invalid(_) => Refusal::Proxy,
            ReceiveError::Timeout => Refusal::ProxyTimeout,
        })?;
        if received.origin == Origin::Local {
            return Ok(peer); // the proxy itself, which is trusted
        }
        let client = peer.told_by(received);
        self.check_access(client.address.ip())?;
        self.count_source(permit, client.address.ip())?;
        Ok(client)
    }

    fn check_access(&self, client: IpAddr) -> Result<(), Refusal> {
        let Some(access) = &self.access else {
            return Ok(());
        };
        if is_unix(client) || access.find(client).unwrap_or(self.others_may) {
            Ok(())
        } else {
            Err(Refusal::Denied)
        }
    }

    fn count_source(&self, permit: &mut Permit, client: IpAddr) -> Result<(), Refusal> {
        if let Some(most) = self.limits.per_source_max {
            let taken = self.state.sources.take(source(client), most);
            permit.source = taken.map_err(|sources::Full| Refusal::Source)?;
        }
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.is_counted {
            self.state.open.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(place) = self.source.take() {
            self.state.sources.give_back(place);
        }
    }
}

fn lists(access: &plan::Access) -> PrefixMap<bool> {
    let allow = access.allow.iter().map(|prefix| (*prefix, true));
    let deny = access.deny.iter().map(|prefix| (*prefix, false));
    allow.chain(deny).collect()
}

/// What counts as one source: one who has a /64 has all of its addresses.
fn source(client: IpAddr) -> Prefix {
    let canonical = client.to_canonical();
    Prefix::of(canonical, if canonical.is_ipv4() { 32 } else { 64 })
}

#[cfg(test)]
mod tests {
    use lb_core::plan::{Access, Edge, ProxyIn, Rate};

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn prefixes(texts: &[&str]) -> Vec<Prefix> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn limited(limits: ConnectionLimits) -> Edge {
        Edge {
            limits,
            ..Edge::default()
        }
    }

    fn refusal(gate: &Gate, peer: &str) -> Option<Refusal> {
        gate.admit(address(peer), Instant::START).err()
    }

    #[test]
    fn without_rules_there_is_no_gate() {
        assert!(Gate::build(&Edge::default(), None).is_none());
    }

    #[test]
    fn the_longest_prefix_of_the_lists_decides() {
        let mut edge = Edge::default();
        edge.access.deny = prefixes(&["10.0.0.0/8", "2001:db8::/32"]);
        let gate = Gate::build(&edge, None).unwrap();
        assert_eq!(refusal(&gate, "10.1.2.3"), Some(Refusal::Denied));
        assert_eq!(refusal(&gate, "::ffff:10.1.2.3"), Some(Refusal::Denied));
        assert_eq!(refusal(&gate, "11.0.0.1"), None, "others may");
        edge.access.allow = prefixes(&["10.1.0.0/16"]);
        let gate = Gate::build(&edge, None).unwrap();
        assert_eq!(refusal(&gate, "10.1.2.3"), None);
        assert_eq!(refusal(&gate, "10.2.0.0"), Some(Refusal::Denied));
        assert_eq!(
            refusal(&gate, "11.0.0.1"),
            Some(Refusal::Denied),
            "now they may not"
        );
    }

    #[test]
    fn a_limit_counts_what_is_open_across_snapshots() {
        let edge = limited(ConnectionLimits {
            connections_max: Some(2),
            ..ConnectionLimits::default()
        });
        let gate = Gate::build(&edge, None).unwrap();
        let first = gate.admit(address("::1"), Instant::START).unwrap();
        let second = gate.admit(address("::1"), Instant::START).unwrap();
        let next = Gate::build(&edge, Some(&gate)).unwrap();
        assert_eq!(refusal(&next, "::1"), Some(Refusal::Connections));
        assert_eq!(refusal(&gate, "::1"), Some(Refusal::Connections));
        drop((first, second));
        assert_eq!(refusal(&next, "::1"), None);
        assert_eq!(
            next.state.open.load(Ordering::Relaxed),
            0,
            "refused ones too"
        );
    }

    #[test]
    fn one_source_is_an_address_or_a_64() {
        let edge = limited(ConnectionLimits {
            per_source_max: Some(1),
            ..ConnectionLimits::default()
        });
        let gate = Gate::build(&edge, None).unwrap();
        let held = ["10.0.0.1", "2001:db8::1"].map(|text| {
            let permit = gate.admit(address(text), Instant::START);
            permit.unwrap()
        });
        assert_eq!(refusal(&gate, "10.0.0.1"), Some(Refusal::Source));
        assert_eq!(refusal(&gate, "10.0.0.2"), None);
        assert_eq!(refusal(&gate, "2001:db8::ffff"), Some(Refusal::Source));
        assert_eq!(refusal(&gate, "2001:db8:0:1::1"), None);
        drop(held);
        assert_eq!(refusal(&gate, "10.0.0.1"), None);
        assert_eq!(refusal(&gate, "2001:db8::ffff"), None);
    }

    #[test]
    fn who_is_denied_uses_up_no_rate() {
        let mut edge = limited(ConnectionLimits {
            rate: Some(Rate {
                per_second: 1,
                burst: 1,
            }),
            ..ConnectionLimits::default()
        });
        edge.access = Access {
            allow: Vec::new(),
            deny: prefixes(&["10.0.0.1"]),
        };
        let gate = Gate::build(&edge, None).unwrap();
        assert_eq!(refusal(&gate, "10.0.0.1"), Some(Refusal::Denied));
        assert_eq!(refusal(&gate, "10.0.0.2"), None);
        assert_eq!(refusal(&gate, "10.0.0.2"), Some(Refusal::Rate));
    }

    #[test]
    fn behind_proxies_the_peer_must_be_one_and_clients_are_checked_later() {
        let mut edge = limited(ConnectionLimits {
            per_source_max: Some(1),
            ..ConnectionLimits::default()
        });
        edge.access.deny = prefixes(&["10.0.0.0/8"]);
        edge.proxy_in = Some(ProxyIn {
            trusted: prefixes(&["10.0.0.0/30"]),
            timeout: ProxyIn::TIMEOUT_DEFAULT,
        });
        let gate = Gate::build(&edge, None).unwrap();
        assert_eq!(refusal(&gate, "192.0.2.1"), Some(Refusal::Untrusted));
        let _held = gate.admit(address("10.0.0.1"), Instant::START).unwrap();
        assert_eq!(refusal(&gate, "10.0.0.1"), None, "a proxy has many clients");
    }
}
