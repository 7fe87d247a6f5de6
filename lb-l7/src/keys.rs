//! What a cluster chooses by, found in a request: what is hashed, and what affinity goes by.
//!
//! Invariant: the head is walked once more only for a cluster that asks for a field of it, and
//! nothing is allocated; of a repeated field or cookie the first one counts, and one without a
//! value is none, or all who send it so would meet at one backend.
//! Read next: `admit.rs` (who asks), `set_cookie.rs` (the way back).

use lb_core::balance::Cluster;
use lb_core::balance::affinity::COOKIE_LEN;
use lb_core::plan::{Affinity, HashKey};

use crate::http1::request::RequestHead;

/// What a cluster wants to know of a request.
#[derive(Debug, Default)]
pub(crate) struct WantedKeys {
    hashed: Option<Source>,
    affinity_header: Option<Box<[u8]>>,
    affinity_cookie: Option<Box<[u8]>>,
}

/// Where in a request something is; names as bytes, those of fields in lower case.
#[derive(Debug)]
enum Source {
    Cookie(Box<[u8]>),
    Header(Box<[u8]>),
    Query(Box<[u8]>),
    Uri,
}

/// What was found, as long as the head is there.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found<'h> {
    hashed: Option<&'h [u8]>,
    affinity: Option<&'h [u8]>,
    cookie: Option<&'h [u8]>,
}

/// What was found, to be kept for the choice of a backend.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Keys {
    /// Hash of what the hash key names.
    pub(crate) hash: Option<u64>,
    /// Hash of the affinity header's value.
    pub(crate) affinity: Option<u64>,
    /// The affinity cookie's value, if it has the length of one.
    pub(crate) cookie: Option<[u8; COOKIE_LEN]>,
}

impl WantedKeys {
    pub(crate) fn of(hash_key: Option<&HashKey>, affinity: Option<&Affinity>) -> Self {
        let name = |name: &str| Box::from(name.as_bytes());
        let hashed = hash_key.and_then(|key| match key {
            HashKey::ClientAddress | HashKey::ClientAddressPort | HashKey::Destination => None,
            HashKey::Cookie(cookie) => Some(Source::Cookie(name(cookie))),
            HashKey::Header(header) => Some(Source::Header(name(header))),
            HashKey::Query(parameter) => Some(Source::Query(name(parameter))),
            HashKey::Uri => Some(Source::Uri),
        });
        Self {
            hashed,
            affinity_header: match affinity {
                Some(Affinity::Header { name: header, .. }) => Some(name(header)),
                _ => None,
            },
            affinity_cookie: match affinity {
                Some(Affinity::Cookie(cookie)) => Some(name(&cookie.name)),
                _ => None,
            },
        }
    }

    /// Finds them in `request`, whose head is at the start of `head`.
    #[inline]
    pub(crate) fn read(&self, head: &[u8], request: &RequestHead, cluster: &Cluster) -> Keys {
        if self.hashed.is_none() && self.affinity_header.is_none() && self.affinity_cookie.is_none()
        {
            return Keys::default();
        }
        let found = self.find(head, request);
        Keys {
            hash: found.hashed.map(|bytes| cluster.hash_of(bytes)),
            affinity: found.affinity.map(|bytes| cluster.hash_of(bytes)),
            cookie: found.cookie.and_then(|bytes| bytes.try_into().ok()),
        }
    }

    fn find<'h>(&self, head: &'h [u8], request: &RequestHead) -> Found<'h> {
        let mut found = Found::default();
        match &self.hashed {
            Some(Source::Uri) => found.hashed = Some(request.resource(head)),
            Some(Source::Query(name)) => found.hashed = parameter(request.resource(head), name),
            Some(Source::Cookie(_) | Source::Header(_)) | None => {}
        }
        if self.walks() {
            for (name, value) in request.fields(head) {
                self.look_at(name, value, &mut found);
            }
        }
        found
    }

    /// Whether something is in the fields.
    const fn walks(&self) -> bool {
        matches!(self.hashed, Some(Source::Cookie(_) | Source::Header(_)))
            || self.affinity_header.is_some()
            || self.affinity_cookie.is_some()
    }

    fn look_at<'h>(&self, name: &[u8], value: &'h [u8], found: &mut Found<'h>) {
        let is_cookie = name.eq_ignore_ascii_case(b"cookie");
        match &self.hashed {
            Some(Source::Header(header)) if name.eq_ignore_ascii_case(header) => {
                found.hashed = found.hashed.or_else(|| non_empty(value));
            }
            Some(Source::Cookie(wanted)) if is_cookie => {
                found.hashed = found.hashed.or_else(|| cookie(value, wanted));
            }
            _ => {}
        }
        if let Some(header) = &self.affinity_header
            && name.eq_ignore_ascii_case(header)
        {
            found.affinity = found.affinity.or_else(|| non_empty(value));
        }
        if let Some(wanted) = &self.affinity_cookie
            && is_cookie
        {
            found.cookie = found.cookie.or_else(|| cookie(value, wanted));
        }
    }
}

/// The value of a cookie in a Cookie field (RFC 6265 section 4.2.1).
fn cookie<'h>(field: &'h [u8], name: &[u8]) -> Option<&'h [u8]> {
    let mut pairs = field.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let value = pairs.find_map(|pair| pair.strip_prefix(name)?.strip_prefix(b"="));
    value.and_then(non_empty)
}

