//! Keeps floods away (R5.5): addresses that open too many connections, send too many requests, cause
//! too many errors or are too slow too often are blocked for a time, each time for longer.
//!
//! Counting has two stages. The first is an estimate of fixed size, which can only be too high; the
//! second counts exactly, but only those whom the first suspects. Nobody is blocked by an estimate.

mod blocklist;
mod config;
mod metrics;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use parking_lot::Mutex;
use pingora_limits::rate::Rate;
use serde_json::json;
use tokio::runtime::Handle;

use crate::alerts::Alerts;
use crate::base::network_of;
use crate::telemetry::Timestamp;

pub use blocklist::{Block, Full};
pub use config::{BlockConfig, FloodConfig, GuardConfig, GuardRules};

use blocklist::Blocklist;
use metrics::{ALERTS_LOST, blocks, turned_away};

/// So many suspects are counted exactly at once. Of more nobody knows until others are cleared.
const SUSPECTS_MAX: usize = 10_000;
/// How often blocks that are over are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// What an address does too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Violation {
    /// Opening connections.
    Connections,
    /// Sending requests.
    Requests,
    /// Sending requests that are refused or fail by its own fault.
    Errors,
    /// Not sending or reading its bytes in time.
    Slow,
}

impl Violation {
    /// The word for logs, metrics and operators.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connection_flood",
            Self::Requests => "request_flood",
            Self::Errors => "error_flood",
            Self::Slow => "slow_client",
        }
    }
}

/// Who is watched, who is blocked. One for the process.
pub struct Guard {
    watches: [Option<Watch>; 4],
    allow: Vec<IpNet>,
    blocklist: Blocklist,
    alerts: Option<Alerts>,
}

/// Counts one kind of violation.
struct Watch {
    estimate: Rate,
    every: Duration,
    /// The estimate from which an address is a suspect, and the exact count that blocks it: together
    /// they are what the operator wrote.
    suspect_from: isize,
    block_from: u64,
    suspects: Mutex<HashMap<IpAddr, Suspect>>,
}

struct Suspect {
    since: Instant,
    count: u64,
}

impl Guard {
    /// Begins to watch. Alerts and the end of blocks are looked after on the side runtime.
    pub fn begin(rules: &GuardRules, side: &Handle) -> Arc<Self> {
        let webhook = rules.webhook.clone();
        let alerts = webhook.map(|it| Alerts::begin("guard", it, Some(ALERTS_LOST.clone()), side));
        let guard = Arc::new(Self {
            watches: rules.floods.map(|it| it.map(Watch::new)),
            allow: rules.allow.clone(),
            blocklist: Blocklist::new(rules.first, rules.longest, rules.blocks_max),
            alerts,
        });
        side.spawn(sweep(Arc::downgrade(&guard)));
        guard
    }

    /// Whether this address is blocked: how much longer. Costs one load while nobody is.
    pub fn blocked(&self, address: IpAddr) -> Option<Duration> {
        let left = self.blocklist.blocked(network_of(address))?;
        (!self.allows(address)).then_some(left)
    }

    /// Counts a client that was turned away.
    pub fn turned_away(&self, stage: Stage) {
        turned_away(stage);
    }

    /// Takes note of a violation; if it is one too many, the address is blocked from now on.
    pub fn note(&self, address: IpAddr, violation: Violation) {
        let Some(watch) = &self.watches[violation as usize] else { return };
        let network = network_of(address);
        if !watch.is_too_much(network) || self.allows(address) {
            return;
        }
        if let Ok(Some(block)) = self.blocklist.block(network, None, violation.as_str(), true) {
            self.announce(&block);
        }
    }

    /// Blocks an address by an operator's wish.
    ///
    /// # Errors
    /// When no more blocks can be kept.
    pub fn block(&self, address: IpAddr, time: Duration, reason: &str) -> Result<Block, Full> {
        let block = self.blocklist.block(network_of(address), Some(time), reason, false)?;
        let block = block.ok_or(Full)?;
        self.announce(&block);
        Ok(block)
    }

    /// Lifts a block, and forgets what led to it; false if there is none.
    pub fn lift(&self, address: IpAddr) -> bool {
        let network = network_of(address);
        for watch in self.watches.iter().flatten() {
            watch.suspects.lock().remove(&network);
        }
        let lifted = self.blocklist.lift(network);
        if lifted {
            tracing::info!(event = "address_unblocked", client = %network, by = "operator", "an address may come again");
        }
        lifted
    }

    /// All blocks that hold, the longest first.
    pub fn blocks(&self) -> Vec<Block> {
        self.blocklist.blocks()
    }

    /// How many addresses are remembered, and how many can be.
    pub fn fill(&self) -> (usize, usize) {
        self.blocklist.fill()
    }

    fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.allow.iter().any(|it| it.contains(&address))
    }

    fn announce(&self, block: &Block) {
        blocks(&block.reason).inc();
        tracing::warn!(
            event = "address_blocked", client = %block.address, reason = %block.reason, seconds = block.time.as_secs(),
            strikes = block.strikes, "an address is blocked"
        );
        let Some(alerts) = &self.alerts else { return };
        alerts.send(json!({
            "event": "address_blocked",
            "at": Timestamp::now().as_str(),
            "address": block.address.to_string(),
            "reason": block.reason,
            "seconds": block.time.as_secs(),
            "strikes": block.strikes,
        }));
    }
}

