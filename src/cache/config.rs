//! The `cache` section of a route as an operator writes it, and compiled.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use http::header::{AUTHORIZATION, COOKIE, HOST, HeaderName, HeaderValue, PROXY_AUTHORIZATION};
use pingora::http::RequestHeader;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::base::{At, ByteSize, Diagnostics, Period};
use crate::cache::tag::Tag;
use crate::http::{is_credential, is_token_byte};

/// Which responses of a route are cached and served again. Without this section, none are.
///
/// What a response says about itself counts (RFC 9111): `no-store`, `private`, `no-cache`,
/// `must-revalidate`, `Vary`, `s-maxage`, `CDN-Cache-Control`. What says nothing is stored only if `ttl` is set, or
/// `heuristic`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CacheConfig {
    /// How long a successful response is fresh, whatever lifetime it has of its own. Without it, its own.
    pub ttl: Option<Period>,
    /// Who shares responses. Without it, responses to requests with credentials are stored only if they
    /// say themselves that they are for everybody (RFC 9111, section 3.5).
    pub per: Option<Per>,
    /// Request header fields by which responses vary, beside those in the response's `Vary`. With `authorization`
    /// here, every credential has responses of its own.
    pub vary: Vec<String>,
    /// What the responses depend on, with captures of the path: `player:{path.rest}`. A purge by tag, or a
    /// change through a route with the same tag, invalidates them.
    pub tags: Vec<String>,
    /// `[body]`: requests with the same body have the same response, also for POST. JSON is compared by
    /// what it means, not by its blanks and the order of its keys.
    pub key: Vec<KeyPart>,
    /// The methods whose responses are cached. Default GET (and HEAD, from what GET has stored); POST with
    /// `key: [body]`.
    pub methods: Vec<String>,
    /// How long a stale response may be served while a new one is fetched, if the response says nothing else.
    pub stale_while_revalidate: Option<Period>,
    /// How long a stale response may be served when the upstream fails, if the response says nothing else.
    pub stale_if_error: Option<Period>,
    /// The largest response that is stored. Default: `cache.max_object` in gateway.yaml.
    pub max_object: Option<ByteSize>,
    /// How long a request waits for another one that fetches the same response, before it goes on its
    /// own. Default 5s.
    pub collapse: Option<Period>,
    /// What becomes of responses with `Set-Cookie`. Default `refuse`.
    pub set_cookie: SetCookie,
    /// Request header fields that say nothing about who is asking, though their names sound like it: `x-role` of a
    /// button. Responses are shared whatever they have.
    pub impersonal: Vec<String>,
    /// Cookies that say nothing about who is asking, such as those of analytics: `_ga`, or `_ga*` for all that begin so.
    /// They do not reach the upstream on this route, so that nothing of its responses can come of them.
    pub ignore_cookies: Vec<String>,
    /// Whether errors (4xx and 5xx) that say how long they are fresh are stored. Without it only 404, 405, 410, 414,
    /// 451 and 501 are.
    pub errors: bool,
    /// Responses that have a `Last-Modified` and say nothing about their lifetime are fresh for a tenth of the time
    /// since then, at most this long (RFC 9111, section 4.2.2). Without it, nothing is guessed.
    pub heuristic: Option<Period>,
    /// Whether the parts of a route's `split` share responses. Without it, each part has its own: a canary's response is
    /// never given to those whom it does not serve.
    pub across_split: bool,
}

/// A cookie that does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IgnoredCookie {
    name: String,
    /// Whether others that begin so are meant, too.
    prefix: bool,
}

impl IgnoredCookie {
    fn compile(text: &str, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let (name, prefix) = text.strip_suffix('*').map_or((text, false), |it| (it, true));
        if name.is_empty() || !name.bytes().all(is_token_byte) || name.contains('*') {
            let diagnostic = diagnostics.error(at, format!("`{text}` is not a cookie's name"));
            diagnostic.help("write it as `_ga`, or `_ga*` for all that begin so");
            return None;
        }
        Some(Self { name: name.to_owned(), prefix })
    }

