//! Other paths for requests: compiled rewrites, and the form of a path that routes compare.
//!
//! Invariant: what is written is a request target that our own rules would let in: it begins with
//! a slash, has visible ASCII only, no fragment and no dot segments.
//! Read next: `action.rs` (who asks), `redirect.rs`.

use lb_core::plan::{self, PATTERN_PROGRAM_BYTES_MAX, PathMatch, parse_pattern};
use lb_core::rt::Buffer;
use regex_automata::meta::Regex;
use regex_automata::util::primitives::NonMaxUsize;
use regex_automata::{Anchored, Input};

use crate::http1::head::HeadError;
use crate::http1::target::has_dot_segment;

/// A rewrite of a route.
#[derive(Debug)]
pub(crate) enum PathRewrite {
    /// What is behind the first so many bytes of the path is kept, behind other ones.
    Prefix { len: usize, with: Box<[u8]> },
    /// The whole path is replaced.
    Whole(Whole),
}

/// A new path, perhaps with a query of its own.
#[derive(Debug)]
pub(crate) struct Whole {
    parts: Box<[Part]>,
    has_query: bool,
    drops_query: bool,
    /// Finds the groups, if some are referred to.
    groups: Option<Regex>,
}

#[derive(Debug, PartialEq, Eq)]
enum Part {
    /// What a group matched, from 1.
    Group(usize),
    Text(Box<[u8]>),
}

/// Starts and ends of the whole match and of nine groups.
type Slots = [Option<NonMaxUsize>; 20];

impl PathRewrite {
    /// Compiles a rewrite of a route for `path`.
    ///
    /// # Errors
    /// What is wrong with the route's regular expression.
    pub(crate) fn build(rewrite: &plan::Rewrite, path: &PathMatch) -> Result<Self, String> {
        match (rewrite, path) {
            (plan::Rewrite::Path(text), _) => Whole::build(text, path).map(Self::Whole),
            (plan::Rewrite::Prefix(with), path) => {
                let len = match path {
                    PathMatch::Prefix(prefix) => prefix.trim_end_matches('/').len(),
                    PathMatch::Start(start) => start.len(),
                    PathMatch::Exact(_) | PathMatch::Regex { .. } => {
                        return Err("it has no prefix to replace".to_owned());
                    }
                };
                let with = with.as_bytes().into();
                Ok(Self::Prefix { len, with })
            }
        }
    }

    /// Writes the target that takes the place of `path`, the form that was routed, and `query`,
    /// empty or with its question mark. `is_decoded` says that `path` is not percent-encoded.
    pub(crate) fn write(
        &self,
        path: &[u8],
        query: &[u8],
        is_decoded: bool,
        out: &mut Buffer,
    ) -> Result<(), HeadError> {
        let mut target = Target { out, is_decoded };
        let keeps_query = match self {
            Self::Prefix { len, with } => {
                let rest = path.get(*len..).unwrap_or_default();
                let with = match (with.strip_suffix(b"/"), rest.first()) {
                    (Some(with), Some(b'/')) => with,
                    _ => with,
                };
                target.text(with)?;
                target.taken(rest)?;
                true
            }
            Self::Whole(whole) => {
                whole.write(path, &mut target)?;
                !whole.drops_query
            }
        };
        if let Some(kept) = query.get(1..).filter(|_| keeps_query) {
            target.text(if self.has_query() { b"&" } else { b"?" })?;
            target.text(kept)?;
        }
        let end = memchr::memchr(b'?', out.as_slice()).unwrap_or(out.len());
        if has_dot_segment(&out.as_slice()[..end]) {
            return Err(HeadError::DotSegment);
        }
        Ok(())
    }

    fn has_query(&self) -> bool {
        matches!(self, Self::Whole(whole) if whole.has_query)
    }
}

