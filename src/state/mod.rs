//! Short-lived values that requests, threads and gateways share: claims, records, messages.
//!
//! In memory, or in Redis (`state` in gateway.yaml). Every value has a lifetime. That the state
//! can't be reached is a value of its own, which the caller has to decide on.

mod config;
mod counters;
mod memory;
mod metrics;
mod pubsub;
mod records;
mod redis;
mod room;

use std::sync::Arc;

use tokio::runtime::Handle;

use crate::state::memory::Memory;
use crate::state::redis::{Link, RedisRecords};

pub use config::{Backend, MemoryBounds, MemoryConfig, RedisAccess, RedisConfig, StateConfig};
pub use counters::{CounterKey, Counters, Fill, Moment, Quota, Taken};
pub use pubsub::{PubSub, Received, Subscription};
pub use records::{Insert, NotTaken, Records, Unavailable};
pub use redis::{Granted, SharedCells};

/// The state of this gateway; clones share it.
#[derive(Clone)]
pub struct State {
    /// Values by key.
    pub records: Arc<dyn Records>,
    /// Publish and subscribe: short messages to the other parts of this gateway and to the other gateways.
    pub pubsub: PubSub,
    /// Counters of rate limits in this process: all of them, or those for when Redis is gone.
    pub counters: Arc<Counters>,
    /// Counters of rate limits that gateways share, if they do.
    pub shared_cells: Option<Arc<SharedCells>>,
}

impl State {
    /// Opens what the configuration names. `side` runs what has to go on beside the requests; calls
    /// may come from any runtime.
    ///
    /// A Redis that can't be reached is no error: calls say [`Unavailable`] until it can be. Waits for
    /// the end of the first attempt, so it must not be called from `side` itself.
    pub fn open(backend: &Backend, side: &Handle) -> Self {
        let keys_max = match backend {
            Backend::Memory(bounds) => bounds.keys_max,
            Backend::Redis(_) => MemoryBounds::default().keys_max,
        };
        let counters = Arc::new(Counters::new(keys_max));
        side.spawn(counters::sweep_forever(Arc::downgrade(&counters)));
        match backend {
            Backend::Memory(bounds) => {
                let memory = Arc::new(Memory::new(bounds));
                side.spawn(memory::sweep_forever(Arc::downgrade(&memory)));
                metrics::UP.set(1);
                metrics::begin_memory();
                Self { records: memory, pubsub: PubSub::local(), counters, shared_cells: None }
            }
            Backend::Redis(access) => {
                let pubsub = PubSub::local();
                let link = Link::open(access, pubsub.hub(), side);
                Self {
                    records: Arc::new(RedisRecords::new(link.clone())),
                    pubsub: pubsub.shared(link.clone()),
                    counters,
                    shared_cells: Some(Arc::new(SharedCells::new(link))),
                }
            }
        }
    }

    /// In memory, with the default bounds, and for programs without a side runtime: what has expired
    /// goes only when room is needed.
    pub fn in_memory() -> Self {
        let bounds = MemoryBounds::default();
        Self {
            records: Arc::new(Memory::new(&bounds)),
            pubsub: PubSub::local(),
            counters: Arc::new(Counters::new(bounds.keys_max)),
            shared_cells: None,
        }
    }
}
