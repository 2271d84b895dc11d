//! Upstreams: named groups of endpoints, how a request gets one of them, and which are healthy.
//!
//! The three layers meet here: [`UpstreamConfig`] is what an operator writes, [`Upstream`] its
//! compiled form, and [`Live`] the live state under that name: health, counters, connections' keys.
//! [`UpstreamRegistry`] holds all that live and owns the one supervisor of the health checkers. How bytes
//! reach an endpoint, retries and time limits of a request are the exchange's business.

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
mod registry;
mod report;
mod resilience;
mod retries;
mod retry_budget;
mod ring;
mod sticky;
mod supervisor;
mod tls;
mod watch;

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
pub use report::{DependencyReport, EjectionReport, EndpointReport, SourceReport, UpstreamReport};
pub use retries::{RetriesConfig, RetryCause, RetryOn, RetryPolicy};
pub use sticky::{StickyConfig, StickyPolicy, StickySession};
pub use tls::UpstreamTls;