impl Whole {
    fn build(text: &str, path: &PathMatch) -> Result<Self, String> {
        let (text, drops_query) = match text.strip_suffix('?') {
            Some(text) => (text, true),
            None => (text, false),
        };
        let parts = parts(text);
        let groups = match path {
            PathMatch::Regex {
                pattern,
                ignore_case,
            } if parts.iter().any(|part| matches!(part, Part::Group(_))) => {
                Some(groups(pattern, *ignore_case)?)
            }
            _ => None,
        };
        Ok(Self {
            parts,
            has_query: text.contains('?'),
            drops_query,
            groups,
        })
    }

    fn write(&self, path: &[u8], target: &mut Target<'_>) -> Result<(), HeadError> {
        let mut slots: Slots = [None; 20];
        if let Some(groups) = &self.groups {
            let input = Input::new(path).anchored(Anchored::Yes);
            groups.search_slots(&input, &mut slots);
        }
        for part in &self.parts {
            match part {
                Part::Text(text) => target.text(text)?,
                Part::Group(number) => {
                    let span = slots[2 * number].zip(slots[2 * number + 1]);
                    let matched = span.and_then(|(from, to)| path.get(from.get()..to.get()));
                    target.taken(matched.unwrap_or_default())?;
                }
            }
        }
        if target.out.is_empty() || target.out.as_slice()[0] == b'?' {
            target.text(b"/")?; // all groups were empty
        }
        Ok(())
    }
}

fn groups(pattern: &str, ignore_case: bool) -> Result<Regex, String> {
    let hir = parse_pattern(pattern, ignore_case)?;
    let config = Regex::config()
        .utf8_empty(false)
        .auto_prefilter(false)
        .hybrid(false)
        .nfa_size_limit(Some(2 * PATTERN_PROGRAM_BYTES_MAX));
    let built = Regex::builder().configure(config).build_from_hir(&hir);
    built.map_err(|error| error.to_string())
}

fn parts(text: &str) -> Box<[Part]> {
    let mut parts = Vec::new();
    let mut literal = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'$' {
            literal.push(byte);
            continue;
        }
        match bytes.next() {
            Some(digit @ b'1'..=b'9') => {
                if !literal.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut literal).into()));
                }
                parts.push(Part::Group(usize::from(digit - b'0')));
            }
            other => literal.extend(other),
        }
    }
    if !literal.is_empty() {
        parts.push(Part::Text(literal.into()));
    }
    parts.into()
}

/// A target as it is written.
struct Target<'a> {
    out: &'a mut Buffer,
    is_decoded: bool,
}

impl Target<'_> {
    /// Bytes that are fit for a target.
    fn text(&mut self, bytes: &[u8]) -> Result<(), HeadError> {
        let begins = self.out.is_empty() && !bytes.is_empty() && bytes[0] != b'/';
        let fits = (!begins || self.out.push(b"/")) && self.out.push(bytes);
        fits.then_some(()).ok_or(HeadError::TargetTooLong)
    }

    /// Bytes of the request's path.
    fn taken(&mut self, bytes: &[u8]) -> Result<(), HeadError> {
        if !self.is_decoded || bytes.iter().all(|byte| is_plain(*byte)) {
            return self.text(bytes);
        }
        const HEX: &[u8; 16] = b"0123456789ABCDEF";
        for byte in bytes {
            if is_plain(*byte) {
                self.text(&[*byte])?;
            } else {
                let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
                self.text(&[b'%', HEX[high], HEX[low]])?;
            }
        }
        Ok(())
    }
}

/// Whether a decoded byte stands for itself in a path.
const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'%' | b'?' | b'#' | b'"' | b'<' | b'>' | b'\\')
}

