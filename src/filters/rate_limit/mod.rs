//! Limits on how many requests a client may send (decision 3; S2S-10, S2S-33, S2S-35, R5.1, R5.3).
//!
//! Written and compiled here; `step` is what they are on the way. `admit` checks the counters, `shared` counts together
//! with other gateways, `adaptive` makes limits narrower while an upstream struggles, `live` is what survives a reload.
//! docs/LIMITS.md describes for operators how it all behaves.

mod adaptive;
mod admit;
mod fields;
mod live;
mod shared;
mod step;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::header::HeaderName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::base::{At, Diagnostics, Period};
use crate::state::Quota;

pub use adaptive::{Adaptive, AdaptiveConfig};
pub use admit::Phase;
pub use live::{CountersReport, LimitReport, Limits, LimitsReport, LiveLimits};
pub use shared::SharedReport;
pub use step::{PrincipalLimits, RateLimits};

/// One limit of a `rate_limits` list.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimitConfig {
    /// Who is counted on their own.
    pub per: Per,
    /// So many requests …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub requests: Option<u64>,
    /// … in this time. They come back one by one, evenly, not all at once when the time is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<Period>,
    /// So many of them may come at once. Default: all of `requests`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub burst: Option<u64>,
    /// Names the limit in answers, metrics and logs, and keeps its counts over a reload. Default: the
    /// word of `per`. Needed for a second limit with the same `per` in a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What happens while gateways that share their counts can't reach them. Default `local`.
    #[serde(default, skip_serializing_if = "OnStateError::is_local")]
    pub on_state_error: OnStateError,
    /// Lets fewer requests through while the upstream struggles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adaptive: Option<AdaptiveConfig>,
    /// No limit: lifts those that `defaults` or a policy set for the same `per`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unlimited: bool,
}

/// Who is counted on their own: `ip`, `user`, `key`, `tenant`, `route`, or `{ header: x-client }`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Per {
    /// One of the words.
    Word(PerWord),
    /// Each value of a header field. The client chooses it: put a limit `per: ip` beside.
    Header(PerHeader),
}

/// Who is counted on their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PerWord {
    /// Each address; of IPv6 each network of 64 bits, since that is what one customer gets.
    Ip,
    /// Each principal; requests without one by their address.
    User,
    /// Each API key; requests without one as with `user`.
    Key,
    /// Each tenant; requests without one as with `user`.
    Tenant,
    /// Nobody: all requests of a route together.
    Route,
}

/// Each value of a header field; requests without it by their address.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PerHeader {
    /// The name of the field.
    pub header: String,
}

/// What happens to requests while the shared counts can't be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnStateError {
    /// Each gateway counts by itself, with the same limits.
    #[default]
    Local,
    /// They pass, uncounted.
    Allow,
    /// They get 503.
    Deny,
}

impl OnStateError {
    fn is_local(&self) -> bool {
        *self == Self::Local
    }
}

/// A limit that counts on a route, and where it is written.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
pub struct ScopedLimit {
    /// `defaults`, `policy/NAME` or `route/NAME`: limits of different scopes never share a count.
    pub scope: String,
    /// The limit.
    pub limit: RateLimitConfig,
}

/// The compiled limits of a route.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Those that need no principal first.
    limits: Arc<[RateLimit]>,
    /// How many of them need no principal.
    early: usize,
    /// The value of `RateLimit-Policy`.
    policies: HeaderValue,
}

#[derive(Clone, Debug)]
struct RateLimit {
    name: Arc<str>,
    /// Scope and name.
    id: Arc<str>,
    subject: Subject,
    quota: Quota,
    requests: u64,
    every: Duration,
    on_state_error: OnStateError,
    adaptive: Option<Adaptive>,
}

#[derive(Clone, Debug, PartialEq)]
enum Subject {
    Ip,
    User,
    Key,
    Tenant,
    Route,
    Header(HeaderName),
}

impl Subject {
    fn needs_principal(&self) -> bool {
        matches!(self, Self::User | Self::Key | Self::Tenant)
    }
}

impl RateLimitConfig {
    /// Whether it counts by principal: such limits are checked after credentials, the others before.
    pub fn counts_by_principal(&self) -> bool {
        matches!(self.per, Per::Word(PerWord::User | PerWord::Key | PerWord::Tenant))
    }
}