/// The value of a query parameter, as it came.
fn parameter<'h>(resource: &'h [u8], name: &[u8]) -> Option<&'h [u8]> {
    let query = &resource[memchr::memchr(b'?', resource)? + 1..];
    let mut pairs = query.split(|byte| *byte == b'&');
    let value = pairs.find_map(|pair| pair.strip_prefix(name)?.strip_prefix(b"="));
    value.and_then(non_empty)
}

fn non_empty(bytes: &[u8]) -> Option<&[u8]> {
    (!bytes.is_empty()).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lb_core::plan::{CookieAffinity, Forwarded};

    use super::*;
    use crate::http1::request::{RequestRules, parse_request};

    const RULES: RequestRules = RequestRules {
        head_bytes_max: 8000,
        headers_max: 100,
        forwarded: Forwarded::Append,
        request_id: lb_core::plan::RequestId::Off,
    };

    fn found<'h>(wanted: &WantedKeys, head: &'h str) -> Found<'h> {
        let request = parse_request(head.as_bytes(), &RULES).unwrap().unwrap();
        wanted.find(head.as_bytes(), &request)
    }

    fn hashed(key: HashKey, target: &str, fields: &str) -> Option<String> {
        let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let wanted = WantedKeys::of(Some(&key), None);
        let found = found(&wanted, &head);
        assert_eq!((found.affinity, found.cookie), (None, None));
        found
            .hashed
            .map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn a_header_is_found_whatever_its_case() {
        let header = |fields| hashed(HashKey::Header("x-user".into()), "/", fields);
        assert_eq!(header("X-USER: \t ann \r\n").as_deref(), Some("ann"));
        assert_eq!(header("x-user:a: b\r\n").as_deref(), Some("a: b"));
        let repeated = "X-User:\r\nX-User2: x\r\nX-User: ann\r\nX-User: ben\r\n";
        assert_eq!(header(repeated).as_deref(), Some("ann"));
        assert_eq!(header("X-User: \r\n"), None);
        assert_eq!(header(""), None);
        let host = hashed(HashKey::Header("host".into()), "/", "");
        assert_eq!(host.as_deref(), Some("a"));
    }

    #[test]
    fn a_cookie_is_found_among_others() {
        let cookie = |fields| hashed(HashKey::Cookie("id".into()), "/", fields);
        let fields = "Cookie: ID=no; xid=no;id=yes ; id=late\r\n";
        assert_eq!(cookie(fields).as_deref(), Some("yes"));
        assert_eq!(cookie("Cookie: id=a=b\r\n").as_deref(), Some("a=b"));
        assert_eq!(
            cookie("COOKIE: x=y\r\ncookie: id=2\r\n").as_deref(),
            Some("2")
        );
        for fields in [
            "Cookie: id=\r\n",
            "Cookie: id\r\n",
            "Cookie: id2=x\r\n",
            "X: id=1\r\n",
        ] {
            assert_eq!(cookie(fields), None, "{fields}");
        }
    }

    #[test]
    fn a_parameter_and_the_uri_are_taken_as_they_came() {
        let parameter = |target| hashed(HashKey::Query("user".into()), target, "");
        assert_eq!(
            parameter("/a?x=1&user=a%20b&user=c").as_deref(),
            Some("a%20b")
        );
        assert_eq!(parameter("http://a/?user=1").as_deref(), Some("1"));
        for target in ["/user=1", "/?user", "/?user=", "/?users=1", "/?x=user=1"] {
            assert_eq!(parameter(target), None, "{target}");
        }
        let uri = |target| hashed(HashKey::Uri, target, "").unwrap();
        assert_eq!(uri("/a%2Fb?c=d"), "/a%2Fb?c=d");
        assert_eq!(uri("http://a/b?c"), "/b?c");
        assert_eq!(uri("http://a"), "/");
    }

    #[test]
    fn the_connection_is_not_looked_for_in_the_request() {
        for key in [
            HashKey::ClientAddress,
            HashKey::ClientAddressPort,
            HashKey::Destination,
        ] {
            assert_eq!(hashed(key, "/", ""), None);
        }
    }

    #[test]
    fn affinity_and_hash_key_are_found_in_one_walk() {
        let head = "GET /?q=1 HTTP/1.1\r\nHost: a\r\nCookie: lb=token; id=7\r\nX-Team: red\r\n\r\n";
        let cookie = Affinity::Cookie(CookieAffinity::new("lb"));
        let wanted = WantedKeys::of(Some(&HashKey::Header("x-team".into())), Some(&cookie));
        let expected = Found {
            hashed: Some(b"red"),
            affinity: None,
            cookie: Some(b"token"),
        };
        assert_eq!(found(&wanted, head), expected);
        let header = Affinity::Header {
            name: "x-team".into(),
            timeout: Duration::from_secs(1),
        };
        let wanted = WantedKeys::of(Some(&HashKey::Cookie("id".into())), Some(&header));
        let expected = Found {
            hashed: Some(b"7"),
            affinity: Some(b"red"),
            cookie: None,
        };
        assert_eq!(found(&wanted, head), expected);
    }
}
