//! The `state` section of `gateway.yaml`: where short-lived values are kept.

use std::time::Duration;

use ::redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::base::{At, ByteSize, Diagnostics, Period, Secret};
use crate::state::room::{Bounds, Usage};

/// How many percent of the memory are for idempotency records. The rest is for what they must not push out.
const IDEMPOTENCY_PERCENT: u8 = 75;

/// Where short-lived values are kept (counters of rate limits, idempotency records, nonces): `memory`
/// or `redis`, one of the two. Without either: in memory. Several gateways share them through Redis.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StateConfig {
    /// In this process, lost when it ends.
    pub memory: Option<MemoryConfig>,
    /// In Redis 6 or later.
    pub redis: Option<RedisConfig>,
}

/// Values in this process.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryConfig {
    /// So many values at most; beyond that, new ones are refused. Three quarters are for idempotency records, and a
    /// quarter for nonces, sign-ins and everything else. Default 1000000.
    #[schemars(range(min = 1))]
    pub entries_max: u64,
    /// So many bytes of keys and values at most; beyond that, new ones are refused. Parted as `entries_max` is. Default
    /// 256MiB.
    pub bytes_max: ByteSize,
    /// So many percent of the idempotency records may be those of one network (an IPv4 address, or a /64 of IPv6).
    /// Beyond that its requests with new keys get 503, and responses that do not fit are not stored. 100 where all
    /// requests come from one address. Default 25.
    #[schemars(range(min = 1, max = 100))]
    pub network_share: u8,
    /// So many counters of rate limits at most, one for each limit and each caller that it counts; beyond that,
    /// those nearest to a whole allowance are dropped. 30 to 60 bytes each, 420 MB if all of the
    /// default are in use. Default 14000000.
    #[schemars(range(min = 1))]
    pub keys_max: u64,
}

/// Values in Redis.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedisConfig {
    /// `redis://user:password@host:6379/0`, or `unix:///run/redis.sock`: `"${REDIS_URL}"`. The user must be
    /// allowed to read and write keys with `prefix`, to use scripts (`EVALSHA`, `SCRIPT LOAD`), and to
    /// publish to channels with `prefix` and subscribe to them by pattern.
    pub url: Secret,
    /// How long a call may take before it has failed. Default 250ms.
    #[serde(default = "timeout")]
    pub timeout: Period,
    /// What every key begins with; gateways with the same share their state. Default `moongate:`.
    #[serde(default = "prefix")]
    pub prefix: String,
}

fn timeout() -> Period {
    Period::millis(250)
}

fn prefix() -> String {
    "moongate:".to_owned()
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { entries_max: 1_000_000, bytes_max: ByteSize(256 << 20), keys_max: 14_000_000, network_share: 25 }
    }
}

/// Compiled: where short-lived values are kept.
#[derive(Clone, Debug)]
pub enum Backend {
    /// In this process.
    Memory(MemoryBounds),
    /// In Redis.
    Redis(RedisAccess),
}

/// What bounds the values in this process.
#[derive(Clone, Debug)]
pub struct MemoryBounds {
    pub(super) entries_max: usize,
    pub(super) bytes_max: usize,
    pub(super) keys_max: usize,
    /// In percent of the idempotency records.
    pub(super) network_share: u8,
}

/// How Redis is reached. Its `Debug` does not show the password.
#[derive(Clone, Debug)]
pub struct RedisAccess {
    pub(super) server: ConnectionInfo,
    pub(super) timeout: Duration,
    pub(super) prefix: String,
}

impl Default for MemoryBounds {
    fn default() -> Self {
        Self::of(&MemoryConfig::default())
    }
}

impl MemoryBounds {
    /// So many values at most.
    pub fn entries_max(&self) -> usize {
        self.entries_max
    }

