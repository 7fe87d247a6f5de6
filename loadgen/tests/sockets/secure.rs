//! TLS, at both ends: handshakes whole and resumed, certificates that are and are not trusted.

use std::fs;

use lb_core::rt::EngineKind;
use lb_l7::tls::roots_from_pem;
use loadgen::gate::Gate;
use loadgen::origin::{self, Origin};
use loadgen::run::{self, Config, RunError, Summary};
use loadgen::tls::{Identity, TlsRequest, Version};

use crate::support::{ANY, PATIENCE, on_each_engine, run, short};

fn origin(engine: EngineKind, body: usize) -> Origin {
    let config = origin::Config {
        https: vec![ANY],
        name: Some("blue".into()),
        body,
        ..origin::Config::new(engine)
    };
    Origin::start(&config).unwrap()
}

fn config(origin: &Origin, engine: EngineKind, tls: TlsRequest) -> Config {
    Config {
        tls,
        ..short(&format!("https://{}/", origin.https()[0]), engine)
    }
}

#[test]
fn lasting_connections_carry_answers_of_any_size() {
    on_each_engine(|engine| {
        for body in [0, 64, 3 << 20] {
            let origin = origin(engine, body);
            let summary = run(&config(&origin, engine, TlsRequest::default()));
            assert!(summary.is_clean(), "{summary}");
            assert_eq!(summary.per_origin["blue"], summary.completed);
            assert_eq!(summary.reconnects, 0, "tickets end no connection");
            assert!(summary.bytes_received >= summary.completed * body as u64);
        }
    });
}

/// A run that is long enough for some requests, however busy the machine is.
fn run_some(mut config: Config) -> Summary {
    loop {
        let summary = run(&config);
        if summary.completed >= 8 || config.duration > PATIENCE {
            return summary;
        }
        config.duration *= 2;
    }
}

#[test]
fn as_many_handshakes_are_resumed_as_were_asked_for() {
    on_each_engine(|engine| {
        let origin = origin(engine, 64);
        for version in [Version::Tls12, Version::Tls13] {
            for resume in [0.0, 0.5, 1.0] {
                let tls = TlsRequest {
                    resume,
                    version: Some(version),
                    ..TlsRequest::default()
                };
                let summary = run_some(Config {
                    new_connections: true,
                    ..config(&origin, engine, tls)
                });
                assert!(summary.is_clean(), "{summary}");
                let made = summary.handshakes.unwrap();
                assert_eq!(made.full + made.resumed, summary.reconnects);
                match resume {
                    0.0 => assert_eq!(made.resumed, 0, "{summary}"),
                    // The first two have nothing to resume.
                    1.0 => assert!(made.full <= 2 && made.resumed > 0, "{summary}"),
                    _ => assert!(made.full > 0 && made.resumed > 0, "{summary}"),
                }
            }
        }
    });
}

#[test]
fn with_authorities_a_certificate_must_be_one_of_theirs() {
    let folder = std::env::temp_dir().join(format!("authorities-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let made = |name: &str| {
        let identity = Identity::self_signed(&["127.0.0.1"]).unwrap();
        identity.write(&folder, name).unwrap();
        let text = fs::read(folder.join(format!("{name}.crt"))).unwrap();
        (identity, roots_from_pem(&text).unwrap())
    };
    let ((identity, own), (_, other)) = (made("own"), made("other"));
    fs::remove_dir_all(&folder).unwrap();
    let origin = Origin::start(&origin::Config {
        https: vec![ANY],
        identity: Some(identity),
        ..origin::Config::new(EngineKind::Epoll)
    })
    .unwrap();
    let trusting = |roots| TlsRequest {
        roots,
        ..TlsRequest::default()
    };
    let good = config(&origin, EngineKind::Epoll, trusting(own));
    assert!(run(&good).is_clean());
    let bad = config(&origin, EngineKind::Epoll, trusting(other));
    let error = run::run(&bad, &mut (), &Gate::new()).unwrap_err();
    assert!(matches!(error, RunError::Connect { .. }), "{error}");
    assert!(error.to_string().contains("ertificate"), "{error}");
}

#[test]
fn what_speaks_no_tls_is_a_failure_with_a_reason() {
    let plain = Origin::start(&origin::Config {
        http: vec![ANY],
        ..origin::Config::new(EngineKind::Epoll)
    })
    .unwrap();
    let url = format!("https://{}/", plain.http()[0]);
    let error = run::run(&short(&url, EngineKind::Epoll), &mut (), &Gate::new()).unwrap_err();
    assert!(
        error.to_string().contains(&plain.http()[0].to_string()),
        "{error}"
    );
}
