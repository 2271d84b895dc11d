//! The `guard` section of gateway.yaml.

use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::alerts::WebhookConfig;
use crate::base::{At, Diagnostics, Period, networks};

/// Blocks addresses that flood. An address is an IPv4 address or an IPv6 network of 64 bits. Trusted
/// proxies are never blocked: what comes through them counts for the client behind them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GuardConfig {
    /// Connections of one address. Default: not watched.
    pub connections: Option<FloodConfig>,
    /// Requests of one address. Default: not watched.
    pub requests: Option<FloodConfig>,
    /// Requests of one address that get an answer from 400 to 499. Default: not watched.
    pub errors: Option<FloodConfig>,
    /// Requests and connections of one address that were cut because they were too slow. Default: not
    /// watched.
    pub slow: Option<FloodConfig>,
    /// How long addresses are blocked.
    pub block: BlockConfig,
    /// Networks that are never blocked, such as `10.0.0.0/8`.
    pub allow: Vec<String>,
    /// Who receives each block, beside the log: `event`, `at`, `address`, `reason`, `seconds`, `strikes`.
    pub webhook: Option<WebhookConfig>,
}

/// How much is too much.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FloodConfig {
    /// More than so many lead to a block. At least 2.
    pub count: u32,
    /// Within this time.
    pub every: Period,
}

/// How long addresses are blocked.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BlockConfig {
    /// The first time. Each further block within a day of the last is twice as long. Default 1m.
    pub first: Option<Period>,
    /// At most. Default 24h.
    pub longest: Option<Period>,
    /// So many addresses are remembered at most. Default 100000.
    pub max: Option<u32>,
}

/// Compiled: what is watched, and what follows.
#[derive(Clone, Debug)]
pub struct GuardRules {
    /// By [`super::Violation`]: so many, within this time.
    pub(super) floods: [Option<(u32, Duration)>; 4],
    pub(super) first: Duration,
    pub(super) longest: Duration,
    pub(super) blocks_max: usize,
    pub(super) allow: Vec<IpNet>,
    pub(super) webhook: Option<WebhookConfig>,
}

impl GuardRules {
    /// Reports every fault.
    pub fn compile(config: &GuardConfig, at: &At<'_>, diagnostics: &mut Diagnostics) -> Self {
        let mut flood = |written: &Option<FloodConfig>, name: &str| {
            let written = written.as_ref()?;
            let at = at.key(name);
            if written.count < 2 {
                diagnostics.error(&at.key("count"), "less than 2").help("write how many an honest client may need");
            }
            if written.every.0 < Duration::from_millis(100) {
                diagnostics.error(&at.key("every"), "less than 100ms").help("count over a second or more");
            }
            Some((written.count.max(2), written.every.0.max(Duration::from_millis(100))))
        };
        let floods = [
            flood(&config.connections, "connections"),
            flood(&config.requests, "requests"),
            flood(&config.errors, "errors"),
            flood(&config.slow, "slow"),
        ];
        let block = at.key("block");
        let first = config.block.first.map_or(Duration::from_secs(60), |it| it.0);
        let longest = config.block.longest.map_or(Duration::from_secs(24 * 3600), |it| it.0);
        if first.is_zero() || longest < first {
            diagnostics.error(&block, "the first block is longer than the longest, or no time at all");
        }
        let allow = networks(&config.allow, &at.key("allow"), diagnostics);
        if let Some(webhook) = &config.webhook {
            webhook.check(&at.key("webhook"), diagnostics);
        }
        let blocks_max = config.block.max.map_or(100_000, |it| usize::try_from(it).unwrap_or(usize::MAX));
        Self { floods, first, longest, blocks_max, allow, webhook: config.webhook.clone() }
    }

    /// These networks are never blocked either.
    pub fn allowing(mut self, networks: &[IpNet]) -> Self {
        self.allow.extend_from_slice(networks);
        self
    }
}
