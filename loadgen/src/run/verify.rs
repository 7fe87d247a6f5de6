//! What the bodies of loadgen's own origins have to be: their name over and over.
//!
//! Invariant: every byte is compared, however it came; a body that belongs to another origin than
//! the head says differs from its first byte on.
//! Read next: `../origin/http.rs`, which makes them.

/// Compared at a time, at least.
const TEXT_BYTES: usize = 64 * 1024;

/// The bodies of the origins that have been seen.
#[derive(Debug, Default)]
pub(super) struct Bodies(Vec<Body>);

#[derive(Debug)]
struct Body {
    name: Box<str>,
    /// Its beginning.
    text: Vec<u8>,
    /// After so many bytes it begins again.
    period: usize,
}

impl Bodies {
    /// Whether `data` are the bytes from `offset` on of what the origin called `name` sends.
    pub(super) fn is_part(&mut self, name: &str, offset: usize, mut data: &[u8]) -> bool {
        let place = self.0.iter().position(|body| *body.name == *name);
        let place = place.unwrap_or_else(|| {
            self.0.push(Body::of(name));
            self.0.len() - 1
        });
        let Body { text, period, .. } = &self.0[place];
        let mut start = offset % period;
        while !data.is_empty() {
            let (now, rest) = data.split_at(data.len().min(text.len() - start));
            if text[start..start + now.len()] != *now {
                return false;
            }
            start = (start + now.len()) % period;
            data = rest;
        }
        true
    }
}

impl Body {
    fn of(name: &str) -> Self {
        let line = format!("{name}\n");
        Self {
            name: name.into(),
            period: line.len(),
            text: line.repeat(1 + TEXT_BYTES / line.len()).into_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::body_of;

    #[test]
    fn bodies_are_known_in_any_pieces_and_by_any_byte() {
        let mut bodies = Bodies::default();
        let body = body_of("blue", 200_000);
        for piece in [1, 7, 65_536, 200_000] {
            let mut pieces = (0..).step_by(piece).zip(body.chunks(piece));
            assert!(
                pieces.all(|(at, data)| bodies.is_part("blue", at, data)),
                "{piece}"
            );
        }
        let mut wrong = body.clone();
        wrong[150_000] ^= 1;
        assert!(!bodies.is_part("blue", 0, &wrong));
        assert!(!bodies.is_part("green", 0, &body[..1]));
        assert!(bodies.is_part("green", 3, b""));
    }
}
