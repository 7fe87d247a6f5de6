//! What `lb` says of itself: its page of metrics, in Prometheus' text format.
//!
//! Invariant: a number that is not on the page is absent, never zero.

use std::io;
use std::net::SocketAddr;

use super::probe;

/// The page at the admin address.
///
/// # Errors
/// When nobody answers there, or not with a page.
pub(crate) fn read(admin: SocketAddr) -> io::Result<String> {
    let answer = probe::get(admin, "/metrics")?;
    String::from_utf8(answer).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// The values of `family`, which has one for each worker, in the order of the workers.
pub(crate) fn by_worker(page: &str, family: &str) -> Vec<u64> {
    let value = |worker: usize| {
        let series = format!("{family}{{worker=\"{worker}\"}} ");
        let line = page.lines().find_map(|line| line.strip_prefix(&series))?;
        line.trim().parse().ok()
    };
    (0..).map_while(value).collect()
}

/// The value of the series `name`, which has no labels.
pub(crate) fn value(page: &str, name: &str) -> Option<f64> {
    let of = |line: &str| {
        line.strip_prefix(name)?
            .strip_prefix(' ')?
            .trim()
            .parse()
            .ok()
    };
    page.lines().find_map(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# HELP a b\n# TYPE a gauge\na{worker=\"0\"} 17\na{worker=\"1\"} 4\n\
                        ab{worker=\"0\"} 3\nb 2.5\n";

    #[test]
    fn series_are_found_by_their_whole_name() {
        assert_eq!(by_worker(PAGE, "a"), [17, 4]);
        assert_eq!(by_worker(PAGE, "ab"), [3]);
        assert!(by_worker(PAGE, "c").is_empty());
        assert_eq!((value(PAGE, "b"), value(PAGE, "a")), (Some(2.5), None));
    }
}
