//! From the written upstream to the compiled one, with every fault reported at its place.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use crate::base::{At, Diagnostics, Percent, Period};
use crate::http as codec;

use super::address::{EndpointAddress, InvalidAddress, SERVICE_NAME_RULE, is_dns_name, is_service_name};
use super::breaker::BreakerPolicy;
use super::concurrency::ConcurrencyPolicy;
use super::config::{
    Balance, DiscoveryConfig, EndpointConfig, GrpcHealth, HealthConfig, KeepAliveConfig, Protocol, ServiceConfig,
    UpstreamConfig, WeightedEndpointConfig,
};
use super::discovery::{DnsName, Source};
use super::hash_on::HashKey;
use super::hedge::HedgePolicy;
use super::outliers::OutlierPolicy;
use super::retries::RetryPolicy;
use super::sticky::StickyPolicy;
use super::tls::UpstreamTls;
use super::zones;

/// The most endpoints of one upstream; what balancing prepares grows with them.
pub(super) const ENDPOINTS_MAX: usize = 1000;
/// What an endpoint's weight can be.
pub(super) const WEIGHTS: RangeInclusive<u32> = 1..=1000;
/// The longest name of a service that is asked for by gRPC, in bytes.
const SERVICE_MAX: usize = 256;
/// Checks that follow one another faster than this are a mistake, or an attack.
const EVERY_MIN: Duration = Duration::from_millis(10);

/// A compiled upstream. Two that are equal behave alike, so a reload keeps what lives of the old.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// Its name in `upstreams:`.
    pub name: Arc<str>,
    /// Whether it is elsewhere, or inside the process.
    pub kind: UpstreamKind,
    /// The addresses that are listed; none if it is local.
    pub endpoints: Vec<EndpointSpec>,
    /// Where else its addresses come from.
    pub sources: Vec<Source>,
    /// How a request gets one of them.
    pub balance: Balance,
    /// What decides, where that goes by a key.
    pub hash_on: Option<HashKey>,
    /// What makes requests go to the endpoint of earlier ones, if anything does.
    pub sticky: Option<StickyPolicy>,
    /// The gateway's own zone, if its endpoints are preferred.
    pub own_zone: Option<Arc<str>>,
    /// How long endpoints that are new, or healthy again, get less than their share.
    pub slow_start: Option<Duration>,
    /// With so small a part of the endpoints healthy, requests go to all of them.
    pub panic: Option<f64>,
    /// How they are checked, if at all.
    pub health: Option<HealthPolicy>,
    /// When an endpoint that fails requests is left out, if at all.
    pub outliers: Option<OutlierPolicy>,
    /// When an upstream that fails gets nothing for a while, if at all.
    pub breaker: Option<BreakerPolicy>,
    /// The upstreams without which it can do nothing.
    pub depends_on: Vec<Arc<str>>,
    /// When a request is sent again.
    pub retries: RetryPolicy,
    /// When it is sent to a second endpoint without waiting for the first, if ever.
    pub hedge: Option<HedgePolicy>,
    /// How many requests at once there may be, if that has a limit.
    pub concurrency: Option<ConcurrencyPolicy>,
    /// What they speak.
    pub protocol: Protocol,
    /// With TLS, and whose.
    pub tls: Option<UpstreamTls>,
    /// Which idle connections are kept.
    pub keep_alive: KeepAlive,
}

/// Where an upstream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamKind {
    /// Elsewhere, at its endpoints' addresses.
    Remote,
    /// Inside the process.
    Local(LocalUpstream),
}

/// A local service, and what its upstream wants of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalUpstream {
    /// The service's name.
    pub service: Arc<str>,
    /// Its settings as they were written; the service compiles them.
    pub settings: Option<ServiceConfig>,
    /// The key that they stand under.
    pub written_as: &'static str,
}

/// The service that `files:` is short for.
const FILES: &str = "files";

/// One address of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSpec {
    /// Where to connect to.
    pub address: SocketAddr,
    /// Its share of the requests, in relation to the others.
    pub weight: u32,
    /// The zone that it stands in.
    pub zone: Option<Arc<str>>,
}

