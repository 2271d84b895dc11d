//! One request, several upstreams, one answer (R1.5): their JSON under the names of the parts.
//!
//! The parts are asked at once, each within its own time and size, through the same `forward` as everybody. What an
//! optional part does not bring is `null`, and `_meta` says why; without a required part there is no answer.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderMap,
    HeaderName, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE,
    TRANSFER_ENCODING, WWW_AUTHENTICATE,
};
use http::{Method, StatusCode};
use once_cell::sync::Lazy;
use prometheus::{IntCounter, IntCounterVec, register_int_counter_vec};
use schemars::JsonSchema;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::base::{At, ByteSize, Deadline, Diagnostics, Period};
use crate::http as codec;
use crate::pipeline::{Context, LocalFuture, LocalService, PartOutcome, Refusal, refused, whole_body};
use crate::routing::{Params, Template};

/// The most parts of an answer.
const PARTS_MAX: usize = 16;
/// The largest body of a part, unless it says otherwise.
const PART_MAX: u64 = 1024 * 1024;
/// The largest body that a part may be allowed.
const PART_LIMIT: u64 = 16 * 1024 * 1024;
/// What a part is not asked about: those fields are about the answer as a whole, or about a body.
const NOT_FOR_PARTS: [HeaderName; 11] = [
    IF_MATCH,
    IF_MODIFIED_SINCE,
    IF_NONE_MATCH,
    IF_RANGE,
    IF_UNMODIFIED_SINCE,
    RANGE,
    EXPECT,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    TRANSFER_ENCODING,
];

static PARTS: Lazy<IntCounterVec> = Lazy::new(|| {
    let help = "Parts of aggregated answers by result: ok, status, timeout, unreachable, not_json, too_large, broken_off, failed";
    let labels = &["route", "part", "result"];
    register_int_counter_vec!("moongate_aggregate_parts_total", help, labels).expect("the name is registered once")
});

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AggregatePartConfig {
    /// The upstream that is asked.
    pub upstream: String,
    /// What it is asked for, with captures of the match in braces: `/players/{player}`, `/narratives?player={player}`. The
    /// client's own query goes to no part.
    pub path: String,
    /// Whether there is no answer without it. Default false: then it is `null`, and `_meta` says why.
    #[serde(default)]
    pub required: bool,
    /// How long it is waited for, its body included. Default: the route's `timeouts.request`.
    #[serde(default)]
    pub timeout: Option<Period>,
    /// The largest body that is taken, at most 16MiB. Default 1MiB.
    #[serde(default)]
    pub max: Option<ByteSize>,
}

/// Compiled, and the service that answers.
#[derive(Clone, Debug)]
pub struct Aggregate {
    route: Arc<str>,
    parts: Arc<[Part]>,
}

#[derive(Debug)]
struct Part {
    name: Arc<str>,
    /// The number of its upstream.
    number: usize,
    upstream: Arc<str>,
    path: Template,
    required: bool,
    timeout: Duration,
    max: u64,
    counts: [OnceLock<IntCounter>; Lack::WORDS.len()],
}

/// Why a part is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lack {
    None,
    /// Its upstream answered with another status than one of success.
    Status(StatusCode),
    Timeout,
    Unreachable,
    NotJson,
    TooLarge,
    BrokenOff,
    Failed,
}

impl Lack {
    const WORDS: [&'static str; 8] =
        ["ok", "status", "timeout", "unreachable", "not_json", "too_large", "broken_off", "failed"];

    fn number(self) -> usize {
        match self {
            Self::None => 0,
            Self::Status(_) => 1,
            Self::Timeout => 2,
            Self::Unreachable => 3,
            Self::NotJson => 4,
            Self::TooLarge => 5,
            Self::BrokenOff => 6,
            Self::Failed => 7,
        }
    }

    fn word(self) -> &'static str {
        Self::WORDS[self.number()]
    }

    fn of(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::FirstByteTimeout | Refusal::ExchangeTimeout | Refusal::ConnectTimeout | Refusal::CallDeadline => {
                Self::Timeout
            }
            Refusal::ConnectFailed
            | Refusal::NoHealthyEndpoint
            | Refusal::BreakerOpen { .. }
            | Refusal::DependencyDown { .. }
            | Refusal::UpstreamOverloaded => Self::Unreachable,
            Refusal::ResponseTooLarge { .. } | Refusal::BodyTooLarge { .. } => Self::TooLarge,
            Refusal::UpstreamClosed | Refusal::UpstreamProtocol => Self::BrokenOff,
            _ => Self::Failed,
        }
    }
}

/// What has become of a part that brought nothing.
struct Missing {
    lack: Lack,
    /// What the client gets where the part is required.
    instead: Box<Instead>,
}

