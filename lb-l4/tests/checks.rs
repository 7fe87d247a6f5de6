//! TCP health checks through real sockets, on both engines.

#[allow(dead_code, reason = "shared with the other test programs")]
mod harness;

use std::io::ErrorKind;
use std::time::Duration;

use harness::{Hanging, listen, on_each_engine, refusing};
use lb_l4::{CheckError, check_tcp};

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_backend_that_accepts_is_well() {
    on_each_engine(|| async {
        let (backend, address) = listen();
        check_tcp(address, LONG).await.expect("it listens");
        // Closed without a handshake, so the backend may see a reset as early as here.
        if let Ok(stream) = backend.accept().await {
            let seen = stream.recv().await.expect_err("a reset").kind();
            assert_eq!(seen, ErrorKind::ConnectionReset);
        }
    });
}

#[test]
fn a_backend_that_refuses_is_not() {
    on_each_engine(|| async {
        let error = check_tcp(refusing(), LONG)
            .await
            .expect_err("nobody listens");
        assert!(
            matches!(&error, CheckError::Connect(why) if why.kind() == ErrorKind::ConnectionRefused)
        );
        assert!(
            error.to_string().starts_with("connect: Connection refused"),
            "{error}"
        );
    });
}

#[test]
fn a_backend_that_does_not_answer_is_not_waited_for() {
    on_each_engine(|| async {
        let hanging = Hanging::new().await;
        let limit = Duration::from_millis(50);
        let error = check_tcp(hanging.address, limit)
            .await
            .expect_err("no answer");
        assert!(matches!(error, CheckError::TimedOut(after) if after == limit));
        assert_eq!(error.to_string(), "no answer within 50ms");
    });
}