/// Where a client was turned away.
#[derive(Clone, Copy, Debug)]
pub enum Stage {
    /// When the connection was accepted, before a byte was read.
    Connection,
    /// When a request came on a connection that was there already, or through a proxy.
    Request,
}

async fn sweep(guard: std::sync::Weak<Guard>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let Some(guard) = guard.upgrade() else { return };
        for address in guard.blocklist.sweep() {
            tracing::info!(event = "address_unblocked", client = %address, by = "time", "an address may come again");
        }
        guard.watches.iter().flatten().for_each(Watch::clear);
    }
}

impl Watch {
    fn new((count, every): (u32, Duration)) -> Self {
        let half = count / 2;
        Self {
            estimate: Rate::new(every),
            every,
            suspect_from: isize::try_from(half).unwrap_or(isize::MAX),
            block_from: u64::from(count - half),
            suspects: Mutex::default(),
        }
    }

    fn is_too_much(&self, network: IpAddr) -> bool {
        if self.estimate.observe(&network, 1) <= self.suspect_from {
            return false;
        }
        let mut suspects = self.suspects.lock();
        if suspects.len() >= SUSPECTS_MAX && !suspects.contains_key(&network) {
            return false;
        }
        let now = Instant::now();
        let suspect = suspects.entry(network).or_insert(Suspect { since: now, count: 0 });
        if now.duration_since(suspect.since) > self.every {
            *suspect = Suspect { since: now, count: 0 };
        }
        suspect.count += 1;
        suspect.count > self.block_from
    }

    fn clear(&self) {
        let now = Instant::now();
        self.suspects.lock().retain(|_, it| now.duration_since(it.since) <= self.every);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{At, Diagnostics};

    fn guard(yaml: &str) -> (tokio::runtime::Runtime, Arc<Guard>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut diagnostics = Diagnostics::default();
        let rules = GuardRules::compile(&serde_yaml::from_str(yaml).unwrap(), &At::ROOT, &mut diagnostics);
        assert!(diagnostics.is_empty());
        let guard = Guard::begin(&rules, runtime.handle());
        (runtime, guard)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_too_many_leads_to_a_block_and_the_next_is_longer() {
        let (_runtime, guard) = guard("{ requests: { count: 10, every: 1m }, block: { first: 1m, longest: 3m } }");
        let offend = || (0..30).for_each(|_| guard.note(ip("10.0.0.1"), Violation::Requests));
        (0..10).for_each(|_| guard.note(ip("10.0.0.1"), Violation::Requests));
        assert_eq!(guard.blocked(ip("10.0.0.1")), None, "ten are not too many");
        for seconds in [60, 120, 180, 180] {
            offend();
            assert_eq!(guard.blocks()[0].time.as_secs(), seconds);
            assert!(guard.blocked(ip("10.0.0.1")).is_some());
            guard.blocklist.end_now(ip("10.0.0.1"));
            assert_eq!(guard.blocked(ip("10.0.0.1")), None);
        }
        assert_eq!(guard.blocked(ip("10.0.0.2")), None);
    }

    #[test]
    fn a_network_of_one_customer_is_one_and_an_allowed_one_is_never_blocked() {
        let (_runtime, guard) = guard("{ errors: { count: 4, every: 1m }, allow: [10.1.0.0/16] }");
        (0..20).for_each(|it| guard.note(ip(&format!("2001:db8::{it:x}")), Violation::Errors));
        assert!(guard.blocked(ip("2001:db8::ffff")).is_some());
        assert!(guard.blocked(ip("2001:db8:0:1::1")).is_none());
        (0..20).for_each(|_| guard.note(ip("10.1.0.1"), Violation::Errors));
        assert!(guard.blocked(ip("10.1.0.1")).is_none());
        assert!(guard.blocked(ip("::ffff:10.1.0.1")).is_none());
    }

    #[test]
    fn an_operator_blocks_and_lifts() {
        let (_runtime, guard) = guard("{}");
        guard.block(ip("10.0.0.9"), Duration::from_secs(5), "by hand").unwrap();
        assert!(guard.blocked(ip("10.0.0.9")).is_some());
        assert!(guard.lift(ip("10.0.0.9")));
        assert!(!guard.lift(ip("10.0.0.9")));
        assert_eq!(guard.blocked(ip("10.0.0.9")), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (_runtime, guard) = guard("{ block: { max: 100 } }");
        let block = |it: u32| guard.block(IpAddr::from(it.to_be_bytes()), Duration::from_secs(60), "by hand");
        assert!((0..100).all(|it| block(it).is_ok()));
        assert!(block(100).is_err());
        guard.blocklist.end_now(IpAddr::from(5_u32.to_be_bytes()));
        assert!(block(100).is_ok(), "what is over makes room");
        assert_eq!(guard.fill(), (100, 100));
    }
}
