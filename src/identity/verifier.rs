//! Verifies credentials: the live state of identities, which outlives reloads.

use std::fmt;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::accounts::{Account, Accounts, Answer, Lookups, Unavailable};
use super::api_key::{ApiKey, Holder};
use super::cache::{Cache, Found};
use super::claims::Claims;
use super::config::Tokens;
use super::identity_token::{Fields, IdentityClaims};
use super::keys::Keys;
use super::keyset::KeySet;
use super::metrics::{API_KEYS, KNOWN, UNAVAILABLE, VERIFIED, count_invalid};
use super::principal::Principal;
use super::remote::Remote;
use super::revocations::{Effect, Facts, Revocation, Revocations};
use super::roles::Roles;
use super::rules::Rules;
use super::token::{TOKEN_MAX, Token};
use super::token_error::{AuthError, TokenError};
use super::trust::Source;
use crate::base::unix_seconds;

/// What the gateway knows about who is who: keys, verified tokens, revocations. One for the process.
pub struct Identity {
    known: ArcSwap<Known>,
    verified: Cache<Verified>,
    pub(super) revocations: Revocations,
    pub(super) accounts: OnceLock<Arc<dyn Accounts>>,
    pub(super) api_keys: Lookups<Holder>,
    people: Lookups<Account>,
    /// Goes up with every change of keys: what was verified under others is verified again.
    keys_epoch: Arc<AtomicU64>,
    /// Where keys are fetched.
    runtime: OnceLock<Handle>,
    /// Held while a reload is applied: two at once would both start what only one may.
    keeping: Mutex<Vec<(Arc<Remote>, AbortHandle)>>,
    /// The roles that there are, by the configuration that serves.
    roles: ArcSwap<Roles>,
}

/// The issuers, with their keys.
struct Known {
    tokens: Arc<Tokens>,
    issuers: Vec<Issuer>,
}

/// One whose tokens count. The first one is this gateway itself.
struct Issuer {
    id: IssuerId,
    rules: Rules,
    keys: IssuerKeys,
}

enum IssuerKeys {
    Known(KeySet),
    Fetched(Arc<Remote>),
}

/// The issuer of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IssuerId {
    /// This gateway.
    Own,
    /// The issuer of this name in `tokens.trust`.
    Trusted(Arc<str>),
}

/// A token that counts.
#[derive(Clone, Debug)]
pub struct Verified {
    /// Its bearer.
    pub principal: Arc<Principal>,
    /// Who signed it.
    pub issuer: IssuerId,
    /// When it was signed, in seconds since 1970; 0 if it does not say so.
    pub issued: u64,
    /// When it ends, the leeway included, in seconds since 1970.
    pub ends: u64,
}

/// What verifying a token comes to.
#[derive(Debug)]
pub enum Verdict {
    /// It counts.
    Valid(Arc<Verified>),
    /// It does not.
    Invalid(TokenError),
    /// It does not count by the keys of its issuer that are known, which have to be fetched: newer ones may say
    /// otherwise ([`Identity::verify_with_fetch`]). Why it does not; nothing if no keys are known at all.
    KeysMissing(Option<TokenError>),
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

impl Identity {
    /// Begins with what was compiled. Keys are fetched once it is started.
    pub fn begin(tokens: Tokens) -> Arc<Self> {
        let known = ArcSwap::from_pointee(Known { issuers: Vec::new(), tokens: Arc::new(tokens.clone()) });
        let identity = Self {
            known,
            verified: Cache::new(tokens.remembered),
            revocations: Revocations::default(),
            accounts: OnceLock::new(),
            api_keys: Lookups::new(),
            people: Lookups::new(),
            keys_epoch: Arc::new(AtomicU64::new(1)),
            runtime: OnceLock::new(),
            keeping: Mutex::new(Vec::new()),
            roles: ArcSwap::from_pointee(Roles::default()),
        };
        identity.reload(tokens);
        Arc::new(identity)
    }

    /// Fetches keys on a runtime that requests do not depend on, from now on.
    pub fn start(&self, runtime: &Handle) {
        if self.runtime.set(runtime.clone()).is_ok() {
            self.reload((*self.tokens()).clone());
        }
    }

