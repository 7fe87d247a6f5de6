//! What a message's head says, remembered by its bytes.
//!
//! In a load test the same few heads come again and again. `Heads` keeps the last ones: a head is
//! recognised by comparing its bytes, its end included, and only an unknown one is parsed.
//! Invariant: a remembered head ends in an empty line, so what begins with it is that head.

use httparse::{EMPTY_HEADER, Header, Request, Response, Status};

use super::Body;
use crate::websocket::{ACCEPT_BYTES, accept};

/// Headers of one message; more make it malformed.
const HEADERS_MAX: usize = 100;
/// Bytes of a head; more make it malformed.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Heads that are remembered: the answers of some origins, with and without a `Date` that moves.
const REMEMBERED_MAX: usize = 32;

/// Something that a head can mean.
pub(crate) trait Meaning: Sized {
    /// Parses the head at the front of `bytes`; its length and meaning, or `None` if it is not
    /// complete.
    ///
    /// # Errors
    /// When it is malformed.
    fn parse(bytes: &[u8]) -> Result<Option<(usize, Self)>, httparse::Error>;
}

/// Heads of one kind, with what they mean.
#[derive(Debug)]
pub(crate) struct Heads<M> {
    remembered: Vec<(Box<[u8]>, M)>,
    /// Where the last head was found, and a good guess for the next one.
    last: usize,
    /// Which one makes room for the next unknown head.
    oldest: usize,
}

impl<M: Meaning> Heads<M> {
    /// Knows no head.
    pub(crate) const fn new() -> Self {
        Self {
            remembered: Vec::new(),
            last: 0,
            oldest: 0,
        }
    }

    /// The head at the front of `bytes`: its length and meaning, or `None` if it is not complete.
    ///
    /// # Errors
    /// When it is malformed, or longer than 64 KiB.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Result<Option<(usize, &M)>, httparse::Error> {
        let count = self.remembered.len();
        // Round robin over origins is common: the head after the last one comes second.
        for distance in 0..count {
            let index = (self.last + distance) % count;
            if bytes.starts_with(&self.remembered[index].0) {
                self.last = index;
                let (head, meaning) = &self.remembered[index];
                return Ok(Some((head.len(), meaning)));
            }
        }
        match M::parse(bytes)? {
            Some((length, meaning)) => {
                let index = self.remember(&bytes[..length], meaning);
                Ok(Some((length, &self.remembered[index].1)))
            }
            None if bytes.len() > HEAD_BYTES_MAX => Err(httparse::Error::TooManyHeaders),
            None => Ok(None),
        }
    }

    fn remember(&mut self, head: &[u8], meaning: M) -> usize {
        if self.remembered.len() < REMEMBERED_MAX {
            self.remembered.push((head.into(), meaning));
            self.last = self.remembered.len() - 1;
        } else {
            self.last = self.oldest;
            self.oldest = (self.oldest + 1) % REMEMBERED_MAX;
            self.remembered[self.last] = (head.into(), meaning);
        }
        self.last
    }
}

/// What an origin has to know of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestHead {
    /// A HEAD request: its answer has no body.
    pub(crate) is_head: bool,
    /// The body that follows.
    pub(crate) body: Body,
    /// The connection serves further requests.
    pub(crate) keep_alive: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub(crate) expects_continue: bool,
    /// The client wants to speak by WebSocket, and to be answered with this `Sec-WebSocket-Accept`.
    pub(crate) websocket: Option<[u8; ACCEPT_BYTES]>,
}

impl Meaning for RequestHead {
    fn parse(bytes: &[u8]) -> Result<Option<(usize, Self)>, httparse::Error> {
        let mut headers = [EMPTY_HEADER; HEADERS_MAX];
        let mut request = Request::new(&mut headers);
        let Status::Complete(length) = request.parse(bytes)? else {
            return Ok(None);
        };
        let version = request.version.unwrap_or(0);
        let common = CommonHeaders::read(request.headers, version)?;
        Ok(Some((
            length,
            Self {
                is_head: request.method == Some("HEAD"),
                body: common.body.unwrap_or(Body::NONE),
                keep_alive: common.keep_alive,
                expects_continue: common.expects_continue,
                websocket: websocket(request.headers),
            },
        )))
    }
}

/// What a client has to know of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ResponseHead {
    /// Status code, 100 to 999.
    pub(crate) status: u16,
    /// The body that follows, unless the request was HEAD.
    pub(crate) body: Body,
    /// The connection serves further requests.
    pub(crate) keep_alive: bool,
    /// The `X-Origin` header.
    pub(crate) origin: Option<Box<str>>,
    /// Names and values of cookies to be kept (RFC 6265 §5.2), without their attributes.
    pub(crate) cookies: Box<[(Box<str>, Box<str>)]>,
}

impl Meaning for ResponseHead {
    fn parse(bytes: &[u8]) -> Result<Option<(usize, Self)>, httparse::Error> {
        let mut headers = [EMPTY_HEADER; HEADERS_MAX];
        let mut response = Response::new(&mut headers);
        let Status::Complete(length) = response.parse(bytes)? else {
            return Ok(None);
        };
        let status = response.code.unwrap_or(0);
        let common = CommonHeaders::read(response.headers, response.version.unwrap_or(0))?;
        // RFC 9112 §6.3: these have no body whatever their headers say.
        let body = match status {
            100..=199 | 204 | 304 => Body::NONE,
            _ => common.body.unwrap_or(Body::UntilClose),
        };
        let origin = response
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case("x-origin"))
            .map(|header| String::from_utf8_lossy(header.value).into());
        let cookies = response.headers.iter().filter_map(cookie).collect();
        let keep_alive = common.keep_alive && body != Body::UntilClose;
        Ok(Some((
            length,
            Self {
                status,
                body,
                keep_alive,
                origin,
                cookies,
            },
        )))
    }
}

