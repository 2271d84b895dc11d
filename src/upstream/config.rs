//! The `upstreams:` section as an operator writes it. Whether it makes sense is for `compile.rs`.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::breaker::BreakerConfig;
use super::concurrency::ConcurrencyConfig;
use super::hedge::HedgeConfig;
use super::outliers::OutliersConfig;
use super::retries::RetriesConfig;
use super::sticky::StickyConfig;
use super::zones::ZonesConfig;
use crate::base::{Percent, Period, Secret};

/// One entry of `upstreams:`, a named group of endpoints or a local service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("examples" = [{ "discovery": { "static": ["127.0.0.1:9101"] } }]))]
pub struct UpstreamConfig {
    /// Where the endpoints come from.
    pub discovery: Option<DiscoveryConfig>,
    /// The local service that answers inside the process, instead of `discovery`.
    pub local: Option<String>,
    /// The settings of that service, if it has any: see below.
    pub settings: Option<ServiceConfig>,
    /// A folder whose files are served inside the process, instead of `discovery`.
    pub files: Option<ServiceConfig>,
    /// How a request gets one of the healthy endpoints.
    pub balance: Balance,
    /// What decides with `balance: consistent_hash`.
    pub hash_on: Option<HashOn>,
    /// Sends the requests of a session to the same endpoint (CP2-A).
    pub sticky: Option<StickyConfig>,
    /// Prefers endpoints in the gateway's own zone, as long as enough of them get requests.
    pub zones: Option<ZonesConfig>,
    /// An endpoint that is new, or healthy again, gets a growing share of the requests over this time, from a tenth on.
    /// What goes by a key or a session is not held back.
    pub slow_start: Option<Period>,
    /// While fewer of the endpoints are healthy, requests go to all of them: the checks are not believed. Default: never, and
    /// without a healthy endpoint requests get 503 at once.
    pub panic: Option<Percent>,
    /// How to find out whether an endpoint works; without it, every endpoint counts as healthy.
    pub health: Option<HealthConfig>,
    /// Leaves out endpoints that fail requests, whatever their checks say: `{}` for the defaults.
    pub outliers: Option<OutliersConfig>,
    /// Sends an upstream that fails again and again nothing for a while: `{}` for the defaults.
    pub breaker: Option<BreakerConfig>,
    /// Upstreams without which this one can do nothing: its health is no better than theirs. While one of them has no
    /// endpoint that gets requests, or its breaker is open, requests get 503 at once.
    #[schemars(extend("examples" = [["narratives"]]))]
    pub depends_on: Vec<String>,
    /// When a request is sent again, to another endpoint.
    pub retries: RetriesConfig,
    /// Sends a request whose answer is late to a second endpoint too.
    pub hedge: Option<HedgeConfig>,
    /// How many requests it works on at once, and who waits.
    pub concurrency: Option<ConcurrencyConfig>,
    /// The protocol that the endpoints speak.
    pub protocol: Protocol,
    /// Speak TLS to the endpoints.
    pub tls: Option<UpstreamTlsConfig>,
    /// How long idle connections to the endpoints are kept.
    pub keep_alive: KeepAliveConfig,
}

/// The settings of a local service, as they were written. What they have to look like is for the service to say; the
/// config room puts that into the schema.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct ServiceConfig(Value);

impl ServiceConfig {
    /// As they were written.
    pub fn value(&self) -> &Value {
        &self.0
    }
}

/// There may be secrets in it.
impl fmt::Debug for ServiceConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServiceConfig(..)")
    }
}

impl JsonSchema for ServiceConfig {
    fn schema_name() -> Cow<'static, str> {
        "ServiceConfig".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "expected": "a mapping" })
    }
}

/// Where the endpoints of an upstream come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DiscoveryConfig {
    /// The endpoints, listed here. A name is looked up in DNS, and all its addresses are endpoints.
    #[serde(rename = "static")]
    #[schemars(extend("examples" = [["127.0.0.1:9101"]]))]
    pub fixed: Vec<EndpointConfig>,
    /// The addresses of a name in DNS.
    pub dns: Option<DnsConfig>,
    /// The services of a name in DNS.
    pub srv: Option<SrvConfig>,
    /// A YAML or JSON file with a list in the form of `static`. It is read again every second.
    pub file: Option<PathBuf>,
    /// The instances that register by themselves: `{}`.
    pub registry: Option<RegistrySourceConfig>,
}

/// The addresses of a name in DNS (A records, or AAAA where there is none). They are looked up again when their time to
/// live is over, but at most once a second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsConfig {
    /// Such as `backend.internal`.
    pub name: String,
    /// The port of every address.
    #[schemars(range(min = 1))]
    pub port: u16,
    /// The longest time between two look-ups. Default 5m.
    #[serde(default)]
    pub every: Option<Period>,
}

/// The services of a name in DNS (SRV records, RFC 2782): the hosts of the best priority, with their ports and weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SrvConfig {
    /// Such as `_http._tcp.players.internal`.
    pub name: String,
    /// The longest time between two look-ups. Default 5m.
    #[serde(default)]
    pub every: Option<Period>,
}