    /// Lets what was compiled anew count from now on. Fetched keys whose source did not change stay.
    pub fn reload(&self, tokens: Tokens) {
        let mut keeping = self.keeping.lock();
        let own = Issuer {
            id: IssuerId::Own,
            rules: tokens.own_rules.clone(),
            keys: IssuerKeys::Known(tokens.own_keys.clone()),
        };
        let mut issuers = vec![own];
        let mut kept = Vec::new();
        for trust in &tokens.trust {
            let keys = match &trust.source {
                Source::Known(keys) => IssuerKeys::Known(keys.clone()),
                Source::Fetched(fetch) => {
                    let known = keeping.iter().find(|(it, _)| it.settings() == fetch);
                    let known = known.map(|(it, task)| (it.clone(), task.clone()));
                    let Some((remote, task)) = known.or_else(|| self.keep(Remote::new(fetch.clone()))) else {
                        continue;
                    };
                    kept.push((remote.clone(), task));
                    IssuerKeys::Fetched(remote)
                }
            };
            issuers.push(Issuer { id: IssuerId::Trusted(trust.name.clone()), rules: trust.rules.clone(), keys });
        }
        for (remote, task) in keeping.iter() {
            if !kept.iter().any(|(it, _)| Arc::ptr_eq(it, remote)) {
                task.abort();
            }
        }
        *keeping = kept;
        self.known.store(Arc::new(Known { tokens: Arc::new(tokens), issuers }));
        // After the store: whoever sees the new number sees the new keys.
        self.keys_epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// `None` before the start: nothing is fetched then.
    fn keep(&self, remote: Remote) -> Option<(Arc<Remote>, AbortHandle)> {
        let remote = Arc::new(remote);
        let task = self.runtime.get()?.spawn(remote.clone().keep(self.keys_epoch.clone()));
        Some((remote, task.abort_handle()))
    }

    /// What is configured now.
    pub fn tokens(&self) -> Arc<Tokens> {
        self.known.load().tokens.clone()
    }

    /// Lets these roles be those that there are.
    pub fn use_roles(&self, roles: Arc<Roles>) {
        self.roles.store(roles);
    }

    /// The roles that there are now.
    pub fn roles(&self) -> Arc<Roles> {
        self.roles.load_full()
    }

    /// The keys that sign and count now.
    pub fn keys(&self) -> Arc<Keys> {
        self.known.load().tokens.keys().clone()
    }

    /// The claims of a new access token, as [`Keys::claims`]; a subject whose tokens were taken back in this very
    /// second gets one of the next.
    pub fn claims(&self, subject: &str) -> Claims {
        let mut claims = self.keys().claims(subject);
        let life = claims.exp - claims.iat;
        claims.iat = self.revocations.earliest(subject, claims.iat);
        claims.exp = claims.iat + life;
        claims
    }

    /// Asks these for API keys and accounts from now on; until then, and without any, nobody gets in with one.
    pub fn use_accounts(&self, accounts: Arc<dyn Accounts>) {
        let _ = self.accounts.set(accounts); // once, at the start
    }

    /// Takes something back, from the next request on.
    pub fn revoke(&self, revocation: Revocation) {
        match &revocation {
            Revocation::ApiKey { id } => return self.api_keys.forget(id),
            Revocation::Subject { subject, .. } | Revocation::Roles { subject, .. } => self.people.forget(subject),
            Revocation::Token { .. } | Revocation::Session { .. } => {}
        }
        self.revocations.add(revocation, unix_seconds());
    }

    /// As [`Identity::revoke`], but what is known already costs the tokens that are remembered nothing.
    pub(super) fn revoke_if_new(&self, revocation: Revocation) {
        if !self.revocations.holds(&revocation) {
            self.revoke(revocation);
        }
    }

    /// Whose an API key is, if its record is remembered; `None` if it has to be looked up.
    pub fn verify_api_key(&self, key: &[u8]) -> Option<Result<Arc<Principal>, AuthError>> {
        let Some(key) = ApiKey::parse(key) else { return Some(Err(AuthError::Invalid(TokenError::ApiKey))) };
        let answer = self.api_keys.known(key.id)?;
        API_KEYS.known.inc();
        Some(opened(key, answer))
    }

    /// Whose an API key is.
    ///
    /// # Errors
    /// When it does not count, or can't be looked up.
    pub async fn look_up_api_key(&self, key: &[u8]) -> Result<Arc<Principal>, AuthError> {
        let key = ApiKey::parse(key).ok_or(AuthError::Invalid(TokenError::ApiKey))?;
        let accounts = self.accounts.get().ok_or(AuthError::Unavailable)?;
        let ask = async { Ok(accounts.api_key(key.id).await?.map(|it| Holder::new(key.id, it))) };
        let answer = self.api_keys.find(key.id, self.tokens().records_life, ask).await;
        API_KEYS.looked_up.inc();
        opened(key, answer)
    }

    /// A principal with the roles that its account has now, if that is remembered; `None` if it has to be looked up.
    pub fn with_account(&self, principal: &Arc<Principal>) -> Option<Result<Arc<Principal>, AuthError>> {
        let answer = self.people.known(&principal.subject)?;
        Some(now_has(principal, answer))
    }

    /// A principal with the roles that its account has now.
    ///
    /// # Errors
    /// When there is none that is active, or it can't be looked up.
    pub async fn look_up_account(&self, principal: &Arc<Principal>) -> Result<Arc<Principal>, AuthError> {
        let accounts = self.accounts.get().ok_or(AuthError::Unavailable)?;
        let ask = accounts.account(&principal.subject);
        let answer = self.people.find(&principal.subject, self.tokens().records_life, ask).await;
        now_has(principal, answer)
    }

    /// The header fields that tell upstreams of a principal. They are made by `make`, seldom, from an identity token;
    /// there is none without a key to sign it with.
    pub fn identity_headers(
        &self,
        principal: &Principal,
        make: impl FnOnce(Option<String>) -> Arc<Fields>,
    ) -> Arc<Fields> {
        let now = unix_seconds();
        let epoch = self.keys_epoch.load(Ordering::Acquire);
        principal.identity_token.get(now, epoch, || {
            let keys = self.keys();
            make(keys.sign_identity(&IdentityClaims::of(principal, keys.issuer(), now)))
        })
    }

    /// Verifies a token, as far as that can be done without waiting.
    pub fn verify(&self, token: &[u8]) -> Verdict {
        let verdict = self.look(token);
        match &verdict {
            Verdict::Invalid(error) => count_invalid(*error),
            Verdict::Valid(_) | Verdict::KeysMissing(_) => {}
        }
        verdict
    }

    /// As [`Identity::verify`], but waits a little for keys that have to be fetched.
    ///
    /// # Errors
    /// When it does not count, or its issuer's keys can't be had.
    pub async fn verify_with_fetch(&self, token: &[u8]) -> Result<Arc<Verified>, AuthError> {
        let first = self.look(token);
        let Verdict::KeysMissing(known) = first else { return settle(first) };
        let fetched = match self.remote_of(token) {
            Some(remote) => remote.refreshed().await,
            None => false,
        };
        // Without a fetch the answer would be the same, and cost a signature.
        let verdict = if fetched { self.look(token) } else { Verdict::KeysMissing(known) };
        match verdict {
            Verdict::KeysMissing(Some(error)) => settle(Verdict::Invalid(error)),
            verdict => settle(verdict),
        }
    }

    fn look(&self, token: &[u8]) -> Verdict {
        if token.len() > TOKEN_MAX {
            return Verdict::Invalid(TokenError::TooLong);
        }
        let now = unix_seconds();
        // Before the keys and revocations themselves: what changes meanwhile is seen the next time.
        let epochs = (self.keys_epoch.load(Ordering::Acquire), self.revocations.epoch());
        let print = self.verified.print(token);
        let verified = match self.verified.find(print, now, epochs) {
            Found::Sound(verified) => {
                KNOWN.inc();
                return Verdict::Valid(verified);
            }
            Found::Recheck(verified) => verified,
            Found::Nothing => match self.verify_anew(token, now) {
                Verdict::Valid(verified) => verified,
                other => return other,
            },
        };
        match self.after_revocations(verified) {
            Ok(verified) => {
                self.verified.put(print, verified.clone(), verified.ends, now, epochs);
                Verdict::Valid(verified)
            }
            Err(error) => {
                self.verified.forget(print);
                Verdict::Invalid(error)
            }
        }
    }

    /// Issuer, key, signature, claims, in this order: nothing but the issuer is read of what is not signed.
    fn verify_anew(&self, token: &[u8], now: u64) -> Verdict {
        let known = self.known.load();
        let token = match Token::parse(token) {
            Ok(token) => token,
            Err(error) => return Verdict::Invalid(error),
        };
        let issuer = match known.issuer(&token) {
            Ok(issuer) => issuer,
            Err(error) => return Verdict::Invalid(error),
        };
        let signed = match &issuer.keys {
            IssuerKeys::Known(keys) => keys.check(&token),
            IssuerKeys::Fetched(remote) => match remote.with_keys(|keys| keys.check(&token)) {
                None => return Verdict::KeysMissing(None),
                // An issuer may have another key under the same name, or under none.
                Some(Err(error)) => return Verdict::KeysMissing(Some(error)),
                Some(Ok(())) => Ok(()),
            },
        };
        match signed.and_then(|()| issuer.rules.check(&token.claims, now)) {
            Ok(accepted) => {
                VERIFIED.inc();
                Verdict::Valid(Arc::new(Verified {
                    principal: Arc::new(accepted.principal),
                    issuer: issuer.id.clone(),
                    issued: accepted.issued,
                    ends: accepted.ends,
                }))
            }
            Err(error) => Verdict::Invalid(error),
        }
    }

    fn remote_of(&self, token: &[u8]) -> Option<Arc<Remote>> {
        let known = self.known.load();
        match &known.issuer(&Token::parse(token).ok()?).ok()?.keys {
            IssuerKeys::Fetched(remote) => Some(remote.clone()),
            IssuerKeys::Known(_) => None,
        }
    }

    fn after_revocations(&self, verified: Arc<Verified>) -> Result<Arc<Verified>, TokenError> {
        if verified.issuer != IssuerId::Own {
            return Ok(verified);
        }
        let principal = &verified.principal;
        match self.revocations.effect(Facts::of(principal)) {
            Effect::None => Ok(verified),
            Effect::Revoked => Err(TokenError::Revoked),
            Effect::Roles(roles) => {
                let principal = Arc::new(Principal { roles, ..(**principal).clone() });
                Ok(Arc::new(Verified { principal, ..(*verified).clone() }))
            }
        }
    }
}

impl Known {
    fn issuer(&self, token: &Token<'_>) -> Result<&Issuer, TokenError> {
        let Some(name) = token.issuer()? else {
            // A secret or key that signs for nobody in particular is ours, unless we say who we are.
            return self.issuers.first().filter(|_| !self.tokens.issuer_needed).ok_or(TokenError::Issuer);
        };
        self.issuers.iter().find(|it| *it.rules.issuer == *name).ok_or(TokenError::Issuer)
    }
}

fn opened(key: ApiKey<'_>, answer: Answer<Holder>) -> Result<Arc<Principal>, AuthError> {
    let opened = match answer {
        Ok(Some(holder)) => key.opens(&holder, unix_seconds()).map_err(AuthError::Invalid),
        Ok(None) => Err(AuthError::Invalid(TokenError::ApiKey)),
        Err(Unavailable) => Err(AuthError::Unavailable),
    };
    match opened {
        Ok(_) => API_KEYS.opened.inc(),
        Err(AuthError::Invalid(_)) => API_KEYS.refused.inc(),
        Err(AuthError::Unavailable) => API_KEYS.unavailable.inc(),
    }
    opened
}

fn now_has(principal: &Arc<Principal>, answer: Answer<Account>) -> Result<Arc<Principal>, AuthError> {
    match answer {
        Ok(Some(account)) if account.active => {
            if account.roles == principal.roles && account.tenant == principal.tenant {
                return Ok(principal.clone());
            }
            let (roles, tenant) = (account.roles.clone(), account.tenant.clone());
            Ok(Arc::new(Principal { roles, tenant, ..(**principal).clone() }))
        }
        Ok(_) => Err(AuthError::Invalid(TokenError::Account)),
        Err(Unavailable) => Err(AuthError::Unavailable),
    }
}

fn settle(verdict: Verdict) -> Result<Arc<Verified>, AuthError> {
    match verdict {
        Verdict::Valid(verified) => Ok(verified),
        Verdict::Invalid(error) => {
            count_invalid(error);
            Err(AuthError::Invalid(error))
        }
        Verdict::KeysMissing(_) => {
            UNAVAILABLE.inc();
            Err(AuthError::Unavailable)
        }
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        self.keeping.lock().iter().for_each(|(_, task)| task.abort());
    }
}

#[cfg(test)]
#[path = "verifier_tests.rs"]
mod tests;
