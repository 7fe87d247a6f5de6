//! As many descriptors as the process may have: each connection takes one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the number of descriptors that this process and its children may have as far as it
/// goes, and returns it. The usual soft limit, 1024, would be a thousand connections.
pub fn raise_limit() -> usize {
    const USUAL: u64 = 1024;
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let reached = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    usize::try_from(reached.unwrap_or(USUAL)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_to_the_most() {
        let reached = raise_limit();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        assert!(limit.maximum.is_none_or(|most| most == reached as u64));
    }
}
