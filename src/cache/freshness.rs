//! Which responses may be kept, how long they are fresh, and what may be done with stale ones (RFC 9111,
//! sections 3 and 4.2; RFC 5861).
//!
//! Plain functions over heads and times. Written here rather than taken from `http-cache-semantics`: that
//! crate parses a cached response's fields anew for each request, knows neither `stale-*` on responses nor targeted
//! fields, and reads dates in one of HTTP's three formats. Its verdicts are compared with these in the tests.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{AGE, CONTENT_RANGE, DATE, ETAG, EXPIRES, HeaderName, LAST_MODIFIED, SET_COOKIE, VARY};
use http::{HeaderMap, StatusCode};

use crate::cache::config::{Per, Rules, SetCookie, is_of_one_request};
use crate::cache::directives::{RequestDirectives, ResponseDirectives, seconds};
use crate::http as codec;

/// So many fields can distinguish a response's variants; more are a mistake.
const VARY_MAX: usize = 16;

/// Why a response is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotStorable {
    /// Its status is not one whose responses are kept here.
    Status,
    /// `no-store`, by the response.
    NoStore,
    /// `private`, and the route does not part responses by user.
    Private,
    /// The request showed credentials, and nothing says that the response is for others, too.
    Credentials,
    /// `Vary: *`, or too many fields.
    Vary,
    /// `Set-Cookie`.
    SetCookie,
    /// A part, a stream: not a whole response.
    NotWhole,
    /// Larger than what is stored.
    TooLarge,
    /// So many are being read at once that there is no room to read this one.
    NoRoom,
    /// It would never be of use: nothing says how long it is fresh, and nothing proves it unchanged.
    NoLifetime,
}

/// How long a cached response may be used, and how. Times are since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Freshness {
    /// When it came to be: `now - born` is its age.
    pub(super) born: Duration,
    /// How old it is when it is stale.
    pub(super) lifetime: Duration,
    /// How long after that it may be served while a new one is fetched.
    pub(super) while_revalidate: Duration,
    /// How long after that it may be served when the upstream fails.
    pub(super) if_error: Duration,
    /// Each use has to be revalidated (`no-cache`).
    pub(super) always_ask: bool,
    /// It must not be served stale, whatever the client accepts (`must-revalidate` and its like).
    pub(super) never_stale: bool,
    /// It may be served to requests with any credentials.
    pub(super) for_everybody: bool,
}

/// What the credentials of a request mean for the responses of its route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Credentials {
    /// It shows credentials that are no part of its key.
    pub(super) outside_key: bool,
}

/// What may be done with a cached response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// It can be served as it is.
    Fresh,
    /// It can be served, while a new one is fetched.
    WhileRevalidate,
    /// The response has to be revalidated first; if the upstream fails, `true` says that it can be served even so.
    Ask(bool),
}

impl Freshness {
    /// The terms on which a response may be kept.
    ///
    /// # Errors
    /// Says why it may not.
    pub(super) fn of(
        rules: &Rules,
        credentials: Credentials,
        status: StatusCode,
        headers: &HeaderMap,
        now: SystemTime,
    ) -> Result<Self, NotStorable> {
        let directives = ResponseDirectives::of(headers);
        check(rules, credentials, status, headers, &directives)?;
        let good = is_good(status);
        let own = own_lifetime(&directives, headers, now);
        let guessed = rules.heuristic.filter(|_| own.is_none() && is_guessable(status, &directives));
        let guessed = guessed.and_then(|most| guess(headers, now, most));
        let lifetime = rules.ttl.filter(|_| good).or(own).or(guessed);
        let overridden = rules.ttl.is_some() && good;
        let always_ask = directives.no_cache;
        let validators = headers.contains_key(ETAG) || headers.contains_key(LAST_MODIFIED);
        let Some(lifetime) = lifetime.or((always_ask && validators).then_some(Duration::ZERO)) else {
            return Err(NotStorable::NoLifetime);
        };
        let strict = directives.must_revalidate || directives.proxy_revalidate || always_ask;
        // `s-maxage` forbids stale responses too (section 5.2.2.10), unless the same response allows them.
        let shared_limit = directives.s_maxage.is_some() && !overridden;
        let stale = |said: Option<Duration>, by_route: Option<Duration>| {
            let by_route = by_route.filter(|_| !shared_limit);
            if strict { Duration::ZERO } else { said.or(by_route).unwrap_or_default() }
        };
        let freshness = Self {
            born: since_1970(now).saturating_sub(age(headers, now)),
            lifetime,
            while_revalidate: stale(directives.stale_while_revalidate, rules.stale_while_revalidate),
            if_error: stale(directives.stale_if_error, rules.stale_if_error),
            always_ask,
            never_stale: strict || shared_limit,
            for_everybody: for_everybody(rules, &directives),
        };
        let useless = (lifetime.is_zero() || always_ask)
            && !validators
            && freshness.while_revalidate.is_zero()
            && freshness.if_error.is_zero();
        if useless { Err(NotStorable::NoLifetime) } else { Ok(freshness) }
    }

