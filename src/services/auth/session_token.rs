//! `POST /api/v1/session/token` (PX-1; decision 5): a short-lived token for a client that shows nothing
//! but its name and a nonce.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use serde_json::json;

use crate::identity::SignError;
use crate::services::auth::config::SESSION_SUBJECT;
use crate::services::auth::fault::Fault;
use crate::services::auth::input::Input;
use crate::services::auth::{Answer, Asked, Inner, json, metrics};
use crate::state::Insert;

/// How long the token lives, and how long its nonce can't be used again.
const LIFE: Duration = Duration::from_secs(300);

impl Inner {
    pub(super) async fn session_token(&self, asked: Asked) -> Answer {
        let Asked { head, body, .. } = asked;
        check_version(head.headers.get("x-client-version").map(http::HeaderValue::as_bytes))?;
        let input = Input::read(&head.headers, body).await?;
        let client = client_id(input.text("clientId")?)?;
        let nonce = nonce(input.text("nonce")?)?;
        let mut claims = self.identity.claims(&format!("{SESSION_SUBJECT}:{client}")).ending_after(LIFE);
        claims.roles.clone_from(&self.rules.session.roles);
        claims.scope = self.rules.session.scopes.join(" ");
        // Signed first: a nonce must not be used up by a gateway that has no key.
        let token = self.identity.keys().sign_hs256(&claims).map_err(|error| match error {
            SignError::NoKey => Fault::NoKey,
            SignError::Failed(_) => Fault::Internal,
        })?;
        let records = &self.state.records;
        match records.insert_if_absent(&format!("auth:nonce:{nonce}"), Bytes::from_static(b"1"), LIFE).await? {
            Insert::Inserted => {
                metrics::SESSION.inc();
                Ok(json(StatusCode::OK, &json!({ "token": token, "expiresInSec": LIFE.as_secs() })))
            }
            Insert::Exists(_) => Err(Fault::NonceUsed),
        }
    }
}

fn check_version(field: Option<&[u8]>) -> Result<(), Fault> {
    let wrong = |why: &str| Err(Fault::Invalid("X-Client-Version", why.to_owned()));
    match field {
        None => wrong("is missing"),
        Some(version) if (1..=64).contains(&version.len()) && version.iter().all(u8::is_ascii_graphic) => Ok(()),
        Some(_) => wrong("has to be 1 to 64 visible characters"),
    }
}

fn client_id(text: &str) -> Result<&str, Fault> {
    let plain = text.len() <= 128 && !text.chars().any(char::is_control);
    if plain { Ok(text) } else { Err(Fault::Invalid("clientId", "has to be 1 to 128 visible characters".to_owned())) }
}

/// A UUID in lower case: the same nonce in other letters is the same nonce.
fn nonce(text: &str) -> Result<String, Fault> {
    let groups: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = groups.iter().map(|it| it.len()).collect();
    let digits = groups.iter().all(|it| it.bytes().all(|digit| digit.is_ascii_hexdigit()));
    if lengths == [8, 4, 4, 4, 12] && digits {
        return Ok(text.to_ascii_lowercase());
    }
    Err(Fault::Invalid("nonce", "has to be a UUID".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn px_1_a_nonce_is_a_uuid_whatever_its_letters() {
        let good = "3F0C9A1E-5B7D-4C22-86AA-10F4BE9D7C55";
        assert_eq!(nonce(good).unwrap(), good.to_lowercase());
        for wrong in ["", "x", "3f0c9a1e5b7d4c2286aa10f4be9d7c55", "3f0c9a1e-5b7d-4c22-86aa-10f4be9d7c5g", "{}-{}"] {
            assert!(nonce(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn px_1_a_version_and_a_client_are_short_and_visible() {
        assert!(check_version(Some(b"web/1.2.3")).is_ok());
        for wrong in [None, Some(&b""[..]), Some(b"a b"), Some(&[b'x'; 65])] {
            assert!(check_version(wrong).is_err());
        }
        assert!(client_id("browser 7").is_ok() && client_id("a\nb").is_err() && client_id(&"x".repeat(129)).is_err());
    }
}
