//! Health checks through real sockets, on both engines.

#[allow(dead_code, reason = "shared with the other test programs")]
mod harness;

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use harness::{Hanging, listen, on_each_engine, refusing};
use lb_core::plan::UdpCheck;
use lb_l4::{CheckError, check_tcp, check_udp};

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

fn ping(expect: Option<&[u8]>) -> UdpCheck {
    UdpCheck {
        send: b"ping".to_vec(),
        expect: expect.map(<[u8]>::to_vec),
    }
}

/// Answers one datagram with `answer`, if it is a ping.
fn answering(answer: &'static [u8]) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let address = socket.local_addr().expect("its address");
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        let (count, from) = socket.recv_from(&mut buffer).expect("a datagram");
        assert_eq!(&buffer[..count], b"ping");
        socket.send_to(answer, from).expect("an answer");
    });
    address
}

#[test]
fn a_datagram_is_answered_as_expected_or_at_all() {
    on_each_engine(|| async {
        let result = check_udp(answering(b"pong 7"), &ping(Some(b"pong")), LONG).await;
        result.expect("it begins as expected");
        let result = check_udp(answering(b""), &ping(None), LONG).await;
        result.expect("any answer will do");
    });
}

#[test]
fn another_answer_than_expected_is_a_failure() {
    on_each_engine(|| async {
        let result = check_udp(answering(b"no\0"), &ping(Some(b"pong")), LONG).await;
        let error = result.expect_err("it begins otherwise").to_string();
        assert!(
            error.starts_with("the answer begins with \"no\\x00\""),
            "{error}"
        );
    });
}

#[test]
fn a_port_where_nobody_listens_refuses_datagrams() {
    // Nobody may bind it without being root.
    let nowhere = SocketAddr::from(([127, 77, 77, 77], 1));
    on_each_engine(move || async move {
        for check in [ping(None), ping(Some(b"pong"))] {
            let error = check_udp(nowhere, &check, LONG).await.expect_err("refused");
            assert!(
                matches!(&error, CheckError::Connect(why) if why.kind() == ErrorKind::ConnectionRefused),
                "{error}"
            );
        }
    });
}

#[test]
fn silence_is_good_only_where_nothing_is_expected() {
    on_each_engine(|| async {
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (address, limit) = (silent.local_addr().unwrap(), Duration::from_millis(50));
        let result = check_udp(address, &ping(None), limit).await;
        result.expect("nothing was refused");
        let result = check_udp(address, &ping(Some(b"pong")), limit).await;
        let error = result.expect_err("nothing came");
        assert!(matches!(error, CheckError::TimedOut(after) if after == limit));
    });
}