/// How endpoints are checked.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthPolicy {
    /// What one check does.
    pub probe: Probe,
    /// From the end of one check to the next.
    pub every: Duration,
    /// How long a check may take.
    pub timeout: Duration,
    /// Failures in a row until an endpoint is unhealthy.
    pub fail_after: u32,
    /// Passes in a row until it is healthy again.
    pub pass_after: u32,
    /// How far `every` varies, from 0 to 1.
    pub jitter: f64,
}

/// What one check does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Asks for a path, and looks at the status.
    Http {
        /// The path, with its query.
        path: String,
        /// The name to ask for, if not the endpoints' own.
        host: Option<String>,
        /// The statuses that pass.
        expect: Vec<u16>,
    },
    /// Opens a connection.
    Tcp,
    /// Asks by gRPC's health protocol.
    Grpc {
        /// For this service; empty for the server as a whole.
        service: String,
        /// The name to ask for, if not the endpoints' own.
        host: Option<String>,
    },
}

/// Which idle connections are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// For how long.
    pub idle: Duration,
}

impl Upstream {
    /// Reports every fault of the section at `at`; `None` if there is any. `zone` is the gateway's own, empty if it has
    /// none, nothing if that is not known.
    pub fn compile(
        name: &str,
        config: &UpstreamConfig,
        zone: Option<&str>,
        at: &At<'_>,
        diagnostics: &mut Diagnostics,
    ) -> Option<Self> {
        let known = diagnostics.iter().count();
        let kind = kind(config, at, diagnostics);
        let Listed { endpoints, names } = match &config.discovery {
            Some(discovery) => listed(&discovery.fixed, &at.key("discovery").key("static"), diagnostics),
            None => Listed::default(),
        };
        let mut sources: Vec<Source> = names.into_iter().map(Source::Dns).collect();
        if let Some(discovery) = &config.discovery {
            sources.extend(self::sources(name, discovery, &at.key("discovery"), diagnostics));
            if endpoints.is_empty() && sources.is_empty() && diagnostics.iter().count() == known {
                diagnostics
                    .error(&at.key("discovery"), "there is no endpoint")
                    .help("list at least one address under `static`, such as \"127.0.0.1:9101\", or name a source: `dns`, `srv`, `file`, `registry`");
            }
        }
        let hash_on = HashKey::compile(config, at, diagnostics);
        let sticky = config.sticky.as_ref().and_then(|it| StickyPolicy::compile(it, &at.key("sticky"), diagnostics));
        let own_zone = zones::preferred(config.zones.as_ref(), zone, &at.key("zones"), diagnostics);
        let slow_start = slow_start(config, at, diagnostics);
        let panic = panic_threshold(config, at, diagnostics);
        let health = config.health.as_ref().and_then(|it| health(it, &at.key("health"), diagnostics));
        if let Some(Probe::Grpc { .. }) = health.as_ref().map(|it| &it.probe)
            && config.protocol != Protocol::Http2
        {
            diagnostics
                .error(&at.key("health").key("grpc"), "a `grpc` check needs HTTP/2, and the endpoints speak HTTP/1.1")
                .help("add `protocol: http2` to the upstream");
        }
        let outliers = config.outliers.as_ref().map(|it| OutlierPolicy::compile(it, &at.key("outliers"), diagnostics));
        let breaker = config.breaker.as_ref().map(|it| BreakerPolicy::compile(it, &at.key("breaker"), diagnostics));
        let retries = RetryPolicy::compile(&config.retries, &at.key("retries"), diagnostics);
        let hedge = config.hedge.as_ref().map(|it| HedgePolicy::compile(it, &at.key("hedge"), diagnostics));
        let concurrency = config.concurrency.as_ref();
        let concurrency = concurrency.map(|it| ConcurrencyPolicy::compile(it, &at.key("concurrency"), diagnostics));
        let tls = config.tls.as_ref().and_then(|it| UpstreamTls::compile(it, &at.key("tls"), diagnostics));
        let keep_alive = keep_alive(&config.keep_alive, &at.key("keep_alive"), diagnostics);
        if diagnostics.iter().count() > known {
            return None;
        }
        Some(Self {
            name: name.into(),
            kind: kind?,
            endpoints,
            sources,
            balance: config.balance,
            hash_on,
            sticky,
            own_zone,
            slow_start,
            panic,
            health,
            outliers,
            breaker,
            depends_on: config.depends_on.iter().map(|it| it.as_str().into()).collect(),
            retries,
            hedge,
            concurrency,
            protocol: config.protocol,
            tls,
            keep_alive,
        })
    }

