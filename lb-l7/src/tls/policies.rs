//! What is asked of clients by the server name that they ask for: a listener may have one policy of
//! client certificates for most names, and others for some.
//!
//! Invariant: a request never reaches a host under a policy that is not the host's own, where that
//! asks for certificates: neither by another server name nor by another Host.
//! Read next: `server.rs` (who makes handshakes by it), `../admit.rs` (who asks for the host).

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use lb_core::plan::{ClientAuth, TlsServer};

/// Longest name in bytes, with a trailing dot.
const NAME_BYTES_MAX: usize = 255;

/// The policies of a listener by name.
#[derive(Debug)]
pub(crate) struct ClientPolicies {
    /// By exact names, and by wildcards without their `*`.
    by_name: HashMap<Box<[u8]>, usize, RandomState>,
    /// Whether each asks for certificates.
    asks: Vec<bool>,
}

impl ClientPolicies {
    /// `None` where all names have the listener's own.
    pub(super) fn new(plan: &TlsServer) -> Option<Self> {
        if plan.client_auth_by_name.is_empty() {
            return None;
        }
        let mut policies = Self {
            by_name: HashMap::default(),
            asks: Vec::new(),
        };
        for auth in Self::of(plan) {
            policies.asks.push(auth.is_some());
        }
        for (at, policy) in plan.client_auth_by_name.iter().enumerate() {
            for name in &policy.names {
                let name = name.strip_prefix('*').unwrap_or(name);
                policies.by_name.insert(name.as_bytes().into(), at + 1);
            }
        }
        Some(policies)
    }

    /// All policies: the listener's own, then those of names.
    pub(super) fn of(plan: &TlsServer) -> impl Iterator<Item = Option<&ClientAuth>> {
        let own = [plan.client_auth.as_ref()].into_iter();
        own.chain(plan.client_auth_by_name.iter().map(|it| it.auth.as_ref()))
    }

    /// The policy of a name, in any case; an empty one for none.
    pub(super) fn find(&self, name: &[u8]) -> usize {
        let name = name.strip_suffix(b".").unwrap_or(name);
        let mut room = [0; NAME_BYTES_MAX];
        let Some(lower) = room.get_mut(..name.len()) else {
            return 0;
        };
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        let found = self.by_name.get(&*lower).or_else(|| {
            let dot = memchr::memchr(b'.', lower)?;
            self.by_name.get(&lower[dot..])
        });
        found.copied().unwrap_or(0)
    }
}

/// The policy that a connection's handshake was made by.
#[derive(Debug, Clone)]
pub(crate) struct ClientPolicy {
    all: Arc<ClientPolicies>,
    own: usize,
}

impl ClientPolicy {
    pub(super) const fn new(all: Arc<ClientPolicies>, own: usize) -> Self {
        Self { all, own }
    }

    /// Whether a request for `host` may come by this connection (RFC 9110 section 15.5.20).
    pub(crate) fn admits(&self, host: &[u8]) -> bool {
        let asked = self.all.find(host);
        asked == self.own || !self.all.asks[asked]
    }
}

impl PartialEq for ClientPolicy {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.all, &other.all) && self.own == other.own
    }
}

impl Eq for ClientPolicy {}

#[cfg(test)]
mod tests {
    use lb_core::plan::{NamedClientAuth, OverdueCrl};

    use super::*;

    #[test]
    fn a_host_is_reached_under_its_own_policy_only() {
        let auth = Some(ClientAuth {
            required: true,
            roots: Arc::new([vec![1]]),
            revoked: Arc::new([]),
            overdue: OverdueCrl::default(),
            depth: 1,
        });
        let named = |names: &[&str], auth: &Option<ClientAuth>| NamedClientAuth {
            names: names.iter().map(|it| (*it).to_owned()).collect(),
            auth: auth.clone(),
        };
        let mut plan = TlsServer::new(Vec::new());
        assert!(ClientPolicies::new(&plan).is_none());
        plan.client_auth_by_name = vec![
            named(&["admin.example", "*.in.example"], &auth),
            named(&["other.example"], &auth),
            named(&["open.in.example"], &None),
        ];
        let all = Arc::new(ClientPolicies::new(&plan).unwrap());
        let names = [
            ("", 0),
            ("shop.example", 0),
            ("Admin.Example.", 1),
            ("a.in.example", 1),
            ("a.b.in.example", 0),
            ("in.example", 0),
            ("other.example", 2),
            ("OPEN.in.example", 3),
        ];
        for (name, policy) in names {
            assert_eq!(all.find(name.as_bytes()), policy, "{name}");
        }
        assert_eq!(all.find(&[b'a'; 300]), 0);
        let admits = |own: usize, host: &str| {
            ClientPolicy::new(Arc::clone(&all), own).admits(host.as_bytes())
        };
        for own in 0..4 {
            for (host, policy) in names {
                let expected = own == policy || [0, 3].contains(&policy);
                assert_eq!(admits(own, host), expected, "{own} {host}");
            }
        }
    }
}
