//! Moongate's floor plan: one module a room, in layers parted by blank lines, highest first.
//!
//! A room uses rooms of lower layers only, never a neighbour, never upward; `tests/rooms.rs` holds
//! the arrows. `docs/ARCHITECTURE.md` is the guided tour.

pub mod app;

pub mod admin;
pub mod demo;
pub mod proxy;

pub mod config;

pub mod filters;
pub mod services;

pub mod deliver;

pub mod forward;

pub mod client;

pub mod listener;
pub mod pipeline;

pub mod cache;
pub mod connections;
pub mod maintenance;

pub mod routing;
pub mod upstream;

pub mod identity;
pub mod secrets;

pub mod guard;
pub mod state;
pub mod store;

pub mod alerts;
pub mod http;
pub mod telemetry;
pub mod transport;
pub mod yaml;

pub mod base;
