//! What was taken back before its end. Held in memory by every gateway: asking a store at each request would
//! make it as slow, and as often down, as the store.
//!
//! A revocation lives as long as the tokens that it concerns could. It bites at the next request: a number goes
//! up, and every verified token that is remembered is looked at again when it next comes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use super::metrics::REVOCATIONS;
use super::principal::Principal;

/// So many at once. Beyond it, everything signed before that moment is taken back: too much rather than too little.
const MAX: usize = 500_000;

/// Something that was taken back, or changed, before the tokens that say otherwise have ended. Concerns our own
/// tokens; times are in seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Revocation {
    /// One token.
    Token {
        /// Its `jti`.
        jti: String,
        /// Its `exp`.
        until: u64,
    },
    /// All tokens that come from one sign-in: a family of refresh tokens.
    Session {
        /// Its `sid`.
        sid: String,
        /// The `exp` of the last access token that came from it.
        until: u64,
    },
    /// All tokens of one subject.
    Subject {
        /// Their `sub`.
        subject: String,
        /// Those signed until then.
        before: u64,
        /// When the last of them ends.
        until: u64,
    },
    /// One subject has other roles than its tokens say.
    Roles {
        /// Their `sub`.
        subject: String,
        /// All its roles from now on.
        roles: Vec<String>,
        /// Tokens signed until then are meant: later ones know.
        before: u64,
        /// When the last of them ends.
        until: u64,
    },
    /// An API key: its record is looked up anew.
    ApiKey {
        /// Its id.
        id: String,
    },
}

/// What revocations do to a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    Revoked,
    /// Its bearer has these roles instead.
    Roles(Vec<Arc<str>>),
}

/// What revocations need to know of a token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    pub(super) subject: &'a str,
    pub(super) jti: Option<&'a str>,
    pub(super) sid: Option<&'a str>,
    pub(super) issued: u64,
}

impl<'a> Facts<'a> {
    /// Those of the token that proved a principal.
    pub(super) fn of(principal: &'a Principal) -> Self {
        Self {
            subject: &principal.subject,
            jti: principal.credential.as_deref(),
            sid: principal.session.as_deref(),
            issued: principal.validity.issued,
        }
    }
}

/// All that was taken back and whose tokens could still come.
#[derive(Debug, Default)]
pub struct Revocations {
    inner: RwLock<Inner>,
    epoch: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    tokens: HashMap<String, u64>,
    sessions: HashMap<String, u64>,
    subjects: HashMap<String, Since>,
    roles: HashMap<String, (Since, Vec<Arc<str>>)>,
    /// Everything signed until then is taken back.
    all_before: u64,
    /// So many entries are let be before the ended ones are looked for.
    prune_at: usize,
}

#[derive(Clone, Copy, Debug)]
struct Since {
    before: u64,
    until: u64,
}

impl Since {
    fn later(self, other: Self) -> Self {
        Self { before: self.before.max(other.before), until: self.until.max(other.until) }
    }
}

impl Revocations {
    /// Takes it back, from the next request on.
    pub(super) fn add(&self, revocation: Revocation, now: u64) {
        let mut inner = self.inner.write();
        inner.make_room(now);
        inner.add(revocation);
        REVOCATIONS.set(i64::try_from(inner.len()).unwrap_or(i64::MAX));
        drop(inner);
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether it is known already.
    pub(super) fn holds(&self, revocation: &Revocation) -> bool {
        let inner = self.inner.read();
        match revocation {
            Revocation::Token { jti, .. } => inner.tokens.contains_key(jti),
            Revocation::Session { sid, until } => inner.sessions.get(sid).is_some_and(|it| it >= until),
            Revocation::Subject { subject, before, until } => {
                inner.subjects.get(subject).is_some_and(|it| it.before >= *before && it.until >= *until)
            }
            Revocation::Roles { .. } | Revocation::ApiKey { .. } => false,
        }
    }

    /// Goes up whenever something is taken back.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    pub(super) fn effect(&self, token: Facts<'_>) -> Effect {
        let inner = self.inner.read();
        let since = inner.subjects.get(token.subject).map_or(0, |it| it.before);
        let revoked = token.issued <= since.max(inner.all_before) && since.max(inner.all_before) > 0
            || token.jti.is_some_and(|it| inner.tokens.contains_key(it))
            || token.sid.is_some_and(|it| inner.sessions.contains_key(it));
        if revoked {
            return Effect::Revoked;
        }
        match inner.roles.get(token.subject) {
            Some((since, roles)) if token.issued <= since.before => Effect::Roles(roles.clone()),
            _ => Effect::None,
        }
    }

