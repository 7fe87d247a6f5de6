//! Requests that no client may send, by what they are answered, and such that look strange and are
//! right. The tests of the program show them to nginx and HAProxy, too.
//!
//! Read next: `hostile.rs`, `smuggling.rs` (what is held of them).

/// Heads that are refused, by the status that they get.
pub(crate) const REFUSED: &[(u16, &str)] = &[
    // The request line (RFC 9112 section 3).
    (400, "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, " GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "\0GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET /  HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET / HTTP/1.1 \r\nHost: a\r\n\r\n"),
    (400, "GET / HTTP/1.1\t\r\nHost: a\r\n\r\n"),
    (400, "GET /\r\nHost: a\r\n\r\n"),
    (400, "GET / \r\nHost: a\r\n\r\n"),
    (400, "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "G@T / HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GE\u{e9}T / HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET /\u{1} HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET /\u{7f} HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET / http/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET / HTTP/1\r\nHost: a\r\n\r\n"),
    (400, "GET / HTTP/1.1.1\r\nHost: a\r\n\r\n"),
    (400, "GET / HTTP/01.1\r\nHost: a\r\n\r\n"),
    (400, "GET / HTTP/1,1\r\nHost: a\r\n\r\n"),
    (400, "GET / HTTPS/1.1\r\nHost: a\r\n\r\n"),
    (400, "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}"),
    (400, "{\"json\":true}\r\n\r\n"),
    (505, "GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
    (505, "GET / HTTP/0.9\r\nHost: a\r\n\r\n"),
    (505, "GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
    (505, "GET / HTTP/9.9\r\nHost: a\r\n\r\n"),
    (505, "PRI / HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    (501, "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"),
    (501, "CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n"),
    // The target (RFC 9112 section 3.2).
    (400, "GET a HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n"),
    (400, "GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "OPTIONS ** HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET /#a HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET /\u{fc} HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET ?a HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET http:/a HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET http:// HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET http:///a HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET http://u:p@a/ HTTP/1.1\r\nHost: u\r\n\r\n"),
    (400, "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET https://a:80/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET http://a\\b/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET http://a/ HTTP/1.1\r\n\r\n"),
    (400, "GET /.. HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET /a/../b HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET /a/%2e%2E/b HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, "GET http://a/../b HTTP/1.1\r\nHost: a\r\n\r\n"),
    // Host (RFC 9112 section 3.2).
    (400, "GET / HTTP/1.1\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: \r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nhOsT: b\r\n\r\n"),
    (400, "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a?b\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: [x]\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: ::1\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\"b\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: http://a\r\n\r\n"),
    // Field lines (RFC 9112 section 5).
    (400, "GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost\t: a\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX y: z\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\n: z\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\tz\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX:\r\n z\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX: y\0z\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX: y\u{b}z\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX: \u{7f}\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX\u{e9}: y\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX\0: y\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\n(X): y\r\n\r\n"),
    // Line ends (RFC 9112 section 2.2).
    (400, "GET / HTTP/1.1\nHost: a\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX: y\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\n\n"),
    (400, "GET / HTTP/1.1\nHost: a\n\n"),
    (400, "GET / HTTP/1.1\rHost: a\r\r"),
    (400, "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX: y\rz\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a\r\nX: y\nZ: a\r\n\r\n"),
    // Content-Length (RFC 9110 section 8.6).
    (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n"),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: a\r\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\na",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 1\r\n\r\na",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1,1\r\n\r\na",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 2\r\n\r\na",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1.0\r\n\r\na",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \"1\"\r\n\r\na",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1;a\r\n\r\na",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\ncontent-length: 2\r\n\r\na",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551617\r\n\r\n",
    ),
    // Transfer-Encoding (RFC 9112 section 6.1).
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ch\u{b}unked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\nX: y\r\n\r\n0\r\n\r\n",
    ),
    (
        501,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
    ),
    (
        501,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        501,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    ),
    (
        501,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: cow\r\n\r\n0\r\n\r\n",
    ),
    // Chunks that are at hand with the head (RFC 9112 section 7.1).
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1 \r\na",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a\nb\r\na",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n11111111111111111\r\na",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\n\r\n",
    ),
    (
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n A: b\r\n\r\n",
    ),
];

/// Heads that look strange and are right.
pub(crate) const ACCEPTED: &[&str] = &[
    "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET / HTTP/1.0\r\n\r\n",
    "GET /a|b{c}\"<>^`?|{}[] HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET //a/.../b HTTP/1.1\r\nHost: a\r\n\r\n",
    "M-SEARCH / HTTP/1.1\r\nHost: a\r\n\r\n",
    "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET http://A:80/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET https://a/ HTTP/1.1\r\nHost: a:443\r\n\r\n",
    "GET / HTTP/1.1\r\nHost:a.\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: [2001:db8::1]:8080\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nX:\t \u{e9}\t \r\nY:\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nConnection: ,, close ,,\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 000\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
];

/// What follows `POST / HTTP/1.1\r\nHost: a\r\n`, head and body.
pub(crate) const FIELDS: &[(u16, &str)] = &[
    // Transfer-Encoding by other names, in other writings, more than once.
    (
        400,
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
    ),
    (
        501,
        "Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\nTransfer-encoding: cow\r\n\r\n0\r\n\r\n",
    ),
    (400, "Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n"),
    (400, "Transfer-Encoding\u{b}: chunked\r\n\r\n0\r\n\r\n"),
    (400, "Transfer-Encoding\0: chunked\r\n\r\n0\r\n\r\n"),
    (400, " Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (400, "X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (400, "X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (400, "X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (
        400,
        "Transfer-Encoding: chunked\r\rContent-Length: 5\r\n\r\n0\r\n\r\n",
    ),
    (400, "Transfer-Encoding: \0chunked\r\n\r\n0\r\n\r\n"),
    (400, "Transfer-Encoding: chunked\0\r\n\r\n0\r\n\r\n"),
    (400, "Transfer-Encoding: \u{c}chunked\r\n\r\n0\r\n\r\n"),
    (400, "Transfer-Encoding: \u{7f}chunked\r\n\r\n0\r\n\r\n"),
    (400, "Transfer-Encoding: chunked x\r\n\r\n0\r\n\r\n"),
    (501, "Transfer-Encoding: 'chunked'\r\n\r\n0\r\n\r\n"),
    (400, "Transfer-Encoding: chunked;\r\n\r\n0\r\n\r\n"),
    (400, "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    (400, "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
    (501, "Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n"),
    (501, "Transfer-Encoding: chunk\r\n\r\n0\r\n\r\n"),
    (501, "Transfer-Encoding: deflate\r\n\r\n0\r\n\r\n"),
    (
        400,
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "Content-Length: 4\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "content-length: 4\r\nTRANSFER-ENCODING: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        501,
        "Content-Length: 4\r\nTransfer-Encoding: gzip\r\n\r\nabcd",
    ),
    (400, "Content-Length: 4\r\nTransfer-Encoding:\r\n\r\nabcd"),
    // Content-Length.
    (400, "Content-Length : 4\r\n\r\nabcd"),
    (400, "Content-Length\t: 4\r\n\r\nabcd"),
    (400, "\tContent-Length: 4\r\n\r\nabcd"),
    (400, "Content-Length: \u{b}4\r\n\r\nabcd"),
    (400, "Content-Length: 4\0\r\n\r\nabcd"),
    (400, "Content-Length: 4\r\n 2\r\n\r\nabcd"),
    (400, "Content-Length: 4,\r\n\r\nabcd"),
    (400, "Content-Length: ,4\r\n\r\nabcd"),
    (400, "Content-Length: 4,4\r\n\r\nabcd"),
    (400, "Content-Length: 4, 5\r\n\r\nabcd"),
    (400, "Content-Length: 4e0\r\n\r\nabcd"),
    (400, "Content-Length: 4_0\r\n\r\nabcd"),
    (400, "Content-Length: 4l\r\n\r\nabcd"),
    (400, "Content-Length: 0b100\r\n\r\nabcd"),
    (400, "Content-Length: 0o4\r\n\r\nabcd"),
    (400, "Content-Length: \u{664}\r\n\r\nabcd"),
    (400, "Content-Length: four\r\n\r\nabcd"),
    (400, "Content-Length: 4 \u{b}\r\n\r\nabcd"),
    (400, "Content-Length: -0\r\n\r\n"),
    (400, "Content-Length: +0\r\n\r\n"),
    (400, "Content-Length: 18446744073709551616\r\n\r\n"),
    (
        400,
        "Content-Length: 340282366920938463463374607431768211456\r\n\r\n",
    ),
    (400, "Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcd"),
    (400, "Content-Length: 4\r\nContent-Length: \r\n\r\nabcd"),
    (
        400,
        "Content-Length: 4\r\nX: y\r\nContent-Length: 4\r\n\r\nabcd",
    ),
    (400, "Content-Length: 0\r\nContent-Length: 4\r\n\r\nabcd"),
    // Chunks.
    (400, "Transfer-Encoding: chunked\r\n\r\n\r\n0\r\n\r\n"),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n 4\r\nabcd\r\n0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n\t4\r\nabcd\r\n0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n4 ;x\r\nabcd\r\n0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n0x4\r\nabcd\r\n0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n+4\r\nabcd\r\n0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n4_\r\nabcd\r\n0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n4h\r\nabcd\r\n0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n4,\r\nabcd\r\n0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n;x\r\nabcd\r\n0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n4\r\r\nabcd\r\n0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n4\rabcd\r\n0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n4\0\r\nabcd\r\n0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n4;x\0y\r\nabcd\r\n0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n4;x\ry\r\nabcd\r\n0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n4;x\ny\r\nabcd\r\n0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\n0\r\n\r\n",
    ),
    (400, "Transfer-Encoding: chunked\r\n\r\n4\r\nabcd0\r\n\r\n"),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n4\r\nabcde\r\n0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n4\r\nabc\r\n0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n4\r\nabcdXX0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\rX0\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n00000000000000004\r\nabcd\r\n0\r\n\r\n",
    ),
    (400, "Transfer-Encoding: chunked\r\n\r\n0\n\r\n"),
    (400, "Transfer-Encoding: chunked\r\n\r\n0\r\n\n"),
    (400, "Transfer-Encoding: chunked\r\n\r\n0\r\nX : y\r\n\r\n"),
    (400, "Transfer-Encoding: chunked\r\n\r\n0\r\nX\r\n\r\n"),
    (400, "Transfer-Encoding: chunked\r\n\r\n0\r\n: y\r\n\r\n"),
    (400, "Transfer-Encoding: chunked\r\n\r\n0\r\nX: \0\r\n\r\n"),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n z\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\rGET / HTTP/1.1\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n0\r\nGET / HTTP/1.1\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 4\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\nTransfer-encoding: x\r\n\r\n",
    ),
    (
        400,
        "Transfer-Encoding: chunked\r\n\r\n0\r\nhost: b\r\n\r\n",
    ),
    // Fields.
    (400, "Host: b\r\n\r\n"),
    (400, "X-\u{0}: y\r\n\r\n"),
    (400, "X[0]: y\r\n\r\n"),
    (400, "X/Y: y\r\n\r\n"),
    (400, "X\"Y: y\r\n\r\n"),
    (400, "X@Y: y\r\n\r\n"),
    (400, "X\\Y: y\r\n\r\n"),
    (400, "X: \u{8}\r\n\r\n"),
    (400, "X: \u{1b}[0m\r\n\r\n"),
    (400, "X: y\r\n\u{b}Z: a\r\n\r\n"),
    (400, "X: y\r\nGET /admin HTTP/1.1\r\n\r\n"),
];
