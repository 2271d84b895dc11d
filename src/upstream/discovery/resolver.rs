//! Names to addresses, without blocking anybody: hickory, since the system's resolver tells neither lifetimes nor SRV.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolverConfig as Servers, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::base::{At, Diagnostics, Period};

/// So many names are asked for at once; others wait.
const LOOKUPS_AT_ONCE: usize = 64;
/// A look-up that has no answer by then makes room for others.
const PROMPT: Duration = Duration::from_millis(100);
/// So many look-ups may go on waiting for their answers. Each has a socket of its own.
const LATE_MAX: usize = 512;

/// How names are looked up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ResolverConfig {
    /// The servers to ask, such as `10.0.0.2` or `127.0.0.1:5353`. Default: those of `/etc/resolv.conf`.
    pub servers: Vec<String>,
    /// How long a server has to answer one question. Default 2s.
    pub timeout: Period,
}

impl Default for ResolverConfig {
    fn default() -> Self {
        Self { servers: Vec::new(), timeout: Period::secs(2) }
    }
}

/// Compiled: how names are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolverRules {
    servers: Vec<SocketAddr>,
    timeout: Duration,
}

impl ResolverRules {
    /// Reports every fault of the section at `at`.
    pub fn compile(config: &ResolverConfig, at: &At<'_>, diagnostics: &mut Diagnostics) -> Self {
        let mut servers = Vec::new();
        for (index, text) in config.servers.iter().enumerate() {
            match text.parse().or_else(|_| text.parse::<IpAddr>().map(|it| SocketAddr::new(it, 53))) {
                Ok(server) => servers.push(server),
                Err(_) => {
                    diagnostics
                        .error(&at.key("servers").index(index), format!("`{text}` is not an IP address"))
                        .help("write 10.0.0.2, or 127.0.0.1:5353 with a port");
                }
            }
        }
        if config.timeout.0.is_zero() {
            diagnostics.error(&at.key("timeout"), "no server can answer within no time").help("2s is the default");
        }
        Self { servers, timeout: config.timeout.0 }
    }
}

/// What a name stands for, and until when.
pub(super) struct Answer<T> {
    pub(super) found: Vec<T>,
    pub(super) valid: Instant,
}

/// A service of a name (RFC 2782).
pub(super) struct ServiceRecord {
    pub(super) priority: u16,
    pub(super) weight: u16,
    pub(super) port: u16,
    pub(super) host: String,
}

/// Looks names up.
pub struct Resolver {
    resolver: Result<TokioResolver, String>,
    prompt: Semaphore,
    late: Semaphore,
}

impl Resolver {
    /// By these rules. What can't be read of the system's settings is told with each look-up.
    pub fn new(rules: &ResolverRules) -> Self {
        Self {
            resolver: open(rules).map_err(|error| plain(&error)),
            prompt: Semaphore::new(LOOKUPS_AT_ONCE),
            late: Semaphore::new(LATE_MAX),
        }
    }

    /// The addresses of a name: those of IPv4 if it has any, else those of IPv6.
    ///
    /// # Errors
    /// Why there are none, in plain words.
    pub(super) async fn addresses(&self, name: &str) -> Result<Answer<IpAddr>, String> {
        let answer = self.ask(|resolver| resolver.lookup_ip(name)).await?;
        Ok(Answer { found: answer.iter().collect(), valid: answer.valid_until() })
    }

    /// The services of a name.
    ///
    /// # Errors
    /// Why there are none, in plain words.
    pub(super) async fn services(&self, name: &str) -> Result<Answer<ServiceRecord>, String> {
        let answer = self.ask(|resolver| resolver.srv_lookup(name)).await?;
        let record = |data: &RData| match data {
            RData::SRV(it) => Some(ServiceRecord {
                priority: it.priority,
                weight: it.weight,
                port: it.port,
                host: it.target.to_ascii(),
            }),
            _ => None,
        };
        let found = answer.answers().iter().filter_map(|it| record(&it.data)).collect();
        Ok(Answer { found, valid: answer.valid_until() })
    }

    /// Names that never answer hold nobody up: others have their turn after [`PROMPT`].
    async fn ask<'a, A, F>(&'a self, look_up: impl FnOnce(&'a TokioResolver) -> F) -> Result<A, String>
    where
        F: Future<Output = Result<A, NetError>>,
    {
        let resolver = self.resolver.as_ref().map_err(Clone::clone)?;
        let turn = self.prompt.acquire().await.map_err(|_| "the gateway stops".to_owned())?;
        let mut answer = pin!(look_up(resolver));
        let answered = match timeout(PROMPT, &mut answer).await {
            Ok(answered) => answered,
            Err(_) => {
                drop(turn);
                let _late = self.late.try_acquire().map_err(|_| "too many names have no answer yet".to_owned())?;
                answer.await
            }
        };
        answered.map_err(|it| plain(&it))
    }
}

fn open(rules: &ResolverRules) -> Result<TokioResolver, NetError> {
    let mut builder = if rules.servers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let servers = rules.servers.iter().map(server).collect();
        TokioResolver::builder_with_config(Servers::from_name_servers(servers), TokioRuntimeProvider::default())
    };
    let options: &mut ResolverOpts = builder.options_mut();
    // Lifetimes are ours to keep: a cache below would only make answers older.
    options.cache_size = 0;
    options.timeout = rules.timeout;
    options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
    options.try_tcp_on_error = true;
    builder.build()
}

fn server(address: &SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    server.connections.iter_mut().for_each(|it| it.port = address.port());
    server
}

fn plain(error: &NetError) -> String {
    match error {
        _ if error.is_nx_domain() => "there is no such name".to_owned(),
        _ if error.is_no_records_found() => "the name has no such record".to_owned(),
        NetError::Timeout => "no server answered in time".to_owned(),
        NetError::NoConnections => "no server can be reached".to_owned(),
        other => other.to_string(),
    }
}
