//! Why the gateway answers by itself: it said no, or something behind it broke.

use std::sync::Arc;

/// An outcome that the gateway has to answer itself. A short, closed list without any feature's
/// types; the proxy room alone knows what each looks like on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The message is not HTTP as the RFCs write it; the text says in which way.
    BadRequest(&'static str),
    /// CONNECT, or a method that the gateway does not know how to forward.
    MethodNotSupported,
    /// An extended CONNECT (RFC 8441) for another protocol than WebSocket.
    ProtocolNotSupported,
    /// The expectation in `Expect` is not `100-continue`.
    ExpectationFailed,
    /// The request brings more than one credential, or one in a way that could be read in two.
    AmbiguousCredentials(&'static str),
    /// The route requires a credential, and there is none that is valid.
    Unauthorized {
        /// The value of `WWW-Authenticate`.
        challenge: String,
        /// A word and a sentence about the credential that was sent; `None` if none was.
        why: Option<(&'static str, &'static str)>,
        /// Which credentials are looked for, and where, in words.
        accepted: Arc<str>,
    },
    /// The caller may not do this.
    Forbidden(Box<Missing>),
    /// The route is not for clients of this network.
    AddressNotAllowed,
    /// Who the caller is can't be verified now: keys or records can't be reached.
    IdentityUnavailable,
    /// A filter stopped the request for what its body says.
    ContentStopped,
    /// No route takes this host and path.
    RouteNotFound,
    /// A route takes the path, but not with this method.
    MethodNotAllowed {
        /// The value of `Allow`.
        allow: String,
    },
    /// A route takes the path, but not a change of protocols.
    UpgradeNotAllowed {
        /// What the client wants to speak.
        protocol: String,
        /// The key of a route that would let it.
        setting: &'static str,
    },
    /// A route takes the path, but offers no media type that the client accepts.
    NotAcceptable,
    /// The body is larger than the route allows.
    BodyTooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The body is not of a media type that the route takes.
    UnsupportedMediaType {
        /// Those that it takes.
        accepted: String,
    },
    /// The body is not what the route's schema requires.
    BodyInvalid {
        /// Where and why, at most twenty of them.
        faults: Vec<BodyFault>,
    },
    /// Too many bodies are being checked at the moment.
    CheckBusy,
    /// The route requires an idempotency key, and there is none that can be read.
    IdempotencyKey(&'static str),
    /// The first request with this idempotency key is still under way.
    IdempotencyRunning,
    /// The idempotency key was used with another request.
    IdempotencyMismatch,
    /// The response of the first request under this idempotency key was not stored, and it is not forwarded again.
    IdempotencyNotKept,
    /// There is no room for another request with an idempotency key; the text says in what.
    IdempotencyFull(&'static str),
    /// What gateways share can't be reached, and the request can't do without.
    StateUnavailable,
    /// A rate limit refuses it.
    RateLimited {
        /// What the limit is called; none where there is none, but the wish to try out a refusal.
        name: Option<Arc<str>>,
        /// Requests that the limit lets through in its time.
        limit: u64,
        /// Seconds until one would be let through.
        retry_after: u64,
    },
    /// The address has done too much of something and is blocked for a time.
    AddressBlocked {
        /// For so many seconds more.
        retry_after: u64,
    },
    /// The client accepts cached responses alone (`only-if-cached`), and there is none.
    NotCached,
    /// The request's target is too long.
    UriTooLong,
    /// The request's header fields are too many or too large.
    HeadersTooLarge,
    /// The client did not send its request in time.
    RequestTimeout,
    /// No endpoint of the upstream is healthy.
    NoHealthyEndpoint,
    /// The upstream failed again and again and gets no requests for now.
    BreakerOpen {
        /// Seconds until one may be sent.
        retry_after: u64,
    },
    /// An upstream that this one depends on can serve nothing.
    DependencyDown {
        /// Its name.
        dependency: Arc<str>,
    },
    /// The gateway is in maintenance.
    Maintenance {
        /// What clients are told.
        message: Arc<str>,
        /// After how many seconds they may look again.
        retry_after: u64,
    },
    /// The upstream works on as many requests as it may, and there is no room to wait in, or it was waited for too long.
    UpstreamOverloaded,
    /// No connection could be made to any endpoint that was tried.
    ConnectFailed,
    /// Connecting took too long.
    ConnectTimeout,
    /// The upstream closed or reset the connection before it answered.
    UpstreamClosed,
    /// The upstream's answer is not HTTP, or not an answer to this request.
    UpstreamProtocol,
    /// The upstream's answer is larger than a filter can look through, and nothing of it has gone out.
    ResponseTooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The upstream answered with an error, and the route gives its clients the gateway's own.
    UpstreamStatus {
        /// The upstream's, which stays.
        status: u16,
    },
    /// The upstream did not begin to answer in time.
    FirstByteTimeout,
    /// The exchange took longer in all than the route allows.
    ExchangeTimeout,
    /// The time is over that the client allowed its call (`grpc-timeout`).
    CallDeadline,
    /// Something in the gateway broke.
    Internal,
    /// A local service calls an upstream that the configuration does not have.
    UnknownUpstream,
    /// Local services call one another in a circle, or too deep.
    CallLoop,
}

/// What a refused caller would need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// What is said to people.
    pub sentence: String,
    /// One of these roles.
    pub roles: Vec<String>,
    /// All of these permissions, which are missing.
    pub permissions: Vec<String>,
    /// All of these scopes, which are missing.
    pub scopes: Vec<String>,
}

/// What is wrong with a part of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyFault {
    /// A JSON pointer (RFC 6901) into the body.
    pub pointer: String,
    /// The rule of the schema that failed.
    pub rule: String,
}

impl Missing {
    /// What is missing, in a word: the first of the things that are asked for one after the other.
    fn reason(&self) -> &'static str {
        match self {
            Self { roles, .. } if !roles.is_empty() => "missing_role",
            Self { permissions, .. } if !permissions.is_empty() => "missing_permission",
            Self { scopes, .. } if !scopes.is_empty() => "missing_scope",
            // Whatever the caller has: their browser sends it along with other people's pages.
            _ => "other_origin",
        }
    }
}

