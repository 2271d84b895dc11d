//! Tells browsers to be careful (S2S-30 to 32): on every answer, the gateway's own refusals included.

use http::StatusCode;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, EXPIRES, HeaderName, HeaderValue, REFERRER_POLICY,
    STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use pingora::http::ResponseHeader;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::settings::{BuiltIn, Layer};
use crate::base::{At, Diagnostics};
use crate::pipeline::{Exchange, Filter, Scheme, Scope};

/// Which security fields answers get; a field that the upstream set itself is left as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Security {
    /// CSP without inline scripts, nosniff, no framing, no referrer, HSTS over TLS, and `no-store` on answers that
    /// say nothing about caching.
    #[default]
    Strict,
    /// None of them.
    Off,
}

const ALWAYS: [(HeaderName, HeaderValue); 4] = [
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'self'; script-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'",
        ),
    ),
];
const HSTS: HeaderValue = HeaderValue::from_static("max-age=31536000; includeSubDomains");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

impl Filter for Security {
    const NAME: &'static str = "security_headers";
    const SUMMARY: &'static str = "Adds the security fields for browsers.";
    const RESPONSES_ONLY: bool = true;
    type Config = Self;

    fn compile(config: &Self, _: &Scope<'_>, _: &At<'_>, _: &mut Diagnostics) -> Option<Self> {
        Some(*config).filter(|it| *it != Self::Off)
    }

    fn on_response(&self, exchange: &mut Exchange, response: &mut ResponseHeader) {
        self.add_to(exchange, response);
    }
}

impl BuiltIn for Security {
    fn settings(layers: &[Layer<'_>], _: &Scope<'_>) -> Option<Self> {
        Some(layers.iter().rev().find_map(|it| it.settings.headers.security).unwrap_or_default())
    }
}

impl Security {
    /// Adds what is missing.
    pub fn add_to(self, exchange: &Exchange, answer: &mut ResponseHeader) {
        if self == Self::Off || answer.status.is_informational() {
            return;
        }
        for (name, value) in &ALWAYS {
            add_missing(answer, name, value);
        }
        if exchange.scheme == Scheme::Https {
            add_missing(answer, &STRICT_TRANSPORT_SECURITY, &HSTS);
        }
        if says_nothing_about_caching(answer) {
            let _ = answer.insert_header(CACHE_CONTROL, NO_STORE);
        }
    }
}

/// Whatever its type and status. A 304 speaks of what the client has, and of that something was said before.
fn says_nothing_about_caching(answer: &ResponseHeader) -> bool {
    let said = [CACHE_CONTROL, EXPIRES].iter().any(|it| answer.headers.contains_key(it));
    !said && answer.status != StatusCode::NOT_MODIFIED
}

fn add_missing(answer: &mut ResponseHeader, name: &HeaderName, value: &HeaderValue) {
    if !answer.headers.contains_key(name) {
        let _ = answer.insert_header(name.clone(), value.clone());
    }
}
