//! What is left to a client.

use std::sync::Arc;

use http::HeaderValue;

/// What the tightest rate limit of a request has left, as the answer tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct Allowance {
    /// The limit's name.
    pub name: Arc<str>,
    /// Requests that it lets through in its time.
    pub limit: u64,
    /// Requests that it would let through right now.
    pub remaining: u64,
    /// Seconds until all of them would be let through again.
    pub reset: u64,
    /// All limits of the route, in the words of `RateLimit-Policy`.
    pub policies: HeaderValue,
}
