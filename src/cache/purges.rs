//! Purges: by an operator's word, or because something has changed; here, in the shared state, and on the
//! other gateways.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::base::redacted_target;
use crate::cache::metrics::METRICS;
use crate::cache::object::{Object, Slot};
use crate::cache::store::{Cache, EVERYTHING, of_path, of_route, of_tag, of_target};
use crate::state::{Received, Subscription};

/// The topic on which gateways publish purges.
const TOPIC: &str = "cache";

/// What is to be purged.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purge {
    /// Everything.
    All,
    /// All responses of a route.
    Route(String),
    /// All responses that depend on this.
    Tag(String),
    /// The responses to one target, in all variants: `/players/7?x=1` on every host, or with a host before it.
    Key(String),
    /// The responses to all targets that begin so.
    Prefix(String),
}

/// For the log: without what looks like a credential in a target.
impl fmt::Debug for Purge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, what) = match self {
            Self::All => return f.write_str("All"),
            Self::Route(what) => ("Route", what),
            Self::Tag(what) => ("Tag", what),
            Self::Key(what) => ("Key", what),
            Self::Prefix(what) => ("Prefix", what),
        };
        f.debug_tuple(kind).field(&String::from_utf8_lossy(&redacted_target(what.as_bytes()))).finish()
    }
}

/// What came of a purge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Purged {
    /// So many responses were in this gateway's memory.
    pub count: u64,
    /// Whether the shared state and the other gateways could be reached.
    pub everywhere: bool,
}

/// A gateway's message to the others.
#[derive(Debug, Serialize, Deserialize)]
struct Envelope {
    from: u64,
    purge: PurgeMessage,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PurgeMessage {
    Purge(Purge),
    Changed(Vec<u64>),
}

impl Cache {
    /// Purges, here and everywhere.
    pub async fn purge(self: &Arc<Self>, what: Purge) -> Purged {
        // The shared state before the memory: what is purged must not come back from there.
        let names = what.names();
        let names: &[u64] = if names.is_empty() { &[EVERYTHING] } else { &names };
        let shared = match &self.shared_tier {
            Some(shared_tier) => shared_tier.void(names).await,
            None => true,
        };
        let count = self.purge_memory(&what).await;
        let status = self.publish(PurgeMessage::Purge(what)).await;
        Purged { count, everywhere: shared && status }
    }

    /// Makes useless whatever depends on one of these.
    pub fn changed(self: &Arc<Self>, fingerprints: Vec<u64>) {
        if fingerprints.is_empty() {
            return;
        }
        self.invalidations.changed(&fingerprints);
        let cache = self.clone();
        tokio::spawn(async move {
            let shared = match &cache.shared_tier {
                Some(shared_tier) => shared_tier.void(&fingerprints).await,
                None => true,
            };
            if !(cache.publish(PurgeMessage::Changed(fingerprints)).await && shared) {
                tracing::warn!(event = "cache_change_untold", "other gateways may serve an outdated response");
            }
        });
    }

    /// Follows the purges of the other gateways, until the state is gone.
    pub async fn listen(self: Arc<Self>) {
        let mut subscription: Subscription = self.pubsub.subscribe(TOPIC);
        while let Some(received) = subscription.next().await {
            let word = match received {
                Received::Message(message) => serde_json::from_slice::<Envelope>(&message),
                Received::Lagged => {
                    // Whatever it was: what is stored may be what others have purged.
                    self.purge_memory(&Purge::All).await;
                    continue;
                }
            };
            match word {
                Ok(word) if word.from == self.id => {}
                Ok(Envelope { purge: PurgeMessage::Purge(what), .. }) => {
                    self.purge_memory(&what).await;
                }
                Ok(Envelope { purge: PurgeMessage::Changed(fingerprints), .. }) => {
                    self.invalidations.changed(&fingerprints)
                }
                Err(_) => tracing::warn!(event = "cache_notice_unread", "it is not of this version"),
            }
        }
    }

    /// In this gateway's memory, all of which is looked at: not on a worker.
    async fn purge_memory(self: &Arc<Self>, what: &Purge) -> u64 {
        match (what, &what.names()[..]) {
            (Purge::All, _) => self.invalidations.all_changed(),
            (_, []) => self.invalidations.unnamed_change(),
            (_, names) => self.invalidations.changed(names),
        }
        let (cache, what) = (self.clone(), what.clone());
        let removing = tokio::task::spawn_blocking(move || {
            cache.memory.remove_all(|slot| match slot {
                Slot::Varied(_) => what == Purge::All,
                Slot::Whole(object) => what.means(object),
            })
        });
        let count = removing.await.unwrap_or_default();
        METRICS.purged.inc_by(count);
        count
    }

    async fn publish(&self, purge: PurgeMessage) -> bool {
        let Ok(word) = serde_json::to_vec(&Envelope { from: self.id, purge }) else { return false };
        self.pubsub.publish(TOPIC, Bytes::from(word)).await.is_ok()
    }
}

impl Purge {
    /// The fingerprints of what it means; none if no fingerprint names it.
    fn names(&self) -> Vec<u64> {
        match self {
            Self::Route(name) => vec![of_route(name)],
            Self::Tag(tag) => vec![of_tag(tag)],
            Self::Key(key) if key.starts_with('/') => vec![of_path(key)],
            Self::Key(key) => {
                let (host, path) = parts(key);
                vec![of_target(&host.to_ascii_lowercase(), path)]
            }
            Self::All | Self::Prefix(_) => Vec::new(),
        }
    }

    fn means(&self, object: &Object) -> bool {
        let (host, path) = (object.target.host(), object.target.path());
        match self {
            Self::All => true,
            Self::Route(name) => *object.route == **name,
            Self::Tag(tag) => object.depends.contains(&of_tag(tag)),
            Self::Key(key) => {
                let (wanted, rest) = parts(key);
                path == rest && (wanted.is_empty() || host.eq_ignore_ascii_case(wanted))
            }
            Self::Prefix(prefix) => {
                let (wanted, rest) = parts(prefix);
                path.starts_with(rest) && (wanted.is_empty() || host.eq_ignore_ascii_case(wanted))
            }
        }
    }
}

/// Host and path; no host means every one.
fn parts(key: &str) -> (&str, &str) {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    key.split_at(key.find('/').unwrap_or(key.len()))
}
