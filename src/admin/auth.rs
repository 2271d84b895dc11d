//! Who may use the admin API. On loopback anybody on the machine; elsewhere the bearer of one of our own tokens.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::admin::pages::error;
use crate::identity::{Identity, IssuerId, TokenError, Verdict};

/// The roles that may use it.
const ROLES: [&str; 2] = ["admin", "operator"];

/// Who passes.
pub(super) enum Guard {
    /// Everybody: the listener is on loopback.
    Open,
    /// Bearers of our own tokens with one of the roles. What other issuers say of roles is about their own people.
    Token(Arc<Identity>),
}

impl Guard {
    pub(super) fn new(address: SocketAddr, identity: Arc<Identity>) -> Self {
        if address.ip().is_loopback() { Self::Open } else { Self::Token(identity) }
    }

    fn admits(&self, request: &Request) -> Result<(), Refused> {
        let Self::Token(identity) = self else { return Ok(()) };
        let mut fields = request.headers().get_all(AUTHORIZATION).iter();
        let (Some(field), None) = (fields.next(), fields.next()) else { return Err(Refused::Unknown(None)) };
        let (scheme, token) = field.as_bytes().split_at_checked(7).ok_or(Refused::Unknown(None))?;
        if !scheme.eq_ignore_ascii_case(b"bearer ") {
            return Err(Refused::Unknown(None));
        }
        let verified = match identity.verify(token.trim_ascii()) {
            Verdict::Valid(verified) if verified.issuer == IssuerId::Own => verified,
            Verdict::Invalid(token_error) => return Err(Refused::Unknown(Some(token_error))),
            Verdict::Valid(_) | Verdict::KeysMissing(_) => return Err(Refused::Unknown(Some(TokenError::Untrusted))),
        };
        let trusted = verified.principal.roles.iter().any(|it| ROLES.contains(&&**it));
        if trusted { Ok(()) } else { Err(Refused::Forbidden) }
    }
}

enum Refused {
    /// Nobody that is known; why, if there was a token.
    Unknown(Option<TokenError>),
    Forbidden,
}

/// Lets a request pass or answers 401 or 403.
pub(super) async fn check(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    match guard.admits(&request) {
        Ok(()) => next.run(request).await,
        Err(Refused::Unknown(token_error)) => {
            let message = token_error.map_or("a valid token is needed", TokenError::reason);
            let advice = "send Authorization: Bearer …";
            let mut answer = error(StatusCode::UNAUTHORIZED, "unauthorized", message, advice).into_response();
            let challenge = match token_error {
                None => "Bearer realm=\"moongate\"".to_owned(),
                Some(token_error) => {
                    let reason = token_error.reason();
                    format!("Bearer realm=\"moongate\", error=\"invalid_token\", error_description=\"{reason}\"")
                }
            };
            if let Ok(challenge) = HeaderValue::from_str(&challenge) {
                answer.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            }
            answer
        }
        Err(Refused::Forbidden) => {
            let message = "the token has neither the role admin nor operator";
            error(StatusCode::FORBIDDEN, "forbidden", message, "use a token with one of these roles").into_response()
        }
    }
}
