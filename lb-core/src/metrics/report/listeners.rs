//! What is counted by listener: connections, sessions, flows, exchanges.
//!
//! Invariant: a listener shows only what one of its kind can count.
//! Read next: `clusters.rs`.

use super::Report;
use crate::metrics::{
    FlowEnd, FlowShed, Http2Counters, Kind, ListenerCounters, ListenerKind, Refusal, SessionEnd,
    StatusClass, Text, TlsFailure,
};
use crate::plan::TlsVersion;

impl Report<'_> {
    pub(super) fn write_connections(&self, text: &mut Text) {
        let all = |_| true;
        self.per_listener(
            text,
            "lb_client_connections_total",
            Kind::Counter,
            "Client connections accepted.",
            all,
            |shard| shard.accepted.get(),
        );
        self.per_listener(
            text,
            "lb_client_connections_active",
            Kind::Gauge,
            "Client connections open.",
            all,
            |shard| shard.active.get(),
        );
        self.write_refusals(text);
        self.write_handshakes(text);
        self.per_listener(
            text,
            "lb_accept_pauses_total",
            Kind::Counter,
            "Times that accepting paused because descriptors or memory ran out.",
            all,
            |shard| shard.accept_pauses.get(),
        );
        self.per_listener(
            text,
            "lb_client_received_bytes_total",
            Kind::Counter,
            "Bytes received from clients.",
            all,
            |shard| shard.received_bytes.get(),
        );
        self.per_listener(
            text,
            "lb_client_sent_bytes_total",
            Kind::Counter,
            "Bytes sent to clients.",
            all,
            |shard| shard.sent_bytes.get(),
        );
    }

    fn write_refusals(&self, text: &mut Text) {
        let mut family = text.family(
            "lb_client_connections_refused_total",
            Kind::Counter,
            "Client connections closed instead of being served, by the reason.",
        );
        for listener in self.listeners {
            for refusal in Refusal::ALL {
                let labels = [("listener", listener.name()), ("reason", refusal.name())];
                family.sample(&labels, listener.sum(|shard| shard.refusals(refusal)));
            }
        }
    }

    fn write_handshakes(&self, text: &mut Text) {
        let with_tls = || self.listeners.iter().filter(|listener| listener.has_tls);
        let mut family = text.family(
            "lb_tls_handshakes_total",
            Kind::Counter,
            "TLS handshakes with clients, by version and whether a session was resumed.",
        );
        for listener in with_tls() {
            for (version, resumed) in TlsVersion::ALL
                .into_iter()
                .flat_map(|it| [(it, false), (it, true)])
            {
                let labels = [
                    ("listener", listener.name()),
                    ("version", version.name()),
                    ("resumed", if resumed { "true" } else { "false" }),
                ];
                let count = listener.sum(|shard| shard.tls.handshakes(version, resumed));
                family.sample(&labels, count);
            }
        }
        let mut family = text.family(
            "lb_tls_handshake_failures_total",
            Kind::Counter,
            "TLS handshakes with clients that failed, by the reason.",
        );
        for listener in with_tls() {
            for failure in TlsFailure::ALL {
                let labels = [("listener", listener.name()), ("reason", failure.name())];
                family.sample(&labels, listener.sum(|shard| shard.tls.failures(failure)));
            }
        }
    }

    pub(super) fn write_sessions(&self, text: &mut Text) {
        let mut family = text.family(
            "lb_sessions_total",
            Kind::Counter,
            "TCP sessions that ended, by the reason.",
        );
        for listener in self.of_kind(ListenerKind::Tcp) {
            for end in SessionEnd::ALL {
                let labels = [("listener", listener.name()), ("end", end.name())];
                family.sample(&labels, listener.sum(|shard| shard.sessions(end)));
            }
        }
    }

    pub(super) fn write_http2(&self, text: &mut Text) {
        type Number = fn(&ListenerCounters) -> u64;
        let families: [(&str, Kind, &str, Number); 5] = [
            (
                "lb_http2_connections_total",
                Kind::Counter,
                "Client connections that speak HTTP/2.",
                |shard| shard.http2.connections.get(),
            ),
            (
                "lb_http2_connections_active",
                Kind::Gauge,
                "Client connections open that speak HTTP/2.",
                |shard| shard.http2.connections_active.get(),
            ),
            (
                "lb_http2_streams_total",
                Kind::Counter,
                "HTTP/2 streams that clients have begun.",
                |shard| shard.http2.streams.get(),
            ),
            (
                "lb_http2_offences_total",
                Kind::Counter,
                "HTTP/2 connections ended as the client broke the rules of the protocol.",
                |shard| shard.http2.offences.get(),
            ),
            (
                "lb_http2_floods_total",
                Kind::Counter,
                "HTTP/2 connections ended as the client did what costs us more than it.",
                |shard| shard.http2.floods.get(),
            ),
        ];
        for (name, kind, help, number) in families {
            self.per_listener(
                text,
                name,
                kind,
                help,
                |it| it == ListenerKind::Http,
                number,
            );
        }
    }

    /// By the codes that have occurred: of the others, there would be too many series of zero.
    pub(super) fn write_resets(&self, text: &mut Text) {
        type Number = fn(&ListenerCounters, usize) -> u64;
        let families: [(&str, &str, Number); 2] = [
            (
                "lb_http2_resets_received_total",
                "HTTP/2 streams that clients have reset, by the error code, if there were any.",
                |shard, code| shard.http2.resets_received[code].get(),
            ),
            (
                "lb_http2_resets_sent_total",
                "HTTP/2 streams of clients that we have reset, by the error code, if there were any.",
                |shard, code| shard.http2.resets_sent[code].get(),
            ),
        ];
        for (name, help, number) in families {
            let mut family = text.family(name, Kind::Counter, help);
            for listener in self.of_kind(ListenerKind::Http) {
                for (code, code_name) in Http2Counters::RESET_CODES.iter().enumerate() {
                    let count = listener.sum(|shard| number(shard, code));
                    if count > 0 {
                        let labels = [("listener", listener.name()), ("code", code_name)];
                        family.sample(&labels, count);
                    }
                }
            }
        }
    }

    pub(super) fn write_flows(&self, text: &mut Text) {
        type Number = fn(&ListenerCounters) -> u64;
        let families: [(&str, &str, Number); 3] = [
            (
                "lb_udp_received_datagrams_total",
                "Datagrams received from clients.",
                |shard| shard.flows.received.get(),
            ),
            (
                "lb_udp_sent_datagrams_total",
                "Datagrams sent to clients.",
                |shard| shard.flows.sent.get(),
            ),
            (
                "lb_udp_flows_moved_total",
                "Times that a flow went on to another backend.",
                |shard| shard.flows.moved.get(),
            ),
        ];
        let is_udp = |kind| kind == ListenerKind::Udp;
        for (name, help, number) in families {
            self.per_listener(text, name, Kind::Counter, help, is_udp, number);
        }
        let mut ended = text.family(
            "lb_udp_flows_total",
            Kind::Counter,
            "UDP flows that ended, by the reason.",
        );
        for listener in self.of_kind(ListenerKind::Udp) {
            for end in FlowEnd::ALL {
                let labels = [("listener", listener.name()), ("end", end.name())];
                ended.sample(&labels, listener.sum(|shard| shard.flows.ends(end)));
            }
        }
        let mut shed = text.family(
            "lb_udp_flows_shed_total",
            Kind::Counter,
            "UDP flows that were not begun, by the reason; their datagrams were dropped.",
        );
        for listener in self.of_kind(ListenerKind::Udp) {
            for why in FlowShed::ALL {
                let labels = [("listener", listener.name()), ("reason", why.name())];
                shed.sample(&labels, listener.sum(|shard| shard.flows.sheds(why)));
            }
        }
    }

    pub(super) fn write_exchanges(&self, text: &mut Text) {
        let mut family = text.family(
            "lb_exchanges_total",
            Kind::Counter,
            "HTTP exchanges answered, by the class of the status.",
        );
        for listener in self.of_kind(ListenerKind::Http) {
            for class in StatusClass::ALL {
                let labels = [("listener", listener.name()), ("status", class.name())];
                family.sample(&labels, listener.sum(|shard| shard.exchanges(class)));
            }
        }
        self.per_listener(
            text,
            "lb_exchanges_active",
            Kind::Gauge,
            "HTTP exchanges under way.",
            |kind| kind == ListenerKind::Http,
            |shard| shard.exchanges_active.get(),
        );
        self.per_listener(
            text,
            "lb_exchanges_aborted_total",
            Kind::Counter,
            "HTTP exchanges whose client was gone before it had its response.",
            |kind| kind == ListenerKind::Http,
            |shard| shard.exchanges_aborted.get(),
        );
        self.per_listener(
            text,
            "lb_upgrades_total",
            Kind::Counter,
            "Connections that went on in another protocol, as WebSockets do.",
            |kind| kind == ListenerKind::Http,
            |shard| shard.upgrades.get(),
        );
        self.per_listener(
            text,
            "lb_upgrades_active",
            Kind::Gauge,
            "Connections open that went on in another protocol.",
            |kind| kind == ListenerKind::Http,
            |shard| shard.upgrades_active.get(),
        );
        let mut family = text.family(
            "lb_exchange_duration_seconds",
            Kind::Histogram,
            "From the end of a request's head to the end of its response.",
        );
        for listener in self.of_kind(ListenerKind::Http) {
            let shards = listener.shards.iter().map(|shard| &shard.exchange_time);
            family.histogram(&[("listener", listener.name())], shards);
        }
    }
}
