//! A strict reader of HTTP/1.1 messages from what was received in all, which shares no code with
//! what is tested.
//!
//! Read next: `checks.rs`.

use super::script::Framing;

/// A message, or the start of one.
#[derive(Debug, Default)]
pub(crate) struct Message {
    pub(crate) first_line: String,
    fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether its end was there. A body that only a close ends has none.
    pub(crate) is_whole: bool,
    /// Where what follows it begins.
    pub(crate) end: usize,
}

impl Message {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut all = self.fields.iter().filter(|(it, _)| it == name);
        let found = all.next()?;
        assert!(
            all.next().is_none() || !matches!(name, "content-length" | "transfer-encoding"),
            "{name} twice in {self:?}"
        );
        Some(&found.1)
    }

    pub(crate) fn method(&self) -> &str {
        self.first_line.split(' ').next().expect("a method")
    }

    /// The number of our request, by its path.
    pub(crate) fn number(&self) -> Option<usize> {
        let path = self.first_line.split(' ').nth(1)?;
        path.strip_prefix('/')?.parse().ok()
    }

    pub(crate) fn status(&self) -> u16 {
        let status = self.first_line.split(' ').nth(1);
        status.and_then(|it| it.parse().ok()).expect("a status")
    }

    pub(crate) fn id(&self) -> Option<usize> {
        self.field("x-id")?.parse().ok()
    }
}

/// The requests in what a backend has received; the last may lack its end.
pub(crate) fn requests(received: &[u8]) -> Vec<Message> {
    let mut all = Vec::new();
    let mut at = 0;
    while let Some(message) = request(received, at) {
        at = message.end;
        let is_last = !message.is_whole;
        all.push(message);
        if is_last {
            break;
        }
    }
    all
}

/// The request that begins at `at`, or as much of its body as is there.
pub(crate) fn request(received: &[u8], at: usize) -> Option<Message> {
    let mut message = head(received, at)?;
    let framing = match message.field("transfer-encoding") {
        Some(coding) => {
            assert_eq!(coding, "chunked");
            assert_eq!(message.field("content-length"), None, "two framings");
            Framing::Chunked
        }
        None if message.field("content-length").is_some() => Framing::Length,
        None => Framing::None,
    };
    read_body(&mut message, received, framing);
    Some(message)
}

/// The next response in what a client has received from `at` on; `answers_head` says whether it
/// answers HEAD.
pub(crate) fn response(received: &[u8], at: usize, answers_head: bool) -> Option<Message> {
    let mut message = head(received, at)?;
    let bodiless = answers_head || matches!(message.status(), 100..=199 | 204 | 304);
    let framing = if bodiless {
        Framing::None
    } else if let Some(coding) = message.field("transfer-encoding") {
        assert_eq!(coding, "chunked");
        assert_eq!(message.field("content-length"), None, "two framings");
        Framing::Chunked
    } else if message.field("content-length").is_some() {
        Framing::Length
    } else {
        assert_eq!(message.field("connection"), Some("close"), "{message:?}");
        Framing::Close
    };
    read_body(&mut message, received, framing);
    Some(message)
}

/// A head; what is cut off is none.
fn head(received: &[u8], at: usize) -> Option<Message> {
    let rest = &received[at..];
    let len = rest.windows(4).position(|it| it == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&rest[..len - 4]);
    let mut lines = match text {
        Ok(text) => text.split("\r\n"),
        // Raw bytes may be what is not UTF-8, in the values of fields.
        Err(_) => return Some(lossy_head(&rest[..len - 4], at + len)),
    };
    let first_line = lines.next().expect("a first line").to_owned();
    Some(Message {
        first_line,
        fields: lines.map(field).collect(),
        end: at + len,
        ..Message::default()
    })
}

fn lossy_head(head: &[u8], end: usize) -> Message {
    let text = String::from_utf8_lossy(head).into_owned();
    let mut lines = text.split("\r\n");
    Message {
        first_line: lines.next().expect("a first line").to_owned(),
        fields: lines.map(field).collect(),
        end,
        ..Message::default()
    }
}

fn field(line: &str) -> (String, String) {
    assert!(
        !line.contains(['\r', '\n', '\0']),
        "a control byte in {line:?}"
    );
    let (name, value) = line
        .split_once(':')
        .unwrap_or_else(|| panic!("no field: {line:?}"));
    assert!(
        !name.is_empty() && !name.contains([' ', '\t']),
        "no name: {line:?}"
    );
    (name.to_ascii_lowercase(), value.trim().to_owned())
}

fn read_body(message: &mut Message, received: &[u8], framing: Framing) {
    let rest = &received[message.end..];
    match framing {
        Framing::None => message.is_whole = true,
        Framing::Close => {
            message.body = rest.to_vec();
            message.end = received.len();
        }
        Framing::Length => {
            let length = message.field("content-length").expect("a length");
            let length: usize = length.parse().expect("a number");
            let taken = length.min(rest.len());
            message.body = rest[..taken].to_vec();
            message.end += taken;
            message.is_whole = taken == length;
        }
        Framing::Chunked => read_chunks(message, rest),
    }
}

fn read_chunks(message: &mut Message, mut rest: &[u8]) {
    let all = rest.len();
    let start = message.end;
    while let Some(line) = rest.windows(2).position(|it| it == b"\r\n") {
        let text = std::str::from_utf8(&rest[..line]).expect("a chunk line");
        let digits = text.split(';').next().expect("a first part").trim_end();
        let size = usize::from_str_radix(digits, 16).expect("a chunk size");
        rest = &rest[line + 2..];
        if size == 0 {
            message.is_whole = skip_trailers(&mut rest);
            break;
        }
        let taken = size.min(rest.len());
        message.body.extend_from_slice(&rest[..taken]);
        rest = &rest[taken..];
        if rest.len() < 2 {
            break;
        }
        assert_eq!(&rest[..2], b"\r\n", "no line end behind a chunk");
        rest = &rest[2..];
    }
    message.end = start + all - rest.len();
}

/// Whether all of them were there.
fn skip_trailers(rest: &mut &[u8]) -> bool {
    while let Some(line) = rest.windows(2).position(|it| it == b"\r\n") {
        *rest = &rest[line + 2..];
        if line == 0 {
            return true;
        }
    }
    false
}

/// A body as it goes over the wire.
pub(crate) fn write_body(out: &mut Vec<u8>, body: &[u8], framing: Framing) {
    if framing != Framing::Chunked {
        return out.extend_from_slice(body);
    }
    for piece in body.chunks(5_000) {
        out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
}
