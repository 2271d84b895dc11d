//! How much of everything: the short form for `cargo test`, the full one for `make soak`, and each
//! number by itself for whoever looks for a fault.

use std::time::Duration;

/// One number: as `MOONGATE_SOAK_…` says, else the long one for `MOONGATE_SOAK=full`, else the short one.
pub fn size(name: &str, short: usize, long: usize) -> usize {
    let full = std::env::var("MOONGATE_SOAK").is_ok_and(|it| it == "full");
    let written = std::env::var(format!("MOONGATE_SOAK_{name}")).ok();
    written.map_or(if full { long } else { short }, |it| it.parse().unwrap())
}

/// The size of a soak.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Connections that ask without a pause.
    pub clients: usize,
    /// WebSockets open throughout, and as many event streams.
    pub streams: usize,
    /// WebSockets that are silent between a first message and a last one.
    pub idle: usize,
    pub reloads: usize,
    /// Between a reload and the next.
    pub reload_pause: Duration,
    /// An endpoint lives so long, once all is well, before the next one is killed.
    pub kill_pause: Duration,
    /// Endpoints killed at least.
    pub kills: usize,
}

impl Sizes {
    /// `MOONGATE_SOAK=full`, or the short form; `MOONGATE_SOAK_RELOADS` and its like overrule it.
    pub fn from_environment() -> Self {
        let pause = |name: &str, short, long| Duration::from_millis(size(name, short, long) as u64);
        let (clients, streams) = (size("CLIENTS", 8, 32), size("STREAMS", 20, 200));
        Self {
            clients,
            streams,
            idle: size("IDLE", 200, 10_000).min(idle_max(clients, streams)),
            reloads: size("RELOADS", 60, 1000),
            reload_pause: pause("RELOAD_PAUSE_MS", 100, 150),
            kill_pause: pause("KILL_PAUSE_MS", 500, 2000),
            kills: size("KILLS", 4, 20),
        }
    }
}

/// Files that a process has open besides sockets, and connections to endpoints that wait.
const OTHER_FILES: usize = 512;

/// As many as the gateway may have: two descriptors each, as everything else that is open at once has.
fn idle_max(clients: usize, streams: usize) -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find_map(|it| it.strip_prefix("Max open files")).unwrap();
    let soft = line.split_whitespace().next().unwrap();
    let most = soft
        .parse()
        .map_or(usize::MAX, |files: usize| files.saturating_sub(OTHER_FILES + 2 * (clients + 2 * streams)) / 2);
    println!("soak: {soft} open files are allowed, so at most {most} idle sockets");
    most
}