    fn is(&self, name: &str) -> bool {
        if self.prefix { name.starts_with(&self.name) } else { name == self.name }
    }
}

/// Who shares responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// All callers share them, whatever credentials they show: the operator's word.
    Public,
    /// Those of one user, key or service. Responses that are `private` are stored, too.
    User,
    /// Those of one tenant.
    Tenant,
}

/// What else makes requests the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyPart {
    /// The request's body.
    Body,
}

/// What becomes of responses with `Set-Cookie`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SetCookie {
    /// They are not stored.
    #[default]
    Refuse,
    /// They are stored without it; the first client gets it.
    Strip,
}

/// A compiled `cache` section.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    pub(super) route: Arc<str>,
    pub(super) ttl: Option<Duration>,
    pub(super) per: Option<Per>,
    pub(super) vary: Vec<HeaderName>,
    pub(super) tags: Vec<Tag>,
    pub(super) by_body: bool,
    pub(super) methods: Vec<Method>,
    pub(super) stale_while_revalidate: Option<Duration>,
    pub(super) stale_if_error: Option<Duration>,
    pub(super) max_object: Option<usize>,
    pub(super) collapse: Duration,
    pub(super) set_cookie: SetCookie,
    pub(super) impersonal: Vec<HeaderName>,
    pub(super) ignore_cookies: Vec<IgnoredCookie>,
    pub(super) errors: bool,
    pub(super) heuristic: Option<Duration>,
    pub(super) across_split: bool,
}

impl Rules {
    /// Reports every fault; `captures` are those of the route's path.
    pub fn compile(
        route: &str,
        config: &CacheConfig,
        captures: &[String],
        at: &At<'_>,
        diagnostics: &mut Diagnostics,
    ) -> Self {
        let by_body = config.key.contains(&KeyPart::Body);
        Self::check_tags(&config.tags, captures, &at.key("tags"), diagnostics);
        let tags = config.tags.iter().filter_map(|it| Tag::compile(it, captures, at, &mut Diagnostics::default()));
        let tags = tags.collect();
        if config.max_object.is_some_and(|it| it.0 == 0) {
            diagnostics.error(&at.key("max_object"), "nothing is that small").help("leave the `cache` section out");
        }
        if by_body && config.ttl.is_none() {
            let diagnostic = diagnostics.error(&at.key("key"), "responses by body need a `ttl`");
            diagnostic.help("say how long the same input has the same response, such as ttl: 5m");
        }
        Self {
            route: route.into(),
            ttl: config.ttl.map(|it| it.0),
            per: config.per,
            vary: vary(&config.vary, &at.key("vary"), diagnostics),
            impersonal: impersonal(config, &at.key("impersonal"), diagnostics),
            ignore_cookies: ignored_cookies(config, &at.key("ignore_cookies"), diagnostics),
            errors: config.errors,
            heuristic: config.heuristic.map(|it| it.0),
            across_split: config.across_split,
            tags,
            by_body,
            methods: methods(config, by_body, &at.key("methods"), diagnostics),
            stale_while_revalidate: config.stale_while_revalidate.map(|it| it.0),
            stale_if_error: config.stale_if_error.map(|it| it.0),
            max_object: config.max_object.map(|it| usize::try_from(it.0).unwrap_or(usize::MAX)),
            collapse: config.collapse.map_or(Duration::from_secs(5), |it| it.0),
            set_cookie: config.set_cookie,
        }
    }

    /// Reports every tag that names what the path does not capture.
    pub fn check_tags(written: &[String], captures: &[String], at: &At<'_>, diagnostics: &mut Diagnostics) {
        for (number, text) in written.iter().enumerate() {
            Tag::compile(text, captures, &at.index(number), diagnostics);
        }
    }

    /// Whether the request's body has to be there, whole, before the cache can be looked up.
    pub fn needs_body(&self, method: &Method) -> bool {
        self.by_body && self.methods.contains(method)
    }

