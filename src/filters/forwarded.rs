//! Tells upstreams who called, in fields made anew from what is known; a client's own claims go no further.

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{FORWARDED, HOST, HeaderName, HeaderValue};
use pingora::http::RequestHeader;

use crate::filters::value_of;
use crate::pipeline::{Exchange, Scheme};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Runs before the route rewrites the host.
pub fn on_request(exchange: &Exchange, request: &mut RequestHeader) {
    if request.headers.contains_key(X_REAL_IP) {
        request.remove_header(&X_REAL_IP);
    }
    let _ = request.insert_header(X_FORWARDED_FOR, address(exchange));
    let scheme = match exchange.scheme {
        Scheme::Http => HeaderValue::from_static("http"),
        Scheme::Https => HeaderValue::from_static("https"),
    };
    let _ = request.insert_header(X_FORWARDED_PROTO, scheme);
    let host = request.headers.get(HOST).cloned();
    let host = host.or_else(|| HeaderValue::from_str(request.uri.authority()?.as_str()).ok());
    let _ = request.insert_header(FORWARDED, forwarded(exchange, host.as_ref()));
    match host {
        Some(host) => drop(request.insert_header(X_FORWARDED_HOST, host)),
        None => drop(request.remove_header(&X_FORWARDED_HOST)),
    }
}

/// The same in one field (RFC 7239). What can't be written in quotes is left out.
fn forwarded(exchange: &Exchange, host: Option<&HeaderValue>) -> HeaderValue {
    use std::fmt::Write;
    let mut text = String::with_capacity(96);
    let _ = match exchange.client_ip {
        IpAddr::V4(client) => write!(text, "for={client}"),
        IpAddr::V6(client) => write!(text, "for=\"[{client}]\""),
    };
    let _ = write!(text, ";proto={}", exchange.scheme.as_str());
    let host = host.and_then(|it| it.to_str().ok()).filter(|it| !it.contains(['"', '\\']));
    if let Some(host) = host {
        let _ = write!(text, ";host=\"{host}\"");
    }
    HeaderValue::from_maybe_shared(Bytes::from(text)).expect("a host that is text, and our own words")
}

fn address(exchange: &Exchange) -> HeaderValue {
    use std::io::Write;
    let mut text = [0; 45]; // the longest IPv6 address
    let mut rest = &mut text[..];
    let _ = write!(rest, "{}", exchange.client_ip);
    let length = 45 - rest.len();
    value_of(std::str::from_utf8(&text[..length]).expect("an address is ASCII"))
}