    /// Since it left its origin, as far as can be known (RFC 9111, section 4.2.3).
    pub(super) fn age(&self, now: SystemTime) -> Duration {
        since_1970(now).saturating_sub(self.born)
    }

    /// In whole seconds, negative when it is stale.
    pub(super) fn seconds_left(&self, now: SystemTime) -> i64 {
        let seconds = |it: Duration| i64::try_from(it.as_secs()).unwrap_or(i64::MAX);
        seconds(self.lifetime).saturating_sub(seconds(self.age(now)))
    }

    /// How long it can be of any use from now on, with at least `grace` for a validation.
    pub(super) fn life(&self, now: SystemTime, grace: Duration) -> Duration {
        let stale = self.while_revalidate.max(self.if_error).max(grace);
        self.lifetime.saturating_add(stale).saturating_sub(self.age(now))
    }

    /// What may be done with it for a client with these wishes.
    pub(super) fn verdict(&self, directives: &RequestDirectives, now: SystemTime) -> Use {
        let age = self.age(now);
        let behind = age.saturating_sub(self.lifetime);
        let fresh = age < self.lifetime;
        let on_error = behind < self.if_error;
        let too_old = directives.max_age.is_some_and(|it| age > it)
            || directives.min_fresh.is_some_and(|it| fresh && self.lifetime - age < it);
        if self.always_ask || directives.no_cache || too_old {
            return Use::Ask(on_error);
        }
        if fresh {
            return Use::Fresh;
        }
        if behind < self.while_revalidate {
            return Use::WhileRevalidate;
        }
        // The client takes stale ones, as far as the response allows it.
        if !self.never_stale && directives.max_stale.is_some_and(|it| behind <= it) {
            return Use::Fresh;
        }
        Use::Ask(on_error)
    }
}

/// RFC 9111, section 3, and what a shared cache must leave alone.
fn check(
    rules: &Rules,
    credentials: Credentials,
    status: StatusCode,
    headers: &HeaderMap,
    directives: &ResponseDirectives,
) -> Result<(), NotStorable> {
    if status == StatusCode::PARTIAL_CONTENT || codec::is_event_stream(headers) || headers.contains_key(CONTENT_RANGE) {
        return Err(NotStorable::NotWhole);
    }
    if status.is_informational() || status == StatusCode::NOT_MODIFIED || (is_error(status) && !rules.errors) {
        return Err(NotStorable::Status);
    }
    if directives.no_store {
        return Err(NotStorable::NoStore);
    }
    if directives.private && rules.per != Some(Per::User) {
        return Err(NotStorable::Private);
    }
    if credentials.outside_key && !for_everybody(rules, directives) {
        return Err(NotStorable::Credentials);
    }
    if headers.contains_key(SET_COOKIE) && rules.set_cookie == SetCookie::Refuse {
        return Err(NotStorable::SetCookie);
    }
    vary(headers).map(|_| ())
}

/// What lets a shared cache serve the response to a request with credentials to others (RFC 9111, section 3.5).
/// `must-revalidate` would, too, but frameworks put it on responses that are anything but public.
fn for_everybody(rules: &Rules, directives: &ResponseDirectives) -> bool {
    rules.per == Some(Per::Public) || directives.public || directives.s_maxage.is_some()
}

/// A route's `ttl` is meant for these; any other final status is kept only if the response itself says how long
/// (RFC 9111, section 3).
fn is_good(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308)
}

/// Errors that are kept by the route's word alone: unlike the others, they say nothing about the target.
fn is_error(status: StatusCode) -> bool {
    status.as_u16() >= 400 && !matches!(status.as_u16(), 404 | 405 | 410 | 414 | 451 | 501)
}

