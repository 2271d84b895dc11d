//! What is looked at again and again, off the requests' way: endpoints whose window has ended, those whose time out is
//! over, upstreams that others depend on, and how requests are spread over zones.

use std::time::{Duration, Instant};

use tokio::time::{Instant as Tick, MissedTickBehavior, interval_at};

use super::live::Live;

/// From one look to the next, unless a window is shorter.
const EVERY: Duration = Duration::from_secs(1);

/// Whether there is anything to look at.
pub(super) fn is_watched(live: &Live) -> bool {
    let upstream = live.upstream();
    upstream.outliers.is_some() || upstream.own_zone.is_some() || live.dependencies().is_some()
}

/// Looks after an upstream until it is dropped.
pub(super) async fn watch(live: &Live) {
    if !is_watched(live) {
        return;
    }
    let windows = live.upstream().outliers.map_or([None; 2], |it| it.windows());
    let every = windows.iter().flatten().min().map_or(EVERY, |it| EVERY.min(*it));
    let mut began = [Instant::now(); 2];
    let mut looks = interval_at(Tick::now() + every, every);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = looks.tick() => {
                live.judge(ended(&mut began, windows, Instant::now()));
                live.missing_dependency();
            }
            () = live.changed() => {}
        }
        live.weigh_zones();
    }
}

/// Which of the windows have ended; those begin anew.
fn ended(began: &mut [Instant; 2], windows: [Option<Duration>; 2], now: Instant) -> [bool; 2] {
    [0, 1].map(|it| {
        let ended = windows[it].is_some_and(|window| now.duration_since(began[it]) >= window);
        if ended {
            began[it] = now;
        }
        ended
    })
}
