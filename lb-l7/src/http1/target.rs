//! Request targets, taken apart.
//!
//! Invariant: bytes that two readers could route differently are refused.
//! Read next: `request.rs`, `authority.rs`.

use super::authority::Authority;
use super::head::{HeadError, Span};
use super::request::{Form, Method};

/// A request target taken apart.
pub(super) struct Target<'a> {
    pub(super) form: Form,
    pub(super) whole: Span,
    /// Path and query.
    pub(super) resource: Span,
    pub(super) path: Span,
    /// Of an absolute-form target, with the port that its scheme implies.
    pub(super) authority: Option<(Authority<'a>, Span, u16)>,
}

impl<'a> Target<'a> {
    /// `httparse` lets no white space or control character through; a fragment has no business
    /// here, and bytes beyond ASCII must be percent-encoded (RFC 3986 section 2).
    #[inline]
    pub(super) fn parse(head: &[u8], target: &'a [u8], method: Method) -> Result<Self, HeadError> {
        if !target.is_ascii() || memchr::memchr(b'#', target).is_some() {
            return Err(HeadError::Target);
        }
        let whole = Span::of(head, target);
        let (form, resource, authority) = match target {
            [b'/', ..] => (Form::Origin, target, None),
            b"*" if method == Method::Options => (Form::Asterisk, target, None),
            _ => {
                let (authority, resource, port) = absolute(target).ok_or(HeadError::Target)?;
                let span = Span::of(head, authority);
                let authority = Authority::parse(authority).ok_or(HeadError::Target)?;
                (Form::Absolute, resource, Some((authority, span, port)))
            }
        };
        let path_len = memchr::memchr(b'?', resource).unwrap_or(resource.len());
        let path = &resource[..path_len];
        if has_dot_segment(path) {
            return Err(HeadError::DotSegment);
        }
        let (resource, path) = (Span::of(head, resource), Span::of(head, path));
        Ok(Self {
            form,
            whole,
            resource,
            path,
            authority,
        })
    }
}

/// Splits an absolute-form target into authority, path with query, and the scheme's port.
fn absolute(target: &[u8]) -> Option<(&[u8], &[u8], u16)> {
    let (rest, port) = if starts_with_ignore_case(target, b"http://") {
        (&target[b"http://".len()..], 80)
    } else if starts_with_ignore_case(target, b"https://") {
        (&target[b"https://".len()..], 443)
    } else {
        return None;
    };
    let end = memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len());
    let (authority, resource) = rest.split_at(end);
    Some((authority, resource, port))
}

fn starts_with_ignore_case(bytes: &[u8], start: &[u8]) -> bool {
    bytes
        .get(..start.len())
        .is_some_and(|bytes| bytes.eq_ignore_ascii_case(start))
}

/// Whether an element of the path is `.` or `..`. Clients resolve them before they send (RFC 3986
/// section 5.2.4); one that arrives would be routed by one path and served by another.
#[inline]
pub(crate) fn has_dot_segment(path: &[u8]) -> bool {
    memchr::memchr2(b'.', b'%', path).is_some()
        && path
            .split(|byte| matches!(byte, b'/' | b'\\'))
            .any(is_dot_segment)
}

/// `.` or `..`, each dot plain or as `%2e`; parameters behind `;` do not count.
fn is_dot_segment(segment: &[u8]) -> bool {
    let mut rest = segment;
    let mut dots = 0;
    while let Some((first, others)) = rest.split_first() {
        rest = match (first, others) {
            (b'.', _) => others,
            (b'%', [b'2', b'e' | b'E', behind @ ..]) => behind,
            (b';', _) => break,
            _ => return false,
        };
        dots += 1;
    }
    dots == 1 || dots == 2
}