/// Whether a lifetime may be guessed: for these statuses, or by the response's word (RFC 9110, section 15.1).
fn is_guessable(status: StatusCode, directives: &ResponseDirectives) -> bool {
    is_good(status) || directives.public || matches!(status.as_u16(), 404 | 405 | 410 | 414 | 501)
}

/// A tenth of the time for which it had not changed (RFC 9111, section 4.2.2).
fn guess(headers: &HeaderMap, now: SystemTime, most: Duration) -> Option<Duration> {
    let modified = headers.get(LAST_MODIFIED).and_then(date)?;
    let date = headers.get(DATE).and_then(date).unwrap_or(now);
    let unchanged = date.duration_since(modified).ok()?;
    Some(Duration::from_secs(unchanged.as_secs() / 10).min(most))
}

fn own_lifetime(directives: &ResponseDirectives, headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    if let Some(explicit) = directives.s_maxage.or(directives.max_age) {
        return Some(explicit);
    }
    if directives.targeted {
        return None;
    }
    // Several, or what is no date (as in `Expires: 0`), means: stale already (section 5.3).
    let mut lines = headers.get_all(EXPIRES).iter();
    let line = lines.next()?;
    if lines.next().is_some() {
        return Some(Duration::ZERO);
    }
    let Some(expires) = date(line) else { return Some(Duration::ZERO) };
    let date = headers.get(DATE).and_then(date).unwrap_or(now);
    Some(expires.duration_since(date).unwrap_or_default())
}

/// How old a response is when it arrives (RFC 9111, section 4.2.3).
fn age(headers: &HeaderMap, now: SystemTime) -> Duration {
    let reported = headers.get(AGE).and_then(|it| it.to_str().ok());
    let reported = reported.map_or(Duration::ZERO, |it| seconds(it.split(',').next().unwrap_or_default().trim()));
    let date = headers.get(DATE).and_then(date);
    let apparent = date.and_then(|it| now.duration_since(it).ok()).unwrap_or_default();
    // Dates have whole seconds: less than one is no age.
    reported.max(Duration::from_secs(apparent.as_secs().saturating_sub(1)))
}

/// The fields that distinguish a response's variants, in alphabetical order. What is packed parts by
/// `Accept-Encoding`, also when its origin left that out.
pub(super) fn vary(headers: &HeaderMap) -> Result<Vec<HeaderName>, NotStorable> {
    let mut fields: Vec<HeaderName> = Vec::new();
    for line in headers.get_all(VARY) {
        let text = line.to_str().map_err(|_| NotStorable::Vary)?;
        for name in text.split(',').map(str::trim).filter(|it| !it.is_empty()) {
            // `*` is no name.
            let field = HeaderName::from_bytes(name.as_bytes()).ok().filter(|it| name != "*" && !is_of_one_request(it));
            fields.push(field.ok_or(NotStorable::Vary)?);
        }
    }
    if codec::is_encoded(headers) {
        fields.push(http::header::ACCEPT_ENCODING);
    }
    fields.sort_by(|left, right| left.as_str().cmp(right.as_str()));
    fields.dedup();
    if fields.len() > VARY_MAX { Err(NotStorable::Vary) } else { Ok(fields) }
}

/// A date in any of HTTP's formats (RFC 9110, section 5.6.7), in letters of any case (RFC 9111, section 4.2).
pub(super) fn date(value: &http::HeaderValue) -> Option<SystemTime> {
    let text = value.to_str().ok()?;
    httpdate::parse_http_date(text).or_else(|_| httpdate::parse_http_date(&in_usual_case(text))).ok()
}

/// `THU, 18 AUG 2050 10:00:00 gmt` as its format writes it. Longer than any date, it is none.
fn in_usual_case(text: &str) -> String {
    let mut usual = String::new();
    for word in text.get(..text.len().min(40)).unwrap_or_default().split_inclusive(|it: char| !it.is_ascii_alphabetic())
    {
        let capitals = if word.trim_end().eq_ignore_ascii_case("gmt") { word.len() } else { 1 };
        for (number, letter) in word.chars().enumerate() {
            usual.push(if number < capitals { letter.to_ascii_uppercase() } else { letter.to_ascii_lowercase() });
        }
    }
    usual
}

/// What lies between 1970 and now; a clock before that counts as 1970.
pub(super) fn since_1970(now: SystemTime) -> Duration {
    now.duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
#[path = "freshness_tests.rs"]
mod tests;