    /// Takes the cookies out of a request that do not count; a field without any left goes, too.
    pub fn drop_ignored_cookies(&self, request: &mut RequestHeader) {
        if self.ignore_cookies.is_empty() || !request.headers.contains_key(COOKIE) {
            return;
        }
        let mut kept = Vec::new();
        for line in request.headers.get_all(COOKIE) {
            // What can't be read may be anything, and stays.
            let Ok(text) = line.to_str() else { return };
            let name = |pair: &str| pair.split('=').next().unwrap_or_default().trim().to_owned();
            kept.extend(text.split(';').map(str::trim).filter(|it| !it.is_empty() && !self.ignores(&name(it))));
        }
        let kept = HeaderValue::from_str(&kept.join("; ")).ok().filter(|it| !it.is_empty());
        match kept {
            Some(kept) => _ = request.insert_header(COOKIE, kept),
            None => _ = request.remove_header(&COOKIE),
        }
    }

    fn ignores(&self, cookie: &str) -> bool {
        self.ignore_cookies.iter().any(|it| it.is(cookie))
    }

    /// Whether a field may say who is asking.
    pub(super) fn is_credential(&self, field: &HeaderName) -> bool {
        is_credential(field) && !self.impersonal.contains(field)
    }

    /// Whether credentials in fields are a part of the key.
    pub(super) fn parts_by(&self, field: &HeaderName) -> bool {
        self.vary.contains(field)
    }

    /// Whether some credential parts responses.
    pub(super) fn parts_by_credentials(&self) -> bool {
        self.vary.iter().any(|it| self.is_credential(it))
    }
}

fn ignored_cookies(config: &CacheConfig, at: &At<'_>, diagnostics: &mut Diagnostics) -> Vec<IgnoredCookie> {
    let cookies = config.ignore_cookies.iter().enumerate();
    cookies.filter_map(|(number, it)| IgnoredCookie::compile(it, &at.index(number), diagnostics)).collect()
}

fn vary(written: &[String], at: &At<'_>, diagnostics: &mut Diagnostics) -> Vec<HeaderName> {
    let mut fields = Vec::new();
    for (number, text) in written.iter().enumerate() {
        match HeaderName::from_bytes(text.as_bytes()) {
            Ok(HOST) => diagnostics.error(&at.index(number), "responses always vary by the host").help("remove it"),
            Ok(field) if is_of_one_request(&field) => {
                let diagnostic =
                    diagnostics.error(&at.index(number), "the gateway says it, and of each client another");
                diagnostic.help("remove it: no response could be shared")
            }
            Ok(field) => {
                if !fields.contains(&field) {
                    fields.push(field);
                }
                continue;
            }
            Err(_) => diagnostics.error(&at.index(number), "not a header's name").help("write it as accept-language"),
        };
    }
    fields.sort_by(|left, right| left.as_str().cmp(right.as_str()));
    fields
}

/// Fields that upstreams get from the gateway, with another value for each request or client: nothing that depends on
/// them is for anybody else.
pub(super) fn is_of_one_request(field: &HeaderName) -> bool {
    ["forwarded", "traceparent", "x-forwarded-for", "x-real-ip", "x-request-id"].contains(&field.as_str())
}

fn impersonal(config: &CacheConfig, at: &At<'_>, diagnostics: &mut Diagnostics) -> Vec<HeaderName> {
    let fields = impersonal_fields(&config.impersonal, at, diagnostics);
    for (number, text) in config.impersonal.iter().enumerate() {
        if config.vary.iter().any(|it| it.eq_ignore_ascii_case(text)) {
            let diagnostic = diagnostics.error(&at.index(number), format!("`{text}` stands in `vary`, too"));
            diagnostic.help("either responses vary by it, or they do not");
        }
    }
    fields
}

/// The fields of an `impersonal` list; reports names that are none, and those that are always credentials.
pub fn impersonal_fields(written: &[String], at: &At<'_>, diagnostics: &mut Diagnostics) -> Vec<HeaderName> {
    let mut fields = Vec::new();
    for (number, text) in written.iter().enumerate() {
        match HeaderName::from_bytes(text.as_bytes()) {
            Ok(field) if field == AUTHORIZATION || field == PROXY_AUTHORIZATION => {
                let diagnostic = diagnostics.error(&at.index(number), format!("`{field}` always says who is asking"));
                diagnostic.help("remove it; a cache whose responses are for everybody has `per: public`")
            }
            Ok(field) => fields.push(field),
            Err(_) => diagnostics.error(&at.index(number), "not a header's name").help("write it as x-role"),
        }
    }
    fields
}

