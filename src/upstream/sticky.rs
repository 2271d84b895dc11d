//! Sticky sessions (CP2-A): requests of one session go to the endpoint that served the first, as long as that gets requests.
//!
//! With a cookie the client carries what has to be remembered, signed: gateways with the same key agree, and a restart
//! forgets nothing. With a field of the request the gateway remembers it; what it does not remember goes by the
//! session's hash, so that gateways agree as long as they see the same endpoints. Neither shows an endpoint's address.

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::{constant_time, hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{COOKIE, HeaderName, HeaderValue};
use pingora::http::RequestHeader;
use prometheus::{IntCounter, IntGauge};
use quick_cache::sync::Cache;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::hash_on::cookie;
use super::metrics;
use crate::base::{At, Diagnostics, Period, Secret};

/// The most sessions that are remembered for an upstream; beyond it those are forgotten that were not seen for long.
const SESSIONS_MAX: usize = 100_000;
/// An endpoint, the end in milliseconds since 1970, and half a signature, in bytes.
const COOKIE_LEN: usize = 8 + 8 + 16;
/// A key has at least so many bytes: a shorter one can be guessed from a cookie.
const KEY_MIN: usize = 16;

/// Where no key is set: one that lives as long as the process.
static OWN_KEY: LazyLock<[u8; 32]> = LazyLock::new(|| {
    let mut key = [0; 32];
    rand::fill(&mut key).expect("the system has randomness");
    key
});

/// Sends the requests of a session to the endpoint that served its first one: `cookie` or `header`, one of the two.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("examples" = [{ "cookie": "moongate_sticky", "ttl": "15m" }]))]
pub struct StickyConfig {
    /// A cookie of this name, which the gateway sets and signs. Upstreams don't get it.
    pub cookie: Option<String>,
    /// A field that names the session, such as `x-session-id`.
    pub header: Option<String>,
    /// A session that sends nothing for so long may get another endpoint. `"${STICKY_TTL_MS:-900000}ms"` takes it from the
    /// environment.
    pub ttl: Period,
    /// What sessions are signed or hashed with, at least 16 characters, the same for all gateways; another one begins all
    /// sessions anew. `"${STICKY_SESSION_KEY}"` takes it from the environment. Without one, a restart does so, and gateways
    /// don't know each other's cookies.
    pub key: Option<Secret>,
}

impl Default for StickyConfig {
    fn default() -> Self {
        Self { cookie: None, header: None, ttl: Period::secs(15 * 60), key: None }
    }
}

/// Compiled: what names a session, and for how long.
#[derive(Clone, Debug, PartialEq)]
pub struct StickyPolicy {
    by: SessionName,
    ttl: Duration,
    key: Option<Secret>,
}

#[derive(Clone, Debug, PartialEq)]
enum SessionName {
    Cookie(String),
    Header(HeaderName),
}

impl StickyPolicy {
    /// Reports what makes no sense.
    pub(super) fn compile(config: &StickyConfig, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<Self> {
        if config.ttl.0.is_zero() {
            diagnostics.error(&at.key("ttl"), "must be longer than nothing").help("15m is the default");
        }
        match &config.key {
            Some(key) if key.expose().len() < KEY_MIN => {
                diagnostics
                    .error(&at.key("key"), format!("shorter than {KEY_MIN} characters"))
                    .help("`openssl rand -base64 32` makes one");
            }
            Some(_) => {}
            None => {
                diagnostics
                    .warn(at, "without `key`, a restart begins all sessions anew, and gateways don't share them")
                    .help("add `key: \"${STICKY_SESSION_KEY}\"`, or `key: \"secret:NAME\"`");
            }
        }
        let by = match (&config.cookie, &config.header) {
            (Some(name), None) => cookie_name(name, &at.key("cookie"), diagnostics)?,
            (None, Some(name)) => match HeaderName::try_from(name) {
                Ok(name) => SessionName::Header(name),
                Err(_) => {
                    diagnostics.error(&at.key("header"), format!("`{name}` is not the name of a field"));
                    return None;
                }
            },
            (Some(_), Some(_)) => {
                diagnostics
                    .error_at_key(&at.key("header"), "a session is named by a `cookie` or by a `header`, not both");
                return None;
            }
            (None, None) => {
                diagnostics
                    .error(at, "it does not say what names a session")
                    .help("add `cookie: moongate_sticky`, or `header: x-session-id`");
                return None;
            }
        };
        Some(Self { by, ttl: config.ttl.0, key: config.key.clone() })
    }

    /// Whether sessions without an endpoint get theirs by a hash.
    pub(super) fn goes_by_key(&self) -> bool {
        matches!(self.by, SessionName::Header(_))
    }
}

/// RFC 6265, section 4.1.1: the name is a token.
fn cookie_name(name: &str, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<SessionName> {
    if HeaderName::try_from(name).is_err() {
        diagnostics.error(at, format!("`{name}` is not the name of a cookie")).help("such as `moongate_sticky`");
        return None;
    }
    Some(SessionName::Cookie(name.to_owned()))
}

/// A request's session, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StickySession {
    /// Its hash, where the gateway remembers it.
    session: Option<u128>,
    /// The endpoint that it belongs to.
    pub(super) endpoint: Option<u64>,
    /// What is remembered is soon forgotten.
    renew: bool,
}

impl StickySession {
    /// What balancing goes by, for a session that has no endpoint.
    pub fn balance_key(&self) -> Option<u64> {
        self.session.map(|it| it as u64)
    }
}

/// The sticky sessions of an upstream at work.
pub(super) struct Sticky {
    policy: StickyPolicy,
    upstream: Box<str>,
    key: hmac::Key,
    /// The endpoints of sessions, and until when, by the sessions' hashes.
    sessions: Option<Cache<u128, (u64, u64)>>,
    remembered: IntGauge,
    hits: IntCounter,
    misses: IntCounter,
}

impl Sticky {
    pub(super) fn new(upstream: &str, policy: &StickyPolicy) -> Self {
        let key = policy.key.as_ref().map_or(&OWN_KEY[..], |it| it.expose().as_bytes());
        Self {
            upstream: upstream.into(),
            key: hmac::Key::new(hmac::HMAC_SHA256, key),
            sessions: policy.goes_by_key().then(|| Cache::new(SESSIONS_MAX)),
            remembered: metrics::STICKY_SESSIONS.with_label_values(&[upstream]),
            hits: metrics::STICKY_HITS.with_label_values(&[upstream]),
            misses: metrics::STICKY_MISSES.with_label_values(&[upstream]),
            policy: policy.clone(),
        }
    }

    pub(super) fn policy(&self) -> &StickyPolicy {
        &self.policy
    }

    /// Names an endpoint to clients, who can't know it by that.
    pub(super) fn endpoint_id(&self, address: SocketAddr) -> u64 {
        let hash = self.hash("endpoint", address.to_string().as_bytes());
        hash as u64
    }

    /// The session of a request; `None` if it belongs to none and begins none. The cookie, which is the gateway's own,
    /// is taken out: upstreams have no use for it, and requests that differ in nothing else are the same.
    pub(super) fn session(&self, request: &mut RequestHeader) -> Option<StickySession> {
        match &self.policy.by {
            SessionName::Cookie(name) => {
                let carried = cookie(&request.headers, name).and_then(|it| self.verify(it));
                take_out(request, name);
                Some(self.known(None, carried))
            }
            SessionName::Header(name) => {
                let session = self.hash("session", request.headers.get(name)?.as_bytes());
                Some(self.known(Some(session), self.sessions.as_ref()?.get(&session)))
            }
        }
    }

    fn known(&self, session: Option<u128>, remembered: Option<(u64, u64)>) -> StickySession {
        let (now, ttl) = (millis_since_1970(), self.policy.ttl.as_millis() as u64);
        match remembered.filter(|(_, ends)| now < *ends) {
            Some((endpoint, ends)) => {
                let left = ends - now;
                StickySession { session, endpoint: Some(endpoint), renew: left < ttl / 2 || left > ttl }
            }
            None => StickySession { session, endpoint: None, renew: true },
        }
    }

    /// Counts whether a session's request goes to its endpoint.
    pub(super) fn count(&self, hit: bool) {
        if hit { self.hits.inc() } else { self.misses.inc() }
    }

    /// Remembers which endpoint a session belongs to, if `moved` or if that is soon forgotten. What the client has to
    /// remember is the cookie that it gets.
    pub(super) fn remember(
        &self,
        session: &StickySession,
        address: SocketAddr,
        moved: bool,
        secure: bool,
    ) -> Option<HeaderValue> {
        if !moved && !session.renew {
            return None;
        }
        let endpoint = self.endpoint_id(address);
        let ends = millis_since_1970().saturating_add(self.policy.ttl.as_millis() as u64);
        match (&self.policy.by, &self.sessions, session.session) {
            (SessionName::Cookie(name), ..) => self.cookie(name, endpoint, ends, secure),
            (SessionName::Header(_), Some(sessions), Some(session)) => {
                sessions.insert(session, (endpoint, ends));
                self.remembered.set(sessions.len() as i64);
                None
            }
            (SessionName::Header(_), ..) => None,
        }
    }

    fn cookie(&self, name: &str, endpoint: u64, ends: u64, secure: bool) -> Option<HeaderValue> {
        let mut value = [0; COOKIE_LEN];
        value[..8].copy_from_slice(&endpoint.to_be_bytes());
        value[8..16].copy_from_slice(&ends.to_be_bytes());
        let signature = self.hash("cookie", &value[..16]);
        value[16..].copy_from_slice(&signature.to_be_bytes());
        let (value, age) = (URL_SAFE_NO_PAD.encode(value), self.policy.ttl.as_secs_f64().ceil());
        let secure = if secure { "; Secure" } else { "" };
        let line = format!("{name}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Lax{secure}");
        let mut line = HeaderValue::try_from(line).ok()?;
        line.set_sensitive(true);
        Some(line)
    }

    /// The endpoint and the end that a cookie of ours has.
    fn verify(&self, cookie: &[u8]) -> Option<(u64, u64)> {
        let mut value = [0; COOKIE_LEN];
        let length = URL_SAFE_NO_PAD.decode_slice(cookie, &mut value).ok()?;
        let signature = self.hash("cookie", &value[..16]).to_be_bytes();
        if length != COOKIE_LEN || constant_time::verify_slices_are_equal(&value[16..], &signature).is_err() {
            return None;
        }
        let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, it| sum << 8 | u64::from(*it));
        Some((number(&value[..8]), number(&value[8..16])))
    }

    /// By the key, for this purpose and this upstream alone.
    fn hash(&self, purpose: &str, of: &[u8]) -> u128 {
        let mut hash = hmac::Context::with_key(&self.key);
        for part in [purpose.as_bytes(), self.upstream.as_bytes()] {
            hash.update(part);
            hash.update(b"\0");
        }
        hash.update(of);
        let hash = hash.sign();
        hash.as_ref()[..16].iter().fold(0, |sum, it| sum << 8 | u128::from(*it))
    }

    /// Its series go with it.
    pub(super) fn retire(&self) {
        let name = [&*self.upstream];
        let _ = metrics::STICKY_SESSIONS.remove_label_values(&name);
        let _ = metrics::STICKY_HITS.remove_label_values(&name);
        let _ = metrics::STICKY_MISSES.remove_label_values(&name);
    }
}

/// Takes a cookie out of the request.
fn take_out(request: &mut RequestHeader, name: &str) {
    let own = |pair: &&[u8]| {
        let named = pair.trim_ascii().strip_prefix(name.as_bytes());
        named.is_some_and(|it| it.first() == Some(&b'='))
    };
    let Some(line) = request.headers.get(COOKIE).map(HeaderValue::as_bytes) else { return };
    if !line.split(|it| *it == b';').any(|it| own(&it)) {
        return;
    }
    let others = line.split(|it| *it == b';').filter(|it| !own(it)).map(<[u8]>::trim_ascii);
    let others = others.filter(|it| !it.is_empty()).collect::<Vec<_>>().join(&b"; "[..]);
    match HeaderValue::from_bytes(&others) {
        Ok(line) if !line.is_empty() => drop(request.insert_header(COOKIE, line)),
        _ => drop(request.remove_header(&COOKIE)),
    }
}

fn millis_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sticky(yaml: &str) -> Sticky {
        let config: StickyConfig = serde_yaml::from_str(yaml).unwrap();
        let policy = StickyPolicy::compile(&config, &At::ROOT, &mut Diagnostics::default()).unwrap();
        Sticky::new("backend", &policy)
    }

    fn request(cookies: &str) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        if !cookies.is_empty() {
            request.insert_header(COOKIE, cookies).unwrap();
        }
        request
    }

    const KEY: &str = "key: 0123456789abcdef0123456789abcdef";

    #[test]
    fn cp2_a_a_cookie_names_an_endpoint_to_those_who_have_the_key() {
        let one = sticky(&format!("{{ cookie: s, ttl: 1m, {KEY} }}"));
        let begin = one.session(&mut request("")).unwrap();
        assert_eq!(begin.endpoint, None);
        let address = SocketAddr::from(([10, 0, 0, 7], 1));
        let line = one.remember(&begin, address, true, true).unwrap();
        let line = line.to_str().unwrap();
        assert!(line.ends_with("; Path=/; Max-Age=60; HttpOnly; SameSite=Lax; Secure"), "{line}");
        let pair = line.split(';').next().unwrap();
        let of = |sticky: &Sticky, cookies: &str| sticky.session(&mut request(cookies)).unwrap().endpoint;
        assert_eq!(of(&one, pair), Some(one.endpoint_id(address)));
        let other = sticky("{ cookie: s, ttl: 1m, key: fedcba9876543210 }");
        assert_eq!(of(&other, pair), None, "another key knows nothing of it");
        for forged in [&pair[..pair.len() - 1], &pair.replacen("s=", "s=A", 1), "s=", "s=%%", "s"] {
            assert_eq!(of(&one, forged), None, "{forged}");
        }
    }

    #[test]
    fn the_cookie_alone_is_taken_out() {
        let one = sticky(&format!("{{ cookie: s, {KEY} }}"));
        for (before, after) in
            [("a=1; s=x; b=2", Some("a=1; b=2")), ("s=x", None), ("ss=1;s=2", Some("ss=1")), ("a=s=1", Some("a=s=1"))]
        {
            let mut request = request(before);
            one.session(&mut request);
            assert_eq!(request.headers.get(COOKIE).map(|it| it.to_str().unwrap()), after);
        }
    }

    #[test]
    fn what_is_remembered_lasts_and_is_renewed_in_its_second_half() {
        let one = sticky(&format!("{{ header: x-session, ttl: 10s, {KEY} }}"));
        let known = |left: i64| one.known(Some(1), Some((7, millis_since_1970().saturating_add_signed(left))));
        assert_eq!((known(9_000).endpoint, known(9_000).renew), (Some(7), false));
        assert_eq!((known(4_000).endpoint, known(4_000).renew), (Some(7), true));
        assert_eq!(known(-1).endpoint, None);
        assert!(known(60_000).renew, "the time was longer once");
        assert_eq!(one.session(&mut request("")), None, "no field, no session");
    }
}
