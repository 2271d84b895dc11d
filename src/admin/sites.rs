//! Pages of other sites. A browser on the operator's machine reaches this listener, too, and brings along whatever page
//! is open: one whose name was bound anew to a loopback address (DNS rebinding), or one that sends its requests across.
//! So the name in `Host` has to be one that means this listener, and the page that calls has to be ours.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderName, ORIGIN, TRANSFER_ENCODING};
use http::{StatusCode, Uri, Version};

use crate::admin::fault::Fault;
use crate::http::media_type_is;

/// Says where a browser's request comes from (Fetch Metadata Request Headers, section 2.3).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The names that mean this listener, beside addresses and `localhost`.
pub(super) struct Sites(Vec<String>);

impl Sites {
    pub(super) fn new(hosts: &[String]) -> Self {
        Self(hosts.iter().map(|it| it.to_ascii_lowercase()).collect())
    }

    fn check(&self, request: &Request) -> Result<(), Box<Fault>> {
        let host = host(request)?;
        if host.as_deref().is_some_and(|it| !self.means_us(it)) {
            return Err(Box::new(Fault::new(
                StatusCode::MISDIRECTED_REQUEST,
                "host_not_served",
                "the admin listener is not known under the name in Host",
                "call it by its address or as localhost, or list the name in listeners.admin.hosts",
            )));
        }
        if !comes_from_here(request.headers(), host.as_deref()) {
            return Err(Box::new(Fault::new(
                StatusCode::FORBIDDEN,
                "foreign_origin",
                "pages of other sites may not call the admin listener",
                "call it from a program, or from a page of its own",
            )));
        }
        if has_body(request.headers()) && !media_type_is(request.headers(), "application/json") {
            return Err(Box::new(Fault::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "a body for the admin listener is JSON, and says so",
                "send it with Content-Type: application/json",
            )));
        }
        Ok(())
    }

    /// An address can't be bound anew; a name can, but for those that every resolver keeps for itself (RFC 6761,
    /// section 6.3).
    fn means_us(&self, host: &str) -> bool {
        let name = name_of(host).trim_end_matches('.').to_ascii_lowercase();
        let address = name.trim_start_matches('[').trim_end_matches(']');
        address.parse::<IpAddr>().is_ok()
            || name == "localhost"
            || name.ends_with(".localhost")
            || self.0.contains(&name)
    }
}

/// The host that the request is for. Before HTTP/1.1 there need be none, and no browser leaves it out.
fn host(request: &Request) -> Result<Option<String>, Box<Fault>> {
    let malformed = |why: &str| {
        let action = "send the request as RFC 9110 and RFC 9112 write it";
        let message = format!("the request is malformed: {why}");
        Box::new(Fault::new(StatusCode::BAD_REQUEST, "bad_request", message, action))
    };
    if let Some(authority) = request.uri().authority() {
        return Ok(Some(authority.as_str().to_owned()));
    }
    let mut fields = request.headers().get_all(HOST).iter();
    match (fields.next(), fields.next()) {
        (Some(host), None) => match host.to_str() {
            Ok(host) => Ok(Some(host.to_owned())),
            Err(_) => Err(malformed("Host is not a host")),
        },
        (None, _) if request.version() < Version::HTTP_11 => Ok(None),
        (None, _) => Err(malformed("Host is missing")),
        (Some(_), Some(_)) => Err(malformed("Host is there twice")),
    }
}

/// A host without its port.
fn name_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|it| it.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

/// Whether no page calls, or one of this very host.
fn comes_from_here(headers: &HeaderMap, host: Option<&str>) -> bool {
    let ours = |origin: &str| {
        let origin = origin.parse::<Uri>().ok().and_then(|it| it.into_parts().authority);
        matches!((origin, host), (Some(origin), Some(host)) if origin.as_str().eq_ignore_ascii_case(host))
    };
    headers.get_all(ORIGIN).iter().all(|it| it.to_str().is_ok_and(ours))
        && headers.get_all(SEC_FETCH_SITE).iter().all(|it| [&b"same-origin"[..], b"none"].contains(&it.as_bytes()))
}

fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING) || headers.get(CONTENT_LENGTH).is_some_and(|it| it.as_bytes() != b"0")
}

/// Lets a request pass or answers it.
pub(super) async fn check(State(sites): State<Arc<Sites>>, request: Request, next: Next) -> Response {
    match sites.check(&request) {
        Ok(()) => next.run(request).await,
        Err(fault) => fault.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_localhost_and_listed_names_mean_this_listener() {
        let sites = Sites::new(&["Admin.example".to_owned()]);
        for host in [
            "127.0.0.1:9090",
            "127.0.0.1",
            "10.1.2.3:9090",
            "[::1]:9090",
            "[::1]",
            "localhost",
            "LOCALHOST:1",
            "localhost.",
            "a.localhost",
            "admin.example:80",
        ] {
            assert!(sites.means_us(host), "{host}");
        }
        for host in
            ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "", "admin.example.evil", "a:b"]
        {
            assert!(!sites.means_us(host), "{host}");
        }
    }

    #[test]
    fn a_page_of_this_very_host_may_call() {
        let check = |name: &'static str, value: &'static str| {
            let headers = HeaderMap::from_iter([(HeaderName::from_static(name), value.parse().unwrap())]);
            comes_from_here(&headers, Some("localhost:9090"))
        };
        assert!(check("origin", "http://localhost:9090") && check("origin", "https://LOCALHOST:9090"));
        assert!(check("sec-fetch-site", "same-origin") && check("sec-fetch-site", "none") && check("accept", "*/*"));
        for origin in ["http://localhost", "http://localhost:9091", "http://evil.example", "null", "", "x"] {
            assert!(!check("origin", origin), "{origin}");
        }
        assert!(!check("sec-fetch-site", "cross-site") && !check("sec-fetch-site", "same-site"));
    }
}
