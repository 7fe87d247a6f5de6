//! Session tickets: what lets a client go on where it was, on any worker and, by shared secrets,
//! on any node.
//!
//! Invariant: a ticket opens only where client certificates are asked for in the same way as where
//! it was made: otherwise a client could take a session to where it would not have got one. A
//! random secret is gone after two rotations, and with it what was said under its tickets.
//! Read next: `server.rs` (who makes them).

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::rand;
use lb_core::plan::{TicketKey, TlsServer};
use lb_core::rt::{self, Instant};
use rustls::server::ProducesTickets;

/// Bytes of a key's name, by which a ticket says what opens it.
const NAME_LEN: usize = 16;

/// The secrets from which tickets are keyed; one for all listeners of a process.
#[derive(Debug)]
pub struct TicketSecrets(ArcSwap<Secrets>);

#[derive(Debug)]
struct Secrets {
    /// The first one makes tickets.
    keys: Vec<Arc<Key>>,
    /// When it must change, if ever.
    rotate_at: Option<Instant>,
}

struct Key {
    name: [u8; NAME_LEN],
    aead: LessSafeKey,
}

impl fmt::Debug for Key {
    /// Does not show it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    fn of_secret(secret: &[u8]) -> Option<Self> {
        let pseudo_random = Salt::new(HKDF_SHA256, b"lb session tickets").extract(secret);
        let mut bytes = [0; NAME_LEN + 32];
        let mut at = 0;
        // Two derivations: what names a key says nothing of it.
        for (label, len) in [(&b"name"[..], NAME_LEN), (b"key", 32)] {
            let info = [label];
            let derived = pseudo_random.expand(&info, Length(len)).ok()?;
            derived.fill(&mut bytes[at..at + len]).ok()?;
            at += len;
        }
        let (name, key) = bytes.split_first_chunk::<NAME_LEN>()?;
        Some(Self {
            name: *name,
            aead: LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?),
        })
    }

    /// `None` when the kernel has no random numbers.
    fn random() -> Option<Self> {
        let mut secret = [0; 32];
        rand::fill(&mut secret).ok()?;
        Self::of_secret(&secret)
    }
}

struct Length(usize);

impl aws_lc_rs::hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl TicketSecrets {
    /// Random ones, which rotate. `None` when the kernel has no random numbers.
    #[must_use]
    pub fn random() -> Option<Arc<Self>> {
        let secrets = Secrets {
            keys: vec![Arc::new(Key::random()?)],
            rotate_at: Some(rt::now() + TlsServer::TICKETS_ROTATE),
        };
        Some(Arc::new(Self(ArcSwap::from_pointee(secrets))))
    }

    /// Those of a plan: whoever makes it rotates them. `None` without any.
    #[must_use]
    pub fn of_keys(keys: &[TicketKey]) -> Option<Arc<Self>> {
        let keys = keys.iter().map(|key| Key::of_secret(&key.0).map(Arc::new));
        let keys: Option<Vec<_>> = keys.collect();
        let keys = keys.filter(|keys| !keys.is_empty())?;
        let secrets = Secrets {
            keys,
            rotate_at: None,
        };
        Some(Arc::new(Self(ArcSwap::from_pointee(secrets))))
    }

    fn current(&self) -> arc_swap::Guard<Arc<Secrets>> {
        let secrets = self.0.load();
        match secrets.rotate_at {
            Some(at) if rt::now() >= at => self.rotate(secrets),
            _ => secrets,
        }
    }

    /// Of several workers that notice at once, one succeeds.
    #[cold]
    fn rotate(&self, old: arc_swap::Guard<Arc<Secrets>>) -> arc_swap::Guard<Arc<Secrets>> {
        let Some(new) = Key::random() else {
            return old;
        };
        let mut keys = vec![Arc::new(new)];
        keys.extend(old.keys.first().cloned());
        let new = Arc::new(Secrets {
            keys,
            rotate_at: Some(rt::now() + TlsServer::TICKETS_ROTATE),
        });
        let _ = self.0.compare_and_swap(&*old, new);
        self.0.load()
    }
}

