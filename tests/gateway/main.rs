//! The gateway from outside: the real binary, real sockets, a module a topic.
//!
//! One test binary for all of them, because each would link the whole house again.

// A test crate is all inside: nobody could import what is not `pub`, and not every topic needs
// every helper.
#![allow(unreachable_pub, dead_code, unused_imports)]
// Here a panic is the report.
#![allow(clippy::unwrap_used)]

#[path = "../differential/mod.rs"]
mod differential;

mod accounts;
mod aggregates;
mod alerts;
mod answers;
mod auth;
mod auth_issuers;
mod auth_mtls;
mod bad_input;
mod balance;
mod body_rules;
mod cache;
mod cache_rules;
mod cache_shared;
mod callers;
mod certificates;
mod clock;
mod commands;
mod compression;
mod concurrency;
mod connect_causes;
mod cors;
mod custom_filter;
mod dependencies;
mod deprecated;
mod discovery;
mod doors;
mod endpoint_breaker;
mod error_pages;
mod event_streams;
mod exchange;
mod framing;
mod fuzz;
mod grpc_deadlines;
mod grpc_errors;
mod grpc_health;
mod grpc_web;
mod guard;
mod h2_clients;
mod heads;
mod hedging;
mod hints;
mod http2;
mod idempotency;
mod includes;
mod language;
mod limits;
mod limits_shared;
mod long_lived;
mod maintenance;
mod matrix;
mod media_types;
mod messages;
mod mirrors;
mod oidc;
mod outcomes;
mod outliers;
mod patience;
mod pingora_rules;
mod process_metrics;
mod rbac;
mod registry;
mod reload;
mod resilience;
mod routes;
mod seen;
mod services;
mod silence;
mod slow_clients;
mod splits;
mod start;
mod state;
mod statics;
mod sticky;
mod stop;
mod store;
mod streams;
mod support;
mod taps;
mod tls;
mod tokens;
mod tour;
mod upgrades;
mod upstream_faults;
mod upstreams;
mod websockets;
mod websockets_http2;
mod wrapped;
mod zones;
