//! The contract between the request's way, its filters and the exchange: what a request is while it
//! is under way, how it may be refused, and how it can end.

mod custom;
mod end;
mod error_body;
mod filter;
mod forwarded_headers;
mod media_types;
mod path_back;
mod rate_limit_status;
mod recording;
mod refusal;
mod request;
mod service;
mod tap;

pub use custom::{AnyFilter, Filters};
pub use end::EndState;
pub use error_body::ErrorBody;
pub use filter::{Filter, RequestContext, Scope, Step, Stop};
pub use forwarded_headers::{
    TRACEPARENT, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PORT, X_FORWARDED_PREFIX, X_FORWARDED_PROTO,
    X_MOONGATE_MIRROR, X_REQUEST_ID, is_gateway_header,
};
pub use media_types::MediaTypes;
pub use path_back::PathBack;
pub use rate_limit_status::{Charge, Charges, RateLimitStatus};
pub use recording::Recording;
pub use refusal::{BodyFault, Missing, Refusal};
pub use request::{
    AnswerCoding, AttemptInfo, Context, Exchange, MatchedTarget, Origin, PartOutcome, Parts, Proxied, Scheme,
    TraceContext,
};
pub use service::{
    CallFuture, Configurable, LocalFuture, LocalService, ServiceScope, UpgradeSlot, Upstreams, refused, take_refusal,
    whole_body,
};
pub use tap::{AtEnd, DECODERS_MAX, DecodersBusy, Kind, Shown, Tap, TapError, Taps, Unit, Verdict, event, event_data};
