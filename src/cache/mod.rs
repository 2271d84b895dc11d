//! A shared HTTP cache: what may be kept, for whom, how long, and what becomes of it (RFC 9111, 5861, 9211,
//! 9213).
//!
//! Plain arithmetic over heads, and the store. It sends nothing and answers nobody: the request's way asks it,
//! fetches what it lacks, and tells it what came back.

mod body;
mod conditional;
mod config;
mod credentials;
mod directives;
mod flights;
mod freshness;
mod give;
mod key;
mod lead;
mod marks;
mod memory;
mod metrics;
mod news;
mod object;
mod second;
mod store;
mod tag;
mod told;
mod visit;

pub use conditional::{Condition, Part, Validators};
pub use config::{CacheConfig, CacheRoomConfig, KeyPart, Per, Room, Rules, SetCookie};
pub use give::{Given, not_modified_of};
pub use key::{Asked, Target};
pub use lead::{Lead, Refresh};
pub use news::{Purge, Purged};
pub use object::Object;
pub use store::{Cache, Fill};
pub use told::{Forwarded, Told, Verdict};
pub use visit::{Change, Visit, Visited};
