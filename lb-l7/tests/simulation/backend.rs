//! A backend: answers each request with what belongs to its id, in every framing, early or late,
//! and ends connections when it likes.
//!
//! Invariant checked here: what reaches a backend is a request that a client sent, its body a
//! prefix of the client's; what must not be repeated comes once.
//! Read next: `client.rs`.

use crate::client::{Request, response_content};
use crate::seeds::Random;
use crate::wire::{Cut, Framing, Wire, framed};
use crate::{Story, tunnel};
use lb_core::rt::{self, TcpListener, TcpStream};
use std::rc::Rc;
use std::time::Duration;

/// Accepts for ever.
pub(crate) async fn serve(story: Rc<Story>, listener: TcpListener, number: u64) {
    let mut connections = 0;
    loop {
        match listener.accept().await {
            Ok(stream) => {
                connections += 1;
                let seed = story.seed ^ number << 40 ^ connections << 20;
                rt::spawn(talk(Rc::clone(&story), stream, Random::new(seed)));
            }
            Err(_out_of_descriptors) => rt::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn talk(story: Rc<Story>, stream: TcpStream, mut random: Random) {
    let mut wire = Wire::new(stream, story.weather);
    for served in 0.. {
        // Ended while idle: the proxy may be about to use the connection.
        if served > 0 && random.one_in(10) {
            random.pause().await;
            return;
        }
        match exchange(&story, &mut wire, &mut random).await {
            Ok(true) => {}
            Ok(false) | Err(_) => return,
        }
    }
}

/// One request and its response. False if the connection ends with it.
async fn exchange(story: &Story, wire: &mut Wire, random: &mut Random) -> Result<bool, Cut> {
    let mut message = wire.head().await?;
    let path = message.first_line.split(' ').nth(1).expect("a path");
    let id: u64 = path[1..].parse().expect("an id of a client's");
    let request = Request::of(story.seed, id);
    story.seen(&request);
    assert_eq!(message.field("host"), Some("sim.example"));
    if message.field("upgrade").is_some() && !random.one_in(4) {
        tunnel::end_of_backend(wire, &request, random).await?;
        return Ok(false);
    }
    let early = random.one_in(10);
    if !early {
        if message.field("expect").is_some() {
            wire.send(b"HTTP/1.1 100 Continue\r\n\r\n", random).await?;
        }
        let whole = wire.body(&mut message, false).await;
        assert!(
            request.content().starts_with(&message.body),
            "{request:?} came with another body"
        );
        whole?;
        assert!(
            message.body == request.content(),
            "{request:?} came shortened"
        );
    }
    random.pause().await;
    if random.one_in(8) {
        let interim = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
        wire.send(interim.as_bytes(), random).await?;
    }
    // What is left of a body that was not waited for would be taken for the next request.
    let closes = early || random.one_in(8);
    wire.send(&response(&request, closes, random), random)
        .await?;
    if closes {
        // As RFC 9112 section 9.6 asks: our end first, the rest of the body is let run out.
        let _ = wire.stream.shutdown().await;
        wire.drain().await;
    }
    Ok(!closes)
}

fn response(request: &Request, closes: bool, random: &mut Random) -> Vec<u8> {
    let body = response_content(request.id);
    let framing = match random.within(0..3) {
        0 => Framing::Length,
        1 => Framing::Chunked,
        _ if closes => Framing::Close,
        _ => Framing::Length,
    };
    let mut head = format!("HTTP/1.1 200 OK\r\nX-Id: {}\r\n", request.id);
    match framing {
        Framing::Length => head.push_str(&format!("Content-Length: {}\r\n", body.len())),
        Framing::Chunked => head.push_str("Transfer-Encoding: chunked\r\n"),
        Framing::Close | Framing::None => {}
    }
    if closes {
        head.push_str("Connection: close\r\n");
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    if !request.is_head() {
        bytes.extend(framed(&body, framing, random));
    }
    bytes
}
