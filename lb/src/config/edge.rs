//! The keys of a listener that say what is asked of connections before they are served: written
//! in YAML, straight to the plan's form.
//!
//! Invariant: as in `read.rs`, a key that is read takes effect, and every mistake is reported.
//! Read next: `lb_core::plan::Edge` (what they mean).

use std::time::Duration;

use lb_core::plan::{Access, ConnectionLimits, Edge, ProxyIn, Rate};
use lb_core::prefixes::Prefix;

use super::decode::{self, Fields, Problems};
use super::notation;
use super::problem::Located;
use super::yaml::Node;

/// Takes the keys out of a listener's mapping.
pub(super) fn read(fields: &mut Fields<'_, '_>) -> Edge {
    let allow = fields.optional("allow", prefixes).unwrap_or_default();
    let deny = fields.optional("deny", prefixes).unwrap_or_default();
    if let Some(both) = allow.iter().find(|prefix| deny.contains(prefix)) {
        fields.problem(format!("{both} is both in \"allow\" and in \"deny\""));
    }
    Edge {
        proxy_in: fields.optional("proxy_in", proxy_in),
        access: Access { allow, deny },
        limits: fields.optional("limits", limits).unwrap_or_default(),
        ..Edge::default()
    }
}

/// Proxies that are believed, with the default timeout.
pub(super) fn proxies(trusted: Vec<Prefix>) -> ProxyIn {
    ProxyIn {
        trusted,
        timeout: ProxyIn::TIMEOUT_DEFAULT,
    }
}

fn proxy_in(node: &Node, problems: &mut Problems) -> Option<ProxyIn> {
    let mut fields = Fields::of(node, problems)?;
    let trusted = fields.required("trusted", prefixes).unwrap_or_default();
    if fields.has("trusted") && trusted.is_empty() {
        fields.problem("without a trusted proxy every connection would be refused");
    }
    let timeout = fields.optional("timeout", duration);
    fields.finish();
    Some(ProxyIn {
        timeout: timeout.unwrap_or(ProxyIn::TIMEOUT_DEFAULT),
        ..proxies(trusted)
    })
}

fn limits(node: &Node, problems: &mut Problems) -> Option<ConnectionLimits> {
    let mut fields = Fields::of(node, problems)?;
    let mut number = |key, most: u32| {
        let number = fields.optional(key, decode::number(1..=most.into()));
        number.map(|Located { value, .. }| value as u32)
    };
    let connections_max = number("connections", u32::MAX);
    let per_source_max = number("per_source", ConnectionLimits::PER_SOURCE_LIMIT);
    let per_second = number("rate", Rate::PER_SECOND_LIMIT);
    let burst = number("burst", Rate::PER_SECOND_LIMIT);
    if burst.is_some() && per_second.is_none() {
        fields.problem("a \"burst\" is of a \"rate\", which is missing");
    }
    fields.finish();
    Some(ConnectionLimits {
        connections_max,
        per_source_max,
        rate: per_second.map(|per_second| Rate {
            per_second,
            burst: burst.unwrap_or(per_second),
        }),
    })
}

fn prefixes(node: &Node, problems: &mut Problems) -> Option<Vec<Prefix>> {
    let prefix = |node: &Node, problems: &mut Problems| {
        let prefix = decode::parsed(notation::prefix)(node, problems);
        prefix.map(|Located { value, .. }| value)
    };
    decode::list(prefix)(node, problems)
}

fn duration(node: &Node, problems: &mut Problems) -> Option<Duration> {
    decode::parsed(notation::duration)(node, problems).map(|Located { value, .. }| value)
}
