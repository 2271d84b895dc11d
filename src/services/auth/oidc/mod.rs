//! Sign-in at a provider of identities (OpenID Connect Core 1.0, section 3.1): authorization code with
//! PKCE (RFC 7636), state and nonce, bound to the browser that began (RFC 9700).

mod provider;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, COOKIE, HeaderMap, HeaderValue, LOCATION, SET_COOKIE};
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use tokio::runtime::Handle;

use crate::identity::Revocation;
use crate::services::auth::accounts::{random_text, sha256};
use crate::services::auth::fault::Fault;
use crate::services::auth::oidc::provider::Provider;
use crate::services::auth::people::query;
use crate::services::auth::{Answer, Asked, Inner, Rules, metrics};
use crate::store::{NewUser, StoreError};

/// How long somebody may take to sign in there.
const LIFE: Duration = Duration::from_secs(600);
/// Binds a sign-in to the browser that began it: nobody can be made to finish another's.
const COOKIE_NAME: &str = "moongate_sign_in";

/// The providers by name.
pub(super) struct Providers(BTreeMap<String, Arc<Provider>>);

/// What has to be remembered until somebody comes back.
#[derive(Serialize, Deserialize)]
struct PendingSignIn {
    provider: String,
    /// What proves that the one who brings the code began the sign-in (RFC 7636).
    verifier: String,
    nonce: String,
    /// SHA-256 of the browser's cookie.
    browser: [u8; 32],
}

impl Providers {
    pub(super) fn new(rules: &Rules, runtime: Handle) -> Self {
        let made = |rules| Arc::new(Provider::new(Arc::clone(rules), runtime.clone()));
        Self(rules.providers.iter().map(|(name, rules)| (name.clone(), made(rules))).collect())
    }

    fn find(&self, name: &str) -> Result<Arc<Provider>, Fault> {
        self.0.get(name).cloned().ok_or(Fault::Unknown("provider"))
    }
}

impl Inner {
    /// `GET /api/v1/auth/oidc/{provider}/login`: sends the browser there.
    pub(super) async fn begin_at(&self, name: &str) -> Answer {
        let provider = self.providers.find(name)?;
        let known = provider.known().await?;
        let text = || random_text().map(|it| it.expose().to_owned());
        let (state, verifier, nonce, browser) = (text()?, text()?, text()?, text()?);
        let mut to = known.authorization.clone();
        to.query_pairs_mut().extend_pairs([
            ("response_type", "code"),
            ("client_id", &*provider.rules.written.client_id),
            ("redirect_uri", provider.rules.redirect.as_str()),
            ("scope", &provider.scope()),
            ("state", &state),
            ("nonce", &nonce),
            ("code_challenge", &URL_SAFE_NO_PAD.encode(sha256(verifier.as_bytes()))),
            ("code_challenge_method", "S256"),
        ]);
        let pending = PendingSignIn { provider: name.to_owned(), verifier, nonce, browser: sha256(browser.as_bytes()) };
        let pending = Bytes::from(serde_json::to_vec(&pending).map_err(|_| Fault::Internal)?);
        self.state.records.write(&key(&state), pending, LIFE).await?;
        let secure = if provider.rules.redirect.scheme() == "https" { "; Secure" } else { "" };
        let path = provider.rules.redirect.path();
        let cookie =
            format!("{COOKIE_NAME}={browser}; Path={path}; Max-Age={}; HttpOnly; SameSite=Lax{secure}", LIFE.as_secs());
        redirect(to.as_str(), &cookie).ok_or(Fault::Internal)
    }

    /// `GET /api/v1/auth/oidc/{provider}/callback`: somebody comes back, with a code that is good once.
    pub(super) async fn come_back_from(&self, name: &str, asked: Asked) -> Answer {
        let provider = self.providers.find(name)?;
        let query = query(asked.head.uri.query().unwrap_or_default());
        let state = query.get("state").ok_or(Fault::Invalid("state", "is missing".to_owned()))?;
        let pending = self.take(state).await?.filter(|it| it.provider == name && same_browser(it, &asked.head.headers));
        let pending = pending.ok_or(Fault::SignIn("this sign-in was not begun here, or it took too long"))?;
        // RFC 9207: an answer of another provider is not mixed up with this one's.
        if query.get("iss").is_some_and(|it| it.trim_end_matches('/') != provider.issuer()) {
            return Err(Fault::SignIn("the answer is another provider's"));
        }
        if query.contains_key("error") {
            return Err(Fault::SignIn("the provider did not let them in"));
        }
        let code = query.get("code").ok_or(Fault::Invalid("code", "is missing".to_owned()))?;
        let person = provider.person(code, &pending.verifier, &pending.nonce).await?;
        let id = format!("{name}:{}", person.subject);
        let user = NewUser {
            name: id.clone(),
            id,
            password_hash: None,
            roles: person.roles,
            tenant: provider.rules.written.tenant.clone(),
        };
        let user = self.federated(user).await?;
        if !user.active {
            return Err(Fault::SignIn("this user has been disabled here"));
        }
        let mut answer = self.sign_in(&user).await?;
        metrics::PROVIDER.inc();
        let path = provider.rules.redirect.path();
        let gone = HeaderValue::from_str(&format!("{COOKIE_NAME}=; Path={path}; Max-Age=0; HttpOnly; SameSite=Lax"));
        answer.headers_mut().insert(SET_COOKIE, gone.map_err(|_| Fault::Internal)?);
        Ok(answer)
    }

    /// What was begun under this state; the first to take it gets it.
    async fn take(&self, state: &str) -> Result<Option<PendingSignIn>, Fault> {
        if state.len() > 64 {
            return Ok(None);
        }
        let key = key(state);
        let Some(kept) = self.state.records.read(&key).await? else { return Ok(None) };
        let first = self.state.records.compare_and_delete(&key, &kept).await?;
        Ok(serde_json::from_slice(&kept).ok().filter(|_| first))
    }

    async fn federated(&self, user: NewUser) -> Result<crate::store::User, Fault> {
        let life = self.revoked_for();
        let known = match self.store.federated_user(user.clone(), life).await {
            // They came for the first time, twice at once.
            Err(StoreError::Conflict) => self.store.federated_user(user, life).await?,
            known => known?,
        };
        if known.version > 1 {
            let before = u64::try_from(known.changed).unwrap_or(0);
            let until = before + life.as_secs();
            self.spread(Revocation::Subject { subject: known.id.clone(), before, until }).await;
        }
        Ok(known)
    }
}

fn key(state: &str) -> String {
    format!("auth:oidc:{state}")
}

fn same_browser(pending: &PendingSignIn, headers: &HeaderMap) -> bool {
    let cookies = headers.get_all(COOKIE).iter().filter_map(|it| it.to_str().ok()).flat_map(|it| it.split(';'));
    let mut values = cookies.filter_map(|it| it.trim().strip_prefix(COOKIE_NAME)?.strip_prefix('='));
    values.any(|it| bool::from(sha256(it.as_bytes()).ct_eq(&pending.browser)))
}

fn redirect(to: &str, cookie: &str) -> Option<Response<Body>> {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::FOUND;
    answer.headers_mut().insert(LOCATION, HeaderValue::from_str(to).ok()?);
    answer.headers_mut().insert(SET_COOKIE, HeaderValue::from_str(cookie).ok()?);
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Some(answer)
}