/// The path as nginx compares it: percent-decoded, with repeated slashes as one. `None` if it is
/// that already.
///
/// # Errors
/// A path that has no such form, or whose form names a place outside of where it seems to lead.
pub(crate) fn normalized(path: &[u8]) -> Result<Option<Buffer>, HeadError> {
    if memchr::memchr(b'%', path).is_none() && memchr::memmem::find(path, b"//").is_none() {
        return Ok(None);
    }
    let mut out = Buffer::new();
    let mut rest = path;
    let mut last = 0;
    while let [byte, others @ ..] = rest {
        let decoded;
        (decoded, rest) = match (byte, others) {
            (b'%', [high, low, behind @ ..]) => (hex(*high, *low)?, behind),
            (b'%', _) => return Err(HeadError::Target),
            _ => (*byte, others),
        };
        if decoded == 0 {
            return Err(HeadError::Target);
        }
        if decoded == b'/' && last == b'/' {
            continue;
        }
        last = decoded;
        if !out.push(&[decoded]) {
            return Err(HeadError::TargetTooLong);
        }
    }
    if has_dot_segment(out.as_slice()) {
        return Err(HeadError::DotSegment);
    }
    Ok(Some(out))
}

fn hex(high: u8, low: u8) -> Result<u8, HeadError> {
    let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(HeadError::Target);
    let value = digit(high)? * 16 + digit(low)?;
    u8::try_from(value).map_err(|_| HeadError::Target)
}

#[cfg(test)]
mod tests {
    use lb_core::plan::Rewrite;
    use proptest::prelude::*;

    use super::*;

    fn regex(pattern: &str) -> PathMatch {
        PathMatch::Regex {
            pattern: pattern.into(),
            ignore_case: true,
        }
    }

    fn rewritten(rewrite: Rewrite, of: &PathMatch, target: &str) -> Result<String, HeadError> {
        let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
        let rewrite = PathRewrite::build(&rewrite, of).unwrap();
        let mut out = Buffer::new();
        rewrite.write(path.as_bytes(), query.as_bytes(), false, &mut out)?;
        Ok(String::from_utf8(out.as_slice().to_vec()).unwrap())
    }

    fn whole(text: &str, pattern: &str, target: &str) -> String {
        rewritten(Rewrite::Path(text.into()), &regex(pattern), target).unwrap()
    }

    #[test]
    fn groups_take_their_places() {
        // The example of ingress-nginx's documentation.
        let pattern = "/something(/|$)(.*)";
        for (target, expected) in [
            ("/something", "/"),
            ("/something/", "/"),
            ("/something/new", "/new"),
            ("/SomeThing/new?a=/b", "/new?a=/b"),
            ("/something/a%2Fb", "/a%2Fb"),
            ("/something//x", "//x"),
        ] {
            assert_eq!(whole("/$2", pattern, target), expected, "{target}");
        }
        assert_eq!(whole("/$2/$1$$$9", "/(a)/(b)", "/a/bc"), "/b/a$");
        assert_eq!(whole("$1", "/a(.*)", "/ab"), "/b");
        assert_eq!(whole("$1", "/a(.*)", "/a?x"), "/?x");
        assert_eq!(whole("/uuid", "/a", "/abc"), "/uuid");
    }

    #[test]
    fn a_query_is_kept_joined_or_dropped() {
        assert_eq!(whole("/b?c=$1", "/a(.*)", "/a1?d=2"), "/b?c=1&d=2");
        assert_eq!(whole("/b?c=d", "/a", "/a"), "/b?c=d");
        assert_eq!(whole("/b?", "/a", "/a?d=2"), "/b");
        assert_eq!(whole("/b?c?", "/a", "/a?d=2"), "/b?c");
    }

    #[test]
    fn a_prefix_is_replaced() {
        for (prefix, with, target, expected) in [
            ("/old", "/new", "/old/x?y", "/new/x?y"),
            ("/old/", "/new", "/old/x", "/new/x"),
            ("/old", "/new/", "/old/x", "/new/x"),
            ("/old", "/", "/old/x", "/x"),
            ("/old", "/", "/old", "/"),
            ("/old", "/new", "/old", "/new"),
            ("/old", "/new/", "/old", "/new/"),
            ("/old", "/new", "/old/", "/new/"),
            ("/", "/new", "/x", "/new/x"),
        ] {
            let of = PathMatch::Prefix(prefix.into());
            let result = rewritten(Rewrite::Prefix(with.into()), &of, target);
            assert_eq!(result.unwrap(), expected, "{prefix} {with} {target}");
        }
        let start = PathMatch::Start("/api".into());
        let result = rewritten(Rewrite::Prefix("/v".into()), &start, "/api2/x");
        assert_eq!(result.unwrap(), "/v2/x");
    }