    /// The first second in which a token of this subject can be signed and is not taken back already.
    pub(super) fn earliest(&self, subject: &str, now: u64) -> u64 {
        let inner = self.inner.read();
        let subjects = inner.subjects.get(subject).map_or(0, |it| it.before + 1);
        let roles = inner.roles.get(subject).map_or(0, |(it, _)| it.before + 1);
        now.max(subjects).max(roles).max(inner.all_before.saturating_add(u64::from(inner.all_before > 0)))
    }
}

impl Inner {
    fn len(&self) -> usize {
        self.tokens.len() + self.sessions.len() + self.subjects.len() + self.roles.len()
    }

    fn add(&mut self, revocation: Revocation) {
        match revocation {
            Revocation::ApiKey { .. } => {} // what its record says counts
            Revocation::Token { jti, until } => drop(self.tokens.insert(jti, until)),
            Revocation::Session { sid, until } => {
                let known = self.sessions.entry(sid).or_default();
                *known = until.max(*known);
            }
            Revocation::Subject { subject, before, until } => {
                let since = Since { before, until };
                let known = self.subjects.entry(subject).or_insert(since);
                *known = known.later(since);
            }
            Revocation::Roles { subject, roles, before, until } => {
                let mut since = Since { before, until };
                if let Some((known, _)) = self.roles.get(&subject) {
                    // News may overtake each other; the older of two is no news.
                    if known.before > before {
                        return;
                    }
                    since = since.later(*known);
                }
                self.roles.insert(subject, (since, roles.iter().map(|it| Arc::from(&**it)).collect()));
            }
        }
    }

    /// Lets go of what has ended; if that is not enough, takes back everything at once.
    fn make_room(&mut self, now: u64) {
        if self.len() < self.prune_at.max(1_024) {
            return;
        }
        self.tokens.retain(|_, until| *until > now);
        self.sessions.retain(|_, until| *until > now);
        self.subjects.retain(|_, it| it.until > now);
        self.roles.retain(|_, (it, _)| it.until > now);
        if self.len() >= MAX {
            tracing::error!(event = "revocations_full", "too many revocations: everybody has to sign in again");
            *self = Self { all_before: now, ..Self::default() };
        }
        self.prune_at = (2 * self.len()).min(MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(issued: u64) -> Facts<'static> {
        Facts { subject: "ada", jti: Some("t"), sid: Some("s"), issued }
    }

    #[test]
    fn r4_3_a_token_is_taken_back_by_its_name_its_sign_in_or_its_subject() {
        let revoke = |it: Revocation| {
            let revocations = Revocations::default();
            revocations.add(it, 100);
            (revocations.effect(facts(100)), revocations.effect(facts(101)))
        };
        let token = Revocation::Token { jti: "t".into(), until: 200 };
        assert_eq!(revoke(token), (Effect::Revoked, Effect::Revoked));
        let other = Revocation::Token { jti: "u".into(), until: 200 };
        assert_eq!(revoke(other), (Effect::None, Effect::None));
        let session = Revocation::Session { sid: "s".into(), until: 200 };
        assert_eq!(revoke(session), (Effect::Revoked, Effect::Revoked));
        let subject = Revocation::Subject { subject: "ada".into(), before: 100, until: 200 };
        assert_eq!(revoke(subject), (Effect::Revoked, Effect::None));
        let roles = Revocation::Roles { subject: "ada".into(), roles: vec!["user".into()], before: 100, until: 200 };
        assert_eq!(revoke(roles), (Effect::Roles(vec!["user".into()]), Effect::None));
    }

    #[test]
    fn news_that_overtake_each_other_come_to_the_same() {
        let roles = |role: &str, before| Revocation::Roles {
            subject: "ada".into(),
            roles: vec![role.into()],
            before,
            until: 200,
        };
        let revocations = Revocations::default();
        revocations.add(roles("admin", 102), 100);
        revocations.add(roles("user", 101), 100);
        assert_eq!(revocations.effect(facts(100)), Effect::Roles(vec!["admin".into()]));
        assert_eq!(revocations.earliest("ada", 100), 103);
        assert_eq!(revocations.earliest("bob", 100), 100);
    }

    #[test]
    fn what_has_ended_is_let_go_and_too_much_takes_back_everything() {
        let revocations = Revocations::default();
        let epoch = revocations.epoch();
        for number in 0..2_000_u64 {
            revocations.add(Revocation::Token { jti: number.to_string(), until: 10 + number }, number);
        }
        assert_eq!(revocations.epoch(), epoch + 2_000);
        assert!(revocations.inner.read().len() < 1_100);
        for number in 0..=MAX {
            revocations.add(Revocation::Token { jti: number.to_string(), until: u64::MAX }, 100);
        }
        assert_eq!(revocations.effect(facts(100)), Effect::Revoked);
        assert_eq!(revocations.effect(facts(101)), Effect::None);
        assert!(revocations.inner.read().len() <= MAX);
    }
}
