//! Counters of rate limits that gateways share.
//!
//! The same algorithm as in memory (`counters.rs`), by Redis' own clock, so that those of the gateways
//! do not matter. Several cells can be taken at once, and what was not used is returned with the next
//! call.

use std::sync::Arc;
use std::time::Duration;

use ::redis::Script;
use aws_lc_rs::digest::{Context, SHA256};
use once_cell::sync::Lazy;

use crate::state::counters::Quota;
use crate::state::records::Unavailable;
use crate::state::redis::Link;

/// Times are microseconds. Takes up to so many cells; returns how many it granted, how many are left, when
/// the allowance is whole, and when the next cell comes.
///
/// A clock that was set back leaves arrival times that can't be reached: they count as far ahead as
/// they may be, not further.
static TAKE: Lazy<Script> = Lazy::new(|| {
    Script::new(
        "local time = redis.call('TIME')
         local now = time[1] * 1000000 + time[2]
         local emission, tolerance = tonumber(ARGV[1]), tonumber(ARGV[2])
         local wanted, unused = tonumber(ARGV[3]), tonumber(ARGV[4])
         local tat = tonumber(redis.call('GET', KEYS[1]) or 0)
         tat = math.max(now, math.min(tat - unused * emission, now + tolerance))
         local free = math.floor((now + tolerance - tat) / emission + 0.000001)
         local granted = math.max(0, math.min(wanted, free))
         tat = tat + granted * emission
         if tat > now then
           redis.call('SET', KEYS[1], string.format('%.3f', tat), 'PX', math.ceil((tat - now) / 1000) + 1)
         else
           redis.call('DEL', KEYS[1])
         end
         return {granted, free - granted, math.ceil(tat - now), math.ceil(math.max(0, tat + emission - tolerance - now))}",
    )
});

/// Counters of rate limits that gateways share.
pub struct SharedCells {
    link: Arc<Link>,
}

/// What Redis gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// So many cells, between none and as many as were wanted.
    pub cells: u64,
    /// How many more there are for anybody.
    pub remaining: u64,
    /// How long until the allowance is whole.
    pub full_in: Duration,
    /// How long until there is a cell that is not there now.
    pub next_in: Duration,
}

impl SharedCells {
    pub(in crate::state) fn new(link: Arc<Link>) -> Self {
        Self { link }
    }

    /// The name of a counter: what is counted is hashed, not stored. The hash is the same in every
    /// gateway, so it hides no address from an attacker who tries them all.
    pub fn name(scope: &str, kind: u8, subject: [&[u8]; 4]) -> String {
        let mut context = Context::new(&SHA256);
        for part in [scope.as_bytes(), &[kind]].into_iter().chain(subject) {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        let digest = context.finish();
        let mut name = String::with_capacity(38);
        name.push_str("limit:");
        for byte in &digest.as_ref()[..16] {
            for digit in [byte >> 4, byte & 15] {
                name.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
            }
        }
        name
    }

    /// Takes up to `wanted` cells, and gives back `unused` ones of before.
    ///
    /// # Errors
    /// When Redis can't be reached. The cells may have been taken all the same.
    pub async fn take(&self, name: &str, quota: Quota, wanted: u64, unused: u64) -> Result<Granted, Unavailable> {
        let (number, mut connection) = self.link.connection()?;
        let micros = |it: Duration| it.as_nanos() as f64 / 1e3;
        let mut call = TAKE.key(self.link.key(name));
        call.arg(micros(quota.emission())).arg(micros(quota.tolerance())).arg(wanted).arg(unused);
        let answer: (u64, u64, u64, u64) = self.link.settle(number, call.invoke_async(&mut connection)).await?;
        let (cells, remaining, full_in, next_in) = answer;
        let micros = Duration::from_micros;
        // More than were requested would be lost.
        Ok(Granted { cells: cells.min(wanted), remaining, full_in: micros(full_in), next_in: micros(next_in) })
    }
}
