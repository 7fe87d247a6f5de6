//! What is behind a switch of protocols: each side sends what is its own, and ends its direction when
//! it likes.
//!
//! Invariant checked here: what one side sends reaches the other in order and whole, unless a
//! connection breaks. Read next: `client.rs`, `backend.rs`.

use crate::Story;
use crate::client::Request;
use crate::seeds::Random;
use crate::wire::{Cut, Wire, content};

/// What a side sends: the same for all who ask.
fn sent_by(request: &Request, is_client: bool) -> Vec<u8> {
    let seed = request.id ^ if is_client { 0xc11e47 } else { 0xbac4e4d };
    content(seed, Random::new(seed).skewed(17))
}

/// The client's side, behind 101.
pub(crate) async fn end_of_client(
    story: &Story,
    mut wire: Wire,
    request: &Request,
    random: &mut Random,
) {
    let result = talk(&mut wire, request, true, random).await;
    assert!(
        result.is_ok() || story.weather.fails(),
        "{request:?}: a tunnel was cut"
    );
    if result.is_ok() {
        story.answered.set(story.answered.get() + 1);
    }
}

/// The backend's side.
pub(crate) async fn end_of_backend(
    wire: &mut Wire,
    request: &Request,
    random: &mut Random,
) -> Result<(), Cut> {
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nX-Id: {}\r\nConnection: upgrade\r\nUpgrade: \
         tunnel\r\n\r\n",
        request.id
    );
    wire.send(head.as_bytes(), random).await?;
    let result = talk(wire, request, false, random).await;
    // A client may have left before it saw that there is a tunnel: then it is cut.
    result
}

/// Sends what this side has and ends its direction, then reads the other's to its end. Directions
/// take turns, by who sends first.
async fn talk(
    wire: &mut Wire,
    request: &Request,
    is_client: bool,
    random: &mut Random,
) -> Result<(), Cut> {
    let own = sent_by(request, is_client);
    let client_first = request.id.is_multiple_of(2);
    if client_first == is_client {
        say(wire, &own, random).await?;
        hear(wire, request, is_client).await
    } else {
        hear(wire, request, is_client).await?;
        say(wire, &own, random).await
    }
}

async fn say(wire: &Wire, own: &[u8], random: &mut Random) -> Result<(), Cut> {
    wire.send(own, random).await?;
    wire.stream.shutdown().await.map_err(|_| Cut::Within)
}

async fn hear(wire: &mut Wire, request: &Request, is_client: bool) -> Result<(), Cut> {
    let expected = sent_by(request, !is_client);
    let mut heard = Vec::new();
    loop {
        let piece = wire.next().await?;
        let is_end = piece.is_empty();
        heard.extend(piece);
        assert!(expected.starts_with(&heard), "{request:?}: other bytes");
        if is_end {
            let is_whole = heard.len() == expected.len();
            return if is_whole { Ok(()) } else { Err(Cut::Between) };
        }
    }
}
