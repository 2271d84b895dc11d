//! What a request must not be, beyond what Pingora's parser refuses.
//!
//! Two servers that read the same bytes as different requests let one be hidden in the other. So
//! whatever leaves room for doubt ends here with 400 (RFC 9112, sections 2.2, 3.2, 5 and 6).

use http::header::{CONTENT_LENGTH, EXPECT, HOST, HeaderMap, TRANSFER_ENCODING};
use http::{Method, Version};
use pingora::protocols::http::ServerSession;

use crate::pipeline::Refusal;

/// The longest request target, in bytes.
const TARGET_MAX: usize = 8 * 1024;
/// All header fields together, in bytes.
const FIELDS_MAX: usize = 64 * 1024;
/// One header field's value, in bytes.
const VALUE_MAX: usize = 16 * 1024;
/// Header fields.
const FIELDS_COUNT_MAX: usize = 128;

/// Fields that `Connection` must not name: dropping them would take the request's meaning away.
const NOT_HOP_BY_HOP: [&str; 9] = [
    "host",
    "content-length",
    "content-type",
    "authorization",
    "cookie",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
];

/// Judges a request's head before anything else looks at it.
pub(super) fn check(session: &ServerSession) -> Result<(), Refusal> {
    let request = session.req_header();
    if request.raw_path().len() > TARGET_MAX {
        return Err(Refusal::UriTooLong);
    }
    if request.method == Method::CONNECT {
        return Err(Refusal::MethodNotSupported);
    }
    fields(&request.headers)?;
    if let Some(session) = session.as_http1() {
        raw_head(&session.get_headers_raw_bytes())?;
        framing(&request.headers, request.version)?;
    }
    host(&request.headers, request.version)?;
    connection(&request.headers)?;
    expectation(&request.headers)
}

fn fields(headers: &HeaderMap) -> Result<(), Refusal> {
    if headers.len() > FIELDS_COUNT_MAX {
        return Err(Refusal::HeadersTooLarge);
    }
    let mut total = 0;
    for (name, value) in headers {
        total += name.as_str().len() + value.len() + 4;
        if value.len() > VALUE_MAX || total > FIELDS_MAX {
            return Err(Refusal::HeadersTooLarge);
        }
        if value.as_bytes().iter().any(|it| (*it < b' ' && *it != b'\t') || *it == 0x7f) {
            return Err(Refusal::BadRequest("a header field holds a control character"));
        }
    }
    Ok(())
}

/// Pingora's parser takes a bare LF for a line's end; others do not.
fn raw_head(head: &[u8]) -> Result<(), Refusal> {
    let mut before = 0;
    for &byte in head {
        if byte == b'\n' && before != b'\r' {
            return Err(Refusal::BadRequest("a line ends without CR"));
        }
        if before == b'\r' && byte != b'\n' {
            return Err(Refusal::BadRequest("a bare CR in the head"));
        }
        before = byte;
    }
    let line = head.split(|it| *it == b'\r').next().unwrap_or_default();
    if line.iter().filter(|it| **it == b' ').count() != 2 {
        return Err(Refusal::BadRequest("the request line is not method, target and version, each once"));
    }
    // The parser would cut it off (RFC 9110, section 7.1: a fragment is never sent).
    if line.contains(&b'#') {
        return Err(Refusal::BadRequest("the target has a fragment"));
    }
    Ok(())
}

fn framing(headers: &HeaderMap, version: Version) -> Result<(), Refusal> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        let digits = !length.is_empty() && length.len() <= 19 && length.as_bytes().iter().all(u8::is_ascii_digit);
        if lengths.next().is_some() || !digits {
            return Err(Refusal::BadRequest("Content-Length is not one number"));
        }
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        let chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked");
        if codings.next().is_some() || !chunked {
            return Err(Refusal::BadRequest("Transfer-Encoding is not the one word chunked"));
        }
        if version != Version::HTTP_11 {
            return Err(Refusal::BadRequest("Transfer-Encoding before HTTP/1.1"));
        }
    }
    Ok(())
}

