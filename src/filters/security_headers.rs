//! Tells browsers to be careful (S2S-30 to 32): on every answer, the gateway's own refusals included.

use http::StatusCode;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, EXPIRES, HeaderName, HeaderValue, REFERRER_POLICY,
    STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use once_cell::sync::Lazy;
use pingora::http::ResponseHeader;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::settings::{BuiltIn, Layer, StepDescription};
use crate::base::{At, Diagnostics};
use crate::pipeline::{Exchange, Filter, MediaTypes, Scheme, Scope};

/// Which security fields answers get; a field that the upstream set itself is left as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Security {
    /// As `strict` for what the gateway says itself and for APIs. Pages of upstreams and what belongs to them (HTML,
    /// styles, scripts, pictures, fonts) get what breaks none: nosniff, framing by their own origin alone, no path in
    /// referrers to others, HSTS over TLS.
    #[default]
    Standard,
    /// CSP without inline scripts, nosniff, no framing, no referrer, HSTS over TLS, and `no-store` on answers that
    /// say nothing about caching: for all answers, pages of upstreams included.
    Strict,
    /// None of them.
    Off,
}

/// For whom browsers are told to come by TLS alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Hsts {
    /// For this host.
    #[default]
    Host,
    /// For this host and every name below it, whoever serves them.
    IncludeSubdomains,
    /// For nobody.
    Off,
}

/// `headers.security` and `headers.hsts`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct SecurityConfig {
    /// Which fields.
    pub security: Security,
    /// For whom TLS is a must.
    pub hsts: Hsts,
}

/// Compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecurityHeaders {
    config: SecurityConfig,
    /// The route's answers are an upstream's.
    forwards: bool,
}

static STRICT: [(HeaderName, HeaderValue); 4] = [
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
static FOR_PAGES: [(HeaderName, HeaderValue); 3] = [
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (X_FRAME_OPTIONS, HeaderValue::from_static("SAMEORIGIN")),
    (REFERRER_POLICY, HeaderValue::from_static("strict-origin-when-cross-origin")),
];
const HSTS: HeaderValue = HeaderValue::from_static("max-age=31536000");
const HSTS_BELOW: HeaderValue = HeaderValue::from_static("max-age=31536000; includeSubDomains");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Pages, and what they are made of.
static PAGE_TYPES: Lazy<Vec<MediaTypes>> = Lazy::new(|| {
    let types = [
        "text/html",
        "application/xhtml+xml",
        "text/css",
        "text/javascript",
        "application/javascript",
        "application/wasm",
        "application/manifest+json",
        "image/*",
        "font/*",
        "audio/*",
        "video/*",
    ];
    types.into_iter().filter_map(MediaTypes::parse).collect()
});

impl Filter for SecurityHeaders {
    const NAME: &'static str = "security_headers";
    const SUMMARY: &'static str = "Adds the security fields for browsers.";
    const RESPONSES_ONLY: bool = true;
    type Config = SecurityConfig;

    fn compile(config: &SecurityConfig, scope: &Scope<'_>, _: &At<'_>, _: &mut Diagnostics) -> Option<Self> {
        let forwards = scope.forwards && !scope.route.is_empty();
        Some(Self { config: *config, forwards }).filter(|it| it.config.security != Security::Off)
    }

    fn on_response(&self, exchange: &mut Exchange, response: &mut ResponseHeader) {
        self.add_to(exchange, response);
    }
}

impl BuiltIn for SecurityHeaders {
    fn settings(layers: &[Layer<'_>], _: &Scope<'_>) -> Option<SecurityConfig> {
        let layers = || layers.iter().rev().map(|it| &it.settings.headers);
        let security = layers().find_map(|it| it.security).unwrap_or_default();
        let hsts = layers().find_map(|it| it.hsts).unwrap_or_default();
        Some(SecurityConfig { security, hsts })
    }

    /// A word alone says it, as long as HSTS is as usual.
    fn describe(layers: &[Layer<'_>], scope: &Scope<'_>) -> Vec<StepDescription> {
        let said = |it: SecurityConfig| match it.hsts {
            Hsts::Host => StepDescription::new(Self::NAME, &it.security),
            _ => StepDescription::new(Self::NAME, &it),
        };
        Self::settings(layers, scope).map(said).into_iter().collect()
    }
}

impl SecurityHeaders {
    /// For answers of the gateway itself that no configuration is about.
    pub const OWN: Self =
        Self { config: SecurityConfig { security: Security::Strict, hsts: Hsts::Host }, forwards: false };

    /// Adds what is missing.
    pub fn add_to(self, exchange: &Exchange, answer: &mut ResponseHeader) {
        if answer.status.is_informational() {
            return;
        }
        let relaxed = self.config.security == Security::Standard && self.forwards;
        let page = relaxed && MediaTypes::any_takes(&PAGE_TYPES, &answer.headers);
        let fields = if page { &FOR_PAGES[..] } else { &STRICT[..] };
        for (name, value) in fields {
            add_missing(answer, name, value);
        }
        if exchange.scheme == Scheme::Https {
            match self.config.hsts {
                Hsts::Host => add_missing(answer, &STRICT_TRANSPORT_SECURITY, &HSTS),
                Hsts::IncludeSubdomains => add_missing(answer, &STRICT_TRANSPORT_SECURITY, &HSTS_BELOW),
                Hsts::Off => {}
            }
        }
        if !page && says_nothing_about_caching(answer) {
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