/// The headers that decide where a message ends.
struct CommonHeaders {
    /// `None` without `Content-Length` and `Transfer-Encoding`.
    body: Option<Body>,
    keep_alive: bool,
    expects_continue: bool,
}

impl CommonHeaders {
    fn read(headers: &[Header<'_>], version: u8) -> Result<Self, httparse::Error> {
        let mut common = Self {
            body: None,
            keep_alive: version >= 1,
            expects_continue: false,
        };
        for header in headers {
            if header.name.eq_ignore_ascii_case("content-length") {
                let length = std::str::from_utf8(header.value)
                    .ok()
                    .and_then(|v| v.parse().ok());
                let length = Body::Length(length.ok_or(httparse::Error::HeaderValue)?);
                if common.body.is_some_and(|body| body != length) {
                    return Err(httparse::Error::HeaderValue);
                }
                common.body = Some(length);
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                if common.body.is_some() || !header.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(httparse::Error::HeaderValue);
                }
                common.body = Some(Body::CHUNKED);
            } else if header.name.eq_ignore_ascii_case("connection") {
                if has_word(header.value, "close") {
                    common.keep_alive = false;
                } else if has_word(header.value, "keep-alive") {
                    common.keep_alive = true;
                }
            } else if header.name.eq_ignore_ascii_case("expect") {
                common.expects_continue = header.value.eq_ignore_ascii_case(b"100-continue");
            }
        }
        Ok(common)
    }
}

fn cookie(header: &Header<'_>) -> Option<(Box<str>, Box<str>)> {
    if !header.name.eq_ignore_ascii_case("set-cookie") {
        return None;
    }
    let text = std::str::from_utf8(header.value).ok()?;
    let pair = text.split_once(';').map_or(text, |(pair, _)| pair);
    let (name, value) = pair.split_once('=')?;
    Some((name.trim().into(), value.trim().into()))
}

/// What an upgrade is to be answered with (RFC 6455 §4.2), if it is one.
fn websocket(headers: &[Header<'_>]) -> Option<[u8; ACCEPT_BYTES]> {
    let value = |name: &str| {
        let is_it = |header: &&Header<'_>| header.name.eq_ignore_ascii_case(name);
        headers.iter().find(is_it).map(|header| header.value)
    };
    value("upgrade").filter(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))?;
    value("sec-websocket-key").map(accept)
}

fn has_word(list: &[u8], word: &str) -> bool {
    list.split(|byte| *byte == b',')
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Option<(usize, RequestHead)> {
        RequestHead::parse(text.as_bytes()).unwrap()
    }

    fn response(text: &str) -> ResponseHead {
        ResponseHead::parse(text.as_bytes()).unwrap().unwrap().1
    }

    #[test]
    fn requests_say_what_follows_them() {
        let (length, head) = request("GET / HTTP/1.1\r\nHost: a\r\n\r\nnext").unwrap();
        assert_eq!(length, 27);
        let plain = RequestHead {
            is_head: false,
            body: Body::NONE,
            keep_alive: true,
            expects_continue: false,
            websocket: None,
        };
        assert_eq!(head, plain);
        let (_, head) = request(
            "PUT / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\nExpect: 100-continue\r\n\
             Connection: te, Close\r\n\r\n",
        )
        .unwrap();
        let put = RequestHead {
            body: Body::CHUNKED,
            keep_alive: false,
            expects_continue: true,
            ..plain
        };
        assert_eq!(head, put);
        assert!(!request("GET / HTTP/1.0\r\n\r\n").unwrap().1.keep_alive);
        assert!(
            request("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
                .unwrap()
                .1
                .keep_alive
        );
        assert!(request("HEAD / HTTP/1.1\r\n\r\n").unwrap().1.is_head);
        assert_eq!(request("GET / HTTP/1.1\r\nHost: a\r\n\r"), None);
    }

    #[test]
    fn responses_say_where_they_end_and_who_gave_them() {
        let head = response("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Origin: a\r\n\r\n");
        assert_eq!((head.status, head.body), (200, Body::Length(5)));
        assert_eq!((head.keep_alive, head.origin.as_deref()), (true, Some("a")));
        let head = response("HTTP/1.1 200 OK\r\n\r\n");
        assert_eq!((head.body, head.keep_alive), (Body::UntilClose, false));
        assert_eq!(
            response("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n").body,
            Body::NONE
        );
    }

    #[test]
    fn ambiguous_lengths_are_malformed() {
        for bad in [
            "Content-Length: 5\r\nContent-Length: 6",
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Content-Length: five",
            "Transfer-Encoding: gzip",
        ] {
            let text = format!("POST / HTTP/1.1\r\n{bad}\r\n\r\n");
            assert!(RequestHead::parse(text.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_head_is_recognised_among_others_and_after_it_was_forgotten() {
        let mut heads = Heads::<ResponseHead>::new();
        for round in 0..3 {
            for number in 0..REMEMBERED_MAX * 2 {
                let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {number}\r\n\r\nbody");
                let (length, head) = heads.read(text.as_bytes()).unwrap().unwrap();
                assert_eq!(length, text.len() - 4, "round {round}");
                assert_eq!(head.body, Body::Length(number as u64));
                assert_eq!(heads.read(&text.as_bytes()[..length - 1]).unwrap(), None);
            }
        }
        assert_eq!(heads.remembered.len(), REMEMBERED_MAX);
    }

    #[test]
    fn an_endless_head_is_malformed() {
        let endless = vec![b'a'; HEAD_BYTES_MAX + 1];
        assert!(Heads::<RequestHead>::new().read(&endless).is_err());
    }
}
