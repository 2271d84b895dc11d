//! A request's visit to the cache: it gets something that is kept, or fetches something that may be.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{
    CONTENT_LENGTH, HeaderName, IF_MATCH, IF_UNMODIFIED_SINCE, RANGE as RANGE_FIELD, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, Method};
use pingora::http::ResponseHeader;

use crate::cache::config::{Per, Rules};
use crate::cache::directives::RequestDirectives;
use crate::cache::flights::{Flight, Joined, Landing, follow};
use crate::cache::freshness::{Standing, Use};
use crate::cache::give::{Given, give};
use crate::cache::key::{self, Asked, Target};
use crate::cache::lead::Lead;
use crate::cache::object::{Object, Slot};
use crate::cache::store::{Cache, depends, now};
use crate::cache::told::{Forwarded, Told, Verdict};

/// So often a request waits for another one: that may leave, or fetch what turns out to be another variant.
const ROUNDS_MAX: u32 = 4;

/// What a visit comes to.
pub enum Visited {
    /// This is the answer.
    Given(Box<Given>),
    /// The upstream has to answer, and its answer may be kept.
    Lead(Box<Lead>),
    /// The upstream has to answer, and the cache has nothing to do with it.
    Pass(Told),
    /// The client takes nothing but what is kept, and nothing is.
    NotKept(Told),
}

/// What the cache has to do with one request, while it is under way.
#[derive(Debug)]
pub struct Visit {
    /// What the client is told; nothing on routes without a cache.
    pub told: Option<Told>,
    /// The request fetches what may be kept.
    pub lead: Option<Box<Lead>>,
    /// The request may change something.
    pub change: Option<Box<Change>>,
    /// What the client was told, in a word.
    pub word: Option<&'static str>,
}

/// A request that may change something.
pub struct Change {
    /// The cache in which that makes answers useless.
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

impl Visit {
    /// Nothing but a word to the client.
    pub const fn told(told: Told) -> Self {
        Self { told: Some(told), lead: None, change: None, word: None }
    }

    /// The head of the answer, as it came from wherever it came from. Says whether its body is wanted.
    pub fn on_response(&mut self, answer: &mut ResponseHeader) -> bool {
        let wanted = match &mut self.lead {
            Some(lead) => {
                let wanted = lead.on_head(answer);
                self.told = Some(lead.told());
                wanted
            }
            None => false,
        };
        if !wanted {
            self.lead = None;
        }
        if let Some(change) = self.change.take() {
            let on_cached_route = change.tags.is_some();
            let tags = change.tags.as_deref().unwrap_or_default();
            let changes = change.cache.changes(&change.target, tags, on_cached_route, answer.status, &answer.headers);
            change.cache.changed(changes);
        }
        if let Some(told) = self.told.take() {
            told.count();
            self.word = Some(told.word());
            told.on_response(answer);
        }
        wanted
    }

    /// The upstream gives no answer.
    pub fn forsake(&mut self) {
        self.change = None;
        if let Some(lead) = self.lead.take() {
            self.told = Some(lead.told());
        }
    }

    /// The answer has passed, whole if there is a body.
    pub fn finish(&mut self, body: Option<Bytes>) {
        if let (Some(lead), Some(body)) = (self.lead.take(), body) {
            lead.finish(body);
        }
    }
}

/// What was found under a key.
struct Found {
    object: Option<Arc<Object>>,
    /// The fields by which answers part.
    vary: Arc<[HeaderName]>,
}

/// Where a request stands, while it visits.
struct Visitor<'a> {
    rules: &'a Arc<Rules>,
    asked: Asked<'a>,
    tags: &'a [u64],
    wishes: RequestDirectives,
    primary: Vec<u8>,
    standing: Standing,
    collapsed: bool,
}

impl Cache {
    /// What can be said at once: the request is none for the cache, or memory has its answer. `None` if it has
    /// to [visit](Cache::visit). `tags` are those of [`Rules::tags`].
    pub fn look(self: &Arc<Self>, rules: &Arc<Rules>, asked: Asked<'_>, tags: &[u64]) -> Option<Visited> {
        match enter(rules, asked, tags) {
            Err(told) => Some(Visited::Pass(told)),
            Ok(visitor) => self.in_memory(&visitor).ok(),
        }
    }

    /// Asks the cache. What is kept in memory is given at once; what is not may have to be waited for:
    /// another request may be fetching it, or the shared state have it.
    pub async fn visit(self: &Arc<Self>, rules: &Arc<Rules>, asked: Asked<'_>, tags: &[u64]) -> Visited {
        match enter(rules, asked, tags) {
            Err(told) => Visited::Pass(told),
            Ok(visitor) => match self.in_memory(&visitor) {
                Ok(visited) => visited,
                Err(found) => self.fetch(visitor, found).await,
            },
        }
    }

