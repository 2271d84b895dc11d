//! Who may use the admin API. On loopback anybody on the machine; elsewhere principals of our own who count for no
//! tenant, with a token or an API key whose roles and scopes permit the page.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use http::{Method, StatusCode};

use crate::admin::Admin;
use crate::admin::fault::Fault;
use crate::identity::{AuthError, NotAdministrator, Principal, TokenError, is_api_key};

/// Where API keys are, beside `Authorization`.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Who used a page: the subject of the credential.
#[derive(Clone)]
pub(super) struct Actor(pub(super) Arc<str>);

/// Who passes.
pub(super) enum Guard {
    /// Everybody: the listener is on loopback.
    Open,
    /// Those who may administer. What other issuers say of roles is about their own people.
    Administrators(Arc<Admin>),
}

enum Refused {
    /// Nobody that is known; why, if there was a credential.
    Unknown(Option<TokenError>),
    /// The credential can't be looked up now.
    Unavailable,
    /// Somebody who may not.
    Forbidden(NotAdministrator),
}

impl Guard {
    pub(super) fn new(address: SocketAddr, admin: &Arc<Admin>) -> Self {
        if address.ip().is_loopback() { Self::Open } else { Self::Administrators(admin.clone()) }
    }

    async fn admits(&self, credential: Option<Vec<u8>>, permission: &'static str) -> Result<Option<Actor>, Refused> {
        let Self::Administrators(admin) = self else { return Ok(None) };
        let credential = credential.ok_or(Refused::Unknown(None))?;
        let configuration = &admin.configuration;
        let identity = configuration.identity();
        let principal: Result<Arc<Principal>, AuthError> = if is_api_key(&credential) {
            match identity.verify_api_key(&credential) {
                Some(verified) => verified,
                None => identity.look_up_api_key(&credential).await,
            }
        } else {
            identity.verify_with_fetch(&credential).await.map(|it| it.principal.clone())
        };
        let principal = principal.map_err(|error| match error {
            AuthError::Invalid(error) => Refused::Unknown(Some(error)),
            AuthError::Unavailable => Refused::Unavailable,
        })?;
        let active = configuration.active();
        identity.may_administer(&principal, &active.snapshot.roles, permission).map_err(Refused::Forbidden)?;
        Ok(Some(Actor(principal.subject.clone())))
    }
}

/// What a page takes: to look at the metrics, to look at anything, to change something.
fn permission(request: &Request) -> &'static str {
    match (request.method(), request.uri().path()) {
        (_, "/metrics") => "metrics.read",
        (&Method::GET | &Method::HEAD, _) => "admin.read",
        _ => "admin.write",
    }
}

/// The only credential; two could be two people.
fn credential(headers: &HeaderMap) -> Option<Vec<u8>> {
    let bearers = headers.get_all(AUTHORIZATION).iter().map(|it| {
        let (scheme, token) = it.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
    });
    // What stands there has to be a key: a token is none.
    let keys = headers.get_all(API_KEY).iter().map(|it| Some(it.as_bytes()).filter(|it| is_api_key(it)));
    let mut all = bearers.chain(keys);
    match (all.next(), all.next()) {
        (Some(only), None) => only.map(<[u8]>::to_vec),
        _ => None,
    }
}

/// Lets a request pass or answers 401, 403 or 503.
pub(super) async fn check(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    // Copied: a request can't be looked at from two threads, and this waits.
    match guard.admits(credential(request.headers()), permission(&request)).await {
        Ok(actor) => {
            let mut response = next.run(request).await;
            if let Some(actor) = actor {
                response.extensions_mut().insert(actor);
            }
            response
        }
        Err(refused) => refused.into_response(),
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Self::Unknown(error) => unauthorized(error),
            Self::Unavailable => {
                let message = "the caller can't be authenticated at the moment";
                let fault =
                    Fault::new(StatusCode::SERVICE_UNAVAILABLE, "identity_unavailable", message, "try again later");
                fault.into_response()
            }
            Self::Forbidden(why) => {
                let action =
                    "use a token or an API key of this gateway, without a tenant, whose roles and scopes permit it";
                Fault::new(StatusCode::FORBIDDEN, "forbidden", why.to_string(), action).into_response()
            }
        }
    }
}

/// RFC 6750, section 3.
fn unauthorized(error: Option<TokenError>) -> Response {
    let message = error.map_or("a valid token or API key is needed", TokenError::reason);
    let action = "send Authorization: Bearer …, or X-API-Key";
    let mut answer = Fault::new(StatusCode::UNAUTHORIZED, "unauthorized", message, action).into_response();
    let challenge = match error {
        None => "Bearer realm=\"moongate\"".to_owned(),
        Some(error) => {
            let reason = error.reason();
            format!("Bearer realm=\"moongate\", error=\"invalid_token\", error_description=\"{reason}\"")
        }
    };
    if let Ok(challenge) = HeaderValue::from_str(&challenge) {
        answer.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    answer
}
