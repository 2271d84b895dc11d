//! The connection to Redis: made, watched and made anew on the side runtime, used from every thread.
//!
//! Not the library's `ConnectionManager`: that one spawns its work on whatever runtime a call comes from,
//! here a worker's, and lets every call wait while Redis is gone. The first call that gets no
//! answer in time, or a `PING` that does not, takes the connection away; from then on calls fail
//! at once, until another connection has shown that Redis answers.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use ::redis::aio::MultiplexedConnection;
use ::redis::{
    AsyncConnectionConfig, Client, ErrorKind, FromRedisValue, PushInfo, PushKind, RedisError, RedisResult,
    ServerErrorKind, cmd,
};
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::state::config::RedisAccess;
use crate::state::metrics::{self, Failures};
use crate::state::pubsub::{Hub, Received};
use crate::state::records::Unavailable;

/// How long making a connection may take in all.
const CONNECT: Duration = Duration::from_secs(1);
/// The pause after the first attempt that failed; it doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How often a connection is tried when nobody uses it.
const PING_EVERY: Duration = Duration::from_millis(500);
/// So many calls under way at once; more are refused.
const CALLS_MAX: usize = 8_192;
/// The same trouble is logged once in this time.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// The connection to Redis.
pub(in crate::state) struct Link {
    access: RedisAccess,
    live: ArcSwapOption<Live>,
    /// Told when a connection was taken away.
    lost: Notify,
    calls: AtomicUsize,
    failures: Failures,
    told: Mutex<Told>,
    hub: Arc<Hub>,
    /// The origin in our own messages, by which those of others are known.
    origin: [u8; 16],
}

struct Live {
    /// Which connection it is: an error of an old one says nothing about the new.
    number: u64,
    connection: MultiplexedConnection,
}

/// What was logged, and when.
#[derive(Default)]
struct Told {
    down: bool,
    down_at: Option<Instant>,
    refused_at: Option<Instant>,
}

impl Link {
    /// Waits for the end of the first attempt to connect, whatever it comes to.
    pub(in crate::state) fn open(access: &RedisAccess, hub: Arc<Hub>, side: &Handle) -> Arc<Self> {
        let link = Arc::new(Self {
            access: access.clone(),
            live: ArcSwapOption::empty(),
            lost: Notify::new(),
            calls: AtomicUsize::new(0),
            failures: Failures::new(),
            told: Mutex::default(),
            hub,
            origin: fastrand::u128(..).to_ne_bytes(),
        });
        metrics::UP.set(0);
        let (tried, first) = std::sync::mpsc::sync_channel(1);
        side.spawn(keep(Arc::downgrade(&link), tried));
        let _ = first.recv_timeout(CONNECT * 2);
        link
    }

    /// A key as Redis knows it.
    pub(in crate::state) fn key(&self, key: &str) -> String {
        format!("{}{key}", self.access.prefix)
    }

    /// The connection, for one call; to be handed to [`Link::settle`] with its number.
    pub(in crate::state) fn connection(&self) -> Result<(u64, MultiplexedConnection), Unavailable> {
        match &*self.live.load() {
            Some(live) => Ok((live.number, live.connection.clone())),
            None => {
                self.failures.down.inc();
                Err(Unavailable)
            }
        }
    }

    /// Waits for a call's answer, not longer than it may take.
    pub(in crate::state) async fn settle<T>(
        &self,
        number: u64,
        call: impl Future<Output = RedisResult<T>>,
    ) -> Result<T, Unavailable> {
        let Some(_under_way) = UnderWay::enter(&self.calls) else {
            self.failures.crowded.inc();
            return Err(Unavailable);
        };
        match timeout(self.access.timeout, call).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) if breaks(&error) => {
                self.failures.broken.inc();
                self.lose(number, kind(&error));
            }
            Ok(Err(error)) => self.refused(&error),
            Err(_) => {
                self.failures.timeout.inc();
                self.lose(number, "no answer in time");
            }
        }
        Err(Unavailable)
    }

    /// Redis is there, but says no: its memory is full, or the user may not do that.
    fn refused(&self, error: &RedisError) {
        self.failures.refused.inc();
        let mut told = self.told.lock();
        if told.refused_at.is_none_or(|it| it.elapsed() > TOLD_EVERY) {
            told.refused_at = Some(Instant::now());
            tracing::warn!(event = "state_refused", backend = "redis", error = kind(error));
        }
    }

    /// Takes this connection away, if it is still the one in use.
    fn lose(&self, number: u64, why: &str) {
        let live = self.live.load();
        if live.as_ref().is_none_or(|it| it.number != number) {
            return;
        }
        let former = self.live.compare_and_swap(&*live, None);
        if former.as_ref().is_some_and(|it| it.number == number) {
            self.tell_down(why);
            self.lost.notify_one();
        }
    }

    fn tell_down(&self, why: &str) {
        metrics::UP.set(0);
        let mut told = self.told.lock();
        if told.down || told.down_at.is_some_and(|it| it.elapsed() < TOLD_EVERY) {
            return;
        }
        (told.down, told.down_at) = (true, Some(Instant::now()));
        tracing::error!(event = "state_unavailable", backend = "redis", error = why, "shared state can't be reached");
    }

    fn gain(&self, live: Live) {
        self.live.store(Some(Arc::new(live)));
        metrics::UP.set(1);
        if std::mem::take(&mut self.told.lock().down) {
            tracing::info!(event = "state_available", backend = "redis", "shared state can be reached again");
        }
    }

    pub(in crate::state) async fn publish(&self, topic: &str, message: &[u8]) -> Result<(), Unavailable> {
        let (number, mut connection) = self.connection()?;
        let message = [&self.origin[..], message].concat();
        let command = cmd("PUBLISH").arg(self.key(&format!("notices:{topic}"))).arg(message).take();
        self.settle(number, command.query_async::<()>(&mut connection)).await?;
        metrics::PUBSUB.with_label_values(&["sent"]).inc();
        Ok(())
    }

    /// Something came that no call waits for.
    fn pushed(&self, number: u64, push: &PushInfo) {
        match push.kind {
            PushKind::Disconnection => self.lose(number, "the connection was closed"),
            // What is not a message of ours is ignored.
            PushKind::PMessage => self.deliver_push(push).unwrap_or_default(),
            _ => {}
        }
    }

    fn deliver_push(&self, push: &PushInfo) -> Option<()> {
        let [_, channel, message] = &push.data[..] else { return None };
        let channel = String::from_redis_value_ref(channel).ok()?;
        let topic = channel.strip_prefix(&*self.key("notices:"))?;
        let message = Vec::<u8>::from_redis_value_ref(message).ok()?;
        let (origin, message) = message.split_at_checked(self.origin.len())?;
        if origin != self.origin {
            metrics::PUBSUB.with_label_values(&["received"]).inc();
            self.hub.deliver(topic, &Received::Message(Bytes::copy_from_slice(message)));
        }
        Some(())
    }
}

