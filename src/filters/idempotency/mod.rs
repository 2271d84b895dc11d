//! Idempotent requests: one is done once, however often it is sent (CP2-B, S2S-13; the IETF draft
//! `httpapi-idempotency-key-header`).
//!
//! What is stored is found by tenant and key, and nothing else; who has the same key and another request, or is
//! somebody else, is refused. The first request under a key reserves it,
//! goes on though its client leaves, and stores its response for repetitions. A reservation lapses
//! when its gateway does not renew it, so that one that was killed blocks no repetition for long. Forwarding
//! the request is the proxy room's business (`proxy/idempotent.rs`).

mod record;
mod reservation;

use std::net::IpAddr;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use http::header::{
    CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LOCATION, CONTENT_RANGE, CONTENT_TYPE, IF_MATCH,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use pingora::http::RequestHeader;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sfv::{BareItem, Parser};
use smallvec::SmallVec;

use super::settings::{BuiltIn, Layer};
use crate::base::{At, ByteSize, Diagnostics, Period, network_of};
use crate::cache::{Target, impersonal_fields};
use crate::http as codec;
use crate::pipeline::{Exchange, Filter, Refusal, Scheme, Scope};
use crate::routing::HostName;

pub use record::StoredResponse;
pub use reservation::{Reservation, ReserveOutcome};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const X_IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("x-idempotency-key");

/// Fields that make another request of one with the same target and body.
const MEANING: [HeaderName; 18] = [
    // The same bytes in another coding, of another type, or of another part, are another body (RFC 9110, section 8 and
    // 14.5).
    CONTENT_TYPE,
    CONTENT_ENCODING,
    CONTENT_LANGUAGE,
    CONTENT_LOCATION,
    CONTENT_RANGE,
    CONTENT_DISPOSITION,
    // What is done if the resource is still what the client takes it for (RFC 9110, section 13; RFC 4918, 10.4).
    IF_MATCH,
    IF_NONE_MATCH,
    IF_MODIFIED_SINCE,
    IF_UNMODIFIED_SINCE,
    IF_RANGE,
    HeaderName::from_static("if"),
    // What is asked for, and how it is answered (RFC 9110, 14.2; RFC 7240).
    RANGE,
    HeaderName::from_static("prefer"),
    // What the resource is called, or where the bytes go in it (RFC 5023, 9.7; the IETF draft of resumable uploads).
    HeaderName::from_static("slug"),
    HeaderName::from_static("upload-offset"),
    HeaderName::from_static("upload-complete"),
    // Which operation of one target (SOAP 1.1, section 6.1.1).
    HeaderName::from_static("soapaction"),
];

/// The longest key, in bytes.
const ID_MAX: usize = 255;

/// The `idempotency` section of a route or of a policy. It concerns POST, PUT, PATCH and DELETE.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct IdempotencyConfig {
    /// How long a response is stored: within this time the same key gets the same response. Default 24h.
    pub ttl: Option<Period>,
    /// Whether requests without a key are refused. Default: they pass, unprotected.
    pub required: bool,
    /// Where the key is, the first place that has one wins: `header` (`Idempotency-Key` or
    /// `X-Idempotency-Key`), or a field of a JSON body, as `body.assignment_id`. Default `[header]`.
    pub from: Vec<String>,
    /// How long a second request waits for the first one's response before it is refused
    /// (409). Default 10s.
    pub wait: Option<Period>,
    /// The largest response that is stored. A larger one passes, and repetitions get 409. Default 1MiB.
    pub record: Option<ByteSize>,
    /// What becomes of event streams. Default `refuse`.
    pub streams: Streams,
    /// Request header fields that say nothing about who is asking, though their names sound like it: they may differ
    /// from one repetition to the next.
    pub impersonal: Vec<String>,
}

/// What becomes of event streams under a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Streams {
    /// A request that accepts one is refused; one that comes all the same passes and is not stored.
    #[default]
    Refuse,
    /// They pass as they come and are stored, up to the size in `record`; a repetition gets all events at once.
    Record,
}

/// A compiled `idempotency` section.
#[derive(Clone, Debug, PartialEq)]
pub struct Idempotency {
    ttl: Duration,
    required: bool,
    places: Vec<Place>,
    wait: Duration,
    record_max: usize,
    streams: Streams,
    impersonal: Vec<HeaderName>,
}

#[derive(Clone, Debug, PartialEq)]
enum Place {
    Header,
    Body(String),
}

/// The key of an idempotent request, and what the request is.
#[derive(Debug)]
pub struct IdempotencyKey {
    /// Under which the record is.
    pub record_key: String,
    /// Of the request: the same id with another request is refused.
    pub fingerprint: [u8; 32],
    /// Whose share of the state the record takes.
    pub network: IpAddr,
}

