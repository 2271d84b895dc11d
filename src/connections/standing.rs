//! Looking again whether those who have opened connections may still have them.
//!
//! Tokens and certificates are looked at in memory, whenever something was taken back and once a second for those whose
//! time is over. API keys are looked up by their records, each once however many connections it has opened.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{MissedTickBehavior, interval};

use super::{Cause, Connections, Entry};
use crate::base::unix_seconds;
use crate::identity::{Kind, Standing};

/// How often it is looked whether anything has changed.
const LOOK: Duration = Duration::from_millis(200);
/// How often the records of API keys are looked at.
const KEYS_LOOK: Duration = Duration::from_millis(500);
/// So many records are looked up at once.
const KEYS_AT_ONCE: usize = 16;

impl Connections {
    /// Ends the connections of those whose credentials do not count any more, until the process ends; for a runtime
    /// that requests do not depend on.
    pub async fn watch(self: Arc<Self>) {
        tokio::join!(self.watch_tokens(), self.watch_keys());
    }

    async fn watch_tokens(&self) {
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = (0, 0);
        loop {
            tick.tick().await;
            // Before the look: what is taken back meanwhile is seen the next time.
            let now = (unix_seconds(), self.identity.revocations_epoch());
            if now != seen && !self.is_empty() {
                let again = now.1 != seen.1;
                self.each(|it| {
                    if again || ends_by_itself(it) {
                        self.look_at(it)
                    }
                });
            }
            seen = now;
        }
    }

    /// Ends it if its credentials do not count any more.
    pub(super) fn look_at(&self, entry: &Arc<Entry>) {
        let Some(principal) = &entry.facts.principal else { return };
        match self.identity.standing(principal) {
            Standing::Good => {}
            Standing::Expired => entry.end(Cause::Expired),
            Standing::Revoked => entry.end(Cause::Revoked),
        }
    }

    async fn watch_keys(&self) {
        let mut tick = interval(KEYS_LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if self.is_empty() {
                continue;
            }
            let mut keys: HashMap<Arc<str>, Vec<Arc<Entry>>> = HashMap::new();
            self.each(|it| {
                if let Some(id) = api_key(it) {
                    keys.entry(id.clone()).or_default().push(it.clone());
                }
            });
            let keys: Vec<_> = keys.into_values().collect();
            for some in keys.chunks(KEYS_AT_ONCE) {
                join_all(some.iter().map(|it| self.look_at_key(it))).await;
            }
        }
    }

    /// What one key has opened; its record is looked up once.
    async fn look_at_key(&self, opened: &[Arc<Entry>]) {
        for entry in opened {
            if let Some(principal) = &entry.facts.principal
                && self.identity.standing_of_key(principal).await == Standing::Revoked
            {
                entry.end(Cause::Revoked);
            }
        }
    }
}

fn ends_by_itself(entry: &Entry) -> bool {
    entry.facts.principal.as_ref().is_some_and(|it| it.validity.ends.is_some())
}

/// The id of the key that has opened it.
fn api_key(entry: &Entry) -> Option<&Arc<str>> {
    let principal = entry.facts.principal.as_ref().filter(|it| it.kind == Kind::ApiKey)?;
    principal.credential.as_ref()
}
