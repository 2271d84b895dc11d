//! Who may use the admin API. On loopback anybody on the machine, except to register instances; elsewhere principals of our own who count for no
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
pub(super) struct Guard {
    admin: Arc<Admin>,
    /// The listener is on loopback: whoever is on the machine may look and change.
    on_loopback: bool,
}

enum Refused {
    /// Nobody that is known; why, if there was a credential.
    Unknown(Option<TokenError>),
    /// The credential can't be looked up now.
    Unavailable,
    /// Somebody who may not.
    Forbidden(NotAdministrator),
    /// A service that registers another one.
    OtherService(String),
}

impl Guard {
    pub(super) fn new(address: SocketAddr, admin: &Arc<Admin>) -> Self {
        Self { admin: admin.clone(), on_loopback: address.ip().is_loopback() }
    }

    /// Whether a page takes no credential. Of what other issuers say of roles nothing counts: that is about their own
    /// people. Who may register says where requests go, so that is asked on loopback, too.
    fn is_open(&self, needed: &Needed) -> bool {
        let open = self.admin.configuration.process().written.registry.open;
        self.on_loopback && (needed.service.is_none() || open)
    }

    async fn admits(&self, credential: Option<Vec<u8>>, needed: Needed) -> Result<Option<Actor>, Refused> {
        if self.is_open(&needed) {
            return Ok(None);
        }
        let credential = credential.ok_or(Refused::Unknown(None))?;
        let configuration = &self.admin.configuration;
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
        let roles = &active.snapshot.roles;
        identity.may_administer(&principal, roles, needed.permission).map_err(Refused::Forbidden)?;
        if let Some(service) = needed.service.filter(|it| !is_for_service(&principal, it)) {
            return Err(Refused::OtherService(service));
        }
        Ok(Some(Actor(principal.subject.clone())))
    }
}

/// What a page takes: to look at the metrics, to look at anything, to register an instance, to change something.
struct Needed {
    permission: &'static str,
    /// The service that is registered.
    service: Option<String>,
}

impl Needed {
    fn of(request: &Request) -> Self {
        let (method, path) = (request.method(), request.uri().path());
        let reads = matches!(*method, Method::GET | Method::HEAD);
        let service = path.strip_prefix("/admin/registry/").filter(|_| !reads);
        let service = service.map(|it| it.split('/').next().unwrap_or_default().to_owned());
        let permission = match path {
            _ if service.is_some() => "registry.write",
            "/metrics" => "metrics.read",
            _ if reads => "admin.read",
            _ => "admin.write",
        };
        Self { permission, service }
    }
}

/// A credential with scopes such as `service:players` is for these services alone.
fn is_for_service(principal: &Principal, service: &str) -> bool {
    let mut bound = principal.scopes.iter().filter_map(|it| it.strip_prefix("service:")).peekable();
    bound.peek().is_none() || bound.any(|it| it == service)
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
    match guard.admits(credential(request.headers()), Needed::of(&request)).await {
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
            Self::OtherService(service) => {
                let message = format!("the credential is for other services than `{service}`");
                let action = "use one whose scopes have service:NAME for it";
                Fault::new(StatusCode::FORBIDDEN, "forbidden", message, action).into_response()
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