impl Per {
    /// Names of header fields mean the same in any case.
    fn names_the_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Header(one), Self::Header(other)) => one.header.eq_ignore_ascii_case(&other.header),
            _ => self == other,
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Word(PerWord::Ip) => "ip".to_owned(),
            Self::Word(PerWord::User) => "user".to_owned(),
            Self::Word(PerWord::Key) => "key".to_owned(),
            Self::Word(PerWord::Tenant) => "tenant".to_owned(),
            Self::Word(PerWord::Route) => "route".to_owned(),
            Self::Header(PerHeader { header }) => header.to_ascii_lowercase(),
        }
    }

    fn compile(&self) -> Option<Subject> {
        Some(match self {
            Self::Word(PerWord::Ip) => Subject::Ip,
            Self::Word(PerWord::User) => Subject::User,
            Self::Word(PerWord::Key) => Subject::Key,
            Self::Word(PerWord::Tenant) => Subject::Tenant,
            Self::Word(PerWord::Route) => Subject::Route,
            Self::Header(PerHeader { header }) => Subject::Header(HeaderName::from_bytes(header.as_bytes()).ok()?),
        })
    }
}

impl RateLimitConfig {
    fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.per.name())
    }

    fn compile(&self, scope: &str, at: &At<'_>, diagnostics: &mut Diagnostics) -> Option<RateLimit> {
        let name = self.name();
        let plain = |it: u8| it.is_ascii_alphanumeric() || b"-_.".contains(&it);
        if name.is_empty() || name.len() > 50 || !name.bytes().all(plain) {
            let diagnostic = diagnostics.error(&at.key("name"), "not a name for a limit");
            diagnostic.help("letters, digits, `-`, `_` and `.`, at most 50");
        }
        let subject = self.per.compile();
        if subject.is_none() {
            diagnostics
                .error(&at.key("per"), "not the name of a header field")
                .help("write it as { header: x-client }");
        }
        if self.unlimited {
            if self.requests.is_some() || self.every.is_some() || self.burst.is_some() || self.adaptive.is_some() {
                diagnostics.error(at, "unlimited, and a limit").help("keep one of the two");
            }
            return None;
        }
        let (Some(requests), Some(every)) = (self.requests, self.every) else {
            let diagnostic = diagnostics.error(at, "a limit without requests and every");
            diagnostic.help("write both, as in { per: ip, requests: 60, every: 1m }");
            return None;
        };
        let quota = Quota::new(requests, every.0, self.burst.unwrap_or(requests));
        if quota.is_none() {
            let diagnostic = diagnostics.error(at, "not a limit that can be counted");
            diagnostic.help("at least 1 request in at most 10 years, and a burst of at least 1");
        }
        let adaptive = self.adaptive.as_ref().map(|it| it.compile(&at.key("adaptive"), diagnostics));
        Some(RateLimit {
            id: format!("{scope}/{name}").into(),
            name: name.into(),
            subject: subject?,
            quota: quota?,
            requests,
            every: every.0,
            on_state_error: self.on_state_error,
            adaptive,
        })
    }
}

impl Rules {
    fn range(&self, phase: Phase) -> Range<usize> {
        match phase {
            Phase::BeforeAuth => 0..self.early,
            Phase::AfterAuth => self.early..self.limits.len(),
        }
    }

    /// Reports every fault of a list where it stands.
    pub fn check(limits: &[RateLimitConfig], at: &At<'_>, diagnostics: &mut Diagnostics) {
        let mut names = BTreeSet::new();
        for (number, limit) in limits.iter().enumerate() {
            let at = at.index(number);
            limit.compile("", &at, diagnostics);
            // One whose key can't be read would be called after one that it does not have.
            if !diagnostics.touch(&at) && !names.insert(limit.name()) {
                let diagnostic = diagnostics.error(&at, format!("two limits are called `{}`", limit.name()));
                diagnostic.help("give one of them another `name`");
            }
        }
    }

    /// What a route's limits come to; `None` if nothing is limited. Each was checked where it stands.
    pub fn compile(limits: &[ScopedLimit]) -> Option<Self> {
        let compile = |ScopedLimit { scope, limit }: &ScopedLimit| {
            limit.compile(scope, &At::ROOT, &mut Diagnostics::default()) // what lifts limits is none
        };
        let mut limits: Vec<RateLimit> = limits.iter().filter_map(compile).collect();
        limits.sort_by_key(|it| it.subject.needs_principal());
        let early = limits.iter().take_while(|it| !it.subject.needs_principal()).count();
        let policies = fields::policies(limits.iter().map(|it| (&*it.name, it.requests, it.every)));
        (!limits.is_empty()).then(|| Self { limits: limits.into(), early, policies })
    }
}

