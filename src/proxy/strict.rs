//! What a request must not be, beyond what Pingora's parser refuses.
//!
//! Two servers that read the same bytes as different requests let one be hidden in the other. So
//! whatever leaves room for doubt ends here with 400 (RFC 9112, sections 2.2, 3.2, 5 and 6).

use http::header::{CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, MAX_FORWARDS, TRANSFER_ENCODING};
use http::{Method, Version};
use pingora::http::RequestHeader;

use crate::client::Client;
use crate::pipeline::Refusal;

/// The longest request target, in bytes.
const TARGET_MAX: usize = 8 * 1024;
/// All header fields together, in bytes.
const FIELDS_MAX: usize = 64 * 1024;
/// One header field's value, in bytes.
const VALUE_MAX: usize = 16 * 1024;
/// Header fields.
const FIELDS_COUNT_MAX: usize = 128;
/// The longest method, in bytes; the registry's longest has 17.
const METHOD_MAX: usize = 32;

/// Fields that `Connection` must not name: dropping them would take the request's meaning away, or
/// what the proxies before us said about the client.
const NOT_HOP_BY_HOP: [&str; 17] = [
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "authorization",
    "cookie",
    "origin",
    "expect",
    "max-forwards",
    "forwarded",
    "via",
    "x-real-ip",
    "x-request-id",
    "traceparent",
    "tracestate",
    "date",
];

/// Judges a request's head before anything else looks at it.
pub(super) fn check(client: &mut Client<'_>) -> Result<(), Refusal> {
    let request = client.request();
    if request.raw_path().len() > TARGET_MAX {
        return Err(Refusal::UriTooLong);
    }
    if request.method == Method::CONNECT {
        return Err(Refusal::MethodNotSupported);
    }
    if request.method.as_str().len() > METHOD_MAX {
        return Err(Refusal::BadRequest("the method is too long to be one"));
    }
    if client.is_ordinary() {
        host(&request.headers, request.version)?; // of the rest there is no doubt
    } else {
        every_doubt(client)?;
    }
    if [Method::TRACE, Method::OPTIONS].contains(&client.request().method) {
        let has_body = !client.has_no_body();
        one_hop_less(client.request_mut(), has_body)?;
    }
    Ok(())
}

fn every_doubt(client: &mut Client<'_>) -> Result<(), Refusal> {
    let request = client.request();
    fields(&request.headers)?;
    if let Some(head) = client.raw_head() {
        raw_head(&head)?;
        if request.headers.contains_key(TRANSFER_ENCODING) {
            no_length(&head)?;
        }
    }
    framing(&request.headers, request.version)?;
    authority(request)?;
    host(&request.headers, request.version)?;
    connection(&request.headers)?;
    expectation(&request.headers)?;
    default_host(client);
    Ok(())
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
        let control = |it: &u8| ((*it < b' ') & (*it != b'\t')) | (*it == 0x7f);
        if value.as_bytes().iter().fold(false, |any, it| any | control(it)) {
            return Err(Refusal::BadRequest("a header field holds a control character"));
        }
    }
    Ok(())
}

/// Pingora's parser takes a bare LF for a line's end; others do not.
fn raw_head(head: &[u8]) -> Result<(), Refusal> {
    // Counted without an early end, so that the compiler can look at many bytes at once.
    let pairs = head.iter().zip(head.iter().skip(1));
    let (mut bare_lf, mut bare_cr) = (head.first() == Some(&b'\n'), head.last() == Some(&b'\r'));
    for (before, byte) in pairs {
        bare_lf |= (*byte == b'\n') & (*before != b'\r');
        bare_cr |= (*before == b'\r') & (*byte != b'\n');
    }
    if bare_lf {
        return Err(Refusal::BadRequest("a line ends without CR"));
    }
    if bare_cr {
        return Err(Refusal::BadRequest("a bare CR in the head"));
    }
    let line = head.split(|it| *it == b'\r').next().unwrap_or_default();
    let mut words = line.split(|it| *it == b' ');
    let (_, target, _) = (words.next(), words.next().unwrap_or_default(), words.next());
    if words.next().is_some() || !target.iter().all(u8::is_ascii_graphic) {
        return Err(Refusal::BadRequest("the request line is not method, target and version, each once"));
    }
    // The parser would cut it off (RFC 9110, section 7.1: a fragment is never sent).
    if line.contains(&b'#') {
        return Err(Refusal::BadRequest("the target has a fragment"));
    }
    Ok(())
}

/// Pingora drops the length of a request that has chunks, too (RFC 9112, section 6.1, lets it); whoever
/// sends both is either broken or up to something.
fn no_length(head: &[u8]) -> Result<(), Refusal> {
    let name = CONTENT_LENGTH.as_str().as_bytes();
    let mut lines = head.split(|it| *it == b'\n');
    if lines.any(|line| line.get(..name.len()).is_some_and(|it| it.eq_ignore_ascii_case(name))) {
        return Err(Refusal::BadRequest("both Content-Length and Transfer-Encoding"));
    }
    Ok(())
}

