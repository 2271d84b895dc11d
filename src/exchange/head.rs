//! What of a message's head belongs to one connection only, and is made anew for the next
//! (RFC 9110, section 7.6).

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, StatusCode, Version};
use pingora::http::{RequestHeader, ResponseHeader};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Credentials for a proxy are not for the origin, and nothing here asked for them.
const PROXY_AUTHORIZATION: HeaderName = HeaderName::from_static("proxy-authorization");

/// Fields that never pass from one connection to the next.
const HOP_BY_HOP: [HeaderName; 8] =
    [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, HTTP2_SETTINGS, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

/// The protocol that the upstream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// The request as the upstream gets it.
pub(super) fn outgoing(
    received: &RequestHeader,
    upgrade: bool,
    has_body: bool,
    protocol: Protocol,
) -> Box<RequestHeader> {
    let upgrade = protocol == Protocol::Http1 && upgrade;
    let wants_trailers = protocol == Protocol::Http2 && takes_trailers(&received.headers);
    let mut request = Box::new(received.clone());
    for name in nominated(&received.headers) {
        request.remove_header(&name);
    }
    for name in HOP_BY_HOP.iter().chain([&PROXY_AUTHORIZATION]) {
        request.remove_header(name);
    }
    match protocol {
        Protocol::Http1 => finish_http1(&mut request, upgrade, has_body),
        Protocol::Http2 => {
            request.remove_header(&EXPECT); // the pump says 100 itself: that of an upstream is never seen
            if wants_trailers {
                insert(&mut request, TE, HeaderValue::from_static("trailers"));
            }
        }
    }
    request
}

/// Whether `TE` has the word `trailers`, the only one that HTTP/2 knows (RFC 9113, section 8.2.2).
fn takes_trailers(headers: &HeaderMap) -> bool {
    let values = headers.get_all(TE).iter();
    values.flat_map(|it| it.as_bytes().split(|it| *it == b',')).any(|it| it.trim_ascii() == b"trailers")
}

fn finish_http1(request: &mut RequestHeader, upgrade: bool, has_body: bool) {
    join_cookies(request);
    request.set_version(Version::HTTP_11);
    if !request.headers.contains_key(HOST)
        && let Some(authority) = request.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        insert(request, HOST, host);
    }
    if upgrade {
        insert(request, CONNECTION, HeaderValue::from_static("upgrade"));
        insert(request, UPGRADE, HeaderValue::from_static("websocket"));
    } else if has_body && !request.headers.contains_key(CONTENT_LENGTH) {
        insert(request, TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// HTTP/2 clients send a field for each cookie, HTTP/1 has one for all (RFC 9113, section 8.2.3).
fn join_cookies(request: &mut RequestHeader) {
    let mut crumbs = request.headers.get_all(COOKIE).iter();
    if request.version == Version::HTTP_2 && crumbs.by_ref().nth(1).is_some() {
        let crumbs: Vec<&[u8]> = request.headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
            insert(request, COOKIE, cookie);
        }
    }
}

fn insert(request: &mut RequestHeader, name: HeaderName, value: HeaderValue) {
    // It fails only when the map has 32,768 entries; the listener's limits are far below.
    let _ = request.insert_header(name, value);
}

/// The names that `Connection` lists.
pub(super) fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(CONNECTION).iter().filter_map(|it| it.to_str().ok());
    let names = values.flat_map(|it| it.split(',')).map(str::trim).filter(|it| !it.is_empty());
    names.filter_map(|it| HeaderName::from_bytes(it.as_bytes()).ok()).collect()
}

/// How the answer's body is framed towards the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// As the answer says: a length, or no body at all.
    AsGiven,
    /// The length is not known, and the client's HTTP version knows chunks.
    Chunked,
    /// The length is not known, and the body ends with the connection.
    UntilClose,
}

/// Strips an upstream's answer of what belonged to its connection.
pub(super) fn strip(answer: &mut ResponseHeader) {
    for name in nominated(&answer.headers) {
        answer.remove_header(&name);
    }
    for name in &HOP_BY_HOP {
        if answer.headers.contains_key(name) {
            answer.remove_header(name);
        }
    }
}

/// Strips an upstream's answer of what belonged to its connection and frames it for the client's.
pub(super) fn incoming(answer: &mut ResponseHeader, client: Version, method: &Method, ends_here: bool) -> Framing {
    strip(answer);
    answer.set_version(Version::HTTP_11);
    if answer.status == StatusCode::NO_CONTENT {
        answer.remove_header(&CONTENT_LENGTH); // it must not be there (RFC 9110, section 8.6)
    }
    let length_known = ends_here || *method == Method::HEAD || answer.headers.contains_key(CONTENT_LENGTH);
    match client {
        _ if length_known => Framing::AsGiven,
        Version::HTTP_2 => Framing::AsGiven,
        Version::HTTP_11 => {
            let _ = answer.insert_header(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            Framing::Chunked
        }
        _ => Framing::UntilClose,
    }
}
