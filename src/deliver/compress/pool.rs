//! The threads that compress. Half as many as the machine has, so that the workers always have the other half.
//!
//! Bounded twice: so many responses at once, since each holds a window of memory, and so many pieces in the queue, since
//! each has to be waited for. What does not fit goes out as it is.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use once_cell::sync::Lazy;
use parking_lot::{Condvar, Mutex};

use super::metrics::{ACTIVE, QUEUED, SKIPPED};

/// So many responses are compressed at once.
pub const ACTIVE_MAX: usize = 512;
/// With so many pieces waiting for each thread, no further response is begun.
const QUEUE_PER_THREAD: usize = 32;

static POOL: Lazy<Pool> = Lazy::new(Pool::start);
static ACTIVE_NOW: AtomicUsize = AtomicUsize::new(0);

type Job = Box<dyn FnOnce() + Send>;

struct Pool {
    queue: Arc<Queue>,
    /// With so many pieces in the queue, no further response is begun.
    begin_max: usize,
}

#[derive(Default)]
struct Queue {
    jobs: Mutex<VecDeque<Job>>,
    some: Condvar,
}

impl Pool {
    fn start() -> Self {
        let queue = Arc::new(Queue::default());
        let wanted = thread::available_parallelism().map_or(1, |it| it.get().div_ceil(2));
        let begin = |number: usize| {
            let queue = queue.clone();
            thread::Builder::new().name(format!("compress-{number}")).spawn(move || queue.work()).is_ok()
        };
        // Where none could be started, nothing is compressed.
        let threads = (0..wanted).filter(|it| begin(*it)).count();
        Self { queue, begin_max: threads * QUEUE_PER_THREAD }
    }
}

impl Queue {
    fn work(&self) {
        loop {
            let job = {
                let mut jobs = self.jobs.lock();
                loop {
                    match jobs.pop_front() {
                        Some(job) => break job,
                        None => self.some.wait(&mut jobs),
                    }
                }
            };
            QUEUED.dec();
            // A job that panics answers nobody, and its response breaks off; the thread goes on.
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    }
}

/// The room that one response takes, until it is dropped.
pub(super) struct Room(());

impl Room {
    /// `None` if there is none, which is counted.
    pub(super) fn take() -> Option<Self> {
        let begun = ACTIVE_NOW.fetch_add(1, Ordering::Relaxed);
        let room = Self(());
        ACTIVE.inc();
        if begun >= ACTIVE_MAX || POOL.queue.jobs.lock().len() >= POOL.begin_max {
            SKIPPED.inc();
            return None; // dropped, it takes itself back
        }
        Some(room)
    }

    /// Does this on a thread of the pool. A response has one piece in the queue at a time: so the queue is bounded by
    /// the responses that are begun.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        QUEUED.inc();
        POOL.queue.jobs.lock().push_back(Box::new(job));
        POOL.queue.some.notify_one();
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        ACTIVE_NOW.fetch_sub(1, Ordering::Relaxed);
        ACTIVE.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_bound_nothing_is_begun_and_what_ends_makes_room() {
        let rooms: Vec<Room> = std::iter::repeat_with(Room::take).map_while(|it| it).take(ACTIVE_MAX + 1).collect();
        assert_eq!(rooms.len(), ACTIVE_MAX);
        let skipped = SKIPPED.get();
        assert!(Room::take().is_none());
        assert_eq!(SKIPPED.get(), skipped + 1);
        drop(rooms);
        let (tell, done) = std::sync::mpsc::channel();
        let room = Room::take().unwrap();
        room.run(|| panic!("a piece that breaks"));
        room.run(move || tell.send(()).unwrap());
        done.recv().expect("the threads go on");
    }
}
