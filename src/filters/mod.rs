//! Built-in steps, a file each: what is written, its compiled form, and the decision.
//!
//! Each is a [`Filter`](crate::pipeline::Filter). In which order they run is said in one place, `table.rs`.

pub mod auth;
pub mod request_id;
pub mod trace_context;

mod basic;
mod body_rules;
mod cache;
mod compress;
mod cors;
mod custom;
mod deprecated;
mod error_pages;
mod filling;
mod forwarded;
mod grpc_web;
mod header_edits;
mod idempotency;
mod networks;
pub mod rate_limit;
mod rbac;
mod request_headers;
mod response_headers;
mod rewrite;
mod security_headers;
mod settings;
mod streams;
mod table;

use http::HeaderValue;

pub use basic::{Basic, BasicConfig};
pub use body_rules::{BodyRules, BodyRulesConfig, SchemaConfig};
pub use cors::{Cors, CorsConfig, announced_method};
pub use deprecated::{Deprecated, DeprecatedConfig};
pub use error_pages::{ErrorPages, ErrorPagesConfig, Page, PageFacts};
pub use filling::{Filling, named_host};
pub use header_edits::{HeaderEdits, HeaderEditsConfig};
pub use idempotency::{Idempotency, IdempotencyConfig, IdempotencyKey, Reservation, ReserveOutcome, StoredResponse};
pub use networks::{Networks, NetworksConfig};
pub use rate_limit::{RateLimitConfig, RateLimits};
pub use response_headers::{HeadersConfig, ResponseHeaders};
pub use rewrite::{Rewrite, RewriteConfig, keep_authority};
pub use security_headers::{Hsts, Security, SecurityConfig, SecurityHeaders};
pub use settings::{Activation, BuiltIn, Layer, OnMaintenance, PolicyConfig, StepDescription, UpstreamErrors};
pub use table::{Chain, Row, TABLE, before_the_route, behind_the_route};

/// A header value of text that was checked or made here.
fn value_of(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("only visible ASCII is put in")
}
