//! What is known about one request while it is under way.

use std::net::{IpAddr, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;

use crate::base::{RequestId, SpanId, TraceId};
use crate::http::{Coding, claimed, unverified_credentials};
use crate::identity::{Caller, Fields, Principal};
use crate::pipeline::{EndState, PathBack, RateLimitStatus, Recording, Refusal, Taps, Upstreams};
use crate::routing::Params;
use crate::upstream::StickySession;

/// The caller, and how the request came: all that is known of a request wherever it goes on, also when its client has
/// left or there never was one.
#[derive(Clone, Debug)]
pub struct Context {
    /// Names the request in every log line, answer and upstream call.
    pub request_id: RequestId,
    /// Where the request stands in its distributed trace.
    pub trace: TraceContext,
    /// The client's address, as far as trusted proxies report it.
    pub client_ip: IpAddr,
    /// How the client came: to us, or to the trusted proxy that says so.
    pub scheme: Scheme,
    /// What trusted proxies say beside address, scheme and host.
    pub proxied: Option<Arc<Proxied>>,
    /// The route lists the host that the request names: it is one of ours, and not just what somebody says.
    pub host_verified: bool,
    /// Who the request acts for; `None` until credentials have proved it.
    pub principal: Option<Arc<Principal>>,
    /// The route that took it; `None` until one has.
    pub route: Option<Arc<str>>,
    /// When the request's head was complete; what bounds it in all counts from here.
    pub started: Instant,
    /// The host as the client named it, kept only when the route rewrites it.
    pub host_received: Option<HeaderValue>,
    /// The identity headers for upstreams.
    pub identity_headers: Option<Arc<Fields>>,
    /// The forwarded headers stand among the request's fields already, and a step may have changed it there.
    pub forwarded_headers_set: bool,
    /// When the client gives the call up (`grpc-timeout`), as far as the route allows it to wait.
    pub deadline: Option<Instant>,
    /// What its endpoint goes by, where the upstream balances by a key.
    pub balance_key: Option<u64>,
    /// The session that it belongs to, where the upstream's are sticky.
    pub sticky: Option<StickySession>,
    /// What the parts of an aggregated answer are asked for, and what became of them; there on such routes alone.
    pub parts: Option<Arc<Parts>>,
    /// It is a copy for another upstream, and marked as one.
    pub mirrored: bool,
    /// How many local services have handed the request on to another upstream.
    pub depth: u8,
    /// What a local service can call; there for services alone.
    pub upstreams: Option<Arc<dyn Upstreams>>,
}

/// One request and what became of it. Survives an upgrade and then stands for the connection.
/// Filters write what they learn into typed fields.
#[derive(Debug)]
pub struct Exchange {
    /// The caller, and how the request came.
    pub context: Context,
    /// The page that calls, where the route says which may.
    pub origin: Option<Origin>,
    /// What is left of the tightest rate limit that counted it.
    pub rate_limit_status: Option<RateLimitStatus>,
    /// The field whose credential proved the principal; `None` if it stood in none.
    pub verified_field: Option<HeaderName>,
    /// Fields that claim who is asking, or that the request means another one, and that upstreams get: those of trusted
    /// proxies, and those that the operator lets everybody send.
    pub claims: Vec<HeaderName>,
    /// Fields that the route sets or removes, in the request and in the answer: no trailer may take their place.
    pub edited: Edited,
    /// What was matched, kept only where the answer has to say something of it.
    pub matched_target: Option<Box<MatchedTarget>>,
    /// The target as it was received, kept only when the route rewrites it.
    pub target_received: Option<http::Uri>,
    /// In which coding its client would have the answer, of those that the route offers.
    pub accepted_coding: Option<Coding>,
    /// What becomes of the answer's coding.
    pub answer_coding: AnswerCoding,
    /// How what the upstream says of its own paths becomes what the client can use, where the path was rewritten.
    pub path_back: Option<Box<PathBack>>,
    /// The request's whole body, where a step had to see it before it went anywhere.
    pub body: Option<Bytes>,
    /// Takes the answer down, where a step wants to keep it.
    pub recording: Option<Box<Recording>>,
    /// Those who see what its client sends, where that goes on as it comes.
    pub request_taps: Option<Box<Taps>>,
    /// Its client has asked to be told, in a message, when the process begins to stop (US-013).
    pub wants_shutdown_message: bool,
    /// What became of the attempts to have it answered.
    pub attempt: AttemptInfo,
    /// Bytes of the answer's body as the upstream sent them.
    pub body_received: u64,
    /// Whether the answer is a stream: server-sent events, or an upgraded connection.
    pub streaming: bool,
    /// Why the gateway answered by itself, if it did.
    pub refusal: Option<Refusal>,
    /// How it ended; unset while it goes on.
    pub end: Option<EndState>,
}

/// The target that a route took.
#[derive(Clone, Debug)]
pub struct MatchedTarget {
    /// The host, in its normal form.
    pub host: Option<Box<str>>,
    /// The path.
    pub path: Box<str>,
    /// What it captured.
    pub params: Params,
}

/// What becomes of an answer's coding on its way out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AnswerCoding {
    /// Nothing: it goes out as it came, to whoever requests it.
    #[default]
    Unchanged,
    /// It goes out as it came, and in another coding to those who accept one.
    Negotiable,
    /// It has no body, and confirms one that its client may have in another coding.
    Validated,
    /// It goes out in this one.
    Coded(Coding),
}

