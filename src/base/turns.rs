//! Turns at work that takes too long for a thread that serves: so many at once, elsewhere; so many more may wait, and
//! of the places no network has more than its share, so that a flood from one keeps nobody else out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};

use super::network_of;

/// Of the places to wait in, a network has one in so many, beside what may be worked on at once.
const SHARE: usize = 4;

/// The stack of a thread at work, in bytes: what is deeply nested is gone through by recursion.
const STACK: usize = 8 * 1024 * 1024;

/// Too many wait, altogether or from this network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many wait for their turn")]
pub struct Busy;

/// Turns at one kind of work. Clones share them.
#[derive(Clone)]
pub struct Turns {
    turns: Arc<Semaphore>,
    crowd: Arc<Mutex<Crowd>>,
}

/// Who has a place, at work or waiting. As many networks as places at most.
struct Crowd {
    inside: usize,
    inside_max: usize,
    of_network: HashMap<IpAddr, usize>,
    of_network_max: usize,
}

/// A place, until the work is done.
struct Place {
    crowd: Arc<Mutex<Crowd>>,
    network: IpAddr,
}

impl Turns {
    /// `at_once` are worked on, and `waiting` more may wait.
    pub fn new(at_once: usize, waiting: usize) -> Self {
        let crowd = Crowd {
            inside: 0,
            inside_max: at_once + waiting,
            of_network: HashMap::new(),
            of_network_max: at_once + waiting / SHARE,
        };
        Self { turns: Arc::new(Semaphore::new(at_once)), crowd: Arc::new(Mutex::new(crowd)) }
    }

    /// Does work for this client on a thread of its own, which may take its time and is not waited for when the process
    /// ends. A caller who leaves while it waits gives its place up; one who leaves later ends nothing, and keeps the
    /// place until the work is done.
    ///
    /// # Errors
    /// When there is no place, or the work did not come to an end.
    pub async fn run<T: Send + 'static>(
        &self,
        client: IpAddr,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Busy> {
        let place = self.place(network_of(client))?;
        let turn = self.turns.clone().acquire_owned().await.map_err(|_| Busy)?;
        let (tell, done) = oneshot::channel();
        let thread = std::thread::Builder::new().name("turn".to_owned()).stack_size(STACK);
        let begun = thread.spawn(move || {
            let _held = (turn, place);
            let _ = tell.send(work()); // the caller may have left
        });
        begun.map_err(|_| Busy)?;
        done.await.map_err(|_| Busy)
    }

    fn place(&self, network: IpAddr) -> Result<Place, Busy> {
        let mut crowd = self.crowd.lock();
        let of_network = crowd.of_network.get(&network).copied().unwrap_or(0);
        if crowd.inside >= crowd.inside_max || of_network >= crowd.of_network_max {
            return Err(Busy);
        }
        crowd.inside += 1;
        crowd.of_network.insert(network, of_network + 1);
        Ok(Place { crowd: self.crowd.clone(), network })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut crowd = self.crowd.lock();
        crowd.inside -= 1;
        if let Some(count) = crowd.of_network.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                crowd.of_network.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(number: u8) -> IpAddr {
        IpAddr::from([10, 0, number, 1])
    }

    #[test]
    fn a_network_has_its_share_of_the_places_and_leaves_the_others() {
        let turns = Turns::new(2, 8);
        let flood: Vec<Place> = std::iter::repeat_with(|| turns.place(network(1))).map_while(Result::ok).collect();
        assert_eq!(flood.len(), 4, "two at work and a quarter of eight");
        let second: Vec<Place> = std::iter::repeat_with(|| turns.place(network(2))).map_while(Result::ok).collect();
        let third: Vec<Place> = std::iter::repeat_with(|| turns.place(network(3))).map_while(Result::ok).collect();
        assert_eq!((second.len(), third.len()), (4, 2), "and never more than all of them");
        drop((flood, second, third));
        assert!(turns.place(network(1)).is_ok());
        assert!(turns.crowd.lock().of_network.is_empty(), "nobody is remembered who has left");
    }

    #[test]
    fn work_is_not_waited_for_when_whoever_wanted_it_ends() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let turns = Turns::new(1, 3);
        let (begin, begun) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let (of_work, work) = (turns.clone(), move || (begin.send(()), ended.recv()).1.is_ok());
        runtime.spawn(async move { of_work.run(network(1), work).await });
        runtime.block_on(tokio::task::yield_now());
        begun.recv().unwrap();
        drop(runtime);
        assert_eq!(turns.crowd.lock().inside, 1, "it is at work, and keeps its place");
        end.send(()).unwrap();
    }

    #[tokio::test]
    async fn who_leaves_while_it_waits_gives_its_place_up() {
        let turns = Turns::new(1, 3);
        let held = turns.turns.clone().acquire_owned().await.unwrap();
        let waiting = turns.run(network(1), || ());
        assert!(futures_util::FutureExt::now_or_never(waiting).is_none());
        assert_eq!(turns.crowd.lock().inside, 0);
        drop(held);
        assert_eq!(turns.run(network(1), || 7).await, Ok(7));
    }
}
