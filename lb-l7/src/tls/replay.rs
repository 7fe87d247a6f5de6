//! Both ends of a connection after its handshake, without I/O, for fuzzing and for tests.
//!
//! Invariant: what is received goes the way that it goes in `stream.rs`; the peer says whatever it
//! is told to, under keys that our end knows.
//! Read next: `duplex/`, `fuzz/targets/tls_records.rs`.

use std::io;
use std::sync::Arc;

use lb_core::rt::Chunk;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{DnsName, ServerName};
use rustls::server::UnbufferedServerConnection;

use super::client::TlsClient;
use super::duplex::Duplex;
use super::handshake::{Handshaking, join};
use super::record::{Kind, OVERHEAD_MAX};
use super::server::TlsAcceptor;

/// Our end of a connection, and a peer that says anything.
pub struct TlsReplay {
    ours: Duplex,
    peer: Duplex,
    /// What has come out of what was received.
    plain: Vec<u8>,
}

impl TlsReplay {
    /// Makes the handshake; our end is the client's if `is_client`. `None` if they do not agree.
    #[must_use]
    pub fn new(server: &TlsAcceptor, client: &TlsClient, is_client: bool) -> Option<Self> {
        let name = ServerName::DnsName(DnsName::try_from("localhost").ok()?);
        let client = UnbufferedClientConnection::new(Arc::clone(client.config()), name).ok()?;
        let server = UnbufferedServerConnection::new(Arc::clone(server.config())).ok()?;
        let client = Handshaking::Client(Box::new(client));
        let server = Handshaking::Server(Box::new(server));
        let [client, server] = join(client, server, |_| Vec::new()).ok()?;
        let (ours, peer) = if is_client {
            (client, server)
        } else {
            (server, client)
        };
        let mut replay = Self {
            ours,
            peer,
            plain: Vec::new(),
        };
        pump(&mut replay.ours, &mut replay.plain).ok()?; // tickets
        pump(&mut replay.peer, &mut Vec::new()).ok()?;
        Some(replay)
    }

    /// A record of the peer, of any kind, at most 2^14 + 256 bytes long.
    pub fn record(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut room = vec![0; content.len() + OVERHEAD_MAX];
        let length = self.peer.sealer().seal_as(kind, [content, &[]], &mut room);
        room.truncate(length.unwrap_or(0));
        room
    }

    /// A record of the peer with data.
    pub fn data(&mut self, content: &[u8]) -> Vec<u8> {
        self.record(Kind::Data as u8, content)
    }

    /// The peer takes a new key (TLS 1.3), and asks for one of ours if `asks`.
    pub fn key_update(&mut self, asks: bool) -> Vec<u8> {
        let message = [24, 0, 0, 1, u8::from(asks)];
        let record = self.record(Kind::Handshake as u8, &message);
        let is_newer = self.peer.change_key().is_ok();
        drop(self.peer.take_control()); // it said so itself
        if is_newer { record } else { Vec::new() }
    }

    /// Takes bytes of the peer.
    ///
    /// # Errors
    /// What is wrong with them; the same from then on.
    pub fn receive(&mut self, bytes: &[u8]) -> io::Result<()> {
        pump(&mut self.ours, &mut self.plain)?;
        self.ours.receive(Chunk::from_vec(bytes.to_vec()));
        pump(&mut self.ours, &mut self.plain)
    }

    /// What has come out of what was received.
    #[must_use]
    pub fn plain(&self) -> &[u8] {
        &self.plain
    }

    /// Whether the peer has said that it is done.
    #[must_use]
    pub const fn is_ended(&self) -> bool {
        self.ours.is_ended
    }

    /// Bytes that wait to be sent before anything else.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.ours.control_len()
    }

    /// What our end sends with `content`, and what the peer takes it for.
    ///
    /// # Errors
    /// When either end cannot go on.
    pub fn answer(&mut self, content: &[u8]) -> io::Result<Vec<u8>> {
        let parts = [Some(Chunk::from_vec(content.to_vec())), None];
        let mut plain = Vec::new();
        for sealed in self.ours.seal(&parts)?.into_iter().flatten() {
            self.peer.receive(sealed);
            pump(&mut self.peer, &mut plain)?;
        }
        Ok(plain)
    }
}

