//! What is left to a client, and what was counted.

use std::sync::Arc;

use http::HeaderValue;
use smallvec::SmallVec;

use crate::state::CounterKey;

/// What the tightest rate limit of a request has left, as the response says it.
#[derive(Clone, Debug, PartialEq)]
pub struct RateLimitStatus {
    /// The limit's name.
    pub name: Arc<str>,
    /// Requests that it lets through in its time.
    pub limit: u64,
    /// Requests that it would let through right now.
    pub remaining: u64,
    /// Seconds until it lets one more through than now.
    pub more: u64,
    /// Seconds until all of them would be let through again.
    pub reset: u64,
    /// All limits of the route, in the words of `RateLimit-Policy`.
    pub policies: HeaderValue,
}

/// A request that a limit has counted, for as long as a later step may refuse it and give it back.
#[derive(Debug)]
pub struct Charge {
    /// Which of the route's limits it was.
    pub number: usize,
    /// What counted it.
    pub key: CounterKey,
    /// Whether gateways count it together.
    pub shared: bool,
}

/// What was counted for a request so far.
pub type Charges = SmallVec<[Charge; 4]>;