/// The parts of an aggregated answer.
#[derive(Debug, Default)]
pub struct Parts {
    /// What each is asked for, in the order of the route.
    pub targets: Vec<String>,
    outcomes: Mutex<Vec<PartOutcome>>,
}

/// What became of a part.
#[derive(Clone, Debug)]
pub struct PartOutcome {
    /// Its name.
    pub name: Arc<str>,
    /// `ok`, or why it is missing, in a word.
    pub result: &'static str,
    /// How long it took.
    pub time: Duration,
}

impl Parts {
    /// Of which nothing is known yet.
    pub fn new(targets: Vec<String>) -> Self {
        Self { targets, outcomes: Mutex::default() }
    }

    /// A part is there, or is known to be missing.
    pub fn note(&self, outcome: PartOutcome) {
        self.outcomes.lock().push(outcome);
    }

    /// What is known by now.
    pub fn outcomes(&self) -> Vec<PartOutcome> {
        self.outcomes.lock().clone()
    }
}

/// Fields that a route's edits have the last word about.
#[derive(Clone, Debug, Default)]
pub struct Edited {
    /// Of requests.
    pub request: Option<Arc<[HeaderName]>>,
    /// Of answers.
    pub response: Option<Arc<[HeaderName]>>,
}

/// The page that calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// As the browser names it.
    pub value: HeaderValue,
    /// Whether it may call.
    pub allowed: bool,
    /// Whether this is its preflight, which the gateway answers by itself.
    pub preflight: bool,
}

impl Deref for Exchange {
    type Target = Context;

    fn deref(&self) -> &Context {
        &self.context
    }
}

impl DerefMut for Exchange {
    fn deref_mut(&mut self) -> &mut Context {
        &mut self.context
    }
}

/// What became of the attempts to have a request answered: for the log.
#[derive(Clone, Debug, Default)]
pub struct AttemptInfo {
    /// The name of the upstream or local service that was chosen.
    pub upstream: Option<Arc<str>>,
    /// The endpoint that answered, or was tried last.
    pub endpoint: Option<SocketAddr>,
    /// How many endpoints were tried.
    pub attempts: u8,
    /// Whether the upstream connection had served before.
    pub reused: bool,
    /// Why no connection could be made, in plain words; of the last attempt that came to none.
    pub cause: Option<Arc<str>>,
    /// The endpoint that `cause` is about.
    pub failed_endpoint: Option<SocketAddr>,
    /// The cookie that keeps its session where it is, for the client.
    pub sticky_cookie: Option<HeaderValue>,
    /// How long it waited for an upstream that was at its limit; `None` if it did not.
    pub queued: Option<Duration>,
    /// From the request's start until the upstream connection was there.
    pub connected: Option<Duration>,
    /// From the request's start until the answer's head had arrived.
    pub first_byte: Option<Duration>,
}

/// What trusted proxies say of the client's way to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxied {
    /// The port that the client came to, where its host names none.
    pub port: Option<HeaderValue>,
    /// The beginning of the path that they took away, without a slash behind it: `/app`.
    pub prefix: Option<HeaderValue>,
}

/// How the client came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// As in a URI.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that goes without saying.
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// The place of a request in its trace (W3C Trace Context, level 2).
#[derive(Clone, Copy, Debug)]
pub struct TraceContext {
    /// The trace, continued from the client's or begun here.
    pub trace_id: TraceId,
    /// Our own span; upstreams see it as their parent.
    pub span_id: SpanId,
    /// The client's span, if it sent one.
    pub parent: Option<SpanId>,
    /// `trace-flags`: [`SAMPLED`](Self::SAMPLED) and [`RANDOM`](Self::RANDOM); others have no meaning yet.
    pub flags: u8,
}

impl Context {
    /// Of a request that begins now.
    pub fn new(client_ip: IpAddr, scheme: Scheme) -> Self {
        Self {
            request_id: RequestId::random(),
            trace: TraceContext::begin(),
            client_ip,
            scheme,
            proxied: None,
            host_verified: false,
            principal: None,
            route: None,
            started: Instant::now(),
            host_received: None,
            identity_headers: None,
            forwarded_headers_set: false,
            deadline: None,
            balance_key: None,
            sticky: None,
            parts: None,
            mirrored: false,
            depth: 0,
            upstreams: None,
        }
    }
}

