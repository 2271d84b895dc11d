//! Values in Redis.
//!
//! `link` keeps the one connection and knows whether Redis is there; here are the calls.

mod cells;
mod link;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ::redis::{Cmd, Script, cmd};
use async_trait::async_trait;
use bytes::Bytes;
use once_cell::sync::Lazy;

use crate::state::records::{Insert, NotTaken, Records, Unavailable};

pub use cells::{Granted, SharedCells};

pub(super) use link::Link;

/// Puts a value there if nothing is, else gives what is there. `SET` with both `NX` and `GET` would do
/// it from Redis 7 on.
static CLAIM: Lazy<Script> = Lazy::new(|| {
    Script::new(
        "local there = redis.call('GET', KEYS[1])
         if there then return there end
         redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
         return false",
    )
});

static SWAP: Lazy<Script> = Lazy::new(|| {
    Script::new(
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
         redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
         return 1",
    )
});

/// `PEXPIRE` works on a Redis that is full, too.
static EXTEND: Lazy<Script> = Lazy::new(|| {
    Script::new(
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
         return redis.call('PEXPIRE', KEYS[1], ARGV[2])",
    )
});

static RELEASE: Lazy<Script> = Lazy::new(|| {
    Script::new(
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
         return redis.call('DEL', KEYS[1])",
    )
});

/// Values in Redis.
pub(super) struct RedisRecords {
    link: Arc<Link>,
}

impl RedisRecords {
    pub(super) fn new(link: Arc<Link>) -> Self {
        Self { link }
    }

    async fn ask<T: ::redis::FromRedisValue>(&self, command: &Cmd) -> Result<T, Unavailable> {
        let (number, mut connection) = self.link.connection()?;
        self.link.settle(number, command.query_async(&mut connection)).await
    }

    async fn run<T: ::redis::FromRedisValue>(
        &self,
        script: &Script,
        key: &str,
        arguments: &[&[u8]],
    ) -> Result<T, Unavailable> {
        let (number, mut connection) = self.link.connection()?;
        let mut call = script.key(self.link.key(key));
        for argument in arguments {
            call.arg(*argument);
        }
        self.link.settle(number, call.invoke_async(&mut connection)).await
    }
}

/// Redis takes no life of nothing, and none that overflows its clock.
fn millis(life: Duration) -> u64 {
    const CENTURY: u128 = 100 * 365 * 86_400 * 1_000;
    u64::try_from(life.as_millis().clamp(1, CENTURY)).unwrap_or(1)
}

#[async_trait]
impl Records for RedisRecords {
    async fn read(&self, key: &str) -> Result<Option<Bytes>, Unavailable> {
        let value: Option<Vec<u8>> = self.ask(cmd("GET").arg(self.link.key(key))).await?;
        Ok(value.map(Bytes::from))
    }

    async fn write(&self, key: &str, value: Bytes, life: Duration) -> Result<(), Unavailable> {
        self.ask(cmd("SET").arg(self.link.key(key)).arg(&value[..]).arg("PX").arg(millis(life))).await
    }

    async fn insert_if_absent(&self, key: &str, value: Bytes, life: Duration) -> Result<Insert, Unavailable> {
        let life = millis(life).to_string();
        let there: Option<Vec<u8>> = self.run(&CLAIM, key, &[&value, life.as_bytes()]).await?;
        Ok(there.map_or(Insert::Inserted, |it| Insert::Exists(Bytes::from(it))))
    }

    /// Redis has bounds of its own.
    async fn claim(&self, key: &str, value: Bytes, life: Duration, _: IpAddr) -> Result<Insert, NotTaken> {
        Ok(self.insert_if_absent(key, value, life).await?)
    }

    async fn settle(&self, key: &str, value: Bytes, life: Duration, _: IpAddr) -> Result<(), NotTaken> {
        Ok(self.write(key, value, life).await?)
    }

    async fn compare_and_swap(
        &self,
        key: &str,
        expected: &[u8],
        value: Bytes,
        life: Duration,
    ) -> Result<bool, Unavailable> {
        let life = millis(life).to_string();
        self.run(&SWAP, key, &[expected, &value, life.as_bytes()]).await
    }

    async fn extend(&self, key: &str, expected: &[u8], life: Duration) -> Result<bool, Unavailable> {
        let life = millis(life).to_string();
        self.run(&EXTEND, key, &[expected, life.as_bytes()]).await
    }

    async fn compare_and_delete(&self, key: &str, expected: &[u8]) -> Result<bool, Unavailable> {
        self.run(&RELEASE, key, &[expected]).await
    }

    async fn delete(&self, key: &str) -> Result<(), Unavailable> {
        self.ask(cmd("DEL").arg(self.link.key(key))).await
    }
}
