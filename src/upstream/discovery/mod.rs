//! Where endpoints come from when they are not listed: names in DNS, a file, instances that register.
//!
//! A [`Source`] is compiled; a [`Feed`] follows it for as long as an upstream uses it, whatever is reloaded around it,
//! and keeps the last good answer: a resolver that fails, or answers with nothing, takes no endpoint away.

mod dns;
mod feed;
mod file;
mod instances;
mod resolver;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::compile::EndpointSpec;

pub(super) use feed::Feed;
pub use instances::{Instance, Instances, RegisterError, Registered, Registration};
pub use resolver::{Resolver, ResolverConfig, ResolverRules};

/// How long a start or a reload waits for the first answers of new sources.
const FIRST_ANSWERS: Duration = Duration::from_secs(3);

/// Where endpoints of an upstream come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The addresses of a name (A and AAAA records).
    Dns(DnsName),
    /// The services of a name (SRV records), and the addresses of their hosts.
    Srv {
        /// Such as `_http._tcp.players.internal`.
        name: Arc<str>,
        /// The longest time between two look-ups.
        every: Option<Duration>,
    },
    /// A list in a file, in the form of `static`.
    File(PathBuf),
    /// The instances of a service that registered.
    Registry(Arc<str>),
}

/// A name to look up, and what its addresses are as endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DnsName {
    /// Such as `backend.internal`.
    pub name: Arc<str>,
    /// The port of every address.
    pub port: u16,
    /// The weight of every address.
    pub weight: u32,
    /// The zone of every address.
    pub zone: Option<Arc<str>>,
    /// The longest time between two look-ups.
    pub every: Option<Duration>,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dns(it) => write!(f, "dns {}:{}", it.name, it.port),
            Self::Srv { name, .. } => write!(f, "srv {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Registry(service) => write!(f, "registry {service}"),
        }
    }
}

/// What is needed to follow sources, and all feeds that are followed.
pub struct Discovery {
    runtime: Handle,
    resolver: Arc<Resolver>,
    instances: Arc<Instances>,
    feeds: Mutex<HashMap<Source, Weak<Feed>>>,
}

impl Discovery {
    /// Follows sources on this runtime, which must not be one of requests.
    pub fn new(runtime: Handle, resolver: Arc<Resolver>, instances: Arc<Instances>) -> Self {
        Self { runtime, resolver, instances, feeds: Mutex::default() }
    }

    /// The instances that registered.
    pub fn instances(&self) -> &Arc<Instances> {
        &self.instances
    }

    /// One address of a name, now.
    ///
    /// # Errors
    /// Why there is none, in plain words.
    pub async fn resolve(&self, name: &str) -> Result<IpAddr, String> {
        let answer = self.resolver.addresses(name).await?;
        answer.found.into_iter().min().ok_or_else(|| "the name has no address".to_owned())
    }

    /// A feed for each source: the one that follows it already, or a new one. Waits until the new ones have their first
    /// answer, but not longer than some seconds; so it must not be called from a thread of `runtime`.
    pub(super) fn feeds(&self, sources: &[Source]) -> Vec<Arc<Feed>> {
        let feeds: Vec<_> = {
            let mut known = self.feeds.lock();
            known.retain(|_, feed| feed.strong_count() > 0);
            sources.iter().map(|source| self.feed(source, &mut known)).collect()
        };
        let answered = async {
            for feed in &feeds {
                feed.answered().await;
            }
        };
        // Whoever has no answer by then begins without endpoints, and gets them when they are found.
        let _ = self.runtime.block_on(async { tokio::time::timeout(FIRST_ANSWERS, answered).await });
        feeds
    }

    fn feed(&self, source: &Source, known: &mut HashMap<Source, Weak<Feed>>) -> Arc<Feed> {
        if let Some(feed) = known.get(source).and_then(Weak::upgrade) {
            return feed;
        }
        let feed = Arc::new(match source {
            Source::Dns(name) => Feed::polling(&self.runtime, source, dns::Addresses::new(name, &self.resolver)),
            Source::Srv { name, every } => {
                Feed::polling(&self.runtime, source, dns::Services::new(name, *every, &self.resolver))
            }
            Source::File(path) => Feed::polling(&self.runtime, source, file::ListFile::new(path)),
            Source::Registry(service) => Feed::told(&self.runtime, source, self.instances.watch(service)),
        });
        known.insert(source.clone(), Arc::downgrade(&feed));
        feed
    }
}

/// A list of endpoints, sorted, no address twice, not longer than an upstream may be.
fn tidy(mut endpoints: Vec<EndpointSpec>) -> Arc<[EndpointSpec]> {
    endpoints.sort_by_key(|it| it.address);
    endpoints.dedup_by_key(|it| it.address);
    endpoints.truncate(super::compile::ENDPOINTS_MAX);
    endpoints.into()
}
