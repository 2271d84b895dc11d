//! A request's lookup in the cache: a hit, or a fill that may be stored.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{
    CONTENT_LENGTH, HeaderName, IF_MATCH, IF_UNMODIFIED_SINCE, RANGE as RANGE_FIELD, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, Method};
use pingora::http::ResponseHeader;

use crate::cache::cache_status::{CacheStatus, Forwarded, Verdict};
use crate::cache::cached_response::{CachedResponse, give};
use crate::cache::config::{Per, Rules};
use crate::cache::directives::RequestDirectives;
use crate::cache::fill::Fill;
use crate::cache::freshness::{Credentials, Use};
use crate::cache::in_flight::{InFlight, Joined, Outcome, follow};
use crate::cache::key::{self, CacheRequest, Target};
use crate::cache::object::{Object, Slot};
use crate::cache::store::{Cache, depends, now};

/// So often a request waits for another one: that may leave, or fetch what turns out to be another variant.
const ROUNDS_MAX: u32 = 4;

/// What a lookup comes to.
pub enum LookupResult {
    /// This is the response.
    Hit(Box<CachedResponse>),
    /// The upstream has to answer, and its response may be stored.
    Fill(Box<Fill>),
    /// The upstream has to answer, and the cache has nothing to do with it.
    Pass(CacheStatus),
    /// The client accepts cached responses alone (`only-if-cached`), and there is none.
    NotCached(CacheStatus),
}

/// What the cache has to do with one request, while it is under way.
#[derive(Debug)]
pub struct Lookup {
    /// The cache status for the client; nothing on routes without a cache.
    pub status: Option<CacheStatus>,
    /// The request fetches what may be stored.
    pub fill: Option<Box<Fill>>,
    /// The request may change something.
    pub change: Option<Box<Change>>,
    /// The cache status that the client got, in a word.
    pub word: Option<&'static str>,
}

/// A request that may change something.
pub struct Change {
    /// The cache in which that makes responses useless.
    pub cache: Arc<Cache>,
    /// What it may change.
    pub target: Target,
    /// The fingerprints of its route's tags; `None` if its route has no cache.
    pub tags: Option<Vec<u64>>,
}

impl std::fmt::Debug for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Change").field("target", &self.target).finish_non_exhaustive()
    }
}

impl Lookup {
    /// Nothing but a status for the client.
    pub const fn status(status: CacheStatus) -> Self {
        Self { status: Some(status), fill: None, change: None, word: None }
    }

    /// The head of the response, as it came from wherever it came from. Says whether its body is wanted.
    pub fn on_response(&mut self, answer: &mut ResponseHeader) -> bool {
        let wanted = match &mut self.fill {
            Some(fill) => {
                let wanted = fill.on_head(answer);
                self.status = Some(fill.status());
                wanted
            }
            None => false,
        };
        if !wanted {
            self.fill = None;
        }
        if let Some(change) = self.change.take() {
            let on_cached_route = change.tags.is_some();
            let tags = change.tags.as_deref().unwrap_or_default();
            let changes = change.cache.changes(&change.target, tags, on_cached_route, answer.status, &answer.headers);
            change.cache.changed(changes);
        }
        if let Some(status) = self.status.take() {
            status.count();
            self.word = Some(status.word());
            status.on_response(answer);
        }
        wanted
    }

    /// The upstream sends no response.
    pub fn abandon(&mut self) {
        self.change = None;
        if let Some(fill) = self.fill.take() {
            self.status = Some(fill.status());
        }
    }

    /// The response has passed, whole if there is a body.
    pub fn finish(&mut self, body: Option<Bytes>) {
        if let (Some(fill), Some(body)) = (self.fill.take(), body) {
            fill.finish(body);
        }
    }
}

/// What was found under a key.
struct Found {
    object: Option<Arc<Object>>,
    /// The fields by which responses vary.
    vary: Arc<[HeaderName]>,
}

/// A request with its key, while it is looked up.
struct KeyedRequest<'a> {
    rules: &'a Arc<Rules>,
    request: CacheRequest<'a>,
    tags: &'a [u64],
    directives: RequestDirectives,
    primary: Vec<u8>,
    credentials: Credentials,
    collapsed: bool,
}