    /// A request that may change what others were given; `None` for one that can't. `tags` are those of
    /// its route's rules, if it has any.
    pub fn change(
        self: &Arc<Self>,
        method: &Method,
        rules: Option<&Rules>,
        about: impl FnOnce() -> (Target, Vec<u64>),
    ) -> Option<Box<Change>> {
        let kept = rules.is_some_and(|it| it.methods.contains(method));
        let matters = rules.is_some() || self.marks.any_kept();
        if method.is_safe() || kept || !matters {
            return None;
        }
        let (target, tags) = about();
        let tags = rules.map(|_| tags);
        Some(Box::new(Change { cache: self.clone(), target, tags }))
    }

    /// What memory has, if that can be given.
    fn in_memory(self: &Arc<Self>, visitor: &Visitor<'_>) -> Result<Visited, Found> {
        let (found, variant) = self.find(&visitor.primary, visitor.asked.headers);
        let Some(object) = found.object.as_ref().filter(|it| visitor.may_have(it)) else { return Err(found) };
        let refresh = match object.terms.verdict(&visitor.wishes, now()) {
            Use::Fresh => None,
            Use::WhileRevalidate => match self.flights.join(variant.as_deref().unwrap_or(&visitor.primary)) {
                Joined::Lead(flight) => {
                    let key = variant.unwrap_or_else(|| visitor.primary.clone());
                    let lead = self.lead(visitor, key, found.vary.clone(), Some(flight));
                    Some(Lead { stale: Some((object.clone(), false)), ..lead })
                }
                Joined::Follow(_) => None,
            },
            Use::Ask(_) => return Err(found),
        };
        let mut given = visitor.give(object);
        given.refresh = refresh;
        Ok(Visited::Given(Box::new(given)))
    }

    /// What is kept, and the key of the variant if answers part by fields of the request.
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

    /// Memory has nothing that could simply be given.
    async fn fetch(self: &Arc<Self>, mut visitor: Visitor<'_>, mut found: Found) -> Visited {
        let until = Instant::now() + visitor.rules.collapse;
        let mut rounds = 0;
        loop {
            let mut key = visitor.primary.clone();
            if !found.vary.is_empty() {
                key::variant(&mut key, &found.vary, visitor.asked.headers);
            }
            let mine = found.object.as_ref().filter(|it| visitor.may_have(it)).cloned();
            if let Some(visited) = visitor.without_fetching(mine.is_some(), &found) {
                return visited;
            }
            if let Some(object) = &mine
                && self.has_failed(&key)
                && object.terms.verdict(&visitor.wishes, now()) == Use::Ask(true)
            {
                return Visited::Given(Box::new(visitor.give(object)));
            }
            let flight = if rounds == ROUNDS_MAX || visitor.standing.credentials || self.goes_alone(&key) {
                None
            } else {
                match self.flights.join(&key) {
                    Joined::Lead(flight) => Some(flight),
                    Joined::Follow(flight) => {
                        let landing = follow(flight, until.saturating_duration_since(Instant::now())).await;
                        visitor.collapsed |= landing == Landing::Kept;
                        // What is of no use to others is of no use to this one: it does not wait again.
                        rounds = if landing == Landing::Useless { ROUNDS_MAX } else { rounds + 1 };
                        match self.in_memory(&visitor) {
                            Ok(visited) => return visited,
                            Err(again) => found = again,
                        }
                        continue;
                    }
                }
            };
            // Somebody may have kept it between the look and the flight's begin.
            if flight.is_some() && mine.is_none() {
                match self.in_memory(&visitor) {
                    Ok(visited) => return visited,
                    Err(again) if again.vary != found.vary => {
                        found = again;
                        continue; // the key is another one by now
                    }
                    Err(_) => {}
                }
            }
            return self.go(visitor, key, found, mine, flight).await;
        }
    }

    /// This request fetches, unless the shared state has the answer.
    async fn go(
        self: &Arc<Self>,
        visitor: Visitor<'_>,
        key: Vec<u8>,
        found: Found,
        mine: Option<Arc<Object>>,
        flight: Option<Flight>,
    ) -> Visited {
        let mut lead = self.lead(&visitor, key, found.vary, flight);
        if !visitor.standing.credentials
            && let Some(visited) = self.from_shared(&visitor, &mut lead, mine.is_none()).await
        {
            return visited;
        }
        // What the shared state has may be stale: it is good enough to be confirmed.
        let mine = mine.or_else(|| match self.get(&lead.key) {
            Some(Slot::Whole(object)) => Some(object).filter(|it| visitor.may_have(it)),
            _ => None,
        });
        if let Some(object) = mine {
            let on_error = matches!(object.terms.verdict(&visitor.wishes, now()), Use::Ask(true));
            lead.told = Told { verdict: Verdict::Miss, forwarded: Some(visitor.why_asked(&object)), ..lead.told };
            lead.stale = Some((object, on_error));
        }
        Visited::Lead(Box::new(lead))
    }

