//! `http2:` of an HTTP listener, and `protocol:` of a cluster.
//!
//! Invariant: a value in the tree is one that `Plan::validate` accepts.
//! Read next: `read.rs`, `read_cluster.rs` (which call it).

use std::time::Duration;

use lb_core::plan::{BackendProtocol, Http2};

use super::decode::{self, Fields, Problems};
use super::notation;
use super::problem::Located;
use super::yaml::{Node, Value};

/// The words for what is spoken to backends.
pub(crate) const PROTOCOL_WORDS: [(&str, BackendProtocol); 2] = [
    ("http1", BackendProtocol::Http1),
    ("http2", BackendProtocol::Http2),
];

const SWITCH_WORDS: [(&str, bool); 2] = [("on", true), ("off", false)];

/// `http2:`, a mapping or one of the words `on` and `off`.
pub(super) fn http2(node: &Node, problems: &mut Problems) -> Option<Http2> {
    let default = Http2::default();
    if let Value::Scalar(_) = &node.value {
        let enabled = decode::choice(&SWITCH_WORDS)(node, problems)?.value;
        return Some(Http2 { enabled, ..default });
    }
    let mut fields = Fields::of(node, problems)?;
    let streams = decode::number(1..=Http2::STREAMS_LIMIT.into());
    let window = decode::parsed(|text| match notation::size(text)? {
        bytes if (Http2::WINDOW_LEAST.into()..=Http2::WINDOW_LIMIT.into()).contains(&bytes) => {
            Ok(bytes)
        }
        _ => Err(format!("\"{text}\" is not between 65535 and 16MiB")),
    });
    let interval = decode::parsed(|text| match notation::duration(text)? {
        least if least >= Duration::from_secs(1) => Ok(least),
        _ => Err(format!("\"{text}\" is less than 1s")),
    });
    let number = |it: Option<Located<u64>>, default: u32| {
        let value = it.and_then(|it| u32::try_from(it.value).ok());
        value.unwrap_or(default)
    };
    let settings = Http2 {
        enabled: true,
        streams_max: number(fields.optional("streams", streams), default.streams_max),
        window_bytes: number(fields.optional("window", window), default.window_bytes),
        ping_interval: fields
            .optional("ping_interval", interval)
            .map_or(default.ping_interval, |it| it.value),
    };
    fields.finish();
    Some(settings)
}
