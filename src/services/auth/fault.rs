//! What the service says when it says no: a closed list, in the shape of all the gateway's errors
//! (decision 8).

use std::time::Duration;

use axum::body::Body;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use serde_json::json;

use crate::base::Busy;
use crate::identity::NotAdministrator;
use crate::pipeline::ErrorBody;
use crate::services::auth::accounts::NoRandomness;
use crate::state::Unavailable;
use crate::store::StoreError;
use crate::telemetry::refused;

/// Why there is nothing else to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// This part of the request is not what it has to be.
    Invalid(&'static str, String),
    /// Name or password is wrong, or the user may not sign in: nobody learns which.
    Credentials,
    /// The nonce has been used.
    NonceUsed,
    /// The token that was shown does not count.
    Token(&'static str),
    /// The principal lacks this role.
    Role(&'static str),
    /// The principal has the role, and may not all the same.
    NotAdministrator(NotAdministrator),
    /// A tenant's admin deals with a role that they do not have.
    RoleBeyond,
    /// There is nothing of this name.
    Unknown(&'static str),
    /// This path takes other methods.
    Method(&'static str),
    /// The name is taken.
    Taken,
    /// Too many attempts; the next one after this time.
    TooMany(Duration),
    /// Too much is being done at once.
    Busy,
    /// The store can't be reached.
    Store,
    /// The state can't be reached.
    State,
    /// There is no key to sign with.
    NoKey,
    /// The provider of identities can't be reached, or said something that can't be used.
    Provider,
    /// The provider, or what came from it, says no.
    SignIn(&'static str),
    /// Something broke.
    Internal,
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => Self::Store,
            StoreError::Conflict => Self::Taken,
        }
    }
}

impl From<Unavailable> for Fault {
    fn from(_: Unavailable) -> Self {
        Self::State
    }
}

impl From<Busy> for Fault {
    fn from(_: Busy) -> Self {
        Self::Busy
    }
}

impl From<NoRandomness> for Fault {
    fn from(_: NoRandomness) -> Self {
        Self::Internal
    }
}

impl Fault {
    fn error_body(&self) -> ErrorBody {
        const LATER: &str = "try again later";
        let say = ErrorBody::new;
        match self {
            Self::Invalid(field, why) => {
                let message = format!("`{field}` {why}");
                say(StatusCode::BAD_REQUEST, "invalid_request", &message, "correct the field that is named")
                    .with_details(json!({ "field": field, "why": why }))
            }
            Self::Credentials => {
                let message = "the name or the password is wrong";
                say(StatusCode::UNAUTHORIZED, "invalid_credentials", message, "check both and try again")
            }
            Self::NonceUsed => {
                let message = "this nonce has been used";
                say(StatusCode::UNAUTHORIZED, "nonce_used", message, "send the request with a new nonce")
            }
            Self::Token(why) => say(StatusCode::UNAUTHORIZED, "invalid_token", why, "sign in again"),
            Self::Role(role) => {
                let message = format!("Insufficient permissions. Required role: {role}.");
                say(StatusCode::FORBIDDEN, "forbidden", &message, "a person who has this role can do it")
                    .with_details(json!({ "required_role": role }))
            }
            Self::NotAdministrator(why) => {
                say(StatusCode::FORBIDDEN, "forbidden", &why.to_string(), "use a credential of this gateway for it")
            }
            Self::RoleBeyond => {
                let message = "an admin who counts for a tenant gives no role that permits more than their own";
                say(StatusCode::FORBIDDEN, "forbidden", message, "ask an admin who counts for no tenant")
            }
            Self::Unknown(what) => {
                let message = format!("there is no such {what}");
                say(StatusCode::NOT_FOUND, "not_found", &message, "check the name")
            }
            Self::Method(_) => {
                let message = "this path does not accept this method";
                say(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message, "use one of the methods in Allow")
            }
            Self::Taken => say(StatusCode::CONFLICT, "name_taken", "there is one of this name", "choose another name"),
            Self::TooMany(_) => {
                let message = "too many attempts to sign in";
                say(StatusCode::TOO_MANY_REQUESTS, "too_many_attempts", message, "wait as long as Retry-After says")
            }
            Self::Busy => {
                let message = "too many are signing in at the moment";
                say(StatusCode::SERVICE_UNAVAILABLE, "sign_in_busy", message, LATER)
            }
            Self::Store => {
                let message = "the records can't be looked up at the moment";
                say(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", message, LATER)
            }
            Self::State => {
                let message = "what this request depends on can't be looked up at the moment";
                say(StatusCode::SERVICE_UNAVAILABLE, "state_unavailable", message, LATER)
            }
            Self::NoKey => {
                let message = "no key to sign tokens with is configured";
                say(StatusCode::SERVICE_UNAVAILABLE, "no_signing_key", message, "tell the operator")
            }
            Self::Provider => {
                let message = "the provider of identities can't be reached or understood";
                say(StatusCode::BAD_GATEWAY, "provider_failed", message, LATER)
            }
            Self::SignIn(why) => say(StatusCode::UNAUTHORIZED, "sign_in_failed", why, "begin again"),
            Self::Internal => {
                let message = "something in the gateway broke";
                say(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message, "tell the operator")
            }
        }
    }

    /// The answer to a request of this id.
    pub(super) fn answer(&self, request_id: &str) -> Response<Body> {
        let error = self.error_body();
        refused(error.code);
        let status = error.status;
        let mut answer = Response::new(Body::from(error.json(request_id)));
        *answer.status_mut() = status;
        let fields = answer.headers_mut();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match self {
            Self::Method(allow) => drop(fields.insert(ALLOW, HeaderValue::from_static(allow))),
            Self::TooMany(wait) => drop(fields.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1))),
            _ if status == StatusCode::SERVICE_UNAVAILABLE => {
                fields.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            // RFC 9110, section 11.6.1; RFC 6750, section 3.
            Self::Token(_) => {
                let challenge = "Bearer realm=\"moongate\", error=\"invalid_token\"";
                fields.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
            _ if status == StatusCode::UNAUTHORIZED => {
                fields.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"moongate\""));
            }
            _ => {}
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_documented_with_its_status() {
        let page = include_str!("../../../docs/IDENTITY.md");
        let faults = [
            Fault::Invalid("x", String::new()),
            Fault::Credentials,
            Fault::NonceUsed,
            Fault::Token(""),
            Fault::Role("admin"),
            Fault::NotAdministrator(NotAdministrator::Stranger),
            Fault::RoleBeyond,
            Fault::Unknown("user"),
            Fault::Method("GET"),
            Fault::Taken,
            Fault::TooMany(Duration::ZERO),
            Fault::Busy,
            Fault::Store,
            Fault::State,
            Fault::NoKey,
            Fault::Provider,
            Fault::SignIn(""),
            Fault::Internal,
        ];
        for fault in faults {
            let ErrorBody { status, code, .. } = fault.error_body();
            assert!(page.contains(&format!("| {} | `{code}` |", status.as_u16())), "{} {code}", status.as_u16());
        }
    }
}
