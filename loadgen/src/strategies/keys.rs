//! Which origin each client gets, before and after a change.
//!
//! Invariant: clients are asked one after the other on a connection each, so that nothing but the
//! scheduler's own state decides.

use std::io;
use std::net::SocketAddr;

use crate::compare::probe;
use crate::gate::Gate;
use crate::report::strategies::record::Keys;
use crate::run::Sources;
use crate::testbed::Mode;

/// The origin of each client, in the order of the clients.
pub(super) type Map = Vec<String>;

/// Asks so many clients for their origin.
///
/// # Errors
/// When one gets no answer, or `stop` is opened.
pub(super) fn ask(mode: Mode, at: SocketAddr, clients: usize, stop: &Gate) -> Result<Map, String> {
    let ask = |client: usize| {
        if stop.is_open() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let source = Sources::address(client);
        match mode {
            Mode::Http => probe::origin_over_http(source, at),
            Mode::Tcp => probe::origin_over_tcp(source, at),
        }
    };
    (0..clients)
        .map(|client| ask(client).map_err(|error| format!("client {client}: {error}")))
        .collect()
}

/// What changed between `first` and `again` (nothing happened), then `without` (`removed` was
/// taken out of `origins`), then `with` (`added` was put in).
pub(super) fn compare(
    origins: usize,
    [first, again, without, with]: [&Map; 4],
    removed: &str,
    added: &str,
) -> Keys {
    let count = |from: &Map, to: &Map, which: &dyn Fn(&str, &str) -> bool| {
        let pairs = from.iter().zip(to);
        pairs.filter(|(a, b)| a != b && which(a, b)).count()
    };
    Keys {
        clients: first.len(),
        origins,
        moved_by_nothing: count(first, again, &|_, _| true),
        moved_by_removal: count(again, without, &|_, _| true),
        had_to_move: count(again, without, &|from, _| from == removed),
        moved_by_addition: count(without, with, &|_, _| true),
        moved_to_the_new_one: count(without, with, &|_, to| to == added),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(names: &str) -> Map {
        names.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn moves_are_told_by_their_reason() {
        let first = map("a b c c");
        let again = map("a b c b");
        let without = map("a b a a");
        let with = map("d b a b");
        let keys = compare(3, [&first, &again, &without, &with], "c", "d");
        let expected = Keys {
            clients: 4,
            origins: 3,
            moved_by_nothing: 1,
            moved_by_removal: 2,
            had_to_move: 1,
            moved_by_addition: 2,
            moved_to_the_new_one: 1,
        };
        assert_eq!(keys, expected);
    }
}