/// Counts a call for as long as it is under way.
struct UnderWay<'l>(&'l AtomicUsize);

impl<'l> UnderWay<'l> {
    fn enter(calls: &'l AtomicUsize) -> Option<Self> {
        let entered = Self(calls);
        (calls.fetch_add(1, Ordering::Relaxed) < CALLS_MAX).then_some(entered)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether nothing more can be hoped for from this connection.
fn breaks(error: &RedisError) -> bool {
    use ServerErrorKind::{BusyLoading, ClusterDown, MasterDown, ReadOnly};
    let elsewhere = matches!(error.kind(), ErrorKind::Server(BusyLoading | ClusterDown | MasterDown | ReadOnly));
    elsewhere
        || error.is_io_error()
        || error.is_timeout()
        || error.is_connection_dropped()
        || error.is_unrecoverable_error()
}

/// What kind of error it is; its text may quote what was sent.
fn kind(error: &RedisError) -> &str {
    error.code().unwrap_or_else(|| if error.is_timeout() { "no answer in time" } else { error.category() })
}

/// Sees to it that there is a connection, for as long as there is a link.
async fn keep(link: Weak<Link>, tried: std::sync::mpsc::SyncSender<()>) {
    let mut pause = PAUSE;
    for number in 1.. {
        let Some(strong) = link.upgrade() else { return };
        let access = strong.access.clone();
        drop(strong); // nobody would wait for the end of an attempt
        let attempt = timeout(CONNECT, connect(&access, number, link.clone())).await;
        let Some(strong) = link.upgrade() else { return };
        match attempt {
            Ok(Ok(connection)) => {
                strong.gain(Live { number, connection });
                let _ = tried.try_send(());
                if number > 1 {
                    strong.hub.missed();
                }
                drop(strong);
                watch(&link, number).await;
                pause = PAUSE;
            }
            failed => {
                let error = failed.ok().and_then(Result::err);
                strong.tell_down(error.as_ref().map_or("no answer in time", kind));
                let _ = tried.try_send(());
            }
        }
        // Not in step with the other gateways.
        tokio::time::sleep(pause.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// A connection that receives messages, and has answered.
async fn connect(access: &RedisAccess, number: u64, link: Weak<Link>) -> RedisResult<MultiplexedConnection> {
    let pushed = move |push: PushInfo| link.upgrade().map(|it| it.pushed(number, &push)).ok_or(::redis::aio::SendError);
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None) // ours bounds the whole
        .set_response_timeout(None)
        .set_pipeline_buffer_size(1_024)
        .set_push_sender(pushed);
    let client = Client::open(access.server.clone())?;
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    connection.psubscribe(format!("{}notices:*", access.prefix)).await?;
    cmd("PING").query_async::<()>(&mut connection).await?;
    Ok(connection)
}

/// Until this connection is lost.
async fn watch(link: &Weak<Link>, number: u64) {
    loop {
        let Some(link) = link.upgrade() else { return };
        // Whether it was lost or only the time is over shows below.
        let _ = timeout(PING_EVERY, link.lost.notified()).await;
        let Ok((current, mut connection)) = link.connection() else { return };
        if current != number || link.settle(number, cmd("PING").query_async::<()>(&mut connection)).await.is_err() {
            return;
        }
    }
}
