//! A relayed datagram costs no heap allocation.
#[path = "../../lb-core/tests/counting/mod.rs"]
mod counting;
#[allow(dead_code, reason = "shared with the other test programs")]
mod harness;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use counting::{allocations, count_this_thread};
use harness::on_each_engine;
use lb_core::balance::{Cluster, Context};
use lb_core::metrics::ListenerCounters;
use lb_core::plan;
use lb_core::rt::{Datagrams, UdpOptions, UdpSocket, spawn};
use lb_core::worker::Worker;
use lb_l4::{UdpListener, UdpService};

fn bind() -> (UdpSocket, SocketAddr) {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let socket = UdpSocket::bind(any, &UdpOptions::default()).expect("bind");
    let address = socket.local_addr();
    (socket, address)
}

/// The only test of this program: another one's allocations would be counted too.
#[test]
fn none_per_relayed_datagram() {
    count_this_thread();
    on_each_engine(|| async {
        let (backend, address) = bind();
        spawn(async move {
            loop {
                if let Ok(received) = backend.recv().await {
                    backend.send_to(received.datagrams, received.peer);
                }
            }
        });
        let (socket, front) = bind();
        let cluster = plan::Cluster::new("c", vec![address.into()]);
        let cluster = Arc::new(Cluster::build(&cluster, &Context::new(1, 1), None));
        let service = Arc::new(UdpService::build(plan::Udp::to("c"), cluster));
        let worker = Rc::new(Worker::new(0, Arc::default()));
        let counters = Arc::<ListenerCounters>::default();
        let _listener = UdpListener::start(socket, service, worker, Arc::clone(&counters));
        let clients: Vec<_> = (0..8)
            .map(|_| UdpSocket::connect(front).expect("connect"))
            .collect();
        for _ in 0..50 {
            echo(&clients).await;
        }
        let before = allocations();
        assert!(before > 0, "the allocator counts");
        let datagrams = counters.flows.sent.get();
        for _ in 0..300 {
            echo(&clients).await;
        }
        assert_eq!(allocations() - before, 0);
        assert_eq!(counters.flows.sent.get() - datagrams, 300 * 8 * 3);
    });
}

/// Three datagrams there and back for each client, all under way at once.
async fn echo(clients: &[UdpSocket]) {
    for client in clients {
        client.send(Datagrams::copy_from(&[7; 64]));
        client.send(Datagrams::train(&[7; 100], 64));
    }
    for client in clients {
        let mut received = 0;
        while received < 3 {
            received += client.recv().await.expect("receive").datagrams.count();
        }
    }
}
