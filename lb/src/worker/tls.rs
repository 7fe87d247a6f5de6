//! A client's connection over TLS: the handshake, then what the listener does; and what becomes
//! known of handshakes that fail.
//!
//! Invariant: each handshake is counted once; of those that fail in one way, one a minute is logged.
//! Read next: `lb_l7::tls` (the handshake), `listeners.rs` (who accepts).

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use lb_core::connections::Registration;
use lb_core::metrics::{BackendTlsFailure, TlsFailure};
use lb_core::rt::TcpStream;
use lb_core::snapshot::Current;
use lb_l7::http2::{Offence, OffendingPeer, report_no_websockets, report_offences};
use lb_l7::tls::{TlsAcceptor, TlsRefusal, report_backend_failures};
use lb_l7::{HttpService, HttpWorker, Peer};

use crate::log::{Limiter, log};
use crate::snapshot::Listener;

/// Serves a connection to `listener` from `address`, or from where the socket says.
pub(super) async fn serve(
    stream: TcpStream,
    address: Option<SocketAddr>,
    acceptor: Arc<TlsAcceptor>,
    listener: Arc<Listener>,
    current: Rc<Current<HttpService>>,
    http: Rc<HttpWorker>,
    registration: Registration,
) {
    let Some(address) = address.or_else(|| stream.peer_addr().ok()) else {
        return; // gone already
    };
    registration.set_idle(true); // nothing is lost when we drain
    let handshake = Box::pin(acceptor.accept(stream)).await;
    registration.set_idle(false);
    match handshake {
        Ok(stream) => {
            let facts = Rc::clone(stream.facts());
            let counters = &registration.listener().tls;
            counters.done(facts.tls_version(), facts.resumed);
            let peer = Peer::new(address, Some(facts));
            // What a handshake took must not stay with a connection that lives for hours.
            drop((acceptor, listener));
            lb_l7::serve_client(stream, peer, current, http, registration).await;
        }
        Err(refusal) => {
            registration.listener().tls.failed(refusal.kind);
            log_failure(&listener, address, &refusal);
        }
    }
}

/// Says why handshakes with backends fail, and what to do about it: a client sees but a 503.
pub(crate) fn log_backend_failures() {
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

/// Says what becomes known of peers that speak HTTP/2.
pub(crate) fn log_http2() {
    log_missing_websockets();
    log_offences();
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

/// Clients that go away, as scanners and health checks of others do, are counted only.
fn log_failure(listener: &Listener, address: SocketAddr, refusal: &TlsRefusal) {
    static FAILURES: [Limiter; TlsFailure::ALL.len()] =
        [const { Limiter::new() }; TlsFailure::ALL.len()];
    if refusal.kind == TlsFailure::Closed || !FAILURES[refusal.kind as usize].allows() {
        return;
    }
    log!(
        Warn,
        "a TLS handshake failed",
        listener = listener.stats.name(),
        client = address,
        server_name = refusal.server_name.as_deref().unwrap_or("(none)"),
        kind = refusal.kind.name(),
        reason = refusal
    );
}
