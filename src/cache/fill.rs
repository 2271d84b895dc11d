//! A request that fetches a response which may be stored: from its head to the end of its body.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE as RANGE_FIELD};
use http::{HeaderMap, Method, StatusCode};
use pingora::http::{RequestHeader, ResponseHeader};

use crate::cache::cache_status::{CacheStatus, Verdict};
use crate::cache::cached_response::{CachedResponse, give};
use crate::cache::conditional::{Condition, Validators};
use crate::cache::config::Rules;
use crate::cache::directives::ResponseDirectives;
use crate::cache::freshness::{self, Credentials, Freshness, NotStorable};
use crate::cache::in_flight::{InFlight, Outcome};
use crate::cache::key::{self, Target};
use crate::cache::metrics::METRICS;
use crate::cache::object::{Object, Slot};
use crate::cache::store::{Cache, GRACE, TakenDown, now};

/// So many background refreshes run at a time.
const REFRESHES_MAX: i64 = 256;

/// Counts a refresh: a response that is fetched in the background.
pub struct Refresh(());

impl Refresh {
    fn begin() -> Self {
        METRICS.refreshes.inc();
        Self(())
    }
}

impl Drop for Refresh {
    fn drop(&mut self) {
        METRICS.refreshes.dec();
    }
}

/// A request that fetches a response which may be stored. Dropped, it keeps nothing and lets others go.
pub struct Fill {
    pub(super) cache: Arc<Cache>,
    pub(super) rules: Arc<Rules>,
    /// Without the fields that responses vary by.
    pub(super) primary: Vec<u8>,
    /// The key that was looked up.
    pub(super) key: Vec<u8>,
    /// The fields by which responses varied when it was looked up.
    pub(super) vary: Arc<[HeaderName]>,
    pub(super) method: Method,
    /// The request's fields, as the upstream gets them.
    pub(super) headers: HeaderMap,
    pub(super) target: Target,
    pub(super) depends: Arc<[u64]>,
    pub(super) known: u64,
    pub(super) stamp: Option<u64>,
    pub(super) credentials: Credentials,
    pub(super) in_flight: Option<InFlight>,
    /// Its room while its body is read.
    pub(super) taken_down: Option<TakenDown>,
    /// What is kept and has to be confirmed, and whether it can be served if the upstream fails.
    pub(super) stale: Option<(Arc<Object>, bool)>,
    pub(super) status: CacheStatus,
    /// What the response's head said.
    pub(super) freshness: Option<(Freshness, Box<ResponseHeader>)>,
}

impl std::fmt::Debug for Fill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fill").field("target", &self.target).field("status", &self.status).finish_non_exhaustive()
    }
}

impl Fill {
    /// The largest body that is of use, in bytes.
    pub fn body_max(&self) -> usize {
        self.cache.object_max(&self.rules)
    }

    /// The method with which a response is fetched.
    pub fn fetches_with(&self) -> Method {
        if self.method == Method::HEAD { Method::GET } else { self.method.clone() }
    }

    /// The cache status if the client gets the upstream's response.
    pub const fn status(&self) -> CacheStatus {
        self.status
    }

    /// Whether something is stored, or the request is conditional: then the response is not simply passed on.
    pub fn asks(&self) -> bool {
        self.stale.is_some() || self.headers.contains_key(IF_NONE_MATCH) || self.headers.contains_key(IF_MODIFIED_SINCE)
    }

    /// Whether something is kept that may still hold.
    pub const fn has_kept(&self) -> bool {
        self.stale.is_some()
    }

    /// Whether the body is of a length that is known, and not too long.
    pub fn fits(&self, answer: &ResponseHeader) -> bool {
        length(answer).is_some_and(|it| it <= self.body_max())
    }

    /// Makes the request one for word that what is kept still holds (RFC 9111, section 4.3.1). Where nothing is kept,
    /// the client's own conditions go to the upstream, which judges them (section 4.3.2).
    pub fn ask_on_conditions(&self, request: &mut RequestHeader) {
        if self.has_kept() {
            self.ask_for(request);
        }
    }

