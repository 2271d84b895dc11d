//! What was tried by hand against the gateway, kept: attackers of every kind against the real binary.
//!
//! Bounds on memory and time are counted in work done, never in seconds: a busy machine must not
//! look like an attack. `docs/SECURITY.md` says what is promised; a module here shows each promise.

// See tests/gateway/main.rs.
#![allow(unreachable_pub, dead_code, unused_imports)]
#![allow(clippy::unwrap_used)]

#[path = "../gateway/support/mod.rs"]
mod support;

mod claims;
mod paths;
mod same;
mod secrets;
mod sites;
mod stalled;
mod websockets;
mod worn;
