//! The files an operator writes: read, checked, watched.
//!
//! Knows files, lines and columns; what a section means is the business of the room that owns it.

mod document;
mod environment;
mod faults;
mod marks;
mod structure;
mod watch;

pub use document::{Document, Environment};
pub use faults::{Fault, Faults};
pub use structure::schema_of;
pub use watch::{WatchError, Watcher};

#[cfg(test)]
mod tests;
