//! Lets pages of other origins call (Fetch standard, "CORS protocol"; S2S-9).
//!
//! Preflights are answered here, before anything that wants credentials: a preflight carries none.

use bytes::Bytes;
use http::Method;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderName, HeaderValue, ORIGIN, VARY,
};
use pingora::http::ResponseHeader;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::settings::{BuiltIn, Layer};
use crate::base::{At, Diagnostics, Period};
use crate::http as codec;
use crate::pipeline::{Exchange, Filter, Origin, RequestContext, Scope, Step, Stop};

/// The `cors` section of a route, of a policy, or of `defaults`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CorsConfig {
    /// Origins that may call: `https://app.example.org`, `https://*.example.org`,
    /// `http://localhost:*` (any port), or `*` for all.
    pub origins: Vec<String>,
    /// Whether pages may send cookies and credentials. Not together with the origin `*`.
    pub credentials: bool,
    /// How long a browser may remember a preflight's answer. Default 10m.
    pub max_age: Option<Period>,
}

/// A compiled `cors` section.
#[derive(Clone, Debug)]
pub struct Cors {
    any: bool,
    origins: Vec<OriginPattern>,
    credentials: bool,
    max_age: HeaderValue,
    /// What the route takes; `None`: any method.
    methods: Option<HeaderValue>,
}

#[derive(Clone, Debug, PartialEq)]
struct OriginPattern {
    scheme: String,
    /// `*.example.org` is kept as `.example.org`.
    host: String,
    subdomains: bool,
    port: Port,
}

#[derive(Clone, Debug, PartialEq)]
enum Port {
    Any,
    /// As written, empty for the scheme's own.
    Exact(String),
}

/// What a browser may read of an answer, beside the fields that it always may.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "x-request-id, retry-after, x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset, ratelimit, ratelimit-policy, x-cache, idempotency-replayed",
);

/// Likewise, of a call: its status stands in the head where there is nothing but that.
const EXPOSED_OF_CALLS: HeaderValue = HeaderValue::from_static(
    "x-request-id, retry-after, x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset, ratelimit, ratelimit-policy, x-cache, idempotency-replayed, grpc-status, grpc-message, grpc-status-details-bin",
);

impl Filter for Cors {
    const NAME: &'static str = "cors";
    const SUMMARY: &'static str = "Lets pages of other origins call, and answers preflights.";
    type Config = CorsConfig;

    /// Reports every origin that could never match.
    fn compile(config: &CorsConfig, scope: &Scope<'_>, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let any = config.origins.iter().any(|it| it == "*");
        if any && config.credentials {
            let diagnostic = diagnostics.error(&at.key("credentials"), "credentials for the origin `*`");
            diagnostic.help("browsers refuse that: list the origins");
        }
        let mut origins = Vec::new();
        let list = at.key("origins");
        for (number, text) in config.origins.iter().enumerate().filter(|(_, it)| *it != "*") {
            match OriginPattern::parse(text) {
                Some(origin) => origins.push(origin),
                None => diagnostics
                    .error(&list.index(number), "not an origin")
                    .help("write scheme and host, such as https://app.example.org or http://localhost:*"),
            }
        }
        let max_age = config.max_age.map_or(600, |it| it.0.as_secs());
        let methods = HeaderValue::from_str(&scope.methods.join(", ")).ok().filter(|it| !it.is_empty());
        Some(Self { any, origins, credentials: config.credentials, max_age: HeaderValue::from(max_age), methods })
    }

    async fn on_request(&self, context: &mut RequestContext<'_>) -> Step {
        let RequestContext { exchange, request, .. } = context;
        let answer = self.preflight(&request.method, &request.headers);
        let origin = self.origin(request.headers.get(ORIGIN));
        exchange.origin = origin.map(|it| Origin { preflight: answer.is_some(), ..it });
        match answer {
            Some(answer) => Err(Stop::Answered(answer, Bytes::new())),
            None => Ok(()),
        }
    }