impl Cache {
    /// What can be said at once: the request is none for the cache, or memory has its response. `None` if it has
    /// to [look it up](Cache::lookup). `tags` are those of [`Rules::tags`].
    pub fn lookup_in_memory(
        self: &Arc<Self>,
        rules: &Arc<Rules>,
        request: CacheRequest<'_>,
        tags: &[u64],
    ) -> Option<LookupResult> {
        match enter(rules, request, tags) {
            Err(status) => Some(LookupResult::Pass(status)),
            Ok(keyed) => self.in_memory(&keyed).ok(),
        }
    }

    /// Looks the request up. What is in memory is served at once; for what is not, it may have to wait:
    /// another request may be fetching it, or the shared state have it.
    pub async fn lookup(self: &Arc<Self>, rules: &Arc<Rules>, request: CacheRequest<'_>, tags: &[u64]) -> LookupResult {
        match enter(rules, request, tags) {
            Err(status) => LookupResult::Pass(status),
            Ok(keyed) => match self.in_memory(&keyed) {
                Ok(result) => result,
                Err(found) => self.fetch(keyed, found).await,
            },
        }
    }

    /// A request that may change what is cached for others; `None` for one that can't. `tags` are those of
    /// its route's rules, if it has any.
    pub fn change(
        self: &Arc<Self>,
        method: &Method,
        rules: Option<&Rules>,
        about: impl FnOnce() -> (Target, Vec<u64>),
    ) -> Option<Box<Change>> {
        let kept = rules.is_some_and(|it| it.methods.contains(method));
        let matters = rules.is_some() || self.invalidations.any_kept();
        if method.is_safe() || kept || !matters {
            return None;
        }
        let (target, tags) = about();
        let tags = rules.map(|_| tags);
        Some(Box::new(Change { cache: self.clone(), target, tags }))
    }

    /// What memory has, if that can be served.
    fn in_memory(self: &Arc<Self>, keyed: &KeyedRequest<'_>) -> Result<LookupResult, Found> {
        let (found, variant) = self.find(&keyed.primary, keyed.request.headers);
        let Some(object) = found.object.as_ref().filter(|it| keyed.may_have(it)) else { return Err(found) };
        let refresh = match object.freshness.verdict(&keyed.directives, now()) {
            Use::Fresh => None,
            Use::WhileRevalidate => match self.in_flight.join(variant.as_deref().unwrap_or(&keyed.primary)) {
                Joined::Leader(in_flight) => {
                    let key = variant.unwrap_or_else(|| keyed.primary.clone());
                    let fill = self.fill(keyed, key, found.vary.clone(), Some(in_flight));
                    Some(Fill { stale: Some((object.clone(), false)), ..fill })
                }
                Joined::Follower(_) => None,
            },
            Use::Ask(_) => return Err(found),
        };
        let mut cached = keyed.give(object);
        cached.refresh = refresh;
        Ok(LookupResult::Hit(Box::new(cached)))
    }

    /// What is kept, and the key of the variant if responses part by fields of the request.
    fn find(&self, primary: &[u8], headers: &HeaderMap) -> (Found, Option<Vec<u8>>) {
        let vary = match self.get(primary) {
            None => return (Found { object: None, vary: Arc::default() }, None),
            Some(Slot::Whole(object)) => return (Found { object: Some(object), vary: Arc::default() }, None),
            Some(Slot::Varied(vary)) => vary,
        };
        let mut key = primary.to_vec();
        key::variant(&mut key, &vary, headers);
        let object = match self.get(&key) {
            Some(Slot::Whole(object)) => Some(object),
            _ => None,
        };
        (Found { object, vary }, Some(key))
    }

