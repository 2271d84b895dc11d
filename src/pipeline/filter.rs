//! The contract for filters: what a step of the request's way is, built in or a user's own.
//!
//! A filter sees heads, the whole body if it needs it, and the [`Exchange`]; never a session. It has no clock,
//! no socket and no memory of traffic of its own: what lives longer than a request lives elsewhere.

use std::future::{Future, ready};
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, StatusCode};
use pingora::http::{RequestHeader, ResponseHeader};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::base::{At, Diagnostics};
use crate::identity::{ClientCertificate, Roles};
use crate::pipeline::{Charges, Exchange, Filters, Refusal, Taps};
use crate::routing::{Captures, Params};

/// A step of the request's way. A route that does not name it does not have it.
///
/// Each method stands for a point on the way, and those that are not written do nothing.
pub trait Filter: Sized + Send + Sync + 'static {
    /// The key of its block in `routes.yaml`, and its word in `moongate explain`.
    const NAME: &'static str;
    /// What it is for, in one sentence.
    const SUMMARY: &'static str;
    /// Whether requests pass it unchanged and unseen: such a filter is listed behind the others.
    const RESPONSES_ONLY: bool = false;

    /// Its block as an operator writes it. Doc comments become the reference, `deny_unknown_fields` makes a typo an
    /// error with a line and a column.
    type Config: DeserializeOwned + Serialize + JsonSchema;

    /// Parses everything that can be parsed before there is a request, and reports every fault at its place; `None`
    /// if there is nothing to do on this route.
    fn compile(config: &Self::Config, scope: &Scope<'_>, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Self>;

    /// The request's head is there.
    fn on_request(&self, context: &mut RequestContext<'_>) -> impl Future<Output = Step> + Send {
        let _ = context;
        ready(Ok(()))
    }

    /// Whether a request of this method goes on only when its body is there as a whole, and was looked at.
    fn needs_body(&self, method: &Method) -> bool {
        let _ = method;
        false
    }

    /// The request's body, for those that need it; it can't be changed.
    fn on_body(
        &self,
        exchange: &mut Exchange,
        request: &RequestHeader,
        body: &Bytes,
    ) -> impl Future<Output = Step> + Send {
        let _ = (exchange, request, body);
        ready(Ok(()))
    }

    /// The response's head, on its way to the client: the upstream's, a cached one, and those of the gateway itself,
    /// refusals included. Its request need not have come as far as this filter.
    fn on_response(&self, exchange: &mut Exchange, response: &mut ResponseHeader) {
        let _ = (exchange, response);
    }

    /// Whether it may hand out taps for what clients send on this route: called once, when the route is compiled.
    fn taps_requests(&self) -> bool {
        false
    }

    /// Likewise, for what upstreams send.
    fn taps_responses(&self) -> bool {
        false
    }

    /// Adds its taps for what the client sends: a body, or the messages of a WebSocket. The request is what the
    /// upstream is to see, and has a body or is a handshake.
    fn tap_request(&self, exchange: &Exchange, request: &RequestHeader, taps: &mut Taps) {
        let _ = (exchange, request, taps);
    }

    /// Adds its taps for what the upstream sends: a body, events, or the messages of a WebSocket. The head is the
    /// upstream's, or one that is stored; what the gateway says by itself meets no tap.
    fn tap_response(&self, exchange: &Exchange, response: &ResponseHeader, taps: &mut Taps) {
        let _ = (exchange, response, taps);
    }
}

/// What a filter decides: go on, or end the way here. `?` stops the walk.
pub type Step = Result<(), Stop>;

/// The way ends, and the client gets an answer.
#[derive(Debug)]
pub enum Stop {
    /// The gateway says no, in the shape of all its errors.
    Refused(Refusal),
    /// The filter's own response.
    Answered(Box<ResponseHeader>, Bytes),
}

impl Stop {
    /// A response of plain text.
    pub fn with_text(status: StatusCode, text: impl Into<Bytes>) -> Self {
        let head = ResponseHeader::build_no_case(status, Some(16)).expect("a status code is one");
        let mut head = Box::new(head);
        let _ = head.insert_header(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        Self::Answered(head, text.into())
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// What a filter has of a request.
pub struct RequestContext<'r> {
    /// What is known about the request; what a filter learns goes there.
    pub exchange: &'r mut Exchange,
    /// Its head.
    pub request: &'r mut RequestHeader,
    /// What the route's path captures.
    pub params: &'r Params,
    /// Whether a body follows.
    pub has_body: bool,
    /// Whether the peer is a proxy whose word counts.
    pub peer_trusted: bool,
    /// The client's certificate, if it showed one that holds.
    pub certificate: Option<Arc<ClientCertificate>>,
    /// What limits have counted so far.
    pub charges: Charges,
}

impl<'r> RequestContext<'r> {
    /// Of a request of which nothing but its head is known.
    pub fn new(exchange: &'r mut Exchange, request: &'r mut RequestHeader, params: &'r Params) -> Self {
        Self {
            exchange,
            request,
            params,
            has_body: false,
            peer_trusted: false,
            certificate: None,
            charges: Charges::new(),
        }
    }
}

/// Where a block counts, and what it may refer to.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    /// The route; empty where settings stand that no route has taken over yet.
    pub route: &'a str,
    /// What the route's path captures.
    pub captures: &'a [String],
    /// What the route's hosts capture.
    pub host_captures: &'a [String],
    /// The methods that the route takes; none: any.
    pub methods: &'a [String],
    /// Whether the route takes WebSocket handshakes.
    pub websocket: bool,
    /// Whether its requests go to an upstream.
    pub forwards: bool,
    /// Whether it is there for those who watch over the gateway, whom nothing limits.
    pub watches: bool,
    /// What roles permit.
    pub roles: &'a Roles,
    /// The names in `tokens.trust` of `gateway.yaml`, if they are known.
    pub issuers: Option<&'a [String]>,
    /// Whether the gateway has a key for tokens of its own, if that is known.
    pub own_key: Option<bool>,
    /// The filters that were added to the built-in ones.
    pub filters: &'a Filters,
}

impl Scope<'_> {
    /// What can be filled in of the path and the host; before there is a route, anything.
    pub fn all_captures(&self) -> Captures<'_> {
        Captures { path: self.captures, host: self.host_captures, any: self.route.is_empty() }
    }
}

static ROLES: LazyLock<Roles> = LazyLock::new(Roles::default);
static NONE: Filters = Filters::none();

impl Scope<'static> {
    /// No route in particular, and nothing to refer to.
    pub fn nowhere() -> Self {
        Self {
            route: "",
            captures: &[],
            host_captures: &[],
            methods: &[],
            websocket: false,
            forwards: true,
            watches: false,
            roles: &ROLES,
            issuers: None,
            own_key: None,
            filters: &NONE,
        }
    }
}
