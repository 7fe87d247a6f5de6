//! A small record, and the result of a run, for the tests of the report: one round of `lb` at 10 µs a request, nginx at 20
//! and HAProxy at 12.5.

use std::collections::BTreeMap;

use super::record::{
    FixedRate, Latency, Load, Machine, Outcome, Peer, Record, Round, Scenario, Settings, Work,
};
use crate::run::{
    Affinity, Datagrams, Errors, GeneratorHealth, Handshakes, Idle, LatencyMicros, LoadMode,
    Second, Summary,
};

/// The record.
pub(crate) fn record() -> Record {
    let machine = Machine {
        cpu: "AMD EPYC".to_owned(),
        cores: 2,
        memory_mib: 8_000,
        kernel: "6.18".to_owned(),
        system: "Debian".to_owned(),
        virtual_machine: true,
    };
    let settings = Settings {
        rounds: 1,
        duration_s: 5.0,
        warmup_s: 1.0,
        balancer_cpu: 0,
        generator_cpu: 1,
        generator_version: "0.1.0".to_owned(),
    };
    let started = "2026-01-31T12:00:00Z".to_owned();
    let mut record = Record::new(started, "loadgen compare".to_owned(), machine, settings);
    let costs = [("lb", 10.0), ("nginx", 20.0), ("haproxy", 12.5)];
    for (name, _) in costs {
        record.peers.push(Peer {
            name: name.to_owned(),
            version: "1.0".to_owned(),
        });
    }
    let load = costs.map(|(peer, cpu_us)| Round {
        round: 1,
        peer: peer.to_owned(),
        outcome: Outcome::Measured(sample_load(cpu_us)),
    });
    record.scenarios.push(Scenario {
        name: "l7-keepalive".to_owned(),
        description: "Requests.".to_owned(),
        work: Work::Request,
        setups: Vec::new(),
        origins_command: String::new(),
        load_command: String::new(),
        load: load.to_vec(),
        fixed_rate: Some(FixedRate {
            per_s: 20_000.0,
            load_command: String::new(),
            rounds: load.to_vec(),
        }),
        idle: Vec::new(),
        spread: Vec::new(),
        absent: Vec::new(),
    });
    record
}

fn sample_load(cpu_us: f64) -> Load {
    Load {
        completed: 200_000.0,
        per_s: 40_000.0,
        cpu_us,
        cpu_s: cpu_us * 0.2,
        user_s: cpu_us * 0.02,
        system_s: cpu_us * 0.18,
        core_busy_s: cpu_us * 0.2,
        stolen_s: 0.0,
        window_s: 5.0,
        reconnects: 0,
        latency: Latency {
            p50_us: 900.0,
            p99_us: 1500.0,
            p999_us: 2500.0,
            max_us: 4000.0,
        },
        generator: GeneratorHealth::default(),
    }
}

/// The result of a run: two requests of two thousand failed.
pub(crate) fn summary() -> Summary {
    Summary {
        url: "http://127.0.0.1:8080/".into(),
        mode: LoadMode::Open { rate_per_s: 1000.0 },
        connections: 8,
        threads: 1,
        engine: "uring".into(),
        new_connections: false,
        is_partial: false,
        duration_s: 2.0,
        completed: 2000,
        rate_per_s: 1000.0,
        bytes_received: 128_000,
        errors: Errors {
            reset: 2,
            ..Errors::default()
        },
        unanswered: 0,
        reconnects: 0,
        idle: Some(Idle::default()),
        handshakes: Some(Handshakes::default()),
        latency_us: LatencyMicros {
            min: 20.5,
            ..LatencyMicros::default()
        },
        histogram: vec![(20.5, 1999), (800.0, 1)],
        per_origin: BTreeMap::from([("a".into(), 1000), ("b".into(), 1000)]),
        balance: None,
        streamed_bytes: 0,
        datagrams: Some(Datagrams::default()),
        affinity: Some(Affinity::default()),
        per_kind: BTreeMap::new(),
        generator: GeneratorHealth::default(),
        timeline: vec![Second {
            t: 1,
            completed: 1000,
            ..Second::default()
        }],
    }
}
