//! Instances of services that register themselves, kept in the state: gateways that share it see the same.
//!
//! An instance is a record of its own that lives for its TTL, so that renewing it is one write and its end needs
//! nobody. An index says which there are. Gateways hear of a change by a message at once; what was lost on the way is
//! found by looking at the records when an instance would end, and at the index every few seconds. While the state
//! can't be reached nobody is taken away: what has really gone shows in health checks and failed connections.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};

use super::super::compile::{ENDPOINTS_MAX, EndpointSpec};
use super::super::metrics;
use crate::base::unix_seconds;
use crate::state::{Insert, Received, State, Unavailable};

const TOPIC: &str = "registry";
const INDEX: &str = "registry:index";
/// The index outlives any outage; every change renews it.
const INDEX_LIFE: Duration = Duration::from_secs(30 * 86_400);
/// How often the index is looked at, whatever messages say.
const RESYNC_EVERY: Duration = Duration::from_secs(5);
/// When to look again at an instance after the state was out of reach.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// So many look-ups for expiry run before anything else gets its turn.
const EXPIRED_AT_ONCE: usize = 64;
/// How often two gateways may be in each other's way before it is an error.
const SWAPS_MAX: usize = 16;
/// How long the beginning waits for the state.
const BEGIN_MAX: Duration = Duration::from_secs(2);
/// The most instances of all services.
const INSTANCES_MAX: usize = 10_000;
/// The most services.
const SERVICES_MAX: usize = 1_000;
/// The most bytes of an instance's record, metadata and all.
const RECORD_MAX: usize = 4_096;

/// What an instance says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Registration {
    /// Where it answers.
    pub address: SocketAddr,
    /// Its share of the requests.
    pub weight: u32,
    /// The zone that it stands in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Whatever else it says; shown, and not looked at.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
    /// How long it lives without being renewed, in milliseconds.
    pub ttl_ms: u64,
    /// When that is, in seconds since 1970: for people. What decides is the record's own end.
    pub expires_at: u64,
}

impl Registration {
    fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_ms)
    }

    fn spec(&self) -> EndpointSpec {
        EndpointSpec { address: self.address, weight: self.weight, zone: self.zone.as_deref().map(Into::into) }
    }
}

/// An instance that registered.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Its name within the service.
    pub name: String,
    /// What it said.
    pub registration: Registration,
}

/// What came of a registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// It was not there before.
    pub new: bool,
    /// When it ends unless it is renewed, in seconds since 1970.
    pub expires_at: u64,
}