/// The key of everything that is stored for an idempotency key: tenant and id, and nothing else (CP2-B). The length
/// in front keeps `a:b` + `c` apart from `a` + `b:c`.
fn http_id(tenant: &str, id: &str) -> String {
    format!("idempotency:{}:{tenant}:{id}", tenant.len())
}

impl Filter for Idempotency {
    const NAME: &'static str = "idempotency";
    const SUMMARY: &'static str = "Lets a request be done once, however often it is sent.";
    type Config = IdempotencyConfig;

    /// Reports places that are none, and a time or size of zero.
    fn compile(
        config: &IdempotencyConfig,
        scope: &Scope<'_>,
        at: &At<'_>,
        diagnostics: &mut Diagnostics,
    ) -> Option<Self> {
        let from = at.key("from");
        let mut places = Vec::new();
        for (number, text) in config.from.iter().enumerate() {
            match (text.as_str(), text.strip_prefix("body.")) {
                ("header", _) => places.push(Place::Header),
                (_, Some(field)) if !field.is_empty() => places.push(Place::Body(field.to_owned())),
                _ => diagnostics
                    .error(&from.index(number), "not a place of an idempotency key")
                    .help("write `header`, or a field of the body such as `body.assignment_id`"),
            }
        }
        if config.from.is_empty() {
            places.push(Place::Header);
        }
        let ttl = config.ttl.map_or(Duration::from_secs(24 * 3600), |it| it.0);
        if ttl.is_zero() {
            diagnostics.error(&at.key("ttl"), "a time of zero").help("leave out `idempotency` to keep nothing");
        }
        let record = config.record.map_or(1024 * 1024, |it| it.0);
        let impersonal = impersonal_fields(&config.impersonal, &at.key("impersonal"), diagnostics);
        // What is answered at once needs no idempotency.
        scope.forwards.then(|| Self {
            ttl,
            required: config.required,
            places,
            wait: config.wait.map_or(Duration::from_secs(10), |it| it.0),
            record_max: usize::try_from(record).unwrap_or(usize::MAX),
            streams: config.streams,
            impersonal,
        })
    }

    fn needs_body(&self, method: &Method) -> bool {
        self.concerns(method)
    }
}

impl BuiltIn for Idempotency {
    fn block<'a>(layer: &Layer<'a>) -> Option<&'a IdempotencyConfig> {
        layer.settings.idempotency.as_ref()
    }
}

impl Idempotency {
    /// Whether requests of this method may be idempotent.
    pub fn concerns(&self, method: &Method) -> bool {
        [Method::POST, Method::PUT, Method::PATCH, Method::DELETE].contains(method)
    }

    /// The largest response that is stored, in bytes.
    pub fn record_max(&self) -> usize {
        self.record_max
    }

    /// The key of a request; `None` if it has none and need not have one. The body has to be held.
    ///
    /// # Errors
    /// 400 for a key that is missing or can't be one.
    pub fn key(&self, exchange: &Exchange, request: &RequestHeader) -> Result<Option<IdempotencyKey>, Refusal> {
        let body = exchange.body.as_deref().unwrap_or_default();
        let Some((id, from_header)) = self.id(&request.headers, body)? else {
            return if self.required { Err(Refusal::IdempotencyKey("it is missing")) } else { Ok(None) };
        };
        if self.streams == Streams::Refuse && asks_for_stream(&request.headers) {
            return Err(Refusal::IdempotencyKey("an event stream can't be requested with one"));
        }
        let tenant = exchange.principal.as_ref().and_then(|it| it.tenant.as_deref()).unwrap_or_default();
        let fingerprint = self.fingerprint(exchange, request, from_header);
        let network = network_of(exchange.client_ip);
        Ok(Some(IdempotencyKey { record_key: http_id(tenant, &id), fingerprint, network }))
    }

    /// All that makes two requests one: scheme, host, route, method, target, [the fields that have a say](MEANING), body,
    /// and who asks (decision 14).
    fn fingerprint(&self, exchange: &Exchange, request: &RequestHeader, from_header: bool) -> [u8; 32] {
        let mut parts = Parts::new();
        let uri = exchange.target_received.as_ref().unwrap_or(&request.uri);
        let target = Target::of(exchange.scheme == Scheme::Https, request, uri);
        parts.add(exchange.scheme.as_str().as_bytes());
        // Without its port: a repetition may come through another listener or gateway.
        let host = HostName::of(Some(target.host()));
        parts.add(host.as_ref().map_or(target.host(), HostName::as_str).as_bytes());
        // What a trusted proxy says of the client's address beside, upstreams write addresses with.
        let proxied = exchange.proxied.as_deref();
        for said in [proxied.and_then(|it| it.port.as_ref()), proxied.and_then(|it| it.prefix.as_ref())] {
            parts.add(said.map_or(&b""[..], |it| it.as_bytes()));
        }
        parts.add(exchange.route.as_deref().unwrap_or_default().as_bytes());
        parts.add(request.method.as_str().as_bytes());
        parts.add(uri.path_and_query().map_or("", |it| it.as_str()).as_bytes());
        for field in MEANING {
            let lines = request.headers.get_all(field);
            parts.add(&[u8::try_from(lines.iter().count()).unwrap_or(u8::MAX)]);
            lines.iter().for_each(|it| parts.add(it.as_bytes()));
        }
        parts.add(exchange.claimed(&request.headers, &self.impersonal).as_ref().map_or(&b""[..], |it| it));
        // Who made up a key gets the response, not somebody else who hit on the same. The ids of assignments and the
        // like belong to the tenant.
        match exchange.principal.as_ref().and_then(|it| it.tenant_key()).filter(|_| !from_header) {
            Some(tenant) => {
                parts.add(&[tenant.tag]);
                tenant.parts.iter().for_each(|it| parts.add(it));
            }
            None => exchange.caller(&request.headers, &self.impersonal).key(|it| parts.add(it)),
        }
        parts.add(exchange.body.as_deref().unwrap_or_default());
        parts.finish()
    }

