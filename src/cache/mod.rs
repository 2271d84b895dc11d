//! A shared HTTP cache: what may be cached, for whom, how long, and what becomes of it (RFC 9111, 5861, 9211,
//! 9213).
//!
//! Plain arithmetic over heads, and the store. It sends nothing itself: the request path looks up in it,
//! fetches what it lacks, and hands it the responses.

mod body;
mod cache_status;
mod cached_response;
mod conditional;
mod config;
mod directives;
mod fill;
mod freshness;
mod in_flight;
mod invalidations;
mod key;
mod lookup;
mod memory;
mod metrics;
mod object;
mod purges;
mod shared_tier;
mod store;
mod tag;

pub use cache_status::{CacheStatus, Forwarded, Verdict};
pub use cached_response::{CachedResponse, not_modified_of};
pub use conditional::{Condition, Part, Validators};
pub use config::{CacheConfig, CacheRoomConfig, KeyPart, Per, Room, Rules, SetCookie, impersonal_fields};
pub use fill::{Fill, Refresh};
pub use key::{CacheRequest, Target};
pub use lookup::{Change, Lookup, LookupResult};
pub use object::Object;
pub use purges::{Purge, Purged};
pub use store::{Cache, CacheUsage};
