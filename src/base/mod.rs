//! Words that every room shares: diagnostics with a place, units, deadlines, identifiers, what must not be shown.
//!
//! No I/O lives here, and no word that only one room needs.

mod address;
mod clock;
mod deadline;
mod diagnostics;
mod ids;
mod json;
mod memory;
mod network;
mod redact;
mod secret;
mod turns;
mod units;

pub use address::AddressText;
pub use clock::{ClockWatch, unix_seconds};
pub use deadline::{Deadline, coarse_now};
pub use diagnostics::{At, Diagnostic, Diagnostics, Part, nearest};
pub use ids::{RequestId, SpanId, TraceId};
pub use json::{JsonFault, unique_json};
pub use memory::give_back_memory;
pub use network::{network_of, networks};
pub use redact::{REDACTED, credentials_in, names_credential, redacted_target, without_credentials};
pub use secret::Secret;
pub use turns::{Busy, Turns};
pub use units::{ByteSize, Percent, Period, shown_millis};
