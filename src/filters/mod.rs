//! Built-in steps, a file each: what is written, its compiled form, and the decision.
//!
//! Filters see heads and the [`Exchange`](crate::pipeline::Exchange), never a session. In which order
//! they run is said in one place, `proxy/way.rs`.

pub mod auth;
pub mod request_id;
pub mod trace_context;

mod body_rules;
mod cors;
mod header_edits;
mod idempotency;
pub mod rate_limit;
mod rbac;
mod rewrite;
mod security_headers;

use std::sync::Arc;

use http::HeaderValue;

use crate::cache::Rules;

pub use body_rules::{BodyRules, SchemaConfig};
pub use cors::{Cors, CorsConfig, announced_method};
pub use header_edits::{HeaderEdits, HeaderEditsConfig};
pub use idempotency::{Begun, Deed, Idempotency, IdempotencyConfig, Kept, Mark};
pub use rate_limit::{RateLimitConfig, RateLimits};
pub use rbac::Rbac;
pub use rewrite::Rewrite;
pub use security_headers::Security;

/// What a route's requests and answers pass, beside what all of them do.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    /// Which pages of other origins may call.
    pub cors: Option<Cors>,
    /// Who may call.
    pub auth: Option<auth::Auth>,
    /// What callers need to be permitted.
    pub rbac: Option<Rbac>,
    /// How many requests may come.
    pub rate_limits: Option<RateLimits>,
    /// What the request's body must be.
    pub body: BodyRules,
    /// Deeds that are done once.
    pub idempotency: Option<Idempotency>,
    /// Which answers are kept and given again.
    pub cache: Option<Arc<Rules>>,
    /// Path and host of the request.
    pub rewrite: Rewrite,
    /// Header fields of the request.
    pub request_headers: HeaderEdits,
    /// Header fields of the answer.
    pub response_headers: HeaderEdits,
    /// The fields that tell browsers to be careful.
    pub security: Security,
}

/// A header value of text that was checked or made here.
fn value_of(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("only visible ASCII is put in")
}