/// As `TlsStream::poll_recv` does.
fn pump(end: &mut Duplex, plain: &mut Vec<u8>) -> io::Result<()> {
    while let Some(opened) = end.open()? {
        plain.extend_from_slice(&opened);
    }
    end.rest();
    Ok(())
}

#[cfg(test)]
mod tests {
    use lb_core::plan::{
        Certificate, KeyForm, PrivateKey, TlsCheck, TlsServer, TlsSuite, TlsVersion, Verify,
    };
    use proptest::prelude::*;

    use super::*;
    use crate::tls::TlsContext;

    fn settings(suite: TlsSuite) -> (TlsAcceptor, TlsClient) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
        let certificate = Certificate {
            name: "it".into(),
            server_names: Vec::new(),
            chain: vec![params.self_signed(&key).unwrap().der().to_vec()],
            key: PrivateKey {
                form: KeyForm::Pkcs8,
                der: key.serialize_der(),
            },
            ocsp: None,
        };
        let mut plan = TlsServer::new(vec![Arc::new(certificate)]);
        plan.suites = vec![suite];
        let server = TlsAcceptor::build(&plan, &TlsContext::new().unwrap(), None).unwrap();
        let check = TlsCheck {
            server_name: None,
            verify: Verify::Off,
        };
        (server, TlsClient::for_check(&check, &[]).unwrap())
    }

    /// Our end as the server's, and as the client's.
    fn ends(suite: TlsSuite) -> [TlsReplay; 2] {
        let (server, client) = settings(suite);
        [false, true].map(|is_client| TlsReplay::new(&server, &client, is_client).unwrap())
    }

    fn all() -> impl Iterator<Item = (TlsSuite, TlsReplay)> {
        let suites = TlsSuite::all().filter(|it| !it.name().contains("RSA_WITH"));
        suites.flat_map(|suite| ends(suite).map(|end| (suite, end)))
    }

    fn newer() -> impl Iterator<Item = TlsReplay> {
        all()
            .filter(|it| it.0.version() == TlsVersion::V1_3)
            .map(|it| it.1)
    }

    fn older() -> impl Iterator<Item = TlsReplay> {
        all()
            .filter(|it| it.0.version() == TlsVersion::V1_2)
            .map(|it| it.1)
    }

    fn refused(end: &mut TlsReplay, bytes: &[u8], reason: &str) {
        let error = end.receive(bytes).unwrap_err().to_string();
        assert!(error.contains(reason), "{reason}: {error}");
        assert!(end.receive(bytes).is_err(), "it does not go on");
        let told = if reason.contains("alert") {
            0
        } else {
            end.waiting()
        };
        assert!(told < 64, "one alert");
    }

    #[test]
    fn data_goes_both_ways_with_every_suite() {
        for (suite, mut end) in all() {
            let long: Vec<u8> = (0..100_000_u32).map(|it| it as u8).collect();
            for piece in long.chunks(1 << 14) {
                let record = end.data(piece);
                end.receive(&record).unwrap();
            }
            assert_eq!(end.plain(), long, "{suite:?}");
            assert_eq!(end.answer(&long).unwrap(), long, "{suite:?}");
        }
    }

    #[test]
    fn keys_change_while_data_flows() {
        for mut end in newer() {
            for round in 0..200 {
                let sent = [
                    end.data(b"before"),
                    end.key_update(round % 3 == 0),
                    end.data(b"behind"),
                ];
                end.receive(&sent.concat()).unwrap();
                if round % 5 == 0 {
                    assert_eq!(end.answer(b"answer").unwrap(), b"answer");
                }
            }
            assert_eq!(end.plain(), b"beforebehind".repeat(200));
        }
    }

    #[test]
    fn a_new_key_may_be_taken_right_behind_the_handshake() {
        let (acceptor, connector) = settings(TlsSuite::Aes128);
        let name = ServerName::try_from("localhost").unwrap();
        let client = UnbufferedClientConnection::new(Arc::clone(connector.config()), name);
        let server = UnbufferedServerConnection::new(Arc::clone(acceptor.config()));
        let client = Handshaking::Client(Box::new(client.unwrap()));
        let server = Handshaking::Server(Box::new(server.unwrap()));
        let behind = |client: &mut Duplex| {
            let mut room = [0; 100];
            let sealer = client.sealer();
            let length = sealer.seal(Kind::Handshake, [&[24, 0, 0, 1, 1], b""], &mut room);
            client.change_key().unwrap();
            drop(client.take_control());
            room[..length.unwrap()].to_vec()
        };
        let [client, server] = join(client, server, behind).unwrap();
        let mut end = TlsReplay {
            ours: server,
            peer: client,
            plain: Vec::new(),
        };
        pump(&mut end.peer, &mut Vec::new()).unwrap(); // tickets
        let data = end.data(b"data");
        end.receive(&data).unwrap();
        assert_eq!(end.plain(), b"data");
        assert_eq!(end.answer(b"answer").unwrap(), b"answer");
    }

    #[test]
    fn many_wishes_for_a_new_key_get_one_answer() {
        for mut end in newer() {
            let mut sent = Vec::new();
            for _ in 0..2000 {
                sent.extend(end.key_update(true));
                sent.extend(end.data(b"x"));
            }
            end.receive(&sent).unwrap();
            assert!(end.waiting() < 64, "{}", end.waiting());
            assert_eq!(end.answer(b"answer").unwrap(), b"answer");
            let again = end.key_update(true);
            end.receive(&again).unwrap();
            assert!(end.waiting() > 0, "the next one is answered again");
            assert_eq!(end.answer(b"answer").unwrap(), b"answer");
        }
    }

    #[test]
    fn empty_records_are_nothing_but_not_without_end() {
        for (_, mut end) in all() {
            let mut padded = vec![0; 1 << 14]; // what is left of a kind and padding
            padded[0] = 23;
            let mut sent = end.record(0, &padded[..1 << 13]);
            if end.receive(&sent).is_err() {
                continue; // TLS 1.2 has no padding
            }
            // A record of full length without data, and others right behind it.
            sent = end.record(0, &padded);
            sent.extend(end.data(b""));
            sent.extend(end.data(b"data"));
            end.receive(&sent).unwrap();
            assert_eq!(end.plain(), b"data");
        }
        for (_, mut end) in all() {
            let mut sent = end.data(b"data");
            (0..64).for_each(|_| sent.extend(end.data(b"")));
            end.receive(&sent).unwrap();
            let more = end.data(b"");
            refused(&mut end, &more, "Unexpected");
        }
    }

    #[test]
    fn records_of_too_many_bytes_are_refused() {
        for (_, mut end) in all() {
            let fits = end.data(&[7; 1 << 14]);
            end.receive(&fits).unwrap();
            let long = end.data(&[7; (1 << 14) + 1]);
            refused(&mut end, &long, "Overflow");
        }
        for mut end in newer() {
            let mut padded = vec![0; (1 << 14) + 1];
            padded[0] = 23;
            let long = end.record(0, &padded);
            refused(&mut end, &long, "Overflow");
        }
        for mut end in newer() {
            let long = [&[23, 3, 3, 0x41, 0x01][..], &[0; 0x4101]].concat();
            refused(&mut end, &long, "Overflow");
        }
    }

    #[test]
    fn what_does_not_belong_behind_a_handshake_is_refused() {
        let kinds: [(u8, &[u8], &str); 12] = [
            (20, &[1], "Unexpected"),                // ChangeCipherSpec
            (21, &[], "Unexpected"),                 // an alert without one
            (21, &[1], "Decode"),                    // half an alert
            (22, &[], "Unexpected"),                 // a message without one
            (22, &[0, 0, 0, 0], "Unexpected"),       // HelloRequest
            (22, &[1, 0, 0, 0], "Unexpected"),       // ClientHello: renegotiation
            (22, &[13, 0, 0, 0], "Unexpected"),      // CertificateRequest
            (22, &[1, 255, 255, 255], "Unexpected"), // and more to come
            (24, &[1], "Unexpected"),                // Heartbeat
            (99, &[1], "Unexpected"),
            (21, &[2, 40], "alert 40"),
            (21, &[2, 80], "alert 80"),
        ];
        for (kind, content, reason) in kinds {
            for (_, mut end) in all() {
                let record = end.record(kind, content);
                refused(&mut end, &record, reason);
                let _ = end.answer(b"x");
            }
        }
        for mut end in newer() {
            refused(&mut end, b"\x14\x03\x03\0\x01\x01", "Unexpected");
        }
        for (_, mut end) in all() {
            refused(&mut end, b"GET / HTTP/1.1\r\n", "Unexpected");
        }
        for mut end in newer() {
            let nothing = end.record(0, &[0; 100]);
            refused(&mut end, &nothing, "Unexpected");
        }
    }

    #[test]
    fn messages_are_checked() {
        let cases: [(&[u8], &str); 5] = [
            (&[24, 0, 0, 1, 2], "Illegal"),
            (&[24, 0, 0, 2, 0, 0], "Decode"),
            (&[24, 0, 0, 0], "Decode"),
            (&[24, 1, 0, 0], "Decode"),
            // The new key begins with the next record.
            (&[24, 0, 0, 1, 0, 24, 0, 0, 1, 0], "Unexpected"),
        ];
        for (content, reason) in cases {
            for mut end in newer() {
                let record = end.record(22, content);
                refused(&mut end, &record, reason);
            }
        }
        for mut end in newer() {
            // A message in pieces, with data in its midst.
            let sent = [end.record(22, &[24, 0]), end.data(b"data")].concat();
            refused(&mut end, &sent, "Unexpected");
        }
        for mut end in older() {
            let update = end.record(22, &[24, 0, 0, 1, 0]);
            refused(&mut end, &update, "Unexpected");
        }
    }

    #[test]
    fn a_ticket_is_for_clients_only() {
        for suite in TlsSuite::all().filter(|it| it.version() == TlsVersion::V1_3) {
            let [mut server, mut client] = ends(suite);
            let ticket = [&[4, 0, 0, 3][..], b"odd"].concat();
            let record = client.record(22, &ticket);
            client.receive(&record).unwrap(); // and of no use
            let record = server.record(22, &ticket);
            refused(&mut server, &record, "Unexpected");
            let record = client.record(22, &[4, 255, 255, 255]);
            refused(&mut client, &record, "Decode");
        }
    }

    #[test]
    fn what_came_before_a_bad_record_is_true() {
        for (_, mut end) in all() {
            let sent = [end.data(b"one"), end.data(b"two"), end.record(20, b"x")].concat();
            assert!(end.receive(&sent).is_err());
            assert_eq!(end.plain(), b"onetwo");
        }
    }

    #[test]
    fn after_the_end_nothing_counts() {
        for (_, mut end) in all() {
            let sent = [
                end.data(b"data"),
                end.record(21, &[1, 90]), // user_canceled
                end.record(21, &[1, 0]),
                end.data(b"more"),
            ];
            end.receive(&sent.concat()).unwrap();
            assert!(end.is_ended());
            assert_eq!(end.plain(), b"data");
            assert_eq!(
                end.answer(b"our side goes on").unwrap(),
                b"our side goes on"
            );
        }
    }

    #[test]
    fn a_record_counts_once() {
        for (_, mut end) in all() {
            let (first, second) = (end.data(b"1"), end.data(b"2"));
            end.receive(&first).unwrap();
            refused(&mut end, &first, "BadMac");
            for (_, mut end) in all().take(1) {
                let skipped = [end.data(b"1"), end.data(b"2")];
                refused(&mut end, &skipped[1], "BadMac");
            }
            drop(second);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_does_not_matter_how_bytes_are_cut(
            sizes in prop::collection::vec(0_usize..20_000, 1..12),
            cut in 1_usize..70_000,
            which in 0_usize..10,
        ) {
            let (_, mut end) = all().nth(which).unwrap();
            let (mut sent, mut meant) = (Vec::new(), Vec::new());
            for size in sizes {
                let content = vec![size as u8; size.min(1 << 14)];
                sent.extend(end.data(&content));
                meant.extend(content);
            }
            for piece in sent.chunks(cut) {
                end.receive(piece).unwrap();
            }
            prop_assert_eq!(end.plain(), meant);
        }

        #[test]
        fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 5..600)) {
            for mut end in newer() {
                let whole = [&[23, 3, 3, 0, 100][..], &bytes, &[0; 100]].concat();
                prop_assert!(end.receive(&whole).is_err());
                prop_assert!(end.plain().is_empty());
            }
        }
    }
}
