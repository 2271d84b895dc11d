//! The one way to an upstream: attempts, until there is the head of an answer.
//!
//! [`Forwarder::forward`] is the only loop that chooses endpoints and tries again, for clients' requests and for those
//! that no client waits for alike (what a cache fetches, what is done once, what a local service calls). It returns an
//! [`UpstreamResponse`] of which nothing has gone out yet. The upload travels inside: the owner of the response moves
//! it on, so that both directions stay in one task.
//!
//! The stock upstream half of pingora-proxy is not used; docs/ARCHITECTURE.md says why.

mod attempts;
mod call_deadline;
mod classify;
mod hold;
mod http1;
mod http2;
mod local;
mod mirror;
mod policy;
mod pool;
mod request_head;
mod response;
mod upload;
mod upstreams;
mod worker;

pub use attempts::{Destination, ForwardError, Forwarder, RequestBody, progressed};
pub use call_deadline::call_deadline;
pub use classify::classify;
pub use hold::{hold_body, show_whole, unless_gone};
pub use mirror::{BodyCopy, Mirror, MirrorConfig, MirrorRuntime, mirrors_under_way};
pub use policy::{Pace, Policy, TimeoutsConfig};
pub use response::{Collected, Frame, Upgraded, UpstreamBody, UpstreamError, UpstreamResponse};
pub use upload::UploadError;
pub use upstreams::Destinations;
pub use worker::Worker;
