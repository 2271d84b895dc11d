//! The local service `auth`: sign-in, tokens, users (R4, PX-1, US-009).
//!
//! Whether a token is valid is verified by the room `identity`, what lasts is kept by `store`; this room
//! speaks with clients. `docs/IDENTITY.md` lists what it answers.

mod accounts;
mod config;
mod fault;
mod input;
mod metrics;
mod oidc;
mod passwords;
mod people;
mod session_token;
mod sign_in;
mod throttle;
mod well_known;

use std::sync::Arc;

use axum::body::Body;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use serde::Serialize;
use tokio::runtime::Handle;

use crate::base::unix_seconds;
use crate::identity::{AuthError, Identity, IssuerId, Principal, Revocation};
use crate::pipeline::{Context, LocalFuture, LocalService};
use crate::services::auth::fault::Fault;
use crate::services::auth::input::bearer;
use crate::services::auth::oidc::Providers;
use crate::services::auth::throttle::Throttle;
use crate::state::State;
use crate::store::Store;

pub use accounts::{
    MadeKey, NAME_RULE, NoRandomness, ROLE_RULE, ROLES_MAX, is_role, is_scope, is_user_name, random_password,
};
pub use config::{AuthConfig, OidcConfig, Rules, SessionTokenConfig};
pub use passwords::{BadPassword, Passwords};

/// What the service works with.
pub struct AuthParts {
    /// The `auth` section of gateway.yaml.
    pub rules: Rules,
    /// The address that clients reach the gateway under, if it is configured.
    pub public_url: Option<String>,
    /// What verifies and signs tokens.
    pub identity: Arc<Identity>,
    /// Where nonces and half-done sign-ins are.
    pub state: State,
    /// Where users and refresh tokens are.
    pub store: Store,
    /// Where what can't be done on a worker is done.
    pub runtime: Handle,
}

/// The service `auth`; clones share it.
#[derive(Clone)]
pub struct AuthService(Arc<Inner>);

struct Inner {
    rules: Rules,
    public_url: Option<String>,
    identity: Arc<Identity>,
    state: State,
    store: Store,
    passwords: Passwords,
    throttle: Throttle,
    providers: Providers,
}

/// What a client requests, with its path as it reached us.
struct Asked {
    head: Parts,
    body: Body,
    context: Context,
}

type Answer = Result<Response<Body>, Fault>;

impl AuthService {
    /// The service, with these parts.
    pub fn new(parts: AuthParts) -> Self {
        let AuthParts { rules, public_url, identity, state, store, runtime } = parts;
        Self(Arc::new(Inner {
            passwords: Passwords::default(),
            throttle: Throttle::new(&state),
            providers: Providers::new(&rules, runtime),
            rules,
            public_url,
            identity,
            state,
            store,
        }))
    }
}

impl LocalService for AuthService {
    fn call(&self, request: http::Request<Body>, context: Context) -> LocalFuture {
        let inner = self.0.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let id = context.request_id;
            let answer = inner.answer(Asked { head, body, context }).await;
            answer.unwrap_or_else(|fault| fault.answer(id.as_str()))
        })
    }
}

impl Inner {
    /// The paths, which are those of the contract: a route that rewrites them must come to them.
    async fn answer(&self, asked: Asked) -> Answer {
        let path = asked.head.uri.path().to_owned();
        let method = asked.head.method.clone();
        let steps: Vec<&str> = path.split('/').skip(1).collect();
        let takes = |methods: &'static str| match method == Method::HEAD && methods.contains("GET") {
            true => Ok(()),
            false if methods.split(", ").any(|it| it == method.as_str()) => Ok(()),
            false => Err(Fault::Method(methods)),
        };
        match &steps[..] {
            [".well-known", "jwks.json"] => takes("GET").map(|()| self.jwks()),
            [".well-known", "openid-configuration"] => takes("GET").map(|()| self.metadata(&asked)),
            ["api", "v1", "session", "token"] => {
                takes("POST")?;
                self.session_token(asked).await
            }
            ["api", "v1", "auth", "login"] => {
                takes("POST")?;
                self.login(asked).await
            }
            ["api", "v1", "auth", "refresh"] => {
                takes("POST")?;
                self.refresh(asked).await
            }
            ["api", "v1", "auth", "logout"] => {
                takes("POST")?;
                self.logout(asked).await
            }
            ["api", "v1", "auth", "oidc", provider, "login"] => {
                takes("GET")?;
                self.begin_at(provider).await
            }
            ["api", "v1", "auth", "oidc", provider, "callback"] => {
                takes("GET")?;
                self.come_back_from(provider, asked).await
            }
            ["api", "v1", "users"] => {
                takes("GET, POST")?;
                if method == Method::POST { self.create_user(asked).await } else { self.list_users(asked).await }
            }
            ["api", "v1", "users", id] => {
                takes("GET, PATCH")?;
                if method == Method::PATCH {
                    self.change_user(id, asked).await
                } else {
                    self.show_user(id, asked).await
                }
            }
            _ => Err(Fault::Unknown("path")),
        }
    }

    /// Lets what the store has on record as taken back count from now on, here and everywhere.
    async fn spread(&self, revocation: Revocation) {
        self.identity.revoke_everywhere(revocation, &self.state.pubsub).await;
    }

    /// The caller: the one that the route's filters proved, else the bearer of one of our tokens. A
    /// route that forgot its `auth` opens nothing.
    async fn principal(&self, head: &Parts, context: &Context) -> Result<Arc<Principal>, Fault> {
        if let Some(principal) = &context.principal {
            return Ok(principal.clone());
        }
        let token = bearer(&head.headers).ok_or(Fault::Token("a token is needed"))?;
        match self.identity.verify_with_fetch(token).await {
            Ok(verified) if verified.issuer == IssuerId::Own => Ok(verified.principal.clone()),
            // Who else may say who somebody is, is for the route to say.
            Ok(_) => Err(Fault::Token("the token's issuer does not count here")),
            Err(AuthError::Invalid(error)) => Err(Fault::Token(error.reason())),
            Err(AuthError::Unavailable) => Err(Fault::State),
        }
    }
}

/// An answer in JSON that nobody may keep.
fn json(status: StatusCode, body: &impl Serialize) -> Response<Body> {
    let mut answer = Response::new(Body::from(serde_json::to_vec(body).unwrap_or_default()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// Seconds since 1970.
fn now() -> i64 {
    unix_seconds().try_into().unwrap_or(i64::MAX)
}

/// The service before anything of it is there: what looks at the configuration needs no more than that
/// it exists.
pub struct NotYet;

impl LocalService for NotYet {
    fn call(&self, _: http::Request<Body>, _: Context) -> LocalFuture {
        Box::pin(std::future::ready(Fault::Store.answer("")))
    }
}
