//! One admitted request and its upstream: choose an endpoint, connect, pump both directions in one
//! task, try again what never reached an upstream, and say how it ended.
//!
//! The stock upstream half of pingora-proxy is not used; docs/ARCHITECTURE.md says why. What the
//! client gets when nothing could be answered is the proxy room's business: this room only says so.

mod call;
mod dispatch;
mod head;
mod held;
mod lean;
mod link;
mod outbox;
mod policy;
mod pool;
mod pump;
mod service;
mod websocket;
mod worker;

pub use call::{Called, call};
pub use dispatch::{Destination, exchange, respond};
pub use held::{hold_body, unless_left};
pub use policy::{Policy, TimeoutsConfig};
pub use pump::{Ended, WayOut};
pub use service::{Caller, LocalFuture, LocalService, UpgradeSlot};
pub use worker::Worker;
