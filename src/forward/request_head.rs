//! The head of a request as an upstream gets it: without what belongs to the client's connection, with what only the
//! gateway may say (RFC 9110, section 7.6).

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING,
    UPGRADE,
};
use http::{HeaderMap as Fields, Version};
use pingora::http::RequestHeader;
use smallvec::SmallVec;

use super::http1::UploadFraming;
use crate::http::{self as codec, write_field};
use crate::pipeline::{Context, is_gateway_header};

/// What a request's body is, for its head.
#[derive(Clone, Copy, Debug)]
pub(super) enum BodyPlan<'a> {
    /// All of it is at hand.
    Whole(&'a Bytes),
    /// It is going to be sent, so many bytes if that is known.
    Streams(Option<u64>),
    /// The connection is going to change protocols.
    Upgrade,
}

/// Fields that are never passed on as they came; those that a client's `Connection` names went before anything of ours
/// came. Credentials for a proxy are not for the origin, and nothing here
/// required them; the length is written anew.
fn stays_behind(name: &HeaderName) -> bool {
    match name.as_str().len() {
        14 if *name == CONTENT_LENGTH => true,
        19 => name == "proxy-authorization",
        _ => codec::is_hop_by_hop(name),
    }
}

/// Writes the head for an upstream of HTTP/1.1; says how the body is to be framed.
pub(super) fn write_http1(
    request: &RequestHeader,
    context: &Context,
    plan: BodyPlan<'_>,
    out: &mut BytesMut,
) -> UploadFraming {
    out.reserve(1024);
    out.put_slice(request.method.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(request.raw_path());
    out.put_slice(b" HTTP/1.1\r\n");
    let crumbs = request.version == Version::HTTP_2;
    let expects = matches!(plan, BodyPlan::Streams(_));
    let mut has_host = false;
    for (name, value) in &request.headers {
        let ours = !context.forwarded_headers_set && is_gateway_header(name);
        if ours || stays_behind(name) || (crumbs && *name == COOKIE) || (!expects && *name == EXPECT) {
            continue;
        }
        has_host |= *name == HOST;
        write_field(out, name.as_str(), &[value.as_bytes()]);
    }
    if crumbs {
        cookie(out, &request.headers);
    }
    if !has_host && let Some(authority) = request.uri.authority() {
        write_field(out, "host", &[authority.as_str().as_bytes()]);
    }
    if !context.forwarded_headers_set {
        context.forwarded_headers(request, |name, value| write_field(out, name.as_str(), value));
    }
    let framing = framing(request, plan, out);
    out.put_slice(b"\r\n");
    framing
}

fn framing(request: &RequestHeader, plan: BodyPlan<'_>, out: &mut BytesMut) -> UploadFraming {
    let mut length = |length: u64| write_field(out, "content-length", &[itoa::Buffer::new().format(length).as_bytes()]);
    match plan {
        // The length of what is really sent, whatever was declared.
        BodyPlan::Whole(body) if !body.is_empty() || request.headers.contains_key(CONTENT_LENGTH) => {
            length(body.len() as u64);
        }
        BodyPlan::Whole(_) => {}
        BodyPlan::Streams(Some(declared)) => length(declared),
        BodyPlan::Streams(None) => {
            write_field(out, TRANSFER_ENCODING.as_str(), &[b"chunked"]);
            return UploadFraming::Chunked;
        }
        BodyPlan::Upgrade => {
            write_field(out, CONNECTION.as_str(), &[b"upgrade"]);
            for protocol in request.headers.get_all(UPGRADE) {
                write_field(out, UPGRADE.as_str(), &[protocol.as_bytes()]);
            }
        }
    }
    UploadFraming::Bare
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

/// The request for an upstream of HTTP/2.
pub(super) fn for_http2(received: &RequestHeader, context: &Context, plan: BodyPlan<'_>) -> Box<RequestHeader> {
    let takes_trailers = codec::has_token(&received.headers, &TE, "trailers");
    let mut request = Box::new(received.clone());
    strip(&mut request);
    // We say 100 ourselves: that of an HTTP/2 upstream is never seen.
    request.remove_header(&EXPECT);
    if takes_trailers {
        insert(&mut request, TE, HeaderValue::from_static("trailers")); // the one word that HTTP/2 knows
    }
    declare(&mut request, plan);
    context.set_forwarded_headers(&mut request);
    request
}

/// The request for a local service: as for HTTP/1, but for what frames it.
pub(super) fn for_local(received: &RequestHeader, context: &Context, plan: BodyPlan<'_>) -> Box<RequestHeader> {
    let mut request = Box::new(received.clone());
    let upgrade: Fields = match plan {
        BodyPlan::Upgrade => received.headers.get_all(UPGRADE).iter().map(|it| (UPGRADE, it.clone())).collect(),
        _ => Fields::new(),
    };
    strip(&mut request);
    join_cookies(&mut request);
    request.set_version(Version::HTTP_11);
    if !request.headers.contains_key(HOST)
        && let Some(authority) = request.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        insert(&mut request, HOST, host);
    }
    if !upgrade.is_empty() {
        insert(&mut request, CONNECTION, HeaderValue::from_static("upgrade"));
        for value in upgrade.get_all(UPGRADE) {
            let _ = request.append_header(UPGRADE, value.clone());
        }
    }
    declare(&mut request, plan);
    context.set_forwarded_headers(&mut request);
    request
}

fn strip(request: &mut RequestHeader) {
    let behind: SmallVec<[HeaderName; 4]> =
        request.headers.keys().filter(|it| stays_behind(it) && **it != CONTENT_LENGTH).cloned().collect();
    for name in &behind {
        request.remove_header(name);
    }
}

/// The length of what is really sent.
fn declare(request: &mut RequestHeader, plan: BodyPlan<'_>) {
    match plan {
        BodyPlan::Whole(body) if !body.is_empty() || request.headers.contains_key(CONTENT_LENGTH) => {
            insert(request, CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        // What goes on need not be what was declared.
        BodyPlan::Streams(None) => {
            request.remove_header(&CONTENT_LENGTH);
        }
        _ => {}
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Scheme;

    fn request(fields: &[(&'static str, &'static str)]) -> (RequestHeader, Context) {
        let mut request = RequestHeader::build_no_case("POST", b"/a?b=1", None).unwrap();
        for (name, value) in fields {
            request.append_header(*name, *value).unwrap();
        }
        let mut context = Context::new([192, 0, 2, 7].into(), Scheme::Http);
        context.forwarded_headers_set = true;
        (request, context)
    }

    fn written(fields: &[(&'static str, &'static str)], plan: BodyPlan<'_>) -> String {
        let (request, context) = request(fields);
        let mut out = BytesMut::new();
        write_http1(&request, &context, plan, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn the_connections_fields_stay_behind_and_the_length_is_that_of_the_body() {
        let fields = [
            ("host", "a"),
            ("connection", "close, x-a"),
            ("te", "trailers"),
            ("proxy-authorization", "x"),
            ("content-length", "4"),
            ("x-a", "1"),
        ];
        let body = Bytes::from_static(b"abc");
        assert_eq!(
            written(&fields, BodyPlan::Whole(&body)),
            "POST /a?b=1 HTTP/1.1\r\nhost: a\r\nx-a: 1\r\ncontent-length: 3\r\n\r\n"
        );
    }

    #[test]
    fn a_body_is_framed_as_it_is_known() {
        let none = Bytes::new();
        let host = [("host", "a")];
        let ends_with = |plan, end: &str| assert!(written(&host, plan).ends_with(end), "{plan:?}");
        ends_with(BodyPlan::Whole(&none), "host: a\r\n\r\n");
        ends_with(BodyPlan::Streams(Some(7)), "content-length: 7\r\n\r\n");
        ends_with(BodyPlan::Streams(None), "transfer-encoding: chunked\r\n\r\n");
        let declared = written(&[("host", "a"), ("content-length", "0")], BodyPlan::Whole(&none));
        assert!(declared.ends_with("content-length: 0\r\n\r\n"));
    }

    #[test]
    fn an_upgrade_is_asked_for_anew() {
        let fields = [("host", "a"), ("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")];
        let text = written(&fields, BodyPlan::Upgrade);
        assert_eq!(text, "POST /a?b=1 HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
    }

    #[test]
    fn http2_gets_no_field_of_a_connection_but_trailers() {
        let fields = [
            ("connection", "keep-alive, x-a"),
            ("te", "gzip, trailers"),
            ("upgrade", "x"),
            ("expect", "100-continue"),
            ("x-a", "1"),
        ];
        let (request, context) = request(&fields);
        let sent = for_http2(&request, &context, BodyPlan::Streams(None));
        let names: Vec<&str> = sent.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["x-a", "te"]);
        assert_eq!(sent.headers["te"], "trailers");
    }
}