    fn id(&self, headers: &HeaderMap, body: &[u8]) -> Result<Option<(String, bool)>, Refusal> {
        for place in &self.places {
            let found = match place {
                Place::Header => header_id(headers)?.map(|it| (it, true)),
                Place::Body(field) => body_id(body, field)?.map(|it| (it, false)),
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

/// Both names mean the same (decision 4).
fn header_id(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let (one, other) = (field_id(headers, &IDEMPOTENCY_KEY)?, field_id(headers, &X_IDEMPOTENCY_KEY)?);
    match (one, other) {
        (Some(one), Some(other)) if one != other => Err(Refusal::IdempotencyKey("two different ones were sent")),
        (one, other) => Ok(one.or(other)),
    }
}

/// The IETF's draft puts the value in quotes: a string of RFC 8941 (section 3.3.3), whose parameters say nothing about
/// it. Many clients leave the quotes out; then it has to be one plain word.
fn field_id(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, Refusal> {
    let mut lines = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let Some(line) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err(Refusal::IdempotencyKey("it is there twice"));
    }
    let line = line.trim_ascii();
    if line.starts_with(b"\"") {
        return match Parser::parse_item(line).map(|it| it.bare_item) {
            Ok(BareItem::String(id)) => checked(&id).map(Some),
            _ => Err(Refusal::IdempotencyKey("it is not a string in quotes")),
        };
    }
    let plain = line.iter().all(|it| it.is_ascii_graphic() && !b"\"(),;\\".contains(it));
    match std::str::from_utf8(line) {
        Ok(word) if plain => checked(word).map(Some),
        _ => Err(Refusal::IdempotencyKey("it has characters that only one in quotes may have")),
    }
}

fn body_id(body: &[u8], field: &str) -> Result<Option<String>, Refusal> {
    let Ok(Value::Object(mut fields)) = serde_json::from_slice(body) else { return Ok(None) };
    match fields.remove(field) {
        Some(Value::String(id)) => checked(&id).map(Some),
        Some(Value::Number(id)) => checked(&id.to_string()).map(Some),
        _ => Ok(None),
    }
}

fn checked(id: &str) -> Result<String, Refusal> {
    match id {
        "" => Err(Refusal::IdempotencyKey("it is empty")),
        _ if id.len() > ID_MAX => Err(Refusal::IdempotencyKey("it is longer than 255 bytes")),
        _ if id.chars().any(char::is_control) => {
            Err(Refusal::IdempotencyKey("it has characters that it must not have"))
        }
        _ => Ok(id.to_owned()),
    }
}

fn asks_for_stream(headers: &HeaderMap) -> bool {
    codec::tokens(headers, &http::header::ACCEPT)
        .any(|it| codec::essence(it).eq_ignore_ascii_case(b"text/event-stream"))
}

/// Parts of a request under one hash, each with its length: no two requests have the same parts in other places.
struct Parts {
    digest: Context,
    /// Short parts, which are digested together.
    waiting: SmallVec<[u8; WAITING_MAX]>,
}

/// Bytes that are digested at once.
const WAITING_MAX: usize = 512;

impl Parts {
    fn new() -> Self {
        Self { digest: Context::new(&SHA256), waiting: SmallVec::new() }
    }

    fn add(&mut self, part: &[u8]) {
        let length = (part.len() as u64).to_be_bytes();
        if self.waiting.len() + length.len() + part.len() <= WAITING_MAX {
            self.waiting.extend_from_slice(&length);
            return self.waiting.extend_from_slice(part);
        }
        self.digest.update(&self.waiting);
        self.waiting.clear();
        self.digest.update(&length);
        self.digest.update(part);
    }

    fn finish(mut self) -> [u8; 32] {
        self.digest.update(&self.waiting);
        let mut print = [0; 32];
        print.copy_from_slice(self.digest.finish().as_ref());
        print
    }
}

#[cfg(test)]
mod tests;