impl Exchange {
    /// A request that has just been read.
    pub fn new(client_ip: IpAddr, scheme: Scheme) -> Self {
        Self {
            context: Context::new(client_ip, scheme),
            origin: None,
            rate_limit_status: None,
            verified_field: None,
            claims: Vec::new(),
            edited: Edited::default(),
            matched_target: None,
            target_received: None,
            accepted_coding: None,
            answer_coding: AnswerCoding::default(),
            path_back: None,
            body: None,
            recording: None,
            request_taps: None,
            wants_shutdown_message: false,
            attempt: AttemptInfo::default(),
            body_received: 0,
            streaming: false,
            refusal: None,
            end: None,
        }
    }

    /// Who asks with these fields, of which `impersonal` are no credentials whatever they are called.
    pub fn caller(&self, headers: &HeaderMap, impersonal: &[HeaderName]) -> Caller<'_> {
        let unverified = unverified_credentials(headers, self.verified_field.as_ref(), impersonal);
        Caller { principal: self.context.principal.as_deref(), unverified }
    }

    /// A digest of the claims among these fields that are no credentials, which [`caller`](Self::caller) has: what they
    /// differ in makes two requests of one. `None` if there are none.
    pub fn claimed(&self, headers: &HeaderMap, impersonal: &[HeaderName]) -> Option<[u8; 32]> {
        claimed(headers, &self.claims, impersonal)
    }
}

impl TraceContext {
    /// Whoever calls may have recorded the trace (level 2, section 2.2.3.1).
    pub const SAMPLED: u8 = 1;
    /// The last 7 bytes of the trace's id are random (level 2, section 2.2.3.2).
    pub const RANDOM: u8 = 2;

    /// A trace that begins here. It is marked as sampled: what is not wanted can be dropped later.
    pub fn begin() -> Self {
        let flags = Self::SAMPLED | Self::RANDOM;
        Self { trace_id: TraceId::random(), span_id: SpanId::random(), parent: None, flags }
    }

    /// Continues the trace of a `traceparent` field; `None` if it does not keep to the standard, in
    /// which case a new trace begins (section 4.3).
    pub fn continued(traceparent: &[u8]) -> Option<Self> {
        // 00-<32 hex>-<16 hex>-<2 hex>; a later version may have more behind another dash.
        let (head, rest) = traceparent.split_at_checked(55)?;
        let version = hex_byte(&head[..2])?;
        let dashes = [2, 35, 52].iter().all(|at| head[*at] == b'-');
        let tail = if version == 0 { rest.is_empty() } else { rest.first().is_none_or(|it| *it == b'-') };
        if version == 0xff || !dashes || !tail {
            return None;
        }
        Some(Self {
            trace_id: TraceId::parse(&head[3..35])?,
            span_id: SpanId::random(),
            parent: Some(SpanId::parse(&head[36..52])?),
            flags: hex_byte(&head[53..55])?,
        })
    }

    /// The field that upstreams get: the same trace, our span as the parent.
    pub fn traceparent(&self) -> [u8; 55] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut field = *b"00-00000000000000000000000000000000-0000000000000000-00";
        field[3..35].copy_from_slice(self.trace_id.as_bytes());
        field[36..52].copy_from_slice(self.span_id.as_bytes());
        // Flags without a meaning go no further (section 2.2.3.3).
        field[54] = DIGITS[usize::from(self.flags & (Self::SAMPLED | Self::RANDOM))];
        field
    }
}

fn hex_byte(text: &[u8]) -> Option<u8> {
    let digit = |it: u8| match it {
        b'0'..=b'9' => Some(it - b'0'),
        b'a'..=b'f' => Some(it - b'a' + 10),
        _ => None,
    };
    Some(digit(text[0])? << 4 | digit(text[1])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_trace_is_continued_with_a_span_of_our_own() {
        let trace = TraceContext::continued(PARENT.as_bytes()).unwrap();
        let field = String::from_utf8(trace.traceparent().to_vec()).unwrap();
        assert_eq!(&field[..36], &PARENT[..36]);
        assert_ne!(&field[36..52], &PARENT[36..52]);
        assert_eq!(&field[52..], "-01");
    }

    #[test]
    fn flags_go_on_as_far_as_they_have_a_meaning() {
        for (sent, goes_on) in [("00", "00"), ("01", "01"), ("02", "02"), ("03", "03"), ("04", "00"), ("ff", "03")] {
            let trace = TraceContext::continued(format!("{}{sent}", &PARENT[..53]).as_bytes()).unwrap();
            assert_eq!(&trace.traceparent()[53..], goes_on.as_bytes(), "{sent}");
        }
        assert_eq!(&TraceContext::begin().traceparent()[53..], b"03");
    }

    #[test]
    fn what_is_not_a_traceparent_begins_a_new_trace() {
        for wrong in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-extra",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g",
        ] {
            assert!(TraceContext::continued(wrong.as_bytes()).is_none(), "{wrong}");
        }
        let later = format!("01{}-extra", &PARENT[2..]);
        assert!(TraceContext::continued(later.as_bytes()).is_some());
    }
}
