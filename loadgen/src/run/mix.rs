//! Several kinds of requests, as a file says: how often each comes, where it goes, how large it
//! is, how long its client thinks then.
//!
//! Invariant: a file with a key that nobody knows is refused, with the nearest one that is known.
//! Read next: `http.rs`, which sends them.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde_json::Value;

use super::config::Url;
use crate::origin::Delay;
use crate::tcp::SplitMix64;
use crate::units::parse_bytes;

/// Kinds of requests and how often each comes.
#[derive(Debug, Clone, PartialEq)]
pub struct Mix {
    /// The kinds; at least one, with a weight above 0 in sum.
    pub requests: Vec<Request>,
    /// Whether each connection keeps the cookies that it is given, and sends them.
    pub cookies: bool,
}

/// One kind of requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Its name in the result.
    pub name: String,
    /// How often it comes, against the others.
    pub weight: f64,
    /// Method, as in RFC 9110 §9.
    pub method: String,
    /// Paths with queries; each as likely.
    pub uris: Vec<String>,
    /// Headers besides those of every request.
    pub headers: BTreeMap<String, String>,
    /// Least and most bytes of body; each size as likely.
    pub body: (usize, usize),
    /// Time from the answer to the connection's next request, in a closed loop.
    pub think: Delay,
}

/// Why a file is no mix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {why}")]
pub struct MixError {
    /// Which key of which request.
    pub place: String,
    /// What is wrong with it, and what would be right.
    pub why: String,
}

/// The cookies of one connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cookies(BTreeMap<Box<str>, Box<str>>);

impl Cookies {
    /// Keeps one, in place of an older one of its name; an empty value ends it.
    pub fn keep(&mut self, name: &str, value: &str) {
        if value.is_empty() {
            self.0.remove(name);
        } else {
            self.0.insert(name.into(), value.into());
        }
    }

    /// The line of a request's head; nothing without cookies.
    pub fn line(&self) -> String {
        let pairs: Vec<String> = self
            .0
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        if pairs.is_empty() {
            return String::new();
        }
        format!("Cookie: {}\r\n", pairs.join("; "))
    }
}

const KEYS: [&str; 2] = ["requests", "cookies"];
const REQUEST_KEYS: [&str; 7] = [
    "name", "weight", "method", "uris", "headers", "body", "think",
];

impl FromStr for Mix {
    type Err = MixError;

    fn from_str(text: &str) -> Result<Self, MixError> {
        let value: Value = serde_saphyr::from_str(text).map_err(|error| MixError {
            place: "the file".to_owned(),
            why: error.to_string(),
        })?;
        let file = Table::new(&value, "the file", &KEYS)?;
        let list = file.get("requests").and_then(Value::as_array);
        let list = list.ok_or_else(|| file.error("requests", "a list of requests is needed"))?;
        let requests: Result<Vec<Request>, MixError> = list
            .iter()
            .enumerate()
            .map(|(number, value)| Request::read(value, number + 1))
            .collect();
        let requests = requests?;
        if requests.iter().map(|request| request.weight).sum::<f64>() <= 0.0 {
            return Err(file.error("requests", "one has to have a weight above 0"));
        }
        Ok(Self {
            requests,
            cookies: match file.get("cookies") {
                None => false,
                Some(Value::Bool(cookies)) => *cookies,
                Some(_) => return Err(file.error("cookies", "write true or false")),
            },
        })
    }
}

impl Mix {
    /// One of the kinds, by its weight.
    pub(super) fn draw(&self, random: &mut SplitMix64) -> &Request {
        let all: f64 = self.requests.iter().map(|request| request.weight).sum();
        let mut left = random.next_unit() * all;
        for request in &self.requests {
            left -= request.weight;
            if left <= 0.0 {
                return request;
            }
        }
        &self.requests[0]
    }
}