/// Why an instance was not registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// There are as many as there may be.
    #[error("the registry is full: at most {0}")]
    Full(&'static str),
    /// It says too much.
    #[error("a registration has at most {RECORD_MAX} bytes")]
    TooLarge,
    /// The state can't be reached.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

type Endpoints = Option<Arc<[EndpointSpec]>>;
/// The names of instances, by service.
type Index = BTreeMap<String, Vec<String>>;

/// A message to all gateways.
#[derive(Serialize, Deserialize)]
struct Word {
    service: String,
    instance: String,
}

struct Known {
    registration: Registration,
    /// When its record has to be looked at.
    due: Instant,
}

#[derive(Default)]
struct Local {
    loaded: bool,
    services: BTreeMap<String, BTreeMap<String, Known>>,
    watchers: HashMap<Arc<str>, watch::Sender<Endpoints>>,
}

/// All instances that registered.
pub struct Instances {
    state: State,
    local: Mutex<Local>,
}

impl Instances {
    /// Those that this state keeps.
    pub fn new(state: &State) -> Arc<Self> {
        Arc::new(Self { state: state.clone(), local: Mutex::default() })
    }

    /// Registers an instance, or renews it.
    ///
    /// # Errors
    /// When there are too many, it says too much, or the state can't be reached.
    pub async fn register(
        &self,
        service: &str,
        name: &str,
        mut registration: Registration,
    ) -> Result<Registered, RegisterError> {
        let new = self.room_for(service, name)?;
        registration.expires_at = unix_seconds() + registration.ttl().as_secs();
        let expires_at = registration.expires_at;
        let record = serde_json::to_vec(&registration).unwrap_or_default();
        if record.len() > RECORD_MAX {
            return Err(RegisterError::TooLarge);
        }
        self.state.records.write(&key(service, name), Bytes::from(record), registration.ttl()).await?;
        if new && let Err(error) = self.enlist(service, name).await {
            if let RegisterError::Full(_) = error {
                let _ = self.state.records.delete(&key(service, name)).await; // else it ends by itself
            }
            return Err(error);
        }
        self.learn(service, name, Some(registration));
        self.tell(service, name).await;
        Ok(Registered { new, expires_at })
    }

    /// Takes an instance away; whether it was there.
    ///
    /// # Errors
    /// When the state can't be reached.
    pub async fn leave(&self, service: &str, name: &str) -> Result<bool, Unavailable> {
        let was_there = self.state.records.read(&key(service, name)).await?.is_some();
        self.state.records.delete(&key(service, name)).await?;
        self.forget_in_index(&[(service.into(), name.to_owned())]).await?;
        self.learn(service, name, None);
        self.tell(service, name).await;
        Ok(was_there)
    }

    /// All that are known here, by service.
    pub fn all(&self) -> BTreeMap<String, Vec<Instance>> {
        let local = self.local.lock();
        let instance = |(name, known): (&String, &Known)| Instance {
            name: name.clone(),
            registration: known.registration.clone(),
        };
        local.services.iter().map(|(service, of)| (service.clone(), of.iter().map(instance).collect())).collect()
    }

    /// The endpoints of a service, from now on; `None` until the state was looked at.
    pub(super) fn watch(&self, service: &Arc<str>) -> watch::Receiver<Endpoints> {
        let mut local = self.local.lock();
        let now = local.endpoints(service);
        local.watchers.retain(|_, it| it.receiver_count() > 0);
        local.watchers.entry(service.clone()).or_insert_with(|| watch::channel(now).0).subscribe()
    }

    /// Follows what all gateways register, and what ends. Runs until it is dropped.
    pub async fn follow(self: Arc<Self>) {
        let mut words = self.state.pubsub.subscribe(TOPIC);
        if timeout(BEGIN_MAX, self.resync()).await.is_err() {
            tracing::warn!(
                event = "registry_unavailable",
                "the state can't be reached; instances are unknown until it can be"
            );
        }
        self.loaded();
        let mut resync = Instant::now() + RESYNC_EVERY;
        loop {
            let next = self.next_due().map_or(resync, |it| it.min(resync));
            tokio::select! {
                word = words.next() => match word {
                    Some(Received::Message(word)) => self.hear(&word).await,
                    Some(Received::Lagged) => resync = Instant::now(),
                    None => return,
                },
                () = sleep_until(next.into()) => {}
            }
            self.expire().await;
            if Instant::now() >= resync {
                let _ = self.resync().await;
                resync = Instant::now() + RESYNC_EVERY;
            }
        }
    }

    /// Whether an instance is new, as far as is known here: what can't have room costs the state nothing.
    fn room_for(&self, service: &str, name: &str) -> Result<bool, RegisterError> {
        let local = self.local.lock();
        let of = local.services.get(service);
        if of.is_some_and(|it| it.contains_key(name)) {
            return Ok(false);
        }
        let all = local.services.values().map(BTreeMap::len).sum();
        bounded(of.map(BTreeMap::len), local.services.len(), all).map(|()| true)
    }

    /// Puts a new instance into the index. That is where the bounds hold, whoever registers at the same time, here or by
    /// way of another gateway.
    async fn enlist(&self, service: &str, name: &str) -> Result<(), RegisterError> {
        self.change_index(|index| {
            let of = index.get(service);
            if of.is_some_and(|it| it.iter().any(|it| it == name)) {
                return Ok(false);
            }
            bounded(of.map(Vec::len), index.len(), index.values().map(Vec::len).sum())?;
            index.entry(service.into()).or_default().push(name.to_owned());
            Ok(true)
        })
        .await
    }

    async fn tell(&self, service: &str, name: &str) {
        let word = Word { service: service.into(), instance: name.to_owned() };
        // Whoever does not hear it finds it at the next look.
        let _ = self.state.pubsub.publish(TOPIC, serde_json::to_vec(&word).unwrap_or_default().into()).await;
    }

    async fn hear(&self, word: &[u8]) {
        let Ok(Word { service, instance }) = serde_json::from_slice::<Word>(word) else { return };
        if let Ok(registration) = self.read(&service, &instance).await {
            self.learn(&service, &instance, registration);
        }
    }

    async fn read(&self, service: &str, name: &str) -> Result<Option<Registration>, Unavailable> {
        let record = self.state.records.read(&key(service, name)).await?;
        Ok(record.and_then(|it| serde_json::from_slice(&it).ok()))
    }

    /// What is known of an instance, from now on.
    fn learn(&self, service: &str, name: &str, registration: Option<Registration>) {
        let mut local = self.local.lock();
        match registration {
            Some(registration) => {
                let due = Instant::now() + registration.ttl();
                local
                    .services
                    .entry(service.to_owned())
                    .or_default()
                    .insert(name.to_owned(), Known { registration, due });
            }
            None => {
                if let Some(of) = local.services.get_mut(service) {
                    of.remove(name);
                    if of.is_empty() {
                        local.services.remove(service);
                    }
                }
            }
        }
        local.show(service);
    }

    fn loaded(&self) {
        let mut local = self.local.lock();
        local.loaded = true;
        let watched: Vec<Arc<str>> = local.watchers.keys().cloned().collect();
        watched.iter().for_each(|it| local.show(it));
    }

    fn next_due(&self) -> Option<Instant> {
        self.local.lock().services.values().flat_map(BTreeMap::values).map(|it| it.due).min()
    }

    /// Looks at the records of those that should have been renewed by now.
    async fn expire(&self) {
        let due: Vec<(String, String)> = {
            let (local, now) = (self.local.lock(), Instant::now());
            let all = local.services.iter().flat_map(|(service, of)| of.iter().map(move |it| (service, it)));
            let late = all.filter(|(_, (_, known))| known.due <= now).take(EXPIRED_AT_ONCE);
            late.map(|(service, (name, _))| (service.clone(), name.clone())).collect()
        };
        let mut gone = Vec::new();
        for (service, name) in due {
            match self.read(&service, &name).await {
                // It was renewed by way of another gateway, and the message was lost.
                Ok(Some(registration)) => self.learn(&service, &name, Some(registration)),
                Ok(None) => {
                    tracing::info!(event = "instance_expired", service = %service, instance = %name, "it was not renewed in time");
                    self.learn(&service, &name, None);
                    gone.push((service, name));
                }
                Err(Unavailable) => self.postpone(&service, &name),
            }
        }
        if !gone.is_empty() {
            let _ = self.forget_in_index(&gone).await;
        }
    }

    fn postpone(&self, service: &str, name: &str) {
        let mut local = self.local.lock();
        if let Some(known) = local.services.get_mut(service).and_then(|it| it.get_mut(name)) {
            known.due = Instant::now() + LOOK_AGAIN;
        }
    }

    /// Learns of instances that the index has and nobody told of; a name whose record has ended meanwhile takes no place
    /// there any more. Those that the index has not end by their own time.
    async fn resync(&self) -> Result<(), Unavailable> {
        let (index, _) = self.index().await?;
        let mut gone = Vec::new();
        for (service, names) in &index {
            for name in names {
                let known = self.local.lock().services.get(service).is_some_and(|it| it.contains_key(name));
                if known {
                    continue;
                }
                match self.read(service, name).await? {
                    Some(registration) => self.learn(service, name, Some(registration)),
                    None => gone.push((service.clone(), name.clone())),
                }
            }
        }
        if !gone.is_empty() {
            self.forget_in_index(&gone).await?;
        }
        self.mend_index(&index).await
    }

    /// A state that lost its memory has no index: those that are renewed here are put into it again.
    async fn mend_index(&self, index: &Index) -> Result<(), Unavailable> {
        let missing: Vec<(String, String)> = {
            let local = self.local.lock();
            let all = local.services.iter().flat_map(|(service, of)| of.keys().map(move |name| (service, name)));
            let listed = |service: &String, name: &String| index.get(service).is_some_and(|it| it.contains(name));
            all.filter(|(service, name)| !listed(service, name)).map(|(s, n)| (s.clone(), n.clone())).collect()
        };
        if missing.is_empty() {
            return Ok(());
        }
        self.change_index(|index| {
            for (service, name) in &missing {
                let names = index.entry(service.clone()).or_default();
                if !names.contains(name) {
                    names.push(name.clone());
                }
            }
            Ok::<_, Unavailable>(true)
        })
        .await
    }

    async fn forget_in_index(&self, gone: &[(String, String)]) -> Result<(), Unavailable> {
        self.change_index(|index| {
            let before: usize = index.values().map(Vec::len).sum();
            for (service, name) in gone {
                if let Some(names) = index.get_mut(service) {
                    names.retain(|it| it != name);
                }
            }
            index.retain(|_, names| !names.is_empty());
            Ok::<_, Unavailable>(index.values().map(Vec::len).sum::<usize>() != before)
        })
        .await
    }

    async fn index(&self) -> Result<(Index, Option<Bytes>), Unavailable> {
        let written = self.state.records.read(INDEX).await?;
        let index = written.as_deref().and_then(|it| serde_json::from_slice(it).ok()).unwrap_or_default();
        Ok((index, written))
    }

    /// Changes the index, whoever else does at the same time; `change` says whether there is anything to write.
    async fn change_index<E: From<Unavailable>>(
        &self,
        change: impl Fn(&mut Index) -> Result<bool, E>,
    ) -> Result<(), E> {
        for _ in 0..SWAPS_MAX {
            let (mut index, written) = self.index().await?;
            if !change(&mut index)? {
                return Ok(());
            }
            let new = Bytes::from(serde_json::to_vec(&index).unwrap_or_default());
            let records = &self.state.records;
            let done = match written {
                Some(old) => records.compare_and_swap(INDEX, &old, new, INDEX_LIFE).await?,
                None => records.insert_if_absent(INDEX, new, INDEX_LIFE).await? == Insert::Inserted,
            };
            if done {
                return Ok(());
            }
        }
        Err(Unavailable.into())
    }
}

/// Whether there is room for one more: instances of its service (if that is known), services, instances of all.
fn bounded(of: Option<usize>, services: usize, all: usize) -> Result<(), RegisterError> {
    match of {
        Some(ENDPOINTS_MAX..) => Err(RegisterError::Full("1,000 instances a service")),
        None if services >= SERVICES_MAX => Err(RegisterError::Full("1,000 services")),
        _ if all >= INSTANCES_MAX => Err(RegisterError::Full("10,000 instances in all")),
        _ => Ok(()),
    }
}

impl Local {
    fn endpoints(&self, service: &str) -> Endpoints {
        if !self.loaded {
            return None;
        }
        let of = self.services.get(service).into_iter().flat_map(BTreeMap::values);
        Some(super::tidy(of.map(|it| it.registration.spec()).collect()))
    }

    /// Tells whoever follows the service, if there is anything new.
    fn show(&self, service: &str) {
        metrics::INSTANCES.set(self.services.values().map(BTreeMap::len).sum::<usize>() as i64);
        let Some(watcher) = self.watchers.get(service) else { return };
        let now = self.endpoints(service);
        watcher.send_if_modified(|it| {
            let differs = *it != now;
            *it = now;
            differs
        });
    }
}

fn key(service: &str, name: &str) -> String {
    format!("registry:instance:{service}/{name}")
}
