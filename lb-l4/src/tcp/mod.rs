//! A TCP session: choose a backend, connect, relay both ways, count how it ended.
//!
//! Invariant: the client sees what it would see of the backend itself: bytes in order, a half-close
//! as a half-close, a reset as a reset; a session without a backend is reset.
//! Read next: `connect.rs`, then `relay.rs`, `direction.rs`, `pace.rs`.

mod connect;
mod direction;
mod pace;
mod relay;

use std::rc::Rc;
use std::sync::Arc;

use lb_core::balance::Cluster;
use lb_core::connections::Registration;
use lb_core::metrics::SessionEnd;
use lb_core::plan;
use lb_core::rt::TcpStream;
use lb_core::snapshot::Held;
use lb_core::worker::Worker;

/// What a TCP listener does with its connections; part of a snapshot.
#[derive(Debug)]
pub struct TcpService {
    cluster: Arc<Cluster>,
    settings: relay::Settings,
}

impl TcpService {
    /// Builds the service of a valid plan's listener; `cluster` is the one that it names.
    #[must_use]
    pub const fn build(plan: &plan::Tcp, cluster: Arc<Cluster>) -> Self {
        Self {
            cluster,
            settings: relay::Settings {
                idle_timeout: plan.idle_timeout,
                relay: plan.relay,
                fickle: false,
            },
        }
    }

    /// For tests: `auto` changes between copying and splicing every few hundred bytes.
    #[must_use]
    pub const fn fickle(mut self) -> Self {
        self.settings.fickle = true;
        self
    }

    /// Where its sessions go.
    #[must_use]
    pub const fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }
}

/// Runs one session from the accepted connection to its end.
pub async fn serve(
    client: TcpStream,
    service: Held<TcpService>,
    worker: Rc<Worker>,
    registration: Registration,
) {
    let counters = registration.listener();
    // A client that is gone already has no address.
    let Ok(address) = client.peer_addr() else {
        return counters.session_ended(SessionEnd::Abandoned);
    };
    match connect::any(&client, address, &service.cluster, &worker).await {
        Ok((lease, stream)) => {
            let own = lease.backend().counters(worker.index);
            let _active = own.connections_active.hold();
            let end = relay::relay(&client, &stream, service.settings, counters).await;
            counters.session_ended(end);
        }
        Err(end) => {
            client.reset_on_drop();
            counters.session_ended(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_core::balance::Context;
    use lb_core::rt::{Config, ListenOptions, Runtime, TcpListener};

    /// What an idle session holds besides its two sockets; they are about 200 bytes each.
    #[test]
    fn a_sessions_task_is_small() {
        let mut runtime = Runtime::new(&Config::default()).expect("a runtime");
        let size = runtime.block_on(async {
            let any = "127.0.0.1:0".parse().expect("an address");
            let listener = TcpListener::bind(any, &ListenOptions::default()).expect("bind");
            let address = listener.local_addr().expect("an address");
            let client = TcpStream::connect(address).await.expect("connect");
            let plan = plan::Tcp::to("c");
            let cluster = plan::Cluster::new("c", Vec::new());
            let cluster = Arc::new(Cluster::build(&cluster, &Context::new(0, 1), None));
            let service = Held::new(Arc::new(TcpService::build(&plan, cluster)));
            let worker = Rc::new(Worker::new(0, Arc::default()));
            let (sender, size) = std::sync::mpsc::channel();
            worker.connections.spawn(Arc::default(), |registration| {
                let future = serve(client, service, Rc::clone(&worker), registration);
                sender
                    .send(size_of_val(&future))
                    .expect("the receiver is there");
                future
            });
            size.recv().expect("a size")
        });
        assert!(size <= 640, "{size} bytes");
    }
}