impl Request {
    fn read(value: &Value, number: usize) -> Result<Self, MixError> {
        let table = Table::new(value, &format!("request {number}"), &REQUEST_KEYS)?;
        let text = |key: &str, usual: &str| match table.get(key) {
            None => Ok(usual.to_owned()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(table.error(key, "write a text")),
        };
        let weight = match table.get("weight") {
            None => 1.0,
            Some(weight) => weight
                .as_f64()
                .filter(|weight| *weight >= 0.0 && weight.is_finite())
                .ok_or_else(|| table.error("weight", "write a number from 0 up"))?,
        };
        let think = text("think", "none")?;
        // `50ms` is meant as it stands.
        let fixed: Result<Delay, String> = format!("fixed:{think}").parse();
        let think: Result<Delay, String> =
            think.parse().or_else(|why: String| fixed.map_err(|_| why));
        Ok(Self {
            name: text("name", &format!("request {number}"))?,
            weight,
            method: text("method", "GET")?,
            uris: table.uris()?,
            headers: table.headers()?,
            body: table.body()?,
            think: think.map_err(|why| table.error("think", &why))?,
        })
    }

    /// The bytes of one request of this kind, and whether its answer has no body.
    pub(super) fn write(
        &self,
        url: &Url,
        cookies: &Cookies,
        close: bool,
        random: &mut SplitMix64,
    ) -> (Vec<u8>, bool) {
        let uri = &self.uris[below(self.uris.len(), random)];
        let (least, most) = self.body;
        let body = least + below(most - least + 1, random);
        let mut head = format!("{} {uri} HTTP/1.1\r\n", self.method);
        if !self
            .headers
            .keys()
            .any(|name| name.eq_ignore_ascii_case("host"))
        {
            head += &format!("Host: {}\r\n", url.authority);
        }
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &cookies.line();
        if most > 0 {
            head += &format!("Content-Length: {body}\r\n");
        }
        if close {
            head += "Connection: close\r\n";
        }
        head += "\r\n";
        let mut bytes = head.into_bytes();
        bytes.resize(bytes.len() + body, b'x');
        (bytes, self.method == "HEAD")
    }
}

/// A number below `end`, each as likely.
fn below(end: usize, random: &mut SplitMix64) -> usize {
    (random.next_u64() % end.max(1) as u64) as usize
}

/// A part of the file with keys.
struct Table<'file> {
    entries: &'file serde_json::Map<String, Value>,
    place: String,
}

impl<'file> Table<'file> {
    fn new(value: &'file Value, place: &str, known: &[&str]) -> Result<Self, MixError> {
        let error = |why: String| MixError {
            place: place.to_owned(),
            why,
        };
        let entries = value.as_object();
        let entries =
            entries.ok_or_else(|| error(format!("keys are needed: {}", known.join(", "))))?;
        if let Some(unknown) = entries.keys().find(|key| !known.contains(&key.as_str())) {
            let near = |key: &&&str| strsim::osa_distance(key, unknown);
            let nearest = known.iter().min_by_key(near).copied().unwrap_or_default();
            return Err(error(format!(
                "there is no key {unknown:?} here; is {nearest:?} meant? There are {}",
                known.join(", ")
            )));
        }
        Ok(Self {
            entries,
            place: place.to_owned(),
        })
    }

