//! The gateway under load for a while: routes and upstreams come and go, endpoints die and come back,
//! sockets stay open, and nobody may notice.
//!
//! `cargo test` runs the short form, `make soak` the full one; [`sizes`] has both.

#![allow(unreachable_pub, dead_code, unused_imports)]
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod addresses;
mod ledger;
mod load;
mod sizes;
mod stage;
mod streams;
mod support;

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use ledger::Ledger;
use sizes::Sizes;
use stage::{Stage, wait_until};
use streams::Progress;

/// Of the reloads, this part only warms up: pools, allocators and tables get their size.
const WARM_UP: usize = 10;
/// Memory may grow by this part of what it was when warm, and by that much besides.
const GROWTH_PART: u64 = 5;
const GROWTH_KIB: u64 = 10 * 1024;
/// Requests that the warm-up waits for, each client.
const WARM_REQUESTS: u64 = 50;
/// Reloads before anything is measured.
const WARM_RELOADS: usize = 10;
/// What an idle socket may take of the gateway's memory, in KiB; told by so many of them, or more.
const SOCKET_KIB: f64 = 24.0;
const SOCKETS_TELL: usize = 1000;
/// So soon after they have closed, memory is what it was, within this part of it, and with the load still on.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
const SETTLED_PART: u64 = 5;

#[test]
fn under_load_no_request_fails_no_socket_closes_and_memory_stays_flat() {
    let sizes = Sizes::from_environment();
    println!("soak: {sizes:?}");
    let (stage, endpoints) = Stage::set();
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let ledger = Arc::new(Ledger::new());
    let streams = OpenStreams::start(&runtime, &stage, &ledger, sizes.streams);
    let load = Load::start(&runtime, &stage, &ledger, sizes.clients);
    wait_until("the load is on", || ledger.requests.load(Relaxed) >= WARM_REQUESTS * sizes.clients as u64);
    // Tables that hold generations get their size.
    reload_all(&stage, &sizes, &ledger, 1..=WARM_RELOADS);
    let idle = Idle::open(&runtime, &stage, &ledger, &sizes);

    let began = Instant::now();
    let (memory, shaken) = std::thread::scope(|scope| {
        // The sender is never used: when it is gone, by a panic too, that is the word to stop.
        let (stop, stopped) = mpsc::channel();
        let shaking = scope.spawn(|| stage.shake(endpoints, &sizes, stopped));
        let memory = reload_all(&stage, &sizes, &ledger, WARM_RELOADS + 1..=WARM_RELOADS + sizes.reloads);
        drop(stop);
        (memory, shaking.join().unwrap())
    });
    let took = began.elapsed();
    idle.close(&runtime, &stage, &ledger);
    load.stop(&runtime);
    let ended_well = streams.stop(&runtime);

    let counted = |it: &std::sync::atomic::AtomicU64| it.load(Relaxed);
    println!(
        "soak: {} requests in {:.0} s ({:.0}/s), p50 {:?}, p99 {:?}, slowest {:?}",
        counted(&ledger.requests),
        took.as_secs_f64(),
        counted(&ledger.requests) as f64 / took.as_secs_f64(),
        ledger.percentile(0.5),
        ledger.percentile(0.99),
        ledger.slowest()
    );
    println!(
        "soak: {} reloads, {} deaths, {} messages on {} sockets, {} events on {} streams",
        sizes.reloads,
        shaken.deaths,
        counted(&ledger.messages),
        sizes.streams,
        counted(&ledger.events),
        sizes.streams
    );
    println!("soak: memory in KiB: {memory:?}; {} descriptors, {} series", stage.descriptors(), stage.series());

    let (faults, first) = ledger.faults();
    assert_eq!(faults, 0, "{first:#?}\n{}", stage.what_went_wrong());
    assert_eq!(ended_well, 2 * sizes.streams);
    assert_flat(&memory);
    wait_until("nothing is left of former configurations", || stage.metric("moongate_config_generations_alive") <= 1.0);
    assert_eq!(stage.metric("moongate_streams_open"), 0.0);
    assert_eq!(stage.metric("moongate_requests_in_flight"), 0.0);
}

/// Memory, sampled from when all was warm to the end.
fn reload_all(stage: &Stage, sizes: &Sizes, ledger: &Ledger, numbers: RangeInclusive<usize>) -> Vec<u64> {
    let every = (sizes.reloads / WARM_UP).max(1);
    let mut memory = Vec::new();
    for number in numbers {
        stage.reload(number);
        if let Err(fault) = stage.check(number) {
            ledger.fault(fault);
        }
        if number % every == 0 {
            memory.push(stage.memory());
        }
        std::thread::park_timeout(sizes.reload_pause);
    }
    memory
}

/// The end is held against the warm start, and the last third against the one in the middle, where all
/// that is bounded has found its size.
fn assert_flat(memory: &[u64]) {
    let (first, last) = (memory[0], memory[memory.len() - 1]);
    assert!(last <= first + first / GROWTH_PART + GROWTH_KIB, "memory grows: {memory:?} KiB");
    let third = memory.len() / 3;
    let lowest = |part: &[u64]| *part.iter().min().unwrap();
    if third > 0 {
        let (middle, end) = (lowest(&memory[third..2 * third]), lowest(&memory[2 * third..]));
        assert!(end <= middle + middle / GROWTH_PART / 2 + GROWTH_KIB / 2, "memory rises: {memory:?} KiB");
    }
}

