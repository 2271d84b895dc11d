//! How many requests an upstream works on at once. What comes beyond that waits in a queue that has a bound and serves
//! the most important first (R5.2); what does not fit into that, or waits too long, is shed.
//!
//! `pingora-limits` counts in flight by key, but has no queue and no classes; its `Rate` serves the rate limits. A
//! request that finds room costs two atomics; the lock is for those that have to wait.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::{IntCounter, IntGauge};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::gradient::{Gradient, LIMIT_FIRST};
use super::metrics;
use crate::base::{At, Diagnostics, Period};

/// The longest queue, in requests.
const QUEUE_MAX: u32 = 10_000;
/// The most requests at once; more are no limit.
const LIMIT_MAX: u32 = 1_000_000;

/// How important a route's requests are, where an upstream is at its limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Served first, shed last.
    Therapeutic = 0,
    /// In between.
    #[default]
    Normal = 1,
    /// Served last, shed first.
    Background = 2,
}

impl Priority {
    /// From the most important to the least.
    const ALL: [Self; 3] = [Self::Therapeutic, Self::Normal, Self::Background];

    fn name(self) -> &'static str {
        match self {
            Self::Therapeutic => "therapeutic",
            Self::Normal => "normal",
            Self::Background => "background",
        }
    }
}

/// How many requests the upstream works on at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("examples" = [{ "max": 200 }]))]
pub struct ConcurrencyConfig {
    /// So many; or `adaptive`: as many as it answers without making them wait, found by the latency of its answers.
    /// Event streams and connections that changed protocols count until their head.
    pub max: ConcurrencyMax,
    /// So many more may wait for their turn, the routes' `priority` first; whoever does not fit gets 503. 0 for none.
    #[serde(default = "queue_default")]
    #[schemars(range(max = 10000))]
    pub queue: u32,
    /// Whoever waits for longer gets 503. Default 1s.
    #[serde(default = "queue_timeout_default")]
    pub queue_timeout: Period,
}

fn queue_default() -> u32 {
    100
}

fn queue_timeout_default() -> Period {
    Period::secs(1)
}

/// How many requests at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ConcurrencyMax {
    /// So many.
    Fixed(u32),
    /// As its latency says.
    Adaptive(AdaptiveWord),
}

/// The word for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdaptiveWord {
    /// By latency.
    Adaptive,
}

/// Compiled: how many requests at once, and how many may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConcurrencyPolicy {
    /// `None` if latency decides.
    max: Option<u32>,
    queue: u32,
    queue_timeout: Duration,
}

impl ConcurrencyPolicy {
    /// Reports what makes no sense.
    pub(super) fn compile(config: &ConcurrencyConfig, at: &At<'_>, diagnostics: &mut Diagnostics) -> Self {
        let max = match config.max {
            ConcurrencyMax::Fixed(max) => Some(max),
            ConcurrencyMax::Adaptive(_) => None,
        };
        if max.is_some_and(|it| !(1..=LIMIT_MAX).contains(&it)) {
            diagnostics
                .error(&at.key("max"), format!("must be from 1 to {LIMIT_MAX}"))
                .help("write how many requests the upstream can work on at once, or `adaptive`");
        }
        if config.queue > QUEUE_MAX {
            diagnostics
                .error(&at.key("queue"), format!("{} is too many to wait", config.queue))
                .help(format!("at most {QUEUE_MAX}; who waits behind so many waits in vain"));
        }
        if config.queue_timeout.0.is_zero() {
            diagnostics.error(&at.key("queue_timeout"), "must be longer than nothing").help("`queue: 0` for no queue");
        }
        Self { max, queue: config.queue, queue_timeout: config.queue_timeout.0 }
    }

    fn first_limit(self) -> u32 {
        self.max.unwrap_or(LIMIT_FIRST)
    }
}

/// The limit of an upstream at work. It outlives reloads: what is under way goes on counting.
pub struct Concurrency {
    limit: AtomicU32,
    in_use: AtomicU32,
    /// Those in the queue.
    waiting: AtomicU32,
    adaptive: AtomicBool,
    gradient: Gradient,
    queue: Mutex<Queue>,
    shed: [IntCounter; 3],
    gauges: [IntGauge; 3],
    upstream: Box<str>,
}