/// Makes and opens the tickets of one listener.
#[derive(Debug)]
pub(crate) struct Ticketer {
    secrets: Arc<TicketSecrets>,
    /// What the listener asks of clients' certificates, in short.
    context: [u8; 32],
}

impl Ticketer {
    pub(crate) const fn new(secrets: Arc<TicketSecrets>, context: [u8; 32]) -> Self {
        Self { secrets, context }
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        // Between one and two rotations the secret is gone.
        TlsServer::TICKETS_ROTATE.as_secs() as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let secrets = self.secrets.current();
        let key = secrets.keys.first()?;
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut ticket = Vec::with_capacity(NAME_LEN + NONCE_LEN + plain.len() + 16);
        ticket.extend_from_slice(&key.name);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(plain);
        let (_, in_out) = ticket.split_at_mut(NAME_LEN + NONCE_LEN);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = key
            .aead
            .seal_in_place_separate_tag(nonce, Aad::from(&self.context), in_out)
            .ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME_LEN>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let secrets = self.secrets.current();
        let key = secrets.keys.iter().find(|key| key.name == *name)?;
        let mut in_out = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = key
            .aead
            .open_in_place(nonce, Aad::from(&self.context), &mut in_out)
            .ok()?;
        let length = opened.len();
        in_out.truncate(length);
        Some(in_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticketer(secrets: &Arc<TicketSecrets>, context: u8) -> Ticketer {
        Ticketer::new(Arc::clone(secrets), [context; 32])
    }

    #[test]
    fn a_ticket_opens_where_it_was_made_and_nowhere_else() {
        let secrets = TicketSecrets::random().unwrap();
        let ticket = ticketer(&secrets, 1).encrypt(b"session").unwrap();
        assert_eq!(ticketer(&secrets, 1).decrypt(&ticket).unwrap(), b"session");
        assert_eq!(ticketer(&secrets, 2).decrypt(&ticket), None);
        let others = TicketSecrets::random().unwrap();
        assert_eq!(ticketer(&others, 1).decrypt(&ticket), None);
        for end in 0..ticket.len() {
            assert_eq!(ticketer(&secrets, 1).decrypt(&ticket[..end]), None);
        }
        assert!(!ticket.windows(7).any(|bytes| bytes == b"session"));
    }

    #[test]
    fn secrets_rotate_and_are_forgotten() {
        let secrets = TicketSecrets::random().unwrap();
        let ticketer = ticketer(&secrets, 1);
        let first = ticketer.encrypt(b"1").unwrap();
        drop(secrets.rotate(secrets.0.load()));
        let second = ticketer.encrypt(b"2").unwrap();
        assert_ne!(first[..NAME_LEN], second[..NAME_LEN]);
        assert_eq!(ticketer.decrypt(&first).unwrap(), b"1");
        drop(secrets.rotate(secrets.0.load()));
        assert_eq!(ticketer.decrypt(&first), None);
        assert_eq!(ticketer.decrypt(&second).unwrap(), b"2");
    }

    #[test]
    fn nodes_share_secrets() {
        let key = |byte| TicketKey(vec![byte; 32]);
        let one = TicketSecrets::of_keys(&[key(1)]).unwrap();
        let other = TicketSecrets::of_keys(&[key(2), key(1)]).unwrap();
        let ticket = ticketer(&one, 0).encrypt(b"session").unwrap();
        assert_eq!(ticketer(&other, 0).decrypt(&ticket).unwrap(), b"session");
        let ticket = ticketer(&other, 0).encrypt(b"session").unwrap();
        assert_eq!(ticketer(&one, 0).decrypt(&ticket), None);
        assert!(TicketSecrets::of_keys(&[]).is_none());
    }
}