    /// Makes the request one for the whole response, or for word that what is kept still holds.
    pub fn ask_for(&self, request: &mut RequestHeader) {
        for field in [IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_RANGE, RANGE_FIELD] {
            request.remove_header(&field);
        }
        let Some((object, _)) = &self.stale else { return };
        if let Some(etag) = object.validators().etag {
            let _ = request.insert_header(IF_NONE_MATCH, etag.clone());
        }
        if let Some(modified) = object.head.headers.get(LAST_MODIFIED) {
            let _ = request.insert_header(IF_MODIFIED_SINCE, modified.clone());
        }
    }

    /// Whether the upstream's 304 is about what is kept. If it is about something else, that is gone: it has to be
    /// asked again, without a condition (RFC 9111, section 4.3.4).
    pub fn is_confirmed_by(&mut self, answer: &ResponseHeader) -> bool {
        let about = self.stale.as_ref().is_some_and(|(it, _)| it.validators().are_those_of(&answer.headers));
        if !about {
            self.stale = None;
            self.cache.memory.remove(&self.key);
        }
        about
    }

    /// The upstream says that what is kept still holds: it is fresh again, and served. `None` if nothing is kept.
    pub fn confirmed(mut self, answer: &ResponseHeader) -> Option<CachedResponse> {
        let (stale, _) = self.stale.take()?;
        let merged = merged(&stale.head.headers, &answer.headers);
        let freshness = Freshness::of(&self.rules, self.credentials, stale.head.status, &merged, now());
        self.status.verdict = Verdict::Revalidated;
        self.status.forwarded_status = Some(304);
        match freshness {
            Ok(freshness) => {
                let object = Arc::new(stale.confirmed(answer, freshness, self.known)?);
                self.status.stored = self.keep(&object);
                self.complete(if self.status.stored { Outcome::Stored } else { Outcome::NotStored });
                Some(self.give(&object))
            }
            Err(_) => {
                self.cache.memory.remove(&self.key);
                self.status.stored = false;
                Some(self.give(&stale))
            }
        }
    }

    /// The upstream fails: the stale response is served, if it may be (RFC 5861, section 4).
    pub fn failed(&mut self, status: Option<StatusCode>) -> Option<CachedResponse> {
        let (stale, true) = self.stale.as_ref()? else { return None };
        if status.is_some_and(|it| ![500, 502, 503, 504].contains(&it.as_u16())) {
            return None;
        }
        let stale = stale.clone();
        // Those who wait, and those who come in the next moment, need not find out for themselves.
        self.cache.is_failing(&self.key);
        self.complete(Outcome::NotStored);
        self.status.verdict = Verdict::Stale;
        self.status.forwarded_status = status.map(|it| it.as_u16());
        self.status.stored = false;
        Some(self.give(&stale))
    }

    /// Whether the client has the response with this head already (its body would only be for the cache).
    pub fn is_known_to_client(&self, answer: &ResponseHeader) -> bool {
        let last_modified = answer.headers.get(LAST_MODIFIED).and_then(freshness::date);
        let validators = Validators { etag: answer.headers.get(http::header::ETAG), last_modified };
        let fits = [Method::GET, Method::HEAD].contains(&self.method) && answer.status == StatusCode::OK;
        fits && validators.condition_of_caches(&self.headers) == Condition::NotModified
    }

    /// The head of the upstream's response, before anything was changed in it. Says whether the body is
    /// wanted. Requests that wait for a response that is not stored wait no longer.
    pub fn on_head(&mut self, answer: &ResponseHeader) -> bool {
        let freshness = Freshness::of(&self.rules, self.credentials, answer.status, &answer.headers, now());
        let freshness = freshness.and_then(|it| freshness::vary(&answer.headers).map(|_| it));
        // What is not known yet may become as large as may be.
        let bytes = length(answer).unwrap_or(self.body_max());
        let freshness =
            freshness.and_then(|it| if bytes <= self.body_max() { Ok(it) } else { Err(NotStorable::TooLarge) });
        let freshness = freshness.and_then(|it| {
            self.taken_down = self.cache.take_down(bytes);
            self.taken_down.as_ref().map(|_| it).ok_or(NotStorable::NoRoom)
        });
        match freshness {
            Ok(freshness) => {
                self.status.stored = true;
                self.freshness = Some((freshness, Box::new(answer.clone())));
                true
            }
            Err(why) => {
                self.give_up(why, answer);
                false
            }
        }
    }

