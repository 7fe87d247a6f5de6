//! The flows of one listener on one worker, by client and local address, and how many there may
//! be: pure.
//!
//! Invariant: a flow counts from `begin` to `end`, in all and for its source; it is found from
//! `begin` to `detach` or `end`. Keys are hashed with a random key (SipHash), as clients choose
//! them.
//! Read next: `receive.rs`.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use lb_core::metrics::FlowShed;
use lb_core::plan;

/// Which flow a datagram belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) client: SocketAddr,
    /// Ours, that the client sent to.
    pub(super) local: IpAddr,
}

impl Key {
    /// Whom the flow counts for: an IPv4 address, or the /64 of an IPv6 one.
    fn source(&self) -> IpAddr {
        match self.client.ip() {
            ip @ IpAddr::V4(_) => ip,
            IpAddr::V6(ip) => {
                let site = u128::from(ip) >> 64 << 64;
                Ipv6Addr::from(site).into()
            }
        }
    }
}

/// The table of flows `F`.
pub(super) struct Table<F> {
    flows: HashMap<Key, Rc<F>>,
    /// The flow found last: datagrams come in runs.
    last: Option<(Key, Rc<F>)>,
    sources: HashMap<IpAddr, u32>,
    live: u32,
}

impl<F> Table<F> {
    pub(super) fn new() -> Self {
        Self {
            flows: HashMap::new(),
            last: None,
            sources: HashMap::new(),
            live: 0,
        }
    }

    /// Flows that have begun and not ended.
    pub(super) const fn live(&self) -> u32 {
        self.live
    }

    /// The flow of `key`.
    pub(super) fn find(&mut self, key: &Key) -> Option<&Rc<F>> {
        if self.last.as_ref().is_none_or(|(last, _)| last != key) {
            let flow = self.flows.get(key)?;
            self.last = Some((*key, Rc::clone(flow)));
        }
        self.last.as_ref().map(|(_, flow)| flow)
    }

    /// Begins the flow that `make` makes, unless a limit of `plan` is reached. There is none of
    /// `key`.
    pub(super) fn begin(
        &mut self,
        key: Key,
        plan: &plan::Udp,
        make: impl FnOnce() -> F,
    ) -> Result<Rc<F>, FlowShed> {
        if self.live >= plan.flows_max {
            return Err(FlowShed::Flows);
        }
        let of_source = self.sources.entry(key.source()).or_default();
        if plan
            .flows_per_source_max
            .is_some_and(|max| *of_source >= max)
        {
            return Err(FlowShed::Source);
        }
        *of_source += 1;
        self.live += 1;
        let flow = Rc::new(make());
        self.flows.insert(key, Rc::clone(&flow));
        Ok(flow)
    }

    /// Lets the next datagram of `key` begin another flow, while `flow` goes on.
    pub(super) fn detach(&mut self, key: &Key, flow: &F) {
        let is_own = |found: &Rc<F>| std::ptr::eq(&raw const **found, flow);
        if self.flows.get(key).is_some_and(is_own) {
            self.flows.remove(key);
            self.last = None;
        }
    }

    /// The flow is over.
    pub(super) fn end(&mut self, key: &Key, flow: &F) {
        self.detach(key, flow);
        self.live -= 1;
        let source = key.source();
        if let Some(count) = self.sources.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&source);
            }
        }
    }

    /// All that can be found.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Rc<F>> {
        self.flows.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(client: &str) -> Key {
        Key {
            client: client.parse().expect("an address"),
            local: "127.0.0.1".parse().expect("an ip"),
        }
    }

    fn plan(flows_max: u32, flows_per_source_max: Option<u32>) -> plan::Udp {
        plan::Udp {
            flows_max,
            flows_per_source_max,
            ..plan::Udp::to("c")
        }
    }

    #[test]
    fn a_full_table_takes_no_more_until_one_ends() {
        let mut table = Table::new();
        let plan = plan(2, None);
        let first = table.begin(key("10.0.0.1:1"), &plan, || 1).expect("room");
        table.begin(key("10.0.0.2:1"), &plan, || 2).expect("room");
        let third = key("10.0.0.3:1");
        assert_eq!(table.begin(third, &plan, || 3), Err(FlowShed::Flows));
        table.end(&key("10.0.0.1:1"), &first);
        table.begin(third, &plan, || 3).expect("room again");
        assert_eq!(table.live(), 2);
        assert_eq!(table.find(&key("10.0.0.1:1")), None);
        assert_eq!(table.find(&third).map(|flow| **flow), Some(3));
    }

    #[test]
    fn a_source_has_its_share_and_an_ipv6_site_is_one() {
        let mut table = Table::new();
        let plan = plan(100, Some(1));
        table.begin(key("10.0.0.1:1"), &plan, || 1).expect("room");
        let again = table.begin(key("10.0.0.1:2"), &plan, || 2);
        assert_eq!(again, Err(FlowShed::Source));
        table
            .begin(key("10.0.0.2:1"), &plan, || 3)
            .expect("another");
        let site = table
            .begin(key("[2001:db8::1]:1"), &plan, || 4)
            .expect("room");
        let neighbour = key("[2001:db8::2]:1");
        assert_eq!(table.begin(neighbour, &plan, || 5), Err(FlowShed::Source));
        table
            .begin(key("[2001:db8:0:1::1]:1"), &plan, || 6)
            .expect("another");
        table.end(&key("[2001:db8::1]:1"), &site);
        table.begin(neighbour, &plan, || 5).expect("room again");
        assert_eq!(table.sources.len(), 4);
    }

    #[test]
    fn a_detached_flow_counts_and_does_not_take_its_successor_along() {
        let mut table = Table::new();
        let (plan, key) = (plan(2, None), key("10.0.0.1:1"));
        let first = table.begin(key, &plan, || 1).expect("room");
        assert!(table.find(&key).is_some());
        table.detach(&key, &first);
        assert_eq!(table.find(&key), None);
        table.begin(key, &plan, || 2).expect("room");
        assert_eq!(table.live(), 2);
        table.end(&key, &first);
        assert_eq!(table.find(&key).map(|flow| **flow), Some(2));
        assert_eq!((table.live(), table.iter().count()), (1, 1));
    }
}