fn methods(config: &CacheConfig, by_body: bool, at: &At<'_>, diagnostics: &mut Diagnostics) -> Vec<Method> {
    if config.methods.is_empty() {
        return if by_body { vec![Method::POST] } else { vec![Method::GET, Method::HEAD] };
    }
    let mut methods = Vec::new();
    for (number, text) in config.methods.iter().enumerate() {
        match text.as_str() {
            "GET" => methods.push(Method::GET),
            "HEAD" => methods.push(Method::HEAD),
            "POST" if by_body => methods.push(Method::POST),
            "POST" => {
                diagnostics.error(&at.index(number), "responses to POST depend on the body").help("add key: [body]")
            }
            _ => diagnostics
                .error(&at.index(number), "not a method whose responses can be cached")
                .help("GET, HEAD or POST"),
        }
    }
    methods
}

/// The `cache` section of gateway.yaml: the room for cached responses.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CacheRoomConfig {
    /// What all cached responses together may take. Default 256MiB.
    pub memory: ByteSize,
    /// The largest response that is stored. Default 1MiB.
    pub max_object: ByteSize,
    /// Whether responses are stored in the shared state, too, so that a restarted gateway is warm and
    /// gateways have each other's. Default true; it matters with `state: { redis: … }` alone.
    pub shared: bool,
}

impl Default for CacheRoomConfig {
    fn default() -> Self {
        Self { memory: ByteSize(256 << 20), max_object: ByteSize(1 << 20), shared: true }
    }
}

/// Compiled: the room for cached responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    pub(super) memory: u64,
    pub(super) max_object: usize,
    pub(super) shared: bool,
}

impl CacheRoomConfig {
    /// Reports every fault.
    pub fn compile(&self, at: &At<'_>, diagnostics: &mut Diagnostics) -> Room {
        if self.memory.0 < 64 << 10 {
            diagnostics.error(&at.key("memory"), "too little to store anything").help("at least 64KiB");
        }
        if self.max_object.0 > self.memory.0 / 4 {
            let diagnostic = diagnostics.error(&at.key("max_object"), "more than a quarter of `memory`");
            diagnostic.help("one response must not push out all others");
        }
        let max_object = usize::try_from(self.max_object.0).unwrap_or(usize::MAX);
        Room { memory: self.memory.0, max_object, shared: self.shared }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn faults(yaml: &str) -> Vec<String> {
        let config = serde_yaml::from_str(yaml).unwrap();
        let mut diagnostics = Diagnostics::default();
        Rules::compile("a", &config, &["rest".to_owned()], &At::ROOT, &mut diagnostics);
        diagnostics.iter().map(|it| it.path.clone()).collect()
    }

    #[test]
    fn every_fault_is_reported_where_it_stands() {
        assert_eq!(faults("{ ttl: 30s, vary: [authorization], tags: ['player:{path.rest}'] }"), [""; 0]);
        assert_eq!(faults("{ ttl: 5m, key: [body] }"), [""; 0]);
        assert_eq!(faults("{ key: [body] }"), ["/key"]);
        assert_eq!(faults("{ ttl: 10ms, max_object: 0, vary: [host, 'a b'] }"), ["/max_object", "/vary/0", "/vary/1"]);
        assert_eq!(faults("{ impersonal: [x-role, cookie] }"), [""; 0]);
        assert_eq!(faults("{ impersonal: [Authorization] }"), ["/impersonal/0"]);
        assert_eq!(
            faults("{ impersonal: ['a b', X-Role], vary: [x-role, x-request-id] }"),
            ["/vary/1", "/impersonal/0", "/impersonal/1"]
        );
        assert_eq!(faults("{ methods: [POST, PUT], tags: ['{path.gone}'] }"), ["/tags/0", "/methods/0", "/methods/1"]);
    }
}
