//! One HTTP/1.1 exchange, from the client's side.
//!
//! Invariant: an answer counts only if its status is 2xx and its body ended exactly where its
//! head said, with nothing after it. Nothing is allocated for a head that was seen before.
//! Read next: `../http1/head.rs`.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use lb_core::rt::Chunk;
use lb_l7::stream::Stream;

use super::config::{Config, HttpRequest, Url};
use super::connection::{Answer, receive};
use super::mix::{Cookies, Mix};
use super::recorder::{Failure, OriginId, Recorder};
use super::replay::Replay;
use super::verify::Bodies;
use crate::http1::{BadFraming, Body, Heads, ResponseHead};
use crate::tcp::SplitMix64;

/// What all connections of a thread share.
pub(super) struct Http {
    requests: Requests,
    url: Url,
    random: RefCell<SplitMix64>,
    heads: RefCell<Heads<ResponseHead>>,
    /// What bodies have to be, where that is looked at.
    bodies: Option<RefCell<Bodies>>,
}

/// What is sent.
enum Requests {
    /// These bytes each time.
    Same {
        request: Chunk,
        /// The same, as the last of a connection.
        last: Chunk,
        is_head: bool,
    },
    Mixed(Arc<Mix>),
    Logged(Arc<Replay>),
}

/// What a connection knows of its client, where there are several kinds of requests.
#[derive(Debug, Default)]
pub(super) struct Visitor {
    cookies: Cookies,
    /// The name of the last request's kind.
    pub(super) kind: Option<String>,
    /// How long it thinks about the last answer.
    pub(super) think: Option<Duration>,
}

/// What of an answer's head the exchange goes by.
struct Head {
    status: u16,
    body: Body,
    keep_alive: bool,
    origin: Option<OriginId>,
    /// Bytes received up to the end of the head.
    bytes: u64,
}

impl Http {
    /// For thread number `thread`.
    pub(super) fn new(config: &Config, thread: usize) -> Self {
        let url = &config.url;
        let requests = match (&config.mix, &config.replay) {
            (Some(mix), _) => Requests::Mixed(Arc::clone(mix)),
            (None, Some(replay)) => Requests::Logged(Arc::clone(replay)),
            (None, None) => {
                let bytes = |close| Chunk::from_vec(request_bytes(url, &config.http, close));
                Requests::Same {
                    request: bytes(false),
                    last: bytes(true),
                    is_head: config.http.method == "HEAD",
                }
            }
        };
        Self {
            requests,
            url: url.clone(),
            random: RefCell::new(SplitMix64::new(thread as u64)),
            heads: RefCell::new(Heads::new()),
            bodies: config.http.verify.then(RefCell::default),
        }
    }

    /// Sends request `number` and reads its answer to the end. The `is_last` one of a connection
    /// says so.
    pub(super) async fn exchange(
        &self,
        stream: &Stream,
        number: u64,
        is_last: bool,
        visitor: &mut Visitor,
        recorder: &RefCell<Recorder>,
    ) -> Result<Answer, Failure> {
        let (request, is_head) = self.request(number, is_last, visitor);
        stream.send(request).await.map_err(|_| Failure::Reset)?;
        let mut input = receive(stream).await?;
        let head = self
            .read_head(stream, &mut input, visitor, recorder)
            .await?;
        let mut body = if is_head { Body::NONE } else { head.body };
        let mut bytes = head.bytes;
        let mut check = Check::new(self.bodies.as_ref(), &head, recorder);
        loop {
            let taken = body.take(&input, |data| check.on_data(data))?;
            bytes += taken as u64;
            recorder.borrow_mut().stream(taken as u64);
            if taken < input.len() {
                return Err(Failure::BadBody);
            }
            if body.is_done() {
                break;
            }
            input = match receive(stream).await {
                Err(Failure::Short) if body == Body::UntilClose => break,
                input => input?,
            };
        }
        let failure = if !(200..300).contains(&head.status) {
            Some(Failure::Status)
        } else {
            check.differs.then_some(Failure::Body)
        };
        Ok(Answer {
            failure,
            bytes,
            origin: head.origin,
            keep_alive: head.keep_alive,
        })
    }

    /// The bytes to send, and whether they ask for a head only.
    fn request(&self, number: u64, close: bool, visitor: &mut Visitor) -> (Chunk, bool) {
        let (bytes, is_head) = match &self.requests {
            Requests::Same {
                request,
                last,
                is_head,
            } => {
                let request = if close { last } else { request };
                return (request.share(), *is_head);
            }
            Requests::Logged(replay) => replay.write(number, &self.url, close),
            Requests::Mixed(mix) => {
                let mut random = self.random.borrow_mut();
                let request = mix.draw(&mut random);
                visitor.think = request.think.draw(&mut random);
                visitor.kind = Some(request.name.clone());
                request.write(&self.url, &visitor.cookies, close, &mut random)
            }
        };
        (Chunk::from_vec(bytes), is_head)
    }

