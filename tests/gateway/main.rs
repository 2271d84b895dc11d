//! The gateway from outside: the real binary, real sockets, a module a topic.
//!
//! One test binary for all of them, because each would link the whole house again.

// A test crate is all inside: nobody could import what is not `pub`, and not every topic needs
// every helper.
#![allow(unreachable_pub, dead_code, unused_imports)]
// Here a panic is the report.
#![allow(clippy::unwrap_used)]

mod answers;
mod commands;
mod routes;
mod support;
mod tour;
