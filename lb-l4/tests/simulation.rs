//! Random talks through `lb_l4::serve` on a simulated network, faults included: the storm of
//! `lb-core/tests/simulation`, with the real relay in the middle.
//!
//! `LB_SIM_SEEDS=N` runs N seeds instead of 256, `LB_SIM_SEED=S` the one that failed.

#[path = "../../lb-core/tests/simulation/seeds.rs"]
mod seeds;
#[path = "../../lb-core/tests/simulation/storm.rs"]
mod storm;
#[path = "../../lb-core/tests/simulation/talk.rs"]
mod talk;

use lb_core::balance::{Cluster, Context};
use lb_core::metrics::ListenerCounters;
use lb_core::plan;
use lb_core::rt::{self, ListenOptions, TaskId, TcpListener, sim};
use lb_core::snapshot::Held;
use lb_core::worker::Worker;
use lb_l4::TcpService;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

#[test]
fn random_talks_survive_sessions() {
    let splices = storm::run_seeds(start);
    assert!(splices > 0, "no seed spliced anything");
}

#[test]
fn a_seed_is_a_history() {
    storm::check_determinism(start);
}

fn start(backends: &[SocketAddr]) -> (SocketAddr, TaskId) {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = TcpListener::bind(any, &ListenOptions::default()).expect("bind");
    let front = listener.local_addr().expect("address");
    let service = service(backends);
    let accept = async move {
        let worker = Rc::new(Worker::new(0, Arc::default()));
        let counters = Arc::<ListenerCounters>::default();
        loop {
            match listener.accept().await {
                Ok(client) => {
                    let (service, of) = (service.clone(), Rc::clone(&worker));
                    worker
                        .connections
                        .spawn(Arc::clone(&counters), |registration| {
                            lb_l4::serve(client, service, of, registration)
                        });
                }
                Err(_out_of_descriptors) => rt::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    (front, rt::spawn(accept))
}

fn service(backends: &[SocketAddr]) -> Held<TcpService> {
    let backends = backends.iter().map(|&address| address.into()).collect();
    let cluster = plan::Cluster {
        balance: plan::Balance::RoundRobin,
        ..plan::Cluster::new("c", backends)
    };
    // One seed in four relays as it does by default, the others splice more often.
    let way = sim::trace() % 4;
    let plan = plan::Tcp {
        idle_timeout: Duration::from_secs(60),
        relay: if way == 0 {
            plan::Relay::Splice
        } else {
            plan::Relay::Auto
        },
        ..plan::Tcp::to("c")
    };
    let cluster = Arc::new(Cluster::build(&cluster, &Context::new(1, 1), None));
    let service = TcpService::build(&plan, &|_| Some(Arc::clone(&cluster)), None);
    let service = service.expect("the cluster is there");
    let service = if way == 1 { service } else { service.fickle() };
    Held::new(Arc::new(service))
}
