//! Requests as a log in combined format tells of them, at the times when they were made.
//!
//! Invariant: the log tells seconds; requests of one second are spread evenly over it, in the
//! order of the log. Lines that are no requests are counted, and left out.
//! Read next: `schedule.rs` (when they are due), `http.rs` (which sends them).

use std::sync::Arc;
use std::time::Duration;

use super::config::Url;

/// What is to be sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// When each request is due, from the start.
    pub(super) times: Arc<[Duration]>,
    requests: Vec<Logged>,
    /// Lines that are no requests.
    pub skipped: usize,
}

/// Why a log cannot be replayed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// Not one line is a request.
    #[error(
        "no line is a request in combined format, as in: 10.0.0.1 - - [10/Oct/2025:13:55:36 +0000] \
         \"GET / HTTP/1.1\" 200 2326 \"-\" \"-\""
    )]
    Empty,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Logged {
    method: String,
    uri: String,
    referer: Option<String>,
    agent: Option<String>,
}

impl Replay {
    /// Reads a log; it is replayed `speed` times as fast as it was.
    ///
    /// # Errors
    /// When there is no request in it.
    pub fn read(log: &str, speed: f64) -> Result<Self, ReplayError> {
        let all = || log.lines().filter(|line| !line.trim().is_empty());
        let mut read: Vec<(i64, Logged)> = all().filter_map(parse).collect();
        let skipped = all().count() - read.len();
        // Servers write lines at the end of requests: a few may be out of order.
        read.sort_by_key(|(second, _)| *second);
        let first = read
            .first()
            .map(|(second, _)| *second)
            .ok_or(ReplayError::Empty)?;
        let mut times = Vec::with_capacity(read.len());
        for group in read.chunk_by(|(a, _), (b, _)| a == b) {
            let start = (group[0].0 - first) as f64;
            for place in 0..group.len() {
                let at = start + place as f64 / group.len() as f64;
                times.push(Duration::from_secs_f64(at / speed));
            }
        }
        Ok(Self {
            times: times.into(),
            requests: read.into_iter().map(|(_, logged)| logged).collect(),
            skipped,
        })
    }

    /// How long it takes: until the second of the last request is over.
    pub fn duration(&self, speed: f64) -> Duration {
        let last = self.times.last().copied().unwrap_or_default().as_secs_f64() * speed;
        Duration::from_secs_f64((last.floor() + 1.0) / speed)
    }

    /// The bytes of request `number`, and whether its answer has no body.
    pub(super) fn write(&self, number: u64, url: &Url, close: bool) -> (Vec<u8>, bool) {
        let place = usize::try_from(number).unwrap_or(0) % self.requests.len();
        let logged = &self.requests[place];
        let mut head = format!(
            "{} {} HTTP/1.1\r\nHost: {}\r\n",
            logged.method, logged.uri, url.authority
        );
        let fields = [("Referer", &logged.referer), ("User-Agent", &logged.agent)];
        for (name, value) in fields {
            if let Some(value) = value {
                head += &format!("{name}: {value}\r\n");
            }
        }
        // The log does not tell what was sent.
        if !matches!(&*logged.method, "GET" | "HEAD" | "OPTIONS" | "DELETE") {
            head += "Content-Length: 0\r\n";
        }
        if close {
            head += "Connection: close\r\n";
        }
        head += "\r\n";
        (head.into_bytes(), logged.method == "HEAD")
    }
}

/// The second and the request of a line, if it is one.
fn parse(line: &str) -> Option<(i64, Logged)> {
    let (_, rest) = line.split_once('[')?;
    let (time, rest) = rest.split_once("] \"")?;
    let (request, rest) = rest.split_once('"')?;
    let mut words = request.split(' ');
    let (method, uri, version) = (words.next()?, words.next()?, words.next()?);
    let is_good = version.starts_with("HTTP/")
        && words.next().is_none()
        && uri.starts_with('/')
        && method.bytes().all(|byte| byte.is_ascii_uppercase())
        && uri.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_good || method == "CONNECT" {
        return None;
    }
    let mut quoted = rest.split('"').skip(1).step_by(2);
    let mut text = || {
        let value = quoted
            .next()
            .filter(|value| !value.is_empty() && *value != "-");
        value.map(str::to_owned)
    };
    let logged = Logged {
        method: method.to_owned(),
        uri: uri.to_owned(),
        referer: text(),
        agent: text(),
    };
    Some((seconds(time)?, logged))
}

/// `10/Oct/2025:13:55:36 +0200` in seconds since 1970.
fn seconds(time: &str) -> Option<i64> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let (time, zone) = time.split_once(' ')?;
    let mut parts = time.split(['/', ':']);
    let mut number = || parts.next()?.parse::<i64>().ok();
    let day = number()?;
    let mut parts = time.split(['/', ':']).skip(1);
    let month = MONTHS.find(parts.next()?)? as i64 / 3 + 1;
    let mut number = || parts.next()?.parse::<i64>().ok();
    let (year, hour, minute, second) = (number()?, number()?, number()?, number()?);
    let (sign, digits) = zone.split_at_checked(1)?;
    let offset: i64 = digits.parse().ok()?;
    let offset = (offset / 100 * 60 + offset % 100) * 60;
    let offset = if sign == "-" { -offset } else { offset };
    // Days from the civil calendar, with the year beginning in March.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * year + year.div_euclid(4) - year.div_euclid(100)
        + year.div_euclid(400)
        + (153 * month + 2) / 5
        + day
        - 1
        - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second - offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
10.0.0.1 - - [10/Oct/2025:13:55:36 +0000] \"GET /a?b=1 HTTP/1.1\" 200 2326 \"http://x/\" \"curl\"
10.0.0.1 - - [10/Oct/2025:15:55:36 +0200] \"HEAD /b HTTP/1.1\" 200 0 \"-\" \"-\"
nonsense
10.0.0.1 - - [10/Oct/2025:13:55:38 +0000] \"\\x16\\x03\" 400 0 \"-\" \"-\"
10.0.0.1 - - [10/Oct/2025:13:55:38 +0000] \"POST /c HTTP/2.0\" 201 5
";

    #[test]
    fn a_log_is_sent_again_at_its_times() {
        let replay = Replay::read(LOG, 1.0).unwrap();
        assert_eq!((replay.requests.len(), replay.skipped), (3, 2));
        let millis: Vec<u128> = replay.times.iter().map(Duration::as_millis).collect();
        assert_eq!(millis, [0, 500, 2000]);
        assert_eq!(replay.duration(1.0), Duration::from_secs(3));
        let url = "http://shop.example/".parse().unwrap();
        let text = |number| String::from_utf8(replay.write(number, &url, false).0).unwrap();
        assert_eq!(
            text(0),
            "GET /a?b=1 HTTP/1.1\r\nHost: shop.example\r\nReferer: http://x/\r\nUser-Agent: \
             curl\r\n\r\n"
        );
        assert!(replay.write(1, &url, false).1, "no body follows HEAD");
        assert!(text(2).ends_with("Content-Length: 0\r\n\r\n"));
        let fast = Replay::read(LOG, 4.0).unwrap();
        assert_eq!(fast.times[2], Duration::from_millis(500));
        assert_eq!(fast.duration(4.0), Duration::from_millis(750));
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(seconds("01/Jan/1970:00:00:00 +0000"), Some(0));
        assert_eq!(seconds("29/Feb/2024:12:00:00 -0130"), Some(1_709_213_400));
        assert_eq!(seconds("29/Foo/2024:12:00:00 +0000"), None);
        assert_eq!(Replay::read("nothing\n", 1.0), Err(ReplayError::Empty));
    }
}