    /// Tells the browser whether the page may read the response. What the upstream says of it does not count: one that
    /// allows whoever asks would open the route to every page.
    fn on_response(&self, exchange: &mut Exchange, response: &mut ResponseHeader) {
        if !exchange.origin.as_ref().is_some_and(|it| it.preflight) {
            drop_foreign(response);
        }
        let vary =
            |response: &mut ResponseHeader| drop(response.append_header(VARY, HeaderValue::from_static("Origin")));
        let Some(Origin { value, allowed, .. }) = &exchange.origin else {
            // A response without an origin may be stored by a cache and served to one with.
            if !self.any {
                vary(response);
            }
            return;
        };
        if !self.any || self.credentials {
            vary(response);
        }
        if !allowed {
            return;
        }
        let named = if self.any && !self.credentials { HeaderValue::from_static("*") } else { value.clone() };
        let _ = response.insert_header(ACCESS_CONTROL_ALLOW_ORIGIN, named);
        if self.credentials {
            let _ = response.insert_header(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        let exposed = if codec::is_any_grpc(&response.headers) { EXPOSED_OF_CALLS } else { EXPOSED };
        let _ = response.insert_header(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
}

impl BuiltIn for Cors {
    fn block<'a>(layer: &Layer<'a>) -> Option<&'a CorsConfig> {
        layer.settings.cors.as_ref()
    }
}

impl Cors {
    /// The page that calls, if the request is one of a page.
    pub fn origin(&self, value: Option<&HeaderValue>) -> Option<Origin> {
        value.map(|it| Origin { value: it.clone(), allowed: self.allows(it), preflight: false })
    }

    /// The answer to a preflight, if this request is one.
    fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<Box<ResponseHeader>> {
        announced_method(method, headers)?;
        let asks = headers.get(ACCESS_CONTROL_REQUEST_METHOD);
        let mut answer = Box::new(ResponseHeader::build(204, Some(8)).ok()?);
        if headers.get(ORIGIN).is_some_and(|it| self.allows(it)) {
            // Any method that the route takes; a route that takes all echoes what was requested.
            let methods = self.methods.clone().or_else(|| asks.cloned())?;
            let _ = answer.insert_header(ACCESS_CONTROL_ALLOW_METHODS, methods);
            if let Some(wanted) = headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
                let _ = answer.insert_header(ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
            }
            let _ = answer.insert_header(ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        }
        Some(answer)
    }

    /// Whether pages of this origin may call.
    pub(super) fn allows(&self, origin: &HeaderValue) -> bool {
        origin.to_str().is_ok_and(|origin| self.any || self.origins.iter().any(|it| it.matches(origin)))
    }
}

/// Takes away what an upstream says to browsers about other origins; without `cors` it passes as it is.
fn drop_foreign(response: &mut ResponseHeader) {
    let foreign = |it: &&HeaderName| it.as_str().starts_with("access-control-");
    let names: SmallVec<[HeaderName; 4]> = response.headers.keys().filter(foreign).cloned().collect();
    for name in &names {
        response.remove_header(name);
    }
}

/// The method of the request that a preflight announces, if this is one.
pub fn announced_method(method: &Method, headers: &HeaderMap) -> Option<Method> {
    if *method != Method::OPTIONS || !headers.contains_key(ORIGIN) {
        return None;
    }
    Method::from_bytes(headers.get(ACCESS_CONTROL_REQUEST_METHOD)?.as_bytes()).ok()
}

impl OriginPattern {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, host, port) = split_origin(text)?;
        let (subdomains, host) = match host.strip_prefix('*') {
            Some(rest) if rest.starts_with('.') && rest.len() > 1 => (true, rest),
            Some(_) => return None,
            None => (false, host),
        };
        let named = host.bytes().all(|it| it.is_ascii_alphanumeric() || b".-[]:".contains(&it));
        let port = match port {
            "*" => Port::Any,
            port if port.bytes().all(|it| it.is_ascii_digit()) => Port::Exact(port.to_owned()),
            _ => return None,
        };
        (named && !host.is_empty()).then(|| Self {
            scheme: scheme.to_ascii_lowercase(),
            host: host.to_ascii_lowercase(),
            subdomains,
            port,
        })
    }

    fn matches(&self, origin: &str) -> bool {
        let Some((scheme, host, port)) = split_origin(origin) else { return false };
        let host_fits = if self.subdomains {
            host.len() > self.host.len() && host.to_ascii_lowercase().ends_with(&self.host)
        } else {
            host.eq_ignore_ascii_case(&self.host)
        };
        let port_fits = match &self.port {
            Port::Any => true,
            Port::Exact(exact) => exact == port,
        };
        scheme.eq_ignore_ascii_case(&self.scheme) && host_fits && port_fits
    }
}

/// Scheme, host and port (empty if none is written) of an origin without a path.
fn split_origin(text: &str) -> Option<(&str, &str, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    let bracket = rest.rfind(']').unwrap_or(0);
    let (host, port) = match rest[bracket..].rfind(':') {
        Some(colon) => (&rest[..bracket + colon], &rest[bracket + colon + 1..]),
        None => (rest, ""),
    };
    let scheme_fits = !scheme.is_empty() && scheme.bytes().all(|it| it.is_ascii_alphanumeric());
    (scheme_fits && !host.is_empty() && !rest.contains('/')).then_some((scheme, host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, origin: &str, matches: bool) {
        assert_eq!(OriginPattern::parse(pattern).unwrap().matches(origin), matches, "{pattern} {origin}");
    }

    #[test]
    fn an_origin_matches_by_scheme_host_and_port() {
        check("https://app.example.org", "https://app.example.org", true);
        check("https://app.example.org", "http://app.example.org", false);
        check("https://app.example.org", "https://app.example.org:8443", false);
        check("http://localhost:*", "http://localhost:5173", true);
        check("http://localhost:*", "http://localhost.evil.example:80", false);
        check("https://*.example.org", "https://a.b.example.org", true);
        check("https://*.example.org", "https://example.org", false);
        check("https://*.example.org", "https://evilexample.org", false);
    }

    #[test]
    fn what_is_no_origin_is_reported() {
        let config =
            CorsConfig { origins: vec!["app.example.org".into(), "*".into()], credentials: true, max_age: None };
        let mut diagnostics = Diagnostics::default();
        Cors::compile(&config, &Scope::nowhere(), &At::ROOT, &mut diagnostics);
        let paths: Vec<_> = diagnostics.iter().map(|it| it.path.as_str()).collect();
        assert_eq!(paths, ["/credentials", "/origins/0"]);
    }
}