    /// Whether endpoints are found by the hash of a key.
    pub(super) fn goes_by_key(&self) -> bool {
        self.balance == Balance::ConsistentHash || self.sticky.as_ref().is_some_and(StickyPolicy::goes_by_key)
    }

    /// Parts connections that must not be shared although they lead to the same address. Pingora
    /// looks at neither the protocol nor the trusted authorities when it reuses one.
    pub(super) fn connection_group(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.name.hash(&mut hasher);
        self.protocol.hash(&mut hasher);
        self.tls.as_ref().map(UpstreamTls::fingerprint).hash(&mut hasher);
        hasher.finish()
    }
}

fn slow_start(config: &UpstreamConfig, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Duration> {
    let Period(length) = config.slow_start?;
    if length.is_zero() {
        diagnostics.error(&at.key("slow_start"), "must be longer than nothing").help("30s is a good beginning");
    }
    Some(length)
}

fn panic_threshold(config: &UpstreamConfig, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<f64> {
    let Percent(threshold) = config.panic?;
    if config.health.is_none() {
        diagnostics
            .error_at_key(&at.key("panic"), "without checks, all endpoints count as healthy")
            .help("add `health: { http: /health }`, or remove this");
    }
    Some(threshold)
}

fn kind(config: &UpstreamConfig, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<UpstreamKind> {
    let ways = [
        ("discovery", config.discovery.is_some()),
        ("local", config.local.is_some()),
        ("files", config.files.is_some()),
    ];
    let mut written = ways.iter().filter(|it| it.1).map(|it| it.0);
    let (first, second) = (written.next(), written.next());
    if let (Some(first), Some(second)) = (first, second) {
        let diagnostic =
            diagnostics.error_at_key(&at.key(second), "an upstream is either local or discovered, not both");
        diagnostic.help(format!("remove `{second}` or `{first}`"));
        return None;
    }
    if config.local.is_some() || config.files.is_some() {
        let alien = [
            ("health", config.health.is_some()),
            ("tls", config.tls.is_some()),
            ("outliers", config.outliers.is_some()),
            ("breaker", config.breaker.is_some()),
            ("sticky", config.sticky.is_some()),
            ("zones", config.zones.is_some()),
            ("slow_start", config.slow_start.is_some()),
            ("panic", config.panic.is_some()),
            ("depends_on", !config.depends_on.is_empty()),
            ("hedge", config.hedge.is_some()),
            ("concurrency", config.concurrency.is_some()),
        ];
        for (key, _) in alien.iter().filter(|(_, written)| *written) {
            let help = match *key {
                "depends_on" => {
                    "it has no endpoints whose health could follow others'; write it at the upstreams that it calls"
                }
                _ => "it is called inside the process; remove this",
            };
            diagnostics.error_at_key(&at.key(key), format!("a local service has no `{key}`")).help(help);
        }
    }
    if let Some(local) = &config.local {
        if local.is_empty() {
            diagnostics.error(&at.key("local"), "the name of a local service is missing");
        }
        let settings = config.settings.clone();
        return Some(UpstreamKind::Local(LocalUpstream {
            service: local.as_str().into(),
            settings,
            written_as: "settings",
        }));
    }
    if config.settings.is_some() {
        diagnostics
            .error_at_key(&at.key("settings"), "only a local service has settings")
            .help("name the service with `local`, or remove this");
    }
    if config.files.is_some() {
        let settings = config.files.clone();
        return Some(UpstreamKind::Local(LocalUpstream { service: FILES.into(), settings, written_as: FILES }));
    }
    if first.is_none() {
        diagnostics
            .error(at, "the upstream leads nowhere")
            .help("add `discovery: { static: [\"127.0.0.1:9101\"] }`, or `local:` with the name of a local service");
        return None;
    }
    Some(UpstreamKind::Remote)
}

/// What a list of endpoints says: addresses, and names to look up.
#[derive(Default)]
pub(super) struct Listed {
    pub(super) endpoints: Vec<EndpointSpec>,
    pub(super) names: Vec<DnsName>,
}

/// Reads a list of endpoints, as it stands under `static` or in a file.
pub(super) fn listed(list: &[EndpointConfig], at: &At<'_>, diagnostics: &mut Diagnostics) -> Listed {
    if list.len() > ENDPOINTS_MAX {
        diagnostics
            .error(at, format!("{} endpoints are too many", list.len()))
            .help(format!("an upstream has at most {ENDPOINTS_MAX}"));
    }
    let mut known = HashSet::new();
    let mut listed = Listed::default();
    for (index, config) in list.iter().enumerate() {
        let at = at.index(index);
        let (place, weight, zone) = match config {
            EndpointConfig::Address(text) => (place(text, &at, diagnostics), 1, None),
            EndpointConfig::Weighted(config) => weighted(config, &at, diagnostics),
        };
        let Some(place) = place else { continue };
        if !known.insert(place.clone()) {
            diagnostics
                .error(&at, format!("the address {place} is listed twice"))
                .help("give it a higher `weight` if it shall get more requests");
            continue;
        }
        match place {
            EndpointAddress::Ip(address) => listed.endpoints.push(EndpointSpec { address, weight, zone }),
            EndpointAddress::Name(name, port) => {
                listed.names.push(DnsName { name, port, weight, zone, every: None });
            }
        }
    }
    listed
}

fn weighted(
    config: &WeightedEndpointConfig,
    at: &At<'_>,
    diagnostics: &mut Diagnostics,
) -> (Option<EndpointAddress>, u32, Option<Arc<str>>) {
    if !WEIGHTS.contains(&config.weight) {
        diagnostics
            .error(&at.key("weight"), format!("the weight {} is out of range", config.weight))
            .help("a weight is from 1 to 1000; leave an endpoint out to send it nothing");
    }
    let place = place(&config.address, &at.key("address"), diagnostics);
    (place, config.weight, config.zone.as_deref().map(Into::into))
}

fn place(text: &str, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<EndpointAddress> {
    match text.parse::<EndpointAddress>() {
        Ok(place) => Some(place),
        Err(InvalidAddress::Port) => {
            diagnostics.error(at, "port 0 is no place to connect to");
            None
        }
        Err(InvalidAddress::Form) => {
            diagnostics
                .error(at, format!("`{text}` is not an address with a port"))
                .help("write it as 127.0.0.1:9101, [::1]:9101 or backend.internal:9101, without a scheme or a path");
            None
        }
    }
}

fn sources(upstream: &str, config: &DiscoveryConfig, at: &At<'_>, diagnostics: &mut Diagnostics) -> Vec<Source> {
    let mut sources = Vec::new();
    if let Some(dns) = &config.dns {
        let at = at.key("dns");
        let every = look_up_every(dns.every, &at, diagnostics);
        if dns.port == 0 {
            diagnostics.error(&at.key("port"), "port 0 is no place to connect to");
        }
        let name = dns_name(&dns.name, &at, diagnostics);
        sources.extend(name.map(|name| Source::Dns(DnsName { name, port: dns.port, weight: 1, zone: None, every })));
    }
    if let Some(srv) = &config.srv {
        let at = at.key("srv");
        let every = look_up_every(srv.every, &at, diagnostics);
        sources.extend(dns_name(&srv.name, &at, diagnostics).map(|name| Source::Srv { name, every }));
    }
    sources.extend(config.file.clone().map(Source::File));
    if let Some(registry) = &config.registry {
        let service = registry.service.as_deref().unwrap_or(upstream);
        if is_service_name(service) {
            sources.push(Source::Registry(service.into()));
        } else {
            diagnostics
                .error(&at.key("registry"), format!("`{service}` is no name that a service can register as"))
                .help(format!("{SERVICE_NAME_RULE}; name it with `registry: {{ service: NAME }}`"));
        }
    }
    sources
}

fn dns_name(name: &str, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Arc<str>> {
    if is_dns_name(name) {
        return Some(name.into());
    }
    diagnostics
        .error(&at.key("name"), format!("`{name}` is not a name in DNS"))
        .help("such as backend.internal, without a scheme, a port or a path");
    None
}

fn look_up_every(every: Option<Period>, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Duration> {
    let every = every?;
    if every.0 < Duration::from_secs(1) {
        diagnostics.error(&at.key("every"), format!("{every} is too short")).help("at least 1s");
    }
    Some(every.0)
}

fn health(config: &HealthConfig, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<HealthPolicy> {
    let probe = probe(config, at, diagnostics);
    let (every, timeout) = (config.every.0, config.timeout.0);
    if every < EVERY_MIN {
        diagnostics.error(&at.key("every"), format!("{} is too short", config.every)).help("at least 10ms");
    }
    if timeout.is_zero() {
        diagnostics.error(&at.key("timeout"), "no check can pass within no time");
    } else if timeout >= every {
        diagnostics
            .error(&at.key("timeout"), format!("{} is not shorter than `every` ({})", config.timeout, config.every))
            .help("a check must be over before the next one is due");
    }
    for (key, count) in [("fail_after", config.fail_after), ("pass_after", config.pass_after)] {
        if count == 0 {
            diagnostics.error(&at.key(key), "must be at least 1");
        }
    }
    Some(HealthPolicy {
        probe: probe?,
        every,
        timeout,
        fail_after: config.fail_after,
        pass_after: config.pass_after,
        jitter: config.jitter.0,
    })
}

fn probe(config: &HealthConfig, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Probe> {
    statuses(&config.expect, &at.key("expect"), diagnostics);
    let service = match &config.grpc {
        Some(GrpcHealth::Service(name)) => Some(name.as_str()),
        Some(GrpcHealth::Server(true)) => Some(""),
        Some(GrpcHealth::Server(false)) | None => None,
    };
    match (&config.http, config.tcp.unwrap_or(false), service) {
        (Some(path), false, None) => {
            let well_formed = path.parse::<http::uri::PathAndQuery>().is_ok() && !path.contains('#');
            if !path.starts_with('/') || !well_formed {
                diagnostics
                    .error(&at.key("http"), format!("`{path}` is not a path"))
                    .help("it starts with a slash, such as /health");
            }
            host_of(config, &at.key("host"), diagnostics);
            Some(Probe::Http { path: path.clone(), host: config.host.clone(), expect: config.expect.clone() })
        }
        (None, true, None) => {
            if config.host.is_some() {
                diagnostics
                    .error_at_key(&at.key("host"), "a `tcp` check asks for no name")
                    .help("check with `http` or `grpc`, or remove this");
            }
            Some(Probe::Tcp)
        }
        (None, false, Some(service)) => {
            if service.len() > SERVICE_MAX {
                let message = format!("a name of {} characters", service.len());
                diagnostics.error(&at.key("grpc"), message).help(format!("at most {SERVICE_MAX}"));
            }
            host_of(config, &at.key("host"), diagnostics);
            Some(Probe::Grpc { service: service.to_owned(), host: config.host.clone() })
        }
        (None, false, None) => {
            diagnostics
                .error(at, "it does not say what to check")
                .help("add `http: /health`, `grpc: true` or `tcp: true`");
            None
        }
        _ => {
            diagnostics
                .error(at, "a check is either `http`, `tcp` or `grpc`, not more than one")
                .help("`http` and `grpc` open a connection, too");
            None
        }
    }
}

/// A name that can stand in `Host` (RFC 9110, section 7.2).
fn host_of(config: &HealthConfig, at: &At<'_>, diagnostics: &mut Diagnostics) {
    let Some(host) = &config.host else { return };
    if !codec::authority_is_plain(host.as_bytes()) {
        diagnostics
            .error(at, format!("`{host}` is not a host name"))
            .help("write it as in a URL, without scheme and path, such as shop.example.org or shop.example.org:8080");
    }
}

fn statuses(expect: &[u16], at: &At<'_>, diagnostics: &mut Diagnostics) {
    if expect.is_empty() {
        diagnostics.error(at, "no status would pass").help("leave it out to expect 200");
    }
    for (index, status) in expect.iter().enumerate() {
        if !(200..=599).contains(status) {
            diagnostics.error(&at.index(index), format!("{status} is not the status of an answer")).help("200 to 599");
        }
    }
}

fn keep_alive(config: &KeepAliveConfig, at: &At<'_>, diagnostics: &mut Diagnostics) -> KeepAlive {
    if config.idle.0.is_zero() {
        diagnostics
            .error(&at.key("idle"), "a connection can not be kept for no time")
            .help("write a short period, such as 1ms, to keep them for next to none");
    }
    KeepAlive { idle: config.idle.0 }
}