    /// Takes over what the shared state has, and learns the stamp for what is going to be fetched.
    async fn from_shared(self: &Arc<Self>, visitor: &Visitor<'_>, lead: &mut Lead, wanted: bool) -> Option<Visited> {
        let second = self.second.as_ref()?;
        let (mut slot, stamp) = second.read(&lead.key, &lead.depends, lead.known).await;
        lead.stamp = stamp;
        if let (Some(Slot::Varied(vary)), true) = (&slot, wanted) {
            let vary = vary.clone();
            self.memory.put(lead.primary.as_slice().into(), Slot::Varied(vary.clone()));
            let mut key = lead.primary.clone();
            key::variant(&mut key, &vary, visitor.asked.headers);
            lead.vary = vary;
            slot = second.read(&key, &lead.depends, lead.known).await.0;
            lead.key = key;
        }
        let Some(Slot::Whole(object)) = slot.filter(|_| wanted) else { return None };
        if !self.put(&lead.key, &object) {
            return None;
        }
        let visited = self.in_memory(visitor).ok()?;
        if let Some(flight) = lead.flight.take() {
            flight.land(Landing::Kept);
        }
        Some(visited)
    }

    fn lead(
        self: &Arc<Self>,
        visitor: &Visitor<'_>,
        key: Vec<u8>,
        vary: Arc<[HeaderName]>,
        flight: Option<Flight>,
    ) -> Lead {
        let forwarded = if vary.is_empty() { Forwarded::UriMiss } else { Forwarded::VaryMiss };
        Lead {
            cache: self.clone(),
            rules: visitor.rules.clone(),
            primary: visitor.primary.clone(),
            key,
            vary,
            method: visitor.asked.method.clone(),
            headers: visitor.asked.headers.clone(),
            target: visitor.asked.target.clone(),
            depends: depends(visitor.rules, visitor.asked.target, visitor.tags),
            known: self.marks.now(),
            stamp: None,
            standing: visitor.standing,
            flight,
            taken_down: self.take_down(),
            stale: None,
            told: Told {
                collapsed: visitor.collapsed,
                public: visitor.is_public(),
                ..Told::forwarded(Verdict::Miss, forwarded)
            },
            terms: None,
        }
    }
}

/// Tells requests for the cache from others.
fn enter<'a>(rules: &'a Arc<Rules>, asked: Asked<'a>, tags: &'a [u64]) -> Result<Visitor<'a>, Told> {
    let pass = |why| Err(Told::forwarded(Verdict::Bypass, why));
    let shown = |field: HeaderName| asked.headers.contains_key(field);
    if !rules.methods.contains(asked.method) {
        return pass(Forwarded::Method);
    }
    let has_body =
        shown(TRANSFER_ENCODING) || asked.headers.get(CONTENT_LENGTH).is_some_and(|it| it.as_bytes() != b"0");
    if has_body && (!rules.by_body || asked.body.is_none()) {
        return pass(Forwarded::Bypass);
    }
    // What only the origin can decide on (RFC 9111, section 4.3.2), and what is no exchange of messages.
    if shown(IF_MATCH) || shown(IF_UNMODIFIED_SINCE) || shown(UPGRADE) {
        return pass(Forwarded::Request);
    }
    let wishes = RequestDirectives::of(asked.headers);
    if wishes.no_store {
        return pass(Forwarded::Request);
    }
    let Ok((primary, standing)) = key::primary(rules, &asked) else { return pass(Forwarded::Bypass) };
    Ok(Visitor { rules, asked, tags, wishes, primary, standing, collapsed: false })
}

impl Visitor<'_> {
    /// Who shows credentials that are no part of the key gets only what is for everybody.
    fn may_have(&self, object: &Object) -> bool {
        !self.standing.credentials || object.terms.for_everybody
    }

    fn is_public(&self) -> bool {
        let personal = matches!(self.rules.per, Some(Per::User | Per::Tenant)) || self.rules.parts_by_credentials();
        !personal && !self.standing.credentials && *self.asked.method != Method::POST
    }

    fn give(&self, object: &Arc<Object>) -> Given {
        let now = now();
        let left = object.terms.seconds_left(now);
        let fresh = object.terms.age(now) < object.terms.lifetime;
        let verdict = if fresh { Verdict::Hit } else { Verdict::Stale };
        let time = (left, object.terms.age(now).as_secs());
        let told = Told { collapsed: self.collapsed, ..Told::kept(verdict, time, self.is_public()) };
        give(object, self.asked.method, self.asked.headers, told)
    }

    fn why_asked(&self, object: &Object) -> Forwarded {
        let fresh = object.terms.age(now()) < object.terms.lifetime;
        if fresh && !object.terms.always_ask { Forwarded::Request } else { Forwarded::Stale }
    }

    /// What can be said before anything is fetched.
    fn without_fetching(&self, kept: bool, found: &Found) -> Option<Visited> {
        let forwarded = match () {
            () if kept => Forwarded::Stale,
            () if found.vary.is_empty() => Forwarded::UriMiss,
            () => Forwarded::VaryMiss,
        };
        let told = |forwarded| Told::forwarded(Verdict::Miss, forwarded);
        if self.wishes.only_if_cached {
            return Some(Visited::NotKept(told(forwarded)));
        }
        if *self.asked.method == Method::HEAD {
            return Some(Visited::Pass(told(forwarded)));
        }
        // A part says nothing about the whole.
        if !kept && self.asked.headers.contains_key(RANGE_FIELD) {
            return Some(Visited::Pass(told(Forwarded::Partial)));
        }
        None
    }
}
