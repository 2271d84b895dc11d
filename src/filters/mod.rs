//! Built-in steps, a file each: what is written, its compiled form, and the decision.
//!
//! Filters see heads and the [`Exchange`](crate::pipeline::Exchange), never a session. In which order
//! they run is said in one place, `proxy/way.rs`.

pub mod forwarded;
pub mod request_id;
pub mod trace_context;

mod cors;
mod header_edits;
mod security_headers;

use http::HeaderValue;

pub use cors::{Cors, CorsConfig};
pub use header_edits::{HeaderEdits, HeaderEditsConfig};
pub use security_headers::Security;

/// A header value of text that was checked or made here.
fn value_of(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("only visible ASCII is put in")
}
