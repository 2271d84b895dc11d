//! What a request must not be, beyond its framing: [`crate::http`] has refused everything about that over HTTP/1.
//!
//! Two servers that read the same bytes as different requests let one be hidden in the other. So
//! whatever leaves room for doubt ends here with 400 (RFC 9110, sections 7 and 10; RFC 9113, section 8).

use http::header::{CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, MAX_FORWARDS};
use http::{Method, Version};
use pingora::http::RequestHeader;

use crate::client::Client;
use crate::http as codec;
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
/// The ports that go without saying.
const PORTS: [u16; 2] = [80, 443];

/// Judges a request's head before anything else looks at it.
pub(super) fn check(client: &mut Client) -> Result<(), Refusal> {
    let request = client.request();
    if client.wants_unknown_protocol() {
        return Err(Refusal::ProtocolNotSupported);
    }
    if request.method == Method::CONNECT {
        return Err(Refusal::MethodNotSupported);
    }
    if request.version == Version::HTTP_2 {
        http2(request)?;
        forget_folding(client.request_mut());
        join_cookies(client.request_mut());
        client.write_handshake().map_err(Refusal::BadRequest)?;
    }
    let request = client.request();
    if client.expects() {
        expectation(&request.headers)?;
    }
    if request.version == Version::HTTP_10 {
        default_host(client);
    }
    if [Method::TRACE, Method::OPTIONS].contains(&client.request().method) {
        let has_body = !client.has_no_body();
        one_hop_less(client.request_mut(), has_body)?;
    }
    Ok(())
}

/// Takes fields away that servers behind us could take for those that frame a body.
fn forget_folding(request: &mut RequestHeader) {
    let folding = |it: &&HeaderName| codec::folds_into_framing(it.as_str().as_bytes());
    let names: Vec<HeaderName> = request.headers.keys().filter(folding).cloned().collect();
    for name in &names {
        request.remove_header(name);
    }
}

/// Cookies may come in several fields over HTTP/2, and are one outside of it (RFC 9113, section 8.2.3).
fn join_cookies(request: &mut RequestHeader) {
    let mut crumbs = request.headers.get_all(COOKIE).iter();
    if crumbs.by_ref().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = request.headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        let _ = request.insert_header(COOKIE, whole);
    }
}

/// What the codec has seen to over HTTP/1.
fn http2(request: &RequestHeader) -> Result<(), Refusal> {
    if request.raw_path().len() > TARGET_MAX {
        return Err(Refusal::UriTooLong);
    }
    if request.method.as_str().len() > METHOD_MAX {
        return Err(Refusal::BadRequest("the method is too long to be one"));
    }
    fields(&request.headers)?;
    length(&request.headers)?;
    authority(request)?;
    host(&request.headers)
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
        if codec::is_hop_by_hop(name) && !(name == "te" && value.as_bytes().eq_ignore_ascii_case(b"trailers")) {
            return Err(Refusal::BadRequest("a field of an HTTP/1 connection"));
        }
        let control = |it: &u8| ((*it < b' ') & (*it != b'\t')) | (*it == 0x7f);
        if value.as_bytes().iter().fold(false, |any, it| any | control(it)) {
            return Err(Refusal::BadRequest("a header field holds a control character"));
        }
    }
    Ok(())
}

fn length(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next()
        && (lengths.next().is_some() || codec::length(length.as_bytes()).is_none())
    {
        return Err(Refusal::BadRequest("Content-Length is not one number"));
    }
    Ok(())
}

/// The authority is what `Host` is for HTTP/1, and where both are, they must agree (RFC 9113, section 8.3.1): without
/// case, and without the port that goes without saying.
fn authority(request: &RequestHeader) -> Result<(), Refusal> {
    let host = request.headers.get(HOST).map(HeaderValue::as_bytes);
    let Some(authority) = request.uri.authority().map(|it| it.as_str().as_bytes()) else {
        return host.map(|_| ()).ok_or(Refusal::BadRequest(":authority is missing"));
    };
    if !codec::authority_is_plain(authority) {
        return Err(Refusal::BadRequest(":authority is not a name or address with an optional port"));
    }
    match host {
        Some(host) if !PORTS.iter().any(|port| codec::is_same_authority(host, authority, *port)) => {
            Err(Refusal::BadRequest("Host is not :authority"))
        }
        _ => Ok(()),
    }
}

fn host(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut hosts = headers.get_all(HOST).iter();
    let Some(host) = hosts.next() else { return Ok(()) };
    if hosts.next().is_some() {
        return Err(Refusal::BadRequest("Host is there twice"));
    }
    if host.is_empty() || !codec::authority_is_plain(host.as_bytes()) {
        return Err(Refusal::BadRequest("Host is not a name or address with an optional port"));
    }
    Ok(())
}

/// What HTTP/1.0 leaves out and HTTP/1.1 requires: the request is for the address that it came to
/// (RFC 9112, section 3.3).
fn default_host(client: &mut Client) {
    if client.request().headers.contains_key(HOST) {
        return;
    }
    if let Some(address) = client.server_address()
        && let Ok(address) = HeaderValue::from_str(&address)
    {
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

    #[test]
    fn rfc_9113_8_2_3_crumbs_of_a_cookie_are_one_field() {
        let joined = |crumbs: &[&str]| {
            let mut request = RequestHeader::build("GET", b"/", None).unwrap();
            crumbs.iter().for_each(|it| drop(request.append_header("cookie", *it)));
            join_cookies(&mut request);
            request.headers.get_all(COOKIE).iter().map(|it| it.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert!(joined(&[]).is_empty());
        assert_eq!(joined(&["a=1"]), ["a=1"]);
        assert_eq!(joined(&["a=1", "b=2", "c=3; d=4"]), ["a=1; b=2; c=3; d=4"]);
    }

    #[test]
    fn lengths_are_digits_and_there_is_one() {
        let ok = |values: &[&str]| {
            let fields = values.iter().map(|it| (CONTENT_LENGTH, HeaderValue::from_str(it).unwrap()));
            length(&fields.collect()).is_ok()
        };
        assert!(ok(&[]) && ok(&["0"]) && ok(&["17"]) && ok(&["05"]) && ok(&["9223372036854775807"]));
        assert!(!ok(&["+5"]) && !ok(&["5, 5"]) && !ok(&["0x5"]) && !ok(&[""]) && !ok(&["5", "5"]));
    }
}
