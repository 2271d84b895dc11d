//! One YAML file, read with the place of every value: variables and secrets filled in, checked against the JSON Schema
//! of a type, all faults at once.
//!
//! Knows nothing of gateways, but for what others call things: which files there are, and what stands in them, is for
//! the rooms above.

mod document;
mod editors;
mod elsewhere;
mod environment;
mod faults;
mod forms;
mod include;
mod secrets;
mod shown;
mod spans;
mod structure;
mod syntax;
mod visible;

#[cfg(test)]
mod tests;

pub use document::Document;
pub use editors::schema_for_editors;
pub use environment::Environment;
pub use faults::{Fault, Faults, Severity};
pub use secrets::{MARK, Secrets, without_secrets};
pub use structure::{schema_by, schema_of};
