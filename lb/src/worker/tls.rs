//! A client's connection over TLS: the handshake, then what the listener does.
//!
//! Invariant: each handshake is counted once; of those that fail in one way, one a minute is logged.
//! Read next: `lb_l7::tls` (the handshake), `listeners.rs` (who accepts).

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use lb_core::connections::Registration;
use lb_core::metrics::TlsFailure;
use lb_core::rt::TcpStream;
use lb_core::snapshot::Current;
use lb_l7::tls::{TlsAcceptor, TlsRefusal};
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