/// Clients that ask without a pause.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(runtime: &Runtime, stage: &Stage, ledger: &Arc<Ledger>, clients: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |number| load::client(number, stage.gateway.public(), ledger.clone(), stop.clone());
        let clients = (0..clients).map(|number| runtime.spawn(client(number))).collect();
        Self { stop, clients }
    }

    fn stop(self, runtime: &Runtime) {
        self.stop.store(true, Relaxed);
        self.clients.into_iter().for_each(|it| runtime.block_on(it).unwrap());
    }
}

/// WebSockets that are open and silent, and what they cost.
struct Idle {
    stop: watch::Sender<bool>,
    progress: Arc<Progress>,
    tasks: Vec<JoinHandle<()>>,
    /// Streams that were open before.
    others: usize,
    /// The gateway's memory before, in KiB.
    before: u64,
}

impl Idle {
    fn open(runtime: &Runtime, stage: &Stage, ledger: &Arc<Ledger>, sizes: &Sizes) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (progress, turns) = (Arc::new(Progress::default()), streams::turns());
        let (gateway, others, before) = (stage.gateway.public(), 2 * sizes.streams, stage.memory());
        let socket = |number| {
            let (book, far, end) = (ledger.clone(), progress.clone(), stopped.clone());
            runtime.spawn(streams::idle(number, gateway, book, far, end, turns.clone()))
        };
        let tasks: Vec<_> = (0..sizes.idle).map(socket).collect();
        wait_until("all idle sockets are open", || {
            assert_eq!(ledger.faults().0, 0, "{:#?}", ledger.faults().1);
            progress.open.load(Relaxed) == sizes.idle
        });
        assert_eq!(stage.metric("moongate_streams_open"), (others + sizes.idle) as f64);
        let with = stage.memory();
        let each = with.saturating_sub(before) as f64 / sizes.idle.max(1) as f64;
        println!(
            "soak: {} idle sockets, {before} KiB before them, {with} KiB with them: {each:.1} KiB each",
            sizes.idle
        );
        assert!(sizes.idle < SOCKETS_TELL || each < SOCKET_KIB, "{each:.1} KiB for each idle socket");
        Self { stop, progress, tasks, others, before }
    }

    /// Ends all of them by the book, and waits until nothing is left of them.
    fn close(self, runtime: &Runtime, stage: &Stage, ledger: &Ledger) {
        let count = self.tasks.len();
        assert_eq!(stage.metric("moongate_streams_open"), (self.others + count) as f64);
        self.stop.send_replace(true);
        self.tasks.into_iter().for_each(|it| runtime.block_on(it).unwrap());
        assert_eq!(self.progress.ended_well.load(Relaxed), count, "{:#?}", ledger.faults());
        wait_until("they are not counted any more", || stage.metric("moongate_streams_open") == self.others as f64);
        let closed = Instant::now();
        let most = self.before + self.before / SETTLED_PART + if count < SOCKETS_TELL { GROWTH_KIB } else { 0 };
        let mut memory = vec![stage.memory()];
        while memory[memory.len() - 1] > most {
            assert!(closed.elapsed() < SETTLED_WITHIN, "of {} KiB at most {most}, {memory:?} are left", self.before);
            std::thread::park_timeout(Duration::from_secs(1));
            memory.push(stage.memory());
        }
        println!("soak: closed, {:.0?} later: {memory:?} KiB", closed.elapsed());
    }
}

/// WebSockets and event streams, all open.
struct OpenStreams {
    stop: watch::Sender<bool>,
    progress: Arc<Progress>,
    tasks: Vec<JoinHandle<()>>,
}

impl OpenStreams {
    fn start(runtime: &Runtime, stage: &Stage, ledger: &Arc<Ledger>, each: usize) -> Self {
        let (stop, stopped) = watch::channel(false);
        let progress = Arc::new(Progress::default());
        let gateway = stage.gateway.public();
        let mut tasks = Vec::new();
        for number in 0..each {
            let given = || (ledger.clone(), progress.clone(), stopped.clone());
            let (book, far, end) = given();
            tasks.push(runtime.spawn(streams::websocket(number, gateway, book, far, end)));
            let (book, far, end) = given();
            tasks.push(runtime.spawn(streams::events(number, gateway, book, far, end)));
        }
        wait_until("all streams are open", || {
            assert_eq!(ledger.faults().0, 0, "{:#?}", ledger.faults().1);
            progress.open.load(Relaxed) == 2 * each
        });
        Self { stop, progress, tasks }
    }

    /// How many had one more message and an end by the book.
    fn stop(self, runtime: &Runtime) -> usize {
        self.stop.send_replace(true);
        self.tasks.into_iter().for_each(|it| runtime.block_on(it).unwrap());
        self.progress.ended_well.load(Relaxed)
    }
}
