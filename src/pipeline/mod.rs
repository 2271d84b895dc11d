//! The contract between the request's way, its filters and the exchange: what a request is while it
//! is under way, how it may be refused, and how it can end.

mod allowance;
mod end;
mod introduction;
mod recording;
mod refusal;
mod request;
mod service;

pub use allowance::Allowance;
pub use end::EndState;
pub use introduction::{TRACEPARENT, X_REQUEST_ID, is_of_principal, is_told_by_us};
pub use recording::Recording;
pub use refusal::{BodyFault, Missing, Refusal, Step};
pub use request::{AttemptInfo, Context, Exchange, Scheme, TraceContext};
pub use service::{LocalFuture, LocalService, UpgradeSlot};