    #[test]
    fn a_rewrite_cannot_climb_out() {
        let result = rewritten(Rewrite::Path("/a/$1".into()), &regex("/x/.(.*)"), "/x/a..");
        assert_eq!(result, Err(HeadError::DotSegment));
        let result = rewritten(
            Rewrite::Path("/a/.$1".into()),
            &regex("/x/(.*)"),
            "/x/%2e/b",
        );
        assert_eq!(result, Err(HeadError::DotSegment));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let long = format!("/{}", "x".repeat(9000));
        let result = rewritten(Rewrite::Path("/$1$1".into()), &regex("/(.*)"), &long);
        assert_eq!(result, Err(HeadError::TargetTooLong));
    }

    #[test]
    fn the_form_that_nginx_compares() {
        let normal = |path: &str| {
            normalized(path.as_bytes())
                .map(|it| it.map(|it| String::from_utf8_lossy(it.as_slice()).into_owned()))
        };
        for (path, expected) in [
            ("/a/b", None),
            ("/%61dmin", Some("/admin")),
            ("//a///b", Some("/a/b")),
            ("/a%2F%2fb", Some("/a/b")),
            ("/a%20b%C3%A4", Some("/a b\u{e4}")),
            ("/100%25", Some("/100%")),
        ] {
            assert_eq!(normal(path), Ok(expected.map(str::to_owned)), "{path}");
        }
        for (path, error) in [
            ("/a%", HeadError::Target),
            ("/a%2", HeadError::Target),
            ("/a%zz", HeadError::Target),
            ("/a%00", HeadError::Target),
            ("/a/..%2Fb", HeadError::DotSegment),
            ("/a/%2E%2e%2F", HeadError::DotSegment),
        ] {
            assert_eq!(normal(path), Err(error), "{path}");
        }
    }

    #[test]
    fn what_was_decoded_is_encoded_again() {
        let of = regex("/a/(.*)");
        let rewrite = PathRewrite::build(&Rewrite::Path("/$1".into()), &of).unwrap();
        let mut out = Buffer::new();
        let path = "/a/b c%?#\u{e4}\r\n/~(x)".as_bytes();
        rewrite.write(path, b"?q", true, &mut out).unwrap();
        let expected = "/b%20c%25%3F%23%C3%A4%0D%0A/~(x)?q";
        assert_eq!(out.as_slice(), expected.as_bytes());
    }

    proptest! {
        #[test]
        fn what_is_written_is_a_target(
            path in prop::collection::vec(any::<u8>(), 0..60),
            text in "[$/a-z?]{0,8}",
            query in "([?][!-~]{0,9})?",
        ) {
            let path = [b"/", path.as_slice()].concat();
            for text in [format!("/{text}$1"), "$1".to_owned(), "$2/$1?x=$1".to_owned()] {
                let rewrite = Rewrite::Path(text);
                let rewrite = PathRewrite::build(&rewrite, &regex("/(.)?(.*)")).unwrap();
                let mut out = Buffer::new();
                if rewrite.write(&path, query.as_bytes(), true, &mut out).is_ok() {
                    let out = out.as_slice();
                    prop_assert_eq!(out.first(), Some(&b'/'));
                    prop_assert!(out.iter().all(|byte| byte.is_ascii_graphic()));
                    let fragment = query.contains('#');
                    prop_assert!(fragment || !out.contains(&b'#'));
                }
            }
        }
    }
}
