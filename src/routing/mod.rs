//! Which route takes a request.
//!
//! A request's way through here: [`Target::normalise`] once, then [`Table::find`] over the very
//! bytes that will be sent upstream, then perhaps a [`Template`] over what the path captured. The
//! order in which routes are tried is written down at [`Table`]. What follows from a match
//! (filters, upstreams) and how a miss is answered is the business of the rooms above.

mod accept;
mod explain;
mod foreign;
mod pattern;
mod predicates;
mod query;
mod route;
mod table;
mod target;
mod template;
mod trie;
mod values;
mod written;

#[cfg(test)]
mod tests;

pub use explain::{Explanation, NearMiss, Verdict};
pub use foreign::known_variable;
pub use pattern::HostName;
pub use query::{join_query, value_of};
pub use table::{Outcome, Request, Table};
pub use target::{Ambiguous, Target, without_parameters};
pub use template::Template;
pub use trie::Params;
pub use values::{Captures, Value, ValueTemplate, Values};
pub use written::{MatchConfig, SchemeMatch, ValueMatch, ValueRule, WebSocketMatch};
