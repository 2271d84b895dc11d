//! The one task that owns all that tends upstreams, health checkers and followers of sources: starts those of new
//! upstreams, stops those of upstreams that went or changed, and starts again what should not have ended.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select_all;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use super::check::check_all;
use super::live::Live;
use super::watch::{is_watched, watch as watch_live};

/// What is found within this time is taken in at once.
const TOGETHER: Duration = Duration::from_millis(20);
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// Follows the set of upstreams until its sender is gone; all checkers end with it.
pub(super) async fn supervise(mut wanted: watch::Receiver<Vec<Arc<Live>>>) {
    let mut checkers = Checkers::default();
    loop {
        let lives = wanted.borrow_and_update().clone();
        checkers.follow(&lives);
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = checkers.one_ended() => {}
        }
    }
}

/// Checks the endpoints of an upstream, judges them by what they do, and takes in those that its sources find.
async fn tend(live: Arc<Live>) {
    tokio::join!(check_all(Arc::clone(&live)), follow_feeds(&live), watch_live(&live), live.tell_of_passing());
}

async fn follow_feeds(live: &Live) {
    let mut feeds: Vec<_> = live.feeds().iter().map(|it| it.watch()).collect();
    while !feeds.is_empty() {
        live.take_in_found();
        sleep(TOGETHER).await;
        let (changed, ..) = select_all(feeds.iter_mut().map(|it| Box::pin(it.changed()))).await;
        if changed.is_err() {
            return;
        }
    }
}

#[derive(Default)]
struct Checkers {
    tasks: JoinSet<()>,
    running: Vec<(Arc<Live>, AbortHandle)>,
}

impl Checkers {
    fn follow(&mut self, wanted: &[Arc<Live>]) {
        self.running.retain(|(live, task)| {
            let stays = wanted.iter().any(|it| Arc::ptr_eq(it, live)) && !task.is_finished();
            if !stays {
                task.abort();
            }
            stays
        });
        let is_tended =
            |it: &Live| it.upstream().health.is_some() || !it.feeds().is_empty() || is_watched(it) || it.alerts();
        for live in wanted.iter().filter(|it| is_tended(it)) {
            if !self.running.iter().any(|(known, _)| Arc::ptr_eq(known, live)) {
                let task = self.tasks.spawn(tend(Arc::clone(live)));
                self.running.push((Arc::clone(live), task));
            }
        }
    }

    /// Returns when a checker ended, after a pause if that was a fault of ours.
    async fn one_ended(&mut self) {
        match self.tasks.join_next().await {
            Some(Err(error)) if error.is_panic() => {
                tracing::error!(event = "health_checker_failed", reason = %error, "the health checker of an upstream starts again");
                sleep(RESTART_AFTER).await;
            }
            Some(_) => {}
            None => pending().await,
        }
    }
}