impl Refusal {
    /// Why the caller may not, in a word for programs: what a 401 or a 403 says under `details.reason`, and the access
    /// log under `reason`.
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Unauthorized { why, .. } => Some(why.map_or("missing", |(word, _)| word)),
            Self::Forbidden(missing) => Some(missing.reason()),
            _ => None,
        }
    }

    /// One of each, for the documentation and for tests.
    pub fn one_of_each() -> impl Iterator<Item = Self> {
        std::iter::successors(Some(Self::BadRequest("Host is missing")), Self::next)
    }

    /// The one behind this one in the list: a new one does not compile until it has its place.
    fn next(&self) -> Option<Self> {
        Some(match self {
            Self::BadRequest(_) => {
                Self::UpgradeNotAllowed { protocol: "websocket".to_owned(), setting: "match.websocket" }
            }
            Self::UpgradeNotAllowed { .. } => Self::BodyInvalid { faults: Vec::new() },
            Self::BodyInvalid { .. } => Self::IdempotencyKey("it is missing"),
            Self::IdempotencyKey(_) => Self::AmbiguousCredentials("there is more than one"),
            Self::AmbiguousCredentials(_) => Self::Unauthorized {
                challenge: "Bearer realm=\"moongate\"".to_owned(),
                why: Some(("expired", "the token has expired")),
                accepted: "send a token as `Authorization: Bearer ...`".into(),
            },
            Self::Unauthorized { .. } => Self::Forbidden(Box::new(Missing {
                sentence: "Insufficient permissions. Required role: operator.".to_owned(),
                roles: vec!["operator".to_owned()],
                ..Missing::default()
            })),
            Self::Forbidden(_) => Self::AddressNotAllowed,
            Self::AddressNotAllowed => Self::ContentStopped,
            Self::ContentStopped => Self::RouteNotFound,
            Self::RouteNotFound => Self::MethodNotAllowed { allow: "GET, HEAD".to_owned() },
            Self::MethodNotAllowed { .. } => Self::MethodNotSupported,
            Self::MethodNotSupported => Self::NotAcceptable,
            Self::NotAcceptable => Self::RequestTimeout,
            Self::RequestTimeout => Self::IdempotencyRunning,
            Self::IdempotencyRunning => Self::IdempotencyNotKept,
            Self::IdempotencyNotKept => Self::BodyTooLarge { limit: 262_144 },
            Self::BodyTooLarge { .. } => Self::UriTooLong,
            Self::UriTooLong => Self::UnsupportedMediaType { accepted: "application/json".to_owned() },
            Self::UnsupportedMediaType { .. } => Self::ExpectationFailed,
            Self::ExpectationFailed => Self::IdempotencyMismatch,
            Self::IdempotencyMismatch => Self::RateLimited { name: None, limit: 60, retry_after: 1 },
            Self::RateLimited { .. } => Self::AddressBlocked { retry_after: 60 },
            Self::AddressBlocked { .. } => Self::HeadersTooLarge,
            Self::HeadersTooLarge => Self::Internal,
            Self::Internal => Self::UnknownUpstream,
            Self::UnknownUpstream => Self::ProtocolNotSupported,
            Self::ProtocolNotSupported => Self::ConnectFailed,
            Self::ConnectFailed => Self::UpstreamClosed,
            Self::UpstreamClosed => Self::UpstreamProtocol,
            Self::UpstreamProtocol => Self::ResponseTooLarge { limit: 262_144 },
            Self::ResponseTooLarge { .. } => Self::UpstreamStatus { status: 502 },
            Self::UpstreamStatus { .. } => Self::NoHealthyEndpoint,
            Self::NoHealthyEndpoint => Self::BreakerOpen { retry_after: 60 },
            Self::BreakerOpen { .. } => Self::DependencyDown { dependency: "narratives".into() },
            Self::DependencyDown { .. } => {
                Self::Maintenance { message: "the service is being maintained".into(), retry_after: 60 }
            }
            Self::Maintenance { .. } => Self::UpstreamOverloaded,
            Self::UpstreamOverloaded => Self::IdentityUnavailable,
            Self::IdentityUnavailable => Self::CheckBusy,
            Self::CheckBusy => Self::IdempotencyFull("responses to requests with a key take all the room there is"),
            Self::IdempotencyFull(_) => Self::StateUnavailable,
            Self::StateUnavailable => Self::ConnectTimeout,
            Self::ConnectTimeout => Self::FirstByteTimeout,
            Self::FirstByteTimeout => Self::ExchangeTimeout,
            Self::ExchangeTimeout => Self::CallDeadline,
            Self::CallDeadline => Self::NotCached,
            Self::NotCached => Self::CallLoop,
            Self::CallLoop => return None,
        })
    }
}