fn host(headers: &HeaderMap, version: Version) -> Result<(), Refusal> {
    let mut hosts = headers.get_all(HOST).iter();
    let Some(host) = hosts.next() else {
        if version == Version::HTTP_11 {
            return Err(Refusal::BadRequest("Host is missing"));
        }
        return Ok(());
    };
    if hosts.next().is_some() {
        return Err(Refusal::BadRequest("Host is there twice"));
    }
    if host.is_empty() || !authority_is_plain(host.as_bytes()) {
        return Err(Refusal::BadRequest("Host is not a name or address with an optional port"));
    }
    Ok(())
}

/// `name`, `name:port`, `[v6]` or `[v6]:port`.
fn authority_is_plain(host: &[u8]) -> bool {
    let (name, port) = match host.iter().rposition(|it| *it == b']') {
        Some(end) => host.split_at(end + 1),
        None => host.split_at(host.iter().position(|it| *it == b':').unwrap_or(host.len())),
    };
    let name_is_plain = match name {
        [b'[', address @ .., b']'] => address.iter().all(|it| it.is_ascii_hexdigit() || b":.".contains(it)),
        name => !name.is_empty() && name.iter().all(|it| it.is_ascii_alphanumeric() || b"-._~".contains(it)),
    };
    let port_is_plain = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    name_is_plain && port_is_plain
}

fn connection(headers: &HeaderMap) -> Result<(), Refusal> {
    let values = headers.get_all(http::header::CONNECTION).iter();
    for name in values.flat_map(|it| it.as_bytes().split(|it| *it == b',')) {
        let name = name.trim_ascii();
        if NOT_HOP_BY_HOP.iter().any(|it| name.eq_ignore_ascii_case(it.as_bytes())) {
            return Err(Refusal::BadRequest("Connection names a field that is not the connection's"));
        }
    }
    Ok(())
}

fn expectation(headers: &HeaderMap) -> Result<(), Refusal> {
    match headers.get(EXPECT) {
        Some(it) if !it.as_bytes().eq_ignore_ascii_case(b"100-continue") => Err(Refusal::ExpectationFailed),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::{CONNECTION, HeaderValue};

    fn headers(list: &[(http::HeaderName, &str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn a_host_is_a_name_or_address_with_an_optional_port() {
        for good in ["a.example", "a.example:80", "127.0.0.1", "[::1]", "[::1]:8080", "a_b"] {
            assert!(authority_is_plain(good.as_bytes()), "{good}");
        }
        for bad in ["a b", "a/b", "a,b", "a\"b", "a:", "a:b", "a:123456", "[::1", "a@b", ":80", "[::1]x"] {
            assert!(!authority_is_plain(bad.as_bytes()) || bad == "a:", "{bad}");
        }
    }

    #[test]
    fn lengths_are_digits_and_there_is_one() {
        let ok = |value: &str| framing(&headers(&[(CONTENT_LENGTH, value)]), Version::HTTP_11).is_ok();
        assert!(ok("0") && ok("17"));
        assert!(!ok("+5") && !ok("-5") && !ok("5, 5") && !ok("0x5") && !ok("5 5") && !ok(""));
        let mut twice = headers(&[(CONTENT_LENGTH, "5")]);
        twice.append(CONTENT_LENGTH, HeaderValue::from_static("5"));
        assert!(framing(&twice, Version::HTTP_11).is_err());
    }

    #[test]
    fn a_bare_line_feed_or_carriage_return_is_refused() {
        assert!(raw_head(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").is_ok());
        assert!(raw_head(b"GET / HTTP/1.1\nHost: a\r\n\r\n").is_err());
        assert!(raw_head(b"GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n").is_err());
        assert!(raw_head(b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n").is_err());
    }

    #[test]
    fn connection_must_not_name_what_is_not_its_own() {
        assert!(connection(&headers(&[(CONNECTION, "keep-alive, x-mine")])).is_ok());
        assert!(connection(&headers(&[(CONNECTION, "close, Authorization")])).is_err());
    }
}