/// The instances that register by themselves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RegistrySourceConfig {
    /// The service that they register as. Default: the upstream's name.
    pub service: Option<String>,
}

/// An endpoint: an address alone, or one with a weight and a zone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(extend("examples" = ["127.0.0.1:9101"]))]
pub enum EndpointConfig {
    /// An address such as `127.0.0.1:9101`, `[::1]:9101` or `backend.internal:9101`.
    Address(String),
    /// An address with a weight and a zone.
    Weighted(WeightedEndpointConfig),
}

/// An endpoint with a weight and a zone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WeightedEndpointConfig {
    /// An address such as `127.0.0.1:9101`, `[::1]:9101` or `backend.internal:9101`.
    pub address: String,
    /// Its share of the requests, in relation to the other endpoints' weights.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub weight: u32,
    /// The zone that it stands in: see `zones`.
    #[serde(default)]
    pub zone: Option<String>,
}

fn one() -> u32 {
    1
}

/// How a request gets one of the healthy endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// In turn, evenly mixed by weight.
    #[default]
    RoundRobin,
    /// At random, by weight.
    Random,
    /// The next in turn, or another one at random if that has fewer requests in flight for its weight.
    LeastRequest,
    /// Of two at random, the one that answers sooner: by its latency, of which peaks count at once and are forgotten
    /// slowly, times its requests in flight (R9.5).
    PeakEwma,
    /// The same endpoint for the same `hash_on`, unless it has a quarter more to do than its share.
    ConsistentHash,
}

/// What decides which endpoint a request gets with `consistent_hash`; one of these. A request without it gets any.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum HashOn {
    /// A field of the request.
    Header(String),
    /// A cookie.
    Cookie(String),
    /// What the route's path captures under this name.
    Path(String),
    /// The client's address: `ip: true`.
    Ip(bool),
}

/// The protocol that endpoints speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2; without `tls`, with prior knowledge.
    Http2,
}

/// How to find out whether an endpoint works: `http`, `tcp` or `grpc`, one of these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("examples" = [{ "http": "/health" }]))]
pub struct HealthConfig {
    /// Ask for this path with GET, such as `/health`.
    pub http: Option<String>,
    /// The name to ask for with `http` or `grpc`, as `Host`. Default: the name that endpoints have, which is `tls.sni`, or else the
    /// upstream's own.
    pub host: Option<String>,
    /// Open a TCP connection and close it again.
    pub tcp: Option<bool>,
    /// Ask by gRPC's health protocol (`grpc.health.v1.Health/Check`), where `SERVING` passes: `true` for the server as a
    /// whole, or the name of a service. Needs `protocol: http2`.
    pub grpc: Option<GrpcHealth>,
    /// From the end of one check to the next.
    pub every: Period,
    /// A check that takes longer has failed; shorter than `every`.
    pub timeout: Period,
    /// So many failed checks in a row make a healthy endpoint unhealthy.
    #[schemars(range(min = 1))]
    pub fail_after: u32,
    /// So many passed checks in a row make an unhealthy endpoint healthy.
    #[schemars(range(min = 1))]
    pub pass_after: u32,
    /// The statuses that pass an `http` check.
    #[schemars(extend("examples" = [[200, 204]]))]
    pub expect: Vec<u16>,
    /// How far `every` may vary, so that checks do not march in step.
    pub jitter: Percent,
}

/// What gRPC's health protocol asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(extend("examples" = [true]))]
pub enum GrpcHealth {
    /// The server as a whole: `true`.
    Server(bool),
    /// This service, such as `tta.narratives.v1.Narratives`.
    Service(String),
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            http: None,
            host: None,
            tcp: None,
            grpc: None,
            every: Period::secs(5),
            timeout: Period::secs(1),
            fail_after: 3,
            pass_after: 1,
            expect: vec![200],
            jitter: Percent(0.1),
        }
    }
}

/// TLS to the endpoints of an upstream. Certificates are always verified.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("examples" = [{ "sni": "api.example.org" }]))]
pub struct UpstreamTlsConfig {
    /// The name that the endpoints' certificate must bear.
    pub sni: String,
    /// A PEM file with the authorities to trust, instead of those of the system.
    pub ca: Option<PathBuf>,
    /// A PEM file with the certificate to show to the endpoints, and those that vouch for it.
    pub client_cert: Option<PathBuf>,
    /// A PEM file with the key of `client_cert`, or the key itself in PEM, as `"secret:NAME"`; without it, the key is
    /// looked for in the file of `client_cert`.
    pub client_key: Option<Secret>,
}

/// How long idle connections to the endpoints are kept. Each thread keeps some thousand in all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KeepAliveConfig {
    /// Close a connection that was idle for so long; keep it below the endpoint's own limit.
    pub idle: Period,
}

impl Default for KeepAliveConfig {
    fn default() -> Self {
        Self { idle: Period::secs(30) }
    }
}