struct Queue {
    policy: ConcurrencyPolicy,
    /// By class, then in the order in which they came.
    classes: [BTreeMap<u64, oneshot::Sender<Permit>>; 3],
    next: u64,
}

impl Queue {
    fn len(&self) -> usize {
        self.classes.iter().map(BTreeMap::len).sum()
    }

    fn take_first(&mut self) -> Option<oneshot::Sender<Permit>> {
        self.classes.iter_mut().find_map(BTreeMap::pop_first).map(|it| it.1)
    }

    /// Puts out the one that came last of the least important, if that is less important than this.
    fn displace_for(&mut self, priority: Priority) -> Option<(usize, oneshot::Sender<Permit>)> {
        let least = (0..self.classes.len()).rev().find(|it| !self.classes[*it].is_empty())?;
        let displaced = (least > priority as usize).then(|| self.classes[least].pop_last())??;
        Some((least, displaced.1))
    }
}

/// Whether a request may go to the upstream now.
pub enum Admission {
    /// It may.
    Now(Permit),
    /// When its turn comes.
    Later(Turn),
    /// There is no room to wait in.
    Shed,
}

impl Concurrency {
    pub(super) fn new(upstream: &str, policy: ConcurrencyPolicy) -> Self {
        let shed = |it: Priority| metrics::SHED.with_label_values(&[upstream, it.name()]);
        Self {
            limit: AtomicU32::new(policy.first_limit()),
            in_use: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            adaptive: AtomicBool::new(policy.max.is_none()),
            gradient: Gradient::default(),
            queue: Mutex::new(Queue { policy, classes: Default::default(), next: 0 }),
            shed: Priority::ALL.map(shed),
            gauges: [&metrics::CONCURRENCY_LIMIT, &metrics::CONCURRENCY_IN_USE, &metrics::CONCURRENCY_WAITING]
                .map(|it| it.with_label_values(&[upstream])),
            upstream: upstream.into(),
        }
    }

    /// Goes on under this policy.
    pub(super) fn adopt(self: &Arc<Self>, policy: ConcurrencyPolicy) {
        let before = std::mem::replace(&mut self.queue.lock().policy, policy);
        if before.max != policy.max {
            self.adaptive.store(policy.max.is_none(), Relaxed);
            self.limit.store(policy.first_limit(), SeqCst);
            self.serve_queue();
        }
    }

    /// A place at the upstream: now, later, or not at all.
    pub fn admit(self: &Arc<Self>, priority: Priority) -> Admission {
        if self.waiting.load(SeqCst) == 0
            && let Some(permit) = self.take()
        {
            return Admission::Now(permit);
        }
        self.enqueue(priority)
    }

    /// A place at the upstream if one is free and nobody waits for it.
    pub fn try_admit(self: &Arc<Self>) -> Option<Permit> {
        (self.waiting.load(SeqCst) == 0).then(|| self.take())?
    }

    fn take(self: &Arc<Self>) -> Option<Permit> {
        let more = |it| (it < self.limit.load(SeqCst)).then_some(it + 1);
        let before = self.in_use.fetch_update(SeqCst, SeqCst, more).ok()?;
        if self.adaptive.load(Relaxed) {
            self.gradient.saw_in_use(before + 1);
        }
        Some(Permit(Arc::clone(self)))
    }

    fn enqueue(self: &Arc<Self>, priority: Priority) -> Admission {
        let (sender, receiver) = oneshot::channel();
        let mut queue = self.queue.lock();
        if queue.len() >= queue.policy.queue as usize {
            let Some((class, displaced)) = queue.displace_for(priority) else {
                drop(queue);
                self.shed[priority as usize].inc();
                return Admission::Shed;
            };
            self.waiting.fetch_sub(1, SeqCst);
            self.shed[class].inc();
            drop(displaced);
        }
        let number = queue.next;
        queue.next += 1;
        queue.classes[priority as usize].insert(number, sender);
        let timeout = queue.policy.queue_timeout;
        self.waiting.fetch_add(1, SeqCst);
        drop(queue);
        let turn = Turn { limit: Arc::clone(self), receiver, priority, number, timeout };
        // A place that became free before this one was in the queue was given to nobody.
        self.serve_queue();
        Admission::Later(turn)
    }

