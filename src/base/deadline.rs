//! Deadlines that cost a few nanoseconds: one table and one sweeper a thread instead of a timer each.
//!
//! A gateway arms several deadlines for every request and almost none of them ever fires. So an
//! armed [`Deadline`] is a slot in a table of its thread, which a sweeper looks through every
//! [`GRAIN`]; a deadline fires late by that much at most. A deadline is bound to the thread that
//! first polls it, which is right for runtimes without work stealing.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// How late a deadline may fire.
const GRAIN: Duration = Duration::from_millis(20);

thread_local! {
    static TABLE: RefCell<Table> = const { RefCell::new(Table { slots: Vec::new(), free: Vec::new() }) };
    static SWEEPING: Cell<bool> = const { Cell::new(false) };
    static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
}

struct Table {
    slots: Vec<Option<(Instant, Waker)>>,
    free: Vec<usize>,
}

/// The time to within the sweeper's grain, for decisions that need no better, such as the age of
/// an idle connection.
pub fn coarse_now() -> Instant {
    NOW.get().unwrap_or_else(Instant::now)
}

/// A moment at which to give up. Armed and disarmed as often as wanted; polled beside the real work.
#[derive(Debug, Default)]
pub struct Deadline {
    at: Option<Instant>,
    slot: Option<usize>,
}

impl Deadline {
    /// One that is not armed.
    pub const fn idle() -> Self {
        Self { at: None, slot: None }
    }

    /// One that fires after `length`.
    pub fn after(length: Duration) -> Self {
        let mut deadline = Self::idle();
        deadline.arm(length);
        deadline
    }

    /// Fires after `length` from now on, whatever was set before.
    pub fn arm(&mut self, length: Duration) {
        self.arm_at(Instant::now() + length);
    }

    /// Fires at `moment`, whatever was set before.
    pub fn arm_at(&mut self, moment: Instant) {
        self.at = Some(moment);
        if let Some(slot) = self.slot {
            TABLE.with_borrow_mut(|table| {
                if let Some(Some((at, _))) = table.slots.get_mut(slot) {
                    *at = moment;
                }
            });
        }
    }

    /// Never fires, until it is armed again.
    pub fn disarm(&mut self) {
        self.at = None;
        self.release();
    }

    /// What a future comes to, if it does so within `length`.
    pub async fn within<T>(length: Duration, future: impl Future<Output = T>) -> Option<T> {
        let mut deadline = Self::after(length);
        let mut future = pin!(future);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(it) => Poll::Ready(Some(it)),
            Poll::Pending => deadline.poll_expired(cx).map(|()| None),
        })
        .await
    }

    /// Whether the moment has come; if not, the task is woken when it does.
    pub fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.at else { return Poll::Pending };
        let Some(slot) = self.slot else {
            if at <= Instant::now() {
                return Poll::Ready(());
            }
            self.slot = Some(TABLE.with_borrow_mut(|table| table.insert(at, cx.waker().clone())));
            sweep_this_thread();
            return Poll::Pending;
        };
        if at <= coarse_now() {
            return Poll::Ready(());
        }
        TABLE.with_borrow_mut(|table| table.rewake(slot, cx.waker()));
        Poll::Pending
    }

    fn release(&mut self) {
        if let Some(slot) = self.slot.take() {
            // The table may be gone already when the thread ends.
            let _ = TABLE.try_with(|table| table.borrow_mut().remove(slot));
        }
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.release();
    }
}

impl Table {
    fn insert(&mut self, at: Instant, waker: Waker) -> usize {
        match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = Some((at, waker));
                slot
            }
            None => {
                self.slots.push(Some((at, waker)));
                self.slots.len() - 1
            }
        }
    }

    fn rewake(&mut self, slot: usize, waker: &Waker) {
        if let Some(Some((_, known))) = self.slots.get_mut(slot)
            && !known.will_wake(waker)
        {
            known.clone_from(waker);
        }
    }

    fn remove(&mut self, slot: usize) {
        if let Some(place) = self.slots.get_mut(slot) {
            *place = None;
            self.free.push(slot);
        }
    }
}

/// Starts this thread's sweeper, once.
fn sweep_this_thread() {
    if SWEEPING.replace(true) {
        return;
    }
    // If the runtime ends and another one takes the thread (as tests do), the next poll starts anew.
    struct Stopped;
    impl Drop for Stopped {
        fn drop(&mut self) {
            let _ = SWEEPING.try_with(|it| it.set(false));
            let _ = NOW.try_with(|it| it.set(None));
        }
    }
    let stopped = Stopped;
    tokio::spawn(async move {
        let _stopped = stopped;
        loop {
            tokio::time::sleep(GRAIN).await;
            let now = Instant::now();
            NOW.set(Some(now));
            let mut due = Vec::new();
            TABLE.with_borrow(|table| {
                let passed = table.slots.iter().flatten().filter(|(at, _)| *at <= now);
                due.extend(passed.map(|(_, waker)| waker.clone()));
            });
            due.into_iter().for_each(Waker::wake);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[tokio::test]
    async fn it_fires_when_its_time_has_come_and_not_before() {
        let start = Instant::now();
        let mut deadline = Deadline::after(Duration::from_millis(30));
        poll_fn(|cx| deadline.poll_expired(cx)).await;
        assert!(start.elapsed() >= Duration::from_millis(30));
    }

    #[tokio::test]
    async fn arming_anew_moves_it() {
        let start = Instant::now();
        let mut deadline = Deadline::after(Duration::from_millis(10));
        let first = poll_fn(|cx| Poll::Ready(deadline.poll_expired(cx))).await;
        assert!(first.is_pending());
        deadline.arm(Duration::from_millis(80));
        poll_fn(|cx| deadline.poll_expired(cx)).await;
        assert!(start.elapsed() >= Duration::from_millis(80));
    }

    #[tokio::test]
    async fn slots_are_given_back() {
        for _ in 0..100 {
            let mut deadline = Deadline::after(Duration::from_secs(60));
            let _ = poll_fn(|cx| Poll::Ready(deadline.poll_expired(cx))).await;
        }
        assert!(TABLE.with_borrow(|table| table.slots.len()) < 10);
    }
}
