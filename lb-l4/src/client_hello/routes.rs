//! Where a ClientHello leads: by server name, then by application protocol.
//!
//! Invariant: the most specific rule wins, whatever the order of the rules: an exact name before a
//! wildcard, a wildcard before the default; for one name, protocols before any protocol.
//! Read next: `receive.rs`.

use std::collections::HashMap;

use super::ClientHello;

/// Rules for names and protocols, each leading to a `T`.
#[derive(Debug, Clone)]
pub struct NameRoutes<T> {
    exact: HashMap<Box<str>, Rules<T>>,
    /// By what follows the first label and its dot.
    wildcard: HashMap<Box<str>, Rules<T>>,
    default: Option<T>,
}

/// The rules of one name.
#[derive(Debug, Clone)]
struct Rules<T> {
    by_protocol: Vec<(Box<[u8]>, T)>,
    any_protocol: Option<T>,
}

impl<T> Default for Rules<T> {
    fn default() -> Self {
        Self {
            by_protocol: Vec::new(),
            any_protocol: None,
        }
    }
}

/// Why no rule takes a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unrouted {
    /// There are rules for its name, but for other protocols.
    Protocol,
    /// There is none for its name, or it sent none.
    ServerName,
}

impl<T: Copy> NameRoutes<T> {
    /// Without rules; `default` takes whom no rule takes.
    #[must_use]
    pub fn new(default: Option<T>) -> Self {
        Self {
            exact: HashMap::new(),
            wildcard: HashMap::new(),
            default,
        }
    }

    /// Clients that ask for `name`, exact or `*.` and what follows the first label, in lower case,
    /// go to `to`: those that offer one of `protocols`, or all if it is empty.
    pub fn add(&mut self, name: &str, protocols: &[String], to: T) {
        let rules = match name.strip_prefix("*.") {
            Some(rest) => self.wildcard.entry(rest.into()).or_default(),
            None => self.exact.entry(name.into()).or_default(),
        };
        if protocols.is_empty() {
            rules.any_protocol = Some(to);
        }
        let named = protocols.iter().map(|name| (name.as_bytes().into(), to));
        rules.by_protocol.extend(named);
    }

    /// Where `hello` goes.
    ///
    /// # Errors
    /// [`Unrouted`] when there is no default either.
    pub fn find(&self, hello: &ClientHello) -> Result<T, Unrouted> {
        let name = hello.server_name.as_deref();
        let exact = name.and_then(|name| self.exact.get(name));
        let parent = name.and_then(|name| name.split_once('.'));
        let wildcard = parent.and_then(|(_, parent)| self.wildcard.get(parent));
        let mut rules = exact.into_iter().chain(wildcard);
        let found = rules.find_map(|rules| rules.find(hello)).or(self.default);
        let is_named = exact.is_some() || wildcard.is_some();
        found.ok_or(if is_named {
            Unrouted::Protocol
        } else {
            Unrouted::ServerName
        })
    }
}

impl<T: Copy> Rules<T> {
    /// The client's favourite protocol among those that there are.
    fn find(&self, hello: &ClientHello) -> Option<T> {
        let by_name = |name: &[u8]| self.by_protocol.iter().find(|rule| *rule.0 == *name);
        let by_protocol = hello.protocols().find_map(by_name);
        by_protocol.map(|rule| rule.1).or(self.any_protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{parse, tests::Sample};
    use super::*;

    fn hello(name: &str, protocols: &[&str]) -> ClientHello {
        let mut sample = Sample::named(name);
        sample.protocols = protocols.iter().map(|&name| name.to_owned()).collect();
        parse(&sample.records(9000)).unwrap().unwrap()
    }

    #[test]
    fn the_most_specific_rule_wins_whatever_the_order() {
        let rules = [
            ("*.shop.example", &[][..], "wildcard"),
            ("a.shop.example", &["acme-tls/1"], "acme"),
            ("a.shop.example", &[], "exact"),
            ("*.shop.example", &["h2"], "wildcard h2"),
            ("only.example", &["h2", "h3"], "only"),
        ];
        let owned = |names: &[&str]| names.iter().map(|&it| it.to_owned()).collect::<Vec<_>>();
        for reversed in [false, true] {
            let mut rules = rules.to_vec();
            if reversed {
                rules.reverse();
            }
            let mut routes = NameRoutes::new(None);
            for (name, protocols, to) in &rules {
                routes.add(name, &owned(protocols), *to);
            }
            for (name, protocols, expected) in [
                ("a.shop.example", &[][..], Ok("exact")),
                ("a.shop.example", &["acme-tls/1"], Ok("acme")),
                ("a.shop.example", &["h2"], Ok("exact")),
                ("b.shop.example", &["http/1.1"], Ok("wildcard")),
                ("b.shop.example", &["http/1.1", "h2"], Ok("wildcard h2")),
                ("c.b.shop.example", &[], Err(Unrouted::ServerName)),
                ("shop.example", &[], Err(Unrouted::ServerName)),
                ("only.example", &["h3"], Ok("only")),
                ("only.example", &["h1"], Err(Unrouted::Protocol)),
                ("only.example", &[], Err(Unrouted::Protocol)),
            ] {
                let found = routes.find(&hello(name, protocols));
                assert_eq!(found, expected, "{name} {protocols:?}");
            }
        }
    }

    #[test]
    fn the_default_takes_the_rest() {
        let mut routes = NameRoutes::new(Some("default"));
        routes.add("a.example", &["h2".to_owned()], "a");
        assert_eq!(routes.find(&hello("b.example", &[])), Ok("default"));
        assert_eq!(routes.find(&hello("a.example", &[])), Ok("default"));
        assert_eq!(routes.find(&ClientHello::default()), Ok("default"));
    }
}