enum Instead {
    Refusal(Refusal),
    /// The part's own answer.
    Answer(http::Response<Body>),
}

impl Missing {
    fn new(lack: Lack, refusal: Refusal) -> Self {
        Self { lack, instead: Box::new(Instead::Refusal(refusal)) }
    }
}

impl From<Refusal> for Missing {
    fn from(refusal: Refusal) -> Self {
        Self::new(Lack::of(&refusal), refusal)
    }
}

impl Aggregate {
    /// Reports all faults. `find` reports an upstream that is not there, and says which number it has.
    pub fn compile(
        (route, captures): (&str, &[String]),
        parts: &BTreeMap<String, AggregatePartConfig>,
        request: Duration,
        at: &At<'_>,
        diagnostics: &mut Diagnostics,
        mut find: impl FnMut(&str, &At<'_>, &mut Diagnostics) -> usize,
    ) -> Self {
        if parts.is_empty() || parts.len() > PARTS_MAX {
            diagnostics.error(at, format!("an answer has 1 to {PARTS_MAX} parts, this one has {}", parts.len()));
        }
        let mut compile = |(name, part): (&String, &AggregatePartConfig)| {
            let at = at.key(name);
            let plain = |it: u8| it.is_ascii_alphanumeric() || b"-_".contains(&it);
            if name.is_empty() || name.starts_with('_') || name.len() > 64 || !name.bytes().all(plain) {
                diagnostics
                    .error_at_key(&at, "not a name for a part")
                    .help("letters, digits, `-` and `_`, at most 64, and no `_` at its beginning: `_meta` is ours");
            }
            if !part.path.starts_with('/') {
                diagnostics
                    .error(&at.key("path"), "a path begins with a slash")
                    .help(format!("write `/{}`: where the upstream is stands under `upstreams`", part.path));
            }
            let max = part.max.map_or(PART_MAX, |it| it.0);
            if !(1..=PART_LIMIT).contains(&max) {
                diagnostics.error(&at.key("max"), "not within 1 byte and 16MiB");
            }
            let timeout = part.timeout.map_or(request, |it| it.0);
            if timeout.is_zero() {
                diagnostics.error(&at.key("timeout"), "nothing is that quick").help("leave it out, or wait for a time");
            } else if timeout > request {
                diagnostics
                    .warn(
                        &at.key("timeout"),
                        format!(
                            "after {}, which `timeouts.request` allows in all, nobody waits any more",
                            Period(request)
                        ),
                    )
                    .help("write a longer `timeouts: { request }` at the route, or a shorter one here");
            }
            Part {
                number: find(&part.upstream, &at.key("upstream"), diagnostics),
                upstream: part.upstream.as_str().into(),
                path: Template::compile(&part.path, captures, &at.key("path"), diagnostics),
                name: name.as_str().into(),
                required: part.required,
                timeout,
                max,
                counts: Default::default(),
            }
        };
        let parts = parts.iter().map(&mut compile).collect();
        Self { route: route.into(), parts }
    }

    /// The numbers of the upstreams of the parts.
    pub fn upstreams(&self) -> impl Iterator<Item = usize> {
        self.parts.iter().map(|it| it.number)
    }

    /// What each part is asked for, by what `path` captured.
    pub fn targets(&self, params: &Params, path: &str) -> Vec<String> {
        let expand = |it: &Part| {
            let mut target = String::new();
            it.path.expand(params, path, &mut target);
            target
        };
        self.parts.iter().map(expand).collect()
    }

    async fn answer(self, request: http::Request<Body>, context: Context) -> Result<http::Response<Body>, Refusal> {
        let Some(parts) = context.parts.clone() else { return Err(Refusal::Internal) };
        let fields = Arc::new(for_parts(request.headers()));
        let ask = |number: usize| {
            let (this, context, fields) = (&self.parts[number], &context, fields.clone());
            let target = parts.targets.get(number).map(String::as_str).unwrap_or_default();
            async move {
                let begun = Instant::now();
                let brought = Deadline::within(this.timeout, this.ask(target, &fields, context)).await;
                let brought = brought.unwrap_or_else(|| Err(Missing::new(Lack::Timeout, Refusal::ExchangeTimeout)));
                (number, brought, begun.elapsed())
            }
        };
        let mut running: FuturesUnordered<_> = (0..self.parts.len()).map(ask).collect();
        let mut bodies: Vec<Result<Bytes, Lack>> = vec![Err(Lack::Failed); self.parts.len()];
        while let Some((number, brought, time)) = running.next().await {
            let part = &self.parts[number];
            let lack = brought.as_ref().map_or_else(|missing| missing.lack, |_| Lack::None);
            parts.note(PartOutcome { name: part.name.clone(), result: lack.word(), time });
            part.count(&self.route, lack);
            match brought {
                Ok(body) => bodies[number] = Ok(body),
                // The others are given up with it.
                Err(missing) if part.required => {
                    return match *missing.instead {
                        Instead::Refusal(refusal) => Err(refusal),
                        Instead::Answer(answer) => Ok(answer),
                    };
                }
                Err(missing) => bodies[number] = Err(missing.lack),
            }
        }
        Ok(merged(&self.parts, &bodies))
    }
}

impl LocalService for Aggregate {
    fn call(&self, request: http::Request<Body>, context: Context) -> LocalFuture {
        let this = self.clone();
        Box::pin(async move { this.answer(request, context).await.unwrap_or_else(refused) })
    }
}

impl Part {
    /// The part's JSON, as its upstream wrote it.
    async fn ask(&self, target: &str, fields: &HeaderMap, context: &Context) -> Result<Bytes, Missing> {
        let mut request = http::Request::new(Body::empty());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = target.parse().map_err(|_| Refusal::BadRequest("a part's target is not a URI"))?;
        *request.headers_mut() = fields.clone();
        let response = context.call(&self.upstream, request).await?;
        let (head, body) = response.into_parts();
        let body = whole_body(body, self.max).await.map_err(|error| match error {
            Refusal::BodyTooLarge { limit } => Missing::new(Lack::TooLarge, Refusal::ResponseTooLarge { limit }),
            _ => Missing::new(Lack::BrokenOff, Refusal::UpstreamClosed),
        })?;
        if !head.status.is_success() {
            let lack = Lack::Status(head.status);
            if head.status.is_redirection() {
                return Err(Missing::new(lack, Refusal::UpstreamProtocol)); // a part is no place to go to
            }
            let mut answer = http::Response::new(Body::from(body));
            *answer.status_mut() = head.status;
            for name in [CONTENT_TYPE, CACHE_CONTROL, WWW_AUTHENTICATE, http::header::RETRY_AFTER] {
                if let Some(value) = head.headers.get(&name) {
                    answer.headers_mut().insert(name, value.clone());
                }
            }
            return Err(Missing { lack, instead: Box::new(Instead::Answer(answer)) });
        }
        let written = head.headers.get(CONTENT_TYPE).map(|it| codec::essence(it.as_bytes())).unwrap_or_default();
        let is_json =
            written.eq_ignore_ascii_case(b"application/json") || written.to_ascii_lowercase().ends_with(b"+json");
        let text = std::str::from_utf8(&body).ok().filter(|_| is_json && !codec::is_encoded(&head.headers));
        match text.and_then(|it| serde_json::from_str::<IgnoredAny>(it).ok()) {
            Some(_) => Ok(body),
            None => Err(Missing::new(Lack::NotJson, Refusal::UpstreamProtocol)),
        }
    }