    /// Memory has nothing that could simply be served.
    async fn fetch(self: &Arc<Self>, mut keyed: KeyedRequest<'_>, mut found: Found) -> LookupResult {
        let until = Instant::now() + keyed.rules.collapse;
        let mut rounds = 0;
        loop {
            let mut key = keyed.primary.clone();
            if !found.vary.is_empty() {
                key::variant(&mut key, &found.vary, keyed.request.headers);
            }
            let mine = found.object.as_ref().filter(|it| keyed.may_have(it)).cloned();
            if let Some(result) = keyed.without_fetching(mine.is_some(), &found) {
                return result;
            }
            if let Some(object) = &mine
                && self.has_failed(&key)
                && object.freshness.verdict(&keyed.directives, now()) == Use::Ask(true)
            {
                return LookupResult::Hit(Box::new(keyed.give(object)));
            }
            let in_flight = if rounds == ROUNDS_MAX || keyed.credentials.outside_key || self.goes_alone(&key) {
                None
            } else {
                match self.in_flight.join(&key) {
                    Joined::Leader(in_flight) => Some(in_flight),
                    Joined::Follower(in_flight) => {
                        let outcome = follow(in_flight, until.saturating_duration_since(Instant::now())).await;
                        keyed.collapsed |= outcome == Outcome::Stored;
                        // What is of no use to others is of no use to this one: it does not wait again.
                        rounds = if outcome == Outcome::NotStored { ROUNDS_MAX } else { rounds + 1 };
                        match self.in_memory(&keyed) {
                            Ok(result) => return result,
                            Err(again) => found = again,
                        }
                        continue;
                    }
                }
            };
            // Another request may have stored it between the lookup and the begin of the fill.
            if in_flight.is_some() && mine.is_none() {
                match self.in_memory(&keyed) {
                    Ok(result) => return result,
                    Err(again) if again.vary != found.vary => {
                        found = again;
                        continue; // the key is another one by now
                    }
                    Err(_) => {}
                }
            }
            return self.go(keyed, key, found, mine, in_flight).await;
        }
    }

    /// This request fetches, unless the shared state has the response.
    async fn go(
        self: &Arc<Self>,
        keyed: KeyedRequest<'_>,
        key: Vec<u8>,
        found: Found,
        mine: Option<Arc<Object>>,
        in_flight: Option<InFlight>,
    ) -> LookupResult {
        let mut fill = self.fill(&keyed, key, found.vary, in_flight);
        if !keyed.credentials.outside_key
            && let Some(result) = self.from_shared(&keyed, &mut fill, mine.is_none()).await
        {
            return result;
        }
        // What the shared state has may be stale: it is good enough to be confirmed.
        let mine = mine.or_else(|| match self.get(&fill.key) {
            Some(Slot::Whole(object)) => Some(object).filter(|it| keyed.may_have(it)),
            _ => None,
        });
        if let Some(object) = mine {
            let on_error = matches!(object.freshness.verdict(&keyed.directives, now()), Use::Ask(true));
            fill.status =
                CacheStatus { verdict: Verdict::Miss, forwarded: Some(keyed.why_asked(&object)), ..fill.status };
            fill.stale = Some((object, on_error));
        }
        LookupResult::Fill(Box::new(fill))
    }

    /// Takes over what the shared state has, and learns the stamp for what is going to be fetched.
    async fn from_shared(
        self: &Arc<Self>,
        keyed: &KeyedRequest<'_>,
        fill: &mut Fill,
        wanted: bool,
    ) -> Option<LookupResult> {
        let shared_tier = self.shared_tier.as_ref()?;
        let (mut slot, stamp) = shared_tier.read(&fill.key, &fill.depends, fill.known).await;
        fill.stamp = stamp;
        if let (Some(Slot::Varied(vary)), true) = (&slot, wanted) {
            let vary = vary.clone();
            self.memory.put(fill.primary.as_slice().into(), Slot::Varied(vary.clone()));
            let mut key = fill.primary.clone();
            key::variant(&mut key, &vary, keyed.request.headers);
            fill.vary = vary;
            slot = shared_tier.read(&key, &fill.depends, fill.known).await.0;
            fill.key = key;
        }
        let Some(Slot::Whole(object)) = slot.filter(|_| wanted) else { return None };
        if !self.put(&fill.key, &object) {
            return None;
        }
        let result = self.in_memory(keyed).ok()?;
        if let Some(in_flight) = fill.in_flight.take() {
            in_flight.complete(Outcome::Stored);
        }
        Some(result)
    }

