//! Who may use the admin API. On loopback whoever is on the machine; elsewhere a token's bearer.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde::Deserialize;

use crate::admin::pages::error;
use crate::base::Secret;

/// Who passes.
pub(super) enum Guard {
    /// Everybody: the listener is on loopback.
    Open,
    /// Bearers of an HS256 token with the role `admin` or `operator`.
    Token(Box<DecodingKey>),
    /// Nobody: there is no secret. The configuration's check does not let it come to this.
    Closed,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    roles: Vec<String>,
}

impl Guard {
    pub(super) fn new(address: SocketAddr, secret: Option<Secret>) -> Self {
        match secret {
            _ if address.ip().is_loopback() => Self::Open,
            Some(secret) => Self::Token(Box::new(DecodingKey::from_secret(secret.expose().as_bytes()))),
            None => Self::Closed,
        }
    }

    fn admits(&self, request: &Request) -> Result<(), Refused> {
        let key = match self {
            Self::Open => return Ok(()),
            Self::Closed => return Err(Refused::Unknown),
            Self::Token(key) => key,
        };
        let field = request.headers().get(AUTHORIZATION).and_then(|it| it.to_str().ok());
        let (scheme, token) = field.and_then(|it| it.split_once(' ')).ok_or(Refused::Unknown)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Refused::Unknown);
        }
        let token = token.trim();
        let mut rules = Validation::new(Algorithm::HS256);
        rules.validate_aud = false;
        rules.validate_nbf = true;
        rules.set_required_spec_claims(&["exp"]);
        let claims = decode::<Claims>(token, key, &rules).map_err(|_| Refused::Unknown)?.claims;
        let trusted = claims.roles.iter().any(|it| it == "admin" || it == "operator");
        if trusted { Ok(()) } else { Err(Refused::Forbidden) }
    }
}

enum Refused {
    Unknown,
    Forbidden,
}

/// Lets a request pass or answers 401 or 403.
pub(super) async fn check(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    match guard.admits(&request) {
        Ok(()) => next.run(request).await,
        Err(Refused::Unknown) => {
            let mut answer = error(
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "a valid token is needed",
                "send Authorization: Bearer …",
            )
            .into_response();
            answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"moongate\""));
            answer
        }
        Err(Refused::Forbidden) => {
            let message = "the token has neither the role admin nor operator";
            error(StatusCode::FORBIDDEN, "forbidden", message, "use a token with one of these roles").into_response()
        }
    }
}