    fn count(&self, route: &str, lack: Lack) {
        let count = &self.counts[lack.number()];
        count.get_or_init(|| PARTS.with_label_values(&[route, &*self.name, lack.word()])).inc();
    }
}

/// The client's fields, credentials included, for a part.
fn for_parts(fields: &HeaderMap) -> HeaderMap {
    let mut fields = fields.clone();
    NOT_FOR_PARTS.iter().for_each(|it| drop(fields.remove(it)));
    fields.insert(ACCEPT, HeaderValue::from_static("application/json"));
    fields.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    fields
}

/// The parts under their names, and what there is to say about them. Each is there as it was written: no number is
/// rounded, no name sorted.
fn merged(parts: &[Part], bodies: &[Result<Bytes, Lack>]) -> http::Response<Body> {
    let mut whole = Vec::with_capacity(bodies.iter().flatten().map(Bytes::len).sum::<usize>() + 256);
    let mut failed = serde_json::Map::new();
    whole.push(b'{');
    for (part, body) in parts.iter().zip(bodies) {
        // A name is of plain signs.
        whole.extend_from_slice(format!("\"{}\":", part.name).as_bytes());
        match body {
            Ok(body) => whole.extend_from_slice(body.trim_ascii()),
            Err(lack) => {
                whole.extend_from_slice(b"null");
                let mut said = serde_json::json!({ "reason": lack.word() });
                if let Lack::Status(status) = lack {
                    said["status"] = status.as_u16().into();
                }
                failed.insert(part.name.to_string(), said);
            }
        }
        whole.push(b',');
    }
    let partial = !failed.is_empty();
    let meta = serde_json::json!({ "partial": partial, "failed": failed });
    whole.extend_from_slice(format!("\"_meta\":{meta}}}").as_bytes());
    let mut answer = http::Response::new(Body::from(whole));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if partial {
        answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    answer
}
