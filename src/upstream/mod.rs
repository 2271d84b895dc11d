//! Upstreams: named groups of endpoints, how a request gets one of them, and which are healthy.
//!
//! The three layers meet here: [`UpstreamConfig`] is what an operator writes, [`Upstream`] its
//! compiled form, and [`Live`] the live state under that name: health, counters, connections' keys.
//! [`UpstreamRegistry`] holds all that live and owns the one supervisor of the health checkers. How bytes
//! reach an endpoint, retries and time limits of a request are the exchange's business.
//!
//! # What is Pingora's here, and what is not
//!
//! From `pingora-load-balancing` come the checks by HTTP and TCP (`check.rs`). Its `LoadBalancer` is not used:
//!
//! - Its selections are a weighted list, a random draw, a hash and a ketama ring, over what never changes: they know neither
//!   requests in flight nor latencies, so there is no `least_request`, `peak_ewma` or bounded load on them. Its round robin
//!   sends an endpoint of weight 5 five requests in a row; ours mixes them (`balance.rs`). About the ring, see `ring.rs`.
//! - `select` looks each candidate's health up in a map, remembers those that it has seen in a set, and returns a copy of the
//!   backend. Here health is one atomic of the endpoint itself, and a pick allocates nothing.
//! - Its health is a streak of checks. Outliers, breakers of endpoints, slow start, zones and sticky sessions would
//!   stand beside it, each as a filter over candidates that it draws up to `max_iterations` of.
//! - It is made for a set of upstreams that a program knows when it starts. Here they come and go with reloads, and
//!   what an endpoint has gone through lives on by its address (`live.rs`); its discovery keeps no last good answer, no
//!   time to live and no reason why there is none (`discovery/`).
//!
//! `pingora-limits` has estimators of fixed size, which may count too much when keys collide. They are right where keys
//! are as many as attackers like, for connections and floods of addresses (rooms `listener` and `guard`), and wrong here:
//! endpoints are at most 1,000 and known, so that each has exact counters of its own, one atomic addition without a hash. An
//! estimate would eject an endpoint for another one's failures, or give retries away that the budget does not have.

mod address;
mod balance;
mod breaker;
mod changes;
mod check;
mod compile;
mod concurrency;
mod config;
mod dependencies;
mod discovery;
mod endpoint;
mod failure;
mod gradient;
mod grpc_check;
mod hash_on;
mod hedge;
mod live;
mod metrics;
mod outlier_window;
mod outliers;
mod peak;
mod ready;
mod registry;
mod report;
mod resilience;
mod retries;
mod retry_budget;
mod ring;
mod split;
mod sticky;
mod supervisor;
mod tls;
mod watch;
mod zones;

#[cfg(test)]
mod tests;

pub use address::{EndpointAddress, InvalidAddress, SERVICE_NAME_RULE, is_service_name};
pub use breaker::{BreakerConfig, BreakerPolicy, BreakerScope, BreakerState};
pub use compile::{EndpointSpec, HealthPolicy, KeepAlive, LocalUpstream, Probe, Upstream, UpstreamKind};
pub use concurrency::{
    AdaptiveWord, Admission, Concurrency, ConcurrencyConfig, ConcurrencyMax, ConcurrencyPolicy, ConcurrencyReport,
    Permit, Priority, Turn,
};
pub use config::{
    Balance, DiscoveryConfig, DnsConfig, EndpointConfig, GrpcHealth, HashOn, HealthConfig, KeepAliveConfig, Protocol,
    RegistrySourceConfig, ServiceConfig, SrvConfig, UpstreamConfig, UpstreamTlsConfig, WeightedEndpointConfig,
};
pub use dependencies::check_dependencies;
pub use discovery::{
    Discovery, DnsName, Instance, Instances, RegisterError, Registered, Registration, Resolver, ResolverConfig,
    ResolverRules, Source,
};
pub use endpoint::{Endpoint, Health, Outcome, Picked};
pub use failure::{in_words, reading_in_words};
pub use hash_on::HashKey;
pub use hedge::{HedgeAfter, HedgeBudget, HedgeConfig, HedgePolicy, Quantile};
pub use live::Live;
pub use outliers::{ErrorRateConfig, LatencyConfig, OutlierPolicy, OutliersConfig};
pub use registry::UpstreamRegistry;
pub use report::{DependencyReport, EjectionReport, EndpointReport, SourceReport, UpstreamReport, ZonesReport};
pub use retries::{RetriesConfig, RetryCause, RetryOn, RetryPolicy};
pub use split::{Split, SplitBy, SplitPart, SplitPartConfig, shares, split_key};
pub use sticky::{StickyConfig, StickyPolicy, StickySession};
pub use tls::UpstreamTls;
pub use zones::{ZonePreference, ZonesConfig};
