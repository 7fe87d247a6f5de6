//! What must be so of all that clients and backends have received, whatever they did.
//!
//! Read next: `messages.rs`.

use std::collections::HashSet;

use super::World;
use super::ends::{BackendEnd, ClientEnd, answer_content};
use super::messages::{Message, requests, response};
use super::script::Framing;

/// Looks at everything that was received.
pub(crate) fn check(world: &World) {
    let mut seen = HashSet::new();
    for backend in &world.backends {
        for connection in backend.borrow().iter() {
            check_backend(world, connection, &mut seen);
        }
    }
    for client in &world.clients {
        check_client(world, client);
    }
}

/// What a backend has got are requests of ours, each by itself, and what belongs to it.
fn check_backend(world: &World, connection: &BackendEnd, seen: &mut HashSet<usize>) {
    let received = connection.end.received.borrow();
    let mut tunnel = None;
    for message in requests(&received) {
        let Some(number) = message.number() else {
            continue; // of raw bytes
        };
        let Some(asked) = world.asked.get(number).filter(|it| it.is_sure) else {
            continue;
        };
        assert_eq!(message.field("x-id"), Some(&*number.to_string()));
        assert_eq!(message.field("host"), Some("sim.example"));
        assert_eq!(message.method(), asked.request.method);
        let first = seen.insert(number);
        assert!(
            first || asked.may_be_repeated(),
            "request {number} came twice"
        );
        if connection.switched_at.is_some() && message.field("upgrade").is_some() {
            tunnel = Some((number, message.end));
            break;
        }
        let content = asked.content(number);
        assert!(
            content.starts_with(&message.body),
            "request {number} came with another body"
        );
        assert!(
            !message.is_whole || content.len() == message.body.len(),
            "request {number} came shortened"
        );
    }
    // What is behind the request that changed the protocol is what its client sent behind it.
    if let Some((number, at)) = tunnel {
        let asked = &world.asked[number];
        let written = world.clients[asked.client].end.written.borrow();
        assert!(
            written[asked.end..].starts_with(&received[at..]),
            "another client's bytes behind request {number}"
        );
    }
}

/// What a client has got answers its requests, in their order, with what belongs to each.
fn check_client(world: &World, client: &ClientEnd) {
    let received = client.end.received.borrow();
    let mut at = 0;
    let mut position = 0;
    while at < received.len() {
        let expected = client.asked.get(position).copied();
        let asked = expected.map(|it| &world.asked[it]);
        let is_sure = asked.is_some_and(|it| it.is_sure);
        // Whether a response to what nobody knows answers HEAD is not known either.
        let answers_head = asked.is_some_and(|it| it.request.method == "HEAD");
        if !is_sure && client.is_raw {
            return check_ids(world, client, &received[at..]);
        }
        let Some(message) = response(&received, at, answers_head) else {
            return; // cut within a head
        };
        at = message.end;
        if message.status() == 101 {
            return check_tunnel(world, &message, &received[at..]);
        }
        if message.status() < 200 {
            continue;
        }
        position += 1;
        assert!(expected.is_some(), "a response to nothing: {message:?}");
        check_response(world, &message, expected, answers_head);
        if !message.is_whole {
            return;
        }
    }
}

fn check_response(world: &World, message: &Message, expected: Option<usize>, answers_head: bool) {
    let Some(id) = message.id() else {
        return; // of our own, or raw
    };
    assert_eq!(Some(id), expected, "another request's response");
    if has_raw_answer(world, id) {
        return; // anything may be in a body that was begun before
    }
    let most = message.body.len();
    assert!(
        message.body == answer_content(id, most),
        "the response to {id} has bytes that are not its own"
    );
    if !message.is_whole || answers_head || matches!(message.status(), 204 | 304) {
        return;
    }
    let lengths = announced(world, id);
    assert!(
        lengths.is_empty() || lengths.contains(&most),
        "the response to {id} is whole with {most} bytes, of {lengths:?}"
    );
}

/// Whether a backend that answered the request was given bytes that are none of ours.
fn has_raw_answer(world: &World, id: usize) -> bool {
    let answered = |it: &BackendEnd| it.answers().any(|(number, ..)| number == id);
    world.backends.iter().any(|backend| {
        let connections = backend.borrow();
        let mut all = connections.iter();
        all.any(|it| it.end.is_raw.get() && answered(it))
    })
}

/// The lengths that backends have announced for the response to a request; none if one of them
/// ends by closing.
fn announced(world: &World, id: usize) -> Vec<usize> {
    let mut lengths = Vec::new();
    for backend in &world.backends {
        for connection in backend.borrow().iter() {
            for (number, framing, length) in connection.answers() {
                if number == id {
                    if framing == Framing::Close {
                        return Vec::new();
                    }
                    lengths.push(length);
                }
            }
        }
    }
    lengths
}

/// A client that sends anything may get anything, but for what is meant for others.
fn check_ids(world: &World, client: &ClientEnd, received: &[u8]) {
    let text = String::from_utf8_lossy(received);
    for (at, _) in text.match_indices("\r\nX-Id: ") {
        let rest = &text[at + 8..];
        let digits = rest.split("\r\n").next().expect("a first part");
        let Ok(id) = digits.parse::<usize>() else {
            continue;
        };
        let owner = world.asked.get(id).map(|it| it.client);
        let own = world.clients.iter().position(|it| std::ptr::eq(it, client));
        assert!(owner.is_none() || owner == own, "another client's response");
    }
}

/// What is behind a 101 is what one backend sent behind its own.
fn check_tunnel(world: &World, message: &Message, received: &[u8]) {
    let Some(id) = message.id() else { return };
    let is_from = |connection: &BackendEnd| {
        let Some(at) = connection.switched_at else {
            return false;
        };
        let is_it = requests(&connection.end.received.borrow())
            .iter()
            .any(|it| it.number() == Some(id));
        is_it && connection.end.written.borrow()[at..].starts_with(received)
    };
    let mut backends = world.backends.iter();
    assert!(
        backends.any(|it| it.borrow().iter().any(is_from)),
        "bytes behind 101 for {id} that no backend sent"
    );
}
