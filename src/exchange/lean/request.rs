//! Which requests are ordinary, and how one is written.

use bytes::{BufMut, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderName, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Version};
use pingora::http::RequestHeader;

use crate::client::{BODY_MAX, Client};
use crate::http1::field;
use crate::pipeline::{Exchange, is_told_by_us};

/// Whether a request may go the lean way: nothing to negotiate, and a body that is small and of known
/// length, or none. Decided before anything is written.
pub(in crate::exchange) fn is_ordinary(client: &mut Client<'_>) -> bool {
    let bodiless = client.body_is_read();
    let request = client.request();
    let headers = &request.headers;
    let version = matches!(request.version, Version::HTTP_11 | Version::HTTP_2);
    let nothing_to_negotiate = ![EXPECT, UPGRADE, TRANSFER_ENCODING].iter().any(|it| headers.contains_key(it));
    version && nothing_to_negotiate && names_no_field(headers) && (bodiless || is_small(headers))
}

fn names_no_field(headers: &HeaderMap) -> bool {
    headers
        .get_all(CONNECTION)
        .iter()
        .all(|it| it.as_bytes().eq_ignore_ascii_case(b"keep-alive") || it.as_bytes().eq_ignore_ascii_case(b"close"))
}

/// The way in has seen to it that there is one length and that it is digits.
fn is_small(headers: &HeaderMap) -> bool {
    let length = headers.get(CONTENT_LENGTH).and_then(|it| it.to_str().ok()?.parse::<u64>().ok());
    length.is_some_and(|it| it <= BODY_MAX)
}

/// Writes the head as the upstream gets it, and the body behind it.
pub(super) fn write(request: &RequestHeader, exchange: &Exchange, body: &[u8], out: &mut BytesMut) {
    out.put_slice(request.method.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(request.raw_path());
    out.put_slice(b" HTTP/1.1\r\n");
    let crumbs = request.version == Version::HTTP_2;
    let mut has_host = false;
    for (name, value) in &request.headers {
        let told = !exchange.introduced && is_told_by_us(name);
        if told || belongs_to_the_connection(name) || (crumbs && *name == COOKIE) {
            continue;
        }
        has_host |= *name == HOST;
        field(out, name.as_str(), &[value.as_bytes()]);
    }
    if crumbs {
        cookie(out, &request.headers);
    }
    if !has_host && let Some(authority) = request.uri.authority() {
        field(out, "host", &[authority.as_str().as_bytes()]);
    }
    if !exchange.introduced {
        exchange.introduce(request, |name, value| field(out, name.as_str(), value));
    }
    // The length of what is really sent, whatever was declared.
    if !body.is_empty() || request.headers.contains_key(CONTENT_LENGTH) {
        field(out, "content-length", &[itoa::Buffer::new().format(body.len()).as_bytes()]);
    }
    out.put_slice(b"\r\n");
    out.put_slice(body);
}

/// HTTP/2 clients send a field for each cookie, HTTP/1 has one for all (RFC 9113, section 8.2.3).
fn cookie(out: &mut BytesMut, headers: &HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    let Some(first) = crumbs.next() else { return };
    out.put_slice(b"cookie: ");
    out.put_slice(first.as_bytes());
    for crumb in crumbs {
        out.put_slice(b"; ");
        out.put_slice(crumb.as_bytes());
    }
    out.put_slice(b"\r\n");
}

/// Fields of one connection (RFC 9110, 7.6.1), credentials for a proxy, which are not for the origin,
/// and the length, which is written anew. The length of the name comes first: it rules most names out.
fn belongs_to_the_connection(name: &HeaderName) -> bool {
    let name = name.as_str();
    match name.len() {
        2 => name == "te",
        7 => name == "upgrade" || name == "trailer",
        10 => name == "connection" || name == "keep-alive",
        14 => name == "content-length" || name == "http2-settings",
        16 => name == "proxy-connection",
        17 => name == "transfer-encoding",
        19 => name == "proxy-authorization",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Scheme;

    fn written(fields: &[(&'static str, &'static str)], body: &[u8]) -> String {
        let mut request = RequestHeader::build_no_case("POST", b"/a?b=1", None).unwrap();
        for (name, value) in fields {
            request.append_header(*name, *value).unwrap();
        }
        let mut out = BytesMut::new();
        let mut exchange = Exchange::new([192, 0, 2, 7].into(), Scheme::Http);
        exchange.introduced = true;
        write(&request, &exchange, body, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn the_connections_fields_stay_behind_and_the_length_is_that_of_the_body() {
        let fields =
            [("host", "a"), ("connection", "close"), ("te", "trailers"), ("content-length", "3"), ("x-a", "1")];
        assert_eq!(
            written(&fields, b"abc"),
            "POST /a?b=1 HTTP/1.1\r\nhost: a\r\nx-a: 1\r\ncontent-length: 3\r\n\r\nabc"
        );
    }

    #[test]
    fn no_body_has_no_length_unless_one_was_declared() {
        assert_eq!(written(&[("host", "a")], b""), "POST /a?b=1 HTTP/1.1\r\nhost: a\r\n\r\n");
        let declared = written(&[("host", "a"), ("content-length", "0")], b"");
        assert_eq!(declared, "POST /a?b=1 HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n");
    }
}
