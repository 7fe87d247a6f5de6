//! The key of affinity cookies, out of a secret.
//!
//! Invariant: a secret is in no message, log line or page: what is wrong with one is told without
//! it, and the plan's key does not show itself.
//! Read next: `lb_core::plan::CookieKey`.

use std::io::Read;
use std::path::Path;

use lb_core::plan::CookieKey;

use super::decode::{self, Fields, Problems};
use super::notation;
use super::problem::{Located, Problem};
use super::yaml::{Node, Value};

/// Shortest secret in bytes: the size of the key that is made of it.
const SECRET_LEAST: usize = 16;

/// Longest secret in bytes, so that a wrong path ends in a message.
const SECRET_MAX: u64 = 4096;

/// The secret itself, or `{file: PATH}`.
pub(super) fn cookie_key(node: &Node, problems: &mut Problems) -> Option<Located<CookieKey>> {
    let secret = match &node.value {
        Value::Scalar(secret) => Ok(secret.clone().into_bytes()),
        Value::Mapping(_) | Value::Null | Value::Sequence(_) => {
            let mut fields = Fields::of(node, problems)?;
            let file = fields.required("file", decode::parsed(notation::path));
            fields.finish();
            read(&file?.value)
        }
    };
    match secret.and_then(|secret| key_of(&secret)) {
        Ok(value) => Some(Located {
            value,
            place: node.place.clone(),
        }),
        Err(reason) => {
            problems.push(Problem::new(&node.place, reason));
            None
        }
    }
}

/// A file's content without the line feed at its end, which editors add.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut secret = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(SECRET_MAX + 1).read_to_end(&mut secret))
        .map_err(|error| format!("\"{}\" cannot be read: {error}", path.display()))?;
    if secret.len() as u64 > SECRET_MAX {
        return Err(format!(
            "\"{}\" is larger than {SECRET_MAX} bytes",
            path.display()
        ));
    }
    while secret.last().is_some_and(|byte| b"\r\n".contains(byte)) {
        secret.pop();
    }
    Ok(secret)
}

/// That guessing the key is no easier than guessing the secret is for the secret's length to say.
fn key_of(secret: &[u8]) -> Result<CookieKey, String> {
    if secret.len() < SECRET_LEAST {
        return Err(format!(
            "the secret has fewer than {SECRET_LEAST} bytes; openssl rand -hex 16 makes one"
        ));
    }
    Ok(CookieKey::of_secret(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_makes_a_key_of_its_own() {
        let key = |secret: &[u8]| key_of(secret).unwrap();
        assert!(key(b"0123456789abcdef") == key(b"0123456789abcdef"));
        assert!(key(b"0123456789abcdef") != key(b"0123456789abcdeg"));
        assert!(key(&[7; 4000]) != key(&[7; 3999]));
        let error = key_of(b"short and dull").err();
        assert!(error.is_some_and(|error| !error.contains("dull")));
    }
}