/// The limits that count, of the lists of `defaults`, policies and the route, in this order, each with its scope. All
/// lists apply, but where one speaks of a `per`, earlier ones have no say about it.
fn applying(lists: &[(&str, &[RateLimitConfig])]) -> Vec<ScopedLimit> {
    let mut applying = Vec::new();
    for (number, (scope, limits)) in lists.iter().enumerate() {
        let later = || lists[number + 1..].iter().flat_map(|it| it.1);
        let kept = limits.iter().filter(|it| !later().any(|later| later.per.names_the_same(&it.per)));
        applying.extend(kept.map(|it| ScopedLimit { scope: (*scope).to_owned(), limit: it.clone() }));
    }
    applying
}

/// Whether a request wants to be refused, to try out what a client does then (S2S-49).
/// Only to be called where mocks are switched on.
pub fn triggered(body: &[u8]) -> bool {
    const WORD: &[u8] = b"TRIGGER_RATE_LIMIT";
    body.windows(WORD.len()).any(|it| it == WORD)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(yaml: &str) -> Vec<RateLimitConfig> {
        serde_yaml::from_str(yaml).unwrap()
    }

    #[track_caller]
    fn check(yaml: &str, faults: &[&str]) {
        let mut diagnostics = Diagnostics::default();
        Rules::check(&list(yaml), &At::ROOT, &mut diagnostics);
        let paths: Vec<_> = diagnostics.iter().map(|it| it.path.as_str()).collect();
        assert_eq!(paths, faults, "{yaml}");
    }

    #[track_caller]
    fn joined(lists: &[(&str, &str)], ids: &[&str]) {
        let lists: Vec<_> = lists.iter().map(|(scope, yaml)| (*scope, list(yaml))).collect();
        let lists: Vec<_> = lists.iter().map(|(scope, limits)| (*scope, &limits[..])).collect();
        let joined = Rules::compile(&applying(&lists));
        let joined: Vec<_> = joined.iter().flat_map(|it| it.limits.iter()).map(|it| &*it.id).collect();
        assert_eq!(joined, ids);
    }

    #[test]
    fn every_fault_is_reported_where_it_stands() {
        check("[{ per: ip, requests: 60, every: 1m }, { per: { header: X-Client }, requests: 5, every: 10s }]", &[]);
        check("[{ per: ip }, { per: user, requests: 0, every: 1m }]", &["/0", "/1"]);
        check("[{ per: { header: 'no name' }, requests: 1, every: 1s, name: n }]", &["/0/per"]);
        check("[{ per: ip, requests: 1, every: 1s, name: 'a b' }]", &["/0/name"]);
        check("[{ per: ip, requests: 1, every: 1s, burst: 0 }]", &["/0"]);
        check("[{ per: ip, unlimited: true, requests: 1 }]", &["/0"]);
        check("[{ per: ip, requests: 1, every: 1s }, { per: ip, requests: 9, every: 1h }]", &["/1"]);
        check("[{ per: ip, requests: 1, every: 1s }, { per: ip, name: hourly, requests: 9, every: 1h }]", &[]);
        check("[{ per: ip, requests: 1, every: 1s, adaptive: { floor: 0% } }]", &["/0/adaptive/floor"]);
    }

    #[test]
    fn all_lists_apply_and_a_later_one_has_the_say_about_its_per() {
        let ip = "[{ per: ip, requests: 60, every: 1m }]";
        let user = "[{ per: user, requests: 600, every: 1m }]";
        joined(&[("defaults", ip), ("policy/p", user)], &["defaults/ip", "policy/p/user"]);
        joined(&[("defaults", ip), ("route/r", ip)], &["route/r/ip"]);
        joined(&[("defaults", ip), ("route/r", "[{ per: ip, unlimited: true }]")], &[]);
        joined(&[("defaults", user), ("route/r", ip)], &["route/r/ip", "defaults/user"]);
        joined(&[("defaults", "[]")], &[]);
        let (upper, lower) =
            ("[{ per: { header: X-A }, requests: 1, every: 1s }]", "[{ per: { header: x-a }, unlimited: true }]");
        joined(&[("defaults", upper), ("route/r", lower)], &[]);
        let two = "[{ per: ip, requests: 1, every: 1s }, { per: ip, name: hourly, requests: 9, every: 1h }]";
        joined(&[("defaults", two)], &["defaults/ip", "defaults/hourly"]);
        joined(&[("defaults", two), ("route/r", ip)], &["route/r/ip"]);
    }

    #[test]
    fn s2s_49_a_body_can_ask_for_a_refusal() {
        assert!(triggered(b"{\"input\":\"please TRIGGER_RATE_LIMIT now\"}"));
        assert!(!triggered(b"TRIGGER_RATE"));
        assert!(!triggered(b""));
    }
}
