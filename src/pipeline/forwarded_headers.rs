//! The headers that the gateway alone sends upstreams about a request: its id and trace, the client, and for whom
//! the caller acts. A client's own claims under these names go no further.
//!
//! On the ordinary way the fields are written straight behind those of the request; where a step or a link needs
//! them among the others, they are put there.

use http::header::{FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue};
use pingora::http::RequestHeader;

use crate::base::AddressText;
use crate::pipeline::{Context, Proxied};

/// Names each request (R10.1, S2S-40).
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Continues a trace (W3C Trace Context).
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The client's address.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The scheme by which the client came.
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The host that the client named.
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// The port that the client came to.
pub const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
/// The beginning of the client's path, which a proxy has taken away.
pub const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// Marks the copy of a request for another upstream.
pub const X_MOONGATE_MIRROR: HeaderName = HeaderName::from_static("x-moongate-mirror");

/// All of them, and one that says the same in another way, but for those of the principal.
#[cfg(test)]
const OURS: [&str; 9] = [
    "x-request-id",
    "traceparent",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "forwarded",
    "x-real-ip",
];

/// What the names of those begin with.
const IDENTITY_PREFIX: &str = "x-moongate-";

/// Whether only the gateway may send this to upstreams, in each spelling that a server could take for it: CGI and its
/// heirs know no difference between `-` and other signs. The length of the name comes first: it rules most names out.
pub fn is_gateway_header(name: &HeaderName) -> bool {
    let means = |ours: &str| begins(name, ours);
    match name.as_str().len() {
        9 if means("forwarded") || means("x-real-ip") => true,
        11 if means("traceparent") => true,
        12 if means("x-request-id") => true,
        15 if means("x-forwarded-for") => true,
        16 if means("x-forwarded-host") || means("x-forwarded-port") => true,
        17 if means("x-forwarded-proto") => true,
        18 if means("x-forwarded-prefix") => true,
        _ => begins(name, IDENTITY_PREFIX),
    }
}

fn begins(name: &HeaderName, start: &str) -> bool {
    let same = |(it, start): (&u8, &u8)| it == start || (*start == b'-' && !it.is_ascii_alphanumeric());
    let name = name.as_str().as_bytes();
    name.len() >= start.len() && name.iter().zip(start.as_bytes()).all(same)
}

impl Context {
    /// Gives every field to `field`, its value in pieces.
    pub fn forwarded_headers(&self, request: &RequestHeader, mut field: impl FnMut(&HeaderName, &[&[u8]])) {
        field(&X_REQUEST_ID, &[self.request_id.as_bytes()]);
        if self.mirrored {
            field(&X_MOONGATE_MIRROR, &[b"1"]);
        }
        field(&TRACEPARENT, &[&self.trace.traceparent()]);
        let client = AddressText::of(self.client_ip);
        let client = client.as_bytes();
        field(&X_FORWARDED_FOR, &[client]);
        let scheme = self.scheme.as_str().as_bytes();
        field(&X_FORWARDED_PROTO, &[scheme]);
        let (before, after): (&[u8], &[u8]) =
            if self.client_ip.is_ipv4() { (b"for=", b";proto=") } else { (b"for=\"[", b"]\";proto=") };
        match self.host_received.as_ref().map_or_else(|| host(request), |it| Some(it.as_bytes())) {
            // What can't be written in quotes is left out (RFC 7239).
            Some(host) if !host.iter().any(|it| matches!(it, b'"' | b'\\') || !it.is_ascii_graphic()) => {
                field(&FORWARDED, &[before, client, after, scheme, b";host=\"", host, b"\""]);
                field(&X_FORWARDED_HOST, &[host]);
            }
            host => {
                field(&FORWARDED, &[before, client, after, scheme]);
                if let Some(host) = host {
                    field(&X_FORWARDED_HOST, &[host]);
                }
            }
        }
        if let Some(Proxied { port, prefix }) = self.proxied.as_deref() {
            for (name, value) in [(X_FORWARDED_PORT, port), (X_FORWARDED_PREFIX, prefix)] {
                value.iter().for_each(|it| field(&name, &[it.as_bytes()]));
            }
        }
        for (name, value) in self.identity_headers.iter().flat_map(|it| it.iter()) {
            field(name, &[value.as_bytes()]);
        }
    }

    /// Puts the fields of the principal among those of the request, where an answer may depend on them.
    pub fn set_identity_headers(&self, request: &mut RequestHeader) {
        for (name, value) in self.identity_headers.iter().flat_map(|it| it.iter()) {
            let _ = request.insert_header(name.clone(), value.clone());
        }
    }

    /// Puts the fields among those of the request, in place of what the client said.
    pub fn set_forwarded_headers(&self, request: &mut RequestHeader) {
        if self.forwarded_headers_set {
            return;
        }
        let mut fields = HeaderMap::with_capacity(16);
        self.forwarded_headers(request, |name, value| {
            if let Ok(value) = HeaderValue::from_bytes(&value.concat()) {
                fields.insert(name.clone(), value);
            }
        });
        let claimed: Vec<HeaderName> = request.headers.keys().filter(|it| is_gateway_header(it)).cloned().collect();
        for name in &claimed {
            request.remove_header(name);
        }
        for (name, value) in &fields {
            let _ = request.insert_header(name.clone(), value.clone());
        }
    }
}

/// The host that a request names.
fn host(request: &RequestHeader) -> Option<&[u8]> {
    let field = request.headers.get(HOST).map(HeaderValue::as_bytes);
    field.or_else(|| Some(request.uri.authority()?.as_str().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Scheme;

    fn forwarded_headers_set(client: &str, fields: &[(&'static str, &'static str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in fields {
            request.append_header(*name, *value).unwrap();
        }
        Context::new(client.parse().unwrap(), Scheme::Http).set_forwarded_headers(&mut request);
        request
    }

    #[test]
    fn what_a_client_says_of_itself_is_replaced_or_gone() {
        let claims = OURS.map(|it| (it, "claimed"));
        let request = forwarded_headers_set("192.0.2.7", &[&claims[..], &[("host", "a.tta:80")]].concat());
        assert!(!request.headers.values().any(|it| it == "claimed"), "{request:?}");
        assert_eq!(request.headers["x-forwarded-for"], "192.0.2.7");
        assert_eq!(request.headers["x-forwarded-host"], "a.tta:80");
        assert_eq!(request.headers["forwarded"], "for=192.0.2.7;proto=http;host=\"a.tta:80\"");
    }

    #[test]
    fn an_ipv6_address_stands_in_brackets_and_an_odd_host_is_left_out_of_quotes() {
        let request = forwarded_headers_set("2001:db8::7", &[("host", "a\"b")]);
        assert_eq!(request.headers["forwarded"], "for=\"[2001:db8::7]\";proto=http");
        assert_eq!(request.headers["x-forwarded-host"], "a\"b");
    }

    #[test]
    fn every_name_of_ours_is_known_by_its_length() {
        assert!(OURS.iter().all(|it| is_gateway_header(&HeaderName::from_static(it))));
        for name in [
            "x_forwarded_for",
            "x-real_ip",
            "x_moongate-roles",
            "x.moongate.subject",
            "x~forwarded-prefix",
            "x-moongate-a",
        ] {
            assert!(is_gateway_header(&HeaderName::from_static(name)), "{name}");
        }
        for name in ["host", "x-forwarded-user", "x-forwarded-f", "x-moongat-subject"] {
            assert!(!is_gateway_header(&HeaderName::from_static(name)), "{name}");
        }
    }
}