    fn give_up(&mut self, why: NotStorable, answer: &ResponseHeader) {
        self.status.stored = false;
        tracing::trace!(event = "cache_unfit", reason = ?why, status = answer.status.as_u16());
        // An error says nothing about the next response, nor does a moment in which much is read at once.
        let lasting = !answer.status.is_server_error() && why != NotStorable::NoRoom;
        if lasting && !self.credentials.outside_key {
            self.cache.go_alone(&self.key);
        }
        let replaced = answer.status.is_success() || ResponseDirectives::of(&answer.headers).no_store;
        if self.stale.take().is_some() && replaced {
            self.cache.memory.remove(&self.key); // it is not what the upstream would say now
        }
        self.taken_down = None;
        self.complete(Outcome::NotStored);
    }

    /// Room for a background refresh; `None` if enough others do.
    pub fn in_background(&self) -> Option<Refresh> {
        let refresh = Refresh::begin();
        (METRICS.refreshes.get() <= REFRESHES_MAX).then_some(refresh)
    }

    /// The body is there, whole: it is kept.
    pub fn finish(self, body: Bytes) {
        if body.len() <= self.body_max() {
            self.finish_and_give(body);
        }
    }

    /// As [`Fill::finish`], for a client that gets it from the cache.
    pub fn finish_and_give(mut self, body: Bytes) -> Option<CachedResponse> {
        let (freshness, head) = self.freshness.take()?;
        let owner = (self.rules.route.clone(), self.target.clone());
        let object = Arc::new(Object::new(&head, body, freshness, owner, self.depends.clone(), self.known)?);
        self.status.stored = self.keep(&object);
        if self.status.stored {
            self.cache.go_together(&self.key);
        }
        self.complete(if self.status.stored { Outcome::Stored } else { Outcome::NotStored });
        Some(self.give(&object))
    }

    /// What the client gets of an object.
    fn give(&self, object: &Arc<Object>) -> CachedResponse {
        let now = now();
        let time = (object.freshness.seconds_left(now), object.freshness.age(now).as_secs());
        let status = CacheStatus { time: Some(time), public: self.status.public, ..self.status };
        give(object, &self.method, &self.headers, status)
    }

    fn complete(&mut self, outcome: Outcome) {
        if let Some(in_flight) = self.in_flight.take() {
            in_flight.complete(outcome);
        }
    }

    fn keep(&self, object: &Arc<Object>) -> bool {
        let Ok(fields) = freshness::vary(&object.head.headers) else { return false };
        // What once parted responses goes on doing so: one variant that does not say so must not be
        // everybody's.
        let known = match self.cache.get(&self.primary) {
            Some(Slot::Varied(known)) => known,
            _ => self.vary.clone(),
        };
        let mut all: Vec<HeaderName> = fields.into_iter().chain(known.iter().cloned()).collect();
        all.sort_by(|left, right| left.as_str().cmp(right.as_str()));
        all.dedup();
        if all.is_empty() {
            let kept = self.cache.put(&self.primary, object);
            if kept {
                self.write_shared(&self.primary, &Slot::Whole(object.clone()), object);
            }
            return kept;
        }
        let mut key = self.primary.clone();
        key::variant(&mut key, &all, &self.headers);
        let kept = self.cache.put(&key, object);
        if kept {
            let spec = Slot::Varied(all.into());
            self.cache.memory.put(self.primary.as_slice().into(), spec.clone());
            self.write_shared(&self.primary, &spec, object);
            self.write_shared(&key, &Slot::Whole(object.clone()), object);
        }
        kept
    }

    fn write_shared(&self, key: &[u8], slot: &Slot, object: &Object) {
        if let (Some(shared_tier), Some(stamp)) = (&self.cache.shared_tier, self.stamp) {
            shared_tier.write(key, slot, stamp, object.freshness.life(now(), GRACE));
        }
    }
}

/// What a confirmed response says about its storing: what the 304 says, and what it leaves out.
fn merged(kept: &HeaderMap, answer: &HeaderMap) -> HeaderMap {
    let mut merged = kept.clone();
    merged.remove(http::header::DATE); // it is of another time
    for name in answer.keys() {
        merged.remove(name);
    }
    for (name, value) in answer {
        merged.append(name.clone(), value.clone());
    }
    merged
}

fn length(answer: &ResponseHeader) -> Option<usize> {
    answer.headers.get(http::header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