    fn get(&self, key: &str) -> Option<&'file Value> {
        self.entries.get(key)
    }

    fn error(&self, key: &str, why: &str) -> MixError {
        MixError {
            place: format!("{}, {key}", self.place),
            why: why.to_owned(),
        }
    }

    fn uris(&self) -> Result<Vec<String>, MixError> {
        let wrong = || self.error("uris", "write a list of paths, as in [/, /cart?item=1]");
        let Some(list) = self.get("uris") else {
            return Ok(vec!["/".to_owned()]);
        };
        let list = list
            .as_array()
            .filter(|list| !list.is_empty())
            .ok_or_else(wrong)?;
        let uri = |value: &Value| {
            let path = value.as_str().filter(|path| path.starts_with('/'));
            let path = path.filter(|path| !path.contains([' ', '#']) && path.is_ascii());
            path.map(str::to_owned).ok_or_else(wrong)
        };
        list.iter().map(uri).collect()
    }

    fn headers(&self) -> Result<BTreeMap<String, String>, MixError> {
        let wrong = || {
            self.error(
                "headers",
                "write names with values, as in {Accept: text/html}",
            )
        };
        let Some(table) = self.get("headers") else {
            return Ok(BTreeMap::new());
        };
        let is_ours = |name: &str| {
            let ours = [
                "connection",
                "content-length",
                "transfer-encoding",
                "cookie",
            ];
            ours.contains(&name.to_ascii_lowercase().as_str())
        };
        let mut headers = BTreeMap::new();
        for (name, value) in table.as_object().ok_or_else(wrong)? {
            if is_ours(name) {
                let why = format!("{name} is set by loadgen itself");
                return Err(self.error("headers", &why));
            }
            let value = value.as_str().filter(|value| !value.contains(['\r', '\n']));
            headers.insert(name.clone(), value.ok_or_else(wrong)?.to_owned());
        }
        Ok(headers)
    }

    fn body(&self) -> Result<(usize, usize), MixError> {
        let wrong = || self.error("body", "write a size, as in 4KiB, or two: [64, 16KiB]");
        let size = |value: &Value| match value {
            Value::Number(number) => number.as_u64().and_then(|size| usize::try_from(size).ok()),
            Value::String(text) => parse_bytes(text).ok(),
            _ => None,
        };
        match self.get("body") {
            None => Ok((0, 0)),
            Some(Value::Array(sizes)) => match &**sizes {
                [least, most] => {
                    let sizes = size(least).zip(size(most));
                    sizes
                        .filter(|(least, most)| least <= most)
                        .ok_or_else(wrong)
                }
                _ => Err(wrong()),
            },
            Some(value) => size(value).map(|size| (size, size)).ok_or_else(wrong),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const SHOP: &str = "
cookies: true
requests:
  - name: browse
    weight: 3
    uris: [/, /a, '/b?c=1']
    headers: {Accept: text/html}
    think: 50ms
  - name: buy
    method: POST
    body: [64, 1KiB]
    think: exp:10ms
";

    #[test]
    fn a_file_says_what_is_sent() {
        let mix: Mix = SHOP.parse().unwrap();
        assert!(mix.cookies);
        let [browse, buy] = &*mix.requests else {
            panic!("{mix:?}")
        };
        assert_eq!((browse.weight, browse.uris.len()), (3.0, 3));
        assert_eq!(browse.think, Delay::Fixed(Duration::from_millis(50)));
        assert_eq!((buy.weight, buy.body), (1.0, (64, 1024)));
        let mut random = SplitMix64::new(1);
        let drawn = (0..4000)
            .filter(|_| mix.draw(&mut random).name == "browse")
            .count();
        assert!((2800..3200).contains(&drawn), "{drawn}");
        let url: Url = "http://shop.example/".parse().unwrap();
        let mut cookies = Cookies::default();
        cookies.keep("a", "1");
        cookies.keep("b", "2");
        cookies.keep("a", "");
        for _ in 0..100 {
            let (bytes, is_head) = buy.write(&url, &cookies, false, &mut random);
            let text = String::from_utf8(bytes).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("POST / HTTP/1.1\r\nHost: shop.example\r\nCookie: b=2\r\n"));
            assert!(head.ends_with(&format!("Content-Length: {}", body.len())));
            assert!((64..=1024).contains(&body.len()) && !is_head);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [
            ("requests: []", "weight"),
            ("request: []", "\"requests\" meant"),
            (
                "requests: [{wieght: 1}]",
                "request 1: there is no key \"wieght\" here; is \"weight\"",
            ),
            ("requests: [{uris: [a]}]", "request 1, uris"),
            ("requests: [{body: [5, 1]}]", "body"),
            ("requests: [{think: soon}]", "think"),
            ("requests: [{headers: {Cookie: a=b}}]", "Cookie"),
            ("requests: [{weight: -1}]", "weight"),
            ("cookies: 1\nrequests: [{}]", "cookies"),
            ("just text", "keys are needed"),
            ("a: [", "the file"),
        ] {
            let error = text.parse::<Mix>().unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
