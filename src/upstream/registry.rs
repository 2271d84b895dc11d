//! All upstreams that live. A reload hands in the compiled ones; what did not change lives on.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::compile::Upstream;
use super::live::Live;
use super::report::UpstreamReport;
use super::supervisor::supervise;

/// All upstreams that live, and the supervisor of their health checkers.
pub struct UpstreamRegistry {
    lives: watch::Sender<Vec<Arc<Live>>>,
    /// Held while a reload is applied: two at once would share what only one may take over.
    applying: Mutex<()>,
    supervisor: Mutex<Option<AbortHandle>>,
}

impl UpstreamRegistry {
    /// An empty one, without a supervisor.
    pub fn new() -> Self {
        Self { lives: watch::Sender::new(Vec::new()), applying: Mutex::new(()), supervisor: Mutex::new(None) }
    }

    /// Starts the supervisor on a runtime that requests do not depend on. Until then endpoints
    /// count as healthy. A second call moves the checkers to the new runtime.
    pub fn start(&self, runtime: &Handle) {
        let task = runtime.spawn(supervise(self.lives.subscribe())).abort_handle();
        if let Some(former) = self.supervisor.lock().replace(task) {
            former.abort();
        }
    }

    /// Makes these the upstreams that live, and returns them in the same order.
    ///
    /// An upstream that did not change stays the very same. In one that changed, endpoints whose
    /// address stays keep health, counters and requests in flight. Those that are not listed any
    /// more end: their checkers stop and their metrics go; requests under way go on.
    pub fn apply(&self, upstreams: &[Arc<Upstream>]) -> Vec<Arc<Live>> {
        let _one_at_a_time = self.applying.lock();
        let old = self.lives.borrow().clone();
        let new: Vec<_> = upstreams.iter().map(|upstream| live(upstream, &old)).collect();
        for live in &new {
            for endpoint in live.missing_in(named(&old, &live.upstream().name)) {
                let (upstream, address) = (&live.upstream().name, endpoint.address());
                live.count_change();
                tracing::info!(event = "endpoint_added", upstream = %upstream, endpoint = %address, "the endpoint is new");
            }
        }
        for live in &old {
            retire(live, named(&new, &live.upstream().name));
        }
        self.lives.send_replace(new.clone());
        new
    }

    /// What the admin API shows, in the order in which the upstreams were handed in.
    pub fn report(&self) -> Vec<UpstreamReport> {
        self.lives.borrow().iter().map(|it| UpstreamReport::new(it)).collect()
    }

    /// Brings metrics up to date that would cost requests too much to keep so. Call it before a scrape.
    pub fn refresh_metrics(&self) {
        let lives = self.lives.borrow();
        lives.iter().flat_map(|it| it.endpoints()).for_each(|it| it.state.refresh_metrics());
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

fn live(upstream: &Arc<Upstream>, old: &[Arc<Live>]) -> Arc<Live> {
    match old.iter().find(|it| it.upstream().name == upstream.name) {
        Some(same) if same.upstream() == upstream => Arc::clone(same),
        former => Arc::new(Live::new(Arc::clone(upstream), former.map(|it| &**it))),
    }
}

/// Ends what is in `old` and not in its successor.
fn retire(old: &Live, successor: Option<&Live>) {
    let upstream = &old.upstream().name;
    for endpoint in old.missing_in(successor) {
        old.count_change();
        endpoint.state.retire();
        tracing::info!(event = "endpoint_removed", upstream = %upstream, endpoint = %endpoint.address(), "the endpoint is gone");
    }
    if successor.is_none() {
        old.retire();
    }
}

fn named<'a>(lives: &'a [Arc<Live>], name: &str) -> Option<&'a Live> {
    lives.iter().find(|it| &*it.upstream().name == name).map(|it| &**it)
}
