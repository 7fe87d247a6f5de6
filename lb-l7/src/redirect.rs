//! Where a redirect leads: the value of a Location field, made of the request and the route.
//!
//! Invariant: a location is an absolute URL of visible ASCII, and its host is the route's or the
//! one that the request was checked to name. Read next: `respond.rs` (the answer that has it).

use std::net::SocketAddr;

use lb_core::plan::{self, PathMatch, Scheme};
use lb_core::rt::{Buffer, Chunk};

use crate::http1::authority::Authority;
use crate::http1::head::HeadError;
use crate::http1::text::{AddressText, DecimalText};
use crate::rewrite::PathRewrite;

/// A redirect of a route.
#[derive(Debug)]
pub(crate) struct Redirect {
    pub(crate) status: u16,
    scheme: Option<Scheme>,
    host: Option<Box<str>>,
    port: Option<u16>,
    path: Option<PathRewrite>,
    trims_slash: bool,
}

/// What a redirect takes from the request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct From<'a> {
    pub(crate) scheme: &'static str,
    /// Host and port as they came; `None` if there are none.
    pub(crate) authority: Option<Authority<'a>>,
    /// Stands in for a missing authority.
    pub(crate) local: Option<SocketAddr>,
    /// The path as it came.
    pub(crate) path: &'a [u8],
    /// The path as it was routed.
    pub(crate) routed: &'a [u8],
    /// Empty, or with its question mark.
    pub(crate) query: &'a [u8],
}

impl Redirect {
    pub(crate) fn build(redirect: &plan::Redirect, path: &PathMatch) -> Result<Self, String> {
        let rewrite = redirect.path.as_ref();
        Ok(Self {
            status: redirect.status,
            scheme: redirect.scheme,
            host: redirect.host.as_deref().map(Box::from),
            port: redirect.port,
            path: rewrite.map(|it| PathRewrite::build(it, path)).transpose()?,
            trims_slash: redirect.trims_slash,
        })
    }

    /// The URL that the client is sent to.
    pub(crate) fn location(&self, from: &From<'_>) -> Result<Chunk, HeadError> {
        let mut target = Buffer::new();
        let is_decoded = from.routed != from.path;
        match &self.path {
            Some(rewrite) => rewrite.write(from.routed, from.query, is_decoded, &mut target)?,
            None if from.path == b"*" => push(&mut target, b"/")?,
            None => {
                push(&mut target, from.path)?;
                push(&mut target, from.query)?;
            }
        }
        let mut target = target.as_slice();
        if self.trims_slash {
            target = target.strip_suffix(b"/").unwrap_or(target);
        }
        let scheme = self.scheme.map_or(from.scheme, Scheme::name);
        let mut out = Buffer::new();
        push(&mut out, scheme.as_bytes())?;
        push(&mut out, b"://")?;
        self.write_host(from, &mut out)?;
        if let Some(port) = self.port_of(from).filter(|it| *it != default_port(scheme)) {
            push(&mut out, b":")?;
            push(&mut out, DecimalText::of(u64::from(port)).as_slice())?;
        }
        push(&mut out, target)?;
        Ok(out.freeze())
    }

    fn write_host(&self, from: &From<'_>, out: &mut Buffer) -> Result<(), HeadError> {
        match (&self.host, from.authority, from.local) {
            (Some(host), ..) => push(out, host.as_bytes()),
            (None, Some(authority), _) => push(out, authority.host),
            (None, None, Some(local)) => {
                let is_ipv6 = local.ip().to_canonical().is_ipv6();
                let (open, close): (&[u8], &[u8]) = if is_ipv6 { (b"[", b"]") } else { (b"", b"") };
                push(out, open)?;
                push(out, AddressText::of(local.ip()).bare())?;
                push(out, close)
            }
            (None, None, None) => Err(HeadError::MissingHost),
        }
    }

    /// A port that was asked for under one scheme or host says nothing of another.
    fn port_of(&self, from: &From<'_>) -> Option<u16> {
        if self.port.is_some() || self.scheme.is_some() || self.host.is_some() {
            return self.port;
        }
        match from.authority {
            Some(authority) => authority.port,
            None => from.local.map(|local| local.port()),
        }
    }
}

fn default_port(scheme: &str) -> u16 {
    if scheme == Scheme::Https.name() {
        443
    } else {
        80
    }
}

fn push(out: &mut Buffer, bytes: &[u8]) -> Result<(), HeadError> {
    out.push(bytes)
        .then_some(())
        .ok_or(HeadError::TargetTooLong)
}

#[cfg(test)]
mod tests {
    use lb_core::plan::Rewrite;

    use super::*;

    fn location(redirect: plan::Redirect, host: &str, path: &str, query: &str) -> String {
        let prefix = PathMatch::Prefix("/a".into());
        let redirect = Redirect::build(&redirect, &prefix).unwrap();
        let from = From {
            scheme: "http",
            authority: Authority::parse(host.as_bytes()),
            local: Some("[::1]:8080".parse().unwrap()),
            path: path.as_bytes(),
            routed: path.as_bytes(),
            query: query.as_bytes(),
        };
        let location = redirect.location(&from).unwrap();
        str::from_utf8(&location).unwrap().to_owned()
    }

    fn https() -> plan::Redirect {
        plan::Redirect {
            scheme: Some(Scheme::Https),
            ..plan::Redirect::by(308)
        }
    }

    #[test]
    fn a_scheme_drops_the_port() {
        for (host, path, query, expected) in [
            ("h:8080", "/a", "?b", "https://h/a?b"),
            ("[::1]:80", "/a/", "", "https://[::1]/a/"),
            ("h", "*", "", "https://h/"),
            ("", "/a", "", "https://[::1]/a"),
        ] {
            assert_eq!(location(https(), host, path, query), expected);
        }
        let port = |port| plan::Redirect {
            port: Some(port),
            ..https()
        };
        assert_eq!(location(port(8443), "h:80", "/", ""), "https://h:8443/");
        assert_eq!(location(port(443), "h:80", "/", ""), "https://h/");
    }

    #[test]
    fn a_slash_is_trimmed_if_told() {
        let trims = plan::Redirect {
            trims_slash: true,
            ..https()
        };
        for (path, query, expected) in [
            ("/", "", "https://h"),
            ("/a//", "", "https://h/a/"),
            ("/a", "?b=/", "https://h/a?b="),
        ] {
            assert_eq!(location(trims.clone(), "h", path, query), expected);
        }
    }

    #[test]
    fn what_is_not_set_stays() {
        let path = plan::Redirect {
            path: Some(Rewrite::Prefix("/b".into())),
            ..plan::Redirect::by(302)
        };
        let at = |host| location(path.clone(), host, "/a/x", "?y");
        assert_eq!(at("h:8080"), "http://h:8080/b/x?y");
        assert_eq!(at("h:80"), "http://h/b/x?y");
        assert_eq!(at(""), "http://[::1]:8080/b/x?y");
        let host = plan::Redirect {
            host: Some("new.example".into()),
            ..plan::Redirect::by(301)
        };
        assert_eq!(location(host, "h:8080", "/a", ""), "http://new.example/a");
    }
}