    /// So many bytes of keys and values at most.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    fn of(config: &MemoryConfig) -> Self {
        let bounded = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Self {
            entries_max: bounded(config.entries_max),
            bytes_max: bounded(config.bytes_max.0),
            keys_max: bounded(config.keys_max.max(1)),
            network_share: config.network_share,
        }
    }

    /// The two rooms, and the share of one network.
    pub(super) fn rooms(&self) -> Bounds {
        let whole = Usage { entries: self.entries_max, bytes: self.bytes_max };
        let idempotency = whole.percent(IDEMPOTENCY_PERCENT);
        let network = idempotency.percent(self.network_share.min(100));
        Bounds { idempotency, network, other: whole.percent(100 - IDEMPOTENCY_PERCENT) }
    }
}

impl Backend {
    /// Reports every fault.
    pub fn compile(config: &StateConfig, at: &At<'_>, diagnostics: &mut Diagnostics) -> Self {
        if config.memory.is_some() && config.redis.is_some() {
            diagnostics.error(at, "both memory and redis").help("keep one of the two");
        }
        if config.memory.as_ref().is_some_and(|it| !(1..=100).contains(&it.network_share)) {
            let at = at.key("memory");
            diagnostics.error(&at.key("network_share"), "out of range").help("1 to 100, in percent");
        }
        let memory = || Self::Memory(MemoryBounds::of(&config.memory.clone().unwrap_or_default()));
        let Some(redis) = &config.redis else { return memory() };
        RedisAccess::compile(redis, &at.key("redis"), diagnostics).map_or_else(memory, Self::Redis)
    }
}

impl RedisAccess {
    fn compile(config: &RedisConfig, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        let timeout = config.timeout.0;
        if !(Duration::from_millis(1)..=Duration::from_secs(10)).contains(&timeout) {
            diagnostics.error(&at.key("timeout"), "out of range").help("1ms to 10s; requests wait for it");
        }
        if config.prefix.len() > 128 || config.prefix.contains(['*', '?', '[', ']', '\\']) {
            diagnostics.error(&at.key("prefix"), "not a prefix").help("at most 128 characters, none of * ? [ ] \\");
        }
        // Not the library's own words: they may quote the URL, and a password with it.
        let Ok(server) = config.url.expose().into_connection_info() else {
            diagnostics.error(&at.key("url"), "not a URL of Redis").help("write it as redis://host:6379/0");
            return None;
        };
        if matches!(server.addr(), ConnectionAddr::TcpTls { .. }) {
            diagnostics
                .error(&at.key("url"), "TLS to Redis is not offered")
                .help("put a tunnel between, or use redis://");
        }
        // The third version of the protocol lets messages come over the connection of the calls.
        let settings = server.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        Some(Self { server: server.set_redis_settings(settings), timeout, prefix: config.prefix.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(yaml: &str, faults: &[&str]) -> Backend {
        let mut diagnostics = Diagnostics::default();
        let config: StateConfig = serde_yaml::from_str(yaml).unwrap();
        let backend = Backend::compile(&config, &At::ROOT.key("state"), &mut diagnostics);
        let paths: Vec<_> = diagnostics.iter().map(|it| it.path.as_str()).collect();
        assert_eq!(paths, faults, "{yaml}");
        backend
    }

    #[test]
    fn state_is_in_memory_or_in_redis() {
        assert!(matches!(check("{}", &[]), Backend::Memory(_)));
        assert!(matches!(check("memory: {}", &[]), Backend::Memory(_)));
        assert!(matches!(check("redis: { url: 'redis://127.0.0.1:6379/2' }", &[]), Backend::Redis(_)));
        check("{ memory: {}, redis: { url: 'redis://127.0.0.1' } }", &["/state"]);
        check("memory: { network_share: 100 }", &[]);
        check("memory: { network_share: 0 }", &["/state/memory/network_share"]);
        check("memory: { network_share: 101 }", &["/state/memory/network_share"]);
    }

    #[test]
    fn what_can_not_work_is_reported_and_no_password_is_shown() {
        check("redis: { url: 'http://x' }", &["/state/redis/url"]);
        check("redis: { url: 'rediss://x' }", &["/state/redis/url"]);
        check(
            "redis: { url: 'redis://x', timeout: 1h, prefix: '*' }",
            &["/state/redis/timeout", "/state/redis/prefix"],
        );
        let shown = format!("{:?}", check("redis: { url: 'redis://me:hush@x' }", &[]));
        assert!(!shown.contains("hush"), "{shown}");
    }
}
