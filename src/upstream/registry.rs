//! All upstreams that live. A reload hands in the compiled ones; what did not change lives on.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::compile::Upstream;
use super::dependencies::needed_by;
use super::discovery::{Discovery, Feed, Source};
use super::live::Live;
use super::report::UpstreamReport;
use super::supervisor::supervise;
use crate::alerts::Alerts;

/// All upstreams that live, and the supervisor of their health checkers.
pub struct UpstreamRegistry {
    lives: watch::Sender<Vec<Arc<Live>>>,
    /// Held while a reload is applied: two at once would share what only one may take over.
    applying: Mutex<()>,
    supervisor: Mutex<Option<AbortHandle>>,
    discovery: OnceLock<Discovery>,
    alerts: OnceLock<Alerts>,
}

impl UpstreamRegistry {
    /// An empty one, without a supervisor.
    pub fn new() -> Self {
        Self {
            lives: watch::Sender::new(Vec::new()),
            applying: Mutex::new(()),
            supervisor: Mutex::new(None),
            discovery: OnceLock::new(),
            alerts: OnceLock::new(),
        }
    }

    /// Starts the supervisor on a runtime that requests do not depend on. Until then endpoints
    /// count as healthy. A second call moves the checkers to the new runtime.
    pub fn start(&self, runtime: &Handle) {
        let task = runtime.spawn(supervise(self.lives.subscribe())).abort_handle();
        if let Some(former) = self.supervisor.lock().replace(task) {
            former.abort();
        }
    }

    /// Follows sources of endpoints from now on: before, upstreams have those alone that are listed. Once.
    pub fn discover(&self, discovery: Discovery) {
        let _ = self.discovery.set(discovery);
    }

    /// Sends each change of health there, too: of upstreams that come from now on. Once.
    pub fn alert(&self, alerts: Alerts) {
        let _ = self.alerts.set(alerts);
    }

    /// What follows sources, if anything does.
    pub fn discovery(&self) -> Option<&Discovery> {
        self.discovery.get()
    }

    /// Makes these the upstreams that live, and returns them in the same order. Waits for the first answers of new
    /// sources, some seconds at most: not for a thread of requests.
    ///
    /// An upstream that did not change stays the very same. In one that changed, endpoints whose
    /// address stays keep health, counters and requests in flight. Those that are not listed any
    /// more end: their checkers stop and their metrics go; requests under way go on.
    pub fn apply(&self, upstreams: &[Arc<Upstream>]) -> Vec<Arc<Live>> {
        let _one_at_a_time = self.applying.lock();
        let old = self.lives.borrow().clone();
        let mut feeds = self.feeds(upstreams);
        let new: Vec<_> = upstreams
            .iter()
            .map(|upstream| {
                let own = feeds.drain(..upstream.sources.len().min(feeds.len())).collect();
                live(upstream, own, &old, self.alerts.get())
            })
            .collect();
        for live in &new {
            let former = named(&old, &live.upstream().name);
            for endpoint in live.missing_in(former) {
                live.announce_added(endpoint.address());
            }
            if former.is_none() {
                live.forget_passing();
            }
        }
        for live in &old {
            let successor = named(&new, &live.upstream().name);
            retire(live, successor);
            if successor.is_none() {
                live.flush_passing(); // nobody is left to do it later
            }
        }
        link(&new);
        self.lives.send_replace(new.clone());
        new
    }

    /// The feeds of all sources, in the order of the upstreams.
    fn feeds(&self, upstreams: &[Arc<Upstream>]) -> Vec<Arc<Feed>> {
        let sources: Vec<Source> = upstreams.iter().flat_map(|it| it.sources.iter().cloned()).collect();
        match self.discovery.get() {
            Some(discovery) if !sources.is_empty() => discovery.feeds(&sources),
            _ => Vec::new(),
        }
    }

    /// What the admin API shows, in the order in which the upstreams were handed in.
    pub fn report(&self) -> Vec<UpstreamReport> {
        self.lives.borrow().iter().map(|it| UpstreamReport::new(it)).collect()
    }

    /// How many upstreams can't serve, for lack of endpoints or of what they depend on.
    pub fn down(&self) -> usize {
        self.lives.borrow().iter().filter(|it| it.is_down()).count()
    }

    /// Brings metrics up to date that would cost requests too much to keep so. Call it before a scrape.
    pub fn refresh_metrics(&self) {
        let lives = self.lives.borrow();
        lives.iter().flat_map(|it| it.endpoints()).for_each(|it| it.state.refresh_metrics());
        lives.iter().filter_map(|it| it.concurrency()).for_each(|it| it.refresh_metrics());
    }
}

impl Default for UpstreamRegistry {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for UpstreamRegistry {
    fn drop(&mut self) {
        if let Some(supervisor) = self.supervisor.lock().take() {
            supervisor.abort();
        }
        self.lives.borrow().iter().for_each(|it| retire(it, None));
    }
}

fn live(upstream: &Arc<Upstream>, feeds: Vec<Arc<Feed>>, old: &[Arc<Live>], alerts: Option<&Alerts>) -> Arc<Live> {
    match old.iter().find(|it| it.upstream().name == upstream.name) {
        Some(same) if same.upstream() == upstream => Arc::clone(same),
        former => Arc::new(Live::new(Arc::clone(upstream), feeds, former.map(|it| &**it), alerts)),
    }
}

/// Lets upstreams look at those that they depend on.
fn link(lives: &[Arc<Live>]) {
    let by_name: HashMap<&str, &Arc<Live>> = lives.iter().map(|it| (&*it.upstream().name, it)).collect();
    for live in lives {
        if let Some(dependencies) = live.dependencies() {
            dependencies.link(needed_by(live, &by_name));
        }
    }
}

/// Ends what is in `old` and not in its successor.
fn retire(old: &Live, successor: Option<&Live>) {
    old.missing_in(successor).iter().for_each(|it| old.announce_removed(it));
    if successor.is_none() {
        old.retire();
    }
}

fn named<'a>(lives: &'a [Arc<Live>], name: &str) -> Option<&'a Live> {
    lives.iter().find(|it| &*it.upstream().name == name).map(|it| &**it)
}