    /// Gives places that are free to those who wait.
    fn serve_queue(self: &Arc<Self>) {
        while self.waiting.load(SeqCst) > 0 {
            let Some(permit) = self.take() else { return };
            let mut permit = Some(permit);
            while let Some(free) = permit.take() {
                let Some(first) = self.leave_first() else { break };
                // Who has gone meanwhile does not take it.
                permit = first.send(free).err();
            }
        }
    }

    fn leave_first(&self) -> Option<oneshot::Sender<Permit>> {
        let mut queue = self.queue.lock();
        let first = queue.take_first()?;
        self.waiting.fetch_sub(1, SeqCst);
        Some(first)
    }

    fn leave(&self, priority: Priority, number: u64) -> bool {
        let mut queue = self.queue.lock();
        let left = queue.classes[priority as usize].remove(&number).is_some();
        if left {
            self.waiting.fetch_sub(1, SeqCst);
        }
        left
    }

    fn release(self: &Arc<Self>) {
        self.in_use.fetch_sub(1, SeqCst);
        self.serve_queue();
    }

    fn saw(self: &Arc<Self>, latency: Duration) {
        if !self.adaptive.load(Relaxed) {
            return;
        }
        if let Some(limit) = self.gradient.saw(latency, self.limit.load(Relaxed)) {
            self.limit.store(limit, SeqCst);
            self.serve_queue();
        }
    }

    pub(super) fn report(&self) -> ConcurrencyReport {
        ConcurrencyReport {
            limit: self.limit.load(Relaxed),
            adaptive: self.adaptive.load(Relaxed),
            in_use: self.in_use.load(Relaxed),
            waiting: self.waiting.load(Relaxed),
            shed: self.shed.iter().map(IntCounter::get).sum(),
        }
    }

    pub(super) fn refresh_metrics(&self) {
        let now = self.report();
        for (gauge, value) in self.gauges.iter().zip([now.limit, now.in_use, now.waiting]) {
            gauge.set(value.into());
        }
    }

    /// Removes its series.
    pub(super) fn retire(&self) {
        for family in [&metrics::CONCURRENCY_LIMIT, &metrics::CONCURRENCY_IN_USE, &metrics::CONCURRENCY_WAITING] {
            let _ = family.remove_label_values(&[&self.upstream]);
        }
        for priority in Priority::ALL {
            let _ = metrics::SHED.remove_label_values(&[&*self.upstream, priority.name()]);
        }
    }
}

/// What the admin API shows of a limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConcurrencyReport {
    /// How many requests at once there may be now.
    pub limit: u32,
    /// Whether latency decides that.
    pub adaptive: bool,
    /// How many there are.
    pub in_use: u32,
    /// How many wait for their turn.
    pub waiting: u32,
    /// How many got 503 since the upstream is there.
    pub shed: u64,
}

/// A place at the upstream, until it is dropped.
pub struct Permit(Arc<Concurrency>);