    fn fill(
        self: &Arc<Self>,
        keyed: &KeyedRequest<'_>,
        key: Vec<u8>,
        vary: Arc<[HeaderName]>,
        in_flight: Option<InFlight>,
    ) -> Fill {
        let forwarded = if vary.is_empty() { Forwarded::UriMiss } else { Forwarded::VaryMiss };
        Fill {
            cache: self.clone(),
            rules: keyed.rules.clone(),
            primary: keyed.primary.clone(),
            key,
            vary,
            method: keyed.request.method.clone(),
            headers: keyed.request.headers.clone(),
            target: keyed.request.target.clone(),
            depends: depends(keyed.rules, keyed.request.target, keyed.tags),
            known: self.invalidations.now(),
            stamp: None,
            credentials: keyed.credentials,
            in_flight,
            taken_down: None,
            stale: None,
            status: CacheStatus {
                collapsed: keyed.collapsed,
                public: keyed.is_public(),
                ..CacheStatus::forwarded(Verdict::Miss, forwarded)
            },
            freshness: None,
        }
    }
}

/// Tells requests for the cache from others.
fn enter<'a>(
    rules: &'a Arc<Rules>,
    request: CacheRequest<'a>,
    tags: &'a [u64],
) -> Result<KeyedRequest<'a>, CacheStatus> {
    let pass = |why| Err(CacheStatus::forwarded(Verdict::Bypass, why));
    let shows = |fields: &[HeaderName]| request.headers.keys().any(|it| fields.contains(it));
    if !rules.methods.contains(request.method) {
        return pass(Forwarded::Method);
    }
    let has_body =
        shows(&[TRANSFER_ENCODING]) || request.headers.get(CONTENT_LENGTH).is_some_and(|it| it.as_bytes() != b"0");
    if has_body && (!rules.by_body || request.body.is_none()) {
        return pass(Forwarded::Bypass);
    }
    // What only the origin can decide on (RFC 9111, section 4.3.2), and what is no exchange of messages.
    if shows(&[IF_MATCH, IF_UNMODIFIED_SINCE, UPGRADE]) {
        return pass(Forwarded::Request);
    }
    let directives = RequestDirectives::of(request.headers);
    if directives.no_store {
        return pass(Forwarded::Request);
    }
    let Ok((primary, credentials)) = key::primary(rules, &request) else { return pass(Forwarded::Bypass) };
    Ok(KeyedRequest { rules, request, tags, directives, primary, credentials, collapsed: false })
}

impl KeyedRequest<'_> {
    /// A request with credentials that are no part of the key gets only public responses.
    fn may_have(&self, object: &Object) -> bool {
        !self.credentials.outside_key || object.freshness.for_everybody
    }

    fn is_public(&self) -> bool {
        let personal = matches!(self.rules.per, Some(Per::User | Per::Tenant)) || self.rules.parts_by_credentials();
        !personal && !self.credentials.outside_key && *self.request.method != Method::POST
    }

    fn give(&self, object: &Arc<Object>) -> CachedResponse {
        let now = now();
        let left = object.freshness.seconds_left(now);
        let fresh = object.freshness.age(now) < object.freshness.lifetime;
        let verdict = if fresh { Verdict::Hit } else { Verdict::Stale };
        let time = (left, object.freshness.age(now).as_secs());
        let status = CacheStatus { collapsed: self.collapsed, ..CacheStatus::kept(verdict, time, self.is_public()) };
        give(object, self.request.method, self.request.headers, status)
    }

    fn why_asked(&self, object: &Object) -> Forwarded {
        let fresh = object.freshness.age(now()) < object.freshness.lifetime;
        if fresh && !object.freshness.always_ask { Forwarded::Request } else { Forwarded::Stale }
    }

    /// What can be said before anything is fetched.
    fn without_fetching(&self, kept: bool, found: &Found) -> Option<LookupResult> {
        let forwarded = match () {
            () if kept => Forwarded::Stale,
            () if found.vary.is_empty() => Forwarded::UriMiss,
            () => Forwarded::VaryMiss,
        };
        let status = |forwarded| CacheStatus::forwarded(Verdict::Miss, forwarded);
        if self.directives.only_if_cached {
            return Some(LookupResult::NotCached(status(forwarded)));
        }
        if *self.request.method == Method::HEAD {
            return Some(LookupResult::Pass(status(forwarded)));
        }
        // A part says nothing about the whole.
        if !kept && self.request.headers.contains_key(RANGE_FIELD) {
            return Some(LookupResult::Pass(status(Forwarded::Partial)));
        }
        None
    }
}
