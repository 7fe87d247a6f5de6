//! Any records of a peer that has made its handshake, whole or broken. However they are cut, the
//! same comes out of them; what is answered is bounded; and what our end sends later is understood.
#![no_main]

use std::sync::{Arc, LazyLock};

use lb_core::plan::{Certificate, KeyForm, PrivateKey, TlsCheck, TlsServer, TlsSuite, Verify};
use lb_l7::tls::{TlsAcceptor, TlsClient, TlsContext, TlsReplay};
use libfuzzer_sys::fuzz_target;

/// What takes most of the time: certificates and settings, for each suite.
static ENDS: LazyLock<Vec<(TlsAcceptor, TlsClient)>> = LazyLock::new(|| {
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec!["localhost".into()]).expect("a name");
    let certificate = Arc::new(Certificate {
        name: "it".into(),
        server_names: Vec::new(),
        chain: vec![
            params
                .self_signed(&key)
                .expect("a certificate")
                .der()
                .to_vec(),
        ],
        key: PrivateKey {
            form: KeyForm::Pkcs8,
            der: key.serialize_der(),
        },
        ocsp: None,
    });
    let context = TlsContext::new().expect("random numbers");
    let check = TlsCheck {
        server_name: None,
        verify: Verify::Off,
    };
    let suites = TlsSuite::all().filter(|suite| !suite.name().contains("RSA_WITH"));
    let ends = suites.map(|suite| {
        let mut plan = TlsServer::new(vec![Arc::clone(&certificate)]);
        plan.suites = vec![suite];
        let server = TlsAcceptor::build(&plan, &context, None).expect("a server");
        (server, TlsClient::for_check(&check, &[]).expect("a client"))
    });
    ends.collect()
});

fuzz_target!(|input: &[u8]| {
    let [which, cut, rest @ ..] = input else {
        return;
    };
    let (server, client) = &ENDS[usize::from(which >> 1) % ENDS.len()];
    let end = || TlsReplay::new(server, client, which & 1 == 1).expect("a handshake");
    let (mut whole, mut pieces) = (end(), end());
    let (one, two) = (records(&mut whole, rest), records(&mut pieces, rest));
    assert_eq!(one.len(), two.len());
    let is_fine = whole.receive(&one).is_ok();
    let size = usize::from(*cut) * 7 + 1;
    let was_fine = two.chunks(size).all(|piece| pieces.receive(piece).is_ok());
    assert_eq!(is_fine, was_fine);
    assert_eq!(whole.plain(), pieces.plain());
    assert_eq!(whole.is_ended(), pieces.is_ended());
    assert!(whole.waiting() < 128, "more than one new key and one alert");
    if is_fine {
        let answer = whole.answer(b"answer").expect("an answer");
        assert_eq!(answer, b"answer");
    }
});

/// What the peer sends: each operation is a byte, a length and what it is about.
fn records(end: &mut TlsReplay, mut rest: &[u8]) -> Vec<u8> {
    let mut sent = Vec::new();
    while let [what, length, more @ ..] = rest {
        let (content, behind) = more.split_at(more.len().min(usize::from(*length)));
        rest = behind;
        let long = |byte: u8| [&vec![byte; usize::from(*length) * 65][..], content].concat();
        match what % 10 {
            0 => sent.extend(end.data(content)),
            1 => sent.extend(end.data(&long(1))),
            2 => sent.extend(end.record(21, content)),
            3 => sent.extend(end.record(22, content)),
            4 => sent.extend(end.key_update(true)),
            5 => sent.extend(end.key_update(false)),
            // With padding where there is some: a content, its kind, zeros.
            6 => sent.extend(end.record(0, &[content, &long(0)[..]].concat())),
            7 => sent.extend(end.record(what / 10, content)),
            8 => sent.extend(content),
            _ => {
                // A record changed on its way.
                let start = sent.len();
                sent.extend(end.data(content));
                let at = start + usize::from(*length) % 22.min(sent.len() - start);
                sent[at] ^= what / 10;
            }
        }
    }
    sent
}