impl Permit {
    /// Takes in how long an answer's head took; or, of one that came too late, how long it was waited for.
    pub fn saw(&self, latency: Duration) {
        self.0.saw(latency);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// A place in the queue; who drops it leaves. It ends with a permit, or with nothing if somebody more important took the
/// place.
pub struct Turn {
    limit: Arc<Concurrency>,
    receiver: oneshot::Receiver<Permit>,
    priority: Priority,
    number: u64,
    /// How long to wait at most.
    pub timeout: Duration,
}

impl Turn {
    /// It has waited for too long: leaves the queue, and counts as shed. The permit, if it came just now.
    pub fn give_up(&mut self) -> Option<Permit> {
        if self.limit.leave(self.priority, self.number) {
            self.limit.shed[self.priority as usize].inc();
            return None;
        }
        self.receiver.try_recv().ok()
    }
}

impl Future for Turn {
    type Output = Option<Permit>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.receiver).poll(cx).map(Result::ok)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.limit.leave(self.priority, self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// Under a name of its own, for the counters are everybody's.
    fn limit(name: &str, max: u32, queue: u32) -> Arc<Concurrency> {
        let policy = ConcurrencyPolicy { max: Some(max), queue, queue_timeout: Duration::from_secs(1) };
        Arc::new(Concurrency::new(name, policy))
    }

    fn now(limit: &Arc<Concurrency>) -> Permit {
        let Admission::Now(permit) = limit.admit(Priority::Normal) else { panic!("there is room") };
        permit
    }

    fn later(limit: &Arc<Concurrency>, priority: Priority) -> Turn {
        let Admission::Later(turn) = limit.admit(priority) else { panic!("there is room to wait") };
        turn
    }

    #[test]
    fn r5_2_the_most_important_comes_first_and_equals_in_their_order() {
        let limit = limit("order", 1, 4);
        let held = now(&limit);
        let [mut background, mut first, mut second, mut therapeutic] =
            [Priority::Background, Priority::Normal, Priority::Normal, Priority::Therapeutic]
                .map(|it| later(&limit, it));
        drop(held);
        for turn in [&mut therapeutic, &mut first, &mut second, &mut background] {
            let permit = turn.now_or_never().expect("it is its turn").expect("a permit");
            assert_eq!(limit.report().in_use, 1);
            drop(permit);
        }
        assert_eq!((limit.report().in_use, limit.report().waiting), (0, 0));
    }

    #[test]
    fn a_full_queue_sheds_who_is_least_important() {
        let limit = limit("full", 1, 2);
        let _held = now(&limit);
        let mut background = later(&limit, Priority::Background);
        let mut normal = later(&limit, Priority::Normal);
        assert!(matches!(limit.admit(Priority::Background), Admission::Shed), "nobody is less important");
        let therapeutic = later(&limit, Priority::Therapeutic);
        assert!((&mut background).now_or_never().is_some_and(|it| it.is_none()), "it had to leave");
        assert!((&mut normal).now_or_never().is_none());
        assert_eq!((limit.report().waiting, limit.report().shed), (2, 2));
        drop(therapeutic);
        assert_eq!(limit.report().waiting, 1);
    }

    #[test]
    fn who_leaves_gives_back_what_came_meanwhile() {
        let limit = limit("leaves", 1, 2);
        let held = now(&limit);
        let (gone, mut stays) = (later(&limit, Priority::Normal), later(&limit, Priority::Normal));
        drop(held); // `gone` has the permit, and never looked
        drop(gone);
        assert!((&mut stays).now_or_never().is_some_and(|it| it.is_some()));
        drop(stays);
        assert_eq!((limit.report().in_use, limit.report().waiting), (0, 0));
    }

    #[test]
    fn a_reload_keeps_what_is_under_way_and_lets_in_who_waits() {
        let limit = limit("reload", 1, 2);
        let _held = now(&limit);
        let mut turn = later(&limit, Priority::Normal);
        limit.adopt(ConcurrencyPolicy { max: Some(2), queue: 2, queue_timeout: Duration::from_secs(1) });
        assert!((&mut turn).now_or_never().is_some_and(|it| it.is_some()));
        assert_eq!((limit.report().limit, limit.report().in_use), (2, 1), "the second was dropped at once");
    }

    #[test]
    fn no_place_is_lost_between_threads() {
        let limit = limit("threads", 3, 10_000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..5_000_usize {
                        let permit = match limit.admit(Priority::ALL[round % 3]) {
                            Admission::Now(permit) => Some(permit),
                            Admission::Later(turn) => block_on(turn),
                            Admission::Shed => None,
                        };
                        assert!(limit.report().in_use <= 3);
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!((limit.report().in_use, limit.report().waiting, limit.report().shed), (0, 0, 0));
    }

    fn block_on(turn: Turn) -> Option<Permit> {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(turn)
    }
}
