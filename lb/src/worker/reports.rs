//! What the workers find wrong with peers, as lines of the log.
//!
//! Invariant: of each kind, one a minute is logged, however often it happens; metrics count all.
//! Read next: `tls.rs` (handshakes of clients), `lb_l7::http2` and `lb_l7::tls` (who report).

use lb_core::metrics::BackendTlsFailure;
use lb_l7::http2::{Offence, OffendingPeer, report_no_websockets, report_offences};
use lb_l7::tls::report_backend_failures;

use crate::log::{Limiter, log};

/// Logs from now on what the protocols report.
pub(crate) fn log_reports() {
    log_backend_failures();
    log_missing_websockets();
    log_offences();
}

/// Says why handshakes with backends fail, and what to do about it: a client sees but a 503.
fn log_backend_failures() {
    static FAILURES: [Limiter; BackendTlsFailure::ALL.len()] =
        [const { Limiter::new() }; BackendTlsFailure::ALL.len()];
    report_backend_failures(|cluster, backend, refusal| {
        if FAILURES[refusal.kind as usize].allows() {
            log!(
                Warn,
                "a TLS handshake with a backend failed",
                cluster = cluster,
                backend = backend,
                kind = refusal.kind.name(),
                reason = refusal,
                hint = refusal.hint
            );
        }
    });
}

/// Says which backends take no WebSockets over HTTP/2, once a minute: a client sees but a 502.
fn log_missing_websockets() {
    static MISSING: Limiter = Limiter::new();
    report_no_websockets(|cluster, backend| {
        if MISSING.allows() {
            log!(
                Warn,
                "a backend takes no WebSockets",
                cluster = cluster,
                backend = backend,
                reason =
                    "it speaks HTTP/2, and its SETTINGS do not allow extended CONNECT (RFC 8441)"
            );
        }
    });
}

/// Says which peers break the rules of HTTP/2, and how: of clients and of backends one a minute.
fn log_offences() {
    static OFFENCES: [Limiter; 2] = [const { Limiter::new() }; 2];
    report_offences(|offence| {
        let Offence { peer, code, reason } = offence;
        let code = code.name();
        match *peer {
            OffendingPeer::Client { local, address } if OFFENCES[0].allows() => log!(
                Warn,
                "a client's connection of HTTP/2 was ended",
                address = local.map_or_else(String::new, |it| it.to_string()),
                client = address,
                code = code,
                reason = reason
            ),
            OffendingPeer::Backend { cluster, backend } if OFFENCES[1].allows() => log!(
                Warn,
                "a backend's connection of HTTP/2 was ended",
                cluster = cluster,
                backend = backend,
                code = code,
                reason = reason
            ),
            OffendingPeer::Client { .. } | OffendingPeer::Backend { .. } => {}
        }
    });
}