fn framing(headers: &HeaderMap, version: Version) -> Result<(), Refusal> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next()
        && (lengths.next().is_some() || !is_length(length.as_bytes()))
    {
        return Err(Refusal::BadRequest("Content-Length is not one number"));
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

/// Digits without a zero in front (which some take for a sign of octal), within what a file can have.
fn is_length(value: &[u8]) -> bool {
    let canonical = matches!(value, [b'0'] | [b'1'..=b'9', ..]) && value.iter().all(u8::is_ascii_digit);
    canonical && std::str::from_utf8(value).is_ok_and(|it| it.parse::<i64>().is_ok())
}

/// HTTP/2: the authority is what `Host` is for HTTP/1, and where both are, they must agree
/// (RFC 9113, section 8.3.1).
fn authority(request: &RequestHeader) -> Result<(), Refusal> {
    if request.version != Version::HTTP_2 {
        return Ok(());
    }
    let host = request.headers.get(HOST).map(HeaderValue::as_bytes);
    let Some(authority) = request.uri.authority().map(|it| it.as_str().as_bytes()) else {
        return host.map(|_| ()).ok_or(Refusal::BadRequest(":authority is missing"));
    };
    if !authority_is_plain(authority) {
        return Err(Refusal::BadRequest(":authority is not a name or address with an optional port"));
    }
    match host {
        Some(host) if !host.eq_ignore_ascii_case(authority) => Err(Refusal::BadRequest("Host is not :authority")),
        _ => Ok(()),
    }
}

/// What HTTP/1.0 leaves out and HTTP/1.1 asks for: the request is for the address that it came to
/// (RFC 9112, section 3.3).
fn default_host(client: &mut Client<'_>) {
    let request = client.request();
    if request.version == Version::HTTP_2 || request.headers.contains_key(HOST) {
        return;
    }
    if let Ok(address) = HeaderValue::from_str(&client.server_address()) {
        let _ = client.request_mut().insert_header(HOST, address);
    }
}

/// TRACE and OPTIONS count the hops that they may go (RFC 9110, section 7.6.2); at the last one, nothing
/// of ours is under any path.
fn one_hop_less(request: &mut RequestHeader, has_body: bool) -> Result<(), Refusal> {
    if request.method == Method::TRACE && has_body {
        return Err(Refusal::BadRequest("TRACE with a body"));
    }
    let mut hops = request.headers.get_all(MAX_FORWARDS).iter();
    let Some(left) = hops.next() else { return Ok(()) };
    let number = std::str::from_utf8(left.as_bytes()).ok().filter(|it| it.bytes().all(|it| it.is_ascii_digit()));
    let number = number.filter(|_| hops.next().is_none()).and_then(|it| it.parse::<u32>().ok());
    match number {
        None => Err(Refusal::BadRequest("Max-Forwards is not one number")),
        Some(0) => Err(Refusal::RouteNotFound),
        Some(left) => {
            let _ = request.insert_header(MAX_FORWARDS, HeaderValue::from(left - 1));
            Ok(())
        }
    }
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
        [b':'] => true,
        [b':', b'0'..=b'9', ..] => std::str::from_utf8(&port[1..]).is_ok_and(|it| it.parse::<u16>().is_ok()),
        _ => false,
    };
    name_is_plain && port_is_plain
}

fn connection(headers: &HeaderMap) -> Result<(), Refusal> {
    let values = headers.get_all(http::header::CONNECTION).iter();
    for name in values.flat_map(|it| it.as_bytes().split(|it| *it == b',')) {
        let name = name.trim_ascii();
        if name.is_empty() {
            continue;
        }
        let Ok(name) = HeaderName::from_bytes(name) else {
            return Err(Refusal::BadRequest("Connection is not a list of names"));
        };
        if NOT_HOP_BY_HOP.contains(&name.as_str()) || name.as_str().starts_with("x-forwarded-") {
            return Err(Refusal::BadRequest("Connection names a field that is not the connection's"));
        }
    }
    Ok(())
}

fn expectation(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut expectations = headers.get_all(EXPECT).iter();
    if expectations.all(|it| it.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Ok(());
    }
    Err(Refusal::ExpectationFailed)
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
        for good in ["a.example", "a.example:", "a.example:80", "127.0.0.1", "[::1]", "[::1]:8080", "a_b"] {
            assert!(authority_is_plain(good.as_bytes()), "{good}");
        }
        for bad in ["a b", "a/b", "a,b", "a\"b", "a:+1", "a:b", "a:65536", "[::1", "a@b", ":80", "[::1]x"] {
            assert!(!authority_is_plain(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn lengths_are_digits_and_there_is_one() {
        let ok = |value: &str| framing(&headers(&[(CONTENT_LENGTH, value)]), Version::HTTP_11).is_ok();
        assert!(ok("0") && ok("17"));
        assert!(!ok("+5") && !ok("-5") && !ok("5, 5") && !ok("0x5") && !ok("5 5") && !ok(""));
        assert!(!ok("05") && ok("9223372036854775807") && !ok("9223372036854775808"));
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
        assert!(raw_head(b"GET /#x HTTP/1.1\r\nHost: a\r\n\r\n").is_err());
    }

    #[test]
    fn connection_must_not_name_what_is_not_its_own() {
        assert!(connection(&headers(&[(CONNECTION, "keep-alive, x-mine")])).is_ok());
        assert!(connection(&headers(&[(CONNECTION, "close, Authorization")])).is_err());
        assert!(connection(&headers(&[(CONNECTION, "X-Forwarded-Port")])).is_err());
    }
}