    /// Takes the head of the final answer off `input`, reading on as needed.
    async fn read_head(
        &self,
        stream: &Stream,
        input: &mut Chunk,
        visitor: &mut Visitor,
        recorder: &RefCell<Recorder>,
    ) -> Result<Head, Failure> {
        let mut partial = Vec::new();
        let mut bytes = 0;
        loop {
            let known = partial.len();
            let read = {
                let mut heads = self.heads.borrow_mut();
                let read = if known == 0 {
                    heads.read(input)
                } else {
                    partial.extend_from_slice(input);
                    heads.read(&partial)
                };
                read.map_err(|_| Failure::BadBody)?.map(|(length, head)| {
                    if let Requests::Mixed(mix) = &self.requests
                        && mix.cookies
                    {
                        let cookies = head.cookies.iter();
                        cookies.for_each(|(name, value)| visitor.cookies.keep(name, value));
                    }
                    let origin = head
                        .origin
                        .as_deref()
                        .map(|name| recorder.borrow_mut().origin(name));
                    (length, head.status, head.body, head.keep_alive, origin)
                })
            };
            if let Some((length, status, body, keep_alive, origin)) = read {
                input.advance(length - known);
                bytes += length as u64;
                if !is_interim(status) {
                    return Ok(Head {
                        status,
                        body,
                        keep_alive,
                        origin,
                        bytes,
                    });
                }
                partial.clear();
                if !input.is_empty() {
                    continue;
                }
            } else if known == 0 {
                partial.extend_from_slice(input);
            }
            *input = receive(stream).await?;
        }
    }
}

/// A body that is compared with what it has to be, as it comes.
struct Check<'a> {
    /// What is known; `None` where nothing is to be compared.
    bodies: Option<&'a RefCell<Bodies>>,
    recorder: &'a RefCell<Recorder>,
    origin: Option<OriginId>,
    seen: usize,
    differs: bool,
}

impl<'a> Check<'a> {
    const fn new(
        bodies: Option<&'a RefCell<Bodies>>,
        head: &Head,
        recorder: &'a RefCell<Recorder>,
    ) -> Self {
        Self {
            bodies,
            recorder,
            origin: head.origin,
            seen: 0,
            differs: false,
        }
    }

    fn on_data(&mut self, data: &[u8]) {
        if let Some(bodies) = self.bodies {
            let recorder = self.recorder.borrow();
            // Who does not say who he is sends what nobody knows.
            self.differs |= match self.origin.map(|id| recorder.origin_name(id)) {
                Some(name) => !bodies.borrow_mut().is_part(name, self.seen, data),
                None => !data.is_empty(),
            };
            self.seen += data.len();
        }
    }
}

/// RFC 9110 §15.2; 101 is final, and here an error as nobody asked for it.
const fn is_interim(status: u16) -> bool {
    status < 200 && status != 101
}

fn request_bytes(url: &Url, request: &HttpRequest, close: bool) -> Vec<u8> {
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method, url.path);
    let has_host = request
        .headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("host"));
    if !has_host {
        head += &format!("Host: {}\r\n", url.authority);
    }
    for (name, value) in &request.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if request.body > 0 {
        head += &format!("Content-Length: {}\r\n", request.body);
    }
    if close {
        head += "Connection: close\r\n";
    }
    head += "\r\n";
    let mut bytes = head.into_bytes();
    bytes.resize(bytes.len() + request.body, b'x');
    bytes
}

impl From<BadFraming> for Failure {
    fn from(_: BadFraming) -> Self {
        Self::BadBody
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(request: &HttpRequest, close: bool) -> String {
        let url = "http://shop.example:81/a?b".parse().unwrap();
        String::from_utf8(request_bytes(&url, request, close)).unwrap()
    }

    #[test]
    fn requests_have_what_was_asked_for_and_no_more() {
        let plain = HttpRequest::default();
        let expected = "GET /a?b HTTP/1.1\r\nHost: shop.example:81\r\n\r\n";
        assert_eq!(request(&plain, false), expected);
        let post = HttpRequest {
            method: "POST".into(),
            headers: vec![("host".into(), "other".into()), ("X-A".into(), "1".into())],
            body: 3,
            verify: false,
        };
        assert_eq!(
            request(&post, true),
            "POST /a?b HTTP/1.1\r\nhost: other\r\nX-A: 1\r\nContent-Length: 3\r\n\
             Connection: close\r\n\r\nxxx"
        );
    }
}
